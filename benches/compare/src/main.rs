//! maplog beside the hardware's floors and the other logs one can pick: the same work, in turns, several rounds.
//!
//! Prints a table, and ends with 1 if maplog misses a bar. `--quick` compares with the floors alone.

mod bars;
mod contest;
mod floors;
mod machine;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod report;
mod rounds;
mod works;

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use works::Work;

#[derive(Debug, Parser)]
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
    /// Where to work: a directory on the disk that counts. Needs 10 GiB.
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
    /// Write the figures as JSON, one object a line.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Used by the program itself: append to DIR entries of SIZE bytes, SYNCED bytes and then UNSYNCED bytes, and abort.
    #[arg(long, num_args = 4, value_names = ["DIR", "SIZE", "SYNCED", "UNSYNCED"], hide = true)]
    write_and_abort: Option<Vec<String>>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(args) = &args.write_and_abort {
        let [dir, size, synced, unsynced] = &args[..] else { anyhow::bail!("four arguments") };
        ours::write_and_abort(dir.as_ref(), size.parse()?, synced.parse()?, unsynced.parse()?, works::SEGMENT)?;
    }
    std::fs::create_dir_all(&args.scratch)?;
    let scratch = tempfile::Builder::new()
        .prefix("maplog-compare-")
        .tempdir_in(&args.scratch)
        .with_context(|| format!("a directory in {}", args.scratch.display()))?;
    let mut report = report::Report::new(args.json.as_deref())?;
    for (work, rounds) in works(args.quick) {
        if work.to_string().contains(&args.only) {
            let mut subjects = contest::subjects(work);
            if !args.quick {
                subjects.extend(peers_subjects(work));
            }
            let figures = rounds::run(work, args.rounds.unwrap_or(rounds), scratch.path(), subjects);
            report.add(&figures)?;
        }
    }
    if !args.quick {
        print_peers();
    }
    Ok(if report.finish()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "peers")]
fn peers_subjects(work: Work) -> Vec<rounds::Subject> {
    peers::subjects(work)
}

#[cfg(feature = "peers")]
fn print_peers() {
    for about in peers::about() {
        let peers::About { name, version, license, promise, verifies, note } = about;
        let reads = if *verifies { "verify checksums" } else { "verify nothing" };
        println!("{name} {version} ({license}): append reaches the {promise}; reads {reads}; {note}");
    }
}

#[cfg(not(feature = "peers"))]
fn peers_subjects(_work: Work) -> Vec<rounds::Subject> {
    Vec::new()
}

#[cfg(not(feature = "peers"))]
fn print_peers() {}

/// The works, and how many rounds each has.
fn works(quick: bool) -> Vec<(Work, usize)> {
    const GIB: u64 = 1 << 30;
    let frames = |bytes: u64, size: usize| bytes / floors::frame_len(size) as u64;
    let (rounds, few) = if quick { (5, 3) } else { (7, 3) };
    let mut works = Vec::new();
    for size in [128, 16, 1024, 16384] {
        works.push((Work::Append { size, threads: 1, count: frames(28 << 20, size) }, rounds));
    }
    for threads in [2, 4] {
        works.push((Work::Append { size: 128, threads, count: frames(28 << 20, 128) }, rounds));
    }
    works.push((Work::Batch { size: 128, batch: 100, count: frames(28 << 20, 128) / 100 }, rounds));
    works.push((Work::Durable { size: 128, count: 3000 }, rounds));
    for threads in [8, 32] {
        works.push((Work::Group { size: 128, threads, count: 40_000 }, rounds));
    }
    works.push((Work::OpenClean { size: 128, bytes: GIB }, few));
    works.push((Work::OpenKilled { size: 128, bytes: GIB }, few));
    for size in [128, 4096] {
        works.push((Work::Replay { size, bytes: GIB }, few));
    }
    works.push((Work::Reread { size: 128, bytes: GIB }, few));
    works.push((Work::GetOwn { size: 128, bytes: GIB }, few));
    works.push((Work::Get { size: 128, bytes: GIB }, few));
    for size in [128, 1024] {
        works.push((Work::Sustained { size, bytes: if quick { GIB } else { 4 * GIB } }, few));
    }
    works
}
