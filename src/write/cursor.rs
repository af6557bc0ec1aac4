//! The cursor: everything that an append changes, under one lock.

use super::batch::Body;
use super::counters::{Counters, Tally};
use super::group_sync::Claim;
use crate::error::Result;
use crate::format::frame::{self, Header, ALIGN, FLAGS_ALONE, HEADER_LEN, NO_WITNESS, TIMESTAMP_MAX};
use crate::format::manifest::Mark;
use crate::format::segment::{Predecessor, FRAMES_OFFSET};
use crate::format::walk::Position;
use crate::segment::active::{Active, Backing};
use crate::sys::crc;
use std::collections::VecDeque;
use std::sync::Arc;

/// The state of the append path. What every append changes comes first, on two cache lines with the lock: threads that append in
/// turn pay for each line that they pass to each other.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Cursor {
    /// The segment that is appended to. None: the next append makes one active.
    pub(crate) active: Option<Active>,
    pub(crate) next_seq: u64,
    pub(crate) last_timestamp_ms: u64,
    /// Offset in the active segment from which publishing has more to do: see [`attend`](Self::attend).
    pub(crate) attend_at: u64,
    pub(crate) counters: Counters,
    /// Raised by every cut and reset: what was claimed under a lower one is not what has the seq now.
    pub(crate) epoch: u64,
    /// Appends wait: a cut is being written to the manifest. No segment is active meanwhile.
    pub(crate) frozen: bool,
    /// Where the last segment before the active one ends; None where the log begins.
    pub(crate) predecessor: Option<Predecessor>,
    /// The id that the next active segment has at least.
    pub(crate) next_id: u64,
    /// Sealed segments that are not durable yet, in order.
    pub(crate) unsynced: VecDeque<Sealed>,
    /// What was appended when the last sync began.
    synced: Tally,
    /// Somebody waits for the next entry to be published.
    watched: bool,
    /// Offset in the active segment from which the next file is wanted.
    prepare_at: u64,
}

/// What a log's cursor starts from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) active: Option<Active>,
    pub(crate) next_seq: u64,
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) next_id: u64,
    pub(crate) last_timestamp_ms: u64,
}

/// What publishing has to do, but for most entries has not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    /// Somebody waits for an entry.
    pub(crate) wake: bool,
    /// The next file is wanted.
    pub(crate) prepare: bool,
}

/// A sealed segment that is not durable yet, and how far the log is durable once it is.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) backing: Arc<Backing>,
    pub(crate) end: Mark,
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

impl Cursor {
    pub(crate) fn new(start: Start) -> Cursor {
        let Start { active, next_seq, predecessor, next_id, last_timestamp_ms } = start;
        let counters = Counters::new(next_seq);
        let mut cursor = Cursor {
            active: None,
            next_seq,
            last_timestamp_ms,
            attend_at: u64::MAX,
            counters,
            epoch: 0,
            frozen: false,
            predecessor,
            next_id,
            unsynced: VecDeque::new(),
            synced: counters.tally(next_seq),
            watched: false,
            prepare_at: u64::MAX,
        };
        if let Some(active) = active {
            cursor.activate(active);
        }
        cursor
    }

    /// Goes on in `active`.
    pub(crate) fn activate(&mut self, active: Active) {
        self.next_id = self.next_id.max(active.segment.id + 1);
        self.prepare_at = active.segment.mapped_len / 2;
        self.active = Some(active);
        self.set_attention();
    }

    /// Goes on at `next_seq`, whatever came before.
    pub(crate) fn jump(&mut self, next_seq: u64) {
        self.counters.jump(self.next_seq, next_seq);
        self.next_seq = next_seq;
    }

    /// Somebody waits for the next entry to be published.
    pub(crate) fn watch(&mut self) {
        self.watched = true;
        self.set_attention();
    }

    fn set_attention(&mut self) {
        self.attend_at = if self.watched { 0 } else { self.prepare_at };
    }

    /// Whether publishing is all that is left to do for what was pushed.
    #[inline]
    pub(crate) fn needs_attention(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.writer.published() >= self.attend_at)
    }

    /// What else there is to do; it counts as done from here on.
    #[cold]
    pub(crate) fn attend(&mut self) -> Attention {
        let published = self.active.as_ref().map_or(0, |active| active.writer.published());
        let wake = std::mem::take(&mut self.watched);
        let prepare = published >= self.prepare_at;
        if prepare {
            self.prepare_at = u64::MAX;
        }
        self.set_attention();
        Attention { wake, prepare }
    }

    /// A sync begins that covers all that was appended.
    pub(crate) fn begin_sync(&mut self) {
        self.synced = self.counters.tally(self.next_seq);
    }

    /// What was appended since the last sync began.
    pub(crate) fn unsynced_tally(&self) -> Tally {
        let now = self.counters.tally(self.next_seq);
        Tally { entries: now.entries - self.synced.entries, bytes: now.bytes - self.synced.bytes }
    }

    /// Whether `len` bytes of frames fit the active segment, as far as can be told without asking anybody.
    #[inline]
    pub(crate) fn has_room(&self, len: u64) -> bool {
        self.active.as_ref().is_some_and(|active| active.writer.has_room(len))
    }

    /// Whether `len` bytes of frames fit the active segment.
    pub(crate) fn room_for(&mut self, len: u64) -> Room {
        use crate::segment::active::Growth;
        let Some(active) = &mut self.active else {
            return Room::Full;
        };
        let end = active.writer.published() + len;
        // The order matters: a file that grew between the two questions is asked again, not given up.
        let growth = active.backing.growth();
        if end <= active.writer.look_at_capacity() {
            Room::Fits
        } else if growth == Growth::Ongoing && end <= active.segment.mapped_len {
            Room::Growing(Arc::clone(&active.backing))
        } else {
            Room::Full
        }
    }

    /// Appends a payload that fits.
    #[inline(always)] // or its arguments go through memory
    pub(crate) fn push(&mut self, body: Body<'_>, place: u8, durable_seq: u64, now_ms: u64) {
        let Body { stored, crc, flags } = body;
        let header = self.next_header(stored.len(), crc, flags + place, durable_seq, now_ms);
        let active = room_was_checked(&mut self.active);
        let offset = active.writer.published();
        active.writer.prefetch(header.frame_len());
        if stored.len() as u64 % ALIGN != 0 {
            // The padding, and up to seven bytes that the payload overwrites: a recycled file holds anything there.
            active.writer.write(offset + header.frame_len() - ALIGN, &[0; ALIGN as usize]);
        }
        active.writer.write_joined(offset, &header.encode(active.segment.seed, offset), stored);
        self.advance(&header);
    }

    /// Appends a payload that fits, as one write to the file, where a sync follows at once: see [`Writer::write_by_call`]. `frame` is
    /// the frame of `body` without its header. Nothing changes if the write fails.
    pub(crate) fn push_by_call(
        &mut self,
        body: Body<'_>,
        frame: &mut [u8],
        durable_seq: u64,
        now_ms: u64,
    ) -> Result<()> {
        let header = self.next_header(body.stored.len(), body.crc, body.flags + FLAGS_ALONE, durable_seq, now_ms);
        let active = room_was_checked(&mut self.active);
        let offset = active.writer.published();
        frame[..HEADER_LEN].copy_from_slice(&header.encode(active.segment.seed, offset));
        active.writer.write_by_call(&active.file, offset, frame)?;
        self.advance(&header);
        Ok(())
    }

    /// Appends a payload of `len` bytes that `fill` writes in place. Nothing changes if `fill` panics.
    pub(crate) fn push_with(&mut self, len: usize, durable_seq: u64, now_ms: u64, fill: impl FnOnce(&mut [u8])) {
        let writer = &mut room_was_checked(&mut self.active).writer;
        let offset = writer.published();
        let padded = frame::frame_len(len as u64) as usize - HEADER_LEN;
        let span = writer.span(offset + HEADER_LEN as u64, padded);
        span.fill(0);
        fill(&mut span[..len]);
        let crc = crc::crc32c(&span[..len]);
        let header = self.next_header(len, crc, FLAGS_ALONE, durable_seq, now_ms);
        let active = room_was_checked(&mut self.active);
        active.writer.write(offset, &header.encode(active.segment.seed, offset));
        self.advance(&header);
    }

    /// The header of the next frame.
    #[inline]
    fn next_header(&self, stored_len: usize, payload_crc: u32, flags: u8, durable_seq: u64, now_ms: u64) -> Header {
        Header {
            seq: self.next_seq,
            stored_len: stored_len as u32,
            witness_distance: witness_distance(self.next_seq, durable_seq),
            payload_crc,
            timestamp_ms: next_timestamp(self.last_timestamp_ms, now_ms),
            flags,
        }
    }

    /// Publishes the frame with `header`, which is stored.
    #[inline]
    fn advance(&mut self, header: &Header) {
        let writer = &mut room_was_checked(&mut self.active).writer;
        writer.publish(writer.published() + header.frame_len());
        self.next_seq += 1;
        self.last_timestamp_ms = header.timestamp_ms;
        self.counters.count(header.stored_len);
    }

    /// All that was appended, as a claim.
    pub(crate) fn claim_all(&self) -> Claim {
        Claim { seq: self.next_seq - 1, epoch: self.epoch }
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

/// The segment that room was found in.
#[inline]
fn room_was_checked(active: &mut Option<Active>) -> &mut Active {
    match active {
        Some(active) => active,
        None => unreachable!("room was checked"),
    }
}

/// A timestamp for now that is not below the last one, and fits its 48 bits, wherever the clock jumped.
#[inline]
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
