//! What a power cut leaves. A [`Recorder`] watches a log's file operations and remembers what every sync covered; a [`Cut`] is the
//! state of one moment, and composes images from it: what was synced, and of the rest whatever a test, or a seed, says had reached
//! the disk. The rest is chosen by sectors of 512 bytes, by lengths of files and by names in directories.
//!
//! What lies in a file is durable after a sync of it that began later; a name is durable after a sync of its directory. After a kill
//! ([`Recorder::resume`]) a page that differs from the disk is taken for one whose write has failed: a sync passes it over until
//! somebody writes it again.

use crate::shared::Rng;
use maplog::testing::{observe, Observer, ObserverGuard, Op};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    /// By its number: a file keeps it under every name.
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone, Default)]
struct FileState {
    /// What the disk has for certain.
    durable: Vec<u8>,
    /// What the file holds, or held when its last name went.
    live: Vec<u8>,
    /// Pages that a sync passes over.
    stale: BTreeSet<usize>,
}

/// The state of the disk and of the page cache at one moment. Paths are relative to the directory that was watched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut {
    files: Vec<FileState>,
    /// The names as processes see them.
    now: Names,
    /// The names that the disk has for certain.
    disk: Names,
}

/// Something that was not synced, and may have reached the disk or not.
#[derive(Debug)]
pub(crate) struct Unsynced<'c> {
    /// The file or directory that it is about, by the name it has, or had, for processes.
    pub(crate) path: &'c Path,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// It got a name, another one, or lost it.
    Name,
    /// The file's length.
    Len,
    /// Bytes of the file.
    Sector(Range<u64>),
}

impl Unsynced<'_> {
    /// Whether it is about the file of segment `id`.
    pub(crate) fn is_of_segment(&self, id: u64) -> bool {
        self.path.file_name().is_some_and(|name| name.to_string_lossy() == format!("wal-{id:06}.log"))
    }
}

impl Cut {
    /// Writes an image to `to`: of what was not synced, it has what `survives` says.
    pub(crate) fn write(&self, to: &Path, mut survives: impl FnMut(&Unsynced<'_>) -> bool) {
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to).unwrap();
        for (path, node) in self.choose_names(&mut survives) {
            let target = to.join(&path);
            if !target.parent().is_some_and(Path::is_dir) {
                continue; // The directory's own name was lost.
            }
            match node {
                Node::Dir => fs::create_dir(&target).unwrap(),
                Node::File(file) => {
                    let name = self.now.iter().find(|(_, node)| **node == Node::File(file)).map_or(&path, |(p, _)| p);
                    fs::write(&target, self.files[file].compose(name, &mut survives)).unwrap();
                }
            }
        }
    }

    /// Writes an image with nothing but what was synced.
    pub(crate) fn write_durable(&self, to: &Path) {
        self.write(to, |_| false);
    }

    /// Writes an image with everything: what a kill leaves.
    pub(crate) fn write_live(&self, to: &Path) {
        self.write(to, |_| true);
    }

    /// Writes an image with a part of what was not synced, which follows from `seed`: few, half or most of it.
    pub(crate) fn write_seeded(&self, seed: u64, to: &Path) {
        let mut rng = Rng::new(seed);
        let most = [1, 4, 7][(rng.next() % 3) as usize];
        self.write(to, |_| rng.next() % 8 < most);
    }

    /// Has the first bytes of a write on the disk, and no more of it.
    pub(crate) fn tear(&mut self, path: &Path, offset: u64, written: &[u8]) {
        if let Some(Node::File(file)) = self.disk.get(path) {
            let durable = &mut self.files[*file].durable;
            durable[offset as usize..offset as usize + written.len()].copy_from_slice(written);
        }
    }

    /// Each name in the image. A file that was renamed has the one or the other.
    fn choose_names(&self, survives: &mut impl FnMut(&Unsynced<'_>) -> bool) -> Names {
        let mut chosen: Names = self.now.iter().filter(|(p, n)| self.disk.get(*p) == Some(n)).map(own).collect();
        let differing = |here: &Names, there: &Names| -> Vec<(PathBuf, Node)> {
            here.iter().filter(|(path, node)| there.get(*path) != Some(node)).map(own).collect()
        };
        let (news, olds) = (differing(&self.now, &self.disk), differing(&self.disk, &self.now));
        let mut nodes: Vec<(PathBuf, Node)> = Vec::new();
        for (path, node) in news.iter().chain(&olds) {
            let known = |(other_path, other): &(PathBuf, Node)| match node {
                Node::Dir => other_path == path,
                Node::File(_) => other == node,
            };
            if !nodes.iter().any(known) {
                nodes.push((path.clone(), *node));
            }
        }
        for (path, node) in nodes {
            let is_it = |(p, n): &&(PathBuf, Node)| *n == node && (node != Node::Dir || *p == path);
            let (new, old) = (news.iter().find(is_it), olds.iter().find(is_it));
            let new_state = survives(&Unsynced { path: &path, what: What::Name });
            let taken = |choice: &(PathBuf, Node)| chosen.contains_key(&choice.0);
            let choice = if new_state || old.is_some_and(taken) { new } else { old };
            if let Some((path, node)) = choice.filter(|choice| !taken(choice)) {
                chosen.insert(path.clone(), *node);
            }
        }
        chosen
    }
}

fn own((path, node): (&PathBuf, &Node)) -> (PathBuf, Node) {
    (path.clone(), *node)
}

impl FileState {
    fn compose(&self, path: &Path, survives: &mut impl FnMut(&Unsynced<'_>) -> bool) -> Vec<u8> {
        let (durable, live) = (&self.durable, &self.live);
        let has_new_len = durable.len() == live.len() || survives(&Unsynced { path, what: What::Len });
        let mut image = durable.clone();
        image.resize(if has_new_len { live.len() } else { durable.len() }, 0);
        for start in (0..image.len().min(live.len())).step_by(SECTOR) {
            let sector = start..(start + SECTOR).min(image.len()).min(live.len());
            let what = What::Sector(sector.start as u64..sector.end as u64);
            if image[sector.clone()] != live[sector.clone()] && survives(&Unsynced { path, what }) {
                image[sector.clone()].copy_from_slice(&live[sector]);
            }
        }
        image
    }

    /// A sync of the pages that hold `bytes`, when the file held `content`, returned Ok.
    fn synced(&mut self, content: &[u8], bytes: Range<u64>) {
        self.durable.resize(content.len(), 0);
        for page in bytes.start as usize / PAGE..(bytes.end.min(content.len() as u64) as usize).div_ceil(PAGE) {
            if !self.stale.contains(&page) {
                let range = page * PAGE..((page + 1) * PAGE).min(content.len());
                self.durable[range.clone()].copy_from_slice(&content[range]);
            }
        }
    }

    fn mark_stale(&mut self) {
        let page_of = |bytes: &[u8], page: usize| bytes.chunks(PAGE).nth(page).map(<[u8]>::to_vec);
        let pages = self.live.len().div_ceil(PAGE);
        self.stale = (0..pages).filter(|&page| page_of(&self.live, page) != page_of(&self.durable, page)).collect();
    }
}

/// What a thread's sync will have covered, if it returns Ok.
#[derive(Debug)]
enum Pending {
    Data(usize, Vec<u8>, Range<u64>),
    Names(PathBuf, Names),
}

type Hook = Box<dyn Fn(&Recorder, &Op<'_>) -> io::Result<()> + Send + Sync>;

/// Watches the operations below a directory.
pub(crate) struct Recorder {
    dir: PathBuf,
    state: Mutex<Cut>,
    pending: Mutex<HashMap<ThreadId, Pending>>,
    hook: Hook,
}

/// A recorder at work. It ends when this is dropped.
pub(crate) struct Recording {
    recorder: Arc<Recorder>,
    _guard: ObserverGuard,
}

impl Recording {
    pub(crate) fn cut(&self) -> Cut {
        self.recorder.cut()
    }
}

impl Recorder {
    /// Watches `dir`, of which everything is on the disk.
    pub(crate) fn start(dir: &Path) -> Recording {
        Self::start_with(dir, |_, _| Ok(()))
    }

    /// As [`start`](Self::start), with a hook before every operation, whose error takes the operation's place.
    pub(crate) fn start_with(
        dir: &Path,
        hook: impl Fn(&Recorder, &Op<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Recording {
        let mut state = Cut::default();
        state.take_in(dir, Path::new(""));
        state.disk = state.now.clone();
        Self::watch(dir, state, Box::new(hook))
    }

    /// Watches `dir`, which `cut` wrote with everything: a process was killed, and of what it had not synced nothing is on the disk.
    pub(crate) fn resume(
        dir: &Path,
        cut: &Cut,
        hook: impl Fn(&Recorder, &Op<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Recording {
        let mut state = cut.clone();
        state.files.iter_mut().for_each(FileState::mark_stale);
        Self::watch(dir, state, Box::new(hook))
    }

    fn watch(dir: &Path, state: Cut, hook: Hook) -> Recording {
        let (state, pending) = (Mutex::new(state), Mutex::default());
        let recorder = Arc::new(Recorder { dir: dir.to_owned(), state, pending, hook });
        let guard = observe(dir, Arc::clone(&recorder) as Arc<dyn Observer>);
        Recording { recorder, _guard: guard }
    }

    /// The state of this moment: with the lock held, no other thread gets past the operation that it is at.
    pub(crate) fn cut(&self) -> Cut {
        let state = self.state();
        let mut cut = state.clone();
        for (path, node) in &cut.now {
            if let (Node::File(file), Ok(live)) = (node, fs::read(self.dir.join(path))) {
                cut.files[*file].live = live;
            }
        }
        drop(state);
        cut
    }

    /// `path` as the cuts of this recorder have it.
    pub(crate) fn relative<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(&self.dir).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, Cut> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<ThreadId, Pending>> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What the sync `op` is about to cover.
    fn covered(&self, op: &Op<'_>) -> Option<Pending> {
        let path = self.relative(op.path());
        let state = self.state();
        match (op, state.now.get(path)) {
            (Op::SyncDir { .. }, _) => Some(Pending::Names(path.to_owned(), state.names_in(path))),
            (Op::SyncFile { .. }, Some(Node::File(file))) => {
                Some(Pending::Data(*file, fs::read(op.path()).ok()?, 0..u64::MAX))
            }
            (Op::SyncRange { bytes, .. }, Some(Node::File(file))) => {
                Some(Pending::Data(*file, fs::read(op.path()).ok()?, bytes.clone()))
            }
            _ => None,
        }
    }
}

impl Cut {
    fn take_in(&mut self, dir: &Path, relative: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = relative.join(path.file_name().unwrap());
            if path.is_dir() {
                self.now.insert(name.clone(), Node::Dir);
                self.take_in(&path, &name);
            } else {
                let durable = fs::read(&path).unwrap();
                self.add_file(&name, FileState { live: durable.clone(), durable, ..FileState::default() });
            }
        }
    }

    fn add_file(&mut self, path: &Path, file: FileState) {
        self.now.insert(path.to_owned(), Node::File(self.files.len()));
        self.files.push(file);
    }

    fn names_in(&self, dir: &Path) -> Names {
        self.now.iter().filter(|(path, _)| path.parent() == Some(dir)).map(own).collect()
    }
}

impl Observer for Recorder {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        (self.hook)(self, op)?;
        if let Some(pending) = self.covered(op) {
            self.pending().insert(thread::current().id(), pending);
        }
        if let Op::Unlink { path } = op {
            let mut state = self.state();
            if let (Some(Node::File(file)), Ok(live)) = (state.now.get(self.relative(path)).copied(), fs::read(path)) {
                state.files[file].live = live;
            }
        }
        Ok(())
    }

    fn after(&self, op: &Op<'_>, succeeded: bool) {
        let pending = self.pending().remove(&thread::current().id());
        if !succeeded {
            return;
        }
        let path = self.relative(op.path());
        let state = &mut *self.state();
        match (op, pending) {
            (Op::CreateDir { .. }, _) => drop(state.now.insert(path.to_owned(), Node::Dir)),
            (Op::Create { .. } | Op::Open { .. }, _) if !state.now.contains_key(path) => {
                state.add_file(path, FileState::default());
            }
            (Op::Rename { to, .. }, _) => {
                if let Some(node) = state.now.remove(path) {
                    state.now.insert(self.relative(to).to_owned(), node);
                }
            }
            (Op::Unlink { .. }, _) => drop(state.now.remove(path)),
            (Op::Write { offset, data, .. }, _) => {
                if let Some(Node::File(file)) = state.now.get(path) {
                    let (first, end) = (*offset as usize / PAGE, (*offset as usize + data.len()).div_ceil(PAGE));
                    state.files[*file].stale.retain(|page| !(first..end).contains(page));
                }
            }
            (_, Some(Pending::Data(file, content, bytes))) => state.files[file].synced(&content, bytes),
            (_, Some(Pending::Names(dir, names))) => {
                state.disk.retain(|path, _| path.parent() != Some(&dir));
                state.disk.extend(names);
            }
            _ => {}
        }
    }
}

/// Takes a cut before every operation that changes something or syncs it, each with the phase that the test was in.
pub(crate) struct Film {
    recording: Recording,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    phase: u32,
    cuts: Vec<(u32, Cut)>,
}

impl Film {
    /// Films `dir`, of which everything is on the disk.
    pub(crate) fn start(dir: &Path) -> Film {
        let taken = Arc::<Mutex<Taken>>::default();
        let recording = Recorder::start_with(dir, film_to(&taken));
        Film { recording, taken }
    }

    /// Films `dir`, which `cut` wrote with everything: see [`Recorder::resume`].
    pub(crate) fn resume(dir: &Path, cut: &Cut) -> Film {
        let taken = Arc::<Mutex<Taken>>::default();
        let recording = Recorder::resume(dir, cut, film_to(&taken));
        Film { recording, taken }
    }

    /// From here on, cuts are of this phase.
    pub(crate) fn phase(&self, phase: u32) {
        self.taken.lock().unwrap().phase = phase;
    }

    /// All cuts, and one of the end.
    pub(crate) fn stop(self) -> Vec<(u32, Cut)> {
        let last = self.recording.cut();
        drop(self.recording);
        let mut taken = self.taken.lock().unwrap();
        let phase = taken.phase;
        taken.cuts.push((phase, last));
        std::mem::take(&mut taken.cuts)
    }
}

fn film_to(taken: &Arc<Mutex<Taken>>) -> impl Fn(&Recorder, &Op<'_>) -> io::Result<()> + Send + Sync + 'static {
    let taken = Arc::clone(taken);
    move |recorder, op| {
        let changes_nothing = matches!(
            op,
            Op::Read { .. }
                | Op::List { .. }
                | Op::Open { .. }
                | Op::Map { .. }
                | Op::Populate { .. }
                | Op::Lock { .. }
        );
        if !changes_nothing {
            let mut taken = taken.lock().unwrap();
            let phase = taken.phase;
            taken.cuts.push((phase, recorder.cut()));
        }
        Ok(())
    }
}
