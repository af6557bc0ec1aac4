//! What a salvage keeps, lists and promises of every shape that damage can give a log: logs made by hand, each with what must come out.

// A list of stretches that are there, or lost, is often a list of one.
#![allow(clippy::single_range_in_vec_init)]

use crate::shared::fast_dir;
use crate::support::forge::{self, offset_of, Segment, FILE_LEN, FRAME};
use crate::support::format::{self, Cut, Mark, Slot, FRAMES};
use crate::support::logs::contents;
use crate::support::seam;
use maplog::testing::Op;
use maplog::{DamageKind, Error, Log, Options, RecoveryMode, SyncPolicy};
use std::ops::Range;
use std::slice::from_ref;

fn salvage() -> Options {
    Options::new().segment_size(FILE_LEN).sync_policy(SyncPolicy::Manual).recovery(RecoveryMode::Salvage)
}

fn marked(mark: Mark) -> Slot {
    Slot { mark: Some(mark), ..Slot::NOTHING }
}

/// Entries 1 to 10.
fn ten() -> Segment {
    Segment::first(1, 1).entries(10, None)
}

/// Entries 1 to 10, 11 to 20 and 21 to 30, in three segments.
fn three() -> [Segment; 3] {
    let first = ten();
    let second = Segment::after(&first, 2).entries(20, None);
    let third = Segment::after(&second, 3).entries(30, None);
    [first, second, third]
}

/// What a salvage gives.
#[derive(Debug, PartialEq, Eq)]
struct Salvaged {
    /// The entries that can be read.
    reads: Vec<Range<u64>>,
    /// The listed losses: segment, bytes and seqs.
    losses: Vec<(u64, Range<u64>, Range<u64>)>,
    next_seq: u64,
    proven_seq: u64,
    torn_bytes: u64,
}

/// Salvages the log that is made of these, appends to it, and salvages it again: no file is changed by looking, and what could be read,
/// and what was lost, stays as it was.
#[track_caller]
fn assert_salvages(what: &str, manifest: &Slot, segments: &[Segment], expected: &Salvaged) {
    let dir = fast_dir();
    forge::write(dir.path(), manifest, segments);
    let before = contents(&dir.path().join("segments"));
    let log = salvage().open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(&found(&log, dir.path()), expected, "{what}");
    assert_eq!(log.recovery().last_seq, log.next_seq() - 1, "{what}");
    assert_eq!(contents(&dir.path().join("segments")), before, "{what}: changed by looking");
    let next_seq = log.append(&forge::payload(expected.next_seq)).unwrap();
    assert_eq!(next_seq, expected.next_seq, "{what}");
    if !expected.losses.is_empty() {
        assert_stored(dir.path(), manifest, expected, what);
    }
    log.close().unwrap();
    drop(log);

    let log = salvage().open(dir.path()).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    let again = found(&log, dir.path());
    assert_eq!(again.lost(), expected.lost(), "{what}, again");
    let reads = expected.reads.iter().cloned().chain([next_seq..next_seq + 1]).flatten();
    assert!(again.reads.into_iter().flatten().eq(reads), "{what}, again");
}

/// The first change after a salvage stores what was found: the log ended behind the last entry that is there, and which seqs are lost.
#[track_caller]
fn assert_stored(dir: &std::path::Path, found: &Slot, salvaged: &Salvaged, what: &str) {
    let slot = format::newest_slot(dir).1;
    assert!(!slot.clean, "{what}: an entry was appended");
    let lost = salvaged.losses.iter().map(|(_, _, seqs)| seqs).filter(|seqs| !seqs.is_empty());
    let lost = lost.cloned().reduce(|one, other| one.start.min(other.start)..one.end.max(other.end));
    assert_eq!(slot.lost, lost.unwrap_or(found.first_seq..salvaged.next_seq), "{what}");
    let Some(last) = salvaged.reads.last().map(|seqs| seqs.end - 1) else {
        assert_eq!((slot.cut, slot.mark), (None, None), "{what}");
        return;
    };
    let cut = slot.cut.unwrap();
    assert_eq!((cut.end_seq, cut.next_id), (last, cut.segment + 1), "{what}");
    assert_eq!(slot.mark, Some(Mark { seq: last, segment: cut.segment, offset: cut.end_offset }), "{what}");
    assert!(slot.last_timestamp_ms >= 1000 * last, "{what}");
}

impl Salvaged {
    /// The seqs in all losses.
    fn lost(&self) -> Vec<u64> {
        self.losses.iter().flat_map(|(_, _, seqs)| seqs.clone()).collect()
    }
}

fn found(log: &Log, dir: &std::path::Path) -> Salvaged {
    let mut reads: Vec<Range<u64>> = Vec::new();
    for entry in log.view().iter().flatten() {
        assert_eq!(entry.payload(), forge::payload(entry.seq()));
        match reads.last_mut() {
            Some(last) if last.end == entry.seq() => last.end += 1,
            _ => reads.push(entry.seq()..entry.seq() + 1),
        }
    }
    let id = |path: &std::path::Path| (1..20).find(|id| path == format::segment_path(dir, *id)).unwrap_or(0);
    let report = log.recovery();
    Salvaged {
        reads,
        losses: report.losses.iter().map(|l| (id(&l.path), l.bytes.clone(), l.seqs.clone())).collect(),
        next_seq: log.next_seq(),
        proven_seq: report.proven_seq,
        torn_bytes: report.torn_bytes,
    }
}

#[test]
fn a_damaged_stretch_is_stepped_over() {
    let manifest = marked(ten().mark());
    for lost in [1..2, 3..4, 3..6, 9..11, 10..11, 1..11] {
        let log = lost.clone().fold(ten(), |log, seq| log.flipped(offset_of(1, seq) + 40));
        let reads = [1..lost.start, lost.end..11].into_iter().filter(|seqs| !seqs.is_empty()).collect();
        let bytes = offset_of(1, lost.start)..offset_of(1, lost.end);
        let losses = vec![(1, bytes, lost.clone())];
        let salvaged = Salvaged { reads, losses, next_seq: 11, proven_seq: 10, torn_bytes: 0 };
        assert_salvages(&format!("{lost:?}"), &manifest, &[log], &salvaged);
    }
}

fn whole(last: u64, losses: Vec<(u64, Range<u64>, Range<u64>)>) -> Salvaged {
    Salvaged { reads: vec![1..last + 1], losses, next_seq: last + 1, proven_seq: last, torn_bytes: 0 }
}

const IDENTITY: Range<u64> = 0..64;
const LINK: Range<u64> = 64..128;
const EMPTY: Range<u64> = 0..0;

#[test]
fn a_log_without_damage_is_kept_whole() {
    let [first, second, third] = three();
    let all = [first.clone(), second.clone(), third.clone()];
    assert_salvages("marked", &marked(third.mark()), &all, &whole(30, vec![]));
    let clean = Slot { clean: true, ..marked(third.mark()) };
    assert_salvages("closed", &clean, &all, &whole(30, vec![]));
    assert_salvages("unproven", &Slot::NOTHING, &all, &Salvaged { proven_seq: 0, ..whole(30, vec![]) });
    // So it is if the manifest says that something was lost once.
    let lost = Slot { lost: 5..7, ..clean };
    assert_salvages("lost once", &lost, &all, &whole(30, vec![]));
}

#[test]
fn what_a_link_repeats_of_a_damaged_identity_is_enough() {
    let [first, second, third] = three();
    let manifest = marked(third.mark());
    for id in 1..=3 {
        let mut all = [first.clone(), second.clone(), third.clone()];
        all[id - 1] = all[id - 1].clone().without_identity();
        let losses = vec![(id as u64, IDENTITY, EMPTY)];
        assert_salvages(&format!("identity of {id}"), &manifest, &all, &whole(30, losses));
    }
}

#[test]
fn frames_without_a_link_are_found() {
    let [first, second, third] = three();
    let manifest = marked(third.mark());
    for id in 1..=3 {
        let mut all = [first.clone(), second.clone(), third.clone()];
        all[id - 1] = all[id - 1].clone().without_link();
        let losses = vec![(id as u64, LINK, EMPTY)];
        assert_salvages(&format!("link of {id}"), &manifest, &all, &whole(30, losses));
    }
    let without_first = second.without_link().flipped(FRAMES + 2);
    let found =
        Salvaged { reads: vec![1..11, 12..31], losses: vec![(2, LINK, EMPTY), (2, LINK, 11..12)], ..whole(30, vec![]) };
    assert_salvages("and its first header", &manifest, &[first.clone(), without_first.clone(), third.clone()], &found);
    // What was truncated before it does not come back in the place of what is lost.
    let dead_behind = first.entries(14, None);
    assert_salvages("and dead frames before it", &manifest, &[dead_behind, without_first, third], &found);
}

#[test]
fn a_file_of_which_nothing_can_be_known_is_lost_as_far_as_others_say() {
    let blank = |segment: &Segment| segment.clone().without_link().without_identity();
    let [first, second, third] = three();
    let manifest = marked(third.mark());
    let lost = |reads, losses| Salvaged { reads, losses, ..whole(30, vec![]) };
    let all = [blank(&first), second.clone(), third.clone()];
    assert_salvages("the first", &manifest, &all, &lost(vec![11..31], vec![(1, IDENTITY, 1..11)]));
    let all = [first.clone(), blank(&second), third.clone()];
    assert_salvages("the second", &manifest, &all, &lost(vec![1..11, 21..31], vec![(2, IDENTITY, 11..21)]));
    let all = [first.clone(), second.clone(), blank(&third)];
    let clean = Slot { clean: true, ..manifest.clone() };
    assert_salvages("of a closed log", &clean, &all, &lost(vec![1..21], vec![(3, IDENTITY, 21..31)]));
    // Nobody says how far it went: new entries get seqs that it cannot have held.
    let most = (FILE_LEN - FRAMES) / 32;
    let above = |marked: u64| Salvaged {
        reads: vec![1..21],
        losses: vec![(3, IDENTITY, 21..marked + 1), (2, offset_of(11, 21)..FILE_LEN, marked + 1..marked + 1 + most)],
        next_seq: marked + 1 + most,
        proven_seq: marked,
        torn_bytes: 0,
    };
    assert_salvages("of a killed log", &marked(second.mark()), &all, &above(20));
    assert_salvages("of a killed log with a mark in it", &manifest, &all, &above(30));
    let all = [first, second, blank(&third).with_len(100)];
    assert_salvages("of a file that was cut short", &marked(all[1].mark()), &all, &above(20));
}

#[test]
fn a_file_that_is_gone_is_one_loss() {
    let [first, second, third] = three();
    let manifest = marked(third.mark());
    let lost = |reads, losses| Salvaged { reads, losses, ..whole(30, vec![]) };
    let all = [second.clone(), third.clone()];
    assert_salvages("the first", &manifest, &all, &lost(vec![11..31], vec![(1, EMPTY, 1..11)]));
    let all = [first.clone(), third.clone()];
    assert_salvages("the second", &manifest, &all, &lost(vec![1..11, 21..31], vec![(2, EMPTY, 11..21)]));
    let all = [first.clone(), second.clone()];
    assert_salvages("the third", &manifest, &all, &lost(vec![1..21], vec![(3, EMPTY, 21..31)]));
    assert_salvages("two of them", &manifest, from_ref(&third), &lost(vec![21..31], vec![(2, EMPTY, 1..21)]));
    assert_salvages("all of them", &manifest, &[], &lost(vec![], vec![(3, EMPTY, 1..31)]));
    // Of one that took the place of another one, which is still there and empty.
    let all = [first.clone(), second.clone(), Segment::after(&second, 3)];
    let manifest = marked(Mark { seq: 21, segment: 4, offset: offset_of(21, 22) });
    let expected = Salvaged { reads: vec![1..21], losses: vec![(4, EMPTY, 21..22)], ..whole(21, vec![]) };
    assert_salvages("the one after an empty one", &manifest, &all, &expected);
    // A link that says that the one before went on, where that is there and did not.
    let gap = Segment::new(3, 26, [2, 20, offset_of(11, 21)]).entries(30, Some(25));
    let all = [first, second, gap];
    let expected = Salvaged { reads: vec![1..21, 26..31], losses: vec![(3, LINK, 21..26)], ..whole(30, vec![]) };
    assert_salvages("a gap", &Slot::NOTHING, &all, &Salvaged { proven_seq: 25, ..expected });
    let dir = fast_dir();
    forge::write(dir.path(), &Slot::NOTHING, &all);
    assert_eq!(salvage().open(dir.path()).unwrap().recovery().losses[0].kind, DamageKind::Gap);
}

#[test]
fn two_segments_with_the_same_entries_are_not_both_believed() {
    let first = ten();
    let second = Segment::new(2, 6, [1, 5, offset_of(1, 6)]).entries(20, Some(18));
    // The cut says that the first one went on: it is an older one than the second segment is.
    let cut = Cut { segment: 1, end_seq: 10, end_offset: offset_of(1, 11), next_id: 2 };
    let manifest = Slot { cut: Some(cut), ..Slot::NOTHING };
    let expected = Salvaged { proven_seq: 18, ..whole(20, vec![(2, LINK, EMPTY)]) };
    assert_salvages("overlapping", &manifest, &[first.clone(), second.clone()], &expected);
    // Another one is not older: it knew of the second segment.
    let manifest = Slot { cut: Some(Cut { next_id: 3, ..cut }), mark: None, ..Slot::NOTHING };
    let dir = fast_dir();
    forge::write(dir.path(), &manifest, &[first, second]);
    assert_eq!(salvage().open(dir.path()).unwrap().view().iter().flatten().count(), 10);
    // One without a link is not believed either, and ends nothing that begins where it does.
    let [first, second, _] = three();
    let copy = Segment::new(3, 11, [1, 10, offset_of(1, 11)]).entries(12, None).without_link();
    let expected = Salvaged {
        reads: vec![1..4, 5..21],
        losses: vec![(1, offset_of(1, 4)..offset_of(1, 5), 4..5), (3, LINK, EMPTY), (3, LINK, EMPTY)],
        ..whole(20, vec![])
    };
    let manifest = marked(second.mark());
    assert_salvages("a copy", &manifest, &[first.flipped(offset_of(1, 4) + 40), second, copy], &expected);
}

#[test]
fn a_mark_below_the_base_of_its_segment_costs_nothing() {
    let [first, second, _] = three();
    let manifest = marked(Mark { seq: 5, segment: 2, offset: offset_of(11, 21) });
    let expected = Salvaged { proven_seq: 5, ..whole(20, vec![(2, LINK, EMPTY)]) };
    assert_salvages("a low mark", &manifest, &[first, second], &expected);
}

#[test]
fn a_file_that_was_cut_short_keeps_what_it_has() {
    let [first, second, third] = three();
    let manifest = marked(third.mark());
    let lost = |reads, losses| Salvaged { reads, losses, ..whole(30, vec![]) };
    for len in [FRAMES, offset_of(11, 15), offset_of(11, 15) + 40, offset_of(11, 21) - 8] {
        let kept = (len - FRAMES) / FRAME;
        let reads = [1..11 + kept, 21..31];
        let reads = if kept == 0 { vec![1..11, 21..31] } else { reads.to_vec() };
        let losses = vec![(2, offset_of(11, 11 + kept)..offset_of(11, 21), 11 + kept..21)];
        let all = [first.clone(), second.clone().with_len(len), third.clone()];
        assert_salvages(&format!("{len}"), &manifest, &all, &lost(reads, losses));
    }
    // A cut had ended it. What is left of it ends before.
    let cut = Cut { segment: 1, end_seq: 10, end_offset: offset_of(1, 11), next_id: 2 };
    let ended = Slot { cut: Some(cut), ..marked(first.mark()) };
    let losses = vec![(1, offset_of(1, 8)..offset_of(1, 11), 8..11)];
    let found = Salvaged { reads: vec![1..8], losses, ..whole(10, vec![]) };
    assert_salvages("one that a cut ends", &ended, &[first.clone().with_len(offset_of(1, 8))], &found);
    let all = [first, second, third.with_len(offset_of(21, 25))];
    let losses = vec![(3, offset_of(21, 25)..offset_of(21, 31), 25..31)];
    assert_salvages("the last", &manifest, &all, &lost(vec![1..25], losses));
}

#[test]
fn a_torn_tail_is_dropped_with_the_batch_that_it_breaks() {
    let broken = || Segment::first(1, 1).entries(4, None).batch(8);
    // Something else is damaged, and was durable: entry 2.
    let two = Mark { seq: 2, segment: 1, offset: offset_of(1, 3) };
    let flip = |log: Segment, seq: u64, byte: u64| log.flipped(offset_of(1, seq) + byte);
    let expected =
        |reads, losses, next_seq, torn_bytes| Salvaged { reads, losses, next_seq, proven_seq: 2, torn_bytes };
    let lost_2 = (1, offset_of(1, 2)..offset_of(1, 3), 2..3);
    let found = expected(vec![1..2, 3..9], vec![lost_2.clone()], 9, 0);
    assert_salvages("no tail", &marked(two), &[flip(broken(), 2, 40)], &found);
    // The last frame of the batch has no header any more: nothing says that there was one.
    let torn = flip(flip(broken(), 2, 40), 8, 2);
    let rest = (1, offset_of(1, 5)..FILE_LEN, 5..8);
    let found = expected(vec![1..2, 3..5], vec![lost_2.clone(), rest], 8, 4 * FRAME - 4);
    assert_salvages("no last header", &marked(two), &[torn], &found);
    // It has one: its seq was given, and is not given again.
    let torn = flip(flip(broken(), 2, 40), 8, 40);
    let rest = (1, offset_of(1, 5)..FILE_LEN, 5..9);
    let found = expected(vec![1..2, 3..5], vec![lost_2.clone(), rest.clone()], 9, 4 * FRAME);
    assert_salvages("no last payload", &marked(two), &[torn], &found);
    // A batch that was durable is kept as far as it is there.
    let marked_8 = marked(broken().mark());
    for seq in 5..=8 {
        let reads = [1..seq, seq + 1..9].into_iter().filter(|seqs| !seqs.is_empty()).collect();
        let losses = vec![(1, offset_of(1, seq)..offset_of(1, seq + 1), seq..seq + 1)];
        let found = Salvaged { reads, losses, ..whole(8, vec![]) };
        assert_salvages("durable", &marked_8, &[flip(broken(), seq, 40)], &found);
    }
}

/// How many notes there are about the first segment, and how many about the second one.
fn notes(manifest: &Slot, segments: &[Segment]) -> [usize; 2] {
    let dir = fast_dir();
    forge::write(dir.path(), manifest, segments);
    let log = salvage().open(dir.path()).unwrap();
    let notes = log.recovery().notes.clone();
    [1, 2].map(|id| notes.iter().filter(|note| note.contains(&format!("wal-{id:06}.log"))).count())
}

#[test]
fn an_end_that_an_earlier_salvage_knew_is_noted_where_that_lost_something() {
    // Where the first two end, their successors' first frames say, and an earlier salvage may have known better.
    let [first, second, third] = three();
    let damaged = first.flipped(offset_of(1, 4) + 40);
    let all = [damaged, second.without_link(), third.clone().without_link()];
    let lost = |lost| notes(&Slot { lost, ..marked(third.mark()) }, &all);
    assert_eq!(lost(5..5), [0, 0]);
    assert_eq!(lost(3..5), [1, 0]);
    assert_eq!(lost(10..11), [1, 0]);
    assert_eq!(lost(3..11), [1, 0]);
    assert_eq!(lost(3..12), [1, 1]);
    assert_eq!(lost(11..13), [0, 1]);
    assert_eq!(lost(20..21), [0, 1]);
    assert_eq!(lost(21..22), [0, 0]);
}

#[test]
fn an_io_error_ends_a_salvage() {
    let dir = fast_dir();
    forge::write(dir.path(), &marked(ten().mark()), &[ten().flipped(offset_of(1, 4) + 40)]);
    let failed = std::sync::atomic::AtomicBool::new(false);
    let once = seam::before(dir.path(), move |op| {
        let fails = matches!(op, Op::Map { .. }) && !failed.swap(true, std::sync::atomic::Ordering::Relaxed);
        if fails {
            Err(seam::eio())
        } else {
            Ok(())
        }
    });
    let error = salvage().open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    drop(once);
    assert_eq!(salvage().open(dir.path()).unwrap().recovery().losses.len(), 1);
}

#[test]
fn what_is_lost_at_an_end_says_why() {
    let kind = |segment: Segment| {
        let dir = fast_dir();
        forge::write(dir.path(), &marked(ten().mark()), &[segment]);
        let log = salvage().open(dir.path()).unwrap();
        let losses = &log.recovery().losses;
        assert_eq!((losses.len(), losses[0].seqs.clone()), (1, 10..11));
        losses[0].kind
    };
    let (expected, found) = (offset_of(1, 11), offset_of(1, 10));
    assert_eq!(kind(ten().with_len(found)), DamageKind::Short { expected, found });
    let found = expected - 1;
    assert_eq!(kind(ten().with_len(found)), DamageKind::Short { expected, found });
    let flipped = || ten().flipped(offset_of(1, 10) + 40);
    assert!(matches!(kind(flipped().with_len(expected)), DamageKind::Payload { .. }));
    assert!(matches!(kind(flipped()), DamageKind::Payload { .. }));
}

#[test]
fn a_segment_whose_end_nobody_knows_any_more_is_noted() {
    let [first, second, third] = three();
    let blank = |segment: &Segment| segment.clone().without_link().without_identity();
    let notes = |manifest: &Slot, segments: &[Segment]| notes(manifest, segments)[0];
    let manifest = marked(third.mark());
    assert_eq!(notes(&manifest, &[first.clone(), second.clone(), third.clone()]), 0);
    assert_eq!(
        notes(&manifest, &[first.clone(), blank(&second), third.clone()]),
        1,
        "what is lost began somewhere before 20"
    );
    assert_eq!(notes(&manifest, from_ref(&first)), 1, "the mark names the third");
    assert_eq!(notes(&manifest, &[first.clone(), blank(&second)]), 1);
    let in_the_first = Slot { ..marked(first.mark()) };
    assert_eq!(notes(&in_the_first, &[first.flipped(FRAMES)]), 0, "nothing is named behind it");
}

#[test]
fn a_file_that_was_given_up_empty_is_no_loss() {
    let given_up = Segment::after(&ten(), 2);
    let second = Segment::after(&ten(), 3).entries(20, None);
    let log = ten().flipped(offset_of(1, 4) + 40);
    let expected = Salvaged {
        reads: vec![1..4, 5..21],
        losses: vec![(1, offset_of(1, 4)..offset_of(1, 5), 4..5)],
        ..whole(20, vec![])
    };
    assert_salvages("given up", &marked(second.mark()), &[log.clone(), given_up.clone(), second], &expected);
    // Of two that name one predecessor the later counts, whatever the other one holds.
    let (other, second) = (given_up.clone().entries(13, None), Segment::after(&ten(), 3).entries(20, None));
    assert_salvages("two successors", &marked(second.mark()), &[log.clone(), other, second], &expected);
    let expected = Salvaged { reads: vec![1..4, 5..11], next_seq: 11, proven_seq: 10, ..expected };
    assert_salvages("the last one", &marked(ten().mark()), &[log, given_up], &expected);
}
