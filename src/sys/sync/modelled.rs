//! The names of [`super`] over shuttle, which runs all threads of a model on one, and at each operation chooses who goes on.
//!
//! Atomics are sequentially consistent, whatever ordering they are given: weak memory is Miri's and ThreadSanitizer's to check.
//!
//! Time stands still until somebody's wait times out. A timed wait may do so whenever the scheduler runs the waiter again before
//! it was notified, so each model covers every race with a clock, and a replay needs none. A deadline that is more than a day
//! away never comes: who is not woken by then is a thread that waits for ever, and shuttle calls it a deadlock.

use shuttle::rand::RngCore;
use shuttle::sync::mpsc;
use std::cell::Cell;
use std::fmt;
use std::ops::{Add, Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8};
pub(crate) use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};
pub(crate) use shuttle::{thread, thread_local};

/// Lets another thread go on.
pub(crate) fn scheduling_point() {
    thread::sleep(Duration::ZERO);
}

/// The same numbers in a replay.
pub(crate) fn random_u64() -> u64 {
    shuttle::rand::thread_rng().next_u64()
}

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub(crate) struct MutexGuard<'m, T> {
    mutex: &'m Mutex<T>,
    /// None while its holder waits for a condition.
    locked: Option<shuttle::sync::MutexGuard<'m, T>>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, locked: Some(self.lock_inner()) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(locked) => Some(MutexGuard { mutex: self, locked: Some(locked) }),
            Err(std::sync::TryLockError::Poisoned(e)) => Some(MutexGuard { mutex: self, locked: Some(e.into_inner()) }),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    fn lock_inner(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.locked {
            Some(locked) => locked,
            None => unreachable!("its holder waits"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.locked {
            Some(locked) => locked,
            None => unreachable!("its holder waits"),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.locked.fmt(f)
    }
}

/// As `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> RwLock<T> {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As `parking_lot::Condvar`: nobody wakes without being notified; which waiter [`notify_one`](Self::notify_one) wakes is anybody's
/// guess.
#[derive(Default)]
pub(crate) struct Condvar {
    /// Locked by nobody at a scheduling point.
    waiters: std::sync::Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    next_number: u64,
    waiting: Vec<Waiter>,
}

struct Waiter {
    number: u64,
    wake: mpsc::Sender<()>,
}

/// As `parking_lot::WaitTimeoutResult`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitTimeoutResult {
    timed_out: bool,
}

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.timed_out
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

impl Condvar {
    pub(crate) const fn new() -> Condvar {
        Condvar { waiters: std::sync::Mutex::new(Waiters { next_number: 0, waiting: Vec::new() }) }
    }

    fn waiters(&self) -> std::sync::MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a waiter: its number, and where it is told.
    fn enter(&self) -> (u64, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel();
        let mut waiters = self.waiters();
        let number = waiters.next_number;
        waiters.next_number += 1;
        waiters.waiting.push(Waiter { number, wake });
        (number, woken)
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        scheduling_point();
        let (_, woken) = self.enter();
        guard.locked = None;
        // An error: the condition variable is gone, and this thread with the execution.
        let _ = woken.recv();
        guard.locked = Some(guard.mutex.lock_inner());
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
        if deadline.is_never() {
            self.wait(guard);
            return WaitTimeoutResult { timed_out: false };
        }
        scheduling_point();
        let (number, _woken) = self.enter();
        guard.locked = None;
        thread::yield_now();
        let timed_out = {
            let mut waiters = self.waiters();
            let before = waiters.waiting.len();
            waiters.waiting.retain(|waiter| waiter.number != number);
            waiters.waiting.len() < before
        };
        if timed_out {
            deadline.comes();
        }
        guard.locked = Some(guard.mutex.lock_inner());
        WaitTimeoutResult { timed_out }
    }

    pub(crate) fn notify_one(&self) {
        scheduling_point();
        let count = self.waiters().waiting.len();
        if count > 0 {
            let chosen = random_u64() as usize % count;
            let waiter = self.waiters().waiting.swap_remove(chosen);
            let _ = waiter.wake.send(());
        }
    }

    pub(crate) fn notify_all(&self) {
        scheduling_point();
        let waiting = std::mem::take(&mut self.waiters().waiting);
        for waiter in waiting {
            // It may have timed out meanwhile.
            let _ = waiter.wake.send(());
        }
    }
}

/// As those of `std::sync`, as far as they are used.
pub(crate) mod kernel {
    use super::{Instant, MutexGuard, WaitTimeoutResult};
    use std::sync::LockResult;
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(super::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            Ok(self.0.lock())
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(super::Condvar);

    impl Condvar {
        pub(crate) fn wait_while<'m, T>(
            &self,
            mut guard: MutexGuard<'m, T>,
            mut condition: impl FnMut(&mut T) -> bool,
        ) -> LockResult<MutexGuard<'m, T>> {
            while condition(&mut *guard) {
                self.0.wait(&mut guard);
            }
            Ok(guard)
        }

        pub(crate) fn wait_timeout_while<'m, T>(
            &self,
            mut guard: MutexGuard<'m, T>,
            timeout: Duration,
            mut condition: impl FnMut(&mut T) -> bool,
        ) -> LockResult<(MutexGuard<'m, T>, WaitTimeoutResult)> {
            let deadline = Instant::now() + timeout;
            loop {
                if !condition(&mut *guard) {
                    return Ok((guard, WaitTimeoutResult { timed_out: false }));
                }
                let waited = self.0.wait_until(&mut guard, deadline);
                if waited.timed_out() {
                    let timed_out = condition(&mut *guard);
                    return Ok((guard, WaitTimeoutResult { timed_out }));
                }
            }
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

/// As `std::sync::OnceLock`. What initialises it runs in one go.
#[derive(Debug, Default)]
pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> OnceLock<T> {
    pub(crate) const fn new() -> OnceLock<T> {
        OnceLock(std::sync::OnceLock::new())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        scheduling_point();
        self.0.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        scheduling_point();
        self.0.set(value)
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        scheduling_point();
        self.0.get_or_init(init)
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> OnceLock<T> {
        OnceLock(value.into())
    }
}

/// As `std::time::Instant`, on a clock that moves on when a wait times out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

std::thread_local! {
    /// The clock of the executions that this thread runs. It goes on from one to the next: nothing depends on when one began.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A wait until then lasts for ever.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

impl Instant {
    pub(crate) fn now() -> Instant {
        Instant(NOW.get())
    }

    pub(crate) fn checked_add(self, duration: Duration) -> Option<Instant> {
        self.0.checked_add(duration).map(Instant)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn elapsed(self) -> Duration {
        Instant::now().saturating_duration_since(self)
    }

    fn is_never(self) -> bool {
        self.saturating_duration_since(Instant::now()) > NEVER
    }

    /// Somebody's wait until then timed out.
    fn comes(self) {
        NOW.set(NOW.get().max(self.0));
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0 + duration)
    }
}
