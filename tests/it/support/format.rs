//! A second decoder of the format, written from its description and from no code of the library: it finds frames, links, witnesses
//! and manifest slots in files, so that a test flips exactly the byte it means and reads what is *on disk*.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) const FRAMES: u64 = 128;
const HEADER: u64 = 32;

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut crc, mut bit) = (index as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// CRC-32C of `bytes`, continued from `seed`.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!seed, |crc, byte| CRC_TABLE[(crc as u8 ^ byte) as usize] ^ crc >> 8)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A block whose last four bytes are the checksum of the rest.
fn is_sealed(block: &[u8]) -> bool {
    let at = block.len() - 4;
    crc(0, &block[..at]) == u32_at(block, at)
}

/// A valid frame in a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) seq: u64,
    /// Header, payload and padding.
    pub(crate) bytes: Range<u64>,
    pub(crate) payload: Range<u64>,
    /// The seq that it claims to have been durable.
    pub(crate) witness: Option<u64>,
    pub(crate) is_last_of_batch: bool,
}

/// A segment file as it lies on disk.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) id: u64,
    pub(crate) is_recycled: bool,
    /// The frames from the first one on, for as far as each is valid and has the next seq.
    pub(crate) frames: Vec<Frame>,
}

impl Segment {
    /// The segment in the file at `path`; None if its identity is not valid, or if the file has just gone.
    pub(crate) fn read(path: &Path) -> Option<Segment> {
        Segment::of(path, &fs::read(path).ok()?)
    }

    /// The segment in a file at `path` that holds `bytes`; None if its identity is not valid.
    pub(crate) fn of(path: &Path, bytes: &[u8]) -> Option<Segment> {
        let identity = bytes.get(..64)?;
        if &identity[..8] != b"MAPLOGSG" || !is_sealed(identity) {
            return None;
        }
        let salt = u64_at(identity, 40);
        let seed = (salt as u32) ^ (salt >> 32) as u32;
        let mut frames: Vec<Frame> = Vec::new();
        let mut at = FRAMES;
        while let Some(frame) = frame_at(bytes, seed, at) {
            if frames.last().is_some_and(|last| last.seq + 1 != frame.seq) {
                break;
            }
            at = frame.bytes.end;
            frames.push(frame);
        }
        let (id, is_recycled) = (u64_at(identity, 32), u32_at(identity, 12) == 1);
        Some(Segment { path: path.to_owned(), id, is_recycled, frames })
    }

    /// The frame with `seq`.
    pub(crate) fn frame(&self, seq: u64) -> &Frame {
        let found = self.frames.iter().find(|frame| frame.seq == seq);
        found.unwrap_or_else(|| panic!("{} has no frame with seq {seq}", self.path.display()))
    }

    /// Where its last frame ends.
    pub(crate) fn end(&self) -> u64 {
        self.frames.last().map_or(FRAMES, |frame| frame.bytes.end)
    }
}

/// The frame at `at` of a segment, if it is valid there; `seed` is the salt, folded.
pub(crate) fn frame_at(image: &[u8], seed: u32, at: u64) -> Option<Frame> {
    let header = image.get(at as usize..(at + HEADER) as usize)?;
    let (len, seq, distance) = (u64::from(u32_at(header, 4)), u64_at(header, 8), u32_at(header, 16));
    let end = at + len.next_multiple_of(8);
    let padding = image.get((at + len) as usize..end as usize)?;
    let payload = image.get((at + HEADER) as usize..(at + len) as usize)?;
    let is_legal = header[30] == 1
        && header[31] & !7 == 0
        && (1..1 << 63).contains(&seq)
        && (distance == u32::MAX || distance != 0 && u64::from(distance) <= seq);
    let valid = len >= HEADER
        && is_legal
        && crc(seed ^ (at / 8) as u32, &header[4..]) == u32_at(header, 0)
        && crc(0, payload) == u32_at(header, 20)
        && padding.iter().all(|&byte| byte == 0);
    valid.then(|| Frame {
        seq,
        bytes: at..end,
        payload: at + HEADER..at + len,
        witness: (distance != u32::MAX).then(|| seq - u64::from(distance)),
        is_last_of_batch: header[31] & 4 != 0,
    })
}

/// The file of segment `id` of the log in `dir`.
pub(crate) fn segment_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("segments/wal-{id:06}.log"))
}

/// Segment `id` of the log in `dir`.
pub(crate) fn segment(dir: &Path, id: u64) -> Segment {
    let path = segment_path(dir, id);
    Segment::read(&path).unwrap_or_else(|| panic!("{} has no identity", path.display()))
}

/// All named segments of the log in `dir` with a valid identity, by id.
pub(crate) fn segments(dir: &Path) -> Vec<Segment> {
    let names = fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let named = names.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let mut found: Vec<_> = named.filter_map(|path| Segment::read(&path)).collect();
    found.sort_by_key(|segment| segment.id);
    found
}

/// The segment that holds the frame of `seq` in the log in `dir`, with the frame.
pub(crate) fn find(dir: &Path, seq: u64) -> (Segment, Frame) {
    let holds = |segment: &Segment| segment.frames.iter().any(|frame| frame.seq == seq);
    let found = segments(dir).into_iter().rev().find(holds);
    let segment = found.unwrap_or_else(|| panic!("{} has no frame with seq {seq}", dir.display()));
    let frame = segment.frame(seq).clone();
    (segment, frame)
}

/// A witness in the manifest: all up to `seq`, which ends at `offset` of `segment`, was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// The end of a segment in the manifest, and the next one that may follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) segment: u64,
    pub(crate) end_seq: u64,
    pub(crate) end_offset: u64,
    pub(crate) next_id: u64,
}

/// A valid slot of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) generation: u64,
    pub(crate) first_segment: u64,
    pub(crate) first_seq: u64,
    pub(crate) cut: Option<Cut>,
    pub(crate) mark: Option<Mark>,
    pub(crate) last_timestamp_ms: u64,
    pub(crate) lost: Range<u64>,
    pub(crate) clean: bool,
}

impl Slot {
    /// What it says of a log of which nothing is proven.
    pub(crate) const NOTHING: Slot = Slot {
        generation: 7,
        first_segment: 1,
        first_seq: 1,
        cut: None,
        mark: None,
        last_timestamp_ms: 0,
        lost: 0..0,
        clean: false,
    };
}

pub(crate) const SLOT_OFFSETS: [u64; 2] = [0, 4096];
pub(crate) const SLOT_LEN: u64 = 256;

/// The slot that `bytes` hold, if they do.
pub(crate) fn slot(bytes: &[u8]) -> Option<Slot> {
    let slot = bytes.get(..SLOT_LEN as usize)?;
    if &slot[..8] != b"MAPLOGMF" || !is_sealed(slot) {
        return None;
    }
    let cut = Cut {
        segment: u64_at(slot, 56),
        end_seq: u64_at(slot, 64),
        end_offset: u64_at(slot, 72),
        next_id: u64_at(slot, 80),
    };
    let mark = Mark { seq: u64_at(slot, 88), segment: u64_at(slot, 96), offset: u64_at(slot, 104) };
    Some(Slot {
        generation: u64_at(slot, 32),
        first_segment: u64_at(slot, 40),
        first_seq: u64_at(slot, 48),
        cut: (cut.segment != 0).then_some(cut),
        mark: (mark.segment != 0).then_some(mark),
        last_timestamp_ms: u64_at(slot, 112),
        lost: u64_at(slot, 120)..u64_at(slot, 128),
        clean: u32_at(slot, 12) & 1 != 0,
    })
}

pub(crate) fn manifest_path(dir: &Path) -> PathBuf {
    dir.join("metadata/wal.meta")
}

/// The newest valid slot of the manifest of the log in `dir`, and which of the two it is.
pub(crate) fn newest_slot(dir: &Path) -> (usize, Slot) {
    let bytes = fs::read(manifest_path(dir)).unwrap();
    let slots = SLOT_OFFSETS.map(|offset| slot(&bytes[offset as usize..]));
    let valid = slots.into_iter().enumerate().filter_map(|(index, slot)| Some((index, slot?)));
    valid.max_by_key(|(_, slot)| slot.generation).expect("a valid slot")
}

/// The seq up to which the manifest of the log in `dir` says that all was durable.
pub(crate) fn marked_seq(dir: &Path) -> u64 {
    let (_, slot) = newest_slot(dir);
    slot.mark.map_or(slot.first_seq - 1, |mark| mark.seq)
}

/// Changes the mark in both slots of the log in `dir`, with checksums that hold.
pub(crate) fn forge_mark(dir: &Path, mark: Mark) {
    let path = manifest_path(dir);
    let mut bytes = fs::read(&path).unwrap();
    for offset in SLOT_OFFSETS {
        let slot = &mut bytes[offset as usize..(offset + SLOT_LEN) as usize];
        for (at, value) in [(88, mark.seq), (96, mark.segment), (104, mark.offset)] {
            slot[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let at = slot.len() - 4;
        let sum = crc(0, &slot[..at]);
        slot[at..].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

/// Has the frame of `seq` state another length, header included, with a checksum that holds.
pub(crate) fn forge_length(dir: &Path, seq: u64, len: u32) {
    let (segment, frame) = find(dir, seq);
    let mut bytes = fs::read(&segment.path).unwrap();
    let salt = u64_at(&bytes, 40);
    let seed = (salt as u32) ^ (salt >> 32) as u32;
    let at = frame.bytes.start as usize;
    let header = &mut bytes[at..at + HEADER as usize];
    header[4..8].copy_from_slice(&len.to_le_bytes());
    let sum = crc(seed ^ (at / 8) as u32, &header[4..]);
    header[..4].copy_from_slice(&sum.to_le_bytes());
    fs::write(&segment.path, bytes).unwrap();
}

/// Flips one bit of the byte at `offset`.
pub(crate) fn flip(path: &Path, offset: u64) {
    overwrite(path, offset, |byte| *byte ^= 1 << (offset % 8));
}

/// Changes the byte at `offset`.
fn overwrite(path: &Path, offset: u64, change: impl FnOnce(&mut u8)) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    change(&mut byte[0]);
    file.write_all_at(&byte, offset).unwrap();
}
