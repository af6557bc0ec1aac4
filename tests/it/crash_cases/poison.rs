//! A failed sync: nothing is acked after it, and what a later open keeps is on the disk.

use crate::shared::fast_dir;
use crate::support::format;
use crate::support::image::Recorder;
use crate::support::logs::{assert_holds, fill, lives, manual, payload, wait_until};
use crate::support::seam::{self, Gate};
use maplog::{Error, Log, SyncPolicy};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::thread;

/// Asserts that the log refuses whatever would change it, and still reads.
#[track_caller]
fn assert_poisoned(log: &Log) {
    let refusals = [
        log.append(b"x").map(drop),
        log.append_with(1, |_| {}).map(drop),
        log.append_batch(["x"]).map(drop),
        log.sync().map(drop),
        log.truncate_before(1).map(drop),
        log.truncate_after(1),
        log.rotate(),
        log.reset(7),
    ];
    for (index, refusal) in refusals.into_iter().enumerate() {
        assert!(matches!(refusal, Err(Error::Poisoned)), "call {index}: {refusal:?}");
    }
    lives(log);
}

#[test]
fn case_16_adopted_entries_are_written_again_after_a_failed_sync_and_a_kill() {
    let dir = fast_dir();
    let [log_dir, killed, image] = ["log", "killed", "image"].map(|name| dir.path().join(name));
    fs::create_dir(&log_dir).unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let recording = Recorder::start_with(&log_dir, move |_, op| {
        // Once: the retry would return Ok, with nothing on the disk.
        match seam::is_sync_of(op, "wal-00") && fails.swap(false, Ordering::Relaxed) {
            true => Err(seam::eio()),
            false => Ok(()),
        }
    });
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..31);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&log_dir) == 30);
    fill(&log, 1, 31..81);
    failing.store(true, Ordering::Relaxed);
    assert!(matches!(log.sync(), Err(Error::Io { .. })));
    assert_poisoned(&log);
    assert_eq!(log.durable_seq(), 30);
    assert!(matches!(log.wait_durable(31), Err(Error::Poisoned)));
    assert_eq!(format::marked_seq(&log_dir), 30);
    let cut = recording.cut();
    assert!(matches!(log.close(), Err(Error::Poisoned)));
    assert_eq!(format::marked_seq(&log_dir), 30);
    drop(log);
    drop(recording);

    // Killed: the page cache holds what the disk does not, and takes it for written.
    cut.write_live(&killed);
    let recording = Recorder::resume(&killed, &cut, |_, _| Ok(()));
    let log = manual().open(&killed).unwrap();
    let kept = log.next_seq();
    assert_eq!((kept, log.durable_seq()), (81, 80), "a kill loses nothing");
    fill(&log, 1, 81..91);
    log.sync().unwrap();
    let cut = recording.cut();
    for seed in 0..20 {
        cut.write_seeded(seed, &image);
        let log = manual().open(&image).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_holds(&log, &[(1, 1..91)]);
    }
}

#[test]
fn case_32_a_sync_that_leader_and_keeper_share_acks_nobody_when_it_fails() {
    for waiters in 1..4 {
        let dir = fast_dir();
        let log_dir = dir.path().join("log");
        fs::create_dir(&log_dir).unwrap();
        let (gate, failures) = (Gate::default(), Arc::new(AtomicU32::new(0)));
        let (held, failed) = (gate.clone(), Arc::clone(&failures));
        let _guard = seam::before(&log_dir, move |op| {
            if !seam::is_sync_of(op, "wal-000001") {
                return Ok(());
            }
            held.pass();
            // The kernel tells one of them.
            match failed.fetch_add(1, Ordering::Relaxed) {
                0 => Err(seam::eio()),
                _ => Ok(()),
            }
        });
        let log = Arc::new(manual().open(&log_dir).unwrap());
        fill(&log, 1, 1..61);
        wait_until("segment 2", || format::segment_path(&log_dir, 2).exists());
        gate.shut();
        fill(&log, 1, 61..121);
        gate.wait_held();
        let acked = Arc::new(AtomicU32::new(0));
        let waiting: Vec<_> = (0..waiters)
            .map(|waiter| {
                let (log, acked) = (Arc::clone(&log), Arc::clone(&acked));
                let counted = Arc::clone(&acked);
                log.on_durable(50 + waiter, move |result| {
                    counted.fetch_add(u32::from(result.is_ok()), Ordering::Relaxed);
                });
                thread::spawn(move || acked.fetch_add(u32::from(log.wait_durable(100).is_ok()), Ordering::Relaxed))
            })
            .collect();
        thread::sleep(std::time::Duration::from_millis(20));
        gate.open();
        assert!(waiting.into_iter().all(|thread| thread.join().is_ok()));
        assert_eq!(acked.load(Ordering::Relaxed), 0, "{waiters} waiters");
        wait_until("the poison", || matches!(log.append(&payload(1, 121)), Err(Error::Poisoned)));
        assert_poisoned(&log);
        assert_eq!(log.durable_seq(), 0);
        assert!(matches!(log.close(), Err(Error::Poisoned | Error::Io { .. })));
        assert_eq!(format::marked_seq(&log_dir), 0);
    }
}

#[test]
fn case_16_every_failing_sync_poisons_whoever_asked_for_it() {
    for policy in [SyncPolicy::Immediate, SyncPolicy::Manual, SyncPolicy::Batch { entries: 10, bytes: 1 << 20 }] {
        for target in ["wal-00", "wal.meta"] {
            let dir = fast_dir();
            let failing = Arc::new(AtomicBool::new(false));
            let fails = Arc::clone(&failing);
            let _guard = seam::before(dir.path(), move |op| {
                match seam::is_sync_of(op, target) && fails.load(Ordering::Relaxed) {
                    true => Err(seam::eio()),
                    false => Ok(()),
                }
            });
            let log = manual().sync_policy(policy).open(dir.path()).unwrap();
            fill(&log, 1, 1..41);
            log.sync().unwrap();
            wait_until("the mark", || format::marked_seq(dir.path()) == 40);
            failing.store(true, Ordering::Relaxed);
            // The sync of the log fails for the caller, the sync of the manifest for the keeper's mark.
            let first = log.append(&payload(1, 41)).and_then(|_| log.sync());
            assert_eq!(first.is_err(), target == "wal-00", "{policy:?}");
            wait_until("the poison", || log.sync().is_err());
            let durable = log.durable_seq();
            failing.store(false, Ordering::Relaxed);
            assert_poisoned(&log);
            assert_eq!(log.durable_seq(), durable);
        }
    }
}
