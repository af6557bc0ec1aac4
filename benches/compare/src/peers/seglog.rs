//! seglog 0.3.6, Apache-2.0. It writes and reads one segment file; the log made of several is the caller's, here this file. An entry goes
//! into a buffer of 16 KiB: the process's memory has it when `append` returns. An open keeps what lies before the last commit mark, and
//! `commit` writes such a mark and syncs: a durable append is an append with a commit, and a full segment is committed. A batch cannot be
//! written without a sync, so there is no row for batches. A writer is for one thread at a time; here a mutex shares it.
//!
//! Taken: `Writer::append_data` and `commit`, `Reader::iter` for a replay, `read_record` with `ReadHint::Random` for a get, by the places
//! that `append` returned; both compare checksums. An open opens the last segment for writing, which reads that one and compares its
//! checksums, and the others for reading, which reads nothing. Old segments are removed by this file. A segment is made, with its blocks,
//! by the append that needs it.

use super::{About, Peer};
use crate::rounds::Promise;
use crate::works::{Work, SEGMENT};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use seglog::read::{ReadHint, Reader};
use seglog::write::Writer;
use std::fs;
use std::path::{Path, PathBuf};

pub struct Seglog {
    dir: PathBuf,
    writer: Writer<0>,
    /// Of the oldest segment.
    first: u64,
    /// Of the segment that is written. A position is a segment's number and a place in it, 32 bits each.
    last: u64,
    appended: u64,
    readers: Vec<Reader<0>>,
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}"))
}

/// What is kept free at the end of a segment, for the commit mark.
const MARK: u64 = 32;

impl Seglog {
    fn roll(&mut self) -> Result<()> {
        self.writer.commit(self.appended)?;
        self.last += 1;
        self.writer = Writer::create(segment(&self.dir, self.last), SEGMENT as usize, 0)?;
        Ok(())
    }
}

impl Peer for Seglog {
    const ABOUT: About = About {
        name: "seglog",
        version: "0.3.6",
        license: "Apache-2.0",
        promise: Promise::Memory,
        verifies: true,
        note: "one segment is its business, the log is ours; an open checks the last segment alone; a get needs the place that append \
               returned",
    };
    const HAS_LATENCIES: bool = true;
    type Shared = Mutex<Self>;

    fn can(work: Work) -> bool {
        !matches!(work, Work::Batch { .. })
    }

    fn open(dir: &Path, _work: Work) -> Result<Self> {
        let segments = fs::read_dir(dir)?.count() as u64;
        let mut readers = Vec::new();
        let writer = if segments == 0 {
            Writer::create(segment(dir, 0), SEGMENT as usize, 0)?
        } else {
            for number in 0..segments - 1 {
                readers.push(Reader::open_read_only(segment(dir, number), None)?);
            }
            let path = segment(dir, segments - 1);
            let writer = Writer::open(&path, SEGMENT as usize, 0)?;
            readers.push(Reader::open_read_only(&path, Some(writer.flushed_offset()))?);
            writer
        };
        Ok(Seglog { dir: dir.into(), writer, first: 0, last: segments.saturating_sub(1), appended: 0, readers })
    }

    fn share(self) -> Mutex<Self> {
        Mutex::new(self)
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        self.appended += 1;
        if self.writer.remaining_bytes() < payload.len() as u64 + MARK {
            self.roll()?;
        }
        let (offset, _) = self.writer.append_data(payload)?;
        Ok(self.last << 32 | offset)
    }

    fn append_durable(&mut self, payload: &[u8]) -> Result<u64> {
        let position = self.append(payload)?;
        self.writer.commit(self.appended)?;
        Ok(position)
    }

    fn sync(&mut self) -> Result<()> {
        self.writer.commit(self.appended)?;
        Ok(())
    }

    fn truncate_before(&mut self, position: u64) -> Result<()> {
        while self.first < position >> 32 {
            fs::remove_file(segment(&self.dir, self.first))?;
            self.first += 1;
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        if self.appended > 0 {
            self.sync()?;
        }
        Ok(())
    }

    fn replay(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        for reader in &mut self.readers {
            let mut entries = reader.iter(0);
            while let Some(entry) = entries.next_record()? {
                each(&entry.data);
            }
        }
        Ok(())
    }

    fn get<T>(&mut self, position: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let reader = self.readers.get_mut((position >> 32) as usize).with_context(|| format!("entry {position}"))?;
        Ok(look(&reader.read_record(position & u64::from(u32::MAX), ReadHint::Random)?.data))
    }

    fn holds(&mut self, _count: u64, last: u64) -> Result<bool> {
        Ok(self.get(last, |payload| payload.len()).is_ok())
    }
}
