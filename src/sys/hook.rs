//! Observers of every file operation, for our own tests (feature `__testing`): they record what was written and synced, so that a
//! crash can be played back, and make chosen operations fail. Without the feature, [`watched`] is the bare call.

#[cfg(feature = "__testing")]
use std::io;
use std::ops::Range;
use std::path::Path;
#[cfg(feature = "__testing")]
use std::{path::PathBuf, sync::Arc};

/// An operation on a file. Stores into a mapping are no operation: an observer that wants them reads the file.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
// Without the feature nobody looks at an operation, and nobody outside can name it.
#[cfg_attr(not(feature = "__testing"), allow(dead_code, unreachable_pub))]
pub enum Op<'a> {
    CreateDir {
        path: &'a Path,
    },
    Create {
        path: &'a Path,
    },
    Open {
        path: &'a Path,
    },
    Read {
        path: &'a Path,
        bytes: Range<u64>,
    },
    Write {
        path: &'a Path,
        offset: u64,
        data: &'a [u8],
    },
    SetLen {
        path: &'a Path,
        len: u64,
    },
    /// fdatasync of a file.
    SyncFile {
        path: &'a Path,
    },
    /// msync of a range of a mapping.
    SyncRange {
        path: &'a Path,
        bytes: Range<u64>,
    },
    SyncDir {
        path: &'a Path,
    },
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Unlink {
        path: &'a Path,
    },
    List {
        path: &'a Path,
    },
    /// mmap, for writing or for reading.
    Map {
        path: &'a Path,
        writable: bool,
    },
    /// MADV_POPULATE_READ or MADV_POPULATE_WRITE of a range of a mapping.
    Populate {
        path: &'a Path,
        bytes: Range<u64>,
    },
    Lock {
        path: &'a Path,
    },
}

impl Op<'_> {
    /// The file that the operation is about; of a rename, the old name.
    #[cfg(feature = "__testing")]
    pub fn path(&self) -> &Path {
        match self {
            Op::CreateDir { path }
            | Op::Create { path }
            | Op::Open { path }
            | Op::Read { path, .. }
            | Op::Write { path, .. }
            | Op::SetLen { path, .. }
            | Op::SyncFile { path }
            | Op::SyncRange { path, .. }
            | Op::SyncDir { path }
            | Op::Unlink { path }
            | Op::List { path }
            | Op::Map { path, .. }
            | Op::Populate { path, .. }
            | Op::Lock { path } => path,
            Op::Rename { from, .. } => from,
        }
    }
}

/// Runs `call`, which is the operation `op`.
#[cfg(not(feature = "__testing"))]
#[inline]
pub(crate) fn watched<T>(_op: Op<'_>, call: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    call()
}

/// Runs `call`, which is the operation `op`, between the two calls of the observer of its directory.
#[cfg(feature = "__testing")]
pub(crate) fn watched<T>(op: Op<'_>, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    super::sync::scheduling_point();
    let observer = OBSERVERS.read().iter().find(|(dir, _)| op.path().starts_with(dir)).map(|(_, o)| Arc::clone(o));
    let Some(observer) = observer else {
        return call();
    };
    observer.before(&op)?;
    let result = call();
    observer.after(&op, result.is_ok());
    result
}

/// What a test sees of the operations below one directory. Called by the thread that does the operation, the log's own included.
#[cfg(feature = "__testing")]
pub trait Observer: Send + Sync {
    /// Before the operation. An error is returned in its place, and it does not happen.
    fn before(&self, op: &Op<'_>) -> io::Result<()>;
    /// After the operation.
    fn after(&self, op: &Op<'_>, succeeded: bool);
}

#[cfg(feature = "__testing")]
type Observers = parking_lot::RwLock<Vec<(PathBuf, Arc<dyn Observer>)>>;

/// A static, and no part of a model: see [`sync`](super::sync).
#[cfg(feature = "__testing")]
static OBSERVERS: Observers = Observers::new(Vec::new());

/// Shows `observer` all operations on paths that start with `dir`, until the guard is dropped.
#[cfg(feature = "__testing")]
pub fn observe(dir: &Path, observer: Arc<dyn Observer>) -> ObserverGuard {
    OBSERVERS.write().push((dir.to_owned(), observer));
    ObserverGuard { dir: dir.to_owned() }
}

/// Ends an observation when dropped.
#[cfg(feature = "__testing")]
#[derive(Debug)]
pub struct ObserverGuard {
    dir: PathBuf,
}

#[cfg(feature = "__testing")]
impl Drop for ObserverGuard {
    fn drop(&mut self) {
        OBSERVERS.write().retain(|(dir, _)| *dir != self.dir);
    }
}
