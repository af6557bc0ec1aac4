//! maplog at each work.

use crate::floors::timed_threads;
use anyhow::{ensure, Context, Result};
use maplog::{Ack, Log, Options, SyncPolicy};
use std::hint::black_box;
use std::path::Path;
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
    let start = Instant::now();
    for _ in 0..count {
        black_box(log.append(black_box(payload))?);
    }
    Ok(start.elapsed())
}

pub fn append_batches(log: &Log, payloads: &[&[u8]], batches: u64) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..batches {
        black_box(log.append_batch(black_box(payloads))?);
    }
    Ok(start.elapsed())
}

/// Appends from several threads.
pub fn append_by(log: &Log, payload: &[u8], threads: usize, count: u64) -> Result<Duration> {
    let before = log.next_seq();
    let each = count / threads as u64;
    let elapsed = timed_threads(threads, || {
        for _ in 0..each {
            // A failure is seen by the count below.
            let _ = log.append(black_box(payload));
        }
    });
    ensure!(log.next_seq() - before == each * threads as u64, "an append failed");
    Ok(elapsed)
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
    let start = Instant::now();
    let mut found = 0;
    let view = log.view();
    for entry in view.iter() {
        black_box(entry?.payload());
        found += 1;
    }
    ensure!(found == count, "{found} of {count} entries");
    Ok(start.elapsed())
}

/// Appends `bytes` of payload; the keeper makes them durable behind, and all but the last four segments are dropped. What is timed
/// begins once the log uses its segments again, as the floor's ring is there before.
pub fn sustained(dir: &Path, payload: &[u8], bytes: u64, segment_len: u64) -> Result<Duration> {
    const KEPT: u64 = 4;
    const WARM: u64 = 2 * KEPT;
    let log = Options::new().sync_policy(SyncPolicy::Manual).segment_size(segment_len).open(dir)?;
    let per_segment = segment_len / crate::floors::frame_len(payload.len()) as u64;
    let run = |seqs: std::ops::RangeInclusive<u64>| -> Result<Duration> {
        let start = Instant::now();
        for seq in seqs {
            log.append(black_box(payload))?;
            if seq % per_segment == 0 && seq > KEPT * per_segment {
                log.truncate_before(seq - KEPT * per_segment)?;
            }
        }
        log.sync()?;
        Ok(start.elapsed())
    };
    let warm = WARM * per_segment;
    run(1..=warm)?;
    let elapsed = run(warm + 1..=warm + bytes / payload.len() as u64)?;
    log.close()?;
    Ok(elapsed)
}

/// What a process that is killed did before: appends `synced` and then `unsynced` bytes of payload, of which it syncs the first.
pub fn write_and_abort(dir: &Path, size: usize, synced: u64, unsynced: u64, segment_len: u64) -> Result<()> {
    let log = Options::new().sync_policy(SyncPolicy::Manual).segment_size(segment_len).open(dir)?;
    let payload = crate::works::payload(size);
    for _ in 0..synced / size as u64 {
        log.append(&payload)?;
    }
    log.sync()?;
    for _ in 0..unsynced / size as u64 {
        log.append(&payload)?;
    }
    std::process::abort()
}

/// Reads the entries with `seqs`.
pub fn get(log: &Log, seqs: &[u64]) -> Result<Duration> {
    let view = log.view();
    let start = Instant::now();
    for &seq in seqs {
        let entry = view.get(seq)?.with_context(|| format!("entry {seq}"))?;
        black_box(entry.payload()[0]);
    }
    Ok(start.elapsed())
}
