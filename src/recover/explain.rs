//! What to call the damage that a strict recovery refuses over: the file, the bytes and the seqs that are lost.
//!
//! The verdict is made before. What is hard to tell is where the lost entries were: a segment that a cut had ended goes on with dead
//! frames that are valid, or end in a broken one, and only the link of the file behind it said where it ends.

use super::scan::{self, SegmentBytes};
use super::strict::{needed_len, Stop, Valid};
use super::survey::{Candidate, Survey};
use super::verdict::Fault;
use crate::error::{Damage, DamageKind, Result};
use crate::format::segment::FRAMES_OFFSET;
use crate::format::walk::{Loss, Position};
use crate::format::SEQ_LIMIT;
use std::ops::Range;

/// What stands behind a segment, in the order of the files. One that holds no frame, and was never linked, is nothing.
pub(super) enum Behind<'s> {
    Nothing,
    /// A segment that something names, and that is not there.
    Missing(u64),
    /// One that has lost its link, and where its frames begin.
    Unlinked(&'s Candidate, Position),
    Linked,
}

/// The first segment of `ids` that the manifest or a link names, and that is not there.
pub(super) fn first_missing(survey: &Survey<'_>, ids: Range<u64>) -> Option<u64> {
    let named = survey.named_places().map(|place| place.segment);
    named.filter(|named| ids.contains(named) && !survey.live.contains_key(named)).min()
}

/// Looks behind segment `id`.
pub(super) fn behind<'s>(survey: &'s Survey<'_>, id: u64) -> Result<Behind<'s>> {
    let missing = first_missing(survey, id + 1..u64::MAX);
    for (_, candidate) in survey.live.range(id + 1..missing.unwrap_or(u64::MAX)) {
        if candidate.link.is_some() {
            return Ok(Behind::Linked);
        }
        if let Some(first) = scan::start_of(candidate, survey.lease)? {
            return Ok(Behind::Unlinked(candidate, first));
        }
    }
    Ok(missing.map_or(Behind::Nothing, Behind::Missing))
}

/// Names the damage that a witness for `witness` reaches.
pub(super) fn damage(survey: &Survey<'_>, valid: &Valid<'_>, fault: Fault, witness: u64) -> Result<Damage> {
    let x = match fault {
        Fault::Unreached => first_doubtful(survey, valid)?,
        _ => valid.next_seq,
    };
    let lost = x..(witness + 1).max(x);
    if fault == Fault::Identity {
        if let Some(candidate) = survey.live.values().find(|candidate| candidate.identity.is_none()) {
            return Ok(candidate.identity_damage(lost_with(survey, candidate, lost)?));
        }
    }
    if let Some(stop) = valid.stop.as_ref().filter(|stop| fault != Fault::Unreached && lies_in(survey, stop, x)) {
        if !has_lost_its_end(survey, stop)? {
            return within(survey, stop, fault, witness, lost);
        }
    }
    // The segment in which validity ends had ended there: what is missing is behind it.
    let last_kept = valid.kept.last().map_or(survey.manifest.first_segment - 1, |kept| kept.id);
    let last = valid.stop.as_ref().map_or(0, |stop| stop.segment.id).max(last_kept);
    let missing =
        |id| Damage { path: survey.paths.segment(id), bytes: 0..0, seqs: lost.clone(), kind: DamageKind::Missing };
    Ok(match behind(survey, last)? {
        Behind::Unlinked(candidate, _) => candidate.link_damage(lost_with(survey, candidate, lost)?),
        Behind::Missing(id) => missing(id),
        Behind::Linked | Behind::Nothing => missing(last + 1),
    })
}

/// The damage in the segment in which validity ends.
fn within(survey: &Survey<'_>, stop: &Stop<'_>, fault: Fault, witness: u64, lost: Range<u64>) -> Result<Damage> {
    let needed = needed_len(survey, stop);
    let (path, found) = (stop.segment.path.clone(), stop.segment.file_len);
    let identity = match &stop.segment.identity {
        Some(identity) if fault != Fault::Short => identity,
        _ => {
            let kind = DamageKind::Short { expected: needed, found };
            return Ok(Damage { path, bytes: stop.at.offset.min(found)..needed, seqs: lost, kind });
        }
    };
    // Where nothing records an end, the bytes go on to the next valid frame; of the entries in them, those are lost that the witness
    // reaches.
    let (end, last) = match stop.recorded_end {
        Some(end) => (end.after(), end.seq),
        None => (Position { seq: SEQ_LIMIT, offset: found.max(needed) }, witness),
    };
    let Loss { bytes, seqs, kind } =
        SegmentBytes::open(stop.segment, identity, survey.lease)?.loss(stop.at, stop.kind, end)?;
    Ok(Damage { path, bytes, seqs: seqs.start..seqs.end.min(last + 1), kind })
}

/// Whether what is missing was in the segment in which validity ends: something says that its frames go on.
fn lies_in(survey: &Survey<'_>, stop: &Stop<'_>, x: u64) -> bool {
    let marked = survey.manifest.mark.is_some_and(|mark| mark.segment == stop.segment.id && x <= mark.seq);
    marked || stop.rest.seq >= x || stop.recorded_end.is_some_and(|end| x <= end.seq)
}

/// Whether that segment had ended before, as a link said that is lost, or lies in a lost file. What is not valid in it is then a dead
/// frame, or the rest of a batch that a cut fell into.
fn has_lost_its_end(survey: &Survey<'_>, stop: &Stop<'_>) -> Result<bool> {
    if stop.recorded_end.is_some() {
        return Ok(false);
    }
    Ok(match behind(survey, stop.segment.id)? {
        Behind::Missing(_) => true,
        Behind::Unlinked(_, first) => first.seq <= stop.at.seq,
        Behind::Linked | Behind::Nothing => false,
    })
}

/// The seqs that are lost with a file that does not lead on, out of `lost` at least: from its first frame on, for before that the walk
/// may have taken dead ones, and as far as its own witnesses say, which nobody could read without an identity.
fn lost_with(survey: &Survey<'_>, candidate: &Candidate, lost: Range<u64>) -> Result<Range<u64>> {
    let first = scan::start_of(candidate, survey.lease)?.map_or(lost.start, |first| first.seq.min(lost.start));
    let mut end = lost.end;
    if let Some(identity) = candidate.identity_by_link(survey.manifest.log_id) {
        let bytes = SegmentBytes::open(candidate, &identity, survey.lease)?;
        end = end.max(bytes.rest(FRAMES_OFFSET, None, &(first..SEQ_LIMIT))?.witness + 1);
    }
    Ok(first..end)
}

/// The first seq that may be lost when the chain took a way that the manifest does not know. Nothing records where its last segment
/// ends, so what was walked there may be dead: the log went on where the next file's frames begin, or nobody knows where.
fn first_doubtful(survey: &Survey<'_>, valid: &Valid<'_>) -> Result<u64> {
    let (last_id, base_seq) = valid.kept.last().map_or((0, survey.manifest.first_seq), |last| (last.id, last.base_seq));
    let next = survey.live.values().find(|candidate| candidate.id > last_id);
    let first = next.map_or(Ok(None), |candidate| scan::start_of(candidate, survey.lease))?;
    Ok(first.map_or(base_seq, |first| first.seq))
}
