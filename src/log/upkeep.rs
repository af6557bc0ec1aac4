//! What changes which entries live: both truncates, reset, rotate, close. Each change is one manifest write; the rest is clean-up.
//!
//! The lock of [`Upkeep`] is the first in the lock order: one change at a time, and every manifest is built under it from the state
//! of that moment.

use super::Inner;
use crate::error::{Damage, Error, Result};
use crate::format::manifest::{Cut, Manifest, Mark};
use crate::format::segment::Predecessor;
use crate::format::SEQ_LIMIT;
use crate::read::walk;
use crate::recover::adopt::Plan;
use crate::segment::manifest::ManifestFile;
use crate::segment::paths::{Name, Paths};
use crate::segment::sealed::Segment;
use crate::segment::set::{Slot, Slots};
use crate::sys::file;
use crate::sys::sync::{MutexGuard, Ordering};
use crate::write::appender::{Appender, Snapshot};
use crate::write::group_sync::CutCallbacks;
use std::sync::Arc;

/// The manifest, and what is left to do before it may change again.
#[derive(Debug)]
pub(super) struct Upkeep {
    manifest: ManifestFile,
    /// What a salvaging open will change with the first change that is asked for.
    plan: Option<Planned>,
    losses: Vec<Damage>,
    /// Segments that the present cut made dead, and whose files may still be there: they have to be gone before a newer cut takes
    /// its place, for only this one says that they are dead.
    dead: Vec<Arc<Segment>>,
}

/// A plan that waits, and how far the log is durable once its bytes are adopted.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) durable_seq: u64,
    pub(super) mark: Option<Mark>,
}

/// What is left of the log after a cut.
struct Kept {
    slots: Slots,
    /// The last segment that is left, as far as it is.
    last: Option<Predecessor>,
}

impl Upkeep {
    pub(super) fn new(manifest: ManifestFile, plan: Option<Planned>, losses: Vec<Damage>) -> Upkeep {
        Upkeep { manifest, plan, losses, dead: Vec::new() }
    }

    /// Refuses a seq that lies inside a loss.
    fn check_not_lost(&self, seq: u64) -> Result<()> {
        match self.losses.iter().find(|loss| loss.seqs.contains(&seq)) {
            Some(loss) => Err(Error::damaged(loss.clone())),
            None => Ok(()),
        }
    }

    /// The present manifest with another first segment: what lies before it goes, and so do a cut, a mark and a loss that do.
    fn starting_at(&self, first_segment: u64, first_seq: u64, last_timestamp_ms: u64) -> Manifest {
        let now = self.manifest.current();
        Manifest {
            first_segment,
            first_seq,
            cut: now.cut.filter(|cut| cut.segment >= first_segment),
            mark: now.mark.filter(|mark| mark.segment >= first_segment),
            lost: if now.lost.end <= first_seq { 0..0 } else { now.lost.start.max(first_seq)..now.lost.end },
            last_timestamp_ms,
            ..now.clone()
        }
    }

    /// Unlinks what the present cut made dead: the segments that were live until then, whose bytes stay for views that cover them,
    /// and files that were in no view, for they were damaged or could not be unlinked before.
    fn remove_dead(&mut self, paths: &Paths) -> Result<()> {
        for segment in &self.dead {
            keep_for_readers(segment)?;
            file::unlink(&segment.path)?;
        }
        for path in file::list(&paths.segments)?.unwrap_or_default() {
            if matches!(Paths::name(&path), Name::Segment { id } if self.manifest.current().is_cut_away(id)) {
                file::unlink(&path)?;
            }
        }
        file::sync_dir(&paths.segments)?;
        self.dead.clear();
        Ok(())
    }
}

/// Keeps a segment readable whose file is about to go, if somebody may still want to read it.
fn keep_for_readers(segment: &Arc<Segment>) -> Result<()> {
    if Arc::strong_count(segment) > 1 {
        segment.keep_readable()?;
    }
    Ok(())
}

impl Inner {
    /// Makes a change. If it poisons the log, everybody who waits is told once no lock is held.
    fn change<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        change().map_err(|error| {
            if !self.appender.health.is_poisoned() {
                return error;
            }
            self.appender.fail();
            error.into_io()
        })
    }

    /// Locks the upkeep for a change: the log takes writes, and what a salvaging open had planned is done.
    fn begin_change(&self) -> Result<MutexGuard<'_, Upkeep>> {
        self.appender.health.check()?;
        self.adopt_salvaged()?;
        let mut upkeep = self.upkeep.lock();
        self.carry_out_plan_locked(&mut upkeep)?;
        self.appender.health.check()?;
        Ok(upkeep)
    }

    /// Makes durable what a salvaging open has found: the same bytes again, so no file changes. A failure poisons.
    pub(super) fn adopt_salvaged(&self) -> Result<()> {
        if !self.planned.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut upkeep = self.upkeep.lock();
        let Some(planned) = &mut upkeep.plan else {
            return Ok(());
        };
        let (durable_seq, mark) = (planned.durable_seq, planned.mark);
        if let Err(error) = planned.plan.adopt() {
            self.appender.health.poison();
            drop(upkeep);
            self.appender.fail();
            return Err(error.into_io());
        }
        // A cut may follow before the group knows: it is made under this lock.
        let epoch = self.appender.cursor().epoch;
        drop(upkeep);
        // With no lock held: callbacks run.
        self.appender.group.adopted(epoch, durable_seq, mark);
        Ok(())
    }

    /// Makes all that was appended before the call, or salvaged, durable; the durable seq.
    pub(super) fn sync(&self) -> Result<u64> {
        self.appender.health.check()?;
        self.adopt_salvaged()?;
        self.appender.sync()
    }

    /// Does what a salvaging open has put off.
    #[cold]
    pub(super) fn carry_out_plan(&self) -> Result<()> {
        self.change(|| self.begin_change().map(drop))
    }

    fn carry_out_plan_locked(&self, upkeep: &mut Upkeep) -> Result<()> {
        if let Some(planned) = upkeep.plan.take() {
            let done = planned.plan.carry_out(&self.paths, &mut upkeep.manifest);
            if done.is_err() {
                // Half of it may be done, and its bytes may not be durable: like a failed sync.
                self.appender.health.poison();
            }
            self.planned.store(false, Ordering::Release); // with the Acquire in Log::before_append
            done?;
        }
        Ok(())
    }

    /// Stores how far the log is durable. A failure has poisoned the log, and that is where it is reported.
    pub(super) fn store_mark(&self) {
        let _ = self.change(|| self.write_mark());
    }

    fn write_mark(&self) -> Result<()> {
        let mut upkeep = self.upkeep.lock();
        let mark = self.appender.group.mark();
        if upkeep.plan.is_some() || mark.is_none() || mark == upkeep.manifest.current().mark {
            return Ok(());
        }
        let last_timestamp_ms = self.appender.cursor().last_timestamp_ms;
        let next = Manifest { mark, last_timestamp_ms, ..upkeep.manifest.current().clone() };
        upkeep.manifest.replace_one(next)
    }

    pub(super) fn truncate_before(&self, seq: u64) -> Result<u64> {
        self.change(|| self.drop_entries_before(seq))
    }

    pub(super) fn truncate_after(&self, seq: u64) -> Result<()> {
        self.change(|| self.drop_entries_after(seq))
    }

    pub(super) fn reset(&self, next_seq: u64) -> Result<()> {
        self.change(|| self.drop_all(next_seq))
    }

    fn drop_entries_before(&self, seq: u64) -> Result<u64> {
        let mut upkeep = self.begin_change()?;
        let appender = &*self.appender;
        let Snapshot { slots, next_seq, .. } = appender.snapshot();
        if seq > next_seq {
            return Err(Error::SeqOutOfRange { seq, first_seq: slots.first_seq, next_seq });
        }
        if seq <= slots.first_seq {
            return Ok(slots.first_seq);
        }
        upkeep.check_not_lost(seq)?;

        let (first_segment, first_seq, last_timestamp_ms) = {
            let cursor = appender.cursor();
            let first = first_kept(&appender.set.read(), seq);
            // With nothing left, the next segment to be made is the first.
            let (id, first_seq) = first.unwrap_or((cursor.next_id, cursor.next_seq));
            (id, first_seq, cursor.last_timestamp_ms)
        };
        if first_seq == slots.first_seq {
            return Ok(first_seq);
        }
        // 1. The manifest. A crash before it leaves the old first seq, one after it the new one.
        let mark = appender.group.mark().filter(|mark| mark.segment >= first_segment && mark.seq >= first_seq);
        let next = Manifest { mark, ..upkeep.starting_at(first_segment, first_seq, last_timestamp_ms) };
        upkeep.manifest.replace(next)?;
        // 2. What readers see.
        drop(slots);
        let dropped = drop_before(appender, first_segment, first_seq);
        upkeep.losses.retain(|loss| loss.seqs.end > first_seq);
        drop(upkeep);
        // 3. The files, some time later. One that a reader needs and that cannot be mapped stays; the next open unlinks it.
        let removable = dropped.into_iter().filter(|segment| keep_for_readers(segment).is_ok()).collect();
        appender.keeper.retire(removable);
        appender.wake_followers();
        Ok(first_seq)
    }

    fn drop_entries_after(&self, seq: u64) -> Result<()> {
        let appender = &*self.appender;
        let (mut upkeep, slots, next_seq) = loop {
            // What stays is durable before the cut says so. Synced without the lock, for a sync runs callbacks; once more if somebody
            // cut and appended in between.
            self.sync()?;
            let upkeep = self.begin_change()?;
            let Snapshot { slots, next_seq, .. } = appender.snapshot();
            if seq >= next_seq - 1 {
                drop(upkeep);
                return self.sync().map(drop);
            }
            if seq <= appender.group.durable_seq() {
                break (upkeep, slots, next_seq);
            }
        };
        if seq + 1 < slots.first_seq {
            return Err(Error::SeqOutOfRange { seq, first_seq: slots.first_seq, next_seq });
        }
        upkeep.check_not_lost(seq)?;
        upkeep.remove_dead(&self.paths)?;

        let kept = kept_up_to(&slots, next_seq, seq)?;
        drop(slots);
        let last = kept.last;
        let (callbacks, next_id, last_timestamp_ms) = self.cut(&mut upkeep, kept, seq, seq + 1);
        let mut next = Manifest { last_timestamp_ms, ..upkeep.manifest.current().clone() };
        next.lost = if next.lost.start > seq { 0..0 } else { next.lost.start..next.lost.end.min(seq + 1) };
        match last {
            Some(last) => {
                let Predecessor { id: segment, end_seq, end_offset } = last;
                next.cut = Some(Cut { segment, end_seq, end_offset, next_id });
                next.mark = Some(Mark { seq: end_seq, segment, offset: end_offset });
            }
            None => {
                (next.first_segment, next.first_seq) = (next_id, seq + 1);
                (next.cut, next.mark) = (None, None);
            }
        }
        self.finish_cut(upkeep, next, callbacks)
    }

    fn drop_all(&self, next_seq: u64) -> Result<()> {
        let mut upkeep = self.begin_change()?;
        let Snapshot { slots, next_seq: present, .. } = self.appender.snapshot();
        if !(1..SEQ_LIMIT).contains(&next_seq) {
            return Err(Error::SeqOutOfRange { seq: next_seq, first_seq: slots.first_seq, next_seq: present });
        }
        upkeep.remove_dead(&self.paths)?;
        drop(slots);
        let kept = Kept { slots: Slots::new(Vec::new(), next_seq), last: None };
        let (callbacks, next_id, last_timestamp_ms) = self.cut(&mut upkeep, kept, 0, next_seq);
        upkeep.losses.clear();
        let next = Manifest {
            first_segment: next_id,
            first_seq: next_seq,
            cut: None,
            mark: None,
            lost: 0..0,
            last_timestamp_ms,
            ..upkeep.manifest.current().clone()
        };
        self.finish_cut(upkeep, next, callbacks)
    }

    /// Takes everything above `last_kept` away from appenders and readers, in a new epoch, and freezes appends until the manifest
    /// says so too. Returns the callbacks to settle, the id that the next segment has at least, and the last timestamp.
    fn cut(&self, upkeep: &mut Upkeep, kept: Kept, last_kept: u64, next_seq: u64) -> (CutCallbacks, u64, u64) {
        let appender = &*self.appender;
        let mut cursor = appender.cursor();
        cursor.frozen = true;
        cursor.epoch += 1;
        cursor.jump(next_seq);
        cursor.predecessor = kept.last;
        let active = cursor.active.take();
        let unsynced = std::mem::take(&mut cursor.unsynced);
        let mark = kept.last.map(|last| Mark { seq: last.end_seq, segment: last.id, offset: last.end_offset });
        // The group first: who sees the new epoch finds the cut that began it.
        let callbacks = appender.group.cut(cursor.epoch, last_kept, next_seq, mark);
        // What was appended since the caller looked is dead too; a segment that was made active since holds nothing else.
        let live: Vec<u64> = kept.slots.list().iter().filter_map(Slot::segment).map(|segment| segment.id).collect();
        let before = appender.show_cut(&cursor, kept.slots);
        let is_dead = |segment: &&Arc<Segment>| !live.contains(&segment.id);
        upkeep.dead.extend(before.list().iter().filter_map(Slot::segment).filter(is_dead).cloned());
        let result = (callbacks, cursor.next_id, cursor.last_timestamp_ms);
        drop(cursor);
        // What is left is durable, and nothing is appended to it any more: its files are let go of. Unmapping takes system calls, and
        // belongs under no lock.
        active.iter().for_each(|active| active.backing.release());
        unsynced.iter().for_each(|sealed| sealed.backing.release());
        appender.keeper.notice_sealed();
        drop((active, unsynced, before));
        result
    }

    /// Makes a cut durable, lets appends go on, settles who waited, and unlinks the dead.
    ///
    /// 1. The manifest, both slots. A crash before leaves the log as it was, one after as it is now.
    /// 2. The dead files. A crash before leaves them, and the manifest says that they are dead.
    fn finish_cut(
        &self,
        mut upkeep: MutexGuard<'_, Upkeep>,
        next: Manifest,
        mut callbacks: CutCallbacks,
    ) -> Result<()> {
        let appender = &*self.appender;
        let (first_seq, next_seq) = (next.first_seq, appender.next_seq());
        let written = upkeep.manifest.replace(next);
        upkeep.losses.retain(|loss| loss.seqs.start < next_seq && loss.seqs.end > first_seq);
        appender.group.end_cut(&mut callbacks, written.is_ok());
        appender.thaw();
        let done = written.and_then(|()| upkeep.remove_dead(&self.paths));
        drop(upkeep);
        appender.group.settle_cut(callbacks);
        done
    }

    pub(super) fn rotate(&self) -> Result<()> {
        self.change(|| {
            let _upkeep = self.begin_change()?;
            let mut cursor = self.appender.cursor();
            if cursor.active_holds_entries() {
                self.appender.seal_active(&mut cursor);
            }
            Ok(())
        })?;
        self.sync().map(drop)
    }

    pub(super) fn close(&self) -> Result<()> {
        let mut lock = self.lock.lock();
        if lock.is_none() {
            return Ok(());
        }
        let appender = &*self.appender;
        // 1. Refuse what is new. Whoever holds the cursor's lock finishes.
        appender.health.close();
        appender.wake_followers();
        // 2. Make everything durable, and settle who waits.
        //    A salvaged log that nobody wrote to, or synced, is left as it was found.
        let is_untouched = self.planned.load(Ordering::Acquire);
        let synced = if is_untouched { Ok(0) } else { appender.sync_published() };
        appender.seal_if_empty();
        appender.group.close();
        // 3. End the threads. The files that nobody needs go with the keeper.
        if let Some(ticker) = self.ticker.lock().take() {
            ticker.stop();
        }
        appender.keeper.stop();
        appender.release_files();
        // 4. What a view covers stays readable: another log may unlink the files.
        let mapped = self.map_what_is_seen();
        // 5. Say that nothing lies past the mark. A crash before means a short scan.
        let marked = synced.and_then(|_| self.write_clean());
        // 6. Give the directory free.
        *lock = None;
        marked.and(mapped)
    }

    fn write_clean(&self) -> Result<()> {
        let mut upkeep = self.upkeep.lock();
        if upkeep.plan.is_some() {
            return Ok(()); // Opened to salvage, and never written to: nothing is changed.
        }
        if self.appender.health.is_poisoned() {
            return Err(Error::Poisoned);
        }
        let mark = self.appender.group.mark();
        let last_seq = self.appender.next_seq() - 1;
        let is_all_marked = mark.map_or(last_seq < self.appender.set.read().first_seq, |mark| mark.seq == last_seq);
        let last_timestamp_ms = self.appender.cursor().last_timestamp_ms;
        let next = Manifest { mark, last_timestamp_ms, clean: is_all_marked, ..upkeep.manifest.current().clone() };
        upkeep.manifest.replace(next).map_err(Error::into_io)
    }

    fn map_what_is_seen(&self) -> Result<()> {
        let slots = Arc::clone(&self.appender.set.read());
        let is_seen_in_whole = Arc::strong_count(&slots) > 2; // the set's and ours
        let mut mapped = Ok(());
        for segment in slots.list().iter().filter_map(Slot::segment) {
            if is_seen_in_whole || Arc::strong_count(segment) > 1 {
                mapped = mapped.and(segment.keep_readable());
            }
        }
        mapped
    }
}

/// The first segment of `slots` that holds an entry from `seq` on, or is appended to; its id and first seq.
fn first_kept(slots: &Slots, seq: u64) -> Option<(u64, u64)> {
    slots.list().iter().find_map(|slot| match slot {
        Slot::Segment { segment, end } if end.map_or(true, |end| end.seq > seq) => Some((segment.id, segment.base_seq)),
        _ => None,
    })
}

/// Drops the segments below `first_segment` from what readers see; returns them.
fn drop_before(appender: &Appender, first_segment: u64, first_seq: u64) -> Vec<Arc<Segment>> {
    let mut cursor = appender.cursor();
    let mut set = appender.set.write();
    let (dropped, list) = set.list().iter().cloned().partition(|slot| match slot {
        Slot::Segment { segment, .. } => segment.id < first_segment,
        Slot::Lost(damage) => damage.seqs.end <= first_seq,
    });
    let dropped: Vec<Slot> = dropped;
    let before = std::mem::replace(&mut *set, Arc::new(Slots::new(list, first_seq)));
    drop(set);
    cursor.unsynced.retain(|sealed| sealed.end.segment >= first_segment);
    drop(cursor);
    appender.group.drop_before(first_segment, first_seq - 1);
    drop(before);
    dropped.iter().filter_map(Slot::segment).cloned().collect()
}

/// What a cut after `seq` leaves of `slots`.
fn kept_up_to(slots: &Slots, next_seq: u64, seq: u64) -> Result<Kept> {
    let Some((index, end)) = walk::end_of_frame(slots, next_seq, seq)? else {
        return Ok(Kept { slots: Slots::new(Vec::new(), seq + 1), last: None });
    };
    let mut list = slots.list()[..=index].to_vec();
    let mut last = None;
    if let Some(Slot::Segment { segment, end: slot_end }) = list.last_mut() {
        *slot_end = Some(end);
        last = Some(Predecessor { id: segment.id, end_seq: seq, end_offset: end.offset });
    }
    Ok(Kept { slots: Slots::new(list, slots.first_seq), last })
}
