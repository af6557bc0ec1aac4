//! What the program has a process of its own do, itself started again: to be killed, or to begin with little memory.

use crate::works::{payload, SEGMENT};
use crate::{machine, ours};
use anyhow::{ensure, Context, Result};
use clap::Subcommand;
use maplog::{Options, SyncPolicy};
use std::ffi::OsStr;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[derive(Debug, Subcommand)]
pub enum Child {
    /// Used by the program itself: appends entries of SIZE bytes, SYNCED bytes and then UNSYNCED bytes, and aborts.
    #[command(hide = true)]
    AbortAfter { dir: PathBuf, size: usize, synced: u64, unsynced: u64 },
    /// Used by the program itself: opens a log, reads all of it, and prints the MiB of memory that this took.
    #[command(hide = true)]
    Memory { dir: PathBuf, segment_len: u64 },
}

impl Child {
    /// Does the child's work.
    pub fn run(self) -> Result<()> {
        match self {
            Child::AbortAfter { dir, size, synced, unsynced } => append_and_abort(&dir, size, synced, unsynced),
            Child::Memory { dir, segment_len } => {
                println!("{}", grown_memory(&dir, segment_len)?);
                Ok(())
            }
        }
    }
}

/// Has a process append `synced` and then `unsynced` bytes of payload, of which it syncs the first, and die.
pub fn abort_after(dir: &Path, size: usize, synced: u64, unsynced: u64) -> Result<()> {
    let numbers = [size.to_string(), synced.to_string(), unsynced.to_string()];
    let Output { status, .. } = start("abort-after", dir, &numbers)?;
    ensure!(status.code().is_none(), "the process to be killed ended by itself: {status}");
    Ok(())
}

/// The MiB that a process has more than before, in memory of its own, once it has opened a log and read all of it.
pub fn memory(dir: &Path, segment_len: u64) -> Result<f64> {
    let Output { status, stdout, .. } = start("memory", dir, &[segment_len.to_string()])?;
    ensure!(status.success(), "the process that reads ended with {status}");
    Ok(String::from_utf8(stdout)?.trim().parse()?)
}

fn start(name: &str, dir: &Path, numbers: &[String]) -> Result<Output> {
    let program = std::env::current_exe()?;
    let args = [OsStr::new(name), dir.as_os_str()];
    Command::new(program).args(args).args(numbers).stderr(Stdio::inherit()).output().context("another process")
}

fn append_and_abort(dir: &Path, size: usize, synced: u64, unsynced: u64) -> Result<()> {
    let log = Options::new().sync_policy(SyncPolicy::Manual).segment_size(SEGMENT).open(dir)?;
    let payload = payload(size);
    for _ in 0..synced / size as u64 {
        log.append(&payload)?;
    }
    log.sync()?;
    for _ in 0..unsynced / size as u64 {
        log.append(&payload)?;
    }
    std::process::abort()
}

fn grown_memory(dir: &Path, segment_len: u64) -> Result<f64> {
    let before = machine::anonymous_memory()?;
    let (log, _) = ours::open(dir, segment_len)?;
    let view = log.view();
    for entry in view.iter() {
        black_box(entry?.payload());
    }
    for segment in log.segments() {
        black_box(view.get(segment.first_seq)?.context("the first entry of a segment")?.payload());
    }
    Ok((machine::anonymous_memory()? - before) as f64 / f64::from(1 << 20))
}
