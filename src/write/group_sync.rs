//! Group commit: one thread leads a sync, whoever arrives meanwhile waits, and the next leader covers them all.
//!
//! This file holds who waits for what and how each wait ends; the sync itself is the leader's business. Every wait ends in one of
//! four ways: the entry is durable; a cut or reset took it away (`Truncated`); a sync failed (`Poisoned`); the log was closed.
//!
//! A claim is a seq and the epoch in which it was given. A cut raises the epoch, and from then on the same seq can be given again:
//! a claim from before is judged by the lowest cut since, and a sync that began before moves nothing.

use super::broadcast::Broadcast;
use super::reentry::{self, Place};
use crate::error::{Error, Result};
use crate::format::manifest::Mark;
use crate::sys::cache_line::CacheLine;
use crate::sys::sync::{AtomicU32, AtomicU64, Condvar, Instant, Mutex, MutexGuard, Ordering};
use std::collections::BTreeMap;

/// What is called when an entry is durable, or never will be.
pub(crate) type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// Who waits for durability.
#[derive(Debug)]
pub(crate) struct GroupSync {
    state: Mutex<State>,
    /// A sync ended, a cut was made or the log ended. Raised after the state was changed.
    changed: Broadcast,
    /// Signalled when a permit is given back.
    freed: Condvar,
    shown: CacheLine<Shown>,
    writers_max: u32,
    /// The log's number, for its callbacks.
    log: usize,
}

/// What is seen without the state's lock: stored under it with Release, and read with Acquire.
#[derive(Debug)]
struct Shown {
    /// Copy of `State::durable_seq`, stored after the sync.
    durable_seq: AtomicU64,
    /// Copy of `State::epoch`. A cut stores it before the durable seq that belongs to it.
    epoch: AtomicU64,
    /// Threads that wait for the sync in flight, or for the next one.
    waiting: AtomicU32,
    /// As many waited for the last sync that a leader made, itself included.
    last_group: AtomicU32,
}

struct State {
    /// Somebody leads a sync.
    leading: bool,
    epoch: u64,
    durable_seq: u64,
    /// Where `durable_seq` ends. None: nothing of the live log is durable.
    mark: Option<Mark>,
    /// The cuts that somebody's claim may still be judged by, in order; of two, the later one is higher, for a lower one judges
    /// all that the earlier one did.
    cuts: Vec<CutMade>,
    /// The durable seq of a cut that the disk does not know of yet: until then it may be undone by a crash, and nobody who waits is
    /// told anything that it would make untrue.
    cutting: Option<u64>,
    /// How many claims, waiting or about to be made, began in which epoch.
    claims: BTreeMap<u64, u32>,
    writers: u32,
    callbacks: BTreeMap<u64, Vec<Callback>>,
    ended: Option<Ended>,
    syncs: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("epoch", &self.epoch)
            .field("durable_seq", &self.durable_seq)
            .finish_non_exhaustive()
    }
}

/// A cut, as claims from before see it.
#[derive(Debug, Clone, Copy)]
struct CutMade {
    /// The epoch that it began.
    epoch: u64,
    /// Claims above this seq are gone.
    last_kept: u64,
    /// Where the log goes on.
    resume: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Poisoned,
    Closed,
}

impl Ended {
    fn error(self) -> Error {
        match self {
            Ended::Poisoned => Error::Poisoned,
            Ended::Closed => Error::Closed,
        }
    }
}

/// A seq in the epoch in which it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
}

/// Keeps the cuts that claims of one epoch, or a later one, are judged by.
#[derive(Debug)]
pub(crate) struct Registration<'g> {
    group: &'g GroupSync,
    epoch: u64,
    counts_as_writer: bool,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        state.unregister(self.epoch);
        if self.counts_as_writer {
            state.writers -= 1;
            self.group.freed.notify_one();
        }
    }
}

/// What a leader found.
pub(crate) enum Step<'g> {
    /// The wait is over.
    Done(Result<()>),
    /// The caller leads: it syncs, and hands the leadership to [`GroupSync::advance`] or [`GroupSync::fail`].
    Lead(Leadership<'g>),
}

/// The right to sync, held by one thread at a time.
pub(crate) struct Leadership<'g> {
    group: &'g GroupSync,
}

impl Leadership<'_> {
    /// Gives it up in one go with what the sync changed: no other leader starts before it sees that.
    fn give_up_locked(self, state: &mut State) {
        state.leading = false;
        std::mem::forget(self);
    }
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        state.leading = false;
        self.group.wake(state);
    }
}

impl GroupSync {
    /// A group for a log that is durable up to `durable_seq`, which ends at `mark`.
    pub(crate) fn new(log: usize, durable_seq: u64, mark: Option<Mark>, writers_max: u32) -> GroupSync {
        GroupSync {
            state: Mutex::new(State {
                leading: false,
                epoch: 0,
                durable_seq,
                mark,
                cuts: Vec::new(),
                cutting: None,
                claims: BTreeMap::new(),
                writers: 0,
                callbacks: BTreeMap::new(),
                ended: None,
                syncs: 0,
            }),
            changed: Broadcast::default(),
            freed: Condvar::new(),
            shown: CacheLine(Shown {
                durable_seq: AtomicU64::new(durable_seq),
                epoch: AtomicU64::new(0),
                waiting: AtomicU32::new(0),
                last_group: AtomicU32::new(0),
            }),
            writers_max,
            log,
        }
    }

    #[inline]
    pub(crate) fn durable_seq(&self) -> u64 {
        self.shown.durable_seq.load(Ordering::Acquire) // with the Release in set_durable_locked
    }

    /// The durable seq, if this is still the epoch.
    pub(crate) fn durable_seq_in(&self, epoch: u64) -> Option<u64> {
        let state = self.state.lock();
        (state.epoch == epoch).then_some(state.durable_seq)
    }

    pub(crate) fn mark(&self) -> Option<Mark> {
        self.state.lock().mark
    }

    /// Syncs that returned Ok.
    pub(crate) fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Waits until fewer than the allowed number of callers wait for durability, and counts as one of them until it is dropped.
    pub(crate) fn writer(&self) -> Result<Registration<'_>> {
        let mut state = self.state.lock();
        self.wait_for_permit(&mut state);
        if let Some(ended) = state.ended {
            return Err(ended.error());
        }
        state.writers += 1;
        Ok(self.register_locked(&mut state, true))
    }

    /// Waits until a permit is free, or the log has ended.
    fn wait_for_permit(&self, state: &mut MutexGuard<'_, State>) {
        while state.writers >= self.writers_max && state.ended.is_none() {
            self.freed.wait(state);
        }
    }

    /// As [`writer`](Self::writer), for a caller whose claim is registered already, and is judged even if the log has ended.
    pub(crate) fn admit<'g>(&self, mut registration: Registration<'g>) -> Registration<'g> {
        let mut state = self.state.lock();
        self.wait_for_permit(&mut state);
        state.writers += 1;
        registration.counts_as_writer = true;
        registration
    }

    /// Has claims of the present epoch judged rightly until it is dropped.
    pub(crate) fn register(&self) -> Registration<'_> {
        self.register_locked(&mut self.state.lock(), false)
    }

    fn register_locked(&self, state: &mut State, counts_as_writer: bool) -> Registration<'_> {
        Registration { group: self, epoch: state.register(), counts_as_writer }
    }

    /// As [`register`](Self::register), for those who cannot hold a borrow: to be paired with [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> u64 {
        self.state.lock().register()
    }

    pub(crate) fn leave(&self, epoch: u64) {
        self.state.lock().unregister(epoch);
    }

    /// Whether the claim is durable, if that can be told without the lock.
    #[inline]
    fn is_durable(&self, claim: Claim) -> bool {
        // In this order: a durable seq that a cut has set is seen with the epoch that the cut began.
        claim.seq <= self.durable_seq() && claim.epoch == self.shown.epoch.load(Ordering::Acquire)
    }

    /// Waits until the claim is settled, or until there is a sync to lead.
    pub(crate) fn wait(&self, claim: Claim) -> Step<'_> {
        loop {
            let changes = self.changed.count();
            if self.is_durable(claim) {
                return Step::Done(Ok(()));
            }
            {
                let mut state = self.state.lock();
                match state.judge(claim) {
                    Some(Err(_)) | None if state.cutting.is_some() => {}
                    Some(result) => return Step::Done(result),
                    None => {}
                }
                if !state.leading && state.cutting.is_none() {
                    state.leading = true;
                    return Step::Lead(Leadership { group: self });
                }
                self.shown.waiting.fetch_add(1, Ordering::Release); // with the Acquire in gathered()
            }
            self.changed.wait(changes);
        }
    }

    /// Waits until `seq` is durable, something was cut or the log ended; false if the deadline passed.
    pub(crate) fn wait_durable_until(&self, seq: u64, epoch: u64, deadline: Instant) -> bool {
        let changes = self.changed.count();
        {
            let state = self.state.lock();
            if state.durable_seq >= seq || state.epoch != epoch || state.ended.is_some() {
                return true;
            }
        }
        self.changed.wait_until(changes, deadline)
    }

    /// How a claim stands now, if it is settled.
    #[cfg(test)]
    fn judge(&self, claim: Claim) -> Option<Result<()>> {
        self.state.lock().judge(claim)
    }

    /// The error of a claim that a cut took, if one did.
    pub(crate) fn check_cuts(&self, claim: Claim) -> Result<()> {
        self.state.lock().check_cuts(claim)
    }

    /// A sync that covers the log up to `mark` returned Ok; it began in `epoch`. Returns whether the durable seq moved.
    pub(crate) fn advance(&self, epoch: u64, mark: Mark, leadership: Option<Leadership<'_>>) -> bool {
        let mut state = self.state.lock();
        state.syncs += 1;
        if let Some(leadership) = leadership {
            leadership.give_up_locked(&mut state);
            self.shown.last_group.store(self.gathered(), Ordering::Release); // with the Acquire in last_group()
        }
        if state.epoch != epoch || mark.seq <= state.durable_seq {
            self.wake(state);
            return false;
        }
        state.mark = Some(mark);
        self.set_durable_locked(&mut state, mark.seq);
        let due = state.take_callbacks(..=mark.seq);
        self.settle(state, due, || Ok(()));
        true
    }

    /// How many threads the last leader synced for, itself included.
    pub(crate) fn last_group(&self) -> u32 {
        self.shown.last_group.load(Ordering::Acquire)
    }

    /// How many threads wait, the caller included, which leads.
    pub(crate) fn gathered(&self) -> u32 {
        self.shown.waiting.load(Ordering::Acquire) + 1
    }

    /// Wakes all who wait, to look again.
    fn wake(&self, state: MutexGuard<'_, State>) {
        self.shown.waiting.store(0, Ordering::Release);
        drop(state);
        self.changed.raise();
    }

    /// What a salvaging open found was made durable in `epoch`: all up to `seq`, which ends at `mark`.
    pub(crate) fn adopted(&self, epoch: u64, seq: u64, mark: Option<Mark>) {
        let mut state = self.state.lock();
        if state.epoch == epoch && seq > state.durable_seq {
            state.mark = mark;
            self.set_durable_locked(&mut state, seq);
            let due = state.take_callbacks(..=seq);
            self.settle(state, due, || Ok(()));
        }
    }

    /// A sync failed: nothing that is not durable yet ever will be.
    pub(crate) fn fail(&self, leadership: Option<Leadership<'_>>) {
        self.end(Ended::Poisoned, leadership);
    }

    /// The log was closed: what is not settled by now never will be.
    pub(crate) fn close(&self) {
        self.end(Ended::Closed, None);
    }

    fn end(&self, ended: Ended, leadership: Option<Leadership<'_>>) {
        let mut state = self.state.lock();
        if let Some(leadership) = leadership {
            leadership.give_up_locked(&mut state);
        }
        state.ended.get_or_insert(ended);
        let due = state.take_callbacks(..);
        self.freed.notify_all();
        self.settle(state, due, || Err(ended.error()));
    }

    /// Entries above `last_kept` are gone; the log goes on at `resume`, and is durable up to `resume - 1`, which ends at `mark`, once
    /// the disk knows of the cut: [`end_cut`](Self::end_cut). Begins `epoch`. Returns the callbacks to settle then.
    pub(crate) fn cut(&self, epoch: u64, last_kept: u64, resume: u64, mark: Option<Mark>) -> CutCallbacks {
        let mut state = self.state.lock();
        state.epoch = epoch;
        self.shown.epoch.store(epoch, Ordering::Release); // with the Acquire in is_durable()
        if !state.claims.is_empty() {
            state.cuts.retain(|cut| cut.last_kept < last_kept);
            state.cuts.push(CutMade { epoch, last_kept, resume });
        }
        state.mark = mark;
        let durable_seq = state.durable_seq.min(resume - 1);
        self.set_durable_locked(&mut state, durable_seq);
        state.cutting = Some(resume - 1);
        let gone = state.take_callbacks(last_kept + 1..);
        let durable = state.take_callbacks(..);
        self.wake(state);
        CutCallbacks { gone, durable, resume }
    }

    /// The disk knows of the cut that was begun last, or never will: then the log is poisoned. Before the next one begins.
    pub(crate) fn end_cut(&self, callbacks: &mut CutCallbacks, is_durable: bool) {
        let mut state = self.state.lock();
        match state.cutting.take() {
            Some(seq) if is_durable => {
                self.set_durable_locked(&mut state, seq);
                callbacks.durable.extend(state.take_callbacks(..=seq));
            }
            _ => {
                state.ended.get_or_insert(Ended::Poisoned);
                callbacks.gone.extend(state.take_callbacks(..));
            }
        }
        self.wake(state);
    }

    /// Settles what a cut took away. Called with no lock held.
    pub(crate) fn settle_cut(&self, callbacks: CutCallbacks) {
        let CutCallbacks { gone, durable, resume } = callbacks;
        self.call(gone, || Err(Error::Truncated { first_seq: resume }));
        self.call(durable, || Ok(()));
    }

    /// Segments below `first_segment` were dropped, and with them the entries up to `seq`, which count as durable.
    pub(crate) fn drop_before(&self, first_segment: u64, seq: u64) {
        let mut state = self.state.lock();
        state.mark = state.mark.filter(|mark| mark.segment >= first_segment);
        if seq > state.durable_seq {
            self.set_durable_locked(&mut state, seq);
            let due = state.take_callbacks(..=seq);
            self.settle(state, due, || Ok(()));
        }
    }

    fn set_durable_locked(&self, state: &mut State, seq: u64) {
        state.durable_seq = seq;
        self.shown.durable_seq.store(seq, Ordering::Release); // with the Acquire in durable_seq()
    }

    /// Registers a callback, or calls it at once if its claim is settled.
    pub(crate) fn on_durable(&self, claim: Claim, callback: Callback) {
        let mut state = self.state.lock();
        match state.judge(claim) {
            None => state.callbacks.entry(claim.seq).or_default().push(callback),
            Some(result) => {
                drop(state);
                self.call_now(callback, result);
            }
        }
    }

    /// Calls a callback with what is known already.
    pub(crate) fn call_now(&self, callback: Callback, result: Result<()>) {
        let call = move |_| callback(result);
        self.call(vec![Box::new(call)], || Ok(()));
    }

    /// Wakes who waits, and calls what is due with no lock held.
    fn settle(&self, state: MutexGuard<'_, State>, due: Vec<Callback>, result: impl Fn() -> Result<()>) {
        self.wake(state);
        self.call(due, result);
    }

    fn call(&self, callbacks: Vec<Callback>, result: impl Fn() -> Result<()>) {
        for callback in callbacks {
            let call = || reentry::run_inside(self.log, Place::Callback, || callback(result()));
            // The panic was reported by the panic hook; it is the callback's own, and the log goes on.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        }
    }
}

/// Lets those append that the last sync woke, so that one sync serves them all: pauses until as many have gathered as are expected,
/// or nobody more comes.
pub(crate) fn gather(expected: u32, gathered: impl Fn() -> u32, pause: impl Fn()) {
    const IDLE_MAX: u32 = 4;
    let (mut before, mut idle) = (gathered(), 0);
    while before < expected && idle < IDLE_MAX {
        pause();
        let now = gathered();
        idle = if now == before { idle + 1 } else { 0 };
        before = now;
    }
}

/// The callbacks that a cut settles.
#[must_use]
pub(crate) struct CutCallbacks {
    gone: Vec<Callback>,
    durable: Vec<Callback>,
    resume: u64,
}

impl State {
    /// Has cuts from now on remembered; the epoch to [`unregister`](Self::unregister) with.
    fn register(&mut self) -> u64 {
        *self.claims.entry(self.epoch).or_insert(0) += 1;
        self.epoch
    }

    fn unregister(&mut self, epoch: u64) {
        if let Some(count) = self.claims.get_mut(&epoch) {
            *count -= 1;
            if *count == 0 {
                self.claims.remove(&epoch);
            }
        }
        let oldest = self.claims.keys().next().copied().unwrap_or(u64::MAX);
        self.cuts.retain(|cut| cut.epoch > oldest);
    }

    fn check_cuts(&self, claim: Claim) -> Result<()> {
        let since = self.cuts.iter().filter(|cut| cut.epoch > claim.epoch);
        match since.min_by_key(|cut| cut.last_kept) {
            Some(cut) if claim.seq > cut.last_kept => Err(Error::Truncated { first_seq: cut.resume }),
            _ => Ok(()),
        }
    }

    fn judge(&self, claim: Claim) -> Option<Result<()>> {
        if let Err(truncated) = self.check_cuts(claim) {
            return Some(Err(truncated));
        }
        if claim.seq <= self.durable_seq {
            return Some(Ok(()));
        }
        self.ended.map(|ended| Err(ended.error()))
    }

    fn take_callbacks(&mut self, seqs: impl std::ops::RangeBounds<u64>) -> Vec<Callback> {
        let due: Vec<u64> = self.callbacks.range(seqs).map(|(&seq, _)| seq).collect();
        due.iter().filter_map(|seq| self.callbacks.remove(seq)).flatten().collect()
    }
}

#[cfg(test)]
mod tests;
