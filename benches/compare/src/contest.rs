//! maplog and the floor at each work, as subjects.

use crate::floors::{self, Check, Segment};
use crate::machine::pinned;
use crate::ours;
use crate::rounds::{Promise, Slice, Subject};
use crate::works::{payload, xorshift, Work, GETS, SEGMENT};
use anyhow::{ensure, Context, Result};
use maplog::{Log, SyncPolicy};
use memmap2::Mmap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Bytes that are not synced when a process is killed.
const UNSYNCED: u64 = 16 << 20;

pub const FLOOR: &str = "floor";
pub const OURS: &str = "maplog";

/// The floor, where a work has one, and maplog.
pub fn subjects(work: Work) -> Vec<Subject> {
    let promise = match work {
        Work::Durable { .. } | Work::Group { .. } => Promise::Durable,
        _ => Promise::PageCache,
    };
    let (mut floors_log, mut our_log) = (None, None);
    let floor = Subject::sliced(FLOOR, promise, move |dir| floor(work, dir, &mut floors_log));
    let ours = Subject::sliced(OURS, promise, move |dir| ours(work, dir, &mut our_log));
    match work {
        Work::OpenKilled { .. } => vec![ours],
        _ => vec![floor, ours],
    }
}

fn picked_seqs(count: u64) -> Vec<u64> {
    let mut next = xorshift();
    (0..GETS).map(|_| next() % count + 1).collect()
}

fn ns(elapsed: Duration, count: u64) -> f64 {
    elapsed.as_nanos() as f64 / count as f64
}

fn per_second(elapsed: Duration, count: u64) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// A directory beside that of a round, for what all rounds read.
fn beside(dir: &Path, name: &str) -> Result<TempDir> {
    let parent = dir.parent().context("a directory beside the run's")?;
    Ok(tempfile::Builder::new().prefix(name).tempdir_in(parent)?)
}

/// Files that the floor has written for all rounds, and how it reads them.
struct FloorsLog {
    _dir: TempDir,
    paths: Vec<PathBuf>,
}

fn floors_log<'l>(log: &'l mut Option<FloorsLog>, dir: &Path, size: usize, bytes: u64) -> Result<&'l FloorsLog> {
    if log.is_none() {
        let dir = beside(dir, "floor-")?;
        let paths = floors::write_log(dir.path(), &payload(size), bytes, SEGMENT)?;
        *log = Some(FloorsLog { _dir: dir, paths });
    }
    log.as_ref().context("written above")
}

fn floor(work: Work, dir: &Path, log: &mut Option<FloorsLog>) -> Result<Slice> {
    let payload = payload(work.size());
    let frame_len = floors::frame_len(work.size());
    let count = work.slice();
    match work {
        Work::Append { threads, .. } => {
            let mut segment = Segment::make(&dir.join("floor"), SEGMENT, 64 << 10)?;
            let mut at = 0;
            Ok(Box::new(move || {
                let place = &mut segment.map[at..];
                at += count as usize * frame_len;
                Ok(match threads {
                    1 => ns(pinned(|| floors::append(place, &payload, count)), count),
                    _ => ns(floors::append_by_mutex(place, &payload, threads, count), count),
                })
            }))
        }
        Work::Batch { batch, .. } => {
            let mut segment = Segment::make(&dir.join("floor"), SEGMENT, 64 << 10)?;
            let mut at = 0;
            Ok(Box::new(move || {
                let place = &mut segment.map[at..];
                at += count as usize * batch * frame_len;
                let elapsed = pinned(|| floors::append_batches(place, &vec![&payload[..]; batch], count));
                Ok(ns(elapsed, count * batch as u64))
            }))
        }
        Work::Durable { .. } => {
            let file = floors::zeroed_file(&dir.join("floor"), SEGMENT, 64 << 10)?;
            let mut at = 0;
            Ok(Box::new(move || {
                let elapsed = floors::durable(&file, at, &payload)?;
                at += frame_len as u64;
                Ok(ns(elapsed, 1) / 1e3)
            }))
        }
        Work::Group { threads, .. } => {
            let mut segment = Segment::make(&dir.join("floor"), SEGMENT, 16 << 10)?;
            let mut at = 0;
            Ok(Box::new(move || {
                let elapsed = floors::group_commit(&mut segment.map, at, &payload, threads, count)?;
                at += count as usize * frame_len;
                Ok(per_second(elapsed, count))
            }))
        }
        Work::OpenClean { size, bytes } => {
            let paths = floors_log(log, dir, size, bytes)?.paths.clone();
            Ok(Box::new(move || Ok(floors::open(&paths)?.as_secs_f64() * 1e3)))
        }
        Work::Replay { size, bytes } => {
            let paths = floors_log(log, dir, size, bytes)?.paths.clone();
            let count = bytes / size as u64;
            Ok(Box::new(move || Ok(ns(pinned(|| floors::replay(&paths, count, Check::Checksum))?, count))))
        }
        Work::Reread { size, bytes } => {
            let maps = read_maps(floors_log(log, dir, size, bytes)?)?;
            let count = bytes / size as u64;
            Ok(Box::new(move || Ok(ns(pinned(|| floors::walk_maps(&maps, count))?, count))))
        }
        Work::Get { size, bytes } | Work::GetOwn { size, bytes } => {
            let maps = read_maps(floors_log(log, dir, size, bytes)?)?;
            let count = bytes / size as u64;
            let (index, seqs) = (floors::index(&maps, count)?, picked_seqs(count));
            let check = if matches!(work, Work::Get { .. }) { Check::Checksum } else { Check::Nothing };
            floors::get(&maps, &index, &seqs, check)?; // to warm up
            Ok(Box::new(move || Ok(ns(pinned(|| floors::get(&maps, &index, &seqs, check))?, GETS as u64))))
        }
        Work::Sustained { bytes, .. } => {
            let dir = dir.to_owned();
            Ok(Box::new(move || Ok(per_second(floors::sustained(&dir, &payload, bytes, SEGMENT, 6)?, bytes) / 1e6)))
        }
        Work::OpenKilled { .. } => anyhow::bail!("there is no floor for this"),
    }
}

fn read_maps(log: &FloorsLog) -> Result<Vec<Mmap>> {
    log.paths.iter().map(|path| floors::read_map(path)).collect()
}

/// A log that all rounds of a work read.
struct OurLog {
    dir: TempDir,
    /// Open, where the process that has written it reads it.
    open: Option<std::rc::Rc<Log>>,
}

/// The log that was written in an earlier round, or a new one.
fn our_log<'l>(log: &'l mut Option<OurLog>, dir: &Path, size: usize, bytes: u64, keep: bool) -> Result<&'l OurLog> {
    if log.is_none() {
        let dir = beside(dir, "maplog-")?;
        let written = ours::write_log(dir.path(), &payload(size), bytes, SEGMENT)?;
        let open = if keep {
            Some(std::rc::Rc::new(written))
        } else {
            written.close()?;
            None
        };
        *log = Some(OurLog { dir, open });
    }
    log.as_ref().context("written above")
}

fn ours(work: Work, dir: &Path, log: &mut Option<OurLog>) -> Result<Slice> {
    let payload = payload(work.size());
    let count = work.slice();
    match work {
        Work::Append { threads, .. } => {
            let log = ours::open_ready(dir, SyncPolicy::Manual, SEGMENT)?;
            Ok(Box::new(move || {
                Ok(match threads {
                    1 => ns(pinned(|| ours::append(&log, &payload, count))?, count),
                    _ => ns(ours::append_by(&log, &payload, threads, count)?, count),
                })
            }))
        }
        Work::Batch { batch, .. } => {
            let log = ours::open_ready(dir, SyncPolicy::Manual, SEGMENT)?;
            Ok(Box::new(move || {
                let elapsed = pinned(|| ours::append_batches(&log, &vec![&payload[..]; batch], count))?;
                Ok(ns(elapsed, count * batch as u64))
            }))
        }
        Work::Durable { .. } => {
            let log = ours::open_ready(dir, SyncPolicy::Immediate, SEGMENT)?;
            Ok(Box::new(move || Ok(ns(ours::append(&log, &payload, 1)?, 1) / 1e3)))
        }
        Work::Group { threads, .. } => {
            let log = ours::open_ready(dir, SyncPolicy::Immediate, SEGMENT)?;
            Ok(Box::new(move || Ok(per_second(ours::append_by(&log, &payload, threads, count)?, count))))
        }
        Work::OpenClean { size, bytes } => {
            let dir = our_log(log, dir, size, bytes, false)?.dir.path().to_owned();
            Ok(Box::new(move || Ok(ours::open(&dir, SEGMENT)?.1.as_secs_f64() * 1e3)))
        }
        Work::OpenKilled { size, bytes } => {
            let is_new = log.is_none();
            let dir = match log {
                Some(log) => log.dir.path(),
                None => log.insert(OurLog { dir: beside(dir, "maplog-")?, open: None }).dir.path(),
            };
            // The base is written once; each kill leaves as much unsynced.
            let synced = if is_new { bytes - UNSYNCED } else { 0 };
            let status = Command::new(std::env::current_exe()?)
                .arg("--write-and-abort")
                .args([dir.as_os_str()])
                .args([size.to_string(), synced.to_string(), UNSYNCED.to_string()])
                .status()?;
            ensure!(status.code().is_none(), "the process to be killed ended by itself: {status}");
            let dir = dir.to_owned();
            Ok(Box::new(move || {
                let (log, elapsed) = ours::open(&dir, SEGMENT)?;
                ensure!(!log.recovery().clean, "there was nothing to recover");
                log.close()?;
                Ok(elapsed.as_secs_f64() * 1e3)
            }))
        }
        Work::Replay { size, bytes } => {
            let dir = our_log(log, dir, size, bytes, false)?.dir.path().to_owned();
            let count = bytes / size as u64;
            Ok(Box::new(move || {
                let (log, _) = ours::open(&dir, SEGMENT)?;
                Ok(ns(pinned(|| ours::replay(&log, count))?, count))
            }))
        }
        Work::Reread { size, bytes } => {
            let log = our_log(log, dir, size, bytes, true)?.open.clone().context("an open log")?;
            let count = bytes / size as u64;
            Ok(Box::new(move || Ok(ns(pinned(|| ours::replay(&log, count))?, count))))
        }
        Work::Get { size, bytes } => {
            let (log, _) = ours::open(our_log(log, dir, size, bytes, false)?.dir.path(), SEGMENT)?;
            let seqs = picked_seqs(bytes / size as u64);
            ours::get(&log, &seqs)?; // to warm up
            Ok(Box::new(move || Ok(ns(pinned(|| ours::get(&log, &seqs))?, GETS as u64))))
        }
        Work::GetOwn { size, bytes } => {
            let log = our_log(log, dir, size, bytes, true)?.open.clone().context("an open log")?;
            let seqs = picked_seqs(bytes / size as u64);
            ours::get(&log, &seqs)?; // to warm up
            Ok(Box::new(move || Ok(ns(pinned(|| ours::get(&log, &seqs))?, GETS as u64))))
        }
        Work::Sustained { bytes, .. } => {
            let dir = dir.to_owned();
            Ok(Box::new(move || Ok(per_second(ours::sustained(&dir, &payload, bytes, SEGMENT)?, bytes) / 1e6)))
        }
    }
}
