//! The process that has its log on the bad disk, and sees what the log makes of it.

use crate::entry::{self, CallId, Filling, Id};
use crate::ledger::{Call, Ledger, Outcome, Record};
use anyhow::{bail, ensure, Context, Result};
use clap::{Args, ValueEnum};
use maplog::{Ack, Error, Log, Options, SyncPolicy, Verify};
use nix::sys::{prctl, signal::Signal};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// What a victim goes through.
#[derive(Debug, Args)]
pub struct Victim {
    trouble: Trouble,
    dir: PathBuf,
    ledger: PathBuf,
}

/// What the disk does not do, and which call of the log meets that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Trouble {
    WriteAtSync,
    WriteAtAppend,
    WriteAtRotate,
    FlushAtSync,
    FlushAtAppend,
    FlushAtBatch,
    FlushAtRotate,
    /// That of the manifest, as in the next two.
    FlushAtTruncateBefore,
    FlushAtTruncateAfter,
    FlushAtReset,
    FlushAtClose,
    /// The keeper meets it.
    FlushOfSealed,
    WriteOfManifest,
    /// The keeper meets it.
    WriteOfMark,
    ReadOfEntry,
    ReadOfUnproven,
    ReadOfManifest,
}

/// What a victim asks for: to let the disk be bad, and good again. It goes on when it gets a line.
pub const ARM: &str = "arm";
pub const HEAL: &str = "heal";

pub const RUN: u32 = 1;
pub const LIFE: u32 = 1;
/// Entries that were acked before the trouble.
const ACKED: u32 = 60;
/// The number of the call that appends what the disk refuses to write or read.
const DOOMED: u32 = 1000;
/// Of entries that are long enough for a segment to hold few.
const LEN: usize = 400;
/// For what the keeper does by itself.
const SOON: Duration = Duration::from_secs(10);

/// Bytes that stand in the doomed entry alone.
pub fn doomed_bytes() -> Vec<u8> {
    entry::payload(id(DOOMED, 0), LEN, Filling::Random)[100..164].to_vec()
}

fn id(number: u32, index: u16) -> Id {
    Id { run: RUN, call: CallId { life: LIFE, thread: 1, number }, index }
}

impl Trouble {
    pub fn is_of_reads(self) -> bool {
        matches!(self, Trouble::ReadOfEntry | Trouble::ReadOfUnproven | Trouble::ReadOfManifest)
    }
}

impl Victim {
    pub fn run(self) -> Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        let ledger = Ledger::open(&self.ledger)?;
        if !self.trouble.is_of_reads() {
            self.write(ledger)
        } else if self.dir.exists() {
            self.read()
        } else {
            self.prepare(ledger)
        }
    }

    fn options(&self) -> Options {
        let waits = matches!(self.trouble, Trouble::WriteAtAppend | Trouble::FlushAtAppend | Trouble::FlushAtBatch);
        let policy = if waits { SyncPolicy::Immediate } else { SyncPolicy::Manual };
        Options::new().segment_size(16 << 10).sync_policy(policy)
    }

    /// A log with entries that are acked.
    fn open(&self, ledger: Ledger) -> Result<Open> {
        ledger.note(Record::Opening { life: LIFE });
        let log = self.options().open(&self.dir)?;
        ledger.note(Record::Opened { life: LIFE, first_seq: 1, next_seq: 1 });
        let open = Open { log, ledger };
        for number in 0..ACKED {
            open.append(number)?;
            if self.trouble == Trouble::ReadOfEntry && number == ACKED / 2 {
                open.append(DOOMED)?;
            }
        }
        open.call(ACKED, Call::Sync, |log| Ok(Outcome { seq: 0, durable: log.sync()? }))?;
        Ok(open)
    }

    // --- writing ---

    fn write(&self, ledger: Ledger) -> Result<()> {
        let open = self.open(ledger)?;
        let log = &open.log;
        // The keeper stores the mark, and has nothing left to do.
        let durable = log.durable_seq();
        self.wait_marked(durable)?;
        ask(ARM)?;
        let durable = self.meet(&open, durable)?;
        let is_closed = self.trouble == Trouble::FlushAtClose;
        if !is_closed {
            open.see_poisoned(durable)?;
        }
        ask(HEAL)?;
        if !is_closed {
            open.see_poisoned(durable).context("after the disk was healed")?;
            ensure!(matches!(log.close(), Err(Error::Poisoned)), "close of a poisoned log");
        }
        ensure!(matches!(log.append(b"x"), Err(Error::Closed)), "append to a closed log");
        // The file system may have had enough. The lock is free in any case.
        match self.options().open(&self.dir) {
            Err(Error::Locked { .. }) => bail!("close did not release the lock"),
            Err(error) if error.is_damage() => Err(error).context("open, after close"),
            _ => Ok(()),
        }
    }

    /// Waits until the manifest has a mark at `durable`: see docs/format.md.
    fn wait_marked(&self, durable: u64) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let manifest = std::fs::read(self.dir.join("metadata/wal.meta"))?;
            if [88, 4096 + 88].iter().any(|at| manifest[*at..at + 8] == durable.to_le_bytes()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no mark at {durable} after {SOON:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes the call that meets the fault; the durable seq from then on.
    fn meet(&self, open: &Open, durable: u64) -> Result<u64> {
        let log = &open.log;
        let met = match self.trouble {
            Trouble::WriteAtSync | Trouble::FlushAtSync => {
                open.append(DOOMED)?;
                log.sync().map(drop)
            }
            Trouble::WriteAtRotate | Trouble::FlushAtRotate => {
                open.append(DOOMED)?;
                log.rotate()
            }
            Trouble::WriteAtAppend | Trouble::FlushAtAppend => {
                open.begin(DOOMED, Call::Append { entries: 1 });
                log.append(&entry::payload(id(DOOMED, 0), LEN, Filling::Random)).map(drop)
            }
            Trouble::FlushAtBatch => {
                open.begin(DOOMED, Call::Append { entries: 3 });
                log.append_batch((0..3).map(|index| entry::payload(id(DOOMED, index), LEN, Filling::Random))).map(drop)
            }
            Trouble::FlushAtTruncateBefore => {
                open.begin(DOOMED, Call::TruncateBefore { seq: durable });
                log.truncate_before(durable).map(drop)
            }
            Trouble::FlushAtTruncateAfter | Trouble::WriteOfManifest => {
                let seq = durable - 5;
                open.begin(DOOMED, Call::TruncateAfter { seq });
                let cut = log.truncate_after(seq);
                is_io(cut)?;
                return Ok(log.durable_seq()); // the cut is made, or it is not
            }
            Trouble::FlushAtReset => {
                open.begin(DOOMED, Call::Reset { next_seq: 500 });
                is_io(log.reset(500))?;
                return Ok(log.durable_seq());
            }
            Trouble::FlushAtClose => {
                open.append(DOOMED)?;
                log.close()
            }
            Trouble::WriteOfMark => {
                open.append(DOOMED)?;
                open.call(DOOMED + 1, Call::Sync, |log| Ok(Outcome { seq: 0, durable: log.sync()? }))?;
                let durable = log.durable_seq();
                open.append_until_poisoned()?;
                return Ok(durable);
            }
            Trouble::FlushOfSealed => {
                open.append_until_poisoned()?;
                return Ok(durable);
            }
            Trouble::ReadOfEntry | Trouble::ReadOfUnproven | Trouble::ReadOfManifest => bail!("no trouble of a writer"),
        };
        is_io(met)?;
        Ok(durable)
    }

    // --- reading ---

    /// Writes what will not be read again.
    fn prepare(&self, ledger: Ledger) -> Result<()> {
        let open = self.open(ledger)?;
        if self.trouble == Trouble::ReadOfUnproven {
            open.append(DOOMED)?;
            open.call(DOOMED + 1, Call::Sync, |log| Ok(Outcome { seq: 0, durable: log.sync()? }))?;
            std::process::exit(0); // before the mark says that it is durable
        }
        open.log.close().context("close")
    }

    fn read(&self) -> Result<()> {
        let all = self.options().verify(Verify::All).open(&self.dir);
        is_io(all.map(drop)).context("open, reading every byte")?;
        match self.options().verify(Verify::Unproven).open(&self.dir) {
            Err(Error::Io { .. }) => Ok(()),
            Err(error) => Err(error).context("open"),
            Ok(_) if self.trouble == Trouble::ReadOfManifest => bail!("open without the manifest"),
            Ok(log) => see_unreadable(&log),
        }
    }
}

/// The doomed entry is an error to whoever reads it, and not the end of the log.
fn see_unreadable(log: &Log) -> Result<()> {
    let doomed = u64::from(ACKED) / 2 + 2;
    is_io(log.get(doomed).map(drop)).context("get")?;
    is_io(log.validate().map(drop)).context("validate")?;
    let view = log.view();
    for (seq, entry) in (log.first_seq()..).zip(view.iter()) {
        match entry {
            Ok(entry) => ensure!(entry.seq() == seq && seq < doomed, "the iterator gives seq {} as {seq}", entry.seq()),
            Err(error) => return is_io(Err(error)).context("the iterator"),
        }
    }
    bail!("the iterator ends before the entry that cannot be read, as if the log did")
}

/// An open log with its ledger.
struct Open {
    log: Log,
    ledger: Ledger,
}

impl Open {
    fn begin(&self, number: u32, call: Call) {
        self.ledger.note(Record::About { id: id(number, 0).call, call });
    }

    fn call(&self, number: u32, call: Call, make: impl FnOnce(&Log) -> maplog::Result<Outcome>) -> Result<()> {
        self.begin(number, call);
        let outcome = make(&self.log).with_context(|| format!("{call:?}"))?;
        self.ledger.note(Record::Did { id: id(number, 0).call, outcome });
        Ok(())
    }

    fn append(&self, number: u32) -> Result<()> {
        self.call(number, Call::Append { entries: 1 }, |log| {
            let seq = log.append(&entry::payload(id(number, 0), LEN, Filling::Random))?;
            Ok(Outcome { seq, durable: log.durable_seq() })
        })
    }

    /// Appends until the keeper has met the fault. What it fails to prepare is an error of that append alone.
    fn append_until_poisoned(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        for number in DOOMED + 10.. {
            self.begin(number, Call::Append { entries: 1 });
            match self.log.append(&entry::payload(id(number, 0), LEN, Filling::Random)) {
                Err(Error::Poisoned) => return Ok(()),
                Ok(_) | Err(Error::Io { .. }) => {}
                Err(error) => return Err(error).context("append"),
            }
            ensure!(Instant::now() < deadline, "the log is not poisoned after {SOON:?}");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whatever writes is refused, whatever reads goes on, and nothing more becomes durable.
    fn see_poisoned(&self, durable: u64) -> Result<()> {
        let log = &self.log;
        let last = log.next_seq() - 1;
        for (what, result) in [
            ("append", log.append(b"x").map(drop)),
            ("append_with", log.append_with(1, |_| {}).map(drop)),
            ("append_batch", log.append_batch(["x", "y"]).map(drop)),
            ("append_as buffered", log.append_as(b"x", Ack::Buffered).map(drop)),
            ("append_as durable", log.append_as(b"x", Ack::Durable).map(drop)),
            ("sync", log.sync().map(drop)),
            ("rotate", log.rotate()),
            ("truncate_before", log.truncate_before(last).map(drop)),
            ("truncate_after", log.truncate_after(log.first_seq())),
            ("reset", log.reset(1000)),
        ] {
            ensure!(matches!(result, Err(Error::Poisoned)), "{what} on a log whose sync failed: {result:?}");
        }
        if last > durable {
            let waited = log.wait_durable(last);
            ensure!(matches!(waited, Err(Error::Poisoned)), "wait_durable of what is not durable: {waited:?}");
        }
        ensure!(log.durable_seq() == durable, "the durable seq moved from {durable} to {}", log.durable_seq());
        let mut count = 0;
        for entry in log.view().iter() {
            entry::identify(entry.context("a read of a poisoned log")?.payload())?;
            count += 1;
        }
        ensure!(count == log.next_seq() - log.first_seq(), "reads end after {count} entries");
        Ok(())
    }
}

fn is_io(result: maplog::Result<()>) -> Result<()> {
    match result {
        Err(Error::Io { .. }) => Ok(()),
        other => bail!("an error of the disk was expected: {other:?}"),
    }
}

/// Asks the harness for something, and waits until it is so.
fn ask(what: &str) -> Result<()> {
    println!("{what}");
    let read = std::io::stdin().read_line(&mut String::new())?;
    ensure!(read > 0, "the harness is gone");
    Ok(())
}
