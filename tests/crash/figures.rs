//! What a run has seen, for its last line.

use crate::oracle::{Doing, Model};
use crate::shared::lock;
use crate::sim::Image;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

/// Counted by all workers of a run.
#[derive(Default)]
pub(crate) struct Figures {
    states: AtomicU64,
    chains: AtomicU64,
    poisoned: AtomicU64,
    counts: Mutex<Counts>,
    /// Hashes of the images that were looked at.
    seen: Mutex<HashSet<u64>>,
}

#[derive(Default)]
struct Counts {
    crashes: BTreeMap<&'static str, u64>,
    states: BTreeMap<&'static str, u64>,
    damages: BTreeMap<&'static str, u64>,
}

impl Figures {
    /// Crash images that were recovered and judged.
    pub(crate) fn states(&self) -> u64 {
        self.states.load(Ordering::Relaxed)
    }

    /// Counts an image that is looked at; false if it was seen before, which is no new state.
    pub(crate) fn count_state(&self, image: &Image, phase: &'static str) -> bool {
        let mut hasher = DefaultHasher::new();
        image.hash(&mut hasher);
        let is_new = lock(&self.seen).insert(hasher.finish());
        if is_new {
            self.states.fetch_add(1, Ordering::Relaxed);
            *lock(&self.counts).states.entry(phase).or_default() += 1;
        }
        is_new
    }

    pub(crate) fn count_crash(&self, phase: &'static str) {
        *lock(&self.counts).crashes.entry(phase).or_default() += 1;
    }

    /// What the log was never doing when the world stopped.
    pub(crate) fn missing_phases(&self) -> Vec<&'static str> {
        let counts = lock(&self.counts);
        PHASES.into_iter().filter(|phase| !counts.crashes.contains_key(phase)).collect()
    }

    pub(crate) fn count_damage(&self, what: &'static str) {
        *lock(&self.counts).damages.entry(what).or_default() += 1;
    }

    pub(crate) fn count_poisoned(&self) {
        self.poisoned.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_chain(&self) {
        self.chains.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<&str, u64>| {
            let items: Vec<_> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
            format!("{} ({})", counts.values().sum::<u64>(), items.join(", "))
        };
        let counts = lock(&self.counts);
        writeln!(f, "crashes: {}", list(&counts.crashes))?;
        writeln!(f, "states: {}", list(&counts.states))?;
        writeln!(f, "damages, all named: {}", list(&counts.damages))?;
        let (chains, poisoned) = (self.chains.load(Ordering::Relaxed), self.poisoned.load(Ordering::Relaxed));
        write!(
            f,
            "ok {} states of {chains} chains, {} damages named",
            self.states(),
            counts.damages.values().sum::<u64>()
        )?;
        write!(f, ", {poisoned} logs poisoned, 0 violations")
    }
}

/// What a log does when a world stops: all that [`phase`] knows.
const PHASES: [&str; 12] = [
    "after a close",
    "between calls",
    "in a close",
    "in a reset",
    "in a sync",
    "in an append",
    "in an open",
    "in rotate",
    "in truncate_after",
    "in truncate_before",
    "while a file was prepared",
    "while a file was recycled",
];

/// What the log was doing when the world stopped at the operation `at`.
pub(crate) fn phase(model: &Model, at: &str, is_closed: bool) -> &'static str {
    match model {
        _ if is_closed => "after a close",
        Model::Opening(_) => "in an open",
        Model::Running(running) => match &running.doing {
            Some(Doing::TruncateBefore(_)) => "in truncate_before",
            Some(Doing::TruncateAfter(_)) => "in truncate_after",
            Some(Doing::Reset(_)) => "in a reset",
            Some(Doing::Upkeep("close")) => "in a close",
            Some(Doing::Upkeep("rotate")) => "in rotate",
            _ if at.split_once("to: ").is_some_and(|(_, to)| to.contains("spare-")) => "while a file was recycled",
            _ if at.contains("spare-") => "while a file was prepared",
            Some(Doing::Upkeep(_)) => "in a sync",
            Some(Doing::Append { .. }) => "in an append",
            None => "between calls",
        },
    }
}
