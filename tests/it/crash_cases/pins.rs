//! Borrowed bytes: valid, and the same, whatever becomes of the log that they were read from.

use crate::shared::fast_dir;
use crate::support::child;
use crate::support::format;
use crate::support::logs::{fill, lives, manual, payload, wait_until};
use crate::support::seam;
use maplog::testing::Op;
use maplog::{Error, Log};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Appends over many rotations and drops what is old, so that every file that may be used again is.
fn churn(log: &Log, rounds: u64) {
    for _ in 0..rounds {
        let first = log.next_seq();
        fill(log, 9, first..first + 100);
        log.sync().unwrap();
        log.truncate_before(first).unwrap();
    }
}

#[test]
fn case_06_a_pinned_entry_outlives_close_reopen_truncation_and_recycling() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..551);
    let pins: Vec<_> = [1, 50, 100, 101, 333, 550].map(|seq| log.get(seq).unwrap().unwrap()).into();
    log.close().unwrap();
    drop(log);
    let early: Vec<PathBuf> = format::segments(dir.path()).into_iter().map(|segment| segment.path).collect();
    assert_eq!(early.len(), 6);
    let touched = Arc::<Mutex<Vec<String>>>::default();
    let (finding, watched) = (Arc::clone(&touched), early.clone());
    let _guard = seam::watch(dir.path(), move |op| {
        let changes = matches!(op, Op::Rename { .. } | Op::SetLen { .. });
        if changes && watched.iter().any(|path| path == op.path()) {
            finding.lock().unwrap().push(format!("{op:?}"));
        }
    });
    for _ in 0..3 {
        let log = manual().open(dir.path()).unwrap();
        churn(&log, 12);
        for pin in &pins {
            assert_eq!(pin.payload(), payload(1, pin.seq()));
        }
    }
    wait_until("the old files to go", || early.iter().all(|path| !path.exists()));
    assert_eq!(*touched.lock().unwrap(), [""; 0], "files of an earlier open are unlinked");
    assert!(format::segments(dir.path()).iter().any(|segment| segment.is_recycled), "others were recycled meanwhile");
    for pin in &pins {
        assert_eq!((pin.payload(), pin.as_ref()), (&payload(1, pin.seq())[..], &payload(1, pin.seq())[..]));
    }
}

#[test]
fn case_35_a_view_that_was_never_read_reads_every_byte_after_another_process_rotated() {
    if let Some(dir) = child::dir() {
        let log = manual().open(dir).unwrap();
        churn(&log, 12);
        log.close().unwrap();
        return;
    }
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..551);
    log.close().unwrap();
    let log = manual().open(dir.path()).unwrap();
    let untouched = log.view();
    let untouched_part = log.view();
    assert_eq!(log.truncate_before(520).unwrap(), 501);
    log.close().unwrap();
    drop(log);
    let name = "crash_cases::pins::case_35_a_view_that_was_never_read_reads_every_byte_after_another_process_rotated";
    child::run(name, dir.path());
    let seqs = untouched.iter().map(|entry| entry.unwrap()).map(|entry| {
        assert_eq!(entry.payload(), payload(1, entry.seq()));
        entry.seq()
    });
    assert_eq!(seqs.collect::<Vec<_>>(), (1..551).collect::<Vec<_>>());
    assert_eq!(untouched_part.get(77).unwrap().unwrap().payload(), payload(1, 77));
}

#[test]
fn case_35_holds_where_the_kernel_cannot_bring_pages_in_without_a_file() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..551);
    log.close().unwrap();
    let _guard = seam::before(dir.path(), |op| match op {
        Op::Populate { .. } => Err(std::io::Error::from_raw_os_error(22)), // EINVAL: an unknown call
        _ => Ok(()),
    });
    let log = manual().open(dir.path()).unwrap();
    let untouched = log.view();
    log.truncate_after(540).unwrap();
    assert_eq!(log.truncate_before(520).unwrap(), 501);
    log.reset(1000).unwrap();
    log.close().unwrap();
    drop(log);
    wait_until("the files to go", || format::segments(dir.path()).is_empty());
    assert_eq!(untouched.iter().map(|entry| entry.unwrap().seq()).collect::<Vec<_>>(), (1..551).collect::<Vec<_>>());
}

#[test]
fn a_page_that_could_not_be_brought_in_once_is_read_although_its_file_is_gone() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..551);
    log.close().unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let _guard = seam::before(dir.path(), move |op| match op {
        Op::Populate { .. } if fails.swap(false, Ordering::Relaxed) => Err(std::io::Error::from_raw_os_error(12)),
        _ => Ok(()),
    });
    let log = manual().open(dir.path()).unwrap();
    let view = log.view();
    assert_eq!(log.truncate_before(520).unwrap(), 501);
    wait_until("the files to go", || format::segments(dir.path()).len() == 1);
    failing.store(true, Ordering::Relaxed);
    assert_eq!(view.iter().map(|entry| entry.unwrap().seq()).collect::<Vec<_>>(), (1..551).collect::<Vec<_>>());
    assert!(!failing.load(Ordering::Relaxed));
}

#[test]
fn a_second_open_from_another_process_is_locked_out_until_the_first_is_killed() {
    if let Some(dir) = child::dir() {
        let log = manual().open(dir).unwrap();
        fill(&log, 1, 1..11);
        child::say_ready();
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    let dir = fast_dir();
    let name = "crash_cases::pins::a_second_open_from_another_process_is_locked_out_until_the_first_is_killed";
    let running = child::start(name, dir.path());
    for _ in 0..3 {
        assert!(matches!(manual().open(dir.path()), Err(Error::Locked { path }) if path.starts_with(dir.path())));
    }
    drop(running);
    let log = manual().open(dir.path()).unwrap();
    assert_eq!(lives(&log).len(), 10, "a kill loses nothing that append returned for");
    assert!(matches!(manual().open(dir.path()), Err(Error::Locked { .. })));
}

/// Between its start and its first own instruction, a child has a copy of every descriptor of its parent, that of the lock too.
#[test]
fn close_gives_the_directory_free_while_children_are_being_started() {
    let dir = fast_dir();
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let starting = std::thread::spawn(move || {
        while !is_done.load(Ordering::Relaxed) {
            std::process::Command::new("true").output().unwrap();
        }
    });
    let mut locked_out = 0;
    for _ in 0..300 {
        match manual().open(dir.path()) {
            Ok(log) => log.close().unwrap(),
            Err(Error::Locked { .. }) => locked_out += 1,
            Err(error) => panic!("{error}"),
        }
    }
    done.store(true, Ordering::Relaxed);
    starting.join().unwrap();
    assert_eq!(locked_out, 0, "of 300 opens, each after a close");
}

#[test]
fn case_36_pins_of_a_poisoned_log_stay_readable_after_a_reopen_and_a_cut_below_them() {
    let dir = fast_dir();
    let failing = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let guard =
        seam::before(dir.path(), move |op| match seam::is_sync_of(op, "wal-00") && fails.load(Ordering::Relaxed) {
            true => Err(seam::eio()),
            false => Ok(()),
        });
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..251);
    log.sync().unwrap();
    failing.store(true, Ordering::Relaxed);
    fill(&log, 1, 251..281);
    assert!(log.sync().is_err());
    let pins: Vec<_> = [1, 99, 150, 240, 251, 280].map(|seq| log.get(seq).unwrap().unwrap()).into();
    let assert_same = |when: &str| {
        for pin in &pins {
            assert_eq!(pin.payload(), payload(1, pin.seq()), "{when}");
        }
    };
    assert!(matches!(log.close(), Err(Error::Poisoned)));
    drop(log);
    failing.store(false, Ordering::Relaxed);
    assert_same("closed");
    let log = manual().open(dir.path()).unwrap();
    log.truncate_after(120).unwrap();
    assert_same("cut");
    fill(&log, 2, 121..400);
    log.close().unwrap();
    drop(log);
    let log = manual().open(dir.path()).unwrap();
    log.truncate_before(380).unwrap();
    churn(&log, 12);
    assert_same("churned");
    drop(guard);
}
