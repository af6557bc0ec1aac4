//! What is borrowed: payloads lie in the mapping of a segment file, stay the same bytes whatever happens to the log,
//! cost no file descriptor, and keep their file from being used again. Also that rotation does nothing to files on the
//! append path, and that a second open is refused at once.

use crate::seam::{self, child_dir};
use maplog::{Error, Log, Options, PinnedEntry, SyncPolicy, View};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn small() -> Options {
    Options::new().segment_size(16 << 10).sync_policy(SyncPolicy::Manual)
}

fn payload(seq: u64) -> Vec<u8> {
    (0..40 + seq % 90).map(|n| (seq.wrapping_mul(31) + n) as u8).collect()
}

/// Appends until the log has rotated `times` times more.
fn rotate(log: &Log, times: u64) {
    let until = log.stats().rotations + times;
    while log.stats().rotations < until {
        let seq = log.next_seq();
        assert_eq!(log.append(&payload(seq)).unwrap(), seq);
    }
}

#[track_caller]
fn check_view(view: &View, first: u64, next: u64) {
    let seqs = view.iter().map(|entry| entry.unwrap()).map(|entry| {
        assert_eq!(entry.payload(), payload(entry.seq()), "seq {}", entry.seq());
        entry.seq()
    });
    assert!(seqs.eq(first..next));
}

#[track_caller]
fn check_pinned(entries: &[PinnedEntry]) {
    assert!(entries.iter().all(|entry| entry.payload() == payload(entry.seq())));
}

/// The file whose mapping holds the address of `bytes`.
#[cfg(target_os = "linux")]
fn file_under(bytes: &[u8]) -> Option<String> {
    let address = bytes.as_ptr() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        let holds = (number(start)..number(end)).contains(&address) && address + bytes.len() <= number(end);
        holds.then(|| rest.splitn(5, ' ').last().unwrap_or_default().trim().to_owned())
    })
}

#[test]
#[cfg(target_os = "linux")]
fn a_payload_lies_in_the_mapping_of_a_segment_file() {
    let dir = tempfile::tempdir().unwrap();
    let check = |log: &Log| {
        let view = log.view();
        for entry in view.iter().chain(view.range(7..9)) {
            let entry = entry.unwrap();
            let file = file_under(entry.payload()).unwrap_or_default();
            assert!(file.contains("/wal-") && file.ends_with(".log"), "seq {}: {file}", entry.seq());
            assert!(file.starts_with(dir.path().to_str().unwrap()));
            let kept = entry.into_payload();
            assert!(matches!(kept, std::borrow::Cow::Borrowed(_)));
        }
        let pinned = log.get(5).unwrap().unwrap();
        assert!(file_under(pinned.payload()).unwrap().contains("/wal-"));
        let (borrowed, pinned_again) = (view.get(5).unwrap().unwrap(), log.iter().nth(4).unwrap().unwrap());
        assert_eq!(borrowed.payload().as_ptr(), pinned.payload().as_ptr(), "one copy of the bytes");
        assert_eq!(pinned_again.as_ref().as_ptr(), pinned.payload().as_ptr());
    };
    let log = small().open(dir.path()).unwrap();
    rotate(&log, 4);
    check(&log);
    drop(log);
    // Of an earlier run, too.
    check(&small().open(dir.path()).unwrap());
}

/// Changes a log that others hold entries of, in many ways, and closes it.
fn stir(dir: &Path) {
    let log = small().open(dir).unwrap();
    rotate(&log, 6);
    log.truncate_before(log.next_seq() - 100).unwrap();
    rotate(&log, 6);
    log.truncate_after(log.next_seq() - 50).unwrap();
    rotate(&log, 3);
    log.reset(log.next_seq() + 10).unwrap();
    rotate(&log, 6);
    log.truncate_before(log.next_seq()).unwrap();
    rotate(&log, 3);
    log.close().unwrap();
}

#[test]
fn what_is_held_stays_whatever_happens_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    rotate(&log, 5);
    log.close().unwrap();
    // Segments of an earlier run, of which none was read, and some of this run.
    let log = small().open(dir.path()).unwrap();
    rotate(&log, 3);
    let next = log.next_seq();
    let untouched = log.view();
    let view = log.view();
    let borrowed: Vec<_> = view.iter().map(|entry| entry.unwrap()).collect();
    let pinned: Vec<_> = log.iter().map(|entry| entry.unwrap()).collect();
    let addresses: Vec<_> = pinned.iter().map(|entry| entry.payload().as_ptr() as usize).collect();
    let check = |what: &str| {
        println!("{what}");
        check_view(&view, 1, next);
        check_pinned(&pinned);
        assert!(borrowed.iter().all(|entry| entry.payload() == payload(entry.seq())));
        assert!(pinned.iter().map(|entry| entry.payload().as_ptr() as usize).eq(addresses.iter().copied()));
    };
    log.truncate_after(next - 20).unwrap();
    check("truncate_after");
    rotate(&log, 3);
    log.truncate_before(next - 100).unwrap();
    check("truncate_before");
    rotate(&log, 5);
    log.truncate_before(log.next_seq()).unwrap();
    rotate(&log, 20);
    check("rotations, with files to use again");
    log.reset(5000).unwrap();
    rotate(&log, 5);
    check("reset");
    let later = log.view();
    let later_range = (later.first_seq(), later.next_seq());
    log.close().unwrap();
    check("close");
    stir(dir.path());
    check("another open of this process");
    let output = seam::child(&[], "borrow::another_process", dir.path()).output().unwrap();
    seam::check_child(&output);
    check("an open of another process");
    check_view(&untouched, 1, next);
    check_view(&later, later_range.0, later_range.1);
    drop(small().open(dir.path()).unwrap());
    check("a last open");
}

#[test]
#[ignore = "run by what_is_held_stays_whatever_happens_to_the_log, in a process of its own"]
fn another_process() {
    if let Some(dir) = child_dir() {
        stir(&dir);
        stir(&dir);
    }
}

/// The inode numbers of the segment files.
fn inodes(dir: &Path) -> BTreeMap<PathBuf, u64> {
    seam::segment_files(dir).into_iter().filter_map(|path| Some((path.clone(), path.metadata().ok()?.ino()))).collect()
}

#[test]
fn files_are_used_again_when_nobody_holds_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    rotate(&log, 4);
    let watched = seam::watch(dir.path());
    for _ in 0..30 {
        rotate(&log, 1);
        log.truncate_before(log.next_seq() - 50).unwrap();
    }
    // A file's life: named as a segment, as a spare, and as a segment again.
    let renames: Vec<_> = watched.events().into_iter().filter_map(|event| Some((event.path, event.to?))).collect();
    let retired: HashSet<_> = renames.iter().filter(|(from, _)| seam::is_segment(from)).map(|(_, to)| to).collect();
    let again = renames.iter().filter(|(from, to)| retired.contains(from) && seam::is_segment(to)).count();
    assert!(again >= 10, "{again} files used again in 30 rotations: {renames:?}");
    assert!(watched.count("Create") <= 12, "{} files made", watched.count("Create"));
    let first = log.first_seq();
    check_view(&log.view(), first, log.next_seq());
    log.close().unwrap();
    let log = small().verify(maplog::Verify::All).open(dir.path()).unwrap();
    check_view(&log.view(), first, log.next_seq());
}

#[test]
fn a_file_is_never_used_again_while_something_in_it_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    rotate(&log, 3);
    let watched = seam::watch(dir.path());
    let (mut pinned, mut held) = (Vec::new(), BTreeSet::new());
    for round in 0..40 {
        let (before, last) = (inodes(dir.path()), log.next_seq() - 1);
        if round % 2 == 0 {
            pinned.push(log.get(last).unwrap().unwrap());
            let info = log.segments().pop().unwrap();
            assert!(info.pinned && info.first_seq <= last);
            held.insert(before[&info.path]);
            drop(log.get(log.first_seq()).unwrap());
        }
        rotate(&log, 1);
        log.truncate_before(log.next_seq() - 10).unwrap();
        // A held file keeps its inode alive, so nobody else can have got the number.
        let names = inodes(dir.path());
        let live: BTreeSet<_> =
            log.segments().iter().filter(|info| info.pinned).map(|info| info.path.clone()).collect();
        for (path, inode) in names.iter().filter(|(path, _)| !live.contains(*path) && !before.contains_key(*path)) {
            assert!(!held.contains(inode), "{} is a file that is held", path.display());
        }
        check_pinned(&pinned);
    }
    let used_again = watched.events().iter().filter_map(|e| e.to.as_ref()).filter(|to| !seam::is_segment(to)).count();
    assert!(used_again > 0, "the files that nobody holds are kept");
    let made = watched.count("Create");
    assert!(made >= 15, "{made} files made, {} are held", pinned.len());
}

/// The open descriptors of this process that belong to files below `dir`.
#[cfg(target_os = "linux")]
fn descriptors(dir: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    links.filter(|target| target.starts_with(dir)).count()
}

#[test]
#[cfg(target_os = "linux")]
fn a_pin_costs_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    rotate(&log, 30);
    drop(log);
    let log = small().open(dir.path()).unwrap();
    let without = descriptors(dir.path());
    assert!(without <= 4, "{without} descriptors of an idle log");
    let pinned: Vec<_> = log.iter().map(|entry| entry.unwrap()).collect();
    let view = log.view();
    check_view(&view, 1, view.next_seq());
    assert_eq!(descriptors(dir.path()), without, "{} segments are mapped", log.segments().len());
    rotate(&log, 30);
    let pinned_too: Vec<_> = log.iter().map(|entry| entry.unwrap()).collect();
    log.sync().unwrap();
    seam::wait_until("sealed segments let go of their files", || descriptors(dir.path()) <= without + 3);
    drop(log);
    check_pinned(&pinned);
    check_pinned(&pinned_too);
    assert_eq!(descriptors(dir.path()), 1, "one lock, for all that is held");
    drop((pinned, pinned_too, view));
    assert_eq!(descriptors(dir.path()), 0);
}

#[test]
fn rotation_does_nothing_to_files_on_the_append_path() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    let me = std::thread::current().id();
    log.append(&payload(1)).unwrap();
    let watched = seam::watch(dir.path());
    for _ in 0..20 {
        let active = log.segments().pop().unwrap().id;
        let last_prepared = || seam::segment_files(dir.path()).pop().unwrap();
        // Half full: the next file is asked for. Then it has all the time it needs.
        while log.segments().pop().unwrap().bytes_used < 12 << 10 {
            log.append(&payload(log.next_seq())).unwrap();
        }
        seam::wait_until("the next file is prepared", || {
            let name = format!("wal-{:06}.log", active + 1);
            last_prepared().ends_with(&name)
                && watched.events().iter().any(|e| e.name == "Populate" && e.path.ends_with(&name))
        });
        std::thread::sleep(Duration::from_millis(1));
        rotate(&log, 1);
    }
    assert_eq!(log.stats().rotations, 21);
    let mine: Vec<_> = watched.events().into_iter().filter(|event| event.thread == me).collect();
    assert!(mine.is_empty(), "{mine:?}");
    check_view(&log.view(), 1, log.next_seq());
}

#[test]
fn a_second_open_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = small().open(dir.path()).unwrap();
    rotate(&log, 2);
    let is_refused = |options: Options| {
        let started = Instant::now();
        let error = options.open(dir.path()).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(1));
        assert!(matches!(&error, Error::Locked { path } if path.starts_with(dir.path())), "{error}");
        let text = error.to_string().replace(dir.path().to_str().unwrap(), "DIR");
        insta::allow_duplicates! {
            insta::assert_snapshot!(text, @"DIR/lock is locked: another log has it open");
        }
    };
    is_refused(small());
    is_refused(small().create(false).recovery(maplog::RecoveryMode::Salvage));
    let output = seam::child(&[], "borrow::a_second_process", dir.path()).output().unwrap();
    seam::check_child(&output);
    // The refused ones changed nothing.
    rotate(&log, 2);
    check_view(&log.view(), 1, log.next_seq());
    let pinned = log.get(1).unwrap();
    log.close().unwrap();
    let again = small().open(dir.path()).unwrap();
    assert!(again.recovery().clean);
    is_refused(small());
    check_view(&again.view(), 1, again.next_seq());
    drop((again, pinned));
    small().open(dir.path()).unwrap();
}

#[test]
#[ignore = "run by a_second_open_is_refused_at_once, in a process of its own"]
fn a_second_process() {
    if let Some(dir) = child_dir() {
        let started = Instant::now();
        assert!(matches!(small().open(&dir), Err(Error::Locked { .. })));
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}
