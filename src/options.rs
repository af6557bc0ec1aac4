//! How a log is opened and how it acks: the builder [`Options`] and the choices in it.
//!
//! Options are refused, never adjusted, and never make entries invalid that an earlier open wrote.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::{frame, segment};

/// When an append is acknowledged as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// `append` returns when its entry is durable. Threads that append at once share a sync (group commit).
    #[default]
    Immediate,
    /// The append that fills either bound since the last sync syncs and waits; the others return at once. A rest below both bounds
    /// is synced by nobody but [`sync`](crate::Log::sync), [`wait_durable`](crate::Log::wait_durable) and
    /// [`close`](crate::Log::close): a power cut may take it.
    Batch {
        /// Unsynced entries that trigger a sync. At least 1.
        entries: u32,
        /// Unsynced bytes of payload, as stored, that trigger a sync. At least 1.
        bytes: u64,
    },
    /// A thread of the log syncs this often when there is something new; `append` never waits. A power cut takes at most what was
    /// appended in the last interval. Longer than zero.
    Interval(Duration),
    /// Only `sync`, `wait_durable` and `close` make entries durable.
    Manual,
}

/// Whether payloads are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Payloads are stored as they are, and read without a copy.
    #[default]
    None,
    /// Payloads of at least `min_size` bytes are stored as an LZ4 block where that saves space; reading one allocates.
    Lz4 {
        /// Smallest payload that is tried, in bytes.
        min_size: u32,
    },
}

/// What [`open`](Options::open) does with damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecoveryMode {
    /// Drops a torn tail, refuses to open on damage.
    #[default]
    Strict,
    /// Opens whatever is left: reads and checks every byte (as with [`Verify::All`]), skips damage, and lists every loss in the
    /// [`RecoveryReport`](crate::RecoveryReport). Changes no file until the first append or truncate. New entries get seqs above
    /// all that ever were. Later strict opens refuse until the damage is truncated away.
    ///
    /// Where the damage took the only record of where a truncation had ended a segment, the last entries that are read from it may
    /// be ones that had been truncated: the report's `notes` name that segment.
    Salvage,
}

/// How much [`open`](Options::open) reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// What no witness covers: nothing after a clean close, the last few MiB after a crash.
    #[default]
    Unproven,
    /// Every byte of every segment.
    All,
}

/// When one append is acknowledged, whatever the [`SyncPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Return as soon as the entry is in the page cache: a killed process does not lose it, a power cut may.
    Buffered,
    /// Return when the entry is durable.
    Durable,
}

/// How to open a [`Log`](crate::Log): a builder by value.
///
/// ```
/// use maplog::{Options, SyncPolicy};
/// # let dir = tempfile::tempdir()?;
/// let log = Options::new().segment_size(16 << 20).sync_policy(SyncPolicy::Manual).open(dir.path())?;
/// # drop(log);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub(crate) segment_size: u64,
    max_entry_size: Option<u32>,
    pub(crate) sync_policy: SyncPolicy,
    pub(crate) compression: Compression,
    pub(crate) recovery: RecoveryMode,
    pub(crate) verify: Verify,
    pub(crate) max_concurrent_writes: u32,
    pub(crate) create: bool,
}

const MIN_SEGMENT_SIZE: u64 = 8 << 10;
const MAX_SEGMENT_SIZE: u64 = 4 << 30;
const SEGMENT_SIZE_STEP: u64 = 4 << 10;
const DEFAULT_MAX_ENTRY_SIZE: u32 = 16 << 20;

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_size: 64 << 20,
            max_entry_size: None,
            sync_policy: SyncPolicy::default(),
            compression: Compression::default(),
            recovery: RecoveryMode::default(),
            verify: Verify::default(),
            max_concurrent_writes: 1024,
            create: true,
        }
    }
}

impl Options {
    /// The defaults: 64 MiB segments, [`SyncPolicy::Immediate`], no compression, [`RecoveryMode::Strict`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Size of a new segment file in bytes: 8 KiB to 4 GiB, a multiple of 4 KiB. Default 64 MiB. Files that are there keep theirs.
    ///
    /// Small segments give space back sooner and rotate more often; a batch must fit one.
    #[must_use]
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.segment_size = bytes;
        self
    }

    /// Largest payload in bytes. Default 16 MiB, or what a segment holds if that is less. At most what a segment holds: its size
    /// less 160 bytes. Longer payloads are refused with [`Error::EntryTooLarge`]; entries that are there stay valid.
    #[must_use]
    pub fn max_entry_size(mut self, bytes: u32) -> Self {
        self.max_entry_size = Some(bytes);
        self
    }

    /// When `append` acks. Default [`SyncPolicy::Immediate`].
    #[must_use]
    pub fn sync_policy(mut self, policy: SyncPolicy) -> Self {
        self.sync_policy = policy;
        self
    }

    /// Whether payloads are compressed. Default [`Compression::None`].
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// What to do with damage. Default [`RecoveryMode::Strict`].
    #[must_use]
    pub fn recovery(mut self, mode: RecoveryMode) -> Self {
        self.recovery = mode;
        self
    }

    /// How much to read at open. Default [`Verify::Unproven`].
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// How many callers may wait for durability at once; more of them block before they append. At least 1. Default 1024.
    #[must_use]
    pub fn max_concurrent_writes(mut self, callers: u32) -> Self {
        self.max_concurrent_writes = callers;
        self
    }

    /// Whether to make the directory, with its parents, and a new log in it if there is none. Default true.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Checks every option against its range.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] names the field, the value and the range.
    pub fn validate(&self) -> Result<()> {
        let size = self.segment_size;
        if !(MIN_SEGMENT_SIZE..=MAX_SEGMENT_SIZE).contains(&size) || size % SEGMENT_SIZE_STEP != 0 {
            return refuse("segment_size", size, "8192 to 4294967296 bytes, a multiple of 4096");
        }
        if let Some(bytes) = self.max_entry_size {
            let most = self.segment_payload_max();
            if bytes == 0 || u64::from(bytes) > u64::from(most) {
                return refuse("max_entry_size", bytes, format!("1 to {most} bytes for segments of {size} bytes"));
            }
        }
        match self.sync_policy {
            SyncPolicy::Batch { entries: 0, .. } => refuse("sync_policy.batch.entries", 0, "at least 1"),
            SyncPolicy::Batch { bytes: 0, .. } => refuse("sync_policy.batch.bytes", 0, "at least 1"),
            SyncPolicy::Interval(Duration::ZERO) => refuse("sync_policy.interval", "0s", "longer than zero"),
            _ if self.max_concurrent_writes == 0 => refuse("max_concurrent_writes", 0, "at least 1"),
            _ => Ok(()),
        }
    }

    /// The largest payload this log takes, in bytes.
    pub(crate) fn entry_max(&self) -> u32 {
        self.max_entry_size.unwrap_or(DEFAULT_MAX_ENTRY_SIZE.min(self.segment_payload_max()))
    }

    /// The largest payload that a segment holds, in bytes.
    fn segment_payload_max(&self) -> u32 {
        let room = self.segment_size - segment::FRAMES_OFFSET - frame::HEADER_LEN as u64;
        u32::try_from(room).unwrap_or(u32::MAX)
    }
}

fn refuse(field: &'static str, value: impl ToString, allowed: impl Into<String>) -> Result<()> {
    Err(Error::InvalidOptions { field, value: value.to_string(), allowed: allowed.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_every_bound() {
        let ok = |o: Options| o.validate().is_ok();
        let o = Options::new;
        assert!(ok(o()));
        for (size, legal) in [(4096, false), (8192, true), (8193, false), (4 << 30, true), ((4u64 << 30) + 4096, false)]
        {
            assert_eq!(ok(o().segment_size(size)), legal, "{size}");
        }
        for (max, legal) in [(0, false), (1, true), (8192 - 160, true), (8192 - 159, false)] {
            assert_eq!(ok(o().segment_size(8192).max_entry_size(max)), legal, "{max}");
        }
        assert!(!ok(o().sync_policy(SyncPolicy::Batch { entries: 0, bytes: 1 })));
        assert!(!ok(o().sync_policy(SyncPolicy::Batch { entries: 1, bytes: 0 })));
        assert!(ok(o().sync_policy(SyncPolicy::Batch { entries: 1, bytes: 1 })));
        assert!(!ok(o().sync_policy(SyncPolicy::Interval(Duration::ZERO))));
        assert!(!ok(o().max_concurrent_writes(0)));
    }

    #[test]
    fn the_default_entry_size_follows_small_segments() {
        assert_eq!(Options::new().entry_max(), 16 << 20);
        assert_eq!(Options::new().segment_size(8192).entry_max(), 8192 - 160);
        assert_eq!(Options::new().segment_size(4 << 30).max_entry_size(u32::MAX - 200).entry_max(), u32::MAX - 200);
    }
}
