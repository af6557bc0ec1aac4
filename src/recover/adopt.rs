//! Making what recovery keeps durable, and what it drops gone.

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::segment::manifest::ManifestFile;
use crate::segment::paths::Paths;
use crate::sys::file::{self, File};
use std::ops::Range;
use std::path::PathBuf;

/// The changes that a recovery asks for. Carrying it out twice, or being killed in the middle, leads to the same state.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Bytes that are kept, and that no witness covers.
    pub(super) adopt: Vec<(PathBuf, Range<u64>)>,
    pub(super) manifest: Manifest,
    /// Segments that are dead as long as the present manifest says so.
    pub(super) dead: Vec<PathBuf>,
    /// Files of which nothing counts after this recovery.
    pub(super) unlink: Vec<PathBuf>,
    /// A file that ends for good at this length: its room beyond is given back.
    pub(super) shorten: Option<(PathBuf, u64)>,
}

impl Plan {
    /// 1. *Adopt.* The unproven bytes are written again, as they are, and synced. After a failed sync the page cache can hold bytes
    ///    that the disk does not and that no further sync would write. A crash here leaves what was there.
    /// 2. *Names.* If no open has come further than this before, the names of the log's directories and of the manifest may be in
    ///    the page cache alone, also those that a killed process made: all directories up to the root are synced.
    /// 3. *The dead* of the present manifest are unlinked, and the directory synced, before another manifest takes its place: only
    ///    this one says that they are dead. Both slots do, before the first file goes.
    /// 4. *Manifest*, in both slots, no longer clean. It ends the last segment at X, so that nothing past X ever counts again.
    /// 5. *Unlink* what this recovery dropped, sync the directory; give back the room past X. A crash here leaves dead files for the
    ///    next open.
    pub(crate) fn carry_out(mut self, paths: &Paths, manifest: &mut ManifestFile) -> Result<()> {
        file::create_dir_all(&paths.segments)?;
        self.adopt()?;
        manifest.settle()?;
        if manifest.was_never_replaced() {
            file::sync_dir_and_ancestors(&paths.metadata)?;
        }
        if !self.dead.is_empty() {
            manifest.replace(manifest.current().clone())?;
            unlink_all(&self.dead, paths)?;
        }
        manifest.replace(self.manifest)?;
        unlink_all(&self.unlink, paths)?;
        if let Some((path, len)) = &self.shorten {
            File::open_write(path)?.set_len(*len)?;
        }
        Ok(())
    }
}

impl Plan {
    /// The first step alone, which changes no byte of any file: what is kept is durable afterwards.
    pub(crate) fn adopt(&mut self) -> Result<()> {
        for (path, bytes) in std::mem::take(&mut self.adopt) {
            write_again(&path, bytes)?;
        }
        Ok(())
    }
}

fn unlink_all(files: &[PathBuf], paths: &Paths) -> Result<()> {
    files.iter().try_for_each(|path| file::unlink(path))?;
    file::sync_dir(&paths.segments)
}

/// Reads `bytes` of a file, writes them back and syncs them.
fn write_again(path: &std::path::Path, bytes: Range<u64>) -> Result<()> {
    const CHUNK: usize = 256 << 10;
    let file = File::open_write(path)?;
    let mut buf = vec![0; CHUNK];
    for at in bytes.clone().step_by(CHUNK) {
        let len = CHUNK.min((bytes.end - at) as usize);
        // The verdict saw these bytes; who shortened the file meanwhile broke the condition of open.
        let read = file.read_at(&mut buf[..len], at)?;
        file.write_at(&buf[..read], at)?;
    }
    file.sync()
}
