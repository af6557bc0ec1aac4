//! raft-engine 0.4.2, Apache-2.0. It keeps the entries of many Raft groups in one log, with an index of all of them in memory. A batch is
//! encoded, goes to the file by one `pwrite`, and into the index: the page cache has it when `write` without a sync returns. Writers
//! queue; who is first writes for all that wait, and syncs once if one of them asked for that.
//!
//! An entry is a Protocol Buffers message that knows its index: here `BytesValue`, whose first eight bytes are the index. A batch of one
//! entry an append; each thread has a group of its own, as indexes must follow each other in a group. Compression is off, as nobody else
//! compresses. `Engine::sync` returns without doing anything, as it writes an empty batch: a sync is the removal of a key that is not
//! there, written with a sync. A replay fetches 1024 entries at a time, a get one; both read the entry's batch by one `pread` and compare
//! its checksum. A sustained run compacts its group and purges files. An open reads all batches and builds the index, with four threads.

use super::{About, Peer, Shared, KEEP};
use crate::rounds::Promise;
use crate::works::{Work, SEGMENT};
use anyhow::{Context, Result};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use std::path::Path;

/// Entries that a replay fetches at a time.
const FETCHED_AT_ONCE: u64 = 1024;

#[derive(Clone)]
struct Bytes;

impl MessageExt for Bytes {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

pub struct RaftEngine {
    engine: Engine,
    lane: Lane,
}

/// One group, and what is needed to write to it.
pub struct Lane {
    group: u64,
    index: u64,
    entries: Vec<BytesValue>,
    batch: LogBatch,
}

impl Lane {
    fn new(group: u64) -> Lane {
        Lane { group, index: 0, entries: vec![BytesValue::default()], batch: LogBatch::default() }
    }

    /// Writes one batch; its last index.
    #[inline]
    fn write(&mut self, engine: &Engine, payloads: &[&[u8]], sync: bool) -> Result<u64> {
        self.entries.resize_with(payloads.len(), BytesValue::default);
        for (entry, payload) in self.entries.iter_mut().zip(payloads) {
            self.index += 1;
            entry.value.clear();
            entry.value.extend_from_slice(payload);
            if let Some(index) = entry.value.first_chunk_mut() {
                *index = self.index.to_le_bytes();
            }
        }
        self.batch.add_entries::<Bytes>(self.group, &self.entries)?;
        engine.write(&mut self.batch, sync)?;
        Ok(self.index)
    }
}

impl Peer for RaftEngine {
    const ABOUT: About = About {
        name: "raft-engine",
        version: "0.4.2",
        license: "Apache-2.0",
        promise: Promise::PageCache,
        verifies: true,
        note: "each thread appends to a group of its own; an index of all entries is kept in memory; its Engine::sync syncs nothing; \
               opens, replays and gets from at most 2 Mi entries; the open's time is scaled up to what was asked for",
    };
    const MOST_READ: u64 = 2 << 20;
    type Shared = Engine;

    fn can(_work: Work) -> bool {
        true
    }

    fn open(dir: &Path, work: Work) -> Result<Self> {
        let mut config = Config {
            dir: dir.to_str().context("a directory's name")?.to_owned(),
            target_file_size: ReadableSize(SEGMENT),
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        if let Work::Sustained { .. } = work {
            config.purge_threshold = ReadableSize(KEEP);
        }
        let engine = Engine::open(config)?;
        Ok(RaftEngine { engine, lane: Lane::new(1) })
    }

    fn share(self) -> Engine {
        self.engine
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        self.lane.write(&self.engine, &[payload], false)
    }

    fn append_batch(&mut self, payloads: &[&[u8]]) -> Result<()> {
        self.lane.write(&self.engine, payloads, false)?;
        Ok(())
    }

    fn append_durable(&mut self, payload: &[u8]) -> Result<u64> {
        self.lane.write(&self.engine, &[payload], true)
    }

    fn sync(&mut self) -> Result<()> {
        self.lane.batch.delete(self.lane.group, b"none".to_vec());
        self.engine.write(&mut self.lane.batch, true)?;
        Ok(())
    }

    fn truncate_before(&mut self, position: u64) -> Result<()> {
        self.engine.compact_to(self.lane.group, position);
        self.engine.purge_expired_files()?;
        Ok(())
    }

    fn replay(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let Some(last) = self.engine.last_index(1) else {
            return Ok(());
        };
        let mut entries = Vec::new();
        for first in (1..=last).step_by(FETCHED_AT_ONCE as usize) {
            let end = (first + FETCHED_AT_ONCE).min(last + 1);
            self.engine.fetch_entries_to::<Bytes>(1, first, end, None, &mut entries)?;
            for entry in entries.drain(..) {
                each(&entry.value);
            }
        }
        Ok(())
    }

    fn get<T>(&mut self, position: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let entry = self.engine.get_entry::<Bytes>(1, position)?.with_context(|| format!("entry {position}"))?;
        Ok(look(&entry.value))
    }

    fn holds(&mut self, _count: u64, last: u64) -> Result<bool> {
        Ok(self.engine.last_index(1) == Some(last))
    }
}

impl Shared for Engine {
    type Lane = Lane;

    fn lane(&self, thread: usize) -> Lane {
        Lane::new(thread as u64 + 1)
    }

    #[inline]
    fn append(&self, lane: &mut Lane, payload: &[u8]) -> Result<u64> {
        lane.write(self, &[payload], false)
    }

    fn append_durable(&self, lane: &mut Lane, payload: &[u8]) -> Result<u64> {
        lane.write(self, &[payload], true)
    }
}
