//! Bad input: sizes, options and paths that are refused, files that are no log or of another version, a directory
//! without permission. Each is an error that names what is wrong, and nothing is lost or left half made.

use crate::seam;
use maplog::{Ack, Error, Log, Options, Result, SyncPolicy};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn small() -> Options {
    Options::new().segment_size(8 << 10).sync_policy(SyncPolicy::Manual)
}

/// The text of an error, with `dir` replaced: the same wherever the test runs.
#[track_caller]
fn text<T: std::fmt::Debug>(dir: &Path, result: Result<T>) -> String {
    result.unwrap_err().to_string().replace(dir.to_str().unwrap(), "DIR")
}

fn payload(seq: u64) -> Vec<u8> {
    format!("{seq:08} ").into_bytes().repeat(20)
}

/// A closed log of three segments or more in `dir`: entries 1 to 100.
fn make_log(dir: &Path) {
    let log = small().open(dir).unwrap();
    for seq in 1..=100 {
        log.append(&payload(seq)).unwrap();
    }
    log.close().unwrap();
    assert!(seam::segment_files(dir).len() >= 3);
}

#[track_caller]
fn check_log(dir: &Path, last: u64) {
    let log = small().open(dir).unwrap();
    assert_eq!((log.first_seq(), log.next_seq()), (1, last + 1));
    for entry in log.view().iter() {
        let entry = entry.unwrap();
        assert_eq!(entry.payload(), payload(entry.seq()));
    }
    assert_eq!(log.append(&payload(last + 1)).unwrap(), last + 1);
    log.close().unwrap();
}

/// Every file below `dir` with its bytes, and every directory.
fn image(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.insert(path.clone(), None);
                dirs.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                files.insert(path, Some(bytes));
            }
        }
    }
    files
}

/// CRC-32C, bit by bit: not the library's own.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn entries_of_no_bytes_are_entries() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    assert_eq!(log.append(b"").unwrap(), 1);
    assert_eq!(log.append_with(0, |place| assert!(place.is_empty())).unwrap(), 2);
    assert_eq!(log.append_batch(["", "x", ""]).unwrap(), 3..6);
    assert_eq!(log.append_as(b"", Ack::Durable).unwrap(), 6);
    let expected: [&[u8]; 6] = [b"", b"", b"", b"x", b"", b""];
    let read = |log: &Log| log.iter().map(|entry| entry.unwrap().payload().to_vec()).collect::<Vec<_>>();
    assert_eq!(read(&log), expected);
    log.close().unwrap();
    let log = small().verify(maplog::Verify::All).open(dir.path()).unwrap();
    assert_eq!(read(&log), expected);
    for _ in 0..1000 {
        log.append(b"").unwrap();
    }
    assert!(log.segments().len() > 3, "a segment holds 252 of them");
    assert!(log.iter().skip(6).all(|entry| entry.unwrap().payload().is_empty()));
}

#[test]
fn both_sides_of_every_size_bound() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let log = small().open(dir.join("a")).unwrap();
    // What a segment of 8 KiB holds: without its first 128 bytes, and a header of 32.
    assert_eq!(log.append(&[1; 8032]).unwrap(), 1);
    insta::assert_snapshot!(text(dir, log.append(&[1; 8033])), @"an entry of 8033 bytes is too large: at most 8032 bytes");
    insta::assert_snapshot!(
        text(dir, log.append_with(8033, |_| unreachable!())),
        @"an entry of 8033 bytes is too large: at most 8032 bytes"
    );
    assert!(matches!(log.append_with(usize::MAX, |_| unreachable!()), Err(Error::EntryTooLarge { max: 8032, .. })));
    assert!(matches!(log.append_batch([&b"x"[..], &[1; 8033]]), Err(Error::EntryTooLarge { len: 8033, max: 8032 })));
    assert_eq!(log.append_with(8032, |place| place.fill(2)).unwrap(), 2);

    // A batch must fit one segment: 8,064 bytes of frames.
    assert_eq!(log.append_batch([[3; 4000], [3; 4000]]).unwrap(), 3..5);
    insta::assert_snapshot!(
        text(dir, log.append_batch([vec![3; 4000], vec![3; 4001]])),
        @"a batch of 8072 bytes is too large: a segment holds at most 8064 bytes of frames"
    );
    assert_eq!(log.append_batch(vec![""; 252]).unwrap(), 5..257);
    assert!(matches!(log.append_batch(vec![""; 253]), Err(Error::BatchTooLarge { len: 8096, max: 8064 })));
    assert_eq!(log.append_batch([[4; 8032]]).unwrap(), 257..258);
    assert_eq!(log.next_seq(), 258, "what was refused took no seq");
    assert!(log.validate().unwrap().is_intact());

    let log = small().max_entry_size(100).open(dir.join("b")).unwrap();
    assert_eq!(log.append(&[5; 100]).unwrap(), 1);
    assert!(matches!(log.append(&[5; 101]), Err(Error::EntryTooLarge { len: 101, max: 100 })));
    log.close().unwrap();
    // The bound is one of new entries.
    let log = small().max_entry_size(1).open(dir.join("b")).unwrap();
    assert_eq!(log.get(1).unwrap().unwrap().payload(), [5; 100]);
    assert!(matches!(log.append(&[5; 2]), Err(Error::EntryTooLarge { len: 2, max: 1 })));
}

#[test]
fn every_bad_option_is_named_with_its_value_and_its_range() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |options: Options| {
        let field = match options.validate() {
            Err(Error::InvalidOptions { field, .. }) => field,
            other => panic!("{options:?}: {other:?}"),
        };
        let error = options.open(dir.path().join("log")).unwrap_err();
        assert!(error.to_string().contains(field));
        assert_eq!(image(dir.path()).len(), 0, "nothing is made for options that are refused");
        error.to_string()
    };
    for bytes in [0, 4096, 8191, 8193, (8 << 10) + 512, (4 << 30) + 4096, u64::MAX] {
        let message = refuse(Options::new().segment_size(bytes));
        assert!(message.contains("segment_size") && message.contains(&bytes.to_string()), "{message}");
    }
    for bytes in [8 << 10, 12 << 10, 4 << 30] {
        Options::new().segment_size(bytes).validate().unwrap();
    }
    insta::assert_snapshot!(
        refuse(Options::new().segment_size(5000)),
        @"option segment_size = 5000 is refused: allowed is 8192 to 4294967296 bytes, a multiple of 4096"
    );
    insta::assert_snapshot!(
        refuse(small().max_entry_size(8033)),
        @"option max_entry_size = 8033 is refused: allowed is 1 to 8032 bytes for segments of 8192 bytes"
    );
    small().max_entry_size(8032).validate().unwrap();
    insta::assert_snapshot!(
        refuse(small().max_entry_size(0)),
        @"option max_entry_size = 0 is refused: allowed is 1 to 8032 bytes for segments of 8192 bytes"
    );
    insta::assert_snapshot!(
        refuse(small().sync_policy(SyncPolicy::Batch { entries: 0, bytes: 1 })),
        @"option sync_policy.batch.entries = 0 is refused: allowed is at least 1"
    );
    insta::assert_snapshot!(
        refuse(small().sync_policy(SyncPolicy::Batch { entries: 1, bytes: 0 })),
        @"option sync_policy.batch.bytes = 0 is refused: allowed is at least 1"
    );
    insta::assert_snapshot!(
        refuse(small().sync_policy(SyncPolicy::Interval(Duration::ZERO))),
        @"option sync_policy.interval = 0s is refused: allowed is longer than zero"
    );
    insta::assert_snapshot!(
        refuse(small().max_concurrent_writes(0)),
        @"option max_concurrent_writes = 0 is refused: allowed is at least 1"
    );
    small().sync_policy(SyncPolicy::Interval(Duration::MAX)).max_concurrent_writes(u32::MAX).validate().unwrap();
}

#[test]
fn a_path_that_is_no_log_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let file = dir.join("file");
    std::fs::write(&file, "text").unwrap();
    std::fs::create_dir(dir.join("full")).unwrap();
    std::fs::write(dir.join("full/notes.txt"), "text").unwrap();
    std::fs::create_dir(dir.join("empty")).unwrap();
    let before = image(dir);
    for create in [false, true] {
        let open = |path: &str| text(dir, small().create(create).open(dir.join(path)));
        insta::allow_duplicates! {
            insta::assert_snapshot!(open("file"), @"DIR/file is not a maplog log");
        }
        let below = open("file/log");
        assert!(below.contains("DIR/file"), "{below}");
        assert!(matches!(small().create(create).open(""), Err(Error::Io { .. })));
    }
    let open = |path: &str| text(dir, small().create(false).open(dir.join(path)));
    insta::assert_snapshot!(open("full"), @"DIR/full is not a maplog log");
    insta::assert_snapshot!(open("empty"), @"DIR/empty is not a maplog log");
    insta::assert_snapshot!(open("absent"), @"cannot open DIR/absent: entity not found");
    assert_eq!(image(dir), before);

    let log = small().open(dir.join("full")).unwrap();
    assert_eq!(log.append(b"a directory with other files becomes a log").unwrap(), 1);
    assert_eq!(std::fs::read(dir.join("full/notes.txt")).unwrap(), b"text");
}

#[test]
fn files_of_another_kind_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make_log(dir);
    let segment = seam::segment_files(dir).swap_remove(1);
    for (path, magic_at) in [(dir.join("metadata/wal.meta"), vec![0, 4096]), (segment, vec![0])] {
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        for at in magic_at {
            bad[at..at + 8].copy_from_slice(b"SQLite f");
        }
        std::fs::write(&path, &bad).unwrap();
        let before = image(dir);
        for create in [false, true] {
            let error = small().create(create).open(dir).unwrap_err();
            assert!(matches!(error, Error::NotALog { .. } | Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(image(dir), before, "a refused open changes nothing");
        std::fs::write(&path, &good).unwrap();
    }
    check_log(dir, 100);
}

#[test]
fn a_newer_version_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make_log(dir);
    let segment = seam::segment_files(dir).swap_remove(0);
    // Where a block with magic bytes and version begins, and how long it is with its checksum.
    let blocks = [(dir.join("metadata/wal.meta"), vec![(0, 256), (4096, 256)]), (segment, vec![(0, 64)])];
    for (path, blocks) in blocks {
        let good = std::fs::read(&path).unwrap();
        let mut newer = good.clone();
        for (at, len) in blocks {
            assert_eq!(newer[at + 8..at + 12], 1u32.to_le_bytes());
            newer[at + 8..at + 12].copy_from_slice(&7u32.to_le_bytes());
            let crc = crc32c(&newer[at..at + len - 4]);
            newer[at + len - 4..at + len].copy_from_slice(&crc.to_le_bytes());
        }
        std::fs::write(&path, &newer).unwrap();
        let before = image(dir);
        for options in [small(), small().create(false), small().recovery(maplog::RecoveryMode::Salvage)] {
            let error = options.open(dir).unwrap_err();
            let is_it = |error: &Error| match error {
                Error::UnsupportedVersion { path: named, found: 7, supported: 1 } => *named == path,
                _ => false,
            };
            assert!(is_it(&error), "{error}");
            let name = path.strip_prefix(dir).unwrap().display();
            let expected = format!("DIR/{name} has format version 7, this library reads version 1");
            assert_eq!(text(dir, Err::<(), _>(error)), expected);
        }
        assert_eq!(image(dir), before, "a refused open changes nothing");
        std::fs::write(&path, &good).unwrap();
    }
    check_log(dir, 100);
}

#[test]
fn files_that_are_not_ours_are_noted_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make_log(dir);
    let foreign =
        ["notes.txt", "metadata/wal.meta.bak", "segments/wal-1.log", "segments/README", "segments/wal-000002.log~"];
    for name in foreign {
        std::fs::write(dir.join(name), name).unwrap();
    }
    std::fs::create_dir(dir.join("segments/old")).unwrap();
    std::fs::write(dir.join("segments/old/wal-000001.log"), "x").unwrap();
    let check = |log: &Log| {
        for name in foreign.into_iter().chain(["segments/old"]) {
            let path = dir.join(name);
            let noted = log.recovery().notes.iter().filter(|note| note.contains(path.to_str().unwrap())).count();
            assert_eq!(noted, 1, "{name}: {:?}", log.recovery().notes);
        }
        assert_eq!(log.recovery().notes.len(), foreign.len() + 1);
    };
    let log = small().open(dir).unwrap();
    check(&log);
    log.truncate_before(60).unwrap();
    log.truncate_after(80).unwrap();
    log.reset(200).unwrap();
    log.append(&payload(200)).unwrap();
    // As a crash leaves it.
    drop(log);
    for round in 0..2 {
        let log = small().open(dir).unwrap();
        check(&log);
        log.append(&payload(201 + round)).unwrap();
        log.close().unwrap();
    }
    for name in foreign {
        assert_eq!(std::fs::read(dir.join(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(std::fs::read(dir.join("segments/old/wal-000001.log")).unwrap(), b"x");
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What an ordinary user gets who may not do what a log needs.
fn check_permissions(dir: &Path) {
    let closed = dir.join("closed");
    std::fs::create_dir(&closed).unwrap();
    chmod(&closed, 0o555);
    insta::assert_snapshot!(
        text(dir, small().open(&closed)),
        @"cannot open DIR/closed/lock: Permission denied (os error 13)"
    );
    insta::assert_snapshot!(
        text(dir, small().open(closed.join("new/log"))),
        @"cannot create DIR/closed/new: Permission denied (os error 13)"
    );
    chmod(&closed, 0o755);
    assert_eq!(image(&closed).len(), 0, "nothing was made");
    small().open(&closed).unwrap().close().unwrap();

    let log = dir.join("log");
    make_log(&log);
    let segment = seam::segment_files(&log).pop().unwrap();
    let mut last = 100;
    let places = [
        (log.clone(), 0o000),
        (log.join("metadata"), 0o000),
        (log.join("segments"), 0o000),
        (log.join("metadata/wal.meta"), 0o000),
        (log.join("metadata/wal.meta"), 0o444),
        (log.join("lock"), 0o000),
        (log.join("readers"), 0o000),
        (segment, 0o000),
    ];
    for (path, mode) in places {
        let before = path.metadata().unwrap().permissions().mode();
        for create in [true, false] {
            chmod(&path, mode);
            let result = small().create(create).open(&log);
            chmod(&path, before);
            match result {
                Err(Error::Io { path: named, source, .. }) => {
                    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied, "{}", path.display());
                    assert!(named.starts_with(&log), "{}", named.display());
                }
                other => panic!("{} with mode {mode:o}, create {create}: {other:?}", path.display()),
            }
            check_log(&log, last);
            last += 1;
        }
    }
}

#[test]
fn a_directory_without_permission_is_named() {
    let dir = tempfile::tempdir().unwrap();
    if std::fs::metadata("/proc/self").map_or(true, |process| process.uid() != 0) {
        return check_permissions(dir.path());
    }
    // Root may do all: the same as an ordinary user, in a process of its own.
    chmod(dir.path(), 0o777);
    let wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let exe = std::env::current_exe().unwrap();
    let probe = Command::new(wrapper[0]).args(&wrapper[1..]).args(["test", "-x"]).arg(exe).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: this root cannot become an ordinary user, or that user cannot run this binary");
        return;
    }
    let output = seam::child(&wrapper, "bad_input::as_an_ordinary_user", dir.path()).output().unwrap();
    seam::check_child(&output);
}

#[test]
#[ignore = "run by a_directory_without_permission_is_named, in a process of another user"]
fn as_an_ordinary_user() {
    if let Some(dir) = seam::child_dir() {
        check_permissions(&dir);
    }
}
