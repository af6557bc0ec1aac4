//! Observers that several modules use: one that writes down every file operation with its thread, and one that makes
//! chosen operations fail. Also how a test looks at a log's files without asking the library, and how it starts a child
//! of itself.

use maplog::testing::{observe, Observer, ObserverGuard, Op};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

pub(crate) const EIO: i32 = 5;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const EMFILE: i32 = 24;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EROFS: i32 = 30;

/// One operation that was done, or that failed.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The operation's name: `Write`, `SyncFile`, `Rename`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The new name, of a rename.
    pub(crate) to: Option<PathBuf>,
    pub(crate) thread: ThreadId,
    pub(crate) succeeded: bool,
}

/// The name of an operation, as its variant is called.
pub(crate) fn name_of(op: &Op<'_>) -> String {
    let text = format!("{op:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// What an observer answers before an operation: the number of an error of the operating system, or none.
type Fault = Arc<dyn Fn(&Op<'_>) -> Option<i32> + Send + Sync>;

/// Writes down what happens below one directory, and makes fail what it was asked to.
pub(crate) struct Seam {
    events: Mutex<Vec<Event>>,
    fault: Mutex<Option<Fault>>,
}

/// A seam that is in place until this is dropped.
pub(crate) struct Watched {
    pub(crate) seam: Arc<Seam>,
    _guard: ObserverGuard,
}

impl std::ops::Deref for Watched {
    type Target = Seam;

    fn deref(&self) -> &Seam {
        &self.seam
    }
}

/// Watches the operations below `dir`.
pub(crate) fn watch(dir: &Path) -> Watched {
    let seam = Arc::new(Seam { events: Mutex::new(Vec::new()), fault: Mutex::new(None) });
    let observer: Arc<dyn Observer> = Arc::clone(&seam) as _;
    Watched { seam, _guard: observe(dir, observer) }
}

impl Seam {
    /// From now on, `fault` decides which operations fail.
    pub(crate) fn fail_when(&self, fault: impl Fn(&Op<'_>) -> Option<i32> + Send + Sync + 'static) {
        *self.fault.lock().unwrap() = Some(Arc::new(fault));
    }

    /// From now on, nothing fails.
    pub(crate) fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// What happened so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// How many operations of that name succeeded.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.events.lock().unwrap().iter().filter(|event| event.succeeded && event.name == name).count()
    }

    pub(crate) fn forget(&self) {
        self.events.lock().unwrap().clear();
    }

    fn note(&self, op: &Op<'_>, succeeded: bool) {
        let to = match op {
            Op::Rename { to, .. } => Some(to.to_path_buf()),
            _ => None,
        };
        let thread = std::thread::current().id();
        let event = Event { name: name_of(op), path: op.path().to_owned(), to, thread, succeeded };
        self.events.lock().unwrap().push(event);
    }
}

impl Observer for Seam {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        // Called without the lock, for it may wait for another thread's operation.
        let fault = self.fault.lock().unwrap().clone();
        match fault.and_then(|fault| fault(op)) {
            None => Ok(()),
            Some(code) => {
                self.note(op, false);
                Err(io::Error::from_raw_os_error(code))
            }
        }
    }

    fn after(&self, op: &Op<'_>, succeeded: bool) {
        self.note(op, succeeded);
    }
}

/// True for the name of a segment file.
pub(crate) fn is_segment(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("wal-") && name.ends_with(".log"))
}

/// The segment files of a log, in order.
pub(crate) fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir.join("segments")) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| is_segment(path)).collect();
    paths.sort();
    paths
}

/// Waits until `done`; panics with `what` if that takes longer than ten seconds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "waited ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `work` on a thread of its own; panics with `what` if it has not ended after ten seconds.
#[track_caller]
pub(crate) fn within_ten_seconds<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    match receive.recv_timeout(Duration::from_secs(30)) {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// The name of the variable that tells a child test where its log is.
const CHILD_DIR: &str = "MAPLOG_TEST_CHILD_DIR";

/// The directory that a child test was given; None in an ordinary run of all tests.
pub(crate) fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// A command that runs the (ignored) test `test` of this binary in a process of its own, with `dir` as its directory.
pub(crate) fn child(wrapper: &[&str], test: &str, dir: &Path) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(Into::into).collect();
    words.push(exe.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("INSTA_WORKSPACE_ROOT", env!("CARGO_MANIFEST_DIR")).env(CHILD_DIR, dir);
    command.stdin(Stdio::null()).current_dir(std::env::temp_dir());
    command
}

/// Panics with what a child printed if it failed, or if it ran no test.
#[track_caller]
pub(crate) fn check_child(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let ran = output.status.success() && text.contains("1 passed");
    assert!(ran, "{}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}
