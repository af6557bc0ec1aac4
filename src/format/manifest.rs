//! The manifest: which segments count, and up to where. Two slots of one content, each in a 4 KiB block of its own, so that a torn
//! write of one leaves the other.
//!
//! The slot with the newer generation counts. The writer overwrites the invalid or the older slot first.

use super::{
    check_block, frame, put_u32, put_u64, seal_block, segment, u32_at, u64_at, Unreadable, ID_LIMIT, SEQ_LIMIT, VERSION,
};
use segment::LogId;
use std::ops::Range;

pub(crate) const MAGIC: [u8; 8] = *b"MAPLOGMF";

/// Offsets of the slots in the file. The file is as long as both blocks.
pub(crate) const SLOT_OFFSETS: [u64; 2] = [0, 4096];
pub(crate) const FILE_LEN: u64 = 8192;
/// Bytes of a slot; the rest of its block is zero.
pub(crate) const SLOT_LEN: usize = SLOT_CRC + 4;

// Offsets in a slot.
pub(crate) const FLAGS: usize = 12;
pub(crate) const LOG_ID: usize = 16;
pub(crate) const GENERATION: usize = 32;
pub(crate) const FIRST_SEGMENT: usize = 40;
pub(crate) const FIRST_SEQ: usize = 48;
pub(crate) const CUT_SEGMENT: usize = 56;
pub(crate) const CUT_END_SEQ: usize = 64;
pub(crate) const CUT_END_OFFSET: usize = 72;
pub(crate) const CUT_NEXT_ID: usize = 80;
pub(crate) const MARK_SEQ: usize = 88;
pub(crate) const MARK_SEGMENT: usize = 96;
pub(crate) const MARK_OFFSET: usize = 104;
pub(crate) const LAST_TIMESTAMP: usize = 112;
pub(crate) const LOST_START: usize = 120;
pub(crate) const LOST_END: usize = 128;
pub(crate) const SLOT_CRC: usize = 252;

pub(crate) const FLAG_CLEAN: u32 = 1;

/// The end of a segment that is never appended to again, and the id that its successor has at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) segment: u64,
    /// The last seq that counts in it.
    pub(crate) end_seq: u64,
    /// Where the frame of `end_seq` ends.
    pub(crate) end_offset: u64,
    /// Segments after `segment` and below this id are dead.
    pub(crate) next_id: u64,
}

/// A witness: all up to `seq`, which ends at `offset` of `segment`, was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// What the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) log_id: LogId,
    pub(crate) generation: u64,
    /// Segments with a lower id are dead.
    pub(crate) first_segment: u64,
    /// The first seq of the log. All before it counts as durable, and gone.
    pub(crate) first_seq: u64,
    pub(crate) cut: Option<Cut>,
    /// None: nothing from `first_seq` on is proven.
    pub(crate) mark: Option<Mark>,
    pub(crate) last_timestamp_ms: u64,
    /// The log was closed: nothing lies past the mark.
    pub(crate) clean: bool,
    /// The seqs from the first to the last loss that a salvage opened over: strict opens check every byte until they are gone.
    /// Empty if there was none.
    pub(crate) lost: Range<u64>,
}

impl Manifest {
    /// The generation that a new manifest has.
    pub(crate) const FIRST_GENERATION: u64 = 1;

    /// The manifest of a log that has no entry yet.
    pub(crate) fn new(log_id: LogId) -> Self {
        Manifest {
            log_id,
            generation: Self::FIRST_GENERATION,
            first_segment: 1,
            first_seq: 1,
            cut: None,
            mark: None,
            last_timestamp_ms: 0,
            clean: false,
            lost: 0..0,
        }
    }

    /// Whether this was written after `other`, the other slot. Generations begin again at 0 after the highest one.
    pub(crate) fn is_newer_than(&self, other: &Manifest) -> bool {
        self.generation.wrapping_sub(other.generation) as i64 > 0
    }

    /// The highest seq that was durable when this was written.
    pub(crate) fn durable_seq(&self) -> u64 {
        self.mark.map_or(self.first_seq - 1, |mark| mark.seq)
    }

    /// True if segment `id` is dead: below the first one, or between a cut and what follows it.
    pub(crate) fn is_dead(&self, id: u64) -> bool {
        id < self.first_segment || self.is_cut_away(id)
    }

    /// True if segment `id` is dead for as long as this cut stands.
    pub(crate) fn is_cut_away(&self, id: u64) -> bool {
        self.cut.is_some_and(|cut| id > cut.segment && id < cut.next_id)
    }

    /// The lowest id that no segment had, as far as the manifest knows.
    pub(crate) fn next_id(&self) -> u64 {
        self.cut.map_or(0, |cut| cut.next_id).max(self.first_segment)
    }

    pub(crate) fn encode(&self) -> [u8; SLOT_LEN] {
        let mut slot = [0; SLOT_LEN];
        slot[..8].copy_from_slice(&MAGIC);
        put_u32(&mut slot, super::BLOCK_VERSION, VERSION);
        put_u32(&mut slot, FLAGS, if self.clean { FLAG_CLEAN } else { 0 });
        slot[LOG_ID..GENERATION].copy_from_slice(&self.log_id);
        put_u64(&mut slot, GENERATION, self.generation);
        put_u64(&mut slot, FIRST_SEGMENT, self.first_segment);
        put_u64(&mut slot, FIRST_SEQ, self.first_seq);
        if let Some(cut) = self.cut {
            put_u64(&mut slot, CUT_SEGMENT, cut.segment);
            put_u64(&mut slot, CUT_END_SEQ, cut.end_seq);
            put_u64(&mut slot, CUT_END_OFFSET, cut.end_offset);
            put_u64(&mut slot, CUT_NEXT_ID, cut.next_id);
        }
        if let Some(mark) = self.mark {
            put_u64(&mut slot, MARK_SEQ, mark.seq);
            put_u64(&mut slot, MARK_SEGMENT, mark.segment);
            put_u64(&mut slot, MARK_OFFSET, mark.offset);
        }
        put_u64(&mut slot, LAST_TIMESTAMP, self.last_timestamp_ms);
        put_u64(&mut slot, LOST_START, self.lost.start);
        put_u64(&mut slot, LOST_END, self.lost.end);
        seal_block(&mut slot);
        slot
    }

    pub(crate) fn decode(slot: &[u8; SLOT_LEN]) -> Result<Manifest, Unreadable> {
        check_block(slot, MAGIC)?;
        let mut log_id = [0; 16];
        log_id.copy_from_slice(&slot[LOG_ID..GENERATION]);
        let manifest = Manifest {
            log_id,
            generation: u64_at(slot, GENERATION),
            first_segment: u64_at(slot, FIRST_SEGMENT),
            first_seq: u64_at(slot, FIRST_SEQ),
            cut: (u64_at(slot, CUT_SEGMENT) != 0).then(|| Cut {
                segment: u64_at(slot, CUT_SEGMENT),
                end_seq: u64_at(slot, CUT_END_SEQ),
                end_offset: u64_at(slot, CUT_END_OFFSET),
                next_id: u64_at(slot, CUT_NEXT_ID),
            }),
            mark: (u64_at(slot, MARK_SEGMENT) != 0).then(|| Mark {
                seq: u64_at(slot, MARK_SEQ),
                segment: u64_at(slot, MARK_SEGMENT),
                offset: u64_at(slot, MARK_OFFSET),
            }),
            last_timestamp_ms: u64_at(slot, LAST_TIMESTAMP),
            clean: u32_at(slot, FLAGS) & FLAG_CLEAN != 0,
            lost: u64_at(slot, LOST_START)..u64_at(slot, LOST_END),
        };
        if manifest.is_consistent() {
            Ok(manifest)
        } else {
            Err(Unreadable::Corrupt(VERSION))
        }
    }

    /// No field contradicts another: a mark or a cut outside the segments that count would be a promise about dead bytes.
    pub(crate) fn is_consistent(&self) -> bool {
        let first = self.first_segment;
        let offset_fits = |offset: u64| offset > segment::FRAMES_OFFSET && offset % frame::ALIGN == 0;
        (1..ID_LIMIT).contains(&first)
            && (1..=SEQ_LIMIT).contains(&self.first_seq)
            && self.last_timestamp_ms <= frame::TIMESTAMP_MAX
            && (self.lost.is_empty() || self.lost.end <= SEQ_LIMIT)
            && self.cut.map_or(true, |cut| {
                cut.segment >= first
                    && (1..ID_LIMIT).contains(&cut.next_id)
                    && cut.segment < cut.next_id
                    && (self.first_seq..SEQ_LIMIT).contains(&cut.end_seq)
                    && offset_fits(cut.end_offset)
            })
            && self.mark.map_or(true, |mark| {
                mark.segment < ID_LIMIT
                    && !self.is_dead(mark.segment)
                    && (self.first_seq..SEQ_LIMIT).contains(&mark.seq)
                    && offset_fits(mark.offset)
                    && self.cut.map_or(true, |cut| match mark.segment.cmp(&cut.segment) {
                        std::cmp::Ordering::Less => mark.seq < cut.end_seq,
                        std::cmp::Ordering::Equal => mark.seq <= cut.end_seq && mark.offset <= cut.end_offset,
                        std::cmp::Ordering::Greater => mark.seq > cut.end_seq,
                    })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            log_id: [3; 16],
            generation: 12,
            first_segment: 4,
            first_seq: 100,
            cut: Some(Cut { segment: 5, end_seq: 150, end_offset: 4096, next_id: 8 }),
            mark: Some(Mark { seq: 150, segment: 5, offset: 4096 }),
            last_timestamp_ms: 1_700_000_000_000,
            clean: true,
            lost: 120..123,
        }
    }

    #[test]
    fn round_trips_and_notices_every_bit() {
        for manifest in [manifest(), Manifest::new([9; 16])] {
            let slot = manifest.encode();
            assert_eq!(Manifest::decode(&slot), Ok(manifest));
            let step = if cfg!(miri) { 97 } else { 1 }; // pure arithmetic, and slow there
            for bit in (0..SLOT_LEN * 8).step_by(step) {
                let mut bad = slot;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Manifest::decode(&bad).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn refuses_marks_and_cuts_that_contradict() {
        let refused = |change: fn(&mut Manifest)| {
            let mut slot = manifest().encode();
            let mut bad = manifest();
            change(&mut bad);
            assert!(!bad.is_consistent(), "{bad:?}");
            let (mark, cut) = (bad.mark.unwrap(), bad.cut.unwrap());
            put_u64(&mut slot, FIRST_SEGMENT, bad.first_segment);
            put_u64(&mut slot, FIRST_SEQ, bad.first_seq);
            put_u64(&mut slot, MARK_SEQ, mark.seq);
            put_u64(&mut slot, MARK_SEGMENT, mark.segment);
            put_u64(&mut slot, MARK_OFFSET, mark.offset);
            put_u64(&mut slot, CUT_NEXT_ID, cut.next_id);
            seal_block(&mut slot);
            assert_eq!(Manifest::decode(&slot), Err(Unreadable::Corrupt(VERSION)), "{bad:?}");
        };
        refused(|m| m.first_segment = 6);
        refused(|m| m.first_segment = 0);
        refused(|m| m.first_seq = 151);
        refused(|m| m.mark = Some(Mark { seq: 151, ..m.mark.unwrap() }));
        refused(|m| m.mark = Some(Mark { seq: 99, ..m.mark.unwrap() }));
        refused(|m| m.mark = Some(Mark { segment: 6, ..m.mark.unwrap() }));
        refused(|m| m.mark = Some(Mark { segment: 3, ..m.mark.unwrap() }));
        refused(|m| m.mark = Some(Mark { segment: 8, ..m.mark.unwrap() }));
        refused(|m| m.mark = Some(Mark { offset: 4097, ..m.mark.unwrap() }));
        refused(|m| m.mark = Some(Mark { offset: 128, ..m.mark.unwrap() }));
        refused(|m| m.cut = Some(Cut { next_id: 5, ..m.cut.unwrap() }));
    }

    #[test]
    fn the_generation_after_the_highest_one_is_newer() {
        let of = |generation| Manifest { generation, ..Manifest::new([3; 16]) };
        for generation in [0, 1, 12, i64::MAX as u64, 1 << 63, u64::MAX] {
            let (older, newer) = (of(generation), of(generation.wrapping_add(1)));
            assert!(newer.is_newer_than(&older) && !older.is_newer_than(&newer) && !older.is_newer_than(&older));
            assert_eq!(Manifest::decode(&older.encode()), Ok(older));
        }
    }

    #[test]
    fn both_sides_of_every_bound() {
        // The second of each pair lies just beyond a bound.
        let check = |allowed: Manifest, refused: Manifest| {
            assert_eq!(Manifest::decode(&allowed.encode()), Ok(allowed));
            assert_eq!(Manifest::decode(&refused.encode()), Err(Unreadable::Corrupt(VERSION)), "{refused:?}");
        };
        let new = || Manifest::new([3; 16]);
        let first_segment = |first_segment| Manifest { first_segment, ..new() };
        check(first_segment(1), first_segment(0));
        check(first_segment(ID_LIMIT - 1), first_segment(ID_LIMIT));
        let first_seq = |first_seq| Manifest { first_seq, ..new() };
        check(first_seq(1), first_seq(0));
        check(first_seq(SEQ_LIMIT), first_seq(SEQ_LIMIT + 1));
        let last_timestamp_ms = |last_timestamp_ms| Manifest { last_timestamp_ms, ..new() };
        check(last_timestamp_ms(frame::TIMESTAMP_MAX), last_timestamp_ms(frame::TIMESTAMP_MAX + 1));

        let cut = |change: fn(&mut Cut)| {
            let mut cut = Cut { segment: 5, end_seq: 150, end_offset: 4096, next_id: 8 };
            change(&mut cut);
            Manifest { cut: Some(cut), mark: None, ..manifest() }
        };
        check(cut(|cut| cut.segment = 4), cut(|cut| cut.segment = 3));
        check(cut(|cut| cut.segment = 7), cut(|cut| cut.segment = 8));
        check(cut(|cut| cut.next_id = ID_LIMIT - 1), cut(|cut| cut.next_id = ID_LIMIT));
        check(cut(|cut| cut.end_seq = 100), cut(|cut| cut.end_seq = 99));
        check(cut(|cut| cut.end_seq = SEQ_LIMIT - 1), cut(|cut| cut.end_seq = SEQ_LIMIT));
        check(cut(|cut| cut.end_offset = 136), cut(|cut| cut.end_offset = 128));
        check(cut(|cut| cut.end_offset = 144), cut(|cut| cut.end_offset = 140));

        let mark = |segment, seq, offset| Manifest { mark: Some(Mark { seq, segment, offset }), ..manifest() };
        let alone = |segment, seq, offset| Manifest { cut: None, ..mark(segment, seq, offset) };
        check(alone(4, 100, 136), alone(3, 100, 136));
        check(alone(ID_LIMIT - 1, 100, 136), alone(ID_LIMIT, 100, 136));
        check(alone(4, 100, 136), alone(4, 99, 136));
        check(alone(4, SEQ_LIMIT - 1, 136), alone(4, SEQ_LIMIT, 136));
        check(alone(4, 100, 136), alone(4, 100, 128));
        check(alone(4, 100, 144), alone(4, 100, 140));
        // Before the cut's segment, in it, and behind it.
        check(mark(4, 149, 8192), mark(4, 150, 8192));
        check(mark(5, 150, 4096), mark(5, 151, 4096));
        check(mark(5, 150, 4096), mark(5, 150, 4104));
        check(mark(8, 151, 136), mark(8, 150, 136));
        check(mark(8, 151, 136), mark(7, 151, 136));
    }

    #[test]
    fn says_which_segments_are_dead() {
        let m = manifest();
        let dead: Vec<_> = (1..10).filter(|&id| m.is_dead(id)).collect();
        assert_eq!(dead, [1, 2, 3, 6, 7]);
        let cut_away: Vec<_> = (1..10).filter(|&id| m.is_cut_away(id)).collect();
        assert_eq!(cut_away, [6, 7]);
        assert_eq!(m.next_id(), 8);
        assert_eq!(Manifest { cut: None, ..m }.next_id(), 4);
    }

    #[test]
    fn says_what_was_durable() {
        assert_eq!(manifest().durable_seq(), 150);
        assert_eq!(Manifest { mark: None, ..manifest() }.durable_seq(), 99);
    }
}
