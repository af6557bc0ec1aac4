//! The appender: cursor, group sync, keeper and set, tied into the calls that append and sync.

use super::batch::{Batch, Body, Intake};
use super::cursor::{Attention, Cursor, Room, Sealed};
use super::group_sync::{self, Claim, GroupSync, Leadership, Registration, Step};
use super::reentry::{self, Place};
use crate::error::{Error, Result};
use crate::format::frame::{self, FLAGS_ALONE, FLAG_FIRST, FLAG_LAST};
use crate::format::manifest::Mark;
use crate::format::SEQ_LIMIT;
use crate::options::{Ack, SyncPolicy};
use crate::segment::active::Backing;
use crate::segment::health::Health;
use crate::segment::keeper::Keeper;
use crate::segment::set::{Set, Slot, Slots};
use crate::sys::cache_line::CacheLine;
use crate::sys::clock;
use crate::sys::lock::ReadersLease;
use crate::sys::sync::{thread, AtomicU64, Condvar, Instant, Mutex, MutexGuard, Ordering};
use std::ops::Range;
use std::sync::Arc;

/// The write side of a log.
#[derive(Debug)]
pub(crate) struct Appender {
    cursor: CacheLine<Mutex<Cursor>>,
    /// Signalled when an entry was published that somebody waits for, when a cut was made, and when the log ended.
    published: Condvar,
    /// Signalled when appends may go on after a cut.
    thawed: Condvar,
    shown: CacheLine<Shown>,
    pub(crate) set: Set,
    pub(crate) keeper: Keeper,
    pub(crate) group: GroupSync,
    pub(crate) health: Arc<Health>,
    lease: Arc<ReadersLease>,
    intake: Intake,
    policy: SyncPolicy,
    number: usize,
}

/// What readers see: the next seq and the epoch. Stored under the cursor's lock with Release, after the entry's bytes; loaded with
/// Acquire. A reader that needs both, or the segments that belong to them, loads them under the set's read lock: a cut changes them
/// under its write lock.
#[derive(Debug)]
struct Shown {
    next_seq: AtomicU64,
    epoch: AtomicU64,
}

/// Seqs below this are so far from the limit that what one segment holds does not reach it.
const SEQ_SAFE: u64 = 0x7fff_ffff_0000_0000;

/// What a new appender starts from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) cursor: Cursor,
    pub(crate) slots: Slots,
    pub(crate) durable_seq: u64,
    pub(crate) mark: Option<Mark>,
    pub(crate) writers_max: u32,
    pub(crate) intake: Intake,
    pub(crate) policy: SyncPolicy,
    /// The log's number, for [`reentry`].
    pub(crate) log: usize,
}

/// Frames that are appended together.
#[derive(Debug, Clone, Copy)]
struct Frames {
    count: u64,
    /// Bytes of all of them.
    len: u64,
}

impl Frames {
    /// The one frame of `body`.
    #[inline]
    fn of(body: &Body<'_>) -> Frames {
        Frames { count: 1, len: body.frame_len() }
    }
}

/// When an append waits until its entry is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Never,
    /// If it fills a bound of the batch policy.
    WhenFull,
    Always,
}

/// What a sync has to cover.
struct Target {
    epoch: u64,
    sealed: Vec<Sealed>,
    active: Option<(Arc<Backing>, Mark)>,
}

/// What readers see at one moment.
pub(crate) struct Snapshot {
    pub(crate) slots: Arc<Slots>,
    pub(crate) next_seq: u64,
    pub(crate) epoch: u64,
}

impl Appender {
    pub(crate) fn new(start: Start, keeper: Keeper, health: Arc<Health>, lease: Arc<ReadersLease>) -> Appender {
        Appender {
            shown: CacheLine(Shown {
                next_seq: AtomicU64::new(start.cursor.next_seq),
                epoch: AtomicU64::new(start.cursor.epoch),
            }),
            cursor: CacheLine(Mutex::new(start.cursor)),
            published: Condvar::new(),
            thawed: Condvar::new(),
            set: Set::new(start.slots),
            keeper,
            group: GroupSync::new(start.log, start.durable_seq, start.mark, start.writers_max),
            health,
            lease,
            intake: start.intake,
            policy: start.policy,
            number: start.log,
        }
    }

    /// The log's number, for [`reentry`].
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    #[inline]
    pub(crate) fn next_seq(&self) -> u64 {
        self.shown.next_seq.load(Ordering::Acquire)
    }

    /// The live segments, and up to where they are published.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let slots = self.set.read();
        Snapshot {
            slots: Arc::clone(&slots),
            next_seq: self.next_seq(),
            epoch: self.shown.epoch.load(Ordering::Acquire),
        }
    }

    /// As [`snapshot`](Self::snapshot), with its epoch entered in the group: to be paired with [`GroupSync::leave`].
    ///
    /// The group knows a cut before readers see it. Who entered in between would take what is gone for what the new epoch holds.
    pub(crate) fn enter(&self) -> Snapshot {
        let cursor = self.cursor.lock(); // the one that a cut is made under
        let snapshot = self.snapshot();
        let epoch = self.group.enter();
        drop(cursor);
        debug_assert_eq!(epoch, snapshot.epoch);
        snapshot
    }

    /// The cursor, whoever has it frozen: for those that change what is live.
    pub(crate) fn cursor(&self) -> MutexGuard<'_, Cursor> {
        self.cursor.lock()
    }

    // --- append ---

    /// Appends a payload; its seq. Durable when it returns if `ack`, or else the policy, says so.
    #[inline(always)] // each of the few callers knows its `ack`
    pub(crate) fn append(&self, raw: &[u8], ack: Option<Ack>) -> Result<u64> {
        match self.intake.plain(raw)? {
            Some(body) => self.append_body(body, ack),
            None => self.append_compressed(raw, ack),
        }
    }

    #[inline(never)]
    fn append_compressed(&self, raw: &[u8], ack: Option<Ack>) -> Result<u64> {
        self.append_body(self.intake.payload(raw)?.body(), ack)
    }

    #[inline(always)]
    fn append_body(&self, body: Body<'_>, ack: Option<Ack>) -> Result<u64> {
        let now_ms = clock::now_ms();
        match self.waits(ack) {
            Waits::Always => return self.append_durable(body, ack, now_ms),
            Waits::WhenFull => {
                let push = |cursor: &mut Cursor| {
                    cursor.push(body, FLAGS_ALONE, self.group.durable_seq(), now_ms);
                    Ok(())
                };
                return self.append_frames(Frames::of(&body), ack, push).map(|seqs| seqs.start);
            }
            Waits::Never => {}
        }
        // Most appends of most logs: as below, with nobody to wait for.
        let mut cursor = self.lock_with_room(Frames::of(&body))?;
        let seq = cursor.next_seq;
        cursor.push(body, FLAGS_ALONE, self.group.durable_seq(), now_ms);
        self.publish(&mut cursor);
        Ok(seq)
    }

    #[inline(never)]
    fn append_durable(&self, body: Body<'_>, ack: Option<Ack>, now_ms: u64) -> Result<u64> {
        let mut frame = body.frame();
        let push = |cursor: &mut Cursor| cursor.push_by_call(body, &mut frame, self.group.durable_seq(), now_ms);
        self.append_frames(Frames::of(&body), ack, push).map(|seqs| seqs.start)
    }

    /// Appends `len` bytes that `fill` writes into the mapping.
    pub(crate) fn append_with(&self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<u64> {
        self.intake.check_len(len)?;
        let now_ms = clock::now_ms();
        let fill = |place: &mut [u8]| reentry::run_inside(self.number, Place::Fill, || fill(place));
        let push = |cursor: &mut Cursor| {
            cursor.push_with(len, self.group.durable_seq(), now_ms, fill);
            Ok(())
        };
        let frames = Frames { count: 1, len: frame::frame_len(len as u64) };
        self.append_frames(frames, None, push).map(|seqs| seqs.start)
    }

    /// Appends payloads that are recovered all together or not at all.
    pub(crate) fn append_batch<'p>(&self, items: impl Iterator<Item = &'p [u8]>) -> Result<Range<u64>> {
        let Batch { payloads, frames_len } = self.intake.batch(items)?;
        let Some(last) = payloads.len().checked_sub(1) else {
            self.health.check()?;
            let next_seq = self.next_seq();
            return Ok(next_seq..next_seq);
        };
        let now_ms = clock::now_ms();
        let place = |index: usize| match (index == 0, index == last) {
            (true, true) => FLAGS_ALONE,
            (true, false) => FLAG_FIRST,
            (false, true) => FLAG_LAST,
            (false, false) => 0,
        };
        let frames = Frames { count: payloads.len() as u64, len: frames_len };
        self.append_frames(frames, None, |cursor| {
            let durable_seq = self.group.durable_seq();
            for (index, payload) in payloads.iter().enumerate() {
                cursor.push(payload.body(), place(index), durable_seq, now_ms);
            }
            Ok(())
        })
    }

    /// Has `push` append `frames`, and acks them; their seqs.
    fn append_frames(
        &self,
        frames: Frames,
        ack: Option<Ack>,
        push: impl FnOnce(&mut Cursor) -> Result<()>,
    ) -> Result<Range<u64>> {
        let waits = self.waits(ack);
        let mut permit = None;
        if waits == Waits::Always {
            // The group says how the log ended first: of one that was poisoned and then closed, that it is poisoned.
            self.health.check()?;
            // Before anything is claimed: whoever waits for this permit holds nothing that others wait for.
            permit = Some(self.group.writer()?);
        }
        let mut cursor = self.lock_with_room(frames)?;
        let first = cursor.next_seq;
        push(&mut cursor)?;
        self.publish(&mut cursor);
        let claim = cursor.claim_all();
        // Registered under the lock: a cut after it is remembered until the claim is settled.
        let filled = (waits == Waits::WhenFull && self.fills_batch(&mut cursor)).then(|| self.group.register());
        drop(cursor);
        permit = permit.or_else(|| filled.map(|registration| self.group.admit(registration)));
        if permit.is_some() {
            self.wait(claim)?;
        }
        Ok(first..claim.seq + 1)
    }

    /// Gives what was pushed to readers.
    #[inline]
    fn publish(&self, cursor: &mut Cursor) {
        self.shown.next_seq.store(cursor.next_seq, Ordering::Release); // with the Acquire in next_seq()
        if cursor.needs_attention() {
            self.attend(cursor);
        }
    }

    /// When an append with this `ack` waits for durability.
    #[inline]
    fn waits(&self, ack: Option<Ack>) -> Waits {
        match (ack, self.policy) {
            (Some(Ack::Durable), _) | (None, SyncPolicy::Immediate) => Waits::Always,
            (None, SyncPolicy::Batch { .. }) => Waits::WhenFull,
            (Some(Ack::Buffered), _) | (None, SyncPolicy::Interval(_) | SyncPolicy::Manual) => Waits::Never,
        }
    }

    /// Whether an append with this `ack` may have to wait for durability.
    pub(crate) fn may_wait(&self, ack: Option<Ack>) -> bool {
        self.waits(ack) != Waits::Never
    }

    /// Does what else is to be done once an entry is published.
    #[cold]
    fn attend(&self, cursor: &mut Cursor) {
        let Attention { wake, prepare } = cursor.attend();
        if wake {
            self.published.notify_all();
        }
        if prepare {
            self.keeper.want();
        }
    }

    /// Whether what was pushed fills a bound of the batch policy. If so, the next batch begins.
    fn fills_batch(&self, cursor: &mut Cursor) -> bool {
        let SyncPolicy::Batch { entries, bytes } = self.policy else {
            return false;
        };
        let unsynced = cursor.unsynced_tally();
        let is_full = unsynced.entries >= u64::from(entries) || unsynced.bytes >= bytes;
        if is_full {
            cursor.begin_sync();
        }
        is_full
    }

    /// Locks the cursor with room for `frames` in the active segment.
    #[inline]
    fn lock_with_room(&self, frames: Frames) -> Result<MutexGuard<'_, Cursor>> {
        let cursor = self.cursor.lock();
        let is_far_from_limit = (..SEQ_SAFE).contains(&cursor.next_seq);
        if cursor.has_room(frames.len) && is_far_from_limit && self.health.is_fine() {
            return Ok(cursor);
        }
        self.make_room(cursor, frames)
    }

    /// Rotates, or waits for the keeper, until `frames` fit.
    #[cold]
    fn make_room<'a>(&'a self, mut cursor: MutexGuard<'a, Cursor>, frames: Frames) -> Result<MutexGuard<'a, Cursor>> {
        let Frames { count, len } = frames;
        let mut fresh_id = None;
        loop {
            self.health.check()?;
            if cursor.next_seq + count > SEQ_LIMIT {
                let (first_seq, next_seq) = (self.set.read().first_seq, cursor.next_seq);
                return Err(Error::SeqOutOfRange { seq: SEQ_LIMIT, first_seq, next_seq });
            }
            if cursor.frozen {
                self.thawed.wait(&mut cursor);
                continue;
            }
            match cursor.room_for(len) {
                Room::Fits => return Ok(cursor),
                Room::Growing(backing) => {
                    let capacity = backing.extent.capacity();
                    drop(cursor);
                    self.keeper.wait_growth(&backing, capacity);
                    cursor = self.cursor.lock();
                }
                Room::Full => {
                    let is_empty = !cursor.active_holds_entries();
                    let fresh = cursor.active.as_ref().filter(|active| is_empty && Some(active.segment.id) == fresh_id);
                    if let Some(active) = fresh {
                        // The segment was made for these frames, and the disk had no space for all of it.
                        return Err(Error::NoSpace { path: active.segment.path.to_path_buf(), needed: len });
                    }
                    match self.keeper.take() {
                        Some(prepared) => {
                            fresh_id = Some(prepared.id());
                            self.rotate_to(&mut cursor, prepared);
                        }
                        None => {
                            drop(cursor);
                            self.keeper.wait_prepared()?;
                            cursor = self.cursor.lock();
                        }
                    }
                }
            }
        }
    }

    /// Seals the active segment and goes on in a prepared one. No system call.
    fn rotate_to(&self, cursor: &mut Cursor, prepared: crate::segment::keeper::Prepared) {
        self.seal_active(cursor);
        let active = prepared.activate(cursor.next_seq, cursor.predecessor, &self.lease);
        let slot = Slot::Segment { segment: Arc::clone(&active.segment), end: None };
        Arc::make_mut(&mut self.set.write()).push(slot);
        cursor.activate(active);
        cursor.counters.rotations += 1;
    }

    /// Ends the active segment; the next append makes another one active. A segment without a frame is dropped: the link of the next
    /// one takes its place.
    pub(crate) fn seal_active(&self, cursor: &mut Cursor) {
        let Some((segment, end)) = cursor.seal() else {
            return;
        };
        self.keeper.notice_sealed();
        Arc::make_mut(&mut self.set.write()).seal_last(end);
        if end.seq == segment.base_seq {
            self.keeper.retire(vec![segment]);
        }
    }

    /// Drops the active segment if it holds no entry: a log that is closed keeps no empty file.
    pub(crate) fn seal_if_empty(&self) {
        let mut cursor = self.cursor.lock();
        if !cursor.active_holds_entries() {
            self.seal_active(&mut cursor);
        }
    }

    // --- sync ---

    /// Makes all that was appended before the call durable; the durable seq.
    pub(crate) fn sync(&self) -> Result<u64> {
        self.health.check()?;
        self.sync_published()
    }

    /// As [`sync`](Self::sync), also while the log is being closed.
    pub(crate) fn sync_published(&self) -> Result<u64> {
        let _registration = self.group.register();
        let claim = self.cursor.lock().claim_all();
        match self.wait(claim) {
            // What a cut took away needs no sync, and the cut synced what it left, if it was made.
            Err(Error::Truncated { .. }) if self.health.is_poisoned() => Err(Error::Poisoned),
            Ok(()) | Err(Error::Truncated { .. }) => Ok(self.group.durable_seq()),
            Err(error) => Err(error),
        }
    }

    /// A registered claim on `seq`, which was appended.
    pub(crate) fn claim(&self, seq: u64) -> Result<(Registration<'_>, Claim)> {
        let registration = self.group.register();
        let cursor = self.cursor.lock();
        if seq >= cursor.next_seq {
            let (first_seq, next_seq) = (self.set.read().first_seq, cursor.next_seq);
            return Err(Error::SeqOutOfRange { seq, first_seq, next_seq });
        }
        Ok((registration, Claim { seq, epoch: cursor.epoch }))
    }

    /// Waits until the claim, which the caller has registered, is durable; leads the sync if nobody does.
    pub(crate) fn wait(&self, claim: Claim) -> Result<()> {
        loop {
            match self.group.wait(claim) {
                Step::Done(result) => return result,
                Step::Lead(leadership) => {
                    group_sync::gather(self.group.last_group(), || self.group.gathered(), thread::yield_now);
                    let synced = self.sync_target();
                    self.settle(synced, Some(leadership))?;
                }
            }
        }
    }

    /// Makes everything published durable: sealed segments in order, then the active one. Ok: how far, and the epoch; None if there
    /// was nothing.
    ///
    /// The leader syncs sealed segments itself if the keeper has not: it waits for no thread but one that syncs the same file.
    fn sync_target(&self) -> Result<Option<(u64, Mark)>> {
        let Target { epoch, sealed, active } = self.target();
        let mut mark = None;
        for segment in &sealed {
            segment.backing.sync_sealed()?;
            mark = Some(segment.end);
        }
        if let Some((backing, end)) = active {
            backing.sync_to(end.offset)?;
            mark = Some(end);
        }
        Ok(mark.map(|mark| (epoch, mark)))
    }

    fn target(&self) -> Target {
        let mut cursor = self.cursor.lock();
        cursor.begin_sync();
        let active = cursor.active.as_ref().map(|active| Arc::clone(&active.backing));
        let active = active.zip(cursor.end()).filter(|(backing, end)| backing.id == end.segment);
        Target { epoch: cursor.epoch, sealed: cursor.unsynced.iter().cloned().collect(), active }
    }

    /// Tells who waits how a sync went.
    fn settle(&self, synced: Result<Option<(u64, Mark)>>, leadership: Option<Leadership<'_>>) -> Result<()> {
        match synced {
            Ok(Some((epoch, mark))) => {
                let advanced = self.group.advance(epoch, mark, leadership);
                // Only now: a leader that finds no segment to sync must find the durable seq moved.
                self.forget_synced(mark);
                if advanced {
                    self.keeper.notice_durable();
                }
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                self.group.fail(leadership);
                self.wake_followers();
                Err(error)
            }
        }
    }

    /// The log is poisoned: tells who waits. Called with no lock held, for callbacks run.
    pub(crate) fn fail(&self) {
        self.group.fail(None);
        self.wake_followers();
    }

    /// Sealed segments that end at or before `mark` are durable. A segment that was sealed while its first part was synced is not.
    fn forget_synced(&self, mark: Mark) {
        let mut cursor = self.cursor.lock();
        let is_covered = |end: Mark| (end.segment, end.seq) <= (mark.segment, mark.seq);
        while cursor.unsynced.front().is_some_and(|front| is_covered(front.end)) {
            cursor.unsynced.pop_front();
        }
    }

    /// The keeper's part: makes sealed segments durable, in order, one after the other.
    pub(crate) fn sync_sealed(&self) {
        loop {
            let (epoch, front) = {
                let cursor = self.cursor.lock();
                (cursor.epoch, cursor.unsynced.front().cloned())
            };
            let Some(sealed) = front else {
                return;
            };
            let synced = sealed.backing.sync_sealed();
            if self.settle(synced.map(|()| Some((epoch, sealed.end))), None).is_err() {
                return;
            }
        }
    }

    /// Lets go of the files: once the log is closed, entries that are still held keep mappings alive, and no descriptor.
    pub(crate) fn release_files(&self) {
        let mut cursor = self.cursor.lock();
        let active = cursor.active.take();
        let unsynced = std::mem::take(&mut cursor.unsynced);
        drop(cursor);
        active.iter().for_each(|active| active.backing.release());
        unsynced.iter().for_each(|sealed| sealed.backing.release());
    }

    // --- cuts, for the upkeep ---

    /// Has readers see `next_seq` and `epoch` of the cursor, with the slots that belong to them.
    pub(crate) fn show_cut(&self, cursor: &Cursor, slots: Slots) -> Arc<Slots> {
        let mut shown = self.set.write();
        self.shown.next_seq.store(cursor.next_seq, Ordering::Release); // with the Acquire in next_seq()
        self.shown.epoch.store(cursor.epoch, Ordering::Release); // with the Acquire in snapshot()
        std::mem::replace(&mut shown, Arc::new(slots))
    }

    /// Appends go on after a cut.
    pub(crate) fn thaw(&self) {
        self.cursor.lock().frozen = false;
        self.thawed.notify_all();
        self.wake_followers();
    }

    // --- waiting readers ---

    /// Waits until `seq` may have been published, something was cut, or the log ended; false if the deadline passed.
    pub(crate) fn wait_published(&self, seq: u64, epoch: u64, deadline: Instant) -> bool {
        let mut cursor = self.cursor.lock();
        if cursor.next_seq > seq || cursor.epoch != epoch || self.health.check().is_err() {
            return true;
        }
        cursor.watch();
        !self.published.wait_until(&mut cursor, deadline).timed_out()
    }

    /// Wakes who waits for entries: something else happened.
    pub(crate) fn wake_followers(&self) {
        // The lock: who has just looked, and is about to wait, must not miss it.
        drop(self.cursor.lock());
        self.published.notify_all();
        self.thawed.notify_all();
    }
}
