//! What `ci/instructions.sh` counts the instructions of: one work, so often as it is told. The difference between two counts of the
//! same work is free of what comes before and after it, and of the machine's noise.

use maplog::{Log, Options, SyncPolicy};
use std::error::Error;
use std::hint::black_box;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")); // cargo's, and the other benches'
    let (Some(work), Some(Ok(count))) = (args.next(), args.next().map(|count| count.parse::<u64>())) else {
        return Ok(()); // `cargo bench` runs every bench, and this one is nothing without valgrind
    };
    let dir = tempfile::tempdir()?;
    let open = || Options::new().sync_policy(SyncPolicy::Manual).segment_size(4 << 20).open(dir.path());
    let log = open()?;
    let payload = [7; 128];
    let fill = |log: &Log, count: u64| (0..count).try_for_each(|_| log.append(black_box(&payload)).map(drop));
    match work.as_str() {
        "append" => fill(&log, count)?,
        "append_batch" => {
            let batch = [payload; 100];
            for _ in 0..count / 100 {
                log.append_batch(black_box(&batch))?;
            }
        }
        // As many entries in both runs: all but `count` are skipped.
        "iterate_own" => {
            fill(&log, 20_000)?;
            read(&log, count)?;
        }
        "iterate_checked" => {
            fill(&log, 20_000)?;
            log.close()?;
            read(&open()?, count)?;
        }
        "get_own" => {
            fill(&log, 20_000)?;
            get(&log, count)?;
        }
        "get_checked" => {
            fill(&log, 20_000)?;
            log.close()?;
            get(&open()?, count)?;
        }
        _ => return Err(format!("no such work: {work}").into()),
    }
    Ok(())
}

/// Reads entries by their seqs, after the one that walks to the last.
fn get(log: &Log, count: u64) -> Result<(), Box<dyn Error>> {
    let view = log.view();
    view.get(20_000)?;
    for seq in 1..=count {
        let entry = view.get(black_box(seq))?.ok_or("an entry is missing")?;
        black_box(entry.payload());
    }
    Ok(())
}

/// Reads the first `count` entries.
fn read(log: &Log, count: u64) -> maplog::Result<()> {
    for entry in log.view().iter().take(count as usize) {
        black_box(entry?.payload());
    }
    Ok(())
}
