//! Full disks: an error from the call that needed the space, and nothing else. And space that nobody needs is not kept.

use crate::shared::fast_dir;
use crate::support::child;
use crate::support::format;
use crate::support::image::Film;
use crate::support::logs::{assert_holds, copy_dir, disk_use, fill, lives, manual, payload};
use crate::support::seam::{self, Gate};
use crate::support::skip;
use maplog::testing::{ObserverGuard, Op};
use maplog::{Error, Log, SyncPolicy};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A disk with so many free bytes, as far as the operations below one directory use and free them.
struct SmallDisk {
    free: Arc<AtomicU64>,
    _guard: ObserverGuard,
}

impl SmallDisk {
    fn new(dir: &Path, free: u64) -> SmallDisk {
        let free = Arc::new(AtomicU64::new(free));
        let left = Arc::clone(&free);
        let guard = seam::before(dir, move |op| Self::account(&left, op));
        SmallDisk { free, _guard: guard }
    }

    fn account(free: &AtomicU64, op: &Op<'_>) -> io::Result<()> {
        let len = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        match op {
            Op::Write { path, offset, data } => {
                let more = (offset + data.len() as u64).saturating_sub(len(path));
                let taken = free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(more));
                taken.map(drop).map_err(|_| seam::enospc())
            }
            Op::Unlink { path } => {
                free.fetch_add(len(path), Ordering::Relaxed);
                Ok(())
            }
            Op::SetLen { path, len: to } => {
                free.fetch_add(len(path).saturating_sub(*to), Ordering::Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Appends until the disk is full; the seqs that were appended end there.
#[track_caller]
fn fill_up(log: &Log) -> u64 {
    loop {
        let seq = log.next_seq();
        assert!(seq < 100_000, "the disk never fills");
        match log.append(&payload(1, seq)) {
            Ok(_) => {}
            Err(error) if error.is_no_space() => {
                assert_eq!(log.next_seq(), seq, "nothing was appended");
                return seq;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn case_14_on_a_full_disk_open_and_truncate_work_after_a_kill_and_append_once_there_is_space() {
    let dir = fast_dir();
    let [log_dir, killed] = ["log", "killed"].map(|name| dir.path().join(name));
    fs::create_dir(&log_dir).unwrap();
    let disk = SmallDisk::new(&log_dir, 60 << 10);
    let log = manual().sync_policy(SyncPolicy::Immediate).open(&log_dir).unwrap();
    let next = fill_up(&log);
    assert!(next > 400);
    for _ in 0..3 {
        assert!(log.append(&payload(1, next)).unwrap_err().is_no_space(), "still full, and not poisoned");
    }
    assert_holds(&log, &[(1, 1..next)]);
    copy_dir(&log_dir, &killed);
    let free = disk.free.load(Ordering::Relaxed);
    // In the process that filled the disk, too.
    log.truncate_after(next - 51).unwrap();
    let first = log.truncate_before(250).unwrap();
    fill(&log, 2, next - 50..next);
    assert_holds(&log, &[(1, first..next - 50), (2, next - 50..next)]);
    drop(log);

    let disk = SmallDisk::new(&killed, free);
    let log = manual().open(&killed).unwrap();
    assert_holds(&log, &[(1, 1..next)]);
    assert!(disk.free.load(Ordering::Relaxed) < 8 << 10, "recovery freed no segment");
    assert!(log.append(&payload(1, next)).unwrap_err().is_no_space());
    assert_eq!(log.truncate_before(250).unwrap(), 201);
    fill(&log, 2, next..next + 50);
    log.sync().unwrap();
    assert_holds(&log, &[(1, 201..next), (2, next..next + 50)]);
    drop(log);
    assert_holds(&manual().open(&killed).unwrap(), &[(1, 201..next), (2, next..next + 50)]);
}

/// Mounts a small file system in memory over `dir`; None, with the reason printed, where that cannot be done.
fn mount(dir: &Path) -> Option<Mounted<'_>> {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(dir).output();
    match mounted {
        Ok(output) if output.status.success() => Some(Mounted(dir)),
        Ok(output) => {
            skip(format_args!("cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            skip(format_args!("cannot run mount: {error}"));
            None
        }
    }
}

struct Mounted<'d>(&'d Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

/// In child processes, for what must not happen is a signal.
#[test]
fn case_14_a_disk_that_is_really_full_is_an_error_and_no_signal() {
    if let Some(dir) = child::dir() {
        if dir.join("segments").exists() {
            let log = manual().open(&dir).unwrap();
            let last = log.recovery().last_seq;
            assert_eq!(lives(&log).len() as u64, last);
            assert!(log.append(&[0; 8000]).unwrap_err().is_no_space());
            log.truncate_after(last - 10).unwrap();
            log.truncate_before(last / 2).unwrap();
            let next = log.next_seq();
            fill(&log, 2, next..next + 200);
            lives(&log);
            let full = fill_up(&log);
            assert!(full > next + 200);
            log.close().unwrap();
            let log = manual().open(&dir).unwrap();
            assert_eq!(log.next_seq(), full);
            lives(&log);
            return;
        }
        let log = manual().sync_policy(SyncPolicy::Immediate).open(&dir).unwrap();
        assert!(fill_up(&log) > 1000);
        child::say_ready();
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = mount(dir.path()) else { return };
    let name = "crash_cases::space::case_14_a_disk_that_is_really_full_is_an_error_and_no_signal";
    drop(child::start(name, dir.path()));
    child::run(name, dir.path());
}

/// A log of three segments that was not closed.
fn killed_log(dir: &Path) {
    let log_dir = dir.join("first");
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..231);
    copy_dir(&log_dir, &dir.join("log"));
}

#[test]
fn case_24_a_thousand_opens_each_killed_before_its_first_append_take_no_more_space() {
    if let Some(dir) = child::dir() {
        let _log = manual().open(dir).unwrap();
        child::say_ready();
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let dir = fast_dir();
    killed_log(dir.path());
    let [log_dir, copy] = ["log", "copy"].map(|name| dir.path().join(name));
    let mut most = disk_use(&log_dir);
    let name = "crash_cases::space::case_24_a_thousand_opens_each_killed_before_its_first_append_take_no_more_space";
    for open in 0..1000 {
        if open % 50 == 49 {
            drop(child::start(name, &log_dir));
        } else {
            let log = manual().open(&log_dir).unwrap();
            copy_dir(&log_dir, &copy);
            drop(log);
            fs::remove_dir_all(&log_dir).unwrap();
            fs::rename(&copy, &log_dir).unwrap();
        }
        let used = disk_use(&log_dir);
        assert!(used <= most, "open {open}: {used} bytes, {most} before");
        most = used;
    }
    assert_holds(&manual().open(&log_dir).unwrap(), &[(1, 1..231)]);
}

#[test]
fn case_24_a_kill_while_the_first_append_makes_its_file_leaves_nothing_behind() {
    let dir = fast_dir();
    killed_log(dir.path());
    let [log_dir, image] = ["log", "image"].map(|name| dir.path().join(name));
    drop(manual().open(&log_dir).unwrap());
    let used = disk_use(&log_dir);
    let film = Film::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 2, 231..232);
    let cuts = film.stop();
    drop(log);
    for (step, (_, cut)) in cuts.iter().enumerate() {
        cut.write_live(&image);
        for round in 0..3 {
            let log = manual().open(&image).unwrap();
            let next = log.next_seq();
            assert_holds(&log, &[(1, 1..231), (2, 231..next)]);
            log.close().unwrap();
            let more = if next == 232 { 8 << 10 } else { 0 };
            assert!(disk_use(&image) <= used + more, "step {step}, round {round}: {} bytes", disk_use(&image));
        }
    }
}

#[test]
fn case_39_a_file_that_cannot_grow_keeps_its_entries_and_is_filled_to_where_it_has_blocks() {
    const ZEROED: u64 = 256 << 10;
    let dir = fast_dir();
    let (gate, full) = (Gate::default(), Arc::new(AtomicBool::new(true)));
    let (held, is_full) = (gate.clone(), Arc::clone(&full));
    gate.shut();
    let guard = seam::before(dir.path(), move |op| match op {
        Op::Write { path, offset, .. } if path.ends_with("wal-000001.log") && *offset >= ZEROED => {
            held.pass();
            Err(seam::enospc())
        }
        Op::Write { .. } if seam::is_about(op, "spare-") && is_full.load(Ordering::Relaxed) => match op {
            Op::Write { path, .. } if !path.with_file_name("wal-000001.log").exists() => Ok(()),
            _ => Err(seam::enospc()),
        },
        _ => Ok(()),
    });
    let options = manual().segment_size(1 << 20).sync_policy(SyncPolicy::Immediate);
    let log = options.clone().open(dir.path()).unwrap();
    fill(&log, 1, 1..101);
    gate.wait_held();
    assert_eq!(log.durable_seq(), 100, "acked while the file is being zeroed");
    gate.open();
    let next = fill_up(&log);
    let end = format::segment(dir.path(), 1).frames.last().unwrap().bytes.end;
    assert!(end <= ZEROED && end + 80 > ZEROED, "the entries end at {end}");
    assert_eq!(log.durable_seq(), next - 1);
    assert_holds(&log, &[(1, 1..next)]);
    assert!(matches!(log.append(&payload(1, next)), Err(Error::NoSpace { .. })));
    full.store(false, Ordering::Relaxed);
    fill(&log, 2, next..next + 10);
    assert_holds(&log, &[(1, 1..next), (2, next..next + 10)]);
    drop(log);
    drop(guard);
    assert_holds(&options.open(dir.path()).unwrap(), &[(1, 1..next), (2, next..next + 10)]);
}

#[test]
fn no_space_for_the_first_segment_appends_nothing_and_works_later() {
    let dir = fast_dir();
    let log_dir = dir.path().join("log");
    fs::create_dir(&log_dir).unwrap();
    let disk = SmallDisk::new(&log_dir, 8192);
    let log = manual().open(&log_dir).unwrap();
    for _ in 0..3 {
        assert!(log.append(b"x").unwrap_err().is_no_space());
    }
    assert_eq!((log.next_seq(), log.durable_seq()), (1, 0));
    disk.free.store(1 << 20, Ordering::Relaxed);
    fill(&log, 1, 1..11);
    log.close().unwrap();
    assert_holds(&manual().open(&log_dir).unwrap(), &[(1, 1..11)]);
}
