//! The salvaging recovery: keep every intact frame that can be found, and list what is lost.

use super::adopt::Plan;
use super::explain;
use super::report::RecoveryReport;
use super::scan::{self, SegmentBytes, Tally};
use super::strict;
use super::survey::{Candidate, NamedPlace, RecordedEnd, Survey};
use super::{Kept, Piece, Recovered};
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::frame::HEADER_LEN;
use crate::format::manifest::{Cut, Manifest, Mark};
use crate::format::segment::{Link, Predecessor, FRAMES_OFFSET};
use crate::format::walk::{Loss, Position};
use crate::format::SEQ_LIMIT;
use crate::options::Verify;
use crate::sys::lock::Alone;
use std::cmp::Ordering;
use std::ops::Range;
use std::time::Duration;

/// What was found so far.
#[derive(Debug)]
struct Salvaged {
    pieces: Vec<Piece>,
    losses: Vec<Damage>,
    tally: Tally,
    /// The seq after everything in `pieces`.
    next_seq: u64,
    /// The highest seq in any intact header.
    highest_seq: u64,
    torn_bytes: u64,
    notes: Vec<String>,
}

pub(super) fn recover(mut survey: Survey<'_>, alone: Alone) -> Result<Recovered> {
    let refused = match strict::recover(&survey, Verify::All, alone) {
        Ok(recovered) if survey.manifest.lost.is_empty() => return Ok(recovered),
        Ok(_) => None,
        Err(Error::Damaged { damage }) => Some(*damage),
        Err(error) => return Err(error),
    };
    // Asked before identities are taken from links: a file with a damaged one takes nobody's place.
    let given_up = given_up(&survey);
    let losses = survey.restore_identities();
    let survey = &survey;
    let mut salvaged = Salvaged {
        pieces: Vec::new(),
        losses,
        tally: Tally::default(),
        next_seq: survey.manifest.first_seq,
        highest_seq: 0,
        torn_bytes: 0,
        notes: survey.notes.clone(),
    };
    let segments: Vec<&Candidate> =
        survey.live.values().filter(|candidate| !given_up.contains(&candidate.id)).collect();
    let starts = segments.iter().map(|segment| scan::start_of(segment, survey.lease)).collect::<Result<Vec<_>>>()?;
    let is_found = |id| segments.iter().zip(&starts).any(|(segment, start)| segment.id == id && start.is_some());
    let missing: Vec<_> = survey.named_places().filter(|place| !is_found(place.segment)).collect();
    let lost = &survey.manifest.lost;
    for (index, segment) in segments.iter().enumerate() {
        let successor = segments[index + 1..].iter().copied().find(|candidate| candidate.link.is_some());
        // If a cut lies above what the link of a later segment says, the manifest is an older one.
        let ends = [survey.linked_end(segment.id, successor), survey.recorded_end(segment.id, successor)];
        let recorded = ends.into_iter().flatten().min_by_key(|end| end.seq);
        let own = starts[index].map_or(0, |start| start.seq);
        let bound = Bound::of(&segments[index..], &starts[index..], &missing);
        let seq = bound.map_or(SEQ_LIMIT, |bound| bound.seq);
        if seq <= own {
            salvaged.notes.push(held_by_another(segment, own));
        }
        salvaged.take(survey, segment, starts[index], Limit { recorded, seq })?;
        // An earlier salvage may have known more, by a cut or a mark that the manifest has not any more; what it did not know, it has
        // recorded as if it did.
        let was_salvaged = !lost.is_empty() && lost.start < seq && own < lost.end;
        let is_doubtful = match recorded {
            Some(end) => lost.contains(&end.seq) || lost.contains(&(end.seq + 1)),
            None => bound.map_or(lost.contains(&own), |bound| was_salvaged || !bound.is_sharp),
        };
        if is_doubtful {
            salvaged.notes.push(format!(
                "nothing says any more where {} ends: its last entries may be ones that had been truncated",
                segment.path.display()
            ));
        }
    }
    finish(survey, salvaged, refused)
}

/// A seq that an earlier segment does not hold, for a later one does.
#[derive(Debug, Clone, Copy)]
struct Bound {
    seq: u64,
    /// The later segment began there. Otherwise it may have held some seqs before, which nobody knows any more.
    is_sharp: bool,
}

impl Bound {
    /// That of the first of `segments`, by what comes behind it. Where nothing records an end, that says that the log went on there:
    /// frames past it are dead.
    fn of(segments: &[&Candidate], starts: &[Option<Position>], missing: &[NamedPlace]) -> Option<Bound> {
        let ((segment, behind), (start, starts)) = (segments.split_first()?, starts.split_first()?);
        let own = start.map_or(0, |start| start.seq);
        // One of which the beginning is lost may begin with a dead frame.
        let is_own_sharp = start.map_or(true, |start| start.offset == FRAMES_OFFSET);
        let later = behind.iter().zip(starts);
        let later = later.filter_map(|(later, start)| Some(Bound::of_later(segment, later, (*start)?)));
        let later = later.filter(|bound| bound.seq > own || !is_own_sharp);
        let missing = missing.iter().filter(|place| place.segment > segment.id && place.seq >= own);
        later.chain(missing.map(|place| Bound::of_missing(*place))).min_by_key(|bound| bound.seq)
    }

    fn of_later(segment: &Candidate, later: &Candidate, start: Position) -> Bound {
        let begins_there = start.offset == FRAMES_OFFSET;
        // Without a link, another one may have been between them.
        let is_sharp = begins_there && (later.link.is_some() || later.id == segment.id + 1);
        // With its link, and the frame before the first that is intact, the place is lost where it began.
        Bound { seq: if begins_there { start.seq } else { start.seq - 1 }, is_sharp }
    }

    fn of_missing(place: NamedPlace) -> Bound {
        Bound { seq: place.seq, is_sharp: false }
    }
}

/// How far a segment may reach.
#[derive(Debug, Clone, Copy)]
struct Limit {
    recorded: Option<RecordedEnd>,
    /// No frame from this seq on is its own.
    seq: u64,
}

impl Limit {
    /// Up to where something says that the segment's entries were durable: its recorded end, or the mark.
    fn promised(&self, survey: &Survey<'_>, segment: &Candidate) -> Option<RecordedEnd> {
        let mark = survey.manifest.mark.filter(|mark| mark.segment == segment.id);
        self.recorded.or(mark.map(|mark| RecordedEnd { seq: mark.seq, offset: mark.offset }))
    }
}

/// What is said of a segment that cannot be what it seems to be.
fn held_by_another(segment: &Candidate, seq: u64) -> String {
    format!(
        "{} holds seq {seq}, which another file holds or held: none of its entries was taken",
        segment.path.display()
    )
}

/// The live segments whose place a later one takes: it begins with the same seq, or follows one before them without a gap. They were
/// given up empty, or were dead and have been put back.
fn given_up(survey: &Survey<'_>) -> Vec<u64> {
    let takes_place = |later: &Candidate, of: &Candidate| {
        let Some(Link { base_seq, predecessor, .. }) = later.link else { return false };
        let follows = |before: Predecessor| before.id < of.id && base_seq == before.end_seq + 1;
        predecessor.is_some_and(follows) || of.link.is_some_and(|link| link.base_seq == base_seq)
    };
    let later = |id: u64| survey.live.range(id + 1..).map(|(_, later)| later);
    let is_given_up = |candidate: &&Candidate| later(candidate.id).any(|later| takes_place(later, candidate));
    survey.live.values().filter(is_given_up).map(|candidate| candidate.id).collect()
}

impl Salvaged {
    fn lose(&mut self, damage: Damage) {
        self.losses.push(damage);
    }

    /// Entries that no piece holds, up to `next_seq`.
    fn lose_whole(&mut self, damage: Damage) {
        self.next_seq = damage.seqs.end;
        if !damage.seqs.is_empty() {
            self.pieces.push(Piece::Lost(damage.clone()));
        }
        self.lose(damage);
    }

    /// Takes what is intact of one segment.
    fn take(&mut self, survey: &Survey<'_>, segment: &Candidate, start: Option<Position>, limit: Limit) -> Result<()> {
        let promised = limit.promised(survey, segment);
        let Some(identity) = segment.identity else {
            self.lose_whole(segment.identity_damage(self.next_seq..self.after(promised)));
            if limit.recorded.is_none() && !survey.manifest.clean {
                // Nobody knows how many entries it held: more than fit a file were not, nor those that a later file holds. Its own
                // may have been cut short.
                let longest = survey.live.values().map(|candidate| candidate.file_len).max().unwrap_or(0);
                let most = longest.saturating_sub(FRAMES_OFFSET) / HEADER_LEN as u64;
                self.highest_seq = self.highest_seq.max((self.next_seq + most).min(limit.seq) - 1);
            }
            return Ok(());
        };
        let Some(start) = start else {
            if promised.is_some() {
                self.lose_whole(segment.link_damage(self.next_seq..self.after(promised)));
            }
            return Ok(());
        };
        if segment.link.is_none() {
            self.lose(segment.link_damage(0..0));
        }
        let is_misnamed = survey.proven_places().any(|place| match place.segment.cmp(&segment.id) {
            // That it is this segment, its name says alone if its identity is lost.
            Ordering::Less => place.seq >= start.seq && segment.bare_link.is_some(),
            Ordering::Equal => false,
            Ordering::Greater => place.seq < start.seq,
        });
        let ended = limit.recorded.or(promised.filter(|_| survey.manifest.clean));
        if start.seq < self.next_seq || is_misnamed || ended.is_some_and(|end| end.seq < start.seq) {
            // It says to hold what others hold already, or held, or to begin where others say that it has ended: one of them is not
            // what it says.
            self.lose(segment.link_damage(0..0));
            self.notes.push(held_by_another(segment, start.seq));
            let rest =
                SegmentBytes::open(segment, &identity, survey.lease)?.rest(FRAMES_OFFSET, None, &(1..SEQ_LIMIT))?;
            self.highest_seq = self.highest_seq.max(rest.seq);
            self.tally.witness = self.tally.witness.max(rest.witness);
            return Ok(());
        }
        if start.seq > self.next_seq {
            let last = self.last_kept().map_or(0, |last| last.id);
            self.lose_whole(missing_before(survey, segment, last, self.next_seq..start.seq));
        }
        let bytes = SegmentBytes::open(segment, &identity, survey.lease)?;
        let end = self.take_frames(segment, &bytes, start, limit, promised)?;
        if end.seq > start.seq {
            self.pieces.push(Piece::Segment(strict::keep(segment, &identity, start, end)));
            self.next_seq = end.seq;
        }
        if let Some(promised) = promised.filter(|promised| promised.seq >= end.seq) {
            let (expected, found) = (promised.offset, segment.file_len);
            let kind = if found < expected { DamageKind::Short { expected, found } } else { bytes.fault(end)? };
            let lost = end.offset.min(expected)..expected;
            let seqs = end.seq..promised.seq + 1;
            self.lose_whole(Damage { path: segment.path.clone(), bytes: lost, seqs, kind });
        }
        Ok(())
    }

    fn kept(&self) -> impl DoubleEndedIterator<Item = &Kept> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Segment(kept) => Some(kept),
            Piece::Lost(_) => None,
        })
    }

    fn last_kept(&self) -> Option<&Kept> {
        self.kept().next_back()
    }

    /// The seq after what was promised, or after what is there already.
    fn after(&self, promised: Option<RecordedEnd>) -> u64 {
        promised.map_or(self.next_seq, |end| self.next_seq.max(end.seq + 1))
    }

    /// Walks a segment from `start`, over holes; where its last intact frame ends.
    fn take_frames(
        &mut self,
        segment: &Candidate,
        bytes: &SegmentBytes,
        start: Position,
        limit: Limit,
        promised: Option<RecordedEnd>,
    ) -> Result<Position> {
        let limit = match limit.recorded {
            Some(end) => end.after(),
            None => Position { seq: limit.seq, offset: segment.file_len },
        };
        let mut at = start;
        // After the last frame that no torn batch takes along.
        let mut whole_to = start;
        while at.seq < limit.seq && at.offset < limit.offset {
            if let Some(header) = bytes.valid_frame(at)? {
                self.tally.add(&header);
                self.highest_seq = self.highest_seq.max(header.seq);
                at = at.after(&header);
                if header.is_last() {
                    whole_to = at;
                }
                continue;
            }
            let Loss { bytes: range, seqs, kind } = bytes.loss(at, bytes.fault(at)?, limit)?;
            if seqs.end >= limit.seq {
                // No valid frame follows. What headers still say counts, their entries do not.
                let rest = bytes.rest(at.offset, None, &(at.seq..limit.seq))?;
                self.tally.witness = self.tally.witness.max(rest.witness);
                self.highest_seq = self.highest_seq.max(rest.seq);
                if promised.map_or(0, |promised| promised.seq).max(self.tally.witness) < at.seq {
                    // A torn tail, and the batch that it breaks goes with it. Of one that was durable, what is intact stays.
                    self.torn_bytes += rest.bytes + (at.offset - whole_to.offset);
                    return Ok(whole_to);
                }
                break;
            }
            at = Position { seq: seqs.end, offset: range.end };
            whole_to = at;
            self.lose(Damage { path: segment.path.clone(), bytes: range, seqs, kind });
        }
        Ok(at)
    }
}

/// The damage of entries that should stand before a segment, and that no file after `last` holds.
fn missing_before(survey: &Survey<'_>, segment: &Candidate, last: u64, seqs: Range<u64>) -> Damage {
    match explain::first_missing(survey, last..segment.id) {
        Some(id) => Damage { path: survey.paths.segment(id), bytes: 0..0, seqs, kind: DamageKind::Missing },
        None => Damage { kind: DamageKind::Gap, ..segment.link_damage(seqs) },
    }
}

/// Ends the log behind everything that ever was, and plans what a later change will write. `refused` is what a strict open says.
fn finish(survey: &Survey<'_>, mut salvaged: Salvaged, refused: Option<Damage>) -> Result<Recovered> {
    let witness = survey.proven_seq().max(salvaged.tally.witness);
    let above_all = witness.max(salvaged.highest_seq) + 1;
    if above_all > salvaged.next_seq {
        let last = salvaged.last_kept();
        let (path, bytes) = match (explain::first_missing(survey, last.map_or(0, |last| last.id)..u64::MAX), last) {
            (Some(id), _) => (survey.paths.segment(id), 0..0),
            (None, Some(last)) => (last.path.clone(), last.end.offset..last.file_len),
            (None, None) => (survey.paths.segment(survey.manifest.first_segment), 0..0),
        };
        let seqs = salvaged.next_seq..above_all;
        salvaged.lose_whole(Damage { path, bytes, seqs, kind: DamageKind::Missing });
    }
    if let Some(damage) = refused.filter(|_| salvaged.losses.is_empty()) {
        // Damage is listed, also where every entry was found.
        salvaged.lose(Damage { seqs: 0..0, ..damage });
    }
    let last = salvaged.last_kept().map(|last| (last.id, last.end));
    let lost = salvaged.losses.iter().map(|loss| loss.seqs.clone()).filter(|seqs| !seqs.is_empty());
    // What an earlier one lost stays lost, until it is truncated away.
    let earlier = &survey.manifest.lost;
    let earlier = earlier.start.max(survey.manifest.first_seq)..earlier.end;
    let lost = lost.chain(Some(earlier).filter(|earlier| !earlier.is_empty()));
    let lost = lost.reduce(|one, other| one.start.min(other.start)..one.end.max(other.end));
    let last_timestamp_ms = survey.manifest.last_timestamp_ms.max(salvaged.tally.last_timestamp_ms);
    // A damaged file stays, and so does a cut behind the last one that is kept: only it says where the dead frames of its file begin.
    let is_behind = |cut: &Cut| last.map_or(true, |(segment, end)| cut.segment > segment && cut.end_seq >= end.seq);
    let cut_behind = survey.manifest.cut.filter(is_behind);
    let manifest = Manifest {
        clean: false,
        last_timestamp_ms,
        // No file behind the last one that is kept is dead by this cut.
        cut: cut_behind.or(last.map(|(segment, end)| Cut {
            segment,
            end_seq: end.seq - 1,
            end_offset: end.offset,
            next_id: segment + 1,
        })),
        mark: last.map(|(segment, end)| Mark { seq: end.seq - 1, segment, offset: end.offset }),
        lost: lost.unwrap_or(survey.manifest.first_seq..salvaged.next_seq),
        ..survey.manifest.clone()
    };
    let plan = Plan {
        adopt: salvaged.kept().filter_map(|kept| strict::unproven(survey, kept)).collect(),
        manifest,
        // Damaged files stay: somebody may know how to read more out of them.
        dead: survey.dead.clone(),
        unlink: survey.spares.clone(),
        shorten: None,
    };
    let report = RecoveryReport {
        clean: false,
        segments: salvaged.kept().count() as u64,
        entries_scanned: salvaged.tally.entries,
        bytes_scanned: salvaged.tally.bytes,
        proven_seq: witness,
        last_seq: salvaged.next_seq - 1,
        torn_bytes: salvaged.torn_bytes,
        losses: salvaged.losses,
        notes: salvaged.notes,
        duration: Duration::ZERO, // not over yet
    };
    Ok(Recovered {
        first_seq: plan.manifest.first_seq,
        next_seq: salvaged.next_seq,
        mark: plan.manifest.mark,
        next_id: survey.next_id,
        last_timestamp_ms,
        appendable: false,
        pieces: salvaged.pieces,
        plan,
        report,
    })
}
