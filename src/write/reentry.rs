//! User code that runs inside a call on the log: what it may not do, and how it finds out.

use crate::sys::sync::thread_local;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which log's user code the thread is in, by the log's number, and where it was called from.
type Inside = (usize, Place);

/// Where user code is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// `append_with`'s fill: the cursor's lock is held, so every call on the log would wait for itself.
    Fill,
    /// An `on_durable` callback: the log's own threads run it, so it may not wait for what they do.
    Callback,
}

thread_local! {
    /// How much user code the thread is in: mostly none, and an append asks for no more than that.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// The innermost last: the user code of one log may call another, and run its user code.
    static INSIDE: RefCell<Vec<Inside>> = const { RefCell::new(Vec::new()) };
}

/// A number for a log, in this process.
pub(crate) fn new_log() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs `code` as user code of the log with number `log`. Left also by a panic.
pub(crate) fn run_inside<T>(log: usize, place: Place, code: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            INSIDE.with(|inside| inside.borrow_mut().pop());
            DEPTH.with(|depth| depth.set(depth.get() - 1));
        }
    }
    INSIDE.with(|inside| inside.borrow_mut().push((log, place)));
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let _leave = Leave;
    code()
}

/// Whether the thread is in user code of any log: if not, every call may be made.
#[inline]
pub(crate) fn in_user_code() -> bool {
    DEPTH.with(Cell::get) != 0
}

#[inline]
fn is_inside(log: usize, place: Place) -> bool {
    in_user_code() && INSIDE.with(|inside| inside.borrow().contains(&(log, place)))
}

/// # Panics
/// If the thread is in `append_with`'s fill of this log.
#[inline]
pub(crate) fn check_call(log: usize) {
    if is_inside(log, Place::Fill) {
        panic!("append_with's fill called the log that it is filling an entry of");
    }
}

/// # Panics
/// If the thread is in user code of this log, which may not wait.
#[inline]
pub(crate) fn check_wait(log: usize) {
    check_call(log);
    if is_inside(log, Place::Callback) {
        panic!("an on_durable callback may not wait on its log: hand the work to another thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};

    #[test]
    fn a_thread_knows_whether_it_is_in_user_code() {
        assert!(!in_user_code());
        run_inside(1, Place::Callback, || {
            run_inside(2, Place::Fill, || assert!(in_user_code()));
            assert!(in_user_code());
            assert!(std::thread::spawn(|| !in_user_code()).join().unwrap(), "another thread is not");
        });
        assert!(!in_user_code());
        assert!(catch_unwind(|| run_inside(1, Place::Fill, || panic!("in user code"))).is_err());
        assert!(!in_user_code());
    }

    #[test]
    fn each_log_has_its_own_number() {
        assert_ne!(new_log(), new_log());
    }

    #[test]
    fn user_code_may_not_wait_on_its_own_log() {
        run_inside(1, Place::Callback, || {
            check_call(1);
            check_wait(2);
            assert!(catch_unwind(|| check_wait(1)).is_err());
            let panicked = catch_unwind(AssertUnwindSafe(|| run_inside(2, Place::Fill, || check_call(2))));
            assert!(panicked.is_err());
            check_call(2);
            let nested = || run_inside(2, Place::Fill, || check_wait(1));
            assert!(catch_unwind(AssertUnwindSafe(nested)).is_err(), "the outer log still waits");
        });
        check_wait(1);
    }
}
