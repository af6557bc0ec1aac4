//! maplog beside the hardware's floors and the other logs one can pick: the same work, in turns, several rounds.
//!
//! Prints a table, and ends with 1 if maplog misses a bar. `--quick` compares with the floors alone.

mod bars;
mod child;
mod clock;
mod contest;
mod floors;
mod growth;
mod machine;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod plan;
mod plot;
mod report;
mod rounds;
mod tails;
mod works;

use anyhow::{Context, Result};
use clap::Parser;
use plan::{Look, Plan};
use report::Report;
use rounds::Subject;
use std::path::PathBuf;
use std::process::ExitCode;
use tails::{Latencies, PERCENTILES};
use works::{Aspect, Row, Work};

#[derive(Debug, Parser)]
#[command(disable_help_subcommand = true)]
struct Args {
    /// Compare with the floors alone, fewer rounds.
    #[arg(long)]
    quick: bool,
    /// Only works whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Rounds of each work.
    #[arg(long)]
    rounds: Option<usize>,
    /// Where to work: a directory on the disk that counts. Needs 15 GiB.
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
    /// Write the figures as JSON, one object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw how long the slowest appends take, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure what grows with a log instead. Needs 20 GiB for all of it.
    #[arg(long)]
    growth: bool,
    #[command(subcommand)]
    child: Option<child::Child>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(child) = args.child {
        child.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::create_dir_all(&args.scratch)?;
    let scratch = tempfile::Builder::new()
        .prefix("maplog-compare-")
        .tempdir_in(&args.scratch)
        .with_context(|| format!("a directory in {}", args.scratch.display()))?;
    let mut report = Report::new(args.json.as_deref())?;
    if args.growth {
        growth::run(scratch.path(), &mut report)?;
        return Ok(ExitCode::SUCCESS);
    }
    report.print_head();
    for Plan { work, look, rounds } in plan::plans(args.quick) {
        if !format!("{work}{look}").contains(&args.only) {
            continue;
        }
        let rounds = args.rounds.unwrap_or(rounds);
        match look {
            Look::Figure => {
                let done = rounds::run(work, rounds, scratch.path(), subjects(work, args.quick));
                report.add(Row { work, aspect: Aspect::Figure }, &done, |figure| *figure)?;
            }
            Look::Written => {
                let subjects = subjects(work, args.quick).into_iter().map(|subject| subject.written(work)).collect();
                let done = rounds::run(work, rounds, scratch.path(), subjects);
                report.add(Row { work, aspect: Aspect::Written }, &done, |written| *written)?;
            }
            Look::Latencies => {
                let done = rounds::run(work, rounds, scratch.path(), latencies(work, args.quick));
                for percentile in PERCENTILES {
                    report
                        .add(Row { work, aspect: Aspect::Latency { percentile } }, &done, |all| all.at(percentile))?;
                }
                if let (Some(file), Ok(done)) = (&args.plot, &done) {
                    plot::write(file, &work.to_string(), done)?;
                }
            }
        }
    }
    if !args.quick {
        peers::print();
    }
    Ok(if report.finish()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The floor, maplog, and unless it has to be quick the peers.
fn subjects(work: Work, quick: bool) -> Vec<Subject> {
    let peers = if quick { Vec::new() } else { peers::subjects(work) };
    contest::subjects(work).into_iter().chain(peers).collect()
}

/// As [`subjects`], for the times of single appends.
fn latencies(work: Work, quick: bool) -> Vec<Subject<Latencies>> {
    let peers = if quick { Vec::new() } else { peers::latencies(work) };
    contest::latencies(work).into_iter().chain(peers).collect()
}

/// A build without the other logs.
#[cfg(not(feature = "peers"))]
mod peers {
    use crate::rounds::Subject;
    use crate::tails::Latencies;
    use crate::works::Work;

    pub fn subjects(_work: Work) -> Vec<Subject> {
        Vec::new()
    }

    pub fn latencies(_work: Work) -> Vec<Subject<Latencies>> {
        Vec::new()
    }

    pub fn print() {}
}
