//! The keeper: the one background thread of every log. It makes the next segment's file ahead of need, makes sealed segments
//! durable, takes retired files out of the way, and keeps the mark fresh.
//!
//! The append path asks for nothing but a prepared file, and waits only when there is none. What the keeper fails to make is
//! reported to who waits for it; if nobody does, the next to need it asks again.

use super::active::{Backing, Growth};
use super::prepare::Spare;
pub(crate) use super::prepare::{Blueprint, Prepared};
use super::sealed::Segment;
use crate::error::{Error, Result};
use crate::format::manifest::Mark;
use crate::sys::file;
use crate::sys::sync::thread::{self, JoinHandle, ThreadId};
use crate::sys::sync::{Condvar, Instant, Mutex, OnceLock};
use std::sync::Arc;
use std::time::Duration;

/// How often the keeper looks whether the mark is behind: it is stored once nothing became durable between two looks, so at the
/// latest 5 ms after the log went idle.
const MARK_LOOK: Duration = Duration::from_micros(2500);
/// How much may have become durable before the mark is stored, idle or not.
const MARK_BYTES: u64 = 4 << 20;
/// Bytes that a file grows by at a time, once it is in use. Each step is synced: small ones make a segment take three times as long,
/// and a large one is a long wait for who syncs meanwhile.
const GROWTH_STEP: u64 = 4 << 20;
/// Spares that are kept: up to so many bytes, but at least one file and at most eight.
const SPARE_BYTES: u64 = 256 << 20;

/// What the keeper does on behalf of the log, when it is time.
pub(crate) trait Duties: Send + Sync {
    /// Makes sealed segments durable, in order. A failure is recorded where the next call on the log sees it.
    fn sync_sealed(&self);
    /// How far the log is durable, as a mark; None if there is nothing to mark.
    fn durable_mark(&self) -> Option<Mark>;
    /// Stores the mark in the manifest.
    fn store_mark(&self);
    /// Tells who waits that the log is poisoned.
    fn tell_failure(&self);
}

/// The handle of the keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    blueprint: Blueprint,
    state: Mutex<State>,
    /// Signalled when there may be work.
    work: Condvar,
    /// Signalled when a file was prepared or grown, or could not be.
    ready: Condvar,
    thread: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    /// The id that the next prepared file gets.
    next_id: u64,
    /// The number in the next spare's name.
    next_spare: u64,
    demand: Demand,
    prepared: Option<Prepared>,
    /// A file that is in use and has not all of its blocks yet.
    growing: Option<Arc<Backing>>,
    /// Attempts to prepare or grow a file that failed, and the last one's error.
    failures: u64,
    failure: Option<Error>,
    sealed: bool,
    retired: Vec<Arc<Segment>>,
    spares: Vec<Spare>,
    /// When to look at the mark next. None: the mark covers all that is durable.
    mark_look: Option<Instant>,
    stop: bool,
}

/// How much the next file is wanted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Demand {
    #[default]
    None,
    /// The active segment is half full.
    Soon,
    /// An append waits.
    Now,
}

/// What to do next.
enum Job {
    Retire(Vec<Arc<Segment>>),
    Prepare,
    Grow(Arc<Backing>),
    SyncSealed,
    LookAtMark,
    Stop,
}

impl Keeper {
    /// A keeper that numbers its files from `next_id`. It works once it is [`start`](Self::start)ed.
    pub(crate) fn new(blueprint: Blueprint, next_id: u64) -> Keeper {
        let state = State { next_id, next_spare: 1, ..State::default() };
        let (work, ready) = (Condvar::new(), Condvar::new());
        let shared = Shared { blueprint, state: Mutex::new(state), work, ready, thread: OnceLock::new() };
        Keeper { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Starts the thread.
    pub(crate) fn start(&self, duties: Arc<dyn Duties>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new().name("maplog-keeper".into()).spawn(move || shared.run(&*duties));
        let thread = spawned.map_err(|e| Error::io("start a thread for", &self.shared.blueprint.paths.dir, e))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// The prepared file, if there is one.
    pub(crate) fn take(&self) -> Option<Prepared> {
        let mut state = self.shared.state.lock();
        let prepared = state.prepared.take()?;
        state.demand = Demand::None;
        if !state.spares.is_empty() {
            // A log that rotates steadily: the next file costs little, and the sync of the segment that is sealed now takes long.
            self.shared.demand_locked(&mut state, Demand::Soon);
        }
        Some(prepared)
    }

    /// Has the next file prepared, without waiting.
    pub(crate) fn want(&self) {
        self.shared.demand_locked(&mut self.shared.state.lock(), Demand::Soon);
    }

    /// Waits until there is a prepared file.
    ///
    /// # Errors
    /// Why it could not be made; the next call has it tried again.
    pub(crate) fn wait_prepared(&self) -> Result<()> {
        self.wait(|state| state.prepared.is_some(), |shared, state| shared.demand_locked(state, Demand::Now))
    }

    /// Waits until `backing`, which is in use, has grown past `capacity` or will grow no more.
    pub(crate) fn wait_growth(&self, backing: &Arc<Backing>, capacity: u64) {
        // A failure to grow is no error yet: the next file may fit.
        let _ = self.wait(
            |_| backing.extent.capacity() > capacity || backing.growth() == Growth::Complete,
            |shared, state| {
                if state.growing.is_none() {
                    state.growing = Some(Arc::clone(backing));
                    shared.work.notify_one();
                }
            },
        );
    }

    /// Waits until it is `done`; until then, `ask`s for it. Who gives up asks for nothing, and takes nobody's asking back.
    fn wait(&self, done: impl Fn(&State) -> bool, ask: impl Fn(&Shared, &mut State)) -> Result<()> {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        let failures = state.failures;
        loop {
            if done(&state) {
                return Ok(());
            }
            if state.stop {
                return Err(Error::Closed);
            }
            if state.failures > failures {
                return Err(state.failure.as_ref().map_or(Error::Closed, Error::duplicate));
            }
            ask(shared, &mut state);
            if shared.is_this_thread() {
                // A callback that the keeper runs may append: it does the keeper's work for itself.
                drop(state);
                shared.make_progress();
                state = shared.state.lock();
            } else {
                shared.ready.wait(&mut state);
            }
        }
    }

    /// There is a sealed segment to make durable. It grows no more: who waits for that has to look again.
    pub(crate) fn notice_sealed(&self) {
        self.shared.state.lock().sealed = true;
        self.shared.work.notify_one();
        self.shared.ready.notify_all();
    }

    /// Something became durable that the mark does not cover.
    pub(crate) fn notice_durable(&self) {
        let mut state = self.shared.state.lock();
        if state.mark_look.is_none() {
            state.mark_look = Some(Instant::now() + MARK_LOOK);
            self.shared.work.notify_one();
        }
    }

    /// Takes segments that the manifest calls dead out of the way.
    pub(crate) fn retire(&self, segments: Vec<Arc<Segment>>) {
        self.shared.state.lock().retired.extend(segments);
        self.shared.work.notify_one();
    }

    /// Has the thread finish what it does, remove the files that nobody will need, and end. Waits for it, unless called by it: then
    /// the files go at once, and what is dead is left to the next open, for nothing may be touched once the directory is given free.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().stop = true;
        self.shared.work.notify_one();
        self.shared.ready.notify_all();
        match self.thread.lock().take() {
            Some(_) if self.shared.is_this_thread() => {
                self.shared.state.lock().retired.clear();
                self.shared.remove_unused();
            }
            // The thread's own panics are bugs, and were reported when they happened.
            Some(thread) => drop(thread.join()),
            None => {}
        }
    }
}

impl Shared {
    fn demand_locked(&self, state: &mut State, demand: Demand) {
        if state.prepared.is_none() && state.demand < demand {
            state.demand = demand;
            self.work.notify_one();
        }
    }

    fn is_this_thread(&self) -> bool {
        self.thread.get() == Some(&thread::current().id())
    }

    /// What somebody waits for: another step of a growing file, or the next file.
    fn make_progress(&self) {
        let growing = self.state.lock().growing.clone();
        match growing {
            Some(backing) => self.grow(&backing),
            None => self.prepare(),
        }
    }

    fn run(&self, duties: &dyn Duties) {
        let _ = self.thread.set(thread::current().id());
        let _ending = Ending(self);
        let mut last_mark = LastMark::default();
        loop {
            match self.next_job() {
                Job::Retire(segments) => self.retire(segments),
                Job::Prepare => self.prepare(),
                Job::Grow(backing) => {
                    self.grow(&backing);
                    if self.blueprint.health.is_poisoned() {
                        duties.tell_failure();
                    }
                }
                Job::SyncSealed => duties.sync_sealed(),
                Job::LookAtMark => self.look_at_mark(duties, &mut last_mark),
                Job::Stop => break,
            }
        }
        self.remove_unused();
    }

    /// Waits for work; the most urgent first. Dead files go before everything else, for a full disk may wait for their space.
    fn next_job(&self) -> Job {
        let mut state = self.state.lock();
        loop {
            if !state.retired.is_empty() {
                return Job::Retire(std::mem::take(&mut state.retired));
            }
            if state.stop {
                return Job::Stop;
            }
            let is_cheap = !state.spares.is_empty();
            if (state.demand == Demand::Now || is_cheap && state.demand == Demand::Soon) && state.prepared.is_none() {
                return Job::Prepare;
            }
            if std::mem::take(&mut state.sealed) {
                return Job::SyncSealed;
            }
            if state.mark_look.is_some_and(|look| look <= Instant::now()) {
                state.mark_look = None;
                return Job::LookAtMark;
            }
            if let Some(backing) = &state.growing {
                return Job::Grow(Arc::clone(backing));
            }
            if state.demand == Demand::Soon && state.prepared.is_none() {
                return Job::Prepare;
            }
            match state.mark_look {
                Some(look) => drop(self.work.wait_until(&mut state, look)),
                None => self.work.wait(&mut state),
            }
        }
    }

    fn prepare(&self) {
        let (id, spare_number, spare) = {
            let mut state = self.state.lock();
            state.next_spare += 1;
            (state.next_id, state.next_spare, state.spares.pop())
        };
        let made = match &spare {
            Some(spare) => self.blueprint.remake(id, spare),
            None => self.blueprint.make(id, spare_number, || self.state.lock().demand != Demand::Now),
        };
        let mut state = self.state.lock();
        match made {
            Ok(prepared) => {
                state.next_id = id + 1;
                if prepared.backing().growth() == Growth::Ongoing && state.growing.is_none() {
                    state.growing = Some(Arc::clone(prepared.backing()));
                }
                state.prepared = Some(prepared);
            }
            Err(error) => {
                state.failures += 1;
                state.failure = Some(error);
            }
        }
        state.demand = Demand::None;
        self.ready.notify_all();
    }

    /// Adds one step of blocks to a file in use. If there is no space, it keeps those that it has.
    fn grow(&self, backing: &Backing) {
        let grown = backing.grow(GROWTH_STEP, self.blueprint.chunk);
        let mut state = self.state.lock();
        if grown.is_err() {
            backing.finish_growth();
        }
        if backing.growth() == Growth::Complete {
            state.growing = None;
        }
        self.ready.notify_all();
    }

    fn retire(&self, segments: Vec<Arc<Segment>>) {
        let spares_max = (SPARE_BYTES / self.blueprint.segment_size).clamp(1, 8) as usize;
        let mut spares = Vec::new();
        for segment in segments {
            let (room, number) = {
                let mut state = self.state.lock();
                state.next_spare += 1;
                (state.spares.len() + spares.len() < spares_max, state.next_spare)
            };
            // A dead file that cannot be moved or removed does no harm: the next open tries again.
            if let Ok(Some(spare)) = self.blueprint.retire(segment, room, number) {
                spares.push(spare);
            }
        }
        match file::sync_dir(&self.blueprint.paths.segments) {
            Ok(()) => self.state.lock().spares.extend(spares),
            Err(_) => spares.iter().for_each(|spare| drop(file::unlink(spare.path()))),
        }
    }

    /// Stores the mark once nothing became durable since the last look, or a lot did since it was stored.
    fn look_at_mark(&self, duties: &dyn Duties, last: &mut LastMark) {
        let Some(durable) = duties.durable_mark() else {
            return;
        };
        let idle = last.seen == Some(durable);
        let much = last.stored.map_or(true, |stored| {
            stored.segment != durable.segment || durable.offset.saturating_sub(stored.offset) >= MARK_BYTES
        });
        last.seen = Some(durable);
        if (idle || much) && last.stored != Some(durable) {
            duties.store_mark();
            last.stored = Some(durable);
        }
        if !idle {
            self.state.lock().mark_look = Some(Instant::now() + MARK_LOOK);
        }
    }

    /// Removes what a closed log has no use for. Whatever stays is removed by the next open.
    fn remove_unused(&self) {
        let mut state = self.state.lock();
        if let Some(prepared) = state.prepared.take() {
            let _ = file::unlink(prepared.path());
        }
        for spare in state.spares.drain(..) {
            let _ = file::unlink(spare.path());
        }
        state.growing = None;
    }
}

/// What the keeper remembers of the mark.
#[derive(Debug, Default)]
struct LastMark {
    /// How far the log was durable at the last look.
    seen: Option<Mark>,
    stored: Option<Mark>,
}

/// Lets nobody wait for a thread that has ended, even by a panic.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.state.lock().stop = true;
        self.0.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::Health;
    use super::super::paths::Paths;
    use super::*;
    use crate::sys::file::ZeroChunk;
    use crate::sys::lock::ReadersLease;

    #[test]
    fn who_gives_up_leaves_the_demand_of_who_goes_on_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (lease, _) = ReadersLease::acquire(&dir.path().join("readers")).unwrap();
        let blueprint = Blueprint {
            paths: Paths::new(dir.path()),
            log_id: [0; 16],
            segment_size: 8192,
            chunk: ZeroChunk::Small,
            lease,
            health: Arc::new(Health::default()),
        };
        // Without its thread: what that would do is done here.
        let keeper = Keeper::new(blueprint, 1);
        thread::scope(|scope| {
            let gives_up = scope.spawn(|| keeper.wait_prepared());
            while keeper.shared.state.lock().demand != Demand::Now {
                thread::yield_now();
            }
            let mut state = keeper.shared.state.lock();
            state.failures += 1;
            state.failure = Some(Error::NoSpace { path: dir.path().to_owned(), needed: 1 });
            state.demand = Demand::None;
            // Somebody else asks before the first one is awake.
            keeper.shared.demand_locked(&mut state, Demand::Now);
            drop(state);
            keeper.shared.ready.notify_all();
            assert!(gives_up.join().unwrap().is_err());
        });
        assert_eq!(keeper.shared.state.lock().demand, Demand::Now);
    }
}
