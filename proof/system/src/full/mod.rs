//! A full disk. Small file systems are filled to the brim, or nearly, before each step of a log's life: what needs space says so, and
//! nothing else happens. The log lives in a process of its own, for what must not come is a signal.

mod case;
mod disk;

use crate::disk::Space;
use crate::part::part;
use anyhow::{bail, ensure, Context, Result};
use case::Case;
use disk::{Disk, Kind, KINDS};
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Full {
    /// Only cases whose name contains this: DISK/SCRIPT/POLICY/FREE/PRESSURE/STEP.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Of each disk's cases, every Nth, from the Kth on.
    #[arg(long, value_name = "K/N", default_value = "0/1", value_parser = part)]
    part: (usize, usize),
    /// Lists the cases instead.
    #[arg(long)]
    list: bool,
}

/// Among so many cases, or all of a disk, are some in which appends are refused.
const CASES_MIN: usize = 30;
/// More violations of one disk say nothing more.
const VIOLATIONS_MAX: usize = 10;

/// What came of the cases on one disk.
#[derive(Default)]
struct Tally {
    cases: usize,
    /// Appends that were refused.
    refused: u64,
    violations: usize,
}

impl Full {
    pub fn run(&self) -> Result<()> {
        let all: Vec<(Kind, Vec<Case>)> = KINDS.into_iter().map(|kind| (kind, case::cases(kind.sample))).collect();
        let count: usize = all.iter().map(|(_, cases)| cases.len()).sum();
        let selected: Vec<_> = all.into_iter().map(|(kind, cases)| (kind, self.select(kind, cases))).collect();
        if self.list {
            let names = selected.iter().flat_map(|(kind, cases)| cases.iter().map(|case| name(*kind, case)));
            names.for_each(|name| println!("{name}"));
            return Ok(());
        }
        // Over a tmpfs of its own: the images are sparse files of 64 to 320 MiB.
        let space = Space::enter().context("skipped: mounts are not allowed here")?;
        let (mut total, mut disks, mut left_out) = (Tally::default(), Vec::new(), Vec::new());
        for (kind, tally) in run_on_all(&selected, &space.path("")) {
            let Some(tally) = tally? else {
                left_out.push(kind.name);
                continue;
            };
            disks.push(kind.name);
            total.cases += tally.cases;
            total.refused += tally.refused;
            total.violations += tally.violations;
        }
        let Tally { cases, refused, violations } = total;
        ensure!(violations == 0, "{violations} violations");
        ensure!(!disks.is_empty(), "skipped: no file system can be made and mounted here");
        let without = if left_out.is_empty() { String::new() } else { format!(", without {}", left_out.join(" ")) };
        println!("ok {cases} of {count} cases on {}{without}, {refused} times refused, 0 violations", disks.join(" "));
        Ok(())
    }

    fn select(&self, kind: Kind, cases: Vec<Case>) -> Vec<Case> {
        let (k, n) = self.part;
        let numbered = cases.into_iter().enumerate();
        let is_selected = |(number, case): &(usize, Case)| number % n == k && name(kind, case).contains(&self.only);
        numbered.filter(is_selected).map(|(_, case)| case).collect()
    }
}

fn name(kind: Kind, case: &Case) -> String {
    format!("{}/{case}", kind.name)
}

/// Runs the cases of all disks, each disk's beside the others': most of the time is spent waiting for one of them.
fn run_on_all(selected: &[(Kind, Vec<Case>)], scratch: &Path) -> Vec<(Kind, Result<Option<Tally>>)> {
    std::thread::scope(|scope| {
        let selected = selected.iter().filter(|(_, cases)| !cases.is_empty());
        let disks: Vec<_> =
            selected.map(|(kind, cases)| (*kind, scope.spawn(move || run_on(*kind, cases, scratch)))).collect();
        let join = |disk: ScopedJoinHandle<'_, _>| disk.join().unwrap_or_else(|_| bail!("a thread panicked"));
        disks.into_iter().map(|(kind, disk)| (kind, join(disk))).collect()
    })
}

/// Runs cases on a disk of this kind, one after the other; None if there can be no such disk here.
fn run_on(kind: Kind, cases: &[Case], scratch: &Path) -> Result<Option<Tally>> {
    let started = Instant::now();
    if let Some(why) = kind.why_not() {
        println!("{}: left out: {why}", kind.name);
        return Ok(None);
    }
    let disk = Disk::mount(kind, scratch).with_context(|| kind.name)?;
    let mut tally = Tally::default();
    for case in cases {
        let name = name(kind, case);
        tally.cases += 1;
        match case.run(&disk).with_context(|| name.clone())? {
            Ok(refused) => tally.refused += refused,
            Err(why) => {
                println!("violation: {name}: {why}");
                tally.violations += 1;
            }
        }
        if tally.violations == VIOLATIONS_MAX {
            break;
        }
    }
    println!("{}: {} cases, {} s", kind.name, tally.cases, started.elapsed().as_secs());
    let enough = CASES_MIN.min(case::cases(kind.sample).len());
    ensure!(tally.refused > 0 || tally.cases < enough, "{}: no append was refused: it never was full", kind.name);
    Ok(Some(tally))
}
