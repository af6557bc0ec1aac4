//! The oracle: what a crash may leave, judged by what was appended, acked and cut alone.
//!
//! All it knows is a ledger. Calls of several threads overlap, and the moment of the crash is known only to lie between two places
//! of the ledger: what had returned before the first has happened; what is noted after the second has not. Between the two, and for
//! calls that were under way, both is right, but not half of it.

use crate::entry::{CallId, Id};
use crate::ledger::{Call, Outcome, Record};
use anyhow::{bail, ensure, Context, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// How a log was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crash {
    /// The process ended, or closed the log: the page cache is there.
    Kill,
    /// The disk alone is there.
    PowerCut,
}

/// What an open found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub first_seq: u64,
    /// Of the entries from the first seq on.
    pub ids: Vec<Id>,
}

impl Found {
    fn next_seq(&self) -> u64 {
        self.first_seq + self.ids.len() as u64
    }

    fn get(&self, seq: u64) -> Option<Id> {
        self.ids.get(usize::try_from(seq.checked_sub(self.first_seq)?).ok()?).copied()
    }

    fn entries(&self) -> impl Iterator<Item = (u64, Id)> + '_ {
        (self.first_seq..).zip(self.ids.iter().copied())
    }
}

/// One open log, from what it held to its end.
#[derive(Debug, Default)]
struct Life {
    /// The place in the ledger from which on it was open.
    opened: usize,
    first_seq: u64,
    /// Calls of which the end has not been met.
    begun: HashMap<CallId, (usize, Call)>,
    appends: HashMap<CallId, Append>,
    /// What changed which entries live: by one thread, in order.
    upkeep: Vec<Upkeep>,
    claims: Vec<Claim>,
}

/// The call that appended an entry, or a batch.
#[derive(Debug, Clone, Copy)]
struct Append {
    entries: u16,
    start: usize,
    /// Its end, and the seq of its first entry. None: it did not return, or not with Ok.
    end: Option<(usize, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Upkeep {
    call: Call,
    start: usize,
    /// Its end, and the seq that it returned.
    end: Option<(usize, u64)>,
}

/// A call that began at `start`, had returned at `end`, and said that all up to `durable` is.
#[derive(Debug, Clone, Copy)]
struct Claim {
    start: usize,
    end: usize,
    durable: u64,
}

/// A cut or reset that is taken to have happened.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// The last seq that it left.
    last_kept: u64,
    start: usize,
    /// Where it had returned; no place if it had not.
    end: usize,
}

impl Cut {
    /// Whether a call was over when the cut began: what it appended above the cut is gone.
    fn follows(&self, end: Option<usize>) -> bool {
        end.is_some_and(|end| end < self.start)
    }

    /// Whether the cut had returned when a call began: it did not touch what that call appended.
    fn precedes(&self, start: usize) -> bool {
        self.end < start
    }
}

/// A moment of a life at which it may have ended.
#[derive(Debug, Clone)]
struct Moment {
    life: Arc<Life>,
    /// Between these two places of the ledger.
    between: Range<usize>,
}

/// What may be found after a crash.
#[derive(Debug, Clone)]
pub struct Expect {
    /// It ended at one of these.
    moments: Vec<Moment>,
    crash: Crash,
}

impl Expect {
    /// A log that nobody has opened yet.
    pub fn nothing() -> Expect {
        let life = Arc::new(Life { first_seq: 1, ..Life::default() });
        Expect { moments: vec![Moment { life, between: 0..0 }], crash: Crash::Kill }
    }

    /// What may be found if recovering it is ended by `crash`.
    fn interrupted(&self, crash: Crash) -> Expect {
        Expect { moments: self.moments.clone(), crash: self.crash.max(crash) }
    }

    /// # Errors
    /// If what was found is not what may be: why.
    fn check(&self, found: &Found) -> Result<()> {
        let mut verdict = Ok(());
        for moment in &self.moments {
            verdict = moment.check(found, self.crash);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }
}

impl Moment {
    fn check(&self, found: &Found, crash: Crash) -> Result<()> {
        let (done, open) = self.cuts();
        // They follow each other: of those that were under way the first ones have happened.
        let mut refused = Vec::new();
        for happened in 0..=open.len() {
            let cuts: Vec<Cut> = done.iter().chain(&open[..happened]).copied().collect();
            let view = Hypothesis { moment: self, cuts, resets: done.len() + happened };
            match view.check(found, crash) {
                Ok(()) => return Ok(()),
                Err(why) => refused.push(format!("{why:#}")),
            }
        }
        bail!("{}", refused.join("; and if the cuts under way have happened: "))
    }

    /// The cuts that had returned, and those that were under way.
    fn cuts(&self) -> (Vec<Cut>, Vec<Cut>) {
        let cuts = self.begun_upkeep().filter_map(|upkeep| {
            let last_kept = match upkeep.call {
                Call::TruncateAfter { seq } => seq,
                Call::Reset { .. } => 0,
                _ => return None,
            };
            let end = upkeep.end.map_or(usize::MAX, |(end, _)| end);
            Some(Cut { last_kept, start: upkeep.start, end })
        });
        cuts.partition(|cut| cut.end < self.between.start)
    }

    fn begun_upkeep(&self) -> impl Iterator<Item = &Upkeep> {
        self.life.upkeep.iter().filter(|upkeep| upkeep.start < self.between.end)
    }
}

/// A moment, with the cuts that are taken to have happened by then.
struct Hypothesis<'m> {
    moment: &'m Moment,
    cuts: Vec<Cut>,
    /// How many of the cuts and resets, in order, have happened.
    resets: usize,
}

impl Hypothesis<'_> {
    fn check(&self, found: &Found, crash: Crash) -> Result<()> {
        self.check_first(found)?;
        self.check_entries(found)?;
        self.check_batches(found)?;
        self.check_required(found, crash)
    }

    /// The log begins where it was truncated to.
    fn check_first(&self, found: &Found) -> Result<()> {
        let (mut lowest, mut highest) = (self.moment.life.first_seq, self.moment.life.first_seq);
        let mut cuts = 0;
        for upkeep in self.moment.begun_upkeep() {
            match upkeep.call {
                Call::TruncateBefore { seq } => match upkeep.end.filter(|(end, _)| *end < self.moment.between.start) {
                    Some((_, first_seq)) => {
                        ensure!(
                            first_seq <= highest.max(seq),
                            "asked to truncate before seq {seq}, it did before {first_seq}"
                        );
                        (lowest, highest) = (first_seq, first_seq);
                    }
                    None => highest = highest.max(seq),
                },
                Call::TruncateAfter { .. } => cuts += 1,
                Call::Reset { next_seq } => {
                    cuts += 1;
                    if cuts <= self.resets {
                        (lowest, highest) = (next_seq, next_seq);
                    }
                }
                _ => {}
            }
        }
        let first = found.first_seq;
        ensure!((lowest..=highest).contains(&first), "the log begins at seq {first}, not within {lowest}..={highest}");
        Ok(())
    }

    /// Every entry was appended, stands where its append said, was not cut away, and in the order of the calls.
    fn check_entries(&self, found: &Found) -> Result<()> {
        let life = &self.moment.life;
        let mut latest_start = 0;
        for (seq, id) in found.entries() {
            let append = life.appends.get(&id.call).filter(|append| append.start < self.moment.between.end);
            let append =
                append.with_context(|| format!("seq {seq} was not appended, or was dropped earlier: {id:?}"))?;
            ensure!(id.index < append.entries, "seq {seq} is more than was appended: {id:?}");
            if let Some((_, first)) = append.end {
                let appended = first + u64::from(id.index);
                ensure!(seq == appended, "what was appended as seq {appended} is seq {seq}: {id:?}");
            }
            let end = append.end.map(|(end, _)| end);
            let is_cut = self.cuts.iter().any(|cut| seq > cut.last_kept && cut.follows(end));
            ensure!(!is_cut, "seq {seq} was cut away, and is there: {id:?}");
            let in_order = end.is_none_or(|end| end >= latest_start);
            ensure!(in_order, "seq {seq} was appended before an earlier one was begun: {id:?}");
            latest_start = latest_start.max(append.start);
        }
        Ok(())
    }

    /// A batch is there as a whole, or up to a cut.
    fn check_batches(&self, found: &Found) -> Result<()> {
        for (seq, id) in found.entries() {
            let append = &self.moment.life.appends[&id.call];
            let follows = |before: Option<Id>| before == Some(Id { index: id.index.wrapping_sub(1), ..id });
            ensure!(
                id.index == 0 || follows(found.get(seq - 1)),
                "the start of a batch is missing before seq {seq}: {id:?}"
            );
            let goes_on = found.get(seq + 1) == Some(Id { index: id.index + 1, ..id });
            let ends_here = id.index + 1 == append.entries;
            let is_cut = self.cuts.iter().any(|cut| cut.last_kept == seq && !cut.precedes(append.start));
            ensure!(goes_on || ends_here || is_cut, "a batch of {} is torn after seq {seq}: {id:?}", append.entries);
        }
        Ok(())
    }

    /// Everything is there that a crash may not take.
    fn check_required(&self, found: &Found, crash: Crash) -> Result<()> {
        let durable = self.durable_seq();
        let last = found.next_seq() - 1;
        ensure!(last >= durable, "seq {durable} was acked as durable, the log ends with seq {last}");
        for (call, append) in &self.moment.life.appends {
            let Some((end, first)) = append.end.filter(|(end, _)| *end < self.moment.between.start) else {
                continue;
            };
            for index in 0..append.entries {
                let seq = first + u64::from(index);
                let may_be_cut = self.cuts.iter().any(|cut| seq > cut.last_kept && !cut.precedes(append.start));
                let is_kept = crash == Crash::Kill || seq <= durable;
                if may_be_cut || !is_kept || seq < found.first_seq {
                    continue;
                }
                let there = found.get(seq).is_some_and(|id| id.call == *call && id.index == index);
                let why = if seq <= durable { "acked as durable" } else { "appended" };
                ensure!(there, "seq {seq} was {why}, and is not there: {call:?}, returned at {end}");
            }
        }
        Ok(())
    }

    /// The highest seq that was acked as durable, and that no cut since can have given again.
    fn durable_seq(&self) -> u64 {
        let done = self.moment.life.claims.iter().filter(|claim| claim.end < self.moment.between.start);
        let still_said = done.map(|claim| {
            let since = self.cuts.iter().filter(|cut| !cut.precedes(claim.start));
            since.map(|cut| cut.last_kept).fold(claim.durable, u64::min)
        });
        still_said.max().unwrap_or(0)
    }
}

impl Life {
    /// The life that begins at `opened` with `found`, all of which is durable.
    fn new(found: &Found, opened: usize) -> Life {
        let mut life = Life { opened, first_seq: found.first_seq, ..Life::default() };
        for (seq, id) in found.entries() {
            let append = Append { entries: 0, start: opened, end: Some((opened, seq)) };
            life.appends.entry(id.call).or_insert(append).entries += 1;
        }
        life.claims.push(Claim { start: opened, end: opened, durable: found.next_seq() - 1 });
        life
    }

    fn begin(&mut self, at: usize, id: CallId, call: Call) -> Result<()> {
        let is_new = self.begun.insert(id, (at, call)).is_none() && !self.appends.contains_key(&id);
        ensure!(is_new, "the ledger has {id:?} twice");
        match call {
            Call::Append { entries } => drop(self.appends.insert(id, Append { entries, start: at, end: None })),
            Call::TruncateBefore { .. } | Call::TruncateAfter { .. } | Call::Reset { .. } => {
                self.upkeep.push(Upkeep { call, start: at, end: None });
            }
            Call::Sync | Call::Rotate | Call::Close => {}
        }
        Ok(())
    }

    fn end(&mut self, at: usize, id: CallId, outcome: Outcome) -> Result<()> {
        let (start, _) = self.begun.remove(&id).with_context(|| format!("{id:?} ended before it began"))?;
        let end = Some((at, outcome.seq));
        if let Some(append) = self.appends.get_mut(&id) {
            append.end = end;
        }
        if let Some(upkeep) = self.upkeep.iter_mut().find(|upkeep| upkeep.start == start) {
            upkeep.end = end;
        }
        self.claims.push(Claim { start, end: at, durable: outcome.durable });
        Ok(())
    }
}

/// What a ledger tells: the lives of a log, one after the other, in one page cache.
#[derive(Debug)]
pub struct Story {
    /// What the first open may find.
    prior: Expect,
    lives: Vec<Arc<Life>>,
    len: usize,
}

impl Story {
    /// Reads the ledger of the log `run`, and judges what each open found.
    ///
    /// # Errors
    /// If an open found what it may not.
    pub fn read(records: &[Record], prior: Expect, run: u32) -> Result<Story> {
        let mut story = Story { prior, lives: Vec::new(), len: records.len() };
        let mut found = Vec::new();
        let mut open: Option<Life> = None;
        for (at, record) in records.iter().enumerate() {
            match *record {
                Record::Opening { .. } => {
                    story.lives.extend(open.take().map(Arc::new));
                    found.clear();
                }
                Record::Found { seq, id } => {
                    ensure!(id.run == run, "seq {seq} is an entry of another log: {id:?}");
                    found.push((seq, id));
                }
                Record::Opened { life, first_seq, next_seq } => {
                    let contiguous = found.iter().map(|(seq, _)| *seq).eq(first_seq..next_seq);
                    ensure!(contiguous, "a log of [{first_seq}, {next_seq}) gives other entries: {found:?}");
                    let found = Found { first_seq, ids: found.drain(..).map(|(_, id)| id).collect() };
                    let judged = story.expect(at..at, Crash::Kill).check(&found);
                    judged.with_context(|| format!("open {life} of log {run}"))?;
                    open = Some(Life::new(&found, at));
                }
                Record::About { id, call } => open.as_mut().context("a call on no log")?.begin(at, id, call)?,
                Record::Did { id, outcome } => open.as_mut().context("a call on no log")?.end(at, id, outcome)?,
                Record::Refused { .. } => {}
            }
        }
        story.lives.extend(open.map(Arc::new));
        Ok(story)
    }

    /// What may be found after a crash between two places of the ledger.
    pub fn expect(&self, between: Range<usize>, crash: Crash) -> Expect {
        let mut expect = Expect { moments: Vec::new(), crash };
        if self.lives.first().is_none_or(|life| between.start <= life.opened) {
            expect = self.prior.interrupted(crash);
        }
        for (index, life) in self.lives.iter().enumerate() {
            // A life's state is what is there until the next one is open.
            let end = self.lives.get(index + 1).map_or(usize::MAX, |next| next.opened);
            if between.start <= end && between.end > life.opened {
                let start = between.start.max(life.opened + 1);
                expect.moments.push(Moment { life: Arc::clone(life), between: start..between.end.min(end).max(start) });
            }
        }
        expect
    }

    /// What may be found when the writer is gone.
    pub fn end(&self, crash: Crash) -> Expect {
        self.expect(self.len..self.len, crash)
    }

    /// Whether an open succeeded.
    pub fn was_opened(&self) -> bool {
        !self.lives.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPEND: Call = Call::Append { entries: 1 };

    fn call(thread: u16, number: u32) -> CallId {
        CallId { life: 1, thread, number }
    }

    fn id(thread: u16, number: u32, index: u16) -> Id {
        Id { run: 1, call: call(thread, number), index }
    }

    fn about(thread: u16, number: u32, call_: Call) -> Record {
        Record::About { id: call(thread, number), call: call_ }
    }

    fn did(thread: u16, number: u32, seq: u64, durable: u64) -> Record {
        Record::Did { id: call(thread, number), outcome: Outcome { seq, durable } }
    }

    /// What the oracle says to a log of [first, ...) that was found after `records` and the crash.
    fn judge(records: &[Record], crash: Crash, first_seq: u64, ids: &[Id]) -> Result<()> {
        let opened = [Record::Opening { life: 1 }, Record::Opened { life: 1, first_seq: 1, next_seq: 1 }];
        let records: Vec<_> = opened.iter().chain(records).copied().collect();
        let story = Story::read(&records, Expect::nothing(), 1).unwrap();
        story.end(crash).check(&Found { first_seq, ids: ids.to_vec() })
    }

    fn says(judged: Result<()>, what: &str) {
        let said = format!("{:#}", judged.expect_err(what));
        assert!(said.contains(what), "{said}");
    }

    /// Two entries that are durable, one that is not, one whose append has not returned.
    fn four() -> Vec<Record> {
        vec![
            about(1, 1, APPEND),
            did(1, 1, 1, 0),
            about(2, 1, APPEND),
            did(2, 1, 2, 2),
            about(1, 2, APPEND),
            did(1, 2, 3, 2),
            about(2, 2, APPEND),
        ]
    }

    #[test]
    fn what_was_acked_is_there_and_after_a_kill_what_was_appended() {
        let ids = [id(1, 1, 0), id(2, 1, 0), id(1, 2, 0), id(2, 2, 0)];
        for kept in 0..=4 {
            let power_cut = judge(&four(), Crash::PowerCut, 1, &ids[..kept]);
            let kill = judge(&four(), Crash::Kill, 1, &ids[..kept]);
            assert_eq!(power_cut.is_ok(), kept >= 2, "{power_cut:?}");
            assert_eq!(kill.is_ok(), kept >= 3, "{kill:?}");
        }
        says(judge(&four(), Crash::PowerCut, 1, &ids[..1]), "acked as durable");
        says(judge(&four(), Crash::Kill, 1, &ids[..2]), "seq 3 was appended, and is not there");
    }

    #[test]
    fn nothing_else_is_there() {
        let (first, second) = (id(1, 1, 0), id(2, 1, 0));
        says(judge(&four(), Crash::PowerCut, 1, &[first, second, id(3, 1, 0)]), "was not appended");
        says(judge(&four(), Crash::PowerCut, 1, &[first, second, id(2, 1, 1)]), "more than was appended");
        says(judge(&four(), Crash::PowerCut, 1, &[second, first]), "what was appended as seq");
        says(judge(&four(), Crash::PowerCut, 2, &[second]), "begins at seq 2");
        let moment = Story::read(&[], Expect::nothing(), 1).unwrap().end(Crash::PowerCut);
        says(moment.check(&Found { first_seq: 1, ids: vec![first] }), "was not appended");
    }

    #[test]
    fn what_began_after_the_crash_is_not_there() {
        let opened = [Record::Opening { life: 1 }, Record::Opened { life: 1, first_seq: 1, next_seq: 1 }];
        let records: Vec<_> = opened.iter().chain(&four()).copied().collect();
        let story = Story::read(&records, Expect::nothing(), 1).unwrap();
        let both = Found { first_seq: 1, ids: vec![id(1, 1, 0), id(2, 1, 0)] };
        story.expect(4..5, Crash::PowerCut).check(&both).unwrap();
        says(story.expect(3..4, Crash::PowerCut).check(&both), "was not appended");
        // Before the open had returned, the log may be as it was.
        let nothing = Found { first_seq: 1, ids: vec![] };
        story.expect(1..3, Crash::PowerCut).check(&nothing).unwrap();
        says(story.expect(7..8, Crash::PowerCut).check(&nothing), "acked as durable");
    }

    #[test]
    fn a_cut_took_all_or_nothing_and_what_it_took_stays_away() {
        let cut = Call::TruncateAfter { seq: 1 };
        let [first, second, third] = [id(1, 1, 0), id(2, 1, 0), id(1, 2, 0)];
        let under_way = [&four()[..], &[about(0, 1, cut)]].concat();
        judge(&under_way, Crash::PowerCut, 1, &[first]).unwrap();
        judge(&under_way, Crash::PowerCut, 1, &[first, second, third]).unwrap();
        says(judge(&under_way, Crash::Kill, 1, &[first, second]), "seq 2 was cut away");
        let returned = [&under_way[..], &[did(0, 1, 0, 1)]].concat();
        judge(&returned, Crash::Kill, 1, &[first]).unwrap();
        says(judge(&returned, Crash::PowerCut, 1, &[first, second]), "was cut away");
        // The append that had not returned may have come after the cut.
        judge(&returned, Crash::Kill, 1, &[first, id(2, 2, 0)]).unwrap();
        // A new entry has the seq; an ack of the old one is none of it.
        let anew = [&returned[..], &[about(1, 3, APPEND), did(1, 3, 2, 0)]].concat();
        judge(&anew, Crash::PowerCut, 1, &[first]).unwrap();
        says(judge(&anew, Crash::Kill, 1, &[first]), "seq 2 was appended");
        let acked = [&anew[..], &[about(1, 4, Call::Sync), did(1, 4, 0, 2)]].concat();
        says(judge(&acked, Crash::PowerCut, 1, &[first]), "seq 2 was acked");
    }

    #[test]
    fn a_reset_leaves_nothing_and_truncation_before_no_less() {
        let reset = [&four()[..6], &[about(0, 1, Call::Reset { next_seq: 2 })]].concat();
        judge(&reset, Crash::PowerCut, 2, &[]).unwrap();
        says(judge(&reset, Crash::PowerCut, 1, &[]), "begins at seq 1");
        judge(&reset, Crash::PowerCut, 1, &[id(1, 1, 0), id(2, 1, 0)]).unwrap();
        let returned = [&reset[..], &[did(0, 1, 0, 1)]].concat();
        says(judge(&returned, Crash::PowerCut, 2, &[id(2, 1, 0)]), "was cut away");
        let before = [&four()[..6], &[about(0, 1, Call::TruncateBefore { seq: 2 })]].concat();
        judge(&before, Crash::PowerCut, 2, &[id(2, 1, 0)]).unwrap();
        judge(&before, Crash::PowerCut, 1, &[id(1, 1, 0), id(2, 1, 0)]).unwrap();
        says(judge(&before, Crash::PowerCut, 3, &[id(1, 2, 0)]), "begins at seq 3");
        let returned = [&before[..], &[did(0, 1, 2, 0)]].concat();
        says(judge(&returned, Crash::PowerCut, 1, &[id(1, 1, 0), id(2, 1, 0)]), "begins at seq 1");
        let too_much = [&before[..], &[did(0, 1, 3, 0)]].concat();
        says(judge(&too_much, Crash::PowerCut, 3, &[id(1, 2, 0)]), "asked to truncate before seq 2");
    }

    #[test]
    fn a_batch_is_whole_or_ends_with_a_cut() {
        let batch = [about(1, 1, Call::Append { entries: 3 })];
        let ids = [id(1, 1, 0), id(1, 1, 1), id(1, 1, 2)];
        judge(&batch, Crash::PowerCut, 1, &[]).unwrap();
        judge(&batch, Crash::PowerCut, 1, &ids).unwrap();
        says(judge(&batch, Crash::PowerCut, 1, &ids[..2]), "is torn after seq 2");
        says(judge(&batch, Crash::PowerCut, 1, &ids[1..]), "the start of a batch is missing");
        let cut =
            [about(1, 1, Call::Append { entries: 3 }), did(1, 1, 1, 3), about(0, 1, Call::TruncateAfter { seq: 2 })];
        judge(&cut, Crash::PowerCut, 1, &ids[..2]).unwrap();
        judge(&cut, Crash::PowerCut, 1, &ids).unwrap();
        says(judge(&cut, Crash::PowerCut, 1, &ids[..1]), "is torn after seq 1");
    }

    #[test]
    fn what_returned_first_stands_first() {
        let records = [about(1, 1, APPEND), about(2, 1, APPEND), did(2, 1, 1, 0), about(3, 1, APPEND)];
        judge(&records, Crash::Kill, 1, &[id(2, 1, 0), id(1, 1, 0), id(3, 1, 0)]).unwrap();
        says(judge(&records, Crash::Kill, 1, &[id(3, 1, 0), id(2, 1, 0)]), "what was appended as seq 1");
        let unknown = [about(1, 1, APPEND), did(1, 1, 2, 0), about(2, 1, APPEND)];
        says(judge(&unknown, Crash::Kill, 1, &[id(2, 1, 0), id(1, 1, 0)]), "before an earlier one was begun");
    }
}
