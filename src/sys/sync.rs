//! What threads meet in: locks, condition variables, atomics, threads, and the clock that waits are timed by. All of the library
//! takes them from here.
//!
//! In every build of the library they are those of `parking_lot` and `std`, and this file is a list of names. The models of
//! `proof/models` build the same sources with `cfg(maplog_models)`: there [`modelled`] takes their place, each operation is a point
//! at which another thread may go on, and a scheduler chooses which.
//!
//! Not from here come `Arc`, which no thread waits for, and statics, which outlive an execution of a model.

#[cfg(maplog_models)]
mod modelled;
#[cfg(maplog_models)]
pub(crate) use modelled::*;

#[cfg(not(maplog_models))]
pub(crate) use native::*;

#[cfg(not(maplog_models))]
mod native {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8};
    pub(crate) use std::sync::OnceLock;
    pub(crate) use std::time::Instant;
    pub(crate) use std::{thread, thread_local};

    /// Those of `std`, whose condition variable has the kernel wake all waiters at once.
    pub(crate) mod kernel {
        pub(crate) use std::sync::{Condvar, Mutex};
    }

    /// Where a model may have another thread go on: at what is no operation on anything above, and still seen by other threads.
    #[inline(always)]
    pub(crate) fn scheduling_point() {}
}

pub(crate) use std::sync::atomic::Ordering;
