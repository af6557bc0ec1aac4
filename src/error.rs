//! The one error of the crate, and [`Damage`]: what exactly is wrong with bytes that were acked.
//!
//! Every variant names what a caller or an operator needs to act: the path, the range, what was expected and what was found. An
//! error of the world is an `Err`; a panic is a bug of ours, or of a caller who breaks a rule that the docs of the call state.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in a call on the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation. After a failed *sync* the log is [`Poisoned`](Error::Poisoned).
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "open", "sync", "rename".
        op: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// An option lies outside its range. Options are refused, never adjusted.
    #[error("option {field} = {value} is refused: allowed is {allowed}")]
    InvalidOptions {
        /// The name of the option.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// The values that are allowed.
        allowed: String,
    },

    /// Another `Log`, in this process or in another one, has the directory open.
    #[error("{} is locked: another log has it open", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },

    /// Bytes that were acked are not what was written.
    #[error("damaged: {damage}")]
    Damaged {
        /// Where, which entries, and how.
        damage: Box<Damage>,
    },

    /// The payload is larger than [`Options::max_entry_size`](crate::Options::max_entry_size) allows.
    #[error("an entry of {len} bytes is too large: at most {max} bytes")]
    EntryTooLarge {
        /// Length of the payload in bytes.
        len: u64,
        /// The largest payload in bytes.
        max: u64,
    },

    /// The batch can never fit one segment.
    #[error("a batch of {len} bytes is too large: a segment holds at most {max} bytes of frames")]
    BatchTooLarge {
        /// Length of the batch's frames in bytes: a 32-byte header and padding to 8 bytes for each payload.
        len: u64,
        /// The bytes that a segment has for frames.
        max: u64,
    },

    /// The disk, or the quota, is full. Nothing was appended, acked entries are intact, and appends work again once there is space.
    #[error("no space for {}: {needed} bytes needed", path.display())]
    NoSpace {
        /// The file that could not be made or could not grow.
        path: PathBuf,
        /// How many bytes were asked for.
        needed: u64,
    },

    /// A sync failed earlier, so nobody can say what is on the disk: this `Log` takes no more writes. Reads go on. Open it again to
    /// find out what survived.
    #[error("the log is poisoned: a sync failed earlier, and what it covered may be lost; open the log again")]
    Poisoned,

    /// The log was closed.
    #[error("the log is closed")]
    Closed,

    /// The entries that were waited for, or followed, are gone: a truncation or a reset took them.
    #[error("the entries were truncated: go on from seq {first_seq}")]
    Truncated {
        /// Where a reader can go on: the first seq of the log if older entries were dropped, the first seq after the cut if newer
        /// ones were.
        first_seq: u64,
    },

    /// The seq lies outside what the log holds.
    #[error("seq {seq} is out of range: the log holds [{first_seq}, {next_seq})")]
    SeqOutOfRange {
        /// The seq that was given.
        seq: u64,
        /// The first seq of the log.
        first_seq: u64,
        /// The seq that the next entry will get.
        next_seq: u64,
    },

    /// A file was written by another version of the format.
    #[error("{} has format version {found}, this library reads version {supported}", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version it states.
        found: u32,
        /// The version that this library reads and writes.
        supported: u32,
    },

    /// The path holds something, but not a log.
    #[error("{} is not a maplog log", path.display())]
    NotALog {
        /// The file or directory.
        path: PathBuf,
    },
}

/// One stretch of bytes that are not what was written, though they were durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The bytes that cannot be believed, as offsets in the file. Empty if the file is missing.
    pub bytes: Range<u64>,
    /// The seqs of the entries that are lost with them. Empty if no entry is lost.
    pub seqs: Range<u64>,
    /// What is wrong.
    pub kind: DamageKind,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { path, bytes, seqs, kind } = self;
        write!(f, "{}, bytes {}..{}: {kind}", path.display(), bytes.start, bytes.end)?;
        match seqs.end.saturating_sub(seqs.start) {
            0 => Ok(()),
            1 => write!(f, "; lost: seq {}", seqs.start),
            n => write!(f, "; lost: seqs {} to {} ({n} entries)", seqs.start, seqs.end - 1),
        }
    }
}

/// What is wrong with a damaged stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageKind {
    /// A frame's header does not have the checksum it states, or there is no frame where one was.
    #[error("the frame header's checksum is {found:#010x}, expected {expected:#010x}")]
    Header {
        /// The checksum of the bytes as they are.
        expected: u32,
        /// The checksum that the header states.
        found: u32,
    },
    /// A frame's payload does not have the checksum that its (intact) header states.
    #[error("the payload's checksum is {found:#010x}, expected {expected:#010x}")]
    Payload {
        /// The checksum that the header states.
        expected: u32,
        /// The checksum of the bytes as they are.
        found: u32,
    },
    /// The padding after a frame is not zero.
    #[error("the padding after the frame is not zero")]
    Padding,
    /// An intact header carries another seq than its place demands.
    #[error("the frame has seq {found}, expected {expected}")]
    Sequence {
        /// The seq that this place demands.
        expected: u64,
        /// The seq that the header states.
        found: u64,
    },
    /// An intact header holds a field that no writer of this format stores.
    #[error("the frame header holds a field that no writer stores")]
    Field,
    /// A frame states a length that does not fit the file.
    #[error("the frame has {len} bytes, the file has room for {room}")]
    Length {
        /// Header and payload in bytes.
        len: u64,
        /// The bytes from the frame's start to the end of what the file can hold.
        room: u64,
    },
    /// A batch is not complete.
    #[error("the batch that the frame belongs to is not complete")]
    Batch,
    /// A compressed payload does not decompress to what it states.
    #[error("the compressed payload does not decompress to the length it states")]
    Compression,
    /// The first 64 bytes of a segment, its identity, are not valid or not those of this segment of this log.
    #[error("the segment's identity is not valid, or not that of this file in this log")]
    Identity,
    /// The second 64 bytes of a segment, its link to the segment before, are not valid.
    #[error("the segment's link to its predecessor is not valid")]
    Link,
    /// A segment ends before entries that it held.
    #[error("the file has {found} bytes, its entries need {expected}")]
    Short {
        /// The bytes that the entries need.
        expected: u64,
        /// The bytes that the file has.
        found: u64,
    },
    /// A file that held entries is not there.
    #[error("the file is missing")]
    Missing,
    /// Both slots of the manifest are unreadable.
    #[error("neither slot of the manifest is valid")]
    Manifest,
    /// The manifest says that the log was closed where its mark is, and entries follow: it is older than they are.
    #[error("the manifest says that the log ends before entries that are valid: it is an older one")]
    Older,
    /// Entries are missing between two segments: the log was once opened in salvage mode and written to.
    #[error("the entries between this segment and its predecessor were lost earlier")]
    Gap,
}

impl Error {
    /// True if acked bytes were found to be damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Damaged { .. })
    }

    /// True if the call failed for want of disk space, and will work once there is some.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::NoSpace { .. })
    }

    /// The same error again, for another caller who waits for the same thing.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Error::NoSpace { path, needed } => Error::NoSpace { path: path.clone(), needed: *needed },
            Error::Io { op, path, source } => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => source.kind().into(),
                };
                Error::Io { op, path: path.clone(), source }
            }
            Error::Closed => Error::Closed,
            _ => Error::Poisoned,
        }
    }

    /// The same error, of a call that has poisoned the log: it is no want of space, for when there is some, the log still takes nothing.
    pub(crate) fn into_io(self) -> Self {
        match self {
            Error::NoSpace { path, needed } => {
                let op = if needed == 0 { "sync" } else { "write" };
                Error::Io { op, path, source: rustix::io::Errno::NOSPC.into() }
            }
            error => error,
        }
    }

    pub(crate) fn damaged(damage: Damage) -> Self {
        Error::Damaged { damage: Box::new(damage) }
    }

    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io { op, path: path.to_owned(), source }
    }
}
