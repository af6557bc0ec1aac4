//! Mappings of segment files, and the rules that make borrowing from them sound.
//!
//! A segment file is mapped up to twice: *writable*, by its one [`Writer`], and *read-only*, by its [`ReadMap`]. Both share an
//! [`Extent`], whose published end divides the file:
//!
//! 1. Bytes below the published end are never written again, by anybody, for as long as the `Extent` lives. The `Writer` asserts it
//!    at each store; nothing ever lowers the published end.
//! 2. Bytes at or above it belong to the `Writer` alone: there is one for an `Extent`, it is not `Clone`, and its stores take
//!    `&mut self`.
//! 3. The `Writer` raises the end with Release after its stores; a reader loads it with Acquire before it makes a slice of bytes
//!    below it.
//!
//! So a `&[u8]` never overlaps a store, and a data race cannot be written outside this file. Two conditions come from outside: no
//! other process changes the files (the documented condition of [`open`](crate::Options::open)), and within this one each file has
//! at most one `Extent`, which the directory's lock and the segments' unique ids ensure.
//!
//! The kernel adds one of its own: touching a page that the disk cannot deliver is SIGBUS. Bytes that an earlier run wrote are
//! therefore brought in by [`ReadMap::touch`], which returns an error instead. Stores stay below the extent's capacity, which is
//! raised only when the file has blocks up to there.
//!
//! Under Miri, which knows no file mappings, `heap` takes the place of the two mappings: one buffer per extent, with the same rules. With
//! `cfg(maplog_heap)` it does so for ThreadSanitizer, to which one page that is mapped twice is two places.

use super::file::{error, File};
use super::hook::{watched, Op};
use super::lock::ReadersLease;
use super::sync::{scheduling_point, AtomicBool, AtomicU64, OnceLock, Ordering};
use crate::error::Result;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

#[cfg(any(miri, maplog_heap))]
use heap::Raw;
#[cfg(not(any(miri, maplog_heap)))]
use mmap::Raw;

/// How far the bytes of one segment file are final, and how far they have blocks on the disk.
pub(crate) struct Extent {
    /// Written by the [`Writer`] with Release, under the cursor's lock; read by anybody with Acquire.
    published: AtomicU64,
    /// Written by whoever extends the file, with Release, after the blocks are there; read by the `Writer` with Acquire.
    capacity: AtomicU64,
    has_writer: AtomicBool,
    #[cfg(any(miri, maplog_heap))]
    heap: heap::Buffer,
}

impl Extent {
    /// The extent of the file at `path`, of which `mapped_len` bytes will be mapped, the first `published` are final and the first
    /// `capacity` have blocks on the disk. At most one for a file at a time.
    pub(crate) fn new(path: &Path, mapped_len: u64, published: u64, capacity: u64) -> Result<Arc<Extent>> {
        assert!(published <= capacity && capacity <= mapped_len, "{}", path.display());
        Ok(Arc::new(Extent {
            published: AtomicU64::new(published),
            capacity: AtomicU64::new(capacity),
            has_writer: AtomicBool::new(false),
            #[cfg(any(miri, maplog_heap))]
            heap: heap::Buffer::load(&File::open_read(path)?, mapped_len)?,
        }))
    }

    /// The end of the bytes that may be borrowed.
    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire) // with the Release in Writer::publish
    }

    /// The end of the bytes that may be stored to.
    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire) // with the Release in Extent::raise_capacity
    }

    /// The file now has blocks up to `capacity`.
    pub(crate) fn raise_capacity(&self, capacity: u64) {
        self.capacity.fetch_max(capacity, Ordering::Release);
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extent").field("published", &self.published()).field("capacity", &self.capacity()).finish()
    }
}

/// A writable mapping, shared by its [`Writer`] and whoever syncs it. Unmapped with the last of them.
pub(crate) struct WriteMap {
    raw: Raw,
    path: Arc<Path>,
    #[cfg(any(miri, maplog_heap))]
    extent: Arc<Extent>,
}

/// The kernel writes the dirty pages of a mapping that is gone; the heap has to be written back.
#[cfg(any(miri, maplog_heap))]
impl Drop for WriteMap {
    fn drop(&mut self) {
        // As with the kernel, nobody is told of a failure here.
        let _ = self.raw.sync(0..self.extent.published());
    }
}

impl WriteMap {
    /// msync of `range`: durable when it returns Ok. The range is widened to whole pages.
    pub(crate) fn sync(&self, range: Range<u64>) -> Result<()> {
        watched(Op::SyncRange { path: &self.path, bytes: range.clone() }, || loop {
            match self.raw.sync(range.clone()) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                result => return result,
            }
        })
        .map_err(|e| error("sync", &self.path, 0, e))
    }

    /// Faults in the pages of `range` for stores. Advice: where it fails, a store faults its page in by itself.
    pub(crate) fn populate(&self, range: Range<u64>) {
        let _ = watched(Op::Populate { path: &self.path, bytes: range.clone() }, || self.raw.populate_write(range));
    }
}

impl fmt::Debug for WriteMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteMap").field("path", &self.path).finish()
    }
}

/// The one that stores into a segment file.
#[derive(Debug)]
pub(crate) struct Writer {
    map: Arc<WriteMap>,
    extent: Arc<Extent>,
    /// What `extent.published` holds: only this writer changes it.
    published: u64,
    /// What `extent.capacity` held when it was last looked at; it may be more by now.
    capacity: u64,
}

impl Writer {
    /// Maps the first `len` bytes of `file` for stores.
    ///
    /// # Panics
    /// If the extent has had a writer before.
    pub(crate) fn map(file: &File, len: u64, extent: &Arc<Extent>) -> Result<Writer> {
        let map = watched(Op::Map { path: file.path(), writable: true }, || Raw::map(file, len, true, extent))
            .map_err(|e| error("map", file.path(), 0, e))?;
        assert!(!extent.has_writer.swap(true, Ordering::Relaxed), "a second writer for {}", file.path().display());
        let map = Arc::new(WriteMap {
            raw: map,
            path: file.path().into(),
            #[cfg(any(miri, maplog_heap))]
            extent: Arc::clone(extent),
        });
        let (published, capacity) = (extent.published(), extent.capacity());
        Ok(Writer { map, extent: Arc::clone(extent), published, capacity })
    }

    /// The mapping, to sync it.
    pub(crate) fn map_handle(&self) -> Arc<WriteMap> {
        Arc::clone(&self.map)
    }

    /// The end of the bytes that are published.
    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Whether `len` bytes fit between the published end and the capacity, as it was when it was last looked at.
    #[inline]
    pub(crate) fn has_room(&self, len: u64) -> bool {
        len <= self.capacity - self.published
    }

    /// Looks at the capacity again; it.
    pub(crate) fn look_at_capacity(&mut self) -> u64 {
        self.capacity = self.extent.capacity();
        self.capacity
    }

    /// Copies `bytes` to `offset`, which is not published yet.
    ///
    /// # Panics
    /// If the place is published, or past the capacity.
    #[inline]
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let to = self.map.raw.at(offset);
        // SAFETY: `check` saw that the span lies within the mapping (the capacity is at most its length) and above the published
        // end, so no slice of it exists (rule 2), and that the file has blocks for it. `bytes` is a slice, and cannot overlap: the
        // only slices of this span come from `span`, which borrows `self`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Copies `first`, and `second` right behind it, to `offset`, which is not published yet.
    ///
    /// # Panics
    /// If the place is published, or past the capacity.
    #[inline(always)]
    pub(crate) fn write_joined<const N: usize>(&mut self, offset: u64, first: &[u8; N], second: &[u8]) {
        self.check(offset, N + second.len());
        let to = self.map.raw.at(offset);
        // SAFETY: as in `write`, for the span of both: `check` saw that it lies within the mapping and above the published end.
        unsafe { std::ptr::copy_nonoverlapping(first.as_ptr(), to, N) }
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(second.as_ptr(), to.wrapping_add(N), second.len()) }
    }

    /// As [`write`](Self::write), by a call on `file`, the one that is mapped: for bytes that are synced at once. The kernel then knows
    /// which block is dirty, where a store makes it write the whole folio, and faults at the first after each sync.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub(crate) fn write_by_call(&mut self, file: &File, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len());
        if cfg!(any(miri, maplog_heap)) {
            self.write(offset, bytes); // the heap is not the file
            return Ok(());
        }
        // Nobody has a slice of these bytes (rule 2), and the page cache that they go to is the one that is mapped.
        file.write_at(bytes, offset)
    }

    /// The `len` bytes at `offset`, which are not published yet, as a slice to fill. They hold anything.
    ///
    /// # Panics
    /// If the place is published, or past the capacity.
    pub(crate) fn span(&mut self, offset: u64, len: usize) -> &mut [u8] {
        self.check(offset, len);
        let start = self.map.raw.at(offset);
        // SAFETY: as in `write`, the span is mapped, backed and unpublished, so this writer alone may reach it, and `&mut self` is
        // borrowed for as long as the slice lives. Mapped bytes are initialised: they are the file's.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    #[inline]
    fn check(&self, offset: u64, len: usize) {
        scheduling_point();
        let Writer { published, capacity, .. } = *self;
        if offset < published || offset > capacity || len as u64 > capacity - offset {
            outside(offset, len, published..capacity);
        }
    }

    /// Has the processor fetch as many cache lines as `len` bytes take, some way past the published end, where stores will soon go:
    /// a store to memory that is not in the cache takes long, and every lock waits for the stores before it.
    #[inline(always)]
    pub(crate) fn prefetch(&self, len: u64) {
        /// Far enough to arrive in time, near enough to be there still.
        const AHEAD: u64 = 2048;
        /// Longer stores are found out by the processor itself. (Half of the lines are worse than none: it finds out nothing then.)
        const MAX: u64 = 2048;
        let start = self.map.raw.at(0).wrapping_add((self.published + AHEAD) as usize);
        let mut line = 0;
        while line < len.min(MAX) {
            super::prefetch(start.wrapping_add(line as usize));
            line += 64;
        }
    }

    /// Gives the bytes below `end` to readers. They are never written again.
    #[inline]
    pub(crate) fn publish(&mut self, end: u64) {
        debug_assert!(end >= self.published && end <= self.extent.capacity());
        self.published = end;
        self.extent.published.store(end, Ordering::Release); // with the Acquire in Extent::published
    }
}

#[cold]
fn outside(offset: u64, len: usize, Range { start, end }: Range<u64>) -> ! {
    panic!("a store to {offset}+{len} outside of [{start}, {end})");
}

#[cold]
fn unpublished(end: u64, extent: &Extent) -> ! {
    panic!("bytes up to {end} of {extent:?}");
}

/// A read-only mapping of a segment file.
pub(crate) struct ReadMap {
    raw: Raw,
    len: u64,
    extent: Arc<Extent>,
    /// Which bytes of an earlier run have been brought in. None: this process wrote the file.
    touched: Option<Touched>,
    /// The file is not shortened while this lives.
    _lease: Arc<ReadersLease>,
}

impl fmt::Debug for ReadMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadMap").field("extent", &self.extent).finish()
    }
}

/// Who wrote the bytes that a mapping shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrittenBy {
    ThisRun,
    /// All below this offset; this run the rest.
    EarlierRun {
        below: u64,
    },
}

impl ReadMap {
    /// Maps the first `len` bytes of `file`.
    pub(crate) fn map(
        file: &File,
        len: u64,
        extent: &Arc<Extent>,
        written_by: WrittenBy,
        lease: &Arc<ReadersLease>,
    ) -> Result<ReadMap> {
        let raw = watched(Op::Map { path: file.path(), writable: false }, || Raw::map(file, len, false, extent))
            .map_err(|e| error("map", file.path(), 0, e))?;
        let touched = match written_by {
            WrittenBy::ThisRun => None,
            WrittenBy::EarlierRun { below } => Some(Touched::new(file.path(), below)),
        };
        Ok(ReadMap { raw, len, extent: Arc::clone(extent), touched, _lease: Arc::clone(lease) })
    }

    /// Bytes that are mapped.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes from the file's start to `end`. Those of an earlier run have to be [`touch`](Self::touch)ed before they are read.
    ///
    /// # Panics
    /// If `end` is not published.
    #[inline]
    pub(crate) fn bytes(&self, end: u64) -> &[u8] {
        if end > self.extent.published() {
            unpublished(end, &self.extent);
        }
        // SAFETY: the published end is at most the mapping's length (Extent::new, Writer::publish), bytes below it are never written
        // again (rule 1), the load above is the Acquire of rule 3, and the mapping lives as long as `self`, which the slice borrows.
        unsafe { std::slice::from_raw_parts(self.raw.at(0), end as usize) }
    }

    /// Makes sure that the bytes of `range` can be loaded: an error here, where a load would be SIGBUS.
    #[inline]
    pub(crate) fn touch(&self, range: Range<u64>) -> Result<()> {
        match &self.touched {
            None => Ok(()),
            Some(touched) => touched.touch(&self.raw, range),
        }
    }

    /// The file may lose its name from here on: what was not [`touch`](Self::touch)ed yet can be all the same.
    pub(crate) fn outlive_name(&self) -> Result<()> {
        match &self.touched {
            None => Ok(()),
            Some(touched) => touched.keep_file(&self.raw),
        }
    }

    /// The end of the bytes from `start` on that were [`touch`](Self::touch)ed already, or need not be, as far as is known at once.
    #[inline]
    pub(crate) fn touched_to(&self, start: u64) -> u64 {
        self.touched.as_ref().map_or(self.len, |touched| touched.end(start, self.len))
    }
}

/// Which chunks of a mapping were brought in.
struct Touched {
    path: Arc<Path>,
    /// Bytes from here on are this run's.
    below: u64,
    /// A bit for each chunk. Relaxed: a bit only says that the kernel has read the chunk before, which orders nothing.
    chunks: Box<[AtomicU64]>,
    /// The file, if it may have lost its name, and if the kernel cannot bring pages in without it.
    kept: OnceLock<File>,
}

impl Touched {
    const CHUNK: u64 = 256 << 10;

    fn new(path: &Path, below: u64) -> Touched {
        let words = below.div_ceil(Self::CHUNK).div_ceil(64);
        let chunks = (0..words).map(|_| AtomicU64::new(0)).collect();
        Touched { path: path.into(), below, chunks, kept: OnceLock::new() }
    }

    #[inline]
    fn touch(&self, raw: &Raw, range: Range<u64>) -> Result<()> {
        let end = range.end.min(self.below);
        let mut chunk = range.start / Self::CHUNK;
        while chunk * Self::CHUNK < end {
            let (word, bit) = (&self.chunks[(chunk / 64) as usize], 1 << (chunk % 64));
            if word.load(Ordering::Relaxed) & bit == 0 {
                self.bring_in(raw, chunk * Self::CHUNK..((chunk + 1) * Self::CHUNK).min(self.below))?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
            chunk += 1;
        }
        Ok(())
    }

    /// The end of the chunk that `start` lies in, if it was brought in; of a mapping of `len` bytes.
    #[inline]
    fn end(&self, start: u64, len: u64) -> u64 {
        if start >= self.below {
            return len;
        }
        let chunk = start / Self::CHUNK;
        let is_here = self.chunks[(chunk / 64) as usize].load(Ordering::Relaxed) & 1 << (chunk % 64) != 0;
        if is_here {
            ((chunk + 1) * Self::CHUNK).min(self.below)
        } else {
            start
        }
    }

    #[cold]
    fn bring_in(&self, raw: &Raw, range: Range<u64>) -> Result<()> {
        if self.populate(raw, range.clone()).is_ok() {
            return Ok(());
        }
        // An old kernel does not know the call; and where it fails, its error says less than that of a read.
        let read = self.read(range.clone());
        match (read, self.populate(raw, range)) {
            (_, Ok(())) => Ok(()),
            (Ok(()), Err(e)) if is_unknown_call(&e) => Ok(()),
            (Ok(()), Err(e)) => Err(error("read", &self.path, 0, e)),
            (Err(read), Err(_)) => Err(read),
        }
    }

    fn populate(&self, raw: &Raw, range: Range<u64>) -> std::io::Result<()> {
        watched(Op::Populate { path: &self.path, bytes: range.clone() }, || raw.populate_read(range))
    }

    /// Keeps the file open, if the kernel is too old to do without.
    fn keep_file(&self, raw: &Raw) -> Result<()> {
        let is_needed = || self.populate(raw, 0..0).is_err_and(|e| is_unknown_call(&e));
        if self.kept.get().is_none() && is_needed() {
            let _ = self.kept.set(File::open_read(&self.path)?);
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>) -> Result<()> {
        let opened;
        let file = match self.kept.get() {
            Some(file) => file,
            None => {
                opened = File::open_read(&self.path)?;
                &opened
            }
        };
        let mut buf = vec![0; 64 << 10];
        let mut at = range.start;
        while at < range.end {
            let len = buf.len().min((range.end - at) as usize);
            let read = file.read_at(&mut buf[..len], at)?;
            if read < len {
                let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(error("read", &self.path, 0, source));
            }
            at += len as u64;
        }
        Ok(())
    }
}

/// Whether the kernel does not know MADV_POPULATE_READ: Linux before 5.14, and other systems.
fn is_unknown_call(error: &std::io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::INVAL)
}

#[cfg(not(any(miri, maplog_heap)))]
mod mmap {
    use super::{Extent, File, Range};
    use memmap2::{MmapOptions, MmapRaw};
    use std::io;

    /// A file mapping, by address.
    pub(super) struct Raw(MmapRaw);

    impl Raw {
        pub(super) fn map(file: &File, len: u64, writable: bool, _extent: &Extent) -> io::Result<Raw> {
            let len = usize::try_from(len).map_err(io::Error::other)?;
            let mut options = MmapOptions::new();
            options.len(len);
            let raw = if writable { options.map_raw(file.std())? } else { options.map_raw_read_only(file.std())? };
            Ok(Raw(raw))
        }

        /// The address of a byte.
        #[inline]
        pub(super) fn at(&self, offset: u64) -> *mut u8 {
            debug_assert!(offset <= self.0.len() as u64);
            self.0.as_mut_ptr().wrapping_add(offset as usize)
        }

        pub(super) fn sync(&self, range: Range<u64>) -> io::Result<()> {
            self.0.flush_range(range.start as usize, (range.end - range.start) as usize)
        }

        pub(super) fn populate_write(&self, range: Range<u64>) -> io::Result<()> {
            #[cfg(target_os = "linux")]
            return self.advise(memmap2::Advice::PopulateWrite, range);
            #[cfg(not(target_os = "linux"))]
            Ok(drop(range))
        }

        pub(super) fn populate_read(&self, range: Range<u64>) -> io::Result<()> {
            #[cfg(target_os = "linux")]
            return self.advise(memmap2::Advice::PopulateRead, range);
            #[cfg(not(target_os = "linux"))]
            Err(rustix::io::Errno::INVAL.into())
        }

        #[cfg(target_os = "linux")]
        fn advise(&self, advice: memmap2::Advice, range: Range<u64>) -> io::Result<()> {
            self.0.advise_range(advice, range.start as usize, (range.end - range.start) as usize)
        }
    }
}

/// The twin of the mappings for Miri and ThreadSanitizer: a buffer in place of the page cache.
#[cfg(any(miri, maplog_heap))]
mod heap {
    use super::{Extent, File, Range, Result};
    use std::alloc::{alloc_zeroed, dealloc, Layout};
    use std::io;
    use std::sync::Arc;

    /// A buffer that all mappings of one file share.
    #[derive(Clone)]
    pub(super) struct Buffer(Arc<Allocation>);

    struct Allocation {
        start: *mut u8,
        len: usize,
    }

    // SAFETY: an `Allocation` is an address and a length, both fixed; what may be stored and loaded through the address, and when,
    // is the rule of the module, which Miri is here to check.
    unsafe impl Send for Allocation {}
    // SAFETY: as above: no method of it loads or stores through the address.
    unsafe impl Sync for Allocation {}

    impl Allocation {
        fn layout(len: usize) -> Layout {
            Layout::from_size_align(len.max(1), 4096).expect("a length below isize::MAX")
        }
    }

    impl Drop for Allocation {
        fn drop(&mut self) {
            // SAFETY: `load` allocated it with this layout, and this is its only owner's end.
            unsafe { dealloc(self.start, Self::layout(self.len)) }
        }
    }

    impl Buffer {
        pub(super) fn load(file: &File, len: u64) -> Result<Buffer> {
            let len = len as usize;
            // SAFETY: the layout is not empty.
            let start = unsafe { alloc_zeroed(Allocation::layout(len)) };
            let buffer = Buffer(Arc::new(Allocation { start, len }));
            // SAFETY: allocated above with this length, zeroed, and shared with nobody yet.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
            file.read_at(bytes, 0)?;
            Ok(buffer)
        }
    }

    /// A mapping: the buffer, and for a writable one the file that syncs go to.
    pub(super) struct Raw {
        buffer: Buffer,
        file: Option<std::fs::File>,
    }

    impl Raw {
        pub(super) fn map(file: &File, _len: u64, writable: bool, extent: &Extent) -> io::Result<Raw> {
            let file = if writable { Some(file.std().try_clone()?) } else { None };
            Ok(Raw { buffer: extent.heap.clone(), file })
        }

        pub(super) fn at(&self, offset: u64) -> *mut u8 {
            assert!(offset <= self.buffer.0.len as u64);
            self.buffer.0.start.wrapping_add(offset as usize)
        }

        /// Writes the range, which is published, to the file.
        pub(super) fn sync(&self, range: Range<u64>) -> io::Result<()> {
            use std::os::unix::fs::FileExt;
            // SAFETY: callers sync published bytes, which nobody stores to any more.
            let bytes = unsafe { std::slice::from_raw_parts(self.at(range.start), (range.end - range.start) as usize) };
            self.file.as_ref().map_or(Ok(()), |file| file.write_all_at(bytes, range.start))
        }

        pub(super) fn populate_write(&self, _range: Range<u64>) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn populate_read(&self, _range: Range<u64>) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(capacity: u64) -> (tempfile::TempDir, Writer, ReadMap) {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(&dir.path().join("segment")).unwrap();
        file.write_zeros(0, 8192, super::super::file::ZeroChunk::Small).unwrap();
        let (lease, _) = ReadersLease::acquire(&dir.path().join("readers")).unwrap();
        let extent = Extent::new(file.path(), 8192, 0, capacity).unwrap();
        let writer = Writer::map(&file, 8192, &extent).unwrap();
        let reader = ReadMap::map(&file, 8192, &extent, WrittenBy::ThisRun, &lease).unwrap();
        (dir, writer, reader)
    }

    #[test]
    fn readers_see_what_was_published_and_keep_it() {
        let (dir, mut writer, reader) = mapped(8192);
        writer.write(0, b"first");
        writer.publish(5);
        let first = reader.bytes(5);
        writer.span(5, 6).copy_from_slice(b"second");
        writer.publish(11);
        assert_eq!(first, b"first");
        assert_eq!(reader.bytes(11), b"firstsecond");
        writer.map_handle().sync(0..11).unwrap();
        assert_eq!(&std::fs::read(dir.path().join("segment")).unwrap()[..11], b"firstsecond");
    }

    #[test]
    #[should_panic(expected = "outside of [4, 4096)")]
    fn a_store_below_the_published_end_panics() {
        let (_dir, mut writer, _reader) = mapped(4096);
        writer.publish(4);
        writer.write(3, b"x");
    }

    #[test]
    #[should_panic(expected = "outside of [0, 4096)")]
    fn a_store_past_the_capacity_panics() {
        let (_dir, mut writer, _reader) = mapped(4096);
        writer.write(4095, b"xy");
    }

    #[test]
    #[should_panic(expected = "bytes up to 1")]
    fn unpublished_bytes_cannot_be_borrowed() {
        let (_dir, _writer, reader) = mapped(4096);
        reader.bytes(1);
    }

    #[test]
    fn threads_read_while_one_writes() {
        const END: u64 = if cfg!(miri) { 64 } else { 512 };
        let (_dir, mut writer, reader) = mapped(8192);
        std::thread::scope(|scope| {
            scope.spawn(|| loop {
                let end = reader.extent.published();
                assert!(reader.bytes(end).iter().all(|&byte| byte == 7));
                if end == END {
                    break;
                }
                std::thread::yield_now();
            });
            for at in 0..END {
                writer.write(at, &[7]);
                writer.publish(at + 1);
            }
        });
    }
}
