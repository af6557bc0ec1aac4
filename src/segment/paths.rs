//! Where the files of a log are, and how they are called.

use crate::format::ID_LIMIT;
use std::path::{Path, PathBuf};

/// The paths of one log.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
    pub(crate) segments: PathBuf,
    pub(crate) checkpoints: PathBuf,
    pub(crate) metadata: PathBuf,
    pub(crate) manifest: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) readers: PathBuf,
}

/// What a name in the folder of segments stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Segment { id: u64 },
    Spare,
    Foreign,
}

impl Paths {
    pub(crate) fn new(dir: &Path) -> Paths {
        let metadata = dir.join("metadata");
        Paths {
            dir: dir.to_owned(),
            segments: dir.join("segments"),
            checkpoints: dir.join("checkpoints"),
            manifest: metadata.join("wal.meta"),
            metadata,
            lock: dir.join("lock"),
            readers: dir.join("readers"),
        }
    }

    /// The name under which a new manifest is built.
    pub(crate) fn new_manifest(&self) -> PathBuf {
        self.metadata.join("wal.meta.new")
    }

    pub(crate) fn segment(&self, id: u64) -> PathBuf {
        self.segments.join(format!("wal-{id:06}.log"))
    }

    /// A file that is being prepared, or waits to be used again: nothing in it counts.
    pub(crate) fn spare(&self, number: u64) -> PathBuf {
        self.segments.join(format!("spare-{number:06}"))
    }

    /// What a path in the folder of segments is called.
    pub(crate) fn name(path: &Path) -> Name {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Name::Foreign;
        };
        let number = |text: &str| {
            let digits = text.len() >= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
            let canonical = digits && (text.len() == 6 || !text.starts_with('0'));
            text.parse::<u64>().ok().filter(|_| canonical)
        };
        if let Some(id) = name.strip_prefix("wal-").and_then(|rest| number(rest.strip_suffix(".log")?)) {
            // Half of what the manifest allows: there is always room for the next id.
            if (1..ID_LIMIT / 2).contains(&id) {
                return Name::Segment { id };
            }
        }
        match name.strip_prefix("spare-").and_then(number) {
            Some(_) => Name::Spare,
            None => Name::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let paths = Paths::new(Path::new("log"));
        for id in [1, 42, 999_999, 1_000_000, 123_456_789] {
            assert_eq!(Paths::name(&paths.segment(id)), Name::Segment { id });
            assert_eq!(Paths::name(&paths.spare(id)), Name::Spare);
        }
    }

    #[test]
    fn other_names_are_foreign() {
        for name in
            ["wal-1.log", "wal-0000001.log", "wal-000000.log", "wal-+00001.log", "wal-000001.log.bak", "spare-", "x"]
        {
            assert_eq!(Paths::name(Path::new(name)), Name::Foreign, "{name}");
        }
    }
}
