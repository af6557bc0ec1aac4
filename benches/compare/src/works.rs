//! The works that are compared. All sizes are in bytes.

use std::fmt;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// One work: every subject does the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// `count` appends of `size` bytes over all `threads`, none of them synced. ns an append, over all threads.
    Append { size: usize, threads: usize, count: u64 },
    /// `count` batches of `batch` appends of `size` bytes, not synced. ns an entry.
    Batch { size: usize, batch: usize, count: u64 },
    /// `count` appends of `size` bytes, each durable before the next. us an append.
    Durable { size: usize, count: u64 },
    /// `count` appends of `size` bytes by `threads` threads, each of which waits until its entry is durable. Durable appends a second.
    Group { size: usize, threads: usize, count: u64 },
    /// Opening `bytes` of entries of `size` bytes, after a close. ms.
    OpenClean { size: usize, bytes: u64 },
    /// Opening as much, 16 MiB of it not synced, after the process was killed. ms.
    OpenKilled { size: usize, bytes: u64 },
    /// Reading all of `bytes` of entries of `size` bytes once, in a log that was closed and opened again. ns an entry.
    Replay { size: usize, bytes: u64 },
    /// As [`Work::Replay`], by the process that wrote them. ns an entry.
    Reread { size: usize, bytes: u64 },
    /// Reading entries of `size` bytes by their seq, at random, in a log of `bytes` that was closed and opened again. ns an entry.
    Get { size: usize, bytes: u64 },
    /// As [`Work::Get`], by the process that wrote them. ns an entry.
    GetOwn { size: usize, bytes: u64 },
    /// Appending `bytes` in entries of `size` bytes, with everything made durable behind and the log kept to four segments of
    /// [`SEGMENT`]. MB of payload a second.
    Sustained { size: usize, bytes: u64 },
    /// Opening `bytes` of entries of `size` bytes, after a close. us a segment.
    OpenSegments { size: usize, bytes: u64 },
    /// Opening `bytes` of entries of `size` bytes and reading each of them. MiB of memory that the process then has more, mappings of
    /// files not counted.
    Memory { size: usize, bytes: u64 },
    /// What counting costs an append of `size` bytes. Instructions.
    Counters { size: usize },
}

/// What a row of the table says of its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aspect {
    /// How fast it is done, or what else the work is about, in its own unit.
    Figure,
    /// What the device has to write for it. Bytes an entry.
    Written,
    /// How long the slowest of its appends take: the least that is longer than this percentage of them. ns.
    Latency { percentile: f64 },
}

/// A row of the table: one for each subject.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    pub work: Work,
    pub aspect: Aspect,
}

/// Segments have this size, where a subject lets one choose.
pub const SEGMENT: u64 = 64 * MIB;

/// How often a random read is made in one round.
pub const GETS: usize = 200_000;

/// Numbers that look random, the same in every run.
pub fn xorshift() -> impl FnMut() -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// The seqs that are read at random in a log of `count` entries.
pub fn picked_seqs(count: u64) -> Vec<u64> {
    let mut next = xorshift();
    (0..GETS).map(|_| next() % count + 1).collect()
}

/// Bytes that look random, the same in every run.
pub fn payload(size: usize) -> Vec<u8> {
    let mut next = xorshift();
    (0..size).map(|_| next() as u8).collect()
}

impl Row {
    pub fn unit(self) -> &'static str {
        match self.aspect {
            Aspect::Figure => self.work.unit(),
            Aspect::Written => "B/entry",
            Aspect::Latency { .. } => "ns",
        }
    }

    /// Whether a higher figure is a better one.
    pub fn more_is_better(self) -> bool {
        self.aspect == Aspect::Figure && matches!(self.work, Work::Group { .. } | Work::Sustained { .. })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.aspect {
            Aspect::Figure => self.work.fmt(f),
            Aspect::Written => write!(f, "{}, written", self.work),
            Aspect::Latency { percentile: 100.0 } => write!(f, "{}, max", self.work),
            Aspect::Latency { percentile } => write!(f, "{}, p{percentile}", self.work),
        }
    }
}

impl Work {
    fn unit(self) -> &'static str {
        match self {
            Work::Append { .. }
            | Work::Batch { .. }
            | Work::Replay { .. }
            | Work::Reread { .. }
            | Work::Get { .. }
            | Work::GetOwn { .. } => "ns",
            Work::Durable { .. } | Work::OpenSegments { .. } => "us",
            Work::Group { .. } => "/s",
            Work::OpenClean { .. } | Work::OpenKilled { .. } => "ms",
            Work::Sustained { .. } => "MB/s",
            Work::Memory { .. } => "MiB",
            Work::Counters { .. } => "instr",
        }
    }

    /// Bytes of an entry.
    pub fn size(self) -> usize {
        match self {
            Work::Append { size, .. }
            | Work::Batch { size, .. }
            | Work::Durable { size, .. }
            | Work::Group { size, .. }
            | Work::OpenClean { size, .. }
            | Work::OpenKilled { size, .. }
            | Work::Replay { size, .. }
            | Work::Reread { size, .. }
            | Work::Get { size, .. }
            | Work::GetOwn { size, .. }
            | Work::Sustained { size, .. }
            | Work::OpenSegments { size, .. }
            | Work::Memory { size, .. }
            | Work::Counters { size } => size,
        }
    }

    /// Bytes of payload that the work is about, those of all slices and threads of a round.
    pub fn bytes(self) -> u64 {
        match self {
            Work::Append { size, .. } | Work::Durable { size, .. } | Work::Group { size, .. } => {
                self.slice() * self.slices() as u64 * size as u64
            }
            Work::Batch { size, batch, .. } => self.slice() * (self.slices() * batch * size) as u64,
            Work::OpenClean { bytes, .. }
            | Work::OpenKilled { bytes, .. }
            | Work::Replay { bytes, .. }
            | Work::Reread { bytes, .. }
            | Work::Get { bytes, .. }
            | Work::GetOwn { bytes, .. }
            | Work::Sustained { bytes, .. }
            | Work::OpenSegments { bytes, .. }
            | Work::Memory { bytes, .. } => bytes,
            Work::Counters { size } => size as u64,
        }
    }

    pub fn entries(self) -> u64 {
        self.bytes() / self.size() as u64
    }

    pub fn threads(self) -> usize {
        match self {
            Work::Append { threads, .. } | Work::Group { threads, .. } => threads,
            _ => 1,
        }
    }

    /// Slices that the subjects take in turn within a round. The figure of a round is the slices' median: what the machine did to a
    /// few of them is not in it.
    pub fn slices(self) -> usize {
        match self {
            Work::Append { threads: 1, .. } | Work::Batch { .. } => 32,
            Work::Append { .. } => 16,
            Work::Durable { count, .. } => count as usize,
            Work::Group { .. } => 10,
            _ => 1,
        }
    }

    /// What one slice has of the work's count.
    pub fn slice(self) -> u64 {
        match self {
            Work::Append { count, .. }
            | Work::Batch { count, .. }
            | Work::Durable { count, .. }
            | Work::Group { count, .. } => count / self.slices() as u64,
            _ => 1,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        match *self {
            Work::Append { size, threads: 1, .. } => write!(f, "append {size} B"),
            Work::Append { size, threads, .. } => write!(f, "append {size} B, {threads} threads"),
            Work::Batch { size, batch, .. } => write!(f, "batch of {batch} x {size} B"),
            Work::Durable { size, .. } => write!(f, "durable append {size} B"),
            Work::Group { size, threads, .. } => write!(f, "group commit {size} B, {threads} threads"),
            Work::OpenClean { size, bytes } => write!(f, "open {} GiB of {size} B after a close", gib(bytes)),
            Work::OpenKilled { size, bytes } => write!(f, "open {} GiB of {size} B after a kill", gib(bytes)),
            Work::Replay { size, bytes } => write!(f, "replay {} GiB of {size} B", gib(bytes)),
            Work::Reread { size, bytes } => write!(f, "replay {} GiB of {size} B of this run", gib(bytes)),
            Work::Get { size, bytes } => write!(f, "random read of {size} B in {} GiB", gib(bytes)),
            Work::GetOwn { size, bytes } => write!(f, "random read of {size} B in {} GiB of this run", gib(bytes)),
            Work::Sustained { size, bytes } => write!(f, "sustained {} GiB of {size} B", gib(bytes)),
            Work::OpenSegments { size, bytes } => write!(f, "open {} GiB of {size} B, a segment", gib(bytes)),
            Work::Memory { size, bytes } => write!(f, "memory of {} GiB of {size} B, all read", gib(bytes)),
            Work::Counters { size } => write!(f, "counters of stats(), {size} B append"),
        }
    }
}
