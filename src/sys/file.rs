//! Files and directories. Every function makes one kind of call, retries it only when it was interrupted, and names itself in its
//! error. A full disk or quota is [`Error::NoSpace`], whichever call meets it.

use super::hook::{watched, Op};
use crate::error::{Error, Result};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest single write of zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open file that knows its path.
#[derive(Debug)]
pub(crate) struct File {
    inner: fs::File,
    path: Arc<Path>,
}

impl std::os::fd::AsFd for File {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl File {
    /// Makes a file that must not be there yet, to read and write.
    pub(crate) fn create_new(path: &Path) -> Result<File> {
        let create = || fs::File::options().read(true).write(true).create_new(true).open(path);
        let inner = watched(Op::Create { path }, create).map_err(|e| error("create", path, 0, e))?;
        let file = File { inner, path: path.into() };
        file.disable_copy_on_write();
        Ok(file)
    }

    pub(crate) fn open_or_create(path: &Path) -> Result<File> {
        let open = || fs::File::options().read(true).write(true).create(true).truncate(false).open(path);
        let inner = watched(Op::Open { path }, open).map_err(|e| error("open", path, 0, e))?;
        Ok(File { inner, path: path.into() })
    }

    pub(crate) fn open_read(path: &Path) -> Result<File> {
        // What is no file, as a pipe, is not waited for.
        let open = || without_waiting(fs::File::options().read(true)).open(path);
        let inner = watched(Op::Open { path }, open).map_err(|e| error("open", path, 0, e))?;
        Ok(File { inner, path: path.into() })
    }

    pub(crate) fn open_write(path: &Path) -> Result<File> {
        let open = || fs::File::options().read(true).write(true).open(path);
        let inner = watched(Op::Open { path }, open).map_err(|e| error("open", path, 0, e))?;
        Ok(File { inner, path: path.into() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The same file under the name that it was given since.
    pub(crate) fn renamed(self, path: &Path) -> File {
        File { inner: self.inner, path: path.into() }
    }

    pub(super) fn std(&self) -> &fs::File {
        &self.inner
    }

    pub(crate) fn len(&self) -> Result<u64> {
        Ok(self.inner.metadata().map_err(|e| error("stat", &self.path, 0, e))?.len())
    }

    /// Fills `buf` from `offset`, or as much of it as the file has; the number of bytes read.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = offset..offset + buf.len() as u64;
        let read = || {
            let mut len = 0;
            while len < buf.len() {
                match self.inner.read_at(&mut buf[len..], offset + len as u64) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(len)
        };
        watched(Op::Read { path: &self.path, bytes }, read).map_err(|e| error("read", &self.path, 0, e))
    }

    /// The block at `offset`; None if the file does not hold all of it.
    pub(crate) fn read_block<const LEN: usize>(&self, offset: u64) -> Result<Option<[u8; LEN]>> {
        let mut block = [0; LEN];
        let len = self.read_at(&mut block, offset)?;
        Ok((len == LEN).then_some(block))
    }

    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        watched(Op::Write { path: &self.path, offset, data }, || self.inner.write_all_at(data, offset))
            .map_err(|e| error("write", &self.path, data.len() as u64, e))
    }

    /// Writes zeros over `start..end` in writes of `chunk` bytes: the page cache keeps folios of that size.
    pub(crate) fn write_zeros(&self, start: u64, end: u64, chunk: ZeroChunk) -> Result<()> {
        let mut at = start;
        while at < end {
            let len = (end - at).min(chunk.bytes());
            self.write_at(&ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    /// fdatasync: the data, and what of the metadata is needed to read it back.
    pub(crate) fn sync(&self) -> Result<()> {
        watched(Op::SyncFile { path: &self.path }, || retry(|| self.inner.sync_data()))
            .map_err(|e| error("sync", &self.path, 0, e))
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        watched(Op::SetLen { path: &self.path, len }, || retry(|| self.inner.set_len(len)))
            .map_err(|e| error("shorten", &self.path, 0, e))
    }

    /// Tells the kernel that reads will be scattered, so that it caches small folios. Advice: a failure changes nothing.
    pub(crate) fn advise_random(&self) {
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::Random);
    }

    /// On btrfs, stores into a copy-on-write file allocate, and a full disk is SIGBUS. The flag takes only while the file is empty, and
    /// only once compression is off, which a directory may have passed on. Where it is not understood there is nothing to switch off.
    fn disable_copy_on_write(&self) {
        #[cfg(all(target_os = "linux", not(miri)))]
        if self.is_on_btrfs() {
            use rustix::fs::IFlags;
            if let Ok(flags) = rustix::fs::ioctl_getflags(self) {
                let flags = flags.difference(IFlags::COMPRESSED);
                let _ = rustix::fs::ioctl_setflags(self, flags);
                let _ = rustix::fs::ioctl_setflags(self, flags | IFlags::NOCOW);
            }
        }
    }

    /// Whether a store may need a block where the file has one: on btrfs, if copy-on-write was not switched off when the file was
    /// made. Tools that copy files do not.
    pub(crate) fn is_copied_on_write(&self) -> bool {
        #[cfg(all(target_os = "linux", not(miri)))]
        return self.is_on_btrfs()
            && !rustix::fs::ioctl_getflags(self).is_ok_and(|flags| flags.contains(rustix::fs::IFlags::NOCOW));
        #[cfg(not(all(target_os = "linux", not(miri))))]
        false
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    fn is_on_btrfs(&self) -> bool {
        const BTRFS_SUPER_MAGIC: u64 = 0x9123_683e;
        rustix::fs::fstatfs(self).is_ok_and(|stat| stat.f_type as u64 == BTRFS_SUPER_MAGIC)
    }
}

/// How many zeros go into one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZeroChunk {
    /// 16 KiB, where most appends are synced: one small store makes its whole folio dirty, and a sync writes that.
    Small,
    /// 64 KiB, where many appends share a sync: fewer page faults.
    Large,
}

impl ZeroChunk {
    fn bytes(self) -> u64 {
        match self {
            ZeroChunk::Small => 16 << 10,
            ZeroChunk::Large => ZEROS.len() as u64,
        }
    }
}

/// Whether `path` is a directory; None if nothing is there.
pub(crate) fn is_dir(path: &Path) -> Result<Option<bool>> {
    use rustix::io::Errno;
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.is_dir())),
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NOTDIR)) => Ok(None),
        Err(e) => Err(error("stat", path, 0, e)),
    }
}

/// Makes `dir` with its parents. Their names are durable after [`sync_dir_and_ancestors`].
pub(crate) fn create_dir_all(dir: &Path) -> Result<()> {
    if is_dir(dir)? == Some(true) {
        return Ok(());
    }
    create_dir_all(parent(dir))?;
    match watched(Op::CreateDir { path: dir }, || fs::create_dir(dir)) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(error("create", dir, 0, e)),
    }
}

/// The directory that `path` stands in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ if path.has_root() => path,
        _ => Path::new("."),
    }
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let sync = || retry(|| fs::File::open(dir)?.sync_all());
    watched(Op::SyncDir { path: dir }, sync).map_err(|e| error("sync", dir, 0, e))
}

/// Syncs `dir` and every directory above it, but for those that this user may not open: those he has not made.
pub(crate) fn sync_dir_and_ancestors(dir: &Path) -> Result<()> {
    sync_dir(dir)?;
    let real = fs::canonicalize(dir).map_err(|e| error("resolve", dir, 0, e))?;
    for ancestor in real.ancestors().skip(1) {
        match sync_dir(ancestor) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    watched(Op::Rename { from, to }, || fs::rename(from, to)).map_err(|e| error("rename", from, 0, e))
}

/// Removes a file. One that is not there is removed.
pub(crate) fn unlink(path: &Path) -> Result<()> {
    match watched(Op::Unlink { path }, || fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error("unlink", path, 0, e)),
        _ => Ok(()),
    }
}

/// The names in a directory, in order; None if it is not there.
pub(crate) fn list(dir: &Path) -> Result<Option<Vec<PathBuf>>> {
    let read = || retry(|| fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    match watched(Op::List { path: dir }, read) {
        Ok(mut paths) => {
            paths.sort();
            Ok(Some(paths))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(error("list", dir, 0, e)),
    }
}

/// Has an open not wait for somebody at the other end, where the name is that of a pipe.
fn without_waiting(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    #[cfg(all(unix, not(miri)))] // which does not know the flag
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    options
}

pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The error of `op` on `path`, which asked for `needed` bytes.
pub(super) fn error(op: &'static str, path: &Path, needed: u64, source: io::Error) -> Error {
    use rustix::io::Errno;
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => Error::NoSpace { path: path.to_owned(), needed },
        _ => Error::io(op, path, source),
    }
}
