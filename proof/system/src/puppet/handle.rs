//! The harness's side: a puppet that was started, to be told what to do.

use super::words::{Answer, Command, Order, Outcome};
use anyhow::{bail, Context, Result};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than a puppet waits for its keeper, and longer than a full disk takes: btrfs looks for space long before it gives up.
const LIMIT: Duration = Duration::from_secs(120);

/// A process that holds a log. Killed when dropped.
pub struct Puppet {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<std::io::Result<String>>,
    complaints: File,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum End {
    /// The process ended, with what it had to say about it.
    Ended {
        status: ExitStatus,
        said: String,
    },
    Hung(String),
}

impl Puppet {
    /// Starts a puppet for the log in `dir`, as the last words of the command `wrapper`, and waits until it is ready.
    pub fn start(wrapper: &[OsString], dir: &Path) -> Result<Puppet> {
        let program = std::env::current_exe()?;
        let mut words: Vec<&OsStr> = wrapper.iter().map(OsString::as_os_str).collect();
        words.extend([program.as_os_str(), OsStr::new("puppet"), dir.as_os_str()]);
        let complaints = tempfile::tempfile()?;
        let mut command = std::process::Command::new(words[0]);
        command
            .args(&words[1..])
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", words[0].to_string_lossy()))?;
        let orders = child.stdin.take();
        let said = BufReader::new(child.stdout.take().context("the output of a process")?);
        let (send, answers) = channel();
        thread::spawn(move || said.lines().try_for_each(|line| send.send(line)));
        let mut puppet = Puppet { child, orders, answers, complaints };
        match puppet.answer()? {
            Ok(_) => Ok(puppet),
            Err(end) => bail!("a puppet does not start: {end:?}"),
        }
    }

    /// Has the puppet do `command`, as the order with this number.
    pub fn tell(&mut self, number: u32, command: &Command) -> Result<std::result::Result<Answer, End>> {
        let order = serde_json::to_string(&Order { number, command: command.clone() })? + "\n";
        // A puppet that is gone says so below.
        let _ = self.orders.as_mut().map(|orders| orders.write_all(order.as_bytes()));
        self.answer()
    }

    fn answer(&mut self) -> Result<std::result::Result<Answer, End>> {
        match self.answers.recv_timeout(LIMIT) {
            Ok(line) => {
                let answer: Answer = serde_json::from_str(&line?).context("an answer")?;
                Ok(match answer.outcome {
                    Outcome::Stuck(why) => Err(End::Hung(why)),
                    _ => Ok(answer),
                })
            }
            Err(RecvTimeoutError::Timeout) => Ok(Err(End::Hung("no answer".into()))),
            Err(RecvTimeoutError::Disconnected) => Ok(Err(self.end()?)),
        }
    }

    /// Has the process end, and waits for that.
    pub fn end(&mut self) -> Result<End> {
        self.orders = None;
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let mut said = String::new();
                self.complaints.rewind()?;
                self.complaints.read_to_string(&mut said)?;
                return Ok(End::Ended { status, said });
            }
            if Instant::now() > deadline {
                return Ok(End::Hung("the process does not end".into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
