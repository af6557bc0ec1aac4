//! Child processes: the test binary, started again to run one test, which finds in an environment variable that it is the child.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const DIR: &str = "MAPLOG_TEST_CHILD_DIR";
/// What a child prints when it has come as far as its parent waits for.
const READY: &str = "child is ready";

/// The directory that the parent gave, if this process is a child.
pub(crate) fn dir() -> Option<PathBuf> {
    env::var_os(DIR).map(PathBuf::from)
}

/// Tells the parent that the child has come as far as it wants.
pub(crate) fn say_ready() {
    println!("{READY}");
}

fn command(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(DIR, dir);
    command
}

/// Runs the test with the full name `test` as a child that is given `dir`, to its end.
pub(crate) fn run(test: &str, dir: &Path) {
    let output = command(test, dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}");
}

/// Starts the test with the full name `test` as a child that is given `dir`, and waits until it is ready. Killed when dropped.
pub(crate) fn start(test: &str, dir: &Path) -> Running {
    let child = command(test, dir).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut running = Running(child);
    let said = BufReader::new(running.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.contains(READY)), "{test} ended before it was ready");
    running
}

/// A child process; `kill -9` when dropped.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
