//! Making segment files, and making old ones new.
//!
//! The steps, and what a crash after each leaves:
//!
//! 1. *Written* under a spare name: identity, then zeros; or over the identity and link of a retired file. A spare, which the next
//!    open unlinks.
//! 2. *Synced.* The same.
//! 3. *Renamed* to a segment's name, the directory synced. A segment without a link, which the next open unlinks.
//! 4. *Mapped and populated.* Handed to the cursor, which stores the link when it makes the segment the active one.
//!
//! A retired file gets its spare name, and the directory is synced, before the first of its bytes is overwritten: until then a crash
//! can bring the old name back, and what the manifest calls dead must at least be what it was.

use super::active::{Active, Backing};
use super::health::Health;
use super::offsets::Offsets;
use super::paths::{Name, Paths};
use super::sealed::Segment;
use crate::error::{Error, Result};
use crate::format::frame::Seed;
use crate::format::segment::{Identity, Link, LogId, Origin, Predecessor, BLOCK_LEN, FRAMES_OFFSET, LINK_OFFSET};
use crate::sys::file::{self, File, ZeroChunk};
use crate::sys::lock::ReadersLease;
use crate::sys::map::{Extent, ReadMap, Writer, WrittenBy};
use crate::sys::random_u64;
use crate::sys::sync::{Mutex, OnceLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What all files of a log have in common.
#[derive(Debug)]
pub(crate) struct Blueprint {
    pub(crate) paths: Paths,
    pub(crate) log_id: LogId,
    pub(crate) segment_size: u64,
    pub(crate) chunk: ZeroChunk,
    pub(crate) lease: Arc<ReadersLease>,
    pub(crate) health: Arc<Health>,
}

/// A file that waits to become a segment.
#[derive(Debug)]
pub(crate) struct Prepared {
    id: u64,
    salt: u64,
    path: Arc<Path>,
    writer: Writer,
    file: Arc<File>,
    read_map: ReadMap,
    backing: Arc<Backing>,
}

impl Prepared {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn backing(&self) -> &Arc<Backing> {
        &self.backing
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it the segment whose first frame is `base_seq`: stores the link. No system call. The link is durable with the segment's
    /// first sync.
    pub(crate) fn activate(self, base_seq: u64, predecessor: Option<Predecessor>, lease: &Arc<ReadersLease>) -> Active {
        let Prepared { id, salt, path, mut writer, file, read_map, backing } = self;
        writer.write(LINK_OFFSET, &Link { base_seq, predecessor, salt }.encode());
        writer.publish(FRAMES_OFFSET);
        let segment = Segment {
            id,
            path,
            base_seq,
            base_offset: FRAMES_OFFSET,
            seed: Seed::new(salt),
            mapped_len: read_map.len(),
            extent: Arc::clone(&backing.extent),
            written_by: WrittenBy::ThisRun,
            lease: Arc::clone(lease),
            map: OnceLock::from(read_map),
            mapping: Mutex::new(()),
            offsets: Offsets::default(),
            backing: Some(Arc::clone(&backing)),
        };
        Active { writer, file, segment: Arc::new(segment), backing }
    }
}

/// A file that was a segment of this run, and can be one again.
#[derive(Debug)]
pub(super) struct Spare {
    path: PathBuf,
    /// The seed of its last life.
    seed: Seed,
}

impl Spare {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The salt of a new file, or of a new life of one: no two lives of a file share a seed, so no frame of an earlier one is valid.
fn draw_salt(earlier: Option<Seed>) -> u64 {
    match earlier {
        None => random_u64(),
        Some(seed) => seed.next().salt(random_u64()),
    }
}

impl Blueprint {
    /// Makes a file from nothing, with zeros up to its full size, or for as long as `keep_zeroing` agrees after each step. Leaves
    /// nothing behind if it fails.
    pub(super) fn make(&self, id: u64, spare_number: u64, keep_zeroing: impl Fn() -> bool) -> Result<Prepared> {
        let spare = self.paths.spare(spare_number);
        file::unlink(&spare)?;
        let file = File::create_new(&spare)?;
        let made = self.write_zeros(&file, keep_zeroing).and_then(|capacity| {
            let identity = Identity { origin: Origin::Fresh, log_id: self.log_id, id, salt: draw_salt(None) };
            file.write_at(&identity.encode(), 0)?;
            self.name(file, &identity, capacity)
        });
        self.or_unlink(made, &spare, id)
    }

    /// Makes a file from one that was a segment before.
    pub(super) fn remake(&self, id: u64, spare: &Spare) -> Result<Prepared> {
        let remake = || {
            let file = File::open_write(&spare.path)?;
            let salt = draw_salt(Some(spare.seed));
            let identity = Identity { origin: Origin::Recycled, log_id: self.log_id, id, salt };
            let mut blocks = [0; 2 * BLOCK_LEN];
            blocks[..BLOCK_LEN].copy_from_slice(&identity.encode());
            file.write_at(&blocks, 0)?;
            self.name(file, &identity, self.segment_size)
        };
        self.or_unlink(remake(), &spare.path, id)
    }

    /// Zeros in steps, for as long as `keep_zeroing` agrees; how far it came.
    fn write_zeros(&self, file: &File, keep_zeroing: impl Fn() -> bool) -> Result<u64> {
        let mut capacity = 0;
        while capacity < self.segment_size && (capacity == 0 || keep_zeroing()) {
            let end = self.segment_size.min(capacity + ZERO_STEP);
            file.write_zeros(capacity, end, self.chunk)?;
            capacity = end;
        }
        Ok(capacity)
    }

    /// Steps 2 to 4: syncs the written file, names it, maps it.
    fn name(&self, file: File, identity: &Identity, capacity: u64) -> Result<Prepared> {
        let path = self.paths.segment(identity.id);
        if Paths::name(&path) == Name::Foreign {
            // Only a manifest that was made up leads to such an id: the next open would leave the file alone, with what it holds.
            return Err(Error::io("name", &path, std::io::ErrorKind::InvalidInput.into()));
        }
        file.sync()?;
        file::rename(file.path(), &path)?;
        file::sync_dir(&self.paths.segments)?;
        let file = file.renamed(&path);

        let extent = Extent::new(&path, self.segment_size, LINK_OFFSET, capacity)?;
        let writer = Writer::map(&file, self.segment_size, &extent)?;
        let read_map = ReadMap::map(&file, self.segment_size, &extent, WrittenBy::ThisRun, &self.lease)?;
        writer.map_handle().populate(0..capacity);
        let file = Arc::new(file);
        let backing = Backing::new(identity.id, &file, &writer, &extent, self.segment_size, &self.health);
        Ok(Prepared {
            id: identity.id,
            salt: identity.salt,
            path: path.into(),
            writer,
            file,
            read_map,
            backing: Arc::new(backing),
        })
    }

    /// Removes what a failed attempt left, under either name; what cannot be removed holds nothing, and goes at the next open.
    fn or_unlink(&self, made: Result<Prepared>, spare: &Path, id: u64) -> Result<Prepared> {
        if made.is_err() {
            let _ = file::unlink(spare);
            let _ = file::unlink(&self.paths.segment(id));
        }
        made
    }

    /// Takes a segment that the manifest calls dead: as a spare, under the name `spare_number`, if `keep` and if nobody can see its
    /// bytes any more; else by unlinking it. The caller syncs the directory before it uses the spare.
    pub(super) fn retire(&self, segment: Arc<Segment>, keep: bool, spare_number: u64) -> Result<Option<Spare>> {
        let path = Arc::clone(&segment.path);
        let reusable = keep && segment.extent.capacity() == self.segment_size;
        match sole_owner(segment).filter(|_| reusable) {
            Some(seed) => {
                let spare = self.paths.spare(spare_number);
                file::rename(&path, &spare)?;
                Ok(Some(Spare { path: spare, seed }))
            }
            None => {
                file::unlink(&path)?;
                Ok(None)
            }
        }
    }
}

/// The seed of a segment that this run made and that nothing refers to any more: no view, no entry, no sync. Its mappings are gone
/// with the return.
fn sole_owner(segment: Arc<Segment>) -> Option<Seed> {
    let segment = Arc::try_unwrap(segment).ok()?;
    if segment.written_by != WrittenBy::ThisRun {
        return None;
    }
    Arc::try_unwrap(segment.backing?).ok()?;
    Some(segment.seed)
}

/// Bytes that are zeroed between two looks at whether an appender waits.
const ZERO_STEP: u64 = 256 << 10;
