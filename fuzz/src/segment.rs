//! Target `segment`: a segment's file holds anything. It lies behind a manifest that is valid, alone or between segments that are,
//! and so much of it is repaired as the input says: with checksums that hold, what stands behind them is reached.

use crate::encode::{self, Placed, Predecessor, Repairs, FLAG_FIRST, FLAG_LAST, FLAG_LZ4, FRAMES, LOG_ID};
use crate::files::{segment_name, Files, MANIFEST};
use crate::format::{self, Cut, Mark, Slot};
use crate::input::Input;
use crate::probe::{Digest, Subject};
use maplog::{DamageKind, Error, RecoveryMode, Verify};
use std::collections::BTreeSet;

/// Bytes before the script and the segment's own.
pub const CONTROL: usize = 8;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let control: [u8; CONTROL] = std::array::from_fn(|_| input.byte());
    let script_len = usize::from(input.byte()) % 64;
    let mut script = Input::new(input.bytes(script_len));
    let files = files(control, input.rest());
    let appended = Frames::of(&files);
    let verify = if control[5] & 1 == 0 { Verify::Unproven } else { Verify::All };

    crate::execute("segment", crate::live_max(files.total_len()), |scratch| {
        let open = |name: &str, mode, verify| {
            let dir = scratch.join(name);
            files.write(&dir);
            let subject = Subject::open(scratch, dir.clone(), mode, verify);
            if let Ok(subject) = &subject {
                subject.seen.entries.iter().for_each(|(seq, digest)| appended.check(*seq, *digest));
            }
            if mode == RecoveryMode::Salvage && subject.is_ok() {
                assert!(Files::read(&dir) == files, "a salvage that nobody writes to has changed a file");
            }
            subject
        };
        let salvaged = open("salvage", RecoveryMode::Salvage, Verify::Unproven);
        let strict = open("all", RecoveryMode::Strict, Verify::All);
        // What the manifest says was salvaged before, a salvage looks at anew.
        let is_first_time = !has(control[2], LOST);
        match (&salvaged, &strict) {
            (Ok(salvaged), Ok(strict)) if is_first_time => {
                assert_eq!(salvaged.seen.entries, strict.seen.entries, "a salvage of a log that is whole differs");
                assert_eq!(salvaged.log().recovery().losses, [], "a log that is whole has losses");
            }
            (Ok(salvaged), Err(error)) => {
                // Frames may lie about their batch: then all are whole, and a salvage loses none.
                let is_batch = matches!(error, Error::Damaged { damage } if damage.kind == DamageKind::Batch);
                let is_listed = !salvaged.log().recovery().losses.is_empty();
                assert!(is_listed || is_batch, "refused, and nothing is lost: {error}");
            }
            (Err(error), Ok(_)) => panic!("a salvage is refused: {error}"),
            _ => {}
        }
        let subject = match control[5] >> 1 & 3 {
            0 => salvaged,
            1 => strict,
            _ => open("unproven", RecoveryMode::Strict, verify),
        };
        if let Ok(subject) = subject {
            subject.forged().run(&mut script);
        }
    });
}

/// All frames that are valid anywhere in some files: nothing else may come out.
pub(crate) struct Frames(BTreeSet<(u64, Option<Digest>)>);

impl Frames {
    pub(crate) fn of(files: &Files) -> Frames {
        let mut found = BTreeSet::new();
        for name in files.segments() {
            let bytes = &files.0[name];
            if bytes.len() < FRAMES {
                continue;
            }
            for at in (FRAMES as u64..bytes.len() as u64).step_by(8) {
                let seeds = [encode::seed(bytes), encode::link_seed(bytes)];
                let Some(frame) = seeds.into_iter().find_map(|seed| format::frame_at(bytes, seed, at)) else {
                    continue;
                };
                // What a compressed one holds is not known here.
                let is_plain = bytes[at as usize + 31] & FLAG_LZ4 == 0;
                let payload = &bytes[frame.payload.start as usize..frame.payload.end as usize];
                found.insert((frame.seq, is_plain.then(|| Digest::of(payload))));
            }
        }
        Frames(found)
    }

    pub(crate) fn check(&self, seq: u64, digest: Digest) {
        let is_there = self.0.contains(&(seq, Some(digest))) || self.0.contains(&(seq, None));
        assert!(is_there, "seq {seq} stands in no file as it was read");
    }
}

fn has(bits: u8, bit: u8) -> bool {
    bits >> bit & 1 != 0
}

/// The bit of the byte of witnesses that has the manifest speak of losses.
const LOST: u8 = 4;

/// The log that the control bytes and the segment's bytes make.
fn files(control: [u8; CONTROL], bytes: &[u8]) -> Files {
    let [repairs, layout, witnesses, mark_at, cut_at, _, zeros, end_at] = control;
    let (is_behind, is_before) = (has(layout, 0), has(layout, 1));

    let mut segment = bytes.to_vec();
    segment.resize(segment.len() + usize::from(zeros % 5) * 1024, 0);
    let mut placed = Vec::new();
    let mut good = GOOD_FIRST;
    let mut base_seq = 1;
    if segment.len() >= FRAMES {
        if has(repairs, 0) {
            encode::repair_identity(&mut segment, 2);
        }
        if has(repairs, 5) {
            // The place in the log that the segment before, or the manifest, gives it.
            base_seq = if is_behind { GOOD_FIRST + GOOD } else { encode::base_seq(&segment).max(1) };
            encode::put(&mut segment, 64, base_seq);
            encode::put_predecessor(&mut segment, is_behind.then(|| end_of_good(1, GOOD_FIRST)));
        } else {
            base_seq = encode::base_seq(&segment);
        }
        if has(repairs, 1) {
            encode::repair_link(&mut segment);
        }
        let frames = Repairs { headers: has(repairs, 2), payloads: has(repairs, 3), seqs: has(repairs, 4) };
        placed = encode::repair_frames(&mut segment, frames);
    }

    let mut files = Files::default();
    let first = if is_behind { (1, good) } else { (2, base_seq) };
    if is_behind {
        files.0.insert(segment_name(1), good_segment(1, good, None));
    }
    let pick = |at: u8| {
        let last = Placed { seq: base_seq.wrapping_sub(1), end: FRAMES as u64 };
        let Placed { seq, end } = placed.get(usize::from(at)).or(placed.last()).copied().unwrap_or(last);
        Mark { segment: 2, seq, offset: end }
    };
    let mut last = pick(u8::MAX);
    if is_before {
        let Mark { seq, offset, .. } = pick(end_at);
        good = seq.wrapping_add(1);
        files.0.insert(
            segment_name(3),
            good_segment(3, good, Some(Predecessor { id: 2, end_seq: seq, end_offset: offset })),
        );
        let end = end_of_good(3, good);
        last = Mark { segment: 3, seq: end.end_seq, offset: end.end_offset };
    }
    files.0.insert(segment_name(2), segment);

    let slot = Slot {
        first_segment: first.0,
        first_seq: first.1,
        cut: (witnesses & 1 != 0).then(|| {
            let end = pick(cut_at);
            Cut { segment: end.segment, end_seq: end.seq, end_offset: end.offset, next_id: 3 }
        }),
        mark: match witnesses >> 1 & 3 {
            0 => None,
            1 => Some(pick(mark_at)),
            2 => Some(last),
            _ => is_behind.then(|| {
                let end = end_of_good(1, GOOD_FIRST);
                Mark { segment: 1, seq: end.end_seq, offset: end.end_offset }
            }),
        },
        clean: has(witnesses, 3),
        lost: if has(witnesses, LOST) { base_seq..base_seq.wrapping_add(3) } else { 0..0 },
        ..Slot::NOTHING
    };
    let slot = slot.encode(LOG_ID);
    files.0.insert(MANIFEST.to_owned(), encode::manifest([&slot, &slot]));
    files
}

/// Entries of a segment that is as it should be, the seq of the first of them where it begins the log, and the bytes of each.
const GOOD: u64 = 3;
const GOOD_FIRST: u64 = 5;
const GOOD_PAYLOAD: &[u8] = b"as it was appended";

fn good_segment(id: u64, base_seq: u64, predecessor: Option<Predecessor>) -> Vec<u8> {
    let mut segment = encode::Segment::new(id, 0x5eed_0000_0000 + id, base_seq, predecessor);
    for index in 0..GOOD {
        let seq = base_seq.wrapping_add(index);
        segment.push(seq, encode::NO_WITNESS, FLAG_FIRST | FLAG_LAST, GOOD_PAYLOAD);
    }
    segment.0
}

fn end_of_good(id: u64, base_seq: u64) -> Predecessor {
    let frame_len = (encode::HEADER + GOOD_PAYLOAD.len()).next_multiple_of(8) as u64;
    let end_offset = FRAMES as u64 + GOOD * frame_len;
    Predecessor { id, end_seq: base_seq.wrapping_add(GOOD - 1), end_offset }
}
