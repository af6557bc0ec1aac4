//! Where the harnesses work.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PREFIX: &str = "maplog-scratch-";

/// A directory in memory, if the machine has one: what these harnesses look for does not depend on the disk below.
pub fn memory_dir() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// A directory in `parent`, removed with the value; or, if this process is killed, by the next one that asks for a directory there.
pub fn dir(parent: &Path) -> Result<TempDir> {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let made = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(parent);
    made.with_context(|| format!("a directory in {}", parent.display()))
}
