//! open-wal 0.2.1, BSD-3-Clause. `append` adds the entry to a buffer and does nothing else: the process's memory has it, and nothing is
//! written before `commit`, which writes the buffer by one `pwrite` a segment and syncs it. So its rows without a sync say what a copy
//! and a checksum cost. The log is for one thread at a time, by its type; here a mutex shares it, and each thread commits for itself.
//!
//! Taken: `append`, `commit`, `reader_from` for a replay, `checkpoint` to drop old segments. It has no batches, and reads by a walk from
//! the first entry, so it has no get. An open reads every entry and compares its checksum; the reader does so again. A segment is made,
//! with its blocks, when the one before is full, by the caller of `commit`.

use super::{About, Peer};
use crate::rounds::Promise;
use crate::works::{Work, SEGMENT};
use anyhow::Result;
use open_wal::{Lsn, Wal, WalConfig};
use parking_lot::Mutex;
use std::path::Path;

/// Entries of one commit where the time does not count.
const WRITTEN_AT_ONCE: u64 = 8 << 10;

pub struct OpenWal(Wal);

impl Peer for OpenWal {
    const ABOUT: About = About {
        name: "open-wal",
        version: "0.2.1",
        license: "BSD-3-Clause",
        promise: Promise::Memory,
        verifies: true,
        note: "append fills a buffer that nothing but commit, which syncs, ever writes; opens and replays at most 2 Mi entries; the \
               open's time is scaled up to what was asked for",
    };
    const MOST_READ: u64 = 2 << 20;
    type Shared = Mutex<Self>;

    fn can(work: Work) -> bool {
        !matches!(work, Work::Batch { .. } | Work::Get { .. })
    }

    fn open(dir: &Path, work: Work) -> Result<Self> {
        let config = WalConfig { segment_size: SEGMENT, ..WalConfig::default() };
        let (mut wal, _report) = Wal::open(dir, config)?;
        if let Work::Append { size, count, .. } = work {
            // The buffer keeps its memory from one commit to the next: a run must not begin with none.
            let payload = super::payload(size);
            for _ in 0..count {
                wal.append(&payload)?;
            }
            wal.commit()?;
        }
        Ok(OpenWal(wal))
    }

    fn share(self) -> Mutex<Self> {
        Mutex::new(self)
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        Ok(self.0.append(payload)?.0)
    }

    fn append_durable(&mut self, payload: &[u8]) -> Result<u64> {
        let lsn = self.0.append(payload)?;
        self.0.commit()?;
        Ok(lsn.0)
    }

    fn sync(&mut self) -> Result<()> {
        self.0.commit()?;
        Ok(())
    }

    fn truncate_before(&mut self, position: u64) -> Result<()> {
        Ok(self.0.checkpoint(Lsn(position - 1))?)
    }

    fn close(mut self) -> Result<()> {
        self.0.commit()?;
        Ok(())
    }

    fn replay(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut reader = self.0.reader_from(Lsn(0))?;
        while let Some(record) = reader.next() {
            each(record?.1);
        }
        Ok(())
    }

    /// Commits now and then, so that the buffer need not hold all.
    fn write(dir: &Path, work: Work, payload: &[u8], count: u64) -> Result<Vec<u64>> {
        let OpenWal(mut wal) = Self::open(dir, work)?;
        let mut positions = Vec::with_capacity(count as usize);
        for n in 1..=count {
            positions.push(wal.append(payload)?.0);
            if n % WRITTEN_AT_ONCE == 0 {
                wal.commit()?;
            }
        }
        wal.commit()?;
        Ok(positions)
    }

    fn holds(&mut self, _count: u64, last: u64) -> Result<bool> {
        Ok(self.0.durable_lsn() == Lsn(last))
    }
}
