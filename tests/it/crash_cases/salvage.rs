//! Salvage: what is intact is kept, every loss is listed once, and until the damage is truncated away no strict open takes the log.

use crate::shared::fast_dir;
use crate::support::format;
use crate::support::logs::{contents, copy_dir, fill, manual, payload, wait_until};
use maplog::{Error, Log, Options, RecoveryMode};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn salvage() -> Options {
    manual().recovery(RecoveryMode::Salvage)
}

/// A directory with a log of four segments and 350 synced entries, as a kill leaves it, or a close.
fn four_segments(closed: bool) -> (TempDir, PathBuf) {
    let dir = fast_dir();
    let [log_dir, killed] = ["log", "killed"].map(|name| dir.path().join(name));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..351);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&log_dir) == 350);
    copy_dir(&log_dir, &killed);
    log.close().unwrap();
    (dir, if closed { log_dir } else { killed })
}

fn flip_entry(dir: &Path, seq: u64) {
    let (segment, frame) = format::find(dir, seq);
    format::flip(&segment.path, frame.payload.start + 3);
}

/// Asserts that the log reads all entries of `seqs` but for `losses`, with one error for each of these.
#[track_caller]
fn assert_reads(log: &Log, life: impl Fn(u64) -> u8, seqs: Range<u64>, losses: &[Range<u64>]) {
    let view = log.view();
    assert_eq!((view.first_seq(), view.next_seq()), (seqs.start, seqs.end));
    let mut expected = seqs.clone();
    let mut met = Vec::new();
    for entry in view.iter() {
        match entry {
            Ok(entry) => {
                assert_eq!(Some(entry.seq()), expected.next());
                assert_eq!(entry.payload(), payload(life(entry.seq()), entry.seq()));
            }
            Err(Error::Damaged { damage }) => {
                assert_eq!(damage.seqs.start, expected.start);
                expected.start = damage.seqs.end;
                met.push(damage.seqs);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(expected, seqs.end..seqs.end);
    assert_eq!(met, losses, "one error a stretch");
    for seq in seqs {
        let is_lost = losses.iter().any(|loss| loss.contains(&seq));
        assert_eq!(view.get(seq).is_err(), is_lost, "seq {seq}");
    }
}

#[track_caller]
fn assert_lists(log: &Log, losses: &[Range<u64>]) {
    let listed: Vec<_> = log.recovery().losses.iter().map(|loss| loss.seqs.clone()).collect();
    assert_eq!(listed, losses, "each loss once: {:?}", log.recovery().losses);
    let found: Vec<_> = log.validate().unwrap().damage.into_iter().map(|damage| damage.seqs).collect();
    assert_eq!(found, losses, "validate lists the same");
}

#[track_caller]
fn assert_strict_refuses(dir: &Path) {
    let before = contents(dir);
    let opened = manual().open(dir);
    assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
    assert!(contents(dir) == before, "a refused open changes nothing");
}

#[test]
fn case_38_losses_inside_segments_are_skipped_listed_and_truncated_away() {
    for closed in [false, true] {
        let (_dir, dir) = four_segments(closed);
        [221, 220, 150].into_iter().for_each(|seq| flip_entry(&dir, seq));
        let losses = [150..151, 220..222];
        let before = contents(&dir);
        let log = salvage().open(&dir).unwrap();
        assert_lists(&log, &losses);
        assert_reads(&log, |_| 1, 1..351, &losses);
        drop(log);
        assert!(contents(&dir) == before, "nothing is changed before the first append");

        let life = |seq| if seq > 350 { 2 } else { 1 };
        let log = salvage().open(&dir).unwrap();
        fill(&log, 2, 351..361);
        assert_reads(&log, life, 1..361, &losses);
        for inside in [150, 220, 221] {
            assert!(log.truncate_after(inside).unwrap_err().is_damage(), "{inside}");
            assert!(log.truncate_before(inside).unwrap_err().is_damage(), "{inside}");
        }
        assert_reads(&log, life, 1..361, &losses);
        log.close().unwrap();
        assert_strict_refuses(&dir);

        let log = salvage().open(&dir).unwrap();
        assert_lists(&log, &losses);
        assert_reads(&log, life, 1..361, &losses);
        log.truncate_after(210).unwrap();
        assert_reads(&log, life, 1..211, &losses[..1]);
        fill(&log, 3, 211..216);
        log.close().unwrap();
        assert_strict_refuses(&dir);

        let life = |seq| if seq > 210 { 3 } else { 1 };
        let log = salvage().open(&dir).unwrap();
        assert_lists(&log, &losses[..1]);
        assert_reads(&log, life, 1..216, &losses[..1]);
        assert_eq!(log.truncate_before(180).unwrap(), 101, "whole segments only");
        drop(log);
        assert_strict_refuses(&dir);
        let log = salvage().open(&dir).unwrap();
        assert_eq!(log.truncate_before(205).unwrap(), 201);
        drop(log);
        for _ in 0..2 {
            let log = manual().open(&dir).unwrap();
            assert_reads(&log, life, 201..216, &[]);
        }
    }
}

#[test]
fn case_38_a_lost_segment_is_one_loss_and_a_cut_before_it_takes_it_away() {
    for closed in [false, true] {
        let (_dir, dir) = four_segments(closed);
        fs::remove_file(format::segment_path(&dir, 2)).unwrap();
        let loss = 101..201;
        let losses = std::slice::from_ref(&loss);
        let before = contents(&dir);
        assert_strict_refuses(&dir);
        let log = salvage().open(&dir).unwrap();
        assert_lists(&log, losses);
        assert_reads(&log, |_| 1, 1..351, losses);
        assert!(contents(&dir) == before);
        let life = |seq| if seq > 350 { 2 } else { 1 };
        fill(&log, 2, 351..361);
        for inside in [101, 150, 200] {
            assert!(log.truncate_after(inside).unwrap_err().is_damage(), "{inside}");
            assert!(log.truncate_before(inside).unwrap_err().is_damage(), "{inside}");
        }
        // Killed, it is what it was.
        let killed = dir.with_file_name("copy");
        copy_dir(&dir, &killed);
        assert_strict_refuses(&killed);
        let copy = salvage().open(&killed).unwrap();
        assert_lists(&copy, losses);
        assert_reads(&copy, life, 1..361, losses);
        assert_eq!(copy.truncate_before(230).unwrap(), 201);
        drop(copy);
        assert_reads(&manual().open(&killed).unwrap(), life, 201..361, &[]);

        log.truncate_after(80).unwrap();
        fill(&log, 3, 81..91);
        log.close().unwrap();
        let life = |seq| if seq > 80 { 3 } else { 1 };
        assert_reads(&manual().open(&dir).unwrap(), life, 1..91, &[]);
    }
}

#[test]
fn case_38_a_lost_end_is_a_loss_and_new_entries_lie_above_it() {
    type Ruin = fn(&Path);
    let ruins: [(Ruin, Range<u64>); 3] = [
        (|dir| flip_entry(dir, 350), 350..351),
        (|dir| drop(fs::remove_file(format::segment_path(dir, 4))), 301..351),
        (|dir| (340..351).rev().for_each(|seq| flip_entry(dir, seq)), 340..351),
    ];
    for closed in [false, true] {
        for (index, (ruin, loss)) in ruins.iter().enumerate() {
            println!("ruin {index}, closed: {closed}");
            let (_dir, dir) = four_segments(closed);
            ruin(&dir);
            let losses = [loss.clone()];
            let log = salvage().open(&dir).unwrap();
            assert_lists(&log, &losses);
            assert_reads(&log, |_| 1, 1..351, &losses);
            let life = |seq| if seq > 350 { 2 } else { 1 };
            fill(&log, 2, 351..356);
            assert_reads(&log, life, 1..356, &losses);
            assert!(log.truncate_after(350).unwrap_err().is_damage());
            log.close().unwrap();
            assert_strict_refuses(&dir);
            let log = salvage().open(&dir).unwrap();
            assert_lists(&log, &losses);
            assert_reads(&log, life, 1..356, &losses);
            log.truncate_after(loss.start - 1).unwrap();
            log.close().unwrap();
            assert_reads(&manual().open(&dir).unwrap(), life, 1..loss.start, &[]);
        }
    }
}

#[test]
fn case_38_a_log_without_damage_is_salvaged_whole() {
    for closed in [false, true] {
        let (_dir, dir) = four_segments(closed);
        let before = contents(&dir);
        let log = salvage().open(&dir).unwrap();
        assert_lists(&log, &[]);
        assert_reads(&log, |_| 1, 1..351, &[]);
        drop(log);
        assert!(contents(&dir) == before);
        let log = salvage().open(&dir).unwrap();
        fill(&log, 1, 351..361);
        log.close().unwrap();
        assert_reads(&manual().open(&dir).unwrap(), |_| 1, 1..361, &[]);
    }
}
