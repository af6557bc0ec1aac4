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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

    /// A ticker that says when it ticks.
    fn ticker(interval: Duration) -> (Ticker, Receiver<()>) {
        let (send, ticks) = mpsc::channel();
        let tick = move || send.send(()).unwrap();
        (Ticker::start(Path::new("log"), interval, tick).unwrap(), ticks)
    }

    #[test]
    fn ticks_come_until_it_is_stopped() {
        let (ticker, ticks) = ticker(Duration::from_millis(1));
        for _ in 0..3 {
            ticks.recv().unwrap();
        }
        ticker.stop();
        while ticks.try_recv().is_ok() {}
        assert_eq!(ticks.try_recv(), Err(mpsc::TryRecvError::Disconnected), "the thread has ended");
    }

    #[test]
    fn no_tick_comes_before_its_time_and_stopping_does_not_wait_for_one() {
        // The second is more than the clock can add.
        for interval in [Duration::from_secs(3600), Duration::MAX] {
            let (ticker, ticks) = ticker(interval);
            assert_eq!(ticks.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
            ticker.stop();
        }
    }

    #[test]
    fn its_own_thread_may_stop_it() {
        let (send, receive) = mpsc::channel::<Ticker>();
        let (stopped, is_stopped) = mpsc::channel();
        let receive = Mutex::new(receive);
        let stop_itself = move || {
            receive.lock().recv().unwrap().stop();
            stopped.send(()).unwrap();
        };
        send.send(Ticker::start(Path::new("log"), Duration::from_millis(1), stop_itself).unwrap()).unwrap();
        is_stopped.recv().unwrap();
        assert!(is_stopped.recv().is_err(), "the thread ends, and with it the function that it called");
    }
}
