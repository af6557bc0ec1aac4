//! The two lock files of a log: one that a `Log` holds alone, one that every mapping of its files shares.

use super::file::{retry, File};
use super::hook::{watched, Op};
use crate::error::{Error, Result};
use rustix::fs::{flock, FlockOperation};
use std::path::Path;
use std::sync::Arc;

fn lock(file: &File, operation: FlockOperation) -> Result<bool> {
    let lock = || match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    };
    let locked = watched(Op::Lock { path: file.path() }, || retry(lock));
    locked.map_err(|source| Error::io("lock", file.path(), source))
}

/// Held by the one `Log` that has the directory open. The kernel releases it with the process.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: File,
}

/// Unlocked by a call, not by closing the file: between fork and exec, a child that another thread starts has a copy of the descriptor,
/// and would keep the lock.
impl Drop for DirLock {
    fn drop(&mut self) {
        // There is nothing to do about a failure, and closing unlocks too.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl DirLock {
    /// Takes the lock, or fails at once with [`Error::Locked`].
    pub(crate) fn acquire(path: &Path) -> Result<DirLock> {
        let file = File::open_or_create(path)?;
        if !lock(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Err(Error::Locked { path: path.to_owned() });
        }
        Ok(DirLock { file })
    }
}

/// Held, through one descriptor, by a `Log` and every mapping that it made: until the last borrowed slice is gone, no other open
/// shortens a file.
#[derive(Debug)]
pub(crate) struct ReadersLease {
    file: File,
}

/// As with [`DirLock`]: a child's copy of the descriptor is no reader.
impl Drop for ReadersLease {
    fn drop(&mut self) {
        // A file that is then not shortened does no harm.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl ReadersLease {
    /// Takes a share. Also says whether nobody else held one, so that files may be shortened: the caller holds the [`DirLock`], and
    /// maps nothing before it has done so.
    pub(crate) fn acquire(path: &Path) -> Result<(Arc<ReadersLease>, Alone)> {
        let file = File::open_or_create(path)?;
        let alone = lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        lock(&file, FlockOperation::LockShared)?;
        Ok((Arc::new(ReadersLease { file }), if alone { Alone::Yes } else { Alone::No }))
    }
}

/// Whether mappings of an earlier open may still be alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alone {
    Yes,
    No,
}
