//! Views: the log as it was at one moment.

use super::entry::{Entry, PinnedEntry};
use super::iter::Iter;
use super::run::plain_entry;
use super::walk::{self, OnDamage, Walk};
use crate::error::{Error, Result};
use crate::segment::set::Slots;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// The entries `[first_seq, next_seq)` as they were when the view was taken. Later appends and truncations do not change it, and the
/// slices it gives out stay valid for as long as it lives, also after the log was closed.
///
/// A view keeps the segments that it covers alive: drop it to let their disk space go.
#[derive(Clone)]
pub struct View {
    pub(super) slots: Arc<Slots>,
    pub(super) next_seq: u64,
    pub(super) on_damage: OnDamage,
    /// Taken from a closed log: it can open no files any more.
    closed: bool,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("first_seq", &self.first_seq())
            .field("next_seq", &self.next_seq)
            .finish_non_exhaustive()
    }
}

impl View {
    pub(crate) fn new(slots: Arc<Slots>, next_seq: u64, on_damage: OnDamage, closed: bool) -> View {
        View { slots, next_seq, on_damage, closed }
    }

    /// The first seq of the snapshot; [`next_seq`](Self::next_seq) if it is empty.
    pub fn first_seq(&self) -> u64 {
        self.slots.first_seq
    }

    /// One more than the last seq of the snapshot.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// All entries of the snapshot, in order, from either end.
    pub fn iter(&self) -> Iter<'_> {
        self.range(..)
    }

    /// The entries whose seqs lie in `seqs`, clipped to the snapshot.
    pub fn range(&self, seqs: impl RangeBounds<u64>) -> Iter<'_> {
        let start = match seqs.start_bound() {
            Bound::Included(&seq) => seq,
            Bound::Excluded(&seq) => seq.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match seqs.end_bound() {
            Bound::Included(&seq) => seq.saturating_add(1),
            Bound::Excluded(&seq) => seq,
            Bound::Unbounded => u64::MAX,
        };
        let start = start.clamp(self.first_seq(), self.next_seq);
        let end = end.clamp(start, self.next_seq);
        Iter::new(self, Walk::new(start..end, self.on_damage))
    }

    /// The entry with `seq`; None if the snapshot does not reach there.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the entry is not what was appended, [`Error::Io`] if it cannot be read, [`Error::Closed`] if the view
    /// was taken after the log was closed.
    #[inline]
    pub fn get(&self, seq: u64) -> Result<Option<Entry<'_>>> {
        self.check_open()?;
        let at_hand = walk::find_at_hand(&self.slots, self.next_seq, seq);
        match at_hand.and_then(|(image, at)| plain_entry(&image, at)) {
            Some((_, entry)) => Ok(Some(entry)),
            None => self.find(seq),
        }
    }

    #[inline(never)]
    fn find(&self, seq: u64) -> Result<Option<Entry<'_>>> {
        walk::find(&self.slots, self.next_seq, seq)?.map(|found| Entry::new(&found)).transpose()
    }

    /// As [`get`](Self::get), for an entry that keeps its segment alive by itself.
    pub(crate) fn get_pinned(&self, seq: u64) -> Result<Option<PinnedEntry>> {
        self.check_open()?;
        walk::find(&self.slots, self.next_seq, seq)?.map(|found| PinnedEntry::new(&found)).transpose()
    }

    #[inline]
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed {
            return Err(Error::Closed);
        }
        Ok(())
    }
}

impl<'v> IntoIterator for &'v View {
    type Item = Result<Entry<'v>>;
    type IntoIter = Iter<'v>;

    fn into_iter(self) -> Iter<'v> {
        self.iter()
    }
}
