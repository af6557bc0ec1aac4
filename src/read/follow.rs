//! Following the log: entries as they come, across rotation.

use super::entry::PinnedEntry;
use super::walk::{OnDamage, Walk};
use crate::error::{Error, Result};
use crate::format::walk::Position;
use crate::sys::sync::Instant;
use crate::write::appender::{Appender, Snapshot};
use crate::write::group_sync::Claim;
use crate::write::reentry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Which entries a follower gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// All that are published.
    Published,
    /// Those that are durable: what a replica may be told.
    Durable,
}

/// Follows a log from one seq on: each entry once, in order, as it comes.
///
/// It keeps no segment alive. A follower that fell behind a truncation gets [`Error::Truncated`], one of a closed log
/// [`Error::Closed`], one that has read all of a poisoned log [`Error::Poisoned`].
pub struct Follower {
    appender: Arc<Appender>,
    until: Until,
    on_damage: OnDamage,
    /// The seq to deliver next.
    next_seq: u64,
    /// The epoch in which all before `next_seq` was delivered; entered in the group, so that cuts since are remembered.
    epoch: u64,
    /// The segment and the place of `next_seq`, if they are known.
    place: Option<(u64, Position)>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("next_seq", &self.next_seq).field("until", &self.until).finish_non_exhaustive()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.appender.group.leave(self.epoch);
    }
}

impl Follower {
    pub(crate) fn new(appender: Arc<Appender>, until: Until, on_damage: OnDamage, from_seq: u64) -> Result<Follower> {
        let Snapshot { slots, next_seq, epoch } = appender.enter();
        let follower = Follower { appender, until, on_damage, next_seq: from_seq, epoch, place: None };
        if from_seq < slots.first_seq {
            return Err(Error::Truncated { first_seq: slots.first_seq });
        }
        if from_seq > next_seq {
            return Err(Error::SeqOutOfRange { seq: from_seq, first_seq: slots.first_seq, next_seq });
        }
        Ok(follower)
    }

    /// The seq of the entry that comes next.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The next entry; None if there is none within `timeout`. Zero only looks.
    ///
    /// # Errors
    /// [`Error::Truncated`] if retention passed the follower (go on from the seq it names), or if a cut took entries that it has
    /// delivered (undo them, and go on from the seq it names). [`Error::Damaged`] for an entry that is not what was appended; the next
    /// call tries it again, or goes on behind it in a log that was opened to salvage. [`Error::Closed`], [`Error::Poisoned`],
    /// [`Error::Io`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<PinnedEntry>> {
        reentry::check_call(self.appender.number());
        let deadline = Instant::now().checked_add(timeout).unwrap_or_else(|| Instant::now() + FAR);
        loop {
            let snapshot = self.look()?;
            let bound = match self.until {
                Until::Published => snapshot.next_seq,
                Until::Durable => match self.appender.group.durable_seq_in(snapshot.epoch) {
                    Some(durable_seq) => snapshot.next_seq.min(durable_seq + 1),
                    None => {
                        // A cut has come in between: the durable seq is that of other entries. It is shown when this lock is free.
                        drop(self.appender.cursor());
                        continue;
                    }
                },
            };
            if self.next_seq < bound {
                return self.deliver(&snapshot).map(Some);
            }
            self.appender.health.check()?;
            let changed = match self.until {
                Until::Published => self.appender.wait_published(self.next_seq, snapshot.epoch, deadline),
                Until::Durable => self.appender.group.wait_durable_until(self.next_seq, snapshot.epoch, deadline),
            };
            if !changed {
                return Ok(None);
            }
        }
    }

    /// What there is in the follower's epoch, if the log still holds what was delivered, and what comes next.
    fn look(&mut self) -> Result<Snapshot> {
        if self.appender.health.is_closed() {
            return Err(Error::Closed);
        }
        let mut snapshot = self.appender.snapshot();
        if snapshot.epoch != self.epoch {
            snapshot = self.appender.enter();
            let group = &self.appender.group;
            let delivered = Claim { seq: self.next_seq - 1, epoch: self.epoch };
            if let Err(truncated) = group.check_cuts(delivered) {
                group.leave(snapshot.epoch);
                return Err(truncated);
            }
            group.leave(std::mem::replace(&mut self.epoch, snapshot.epoch));
            self.place = None;
        }
        let first_seq = snapshot.slots.first_seq;
        if self.next_seq < first_seq {
            return Err(Error::Truncated { first_seq });
        }
        Ok(snapshot)
    }

    /// The entry with `next_seq`, which the snapshot holds.
    fn deliver(&mut self, snapshot: &Snapshot) -> Result<PinnedEntry> {
        let mut walk = Walk::new(self.next_seq..snapshot.next_seq, self.on_damage);
        if let Some((segment, position)) = self.place.take() {
            walk.start_at(&snapshot.slots, segment, position);
        }
        match walk.next(&snapshot.slots, snapshot.next_seq) {
            Some(Ok(found)) => {
                let entry = PinnedEntry::new(&found);
                if entry.is_ok() || self.on_damage == OnDamage::Skip {
                    self.next_seq += 1;
                    let next = Position { seq: found.header.seq, offset: found.offset }.after(&found.header);
                    self.place = Some((found.segment.id, next));
                }
                entry
            }
            Some(Err(error)) => {
                if self.on_damage == OnDamage::Skip && error.is_damage() {
                    self.next_seq = walk.left().start;
                }
                Err(error)
            }
            None => unreachable!("the caller saw that the snapshot holds the seq"),
        }
    }
}

/// As good as for ever, for time-outs that the clock cannot add.
const FAR: Duration = Duration::from_secs(1 << 30);
