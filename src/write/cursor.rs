//! The cursor: everything that an append changes, under one lock.

use super::batch::Payload;
use crate::format::frame::{self, Header, ALIGN, HEADER_LEN, NO_WITNESS, TIMESTAMP_MAX};
use crate::format::manifest::Mark;
use crate::format::segment::{Predecessor, FRAMES_OFFSET};
use crate::format::walk::Position;
use crate::segment::active::{Active, Backing};
use crate::sys::crc;
use std::collections::VecDeque;
use std::sync::Arc;

/// The state of the append path.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The segment that is appended to. None: the next append makes one active.
    pub(crate) active: Option<Active>,
    pub(crate) next_seq: u64,
    /// Raised by every cut and reset: what was claimed under a lower one is not what has the seq now.
    pub(crate) epoch: u64,
    /// Where the last segment before the active one ends; None where the log begins.
    pub(crate) predecessor: Option<Predecessor>,
    /// The id that the next active segment has at least.
    pub(crate) next_id: u64,
    pub(crate) last_timestamp_ms: u64,
    /// Sealed segments that are not durable yet, in order.
    pub(crate) unsynced: VecDeque<Sealed>,
    /// Appended since the last sync began.
    pub(crate) pending: Pending,
    /// Appends wait: a cut is being written to the manifest.
    pub(crate) frozen: bool,
    /// Somebody waits for the next entry to be published.
    pub(crate) watched: bool,
    /// Offset in the active segment from which the next file is wanted.
    pub(crate) prepare_at: u64,
    pub(crate) bytes_appended: u64,
    pub(crate) entries_appended: u64,
    pub(crate) rotations: u64,
}

/// A sealed segment that is not durable yet, and how far the log is durable once it is.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) backing: Arc<Backing>,
    pub(crate) end: Mark,
}

/// What a batch policy counts.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) entries: u32,
    pub(crate) bytes: u64,
}

/// Whether a frame, or the frames of a batch, can be stored now.
#[derive(Debug)]
pub(crate) enum Room {
    Fits,
    /// The active segment's file is still growing.
    Growing(Arc<Backing>),
    /// Only in the next segment.
    Full,
}

/// The place of a frame in its batch.
pub(crate) const ALONE: u8 = frame::FLAG_FIRST | frame::FLAG_LAST;

impl Cursor {
    /// Whether `len` bytes of frames fit the active segment.
    #[inline]
    pub(crate) fn room_for(&self, len: u64) -> Room {
        use crate::segment::active::Growth;
        let Some(active) = &self.active else {
            return Room::Full;
        };
        let end = active.writer.published() + len;
        // The order matters: a file that grew between the two questions is asked again, not given up.
        let growth = active.backing.growth();
        if end <= active.segment.extent.capacity() {
            Room::Fits
        } else if growth == Growth::Ongoing && end <= active.segment.mapped_len {
            Room::Growing(Arc::clone(&active.backing))
        } else {
            Room::Full
        }
    }

    /// Appends a payload that fits; its seq.
    #[inline]
    pub(crate) fn push(&mut self, payload: &Payload<'_>, place: u8, durable_seq: u64, now_ms: u64) -> u64 {
        let Some((position, timestamp_ms)) = self.claim(now_ms) else {
            unreachable!("room was checked");
        };
        let header = Header {
            seq: position.seq,
            stored_len: payload.stored.len() as u32,
            witness_distance: witness_distance(position.seq, durable_seq),
            payload_crc: payload.crc,
            timestamp_ms,
            flags: payload.flags | place,
        };
        self.store(position, &header, &payload.stored);
        self.advance(&header)
    }

    /// Appends a payload of `len` bytes that `fill` writes in place; its seq. Nothing changes if `fill` panics.
    pub(crate) fn push_with(&mut self, len: usize, durable_seq: u64, now_ms: u64, fill: impl FnOnce(&mut [u8])) -> u64 {
        let Some((position, timestamp_ms)) = self.claim(now_ms) else {
            unreachable!("room was checked");
        };
        let Some(active) = &mut self.active else {
            unreachable!("room was checked");
        };
        let padded = frame::frame_len(len as u64) as usize - HEADER_LEN;
        let span = active.writer.span(position.offset + HEADER_LEN as u64, padded);
        span.fill(0);
        fill(&mut span[..len]);
        let header = Header {
            seq: position.seq,
            stored_len: len as u32,
            witness_distance: witness_distance(position.seq, durable_seq),
            payload_crc: crc::crc32c(&span[..len]),
            timestamp_ms,
            flags: ALONE,
        };
        active.writer.write(position.offset, &header.encode(active.segment.seed, position.offset));
        self.advance(&header)
    }

    /// The place and the time of the next frame.
    #[inline]
    fn claim(&self, now_ms: u64) -> Option<(Position, u64)> {
        let active = self.active.as_ref()?;
        let position = Position { seq: self.next_seq, offset: active.writer.published() };
        Some((position, next_timestamp(self.last_timestamp_ms, now_ms)))
    }

    /// Stores a frame where nothing is published yet.
    #[inline]
    fn store(&mut self, position: Position, header: &Header, stored: &[u8]) {
        let Some(active) = &mut self.active else {
            unreachable!("room was checked");
        };
        let payload_offset = position.offset + HEADER_LEN as u64;
        let end = position.offset + header.frame_len();
        if stored.len() as u64 % ALIGN != 0 {
            // The padding, and up to seven bytes that the payload overwrites: a recycled file holds anything there.
            active.writer.write(end - ALIGN, &[0; ALIGN as usize]);
        }
        active.writer.write(payload_offset, stored);
        active.writer.write(position.offset, &header.encode(active.segment.seed, position.offset));
    }

    /// Publishes the frame with `header`.
    #[inline]
    fn advance(&mut self, header: &Header) -> u64 {
        let Some(active) = &mut self.active else {
            unreachable!("room was checked");
        };
        active.writer.publish(active.writer.published() + header.frame_len());
        self.next_seq += 1;
        self.last_timestamp_ms = header.timestamp_ms;
        self.pending.entries = self.pending.entries.saturating_add(1);
        self.pending.bytes = self.pending.bytes.saturating_add(u64::from(header.stored_len));
        self.entries_appended += 1;
        self.bytes_appended += u64::from(header.stored_len);
        header.seq
    }

    /// How far the log is written, as a mark; None if nothing is there to mark.
    pub(crate) fn end(&self) -> Option<Mark> {
        match &self.active {
            Some(active) if active.writer.published() > FRAMES_OFFSET => {
                Some(Mark { seq: self.next_seq - 1, segment: active.segment.id, offset: active.writer.published() })
            }
            _ => self.predecessor.map(|p| Mark { seq: p.end_seq, segment: p.id, offset: p.end_offset }),
        }
    }

    pub(crate) fn active_holds_entries(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.writer.published() > FRAMES_OFFSET)
    }

    /// Ends the active segment, if there is one: nothing is appended to it any more. Returns it with its end.
    pub(crate) fn seal(&mut self) -> Option<(Arc<crate::segment::sealed::Segment>, Position)> {
        let active = self.active.take()?;
        active.backing.finish_growth();
        let end = Position { seq: self.next_seq, offset: active.writer.published() };
        if end.offset > FRAMES_OFFSET {
            self.predecessor =
                Some(Predecessor { id: active.segment.id, end_seq: end.seq - 1, end_offset: end.offset });
            let mark = Mark { seq: end.seq - 1, segment: active.segment.id, offset: end.offset };
            self.unsynced.push_back(Sealed { backing: active.backing, end: mark });
        }
        Some((active.segment, end))
    }
}

/// A timestamp for now that is not below the last one, and fits its 48 bits, wherever the clock jumped.
fn next_timestamp(last_ms: u64, now_ms: u64) -> u64 {
    now_ms.min(TIMESTAMP_MAX).max(last_ms)
}

/// The witness that a frame with `seq` carries when all up to `durable_seq` is durable: none if that is too far away to be said.
#[inline]
fn witness_distance(seq: u64, durable_seq: u64) -> u32 {
    match u32::try_from(seq - durable_seq) {
        Ok(distance) => distance,
        Err(_) => NO_WITNESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_never_decrease_and_never_overflow() {
        assert_eq!(next_timestamp(0, 5), 5);
        assert_eq!(next_timestamp(100, 5), 100, "the clock jumped back");
        assert_eq!(next_timestamp(100, u64::MAX), TIMESTAMP_MAX);
        assert_eq!(next_timestamp(TIMESTAMP_MAX, 5), TIMESTAMP_MAX);
    }

    #[test]
    fn a_witness_claims_no_more_than_was_durable() {
        assert_eq!(witness_distance(10, 9), 1);
        assert_eq!(witness_distance(1_000_000, 0), 1_000_000);
        let far = u64::from(u32::MAX);
        assert_eq!(witness_distance(far - 1, 0), NO_WITNESS - 1);
        assert_eq!(witness_distance(far, 0), NO_WITNESS, "all ones claims nothing");
        assert_eq!(witness_distance(far + 1, 0), NO_WITNESS);
    }
}
