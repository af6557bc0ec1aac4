//! The scripted runs. Each is short, so that each of its calls can fail in a run of its own, and starts from a log that an earlier
//! process left; together they take a log through its whole life.
//!
//! Where the keeper and the first thread could race for a call, a scene decides it: what was appended is synced before the log is cut
//! or closed, for else the keeper may be in time to store a mark; or the keeper is held meanwhile.

use crate::puppet::{Command, How, Policy, Puppet};
use crate::worlds::Worlds;
use anyhow::{ensure, Result};
use std::fs;
use std::path::Path;
use Command::{
    Close, CloseAndFreeKeeper, FreeKeeper, HoldKeeper, HoldView, Pin, Read, ReadHeldView, ReadPinned, Reset, Rotate,
    Sync, TruncateAfter, TruncateBefore, Validate, Wait,
};

/// A segment of the scenes holds five entries of this many bytes, and its file is complete from the start.
const LEN: usize = 1500;
const SMALL: u64 = 8 << 10;
/// Seven entries. Four of them fill more than half of it, and leave a page free.
const MEDIUM: u64 = 12 << 10;
/// A file of this size is handed over before it has all of its blocks.
const GROWING: u64 = 320 << 10;

pub struct Scene {
    pub name: &'static str,
    /// What an earlier process did. Empty: there is no log yet.
    before: Vec<Command>,
    /// How that process ended.
    left: Left,
    pub script: Vec<Command>,
    /// The log's directory, in that of the run.
    pub dir: &'static str,
    /// Calls that fail always: those that an older kernel does not have.
    pub without: Option<&'static str>,
    /// Only these calls fail once.
    pub only: Option<&'static [&'static str]>,
}

#[derive(Clone, Copy, PartialEq)]
enum Left {
    Closed,
    /// Killed, with all that a kill can leave: see [`litter`].
    Killed,
}

fn open(policy: Policy, segment_size: u64) -> Command {
    Command::Open { policy, segment_size }
}

fn append() -> Command {
    Command::Append { how: How::AsPolicySays, len: LEN }
}

fn append_as(how: How) -> Command {
    Command::Append { how, len: LEN }
}

fn big() -> Command {
    Command::Append { how: How::AsPolicySays, len: 100_000 }
}

fn appends(count: usize) -> Vec<Command> {
    vec![append(); count]
}

fn script(parts: impl IntoIterator<Item = Vec<Command>>) -> Vec<Command> {
    parts.into_iter().flatten().collect()
}

pub fn scenes() -> Vec<Scene> {
    let manual = || vec![open(Policy::Manual, SMALL)];
    let closed = |entries| script([manual(), appends(entries), vec![Sync, Close]]);
    let killed = || script([vec![open(Policy::Manual, MEDIUM)], appends(5), vec![Sync], appends(6)]);
    let medium = || vec![open(Policy::Manual, MEDIUM)];
    let plain = |name, before, script| Scene {
        name,
        before,
        left: Left::Closed,
        script,
        dir: "log",
        without: None,
        only: None,
    };
    vec![
        Scene {
            dir: "new/nested/log",
            ..plain(
                "create",
                Vec::new(),
                vec![
                    open(Policy::Immediate, SMALL),
                    append(),
                    append_as(How::InPlace),
                    Command::Batch { lens: vec![LEN, LEN] },
                    append(),
                    Sync,
                    Wait(2),
                    Read,
                    Validate,
                    Close,
                ],
            )
        },
        plain(
            "rotate",
            closed(0),
            script([
                manual(),
                vec![
                    append(),
                    append_as(How::InPlace),
                    Command::Batch { lens: vec![LEN, LEN] },
                    append_as(How::Durable),
                ],
                // The keeper syncs what is sealed.
                appends(5),
                // While it is held, rotate does.
                vec![HoldKeeper, append(), append(), Rotate, FreeKeeper],
                // The dead segments become spares, and spares segments.
                vec![Sync, TruncateBefore(11)],
                appends(7),
                vec![Sync, Read],
                // What is appended while the keeper is held again is synced by close.
                appends(3),
                vec![HoldKeeper, append(), append(), CloseAndFreeKeeper],
            ]),
        ),
        plain(
            "cut",
            closed(13),
            script([
                manual(),
                vec![Read, append(), Sync, TruncateAfter(9)],
                vec![append(), Sync, TruncateAfter(8), append(), TruncateBefore(7), Validate],
                vec![Reset(100), append(), Sync, Read, Close],
            ]),
        ),
        Scene {
            left: Left::Killed,
            ..plain(
                "crash",
                killed(),
                script([medium(), vec![Read, append(), Sync, Close], medium(), vec![append(), Read, Sync, Close]]),
            )
        },
        plain(
            "grow",
            script([vec![open(Policy::Manual, GROWING), Close]]),
            script([
                vec![open(Policy::Manual, GROWING), append(), Sync, big(), big(), big(), Sync, Close],
                vec![open(Policy::Manual, GROWING), append(), Read, Sync, Close],
            ]),
        ),
        plain(
            "readers",
            closed(17),
            script([
                manual(),
                vec![
                    HoldView,
                    TruncateBefore(7),
                    ReadHeldView,
                    Pin(8),
                    append(),
                    Sync,
                    Close,
                    ReadHeldView,
                    ReadPinned,
                ],
                manual(),
                vec![ReadHeldView, TruncateBefore(13), ReadPinned, Read, Close],
            ]),
        ),
        plain(
            "ticks",
            closed(3),
            vec![
                open(Policy::Interval, SMALL),
                append_as(How::Awaited),
                append_as(How::Awaited),
                Read,
                // The keeper syncs what is sealed, the ticker what comes after it.
                Rotate,
                append_as(How::Awaited),
                Close,
            ],
        ),
        Scene {
            left: Left::Killed,
            without: Some("madvise:error=EINVAL"),
            only: Some(&["openat", "pread64"]),
            ..plain(
                "old-kernel",
                killed(),
                script([
                    medium(),
                    vec![Read, Close],
                    medium(),
                    vec![HoldView, TruncateBefore(8), ReadHeldView, Read, Validate, Close],
                ]),
            )
        },
    ]
}

impl Scene {
    /// Has a puppet make the log that the script starts from, in `dir`; what it may hold.
    pub fn prepare(&self, dir: &Path) -> Result<Worlds> {
        let mut worlds = Worlds::new();
        let log = dir.join(self.dir);
        if self.before.is_empty() {
            return Ok(worlds);
        }
        let mut puppet = Puppet::start(&[], &log)?;
        // Their numbers are none that the script gives.
        for (order, command) in (1_000_000..).zip(&self.before) {
            let answer = puppet.tell(order, command)?.map_err(|end| anyhow::anyhow!("{command}: {end:?}"))?;
            worlds.apply(order, command, Some(&answer.outcome)).map_err(anyhow::Error::msg)?;
            if let Some(state) = answer.state {
                worlds.restrict_to(&state).map_err(anyhow::Error::msg)?;
            }
        }
        puppet.kill()?;
        if self.left == Left::Killed {
            litter(&log)?;
        }
        Ok(worlds)
    }
}

/// What a kill can leave beside the segments: a spare, and a torn frame behind the last one.
fn litter(log: &Path) -> Result<()> {
    fs::write(log.join("segments/spare-000099"), [0; 100])?;
    let last = log.join("segments/wal-000002.log");
    let mut bytes = fs::read(&last)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).next_multiple_of(8);
    ensure!(end + 200 < bytes.len(), "the last segment is full");
    bytes[end..end + 200].fill(0xab);
    fs::write(&last, bytes)?;
    Ok(())
}
