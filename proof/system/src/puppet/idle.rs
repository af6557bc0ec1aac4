//! Knowing when a thread of this process has nothing to do: it sleeps in a futex without a time-out.
//!
//! The keeper waits with a time-out only as long as it wants to look at the mark. The look at it is taken by a thread of its own, so
//! that the thread whose system calls are counted makes none for it but to wait.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any keeper works on a small log.
const LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_micros(500);
const FUTEX: &str = if cfg!(target_arch = "x86_64") { "202" } else { "98" };
pub const KEEPER: &str = "maplog-keeper";
const TICKER: &str = "maplog-interval";

type Question = Box<dyn FnOnce() -> Result<i32, String> + Send>;

/// The thread that looks at others.
pub struct Watcher {
    ask: Sender<Question>,
    answers: Receiver<Result<i32, String>>,
}

impl Watcher {
    pub fn start() -> Watcher {
        let (ask, questions) = channel::<Question>();
        let (answer, answers) = channel();
        thread::spawn(move || questions.into_iter().try_for_each(|question| answer.send(question())));
        Watcher { ask, answers }
    }

    /// The keeper, once it has nothing to do. One of a log that was closed may still be there, and does not sleep.
    pub fn find_keeper(&self) -> Result<i32, String> {
        self.ask(|| find(KEEPER, Until::Woken))
    }

    /// The thread that syncs at an interval, once it waits for its next tick.
    pub fn find_ticker(&self) -> Result<i32, String> {
        self.ask(|| find(TICKER, Until::TimeOut))
    }

    /// Waits until the threads have nothing to do: the ticker until its next tick, and then the keeper, which it may have woken.
    pub fn wait_idle(&self, keeper: i32, ticker: Option<i32>) -> Result<i32, String> {
        self.ask(move || {
            ticker.map_or(Ok(0), |ticker| wait_idle(ticker, Until::TimeOut))?;
            wait_idle(keeper, Until::Woken)
        })
    }

    /// Has `gate` opened once this thread waits for nothing else; does not wait for that.
    pub fn open_when_idle(&self, gate: Arc<Gate>) {
        let caller = nix::unistd::gettid().as_raw();
        let question = move || {
            let idle = wait_idle(caller, Until::Woken);
            gate.open();
            idle
        };
        let _ = self.ask.send(Box::new(question));
    }

    /// What became of [`open_when_idle`](Self::open_when_idle).
    pub fn answer(&self) -> Result<i32, String> {
        self.answers.recv().unwrap_or_else(|_| Err("the watcher is gone".into()))
    }

    fn ask(&self, question: impl FnOnce() -> Result<i32, String> + Send + 'static) -> Result<i32, String> {
        let _ = self.ask.send(Box::new(question));
        self.answer()
    }
}

/// How long a thread sleeps that has nothing to do.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    Woken,
    TimeOut,
}

fn find(name: &'static str, until_when: Until) -> Result<i32, String> {
    let sleeps = |thread: &i32| sleeps(&task(*thread), until_when).unwrap_or(false);
    until(&format!("there is no {name}"), || threads(name).into_iter().find(sleeps))
}

fn wait_idle(thread: i32, until_when: Until) -> Result<i32, String> {
    let task = task(thread);
    let look = || match sleeps(&task, until_when) {
        Ok(true) => Some(Ok(thread)),
        // What a tracer has just stopped cannot be read.
        Err(_) if !task.exists() => Some(Err(format!("thread {thread} has ended"))),
        Ok(false) | Err(_) => None,
    };
    until("a thread does not come to rest", look)?
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(what.to_owned());
        }
        thread::sleep(LOOK);
    }
}

fn task(thread: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/task/{thread}"))
}

fn threads(name: &str) -> Vec<i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let is_meant =
        |thread: &i32| fs::read_to_string(task(*thread).join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_meant).collect()
}

/// Whether a thread sleeps in a futex, for as long as it takes or with a time-out. One that was woken does not sleep from the moment
/// on in which it was, and one that a tracer has stopped does not either.
fn sleeps(task: &Path, until: Until) -> std::io::Result<bool> {
    let call = fs::read_to_string(task.join("syscall"))?;
    let mut words = call.split(' ');
    let in_futex =
        words.next() == Some(FUTEX) && words.nth(3).is_some_and(|limit| (limit == "0x0") == (until == Until::Woken));
    let stat = fs::read_to_string(task.join("stat"))?;
    let asleep = stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"));
    Ok(in_futex && asleep)
}

/// What the keeper is held at.
#[derive(Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.is_open.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        self.opened.notify_all();
    }

    /// Waits until it is open, if the caller is the keeper.
    pub fn hold_keeper(&self) {
        let is_keeper = thread::current().name() == Some(KEEPER);
        let is_open = self.is_open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if is_keeper {
            drop(self.opened.wait_while(is_open, |is_open| !*is_open));
        }
    }
}
