//! Faults that the fuzzer found, each as the behaviour that it broke: damage of a kind that nobody had thought of, and forged bytes,
//! which no writer stores, with checksums that hold. Whatever the files say, nothing panics, what is opened stays openable, and what
//! is lost is listed, again and again, until it is truncated away.

use crate::shared::fast_dir;
use crate::support::encode::{self, Predecessor, Segment, FLAG_FIRST, FLAG_LAST, LOG_ID, NO_WITNESS};
use crate::support::format::{manifest_path, segment_path, Cut, Mark, Slot};
use maplog::{DamageKind, Error, Log, Options, RecoveryMode, SyncPolicy, Verify};
use std::fs;
use std::path::Path;

const ALONE: u8 = FLAG_FIRST | FLAG_LAST;
const PAYLOAD: &[u8] = b"an entry of a forged log";

fn strict() -> Options {
    Options::new().segment_size(8192).sync_policy(SyncPolicy::Manual)
}

fn salvage() -> Options {
    strict().recovery(RecoveryMode::Salvage)
}

/// A segment with the entries `seqs`.
fn segment(id: u64, seqs: std::ops::Range<u64>, predecessor: Option<Predecessor>) -> Segment {
    let mut segment = Segment::new(id, 0x5eed_0000 + id, seqs.start, predecessor);
    for seq in seqs {
        segment.push(seq, NO_WITNESS, ALONE, PAYLOAD);
    }
    segment
}

/// Where a segment ends, for the link of the next one.
fn end(id: u64, seq: u64, segment: &Segment) -> Predecessor {
    Predecessor { id, end_seq: seq, end_offset: segment.0.len() as u64 }
}

fn write(dir: &Path, slot: &Slot, segments: &[(u64, &Segment)]) {
    for folder in ["metadata", "segments"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    let slot = slot.encode(LOG_ID);
    fs::write(manifest_path(dir), encode::manifest([&slot, &slot])).unwrap();
    for (id, segment) in segments {
        fs::write(segment_path(dir, *id), &segment.0).unwrap();
    }
}

fn cut(end: Mark, next_id: u64) -> Cut {
    Cut { segment: end.segment, end_seq: end.seq, end_offset: end.offset, next_id }
}

/// The seqs of the entries that can be read.
fn seqs(log: &Log) -> Vec<u64> {
    log.view().iter().flatten().map(|entry| entry.seq()).collect()
}

/// Blocks that are alike but for the number given to `make`, of which the last byte, of the checksum, is zero.
fn ending_in_zero<T: AsRef<[u8]>>(make: impl Fn(u64) -> T) -> T {
    (1..).map(make).find(|block| block.as_ref().ends_with(&[0])).unwrap()
}

#[test]
fn a_block_of_which_the_last_byte_is_missing_is_damaged_even_if_it_was_zero() {
    let dir = fast_dir();
    let first = segment(1, 1..4, None);
    write(dir.path(), &Slot::NOTHING, &[(1, &first)]);
    let block = ending_in_zero(|last_timestamp_ms| Slot { last_timestamp_ms, ..Slot::NOTHING }.encode(LOG_ID));
    fs::write(manifest_path(dir.path()), &block[..255]).unwrap();
    match strict().open(dir.path()) {
        Err(Error::Damaged { damage }) => assert_eq!(damage.path, manifest_path(dir.path())),
        other => panic!("{other:?}"),
    }
    fs::write(manifest_path(dir.path()), block).unwrap();
    let log = strict().open(dir.path()).unwrap();
    assert_eq!(log.recovery().notes.len(), 1, "{}", log.recovery());
    log.close().unwrap();
    drop(log);

    // The same of a segment's identity, and of the manifest's second slot.
    let dir = fast_dir();
    let identity = |salt| Segment::new(1, salt, 1, None).0[..64].to_vec();
    write(dir.path(), &Slot::NOTHING, &[]);
    fs::write(segment_path(dir.path(), 1), &ending_in_zero(identity)[..63]).unwrap();
    let block =
        ending_in_zero(|last_timestamp_ms| Slot { last_timestamp_ms, generation: 8, ..Slot::NOTHING }.encode(LOG_ID));
    let mut manifest = encode::manifest([&Slot::NOTHING.encode(LOG_ID), &block]);
    manifest.truncate(4096 + 255);
    fs::write(manifest_path(dir.path()), manifest).unwrap();
    let log = salvage().open(dir.path()).unwrap();
    let report = log.recovery();
    assert!(report.notes.iter().any(|note| note.contains("slot 1")), "{report}");
    assert!(report.losses.iter().any(|loss| loss.path == segment_path(dir.path(), 1)), "{report}");
}

/// Three segments, of which the one in the middle holds no entry, says the link of the last one.
fn empty_in_the_middle(dir: &Path, mark: Option<Mark>) -> [Segment; 3] {
    let first = segment(1, 1..4, None);
    let middle = segment(2, 4..4, Some(end(1, 3, &first)));
    let last = segment(3, 4..7, Some(end(2, 3, &middle)));
    write(dir, &Slot { mark, ..Slot::NOTHING }, &[(1, &first), (2, &middle), (3, &last)]);
    [first, middle, last]
}

#[test]
fn a_log_that_was_opened_does_not_need_a_file_that_the_open_removed() {
    let dir = fast_dir();
    empty_in_the_middle(dir.path(), None);
    if let Ok(log) = strict().open(dir.path()) {
        let before = seqs(&log);
        log.close().unwrap();
        drop(log);
        assert_eq!(seqs(&strict().open(dir.path()).unwrap()), before);
    }
}

#[test]
fn a_mark_does_not_make_an_end_below_a_segments_base_believed() {
    // Nothing is read of what the mark proves: that the first segment ends before it begins shows in its successor's link alone.
    let dir = fast_dir();
    let first = segment(1, 4..7, None);
    let last = segment(2, 2..5, Some(Predecessor { id: 1, end_seq: 1, end_offset: first.0.len() as u64 }));
    let mark = Some(Mark { segment: 2, seq: 4, offset: last.0.len() as u64 });
    write(dir.path(), &Slot { first_seq: 4, mark, clean: true, ..Slot::NOTHING }, &[(1, &first), (2, &last)]);
    match strict().open(dir.path()) {
        Err(Error::Damaged { damage }) => assert_eq!(damage.path, segment_path(dir.path(), 2)),
        other => panic!("{other:?}"),
    }
    let log = salvage().open(dir.path()).unwrap();
    assert!(log.first_seq() <= log.next_seq());
    assert_ne!(log.recovery().losses, []);
}

#[test]
fn what_a_strict_open_refuses_a_salvage_lists() {
    let dir = fast_dir();
    let last_end = 128 + 3 * 56;
    let [_, middle, _] = empty_in_the_middle(dir.path(), Some(Mark { segment: 3, seq: 6, offset: last_end }));
    let mut bytes = middle.0;
    bytes[70] ^= 1; // its link
    fs::write(segment_path(dir.path(), 2), bytes).unwrap();
    assert!(strict().open(dir.path()).is_err());
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(seqs(&log), [1, 2, 3, 4, 5, 6]);
    assert_ne!(log.recovery().losses, []);
}

#[test]
fn a_later_file_with_lower_seqs_hides_no_entry_from_a_salvage() {
    let dir = fast_dir();
    let first = segment(1, 5..8, None);
    let mut later = segment(2, 1..3, None);
    later.0[64..128].fill(0); // no link: where it begins, its first frame says
    write(dir.path(), &Slot { first_seq: 5, lost: 5..6, ..Slot::NOTHING }, &[(1, &first), (2, &later)]);
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(seqs(&log), [5, 6, 7]);
    assert_ne!(log.recovery().losses, []);
}

/// A closed log with the entries 1 to 150 in two segments, of which the second one is gone but for its name, or even that.
fn without_the_last_segment(dir: &Path, is_unlinked: bool) {
    let log = strict().open(dir).unwrap();
    for _ in 0..150 {
        log.append(&[1; 48]).unwrap();
    }
    assert_eq!(log.segments().len(), 2);
    log.close().unwrap();
    let last = segment_path(dir, 2);
    match is_unlinked {
        true => fs::remove_file(last).unwrap(),
        false => fs::write(last, vec![0; 8192]).unwrap(),
    }
}

#[test]
fn what_was_lost_at_the_end_is_refused_until_it_is_truncated_away() {
    for is_unlinked in [false, true] {
        let dir = fast_dir();
        without_the_last_segment(dir.path(), is_unlinked);
        let mut next_seq = 151;
        for _ in 0..3 {
            assert!(strict().open(dir.path()).is_err(), "unlinked: {is_unlinked}");
            let log = salvage().open(dir.path()).unwrap();
            assert!(log.recovery().losses.iter().any(|loss| loss.seqs.contains(&101) && loss.seqs.contains(&150)));
            assert!(log.next_seq() >= next_seq, "above all that ever were");
            next_seq = log.next_seq();
            // A change, and no entry: as if a power cut had taken the first append.
            log.rotate().unwrap();
            log.close().unwrap();
        }
        let log = salvage().open(dir.path()).unwrap();
        log.truncate_after(100).unwrap();
        log.close().unwrap();
        drop(log);
        assert_eq!(strict().open(dir.path()).unwrap().next_seq(), 101);
    }
}

#[test]
fn a_damaged_file_stays_until_it_is_truncated_away() {
    let dir = fast_dir();
    without_the_last_segment(dir.path(), false);
    for _ in 0..3 {
        let log = salvage().open(dir.path()).unwrap();
        log.append(b"goes on").unwrap();
        log.close().unwrap();
        assert!(segment_path(dir.path(), 2).exists());
    }
    let log = salvage().open(dir.path()).unwrap();
    log.truncate_after(100).unwrap();
    assert!(!segment_path(dir.path(), 2).exists());
}

/// A closed log of three segments, two of which end with cuts: 1 to 5 as they were first appended, 6 and 7 as they were appended after
/// a first cut, and 8 after a second one. The first segment still holds the frames of the old 6 to 9.
fn thrice_begun(dir: &Path) {
    let log = strict().open(dir).unwrap();
    let append = |name: &str, seqs: std::ops::Range<u64>| {
        seqs.for_each(|seq| assert_eq!(log.append(name.as_bytes()).unwrap(), seq));
    };
    append("old", 1..10);
    log.truncate_after(5).unwrap();
    append("new", 6..10);
    log.truncate_after(7).unwrap();
    append("newest", 8..9);
    log.close().unwrap();
    assert_eq!(log.segments().len(), 3);
}

#[test]
fn a_salvage_does_not_give_truncated_entries_for_those_of_a_lost_segment_without_a_word() {
    let lose: [fn(&Path); 2] = [|path| fs::remove_file(path).unwrap(), |path| fs::write(path, [0; 8192]).unwrap()];
    for lose in lose {
        for last_is_lost in [false, true] {
            let dir = fast_dir();
            thrice_begun(dir.path());
            lose(&segment_path(dir.path(), 2));
            if last_is_lost {
                lose(&segment_path(dir.path(), 3));
            }
            assert!(strict().open(dir.path()).is_err());
            let log = salvage().open(dir.path()).unwrap();
            let report = log.recovery();
            // What the lost segment certainly held is lost. What the first one holds besides may be old, and that is said.
            let certain = if last_is_lost { 8 } else { 7 };
            assert!(log.get(certain).is_err_and(|error| error.is_damage()), "{report}");
            assert!(report.losses.iter().any(|loss| loss.seqs.contains(&certain)), "{report}");
            assert!(report.notes.iter().any(|note| note.contains("wal-000001.log")), "{report}");
            assert_eq!(log.next_seq(), 9, "{report}");
        }
    }
}

#[test]
fn nor_for_the_first_ones_of_a_segment_whose_beginning_is_lost() {
    let dir = fast_dir();
    thrice_begun(dir.path());
    let path = segment_path(dir.path(), 2);
    let mut bytes = fs::read(&path).unwrap();
    bytes[64..128 + 32].fill(0); // its link, and the header of 6
    fs::write(&path, bytes).unwrap();
    let log = salvage().open(dir.path()).unwrap();
    let report = log.recovery();
    assert!(log.get(6).is_err_and(|error| error.is_damage()), "{report}");
    assert_eq!(log.get(7).unwrap().unwrap().payload(), b"new");
    assert!(report.losses.iter().any(|loss| loss.seqs.contains(&6)), "{report}");
    assert!(report.notes.iter().any(|note| note.contains("wal-000001.log")), "{report}");
}

#[test]
fn a_copy_with_a_damaged_identity_takes_no_segments_place() {
    let dir = fast_dir();
    thrice_begun(dir.path());
    let mut copy = fs::read(segment_path(dir.path(), 2)).unwrap();
    copy[32] ^= 8; // the id in its identity
    fs::write(segment_path(dir.path(), 20), copy).unwrap();
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(seqs(&log), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_ne!(log.recovery().losses, []);
}

#[test]
fn nor_does_one_of_a_file_whose_own_identity_is_damaged_too() {
    let dir = fast_dir();
    thrice_begun(dir.path());
    let mut bytes = fs::read(segment_path(dir.path(), 1)).unwrap();
    bytes[47] ^= 8; // the salt in its identity; its link has it too
    for id in [1, 2] {
        fs::write(segment_path(dir.path(), id), &bytes).unwrap();
    }
    let log = salvage().open(dir.path()).unwrap();
    let report = log.recovery();
    assert!(log.get(7).is_err_and(|error| error.is_damage()), "{report}");
    assert!(report.notes.iter().any(|note| note.contains("wal-000001.log")), "{report}");
}

#[test]
fn nor_does_a_file_that_says_to_begin_before_the_place_where_others_say_that_its_predecessor_ended() {
    let dir = fast_dir();
    thrice_begun(dir.path());
    // The second segment's file has the name of the third: the frames of the old 8 and 9 are in it, and only the manifest's cut
    // knows that they are dead.
    let mut bytes = fs::read(segment_path(dir.path(), 2)).unwrap();
    bytes[..64].fill(0);
    fs::write(segment_path(dir.path(), 3), bytes).unwrap();
    fs::remove_file(segment_path(dir.path(), 2)).unwrap();
    let log = salvage().open(dir.path()).unwrap();
    let report = log.recovery();
    for lost in 6..9 {
        assert!(log.get(lost).is_err_and(|error| error.is_damage()), "{lost}: {report}");
        assert!(report.losses.iter().any(|loss| loss.seqs.contains(&lost)), "{lost}: {report}");
    }
}

#[test]
fn a_second_salvage_that_knows_less_says_so() {
    let dir = fast_dir();
    thrice_begun(dir.path());
    fs::remove_file(segment_path(dir.path(), 2)).unwrap();
    let last = segment_path(dir.path(), 3);
    let mut bytes = fs::read(&last).unwrap();
    bytes[64..128].fill(0); // its link: that there was a segment before is known from the manifest's cut alone
    fs::write(&last, bytes).unwrap();
    for _ in 0..2 {
        let log = salvage().open(dir.path()).unwrap();
        let report = log.recovery();
        let is_listed = report.losses.iter().any(|loss| loss.seqs.contains(&7));
        let is_noted = report.notes.iter().any(|note| note.contains("wal-000001.log"));
        assert!(is_listed && log.get(7).is_err() || is_noted, "{report}");
        log.append(b"takes the place of the cut").unwrap();
        log.close().unwrap();
    }
}

#[test]
fn nor_does_one_that_names_the_other_as_its_predecessor() {
    let dir = fast_dir();
    let first = segment(1, 1..1, None);
    let last = segment(2, 1..4, Some(Predecessor { id: 1, end_seq: 0, end_offset: 256 }));
    write(dir.path(), &Slot::NOTHING, &[(1, &first), (2, &last)]);
    assert!(strict().open(dir.path()).is_err());
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(seqs(&log), [1, 2, 3]);
    assert_ne!(log.recovery().losses, []);
}

#[test]
fn a_salvage_of_which_nothing_is_left_behind_a_cut_does_not_forget_the_cut() {
    for nothing_is_left in [false, true] {
        let dir = fast_dir();
        thrice_begun(dir.path());
        fs::remove_file(segment_path(dir.path(), 3)).unwrap();
        let path = segment_path(dir.path(), 2);
        let mut bytes = fs::read(&path).unwrap();
        // The payloads of 6 and 7; those of 8 and 9, which were truncated, are whole.
        bytes[128 + 32] ^= 1;
        bytes[128 + 40 + 32] ^= 1;
        fs::write(&path, bytes).unwrap();
        if nothing_is_left {
            fs::write(segment_path(dir.path(), 1), [0; 8192]).unwrap();
        }
        for _ in 0..3 {
            let log = salvage().open(dir.path()).unwrap();
            for lost in 6..9 {
                assert!(log.get(lost).is_err_and(|error| error.is_damage()), "{lost}: {}", log.recovery());
            }
            log.rotate().unwrap();
            log.close().unwrap();
        }
    }
}

#[test]
fn no_entry_goes_into_a_file_that_the_next_open_would_not_know() {
    // Names of segments stop being names at some number, which only a forged manifest comes near.
    for next_id in [1 << 61, (1 << 62) - 1] {
        let dir = fast_dir();
        let first = segment(1, 1..4, None);
        let end = Mark { segment: 1, seq: 3, offset: first.0.len() as u64 };
        write(dir.path(), &Slot { cut: Some(cut(end, next_id)), mark: Some(end), ..Slot::NOTHING }, &[(1, &first)]);
        let log = strict().open(dir.path()).unwrap();
        let mut held = vec![1, 2, 3];
        held.extend(log.append(b"acked").ok());
        log.close().unwrap();
        drop(log);
        assert_eq!(seqs(&strict().open(dir.path()).unwrap()), held);
    }
}

#[test]
fn a_salvage_gives_nothing_past_the_place_where_a_cut_ends_a_segment() {
    // The cut's seq is too high for its place: more frames would fit by their seqs.
    let dir = fast_dir();
    let first = segment(1, 1..6, None);
    let end = Mark { segment: 1, seq: 1000, offset: 128 + 2 * 56 };
    write(dir.path(), &Slot { cut: Some(cut(end, 2)), mark: Some(end), ..Slot::NOTHING }, &[(1, &first)]);
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(seqs(&log), [1, 2]);
    assert_eq!(log.recovery().losses[0].seqs, 3..1001);
    assert_eq!(log.next_seq(), 1001);
}

#[test]
fn a_clean_mark_may_name_a_place_that_no_file_has() {
    // The kernel refuses to read there: the open gave up with its error.
    let first = segment(1, 1..6, None);
    let len = first.0.len() as u64;
    for offset in [len + 8, 1 << 40, 1 << 63, !7] {
        let dir = fast_dir();
        let end = Mark { segment: 1, seq: 5, offset };
        write(dir.path(), &Slot { mark: Some(end), clean: true, ..Slot::NOTHING }, &[(1, &first)]);
        for verify in [Verify::Unproven, Verify::All] {
            for options in [strict(), salvage()] {
                let log = options.verify(verify).open(dir.path()).unwrap();
                assert_eq!(seqs(&log), [1, 2, 3, 4, 5], "{offset}");
            }
        }
    }
}

#[test]
fn an_entry_without_bytes_that_ends_its_file_stands_behind_an_older_mark() {
    let dir = fast_dir();
    let mut first = segment(1, 1..6, None);
    let end = Mark { segment: 1, seq: 5, offset: first.0.len() as u64 };
    first.push(6, NO_WITNESS, ALONE, b"");
    write(dir.path(), &Slot { mark: Some(end), clean: true, ..Slot::NOTHING }, &[(1, &first)]);
    match strict().open(dir.path()) {
        Err(Error::Damaged { damage }) => assert_eq!((damage.kind, damage.seqs), (DamageKind::Older, 6..7)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_seq_that_stands_twice_in_a_segment_is_lost_the_same_for_every_reader() {
    // Between two frames of one seq there is something else: a lookup found the loss to end where it began.
    let dir = fast_dir();
    let mut first = segment(1, 1..4, None);
    let damaged = first.0.len();
    first.push(4, NO_WITNESS, ALONE, PAYLOAD).push(4, NO_WITNESS, ALONE, PAYLOAD).push(5, NO_WITNESS, ALONE, PAYLOAD);
    first.0[damaged] ^= 1;
    let end = Mark { segment: 1, seq: 5, offset: first.0.len() as u64 };
    write(dir.path(), &Slot { mark: Some(end), clean: true, ..Slot::NOTHING }, &[(1, &first)]);
    let log = strict().open(dir.path()).unwrap();
    for _ in 0..2 {
        match log.get(4) {
            Err(Error::Damaged { damage }) => assert_eq!(damage.seqs, 4..5),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(log.get(5).unwrap().unwrap().payload(), PAYLOAD);
    assert_eq!(log.validate().unwrap().damage[0].seqs, 4..5);
}

#[test]
fn a_reset_leaves_no_loss_behind() {
    let dir = fast_dir();
    without_the_last_segment(dir.path(), true);
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(log.recovery().losses[0].seqs, 101..151);
    // To a seq that was lost, and is given again.
    log.reset(120).unwrap();
    log.append_batch(["new"; 10]).unwrap();
    log.truncate_after(125).unwrap();
    assert_eq!(log.truncate_before(125).unwrap(), 120);
    log.truncate_after(119).unwrap();
    assert_eq!(log.append(b"newer").unwrap(), 120);
}

#[test]
fn a_file_that_a_salvage_did_not_believe_takes_no_place_from_what_is_appended_since() {
    // A cut says that segment 2 ends where its link says that it has not begun. Once another cut has taken that one's place, the new
    // segments were taken for those that lie.
    let dir = fast_dir();
    let first = segment(1, 1..4, None);
    let second = segment(2, 1 << 40..1 << 40, None);
    let end = Mark { segment: 2, seq: 10, offset: 136 };
    write(dir.path(), &Slot { cut: Some(cut(end, 3)), ..Slot::NOTHING }, &[(1, &first), (2, &second)]);
    let mut held = vec![1, 2, 3];
    for _ in 0..3 {
        let log = salvage().open(dir.path()).unwrap();
        assert_eq!(seqs(&log), held);
        held.extend(log.append_batch(["new"; 2]).unwrap());
        log.truncate_after(*held.last().unwrap()).unwrap();
        log.rotate().unwrap();
        held.push(log.append(b"newer").unwrap());
        log.close().unwrap();
    }
}

#[test]
fn what_a_salvage_did_not_believe_is_noted_by_the_one_that_does() {
    // Two files without an identity, of which one has no link either, and the other one says by it what it is. The mark says that the
    // first one held that; once something is written, there is no mark any more.
    let dir = fast_dir();
    let mut files = [1, 2].map(|id| segment(id, 1..5, None));
    files[0].0[..128].fill(0);
    files[1].0[..64].fill(0);
    let mark = Mark { segment: 1, seq: 4, offset: files[0].0.len() as u64 };
    write(dir.path(), &Slot { mark: Some(mark), ..Slot::NOTHING }, &[(1, &files[0]), (2, &files[1])]);
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(seqs(&log), []);
    log.truncate_after(4).unwrap();
    log.close().unwrap();
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(seqs(&log), [1, 2, 3, 4]);
    let notes = &log.recovery().notes;
    assert!(notes.iter().any(|note| note.contains("wal-000002.log") && note.contains("truncated")), "{notes:?}");
}
