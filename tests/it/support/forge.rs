//! Logs made by hand: any shape that recovery may meet, with checksums that hold. What is to be invalid is changed afterwards.

use super::encode::{self, Predecessor, FLAG_FIRST, FLAG_LAST, LOG_ID, NO_WITNESS};
use super::format::{self, Mark, Slot, FRAMES};
use std::fs;
use std::path::Path;

/// Bytes that a segment's file has at least.
pub(crate) const FILE_LEN: u64 = 8192;
const PAYLOAD_LEN: usize = 20;
/// Bytes of every frame: header, payload, padding.
pub(crate) const FRAME: u64 = 56;

/// The payload of every entry that has this seq.
pub(crate) fn payload(seq: u64) -> [u8; PAYLOAD_LEN] {
    [seq as u8; PAYLOAD_LEN]
}

/// Where the frame of `seq` starts in a segment whose first frame is that of `base_seq`.
pub(crate) fn offset_of(base_seq: u64, seq: u64) -> u64 {
    FRAMES + (seq - base_seq) * FRAME
}

/// A segment's file: identity, link if it has one, frames.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    /// The bytes up to the end of the last frame.
    encoded: encode::Segment,
    /// The file's length, if that is not the usual one: zeros follow the frames, or some are missing.
    pub(crate) file_len: u64,
    next_seq: u64,
}

impl Segment {
    /// The first segment of a log: no other is before it.
    pub(crate) fn first(id: u64, base_seq: u64) -> Segment {
        Segment::new(id, base_seq, [0; 3])
    }

    /// A segment that says that it follows `before`, which ends where it does now.
    pub(crate) fn after(before: &Segment, id: u64) -> Segment {
        Segment::new(id, before.next_seq, [before.id, before.next_seq - 1, before.end()])
    }

    /// A segment that begins with `base_seq` and states this predecessor: its id, end seq and end offset.
    pub(crate) fn new(id: u64, base_seq: u64, [before, end_seq, end_offset]: [u64; 3]) -> Segment {
        let predecessor = Predecessor { id: before, end_seq, end_offset };
        let encoded = encode::Segment::new(id, 0x0123_4567_89ab_cdef * id, base_seq, Some(predecessor));
        Segment { id, encoded, file_len: FILE_LEN, next_seq: base_seq }
    }

    /// With the link gone, as a power cut leaves it.
    pub(crate) fn without_link(mut self) -> Segment {
        self.encoded.0[64..128].fill(0);
        self
    }

    /// With a first block that is no identity.
    pub(crate) fn without_identity(mut self) -> Segment {
        self.encoded.0[20] ^= 1;
        self
    }

    /// As a file that was used before: what stands past its frames means nothing.
    pub(crate) fn recycled(mut self) -> Segment {
        self.encoded.0[12] = 1;
        encode::seal(&mut self.encoded.0[..64]);
        self
    }

    /// With the frames of single entries up to `last`, which claim, where they come later, that everything up to `witness` was durable.
    pub(crate) fn entries(mut self, last: u64, witness: Option<u64>) -> Segment {
        for seq in self.next_seq..=last {
            self = self.frame(seq, witness.filter(|witness| *witness < seq), FLAG_FIRST | FLAG_LAST);
        }
        self
    }

    /// With the frames of a batch up to `last`, which claims nothing.
    pub(crate) fn batch(mut self, last: u64) -> Segment {
        let first = self.next_seq;
        for seq in first..=last {
            let flags = if seq == first { FLAG_FIRST } else { 0 } | if seq == last { FLAG_LAST } else { 0 };
            self = self.frame(seq, None, flags);
        }
        self
    }

    /// With one frame, whatever its seq: its timestamp is a thousand times that, in milliseconds.
    pub(crate) fn frame(mut self, seq: u64, witness: Option<u64>, flags: u8) -> Segment {
        let distance = witness.map_or(NO_WITNESS, |witness| (seq - witness) as u32);
        self.encoded.push_at(1000 * seq, seq, distance, flags, &payload(seq));
        self.next_seq = seq + 1;
        self
    }

    /// With one bit changed of the byte at `offset`.
    pub(crate) fn flipped(mut self, offset: u64) -> Segment {
        self.encoded.0[offset as usize] ^= 1;
        self
    }

    /// Cut to `len` bytes, or longer than usual.
    pub(crate) fn with_len(mut self, len: u64) -> Segment {
        self.file_len = len;
        self
    }

    /// Where its last frame ends.
    pub(crate) fn end(&self) -> u64 {
        self.encoded.0.len() as u64
    }

    /// A mark at its last frame.
    pub(crate) fn mark(&self) -> Mark {
        Mark { seq: self.next_seq - 1, segment: self.id, offset: self.end() }
    }
}

/// Writes the files of a log to `dir`.
pub(crate) fn write(dir: &Path, slot: &Slot, segments: &[Segment]) {
    for folder in ["metadata", "segments"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    let [first, second] = [7, 8].map(|generation| Slot { generation, ..slot.clone() }.encode(LOG_ID));
    fs::write(format::manifest_path(dir), encode::manifest([&first, &second])).unwrap();
    for segment in segments {
        let mut bytes = segment.encoded.0.clone();
        bytes.resize(segment.file_len as usize, 0);
        fs::write(format::segment_path(dir, segment.id), bytes).unwrap();
    }
}
