//! The first 128 bytes of a segment file: its identity, and its link to the segment before.
//!
//! The *identity* is written and synced before the file gets its name, so a named segment without a valid one was changed from
//! outside. The *link* is stored when the segment is activated and becomes durable with the segment's first sync: a crash may lose
//! it, and a file without it holds nothing that was acked.

use super::{check_block, put_u32, put_u64, seal_block, u32_at, u64_at, Unreadable, SEQ_LIMIT, VERSION};
use crate::sys::crc;

pub(crate) const MAGIC: [u8; 8] = *b"MAPLOGSG";

/// Length of the identity and of the link.
pub(crate) const BLOCK_LEN: usize = IDENTITY_CRC + 4;
pub(crate) const LINK_OFFSET: u64 = 64;
/// The first frame starts here.
pub(crate) const FRAMES_OFFSET: u64 = 128;
const _: () = assert!(LINK_OFFSET as usize == BLOCK_LEN && FRAMES_OFFSET as usize == 2 * BLOCK_LEN);

// Offsets in the identity.
pub(crate) const ORIGIN: usize = 12;
pub(crate) const LOG_ID: usize = 16;
pub(crate) const SEGMENT_ID: usize = 32;
pub(crate) const SALT: usize = 40;
pub(crate) const IDENTITY_CRC: usize = 60;
const _: () = assert!(LINK_CRC + 4 == BLOCK_LEN);

// Offsets in the link.
pub(crate) const BASE_SEQ: usize = 0;
pub(crate) const PREDECESSOR: usize = 8;
pub(crate) const PREDECESSOR_END_SEQ: usize = 16;
pub(crate) const PREDECESSOR_END_OFFSET: usize = 24;
pub(crate) const LINK_SALT: usize = 32;
pub(crate) const LINK_CRC: usize = 60;

/// What identifies a log: drawn at random when it is created.
pub(crate) type LogId = [u8; 16];

/// What the bytes past a segment's last frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Zeros: the file was written for this segment.
    Fresh,
    /// Whatever the file held in an earlier life.
    Recycled,
}

/// Which segment of which log a file is, in this life of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) origin: Origin,
    pub(crate) log_id: LogId,
    pub(crate) id: u64,
    pub(crate) salt: u64,
}

impl Identity {
    pub(crate) fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block[..8].copy_from_slice(&MAGIC);
        put_u32(&mut block, super::BLOCK_VERSION, VERSION);
        put_u32(&mut block, ORIGIN, self.origin as u32);
        block[LOG_ID..SEGMENT_ID].copy_from_slice(&self.log_id);
        put_u64(&mut block, SEGMENT_ID, self.id);
        put_u64(&mut block, SALT, self.salt);
        seal_block(&mut block);
        block
    }

    pub(crate) fn decode(block: &[u8; BLOCK_LEN]) -> Result<Identity, Unreadable> {
        check_block(block, MAGIC)?;
        let origin = match u32_at(block, ORIGIN) {
            0 => Origin::Fresh,
            1 => Origin::Recycled,
            _ => return Err(Unreadable::Corrupt(VERSION)),
        };
        let mut log_id = [0; 16];
        log_id.copy_from_slice(&block[LOG_ID..SEGMENT_ID]);
        Ok(Identity { origin, log_id, id: u64_at(block, SEGMENT_ID), salt: u64_at(block, SALT) })
    }
}

/// Where a segment's predecessor ends: its last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) id: u64,
    /// Its last seq: it holds a frame, for one that was given up empty is no predecessor.
    pub(crate) end_seq: u64,
    /// The end of its last frame.
    pub(crate) end_offset: u64,
}

/// A segment's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// The seq of the segment's first frame.
    pub(crate) base_seq: u64,
    /// The segment before. None where the log began, or begins again.
    pub(crate) predecessor: Option<Predecessor>,
    /// The salt in the identity: a link of an earlier life of the file does not count.
    pub(crate) salt: u64,
}

impl Link {
    pub(crate) fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        put_u64(&mut block, BASE_SEQ, self.base_seq);
        if let Some(predecessor) = self.predecessor {
            put_u64(&mut block, PREDECESSOR, predecessor.id);
            put_u64(&mut block, PREDECESSOR_END_SEQ, predecessor.end_seq);
            put_u64(&mut block, PREDECESSOR_END_OFFSET, predecessor.end_offset);
        }
        put_u64(&mut block, LINK_SALT, self.salt);
        seal_block(&mut block);
        block
    }

    /// The link of segment `id` with `salt`, if the block holds one.
    pub(crate) fn decode(block: &[u8; BLOCK_LEN], id: u64, salt: u64) -> Option<Link> {
        Self::decode_any(block, id).filter(|link| link.salt == salt)
    }

    /// The link of segment `id` in whatever life of its file.
    pub(crate) fn decode_any(block: &[u8; BLOCK_LEN], id: u64) -> Option<Link> {
        if crc::crc32c(&block[..LINK_CRC]) != u32_at(block, LINK_CRC) {
            return None;
        }
        let predecessor = match u64_at(block, PREDECESSOR) {
            0 => None,
            id => Some(Predecessor {
                id,
                end_seq: u64_at(block, PREDECESSOR_END_SEQ),
                end_offset: u64_at(block, PREDECESSOR_END_OFFSET),
            }),
        };
        let link = Link { base_seq: u64_at(block, BASE_SEQ), predecessor, salt: u64_at(block, LINK_SALT) };
        let legal = (1..SEQ_LIMIT).contains(&link.base_seq)
            && predecessor.map_or(true, |p| {
                p.id < id
                    && p.end_seq < link.base_seq
                    && p.end_offset > FRAMES_OFFSET
                    && p.end_offset % super::frame::ALIGN == 0
            });
        legal.then_some(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_round_trips_and_notices_every_bit() {
        let identity = Identity { origin: Origin::Recycled, log_id: [7; 16], id: 9, salt: 11 };
        let block = identity.encode();
        assert_eq!(Identity::decode(&block), Ok(identity));
        for bit in 0..BLOCK_LEN * 8 {
            let mut bad = block;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_origin_is_fresh_or_recycled() {
        for (origin, code) in [(Origin::Fresh, 0), (Origin::Recycled, 1)] {
            let block = Identity { origin, log_id: [7; 16], id: 9, salt: 11 }.encode();
            assert_eq!(u32_at(&block, ORIGIN), code);
            assert_eq!(Identity::decode(&block).map(|identity| identity.origin), Ok(origin));
        }
        let mut block = Identity { origin: Origin::Fresh, log_id: [7; 16], id: 9, salt: 11 }.encode();
        put_u32(&mut block, ORIGIN, 2);
        seal_block(&mut block);
        assert_eq!(Identity::decode(&block), Err(Unreadable::Corrupt(VERSION)));
    }

    #[test]
    fn both_sides_of_every_bound_of_a_link() {
        let link = |change: fn(&mut Predecessor)| {
            let mut predecessor = Predecessor { id: 8, end_seq: 99, end_offset: 4096 };
            change(&mut predecessor);
            Link { base_seq: 100, predecessor: Some(predecessor), salt: 11 }
        };
        let alone = |base_seq| Link { base_seq, predecessor: None, salt: 11 };
        // The second of each pair lies just beyond a bound.
        for (allowed, refused) in [
            (alone(1), alone(0)),
            (alone(SEQ_LIMIT - 1), alone(SEQ_LIMIT)),
            (link(|p| p.id = 8), link(|p| p.id = 9)),
            (link(|p| p.end_seq = 99), link(|p| p.end_seq = 100)),
            (link(|p| p.end_offset = 136), link(|p| p.end_offset = 128)),
            (link(|p| p.end_offset = 136), link(|p| p.end_offset = 132)),
        ] {
            assert_eq!(Link::decode(&allowed.encode(), 9, 11), Some(allowed));
            assert_eq!(Link::decode(&refused.encode(), 9, 11), None, "{refused:?}");
            assert_eq!(Link::decode_any(&allowed.encode(), 9), Some(allowed));
            assert_eq!(Link::decode_any(&refused.encode(), 9), None, "{refused:?}");
        }
    }

    #[test]
    fn another_version_is_named_only_when_the_checksum_holds() {
        let mut block = Identity { origin: Origin::Fresh, log_id: [7; 16], id: 9, salt: 11 }.encode();
        put_u32(&mut block, crate::format::BLOCK_VERSION, 2);
        assert_eq!(Identity::decode(&block), Err(Unreadable::Corrupt(2)));
        seal_block(&mut block);
        assert_eq!(Identity::decode(&block), Err(Unreadable::Version(2)));
        assert_eq!(Identity::decode(&[0; BLOCK_LEN]), Err(Unreadable::Foreign));
    }

    #[test]
    fn link_round_trips_and_notices_every_bit() {
        let predecessor = Some(Predecessor { id: 8, end_seq: 99, end_offset: 4096 });
        let link = Link { base_seq: 100, predecessor, salt: 11 };
        let block = link.encode();
        assert_eq!(Link::decode(&block, 9, 11), Some(link));
        assert_eq!(Link::decode(&block, 9, 12), None, "another life");
        assert_eq!(Link::decode(&block, 8, 11), None, "its own predecessor");
        assert_eq!(Link::decode(&[0; BLOCK_LEN], 9, 0), None, "zeros");
        let empty = predecessor.map(|predecessor| Predecessor { end_offset: FRAMES_OFFSET, ..predecessor });
        assert_eq!(Link::decode(&Link { predecessor: empty, ..link }.encode(), 9, 11), None, "an empty predecessor");
        for bit in 0..BLOCK_LEN * 8 {
            let mut bad = block;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Link::decode(&bad, 9, 11), None, "bit {bit}");
        }
    }
}
