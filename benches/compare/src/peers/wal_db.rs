//! wal-db 1.1.0, Apache-2.0 or MIT. `append` takes its place by one atomic addition and writes it by one `pwrite`: the page cache has it
//! when `append` returns. Several callers of `sync` share one `fdatasync`. A log is a row of bytes, cut into files; a sequence number is
//! a place in it.
//!
//! Taken: `open_segmented`, `append`, `append_and_sync`, `iter`, and `iter_from` with one step for a get, which needs the number that
//! `append` returned. It has no batches. A sustained run syncs on a second thread; `truncate_before` must have the log for itself, so it
//! is called between two syncs. An open reads every entry, with two calls each, and compares its checksum; a replay does both again.

use super::{About, Peer, Shared};
use crate::rounds::Promise;
use crate::works::{Work, SEGMENT};
use anyhow::{Context, Result};
use std::path::Path;
use wal_db::{Lsn, SegmentedStore, Wal};

/// Bytes before a payload.
const HEADER: u64 = 8;

pub struct WalDb {
    wal: Wal<SegmentedStore>,
    entry: u64,
}

impl Peer for WalDb {
    const ABOUT: About = About {
        name: "wal-db",
        version: "1.1.0",
        license: "Apache-2.0 OR MIT",
        promise: Promise::PageCache,
        verifies: true,
        note: "opens, replays and gets from at most 2 Mi entries; the open's time is scaled up to what was asked for",
    };
    const MOST_READ: u64 = 2 << 20;
    const SYNCS_ASIDE: bool = true;
    type Shared = Self;

    fn can(work: Work) -> bool {
        !matches!(work, Work::Batch { .. })
    }

    fn open(dir: &Path, work: Work) -> Result<Self> {
        Ok(WalDb { wal: Wal::open_segmented(dir, SEGMENT)?, entry: HEADER + work.size() as u64 })
    }

    fn share(self) -> Self {
        self
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        Ok(self.wal.append(payload)?.get())
    }

    fn append_durable(&mut self, payload: &[u8]) -> Result<u64> {
        Ok(self.wal.append_and_sync(payload)?.get())
    }

    fn replay(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        for record in self.wal.iter()? {
            each(record?.data());
        }
        Ok(())
    }

    fn get<T>(&mut self, position: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let record = self.wal.iter_from(Lsn::new(position))?.next().with_context(|| format!("entry {position}"))??;
        Ok(look(record.data()))
    }

    fn holds(&mut self, _count: u64, last: u64) -> Result<bool> {
        Ok(self.wal.len() == last + self.entry)
    }
}

impl Shared for WalDb {
    type Lane = ();

    fn lane(&self, _thread: usize) {}

    #[inline]
    fn append(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        Ok(self.wal.append(payload)?.get())
    }

    fn append_durable(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        Ok(self.wal.append_and_sync(payload)?.get())
    }

    fn sync(&self) -> Result<()> {
        Ok(self.wal.sync()?)
    }

    fn truncate_before(&self, position: u64) -> Result<()> {
        let _head = self.wal.truncate_before(Lsn::new(position))?;
        Ok(())
    }
}
