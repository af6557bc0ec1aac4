//! Entries: borrowed from a view, or pinned on their own.

use super::walk::Found;
use crate::error::{Damage, Error, Result};
use crate::format::frame::{self, Header, HEADER_LEN};
use crate::segment::sealed::Segment;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An entry of a [`View`](crate::View): its payload lies in the mapping of a segment file, unless it was compressed.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry<'v> {
    seq: u64,
    timestamp_ms: u64,
    payload: Cow<'v, [u8]>,
}

impl<'v> Entry<'v> {
    pub(super) fn new(found: &Found<'v>) -> Result<Entry<'v>> {
        if found.header.is_compressed() {
            let payload = Cow::Owned(decompress(found)?);
            return Ok(Entry { seq: found.header.seq, timestamp_ms: found.header.timestamp_ms, payload });
        }
        Ok(Entry::borrowed(&found.header, found.stored))
    }

    /// An entry that is stored as it was appended.
    #[inline]
    pub(super) fn borrowed(header: &Header, payload: &'v [u8]) -> Entry<'v> {
        Entry { seq: header.seq, timestamp_ms: header.timestamp_ms, payload: Cow::Borrowed(payload) }
    }

    /// The entry's sequence number.
    #[inline]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was appended: the wall clock, to the millisecond, never before the entry that precedes it.
    pub fn timestamp(&self) -> SystemTime {
        time(self.timestamp_ms)
    }

    /// The bytes that were appended.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The bytes that were appended, for as long as the view lives; owned only if they were compressed.
    pub fn into_payload(self) -> Cow<'v, [u8]> {
        self.payload
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("seq", &self.seq).field("len", &self.payload.len()).finish_non_exhaustive()
    }
}

/// An entry that keeps its segment's mapping alive by itself: valid, and the same bytes, across truncation, close and reopen.
///
/// It costs address space and, once the file is unlinked, the disk space of one segment; no file descriptor.
#[derive(Clone)]
pub struct PinnedEntry {
    seq: u64,
    timestamp_ms: u64,
    payload: Pinned,
}

#[derive(Clone)]
enum Pinned {
    Mapped { segment: Arc<Segment>, offset: u64, len: usize },
    Decompressed(Arc<[u8]>),
}

impl PinnedEntry {
    pub(super) fn new(found: &Found<'_>) -> Result<PinnedEntry> {
        let Found { segment, offset, header, .. } = found;
        let payload = if header.is_compressed() {
            Pinned::Decompressed(decompress(found)?.into())
        } else {
            Pinned::Mapped {
                segment: Arc::clone(segment),
                offset: offset + HEADER_LEN as u64,
                len: header.stored_len as usize,
            }
        };
        Ok(PinnedEntry { seq: header.seq, timestamp_ms: header.timestamp_ms, payload })
    }

    /// The entry's sequence number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was appended: the wall clock, to the millisecond, never before the entry that precedes it.
    pub fn timestamp(&self) -> SystemTime {
        time(self.timestamp_ms)
    }

    /// The bytes that were appended.
    pub fn payload(&self) -> &[u8] {
        match &self.payload {
            Pinned::Decompressed(payload) => payload,
            Pinned::Mapped { segment, offset, len } => match segment.map.get() {
                Some(map) => &map.bytes(offset + *len as u64)[*offset as usize..],
                None => unreachable!("the frame was read through the segment's mapping, which stays"),
            },
        }
    }
}

impl AsRef<[u8]> for PinnedEntry {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl fmt::Debug for PinnedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedEntry")
            .field("seq", &self.seq)
            .field("len", &self.payload().len())
            .finish_non_exhaustive()
    }
}

fn decompress(found: &Found<'_>) -> Result<Vec<u8>> {
    frame::decompress(found.stored).map_err(|kind| {
        let (start, seq) = (found.offset, found.header.seq);
        let path = found.segment.path.to_path_buf();
        Error::damaged(Damage { path, bytes: start..start + found.header.frame_len(), seqs: seq..seq + 1, kind })
    })
}

fn time(ms: u64) -> SystemTime {
    // 48 bits of milliseconds fit a SystemTime on every system that this library compiles for.
    UNIX_EPOCH + Duration::from_millis(ms)
}
