//! What a log may hold, judged by what it was told and what it answered, and by nothing else.
//!
//! A call that succeeded leaves one possibility. A call that failed, or during which the process was killed, can leave two: the log
//! before it and the log after it. So the oracle is a set of *worlds*, each a log as it may be; every answer takes those away that
//! it contradicts, and none left is a violation.

use crate::puppet::{Command, Kind, Outcome, Run, State};
use std::collections::BTreeSet;

/// A log: its first seq, and which order appended each entry from there on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    first_seq: u64,
    orders: Vec<u32>,
}

#[derive(Debug, Clone)]
pub struct Worlds(BTreeSet<World>);

impl Worlds {
    /// Of a log that was just created.
    pub fn new() -> Worlds {
        Worlds(BTreeSet::from([World { first_seq: 1, orders: Vec::new() }]))
    }

    /// The order with the number `order` was to do `command`; `outcome` is None if the process ended before it answered.
    pub fn apply(&mut self, order: u32, command: &Command, outcome: Option<&Outcome>) -> Result<(), String> {
        let before = std::mem::take(&mut self.0);
        self.0 = before.iter().flat_map(|world| world.after(order, command, outcome)).collect();
        self.check(|| format!("the answer to {command} contradicts what was appended: {outcome:?}, {before:?}"))
    }

    /// The log says how far it goes, and is not poisoned: what a call that failed has left is known.
    pub fn restrict_to(&mut self, state: &State) -> Result<(), String> {
        let before = self.0.clone();
        self.0.retain(|world| (world.first_seq, world.next_seq()) == (state.first_seq, state.next_seq));
        self.check(|| format!("the log says {state:?}, possible is {before:?}"))
    }

    /// The log was read: it holds these entries. Says so if it cannot, and takes the other worlds away.
    pub fn restrict_to_entries(&mut self, runs: &[Run]) -> Result<(), String> {
        let before = self.0.clone();
        self.0.retain(|world| world.holds(runs));
        self.check(|| format!("the log holds {runs:?}, possible is {before:?}"))
    }

    /// Whether the log may hold these entries, and no others.
    pub fn may_hold(&self, runs: &[Run]) -> bool {
        self.0.iter().any(|world| world.holds(runs))
    }

    fn check(&self, why: impl FnOnce() -> String) -> Result<(), String> {
        if self.0.is_empty() {
            return Err(why());
        }
        Ok(())
    }
}

impl World {
    fn next_seq(&self) -> u64 {
        self.first_seq + self.orders.len() as u64
    }

    fn holds(&self, runs: &[Run]) -> bool {
        let mut left = self.orders.as_slice();
        let mut seq = self.first_seq;
        for run in runs {
            let count = run.count as usize;
            let agrees = run.first_seq == seq
                && left.len() >= count
                && left[..count].iter().all(|order| run.order == Some(*order));
            if !agrees {
                return false;
            }
            (left, seq) = (&left[count..], seq + run.count);
        }
        left.is_empty()
    }

    /// The worlds that the command can have made of this one.
    fn after(&self, order: u32, command: &Command, outcome: Option<&Outcome>) -> Vec<World> {
        let appended = |count: usize| {
            let mut world = self.clone();
            world.orders.extend(std::iter::repeat_n(order, count));
            world
        };
        match (command, outcome) {
            (Command::Fill { .. }, Some(Outcome::Filled { first_seq, count, failure })) => {
                let given = appended(*count as usize);
                let one_more = failure.as_ref().is_some_and(|failure| may_be_there(&failure.kind));
                match (*first_seq == self.next_seq(), one_more) {
                    (false, _) => Vec::new(),
                    (true, false) => vec![given],
                    (true, true) => vec![given, appended(*count as usize + 1)],
                }
            }
            (Command::Append { .. }, _) => self.append(appended(1), outcome),
            (Command::Batch { lens }, _) => self.append(appended(lens.len()), outcome),
            (Command::TruncateBefore(seq), Some(Outcome::Seq(first_seq))) => {
                let is_asked = *first_seq <= self.first_seq.max(*seq);
                self.without_before(*first_seq).filter(|_| is_asked).into_iter().collect()
            }
            (Command::TruncateBefore(seq), _) => {
                (self.first_seq..=*seq).filter_map(|first_seq| self.without_before(first_seq)).collect()
            }
            (Command::TruncateAfter(seq), _) => {
                let mut world = self.clone();
                world.orders.truncate((seq + 1).saturating_sub(self.first_seq) as usize);
                self.done_or_not(world, outcome)
            }
            (Command::Reset(seq), _) => self.done_or_not(World { first_seq: *seq, orders: Vec::new() }, outcome),
            _ => vec![self.clone()],
        }
    }

    fn append(&self, after: World, outcome: Option<&Outcome>) -> Vec<World> {
        match outcome {
            Some(Outcome::Seq(seq)) if *seq == self.next_seq() => vec![after],
            Some(Outcome::Failed(failure)) if !may_be_there(&failure.kind) => vec![self.clone()],
            Some(Outcome::Failed(_)) | None => vec![self.clone(), after],
            Some(_) => Vec::new(),
        }
    }

    fn done_or_not(&self, after: World, outcome: Option<&Outcome>) -> Vec<World> {
        match outcome {
            Some(Outcome::Done) => vec![after],
            _ => vec![self.clone(), after],
        }
    }

    fn without_before(&self, first_seq: u64) -> Option<World> {
        let gone = first_seq.checked_sub(self.first_seq)? as usize;
        Some(World { first_seq, orders: self.orders.get(gone..)?.to_vec() })
    }
}

/// Whether an entry can be there although its append failed with this error: its sync failed, or somebody else's.
fn may_be_there(kind: &Kind) -> bool {
    match kind {
        Kind::Poisoned => true,
        Kind::Io { op, .. } => op == "sync",
        Kind::NoSpace | Kind::NotOpen | Kind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::puppet::{Failure, How};

    fn append() -> Command {
        Command::Append { how: How::AsPolicySays, len: 100 }
    }

    fn failed(kind: Kind) -> Outcome {
        Outcome::Failed(Failure { kind, text: String::new() })
    }

    fn run(first_seq: u64, count: u64, order: u32) -> Run {
        Run { first_seq, count, order: Some(order) }
    }

    fn state(first_seq: u64, next_seq: u64) -> State {
        State { first_seq, next_seq, durable_seq: 0, segments: 1, allocated: 0 }
    }

    #[test]
    fn an_append_that_was_cut_short_may_be_there_and_one_that_was_refused_is_not() {
        let mut worlds = Worlds::new();
        worlds.apply(1, &append(), Some(&Outcome::Seq(1))).unwrap();
        worlds.apply(2, &append(), Some(&failed(Kind::NoSpace))).unwrap();
        assert!(worlds.may_hold(&[run(1, 1, 1)]) && !worlds.may_hold(&[run(1, 1, 1), run(2, 1, 2)]));
        worlds.apply(3, &append(), None).unwrap();
        assert!(worlds.may_hold(&[run(1, 1, 1)]) && worlds.may_hold(&[run(1, 1, 1), run(2, 1, 3)]));
        assert!(!worlds.may_hold(&[]) && !worlds.may_hold(&[run(1, 1, 1), run(2, 1, 2)]));
        worlds.restrict_to(&state(1, 3)).unwrap();
        assert!(!worlds.may_hold(&[run(1, 1, 1)]));
        assert!(worlds.restrict_to(&state(1, 4)).is_err());
    }

    #[test]
    fn a_batch_is_there_as_a_whole_or_not_at_all() {
        let mut worlds = Worlds::new();
        worlds.apply(1, &Command::Batch { lens: vec![9, 9] }, None).unwrap();
        assert!(worlds.may_hold(&[]) && worlds.may_hold(&[run(1, 2, 1)]) && !worlds.may_hold(&[run(1, 1, 1)]));
    }

    #[test]
    fn what_was_dropped_does_not_come_back_and_what_was_kept_stays() {
        let mut worlds = Worlds::new();
        for order in 1..=6 {
            worlds.apply(order, &append(), Some(&Outcome::Seq(u64::from(order)))).unwrap();
        }
        worlds.apply(7, &Command::TruncateAfter(4), Some(&Outcome::Done)).unwrap();
        worlds.apply(8, &append(), Some(&Outcome::Seq(5))).unwrap();
        assert!(worlds.clone().apply(9, &Command::TruncateBefore(3), Some(&Outcome::Seq(4))).is_err());
        worlds.apply(9, &Command::TruncateBefore(3), Some(&Outcome::Seq(2))).unwrap();
        let held = [run(2, 1, 2), run(3, 1, 3), run(4, 1, 4), run(5, 1, 8)];
        assert!(worlds.may_hold(&held));
        assert!(!worlds.may_hold(&[run(2, 1, 2), run(3, 1, 3), run(4, 1, 4), run(5, 1, 5)]));
        worlds.apply(10, &Command::TruncateBefore(4), None).unwrap();
        assert!(worlds.may_hold(&held) && worlds.may_hold(&held[1..]) && worlds.may_hold(&held[2..]));
        assert!(!worlds.may_hold(&held[3..]), "more than was asked for");
        worlds.apply(11, &Command::Reset(100), None).unwrap();
        assert!(worlds.may_hold(&held) && worlds.may_hold(&[]));
        assert!(worlds.apply(12, &append(), Some(&Outcome::Seq(99))).is_err());
    }
}
