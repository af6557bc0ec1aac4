//! okaywal 0.3.1, MIT or Apache-2.0. An entry is a row of chunks, and `commit` returns when it is on the disk; several callers share one
//! `fdatasync`. There is no append without a sync, so there are no rows for one. When a file has taken `checkpoint_after_bytes`, a thread
//! of the log hands it to the caller's manager, whose data it is from then on, and uses the file again.
//!
//! A durable append is an entry of one chunk. Where a log is filled (open, replay, sustained), a payload is a chunk, and an entry has as
//! many as make 16 MiB. A sustained run commits each of them, and files go round as above. A log that is to be opened is one file: only
//! the file that is written is never handed over. An open is a recovery: it gives each entry to the manager, which reads the payloads and
//! compares their checksums. So the replay's time is that of a whole open. (A manager that skips a payload with `skip_remaining_bytes`
//! loses the entries after it: the end of the chunk is skipped a second time when it is dropped.) Places to read from are void after an
//! open, so there is no get.

use super::{About, Found, Peer, Shared, SYNC_EVERY};
use crate::machine::pinned;
use crate::rounds::Promise;
use crate::tails::Watch;
use crate::works::{Work, SEGMENT};
use anyhow::{Context, Result};
use okaywal::{Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog};
use parking_lot::Mutex;
use std::hint::black_box;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Room in a file besides the bytes after which it is handed over, as its documentation asks for.
const ROOM: u64 = 2 * SYNC_EVERY;

pub struct OkayWal {
    log: WriteAheadLog,
    recovered: Arc<Mutex<Found>>,
}

/// What an open does with the chunks that it finds.
#[derive(Debug)]
struct Manager {
    found: Arc<Mutex<Found>>,
    payload: Vec<u8>,
}

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut found = self.found.lock();
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            self.payload.resize(chunk.bytes_remaining() as usize, 0);
            chunk.read_exact(&mut self.payload)?;
            if !chunk.check_crc()? {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a checksum differs"));
            }
            found.look(&self.payload);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _last: EntryId, _entries: &mut SegmentReader, _log: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

impl OkayWal {
    /// Appends `count` payloads by entries of [`SYNC_EVERY`]. The ids of the entries, one a payload.
    fn fill(&self, payload: &[u8], count: u64, mut appended: impl FnMut(EntryId)) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let chunks = left.min(SYNC_EVERY / payload.len() as u64);
            let mut entry = self.log.begin_entry()?;
            for _ in 0..chunks {
                entry.write_chunk(black_box(payload))?;
                appended(entry.id());
            }
            entry.commit()?;
            left -= chunks;
        }
        Ok(())
    }
}

impl Peer for OkayWal {
    const ABOUT: About = About {
        name: "okaywal",
        version: "0.3.1",
        license: "MIT OR Apache-2.0",
        promise: Promise::Durable,
        verifies: true,
        note: "cannot append without a sync; opens and replays at most 2 Mi payloads, as chunks of a few entries in one file; \
               the open's time is scaled up, the replay is an open",
    };
    const MOST_READ: u64 = 2 << 20;
    type Shared = Self;

    fn can(work: Work) -> bool {
        matches!(
            work,
            Work::Durable { .. }
                | Work::Group { .. }
                | Work::OpenClean { .. }
                | Work::Replay { .. }
                | Work::Sustained { .. }
        )
    }

    fn open(dir: &Path, work: Work) -> Result<Self> {
        let recovered = Arc::new(Mutex::new(Found::default()));
        let hand_over_after = match work {
            Work::OpenClean { .. } | Work::Replay { .. } => u64::MAX,
            _ => SEGMENT,
        };
        let log = Configuration::default_for(dir)
            .preallocate_bytes((SEGMENT + ROOM) as u32)
            .checkpoint_after_bytes(hand_over_after)
            .buffer_bytes(64 << 10)
            .open(Manager { found: Arc::clone(&recovered), payload: Vec::new() })?;
        Ok(OkayWal { log, recovered })
    }

    fn share(self) -> Self {
        self
    }

    fn append_durable(&mut self, payload: &[u8]) -> Result<u64> {
        Shared::append_durable(self, &mut (), payload)
    }

    fn close(self) -> Result<()> {
        self.log.shutdown().context("the log's thread")
    }

    fn holds(&mut self, count: u64, _last: u64) -> Result<bool> {
        Ok(self.recovered.lock().entries == count)
    }

    fn write(dir: &Path, work: Work, payload: &[u8], count: u64) -> Result<Vec<u64>> {
        let peer = Self::open(dir, work)?;
        let mut positions = Vec::with_capacity(count as usize);
        peer.fill(payload, count, |id| positions.push(id.0))?;
        peer.close()?;
        Ok(positions)
    }

    fn timed_replay(dir: &Path, work: Work) -> Result<(Duration, Found)> {
        let start = Instant::now();
        let peer = pinned(|| Self::open(dir, work))?;
        let elapsed = start.elapsed();
        let found = *peer.recovered.lock();
        peer.close()?;
        Ok((elapsed, found))
    }

    fn timed_sustained(self, payload: &[u8], count: u64, _watch: &mut impl Watch) -> Result<Duration> {
        let start = Instant::now();
        self.fill(payload, count, |_| ())?;
        let elapsed = start.elapsed();
        self.close()?;
        Ok(elapsed)
    }
}

impl Shared for OkayWal {
    type Lane = ();

    fn lane(&self, _thread: usize) {}

    fn append(&self, (): &mut (), _payload: &[u8]) -> Result<u64> {
        super::unsupported::<Self, _>()
    }

    fn append_durable(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(payload)?;
        Ok(entry.commit()?.0)
    }
}
