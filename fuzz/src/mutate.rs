//! Target `mutate`: a valid log of some shape, some of whose bytes are then not what they were. What comes out is judged by what was
//! appended, by which of its bytes were changed, and by the witnesses that were not: nothing is invented, what a witness covers is
//! there or named as lost, and what nobody covers is torn at worst, from the first change on.

use crate::encode::{FRAMES, HEADER, SLOT};
use crate::files::{Files, MANIFEST};
use crate::format;
use crate::input::Input;
use crate::probe::{Digest, Subject};
use crate::shapes::{shapes, Shape};
use maplog::{RecoveryMode, Verify};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

const SECTOR: usize = 512;
const SLOTS: [usize; 2] = [0, 4096];

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let specimen = &specimens()[input.below(shapes().len())];
    let options = input.byte();
    let mut files = specimen.shape.files.clone();
    for _ in 0..input.below(6) {
        mutate(specimen, &mut files, &mut input);
    }
    if !files.0.contains_key(MANIFEST) && files.segments().next().is_none() {
        return; // Nothing says that there was a log.
    }
    let changes = Changes::find(specimen, &files);
    let verify = if options & 1 == 0 { Verify::Unproven } else { Verify::All };

    crate::execute("mutate", crate::live_max(files.total_len()), |scratch| {
        let open = |name: &str, mode| {
            let dir = scratch.join(name);
            files.write(&dir);
            let subject = Subject::open(scratch, dir.clone(), mode, verify);
            if mode == RecoveryMode::Salvage && subject.is_ok() {
                assert!(Files::read(&dir) == files, "a salvage that nobody writes to has changed a file");
            }
            subject
        };
        let strict = open("strict", RecoveryMode::Strict);
        match &strict {
            Ok(subject) => changes.judge_strict(subject, verify),
            Err(error) => assert!(changes.is_any(), "nothing that counts was changed: {error}"),
        }
        let salvaged = open("salvage", RecoveryMode::Salvage);
        match &salvaged {
            Ok(subject) => changes.judge_salvage(subject),
            Err(error) => assert!(changes.slot.is_none(), "a salvage is refused: {error}"),
        }
        let subject = if options & 2 == 0 { strict } else { salvaged };
        if let Ok(subject) = subject {
            subject.with_batches(&specimen.shape.batches).run(&mut input);
        }
    });
}

/// A shape, and where its parts lie.
struct Specimen {
    shape: &'static Shape,
    segments: BTreeMap<u64, Placed>,
    /// The live frames by seq: the segment, and where in it.
    frames: BTreeMap<u64, Frame>,
}

/// A segment of a shape.
struct Placed {
    name: String,
    /// The first of its live seqs.
    base_seq: u64,
    /// The seqs of dead frames behind its end, which are whole.
    dead: Range<u64>,
}

struct Frame {
    segment: u64,
    bytes: Range<usize>,
    witness: Option<u64>,
}

fn specimens() -> &'static [Specimen] {
    static SPECIMENS: OnceLock<Vec<Specimen>> = OnceLock::new();
    SPECIMENS.get_or_init(|| shapes().iter().map(Specimen::new).collect())
}

impl Specimen {
    fn new(shape: &'static Shape) -> Specimen {
        let mut segments = BTreeMap::new();
        let mut frames = BTreeMap::new();
        let mut ends = BTreeMap::new();
        let first_segment = format::slot(shape.files.0[MANIFEST].as_slice()).unwrap().first_segment;
        for name in shape.files.segments() {
            let segment = format::Segment::of(Path::new(name), &shape.files.0[name]).unwrap();
            if segment.id < first_segment {
                continue; // Dead, and not removed yet.
            }
            // A seq that was given again stands in a later segment than before.
            for frame in segment.frames.iter().filter(|frame| shape.entries.contains_key(&frame.seq)) {
                let bytes = frame.bytes.start as usize..frame.bytes.end as usize;
                frames.insert(frame.seq, Frame { segment: segment.id, bytes, witness: frame.witness });
            }
            ends.insert(segment.id, segment.frames.last().map_or(0, |frame| frame.seq + 1));
            segments.insert(segment.id, Placed { name: name.clone(), base_seq: 0, dead: 0..0 });
        }
        assert!(frames.keys().eq(shape.entries.keys()), "not every entry was found");
        for (seq, frame) in &frames {
            let segment = segments.get_mut(&frame.segment).unwrap();
            segment.base_seq = if segment.base_seq == 0 { *seq } else { segment.base_seq };
            segment.dead = seq + 1..ends[&frame.segment];
        }
        Specimen { shape, segments, frames }
    }

    fn bytes(&self, name: &str) -> &[u8] {
        &self.shape.files.0[name]
    }
}

/// Changes a file, or several.
fn mutate(specimen: &Specimen, files: &mut Files, input: &mut Input<'_>) {
    let names: Vec<String> = files.0.keys().cloned().collect();
    let (kind, name, a, b) = (input.byte(), input.byte(), usize::from(input.short()), usize::from(input.short()));
    let Some(name) = names.get(usize::from(name) % names.len().max(1)) else {
        return;
    };
    let bytes = files.0.get_mut(name).unwrap();
    let len = bytes.len();
    match kind % 12 {
        // A bit of an entry's frame.
        0..=2 => {
            let frame = specimen.frames.values().nth(a % specimen.frames.len()).unwrap();
            let at = frame.bytes.start + (b >> 3) % frame.bytes.len();
            let bytes = files.0.get_mut(&specimen.segments[&frame.segment].name);
            if let Some(byte) = bytes.and_then(|bytes| bytes.get_mut(at)) {
                *byte ^= 1 << (b & 7);
            }
        }
        // A bit of the head, and one anywhere.
        3 if len > 0 => bytes[a % len.min(SLOT)] ^= 1 << (b & 7),
        4 if len > 0 => bytes[a % len] ^= 1 << (b & 7),
        // A sector, or a block.
        5 => {
            let at = (a * SECTOR) % len.max(1);
            bytes[at..len.min(at + SECTOR)].fill(b as u8 & 1);
        }
        6 => {
            let at = (a * 64) % len.max(1);
            bytes[at..len.min(at + 64)].fill(0);
        }
        7 => bytes.truncate(a % (len + 1)),
        8 => {
            let from = &names[b % names.len()];
            let other = files.0[from].clone();
            let at = (a * 8) % other.len().max(1);
            let span = at..other.len().min(at + 8 * (1 + b % 40));
            let bytes = files.0.get_mut(name).unwrap();
            let end = len.min(span.end);
            if span.start < end {
                bytes[span.start..end].copy_from_slice(&other[span.start..end]);
            }
        }
        9 => {
            let other = &names[b % names.len()];
            let (one, two) = (files.0[name].clone(), files.0[other].clone());
            files.0.insert(name.clone(), two);
            files.0.insert(other.clone(), one);
        }
        10 => drop(files.0.remove(name)),
        11 => {
            let copy = files.0[name].clone();
            let prefix = ["segments/wal-", "segments/spare-", "segments/notes-", "metadata/wal-"][b % 4];
            let name = format!("{prefix}{:06}.log", 1 + a % 40);
            files.0.insert(name, copy);
        }
        _ => bytes.resize(len + a % 4096, b as u8),
    }
}

/// What of a log is not what it was.
struct Changes<'s> {
    specimen: &'s Specimen,
    /// The newest slot of the manifest that is what some slot was; None if neither is.
    slot: Option<format::Slot>,
    slots_are_whole: bool,
    /// Segments without their identity, and those without their link, or that are gone.
    identities: Vec<u64>,
    links: Vec<u64>,
    /// Seqs whose frames were changed.
    frames: Vec<u64>,
    /// Those of them whose frames stand in the same place of another file.
    moved: Vec<u64>,
    /// There is a segment's file that there was not.
    is_file_added: bool,
    /// The highest seq that a witness covers which was not changed.
    witness: u64,
}

impl<'s> Changes<'s> {
    fn find(specimen: &'s Specimen, files: &Files) -> Changes<'s> {
        let is_same = |name: &str, range: Range<usize>| {
            let now = files.0.get(name).and_then(|bytes| bytes.get(range.clone()));
            now == specimen.bytes(name).get(range)
        };
        let originals = SLOTS.map(|at| &specimen.bytes(MANIFEST)[at..at + SLOT]);
        let manifest = files.0.get(MANIFEST).map_or(&[][..], Vec::as_slice);
        let slots = SLOTS.map(|at| manifest.get(at..at + SLOT).filter(|slot| originals.contains(slot)));
        let slot = slots.into_iter().flatten().filter_map(format::slot).max_by_key(|slot| slot.generation);

        let mut changes = Changes {
            specimen,
            slots_are_whole: slots.iter().zip(originals).all(|(slot, original)| *slot == Some(original)),
            slot,
            identities: Vec::new(),
            links: Vec::new(),
            frames: Vec::new(),
            moved: Vec::new(),
            is_file_added: files.segments().any(|name| !specimen.shape.files.0.contains_key(name)),
            witness: 0,
        };
        for (id, Placed { name, .. }) in &specimen.segments {
            if files.0.contains_key(name) && !is_same(name, 0..FRAMES / 2) {
                changes.identities.push(*id);
            }
            if !is_same(name, FRAMES / 2..FRAMES) {
                changes.links.push(*id);
            }
        }
        changes.witness = changes.slot.as_ref().map_or(0, marked_seq);
        for (seq, Frame { segment, bytes, witness }) in &specimen.frames {
            let name = &specimen.segments[segment].name;
            if !is_same(name, bytes.clone()) {
                changes.frames.push(*seq);
                let frame = &specimen.bytes(name)[bytes.clone()];
                if files.0.values().any(|file| file.get(bytes.clone()) == Some(frame)) {
                    changes.moved.push(*seq);
                }
            }
            // A header of which the frame does not fit the file is none.
            let fits = files.0.get(name).is_some_and(|file| bytes.end <= file.len());
            let is_header_whole = fits && is_same(name, bytes.start..bytes.start + HEADER);
            let says = is_header_whole && !changes.identities.contains(segment);
            changes.witness = changes.witness.max(witness.filter(|_| says).unwrap_or(0));
        }
        changes
    }

    fn is_any(&self) -> bool {
        let Changes { slot, identities, links, frames, is_file_added, .. } = self;
        slot.is_none() || *is_file_added || !(identities.is_empty() && links.is_empty() && frames.is_empty())
    }

    /// The first seq that a segment takes along which has no link, or is gone.
    fn first_unlinked(&self) -> Option<u64> {
        let heads = self.identities.iter().chain(&self.links);
        heads.map(|id| self.specimen.segments[id].base_seq).min()
    }

    fn judge_strict(&self, subject: &Subject<'_>, verify: Verify) {
        let shape = self.specimen.shape;
        let seen = &subject.seen;
        let Some(slot) = &self.slot else {
            panic!("opened without a manifest");
        };
        assert!(self.identities.is_empty(), "opened without the identity of {:?}", self.identities);
        assert_eq!(seen.first, shape.first);
        self.check_entries(subject);
        // What is believed without a look, if nobody asked for one.
        let looked_from = if verify == Verify::All { 0 } else { marked_seq(slot) + 1 };
        let first_bad = self.frames.iter().copied().find(|seq| *seq >= looked_from);
        let x = first_bad.into_iter().chain(self.first_unlinked()).min();
        if let Some(x) = x {
            assert!(x > self.witness, "seq {x} is damaged, a witness covers {}, and that is not said", self.witness);
        }
        let next = x.map_or(shape.next(), |x| shape.batch_of(x).start);
        assert_eq!(seen.next, next, "what was not changed is there, and no more");
        for seq in seen.first..seen.next {
            assert_ne!(self.frames.contains(&seq), seen.entries.contains_key(&seq), "seq {seq}");
        }
        let is_noted = subject.log().recovery().notes.iter().any(|note| note.contains("slot"));
        assert_eq!(is_noted, !self.slots_are_whole, "a bad slot of the manifest is noted, a good one is not");
    }

    fn judge_salvage(&self, subject: &Subject<'_>) {
        let shape = self.specimen.shape;
        let seen = &subject.seen;
        let report = subject.log().recovery();
        assert!(self.slot.is_some(), "salvaged without a manifest");
        self.check_entries(subject);
        let first_bad = self.frames.first().copied().into_iter().chain(self.first_unlinked()).min();
        let is_listed = |seq: u64| report.losses.iter().any(|loss| loss.seqs.contains(&seq));
        for (seq, frame) in &self.specimen.frames {
            let is_there = seen.entries.contains_key(seq);
            let is_whole = !self.frames.contains(seq);
            let is_found = !self.identities.contains(&frame.segment) && !self.links.contains(&frame.segment);
            let may_be_there = is_whole || self.moved.contains(seq) || self.may_be_old(subject, *seq);
            assert!(may_be_there || !is_there, "seq {seq} was changed, and is there");
            if first_bad.map_or(true, |bad| *seq < shape.batch_of(bad).start) {
                assert!(is_there, "seq {seq} lies before all that was changed, and is not there: {report}");
            }
            if *seq <= self.witness {
                assert!(is_there || is_listed(*seq), "seq {seq} is missing without a word: {report}");
                // Of a batch, what is whole may be lost with the rest.
                let is_whole = shape.batch_of(*seq).all(|seq| !self.frames.contains(&seq));
                assert!(is_there || !is_whole || !is_found, "seq {seq} is whole, and is not there: {report}");
            }
        }
        assert!(seen.next > self.witness, "the log goes on at {}, and {} was durable", seen.next, self.witness);
    }

    /// Whatever comes out is what was appended at that seq, and is live.
    fn check_entries(&self, subject: &Subject<'_>) {
        for (seq, digest) in &subject.seen.entries {
            let is_live = self.specimen.shape.entries.get(seq) == Some(digest);
            assert!(is_live || self.may_be_old(subject, *seq), "seq {seq} is not what was appended, or was dropped");
        }
    }

    /// Whether a salvage gives an entry that had been truncated, in a segment of which nobody says any more where it ends. It cannot
    /// know, but that it cannot it has to say.
    fn may_be_old(&self, subject: &Subject<'_>, seq: u64) -> bool {
        let Specimen { shape, segments, .. } = self.specimen;
        let report = subject.log().recovery();
        let is_noted = |name: &str| report.notes.iter().any(|note| note.contains("truncated") && note.contains(name));
        let is_unended = |id: &u64, name: &str| {
            let successor = segments.range(id + 1..).next().map(|(id, _)| *id);
            let is_lost = successor.is_some_and(|id| self.identities.contains(&id) || self.links.contains(&id));
            is_lost && is_noted(name)
        };
        let holds = |(id, segment): (&u64, &Placed)| segment.dead.contains(&seq) && is_unended(id, &segment.name);
        let is_old = |digest: &Digest| shape.dead.contains(&(seq, *digest));
        subject.seen.entries.get(&seq).is_some_and(is_old) && segments.iter().any(holds)
    }
}

/// Up to where a slot says that all was durable.
fn marked_seq(slot: &format::Slot) -> u64 {
    slot.mark.map_or(slot.first_seq - 1, |mark| mark.seq)
}
