//! What both binaries of tests need: random numbers from a seed, a directory in memory, and a mutex that outlives a failure.

mod rng;

pub(crate) use rng::{seeds, Rng};

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// A directory in memory, where there is one: syncs cost nothing, and images of power cuts are files like any others.
pub(crate) fn fast_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).unwrap()
}

/// Locks a mutex. One that a failed assertion has poisoned still holds what the failure report needs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
