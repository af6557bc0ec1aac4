//! Damage to the one thing that says where the segment before ends: dead frames, which a cut had left there, are valid frames with the
//! seqs that come next. What is lost is named all the same, and in the file that lost it.

use crate::shared::fast_dir;
use crate::support::format::{self, flip};
use crate::support::logs::{copy_dir, fill, manual, payload};
use crate::support::seam;
use maplog::{Damage, DamageKind, Error, Log, Options, RecoveryMode, Verify};
use std::fs;
use std::path::{Path, PathBuf};

/// A log as a kill leaves it. Segment 1 holds the entries 1 to 50, and dead ones up to 90; segment 2 holds 51 to 120, and its link alone
/// says so, for a later cut has taken the place of the one that ended segment 1; the third one holds 121 to 180.
fn cut_twice(dir: &Path) -> PathBuf {
    let (log_dir, killed) = (dir.join("log"), dir.join("killed"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..91);
    log.truncate_after(50).unwrap();
    fill(&log, 2, 51..131);
    log.truncate_after(120).unwrap();
    fill(&log, 3, 121..181);
    log.sync().unwrap();
    copy_dir(&log_dir, &killed);
    killed
}

/// The path of the segment that holds the entries from 51 on.
fn second(dir: &Path) -> PathBuf {
    format::find(dir, 120).0.path
}

/// What an open of the log in `dir` says is damaged, whatever it verifies.
#[track_caller]
fn damage(dir: &Path) -> Damage {
    let open = |options: Options| match options.open(dir) {
        Err(Error::Damaged { damage }) => *damage,
        other => panic!("no damage was named: {other:?}"),
    };
    let found = open(manual());
    assert_eq!(open(manual().verify(Verify::All)), found);
    found
}

#[test]
fn seqs_lost_with_a_link_begin_with_the_first_of_its_segment() {
    let dir = fast_dir();
    let killed = cut_twice(dir.path());
    let path = second(&killed);
    flip(&path, 70);
    let found = damage(&killed);
    assert_eq!((found.path, found.bytes, found.seqs.start), (path, 64..128, 51));
    assert!(found.seqs.end > 120, "{:?}", found.seqs);
}

#[test]
fn a_lost_link_is_named_though_dead_frames_before_it_are_broken() {
    let dir = fast_dir();
    let killed = cut_twice(dir.path());
    let path = second(&killed);
    flip(&path, 70);
    let first = format::segment(&killed, 1);
    flip(&first.path, first.frame(80).payload.start);
    let found = damage(&killed);
    assert_eq!((found.path, found.bytes, found.seqs.start), (path, 64..128, 51));
}

#[test]
fn a_lost_link_is_named_though_a_cut_had_fallen_into_a_batch_before_it() {
    let dir = fast_dir();
    let (log_dir, killed) = (dir.path().join("log"), dir.path().join("killed"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..41);
    log.append_batch((41..91).map(|seq| payload(1, seq))).unwrap();
    log.truncate_after(60).unwrap();
    fill(&log, 2, 61..131);
    log.truncate_after(120).unwrap();
    copy_dir(&log_dir, &killed);
    let path = second(&killed);
    flip(&path, 70);
    let found = damage(&killed);
    assert_eq!((found.path, found.bytes), (path, 64..128));
    assert!(found.seqs.start <= 61 && found.seqs.end > 120, "{:?}", found.seqs);
}

#[test]
fn seqs_lost_with_an_identity_begin_with_the_first_of_its_segment() {
    let dir = fast_dir();
    let killed = cut_twice(dir.path());
    let path = second(&killed);
    flip(&path, 20);
    let found = damage(&killed);
    assert_eq!((found.path, found.bytes, found.seqs.start), (path, 0..64, 51));
    assert!(found.seqs.end > 120, "{:?}", found.seqs);
}

#[test]
fn seqs_lost_with_an_identity_go_as_far_as_the_witnesses_behind_it() {
    let dir = fast_dir();
    let (log_dir, killed) = (dir.path().join("log"), dir.path().join("killed"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..101);
    log.sync().unwrap();
    // Held back, the manifest does not say what is durable from here on. The frames do.
    let guard = seam::before(&log_dir, |op| match op.path().ends_with("wal.meta") {
        true => Err(seam::eio()),
        false => Ok(()),
    });
    fill(&log, 1, 101..151);
    log.sync().unwrap();
    log.append(&payload(1, 151)).unwrap();
    copy_dir(&log_dir, &killed);
    drop(log);
    drop(guard);
    let path = format::find(&killed, 150).0.path;
    flip(&path, 20);
    let found = damage(&killed);
    assert_eq!((found.path, found.seqs), (path, 101..151));
}

#[test]
fn a_missing_segment_is_named_though_dead_frames_stand_in_its_place() {
    for breaks_a_dead_frame in [false, true] {
        let dir = fast_dir();
        let killed = cut_twice(dir.path());
        let path = second(&killed);
        fs::remove_file(&path).unwrap();
        if breaks_a_dead_frame {
            let first = format::segment(&killed, 1);
            flip(&first.path, first.frame(80).payload.start);
        }
        let found = damage(&killed);
        assert_eq!((found.path, found.kind), (path, DamageKind::Missing), "{breaks_a_dead_frame}");
    }
}

#[test]
fn salvage_lists_a_missing_segment_and_says_that_the_one_before_may_end_with_dead_entries() {
    let dir = fast_dir();
    let killed = cut_twice(dir.path());
    let path = second(&killed);
    fs::remove_file(&path).unwrap();
    let log: Log = manual().recovery(RecoveryMode::Salvage).open(&killed).unwrap();
    let report = log.recovery();
    let listed = report.losses.iter().filter(|loss| loss.path == path && loss.kind == DamageKind::Missing);
    assert_eq!(listed.count(), 1, "{report}");
    assert!(report.notes.iter().any(|note| note.contains("wal-000001.log ends")), "{report}");
    for seq in (1..51).chain(121..181) {
        let life = if seq < 51 { 1 } else { 3 };
        assert_eq!(log.get(seq).unwrap().unwrap().payload(), payload(life, seq));
    }
}

#[test]
fn salvage_lists_a_missing_segment_whose_seqs_are_all_there_as_dead_entries() {
    let dir = fast_dir();
    let (log_dir, killed) = (dir.path().join("log"), dir.path().join("killed"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..91);
    log.truncate_after(50).unwrap();
    fill(&log, 2, 51..71);
    log.sync().unwrap();
    log.truncate_after(70).unwrap();
    log.rotate().unwrap();
    fill(&log, 3, 71..81);
    log.truncate_after(75).unwrap();
    copy_dir(&log_dir, &killed);
    let path = format::find(&killed, 70).0.path;
    fs::remove_file(&path).unwrap();
    let log: Log = manual().recovery(RecoveryMode::Salvage).open(&killed).unwrap();
    let report = log.recovery();
    assert!(report.losses.iter().any(|loss| loss.path == path), "{report}");
    assert!(report.notes.iter().any(|note| note.contains("wal-000001.log ends")), "{report}");
}
