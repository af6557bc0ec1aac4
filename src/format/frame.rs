//! A frame: a 32-byte header, the stored payload, zeros up to the next multiple of eight.
//!
//! The header has a checksum of its own, so that its length can be trusted when only the payload is bad: damage can be stepped over
//! and named. That checksum is seeded with the segment's salt and the frame's offset, so that a frame is valid in one place of one
//! life of one file: bytes of an earlier life, or a copy elsewhere, never are.

use super::{put_u32, put_u64, u32_at, u64_at, SEQ_LIMIT};
use crate::error::DamageKind;
use crate::sys::crc;
use std::ops::RangeInclusive;

pub(crate) const HEADER_LEN: usize = 32;
/// Frames start at multiples of this.
pub(crate) const ALIGN: u64 = 8;

// Offsets in the header.
pub(crate) const HEADER_CRC: usize = 0;
pub(crate) const LENGTH: usize = 4;
pub(crate) const SEQ: usize = 8;
pub(crate) const WITNESS_DISTANCE: usize = 16;
pub(crate) const PAYLOAD_CRC: usize = 20;
pub(crate) const TIMESTAMP: usize = 24;
pub(crate) const KIND: usize = 30;
pub(crate) const FLAGS: usize = 31;
const _: () = assert!(FLAGS + 1 == HEADER_LEN);
const _: () = assert!(HEADER_LEN as u64 % ALIGN == 0);

/// The one kind of frame in version 1.
pub(crate) const KIND_ENTRY: u8 = 1;

/// The payload is an LZ4 block after its raw length as u32.
pub(crate) const FLAG_LZ4: u8 = 1;
/// The first frame of its batch.
pub(crate) const FLAG_FIRST: u8 = 2;
/// The last frame of its batch.
pub(crate) const FLAG_LAST: u8 = 4;
/// An entry that was appended alone: its frame is the first and the last.
pub(crate) const FLAGS_ALONE: u8 = FLAG_FIRST + FLAG_LAST;
/// All flags of version 1.
const FLAGS_ALL: u8 = FLAGS_ALONE + FLAG_LZ4;

/// A witness distance that claims nothing.
pub(crate) const NO_WITNESS: u32 = u32::MAX;

/// Milliseconds since 1970 have 48 bits: up to the year 10889.
pub(crate) const TIMESTAMP_MAX: u64 = (1 << 48) - 1;

/// An LZ4 block never expands to more than this many times its size.
const LZ4_MAX_RATIO: usize = 255;
/// Bytes of the raw length before an LZ4 block.
const RAW_LEN: usize = 4;

/// What a segment's salt contributes to the checksums of its frame headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(salt: u64) -> Self {
        let bytes = salt.to_le_bytes();
        Seed(u32_at(&bytes, 0) ^ u32_at(&bytes, 4))
    }

    /// The seed of the next life of a recycled file: another one for each of 2^32 lives.
    pub(crate) fn next(self) -> Seed {
        Seed(self.0.wrapping_add(1))
    }

    /// A salt that has this seed, with `random` in its lower half.
    pub(crate) fn salt(self, random: u64) -> u64 {
        let mut bytes = random.to_le_bytes();
        let low = u32_at(&bytes, 0);
        put_u32(&mut bytes, 4, low ^ self.0);
        u64::from_le_bytes(bytes)
    }

    #[cfg(any(test, feature = "__testing"))]
    pub(super) const fn of_tests() -> Self {
        Seed(0x1234_5678)
    }

    /// The seed at one offset: different for each multiple of eight below 4 GiB.
    #[inline]
    fn at(self, offset: u64) -> u32 {
        self.0 ^ u32::try_from(offset / ALIGN).unwrap_or(u32::MAX)
    }
}

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) seq: u64,
    /// Bytes of the stored payload, without header and padding.
    pub(crate) stored_len: u32,
    /// The witness, as the distance from `seq` down to a seq that was durable when the frame was written; or [`NO_WITNESS`].
    pub(crate) witness_distance: u32,
    pub(crate) payload_crc: u32,
    pub(crate) timestamp_ms: u64,
    pub(crate) flags: u8,
}

impl Header {
    /// The header's bytes at `offset` of the segment with `seed`. The padding that `len` implies is the caller's.
    #[inline]
    pub(crate) fn encode(&self, seed: Seed, offset: u64) -> [u8; HEADER_LEN] {
        debug_assert!(self.timestamp_ms <= TIMESTAMP_MAX && self.witness_distance != 0);
        let mut bytes = [0; HEADER_LEN];
        put_u32(&mut bytes, LENGTH, self.stored_len + HEADER_LEN as u32);
        put_u64(&mut bytes, SEQ, self.seq);
        put_u32(&mut bytes, WITNESS_DISTANCE, self.witness_distance);
        put_u32(&mut bytes, PAYLOAD_CRC, self.payload_crc);
        // Timestamp, kind and flags as one word: the fields are stored in one go.
        let kind = u64::from(KIND_ENTRY) << (8 * (KIND - TIMESTAMP));
        let flags = u64::from(self.flags) << (8 * (FLAGS - TIMESTAMP));
        put_u64(&mut bytes, TIMESTAMP, self.timestamp_ms + kind + flags);
        let crc = checksum(&bytes, seed, offset);
        put_u32(&mut bytes, HEADER_CRC, crc);
        bytes
    }

    /// Checks and reads the header at `offset` of `image`, the bytes of a segment from its start. The frame, padding included, fits
    /// the image if this is Ok; its seq and payload are not checked.
    #[inline(always)] // iterator and lookup each are as fast as they can be
    pub(crate) fn decode(image: &[u8], seed: Seed, offset: u64) -> Result<Header, DamageKind> {
        let bytes = header_bytes(image, offset)?;
        let expected = checksum(bytes, seed, offset);
        let found = u32_at(bytes, HEADER_CRC);
        if expected != found {
            return Err(DamageKind::Header { expected, found });
        }
        let header = Self::fields(bytes);
        if !header.is_legal(bytes) {
            return Err(DamageKind::Field);
        }
        header.check_room(image, offset)?;
        Ok(header)
    }

    /// As [`decode`](Self::decode) for bytes that this process wrote itself: neither checksum nor fields are checked again.
    #[inline(always)]
    pub(crate) fn decode_trusted(image: &[u8], offset: u64) -> Result<Header, DamageKind> {
        let header = Self::fields(header_bytes(image, offset)?);
        header.check_room(image, offset)?;
        Ok(header)
    }

    #[inline]
    fn fields(bytes: &[u8; HEADER_LEN]) -> Header {
        Header {
            seq: u64_at(bytes, SEQ),
            stored_len: u32_at(bytes, LENGTH).saturating_sub(HEADER_LEN as u32),
            witness_distance: u32_at(bytes, WITNESS_DISTANCE),
            payload_crc: u32_at(bytes, PAYLOAD_CRC),
            timestamp_ms: u64_at(bytes, TIMESTAMP) & TIMESTAMP_MAX,
            flags: bytes[FLAGS],
        }
    }

    /// Whether `bytes`, which hold this header, are something that version 1 writes.
    #[inline]
    fn is_legal(&self, bytes: &[u8; HEADER_LEN]) -> bool {
        let witness_is_legal = match self.witness_distance {
            0 => false,
            NO_WITNESS => true,
            distance => u64::from(distance) <= self.seq,
        };
        u32_at(bytes, LENGTH) >= HEADER_LEN as u32
            && bytes[KIND] == KIND_ENTRY
            && self.flags & !FLAGS_ALL == 0
            && (1..SEQ_LIMIT).contains(&self.seq)
            && witness_is_legal
    }

    #[inline]
    fn check_room(&self, image: &[u8], offset: u64) -> Result<(), DamageKind> {
        let room = image.len() as u64 - offset;
        if self.frame_len() > room {
            return Err(DamageKind::Length { len: HEADER_LEN as u64 + u64::from(self.stored_len), room });
        }
        Ok(())
    }

    /// Header, payload and padding, in bytes.
    #[inline]
    pub(crate) fn frame_len(&self) -> u64 {
        frame_len(u64::from(self.stored_len))
    }

    /// The seq that the frame claims to have been durable when it was written.
    pub(crate) fn witness(&self) -> Option<u64> {
        (self.witness_distance != NO_WITNESS).then(|| self.seq.saturating_sub(u64::from(self.witness_distance)))
    }

    pub(crate) fn is_first(&self) -> bool {
        self.flags & FLAG_FIRST != 0
    }

    pub(crate) fn is_last(&self) -> bool {
        self.flags & FLAG_LAST != 0
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.flags & FLAG_LZ4 != 0
    }

    /// The stored payload of the frame whose header was decoded at `offset` of `image`.
    #[inline]
    pub(crate) fn stored<'i>(&self, image: &'i [u8], offset: u64) -> &'i [u8] {
        let start = offset as usize + HEADER_LEN;
        &image[start..start + self.stored_len as usize]
    }

    /// Checks payload and padding of the frame whose header was decoded at `offset` of `image`.
    #[inline(always)] // as above
    pub(crate) fn check_body(&self, image: &[u8], offset: u64) -> Result<(), DamageKind> {
        let stored = self.stored(image, offset);
        let found = crc::crc32c(stored);
        if found != self.payload_crc {
            return Err(DamageKind::Payload { expected: self.payload_crc, found });
        }
        let start = offset as usize + HEADER_LEN + stored.len();
        let padding = start..(offset + self.frame_len()) as usize;
        if !padding.is_empty() && image[padding].iter().any(|&byte| byte != 0) {
            return Err(DamageKind::Padding);
        }
        Ok(())
    }
}

#[inline(always)]
fn header_bytes(image: &[u8], offset: u64) -> Result<&[u8; HEADER_LEN], DamageKind> {
    let rest = image.get(offset as usize..).unwrap_or_default();
    match rest.get(..HEADER_LEN).map(TryInto::try_into) {
        Some(Ok(bytes)) => Ok(bytes),
        _ => Err(DamageKind::Length { len: HEADER_LEN as u64, room: rest.len() as u64 }),
    }
}

/// The checksum of a header at `offset`, over all that follows the checksum itself.
#[inline]
fn checksum(header: &[u8; HEADER_LEN], seed: Seed, offset: u64) -> u32 {
    const REST: usize = LENGTH + 4;
    let rest = [u64_at(header, REST), u64_at(header, REST + 8), u64_at(header, REST + 16)];
    crc::crc32c_words(seed.at(offset), u32_at(header, LENGTH), rest)
}

/// The cheap half of a header's checks, for a search over many offsets: true if the bytes at `offset` could be the header of a frame
/// with a seq of `seqs`.
#[inline]
pub(crate) fn might_be_header(image: &[u8], offset: u64, seqs: &RangeInclusive<u64>) -> bool {
    match header_bytes(image, offset) {
        Ok(bytes) => seqs.contains(&u64_at(bytes, SEQ)) && bytes[KIND] == KIND_ENTRY,
        Err(_) => false,
    }
}

/// Header, payload and padding of an entry that is stored in `stored_len` bytes.
#[inline]
pub(crate) const fn frame_len(stored_len: u64) -> u64 {
    (HEADER_LEN as u64 + stored_len + (ALIGN - 1)) & !(ALIGN - 1)
}

/// `payload` as it is stored with [`FLAG_LZ4`], if that takes less space.
pub(crate) fn compress(payload: &[u8]) -> Option<Vec<u8>> {
    let stored = lz4_flex::block::compress_prepend_size(payload);
    (stored.len() < payload.len()).then_some(stored)
}

/// The payload that `stored` holds with [`FLAG_LZ4`]. Allocates what `stored` says, at most 255 times its length.
pub(crate) fn decompress(stored: &[u8]) -> Result<Vec<u8>, DamageKind> {
    let block = stored.get(RAW_LEN..).ok_or(DamageKind::Compression)?;
    let raw_len = u32_at(stored, 0) as usize;
    // A length that no block of this size has is not reached in the room that such a block can need.
    let mut payload = vec![0; raw_len.min(LZ4_MAX_RATIO * block.len())];
    match lz4_flex::block::decompress_into(block, &mut payload) {
        Ok(len) if len == raw_len => Ok(payload),
        _ => Err(DamageKind::Compression),
    }
}

/// Whole frames, for our own benches: each at the start of its segment.
#[cfg(feature = "__testing")]
pub(crate) mod testing {
    use super::*;

    const SEED: Seed = Seed::of_tests();

    /// Stores the frame of an entry at the start of `image`, which has room for it; its length in bytes.
    pub fn encode_frame(seq: u64, payload: &[u8], image: &mut [u8]) -> usize {
        let header = Header {
            seq,
            stored_len: payload.len() as u32,
            witness_distance: NO_WITNESS,
            payload_crc: crc::crc32c(payload),
            timestamp_ms: 0,
            flags: FLAGS_ALONE,
        };
        let frame_len = header.frame_len() as usize;
        let (head, body) = image[..frame_len].split_at_mut(HEADER_LEN);
        head.copy_from_slice(&header.encode(SEED, 0));
        let (stored, padding) = body.split_at_mut(payload.len());
        stored.copy_from_slice(payload);
        padding.fill(0);
        frame_len
    }

    /// The payload of the frame at the start of `image`, of which every byte is checked.
    pub fn decode_frame(image: &[u8]) -> Result<&[u8], DamageKind> {
        let header = Header::decode(image, SEED, 0)?;
        header.check_body(image, 0)?;
        Ok(header.stored(image, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    const SEED: Seed = Seed::of_tests();

    fn header() -> Header {
        Header {
            seq: 7,
            stored_len: 13,
            witness_distance: 2,
            payload_crc: crc::crc32c(b"thirteen byte"),
            timestamp_ms: TIMESTAMP_MAX,
            flags: FLAGS_ALONE,
        }
    }

    fn image(offset: u64) -> Vec<u8> {
        let mut image = vec![0; offset as usize];
        image.extend(header().encode(SEED, offset));
        image.extend(b"thirteen byte\0\0\0");
        image
    }

    #[test]
    fn decode_gives_what_encode_took() {
        let image = image(24);
        let decoded = Header::decode(&image, SEED, 24).unwrap();
        assert_eq!(decoded, header());
        assert_eq!(decoded.frame_len(), 48);
        assert_eq!(decoded.witness(), Some(5));
        assert_eq!(decoded.stored(&image, 24), b"thirteen byte");
        decoded.check_body(&image, 24).unwrap();
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = image(0);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let verdict = Header::decode(&bad, SEED, 0).and_then(|h| h.check_body(&bad, 0));
            assert!(verdict.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_is_valid_in_one_place_of_one_life() {
        let mut image = image(0);
        image.extend(image.clone());
        assert!(Header::decode(&image, SEED, 48).is_err(), "elsewhere");
        assert!(Header::decode(&image, Seed::new(99), 0).is_err(), "another salt");
        assert!(Header::decode(&image[..40], SEED, 0).is_err(), "cut short");
        assert!(Header::decode(&image, SEED, 1 << 40).is_err(), "past the end");
    }

    /// What decoding says of the header with `change` made to its bytes, and a checksum that holds.
    fn decode_changed(change: impl FnOnce(&mut [u8])) -> Result<Header, DamageKind> {
        let mut image = image(24);
        change(&mut image[24..24 + HEADER_LEN]);
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&image[24..24 + HEADER_LEN]);
        put_u32(&mut image, 24 + HEADER_CRC, checksum(&bytes, SEED, 24));
        Header::decode(&image, SEED, 24)
    }

    #[test]
    fn a_header_with_a_field_that_version_1_does_not_write_is_refused() {
        assert!(decode_changed(|_| ()).is_ok());
        for length in [0, 31] {
            assert_eq!(decode_changed(|bytes| put_u32(bytes, LENGTH, length)), Err(DamageKind::Field), "{length}");
        }
        assert_eq!(decode_changed(|bytes| put_u32(bytes, LENGTH, 32)).map(|header| header.stored_len), Ok(0));
        for kind in [0, 2, u8::MAX] {
            assert_eq!(decode_changed(|bytes| bytes[KIND] = kind), Err(DamageKind::Field), "kind {kind}");
        }
        for flags in 0..=u8::MAX {
            let decoded = decode_changed(|bytes| bytes[FLAGS] = flags);
            assert_eq!(decoded.map(|header| header.flags).ok(), (flags < 8).then_some(flags));
        }
        for (seq, is_legal) in [(0, false), (1, true), (SEQ_LIMIT - 1, true), (SEQ_LIMIT, false)] {
            let decoded = decode_changed(|bytes| {
                put_u64(bytes, SEQ, seq);
                put_u32(bytes, WITNESS_DISTANCE, NO_WITNESS);
            });
            assert_eq!(decoded.is_ok(), is_legal, "seq {seq}");
        }
        for (distance, witness) in [(0, None), (1, Some(6)), (7, Some(0)), (8, None), (NO_WITNESS - 1, None)] {
            let decoded = decode_changed(|bytes| put_u32(bytes, WITNESS_DISTANCE, distance));
            assert_eq!(decoded.ok().and_then(|header| header.witness()), witness, "distance {distance}");
        }
        assert_eq!(decode_changed(|bytes| put_u32(bytes, WITNESS_DISTANCE, NO_WITNESS)).unwrap().witness(), None);
    }

    #[test]
    fn a_frame_that_does_not_fit_says_how_long_it_is_and_what_room_there_is() {
        let image = image(24);
        assert_eq!(image.len(), 72);
        let too_long = |len, room| Err(DamageKind::Length { len, room });
        for decode in [|image| Header::decode(image, SEED, 24), |image| Header::decode_trusted(image, 24)] {
            assert_eq!(decode(&image), Ok(header()));
            assert_eq!(decode(&image[..71]), too_long(45, 47));
            assert_eq!(decode(&image[..24 + HEADER_LEN]), too_long(45, 32));
            assert_eq!(decode(&image[..24 + HEADER_LEN - 1]), too_long(32, 31), "no room for a header");
            assert_eq!(decode(&[]), too_long(32, 0));
        }
    }

    #[test]
    fn each_flag_is_told_from_the_others() {
        for flags in 0..=FLAGS_ALL {
            let header = Header { flags, ..header() };
            let said = [header.is_compressed(), header.is_first(), header.is_last()];
            assert_eq!(said, [flags & 1 != 0, flags & 2 != 0, flags & 4 != 0]);
        }
    }

    #[test]
    fn a_search_looks_closer_only_at_a_kind_and_a_seq_that_can_be() {
        let image = image(24);
        for (seqs, might_be) in [(7..=7, true), (1..=7, true), (7..=9, true), (8..=9, false), (1..=6, false)] {
            assert_eq!(might_be_header(&image, 24, &seqs), might_be, "{seqs:?}");
        }
        assert!(!might_be_header(&image, 16, &(0..=u64::MAX)), "no kind stands there");
        assert!(!might_be_header(&image, 48, &(0..=u64::MAX)), "cut short");
    }

    #[test]
    fn a_recycled_file_never_sees_a_seed_again() {
        let mut seed = Seed(u32::MAX - 10);
        let mut seen = std::collections::HashSet::new();
        for life in 0..100 {
            assert!(seen.insert(seed.0));
            assert_eq!(Seed::new(seed.salt(life * 0x1234_5678_9abc)), seed);
            seed = seed.next();
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        for seed in [0, 1, u32::MAX] {
            assert!(Header::decode(&[0; 64], Seed(seed), 0).is_err());
        }
    }

    #[test]
    fn compression_round_trips_and_refuses_lies() {
        let text = b"the same words, the same words, the same words, the same words".repeat(10);
        let stored = compress(&text).unwrap();
        assert!(stored.len() < text.len());
        assert_eq!(decompress(&stored).unwrap(), text);
        assert_eq!(compress(b"short"), None);
        let mut huge = stored.clone();
        put_u32(&mut huge, 0, u32::MAX);
        assert_eq!(decompress(&huge), Err(DamageKind::Compression));
        assert_eq!(decompress(&stored[..stored.len() - 1]), Err(DamageKind::Compression));
        assert_eq!(decompress(&[]), Err(DamageKind::Compression));
        assert_eq!(decompress(&stored[..RAW_LEN]), Err(DamageKind::Compression));
        for lie in [text.len() as u32 - 1, text.len() as u32 + 1] {
            let mut stored = stored.clone();
            put_u32(&mut stored, 0, lie);
            assert_eq!(decompress(&stored), Err(DamageKind::Compression), "{lie}");
        }
    }

    #[test]
    fn what_shrinks_most_is_read_back_too() {
        let zeros = vec![0; 16 << 10];
        let stored = compress(&zeros).unwrap();
        assert!(stored.len() < zeros.len() / 100);
        assert_eq!(decompress(&stored).unwrap(), zeros);
    }

    #[test]
    fn an_entry_is_stored_compressed_only_where_that_is_shorter() {
        // Bytes without a repetition, then more and more that shrink.
        let mut lens = Vec::new();
        for repeated in 0..24 {
            let payload = [(0..=u8::MAX).collect(), vec![0; repeated]].concat();
            let stored_len = RAW_LEN + lz4_flex::block::compress(&payload).len();
            let is_shorter = stored_len < payload.len();
            assert_eq!(compress(&payload).map(|stored| stored.len()), is_shorter.then_some(stored_len));
            lens.push(stored_len.cmp(&payload.len()));
        }
        assert!([Ordering::Less, Ordering::Equal, Ordering::Greater].iter().all(|order| lens.contains(order)));
    }

    #[cfg(feature = "__testing")]
    #[test]
    fn what_the_benches_encode_is_a_frame() {
        let mut image = [0xff; 64];
        assert_eq!(testing::encode_frame(7, b"hello", &mut image), 40);
        assert_eq!(testing::decode_frame(&image), Ok(&b"hello"[..]));
        let header = Header::decode(&image, SEED, 0).unwrap();
        assert_eq!((header.seq, header.flags), (7, FLAGS_ALONE));
    }
}
