//! maplog and the floor at each work, as subjects.

use crate::child;
use crate::clock::{ms, ns, per_second};
use crate::floors::{self, Check, Segment};
use crate::machine::{self, pinned};
use crate::ours;
use crate::rounds::{once, Kept, Promise, Slice, Subject};
use crate::tails::{Latencies, Unwatched, Watch};
use crate::works::{payload, picked_seqs, Work, GETS, SEGMENT};
use anyhow::{ensure, Context, Result};
use maplog::{Log, SyncPolicy};
use memmap2::Mmap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Bytes that are not synced when a process is killed.
const UNSYNCED: u64 = 16 << 20;

/// The floor's segments in a sustained work: as many as a log has that keeps four.
const RING: usize = 6;

pub const FLOOR: &str = "floor";
pub const OURS: &str = "maplog";
/// maplog with a tenth of the work's bytes.
pub const TENTH: &str = "with a tenth";

/// The floor, where a work has one, and maplog.
pub fn subjects(work: Work) -> Vec<Subject> {
    let promise = match work {
        Work::Durable { .. } | Work::Group { .. } => Promise::Durable,
        _ => Promise::PageCache,
    };
    let (mut floors_log, mut our_log) = (Kept::default(), Kept::default());
    let floor = Subject::sliced(FLOOR, promise, move |dir| floor(work, dir, &mut floors_log));
    let ours = Subject::sliced(OURS, promise, move |dir| ours(work, dir, &mut our_log));
    match work {
        Work::OpenKilled { .. } | Work::Memory { .. } | Work::Counters { .. } => vec![ours],
        Work::OpenSegments { size, bytes } => {
            let (work, mut log) = (Work::OpenSegments { size, bytes: bytes / 10 }, Kept::default());
            vec![Subject::sliced(TENTH, promise, move |dir| self::ours(work, dir, &mut log)), ours]
        }
        _ => vec![floor, ours],
    }
}

/// As [`subjects`], for the times of single appends.
pub fn latencies(work: Work) -> Vec<Subject<Latencies>> {
    let floor = Subject::sliced(FLOOR, Promise::PageCache, move |dir| {
        let run = floor_sustained(work, dir, Latencies::default())?;
        Ok(once(move || Ok(run()?.1)))
    });
    let ours = Subject::sliced(OURS, Promise::PageCache, move |dir| {
        let run = our_sustained(work, dir, Latencies::default())?;
        Ok(once(move || Ok(run()?.1)))
    });
    vec![floor, ours]
}

/// The floor's sustained work; what it took, and what was seen of it.
fn floor_sustained<W: Watch>(work: Work, dir: &Path, mut watch: W) -> Result<impl FnOnce() -> Result<(Duration, W)>> {
    let (ring, payload) = (floors::make_ring(dir, SEGMENT, RING)?, payload(work.size()));
    Ok(move || Ok((floors::sustained(ring, &payload, work.bytes(), &mut watch)?, watch)))
}

/// As [`floor_sustained`], of maplog.
fn our_sustained<W: Watch>(work: Work, dir: &Path, mut watch: W) -> Result<impl FnOnce() -> Result<(Duration, W)>> {
    let payload = payload(work.size());
    let log = ours::open_recycling(dir, &payload, SEGMENT)?;
    Ok(move || Ok((ours::sustained(&log, &payload, work.bytes(), SEGMENT, &mut watch)?, watch)))
}

/// The files that the floor has written for all rounds.
type FloorsLog = Kept<Vec<PathBuf>>;

fn floors_log<'l>(log: &'l mut FloorsLog, dir: &Path, work: Work) -> Result<&'l [PathBuf]> {
    let write = |dir: &Path| floors::write_log(dir, &payload(work.size()), work.bytes(), SEGMENT);
    Ok(log.get(dir, write)?.1)
}

fn floor(work: Work, dir: &Path, log: &mut FloorsLog) -> Result<Slice> {
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
                    _ => ns(floors::append_by_mutex(place, &payload, threads, count)?, count),
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
        Work::OpenClean { .. } => {
            let paths = floors_log(log, dir, work)?.to_owned();
            Ok(Box::new(move || Ok(ms(floors::open(&paths)?))))
        }
        Work::Replay { .. } => {
            let paths = floors_log(log, dir, work)?.to_owned();
            let count = work.entries();
            Ok(Box::new(move || Ok(ns(pinned(|| floors::replay(&paths, count, Check::Checksum))?, count))))
        }
        Work::Reread { .. } => {
            let maps = read_maps(floors_log(log, dir, work)?)?;
            let count = work.entries();
            Ok(Box::new(move || Ok(ns(pinned(|| floors::walk_maps(&maps, count))?, count))))
        }
        Work::Get { .. } | Work::GetOwn { .. } => {
            let maps = read_maps(floors_log(log, dir, work)?)?;
            let count = work.entries();
            let (index, seqs) = (floors::index(&maps, count)?, picked_seqs(count));
            let check = if matches!(work, Work::Get { .. }) { Check::Checksum } else { Check::Nothing };
            floors::get(&maps, &index, &seqs, check)?; // to warm up
            Ok(Box::new(move || Ok(ns(pinned(|| floors::get(&maps, &index, &seqs, check))?, GETS as u64))))
        }
        Work::Sustained { bytes, .. } => {
            let run = floor_sustained(work, dir, Unwatched)?;
            Ok(once(move || Ok(per_second(run()?.0, bytes) / 1e6)))
        }
        Work::OpenKilled { .. } | Work::OpenSegments { .. } | Work::Memory { .. } | Work::Counters { .. } => {
            anyhow::bail!("there is no floor for this")
        }
    }
}

fn read_maps(paths: &[PathBuf]) -> Result<Vec<Mmap>> {
    paths.iter().map(|path| floors::read_map(path)).collect()
}

/// The log that was written for all rounds; open, where the process that has written it reads it.
type OurLog = Kept<Option<Rc<Log>>>;

/// The directory of a closed log.
fn our_log<'l>(log: &'l mut OurLog, dir: &Path, work: Work) -> Result<&'l Path> {
    let write = |dir: &Path| {
        ours::write_log(dir, &payload(work.size()), work.bytes(), SEGMENT)?.close()?;
        Ok(None)
    };
    Ok(log.get(dir, write)?.0)
}

/// A log that is still open.
fn our_open_log(log: &mut OurLog, dir: &Path, work: Work) -> Result<Rc<Log>> {
    let write = |dir: &Path| Ok(Some(Rc::new(ours::write_log(dir, &payload(work.size()), work.bytes(), SEGMENT)?)));
    log.get(dir, write)?.1.clone().context("an open log")
}

fn ours(work: Work, dir: &Path, log: &mut OurLog) -> Result<Slice> {
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
        Work::OpenClean { .. } => {
            let dir = our_log(log, dir, work)?.to_owned();
            Ok(Box::new(move || Ok(ms(ours::open(&dir, SEGMENT)?.1))))
        }
        Work::OpenSegments { .. } => {
            let dir = our_log(log, dir, work)?.to_owned();
            Ok(Box::new(move || {
                let (log, elapsed) = ours::open(&dir, SEGMENT)?;
                Ok(ns(elapsed, log.segments().len() as u64) / 1e3)
            }))
        }
        Work::OpenKilled { size, bytes } => {
            let write = |dir: &Path| child::abort_after(dir, size, bytes - UNSYNCED, 0).map(|()| None);
            let dir = log.get(dir, write)?.0.to_owned();
            child::abort_after(&dir, size, 0, UNSYNCED)?;
            Ok(Box::new(move || {
                let (log, elapsed) = ours::open(&dir, SEGMENT)?;
                ensure!(!log.recovery().clean, "there was nothing to recover");
                log.close()?;
                Ok(ms(elapsed))
            }))
        }
        Work::Replay { .. } => {
            let dir = our_log(log, dir, work)?.to_owned();
            let count = work.entries();
            Ok(Box::new(move || {
                let (log, _) = ours::open(&dir, SEGMENT)?;
                Ok(ns(pinned(|| ours::replay(&log, count))?, count))
            }))
        }
        Work::Reread { .. } => {
            let log = our_open_log(log, dir, work)?;
            let count = work.entries();
            Ok(Box::new(move || Ok(ns(pinned(|| ours::replay(&log, count))?, count))))
        }
        Work::Get { .. } => {
            let (log, _) = ours::open(our_log(log, dir, work)?, SEGMENT)?;
            gets(Rc::new(log), work)
        }
        Work::GetOwn { .. } => gets(our_open_log(log, dir, work)?, work),
        Work::Sustained { bytes, .. } => {
            let run = our_sustained(work, dir, Unwatched)?;
            Ok(once(move || Ok(per_second(run()?.0, bytes) / 1e6)))
        }
        Work::Memory { .. } => {
            let dir = our_log(log, dir, work)?.to_owned();
            Ok(once(move || child::memory(&dir, SEGMENT)))
        }
        Work::Counters { .. } => Ok(once(machine::instructions_of_counters)),
    }
}

/// Random reads.
fn gets(log: Rc<Log>, work: Work) -> Result<Slice> {
    let seqs = picked_seqs(work.entries());
    ours::get(&log, &seqs)?; // to warm up
    Ok(Box::new(move || Ok(ns(pinned(|| ours::get(&log, &seqs))?, GETS as u64))))
}
