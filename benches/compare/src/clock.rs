//! How long things take: whole works, works of several threads, and single appends.

use anyhow::{bail, Context, Result};
use std::sync::Barrier;
use std::time::{Duration, Instant};

pub fn ns(elapsed: Duration, count: u64) -> f64 {
    elapsed.as_nanos() as f64 / count as f64
}

pub fn per_second(elapsed: Duration, count: u64) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

pub fn ms(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e3
}

pub fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Runs `work` in `threads` threads at once, each with a lane of its own; the time from the first start to the last end. Each thread
/// reads the clock itself: one that waits beside them may come to it late.
pub fn timed_threads<L>(
    threads: usize,
    lane: impl Fn(usize) -> L + Sync,
    work: impl Fn(&mut L) -> Result<()> + Sync,
) -> Result<Duration> {
    let barrier = Barrier::new(threads);
    let run = |thread| -> Result<(Instant, Instant)> {
        let mut lane = lane(thread);
        barrier.wait();
        let start = Instant::now();
        work(&mut lane)?;
        Ok((start, Instant::now()))
    };
    let run = &run;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        let mut times = Vec::new();
        for thread in running {
            let Ok(time) = thread.join() else { bail!("a thread panicked") };
            times.push(time?);
        }
        let first = times.iter().map(|(start, _)| *start).min().context("no threads")?;
        let last = times.iter().map(|(_, end)| *end).max().context("no threads")?;
        Ok(last - first)
    })
}

/// The processor's own clock, where there is one that can be read in a few nanoseconds: `Instant` costs as much as an append.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn ticks() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// How many [`ticks`] a nanosecond has, by comparison with `Instant` over a tenth of a second.
pub fn ticks_per_ns() -> f64 {
    static RATE: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, first) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(100));
        (ticks() - first) as f64 / start.elapsed().as_nanos() as f64
    })
}
