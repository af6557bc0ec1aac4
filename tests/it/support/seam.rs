//! Closures in place of observers: to fail chosen file operations, and to hold one in flight for as long as a test wants.

use maplog::testing::{observe, Observer, ObserverGuard, Op};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

struct Seam<B, A> {
    before: B,
    after: A,
}

impl<B, A> Observer for Seam<B, A>
where
    B: Fn(&Op<'_>) -> io::Result<()> + Send + Sync,
    A: Fn(&Op<'_>, bool) + Send + Sync,
{
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        (self.before)(op)
    }

    fn after(&self, op: &Op<'_>, succeeded: bool) {
        (self.after)(op, succeeded);
    }
}

/// Calls `hook` before every operation below `dir`; its error takes the operation's place.
pub(crate) fn before(dir: &Path, hook: impl Fn(&Op<'_>) -> io::Result<()> + Send + Sync + 'static) -> ObserverGuard {
    observe(dir, Arc::new(Seam { before: hook, after: |_: &Op<'_>, _| {} }))
}

/// Calls `hook` before every operation below `dir`, to look at it.
pub(crate) fn watch(dir: &Path, hook: impl Fn(&Op<'_>) + Send + Sync + 'static) -> ObserverGuard {
    before(dir, move |op| {
        hook(op);
        Ok(())
    })
}

pub(crate) fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

pub(crate) fn enospc() -> io::Error {
    io::Error::from_raw_os_error(28)
}

/// Whether the operation is about a file whose name starts with `prefix`.
pub(crate) fn is_about(op: &Op<'_>, prefix: &str) -> bool {
    op.path().file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Whether the operation is a sync of the data of a file whose name starts with `prefix`.
pub(crate) fn is_sync_of(op: &Op<'_>, prefix: &str) -> bool {
    matches!(op, Op::SyncFile { .. } | Op::SyncRange { .. }) && is_about(op, prefix)
}

/// Holds whoever comes to it, once it is shut, until it is opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    is_shut: bool,
    held: usize,
}

/// Longer than any test takes: a gate that nobody opens fails its test, and does not hang it.
const PATIENCE: Duration = Duration::from_secs(30);

impl Gate {
    pub(crate) fn shut(&self) {
        self.0 .0.lock().unwrap().is_shut = true;
    }

    pub(crate) fn open(&self) {
        self.0 .0.lock().unwrap().is_shut = false;
        self.0 .1.notify_all();
    }

    /// Called by the operation.
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.held += 1;
        changed.notify_all();
        let (mut state, timeout) = changed.wait_timeout_while(state, PATIENCE, |state| state.is_shut).unwrap();
        state.held -= 1;
        assert!(!timeout.timed_out(), "nobody opened the gate");
    }

    /// Waits until somebody is held.
    pub(crate) fn wait_held(&self) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        let (_state, timeout) = changed.wait_timeout_while(state, PATIENCE, |state| state.held == 0).unwrap();
        assert!(!timeout.timed_out(), "nobody came to the gate");
    }
}
