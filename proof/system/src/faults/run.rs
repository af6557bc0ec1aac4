//! One run of a scene: a puppet does the script, strace makes one call fail, and all that was answered and called is written down.

use super::scenes::Scene;
use super::trace::{self, Call};
use crate::puppet::{Answer, Command, End, Outcome, Puppet};
use anyhow::{bail, ensure, Context, Result};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The thread whose calls are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Main,
    /// The keeper of the script's open with this number.
    Keeper(usize),
    /// The thread that syncs at an interval, of that open.
    Ticker(usize),
}

/// What befalls a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Error(&'static str),
    /// The process is killed as it enters the call, which does not happen.
    Kill,
}

/// A call of the script, as each run makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub role: Role,
    pub step: usize,
    pub call: Call,
}

/// One command of a run. Its number in the run is its step, and marks what it appends.
#[derive(Debug, Clone)]
pub struct Told {
    pub command: Command,
    /// None: the process ended.
    pub answer: Option<Answer>,
}

#[derive(Debug)]
pub struct Record {
    pub told: Vec<Told>,
    pub end: End,
    /// The calls of the traced thread.
    pub calls: Vec<Point>,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Main => f.write_str("main"),
            Role::Keeper(number) => write!(f, "keeper-{number}"),
            Role::Ticker(number) => write!(f, "ticker-{number}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Error(code) => f.write_str(code),
            Fault::Kill => f.write_str("SIGKILL"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.role, self.call.name, self.call.nth)?;
        if !self.call.path.is_empty() {
            write!(f, "({})", self.call.path)?;
        }
        write!(f, "@{}", self.step)
    }
}

impl Point {
    /// Whether it is the same call of another run.
    pub fn is_as(&self, other: &Point) -> bool {
        let same_call =
            (&self.call.name, self.call.nth, &self.call.path) == (&other.call.name, other.call.nth, &other.call.path);
        self.role == other.role && self.step == other.step && same_call
    }
}

/// Has a puppet do the script of `scene` on the log in `dir`, with the calls of `role` traced, and one of them failing.
pub fn run(scene: &Scene, role: Role, injected: Option<(&Point, Fault)>, dir: &Path) -> Result<Record> {
    let log = dir.join(scene.dir);
    let trace = dir.join("trace");
    let strace = strace(scene, injected, &trace);
    let mut puppet = Puppet::start(if role == Role::Main { &strace } else { &[] }, &log)?;
    let mut attached: Option<Attached> = None;
    let mut told: Vec<Told> = Vec::new();
    let mut starts = Vec::new();
    let mut opens = 0;
    let mut end = None;
    for command in &scene.script {
        loop {
            let step = told.len();
            starts.push(seconds());
            let answer = match puppet.tell(step as u32, command)? {
                Ok(answer) => Some(answer),
                Err(why) => {
                    end = Some(why);
                    None
                }
            };
            let outcome = answer.as_ref().map(|answer| answer.outcome.clone());
            told.push(Told { command: command.clone(), answer });
            match outcome {
                Some(Outcome::Opened { keeper, ticker }) => {
                    opens += 1;
                    let thread = match role {
                        Role::Keeper(number) if number == opens => Some(keeper),
                        Role::Ticker(number) if number == opens => Some(ticker.context("a thread that ticks")?),
                        _ => None,
                    };
                    attached = thread.map(|thread| Attached::to(thread, &strace)).transpose()?.or(attached);
                }
                // A call fails once: the same open works now, and whatever follows has a log.
                Some(Outcome::Failed(_))
                    if matches!(command, Command::Open { .. }) && told.len() < 2 * scene.script.len() =>
                {
                    continue;
                }
                _ => {}
            }
            break;
        }
        if end.is_some() {
            break;
        }
    }
    let end = match end {
        Some(end) => end,
        None => puppet.end()?,
    };
    drop(puppet);
    if let Some(attached) = attached {
        attached.wait()?;
    }
    let text = fs::read_to_string(&trace).with_context(|| format!("cannot read {}", trace.display()))?;
    let calls = trace::calls(&text, &log, starts[0]);
    let step = |at: f64| starts.partition_point(|start| *start <= at) - 1;
    let calls = calls.into_iter().map(|call| Point { role, step: step(call.at), call }).collect();
    Ok(Record { told, end, calls })
}

fn strace(scene: &Scene, injected: Option<(&Point, Fault)>, trace: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["strace", "-ttt", "-y", "-e", "signal=none"].map(OsString::from).into();
    words.extend(["-e".into(), "trace=%file,%desc,%memory,clone,clone3".into(), "-o".into(), trace.into()]);
    if let Some(without) = scene.without {
        words.extend(["-e".into(), format!("inject={without}").into()]);
    }
    if let Some((point, fault)) = injected {
        let what = match fault {
            Fault::Error(code) => format!("error={code}"),
            Fault::Kill => "signal=SIGKILL".to_owned(),
        };
        words.extend(["-e".into(), format!("inject={}:{what}:when={}", point.call.name, point.call.nth).into()]);
    }
    words
}

/// strace, attached to one thread of a puppet.
struct Attached(Child);

impl Attached {
    fn to(thread: i32, strace: &[OsString]) -> Result<Attached> {
        let mut command = std::process::Command::new(&strace[0]);
        command.args(&strace[1..]).arg("-p").arg(thread.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let said = child.stderr.take().context("the complaints of strace")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        let attached = Attached(child);
        ensure!(line.contains("attached"), "strace cannot attach to a thread: {}", line.trim());
        Ok(attached)
    }

    /// Waits until the thread has ended.
    fn wait(mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("strace does not end with its thread");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Makes `to` a copy of the directory `from`.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target: PathBuf = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            false => {
                fs::copy(entry.path(), &target)?;
            }
        }
    }
    Ok(())
}

/// True if some segment file of the log is in another life than its first: its identity says so.
pub fn has_recycled_file(log: &Path) -> Result<bool> {
    for entry in fs::read_dir(log.join("segments"))? {
        let mut identity = [0; 16];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(entry?.path())?, &mut identity, 0)?;
        if &identity[..8] == b"MAPLOGSG" && identity[12] == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}
