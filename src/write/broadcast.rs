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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::{mpsc, Arc};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn each_time_is_counted() {
        let broadcast = Broadcast::default();
        assert_eq!(broadcast.count(), 0);
        for count in 1..4 {
            broadcast.raise();
            assert_eq!(broadcast.count(), count);
        }
    }

    #[test]
    fn who_waits_goes_on_once_it_has_happened() {
        let broadcast = Arc::new(Broadcast::default());
        let happened = Arc::new(AtomicBool::new(false));
        let (about_to_wait, waits) = mpsc::channel();
        let waiter = {
            let (broadcast, happened) = (Arc::clone(&broadcast), Arc::clone(&happened));
            thread::spawn(move || {
                let count = broadcast.count();
                about_to_wait.send(()).unwrap();
                broadcast.wait(count);
                happened.load(Ordering::Relaxed)
            })
        };
        waits.recv().unwrap();
        thread::sleep(Duration::from_millis(50));
        happened.store(true, Ordering::Relaxed);
        broadcast.raise();
        assert!(waiter.join().unwrap(), "it went on before");
        broadcast.wait(0);
    }

    #[test]
    fn a_wait_with_a_deadline_says_whether_it_happened() {
        let broadcast = Broadcast::default();
        let soon = || Instant::now() + Duration::from_millis(1);
        assert!(!broadcast.wait_until(0, soon()));
        broadcast.raise();
        assert!(broadcast.wait_until(0, soon()));
        assert!(!broadcast.wait_until(1, soon()));
    }
}
