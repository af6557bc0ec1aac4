//! Faults that a review of the code found, each as the behaviour that it broke.

use crate::support::child;
use crate::support::logs::copy_dir;
use maplog::testing::{observe, Observer, Op};
use maplog::{Ack, Error, Log, Options, RecoveryMode, SyncPolicy};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn manual(size: u64) -> Options {
    Options::new().segment_size(size).sync_policy(SyncPolicy::Manual)
}

type Before = dyn Fn(&Op<'_>) -> io::Result<()> + Send + Sync;
struct Hook(Box<Before>);
impl Observer for Hook {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        (self.0)(op)
    }
    fn after(&self, _: &Op<'_>, _: bool) {}
}
fn hook(f: impl Fn(&Op<'_>) -> io::Result<()> + Send + Sync + 'static) -> Arc<Hook> {
    Arc::new(Hook(Box::new(f)))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn acked_after_a_full_disk_stays() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&full);
    let _guard = observe(
        dir.path(),
        hook(move |op| match op {
            Op::Write { offset, path, .. }
                if *offset >= 256 << 10 && path.starts_with(path.parent().unwrap()) && seen.load(Ordering::SeqCst) =>
            {
                Err(io::Error::from_raw_os_error(28))
            }
            _ => Ok(()),
        }),
    );
    let options = || manual(4 << 20);
    let log = options().open(dir.path()).unwrap();
    let big = vec![7; 1 << 20];
    let error = log.append(&big).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    full.store(false, Ordering::SeqCst);
    assert_eq!(log.append(&big).unwrap(), 1);
    assert_eq!(log.sync().unwrap(), 1);
    log.close().unwrap();
    drop(log);
    let log = options().open(dir.path()).unwrap();
    assert_eq!(log.next_seq(), 2);
}

#[test]
fn acked_after_making_room_stays() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&full);
    let _guard = observe(
        dir.path(),
        hook(move |op| match op {
            Op::Write { offset, .. } if *offset >= 256 << 10 && seen.load(Ordering::SeqCst) => {
                Err(io::Error::from_raw_os_error(28))
            }
            _ => Ok(()),
        }),
    );
    let options = || manual(1 << 20);
    let log = options().open(dir.path()).unwrap();
    for _ in 0..3 {
        log.append(&[1; 1000]).unwrap();
    }
    log.rotate().unwrap();
    full.store(true, Ordering::SeqCst);
    let big = vec![7; 900 << 10];
    let error = log.append(&big).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(log.truncate_before(4).unwrap(), 4);
    full.store(false, Ordering::SeqCst);
    assert_eq!(log.append(&big).unwrap(), 4);
    assert_eq!(log.sync().unwrap(), 4);
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let log2 = options().open(copy.path()).map_err(|e| format!("{e} {:?}", names(&copy.path().join("segments"))));
    assert_eq!(log2.unwrap().next_seq(), 5);
}

#[test]
fn salvage_takes_a_short_sealed_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(8 << 10).open(dir.path()).unwrap();
    for _ in 0..400 {
        log.append(&[1; 48]).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let path = dir.path().join("segments/wal-000002.log");
    fs::File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
    let log = manual(8 << 10).recovery(RecoveryMode::Salvage).open(dir.path()).unwrap();
    assert!(!log.recovery().losses.is_empty());
    let read = log.view().iter().filter(|e| e.is_ok()).count();
    assert!(read > 300, "{read}");
}

/// What the keepers of this process have used of the processors.
fn keepers_time() -> Duration {
    let mut total = 0u64;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        if stat.contains("(maplog-keeper)") {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            total += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    Duration::from_millis(total * 10)
}

/// In a process of its own, for it looks at all keepers.
#[test]
fn the_keeper_rests_after_a_rotation_during_growth() {
    let Some(dir) = child::dir() else {
        let dir = tempfile::tempdir().unwrap();
        child::run("regressions::the_keeper_rests_after_a_rotation_during_growth", dir.path());
        return;
    };
    let log = Options::new().open(dir).unwrap();
    log.append(b"x").unwrap();
    log.rotate().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = keepers_time();
    std::thread::sleep(Duration::from_millis(1000));
    let used = keepers_time() - before;
    assert!(used < Duration::from_millis(300), "the keeper used {used:?} of an idle second");
}

/// A log whose files are zeroed slowly from 256 KiB on.
fn slow_growth(dir: &Path) -> maplog::testing::ObserverGuard {
    observe(
        dir,
        hook(|op| {
            if let Op::Write { offset, data, .. } = op {
                if *offset >= 256 << 10 && data.len() > 4096 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        }),
    )
}

#[test]
fn an_append_that_waits_for_growth_survives_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let _guard = slow_growth(dir.path());
    let log = Arc::new(manual(8 << 20).open(dir.path()).unwrap());
    log.append(&[1; 100]).unwrap();
    let theirs = Arc::clone(&log);
    let done = Arc::new(AtomicBool::new(false));
    let theirs_done = Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        let result = theirs.append(&vec![2; 3 << 20]);
        theirs_done.store(true, Ordering::SeqCst);
        result.map(drop)
    });
    std::thread::sleep(Duration::from_millis(30));
    log.rotate().unwrap();
    let start = Instant::now();
    while !done.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let finished = done.load(Ordering::SeqCst);
    log.close().unwrap();
    println!("{:?}", thread.join().unwrap());
    assert!(finished, "the append still waits after 15 s");
}

#[test]
fn an_append_that_waits_for_growth_survives_another_ones_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let _guard = slow_growth(dir.path());
    let log = Arc::new(manual(8 << 20).open(dir.path()).unwrap());
    log.append(&[1; 100 << 10]).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let spawn = |len: usize| {
        let (log, done) = (Arc::clone(&log), Arc::clone(&done));
        std::thread::spawn(move || {
            let result = log.append(&vec![2; len]);
            done.fetch_add(1, Ordering::SeqCst);
            result.map(drop)
        })
    };
    let first = spawn(3 << 20);
    std::thread::sleep(Duration::from_millis(20));
    let second = spawn((8 << 20) - 200);
    let start = Instant::now();
    while done.load(Ordering::SeqCst) < 2 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let finished = done.load(Ordering::SeqCst);
    log.close().unwrap();
    println!("{:?} {:?}", first.join().unwrap(), second.join().unwrap());
    assert_eq!(finished, 2, "an append still waits after 20 s");
}

#[test]
fn a_long_append_that_is_overtaken_is_no_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let _guard = slow_growth(dir.path());
    let log = Arc::new(manual(4 << 20).open(dir.path()).unwrap());
    let theirs = Arc::clone(&log);
    let long = std::thread::spawn(move || theirs.append(&vec![2; (4 << 20) - 200]));
    std::thread::sleep(Duration::from_millis(60));
    log.append(&[1; 500]).unwrap();
    let long = long.join().unwrap();
    assert!(long.is_ok(), "{}", long.unwrap_err());
}

#[test]
fn a_reopened_log_syncs_the_names_that_an_interrupted_creation_left() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("log");
    let syncs = Arc::new(Mutex::new(Vec::<PathBuf>::new()));
    let fail = Arc::new(AtomicBool::new(true));
    let (theirs, their_fail) = (Arc::clone(&syncs), Arc::clone(&fail));
    let _guard = observe(
        dir.path(),
        hook(move |op| {
            if let Op::SyncDir { path } = op {
                if path.ends_with("metadata") && their_fail.load(Ordering::SeqCst) {
                    return Err(io::Error::from_raw_os_error(5));
                }
                theirs.lock().unwrap().push(path.to_path_buf());
            }
            Ok(())
        }),
    );
    // As good as a kill between the rename of the manifest and the sync of its directory.
    assert!(manual(8192).open(&root).is_err());
    fail.store(false, Ordering::SeqCst);
    syncs.lock().unwrap().clear();
    let log = manual(8192).open(&root).unwrap();
    log.append(b"x").unwrap();
    log.sync().unwrap();
    let syncs = syncs.lock().unwrap().clone();
    assert!(syncs.iter().any(|path| path.ends_with("metadata")), "the manifest's name was never synced: {syncs:?}");
}

#[test]
fn a_segment_that_a_cut_killed_stays_dead_when_open_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(8 << 10).open(dir.path()).unwrap();
    for round in 0..50 {
        for _ in 0..10 {
            log.append(&[1; 48]).unwrap();
        }
        log.sync().unwrap();
        let _ = round;
    }
    assert!(log.segments().len() >= 5);
    let kept = tempfile::tempdir().unwrap();
    copy_dir(&dir.path().join("segments"), kept.path());
    log.truncate_after(250).unwrap();
    let live = names(&dir.path().join("segments"));
    for _ in 0..120 {
        log.append(&[2; 48]).unwrap();
    }
    log.sync().unwrap();
    assert_eq!(log.next_seq(), 371);
    std::thread::sleep(Duration::from_millis(20)); // the mark
                                                   // The crash image: appends went on (thaw comes before the unlinks), the unlinks are lost.
    let image = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), image.path());
    for name in names(kept.path()) {
        if !live.contains(&name) {
            fs::copy(kept.path().join(&name), image.path().join("segments").join(&name)).unwrap();
        }
    }
    let again = tempfile::tempdir().unwrap();
    let (from, to) = (image.path().to_path_buf(), again.path().to_path_buf());
    let taken = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&taken);
    let guard = observe(
        image.path(),
        hook(move |op| {
            if matches!(op, Op::Unlink { .. }) && !theirs.swap(true, Ordering::SeqCst) {
                copy_dir(&from, &to);
            }
            Ok(())
        }),
    );
    let log2 = manual(8 << 10).open(image.path()).unwrap();
    assert_eq!(log2.next_seq(), 371);
    drop(guard);
    assert!(taken.load(Ordering::SeqCst));
    let log3 = manual(8 << 10).open(again.path());
    assert_eq!(log3.map_err(|e| e.to_string()).map(|log| log.next_seq()), Ok(371));
}

#[test]
fn a_sync_of_a_salvaged_log_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    let log = manual(64 << 10).open(dir.path()).unwrap();
    for _ in 0..100 {
        log.append(&[1; 48]).unwrap();
    }
    copy_dir(dir.path(), image.path()); // killed: nothing was synced
    let syncs = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&syncs);
    let _guard = observe(
        image.path(),
        hook(move |op| {
            if matches!(op, Op::SyncFile { .. } | Op::SyncRange { .. }) {
                theirs.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        }),
    );
    let log = manual(64 << 10).recovery(RecoveryMode::Salvage).open(image.path()).unwrap();
    let durable = log.durable_seq();
    let synced = log.sync().unwrap();
    assert!(
        synced == 0 || syncs.load(Ordering::SeqCst) > 0,
        "durable_seq {durable}, sync() gave Ok({synced}), and nothing was synced"
    );
}

#[test]
fn what_was_truncated_after_a_salvage_stays_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let options = || manual(8 << 10);
    let log = options().open(dir.path()).unwrap();
    for _ in 0..450 {
        log.append(&[1; 48]).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let path = dir.path().join("segments/wal-000003.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(options().open(dir.path()), Err(Error::Damaged { .. })));
    let log = options().recovery(RecoveryMode::Salvage).open(dir.path()).unwrap();
    log.truncate_after(50).unwrap();
    for _ in 0..20 {
        log.append(&[2; 48]).unwrap();
    }
    log.truncate_after(60).unwrap();
    log.append(&[3; 48]).unwrap();
    log.close().unwrap();
    drop(log);
    let log = options().open(dir.path());
    assert_eq!(log.map_err(|e| e.to_string()).map(|log| log.next_seq()), Ok(62));
}

#[test]
fn a_file_with_the_last_number_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(8 << 10).open(dir.path()).unwrap();
    log.append(b"x").unwrap();
    log.close().unwrap();
    drop(log);
    fs::write(dir.path().join("segments/wal-9223372036854775807.log"), b"anything").unwrap();
    let log = manual(8 << 10).recovery(RecoveryMode::Salvage).open(dir.path()).unwrap();
    let appended = log.append(b"y");
    println!("{appended:?}");
    drop(log);
    let log = manual(8 << 10).recovery(RecoveryMode::Salvage).open(dir.path());
    assert!(log.is_ok(), "{}", log.unwrap_err());
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn after_the_last_generation_comes_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(8 << 10).open(dir.path()).unwrap();
    log.append(b"x").unwrap();
    log.close().unwrap();
    drop(log);
    let path = dir.path().join("metadata/wal.meta");
    let mut bytes = fs::read(&path).unwrap();
    for slot in [0, 4096] {
        bytes[slot + 32..slot + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        let crc = crc32c(&bytes[slot..slot + 252]);
        bytes[slot + 252..slot + 256].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    for seq in 1..4 {
        let log = manual(8 << 10).open(dir.path()).unwrap();
        assert_eq!(log.append(b"x").unwrap(), seq + 1);
        log.truncate_before(seq).unwrap();
        log.close().unwrap();
    }
}

#[test]
fn cuts_keep_no_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(8 << 10).open(dir.path()).unwrap();
    let count = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter(|e| {
                let path = e.as_ref().unwrap().path();
                fs::read_link(path).is_ok_and(|target| target.starts_with(dir.path()))
            })
            .count()
    };
    let before = count();
    for _ in 0..40 {
        let seq = log.append_as(b"x", Ack::Durable).unwrap();
        log.append(b"y").unwrap();
        log.truncate_after(seq).unwrap();
    }
    assert!(count() < before + 10, "{} descriptors before, {} after 40 cuts", before, count());
}

#[test]
fn salvage_keeps_no_half_batch() {
    let dir = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    let log = manual(64 << 10).open(dir.path()).unwrap();
    for _ in 0..20 {
        log.append(&[1; 48]).unwrap();
    }
    log.sync().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    log.append_batch((0..50).map(|_| [2u8; 48])).unwrap();
    copy_dir(dir.path(), image.path());
    let path = image.path().join("segments/wal-000001.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[128 + 80 * 5 + 40] ^= 1; // damage in entry 6
    bytes[128 + 80 * 50..].fill(0); // the tail of the batch never reached the disk
    fs::write(&path, bytes).unwrap();
    let log = manual(64 << 10).recovery(RecoveryMode::Salvage).open(image.path()).unwrap();
    let kept: Vec<u64> = log.view().iter().filter_map(|e| e.ok()).map(|e| e.seq()).collect();
    let of_batch = kept.iter().filter(|seq| **seq > 20).count();
    assert!(of_batch == 0 || of_batch == 50, "{of_batch} of 50");
}

#[test]
fn a_fill_within_a_fill_that_calls_the_outer_log_panics() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Arc::new(manual(8 << 10).open(a.path()).unwrap());
    let b = Arc::new(manual(8 << 10).open(b.path()).unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            a.append_with(8, |_| {
                let _ = b.append_with(8, |_| drop(a.append(b"x")));
            })
        }));
        let _ = send.send(panicked.is_err());
    });
    assert_eq!(receive.recv_timeout(Duration::from_secs(5)), Ok(true), "it hangs");
}

#[test]
fn salvage_reads_the_first_intact_entry_of_a_segment_without_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual(8 << 10).open(dir.path()).unwrap();
    for _ in 0..250 {
        log.append(&[1; 48]).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let path = dir.path().join("segments/wal-000002.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 1; // the link
    bytes[128] ^= 1; // the first header
    fs::write(&path, bytes).unwrap();
    let log: Log = manual(8 << 10).recovery(RecoveryMode::Salvage).open(dir.path()).unwrap();
    let view = log.view();
    let by_get: Vec<u64> = (1..251).filter(|&seq| matches!(view.get(seq), Ok(Some(_)))).collect();
    let by_iter: Vec<u64> = view.iter().filter_map(|e| e.ok()).map(|e| e.seq()).collect();
    let by_rev: Vec<u64> = view.iter().rev().filter_map(|e| e.ok()).map(|e| e.seq()).collect();
    let missing = |got: &[u64]| (1..251).filter(|seq| !got.contains(seq)).collect::<Vec<_>>();
    assert_eq!(
        (missing(&by_get), missing(&by_iter), missing(&by_rev)),
        (vec![101], vec![101], vec![101]),
        "{:?}",
        log.recovery().losses
    );
}

#[test]
fn acked_after_reset_and_a_full_disk_stays() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&full);
    let _guard = observe(
        dir.path(),
        hook(move |op| match op {
            Op::Write { offset, .. } if *offset >= 256 << 10 && seen.load(Ordering::SeqCst) => {
                Err(io::Error::from_raw_os_error(28))
            }
            _ => Ok(()),
        }),
    );
    let options = || manual(4 << 20);
    let log = options().open(dir.path()).unwrap();
    log.append(b"x").unwrap();
    log.reset(100).unwrap();
    assert!(log.append(&vec![7; 1 << 20]).unwrap_err().is_no_space());
    full.store(false, Ordering::SeqCst);
    assert_eq!(log.append(&vec![7; 1 << 20]).unwrap(), 100);
    log.close().unwrap();
    drop(log);
    let log = options().open(dir.path());
    assert_eq!(log.map_err(|e| e.to_string()).map(|log| log.next_seq()), Ok(101));
}

#[test]
fn appends_and_rotations_never_hang_while_files_grow() {
    let dir = tempfile::tempdir().unwrap();
    let _guard = slow_growth(dir.path());
    let log = Arc::new(manual(2 << 20).open(dir.path()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let (log, stop, count) = (Arc::clone(&log), Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                let append = |len| {
                    if log.append(&vec![1; len]).is_ok() {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                };
                while !stop.load(Ordering::SeqCst) {
                    match n {
                        0 => drop(log.rotate()),
                        1 => append(300 << 10),
                        _ => append(1000),
                    }
                    if n == 0 {
                        std::thread::sleep(Duration::from_millis(7));
                    }
                    let first = log.next_seq().saturating_sub(50);
                    if n == 2 && first % 16 == 0 {
                        let _ = log.truncate_before(first.max(1));
                    }
                }
            })
        })
        .collect();
    let mut last = 0;
    let mut stuck = 0;
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(500));
        let now = count.load(Ordering::SeqCst);
        stuck = if now == last { stuck + 1 } else { 0 };
        last = now;
    }
    stop.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(10);
    let alive = || threads.iter().filter(|thread| !thread.is_finished()).count();
    while alive() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let hanging = alive();
    log.close().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(stuck < 4 && hanging == 0, "{hanging} threads hang, no progress for {stuck} looks ({last} appends)");
}

#[test]
fn salvage_then_append_then_kill_then_salvage_loses_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    let options = || manual(8 << 10).recovery(RecoveryMode::Salvage);
    let log = manual(8 << 10).open(dir.path()).unwrap();
    for _ in 0..250 {
        log.append(&[1; 48]).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let path = dir.path().join("segments/wal-000002.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[128 + 80 * 7 + 40] ^= 1;
    fs::write(&path, bytes).unwrap();
    let log = options().open(dir.path()).unwrap();
    let first = log.recovery().losses.clone();
    assert_eq!(log.append(b"new").unwrap(), 251);
    log.sync().unwrap();
    copy_dir(dir.path(), image.path());
    drop(log);
    for dir in [dir.path(), image.path()] {
        let log = options().open(dir).unwrap();
        let seqs = |losses: &[maplog::Damage]| losses.iter().map(|l| l.seqs.clone()).collect::<Vec<_>>();
        assert_eq!(seqs(&log.recovery().losses), seqs(&first));
        assert_eq!(log.next_seq(), 252);
        let read = log.view().iter().filter(|e| e.is_ok()).count();
        assert_eq!(read, 250);
        assert!(log.truncate_after(108).is_err());
        log.truncate_after(107).unwrap();
        log.append(b"newer").unwrap();
        log.close().unwrap();
        drop(log);
        let log = manual(8 << 10).open(dir);
        assert_eq!(log.map_err(|e| e.to_string()).map(|log| log.next_seq()), Ok(109));
    }
}

#[test]
fn salvage_goes_on_above_a_segment_without_identity() {
    let dir = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    let log = manual(8 << 10).open(dir.path()).unwrap();
    for _ in 0..90 {
        log.append(&[1; 48]).unwrap();
    }
    log.sync().unwrap();
    std::thread::sleep(Duration::from_millis(30));
    for _ in 0..60 {
        log.append(&[1; 48]).unwrap();
    }
    copy_dir(dir.path(), image.path());
    let path = image.path().join("segments/wal-000002.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let log = manual(8 << 10).recovery(RecoveryMode::Salvage).open(image.path()).unwrap();
    assert!(
        log.next_seq() >= 151,
        "next_seq {} though 150 was given; losses {:?}",
        log.next_seq(),
        log.recovery().losses
    );
}
