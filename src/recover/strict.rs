//! The strict recovery: keep everything up to X, and refuse if a witness reaches X.

use super::adopt::Plan;
use super::explain;
use super::report::RecoveryReport;
use super::scan::{Rest, ScanEnd, SegmentBytes, Tally};
use super::survey::{Candidate, RecordedEnd, Survey};
use super::verdict::{verdict, Fault, Verdict};
use super::{Kept, Piece, Recovered};
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::manifest::{Cut, Manifest, Mark};
use crate::format::segment::{Identity, FRAMES_OFFSET};
use crate::format::walk::Position;
use crate::format::SEQ_LIMIT;
use crate::options::Verify;
use crate::sys::lock::Alone;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

/// How far the chain of segments is valid.
#[derive(Debug)]
pub(super) struct Valid<'s> {
    pub(super) kept: Vec<Kept>,
    pub(super) next_seq: u64,
    tally: Tally,
    pub(super) stop: Option<Stop<'s>>,
}

/// The segment in which validity ends before a recorded end.
#[derive(Debug)]
pub(super) struct Stop<'s> {
    pub(super) segment: &'s Candidate,
    pub(super) recorded_end: Option<RecordedEnd>,
    /// The frame that is not valid: X, or a later frame of the batch that begins with X.
    pub(super) at: Position,
    pub(super) kind: DamageKind,
    pub(super) rest: Rest,
}

pub(super) fn recover(survey: &Survey<'_>, verify: Verify, alone: Alone) -> Result<Recovered> {
    let mut valid = walk_chain(survey, verify)?;
    let x = valid.next_seq;

    let mut rest_bytes = valid.stop.as_ref().map_or(0, |stop| stop.rest.bytes);
    let mut witness = survey.proven_seq().max(valid.tally.witness);
    witness = witness.max(valid.stop.as_ref().map_or(0, |stop| stop.rest.witness));
    let stop_id = valid.stop.as_ref().map(|stop| stop.segment.id);
    let kept_ids: BTreeSet<u64> = valid.kept.iter().map(|kept| kept.id).collect();
    let dropped = || survey.live.values().filter(|candidate| !kept_ids.contains(&candidate.id));
    for candidate in dropped().filter(|candidate| Some(candidate.id) != stop_id) {
        if let Some(identity) = &candidate.identity {
            let bytes = SegmentBytes::open(candidate, identity, survey.lease)?;
            let rest = bytes.rest(FRAMES_OFFSET, None, &(x..SEQ_LIMIT))?;
            witness = witness.max(rest.witness);
            rest_bytes += rest.bytes;
        }
    }

    let fault = classify(survey, &valid, witness);
    if verdict(fault, x, witness) == Verdict::Damage {
        return Err(Error::damaged(explain::damage(survey, &valid, fault, witness)?));
    }

    let clean = survey.manifest.clean && valid.stop.is_none();
    let last_timestamp_ms = survey.manifest.last_timestamp_ms.max(valid.tally.last_timestamp_ms);
    let manifest = next_manifest(survey, &valid, clean, last_timestamp_ms);
    let unlink = survey.spares.iter().cloned().chain(dropped().map(|candidate| candidate.path.clone())).collect();
    let shorten = valid.kept.last_mut().filter(|_| !clean && alone == Alone::Yes).and_then(shorten);
    let plan = Plan {
        adopt: if clean { Vec::new() } else { valid.kept.iter().filter_map(|kept| unproven(survey, kept)).collect() },
        dead: survey.dead.clone(),
        unlink,
        shorten,
        manifest,
    };
    let report = RecoveryReport {
        clean,
        segments: valid.kept.len() as u64,
        entries_scanned: valid.tally.entries,
        bytes_scanned: valid.tally.bytes,
        proven_seq: witness,
        last_seq: x - 1,
        torn_bytes: rest_bytes,
        losses: Vec::new(),
        notes: survey.notes.clone(),
        duration: Duration::ZERO, // not over yet
    };
    let ended_by_cut = |kept: &Kept| survey.manifest.cut.is_some_and(|cut| cut.segment == kept.id);
    Ok(Recovered {
        appendable: clean && valid.kept.last().is_some_and(|kept| !ended_by_cut(kept)),
        mark: plan.manifest.mark,
        first_seq: plan.manifest.first_seq,
        next_seq: x,
        next_id: survey.next_id,
        last_timestamp_ms,
        pieces: valid.kept.into_iter().map(Piece::Segment).collect(),
        plan,
        report,
    })
}

/// Follows the chain for as long as everything is valid.
fn walk_chain<'s>(survey: &'s Survey<'_>, verify: Verify) -> Result<Valid<'s>> {
    let chain = survey.chain();
    let manifest = survey.manifest;
    let mut valid = Valid { kept: Vec::new(), next_seq: manifest.first_seq, tally: Tally::default(), stop: None };
    for (index, &segment) in chain.iter().enumerate() {
        let (Some(identity), Some(link)) = (segment.identity, segment.link) else {
            break;
        };
        if link.base_seq != valid.next_seq {
            return Err(Error::damaged(misplaced(segment, valid.next_seq, link.base_seq)));
        }
        let successor = chain.get(index + 1).copied();
        let marked = manifest.mark.filter(|mark| mark.segment == segment.id);
        let marked_end = marked.map(|mark| RecordedEnd { seq: mark.seq, offset: mark.offset });
        let linked_end = survey.recorded_end(segment.id, successor);
        let closed_end = marked_end.filter(|_| manifest.clean && linked_end.is_none());
        let recorded_end = linked_end.or(closed_end);
        if recorded_end.into_iter().chain(marked_end).any(|end| end.seq < link.base_seq) {
            return Err(Error::damaged(ended_before_its_base(survey, segment, successor)));
        }
        let proven = match (verify, manifest.mark) {
            (Verify::Unproven, Some(mark)) => proven_part(segment, recorded_end, mark),
            _ => None,
        };
        let base = Position { seq: link.base_seq, offset: FRAMES_OFFSET };
        let start = proven.unwrap_or(base);
        let is_followed = closed_end.map_or(Ok(false), |end| segment.has_bytes_at(end.offset))?;
        let end = if recorded_end.map(RecordedEnd::after) == Some(start) && !is_followed {
            start
        } else {
            let bytes = SegmentBytes::open(segment, &identity, survey.lease)?;
            let ScanEnd { valid_to, fault } = bytes.scan(start, recorded_end, &mut valid.tally)?;
            if is_followed && fault.is_none() && bytes.valid_frame(valid_to)?.is_some() {
                let rest = bytes.rest(valid_to.offset, None, &(valid_to.seq..SEQ_LIMIT))?;
                return Err(Error::damaged(survey.older_manifest(valid_to.seq..rest.seq + 1)));
            }
            if let Some((at, kind)) = fault {
                let seqs = valid_to.seq..recorded_end.map_or(SEQ_LIMIT, |end| end.seq + 1);
                let rest = bytes.rest(valid_to.offset, recorded_end.map(|end| end.offset), &seqs)?;
                valid.stop = Some(Stop { segment, recorded_end, at, kind, rest });
            }
            valid_to
        };
        valid.next_seq = end.seq;
        if end.seq > base.seq {
            valid.kept.push(keep(segment, &identity, base, end));
        }
        if valid.stop.is_some() {
            break;
        }
    }
    Ok(valid)
}

/// A segment that is kept from `base` to `end`.
pub(super) fn keep(segment: &Candidate, identity: &Identity, base: Position, end: Position) -> Kept {
    debug_assert!(end.offset <= segment.file_len);
    Kept {
        id: segment.id,
        path: segment.path.clone(),
        salt: identity.salt,
        base_seq: base.seq,
        base_offset: base.offset,
        end,
        file_len: segment.file_len,
    }
}

/// The end of what the mark proves of a segment; None if that is nothing, or if the file is too short for it.
fn proven_part(segment: &Candidate, recorded_end: Option<RecordedEnd>, mark: Mark) -> Option<Position> {
    let proven = match recorded_end {
        Some(end) if end.seq <= mark.seq => end,
        _ if mark.segment == segment.id => RecordedEnd { seq: mark.seq, offset: mark.offset },
        _ => return None,
    };
    (proven.offset <= segment.file_len).then_some(proven.after())
}

/// The damage of a segment that does not go on where the one before ends.
fn misplaced(segment: &Candidate, expected: u64, base_seq: u64) -> Damage {
    let seqs = expected..base_seq.max(expected);
    let kind = if seqs.is_empty() { DamageKind::Link } else { DamageKind::Gap };
    Damage { kind, ..segment.link_damage(seqs) }
}

/// The damage of a segment that others say to end before its first seq: of the link that says so, or else of its own.
fn ended_before_its_base(survey: &Survey<'_>, segment: &Candidate, successor: Option<&Candidate>) -> Damage {
    let named = survey.proven_places().any(|place| place.segment == segment.id);
    let blamed = successor.filter(|_| !named).unwrap_or(segment);
    blamed.link_damage(0..0)
}

fn classify(survey: &Survey<'_>, valid: &Valid<'_>, witness: u64) -> Fault {
    if survey.live.values().any(|candidate| candidate.identity.is_none()) {
        return Fault::Identity;
    }
    if valid.next_seq > witness && survey.proven_places().any(|place| !is_reached(valid, place.segment)) {
        return Fault::Unreached;
    }
    match &valid.stop {
        Some(stop) if needed_len(survey, stop) > stop.segment.file_len => Fault::Short,
        _ => Fault::Frame,
    }
}

fn is_reached(valid: &Valid<'_>, id: u64) -> bool {
    valid.kept.iter().any(|kept| kept.id == id) || valid.stop.as_ref().is_some_and(|stop| stop.segment.id == id)
}

/// The bytes that a segment has at least, as far as anybody says.
pub(super) fn needed_len(survey: &Survey<'_>, stop: &Stop<'_>) -> u64 {
    let mark = survey.manifest.mark.filter(|mark| mark.segment == stop.segment.id);
    stop.recorded_end.map_or(0, |end| end.offset).max(mark.map_or(0, |mark| mark.offset))
}

/// The manifest after this recovery.
fn next_manifest(survey: &Survey<'_>, valid: &Valid<'_>, clean: bool, last_timestamp_ms: u64) -> Manifest {
    let first_segment = valid.kept.first().map_or(survey.next_id, |first| first.id);
    let unchanged = Manifest { clean: false, first_segment, last_timestamp_ms, ..survey.manifest.clone() };
    match valid.kept.last() {
        _ if clean && survey.manifest.mark.is_some() => unchanged,
        Some(last) => {
            let (end_seq, end_offset) = (last.end.seq - 1, last.end.offset);
            Manifest {
                cut: Some(Cut { segment: last.id, end_seq, end_offset, next_id: survey.next_id }),
                mark: Some(Mark { seq: end_seq, segment: last.id, offset: end_offset }),
                ..unchanged
            }
        }
        // What a mark or a cut names holds the log's first entry at least, and would be damage.
        None => unchanged,
    }
}

/// The bytes of a kept segment that no witness in the manifest covers.
pub(super) fn unproven(survey: &Survey<'_>, kept: &Kept) -> Option<(std::path::PathBuf, Range<u64>)> {
    let start = match survey.manifest.mark {
        Some(mark) if kept.id < mark.segment => return None,
        Some(mark) if kept.id == mark.segment => mark.offset,
        _ => 0,
    };
    (start < kept.end.offset).then(|| (kept.path.clone(), start..kept.end.offset))
}

/// Has a segment that is never appended to again end with the page of its last frame; the file and its new length, if it has more.
fn shorten(kept: &mut Kept) -> Option<(std::path::PathBuf, u64)> {
    const PAGE: u64 = 4096;
    let len = kept.end.offset.next_multiple_of(PAGE);
    if len >= kept.file_len {
        return None;
    }
    kept.file_len = len;
    Some((kept.path.clone(), len))
}
