//! Power: a writer on a real file system on a disk that loses its power. Crash images are taken of the disk while the writer runs,
//! mounted, and judged; some of them become the disk that the next writer goes on with.

use crate::check::OnDisk;
use crate::disk::{can_serve, Disk, Event, FileSystem, Medium, Shot, Space, When};
use crate::ledger::{Call, Ledger, Record};
use crate::oracle::{Crash, Expect, Story};
use crate::rng::Rng;
use crate::writer::{Running, Writer};
use anyhow::{bail, ensure, Context, Result};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub struct Power {
    /// How many crash images are judged.
    #[arg(long, default_value_t = 50)]
    states: u64,
    /// The first chain's seed; each chain of crashes has its own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file systems, in turns.
    #[arg(long, value_delimiter = ',', default_value = "ext4,xfs,btrfs")]
    fs: Vec<FileSystem>,
    /// The disk says that it flushes, and does not.
    #[arg(long)]
    lie: bool,
}

/// Loads that follow each other, each on what a power cut left of the one before.
const LOADS: u64 = 6;
/// What left the disk that a chain begins with.
const NO_CRASH: &str = "no crash";
/// How long a moment is waited for, and an open.
const PATIENCE: Duration = Duration::from_millis(200);
const OPENS_WITHIN: Duration = Duration::from_secs(60);

impl Power {
    pub fn run(&self) -> Result<()> {
        ensure!(can_serve()?, "skipped: no /dev/fuse");
        let space = Space::enter()?;
        let made: Vec<_> = self.fs.iter().map(|kind| Ok((*kind, kind.make(&space)?))).collect::<Result<_>>()?;
        let mut tally = Tally::default();
        for (seed, (kind, empty)) in (self.seed..).zip(made.iter().cycle()) {
            let mut chain = Chain {
                log: OnDisk { space: &space, kind: *kind, run: seed as u32 },
                lies: self.lie,
                seed,
                rng: Rng::new(seed),
                state: State { medium: empty.clone(), expect: Expect::nothing(), left_by: NO_CRASH.to_owned() },
                next_life: 1,
            };
            for _ in 0..LOADS {
                let before = tally.states;
                let goes_on = chain.load(&mut tally, self.states)?;
                if tally.states / 100 > before / 100 {
                    println!("{tally}");
                }
                if tally.states >= self.states {
                    println!("ok {tally}, 0 violations");
                    return Ok(());
                }
                if !goes_on {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// A log that goes from crash to crash.
struct Chain<'s> {
    log: OnDisk<'s>,
    lies: bool,
    seed: u64,
    rng: Rng,
    state: State,
    next_life: u32,
}

/// A medium that a power cut left, and what may be on it.
#[derive(Clone)]
struct State {
    medium: Medium,
    expect: Expect,
    left_by: String,
}

impl Chain<'_> {
    /// Has writers go on with the log, takes crash images meanwhile, and judges all but the last: that one is what is gone on with.
    /// Returns whether it can be.
    fn load(&mut self, tally: &mut Tally, states_max: u64) -> Result<bool> {
        let State { medium, expect, left_by } = self.state.clone();
        let Some(disk) = self.mount(medium, tally)? else {
            return Ok(false);
        };
        if self.lies {
            disk.served().lie();
        }
        let ledger = Arc::new(Ledger::create(&self.log.space.path("ledger"))?);
        let shots = self.write(&disk, &ledger, tally);
        drop(disk);
        let records = ledger.read_from(0)?;
        let story = self.judge(&records, expect, &left_by, tally)?;
        let shots = shots.with_context(|| self.violation(&left_by, tally))?;
        self.next_life += openings(&records);
        tally.learn(&records);

        let mut states: Vec<State> = shots.into_iter().map(|shot| self.cut(&shot, &story, &records, tally)).collect();
        self.state = states.pop().context("every load takes images")?;
        for state in states {
            if tally.states < states_max {
                self.check(state, tally)?;
            }
        }
        Ok(true)
    }

    /// Runs writers, one after the other where one is killed, and catches moments.
    fn write(&mut self, disk: &Disk, ledger: &Arc<Ledger>, tally: &mut Tally) -> Result<Vec<Shot>> {
        let mut shots = Vec::new();
        let mut life = self.next_life;
        let mut writer = self.start(disk, life)?;
        let (mut seen, mut is_new) = (0, true);
        for _ in 0..self.rng.within(2..4) {
            if self.rng.one_in(3) {
                writer.kill()?;
                tally.kills += 1;
                life += openings(&ledger.read_from(seen)?);
                seen = ledger.len();
                writer = self.start(disk, life)?;
                is_new = true;
            }
            let event = self.rng.pick(&[Event::BeforeFlush, Event::BeforeFlush, Event::AfterFlush, Event::AfterWrite]);
            if !is_new || self.rng.one_in(2) {
                wait_opened(&mut writer, ledger, seen)?;
                thread::sleep(Duration::from_micros(self.rng.of_any_size(100_000)));
            }
            is_new = false;
            let others = self.rng.of_any_size(16);
            shots.push(disk.served().catch(When { event, others }, ledger, PATIENCE));
        }
        writer.kill()?;
        Ok(shots)
    }

    fn start(&mut self, disk: &Disk, life: u32) -> Result<Running> {
        let seed = self.rng.next();
        Writer { seed, write_back: self.rng.one_in(2), check: false, ..self.log.checker(disk, life) }.start()
    }

    /// What a power cut leaves at that moment.
    fn cut(&mut self, shot: &Shot, story: &Story, records: &[Record], tally: &mut Tally) -> State {
        let (medium, style) = shot.frozen.after_power_cut(&mut self.rng);
        tally.images += 1;
        tally.sectors += shot.frozen.pending_sectors() as u64;
        let opens = |record: &&Record| matches!(record, Record::Opening { .. } | Record::Opened { .. });
        let last = records[..shot.ledger.start].iter().rev().find(opens);
        tally.in_open += u64::from(matches!(last, Some(Record::Opening { .. })));
        let ledger = &shot.ledger;
        let left_by = format!("a power cut at {ledger:?} of the ledger that leaves {style} on the disk");
        State { medium, expect: story.expect(ledger.clone(), Crash::PowerCut), left_by }
    }

    /// Has the log on a medium opened, judges what is found, and sees that it can be used.
    fn check(&self, state: State, tally: &mut Tally) -> Result<()> {
        let State { medium, expect, left_by } = state;
        let Some(disk) = self.mount(medium, tally)? else {
            return Ok(());
        };
        let checked = self.log.check(disk, self.next_life, expect);
        checked.with_context(|| self.violation(&left_by, tally))?;
        tally.judged(self.log.kind);
        Ok(())
    }

    /// Judges what the opens found, the first of them after the crash.
    fn judge(&self, records: &[Record], expect: Expect, left_by: &str, tally: &mut Tally) -> Result<Story> {
        let story = Story::read(records, expect, self.log.run);
        let story = story.with_context(|| self.violation(left_by, tally))?;
        if story.was_opened() && left_by != NO_CRASH {
            tally.judged(self.log.kind);
        }
        Ok(story)
    }

    fn violation(&self, left_by: &str, tally: &Tally) -> String {
        let (name, seed, states) = (self.log.kind.name(), self.seed, tally.states);
        format!("violation: {name}, seed {seed}, after {states} states, after {left_by}")
    }

    /// The disk; None if the file system on it does not mount, as can be after a lie.
    fn mount(&self, medium: Medium, tally: &mut Tally) -> Result<Option<Disk>> {
        match self.log.mount(medium)? {
            Ok(disk) => Ok(Some(disk)),
            Err(why) if self.lies => {
                println!("{}, seed {}: {why}", self.log.kind.name(), self.seed);
                tally.unmountable += 1;
                tally.states += 1;
                Ok(None)
            }
            Err(why) => bail!("{}, seed {}: an honest disk does not mount: {why}", self.log.kind.name(), self.seed),
        }
    }
}

fn openings(records: &[Record]) -> u32 {
    records.iter().filter(|record| matches!(record, Record::Opening { .. })).count() as u32
}

/// Waits until the log is open, or the writer has ended.
fn wait_opened(writer: &mut Running, ledger: &Ledger, seen: usize) -> Result<()> {
    let deadline = Instant::now() + OPENS_WITHIN;
    while !ledger.read_from(seen)?.iter().any(|record| matches!(record, Record::Opened { .. })) {
        if writer.has_ended()? {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the writer hangs while it opens the log");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What the states were worth.
#[derive(Debug, Default)]
struct Tally {
    states: u64,
    by_kind: BTreeMap<&'static str, u64>,
    unmountable: u64,
    images: u64,
    /// Images of a moment at which the log was being opened.
    in_open: u64,
    /// In the cache at those moments.
    sectors: u64,
    entries: u64,
    /// Times a writer was killed and another one started before the power went.
    kills: u64,
}

impl Tally {
    fn judged(&mut self, kind: FileSystem) {
        self.states += 1;
        *self.by_kind.entry(kind.name()).or_default() += 1;
    }

    fn learn(&mut self, records: &[Record]) {
        let appended = records.iter().map(|record| match record {
            Record::About { call: Call::Append { entries }, .. } => u64::from(*entries),
            _ => 0,
        });
        self.entries += appended.sum::<u64>();
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { states, by_kind, unmountable, images, in_open, sectors, entries, kills } = self;
        let kinds: Vec<_> = by_kind.iter().map(|(kind, states)| format!("{kind} {states}")).collect();
        write!(
            f,
            "{states} states ({}), {unmountable} did not mount, {in_open} of {images} images ",
            kinds.join(", ")
        )?;
        write!(f, "during an open, {} unsynced sectors an image, {kills} kills, ", sectors / (*images).max(1))?;
        write!(f, "{entries} entries")
    }
}
