//! What is said to a puppet, and what it says.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A command, and a number for the entries that it appends: those of different orders differ, whatever their seqs are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub number: u32,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Open {
        policy: Policy,
        segment_size: u64,
    },
    Append {
        how: How,
        len: usize,
    },
    Batch {
        lens: Vec<usize>,
    },
    /// Appends so many entries, or fewer if one fails, and syncs after every `sync_every`.
    Fill {
        len: usize,
        count: u64,
        sync_every: u64,
    },
    Sync,
    Wait(u64),
    Rotate,
    TruncateBefore(u64),
    TruncateAfter(u64),
    Reset(u64),
    /// Reads all entries.
    Read,
    Validate,
    /// Takes a view, and keeps it.
    HoldView,
    /// Reads all entries of the view that is kept.
    ReadHeldView,
    /// Takes an entry, and keeps it.
    Pin(u64),
    /// Looks at the bytes of the entry that is kept.
    ReadPinned,
    /// Once the keeper has synced what was appended so far, it is held in a callback.
    HoldKeeper,
    FreeKeeper,
    Close,
    /// Closes while the keeper is held, and frees it once that is all that close waits for.
    CloseAndFreeKeeper,
}

/// The sync policies that the harnesses use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    Immediate,
    Manual,
    /// Of a millisecond.
    Interval,
}

/// By which call an entry is appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    AsPolicySays,
    InPlace,
    Durable,
    /// Then, somebody else makes it durable.
    Awaited,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub outcome: Outcome,
    /// None: no log is open.
    pub state: Option<State>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done,
    /// The log is open. Its threads' numbers are not part of what two runs have in common.
    Opened {
        keeper: i32,
        /// The thread of an interval.
        ticker: Option<i32>,
    },
    /// The seq that a call returned: of an entry, of a batch's first entry, of what is durable, of the first that is left.
    Seq(u64),
    Entries(Vec<Run>),
    /// So many entries were appended, from `first_seq` on; then, perhaps, an append or a sync failed.
    Filled {
        first_seq: u64,
        count: u64,
        failure: Option<Failure>,
    },
    Failed(Failure),
    /// A thread of the log does not come to rest.
    Stuck(String),
}

/// Entries in a row that one order appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub first_seq: u64,
    pub count: u64,
    /// None: the payload is none that a puppet appends at this seq.
    pub order: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    pub text: String,
}

/// The errors that the harnesses tell apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Io {
        op: String,
        code: Option<i32>,
    },
    NoSpace,
    Poisoned,
    /// There is no log: an earlier open failed.
    NotOpen,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub first_seq: u64,
    pub next_seq: u64,
    pub durable_seq: u64,
    pub segments: usize,
    /// The bytes that the segments have on the disk.
    pub allocated: u64,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<maplog::Error> for Failure {
    fn from(error: maplog::Error) -> Failure {
        let text = error.to_string();
        let kind = match error {
            maplog::Error::Io { op, source, .. } => Kind::Io { op: op.to_owned(), code: source.raw_os_error() },
            maplog::Error::NoSpace { .. } => Kind::NoSpace,
            maplog::Error::Poisoned => Kind::Poisoned,
            _ => Kind::Other,
        };
        Failure { kind, text }
    }
}
