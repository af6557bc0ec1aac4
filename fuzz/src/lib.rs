//! The fuzz targets of maplog, and what they share. Each target is a function over the fuzzer's bytes that panics with what it found;
//! `fuzz_targets/` hands them to libFuzzer, and `docs/testing.md` says how to run them.
//!
//! | target | the bytes are |
//! |---|---|
//! | `segment` | a segment's file, behind a manifest that is valid |
//! | [`manifest`] | the manifest, beside segments that are valid |
//! | [`mutate`] | changes to the files of a valid log |
//! | [`operations`] | calls on a log, kills and power cuts |
//!
//! All that comes out is judged by what was put in: by the model of what was appended, by the second implementation of the format
//! in [`encode`] and `tests/it/support/format.rs`, and by the log's own answers, which have to agree with each other ([`probe`]).

// Here, a failed unwrap is a finding.

mod alloc;
#[path = "../../tests/it/support/encode.rs"]
mod encode;
pub mod files;
#[path = "../../tests/it/support/format.rs"]
#[allow(dead_code)]
mod format;
mod input;
pub mod manifest;
pub mod mutate;
pub mod operations;
#[path = "../../tests/crash/oracle.rs"]
#[allow(dead_code)]
mod oracle;
pub mod probe;
pub mod seeds;
pub mod segment;
mod shapes;
#[path = "../../tests/shared/mod.rs"]
#[allow(dead_code, unused_imports)]
mod shared;
#[path = "../../tests/crash/sim/mod.rs"]
#[allow(dead_code)]
mod sim;

use std::panic;
use std::path::Path;
use std::sync::Once;

/// What an execution may hold beside what its files account for: the buffers of recovery (256 KiB and 64 KiB), a log's fixed parts,
/// a thread or two.
const LIVE_BASE: usize = 1 << 20;
/// What it may hold for each byte of its files. An entry that is read decompresses to at most 255 times its size, and is there twice
/// while it becomes a pinned one; a damaged stretch of at least 32 bytes takes a `Damage` of some 200, in a list that may be moved
/// as it grows; what was read is remembered by the harness, before and after.
const LIVE_PER_BYTE: usize = 2 * 255 + 40;

/// What an execution over files of `disk_bytes` in all may hold.
fn live_max(disk_bytes: usize) -> usize {
    LIVE_BASE + LIVE_PER_BYTE * disk_bytes
}

/// Runs one execution of `target` in a directory of its own, with at most `live_max` bytes alive.
fn execute(target: &'static str, live_max: usize, body: impl FnOnce(&Path)) {
    announce_violations(target);
    let scratch = shared::fast_dir();
    let _limited = alloc::limit(live_max);
    body(scratch.path());
}

/// Has every panic, of whatever thread, say that it is a violation, before libFuzzer's own hook ends the process.
fn announce_violations(target: &'static str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // What a backtrace takes is nobody's fault.
            alloc::lift();
            eprintln!("violation: {target}: {}", info.to_string().replace('\n', " "));
            before(info);
        }));
    });
}
