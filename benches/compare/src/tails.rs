//! How long the slowest appends take.
//!
//! Each append is timed for itself, by the processor's clock; what lies between two appends is in no figure. The clock is read without
//! a fence: an append's last stores may end within the next one's time, as they do without a clock. Some machines' clocks go in steps
//! of ten nanoseconds, so the lower percentiles are rough.
//!
//! All append as fast as they can. The disk is then the bottleneck, and who fills a segment waits for the next one; but that is one
//! append of hundreds of thousands, which only the maximum shows. Pauses between the appends, tried with 1 and 2 ms after each MiB
//! in a few runs on a busy machine, showed no clear change below the maximum, and make the run longer.

use crate::clock::{ticks, ticks_per_ns};
use crate::rounds::Sample;
use hdrhistogram::Histogram;

/// The percentiles that have a row.
pub const PERCENTILES: [f64; 5] = [50.0, 99.0, 99.9, 99.99, 100.0];

/// More than an hour.
const MOST_TICKS: u64 = 1 << 44;
/// Digits that count.
const DIGITS: u8 = 2;

/// Stands beside a loop of appends.
pub trait Watch {
    /// Has an append done.
    fn time<T>(&mut self, append: impl FnOnce() -> T) -> T;
}

/// Times nothing.
pub struct Unwatched;

impl Watch for Unwatched {
    #[inline(always)]
    fn time<T>(&mut self, append: impl FnOnce() -> T) -> T {
        append()
    }
}

/// The times of single appends, to within 1 %.
pub struct Latencies {
    ticks: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        match Histogram::new_with_max(MOST_TICKS, DIGITS) {
            Ok(ticks) => Latencies { ticks },
            Err(_) => unreachable!("the bounds are legal"),
        }
    }
}

impl Latencies {
    /// The ns that `percentile` % of the appends took at most.
    pub fn at(&self, percentile: f64) -> f64 {
        self.ticks.value_at_percentile(percentile) as f64 / ticks_per_ns()
    }

    /// How many appends were timed.
    pub fn count(&self) -> u64 {
        self.ticks.len()
    }

    pub fn merge<'a>(all: impl IntoIterator<Item = &'a Latencies>) -> Latencies {
        all.into_iter().fold(Latencies::default(), |mut sum, one| {
            sum.ticks += &one.ticks;
            sum
        })
    }
}

impl Sample for Latencies {
    fn of_round(slices: Vec<Latencies>) -> Latencies {
        Latencies::merge(&slices)
    }
}

impl Watch for Latencies {
    #[inline(always)]
    fn time<T>(&mut self, append: impl FnOnce() -> T) -> T {
        let start = ticks();
        let appended = append();
        // A thread that changes its core may see a clock that is a few ticks behind.
        self.ticks.saturating_record(ticks().saturating_sub(start));
        appended
    }
}
