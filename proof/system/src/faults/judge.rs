//! Whether a run in which one call failed, or at which the process was killed, kept every promise. Judged by the script, by what the
//! puppet answered, and by which call it was.

use super::run::{Fault, Point, Record, Role, Told};
use super::table;
use crate::puppet::{Answer, Command, End, Failure, Kind, Outcome, Policy, Puppet, State};
use crate::worlds::Worlds;
use anyhow::Result;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

/// What the contract does not allow.
pub type Verdict<T = ()> = std::result::Result<T, String>;

/// Judges `record`, of a run that differs from `base` by `fault` at `point`; what the log may hold in the end.
pub fn judge(base: &Record, record: &Record, point: &Point, fault: Fault, mut worlds: Worlds) -> Verdict<Worlds> {
    check_end(record, fault)?;
    let mut expected = Expected { point, fault, base, poisoned_since: None };
    for (step, Told { command, answer }) in record.told.iter().enumerate() {
        let outcome = answer.as_ref().map(|answer| &answer.outcome);
        let context = |why| format!("step {step}, {command}: {why}");
        expected.check(step, record).map_err(context)?;
        worlds.apply(step as u32, command, outcome).map_err(context)?;
        let Some(Answer { outcome, state }) = answer else { break };
        if let (Some(state), None) = (state, expected.poisoned_since) {
            worlds.restrict_to(state).map_err(context)?;
        }
        match (command, outcome) {
            (Command::Read, Outcome::Entries(runs)) if expected.poisoned_since.is_none() => {
                worlds.restrict_to_entries(runs).map_err(context)?;
            }
            (Command::Read, Outcome::Entries(runs)) if !worlds.may_hold(runs) => {
                return Err(context(format!("the log holds {runs:?}, possible is {worlds:?}")));
            }
            _ => {}
        }
    }
    check_mattered(base, record, point)?;
    Ok(worlds)
}

/// The process ended as it should have.
fn check_end(record: &Record, fault: Fault) -> Verdict {
    let (status, said) = match &record.end {
        End::Ended { status, said } => (status, said),
        End::Hung(why) => return Err(format!("the process hangs: {why}")),
    };
    if said.contains("panicked") {
        return Err(format!("a panic: {}", said.trim()));
    }
    let is_killed = status.signal() == Some(9);
    match fault {
        Fault::Kill if is_killed => Ok(()),
        Fault::Error(_) if status.success() => Ok(()),
        _ => Err(format!("the process ended with {status}: {}", said.trim())),
    }
}

struct Expected<'r> {
    point: &'r Point,
    fault: Fault,
    base: &'r Record,
    /// The step from which on the present log is poisoned.
    poisoned_since: Option<usize>,
}

impl Expected<'_> {
    /// Whether the answer of `step` is one that the fault allows.
    fn check(&mut self, step: usize, record: &Record) -> Verdict {
        let Told { command, answer } = &record.told[step];
        let Some(answer) = answer else { return Ok(()) };
        let invisible = self.fault == Fault::Error("EINTR") && table::is_retried(self.point);
        if step < self.point.step || invisible || self.fault == Fault::Kill {
            return self.check_as_without(step, command, answer);
        }
        if matches!(command, Command::Open { .. }) && step > self.point.step {
            self.poisoned_since = None;
        }
        if step == self.point.step && table::poisons(self.point, self.fault, command) {
            self.poisoned_since = Some(step);
        }
        if let Outcome::Failed(failure) = &answer.outcome {
            self.check_failure(step, command, failure)?;
        } else if self.must_fail(step, command) {
            return Err(format!("is {:?}, after a failure that poisons", answer.outcome));
        }
        match (answer.state, self.poisoned_since) {
            (Some(state), Some(since)) => self.check_durable(since, state, record),
            _ => Ok(()),
        }
    }

    /// The fault is not there yet, or not to be seen.
    fn check_as_without(&self, step: usize, command: &Command, answer: &Answer) -> Verdict {
        let expected = self.base.told.get(step).filter(|told| told.command == *command);
        if expected.and_then(|told| told.answer.as_ref()).is_some_and(|expected| is_same(expected, answer)) {
            return Ok(());
        }
        Err(format!("answers {answer:?}, and without the fault {expected:?}"))
    }

    fn check_failure(&self, step: usize, command: &Command, failure: &Failure) -> Verdict {
        let Fault::Error(error) = self.fault else { return Ok(()) };
        let is_poisoned = self.poisoned_since.is_some();
        let is_first = step == self.point.step;
        let allowed = match &failure.kind {
            // What poisons is no want of space that goes away.
            Kind::NoSpace => is_first && error == "ENOSPC" && !is_poisoned,
            Kind::Io { code, .. } => is_first && *code == table::code(error),
            // Whose own sync it was gets the error.
            Kind::Poisoned => is_poisoned && (!is_first || self.point.role != Role::Main),
            Kind::NotOpen => matches!(command, Command::ReadPinned | Command::ReadHeldView),
            // To wait for an entry that was not appended: its append found the log poisoned.
            Kind::Other => is_poisoned && matches!(command, Command::Wait(_)),
        };
        if allowed {
            return Ok(());
        }
        Err(format!("{failure:?}"))
    }

    /// Whether nothing but an error will do.
    fn must_fail(&self, step: usize, command: &Command) -> bool {
        let writes = match command {
            Command::Append { .. }
            | Command::Batch { .. }
            | Command::Fill { .. }
            | Command::Sync
            | Command::Rotate
            | Command::TruncateBefore(_)
            | Command::TruncateAfter(_)
            | Command::Reset(_)
            | Command::Close
            | Command::CloseAndFreeKeeper => true,
            Command::Open { .. }
            | Command::Wait(_)
            | Command::Read
            | Command::Validate
            | Command::HoldView
            | Command::ReadHeldView
            | Command::Pin(_)
            | Command::ReadPinned
            | Command::HoldKeeper
            | Command::FreeKeeper => false,
        };
        let is_told = self.poisoned_since.is_some_and(|since| step > since || self.point.role == Role::Main);
        writes && is_told
    }

    /// What a failed sync should have covered never becomes durable; nor does anything later.
    fn check_durable(&self, since: usize, state: State, record: &Record) -> Verdict {
        let reference = if table::syncs_entries(self.point) { since.checked_sub(1) } else { Some(since) };
        let before = reference.and_then(|step| record.told[step].answer.as_ref()?.state);
        match before {
            Some(before) if state.durable_seq > before.durable_seq => Err(format!(
                "the durable seq moved from {} to {} after a failed sync",
                before.durable_seq, state.durable_seq
            )),
            _ => Ok(()),
        }
    }
}

/// Whether two answers say the same.
fn is_same(one: &Answer, other: &Answer) -> bool {
    let both_opened = matches!((&one.outcome, &other.outcome), (Outcome::Opened { .. }, Outcome::Opened { .. }));
    one.state == other.state && (both_opened || one.outcome == other.outcome)
}

/// Whether two runs did the same: the same answers, and the same calls of the thread that is traced.
pub fn is_same_run(one: &Record, other: &Record) -> bool {
    let same_answer = |(one, other): (&Told, &Told)| match (&one.answer, &other.answer) {
        (Some(one), Some(other)) => is_same(one, other),
        _ => false,
    };
    let same_length = (one.told.len(), one.calls.len()) == (other.told.len(), other.calls.len());
    same_length
        && one.told.iter().zip(&other.told).all(same_answer)
        && one.calls.iter().zip(&other.calls).all(|(one, other)| one.is_as(other))
}

/// A failed sync, write or read changes what comes after it: it is reported, done again, or what it was for is given up.
fn check_mattered(base: &Record, record: &Record, point: &Point) -> Verdict {
    if table::must_matter(point) && !is_clean_up(base, point) && is_same_run(base, record) {
        return Err("the call failed, and everything went on as if it had not".into());
    }
    Ok(())
}

/// Whether the keeper only makes durable that a dead file is gone: one that is not is unlinked again by the next open.
fn is_clean_up(base: &Record, point: &Point) -> bool {
    let before = base.calls.iter().take_while(|other| !other.is_as(point));
    let changed = before.filter(|other| ["rename", "unlink"].contains(&other.call.name.as_str())).last();
    let is_unlink = changed.is_some_and(|changed| changed.call.name == "unlink");
    point.role != Role::Main && point.call.name == "fsync" && is_unlink
}

/// Opens the log that a run has left, with nothing in the way: it holds what it may, works, and closes with nothing left over.
pub fn check_what_is_left(log: &Path, policy: Policy, segment_size: u64, mut worlds: Worlds) -> Result<Verdict> {
    let open = Command::Open { policy, segment_size };
    let append = Command::Append { how: crate::puppet::How::AsPolicySays, len: 1500 };
    let script = [
        open.clone(),
        Command::Read,
        append.clone(),
        append.clone(),
        append.clone(),
        append,
        Command::Sync,
        Command::Validate,
        Command::Close,
        open,
        Command::Read,
        Command::Close,
    ];
    let mut puppet = Puppet::start(&[], log)?;
    let mut segments = 0;
    for (order, command) in (2_000_000..).zip(&script) {
        let answer = match puppet.tell(order, command)? {
            Ok(answer) => answer,
            Err(end) => return Ok(Err(format!("afterwards, {command}: {end:?}"))),
        };
        let checked = match &answer.outcome {
            Outcome::Failed(failure) => Err(failure.text.clone()),
            Outcome::Entries(runs) => worlds.restrict_to_entries(runs),
            outcome => worlds.apply(order, command, Some(outcome)),
        };
        if let Err(why) = checked {
            return Ok(Err(format!("afterwards, {command}: {why}")));
        }
        segments = answer.state.map_or(segments, |state| state.segments);
    }
    match puppet.end()? {
        End::Ended { status, said } if status.success() && !said.contains("panicked") => {}
        End::Ended { status, said } => {
            return Ok(Err(format!("afterwards, the process ended with {status}: {}", said.trim())));
        }
        End::Hung(why) => return Ok(Err(format!("afterwards, the process hangs: {why}"))),
    }
    let names = |dir: &str| -> Result<Vec<String>> {
        let entries = fs::read_dir(log.join(dir))?;
        Ok(entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()?)
    };
    let (files, metadata) = (names("segments")?, names("metadata")?);
    if files.len() != segments || files.iter().any(|name| !name.starts_with("wal-")) || metadata != ["wal.meta"] {
        return Ok(Err(format!("{segments} segments, but the files are {files:?} and {metadata:?}")));
    }
    Ok(Ok(()))
}
