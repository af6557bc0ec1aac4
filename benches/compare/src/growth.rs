//! What grows with a log: the same measures at logs of more and more bytes, of more and more segments, and with more and more threads.
//! A measure that is the same down its column does not depend on how large the log is.

use crate::clock::{ms, ns, timed};
use crate::report::Report;
use crate::rounds::{self, Sample};
use crate::works::{payload, picked_seqs, Aspect, Row, Work, GETS, SEGMENT};
use crate::{child, contest, ours};
use anyhow::Result;
use std::path::Path;

const GIB: u64 = 1 << 30;

/// Bytes of an entry in logs that grow.
const SIZE: usize = 1024;

/// The smallest segments that a log takes, in bytes, and how many entries of [`SIZE`] fit one.
const SMALL_SEGMENT: u64 = 8 << 10;
const ENTRIES_OF_SMALL_SEGMENT: u64 = 7;

/// What is measured of each log, in this order, and its unit.
pub const MEASURES: [(&str, &str); 6] = [
    ("fill", "ns"),   // an append, from the first to the last; some disks are fast for a few GiB and slow then
    ("append", "ns"), // one more append, without such waits
    ("open", "ms"),   // after a close
    ("get", "ns"),    // at random, of a log that was opened again
    ("truncate_before", "ms"), // of the older half
    ("memory", "MiB"), // besides mappings, all entries read
];

/// Measures everything.
pub fn run(scratch: &Path, report: &mut Report) -> Result<()> {
    report.print_measures("bytes of the log", &MEASURES);
    for gib in [1, 4, 10, 16] {
        // The keeper prepares files ahead, and truncation drops some late.
        if free_bytes(scratch)? > (gib + gib / 8 + 1) * GIB {
            let values = measure(scratch, gib * GIB / SIZE as u64, SEGMENT)?;
            report.add_measures(&format!("{gib} GiB"), SIZE, &MEASURES, &values)?;
        }
    }
    report.print_measures("segments of the log", &MEASURES);
    for segments in [1, 10, 100, 1_000, 10_000] {
        let values = measure(scratch, segments * ENTRIES_OF_SMALL_SEGMENT, SMALL_SEGMENT)?;
        report.add_measures(&format!("{segments} segments"), SIZE, &MEASURES, &values)?;
    }
    report.print_head();
    for threads in [1, 2, 4, 8, 16, 32, 64] {
        let work = Work::Append { size: 128, threads, count: (28 << 20) / 160 };
        let done = rounds::run(work, 3, scratch, contest::subjects(work));
        report.add(Row { work, aspect: Aspect::Figure }, &done, |figure| *figure)?;
    }
    Ok(())
}

fn free_bytes(dir: &Path) -> Result<u64> {
    let room = rustix::fs::statvfs(dir)?;
    Ok(room.f_bavail * room.f_frsize)
}

/// The [`MEASURES`] of a log of `count` entries.
fn measure(scratch: &Path, count: u64, segment_len: u64) -> Result<[f64; MEASURES.len()]> {
    let scratch = tempfile::Builder::new().prefix("growth-").tempdir_in(scratch)?;
    let (dir, payload) = (scratch.path(), payload(SIZE));
    let (log, _) = ours::open(dir, segment_len)?;
    let fill = ns(timed(|| ours::append(&log, &payload, count).and_then(|_| Ok(log.sync()?)).map(drop))?, count);
    log.close()?;
    drop(log);

    let memory = child::memory(dir, segment_len)?;
    let opens = (0..5).map(|_| Ok(ms(ours::open(dir, segment_len)?.1))).collect::<Result<Vec<_>>>()?;
    let open = f64::of_round(opens);

    let (log, _) = ours::open(dir, segment_len)?;
    let seqs = picked_seqs(count);
    ours::get(&log, &seqs)?; // to warm up
    let get = ns(ours::get(&log, &seqs)?, GETS as u64);
    let append = f64::of_round(appends(&log, &payload)?);
    let truncate = ms(timed(|| Ok(log.truncate_before(count / 2).map(drop)?))?);
    Ok([fill, append, open, get, truncate, memory])
}

/// The ns of an append, a few at a time: what waits for the disk is in some of the figures, not in their median.
fn appends(log: &maplog::Log, payload: &[u8]) -> Result<Vec<f64>> {
    const AT_ONCE: u64 = 4;
    (0..2000).map(|_| Ok(ns(ours::append(log, payload, AT_ONCE)?, AT_ONCE))).collect()
}
