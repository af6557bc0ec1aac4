//! What recovery found, for the caller.

use crate::error::Damage;
use std::fmt;
use std::time::Duration;

/// What [`open`](crate::Options::open) found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The log was closed properly: nothing had to be scanned, and nothing was unless that was asked for. True for a new log.
    pub clean: bool,
    /// Segments that hold entries.
    pub segments: u64,
    /// Entries that were read and checked.
    pub entries_scanned: u64,
    /// Bytes of frames that were read and checked.
    pub bytes_scanned: u64,
    /// Everything up to this seq was proven to have been durable. What lies above it was kept because it was intact.
    pub proven_seq: u64,
    /// The last seq that was kept; one less than the first seq of an empty log.
    pub last_seq: u64,
    /// Bytes past the last entry that was kept, and that were dropped: appends that had not been acked as durable when the crash
    /// came, or, if [`proven_seq`](Self::proven_seq) is below [`last_seq`](Self::last_seq), possibly the last group that was.
    pub torn_bytes: u64,
    /// Everything that is lost, each stretch once. Empty unless the log was opened to salvage.
    pub losses: Vec<Damage>,
    /// What an operator should know: foreign files, a repaired manifest slot.
    pub notes: Vec<String>,
    /// How long it took, writing and syncing included.
    pub duration: Duration,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.clean { "clean" } else { "recovered after a crash" };
        writeln!(
            f,
            "{how}: {} segments, last seq {}, proven up to seq {}",
            self.segments, self.last_seq, self.proven_seq
        )?;
        write!(f, "scanned {} entries, {} bytes", self.entries_scanned, self.bytes_scanned)?;
        write!(f, "; torn tail of {} bytes dropped; took {:?}", self.torn_bytes, self.duration)?;
        self.losses.iter().try_for_each(|loss| write!(f, "\nlost: {loss}"))?;
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}
