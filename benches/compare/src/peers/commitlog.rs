//! commitlog 0.2.0, MIT. An entry goes to its segment by one `write`, and its offset into a mapped index: the page cache has it when
//! `append` returns. `flush` calls `File::flush`, which does nothing to a file, and flushes whole pages of the index: nothing is ever
//! made durable on demand, so there are no durable rows and no sustained one. The log is for one thread at a time; here a mutex shares
//! it. It drops only what is newest.
//!
//! Taken: one `MessageBuf` that is cleared and filled again (`append_msg` would allocate one an entry), `append`, and `read` of 256 KiB
//! at a time for a replay and of one entry for a get. `read` compares the checksum of every entry. An open maps the indexes and looks
//! for their ends by halving; it reads no entry. An index is made for as many entries as a segment can hold.

use super::{About, Peer};
use crate::rounds::Promise;
use crate::works::{Work, SEGMENT};
use anyhow::{anyhow, Context, Result};
use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};
use parking_lot::Mutex;
use std::path::Path;

/// Bytes before a payload.
const HEADER: usize = 20;
const REPLAYED_AT_ONCE: usize = 256 << 10;

pub struct Commitlog {
    log: CommitLog,
    message: MessageBuf,
    one: ReadLimit,
}

impl Commitlog {
    fn fill(&mut self, payload: &[u8]) -> Result<()> {
        self.message.push(payload).map_err(|error| anyhow!("{error:?}"))
    }
}

impl Peer for Commitlog {
    const ABOUT: About = About {
        name: "commitlog",
        version: "0.2.0",
        license: "MIT",
        promise: Promise::PageCache,
        verifies: true,
        note: "its flush does not sync; an open reads no entry",
    };
    type Shared = Mutex<Self>;

    fn can(work: Work) -> bool {
        !matches!(work, Work::Durable { .. } | Work::Group { .. } | Work::Sustained { .. })
    }

    fn open(dir: &Path, work: Work) -> Result<Self> {
        let entry = HEADER + work.size();
        let mut options = LogOptions::new(dir);
        // An index that is exactly full cannot be appended to when it is opened again.
        options.segment_max_bytes(SEGMENT as usize).index_max_items(SEGMENT as usize / entry + 1024);
        options.message_max_bytes(16 << 20);
        Ok(Commitlog {
            log: CommitLog::new(options)?,
            message: MessageBuf::default(),
            one: ReadLimit::max_bytes(entry + 1),
        })
    }

    fn share(self) -> Mutex<Self> {
        Mutex::new(self)
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        self.message.clear();
        self.fill(payload)?;
        Ok(self.log.append(&mut self.message)?.first())
    }

    fn append_batch(&mut self, payloads: &[&[u8]]) -> Result<()> {
        self.message.clear();
        for payload in payloads {
            self.fill(payload)?;
        }
        self.log.append(&mut self.message)?;
        Ok(())
    }

    fn replay(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut next = 0;
        loop {
            let messages = self.log.read(next, ReadLimit::max_bytes(REPLAYED_AT_ONCE))?;
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages.iter() {
                each(message.payload());
            }
            next += messages.len() as u64;
        }
    }

    fn get<T>(&mut self, position: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let messages = self.log.read(position, self.one)?;
        let message = messages.iter().next().with_context(|| format!("entry {position}"))?;
        Ok(look(message.payload()))
    }

    fn holds(&mut self, count: u64, _last: u64) -> Result<bool> {
        Ok(self.log.next_offset() == count)
    }
}
