//! Walking the frames of one segment, and stepping over what is damaged in it. Pure functions over the segment's bytes: recovery,
//! validation, the index and the iterators all walk with these.

use super::frame::{self, Header, Seed, ALIGN, HEADER_LEN};
use crate::error::DamageKind;
use std::ops::{Range, RangeInclusive};

/// Where a frame starts, or would start: its seq and its offset in the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) seq: u64,
    pub(crate) offset: u64,
}

impl Position {
    /// The place after the frame with `header` that starts here.
    #[inline]
    pub(crate) fn after(self, header: &Header) -> Position {
        Position { seq: self.seq + 1, offset: self.offset + header.frame_len() }
    }
}

/// A stretch of a segment that holds no intact frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) bytes: Range<u64>,
    pub(crate) seqs: Range<u64>,
    /// What is wrong at its start.
    pub(crate) kind: DamageKind,
}

/// The bytes of a segment, from the file's start to the end of what may hold frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image<'i> {
    pub(crate) bytes: &'i [u8],
    pub(crate) seed: Seed,
    /// Frames from this offset on were written by this process, and are read without checking a checksum again.
    pub(crate) trusted_from: u64,
}

impl<'i> Image<'i> {
    /// An image of which every byte is checked.
    pub(crate) fn unproven(bytes: &'i [u8], seed: Seed) -> Self {
        Image { bytes, seed, trusted_from: u64::MAX }
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The header of the frame at `at`, if it is intact and carries the seq that this place demands.
    #[inline(always)]
    pub(crate) fn header(&self, at: Position) -> Result<Header, DamageKind> {
        let header = if at.offset >= self.trusted_from {
            Header::decode_trusted(self.bytes, at.offset)?
        } else {
            Header::decode(self.bytes, self.seed, at.offset)?
        };
        if header.seq != at.seq {
            return Err(DamageKind::Sequence { expected: at.seq, found: header.seq });
        }
        Ok(header)
    }

    /// The frame at `at`, if it is valid.
    #[inline(always)]
    pub(crate) fn frame(&self, at: Position) -> Result<Header, DamageKind> {
        let header = self.header(at)?;
        self.check_body(at, &header)?;
        Ok(header)
    }

    /// The rest of [`frame`](Self::frame), once the frame's header is known to be intact.
    #[inline(always)]
    pub(crate) fn check_body(&self, at: Position, header: &Header) -> Result<(), DamageKind> {
        if at.offset >= self.trusted_from {
            return Ok(());
        }
        header.check_body(self.bytes, at.offset)
    }

    /// The stored payload of the frame at `at`, whose header is known to be intact.
    #[inline]
    pub(crate) fn stored(&self, at: Position, header: &Header) -> &'i [u8] {
        header.stored(self.bytes, at.offset)
    }

    /// The first intact header behind the frame at `at`, whose own is not intact, at a multiple of eight and with a seq that can stand
    /// there: above that of `at`, below `end_seq`, and not more than the frames that fit between.
    pub(crate) fn find_next_header(&self, at: Position, end_seq: u64) -> Option<(Position, Header)> {
        const FRAME_MIN: u64 = HEADER_LEN as u64;
        self.search(at.offset + FRAME_MIN..self.len(), |offset| {
            let frames = (offset - at.offset) / FRAME_MIN;
            at.seq + 1..=end_seq.saturating_sub(1).min(at.seq + frames)
        })
    }

    /// The first intact header that starts in `place`, at a multiple of eight, with a seq of `seqs`.
    pub(crate) fn find_any_header(&self, place: Range<u64>, seqs: &Range<u64>) -> Option<(Position, Header)> {
        self.search(place, |_| seqs.start..=seqs.end.saturating_sub(1))
    }

    fn search(&self, place: Range<u64>, seqs: impl Fn(u64) -> RangeInclusive<u64>) -> Option<(Position, Header)> {
        let places = (place.start.next_multiple_of(ALIGN)..place.end).step_by(ALIGN as usize);
        places.filter(|&offset| frame::might_be_header(self.bytes, offset, &seqs(offset))).find_map(|offset| {
            let header = Header::decode(self.bytes, self.seed, offset).ok()?;
            Some((Position { seq: header.seq, offset }, header))
        })
    }

    /// The stretch without an intact frame that starts at `at`, where the frame is not valid for the reason `kind`, and ends with the
    /// next valid frame or at `end`.
    pub(crate) fn loss(&self, at: Position, kind: DamageKind, end: Position) -> Loss {
        let mut next = at;
        loop {
            next = match self.header(next) {
                Ok(header) => next.after(&header),
                Err(_) => match self.find_next_header(next, end.seq) {
                    Some((position, _)) => position,
                    None => end,
                },
            };
            if next.seq >= end.seq || next.offset >= end.offset {
                next = end;
                break;
            }
            if self.frame(next).is_ok() {
                break;
            }
        }
        Loss { bytes: at.offset..next.offset.max(at.offset), seqs: at.seq..next.seq, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::crc;

    const SEED: Seed = Seed::of_tests();

    /// An image with `count` frames of `len` payload bytes, seqs from 1, at offset 128.
    fn image(count: u64, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        for seq in 1..=count {
            let payload = vec![seq as u8; len as usize];
            let header = Header {
                seq,
                stored_len: len,
                witness_distance: frame::NO_WITNESS,
                payload_crc: crc::crc32c(&payload),
                timestamp_ms: 0,
                flags: frame::FLAGS_ALONE,
            };
            let offset = bytes.len() as u64;
            bytes.extend(header.encode(SEED, offset));
            bytes.extend(payload);
            bytes.resize((offset + header.frame_len()) as usize, 0);
        }
        bytes
    }

    fn at(seq: u64, len: u32) -> Position {
        Position { seq, offset: 128 + (seq - 1) * frame::frame_len(u64::from(len)) }
    }

    #[test]
    fn walks_from_frame_to_frame() {
        let bytes = image(5, 20);
        let image = Image::unproven(&bytes, SEED);
        let mut next = at(1, 20);
        for _ in 0..5 {
            next = next.after(&image.frame(next).unwrap());
        }
        assert_eq!(next, at(6, 20));
        assert!(image.frame(next).is_err());
        assert_eq!(image.header(Position { seq: 9, ..at(2, 20) }), Err(DamageKind::Sequence { expected: 9, found: 2 }));
    }

    #[test]
    fn a_loss_ends_with_the_next_valid_frame() {
        let good = image(6, 20);
        let end = at(7, 20);
        for first in 1..=6u64 {
            for last in first..=6 {
                for byte in [0, 8, 40] {
                    let mut bytes = good.clone();
                    for seq in first..=last {
                        bytes[at(seq, 20).offset as usize + byte] ^= 0x10;
                    }
                    let image = Image::unproven(&bytes, SEED);
                    let kind = image.frame(at(first, 20)).unwrap_err();
                    let loss = image.loss(at(first, 20), kind, end);
                    assert_eq!(loss.seqs, first..last + 1, "byte {byte}");
                    assert_eq!(loss.bytes, at(first, 20).offset..at(last + 1, 20).offset);
                }
            }
        }
    }

    #[test]
    fn a_loss_goes_no_further_than_its_end_in_seq_or_in_bytes() {
        let mut bytes = image(5, 20);
        bytes[at(3, 20).offset as usize + 40] ^= 1;
        let image = Image::unproven(&bytes, SEED);
        let loss = |end: Position| {
            let Loss { bytes, seqs, .. } = image.loss(at(3, 20), DamageKind::Field, end);
            (bytes, seqs)
        };
        let from = at(3, 20).offset;
        assert_eq!(loss(at(6, 20)), (from..at(4, 20).offset, 3..4), "the next frame is intact");
        let fewer_seqs = Position { seq: 4, ..at(6, 20) };
        assert_eq!(loss(fewer_seqs), (from..at(6, 20).offset, 3..4), "and past the end");
        let fewer_bytes = Position { seq: 9, ..at(4, 20) };
        assert_eq!(loss(fewer_bytes), (from..at(4, 20).offset, 3..9), "and past the end");
    }

    #[test]
    fn a_search_takes_no_header_whose_seq_cannot_stand_there() {
        let mut bytes = image(4, 20);
        bytes[128] ^= 1;
        let image = Image::unproven(&bytes, SEED);
        let found = |at, end_seq| image.find_next_header(at, end_seq).map(|(position, _)| position);
        assert_eq!(found(at(1, 20), 5), Some(at(2, 20)));
        let near = Position { seq: 1, offset: at(4, 20).offset - 32 };
        assert_eq!(found(near, 5), None, "no room for three frames");
        assert_eq!(found(at(1, 20), 2), None, "all are past the end");
        let twice = Position { seq: 2, offset: 128 };
        assert_eq!(found(twice, 5), Some(at(3, 20)), "not its own seq again");
    }

    #[test]
    fn a_search_knows_how_many_frames_fit() {
        // Frames of 32 bytes, the smallest that there are; the eighth is damaged.
        let (eighth, ninth) = (at(8, 0), at(9, 0));
        let mut bytes = image(9, 0);
        bytes[eighth.offset as usize] ^= 1;
        let image = Image::unproven(&bytes, SEED);
        let find = |seq, before, end_seq| {
            let at = Position { seq, offset: ninth.offset - before };
            image.find_next_header(at, end_seq).map(|(at, _)| at)
        };
        assert_eq!(find(8, 32, u64::MAX), Some(ninth), "the frame at hand is the eighth");
        assert_eq!(find(7, 32, u64::MAX), None, "no other fits between");
        assert_eq!(find(7, 64, u64::MAX), Some(ninth), "one fits between");
        assert_eq!(find(7, 56, u64::MAX), None, "a part of one is none");
        assert_eq!(find(6, 64, u64::MAX), None);
        assert_eq!(find(9, 64, u64::MAX), None, "it is behind");
        assert_eq!(find(8, 32, 10), Some(ninth));
        assert_eq!(find(8, 32, 9), None);
        assert_eq!(find(8, 32, 0), None);
    }

    #[test]
    fn a_search_stays_in_its_place() {
        let bytes = image(4, 20);
        let image = Image::unproven(&bytes, SEED);
        let find = |place, seqs| image.find_any_header(place, &seqs).map(|(at, _)| at);
        assert_eq!(find(128..184, 1..9), Some(at(1, 20)));
        assert_eq!(find(121..184, 1..9), Some(at(1, 20)), "from the next multiple of eight on");
        assert_eq!(find(136..184, 1..9), None, "the second one starts where the place ends");
        assert_eq!(find(136..185, 1..9), Some(at(2, 20)));
        assert_eq!(find(0..bytes.len() as u64, 3..4), Some(at(3, 20)));
        assert_eq!(find(0..bytes.len() as u64, 5..9), None);
        assert_eq!(find(0..bytes.len() as u64, 0..1), None);
    }
}
