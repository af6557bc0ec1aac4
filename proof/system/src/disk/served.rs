//! The disk as a file of a FUSE file system: where writes and flushes arrive, and where a moment is caught.

use super::cache::{Cache, Frozen};
use super::medium::Medium;
use crate::ledger::Ledger;
use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use nix::mount::{umount2, MntFlags};
use parking_lot::{Condvar, Mutex};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// The name of the one file.
const NAME: &str = "image";
const FILE: INodeNo = INodeNo(2);
/// What it is does not change.
const TTL: Duration = Duration::from_secs(3600);

/// A disk that is served. It ends when dropped, once nothing is attached to it.
#[derive(Debug)]
pub struct Served {
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    mountpoint: PathBuf,
    file: PathBuf,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when the moment that was waited for was caught.
    caught: Condvar,
}

#[derive(Debug)]
struct State {
    cache: Option<Cache>,
    counts: Counts,
    lies: bool,
    fault: Fault,
    watch: Option<Watch>,
    shot: Option<Shot>,
}

/// What has arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub flushes: u64,
    /// Those that were refused.
    pub faults: u64,
}

/// What the disk refuses with EIO.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// Writes of these bytes, wherever they stand in what is written.
    Write(Vec<u8>),
    /// Reads of these bytes.
    Read(Vec<u8>),
    Flush,
    /// Flushes, once these bytes have been written.
    FlushAfter(Vec<u8>),
}

/// A moment to catch: an event, after so many others of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    pub event: Event,
    pub others: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The cache is about to become durable.
    BeforeFlush,
    /// It just did, and nobody has been told.
    AfterFlush,
    AfterWrite,
}

/// Who waits for a moment.
#[derive(Debug)]
struct Watch {
    when: When,
    ledger: Arc<Ledger>,
}

/// The disk at one moment.
///
/// The ledger is looked at before the disk is frozen, and again after. What it said before had happened: what was acked by then had
/// been flushed before, for the disk takes one request at a time. What it did not say even after had not begun.
#[derive(Debug, Clone)]
pub struct Shot {
    pub frozen: Frozen,
    pub ledger: std::ops::Range<usize>,
}

impl Served {
    /// Serves `medium`, with sectors of so many bytes, as a file of the directory `mountpoint`, which is made.
    pub fn start(mountpoint: &Path, medium: Medium, sector: usize) -> Result<Served> {
        std::fs::create_dir_all(mountpoint)?;
        let state = State {
            cache: Some(Cache::new(medium, sector)),
            counts: Counts::default(),
            lies: false,
            fault: Fault::None,
            watch: None,
            shot: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), caught: Condvar::new() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("maplog-proof".to_owned())];
        let session = fuser::spawn_mount(OneFile { shared: Arc::clone(&shared), sector }, mountpoint, &config)
            .context("a FUSE mount")?;
        Ok(Served { shared, session: Some(session), mountpoint: mountpoint.to_owned(), file: mountpoint.join(NAME) })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }

    /// Waits until nothing arrives for so long.
    pub fn wait_quiet(&self, quiet: Duration) {
        let mut before = None;
        while before != Some(self.counts()) {
            before = Some(self.counts());
            thread::sleep(quiet);
        }
    }

    /// From now on a flush makes nothing durable.
    pub fn lie(&self) {
        self.shared.state.lock().lies = true;
    }

    pub fn set_fault(&self, fault: Fault) {
        self.shared.state.lock().fault = fault;
    }

    /// The disk as it is now.
    pub fn freeze(&self) -> Frozen {
        self.shared.state.lock().cache().freeze()
    }

    /// Catches a moment; any one, if it has not come after `patience`.
    pub fn catch(&self, when: When, ledger: &Arc<Ledger>, patience: Duration) -> Shot {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state.lock();
        state.watch = Some(Watch { when, ledger: Arc::clone(ledger) });
        loop {
            if let Some(shot) = state.shot.take() {
                return shot;
            }
            if self.shared.caught.wait_until(&mut state, deadline).timed_out() {
                state.shoot();
            }
        }
    }

    /// Ends; what the disk holds.
    pub fn end(mut self) -> Result<Medium> {
        self.stop();
        let cache = self.shared.state.lock().cache.take();
        Ok(cache.context("the disk is served once")?.into_seen())
    }

    fn stop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        // A loop device that is about to detach may still hold it: it goes when that lets go.
        let _ = umount2(&self.mountpoint, MntFlags::MNT_DETACH);
        drop(session);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn cache(&mut self) -> &mut Cache {
        self.cache.as_mut().expect("the disk is taken only when nobody is served any more")
    }

    /// Something happens; catches the moment if it is the one that somebody waits for.
    fn happens(&mut self, event: Event, caught: &Condvar) {
        let Some(When { others, .. }) =
            self.watch.as_mut().map(|watch| &mut watch.when).filter(|when| when.event == event)
        else {
            return;
        };
        match others.checked_sub(1) {
            Some(left) => *others = left,
            None => {
                self.shoot();
                caught.notify_all();
            }
        }
    }

    fn shoot(&mut self) {
        if let Some(Watch { ledger, .. }) = self.watch.take() {
            let before = ledger.len();
            let frozen = self.cache().freeze();
            self.shot = Some(Shot { frozen, ledger: before..ledger.len() });
        }
    }

    fn is_faulty(&mut self, is_refused: impl FnOnce(&Fault) -> bool) -> bool {
        let refused = is_refused(&self.fault);
        self.counts.faults += u64::from(refused);
        refused
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The file system with the one file.
struct OneFile {
    shared: Arc<Shared>,
    sector: usize,
}

impl OneFile {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let size = self.shared.state.lock().cache().len();
        let is_file = ino == FILE;
        FileAttr {
            ino,
            size: if is_file { size } else { 0 },
            blocks: if is_file { size / 512 } else { 0 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: self.sector as u32,
            flags: 0,
        }
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&TTL, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buf = vec![0; size as usize];
        let mut state = self.shared.state.lock();
        state.cache().read(offset, &mut buf);
        if state.is_faulty(|fault| matches!(fault, Fault::Read(part) if contains(&buf, part))) {
            reply.error(Errno::EIO);
        } else {
            reply.data(&buf);
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if !offset.is_multiple_of(self.sector as u64) || !data.len().is_multiple_of(self.sector) {
            reply.error(Errno::EINVAL); // no loop device with direct I/O
            return;
        }
        let mut state = self.shared.state.lock();
        if state.is_faulty(|fault| matches!(fault, Fault::Write(part) if contains(data, part))) {
            reply.error(Errno::EIO);
            return;
        }
        state.counts.writes += 1;
        state.cache().write(offset, data);
        if matches!(&state.fault, Fault::FlushAfter(part) if contains(data, part)) {
            state.fault = Fault::Flush;
        }
        state.happens(Event::AfterWrite, &self.shared.caught);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.shared.state.lock();
        if state.is_faulty(|fault| *fault == Fault::Flush) {
            reply.error(Errno::EIO);
            return;
        }
        state.counts.flushes += 1;
        state.happens(Event::BeforeFlush, &self.shared.caught);
        if !state.lies {
            state.cache().flush();
        }
        state.happens(Event::AfterFlush, &self.shared.caught);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok(); // a close, which is no flush of a disk
    }
}
