//! A work queue on a log: producers put jobs in, one consumer takes those that are durable and gives their space back.
//!
//! ```sh
//! cargo run --release --example queue
//! ```
//!
//! The queue needs no state but the log. Where the consumer stands is [`Log::first_seq`]: it calls [`Log::truncate_before`] for what
//! it has done. Space comes back a whole segment at a time, so that after a crash the consumer sees some jobs again, and never
//! misses one: delivery is at least once.

// It is a program that people run to see its output.
#![allow(clippy::print_stdout)]

use maplog::{Log, Options, SyncPolicy};
use std::thread;
use std::time::Duration;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const PRODUCERS: u64 = 3;
const JOBS_PER_PRODUCER: u64 = 2_000;

/// The consumer gives space back after so many jobs.
const JOBS_PER_TRUNCATION: u64 = 500;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = Options::new()
        // Small segments give their space back soon.
        .segment_size(64 << 10)
        // A power cut takes at most what was put in within the last 2 ms. The consumer sees only what it cannot take any more.
        .sync_policy(SyncPolicy::Interval(Duration::from_millis(2)))
        .open(dir.path())?;

    let log = &log;
    let done = thread::scope(|scope| -> Result<u64> {
        let consumer = scope.spawn(|| consume(log, PRODUCERS * JOBS_PER_PRODUCER));
        let producers: Vec<_> = (0..PRODUCERS).map(|id| scope.spawn(move || produce(log, id))).collect();
        let produced: Result<()> =
            producers.into_iter().try_for_each(|producer| producer.join().expect("a producer does not panic"));
        if produced.is_err() {
            // The consumer would wait for jobs that never come: closing wakes it, with an error.
            log.close()?;
        }
        let done = consumer.join().expect("the consumer does not panic");
        produced.and(done)
    })?;

    println!("{done} jobs done; the log holds seqs [{}, {})", log.first_seq(), log.next_seq());
    for segment in log.segments() {
        println!("  {}: {} of {} bytes", segment.path.display(), segment.bytes_used, segment.bytes_allocated);
    }
    log.close()?;
    Ok(())
}

/// Puts jobs in, one at a time and some all together.
fn produce(log: &Log, producer: u64) -> Result<()> {
    for job in 0..JOBS_PER_PRODUCER / 4 {
        log.append(format!("producer {producer}, job {job}").as_bytes())?;
        // The three parts of a larger job: after a crash either all of them are there, or none.
        log.append_batch((1..=3).map(|part| format!("producer {producer}, job {job}, part {part}")))?;
    }
    Ok(())
}

/// Takes `jobs` jobs in the order of their seqs, and gives space back now and then.
fn consume(log: &Log, jobs: u64) -> Result<u64> {
    let mut queue = log.follow_durable(log.first_seq())?;
    let mut done = 0;
    while done < jobs {
        // The time-out is the chance to look after other things, such as a request to stop.
        let Some(job) = queue.next_timeout(Duration::from_millis(100))? else { continue };
        work(job.payload());
        done += 1;
        if done % JOBS_PER_TRUNCATION == 0 {
            log.truncate_before(job.seq() + 1)?;
        }
    }
    Ok(done)
}

/// Stands for what the consumer does with a job.
fn work(job: &[u8]) {
    assert!(job.starts_with(b"producer "));
}
