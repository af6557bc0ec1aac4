//! A log runs on real files while a [`Sim`] watches every operation on them and keeps its own account of what a disk would hold. At a
//! chosen operation the world stops, and the simulator builds what a power cut or a kill leaves.
//!
//! The rules that a disk keeps, and no others:
//!
//! - A file's bytes are durable once a sync that covers them has returned Ok: those that were there when it began. A `SyncFile`
//!   covers the file and its length, a `SyncRange` its pages.
//! - Of what is not durable any part survives, by sectors of 512 bytes, by pages of 4 KiB, or torn within a sector; each part as it
//!   was at any moment since it was last durable, for the kernel writes back whenever it likes.
//! - Names are durable once a `SyncDir` has returned Ok. Of the later changes of a directory a prefix survives, and of the unlinks
//!   in that prefix any subset. A file's sync makes no name durable.
//! - A kill loses nothing: the page cache stays, and stays as volatile as it was.
//! - A sync that fails leaves any of its pages on the disk. The others stay in the page cache and count as clean: no later sync writes
//!   them, unless they are written again first.
//!
//! Stores into a mapping are no operation. The simulator reads the files to see them, through descriptors of its own, so that
//! renames and unlinks change nothing for it.

mod disk;

pub(crate) use disk::{Disk, Image};

use crate::shared::{lock, Rng};
use maplog::testing::{observe, Observer, ObserverGuard, Op};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Images of a power cut that are made of each wreck, beside the one with which its chain goes on.
const IMAGES: usize = 6;

/// How an incarnation of the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The page cache is gone, but for what happened to reach the disk.
    PowerCut,
    /// The process is gone, the page cache stays.
    Kill,
}

/// What a sync that failed should have made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Entries, or the manifest: the log is poisoned.
    Poisons,
    /// Names, or a file that holds no entry: whoever asked for it is told.
    Harmless,
}

/// What a crash left, and the test's model of the log as it was at that moment.
pub(crate) struct Wreck<M> {
    pub(crate) crash: Crash,
    /// What the next incarnation finds.
    pub(crate) image: Image,
    /// What it might have found if the power had gone at that moment.
    pub(crate) power_cuts: Vec<Image>,
    pub(crate) model: M,
    /// What every file is sure to hold after a power cut.
    pub(crate) durable: Vec<Vec<u8>>,
    /// The operation at which the world stopped.
    pub(crate) at: String,
    disk: Disk,
}

impl<M> Wreck<M> {
    /// Writes the files of the wreck into `root`; the disk that they are on.
    pub(crate) fn settle(&mut self, root: &Path) -> Disk {
        self.image.write_to(root);
        match self.crash {
            Crash::PowerCut => Disk::load(root),
            Crash::Kill => std::mem::take(&mut self.disk).moved_to(root),
        }
    }
}

/// The world in which one log lives. `M` is the test's model: the test locks it to say what it is about to do and what came of it,
/// and finds in the wreck how it stood when the world stopped.
pub(crate) struct Sim<M> {
    world: Arc<World<M>>,
    _guard: ObserverGuard,
}

struct World<M> {
    root: PathBuf,
    model: Arc<Mutex<M>>,
    stopped: AtomicBool,
    /// Of the log that is open now, and of any.
    failure: Mutex<Option<Failure>>,
    has_failed: AtomicBool,
    /// Locked before the model, and before the failure.
    state: Mutex<State<M>>,
}

struct State<M> {
    disk: Disk,
    rng: Rng,
    operations: u64,
    crash: Option<(u64, Crash)>,
    /// From this operation on, the next sync fails.
    failure: Option<u64>,
    wreck: Option<Wreck<M>>,
}

impl<M: Clone + Send + 'static> Sim<M> {
    /// Watches everything below `root`, which is on `disk`.
    pub(crate) fn start(root: &Path, disk: Disk, model: Arc<Mutex<M>>, rng: Rng) -> Sim<M> {
        let state = State { disk, rng, operations: 0, crash: None, failure: None, wreck: None };
        let world = World {
            root: root.to_owned(),
            model,
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
            has_failed: AtomicBool::new(false),
            state: Mutex::new(state),
        };
        let world = Arc::new(world);
        let guard = observe(root, Arc::clone(&world) as Arc<dyn Observer>);
        Sim { world, _guard: guard }
    }

    /// The world is to stop before the operation with this number, counted from now.
    pub(crate) fn plan_crash(&self, operation: u64, crash: Crash) {
        let mut state = lock(&self.world.state);
        state.crash = Some((state.operations + operation, crash));
    }

    /// The first sync from the operation with this number on is to fail, once.
    pub(crate) fn plan_failure(&self, operation: u64) {
        let mut state = lock(&self.world.state);
        state.failure = Some(state.operations + operation);
    }

    /// True once the world has stopped: every operation fails, and nothing that happens changes the wreck.
    pub(crate) fn stopped(&self) -> bool {
        self.world.stopped.load(Ordering::SeqCst)
    }

    /// True once a sync has failed that was planned to.
    pub(crate) fn has_failed(&self) -> bool {
        self.world.has_failed.load(Ordering::SeqCst)
    }

    /// What failed since the log was opened.
    pub(crate) fn failure(&self) -> Option<Failure> {
        *lock(&self.world.failure)
    }

    /// The log is opened again: what failed before is no concern of it.
    pub(crate) fn forget_failure(&self) {
        *lock(&self.world.failure) = None;
    }

    /// The kernel may write back what the files hold at this moment.
    pub(crate) fn write_back(&self) {
        lock(&self.world.state).disk.take_snapshot();
    }

    /// The world stops now.
    pub(crate) fn stop(&self, crash: Crash, at: &str) {
        self.world.stop(&mut lock(&self.world.state), crash, at.to_owned());
    }

    /// What is left of the world, which is stopped now if it was not before.
    pub(crate) fn wreck(self, crash: Crash) -> Wreck<M> {
        let mut state = lock(&self.world.state);
        self.world.stop(&mut state, crash, "rest".to_owned());
        state.wreck.take().unwrap()
    }
}

impl<M: Clone> World<M> {
    fn stop(&self, state: &mut State<M>, crash: Crash, at: String) {
        if state.wreck.is_some() {
            return;
        }
        // Held while the images are made: the test cannot begin anything that the model does not know of.
        let model = lock(&self.model);
        self.stopped.store(true, Ordering::SeqCst);
        let mut power_cuts = state.disk.power_cuts(IMAGES + 1, &mut state.rng);
        let image = match crash {
            Crash::PowerCut => power_cuts.pop().unwrap(),
            Crash::Kill => state.disk.page_cache(),
        };
        let durable = state.disk.durable_bytes();
        let disk = std::mem::take(&mut state.disk);
        state.wreck = Some(Wreck { crash, image, power_cuts, model: model.clone(), durable, at, disk });
    }
}

impl<M: Clone + Send> Observer for World<M> {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operations += 1;
        let operations = state.operations;
        if let Some((_, crash)) = state.crash.filter(|(operation, _)| operations >= *operation) {
            self.stop(&mut state, crash, describe(op, &self.root));
        }
        if self.stopped.load(Ordering::SeqCst) {
            return Err(eio());
        }
        let is_sync = matches!(op, Op::SyncFile { .. } | Op::SyncRange { .. } | Op::SyncDir { .. });
        let fails = is_sync && state.failure.is_some_and(|operation| operations >= operation);
        let State { disk, rng, failure, .. } = &mut *state;
        if fails {
            *failure = None;
            *lock(&self.failure) = Some(Failure::of(op));
            self.has_failed.store(true, Ordering::SeqCst);
            disk.fail_sync(op, &self.root, rng);
            return Err(eio());
        }
        if rng.one_in(12) {
            disk.take_snapshot();
        }
        disk.before(op, &self.root);
        Ok(())
    }

    fn after(&self, op: &Op<'_>, succeeded: bool) {
        if !self.stopped.load(Ordering::SeqCst) {
            let mut state = lock(&self.state);
            // Asked again: the world may have stopped while this thread waited for the lock.
            if !self.stopped.load(Ordering::SeqCst) {
                state.disk.after(op, succeeded, &self.root);
            }
        }
    }
}

impl Failure {
    fn of(op: &Op<'_>) -> Failure {
        let poisons = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("wal-") || name == "wal.meta"
        };
        match op {
            Op::SyncFile { path } | Op::SyncRange { path, .. } if poisons(path) => Failure::Poisons,
            _ => Failure::Harmless,
        }
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn describe(op: &Op<'_>, root: &Path) -> String {
    match op {
        Op::Write { path, offset, data } => {
            let path = path.strip_prefix(root).unwrap_or(path);
            format!("Write {} {offset}+{}", path.display(), data.len())
        }
        _ => format!("{op:?}").replace(&format!("{}/", root.display()), ""),
    }
}
