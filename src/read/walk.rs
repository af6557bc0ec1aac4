//! Walking a list of segments from both ends: the one loop under every iterator.

use super::index::{locate, loss_of_header, Located};
use super::run::Run;
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::frame::{self, Header, HEADER_LEN};
use crate::format::walk::{Image, Loss, Position};
use crate::segment::offsets::Place;
use crate::segment::sealed::Segment;
use crate::segment::set::{Slot, Slots};
use std::ops::Range;
use std::sync::Arc;

/// A valid frame, and the segment that holds it.
#[derive(Debug)]
pub(crate) struct Found<'s> {
    pub(crate) segment: &'s Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) header: Header,
    /// The payload as it is stored.
    pub(crate) stored: &'s [u8],
}

/// What an iterator does when it meets damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDamage {
    /// It ends.
    End,
    /// It goes on behind the damaged stretch.
    Skip,
}

/// A walk over the seqs of a range.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    seqs: Range<u64>,
    on_damage: OnDamage,
    /// The slot and the place of `seqs.start`, if they are known.
    front: Option<(usize, Position)>,
}

/// The end of a slot's frames as a view sees it: the open end of the active segment is where it was last published.
#[inline]
fn end_of(segment: &Segment, end: Option<Position>, next_seq: u64) -> Position {
    end.unwrap_or_else(|| Position { seq: next_seq, offset: segment.extent.published() })
}

/// The header of the frame at `at`: Err for I/O, else whether it is intact.
#[inline]
pub(crate) fn header_at(segment: &Segment, end: Position, at: Position) -> Result<Result<Header, DamageKind>> {
    segment.touch(at.offset..(at.offset + HEADER_LEN as u64).min(end.offset))?;
    Ok(segment.image(end.offset)?.header(at))
}

/// The frame at `at`: Err for I/O, else whether it is valid.
#[inline]
fn frame_at(segment: &Arc<Segment>, end: Position, at: Position) -> Result<Result<Found<'_>, DamageKind>> {
    let header = match header_at(segment, end, at)? {
        Ok(header) => header,
        Err(kind) => return Ok(Err(kind)),
    };
    segment.touch(at.offset..at.offset + header.frame_len())?;
    let image = segment.image(end.offset)?;
    let found = || Found { segment, offset: at.offset, header, stored: image.stored(at, &header) };
    Ok(image.check_body(at, &header).map(|()| found()))
}

fn damage(segment: &Segment, loss: Loss) -> Error {
    let Loss { bytes, seqs, kind } = loss;
    Error::damaged(Damage { path: segment.path.to_path_buf(), bytes, seqs, kind })
}

/// The damaged stretch that starts at `at`.
fn loss_at(segment: &Segment, end: Position, at: Position, kind: DamageKind) -> Result<Loss> {
    segment.touch(at.offset..end.offset)?;
    Ok(segment.image(end.offset)?.loss(at, kind, end))
}

/// Where the frame with `seq` is, if that is known and it can be read without asking anybody.
#[inline(always)]
pub(super) fn find_at_hand(slots: &Slots, next_seq: u64, seq: u64) -> Option<(Image<'_>, Position)> {
    if !(slots.first_seq..next_seq).contains(&seq) {
        return None;
    }
    let Slot::Segment { segment, end } = slots.list().get(slots.index_of(seq)?)? else {
        return None;
    };
    let end = end_of(segment, *end, next_seq);
    match segment.offsets.get(seq.checked_sub(segment.base_seq)?) {
        Place::At(offset) => Some((segment.image_at_hand(offset, end.offset)?, Position { seq, offset })),
        Place::Gap | Place::Unknown => None,
    }
}

/// The frame with `seq`, if the list holds it; the list is published up to `next_seq`.
pub(crate) fn find(slots: &Slots, next_seq: u64, seq: u64) -> Result<Option<Found<'_>>> {
    if !(slots.first_seq..next_seq).contains(&seq) {
        return Ok(None);
    }
    match slots.index_of(seq).map(|index| &slots.list()[index]) {
        None => Ok(None),
        Some(Slot::Lost(damage)) => Err(Error::damaged(Damage::clone(damage))),
        Some(Slot::Segment { segment, end }) => {
            let end = end_of(segment, *end, next_seq);
            let at = match locate(segment, end, seq)? {
                Located::Frame(at) => at,
                Located::Lost(loss) => return Err(damage(segment, loss)),
            };
            match frame_at(segment, end, at)? {
                Ok(found) => Ok(Some(found)),
                Err(kind) => Err(damage(segment, loss_of_one(segment, end, at, kind)?)),
            }
        }
    }
}

/// What is lost with the frame at `at`, which is not valid: it alone if its header says where it ends.
fn loss_of_one(segment: &Segment, end: Position, at: Position, kind: DamageKind) -> Result<Loss> {
    match header_at(segment, end, at)? {
        Ok(header) => Ok(Loss { bytes: at.offset..at.after(&header).offset, seqs: at.seq..at.seq + 1, kind }),
        Err(kind) => Ok(loss_of_header(segment, end, at, kind)?.0),
    }
}

/// Where the frame of `seq` ends in the segment of `slots` that holds it, whatever its payload holds.
pub(crate) fn end_of_frame(slots: &Slots, next_seq: u64, seq: u64) -> Result<Option<(usize, Position)>> {
    let Some(index) = slots.index_of(seq) else {
        return Ok(None);
    };
    match &slots.list()[index] {
        Slot::Lost(damage) => Err(Error::damaged(Damage::clone(damage))),
        Slot::Segment { segment, end } => {
            let end = end_of(segment, *end, next_seq);
            match locate(segment, end, seq)? {
                Located::Lost(loss) => Err(damage(segment, loss)),
                Located::Frame(at) => match frame_at(segment, end, at)? {
                    Ok(found) => Ok(Some((index, at.after(&found.header)))),
                    Err(kind) => Err(damage(segment, loss_at(segment, end, at, kind)?)),
                },
            }
        }
    }
}

/// What a check of a segment's frames found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) damage: Vec<Damage>,
}

/// Checks every frame of a segment, those of this run too.
pub(crate) fn check_all(segment: &Segment, end: Option<Position>, next_seq: u64) -> Result<Checked> {
    let end = end_of(segment, end, next_seq);
    segment.touch(0..end.offset)?;
    let image = Image { trusted_from: u64::MAX, ..segment.image(end.offset)? };
    let mut checked = Checked::default();
    let mut at = Position { seq: segment.base_seq, offset: segment.base_offset };
    while at.seq < end.seq {
        let frame = image.frame(at);
        match frame.and_then(|header| check_compression(&image, at, &header).map(|()| header)) {
            Ok(header) => {
                checked.entries += 1;
                checked.bytes += header.frame_len();
                at = at.after(&header);
            }
            Err(kind) => {
                let Loss { bytes, seqs, kind } = image.loss(at, kind, end);
                at = Position { seq: seqs.end, offset: bytes.end };
                checked.damage.push(Damage { path: segment.path.to_path_buf(), bytes, seqs, kind });
            }
        }
    }
    Ok(checked)
}

/// Whether a frame that is valid also decompresses, if it has to: checksums say nothing about who made them.
fn check_compression(image: &Image<'_>, at: Position, header: &Header) -> Result<(), DamageKind> {
    if header.is_compressed() {
        frame::decompress(header.stored(image.bytes, at.offset))?;
    }
    Ok(())
}

impl Walk {
    /// A walk over `seqs`, which the list holds.
    pub(crate) fn new(seqs: Range<u64>, on_damage: OnDamage) -> Walk {
        Walk { seqs, on_damage, front: None }
    }

    /// Says that the first seq stands at `position` of segment `id`, if the list still has it there.
    pub(crate) fn start_at(&mut self, slots: &Slots, id: u64, position: Position) {
        let index = slots.index_of(self.seqs.start);
        let segment = index.and_then(|index| slots.list()[index].segment());
        if segment.is_some_and(|segment| segment.id == id) && position.seq == self.seqs.start {
            self.front = index.map(|index| (index, position));
        }
    }

    /// The frames that follow and can be read without asking anybody, if the last step found one.
    pub(super) fn run<'s>(&self, slots: &'s Slots, next_seq: u64) -> Option<Run<'s>> {
        let (index, at) = self.front?;
        let Slot::Segment { segment, end } = slots.list().get(index)? else {
            return None;
        };
        let end = end_of(segment, *end, next_seq);
        Some(Run::new(segment.image_at_hand(at.offset, end.offset)?, at, end.seq.min(self.seqs.end)))
    }

    /// Goes on at `at`, up to where a [`run`](Self::run) of the last step has come.
    pub(super) fn skip_to(&mut self, at: Position) {
        self.seqs.start = at.seq;
        self.front = self.front.map(|(index, _)| (index, at));
    }

    /// What was found turned out to be damaged after all.
    pub(crate) fn meet_damage(&mut self) {
        if self.on_damage == OnDamage::End {
            self.seqs.start = self.seqs.end;
        }
    }

    /// Seqs that are left, lost ones included.
    pub(crate) fn left(&self) -> Range<u64> {
        self.seqs.clone()
    }

    /// The next frame from the front; a damaged stretch is one error. `next_seq` bounds the list's open end.
    #[inline]
    pub(crate) fn next<'s>(&mut self, slots: &'s Slots, next_seq: u64) -> Option<Result<Found<'s>>> {
        if self.seqs.is_empty() {
            return None;
        }
        let found = self.step(slots, next_seq);
        match &found {
            Ok(_) => {}
            Err(Error::Damaged { damage }) if self.on_damage == OnDamage::Skip => {
                self.seqs.start = damage.seqs.end.clamp(self.seqs.start + 1, self.seqs.end);
                self.front = None;
            }
            Err(_) => self.seqs.start = self.seqs.end,
        }
        Some(found)
    }

    #[inline]
    fn step<'s>(&mut self, slots: &'s Slots, next_seq: u64) -> Result<Found<'s>> {
        let seq = self.seqs.start;
        let (mut index, mut at) = match self.front {
            Some((index, at)) => (index, Some(at)),
            None => (slots.index_of(seq).unwrap_or(0), None),
        };
        loop {
            let (segment, end) = match &slots.list()[index] {
                Slot::Lost(damage) => return Err(Error::damaged(Damage::clone(damage))),
                Slot::Segment { segment, end } => (segment, end_of(segment, *end, next_seq)),
            };
            if seq >= end.seq {
                index += 1;
                at = None;
                continue;
            }
            let place = match at {
                Some(at) => at,
                None => match locate(segment, end, seq)? {
                    Located::Frame(at) => at,
                    Located::Lost(loss) => return Err(damage(segment, loss)),
                },
            };
            return match frame_at(segment, end, place)? {
                Ok(found) => {
                    self.seqs.start = seq + 1;
                    self.front = Some((index, place.after(&found.header)));
                    Ok(found)
                }
                Err(kind) => Err(damage(segment, loss_at(segment, end, place, kind)?)),
            };
        }
    }

    /// The next frame from the back.
    pub(crate) fn next_back<'s>(&mut self, slots: &'s Slots, next_seq: u64) -> Option<Result<Found<'s>>> {
        if self.seqs.is_empty() {
            return None;
        }
        let found = self.step_back(slots, next_seq);
        match &found {
            Ok(_) => self.seqs.end -= 1,
            Err(Error::Damaged { damage }) if self.on_damage == OnDamage::Skip => {
                self.seqs.end = damage.seqs.start.clamp(self.seqs.start, self.seqs.end - 1);
            }
            Err(_) => self.seqs.end = self.seqs.start,
        }
        Some(found)
    }

    fn step_back<'s>(&self, slots: &'s Slots, next_seq: u64) -> Result<Found<'s>> {
        let seq = self.seqs.end - 1;
        let (segment, end) = match &slots.list()[slots.index_of(seq).unwrap_or(0)] {
            Slot::Lost(damage) => return Err(Error::damaged(Damage::clone(damage))),
            Slot::Segment { segment, end } => (segment, end_of(segment, *end, next_seq)),
        };
        match locate(segment, end, seq)? {
            Located::Lost(loss) => Err(damage(segment, stretch_before(segment, end, loss)?)),
            Located::Frame(at) => match frame_at(segment, end, at)? {
                Ok(found) => Ok(found),
                Err(kind) => {
                    let loss = loss_at(segment, end, at, kind)?;
                    Err(damage(segment, stretch_before(segment, end, loss)?))
                }
            },
        }
    }
}

/// `loss`, grown by the invalid frames right before it: from either end, a stretch is the same.
fn stretch_before(segment: &Arc<Segment>, end: Position, mut loss: Loss) -> Result<Loss> {
    while loss.seqs.start > segment.base_seq {
        match locate(segment, end, loss.seqs.start - 1)? {
            Located::Lost(before) => {
                loss = Loss {
                    bytes: before.bytes.start..loss.bytes.end,
                    seqs: before.seqs.start..loss.seqs.end,
                    ..before
                };
            }
            Located::Frame(at) => match frame_at(segment, end, at)? {
                Ok(_) => break,
                Err(kind) => {
                    loss = Loss { bytes: at.offset..loss.bytes.end, seqs: at.seq..loss.seqs.end, kind };
                }
            },
        }
    }
    Ok(loss)
}
