//! The thread of [`SyncPolicy::Interval`](crate::SyncPolicy::Interval): syncs when there is something new, and then sleeps again.

use crate::error::{Error, Result};
use crate::sys::sync::thread::{self, JoinHandle};
use crate::sys::sync::{Condvar, Instant, Mutex};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Calls a function at an interval, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: Mutex<bool>,
    stop: Condvar,
}

impl Ticker {
    /// Starts the thread; `dir` is named if that fails.
    pub(crate) fn start(dir: &Path, interval: Duration, tick: impl Fn() + Send + 'static) -> Result<Ticker> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let run = move || {
            while !theirs.sleep(interval) {
                tick();
            }
        };
        let spawned = thread::Builder::new().name("maplog-interval".into()).spawn(run);
        let thread = spawned.map_err(|e| Error::io("start a thread for", dir, e))?;
        Ok(Ticker { shared, thread })
    }

    /// Ends the thread, and waits for it unless it is the caller.
    pub(crate) fn stop(self) {
        *self.shared.stopped.lock() = true;
        self.shared.stop.notify_all();
        if self.thread.thread().id() != thread::current().id() {
            // Its panics are bugs, and were reported when they happened.
            let _ = self.thread.join();
        }
    }
}

impl Shared {
    /// Sleeps for an interval; true if the ticker was stopped.
    fn sleep(&self, interval: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        match Instant::now().checked_add(interval) {
            Some(deadline) => while !*stopped && !self.stop.wait_until(&mut stopped, deadline).timed_out() {},
            None => {
                while !*stopped {
                    self.stop.wait(&mut stopped);
                }
            }
        }
        *stopped
    }
}
