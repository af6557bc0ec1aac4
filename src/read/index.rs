//! From a seq to an offset: every eighth frame's offset, found by walking headers the first time somebody asks, so that appends pay
//! nothing. A lookup is then one jump and at most seven steps.

use super::walk::header_at;
use crate::error::Result;
use crate::format::frame::ALIGN;
use crate::format::walk::{Loss, Position};
use crate::segment::sealed::Segment;

/// Frames from one indexed offset to the next.
const STRIDE: u64 = 8;
/// In place of the offset of a frame that is lost.
const GAP: u32 = u32::MAX;

/// Where a seq was found to be.
#[derive(Debug)]
pub(crate) enum Located {
    /// A frame with an intact header.
    Frame(Position),
    /// In a stretch without one.
    Lost(Loss),
}

/// Finds `seq` in `segment`, whose frames end at `end`: `base_seq <= seq < end.seq`.
pub(crate) fn locate(segment: &Segment, end: Position, seq: u64) -> Result<Located> {
    let (mut at, known) = nearest(segment, seq);
    let mut found = Vec::new();
    let located = loop {
        let index = (at.seq - segment.base_seq).div_ceil(STRIDE);
        if index >= known + found.len() as u64 {
            // Indexed frames that a loss swallowed have no offset.
            found.resize((index - known) as usize, GAP);
            if (at.seq - segment.base_seq) % STRIDE == 0 {
                found.push((at.offset / ALIGN) as u32);
            }
        }
        if at.seq == seq {
            break Located::Frame(at);
        }
        match header_at(segment, end, at)? {
            Ok(header) => at = at.after(&header),
            Err(kind) => match next_header(segment, end, at)? {
                Some(next) if next.seq <= seq => at = next,
                next => {
                    let next = next.unwrap_or(end);
                    break Located::Lost(Loss { bytes: at.offset..next.offset, seqs: at.seq..next.seq, kind });
                }
            },
        }
    };
    remember(segment, known, &found);
    // The last step only says where the frame starts.
    if let Located::Frame(at) = located {
        if let Err(kind) = header_at(segment, end, at)? {
            let next = next_header(segment, end, at)?.unwrap_or(end);
            return Ok(Located::Lost(Loss { bytes: at.offset..next.offset, seqs: at.seq..next.seq, kind }));
        }
    }
    Ok(located)
}

/// The closest known frame at or before `seq`, and how many offsets are known.
fn nearest(segment: &Segment, seq: u64) -> (Position, u64) {
    let offsets = segment.offsets.read();
    let index = ((seq - segment.base_seq) / STRIDE) as usize;
    let known = &offsets[..offsets.len().min(index + 1)];
    let first = Position { seq: segment.base_seq, offset: segment.base_offset };
    let at = known.iter().enumerate().rev().find(|(_, &offset)| offset != GAP).map_or(first, |(index, &offset)| {
        Position { seq: segment.base_seq + index as u64 * STRIDE, offset: u64::from(offset) * ALIGN }
    });
    (at, offsets.len() as u64)
}

fn remember(segment: &Segment, known: u64, found: &[u32]) {
    if found.is_empty() {
        return;
    }
    let mut offsets = segment.offsets.write();
    // Somebody else may have walked the same frames meanwhile, and found the same.
    let have = (offsets.len() as u64 - known) as usize;
    if let Some(new) = found.get(have..) {
        offsets.extend_from_slice(new);
    }
}

/// The next intact header after a bad one at `at`.
fn next_header(segment: &Segment, end: Position, at: Position) -> Result<Option<Position>> {
    segment.touch(at.offset..end.offset)?;
    let image = segment.image(end.offset)?;
    Ok(image.find_header(at.offset + ALIGN, at.offset, &(at.seq..end.seq)).map(|(next, _)| next))
}
