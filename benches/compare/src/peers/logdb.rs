//! logdb 0.6.0, Apache-2.0. `append` copies the entry into a ring of 8192 slots and returns; a thread of the log writes the ring to the
//! segment by batches of up to 1024 entries, or every 10 ms: the process's memory has it when `append` returns. When the ring is full,
//! `append` waits, so a long run goes at the pace of that thread. `flush` waits until all of the ring is written and synced; several
//! callers share one sync. In the mode `Async`, taken here, nothing else syncs. After each sync the thread writes the segment's index
//! file anew, which costs more than the sync.
//!
//! Taken: `append`, `append_batch`, `flush` after each append where it must be durable, `scan` for a replay, `read` for a get,
//! `RetentionPolicy::MaxBytes` for a sustained run, which flushes on a second thread. Each `read` loads the segment's index file and walks
//! from the entry before that the index knows, so a get takes hundreds of microseconds, and there are but 2000 of them; an index of every
//! 256th entry was the fastest in a large segment. Reading compares the checksum of every entry; one that fails is skipped without a
//! word. An open walks the last segment alone and compares its checksums.
//!
//! When a segment is full to 80%, the next one is made, and gets the number of the entry that would come first if it were begun at once;
//! when it is begun later, that number is wrong. Then `read` does not find the last fifth of the segment before, and the next open takes
//! the whole new segment for torn and cuts it off: of 535443 entries in one and a half segments, a clean close and an open left 356961.
//! The works that read therefore have one segment, half full. A flush of a log that was opened and not appended to never ends, and a
//! close waits five seconds for it: such a log gets one more entry before it is closed, which no row counts.

use super::{About, Peer, Shared, KEEP};
use crate::rounds::Promise;
use crate::works::{Work, SEGMENT};
use anyhow::{Context, Result};
use logdb::{Config, DurabilityMode, LogDb, RetentionPolicy};
use std::path::Path;
use std::time::Duration;

/// Bytes of an entry besides its payload.
const FRAME: u64 = 60;

pub struct Logdb {
    db: LogDb,
    /// Whether this process appended.
    appended: bool,
    /// Entries that a replay reads.
    count: u64,
}

/// The size of a segment that `count` entries fill by half.
fn half_full(size: usize, count: u64) -> u64 {
    2 * count * (FRAME + size as u64)
}

impl Peer for Logdb {
    const ABOUT: About = About {
        name: "logdb",
        version: "0.6.0",
        license: "Apache-2.0",
        promise: Promise::Memory,
        verifies: true,
        note: "its sync writes an index file anew; a clean close and an open lose the last of several segments, so open, replay and get \
               have one; at most 2 Mi entries, the open's time scaled up; 2000 gets",
    };
    const MOST_READ: u64 = 2 << 20;
    const GETS: usize = 2000;
    const SYNCS_ASIDE: bool = true;
    const HAS_LATENCIES: bool = true;
    type Shared = Self;

    fn can(_work: Work) -> bool {
        true
    }

    fn open(dir: &Path, work: Work) -> Result<Self> {
        let mut config = Config { data_dir: dir.into(), durability_mode: DurabilityMode::Async, ..Config::default() };
        let mut count = 0;
        match work {
            Work::OpenClean { size, bytes } | Work::Replay { size, bytes } | Work::Get { size, bytes } => {
                count = (bytes / size as u64).min(Self::MOST_READ);
                config.segment_size = half_full(size, count);
                config.index_stride = 256;
            }
            Work::Sustained { .. } => {
                config.segment_size = SEGMENT;
                config.retention = RetentionPolicy::MaxBytes(KEEP);
            }
            _ => config.segment_size = SEGMENT,
        }
        Ok(Logdb { db: LogDb::open(config)?, appended: false, count })
    }

    fn share(self) -> Self {
        self
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        self.appended = true;
        Ok(self.db.append(payload)?)
    }

    fn append_batch(&mut self, payloads: &[&[u8]]) -> Result<()> {
        self.appended = true;
        self.db.append_batch(payloads)?;
        Ok(())
    }

    fn append_durable(&mut self, payload: &[u8]) -> Result<u64> {
        self.appended = true;
        Shared::append_durable(self, &mut (), payload)
    }

    fn close(self) -> Result<()> {
        if !self.appended {
            self.db.append(b"closed")?;
        }
        self.db.shutdown(Duration::from_secs(60))?;
        Ok(())
    }

    fn replay(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        for record in self.db.scan(0, self.count)? {
            each(&record?.content);
        }
        Ok(())
    }

    fn get<T>(&mut self, position: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let record = self.db.read(position)?.with_context(|| format!("entry {position}"))?;
        Ok(look(&record.content))
    }

    fn holds(&mut self, _count: u64, last: u64) -> Result<bool> {
        Ok(self.db.read(last)?.is_some())
    }
}

impl Shared for Logdb {
    type Lane = ();

    fn lane(&self, _thread: usize) {}

    #[inline]
    fn append(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        Ok(self.db.append(payload)?)
    }

    fn append_durable(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        let seq = self.db.append(payload)?;
        self.db.flush()?;
        Ok(seq)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.flush()?)
    }

    /// Retention does it whenever a segment is full.
    fn truncate_before(&self, _position: u64) -> Result<()> {
        Ok(())
    }
}
