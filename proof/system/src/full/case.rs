//! One case: a log lives on a disk that is full from one step on. Judged by the script, by what the puppet answers, and by the files.

use super::disk::Disk;
use crate::puppet::{Answer, Command, End, Kind, Outcome, Policy, Puppet, Run, State};
use crate::worlds::Worlds;
use anyhow::{Context, Result};
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A segment grows once: 256 KiB first, then the rest.
const SEGMENT: u64 = 320 << 10;
/// 16 entries fill a segment.
const LEN: usize = 20_000;

/// A step of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Do(Command),
    /// Drops entries before the one that lies so far behind the end.
    DropOld(u64),
    /// Drops the last entries.
    CutLast(u64),
    Kill,
    /// What a tool that copies files can do to a log: blocks of zeros become holes.
    MakeHoles,
}

/// When the disk is full, and how full it is.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub policy: Policy,
    pub script: usize,
    /// The disk is filled before this step.
    pub step: usize,
    /// So many bytes stay free.
    pub leave: u64,
    /// Whether what the log gives back is taken from it, before each later step.
    pub pressure: Pressure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    Once,
    Kept,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { policy, script, step, leave, pressure } = self;
        let name = ["life", "copy"][*script];
        let step_is = &scripts(*policy)[*script][*step];
        write!(f, "{name}/{policy:?}/{}-KiB/{pressure:?}/{step}-{step_is:?}", leave >> 10)
    }
}

fn fill(count: u64) -> Step {
    Step::Do(Command::Fill { len: LEN, count, sync_every: 4 })
}

fn scripts(policy: Policy) -> [Vec<Step>; 2] {
    let open = || Step::Do(Command::Open { policy, segment_size: SEGMENT });
    let done = Step::Do;
    let life = vec![
        open(),
        // The first segment: made, grown, more than half full, full.
        fill(1),
        done(Command::Sync),
        fill(9),
        fill(9),
        done(Command::Rotate),
        fill(20),
        // Recycling.
        Step::DropOld(5),
        fill(40),
        done(Command::HoldView),
        Step::CutLast(5),
        fill(3),
        Step::DropOld(5),
        done(Command::ReadHeldView),
        fill(20),
        done(Command::Close),
        // In a segment of an earlier process.
        open(),
        fill(3),
        Step::Kill,
        open(),
        done(Command::Read),
        done(Command::Validate),
        Step::CutLast(3),
        fill(3),
        Step::DropOld(2),
        fill(20),
        Step::Kill,
        open(),
        done(Command::Reset(1_000_000)),
        fill(20),
        done(Command::Close),
    ];
    let copy = vec![open(), fill(6), done(Command::Close), Step::MakeHoles, open(), fill(20), done(Command::Close)];
    [life, copy]
}

/// Every `sample`th case.
pub fn cases(sample: usize) -> Vec<Case> {
    const HALF: u64 = SEGMENT / 2;
    const NEARLY: u64 = SEGMENT - (20 << 10);
    let levels = [0, 4 << 10, 64 << 10, HALF, NEARLY, 1 << 20].map(|leave| (leave, Pressure::Once));
    let mut cases = Vec::new();
    for policy in [Policy::Manual, Policy::Immediate] {
        for (script, steps) in scripts(policy).iter().enumerate() {
            for step in 0..steps.len() {
                let levels = levels.into_iter().chain([(0, Pressure::Kept)]);
                cases.extend(levels.map(|(leave, pressure)| Case { policy, script, step, leave, pressure }));
            }
        }
    }
    cases.into_iter().step_by(sample).collect()
}

/// A log that is being used, and what it may hold.
struct Story<'d> {
    disk: &'d Disk,
    puppet: Option<Puppet>,
    worlds: Worlds,
    state: Option<State>,
    /// The number of orders so far.
    order: u32,
    held: Vec<Run>,
    /// Appends that were refused for want of space.
    refused: u64,
    /// Whether the last one was.
    is_refused: bool,
}

type Verdict<T = ()> = std::result::Result<T, String>;

impl Case {
    /// Runs it; how often an append was refused.
    pub fn run(&self, disk: &Disk) -> Result<Verdict<u64>> {
        disk.clear().context("to clear the disk")?;
        let mut story = Story {
            disk,
            puppet: None,
            worlds: Worlds::new(),
            state: None,
            order: 0,
            held: Vec::new(),
            refused: 0,
            is_refused: false,
        };
        for (index, step) in scripts(self.policy)[self.script].iter().enumerate() {
            let is_full = index >= self.step;
            if index == self.step || is_full && self.pressure == Pressure::Kept {
                disk.fill(self.leave).context("to fill the disk")?;
            }
            if let Err(why) = story.step(step, is_full, *self)? {
                return Ok(Err(format!("step {index}, {step:?}: {why}")));
            }
        }
        disk.free().context("to free the disk")?;
        Ok(story
            .check_recovered(self.policy)?
            .map(|()| story.refused)
            .map_err(|why| format!("with space again: {why}")))
    }
}

impl Story<'_> {
    fn step(&mut self, step: &Step, is_full: bool, Case { policy, leave, .. }: Case) -> Result<Verdict> {
        let next_seq = self.state.map_or(1, |state| state.next_seq);
        let first_seq = self.state.map_or(1, |state| state.first_seq);
        let command = match step {
            Step::Do(command) => command.clone(),
            Step::DropOld(distance) => Command::TruncateBefore(next_seq.saturating_sub(*distance).max(first_seq)),
            Step::CutLast(count) => Command::TruncateAfter((next_seq - 1).saturating_sub(*count).max(first_seq - 1)),
            Step::Kill => {
                (self.puppet, self.state) = (None, None);
                return Ok(Ok(()));
            }
            Step::MakeHoles => {
                self.disk.free()?;
                make_holes(&self.disk.log()).context("to make holes")?;
                if is_full {
                    self.disk.fill(leave)?;
                }
                return Ok(Ok(()));
            }
        };
        let is_open = self.state.is_some() || matches!(command, Command::Open { .. });
        if !is_open {
            // A log that could not be made for want of space: tried again, for there may be some by now.
            if let Err(why) = self.tell(&Command::Open { policy, segment_size: SEGMENT }, is_full)? {
                return Ok(Err(why));
            }
            if self.state.is_none() {
                return Ok(Ok(()));
            }
        }
        self.tell(&command, is_full)
    }

    /// Has the puppet do `command`. On a full disk, what needs space may be refused, and nothing else.
    fn tell(&mut self, command: &Command, is_full: bool) -> Result<Verdict> {
        let is_new = !self.disk.log().join("metadata/wal.meta").exists();
        let answer = match self.order(command)? {
            Ok(answer) => answer,
            Err(why) => return Ok(Err(why)),
        };
        let failure = match &answer.outcome {
            Outcome::Failed(failure) | Outcome::Filled { failure: Some(failure), .. } => Some(failure),
            _ => None,
        };
        let may_be_refused =
            matches!(command, Command::Fill { .. }) || matches!(command, Command::Open { .. }) && is_new;
        if let Some(failure) = failure {
            if failure.kind != Kind::NoSpace || !is_full || !may_be_refused {
                return Ok(Err(format!("{failure:?}")));
            }
        }
        self.is_refused = matches!(answer.outcome, Outcome::Filled { failure: Some(_), .. });
        if self.is_refused {
            self.refused += 1;
            return self.check_nothing_is_left();
        }
        match (command, &answer.outcome) {
            (Command::HoldView, _) => match self.order(&Command::Read)? {
                Ok(Answer { outcome: Outcome::Entries(runs), .. }) => self.held = runs,
                other => return Ok(Err(format!("{other:?}"))),
            },
            (Command::ReadHeldView, Outcome::Entries(runs)) if *runs != self.held => {
                return Ok(Err(format!("the view that is held reads {runs:?}, and read {:?}", self.held)));
            }
            _ => {}
        }
        Ok(Ok(()))
    }

    /// Has the puppet do `command`, and takes down what that means for the log.
    fn order(&mut self, command: &Command) -> Result<Verdict<Answer>> {
        let puppet = match &mut self.puppet {
            Some(puppet) => puppet,
            None => self.puppet.insert(Puppet::start(&[], &self.disk.log())?),
        };
        self.order += 1;
        let answer = match puppet.tell(self.order, command)? {
            Ok(answer) => answer,
            Err(End::Hung(why)) => return Ok(Err(format!("the process hangs: {why}"))),
            Err(End::Ended { status, said }) => {
                return Ok(Err(format!("the process ended with {status}: {}", said.trim())))
            }
        };
        self.state = answer.state;
        let applied = self.worlds.apply(self.order, command, Some(&answer.outcome));
        let restricted = applied.and_then(|()| match (&answer.state, command, &answer.outcome) {
            (_, Command::Read, Outcome::Entries(runs)) => self.worlds.restrict_to_entries(runs),
            (Some(state), ..) => self.worlds.restrict_to(state),
            _ => Ok(()),
        });
        Ok(restricted.map(|()| answer))
    }

    /// An append was refused: asked again it is refused again, or works, for space was given back meanwhile; and there are no files but
    /// those of the log, with no bytes but theirs. A spare that was there before may be gone: where not even a name can be changed, it is
    /// given back.
    fn check_nothing_is_left(&mut self) -> Result<Verdict> {
        let before = files(&self.disk.log())?;
        let again = match self.order(&Command::Fill { len: LEN, count: 1, sync_every: 1 })? {
            Ok(answer) => answer,
            Err(why) => return Ok(Err(why)),
        };
        let after = files(&self.disk.log())?;
        let state =
            self.state.unwrap_or(State { first_seq: 0, next_seq: 0, durable_seq: 0, segments: 0, allocated: 0 });
        let allocated: u64 = after.iter().map(|file| file.len).sum();
        if after.len() != state.segments || allocated != state.allocated {
            return Ok(Err(format!("an append was refused, and these files stay: {after:?}; the log has {state:?}")));
        }
        match again.outcome {
            Outcome::Filled { failure: None, .. } => Ok(Ok(())),
            Outcome::Filled { failure: Some(failure), .. }
                if failure.kind == Kind::NoSpace && after.iter().all(|file| before.contains(file)) =>
            {
                Ok(Ok(()))
            }
            outcome => Ok(Err(format!("asked again: {outcome:?}; files before {before:?}, and after {after:?}"))),
        }
    }

    /// Some file systems, btrfs first of all, give space back some time after it was freed.
    fn wait_for_space(&mut self, command: &Command) -> Result<Verdict> {
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            if let Err(why) = self.tell(command, true)? {
                return Ok(Err(why));
            }
            if self.state.is_some() && !self.is_refused {
                return Ok(Ok(()));
            }
            std::thread::sleep(Duration::from_millis(100));
            self.disk.free()?;
        }
        Ok(Err(format!("{command} is refused for ever")))
    }

    /// The space is back: the same log takes entries, and so does the next one.
    fn check_recovered(&mut self, policy: Policy) -> Result<Verdict> {
        let open = Command::Open { policy, segment_size: SEGMENT };
        let more = Command::Fill { len: LEN, count: 20, sync_every: 7 };
        let mut script = if self.state.is_none() { vec![open.clone()] } else { Vec::new() };
        script.extend([more.clone(), Command::Sync, Command::Read, Command::Validate, Command::Close]);
        script.extend([open, Command::Read, more, Command::Read, Command::Close]);
        let mut segments = 0;
        if let Err(why) = self.wait_for_space(&script[0])? {
            return Ok(Err(why));
        }
        for command in &script[1..] {
            segments = self.state.map_or(segments, |state| state.segments);
            if let Err(why) = self.tell(command, false)? {
                return Ok(Err(format!("{command}: {why}")));
            }
        }
        let left = files(&self.disk.log())?;
        if left.len() != segments {
            return Ok(Err(format!("{segments} segments, and these files: {left:?}")));
        }
        self.puppet = None;
        Ok(Ok(()))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct SegmentFile {
    name: String,
    len: u64,
    blocks: u64,
}

/// The files beside each other in the folder of segments, and what they take.
fn files(log: &Path) -> Result<Vec<SegmentFile>> {
    use std::os::unix::fs::MetadataExt;
    let mut files = Vec::new();
    for entry in fs::read_dir(log.join("segments"))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push(SegmentFile { name, len: metadata.len(), blocks: metadata.blocks() });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// Replaces the segments by copies with holes in place of zeros.
fn make_holes(log: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    if !log.join("segments").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(log.join("segments"))? {
        let path = entry?.path();
        let bytes = fs::read(&path)?;
        let copy = fs::File::create(path.with_extension("copy"))?;
        copy.set_len(bytes.len() as u64)?;
        for (index, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
            copy.write_all_at(block, index as u64 * 4096)?;
        }
        copy.sync_all()?;
        fs::rename(path.with_extension("copy"), path)?;
    }
    Ok(())
}
