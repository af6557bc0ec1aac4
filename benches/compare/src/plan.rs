//! What is measured, in what order, and how often.

use crate::floors::frame_len;
use crate::works::Work;
use std::fmt;

const GIB: u64 = 1 << 30;

/// What of a work is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Figure,
    Written,
    Latencies,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Look::Figure => "",
            Look::Written => ", written",
            Look::Latencies => ", latencies",
        })
    }
}

/// A work, and how it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub work: Work,
    pub look: Look,
    pub rounds: usize,
}

/// All there is to measure.
pub fn plans(quick: bool) -> Vec<Plan> {
    let (rounds, few) = (if quick { 3 } else { 7 }, 3);
    let frames = |bytes: u64, size: usize| bytes / frame_len(size) as u64;
    let durable = Work::Durable { size: 128, count: 3000 };
    let group = |threads| Work::Group { size: 128, threads, count: 40_000 };
    let sustained = |size| Work::Sustained { size, bytes: if quick { GIB } else { 4 * GIB } };
    let mut plans = Vec::new();
    let mut plan = |work, look, rounds| plans.push(Plan { work, look, rounds });
    for size in [128, 16, 1024, 16384] {
        plan(Work::Append { size, threads: 1, count: frames(28 << 20, size) }, Look::Figure, rounds);
    }
    for threads in [2, 4] {
        plan(Work::Append { size: 128, threads, count: frames(28 << 20, 128) }, Look::Figure, rounds);
    }
    plan(Work::Batch { size: 128, batch: 100, count: frames(28 << 20, 128) / 100 }, Look::Figure, rounds);
    if !quick {
        plan(Work::Counters { size: 128 }, Look::Figure, 1); // which builds the library's benches
    }
    for work in [durable, group(8), group(32)] {
        plan(work, Look::Figure, rounds);
        plan(work, Look::Written, 1);
    }
    plan(Work::OpenClean { size: 128, bytes: GIB }, Look::Figure, few);
    plan(Work::OpenKilled { size: 128, bytes: GIB }, Look::Figure, few);
    if !quick {
        plan(Work::OpenSegments { size: 1024, bytes: 10 * GIB }, Look::Figure, rounds);
    }
    for size in [128, 4096] {
        plan(Work::Replay { size, bytes: GIB }, Look::Figure, few);
    }
    plan(Work::Reread { size: 128, bytes: GIB }, Look::Figure, few);
    plan(Work::GetOwn { size: 128, bytes: GIB }, Look::Figure, few);
    plan(Work::Get { size: 128, bytes: GIB }, Look::Figure, few);
    plan(Work::Memory { size: 1024, bytes: if quick { GIB } else { 10 * GIB } }, Look::Figure, 1);
    for size in [128, 1024] {
        plan(sustained(size), Look::Figure, few);
        plan(sustained(size), Look::Written, 1);
    }
    plan(sustained(128), Look::Latencies, few);
    plans
}
