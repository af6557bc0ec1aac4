//! All integration tests, in one binary. Each module says what it is about.

// Here, a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod basics;
mod borrow;
mod contract;
mod crash_cases;
mod dead_bytes;
mod double_faults;
mod flips;
mod full_disk;
mod fuzzed;
mod golden;
mod lessons;
mod lost_ends;
mod model;
mod naming;
mod poison;
mod policies;
mod regressions;
mod salvaged;
mod sealed_while_synced;
mod seam;
#[path = "../shared/mod.rs"]
mod shared;
mod support;
mod threads;
mod tidy;
mod verdicts;
