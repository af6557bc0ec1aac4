//! Waking many threads at once.
//!
//! `parking_lot`'s condition variable hands its mutex from one waiter to the next: each of them runs before the next is woken. Here the
//! kernel is told once, and runs them as it likes.

use crate::sys::sync::kernel::{Condvar, Mutex};
use crate::sys::sync::{AtomicU64, Instant, Ordering};
use std::sync::PoisonError;

/// An event that happens again and again, and that any number of threads wait for.
#[derive(Debug, Default)]
pub(crate) struct Broadcast {
    /// How often it has happened. Raised under `raising` with Release; loaded with Acquire.
    count: AtomicU64,
    raising: Mutex<()>,
    raised: Condvar,
}

impl Broadcast {
    /// How often it has happened: to be asked before the look at what one waits for, and handed to [`wait`](Self::wait).
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until it has happened more than `count` times.
    pub(crate) fn wait(&self, count: u64) {
        // Nothing that can panic is done under the mutex.
        let guard = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let _guard = self.raised.wait_while(guard, |()| self.count() <= count).unwrap_or_else(PoisonError::into_inner);
    }

    /// As [`wait`](Self::wait); false if the deadline passed.
    pub(crate) fn wait_until(&self, count: u64, deadline: Instant) -> bool {
        let guard = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let is_pending = |(): &mut ()| self.count() <= count;
        let waited = self.raised.wait_timeout_while(guard, left, is_pending).unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    /// It happens: who waits goes on.
    pub(crate) fn raise(&self) {
        let guard = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.store(self.count() + 1, Ordering::Release);
        drop(guard);
        self.raised.notify_all();
    }
}
