//! A crash simulator: a log runs on real files while a [`Sim`] watches every operation on them and keeps its own account of what
//! a disk would hold. At a chosen operation the world stops, and the simulator builds what a power cut or a kill leaves.
//!
//! The rules that a disk keeps, and no others:
//!
//! - A file's bytes are durable once a sync that covers them has returned Ok: those that were there when it began. A `SyncFile`
//!   covers the file and its length, a `SyncRange` its pages.
//! - Of what is not durable, any subset of 512-byte sectors survives, each as it was at any moment since it was last durable.
//! - Names are durable once a `SyncDir` has returned Ok. Of the later changes of a directory a prefix survives, and of the unlinks
//!   in that prefix any subset. A file's sync makes no name durable.
//! - A kill loses nothing: the page cache stays, and stays as volatile as it was.
//!
//! Stores into a mapping are no operation. The simulator reads the files to see them, through descriptors of its own, so that
//! renames and unlinks change nothing for it.

mod disk;
mod rng;

pub(crate) use disk::{Disk, Image};
pub(crate) use rng::{seeds, Rng};

use maplog::testing::{observe, Observer, ObserverGuard, Op};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How an incarnation of the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The page cache is gone, but for what happened to reach the disk.
    PowerCut,
    /// The process is gone, the page cache stays.
    Kill,
}

/// What a crash left, and the test's model of the log as it was at that moment.
pub(crate) struct Wreck<M> {
    pub(crate) crash: Crash,
    pub(crate) image: Image,
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
    /// Locked before the model.
    state: Mutex<State<M>>,
}

struct State<M> {
    disk: Disk,
    rng: Rng,
    operations: u64,
    plan: Option<(u64, Crash)>,
    wreck: Option<Wreck<M>>,
}

impl<M: Clone + Send + 'static> Sim<M> {
    /// Watches everything below `root`, which is on `disk`.
    pub(crate) fn start(root: &Path, disk: Disk, model: Arc<Mutex<M>>, rng: Rng) -> Sim<M> {
        let state = State { disk, rng, operations: 0, plan: None, wreck: None };
        let world = World { root: root.to_owned(), model, stopped: AtomicBool::new(false), state: Mutex::new(state) };
        let world = Arc::new(world);
        let guard = observe(root, Arc::clone(&world) as Arc<dyn Observer>);
        Sim { world, _guard: guard }
    }

    /// The world is to stop before the operation with this number, counted from now.
    pub(crate) fn plan(&self, operation: u64, crash: Crash) {
        let mut state = lock(&self.world.state);
        state.plan = Some((state.operations + operation, crash));
    }

    /// True once the world has stopped: every operation fails, and nothing that happens changes the wreck.
    pub(crate) fn stopped(&self) -> bool {
        self.world.stopped.load(Ordering::SeqCst)
    }

    /// What is left of the world, which is stopped now if it was not before.
    pub(crate) fn wreck(self, crash: Crash) -> Wreck<M> {
        let mut state = lock(&self.world.state);
        if state.wreck.is_none() {
            self.world.stop(&mut state, crash, "rest".to_owned());
        }
        state.wreck.take().unwrap()
    }
}

impl<M: Clone> World<M> {
    fn stop(&self, state: &mut State<M>, crash: Crash, at: String) {
        // Held while the image is made: the test cannot begin anything that the model does not know of.
        let model = lock(&self.model);
        self.stopped.store(true, Ordering::SeqCst);
        let image = match crash {
            Crash::PowerCut => state.disk.power_cut(&mut state.rng),
            Crash::Kill => state.disk.page_cache(),
        };
        let durable = state.disk.durable_bytes();
        let disk = std::mem::take(&mut state.disk);
        state.wreck = Some(Wreck { crash, image, model: model.clone(), durable, at, disk });
    }
}

impl<M: Clone + Send> Observer for World<M> {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operations += 1;
        if let Some((operation, crash)) = state.plan {
            if state.operations >= operation && !self.stopped.load(Ordering::SeqCst) {
                self.stop(&mut state, crash, describe(op, &self.root));
            }
        }
        if self.stopped.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        let State { disk, rng, .. } = &mut *state;
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

fn describe(op: &Op<'_>, root: &Path) -> String {
    match op {
        Op::Write { path, offset, data } => {
            let path = path.strip_prefix(root).unwrap_or(path);
            format!("Write {} {offset}+{}", path.display(), data.len())
        }
        _ => format!("{op:?}").replace(&format!("{}/", root.display()), ""),
    }
}

/// Locks a mutex. One that a failed assertion has poisoned still holds what the failure report needs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory for a simulated world: in memory if the system has a file system there, for real syncs add nothing but time.
pub(crate) fn scratch_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
