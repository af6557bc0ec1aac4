//! Harnesses that try to break maplog's promises from outside: each a subcommand, described in docs/testing.md.
//!
//! What a harness finds it prints as `violation: ...`, and ends with 1. One that cannot work here prints `skipped: why`, and ends
//! with 77.

mod bad_disk;
mod check;
mod disk;
mod entry;
mod faults;
mod full;
mod kill;
mod ledger;
mod oracle;
mod part;
mod power;
mod puppet;
mod rng;
mod scratch;
mod worlds;
mod writer;

use clap::Parser;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(disable_help_subcommand = true)]
enum Args {
    /// Has a disk fail writes, flushes and reads under a log.
    BadDisk(bad_disk::BadDisk),
    /// Has every system call of a scripted run fail once, and kills the process at each.
    Faults(faults::Faults),
    /// Fills small disks before each step of a log's life.
    Full(full::Full),
    /// Kills writers at random moments.
    Kill(kill::Kill),
    /// Cuts the power under writers on a real file system.
    Power(power::Power),
    /// Used by `faults` and `full`: holds a log, and does what it is told.
    #[command(hide = true)]
    Puppet(puppet::Args),
    /// Used by `bad-disk`: has its log on the bad disk.
    #[command(hide = true)]
    Victim(bad_disk::Victim),
    /// Used by the others: has a log open, and appends until it is killed.
    #[command(hide = true)]
    Writer(writer::Writer),
}

/// What ci/lib.sh takes for "cannot be done here".
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let done = match Args::parse() {
        Args::BadDisk(bad_disk) => bad_disk.run(),
        Args::Faults(faults) => faults.run(),
        Args::Full(full) => full.run(),
        Args::Kill(kill) => kill.run(),
        Args::Power(power) => power.run(),
        Args::Puppet(args) => puppet::run(&args),
        Args::Victim(victim) => victim.run(),
        Args::Writer(writer) => writer.run(),
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    let said = format!("{error:#}");
    println!("{said}");
    ExitCode::from(if said.starts_with("skipped: ") { SKIPPED } else { 1 })
}
