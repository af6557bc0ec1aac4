//! Writes the format, from its description and with no code of the library: whole segments and manifest slots, and checksums that
//! hold over whatever a test or the fuzzer has made of the rest.

// The fuzz targets use all of it, the tests a part.
#![allow(dead_code)]

use super::format::{crc, Slot};

pub(crate) const LOG_ID: [u8; 16] = *b"a log to fuzz...";

const IDENTITY_MAGIC: &[u8; 8] = b"MAPLOGSG";
const SLOT_MAGIC: &[u8; 8] = b"MAPLOGMF";
const LINK: usize = 64;
pub(crate) const FRAMES: usize = 128;
pub(crate) const HEADER: usize = 32;
pub(crate) const SLOT: usize = 256;

pub(crate) const FLAG_LZ4: u8 = 1;
pub(crate) const FLAG_FIRST: u8 = 2;
pub(crate) const FLAG_LAST: u8 = 4;
/// The distance of a frame that claims nothing.
pub(crate) const NO_WITNESS: u32 = u32::MAX;

pub(crate) fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Stores the checksum of a block in its last four bytes.
pub(crate) fn seal(block: &mut [u8]) {
    let at = block.len() - 4;
    let sum = crc(0, &block[..at]);
    put_u32(block, at, sum);
}

/// What a segment's salt contributes to the checksums of its frames.
pub(crate) fn seed(segment: &[u8]) -> u32 {
    fold(get(segment, 40))
}

/// The same, as the link says, which repeats the salt.
pub(crate) fn link_seed(segment: &[u8]) -> u32 {
    fold(get(segment, LINK + 32))
}

fn fold(salt: u64) -> u32 {
    salt as u32 ^ (salt >> 32) as u32
}

/// Where a segment's predecessor ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Predecessor {
    pub(crate) id: u64,
    pub(crate) end_seq: u64,
    pub(crate) end_offset: u64,
}

/// A segment that is being written.
#[derive(Debug, Clone)]
pub(crate) struct Segment(pub(crate) Vec<u8>);

impl Segment {
    pub(crate) fn new(id: u64, salt: u64, base_seq: u64, predecessor: Option<Predecessor>) -> Segment {
        let mut bytes = vec![0; FRAMES];
        put(&mut bytes, 40, salt);
        repair_identity(&mut bytes, id);
        put(&mut bytes, LINK, base_seq);
        put_predecessor(&mut bytes, predecessor);
        repair_link(&mut bytes);
        Segment(bytes)
    }

    /// Adds a frame.
    pub(crate) fn push(&mut self, seq: u64, distance: u32, flags: u8, stored: &[u8]) -> &mut Segment {
        self.push_at(1_700_000_000_000, seq, distance, flags, stored)
    }

    /// Adds a frame of this time.
    pub(crate) fn push_at(
        &mut self,
        timestamp_ms: u64,
        seq: u64,
        distance: u32,
        flags: u8,
        stored: &[u8],
    ) -> &mut Segment {
        let at = self.0.len();
        self.0.resize(at + HEADER, 0);
        put_u32(&mut self.0, at + 4, (HEADER + stored.len()) as u32);
        put(&mut self.0, at + 8, seq);
        put_u32(&mut self.0, at + 16, distance);
        put(&mut self.0, at + 24, timestamp_ms);
        self.0[at + 30] = 1;
        self.0[at + 31] = flags;
        self.0.extend_from_slice(stored);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        repair_payload(&mut self.0, at);
        repair_header(&mut self.0, at);
        self
    }
}

/// Makes the first block of a segment, with the salt that it holds, the identity of segment `id`.
pub(crate) fn repair_identity(segment: &mut [u8], id: u64) {
    segment[..8].copy_from_slice(IDENTITY_MAGIC);
    put_u32(segment, 8, 1);
    segment[12] &= 1;
    segment[13..16].fill(0);
    segment[16..32].copy_from_slice(&LOG_ID);
    put(segment, 32, id);
    seal(&mut segment[..LINK]);
}

/// Has the second block of a segment, which a [`repair_link`] follows, name this predecessor.
pub(crate) fn put_predecessor(segment: &mut [u8], predecessor: Option<Predecessor>) {
    let fields = predecessor.map_or([0; 3], |p| [p.id, p.end_seq, p.end_offset]);
    for (index, field) in fields.into_iter().enumerate() {
        put(segment, LINK + 8 + 8 * index, field);
    }
}

/// Has the salt and the checksum of a segment's link hold.
pub(crate) fn repair_link(segment: &mut [u8]) {
    let salt = get(segment, 40);
    put(segment, LINK + 32, salt);
    seal(&mut segment[LINK..FRAMES]);
}

pub(crate) fn base_seq(segment: &[u8]) -> u64 {
    get(segment, LINK)
}

/// A stretch of a segment with the length of a frame in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) seq: u64,
    pub(crate) end: u64,
}

/// Which parts of a segment's frames are made to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repairs {
    pub(crate) headers: bool,
    pub(crate) payloads: bool,
    /// Each frame has the seq that its place demands.
    pub(crate) seqs: bool,
}

/// Repairs every stretch that can be a frame, from the first one on; what lies between two of them is stepped over.
pub(crate) fn repair_frames(segment: &mut [u8], repairs: Repairs) -> Vec<Placed> {
    let mut placed = Vec::new();
    let mut next_seq = base_seq(segment);
    let mut at = FRAMES;
    while at + HEADER <= segment.len() {
        let len = get_u32(segment, at + 4) as usize;
        let end = at + len.next_multiple_of(8);
        if len < HEADER || end > segment.len() {
            at += 8;
            continue;
        }
        if repairs.seqs {
            put(segment, at + 8, next_seq);
        }
        if repairs.payloads {
            repair_payload(segment, at);
        }
        if repairs.headers {
            repair_header(segment, at);
        }
        let seq = get(segment, at + 8);
        placed.push(Placed { seq, end: end as u64 });
        next_seq = seq.wrapping_add(1);
        at = end;
    }
    placed
}

/// Has payload and padding of the frame at `at` hold.
fn repair_payload(segment: &mut [u8], at: usize) {
    let end = at + get_u32(segment, at + 4) as usize;
    segment[end..end.next_multiple_of(8)].fill(0);
    let sum = crc(0, &segment[at + HEADER..end]);
    put_u32(segment, at + 20, sum);
}

fn repair_header(segment: &mut [u8], at: usize) {
    let sum = crc(seed(segment) ^ (at / 8) as u32, &segment[at + 4..at + HEADER]);
    put_u32(segment, at, sum);
}

impl Slot {
    pub(crate) fn encode(&self, log_id: [u8; 16]) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[12] = u8::from(self.clean);
        let cut = self.cut.map_or([0; 4], |cut| [cut.segment, cut.end_seq, cut.end_offset, cut.next_id]);
        let mark = self.mark.map_or([0; 3], |mark| [mark.seq, mark.segment, mark.offset]);
        let first = [self.generation, self.first_segment, self.first_seq];
        let last = [self.last_timestamp_ms, self.lost.start, self.lost.end];
        let fields = first.into_iter().chain(cut).chain(mark).chain(last);
        for (index, field) in fields.enumerate() {
            put(&mut slot, 32 + 8 * index, field);
        }
        repair_slot(&mut slot, log_id);
        slot
    }
}

pub(crate) fn generation(slot: &[u8]) -> u64 {
    get(slot, 32)
}

/// Gives a slot another generation, and a checksum that holds.
pub(crate) fn put_generation(slot: &mut [u8], generation: u64) {
    put(slot, 32, generation);
    seal(&mut slot[..SLOT]);
}

/// Has magic, version, log id and checksum of a slot hold.
pub(crate) fn repair_slot(slot: &mut [u8], log_id: [u8; 16]) {
    slot[..8].copy_from_slice(SLOT_MAGIC);
    put_u32(slot, 8, 1);
    slot[16..32].copy_from_slice(&log_id);
    seal(&mut slot[..SLOT]);
}

/// A manifest's file with these slots.
pub(crate) fn manifest(slots: [&[u8]; 2]) -> Vec<u8> {
    let mut file = vec![0; 8192];
    for (at, slot) in [0, 4096].into_iter().zip(slots) {
        file[at..at + slot.len()].copy_from_slice(slot);
    }
    file
}
