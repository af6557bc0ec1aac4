//! Names on the disk: a directory or a manifest whose name was not made durable, for the process died right then, has to be made so
//! by the open that finds it.

use maplog::testing::{observe, Observer, Op};
use maplog::{Log, Options};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Fails the first sync of one directory, and notes which directories are synced afterwards.
#[derive(Default)]
struct Syncs {
    fail: Mutex<Option<PathBuf>>,
    synced: Mutex<Vec<PathBuf>>,
}

impl Observer for Syncs {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let mut fail = self.fail.lock().unwrap();
        match op {
            Op::SyncDir { path } if fail.as_deref() == Some(path) => {
                *fail = None;
                Err(io::Error::other("the process dies here"))
            }
            _ => Ok(()),
        }
    }

    fn after(&self, op: &Op<'_>, succeeded: bool) {
        if let Op::SyncDir { path } = op {
            if succeeded {
                self.synced.lock().unwrap().push(path.to_path_buf());
            }
        }
    }
}

/// Cuts the creation of a log short at the sync of `dir`, opens it again and appends an entry; the directories that were synced since.
fn synced_after_dying_at(top: &Path, log: &Path, dir: &Path) -> Vec<PathBuf> {
    let syncs = Arc::new(Syncs::default());
    *syncs.fail.lock().unwrap() = Some(dir.to_owned());
    let _guard = observe(top, Arc::clone(&syncs) as Arc<dyn Observer>);
    Options::new().segment_size(8 << 10).open(log).unwrap_err();
    assert!(syncs.fail.lock().unwrap().is_none());
    syncs.synced.lock().unwrap().clear();
    let opened: Log = Options::new().segment_size(8 << 10).open(log).unwrap();
    opened.append(b"acked").unwrap();
    let synced = syncs.synced.lock().unwrap().clone();
    synced
}

#[test]
fn names_that_a_killed_creation_left_are_made_durable_by_the_next_open() {
    for dying in ["", "log", "log/metadata"] {
        let top = tempfile::tempdir().unwrap();
        let log = top.path().join("log");
        let dir = if dying.is_empty() { top.path().to_owned() } else { top.path().join(dying) };
        let synced = synced_after_dying_at(top.path(), &log, &dir);
        assert!(synced.contains(&dir), "{} holds a name that no sync covers; synced: {synced:?}", dir.display());
    }
}
