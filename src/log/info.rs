//! What the log tells about itself.

use crate::segment::set::Slot;
use crate::write::appender::{Appender, Snapshot};
use crate::write::counters::Tally;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a segment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentState {
    /// Appended to.
    Active,
    /// Complete.
    Sealed,
}

/// One live segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The number in its name.
    pub id: u64,
    /// The file.
    pub path: PathBuf,
    /// Where it is in its life.
    pub state: SegmentState,
    /// The seq of its first entry.
    pub first_seq: u64,
    /// One more than the seq of its last entry.
    pub next_seq: u64,
    /// Bytes from the file's start to the end of its last entry.
    pub bytes_used: u64,
    /// Bytes that the file takes on the disk.
    pub bytes_allocated: u64,
    /// A view, an iterator or an entry keeps it alive: truncated away, it would still take space.
    pub pinned: bool,
}

/// Counters of one `Log`, from zero at open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Entries appended.
    pub entries_appended: u64,
    /// Bytes of payload appended, as stored: after compression.
    pub bytes_appended: u64,
    /// Syncs that returned Ok, of sealed segments and of the active one.
    pub syncs: u64,
    /// Segments that were made active.
    pub rotations: u64,
}

pub(super) fn segments(appender: &Appender) -> Vec<SegmentInfo> {
    let Snapshot { slots, next_seq, .. } = appender.snapshot();
    let is_seen_in_whole = Arc::strong_count(&slots) > 2; // the set's and ours
    let info = |slot: &Slot| match slot {
        Slot::Lost(_) => None,
        Slot::Segment { segment, end } => {
            let state = if end.is_some() { SegmentState::Sealed } else { SegmentState::Active };
            let own_owners = if state == SegmentState::Active { 2 } else { 1 }; // the list's, and the cursor's
            Some(SegmentInfo {
                id: segment.id,
                path: segment.path.to_path_buf(),
                state,
                first_seq: segment.base_seq,
                next_seq: end.map_or(next_seq, |end| end.seq),
                bytes_used: end.map_or_else(|| segment.extent.published(), |end| end.offset),
                bytes_allocated: segment.bytes_allocated(),
                pinned: is_seen_in_whole || Arc::strong_count(segment) > own_owners,
            })
        }
    };
    slots.list().iter().filter_map(info).collect()
}

pub(super) fn stats(appender: &Appender) -> Stats {
    let syncs = appender.group.syncs();
    let (counters, next_seq) = {
        let cursor = appender.cursor();
        (cursor.counters, cursor.next_seq)
    };
    let Tally { entries, bytes } = counters.tally(next_seq);
    Stats { entries_appended: entries, bytes_appended: bytes, syncs, rotations: counters.rotations }
}
