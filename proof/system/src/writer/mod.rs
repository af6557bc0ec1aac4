//! The writer: the process that has the log open, and that is killed or loses its disk. This program, started again.
//!
//! It opens the log, names what it found in the ledger, and goes on appending until it is killed. It ends by itself only if a call
//! fails that may not: the error is what it prints last.

mod killer;
mod load;
mod plan;

pub use killer::{KillAt, Phase};

use crate::entry::{self, CallId, Filling, Id};
use crate::ledger::{Call, Ledger, Outcome, Record};
use anyhow::{bail, ensure, Context, Result};
use clap::Args;
use killer::Killer;
use load::Load;
use maplog::{Log, Options, Verify};
use nix::sys::{prctl, signal::Signal};
use plan::Plan;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What a writer is told.
#[derive(Debug, Clone, Args)]
pub struct Writer {
    /// The log's directory.
    pub dir: PathBuf,
    pub ledger: PathBuf,
    /// The log's number, in every entry.
    #[arg(long)]
    pub run: u32,
    /// The number of this open; those that follow it in this process count on.
    #[arg(long)]
    pub life: u32,
    #[arg(long)]
    pub seed: u64,
    /// Append a little to what was found, close, and end.
    #[arg(long)]
    pub check: bool,
    /// Have the kernel write dirty pages back at any time.
    #[arg(long)]
    pub write_back: bool,
    /// When to die, as PHASE:MICROSECONDS.
    #[arg(long)]
    pub kill: Option<KillAt>,
}

impl Writer {
    /// Starts a process that does it.
    pub fn start(&self) -> Result<Running> {
        let mut args: Vec<OsString> = vec!["writer".into(), self.dir.clone().into(), self.ledger.clone().into()];
        let numbers = [("--run", self.run.into()), ("--life", self.life.into()), ("--seed", self.seed)];
        args.extend(numbers.iter().flat_map(|(name, number)| [name.into(), number.to_string().into()]));
        args.extend(self.check.then(|| "--check".into()));
        args.extend(self.write_back.then(|| "--write-back".into()));
        args.extend(self.kill.iter().flat_map(|kill| ["--kill".into(), kill.to_string().into()]));
        let program = std::env::current_exe()?;
        let child =
            Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Ok(Running(child.context("the writer")?))
    }

    /// Does it, in this process.
    pub fn run(self) -> Result<()> {
        // Nobody reads the ledger any more when the parent is gone.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        let ledger = Arc::new(Ledger::open(&self.ledger)?);
        let killer = Killer::new(self.kill);
        let mut rng = crate::rng::Rng::new(self.seed);
        let plan = Plan::draw(&mut rng, self.kill.map(|kill| kill.phase));
        killer.enter(Phase::Open);
        let log = open(&self, plan.options(), self.life, &ledger)?;
        killer.enter(Phase::Load);
        if self.check {
            return check(&self, &log, &ledger);
        }
        Load::new(self, plan, log, ledger, killer).run(rng)
    }
}

/// Opens the log, and names all that it holds.
fn open(writer: &Writer, options: Options, life: u32, ledger: &Ledger) -> Result<Log> {
    ledger.note(Record::Opening { life });
    let verify = if life.is_multiple_of(4) && !writer.check { Verify::Unproven } else { Verify::All };
    let log = options.verify(verify).open(&writer.dir).context("open")?;
    let (first_seq, next_seq) = (log.first_seq(), log.next_seq());
    let mut records = Vec::new();
    for entry in log.view().iter() {
        let entry = entry.context("an entry")?;
        let id = entry::identify(entry.payload()).with_context(|| format!("seq {}", entry.seq()))?;
        records.push(Record::Found { seq: entry.seq(), id });
    }
    let report = log.validate().context("validate")?;
    ensure!(report.damage.is_empty(), "validate finds damage: {:?}", report.damage);
    let (files, segments) = (writer.dir.join("segments").read_dir()?.count(), log.segments().len());
    ensure!(files == segments, "{files} files for {segments} segments: a crash left what nobody needs");
    ledger.note_all(&records);
    ledger.note(Record::Opened { life, first_seq, next_seq });
    Ok(log)
}

/// Sees that a log that was opened can be used.
fn check(writer: &Writer, log: &Log, ledger: &Ledger) -> Result<()> {
    for number in 0..3 {
        let call = CallId { life: writer.life, thread: 1, number };
        let id = Id { run: writer.run, call, index: 0 };
        ledger.note(Record::About { id: call, call: Call::Append { entries: 1 } });
        let seq = log.append(&entry::payload(id, 100, Filling::Random)).context("append")?;
        ledger.note(Record::Did { id: call, outcome: Outcome { seq, durable: 0 } });
        let entry = log.get(seq).context("get")?.with_context(|| format!("seq {seq}, just appended"))?;
        ensure!(entry::identify(entry.payload())? == id, "seq {seq} is not what was just appended");
    }
    log.sync().context("sync")?;
    log.close().context("close")
}

/// A writer that runs; killed when dropped.
#[derive(Debug)]
pub struct Running(Child);

/// No call takes so long, however busy the machine is.
const HANGS_AFTER: Duration = Duration::from_secs(60);

impl Running {
    /// Kills it.
    ///
    /// # Errors
    /// If it has ended by itself: what it said.
    pub fn kill(mut self) -> Result<()> {
        if self.0.try_wait()?.is_none() {
            self.0.kill()?;
        }
        self.wait_killed()
    }

    /// Waits until it has killed itself.
    ///
    /// # Errors
    /// If it ended otherwise, or does not end: what it said.
    pub fn wait_killed(self) -> Result<()> {
        self.wait_for(|status| status.signal() == Some(Signal::SIGKILL as i32))
    }

    /// Waits until it has done its work.
    ///
    /// # Errors
    /// If it failed, or does not end: what it said.
    pub fn wait(self) -> Result<()> {
        self.wait_for(|status| status.success())
    }

    fn wait_for(mut self, is_right: impl Fn(ExitStatus) -> bool) -> Result<()> {
        let deadline = Instant::now() + HANGS_AFTER;
        loop {
            match self.0.try_wait()? {
                Some(status) if is_right(status) => return Ok(()),
                Some(status) => bail!("the writer ended with {status}: {}", self.last_words()),
                None => ensure!(Instant::now() < deadline, "the writer hangs"),
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Whether it has ended, for whatever reason.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    fn last_words(&mut self) -> String {
        let output = self.0.stdout.take().and_then(|stdout| std::io::read_to_string(stdout).ok()).unwrap_or_default();
        let errors = self.0.stderr.take().and_then(|stderr| std::io::read_to_string(stderr).ok()).unwrap_or_default();
        (output + &errors).trim().replace('\n', "; ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
