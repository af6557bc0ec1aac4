//! The crash simulator: chains of crashes of a log on a simulated disk, judged by what was appended, acked and damaged alone.
//!
//! Each seed is one chain of incarnations. A run takes seeds until it has examined so many states, or all seeds that it is given. A
//! state is a crash image that was recovered and judged; one that is equal to an earlier one does not count again.
//!
//! ```text
//! cargo test --features __testing --test crash
//! MAPLOG_STATES=20000 cargo test --features __testing --test crash -- --nocapture
//! MAPLOG_SEEDS=1000..2000 cargo test --features __testing --test crash -- --nocapture
//! ```
//!
//! A violation is printed with its state, its seed and what was done.

// Here, a failed unwrap is a failed test; and a run says what it has seen.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod chain;
mod damage;
mod figures;
mod oracle;
#[path = "../shared/mod.rs"]
mod shared;
mod sim;

use chain::Chain;
use figures::Figures;
use shared::{lock, seeds};
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// States that a run examines if nobody asks for more.
const STATES: u64 = 2_000;
/// So many states have something of everything among them.
const ENOUGH: u64 = 20_000;
/// Chains at a time: they sleep a lot.
const WORKERS: usize = 4;

/// Longer than any chain takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn crashes_keep_the_promises() {
    let run = Run::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| run.work())).collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            thread::sleep(Duration::from_millis(50));
            run.look_for_hangs();
        }
    });
    assert!(!run.has_found.load(Ordering::Relaxed), "a promise was broken: see above");
    println!("{}", run.figures);
    let missing = run.figures.missing_phases();
    assert!(missing.is_empty() || run.figures.states() < ENOUGH, "no crash {missing:?}");
}

struct Run {
    seeds: Range<u64>,
    states: u64,
    next: AtomicU64,
    has_found: AtomicBool,
    /// The chains that are under way, and since when.
    running: Mutex<BTreeMap<u64, (Instant, Trace)>>,
    figures: Figures,
}

type Trace = Arc<Mutex<String>>;

impl Run {
    fn new() -> Run {
        let asked = std::env::var("MAPLOG_STATES").ok();
        let states = asked.map(|states| states.parse().expect("MAPLOG_STATES is a number"));
        let has_seeds = std::env::var_os("MAPLOG_SEEDS").is_some();
        let seeds = seeds(0..u64::MAX);
        Run {
            states: states.unwrap_or(if has_seeds { u64::MAX } else { STATES }),
            next: AtomicU64::new(seeds.start),
            seeds,
            has_found: AtomicBool::new(false),
            running: Mutex::default(),
            figures: Figures::default(),
        }
    }

    fn work(&self) {
        while !self.has_found.load(Ordering::Relaxed) && self.figures.states() < self.states {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.seeds.end {
                return;
            }
            let trace = Trace::default();
            lock(&self.running).insert(seed, (Instant::now(), Arc::clone(&trace)));
            let mut chain = Chain::new(seed, Arc::clone(&trace), &self.figures);
            match panic::catch_unwind(AssertUnwindSafe(|| chain.run())) {
                Ok(()) => self.figures.count_chain(),
                Err(panic) => self.report(seed, &trace, message(&*panic)),
            }
            lock(&self.running).remove(&seed);
        }
    }

    fn report(&self, seed: u64, trace: &Trace, what: &str) {
        self.has_found.store(true, Ordering::Relaxed);
        println!("{}", lock(trace));
        println!("violation: state {}, seed {seed}: {what}", self.figures.states());
        println!("run it again with MAPLOG_SEEDS={seed}..{}", seed + 1);
    }

    /// Ends the process if a call never returns.
    fn look_for_hangs(&self) {
        for (seed, (since, trace)) in &*lock(&self.running) {
            if since.elapsed() > PATIENCE {
                self.report(*seed, trace, "a call does not return");
                std::process::exit(1);
            }
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}
