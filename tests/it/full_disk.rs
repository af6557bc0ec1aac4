//! A full disk, a read-only one, and errors of the operating system while a log is opened: each is an `Err` that names
//! the operation and the file, nothing acked is lost, nothing half made stays, and the same log works once the trouble
//! is over.

use crate::seam::{self, name_of, EIO, EMFILE, ENOMEM, ENOSPC, EROFS};
use crate::support::logs::copy_dir;
use maplog::testing::Op;
use maplog::{Error, Log, Options, SyncPolicy, Verify};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

fn small() -> Options {
    Options::new().segment_size(8 << 10).sync_policy(SyncPolicy::Manual)
}

fn payload(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat(3 + seq as usize % 40)
}

fn append(log: &Log, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        assert_eq!(log.append(&payload(seq)).unwrap(), seq);
    }
}

#[track_caller]
fn check(log: &Log, first: u64, last: u64) {
    assert_eq!((log.first_seq(), log.next_seq()), (first, last + 1));
    let seqs: Vec<_> = log
        .view()
        .iter()
        .map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(entry.payload(), payload(entry.seq()));
            entry.seq()
        })
        .collect();
    assert_eq!(seqs, (first..=last).collect::<Vec<_>>());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// What one operation of an open did.
#[derive(Debug, Clone)]
struct Hit {
    name: String,
    path: PathBuf,
}

/// Makes the operation with number `nth` of this thread fail with `code`; what it was.
fn fail_nth(seam: &seam::Seam, nth: usize, code: i32) -> Arc<Mutex<Option<Hit>>> {
    let hit = Arc::new(Mutex::new(None));
    let (theirs, count, thread) = (Arc::clone(&hit), AtomicUsize::new(0), std::thread::current().id());
    seam.fail_when(move |op| {
        let is_it = is_by(thread) && count.fetch_add(1, Ordering::Relaxed) == nth;
        is_it.then(|| {
            *theirs.lock().unwrap() = Some(Hit { name: name_of(op), path: op.path().to_owned() });
            code
        })
    });
    hit
}

fn is_by(thread: ThreadId) -> bool {
    std::thread::current().id() == thread
}

/// Opens copies of `image`, each time with another operation failing, until no operation is left to fail.
fn fail_each_operation_of_open(image: &Path, options: &Options, last: u64, code: i32) {
    let dir = tempfile::tempdir().unwrap();
    for nth in 0.. {
        let log_dir = dir.path().join(nth.to_string());
        copy_dir(image, &log_dir);
        let watched = seam::watch(&log_dir);
        let hit = fail_nth(&watched, nth, code);
        let result = options.clone().open(&log_dir);
        let hit = hit.lock().unwrap().clone();
        watched.heal();
        let context = format!("operation {nth}, error {code}: {hit:?}");
        match (hit, result) {
            (None, result) => {
                check(&result.unwrap(), 1, last);
                assert!(nth > 10, "so few operations: {nth}");
                return;
            }
            (Some(hit), Err(Error::Io { op, path, source })) => {
                assert_eq!(source.raw_os_error(), Some(code), "{context}");
                assert_eq!(path, hit.path, "{context}: {op}");
                assert!(!op.is_empty());
            }
            // Bringing pages in has another way: reading them.
            (Some(hit), Ok(log)) if hit.name == "Populate" => check(&log, 1, last),
            (_, other) => panic!("{context}: {other:?}"),
        }
        let log = options.clone().open(&log_dir).unwrap_or_else(|error| panic!("{context}: then {error}"));
        check(&log, 1, last);
        append(&log, last + 1..=last + 1);
        drop(log);
        std::fs::remove_dir_all(&log_dir).unwrap();
    }
}

/// A log with a sealed part that was synced and a rest that was not, as a killed process leaves it.
fn killed_log(dir: &Path, last: u64) {
    let log = small().open(dir.join("running")).unwrap();
    append(&log, 1..=last / 2);
    log.sync().unwrap();
    append(&log, last / 2 + 1..=last);
    copy_dir(&dir.join("running"), &dir.join("killed"));
}

#[test]
fn every_operation_of_an_open_after_a_kill_may_fail() {
    let dir = tempfile::tempdir().unwrap();
    killed_log(dir.path(), 100);
    for code in [EIO, ENOMEM, EMFILE] {
        fail_each_operation_of_open(&dir.path().join("killed"), &small(), 100, code);
    }
}

#[test]
fn every_operation_of_an_open_after_a_close_may_fail() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    append(&log, 1..=100);
    log.close().unwrap();
    fail_each_operation_of_open(dir.path(), &small(), 100, EIO);
    fail_each_operation_of_open(dir.path(), &small().verify(Verify::All), 100, EIO);
}

#[test]
fn every_operation_of_a_creation_may_fail() {
    for code in [EIO, EMFILE, ENOSPC] {
        for nth in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let log_dir = dir.path().join("new/nested/log");
            let watched = seam::watch(dir.path());
            let hit = fail_nth(&watched, nth, code);
            let result = small().open(&log_dir);
            let hit = hit.lock().unwrap().clone();
            watched.heal();
            let context = format!("operation {nth}, error {code}: {hit:?}");
            match (hit, result) {
                (None, result) => {
                    result.unwrap();
                    assert!(nth > 10, "so few operations: {nth}");
                    break;
                }
                (Some(hit), Err(Error::Io { path, source, .. })) if code != ENOSPC => {
                    assert_eq!((path, source.raw_os_error()), (hit.path, Some(code)), "{context}");
                }
                (Some(hit), Err(error @ Error::NoSpace { .. })) if code == ENOSPC => {
                    assert!(error.is_no_space() && error.to_string().contains(hit.path.to_str().unwrap()), "{context}");
                }
                // To lock takes no space.
                (Some(hit), Err(Error::Io { .. })) if hit.name == "Lock" => {}
                (_, other) => panic!("{context}: {other:?}"),
            }
            let half_made = files(dir.path()).into_iter().find(|path| path.to_str().unwrap().ends_with(".new"));
            assert_eq!(half_made, None, "{context}");
            let log = small().open(&log_dir).unwrap_or_else(|error| panic!("{context}: then {error}"));
            append(&log, 1..=100);
            log.close().unwrap();
            check(&small().create(false).open(&log_dir).unwrap(), 1, 100);
        }
    }
}

#[test]
fn a_full_disk_is_named_while_a_log_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let watched = seam::watch(dir.path());
    watched.fail_when(|op| matches!(op, Op::Write { .. }).then_some(ENOSPC));
    let text = |error: Error| error.to_string().replace(dir.path().to_str().unwrap(), "DIR");
    let error = small().open(dir.path().join("log")).unwrap_err();
    insta::assert_snapshot!(text(error), @"no space for DIR/log/metadata/wal.meta.new: 8192 bytes needed");
    watched.fail_when(|op| matches!(op, Op::CreateDir { .. }).then_some(ENOSPC));
    let error = small().open(dir.path().join("other")).unwrap_err();
    insta::assert_snapshot!(text(error), @"no space for DIR/other: 0 bytes needed");
}

#[test]
fn a_read_only_file_system_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path().join("log")).unwrap();
    append(&log, 1..=100);
    log.close().unwrap();
    let watched = seam::watch(dir.path());
    watched.fail_when(|op| {
        let name = name_of(op);
        let creates = ["Create", "CreateDir", "Write", "SetLen", "Rename", "Unlink"].contains(&name.as_str());
        let for_writing = name == "Open" && op.path().ends_with("lock");
        (creates || for_writing).then_some(EROFS)
    });
    let text = |error: Error| error.to_string().replace(dir.path().to_str().unwrap(), "DIR");
    let error = small().open(dir.path().join("log")).unwrap_err();
    insta::assert_snapshot!(text(error), @"cannot open DIR/log/lock: Read-only file system (os error 30)");
    let error = small().open(dir.path().join("new")).unwrap_err();
    insta::assert_snapshot!(text(error), @"cannot create DIR/new: Read-only file system (os error 30)");
    watched.heal();
    check(&small().open(dir.path().join("log")).unwrap(), 1, 100);
}

/// Has writes that need blocks fail from the `nth` on: those of a file that is being made, and the zeros that one in use grows by.
fn fill_disk(watched: &seam::Watched, nth: usize) {
    let count = AtomicUsize::new(0);
    watched.fail_when(move |op| {
        let needs_blocks = matches!(op, Op::Write { path, data, .. }
            if path.parent().unwrap().ends_with("segments")
                && (!seam::is_segment(path) || data.iter().all(|byte| *byte == 0)));
        let is_it = needs_blocks && count.fetch_add(1, Ordering::Relaxed) >= nth;
        is_it.then_some(ENOSPC)
    });
}

/// Appends until there is no space; the last seq that was appended.
fn append_until_full(log: &Log, from: u64, dir: &Path) -> u64 {
    for seq in from.. {
        match log.append(&payload(seq)) {
            Ok(given) => assert_eq!(given, seq),
            Err(error) => {
                let text = error.to_string();
                assert!(error.is_no_space() && text.contains(dir.to_str().unwrap()), "{text}");
                assert_eq!(log.next_seq(), seq, "nothing was appended");
                return seq - 1;
            }
        }
    }
    unreachable!()
}

#[test]
fn a_disk_that_is_full_at_any_write_of_a_preparation_loses_nothing() {
    let small = |policy| Options::new().segment_size(64 << 10).sync_policy(policy);
    for policy in [SyncPolicy::Manual, SyncPolicy::Immediate] {
        // From the first file on, and from the third on.
        for (before, nth) in (0..6).map(|nth| (0, nth)).chain((0..6).map(|nth| (700, nth))) {
            let dir = tempfile::tempdir().unwrap();
            let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
            append(&log, 1..=before);
            log.close().unwrap();
            let watched = seam::watch(dir.path());
            let log = small(policy).open(dir.path()).unwrap();
            fill_disk(&watched, nth);
            let last = append_until_full(&log, before + 1, dir.path());
            let context = format!("{policy:?}, full at write {nth} after {before}: last is {last}");
            // Full is full, and does no harm.
            for _ in 0..3 {
                assert!(log.append(&payload(last + 1)).unwrap_err().is_no_space(), "{context}");
                assert!(log.append_batch([payload(last + 1)]).unwrap_err().is_no_space(), "{context}");
            }
            check(&log, 1, last);
            assert_eq!(log.sync().unwrap(), last, "{context}");
            let names: Vec<_> =
                files(&dir.path().join("segments")).into_iter().filter(|p| !seam::is_segment(p)).collect();
            assert!(names.is_empty(), "{context}: {names:?}");
            let first = log.truncate_before(last / 2 + 1).unwrap();
            watched.heal();
            append(&log, last + 1..=last + 500);
            check(&log, first, last + 500);
            log.close().unwrap();
            let log = small(policy).open(dir.path()).unwrap();
            check(&log, first, last + 500);
        }
    }
}

#[test]
fn an_entry_that_cannot_be_written_is_not_appended_and_does_no_harm() {
    // Under this policy an entry is written by a call: its blocks are there, but the call may fail all the same.
    let options = Options::new().segment_size(64 << 10).sync_policy(SyncPolicy::Immediate);
    for (errno, is_full) in [(ENOSPC, true), (EIO, false)] {
        let dir = tempfile::tempdir().unwrap();
        let watched = seam::watch(dir.path());
        let log = options.clone().open(dir.path()).unwrap();
        append(&log, 1..=10);
        watched.fail_when(move |op| matches!(op, Op::Write { path, .. } if seam::is_segment(path)).then_some(errno));
        let error = log.append(&payload(11)).unwrap_err();
        assert_eq!(error.is_no_space(), is_full, "{error}");
        assert!(error.to_string().contains("wal-000001.log"), "{error}");
        assert_eq!((log.next_seq(), log.durable_seq()), (11, 10));
        watched.heal();
        append(&log, 11..=20);
        check(&log, 1, 20);
        log.close().unwrap();
        check(&options.clone().open(dir.path()).unwrap(), 1, 20);
    }
}

#[test]
fn a_disk_that_is_full_while_a_file_in_use_grows_keeps_what_it_holds() {
    // Zeros are written 64 KiB at a time; a file in use grows by 4 MiB, after a start of 256 KiB or more.
    let options = Options::new().segment_size(10 << 20).sync_policy(SyncPolicy::Manual);
    for nth in [0, 1, 4, 5, 20, 65, 66, 70, 135, 161, 162] {
        let dir = tempfile::tempdir().unwrap();
        let watched = seam::watch(dir.path());
        let log = options.clone().open(dir.path()).unwrap();
        fill_disk(&watched, nth);
        let big = vec![7; 30_000];
        let mut last = 0;
        let error = loop {
            match log.append(&big) {
                Ok(seq) => last = seq,
                Err(error) => break error,
            }
        };
        assert!(error.is_no_space(), "full at write {nth}: {error}");
        assert_eq!(log.next_seq(), last + 1, "full at write {nth}");
        assert!(log.iter().all(|entry| entry.unwrap().payload() == big), "full at write {nth}");
        let (len, held): (u64, u64) = log.segments().iter().fold((0, 0), |(len, held), segment| {
            (len + std::fs::metadata(&segment.path).unwrap().len(), held + segment.bytes_allocated)
        });
        assert_eq!(len, held, "full at write {nth}: what was written for a step that failed was given back");
        // What still fits may be appended.
        while let Ok(seq) = log.append(b"small") {
            last = seq;
            assert!(last < 200_000, "full at write {nth}: it never ends");
        }
        assert_eq!(log.sync().unwrap(), last, "full at write {nth}");
        let killed = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), killed.path());
        let recovered = options.clone().open(killed.path()).unwrap();
        assert_eq!((recovered.first_seq(), recovered.next_seq()), (1, last + 1), "full at write {nth}");
        assert!(recovered.validate().unwrap().is_intact());

        watched.heal();
        for seq in last + 1..last + 300 {
            assert_eq!(log.append(&big).unwrap(), seq, "full at write {nth}");
        }
        assert!(log.validate().unwrap().is_intact());
        log.close().unwrap();
        let log = options.clone().open(dir.path()).unwrap();
        assert_eq!((log.first_seq(), log.next_seq()), (1, last + 300), "full at write {nth}");
    }
}

#[test]
fn an_open_after_a_close_brings_in_no_page_of_a_segment() {
    // On a full tmpfs, a page of a hole needs space.
    let dir = tempfile::tempdir().unwrap();
    append(&small().open(dir.path()).unwrap(), 1..=20);
    small().open(dir.path()).unwrap().close().unwrap();
    let watched = seam::watch(dir.path());
    let log = small().open(dir.path()).unwrap();
    assert_eq!(watched.count("Populate"), 0, "{:?}", watched.events());
    check(&log, 1, 20);
}
