//! The files of a log, in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

pub const MANIFEST: &str = "metadata/wal.meta";

pub fn segment_name(id: u64) -> String {
    format!("segments/wal-{id:06}.log")
}

/// Files with their bytes, by path below the log's directory; without the locks, which hold nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    /// The files in `dir`: what a kill leaves, if a log has it open.
    pub fn read(dir: &Path) -> Files {
        let mut files = BTreeMap::new();
        for folder in ["metadata", "segments"] {
            for entry in fs::read_dir(dir.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                match fs::read(&path) {
                    Ok(bytes) => {
                        let name = path.file_name().unwrap().to_str().unwrap();
                        files.insert(format!("{folder}/{name}"), bytes);
                    }
                    // A spare of a living log: the keeper has given it its real name, or removed it.
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}", path.display()),
                }
            }
        }
        Files(files)
    }

    /// Writes them to `dir`, which is not there yet.
    pub fn write(&self, dir: &Path) {
        fs::create_dir(dir).unwrap();
        for folder in ["metadata", "segments", "checkpoints"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        for (name, bytes) in &self.0 {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    /// Bytes of all of them.
    pub fn total_len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The names of the segments' files.
    pub fn segments(&self) -> impl Iterator<Item = &String> {
        self.0.keys().filter(|name| name.starts_with("segments/wal-"))
    }
}
