//! nano-wal 1.0.0, MIT. An entry goes to the segment by one `writev` under a mutex: the page cache has it when `append` returns, or the
//! disk if the caller asks for that, with the sync under the same mutex, so nobody shares one. Segments end by time alone and are
//! removed when their time is over: here one segment takes all, and a sustained run drops nothing. There are no checksums, no walk over
//! the entries, and an open looks at the newest segment's header alone.
//!
//! Taken: `append`, `append_batch` (one `writev`, so at most 204 entries), `sync`, and `read_at` by the places that `append` returned. As
//! it cannot tell what is in a log, it has no replay. The caller gives the time; it is the same for all entries here, so no clock is
//! read.

use super::{About, Peer, Shared};
use crate::rounds::Promise;
use crate::works::Work;
use anyhow::Result;
use nano_wal::{EntryRef, Segment, Wal, WalOptions, WriteEntry};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What one `writev` takes, at five parts an entry.
const MOST_IN_BATCH: usize = 1024 / 5;
/// Bytes of an entry besides its payload.
const FRAME: usize = 16;
/// A segment's time: it must not end during a run.
const SPAN: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub struct NanoWal {
    wal: Wal,
    /// Milliseconds since 1970.
    now: i64,
    entry: usize,
    segment: Arc<Segment>,
}

impl Peer for NanoWal {
    const ABOUT: About = About {
        name: "nano-wal",
        version: "1.0.0",
        license: "MIT",
        promise: Promise::PageCache,
        verifies: false,
        note: "one segment takes all, as it ends segments by time alone; no checksums; a get needs the place that append returned",
    };
    type Shared = Self;

    fn can(work: Work) -> bool {
        match work {
            Work::Batch { batch, .. } => batch <= MOST_IN_BATCH,
            Work::Replay { .. } => false,
            _ => true,
        }
    }

    fn open(dir: &Path, work: Work) -> Result<Self> {
        let wal = Wal::new(dir, "entries", WalOptions { retention: SPAN, segment_duration: SPAN })?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64;
        let segment = wal.ensure_segment(now)?;
        Ok(NanoWal { wal, now, entry: FRAME + work.size(), segment })
    }

    fn share(self) -> Self {
        self
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        Shared::append(self, &mut (), payload)
    }

    fn append_batch(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let entries: Vec<_> = payloads.iter().map(|content| WriteEntry { header: None, content }).collect();
        self.wal.append_batch(&entries, self.now, false)?;
        Ok(())
    }

    fn append_durable(&mut self, payload: &[u8]) -> Result<u64> {
        Shared::append_durable(self, &mut (), payload)
    }

    fn sync(&mut self) -> Result<()> {
        Ok(self.wal.sync()?)
    }

    fn truncate_before(&mut self, _position: u64) -> Result<()> {
        Ok(())
    }

    fn close(self) -> Result<()> {
        Ok(self.wal.shutdown()?)
    }

    fn get<T>(&mut self, position: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        Ok(look(&self.wal.read_at(&self.segment, position, self.entry)?.content))
    }

    fn holds(&mut self, _count: u64, last: u64) -> Result<bool> {
        Ok(self.segment.file_size() == last + self.entry as u64)
    }
}

impl Shared for NanoWal {
    type Lane = ();

    fn lane(&self, _thread: usize) {}

    #[inline]
    fn append(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        let EntryRef { file_offset, .. } = self.wal.append(None, payload, self.now, false)?;
        Ok(file_offset)
    }

    fn append_durable(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        let EntryRef { file_offset, .. } = self.wal.append(None, payload, self.now, true)?;
        Ok(file_offset)
    }
}
