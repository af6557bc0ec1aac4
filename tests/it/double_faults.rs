//! Two faults at once, and what is put back from a backup: a manifest or a segment of an earlier day, a bad sector beside a file that is
//! gone, a salvage upon a salvage. A strict open refuses; a salvage gives no entry that was truncated, and drops none that is whole,
//! without a word about that file or that seq.

use crate::shared::fast_dir;
use crate::support::format::{manifest_path, segment_path};
use maplog::{DamageKind, Error, Log, Options, RecoveryMode, SyncPolicy, Verify};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn strict() -> Options {
    Options::new().segment_size(8192).sync_policy(SyncPolicy::Manual)
}

fn salvage() -> Options {
    strict().recovery(RecoveryMode::Salvage)
}

fn append(log: &Log, payload: &str, seqs: Range<u64>) {
    seqs.for_each(|seq| assert_eq!(log.append(payload.as_bytes()).unwrap(), seq));
}

/// What a kill leaves of a log that is open.
fn killed(log_dir: &Path) -> TempDir {
    let copy = fast_dir();
    for folder in ["metadata", "segments"] {
        fs::create_dir(copy.path().join(folder)).unwrap();
        for entry in fs::read_dir(log_dir.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(folder).join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn zero(dir: &Path, id: u64, bytes: Range<usize>) {
    change(dir, id, |file| file[bytes].fill(0));
}

fn change(dir: &Path, id: u64, change: impl FnOnce(&mut [u8])) {
    let path = segment_path(dir, id);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

const SECTOR: Range<usize> = 0..512;
const LINK: Range<usize> = 64..128;
/// Bytes of a frame with one of the payloads here, none of which has more than eight.
const FRAME: usize = 40;

/// Where the payload of the frame with this number begins.
fn payload_of(frame: usize) -> usize {
    128 + FRAME * frame + 32
}

/// Each seq is what was appended last, or the report speaks of it, or of the segment `id`.
fn assert_told(log: &Log, seqs: Range<u64>, payload: &str, id: u64) {
    let report = log.recovery();
    let name = format!("wal-{id:06}.log");
    for seq in seqs {
        let is_right = log.get(seq).is_ok_and(|entry| entry.unwrap().payload() == payload.as_bytes());
        let is_lost = report.losses.iter().any(|loss| loss.seqs.contains(&seq));
        let is_noted = report.notes.iter().any(|note| note.contains(&name));
        assert!(is_right || is_lost || is_noted, "{seq}: {report}");
    }
}

/// The log in `dir` salvaged, appended to and closed, again and again.
fn salvage_again_and_again(dir: &Path, mut check: impl FnMut(&Log)) {
    for _ in 0..4 {
        let log = salvage().open(dir).unwrap();
        check(&log);
        log.append(b"goes on").unwrap();
        log.close().unwrap();
    }
}

/// Closed with the entries 1 to 5, and again with those up to 11; the manifest of the first close.
fn closed_twice(dir: &Path) -> Vec<u8> {
    let log = strict().open(dir).unwrap();
    append(&log, "first", 1..6);
    log.close().unwrap();
    drop(log);
    let older = fs::read(manifest_path(dir)).unwrap();
    let log = strict().open(dir).unwrap();
    append(&log, "acked", 6..12);
    log.close().unwrap();
    older
}

#[test]
fn a_manifest_of_an_earlier_close_does_not_end_the_log_where_it_ended_then() {
    let whole: fn(&mut Vec<u8>, &[u8]) = |manifest, older| manifest.copy_from_slice(older);
    // The disk has forgotten the last writes of one slot, and the other one is bad.
    let one_slot: fn(&mut Vec<u8>, &[u8]) = |manifest, older| {
        manifest[..4096].copy_from_slice(&older[..4096]);
        manifest[4096..4608].fill(0);
    };
    for put_back in [whole, one_slot] {
        let dir = fast_dir();
        let older = closed_twice(dir.path());
        let mut manifest = fs::read(manifest_path(dir.path())).unwrap();
        put_back(&mut manifest, &older);
        fs::write(manifest_path(dir.path()), manifest).unwrap();
        for verify in [Verify::Unproven, Verify::All] {
            match strict().verify(verify).open(dir.path()) {
                Err(Error::Damaged { damage }) => {
                    assert_eq!((damage.kind, damage.seqs.clone()), (DamageKind::Older, 6..12), "{damage}");
                    assert_eq!(damage.path, manifest_path(dir.path()));
                }
                other => panic!("{other:?}"),
            }
        }
        let log = salvage().open(dir.path()).unwrap();
        assert_eq!(log.view().iter().flatten().count(), 11);
        assert_eq!(log.recovery().losses[0].kind, DamageKind::Older, "{}", log.recovery());
    }
}

#[test]
fn nor_does_one_with_a_mark_in_a_segment_that_was_truncated_since_cost_a_salvage_what_follows() {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    append(&log, "old", 1..6);
    log.rotate().unwrap();
    append(&log, "old", 6..10);
    log.close().unwrap();
    drop(log);
    let older = fs::read(manifest_path(dir.path())).unwrap();
    let log = strict().open(dir.path()).unwrap();
    log.truncate_after(5).unwrap();
    append(&log, "new", 6..16);
    log.close().unwrap();
    drop(log);
    fs::write(manifest_path(dir.path()), older).unwrap();
    assert!(strict().open(dir.path()).is_err());
    assert_ne!(salvage().open(dir.path()).unwrap().recovery().losses, []);
    salvage_again_and_again(dir.path(), |log| {
        for seq in 6..16 {
            assert_eq!(log.get(seq).unwrap().unwrap().payload(), b"new", "{}", log.recovery());
        }
    });
}

#[test]
fn nor_does_the_cut_of_one_bring_back_what_a_later_cut_has_ended() {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    append(&log, "old", 1..10);
    log.truncate_after(7).unwrap();
    let older = fs::read(manifest_path(dir.path())).unwrap();
    log.truncate_after(5).unwrap();
    append(&log, "new", 6..8);
    log.close().unwrap();
    drop(log);
    fs::write(manifest_path(dir.path()), older).unwrap();
    assert!(strict().open(dir.path()).is_err());
    let log = salvage().open(dir.path()).unwrap();
    for seq in 6..8 {
        assert_eq!(log.get(seq).unwrap().unwrap().payload(), b"new", "{}", log.recovery());
    }
    assert_ne!(log.recovery().losses, []);
}

/// A log of which the second segment, with the old entries `second`, was truncated away with all that is not kept up to `cut`, and is put
/// back from a backup. The new entries behind the cut are in a segment of their own, which the last cut is in: its id.
fn with_a_segment_put_back(second: Range<u64>, cut: u64, new: Range<u64>) -> (TempDir, u64) {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    append(&log, "old", 1..second.start);
    log.rotate().unwrap();
    append(&log, "old", second);
    log.sync().unwrap();
    let backup = fs::read(segment_path(dir.path(), 2)).unwrap();
    log.truncate_after(cut).unwrap();
    append(&log, "new", new);
    log.sync().unwrap();
    let id = log.segments().last().unwrap().id;
    let killed = killed(dir.path());
    strict().open(killed.path()).unwrap().close().unwrap();
    fs::write(segment_path(killed.path(), 2), backup).unwrap();
    (killed, id)
}

#[test]
fn a_segment_that_is_put_back_does_not_take_the_place_of_one_that_is_lost() {
    for is_unlinked in [false, true] {
        let (dir, live) = with_a_segment_put_back(6..10, 5, 6..7);
        let dir = dir.path();
        match is_unlinked {
            true => fs::remove_file(segment_path(dir, live)).unwrap(),
            false => zero(dir, live, SECTOR),
        }
        assert!(strict().open(dir).is_err());
        let log = salvage().open(dir).unwrap();
        assert_told(&log, 6..7, "new", 2);
        assert_ne!(log.recovery().losses, []);
        assert!(log.recovery().notes.iter().any(|note| note.contains("wal-000002.log")), "{}", log.recovery());
    }
}

#[test]
fn nor_that_of_the_live_ones_where_one_of_these_is_damaged() {
    let (dir, live) = with_a_segment_put_back(6..10, 3, 4..9);
    change(dir.path(), live, |file| file[payload_of(0)] ^= 1);
    let log = salvage().open(dir.path()).unwrap();
    assert!(log.get(4).is_err_and(|error| error.is_damage()), "{}", log.recovery());
    for seq in 5..9 {
        assert_eq!(log.get(seq).unwrap().unwrap().payload(), b"new", "{}", log.recovery());
    }
}

#[test]
fn an_end_that_a_salvage_had_to_guess_is_noted_by_the_next_one_too() {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    append(&log, "old", 1..6);
    log.truncate_after(3).unwrap();
    append(&log, "new", 4..9);
    log.sync().unwrap();
    let killed = killed(dir.path());
    strict().open(killed.path()).unwrap().close().unwrap();
    zero(killed.path(), 2, SECTOR);
    salvage_again_and_again(killed.path(), |log| assert_told(log, 4..6, "new", 1));
}

/// A log whose first segment holds the old 6 to 9 behind a cut, and whose second one the new 8 and 9; `newest` comes behind them.
fn cut_twice(newest: Range<u64>) -> (TempDir, Log) {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    append(&log, "old", 1..10);
    log.truncate_after(5).unwrap();
    append(&log, "new", 6..10);
    log.truncate_after(7).unwrap();
    append(&log, "newest", newest);
    (dir, log)
}

#[test]
fn and_so_where_the_file_behind_it_is_gone() {
    for is_unlinked in [false, true] {
        let (dir, log) = cut_twice(8..8);
        log.close().unwrap();
        drop(log);
        let path = segment_path(dir.path(), 2);
        match is_unlinked {
            true => fs::remove_file(path).unwrap(),
            false => fs::write(path, [0; 8192]).unwrap(),
        }
        salvage_again_and_again(dir.path(), |log| assert_told(log, 6..8, "new", 1));
    }
}

#[test]
fn a_later_salvage_does_not_forget_what_an_earlier_one_has_lost() {
    let (dir, log) = cut_twice(8..31);
    log.close().unwrap();
    drop(log);
    fs::remove_file(segment_path(dir.path(), 2)).unwrap();
    zero(dir.path(), 3, LINK);
    change(dir.path(), 3, |file| file[payload_of(12)] ^= 1); // that of 20
    salvage_again_and_again(dir.path(), |log| assert_told(log, 6..8, "new", 1));
}

#[test]
fn where_a_segment_without_a_link_begins_does_not_say_where_another_one_ends() {
    for is_unlinked in [false, true] {
        let dir = fast_dir();
        let log = strict().open(dir.path()).unwrap();
        append(&log, "old", 1..10);
        log.truncate_after(3).unwrap();
        append(&log, "new", 4..12);
        log.rotate().unwrap();
        append(&log, "new", 12..15);
        log.sync().unwrap();
        let killed = killed(dir.path());
        let dir = killed.path();
        let log = strict().open(dir).unwrap();
        append(&log, "new", 15..18);
        log.close().unwrap();
        drop(log);
        match is_unlinked {
            true => fs::remove_file(segment_path(dir, 2)).unwrap(),
            false => fs::write(segment_path(dir, 2), [0; 8192]).unwrap(),
        }
        zero(dir, 3, LINK);
        assert!(strict().open(dir).is_err());
        assert_told(&salvage().open(dir).unwrap(), 4..10, "new", 1);
    }
}

#[test]
fn a_segment_whose_beginning_is_lost_does_not_begin_with_dead_entries() {
    let (dir, log) = cut_twice(8..10);
    log.sync().unwrap();
    let killed = killed(dir.path());
    let dir = killed.path();
    // The cut goes to the third segment: where the second one ends, the link of the third says alone.
    let log = strict().open(dir).unwrap();
    append(&log, "last", 10..12);
    log.close().unwrap();
    drop(log);
    zero(dir, 2, LINK.start..128 + 2 * FRAME);
    zero(dir, 3, LINK);
    assert!(strict().open(dir).is_err());
    let log = salvage().open(dir).unwrap();
    for seq in 8..10 {
        assert_eq!(log.get(seq).unwrap().unwrap().payload(), b"newest", "{}", log.recovery());
    }
    assert_told(&log, 6..8, "new", 2);
}

#[test]
fn entries_behind_a_mark_are_kept_where_the_first_ones_of_their_segment_are_lost() {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    append(&log, "first", 1..6);
    log.rotate().unwrap();
    append(&log, "a", 6..7);
    log.sync().unwrap();
    std::thread::sleep(Duration::from_millis(100)); // the mark is stored
    let marked = fs::read(manifest_path(dir.path())).unwrap();
    append(&log, "acked", 7..40);
    log.sync().unwrap();
    append(&log, "last", 40..41);
    let killed = killed(dir.path());
    let dir = killed.path();
    fs::write(manifest_path(dir), marked).unwrap();
    zero(dir, 2, LINK.start..128 + FRAME);
    let log = salvage().open(dir).unwrap();
    assert_eq!(log.get(39).unwrap().unwrap().payload(), b"acked", "{}", log.recovery());
    assert_eq!(log.recovery().losses.iter().find(|loss| !loss.seqs.is_empty()).unwrap().seqs, 6..7);
}

#[test]
fn a_batch_that_was_durable_is_kept_as_far_as_it_is_whole() {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    log.append(b"one").unwrap();
    let older = fs::read(manifest_path(dir.path())).unwrap();
    assert_eq!(log.append_batch(["batch"; 3]).unwrap(), 2..5);
    log.sync().unwrap();
    log.append(b"five").unwrap(); // its frame says that 4 was durable
    let killed = killed(dir.path());
    fs::write(manifest_path(killed.path()), older).unwrap(); // the mark was not stored yet
    change(killed.path(), 1, |file| [3, 4].into_iter().for_each(|frame| file[payload_of(frame)] ^= 1));
    assert!(strict().open(killed.path()).is_err());
    let log = salvage().open(killed.path()).unwrap();
    for seq in 2..4 {
        assert_eq!(log.get(seq).unwrap().unwrap().payload(), b"batch", "{}", log.recovery());
    }
    assert!(log.recovery().losses.iter().any(|loss| loss.seqs.contains(&4)));
}

#[test]
fn no_seq_that_a_file_can_have_held_is_given_again() {
    for len in [0, 63] {
        let dir = fast_dir();
        let log = strict().open(dir.path()).unwrap();
        append(&log, "first", 1..6);
        log.close().unwrap();
        drop(log);
        let log = salvage().open(dir.path()).unwrap();
        log.rotate().unwrap();
        append(&log, "acked", 6..10);
        let older = fs::read(manifest_path(dir.path())).unwrap();
        assert_eq!(log.sync().unwrap(), 9);
        let killed = killed(dir.path());
        fs::write(manifest_path(killed.path()), older).unwrap(); // the mark was not stored yet
        let id = log.segments().last().unwrap().id;
        fs::File::options().write(true).open(segment_path(killed.path(), id)).unwrap().set_len(len).unwrap();
        let log = salvage().open(killed.path()).unwrap();
        assert!(log.append(b"another").unwrap() > 9, "{len}: {}", log.recovery());
    }
}

#[test]
fn the_name_of_a_missing_segment_is_given_to_no_other() {
    let dir = fast_dir();
    let log = strict().open(dir.path()).unwrap();
    append(&log, "first", 1..6);
    log.rotate().unwrap();
    append(&log, "acked", 6..10);
    log.close().unwrap();
    drop(log);
    fs::rename(segment_path(dir.path(), 2), dir.path().join("segments/put aside")).unwrap();
    let log = salvage().open(dir.path()).unwrap();
    assert_eq!(log.append(b"goes on").unwrap(), 10);
    assert!(!segment_path(dir.path(), 2).exists());
}

#[test]
fn a_pipe_with_a_segments_name_is_an_error() {
    let dir = fast_dir();
    strict().open(dir.path()).unwrap().close().unwrap();
    let pipe = segment_path(dir.path(), 9);
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    match strict().open(dir.path()) {
        Err(Error::Io { path, .. }) => assert_eq!(path, pipe),
        other => panic!("{other:?}"),
    }
}
