//! What open makes of every shape that a log can have on disk: logs made by hand, in the words of `docs/format.md`, each with what must
//! come out. Where it is damage, the file, the bytes, the lost seqs and the kind are the right ones.

use crate::shared::fast_dir;
use crate::support::forge::{self, offset_of, Segment, FILE_LEN, FRAME};
use crate::support::format::{self, Cut, Mark, Slot, FRAMES};
use crate::support::logs::contents;
use crate::support::seam;
use maplog::testing::Op;
use maplog::{Damage, DamageKind, Error, Log, Options, RecoveryMode, RecoveryReport, SyncPolicy, Verify};
use std::ops::Range;
use std::path::Path;
use std::slice::from_ref;
use std::sync::{Arc, Mutex};

fn options() -> Options {
    Options::new().segment_size(FILE_LEN).sync_policy(SyncPolicy::Manual)
}

/// What a strict open must say, and keep.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    last_seq: u64,
    proven_seq: u64,
    torn_bytes: u64,
    entries_scanned: u64,
}

/// Opens the log that is made of these, with and without a look at what is proven; it holds the entries from the first seq to `last_seq`,
/// each as it was made, now and after another open.
#[track_caller]
fn assert_opens(what: &str, manifest: &Slot, segments: &[Segment], kept: Kept) -> RecoveryReport {
    let dir = fast_dir();
    forge::write(dir.path(), manifest, segments);
    let log = options().open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let report = log.recovery().clone();
    let RecoveryReport { last_seq, proven_seq, torn_bytes, entries_scanned, .. } = report;
    assert_eq!(Kept { last_seq, proven_seq, torn_bytes, entries_scanned }, kept, "{what}");
    assert_eq!(report.bytes_scanned, entries_scanned * FRAME, "{what}");
    assert!(manifest.clean || !report.clean, "{what}");
    assert_stored(dir.path(), manifest, last_seq, what);
    let timestamp_ms = if entries_scanned > 0 { 1000 * last_seq } else { 0 };
    assert!(format::newest_slot(dir.path()).1.last_timestamp_ms >= timestamp_ms, "{what}");
    assert_reads(&log, manifest.first_seq..last_seq + 1, what);
    log.close().unwrap();
    let log = options().verify(Verify::All).open(dir.path()).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_reads(&log, manifest.first_seq..last_seq + 1, what);
    report
}

/// An open stores what it found before anybody hears of it: the log begins with its first file, and ends where its last one does, with
/// a cut, for what stands past it never counts again. A log that was closed goes on as it was.
#[track_caller]
fn assert_stored(dir: &Path, found: &Slot, last_seq: u64, what: &str) {
    let slot = format::newest_slot(dir).1;
    assert!(!slot.clean, "{what}: it may be appended to");
    let Some(last) = format::segments(dir).into_iter().rev().find(|segment| !segment.frames.is_empty()) else {
        assert_eq!((slot.cut, slot.mark, slot.first_seq), (None, None, last_seq + 1), "{what}");
        return;
    };
    assert_eq!(slot.first_segment, ids(dir)[0], "{what}");
    if found.clean {
        assert_eq!((slot.cut, slot.mark), (found.cut, found.mark), "{what}");
        return;
    }
    let end_offset = last.frame(last_seq).bytes.end;
    let (segment, end_seq) = (last.id, last_seq);
    let next_id = slot.cut.map_or(0, |cut| cut.next_id);
    assert!(next_id > segment, "{what}");
    assert_eq!(slot.cut, Some(Cut { segment, end_seq, end_offset, next_id }), "{what}");
    assert_eq!(slot.mark, Some(Mark { seq: end_seq, segment, offset: end_offset }), "{what}");
}

#[track_caller]
fn assert_reads(log: &Log, seqs: Range<u64>, what: &str) {
    let view = log.view();
    assert_eq!(view.first_seq()..view.next_seq(), seqs, "{what}");
    for (entry, seq) in view.iter().zip(seqs) {
        let entry = entry.unwrap_or_else(|error| panic!("{what}, seq {seq}: {error}"));
        assert_eq!((entry.seq(), entry.payload()), (seq, &forge::payload(seq)[..]), "{what}");
    }
}

/// The damage that a strict open of the log names that is made of these. It changes nothing.
#[track_caller]
fn damage(what: &str, manifest: &Slot, segments: &[Segment], verify: Verify) -> Named {
    let dir = fast_dir();
    forge::write(dir.path(), manifest, segments);
    let before = contents(&dir.path().join("segments"));
    let named = match options().verify(verify).open(dir.path()) {
        Err(Error::Damaged { damage }) => Named::from(dir.path(), &damage),
        Err(error) => panic!("{what}: {error}"),
        Ok(log) => panic!("{what}: opened, {}", log.recovery()),
    };
    assert_eq!(contents(&dir.path().join("segments")), before, "{what}");
    named
}

/// Damage, with the segment's id in place of its path and no checksums.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    segment: u64,
    bytes: Range<u64>,
    seqs: Range<u64>,
    kind: &'static str,
}

impl Named {
    fn from(dir: &Path, damage: &Damage) -> Named {
        let segment = (1..20).find(|id| damage.path == format::segment_path(dir, *id));
        let kind = match damage.kind {
            DamageKind::Header { .. } => "header",
            DamageKind::Payload { .. } => "payload",
            DamageKind::Length { .. } => "length",
            DamageKind::Sequence { .. } => "sequence",
            DamageKind::Batch => "batch",
            DamageKind::Identity => "identity",
            DamageKind::Link => "link",
            DamageKind::Short { .. } => "short",
            DamageKind::Missing => "missing",
            DamageKind::Gap => "gap",
            _ => "another",
        };
        Named {
            segment: segment.unwrap_or_else(|| panic!("{}", damage.path.display())),
            bytes: damage.bytes.clone(),
            seqs: damage.seqs.clone(),
            kind,
        }
    }
}

fn named(kind: &'static str, segment: u64, bytes: Range<u64>, seqs: Range<u64>) -> Named {
    Named { segment, bytes, seqs, kind }
}

/// The bytes of the frames of `seqs` in a segment that begins with `base_seq`.
fn frames(base_seq: u64, seqs: Range<u64>) -> Range<u64> {
    offset_of(base_seq, seqs.start)..offset_of(base_seq, seqs.end)
}

const IDENTITY: Range<u64> = 0..64;
const LINK: Range<u64> = 64..128;
/// Entries 1 to 10, of which nothing is proven.
fn ten() -> Segment {
    Segment::first(1, 1).entries(10, None)
}

#[test]
fn what_nobody_proves_is_kept_up_to_the_first_frame_that_is_not_valid() {
    let all = Kept { last_seq: 10, proven_seq: 0, torn_bytes: 0, entries_scanned: 10 };
    assert_opens("whole", &Slot::NOTHING, &[ten()], all);
    for seq in [1, 2, 9, 10] {
        // In the header's checksum, its seq, the payload.
        for byte in [2, 9, 40] {
            let torn = ten().flipped(offset_of(1, seq) + byte);
            let kept = |torn_bytes| Kept { last_seq: seq - 1, proven_seq: 0, torn_bytes, entries_scanned: seq - 1 };
            // As far as a header says, or else as bytes are there: in a file that was used before, they mean nothing.
            let has_header = seq < 10 || byte == 40;
            let (fresh, recycled) = if has_header { ((11 - seq) * FRAME, (11 - seq) * FRAME) } else { (FRAME - 4, 0) };
            let what = format!("byte {byte} of {seq}");
            assert_opens(&what, &Slot::NOTHING, from_ref(&torn), kept(fresh));
            assert_opens(&format!("{what}, recycled"), &Slot::NOTHING, &[torn.recycled()], kept(recycled));
        }
    }
}

#[test]
fn a_witness_that_reaches_the_place_makes_it_damage() {
    // The frame of 10 says that all up to 7 was durable.
    let witness = || Segment::first(1, 1).entries(9, None).entries(10, Some(7));
    for seq in 1..=7 {
        let found = damage("payload", &Slot::NOTHING, &[witness().flipped(offset_of(1, seq) + 40)], Verify::Unproven);
        assert_eq!(found, named("payload", 1, frames(1, seq..seq + 1), seq..seq + 1));
        let found = damage("header", &Slot::NOTHING, &[witness().flipped(offset_of(1, seq) + 9)], Verify::Unproven);
        assert_eq!(found, named("header", 1, frames(1, seq..seq + 1), seq..seq + 1));
    }
    let flips = |seqs: Range<u64>| seqs.fold(witness(), |log, seq| log.flipped(offset_of(1, seq) + 40));
    let found = damage("a stretch", &Slot::NOTHING, &[flips(3..6)], Verify::Unproven);
    assert_eq!(found, named("payload", 1, frames(1, 3..6), 3..6));
    let found = damage("up to the witness", &Slot::NOTHING, &[flips(3..10)], Verify::Unproven);
    assert_eq!(found, named("payload", 1, frames(1, 3..10), 3..8));
    for seq in 8..=9 {
        let torn_bytes = (11 - seq) * FRAME;
        let kept = Kept { last_seq: seq - 1, proven_seq: 7, torn_bytes, entries_scanned: seq - 1 };
        assert_opens("past the witness", &Slot::NOTHING, &[witness().flipped(offset_of(1, seq) + 40)], kept);
    }
    let torn = witness().flipped(offset_of(1, 10) + 9);
    let kept = Kept { last_seq: 9, proven_seq: 0, torn_bytes: FRAME - 4, entries_scanned: 9 };
    assert_opens("the witness itself", &Slot::NOTHING, &[torn], kept);
}

#[test]
fn what_the_mark_proves_is_not_read_unless_that_is_asked_for() {
    let marked = |seq| {
        let mark = Mark { seq, segment: 1, offset: offset_of(1, seq + 1) };
        Slot { mark: Some(mark), last_timestamp_ms: 1000 * seq, ..Slot::NOTHING }
    };
    let kept = Kept { last_seq: 10, proven_seq: 6, torn_bytes: 0, entries_scanned: 4 };
    assert_opens("whole", &marked(6), &[ten()], kept);
    let kept = Kept { last_seq: 10, proven_seq: 10, torn_bytes: 0, entries_scanned: 0 };
    assert_opens("all of it", &marked(10), &[ten()], kept);
    for seq in 1..=10 {
        let changed = ten().flipped(offset_of(1, seq) + 40);
        if seq <= 6 {
            let found = damage("in what is proven", &marked(6), &[changed], Verify::All);
            assert_eq!(found, named("payload", 1, frames(1, seq..seq + 1), seq..seq + 1));
        } else {
            let torn_bytes = (11 - seq) * FRAME;
            let kept = Kept { last_seq: seq - 1, proven_seq: 6, torn_bytes, entries_scanned: seq - 7 };
            assert_opens("past the mark", &marked(6), &[changed], kept);
        }
    }
    // The file ends before the mark, or with it.
    let short = ten().with_len(offset_of(1, 7) - 8);
    let found = damage("short", &marked(6), &[short], Verify::Unproven);
    assert_eq!(found, named("short", 1, offset_of(1, 6)..offset_of(1, 7), 6..7));
    let kept = Kept { last_seq: 6, proven_seq: 6, torn_bytes: 0, entries_scanned: 0 };
    assert_opens("cut after the mark", &marked(6), &[ten().with_len(offset_of(1, 7))], kept);
}

#[test]
fn a_closed_log_ends_with_its_mark() {
    let clean = Slot { clean: true, mark: Some(ten().mark()), last_timestamp_ms: 10_000, ..Slot::NOTHING };
    let kept = Kept { last_seq: 10, proven_seq: 10, torn_bytes: 0, entries_scanned: 0 };
    let report = assert_opens("whole", &clean, &[ten()], kept);
    assert!(report.clean);
    // A frame behind it that is not whole is no part of the log. One that is was appended later, and so is not what the manifest says.
    let kept = Kept { last_seq: 10, proven_seq: 10, torn_bytes: 0, entries_scanned: 0 };
    assert_opens("with a torn one", &clean, &[ten().entries(12, None).flipped(offset_of(1, 11) + 40)], kept);
    let dir = fast_dir();
    for (last, verify) in [(11, Verify::Unproven), (12, Verify::All)] {
        forge::write(dir.path(), &clean, &[ten().entries(last, None)]);
        match options().verify(verify).open(dir.path()) {
            Err(Error::Damaged { damage }) => {
                assert_eq!((damage.path, damage.bytes), (format::manifest_path(dir.path()), 0..8192));
                assert_eq!((damage.seqs, damage.kind), (11..last + 1, DamageKind::Older));
            }
            other => panic!("{other:?}"),
        }
    }
    for seq in 1..=10 {
        let found = damage("flipped", &clean, &[ten().flipped(offset_of(1, seq) + 40)], Verify::All);
        assert_eq!(found, named("payload", 1, frames(1, seq..seq + 1), seq..seq + 1));
    }
}

/// Entries 1 to 10 and 11 to 20, in two segments; each frame of the second claims what `witness` says.
fn two(witness: Option<u64>) -> [Segment; 2] {
    let first = ten();
    let second = Segment::after(&first, 2).entries(20, witness);
    [first, second]
}

#[test]
fn a_segment_ends_where_its_successor_says() {
    let kept = Kept { last_seq: 20, proven_seq: 0, torn_bytes: 0, entries_scanned: 20 };
    assert_opens("whole", &Slot::NOTHING, &two(None), kept);
    let [first, second] = two(None);
    let more = first.clone().entries(12, None);
    let kept = Kept { last_seq: 20, proven_seq: 0, torn_bytes: 0, entries_scanned: 20 };
    assert_opens("frames past the end", &Slot::NOTHING, &[more, second.clone()], kept);

    // The last frame of the first is torn: nothing of the second counts.
    let torn = first.clone().flipped(offset_of(1, 10) + 40);
    let kept = Kept { last_seq: 9, proven_seq: 0, torn_bytes: 11 * FRAME, entries_scanned: 9 };
    assert_opens("torn before", &Slot::NOTHING, &[torn.clone(), second], kept);
    for witness in [9, 10] {
        let second = two(Some(witness))[1].clone();
        if witness == 10 {
            let found = damage("a witness in the second", &Slot::NOTHING, &[torn.clone(), second], Verify::Unproven);
            assert_eq!(found, named("payload", 1, frames(1, 10..11), 10..11));
        } else {
            let kept = Kept { last_seq: 9, proven_seq: 9, torn_bytes: 11 * FRAME, entries_scanned: 9 };
            assert_opens("a lower witness in the second", &Slot::NOTHING, &[torn.clone(), second], kept);
        }
    }
    // The second says that the first ends with a frame that is not there, or eight bytes later than it does.
    let says = |seq, offset, witness| Segment::new(2, seq + 1, [1, seq, offset]).entries(20, Some(witness));
    let kept = |torn_bytes| Kept { last_seq: 10, proven_seq: 10, torn_bytes, entries_scanned: 10 };
    assert_opens("a frame more", &Slot::NOTHING, &[ten(), says(11, offset_of(1, 12), 10)], kept(9 * FRAME));
    let found = damage("a frame less", &Slot::NOTHING, &[ten(), says(11, offset_of(1, 12), 11)], Verify::Unproven);
    assert_eq!(found, named("header", 1, frames(1, 11..12), 11..12));
    assert_opens("eight bytes more", &Slot::NOTHING, &[ten(), says(10, offset_of(1, 11) + 8, 10)], kept(10 * FRAME));
}

/// Entries 1 to 10, 11 to 20 and 21 to 30, in three segments; each frame of the third claims what `witness` says.
fn three(witness: Option<u64>) -> [Segment; 3] {
    let [first, second] = two(None);
    let third = Segment::after(&second, 3).entries(30, witness);
    [first, second, third]
}

#[test]
fn a_segment_that_is_not_there_is_missed_if_somebody_speaks_of_it() {
    let [first, second, third] = three(Some(25));
    let whole = Kept { last_seq: 30, proven_seq: 25, torn_bytes: 0, entries_scanned: 30 };
    assert_opens("whole", &Slot::NOTHING, &[first.clone(), second.clone(), third.clone()], whole);
    let found = damage("the second", &Slot::NOTHING, &[first.clone(), third.clone()], Verify::Unproven);
    assert_eq!(found, named("missing", 2, 0..0, 11..26));
    let found = damage("the first", &Slot::NOTHING, &[second.clone(), third.clone()], Verify::Unproven);
    assert_eq!(found, named("missing", 1, 0..0, 1..26));
    // Without a witness, their names may never have reached the disk.
    let [first, second, third] = three(None);
    let kept = Kept { last_seq: 10, proven_seq: 0, torn_bytes: 10 * FRAME, entries_scanned: 10 };
    assert_opens("the second, unproven", &Slot::NOTHING, &[first.clone(), third.clone()], kept);
    let kept = Kept { last_seq: 0, proven_seq: 0, torn_bytes: 20 * FRAME, entries_scanned: 0 };
    assert_opens("the first, unproven", &Slot::NOTHING, &[second.clone(), third.clone()], kept);
    let kept = Kept { last_seq: 0, proven_seq: 0, torn_bytes: 0, entries_scanned: 0 };
    assert_opens("all of them", &Slot::NOTHING, &[], kept);
    // The mark names one.
    let marked = |mark| Slot { mark: Some(mark), ..Slot::NOTHING };
    let found = damage("the third", &marked(third.mark()), &[first.clone(), second.clone()], Verify::Unproven);
    assert_eq!(found, named("missing", 3, 0..0, 21..31));
    let found = damage("the last two", &marked(third.mark()), from_ref(&first), Verify::Unproven);
    assert_eq!(found, named("missing", 3, 0..0, 11..31));
    let found = damage("the second of them", &marked(third.mark()), &[first.clone(), third.clone()], Verify::Unproven);
    assert_eq!(found, named("missing", 2, 0..0, 11..31));
    let found = damage("the only one", &marked(first.mark()), &[], Verify::Unproven);
    assert_eq!(found, named("missing", 1, 0..0, 1..11));
    let kept = Kept { last_seq: 20, proven_seq: 10, torn_bytes: 0, entries_scanned: 10 };
    assert_opens("one behind the mark", &marked(first.mark()), &[first, second], kept);
}

#[test]
fn a_segment_without_a_link_is_torn_or_damage_as_its_frames_say() {
    let [first, second] = two(Some(10));
    let lost = second.clone().without_link();
    let kept = Kept { last_seq: 10, proven_seq: 10, torn_bytes: 10 * FRAME, entries_scanned: 10 };
    assert_opens("nothing in it was durable", &Slot::NOTHING, &[first.clone(), lost], kept);
    let [first, second] = [first, Segment::after(&ten(), 2).entries(12, None).entries(20, Some(12))];
    let found = damage("two were", &Slot::NOTHING, &[first.clone(), second.clone().without_link()], Verify::Unproven);
    assert_eq!(found, named("link", 2, LINK, 11..13));
    let marked = Slot { mark: Some(second.mark()), ..Slot::NOTHING };
    let found = damage("the mark is in it", &marked, &[first, second.clone().without_link()], Verify::Unproven);
    assert_eq!(found, named("link", 2, LINK, 11..21));
    let empty = Segment::after(&ten(), 2).without_link();
    let kept = Kept { last_seq: 10, proven_seq: 0, torn_bytes: 0, entries_scanned: 10 };
    assert_opens("a file that was prepared", &Slot::NOTHING, &[ten(), empty], kept);
    let found = damage("the first", &marked, &[ten().without_link(), second], Verify::Unproven);
    assert_eq!(found, named("link", 1, LINK, 1..21));
}

#[test]
fn a_segment_without_an_identity_is_damage_whatever_it_holds() {
    for witness in [None, Some(15)] {
        let [first, second, third] = three(witness);
        let proven = witness.unwrap_or(0);
        let lost = |x: u64| x..(proven + 1).max(x);
        let bad = first.clone().without_identity();
        let found = damage("the first", &Slot::NOTHING, &[bad, second.clone(), third.clone()], Verify::Unproven);
        assert_eq!(found, named("identity", 1, IDENTITY, lost(1)));
        let bad = second.clone().without_identity();
        let found = damage("the second", &Slot::NOTHING, &[first.clone(), bad, third.clone()], Verify::Unproven);
        assert_eq!(found, named("identity", 2, IDENTITY, lost(11)));
        let found = damage("the third", &Slot::NOTHING, &[first, second, third.without_identity()], Verify::Unproven);
        assert_eq!(found, named("identity", 3, IDENTITY, 21..21));
    }
}

#[test]
fn a_segment_that_does_not_begin_where_the_one_before_ends_is_damage() {
    let second = |base_seq| Segment::new(2, base_seq, [1, 10, offset_of(1, 11)]).entries(20, None);
    let kept = Kept { last_seq: 20, proven_seq: 0, torn_bytes: 0, entries_scanned: 20 };
    assert_opens("right behind", &Slot::NOTHING, &[ten(), second(11)], kept);
    for base_seq in [12, 15] {
        let found = damage("later", &Slot::NOTHING, &[ten(), second(base_seq)], Verify::Unproven);
        assert_eq!(found, named("gap", 2, LINK, 11..base_seq));
    }
    // The cut ends the first segment later than the second one's link says.
    let second = Segment::new(2, 9, [1, 8, offset_of(1, 9)]).entries(20, None);
    let cut = Some(Cut { segment: 1, end_seq: 10, end_offset: offset_of(1, 11), next_id: 2 });
    let found = damage("earlier", &Slot { cut, ..Slot::NOTHING }, &[ten(), second], Verify::Unproven);
    assert_eq!(found, named("link", 2, LINK, 11..11));
}

#[test]
fn a_segment_that_ends_before_it_begins_is_damage() {
    let second = Segment::new(2, 11, [1, 10, offset_of(1, 11)]).entries(20, None);
    let third = Segment::new(3, 21, [2, 10, 4096]).entries(30, None);
    let all = [ten(), second, third];
    let found = damage("by the link behind it", &Slot::NOTHING, &all, Verify::Unproven);
    assert_eq!(found, named("link", 3, LINK, 0..0));
    // The manifest knows the segment: not the link behind it is wrong, but its own.
    let marked = |mark| Slot { mark: Some(mark), ..Slot::NOTHING };
    let found = damage("by the mark", &marked(Mark { seq: 10, segment: 2, offset: 4096 }), &all[..2], Verify::Unproven);
    assert_eq!(found, named("link", 2, LINK, 0..0));
    let in_the_second = Mark { seq: 15, segment: 2, offset: offset_of(11, 16) };
    let found = damage("by the link, and marked", &marked(in_the_second), &all, Verify::Unproven);
    assert_eq!(found, named("link", 2, LINK, 0..0));
    // Nor does one take the first segment's place that says to follow it.
    let second = Segment::new(2, 1, [1, 0, 4096]).entries(20, None);
    let found = damage("the first one", &Slot::NOTHING, &[ten(), second], Verify::Unproven);
    assert_eq!(found, named("link", 2, LINK, 0..0));
}

#[test]
fn what_a_salvage_found_lost_was_there() {
    let lost = |lost| Slot { lost, ..Slot::NOTHING };
    let kept = |last_seq| Kept { last_seq, proven_seq: 10, torn_bytes: 0, entries_scanned: last_seq };
    assert_opens("up to the last entry", &lost(9..11), &[ten()], kept(10));
    assert_opens("and one more", &lost(9..11), &[ten().entries(11, None)], kept(11));
    let found = damage("past the last entry", &lost(9..12), &[ten()], Verify::Unproven);
    assert_eq!(found.seqs, 11..12);
}

/// What an open did to the segments' files: the bytes that it wrote, and the files that it synced.
fn adopted(manifest: &Slot, segments: &[Segment]) -> (Vec<(u64, Range<u64>)>, Vec<u64>) {
    let dir = fast_dir();
    forge::write(dir.path(), manifest, segments);
    let done = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let seen = Arc::clone(&done);
    let segment = |path: &Path| (1..=3).find(|id| path.ends_with(format!("wal-{id:06}.log")));
    let _watch = seam::watch(dir.path(), move |op| {
        let (writes, syncs) = &mut *seen.lock().unwrap();
        match op {
            Op::Write { path, offset, data } => {
                writes.extend(segment(path).map(|id| (id, *offset..offset + data.len() as u64)));
            }
            Op::SyncFile { path } => syncs.extend(segment(path)),
            _ => {}
        }
    });
    let log = options().open(dir.path()).unwrap();
    let done = std::mem::take(&mut *done.lock().unwrap());
    drop(log);
    done
}

#[test]
fn an_open_writes_again_what_no_witness_covers_and_nothing_else() {
    let all = three(None);
    let ends = [all[0].end(), all[1].end(), all[2].end()];
    let marked = |mark| Slot { mark: Some(mark), ..Slot::NOTHING };
    let everything = vec![(1, 0..ends[0]), (2, 0..ends[1]), (3, 0..ends[2])];
    assert_eq!(adopted(&Slot::NOTHING, &all), (everything, vec![1, 2, 3]));
    let within_the_second = marked(Mark { seq: 15, segment: 2, offset: offset_of(11, 16) });
    let rest = vec![(2, offset_of(11, 16)..ends[1]), (3, 0..ends[2])];
    assert_eq!(adopted(&within_the_second, &all), (rest, vec![2, 3]));
    assert_eq!(adopted(&marked(all[1].mark()), &all), (vec![(3, 0..ends[2])], vec![3]));
    assert_eq!(adopted(&marked(all[2].mark()), &all), (vec![], vec![]));
    assert_eq!(adopted(&Slot { clean: true, ..marked(all[2].mark()) }, &all), (vec![], vec![]));
    // A long stretch is written in pieces, and not beyond its end.
    let long = Segment::first(1, 1).entries(10_000, None).with_len(1 << 20);
    let (writes, syncs) = adopted(&Slot::NOTHING, from_ref(&long));
    assert!(writes.len() > 1 && writes[0].1.start == 0 && syncs == [1], "{writes:?}");
    assert!(writes.windows(2).all(|pair| pair[0].1.end == pair[1].1.start), "{writes:?}");
    assert_eq!(writes.last().unwrap().1.end, long.end());
}

#[test]
fn a_segment_that_is_proven_costs_an_open_no_look_at_its_frames() {
    let maps = |verify| {
        let dir = fast_dir();
        let all = three(None);
        forge::write(dir.path(), &Slot { mark: Some(all[2].mark()), ..Slot::NOTHING }, &all);
        let maps = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&maps);
        let _watch = seam::watch(dir.path(), move |op| {
            *seen.lock().unwrap() += u32::from(matches!(op, Op::Map { .. }) && seam::is_about(op, "wal-"));
        });
        drop(options().verify(verify).open(dir.path()).unwrap());
        let maps = *maps.lock().unwrap();
        maps
    };
    // Behind the mark in the last one both have to look.
    assert_eq!(maps(Verify::All) - maps(Verify::Unproven), 2);
}

#[test]
fn a_stretch_that_cannot_be_read_is_an_error_wherever_the_walk_meets_it() {
    const PAGES: Range<u64> = 256 << 10..512 << 10;
    let long = Segment::first(1, 1).entries(10_000, None).with_len(1 << 20);
    let dir = fast_dir();
    forge::write(dir.path(), &Slot { mark: Some(long.mark()), ..Slot::NOTHING }, from_ref(&long));
    let bad_sector = seam::before(dir.path(), |op| match op {
        Op::Populate { bytes, .. } | Op::Read { bytes, .. } if bytes.start < PAGES.end && PAGES.start < bytes.end => {
            Err(seam::eio())
        }
        _ => Ok(()),
    });
    let error = options().verify(Verify::All).open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    drop(bad_sector);
    assert_eq!(options().verify(Verify::All).open(dir.path()).unwrap().next_seq(), 10_001);
}

#[test]
fn a_file_that_is_too_short_for_what_it_held_says_by_how_much() {
    let [first, second] = two(Some(10));
    for len in [FRAMES + 8, offset_of(1, 10), offset_of(1, 11) - 8, offset_of(1, 11) - 1] {
        let kept = (len - FRAMES) / FRAME;
        let found = damage("proven", &Slot::NOTHING, &[first.clone().with_len(len), second.clone()], Verify::Unproven);
        assert_eq!(found, named("short", 1, offset_of(1, kept + 1)..offset_of(1, 11), kept + 1..11), "{len}");
    }
    let [first, second] = two(None);
    let short = first.clone().with_len(offset_of(1, 10));
    let kept = Kept { last_seq: 9, proven_seq: 0, torn_bytes: 10 * FRAME, entries_scanned: 9 };
    let report = assert_opens("unproven", &Slot::NOTHING, &[short, second.clone()], kept);
    assert_eq!(report.segments, 1);
    let exact = first.with_len(offset_of(1, 11));
    let found = damage(
        "just long enough, and flipped",
        &Slot::NOTHING,
        &[exact.clone().flipped(offset_of(1, 10) + 40), two(Some(10))[1].clone()],
        Verify::Unproven,
    );
    assert_eq!(found, named("payload", 1, frames(1, 10..11), 10..11));
    let kept = Kept { last_seq: 20, proven_seq: 0, torn_bytes: 0, entries_scanned: 20 };
    assert_opens("just long enough", &Slot::NOTHING, &[exact, second], kept);
}

#[test]
fn a_batch_counts_with_its_last_frame_or_with_a_recorded_end() {
    let kept = |last_seq, torn_bytes| Kept { last_seq, proven_seq: 0, torn_bytes, entries_scanned: 10 };
    let batch = || Segment::first(1, 1).entries(4, None).batch(8).entries(10, None);
    assert_opens("whole", &Slot::NOTHING, &[batch()], kept(10, 0));
    for seq in 5..=8 {
        let torn = batch().flipped(offset_of(1, seq) + 40);
        let kept = Kept { entries_scanned: seq - 1, ..kept(4, 6 * FRAME) };
        assert_opens("a frame of it is torn", &Slot::NOTHING, &[torn], kept);
    }
    const FIRST: u8 = 2;
    const LAST: u8 = 4;
    let unfinished = Segment::first(1, 1).entries(8, None).frame(9, None, FIRST).frame(10, None, 0);
    assert_opens("no last frame", &Slot::NOTHING, from_ref(&unfinished), kept(8, 2 * FRAME));
    let another = Segment::first(1, 1).entries(4, None).frame(5, None, FIRST).frame(6, None, 0).entries(10, None);
    let torn = Kept { entries_scanned: 6, ..kept(4, 6 * FRAME) };
    assert_opens("another one begins in it", &Slot::NOTHING, &[another], torn);
    let middle = Segment::first(1, 1).entries(4, None).frame(5, None, LAST).entries(10, None);
    let torn = Kept { entries_scanned: 4, ..kept(4, 6 * FRAME) };
    assert_opens("no first frame", &Slot::NOTHING, &[middle], torn);
    // A cut may fall inside a batch.
    let cut = Some(Cut { segment: 1, end_seq: 9, end_offset: offset_of(1, 10), next_id: 2 });
    let opened = Kept { last_seq: 9, proven_seq: 9, torn_bytes: 0, entries_scanned: 9 };
    assert_opens("cut", &Slot { cut, ..Slot::NOTHING }, &[unfinished], opened);
    // Damage in a batch that was durable takes no more than its own frame.
    let durable = Segment::first(1, 1).entries(4, None).batch(8).entries(10, Some(8));
    for seq in 5..=8 {
        let found =
            damage("proven", &Slot::NOTHING, &[durable.clone().flipped(offset_of(1, seq) + 40)], Verify::Unproven);
        assert_eq!(found, named("payload", 1, frames(1, seq..seq + 1), seq..seq + 1));
    }
}

/// The segments whose files are there.
fn ids(dir: &Path) -> Vec<u64> {
    format::segments(dir).iter().map(|segment| segment.id).collect()
}

/// Opens the log that is made of these, and closes it; the segments whose files are left.
#[track_caller]
fn left_by_open(manifest: &Slot, segments: &[Segment], last_seq: u64) -> Vec<u64> {
    let dir = fast_dir();
    forge::write(dir.path(), manifest, segments);
    let log = options().open(dir.path()).unwrap();
    assert_reads(&log, manifest.first_seq..last_seq + 1, "what is left");
    let left = ids(dir.path());
    assert_eq!(
        Some(&format::newest_slot(dir.path()).1.first_segment),
        left.first(),
        "a lower one is dead from here on"
    );
    // The next segment's id is one that no file had.
    log.append(b"next").unwrap();
    let next_id = segments.iter().map(|segment| segment.id + 1).chain(manifest.cut.map(|cut| cut.next_id)).max();
    let is_cut = manifest.cut.is_some_and(|cut| Some(&cut.segment) == left.last());
    let appended_to = if log.recovery().clean && !is_cut { left.last().copied() } else { next_id };
    assert_eq!(ids(dir.path()).last().copied(), appended_to);
    left
}

#[test]
fn of_two_successors_the_later_counts() {
    let given_up = Segment::after(&ten(), 2);
    let second = Segment::after(&ten(), 3).entries(20, None);
    assert_eq!(left_by_open(&Slot::NOTHING, &[ten(), given_up.clone(), second.clone()], 20), [1, 3]);
    assert_eq!(left_by_open(&Slot::NOTHING, &[ten(), given_up], 10), [1]);
    // So it is with the first: another one took its place, and names none or one that is dead.
    let given_up = Segment::first(1, 1);
    let first = Segment::first(2, 1).entries(10, None);
    assert_eq!(left_by_open(&Slot::NOTHING, &[given_up.clone(), first.clone()], 10), [2]);
    let later = Slot { first_segment: 5, first_seq: 11, ..Slot::NOTHING };
    let first = Segment::new(6, 11, [4, 10, 4096]).entries(20, None);
    assert_eq!(left_by_open(&later, &[Segment::new(5, 11, [4, 10, 4096]), first.clone()], 20), [6]);
    assert_eq!(left_by_open(&later, from_ref(&first), 20), [6]);
    // One that begins with another seq is none.
    let found = damage("12", &later, &[Segment::new(6, 12, [4, 11, 4096]).entries(20, Some(12))], Verify::Unproven);
    assert_eq!(found, named("missing", 5, 0..0, 11..13));
}

#[test]
fn what_the_manifest_calls_dead_never_counts() {
    let dead = |id| Segment::first(id, 1).entries(30, Some(29));
    let later = Slot { first_segment: 3, first_seq: 11, ..Slot::NOTHING };
    let first = Segment::first(3, 11).entries(20, None);
    assert_eq!(left_by_open(&later, &[dead(1), dead(2), first.clone()], 20), [3]);
    // Behind a cut, up to the id that it names.
    let cut = Some(Cut { segment: 3, end_seq: 15, end_offset: offset_of(11, 16), next_id: 6 });
    let manifest = Slot { cut, mark: Some(Mark { seq: 15, segment: 3, offset: offset_of(11, 16) }), ..later };
    assert_eq!(left_by_open(&manifest, &[dead(2), first.clone(), dead(4), dead(5)], 15), [3]);
    let second = Segment::new(6, 16, [3, 15, offset_of(11, 16)]).entries(18, None);
    assert_eq!(left_by_open(&manifest, &[first.clone(), dead(5), second.clone()], 18), [3, 6]);
    let clean = Slot { clean: true, mark: Some(second.mark()), ..manifest.clone() };
    assert_eq!(left_by_open(&clean, &[first.clone(), second], 18), [3, 6]);
    // A cut's segment is not appended to, whatever its manifest says.
    assert_eq!(left_by_open(&Slot { clean: true, ..manifest }, &[first], 15), [3]);
}

#[test]
fn a_chain_that_does_not_lead_to_what_the_manifest_names_is_damage_however_far_it_goes() {
    // The first segment holds frames past its end, which only the second one's link records; the cut lies in the second.
    let first = Segment::first(1, 1).entries(14, None);
    let second = Segment::new(2, 11, [1, 10, offset_of(1, 11)]).entries(13, None);
    let cut = Cut { segment: 2, end_seq: 12, end_offset: offset_of(11, 13), next_id: 3 };
    let manifest = Slot { cut: Some(cut), ..Slot::NOTHING };
    let kept = Kept { last_seq: 12, proven_seq: 12, torn_bytes: 0, entries_scanned: 12 };
    assert_opens("whole", &manifest, &[first.clone(), second.clone()], kept);
    let lost = second.clone().without_link();
    let found = damage("no link", &manifest, &[first.clone(), lost], Verify::Unproven);
    assert_eq!(found, named("link", 2, LINK, 11..13));
    let found = damage("no file", &manifest, from_ref(&first), Verify::Unproven);
    assert_eq!(found, named("missing", 2, 0..0, 1..13));
    // With as many frames as the cut has entries, none is missing; with one fewer, that one is.
    let found = damage("all seqs", &manifest, &[ten().entries(12, None)], Verify::Unproven);
    assert_eq!(found, named("missing", 2, 0..0, 1..13));
    let found = damage("all but one", &manifest, &[ten().entries(11, None)], Verify::Unproven);
    assert_eq!(found, named("missing", 2, 0..0, 12..13));
    let marked = Slot { mark: Some(Mark { seq: 11, segment: 2, offset: offset_of(11, 12) }), ..Slot::NOTHING };
    let found = damage("no file, and a mark", &marked, &[first], Verify::Unproven);
    assert_eq!(found, named("missing", 2, 0..0, 1..12));
}

#[test]
fn the_room_past_the_end_is_given_back_to_the_page() {
    let len = |segments: &[Segment], manifest: &Slot| {
        let dir = fast_dir();
        forge::write(dir.path(), manifest, segments);
        drop(options().open(dir.path()).unwrap());
        let files = format::segments(dir.path()).into_iter();
        files.map(|segment| std::fs::metadata(segment.path).unwrap().len()).collect::<Vec<_>>()
    };
    assert_eq!(len(&[ten()], &Slot::NOTHING), [4096]);
    assert_eq!(len(&[ten().with_len(4096)], &Slot::NOTHING), [4096]);
    assert_eq!(len(&[ten().with_len(4000)], &Slot::NOTHING), [4000], "it is never made longer");
    let clean = Slot { clean: true, mark: Some(ten().mark()), ..Slot::NOTHING };
    assert_eq!(len(&[ten()], &clean), [FILE_LEN], "of a closed log, whose last segment is appended to");
    assert_eq!(len(&two(None), &Slot::NOTHING), [FILE_LEN, 4096], "of the last one alone");
}

#[test]
fn timestamps_go_on_from_the_highest() {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let far = now() + 1_000_000_000;
    let next = |manifest: &Slot, recovery| {
        let dir = fast_dir();
        forge::write(dir.path(), manifest, &[ten()]);
        let log = options().recovery(recovery).open(dir.path()).unwrap();
        log.append(b"next").unwrap();
        let since = log.get(11).unwrap().unwrap().timestamp().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_millis() as u64
    };
    for recovery in [RecoveryMode::Strict, RecoveryMode::Salvage] {
        let clean = Slot { clean: true, mark: Some(ten().mark()), last_timestamp_ms: far, ..Slot::NOTHING };
        assert_eq!(next(&clean, recovery), far);
        assert_eq!(next(&Slot { last_timestamp_ms: far, ..Slot::NOTHING }, recovery), far);
    }
}
