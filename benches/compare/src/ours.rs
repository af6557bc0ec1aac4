//! maplog at each work.

use crate::clock::{timed, timed_threads};
use crate::floors::frame_len;
use crate::tails::{Unwatched, Watch};
use anyhow::{bail, ensure, Context, Result};
use maplog::{Ack, Log, Options, SyncPolicy};
use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A log at the start of its second segment, which has all of its blocks: what a log is after its first second.
pub fn open_ready(dir: &Path, policy: SyncPolicy, segment_len: u64) -> Result<Log> {
    let log = Options::new().sync_policy(policy).segment_size(segment_len).open(dir)?;
    let chunk = vec![0; (segment_len / 64) as usize];
    for _ in 0..40 {
        log.append_as(&chunk, Ack::Buffered)?; // past the half, from where on the next file is made
    }
    wait_for("the second segment", || Ok(dir.join("segments/wal-000002.log").exists()))?;
    log.rotate()?;
    log.append(b"the first of the second segment")?;
    wait_for("its blocks", || Ok(log.segments().last().context("a segment")?.bytes_allocated == segment_len))?;
    Ok(log)
}

fn wait_for(what: &str, is_there: impl Fn() -> Result<bool>) -> Result<()> {
    for _ in 0..10_000 {
        if is_there()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("{what}: not there after ten seconds")
}

pub fn append(log: &Log, payload: &[u8], count: u64) -> Result<Duration> {
    timed(|| {
        for _ in 0..count {
            black_box(log.append(black_box(payload))?);
        }
        Ok(())
    })
}

pub fn append_batches(log: &Log, payloads: &[&[u8]], batches: u64) -> Result<Duration> {
    timed(|| {
        for _ in 0..batches {
            black_box(log.append_batch(black_box(payloads))?);
        }
        Ok(())
    })
}

/// Appends from several threads.
pub fn append_by(log: &Log, payload: &[u8], threads: usize, count: u64) -> Result<Duration> {
    let append = |_: &mut ()| {
        for _ in 0..count / threads as u64 {
            black_box(log.append(black_box(payload))?);
        }
        Ok(())
    };
    timed_threads(threads, |_| (), append)
}

/// Fills a log with `bytes` of payload, all of it durable.
pub fn write_log(dir: &Path, payload: &[u8], bytes: u64, segment_len: u64) -> Result<Log> {
    let log = Options::new().sync_policy(SyncPolicy::Manual).segment_size(segment_len).open(dir)?;
    for _ in 0..bytes / payload.len() as u64 {
        log.append(payload)?;
    }
    log.sync()?;
    Ok(log)
}

/// Opens a log; it with the time of that.
pub fn open(dir: &Path, segment_len: u64) -> Result<(Log, Duration)> {
    let start = Instant::now();
    let log = Options::new().sync_policy(SyncPolicy::Manual).segment_size(segment_len).open(dir)?;
    Ok((log, start.elapsed()))
}

/// Reads all entries.
pub fn replay(log: &Log, count: u64) -> Result<Duration> {
    timed(|| {
        let mut found = 0;
        let view = log.view();
        for entry in view.iter() {
            black_box(entry?.payload());
            found += 1;
        }
        ensure!(found == count, "{found} of {count} entries");
        Ok(())
    })
}

/// Segments that a sustained work keeps.
const KEPT: u64 = 4;

/// A log that uses its segments again, as the floor's ring is there before the clock starts: it has been appended to for so long that
/// each next file is one that was dropped.
pub fn open_recycling(dir: &Path, payload: &[u8], segment_len: u64) -> Result<Log> {
    let (log, _) = open(dir, segment_len)?;
    let segment_of_payload = segment_len / frame_len(payload.len()) as u64 * payload.len() as u64;
    sustained(&log, payload, 2 * KEPT * segment_of_payload, segment_len, &mut Unwatched)?;
    Ok(log)
}

/// Appends `bytes` of payload; the keeper makes them durable behind. A second thread drops all but the last segments: to drop waits
/// for the disk, which nobody does who has entries to append.
pub fn sustained(log: &Log, payload: &[u8], bytes: u64, segment_len: u64, watch: &mut impl Watch) -> Result<Duration> {
    let per_segment = segment_len / frame_len(payload.len()) as u64;
    let (to_drop, droppable) = mpsc::channel::<u64>();
    std::thread::scope(|scope| {
        let dropper = scope.spawn(move || -> Result<()> {
            for before in droppable {
                log.truncate_before(before)?;
            }
            Ok(())
        });
        let start = Instant::now();
        let mut left = bytes / payload.len() as u64;
        while left > 0 {
            for _ in 0..per_segment.min(left) {
                watch.time(|| log.append(black_box(payload)))?;
            }
            left -= per_segment.min(left);
            if let Some(before) = log.next_seq().checked_sub(KEPT * per_segment) {
                let _ = to_drop.send(before);
            }
        }
        drop(to_drop);
        match dropper.join() {
            Ok(dropped) => dropped?,
            Err(_) => bail!("the dropping thread panicked"),
        }
        log.sync()?;
        Ok(start.elapsed())
    })
}

/// Reads the entries with `seqs`.
pub fn get(log: &Log, seqs: &[u64]) -> Result<Duration> {
    let view = log.view();
    timed(|| {
        for &seq in seqs {
            let entry = view.get(seq)?.with_context(|| format!("entry {seq}"))?;
            black_box(entry.payload()[0]);
        }
        Ok(())
    })
}
