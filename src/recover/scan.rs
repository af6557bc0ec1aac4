//! Scanning one segment: how far its frames are valid, and what lies past that.

use super::survey::{Candidate, RecordedEnd};
use crate::error::{DamageKind, Result};
use crate::format::frame::{Header, Seed, HEADER_LEN};
use crate::format::segment::{Identity, Origin, FRAMES_OFFSET};
use crate::format::walk::{Image, Loss, Position};
use crate::format::SEQ_LIMIT;
use crate::sys::file::File;
use crate::sys::lock::ReadersLease;
use crate::sys::map::{Extent, ReadMap, WrittenBy};
use crate::sys::prefetch_ahead;
use std::ops::Range;
use std::sync::Arc;

/// A segment file of an earlier run, mapped for reading alone.
pub(crate) struct SegmentBytes {
    map: ReadMap,
    len: u64,
    seed: Seed,
    origin: Origin,
}

/// What was read and checked.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) last_timestamp_ms: u64,
    /// The highest witness.
    pub(crate) witness: u64,
}

/// Where a scan ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScanEnd {
    /// After the last complete batch, or the recorded end.
    pub(crate) valid_to: Position,
    /// The frame that is not valid, and why. None: the recorded end was reached.
    pub(crate) fault: Option<(Position, DamageKind)>,
}

/// What lies past the end of what is valid.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Rest {
    /// The highest witness in an intact header.
    pub(crate) witness: u64,
    /// The highest seq in an intact header.
    pub(crate) seq: u64,
    /// Bytes from there to the last one that was written, as far as that can be told.
    pub(crate) bytes: u64,
}

impl SegmentBytes {
    pub(super) fn open(candidate: &Candidate, identity: &Identity, lease: &Arc<ReadersLease>) -> Result<SegmentBytes> {
        let file = File::open_read(&candidate.path)?;
        let len = candidate.file_len;
        let extent = Extent::new(&candidate.path, len, len, len)?;
        let map = ReadMap::map(&file, len, &extent, WrittenBy::EarlierRun { below: len }, lease)?;
        Ok(SegmentBytes { map, len, seed: Seed::new(identity.salt), origin: identity.origin })
    }

    /// The bytes of `range`, which can be loaded.
    pub(super) fn bytes(&self, range: Range<u64>) -> Result<&[u8]> {
        self.map.touch(range.clone())?;
        Ok(&self.map.bytes(range.end)[range.start as usize..])
    }

    /// Makes sure that `len` bytes from `start` on can be loaded, or those of them that the file has.
    fn touch(&self, start: u64, len: u64) -> Result<()> {
        self.map.touch(start..start.saturating_add(len))
    }

    fn image(&self, end: u64) -> Image<'_> {
        Image::unproven(self.map.bytes(end.min(self.len)), self.seed)
    }

    /// The frame at `at`: Err for I/O, else whether it is valid.
    fn frame(&self, at: Position) -> Result<std::result::Result<Header, DamageKind>> {
        let image = self.image(self.len);
        self.touch(at.offset, HEADER_LEN as u64)?;
        match image.header(at) {
            Ok(header) => {
                prefetch_ahead(image.bytes, at.offset, header.frame_len());
                self.touch(at.offset, header.frame_len())?;
                Ok(image.check_body(at, &header).map(|()| header))
            }
            Err(kind) => Ok(Err(kind)),
        }
    }

    /// Walks from `start`, where a batch begins, to the first frame that is not valid or to the recorded end. A batch is kept if its
    /// last frame is valid, or if its frames run up to a recorded end: a cut may fall inside one.
    pub(super) fn scan(&self, start: Position, end: Option<RecordedEnd>, tally: &mut Tally) -> Result<ScanEnd> {
        let mut at = start;
        let mut valid_to = start;
        let mut in_batch = false;
        loop {
            if let Some(end) = end {
                if at.seq > end.seq {
                    let agrees = at.offset == end.offset;
                    let fault = (!agrees).then_some((at, DamageKind::Link));
                    return Ok(ScanEnd { valid_to: at, fault });
                }
            }
            let header = match self.frame(at)? {
                Ok(header) if header.is_first() == in_batch => {
                    return Ok(ScanEnd { valid_to, fault: Some((at, DamageKind::Batch)) });
                }
                Ok(header) => header,
                Err(kind) => return Ok(ScanEnd { valid_to, fault: Some((at, kind)) }),
            };
            tally.add(&header);
            at = at.after(&header);
            in_batch = !header.is_last();
            if !in_batch {
                valid_to = at;
            }
        }
    }

    /// Looks for intact headers with seqs of `seqs` from `start` to `end`, or to the end of the file.
    pub(super) fn rest(&self, start: u64, end: Option<u64>, seqs: &Range<u64>) -> Result<Rest> {
        let end = end.map_or(self.len, |end| end.min(self.len));
        if start >= end {
            return Ok(Rest::default());
        }
        let written_to = match self.origin {
            // Written with zeros: whatever is not zero was appended.
            Origin::Fresh => start + trimmed_len(self.bytes(start..end)?),
            Origin::Recycled => end,
        };
        self.map.touch(start..written_to)?;
        let image = self.image(end);
        let mut rest = Rest::default();
        let mut from = start;
        let mut last = if self.origin == Origin::Fresh { written_to } else { start };
        while let Some((position, header)) = image.find_any_header(from..written_to, seqs) {
            rest.witness = rest.witness.max(header.witness().unwrap_or(0));
            rest.seq = rest.seq.max(header.seq);
            last = last.max(position.after(&header).offset);
            from = position.offset + HEADER_LEN as u64;
        }
        rest.bytes = last - start;
        Ok(rest)
    }

    /// The stretch without a valid frame that starts at `at`.
    pub(super) fn loss(&self, at: Position, kind: DamageKind, end: Position) -> Result<Loss> {
        let stop = end.offset.min(self.len);
        if at.offset >= stop {
            return Ok(Loss { bytes: at.offset..end.offset.max(at.offset), seqs: at.seq..end.seq.max(at.seq), kind });
        }
        self.map.touch(at.offset..stop)?;
        Ok(self.image(stop).loss(at, kind, end))
    }

    /// The first intact header of the file, whatever its seq.
    fn first_header(&self) -> Result<Option<Position>> {
        let from = FRAMES_OFFSET.min(self.len);
        self.map.touch(from..self.len)?;
        // Any seq may stand here: the bound by what fits is for those who know the first one.
        let found = self.image(self.len).find_any_header(from..self.len, &(1..SEQ_LIMIT));
        Ok(found.map(|(position, _)| position))
    }

    /// Why the frame at `at` is not valid.
    pub(super) fn fault(&self, at: Position) -> Result<DamageKind> {
        Ok(self.frame(at)?.err().unwrap_or(DamageKind::Batch))
    }

    pub(super) fn valid_frame(&self, at: Position) -> Result<Option<Header>> {
        Ok(self.frame(at)?.ok())
    }
}

/// The length of `bytes` without the zeros at its end. Whole blocks of zeros are compared at the speed of memory.
fn trimmed_len(bytes: &[u8]) -> u64 {
    static ZEROS: [u8; 4096] = [0; 4096];
    let blocks = bytes.rchunks(ZEROS.len()).skip_while(|block| **block == ZEROS[..block.len()]);
    let rest = &bytes[..blocks.map(<[u8]>::len).sum()];
    rest.iter().rposition(|&byte| byte != 0).map_or(0, |index| index as u64 + 1)
}

/// Where the frames of a segment begin: as its link says, or with the first intact header if the link is lost.
pub(super) fn start_of(segment: &Candidate, lease: &Arc<ReadersLease>) -> Result<Option<Position>> {
    match (segment.link.or(segment.bare_link), &segment.identity) {
        (Some(link), _) => Ok(Some(Position { seq: link.base_seq, offset: FRAMES_OFFSET })),
        (None, Some(identity)) => SegmentBytes::open(segment, identity, lease)?.first_header(),
        (None, None) => Ok(None),
    }
}

impl Tally {
    pub(super) fn add(&mut self, header: &Header) {
        self.entries += 1;
        self.bytes += header.frame_len();
        self.last_timestamp_ms = self.last_timestamp_ms.max(header.timestamp_ms);
        self.witness = self.witness.max(header.witness().unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::trimmed_len;

    #[test]
    fn zeros_at_the_end_are_trimmed() {
        for (len, last) in
            [(0, None), (10, None), (10, Some(0)), (9000, Some(4095)), (9000, Some(8999)), (12288, Some(1))]
        {
            let mut bytes = vec![0; len];
            if let Some(last) = last {
                bytes[last] = 1;
            }
            assert_eq!(trimmed_len(&bytes), last.map_or(0, |last| last as u64 + 1), "{len} {last:?}");
        }
    }
}
