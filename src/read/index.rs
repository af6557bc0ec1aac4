//! From a seq to an offset. Headers are walked the first time that somebody asks, so that appends pay nothing; what was found is
//! remembered, and the next lookup is one load.

use super::walk::header_at;
use crate::error::{DamageKind, Result};
use crate::format::walk::{Loss, Position};
use crate::segment::offsets::Place;
use crate::segment::sealed::Segment;

/// Where a seq was found to be.
#[derive(Debug)]
pub(crate) enum Located {
    /// Where its frame starts, as the one before it says: it may be damaged.
    Frame(Position),
    /// In a stretch without intact headers.
    Lost(Loss),
}

/// Finds `seq` in `segment`, whose frames end at `end`: `base_seq <= seq < end.seq`.
#[inline]
pub(crate) fn locate(segment: &Segment, end: Position, seq: u64) -> Result<Located> {
    match segment.offsets.get(seq - segment.base_seq) {
        Place::At(offset) => Ok(Located::Frame(Position { seq, offset })),
        Place::Gap | Place::Unknown => walk_to(segment, end, seq),
    }
}

/// Walks to `seq` from the closest frame before it that is known.
#[cold]
fn walk_to(segment: &Segment, end: Position, seq: u64) -> Result<Located> {
    let mut offsets = segment.offsets.extend();
    let mut at = match offsets.nearest(seq - segment.base_seq) {
        Some((index, offset)) => Position { seq: segment.base_seq + index, offset },
        None => Position { seq: segment.base_seq, offset: segment.base_offset },
    };
    loop {
        offsets.found(at.seq - segment.base_seq, at.offset);
        if at.seq == seq {
            return Ok(Located::Frame(at));
        }
        at = match header_at(segment, end, at)? {
            Ok(header) => at.after(&header),
            Err(kind) => match loss_of_header(segment, end, at, kind)? {
                (_, Some(next)) if next.seq <= seq => next,
                (loss, _) => return Ok(Located::Lost(loss)),
            },
        };
    }
}

/// What is lost with the header at `at`, and the next intact one.
pub(crate) fn loss_of_header(
    segment: &Segment,
    end: Position,
    at: Position,
    kind: DamageKind,
) -> Result<(Loss, Option<Position>)> {
    segment.touch(at.offset..end.offset)?;
    let found = segment.image(end.offset)?.find_next_header(at, end.seq);
    let next = found.map(|(next, _)| next);
    let stop = next.unwrap_or(end);
    Ok((Loss { bytes: at.offset..stop.offset, seqs: at.seq..stop.seq, kind }, next))
}
