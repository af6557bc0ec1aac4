//! Kill: writers that append, batch, sync, rotate, recycle and close in several threads, killed by SIGKILL at random moments, one
//! after the other on the same directory. Everything that `append` returned for is there, at the next open.

use crate::ledger::{Call, Ledger, Record};
use crate::oracle::{Crash, Expect, Story};
use crate::rng::Rng;
use crate::scratch;
use crate::writer::{KillAt, Phase, Writer};
use anyhow::{Context, Result};
use clap::Args;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[derive(Debug, Args)]
pub struct Kill {
    /// How often a writer is killed.
    #[arg(long, default_value_t = 200)]
    cycles: u64,
    /// The first cycle's seed; each one has its own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the log that lives on lies: a directory on a disk.
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
    /// Kill in this phase alone.
    #[arg(long)]
    only: Option<Phase>,
}

/// Of so many stretches of [`STRETCH`] cycles the last is on a new log, in memory, where no sync takes time; the others are on the one
/// that lives on, on the disk.
const STRETCHES: u64 = 4;
const STRETCH: u64 = 10;

impl Kill {
    pub fn run(&self) -> Result<()> {
        std::fs::create_dir_all(&self.scratch)?;
        let memory = scratch::memory_dir(); // a kill leaves its files as it leaves the page cache of a disk
        let (mut lasting, mut fresh) = (Chain::new(1, &self.scratch)?, Chain::new(2, &memory)?);
        let mut tally = Tally::default();
        for cycle in 0..self.cycles {
            let seed = self.seed + cycle;
            let is_fresh = cycle / STRETCH % STRETCHES == STRETCHES - 1;
            if is_fresh && cycle % STRETCH == 0 {
                fresh.check().with_context(|| format!("violation: after log {}", fresh.run))?;
                fresh = Chain::new(fresh.run + 1, &memory)?;
            }
            let chain = if is_fresh { &mut fresh } else { &mut lasting };
            let killed = chain.cycle(seed, self.only, &mut tally);
            killed.with_context(|| format!("violation: seed {seed}, cycle {cycle}, log {}", chain.run))?;
            if (cycle + 1) % 1000 == 0 {
                println!("{tally}");
            }
        }
        lasting.check().and_then(|()| fresh.check()).context("violation: after the last cycle")?;
        println!("ok {tally}, 0 violations");
        Ok(())
    }
}

/// A log, and what is known of it.
struct Chain {
    run: u32,
    dir: TempDir,
    ledger: TempDir,
    next_life: u32,
    expect: Expect,
}

impl Chain {
    fn new(run: u32, scratch: &Path) -> Result<Chain> {
        let dir = scratch::dir(scratch)?;
        // In memory: the ledger is no work for the disk.
        let ledger = scratch::dir(&scratch::memory_dir())?;
        Ok(Chain { run, dir, ledger, next_life: 1, expect: Expect::nothing() })
    }

    /// Has a writer open the log and go on until it is killed, and judges what it found.
    fn cycle(&mut self, seed: u64, only: Option<Phase>, tally: &mut Tally) -> Result<()> {
        let mut rng = Rng::new(seed);
        let mut at = kill_at(&mut rng);
        while only.is_some_and(|only| only != at.phase) {
            at = kill_at(&mut rng);
        }
        let writer = Writer { kill: Some(at), ..self.writer(rng.next()) };
        let ledger = Ledger::create(&writer.ledger)?;
        writer.start()?.wait_killed()?;
        let records = ledger.read_from(0)?;
        self.learn(&records)?;
        tally.add(&records, bytes_in(self.dir.path())?);
        Ok(())
    }

    /// Opens the log once more, and closes it.
    fn check(&mut self) -> Result<()> {
        let writer = Writer { check: true, ..self.writer(0) };
        let ledger = Ledger::create(&writer.ledger)?;
        writer.start()?.wait()?;
        self.learn(&ledger.read_from(0)?)
    }

    fn writer(&self, seed: u64) -> Writer {
        Writer {
            dir: self.dir.path().join("log"),
            ledger: self.ledger.path().join("ledger"),
            run: self.run,
            life: self.next_life,
            seed,
            check: false,
            write_back: false,
            kill: None,
        }
    }

    fn learn(&mut self, records: &[Record]) -> Result<()> {
        let story = Story::read(records, self.expect.clone(), self.run)?;
        self.expect = story.end(Crash::Kill);
        self.next_life += records.iter().filter(|record| matches!(record, Record::Opening { .. })).count() as u32;
        Ok(())
    }
}

/// When a writer dies: most of the time under load, often in the short times that matter.
fn kill_at(rng: &mut Rng) -> KillAt {
    match rng.within(0..100) {
        0..=39 => KillAt { phase: Phase::Load, micros: rng.within(0..250_000) },
        40..=54 => KillAt { phase: Phase::Batch, micros: rng.within(0..2_000) },
        55..=69 => KillAt { phase: Phase::Open, micros: rng.of_any_size(10_000) },
        70..=84 => KillAt { phase: Phase::Upkeep, micros: rng.of_any_size(4_000) },
        _ => KillAt { phase: Phase::Close, micros: rng.of_any_size(4_000) },
    }
}

fn bytes_in(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in dir.read_dir()? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_in(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// What the cycles were worth.
#[derive(Debug, Default)]
struct Tally {
    cycles: u64,
    appends: u64,
    entries: u64,
    /// Cycles in which nothing was appended: killed while the log was opened, or soon after.
    idle: u64,
    in_open: u64,
    in_append: u64,
    in_rotate: u64,
    in_cut: u64,
    in_close: u64,
    bytes_most: u64,
}

impl Tally {
    fn add(&mut self, records: &[Record], bytes: u64) {
        let mut under_way = HashMap::new();
        let mut is_open = false;
        let entries_before = self.entries;
        for record in records {
            match *record {
                Record::Opening { .. } => is_open = false,
                Record::Opened { .. } => is_open = true,
                Record::Found { .. } => {}
                Record::About { id, call } => drop(under_way.insert(id, call)),
                Record::Refused { id } => drop(under_way.remove(&id)),
                Record::Did { id, .. } => {
                    if let Some(Call::Append { entries }) = under_way.remove(&id) {
                        self.appends += 1;
                        self.entries += u64::from(entries);
                    }
                }
            }
        }
        let any = |is: fn(&Call) -> bool| u64::from(under_way.values().any(is));
        self.cycles += 1;
        self.idle += u64::from(self.entries == entries_before);
        self.in_open += u64::from(!is_open);
        self.in_append += any(|call| matches!(call, Call::Append { .. }));
        self.in_rotate += any(|call| matches!(call, Call::Rotate));
        self.in_cut +=
            any(|call| matches!(call, Call::TruncateBefore { .. } | Call::TruncateAfter { .. } | Call::Reset { .. }));
        self.in_close += any(|call| matches!(call, Call::Close));
        self.bytes_most = self.bytes_most.max(bytes);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { cycles, appends, entries, idle, in_open, in_append, in_rotate, in_cut, in_close, bytes_most } =
            self;
        let per_cycle = appends / (cycles - idle).max(1);
        write!(f, "{cycles} cycles, {appends} appends of {entries} entries ({per_cycle} appends a cycle, {idle} cycles without), ")?;
        write!(f, "killed in open {in_open}, append {in_append}, rotate {in_rotate}, truncate or reset {in_cut}, ")?;
        write!(f, "close {in_close}; at most {:.1} MiB on the disk", *bytes_most as f64 / f64::from(1 << 20))
    }
}
