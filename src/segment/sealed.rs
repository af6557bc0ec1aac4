//! A live segment as readers know it: active or sealed, written by this run or by an earlier one.
//!
//! A `Segment` is shared by the set, by every view over it and by every pinned entry in it. Its mapping is made when first asked
//! for and dies with the last of them; it costs no file descriptor (see [`Segment::keep_readable`]).

use super::active::Backing;
use super::offsets::Offsets;
use crate::error::Result;
use crate::format::frame::Seed;
use crate::format::walk::Image;
use crate::sys::file::File;
use crate::sys::lock::ReadersLease;
use crate::sys::map::{Extent, ReadMap, WrittenBy};
use crate::sys::sync::{Mutex, OnceLock};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// One live segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) path: Arc<Path>,
    /// The seq of its first frame.
    pub(crate) base_seq: u64,
    /// Where that frame starts: right behind the link, unless a salvage lost the ones before it.
    pub(crate) base_offset: u64,
    pub(crate) seed: Seed,
    /// Bytes of the file that are mapped.
    pub(crate) mapped_len: u64,
    pub(crate) extent: Arc<Extent>,
    pub(crate) written_by: WrittenBy,
    pub(crate) lease: Arc<ReadersLease>,
    pub(crate) map: OnceLock<ReadMap>,
    /// Held while `map` is being made.
    pub(crate) mapping: Mutex<()>,
    /// Where its frames start, as far as readers have walked: see `read/index.rs`.
    pub(crate) offsets: Offsets,
    /// How to sync it. None for a segment that no append of this run reaches.
    pub(crate) backing: Option<Arc<Backing>>,
}

impl Segment {
    /// Bytes that the file takes on the disk.
    pub(crate) fn bytes_allocated(&self) -> u64 {
        match self.written_by {
            WrittenBy::ThisRun => self.extent.capacity(),
            WrittenBy::EarlierRun { .. } => self.mapped_len,
        }
    }

    /// The mapping, made now if it is not there yet.
    #[inline]
    pub(crate) fn map(&self) -> Result<&ReadMap> {
        match self.map.get() {
            Some(map) => Ok(map),
            None => self.make_map(),
        }
    }

    /// Its file may lose its name from here on: who holds the segment can read it all the same. Takes a file descriptor on kernels that
    /// cannot bring pages in without one, Linux before 5.14, if an earlier run wrote the file.
    pub(crate) fn keep_readable(&self) -> Result<()> {
        self.map()?.outlive_name()
    }

    #[cold]
    fn make_map(&self) -> Result<&ReadMap> {
        let _guard = self.mapping.lock();
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let file = File::open_read(&self.path)?;
        let map = ReadMap::map(&file, self.mapped_len, &self.extent, self.written_by, &self.lease)?;
        Ok(self.map.get_or_init(|| map))
    }

    /// The bytes up to `end`, to walk. Those that are read have to be [`touch`](Self::touch)ed first.
    #[inline]
    pub(crate) fn image(&self, end: u64) -> Result<Image<'_>> {
        Ok(self.image_of(self.map()?.bytes(end)))
    }

    /// The bytes up to `end`, or as far as those from `start` on can be read at once; None if the segment is not mapped.
    #[inline(always)]
    pub(crate) fn image_at_hand(&self, start: u64, end: u64) -> Option<Image<'_>> {
        let map = self.map.get()?;
        Some(self.image_of(map.bytes(map.touched_to(start).min(end))))
    }

    #[inline(always)]
    fn image_of<'i>(&self, bytes: &'i [u8]) -> Image<'i> {
        let trusted_from = match self.written_by {
            WrittenBy::ThisRun => 0,
            WrittenBy::EarlierRun { below } => below,
        };
        Image { bytes, seed: self.seed, trusted_from }
    }

    /// Brings the bytes of `range` in, if an earlier run wrote them.
    #[inline]
    pub(crate) fn touch(&self, range: Range<u64>) -> Result<()> {
        self.map()?.touch(range)
    }
}
