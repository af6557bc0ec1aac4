//! The segment that is appended to, and what it takes to make a segment durable.

use super::health::Health;
use super::sealed::Segment;
use crate::error::{Error, Result};
use crate::sys::file::{File, ZeroChunk};
use crate::sys::map::{Extent, WriteMap, Writer};
use crate::sys::sync::{AtomicBool, Mutex, Ordering};
use std::sync::Arc;

/// The segment that is appended to. Owned by the cursor.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) writer: Writer,
    pub(crate) file: Arc<File>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) backing: Arc<Backing>,
}

/// A segment file that can be synced: the file, and the writable mapping that its dirty pages hang on.
///
/// All syncs of a file take the lock of its state, and record a failure as poison before they let go of it: the kernel reports a
/// write error once for each open file, so whoever came second would be told that all is well.
#[derive(Debug)]
pub(crate) struct Backing {
    pub(crate) id: u64,
    state: Mutex<SyncState>,
    /// The length that the file grows to.
    full_len: u64,
    /// No further block will be added to the file: its capacity is final.
    grown: AtomicBool,
    /// Nobody needs the file any more.
    released: AtomicBool,
    pub(crate) extent: Arc<Extent>,
    health: Arc<Health>,
}

#[derive(Debug)]
struct SyncState {
    /// None once the segment is sealed and synced: nothing is left to do.
    open: Option<OpenFile>,
    /// Bytes below are durable.
    synced: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    map: Arc<WriteMap>,
}

/// Whether a segment file has all of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// More blocks are being added.
    Ongoing,
    /// It has those that it will ever have.
    Complete,
}

impl Backing {
    /// The backing of `file`, which is to grow to `full_len`, and of which the bytes that are published are durable.
    pub(crate) fn new(
        id: u64,
        file: &Arc<File>,
        writer: &Writer,
        extent: &Arc<Extent>,
        full_len: u64,
        health: &Arc<Health>,
    ) -> Backing {
        let open = Some(OpenFile { file: Arc::clone(file), map: writer.map_handle() });
        Backing {
            id,
            state: Mutex::new(SyncState { open, synced: extent.published() }),
            full_len,
            grown: AtomicBool::new(extent.capacity() == full_len),
            released: AtomicBool::new(false),
            extent: Arc::clone(extent),
            health: Arc::clone(health),
        }
    }

    /// Makes the bytes below `end`, which are published, durable: msync of what is new. After a failure the log is poisoned.
    ///
    /// A ranged msync writes the pages of its range; an fdatasync would also write every page that was populated ahead.
    pub(crate) fn sync_to(&self, end: u64) -> Result<()> {
        let synced = self.sync_range_to(end);
        self.let_go_if_released();
        synced
    }

    fn sync_range_to(&self, end: u64) -> Result<()> {
        let mut state = self.state.lock();
        let SyncState { open: Some(open), synced } = &mut *state else {
            return self.already_synced();
        };
        if *synced >= end {
            return Ok(());
        }
        self.guarded(|| open.map.sync(*synced..end))?;
        *synced = end;
        Ok(())
    }

    /// Makes a sealed segment durable, and lets go of its writable mapping and its file.
    ///
    /// The mapping goes first: syncing a file that is mapped writable and dirty costs three times as much.
    pub(crate) fn sync_sealed(&self) -> Result<()> {
        let mut state = self.state.lock();
        let Some(OpenFile { file, map }) = state.open.take() else {
            return self.already_synced();
        };
        drop(map);
        self.guarded(|| file.sync())
    }

    /// Writes zeros over the next `step` bytes past the capacity, and syncs them, so that appends may go there: the file has blocks,
    /// and nothing has to be read for them. Only the sync holds the lock, so that appenders wait for it no longer than they must. If the
    /// writing fails, the file is as long as before: a full disk gets back what was of no use.
    pub(crate) fn grow(&self, step: u64, chunk: ZeroChunk) -> Result<()> {
        let start = self.extent.capacity();
        let end = self.full_len.min(start + step);
        let open = self.state.lock().open.as_ref().map(|open| (Arc::clone(&open.file), Arc::clone(&open.map)));
        let Some((file, map)) = open.filter(|_| self.growth() == Growth::Ongoing) else {
            self.finish_growth();
            return Ok(());
        };
        let len = file.len()?;
        if let Err(error) = file.write_zeros(start, end, chunk) {
            // Nobody stores, or borrows, past the capacity. If this fails too, it stays until the file goes.
            let _ = file.set_len(len);
            return Err(error);
        }
        {
            let _state = self.state.lock();
            self.guarded(|| file.sync())?;
        }
        // Each sync write-protects the pages of the steps before: once the file is complete, all that is not used yet once more.
        let populate_from = if end == self.full_len { self.extent.published() } else { start };
        map.populate(populate_from..end);
        self.extent.raise_capacity(end);
        if end == self.full_len {
            self.finish_growth();
        }
        Ok(())
    }

    /// Lets go of the file and the writable mapping, synced or not: nobody will write any more. Does not wait for a sync in flight:
    /// that one lets go when it is done.
    pub(crate) fn release(&self) {
        self.finish_growth();
        self.released.store(true, Ordering::SeqCst);
        self.let_go_if_released();
    }

    /// Called after the flag was raised, and after each sync has unlocked the state: one of the two finds both.
    fn let_go_if_released(&self) {
        if self.released.load(Ordering::SeqCst) {
            if let Some(mut state) = self.state.try_lock() {
                state.open = None;
            }
        }
    }

    /// The file keeps the blocks that it has.
    pub(crate) fn finish_growth(&self) {
        self.grown.store(true, Ordering::Release); // with the Acquire in growth()
    }

    pub(crate) fn growth(&self) -> Growth {
        if self.grown.load(Ordering::Acquire) {
            Growth::Complete
        } else {
            Growth::Ongoing
        }
    }

    /// The answer of a segment that has nothing left to sync: it was synced when it was let go of, or that failed.
    fn already_synced(&self) -> Result<()> {
        if self.health.is_poisoned() {
            return Err(Error::Poisoned);
        }
        Ok(())
    }

    /// Runs one sync of the file. Called with the state locked.
    fn guarded(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        self.already_synced()?;
        sync().map_err(|error| {
            self.health.poison();
            error.into_io()
        })
    }
}
