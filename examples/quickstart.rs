//! The main job on real input: a process writes a log and is killed, another one recovers it and checks every byte.
//!
//! ```sh
//! cargo run --release --example quickstart -- FILE
//! ```
//!
//! The process starts a child of itself, which appends each line of FILE to a log in a temporary directory, with a sync now and
//! then, and is killed with SIGKILL while the last lines are appended but not synced. Then the log is opened and compared with
//! FILE. Nothing may be missing: what `append` returned for belongs to the kernel, and a killed process does not take it along.
//! The last line is `ok entries=N bytes=N`; on any mismatch the exit code is not zero.

// It is a program that people run to see its output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use maplog::{Log, Options, SyncPolicy};
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// The first argument of the child. The second is the directory of its log, and FILE comes on its standard input.
const CHILD: &str = "--child";

/// What is appended when no FILE is given: a text with long, short and empty lines.
const DEFAULT_TEXT: &[u8] = include_bytes!("../LICENSE-APACHE");

/// The child syncs after so many lines, but never after the last ones.
const LINES_PER_SYNC: usize = 100;

/// How long the child waits to be killed.
const CHILD_PATIENCE: Duration = Duration::from_secs(60);

const SIGKILL: i32 = 9;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [child, dir] if child == CHILD => append_and_wait(Path::new(dir)),
        [] => run("LICENSE-APACHE", DEFAULT_TEXT),
        [file] => match fs::read(file) {
            Ok(text) => run(&file.to_string_lossy(), &text),
            Err(e) => Err(format!("cannot read {}: {e}", Path::new(file).display()).into()),
        },
        _ => Err("usage: quickstart [FILE]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("quickstart: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Has a child write the lines of `text`, kills it, and compares what the log holds.
fn run(name: &str, text: &[u8]) -> Result<()> {
    // Removed when it goes out of scope, whatever happened; declared first, so that the log is closed by then.
    let dir = tempfile::Builder::new().prefix("maplog-quickstart-").tempdir()?;

    println!("{name}: {} lines, {} bytes", lines(text).count(), text.len());
    write_in_killed_child(dir.path(), text)?;

    let log = Options::new().create(false).open(dir.path())?;
    print_recovery(&log);

    let started = Instant::now();
    let (entries, bytes) = compare(&log, text)?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "read and compared {entries} entries, {bytes} bytes in {:.3} ms: {:.0} entries/s, {:.0} MB/s",
        seconds * 1e3,
        entries as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
    log.close()?;
    println!("ok entries={entries} bytes={bytes}");
    Ok(())
}

/// Starts the child, waits until it has appended every line, and kills it.
fn write_in_killed_child(dir: &Path, text: &[u8]) -> Result<()> {
    let mut child =
        Command::new(env::current_exe()?).arg(CHILD).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;

    let sent = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(text));
    let mut said = String::new();
    let heard = child.stdout.take().map_or(Ok(0), |pipe| BufReader::new(pipe).read_line(&mut said));

    // By now the child has appended all lines, or it ended early and has told why.
    child.kill()?;
    let status = child.wait()?;
    if said.is_empty() || status.signal() != Some(SIGKILL) {
        return Err(format!("the child was to be killed while it waits, but ended before: {status}").into());
    }
    sent?;
    heard?;
    println!("child {}: {}; killed with SIGKILL", child.id(), said.trim_end());
    Ok(())
}

/// What the child does: appends each line of its standard input, syncs now and then, says so, and waits to be killed.
fn append_and_wait(dir: &Path) -> Result<()> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;

    let log = Options::new().sync_policy(SyncPolicy::Manual).open(dir)?;
    let mut appended = 0;
    for line in lines(&text) {
        if appended > 0 && appended % LINES_PER_SYNC == 0 {
            log.sync()?;
        }
        log.append(line)?;
        appended += 1;
    }
    println!("appended {appended} lines, of which {} are synced", log.durable_seq());
    thread::sleep(CHILD_PATIENCE);
    Err("nobody killed the child".into())
}

/// Prints what `open` found.
fn print_recovery(log: &Log) {
    let report = log.recovery();
    println!("recovery in {:?}:", report.duration);
    println!("  closed cleanly    {}", report.clean);
    println!("  segments          {}", report.segments);
    println!("  scanned           {} entries, {} bytes", report.entries_scanned, report.bytes_scanned);
    println!("  proven up to seq  {}", report.proven_seq);
    println!("  last seq          {}", report.last_seq);
    println!("  torn              {} bytes", report.torn_bytes);
    for loss in &report.losses {
        println!("  lost              {loss}");
    }
    for note in &report.notes {
        println!("  note              {note}");
    }
}

/// Compares every entry with its line, where it lies in the mapping; the number of entries and of their bytes.
fn compare(log: &Log, text: &[u8]) -> Result<(usize, usize)> {
    let mut expected = lines(text);
    let (mut entries, mut bytes) = (0, 0);
    for entry in log.view().iter() {
        let entry = entry?;
        match expected.next() {
            Some(line) if line == entry.payload() => {}
            Some(line) => {
                let (found, wanted) = (entry.payload().len(), line.len());
                return Err(format!("entry {} is not its line: {found} bytes, expected {wanted}", entry.seq()).into());
            }
            None => return Err(format!("entry {} is one too many", entry.seq()).into()),
        }
        entries += 1;
        bytes += entry.payload().len();
    }
    match expected.count() {
        0 => Ok((entries, bytes)),
        missing => Err(format!("the log ends after {entries} entries: {missing} lines are missing").into()),
    }
}

/// The bytes between two LF. A LF at the end begins no further line.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    // An empty text has no line; splitting it gives one.
    body.split(|byte| *byte == b'\n').take(if text.is_empty() { 0 } else { usize::MAX })
}
