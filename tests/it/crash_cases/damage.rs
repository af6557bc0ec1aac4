//! Acked bytes that are not what they were: they are named, and never taken for the end of the log.

use crate::shared::fast_dir;
use crate::support::format::{self, flip};
use crate::support::logs::{assert_holds, copy_dir, fill, manual, payload, wait_until};
use crate::support::seam;
use maplog::{Damage, Error, Result, SyncPolicy, Verify};
use std::fs;
use std::path::Path;

/// What `result` says is damaged.
#[track_caller]
fn damage<T: std::fmt::Debug>(result: Result<T>) -> Damage {
    match result {
        Err(Error::Damaged { damage }) => *damage,
        other => panic!("no damage was named: {other:?}"),
    }
}

/// Asserts that the damage at `offset` of the file at `path`, which costs the entry `seq`, is named by an open that reads all, by
/// `validate`, and by the read that meets it, and is met by no other read.
#[track_caller]
fn assert_damage_is_named(dir: &Path, path: &Path, offset: u64, seq: u64) {
    let check = |damage: &Damage| {
        assert_eq!(damage.path, path, "byte {offset}");
        assert!(damage.bytes.contains(&offset), "byte {offset}: {damage}");
        assert!(damage.seqs.contains(&seq), "byte {offset}: {damage}");
    };
    check(&damage(manual().verify(Verify::All).open(dir)));
    match manual().open(dir) {
        Err(Error::Damaged { damage }) => check(&damage),
        Err(error) => panic!("byte {offset}: {error}"),
        Ok(log) => {
            let view = log.view();
            check(&damage(view.get(seq)));
            assert!(view.get(seq - 1).unwrap().is_some(), "byte {offset}");
            assert!(view.next_seq() > seq, "byte {offset}: it was taken for the end");
            let listed = log.validate().unwrap().damage;
            assert_eq!(listed.len(), 1, "byte {offset}: {listed:?}");
            check(&listed[0]);
        }
    }
}

#[test]
fn case_01_flip_in_last_frame_after_clean_close_is_damage() {
    let dir = fast_dir();
    let (log_dir, copy) = (dir.path().join("log"), dir.path().join("copy"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..101);
    log.close().unwrap();
    let frame = format::find(&log_dir, 100).1;
    let path = format::segment_path(&copy, 1);
    for offset in frame.bytes {
        let _ = fs::remove_dir_all(&copy);
        copy_dir(&log_dir, &copy);
        flip(&path, offset);
        assert_damage_is_named(&copy, &path, offset, 100);
    }
}

#[test]
fn case_01_flip_in_last_synced_frame_with_its_witness_in_the_next_frame_is_damage_from_open() {
    let dir = fast_dir();
    let (log_dir, copy) = (dir.path().join("log"), dir.path().join("copy"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..100);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&log_dir) == 99);
    // Held back, the manifest does not say that 100 is durable. The frame of 101 does.
    let guard = seam::before(&log_dir, |op| match op.path().ends_with("wal.meta") {
        true => Err(seam::eio()),
        false => Ok(()),
    });
    fill(&log, 1, 100..101);
    log.sync().unwrap();
    log.append(&payload(1, 101)).unwrap();
    copy_dir(&log_dir, &copy);
    drop(log);
    drop(guard);
    let (segment, frame) = format::find(&copy, 100);
    assert_eq!(format::marked_seq(&copy), 99);
    assert_eq!(format::find(&copy, 101).1.witness, Some(100));
    flip(&segment.path, frame.payload.start);
    let found = damage(manual().open(&copy));
    assert_eq!((found.path, found.seqs), (segment.path, 100..101));
}

/// A log of three segments and 250 entries, all of them synced and marked, as a kill leaves it and as a close does.
fn three_segments(dir: &Path) -> [std::path::PathBuf; 2] {
    let log_dir = dir.join("log");
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..251);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&log_dir) == 250);
    let killed = dir.join("killed");
    copy_dir(&log_dir, &killed);
    log.close().unwrap();
    [killed, log_dir]
}

#[test]
fn case_11_a_changed_identity_or_link_and_a_missing_or_foreign_file_are_named() {
    let dir = fast_dir();
    let copy = dir.path().join("copy");
    let other = fast_dir();
    let [other_log, _] = three_segments(other.path());
    for base in three_segments(dir.path()) {
        let fresh = || {
            let _ = fs::remove_dir_all(&copy);
            copy_dir(&base, &copy);
        };
        let mut findings = Vec::new();
        let mut look = |id: u64, how: String| {
            let path = format::segment_path(&copy, id);
            match manual().open(&copy) {
                Err(Error::Damaged { damage }) if damage.path == path => {}
                Err(Error::NotALog { path: named }) if named == path => {}
                other => findings.push(format!("{how}: {other:?}")),
            }
        };
        for byte in 0..format::FRAMES {
            fresh();
            flip(&format::segment_path(&copy, 3), byte);
            look(3, format!("byte {byte} flipped"));
        }
        for id in 1..=3 {
            fresh();
            fs::remove_file(format::segment_path(&copy, id)).unwrap();
            look(id, format!("segment {id} deleted"));
            fresh();
            fs::copy(format::segment_path(&other_log, id), format::segment_path(&copy, id)).unwrap();
            look(id, format!("segment {id} of another log"));
        }
        assert_eq!(findings, [""; 0], "the file is named");
        fresh();
        assert_holds(&manual().open(&copy).unwrap(), &[(1, 1..251)]);
    }
}

#[test]
fn case_20_a_flip_in_the_padding_between_two_acked_frames_is_damage() {
    let dir = fast_dir();
    let (log_dir, copy) = (dir.path().join("log"), dir.path().join("copy"));
    let log = manual().sync_policy(SyncPolicy::Immediate).open(&log_dir).unwrap();
    for len in 0..16 {
        log.append(&vec![0xa5; len]).unwrap();
    }
    drop(log);
    let mut padding_seen = 0;
    for seq in 2..16 {
        let frame = format::find(&log_dir, seq).1;
        for offset in frame.payload.end..frame.bytes.end {
            let _ = fs::remove_dir_all(&copy);
            copy_dir(&log_dir, &copy);
            let path = format::segment_path(&copy, 1);
            flip(&path, offset);
            assert_damage_is_named(&copy, &path, offset, seq);
            padding_seen += 1;
        }
    }
    assert_eq!(padding_seen, 28 + 27, "lengths 1 to 7 and 9 to 14");
}
