//! The ordered set of live segments, as views see it: a list that is shared until it changes.

use super::sealed::Segment;
use crate::error::Damage;
use crate::format::walk::Position;
use crate::sys::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::Arc;

/// One element of the log's order.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    /// A segment, or the part of it that counts.
    Segment {
        segment: Arc<Segment>,
        /// Where its frames end. None while it is appended to. The end belongs to the list and not to the segment: a view from
        /// before a cut keeps the old one.
        end: Option<Position>,
    },
    /// Entries that no segment holds any more, after a salvage.
    Lost(Arc<Damage>),
}

impl Slot {
    /// The seqs from its first on.
    pub(crate) fn first_seq(&self) -> u64 {
        match self {
            Slot::Segment { segment, .. } => segment.base_seq,
            Slot::Lost(damage) => damage.seqs.start,
        }
    }

    pub(crate) fn segment(&self) -> Option<&Arc<Segment>> {
        match self {
            Slot::Segment { segment, .. } => Some(segment),
            Slot::Lost(_) => None,
        }
    }
}

/// The live segments at one moment, in the order of their seqs, without a hole between them.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    list: Vec<Slot>,
    /// The first seq of each slot, close together: a lookup touches few cache lines.
    first_seqs: Vec<u64>,
    pub(crate) first_seq: u64,
}

impl Slots {
    /// The slots of `list`, of which entries from `first_seq` on are live.
    pub(crate) fn new(list: Vec<Slot>, first_seq: u64) -> Slots {
        let first_seqs = list.iter().map(Slot::first_seq).collect();
        Slots { list, first_seqs, first_seq }
    }

    pub(crate) fn list(&self) -> &[Slot] {
        &self.list
    }

    /// Adds a slot behind all others.
    pub(crate) fn push(&mut self, slot: Slot) {
        self.first_seqs.push(slot.first_seq());
        self.list.push(slot);
    }

    /// Ends the last segment, which was appended to; or takes it away if it holds no entry.
    pub(crate) fn seal_last(&mut self, at: Position) {
        match self.list.last_mut() {
            Some(Slot::Segment { segment, end }) if segment.base_seq < at.seq => *end = Some(at),
            _ => {
                self.list.pop();
                self.first_seqs.pop();
            }
        }
    }

    /// The index of the slot that holds `seq`, if any does; the last slot is open-ended.
    #[inline]
    pub(crate) fn index_of(&self, seq: u64) -> Option<usize> {
        self.first_seqs.partition_point(|&first_seq| first_seq <= seq).checked_sub(1)
    }
}

/// The set that views are taken from.
#[derive(Debug)]
pub(crate) struct Set {
    /// Written under the cursor's lock, with the published seq that belongs to it. Readers copy the `Arc`, no more, under the lock.
    slots: RwLock<Arc<Slots>>,
}

impl Set {
    pub(crate) fn new(slots: Slots) -> Set {
        Set { slots: RwLock::new(Arc::new(slots)) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Arc<Slots>> {
        self.slots.read()
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Arc<Slots>> {
        self.slots.write()
    }
}
