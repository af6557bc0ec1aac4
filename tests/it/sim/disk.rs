//! The disk of the simulator: for each file what is durable, what is current and what it was in between; for each directory the
//! durable names and the changes since.

use super::Rng;
use maplog::testing::Op;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::{self, ThreadId};

const SECTOR: usize = 512;
const PAGE: u64 = 4096;
/// Versions of a file that are kept between durable and current.
const SNAPSHOTS_MAX: usize = 4;

/// Everything below one root directory. Files that the library opens but never creates as new, its locks, hold nothing and are
/// left out.
#[derive(Default)]
pub(crate) struct Disk {
    files: Vec<FileState>,
    /// The first one is the root, which nobody removes.
    dirs: Vec<DirState>,
    syncing: HashMap<ThreadId, Syncing>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir(usize),
}

struct FileState {
    /// Reads what is current, under whatever name or none.
    current: Current,
    durable: Vec<u8>,
    snapshots: Vec<Vec<u8>>,
}

enum Current {
    Open(File),
    /// An earlier process removed the file, and the removal is not durable.
    Gone(Vec<u8>),
}

#[derive(Default)]
struct DirState {
    durable: BTreeMap<OsString, Node>,
    changes: Vec<Change>,
    current: BTreeMap<OsString, Node>,
}

#[derive(Clone)]
enum Change {
    Add(OsString, Node),
    Remove(OsString),
    Rename(OsString, OsString),
}

/// What a sync that is under way will have made durable.
enum Syncing {
    File { file: usize, bytes: Vec<u8> },
    Range { file: usize, start: u64, bytes: Vec<u8> },
    Dir { dir: usize, changes: usize },
}

/// What a crash leaves: directories, and files with their bytes, by path below the root.
#[derive(Clone, Default)]
pub(crate) struct Image {
    dirs: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Image {
    pub(crate) fn write_to(&self, root: &Path) {
        fs::create_dir_all(root).unwrap();
        for dir in &self.dirs {
            fs::create_dir(root.join(dir)).unwrap();
        }
        for (path, bytes) in &self.files {
            fs::write(root.join(path), bytes).unwrap();
        }
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<OsString, Node>) {
        match self {
            Change::Add(name, node) => drop(names.insert(name.clone(), *node)),
            Change::Remove(name) => drop(names.remove(name)),
            Change::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl FileState {
    fn open(path: &Path, durable: Vec<u8>) -> FileState {
        FileState { current: Current::Open(File::open(path).unwrap()), durable, snapshots: Vec::new() }
    }

    fn current(&mut self) -> Vec<u8> {
        match &mut self.current {
            Current::Gone(bytes) => bytes.clone(),
            Current::Open(file) => {
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_end(&mut bytes).unwrap();
                bytes
            }
        }
    }

    /// What a power cut leaves of the file.
    fn survivor(&mut self, rng: &mut Rng) -> Vec<u8> {
        let current = self.current();
        let mut versions = vec![self.durable.as_slice(), &current];
        versions.extend(self.snapshots.iter().map(Vec::as_slice));
        let len = rng.pick(&versions).len();
        // How likely an unsynced sector is on the disk, in sixteenths: from none to all of them.
        let likely = *rng.pick(&[0, 1, 4, 8, 12, 15, 16]);
        let in_between = rng.one_in(2);
        let mut image = vec![0; len];
        for start in (0..len).step_by(SECTOR) {
            let sector = start..len.min(start + SECTOR);
            let version = match rng.within(0..16) < likely {
                false => self.durable.as_slice(),
                true if in_between && rng.one_in(4) => rng.pick(&versions),
                true => &current,
            };
            // A version that ends before says nothing about this sector, and what was durable stays.
            let version = if version.len() > start { version } else { &self.durable };
            let there = version.get(start..version.len().min(sector.end)).unwrap_or_default();
            image[start..start + there.len()].copy_from_slice(there);
        }
        image
    }

    /// The bytes from `start` on are durable, and no earlier ones can come back.
    fn make_durable(&mut self, start: u64, bytes: &[u8]) {
        let range = start as usize..start as usize + bytes.len();
        for version in std::iter::once(&mut self.durable).chain(&mut self.snapshots) {
            if version.len() < range.end {
                version.resize(range.end, 0);
            }
            version[range.clone()].copy_from_slice(bytes);
        }
    }
}

impl Disk {
    /// A disk on which all that lies below `root` is durable.
    pub(crate) fn load(root: &Path) -> Disk {
        let mut disk = Disk::default();
        disk.load_dir(root);
        disk
    }

    fn load_dir(&mut self, path: &Path) -> usize {
        let dir = self.dirs.len();
        self.dirs.push(DirState::default());
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let node = if entry.path().is_dir() {
                Node::Dir(self.load_dir(&entry.path()))
            } else {
                let bytes = fs::read(entry.path()).unwrap();
                self.files.push(FileState::open(&entry.path(), bytes));
                Node::File(self.files.len() - 1)
            };
            self.dirs[dir].durable.insert(entry.file_name(), node);
        }
        self.dirs[dir].current = self.dirs[dir].durable.clone();
        dir
    }

    /// The same disk after a kill, with a copy of the page cache below `root` to go on with.
    pub(crate) fn moved_to(mut self, root: &Path) -> Disk {
        for file in &mut self.files {
            file.current = Current::Gone(file.current());
        }
        self.syncing.clear();
        self.reopen_dir(0, root);
        self
    }

    fn reopen_dir(&mut self, dir: usize, path: &Path) {
        for (name, node) in self.dirs[dir].current.clone() {
            match node {
                Node::Dir(below) => self.reopen_dir(below, &path.join(name)),
                Node::File(file) => {
                    self.files[file].current = Current::Open(File::open(path.join(name)).unwrap());
                }
            }
        }
    }

    // --- operations ---

    pub(super) fn before(&mut self, op: &Op<'_>, root: &Path) {
        let syncing = match op {
            Op::SyncFile { path } => self.file(path, root).map(|file| {
                let bytes = self.files[file].current();
                Syncing::File { file, bytes }
            }),
            Op::SyncRange { path, bytes } => self.file(path, root).map(|file| {
                let content = self.files[file].current();
                let pages = pages(bytes, content.len() as u64);
                let bytes = content[pages.start as usize..pages.end as usize].to_vec();
                Syncing::Range { file, start: pages.start, bytes }
            }),
            Op::SyncDir { path } => self.dir(path, root).map(|dir| {
                let changes = self.dirs[dir].changes.len();
                Syncing::Dir { dir, changes }
            }),
            _ => None,
        };
        if let Some(syncing) = syncing {
            self.syncing.insert(thread::current().id(), syncing);
        }
    }

    pub(super) fn after(&mut self, op: &Op<'_>, succeeded: bool, root: &Path) {
        let syncing = self.syncing.remove(&thread::current().id());
        if !succeeded {
            return;
        }
        match (op, syncing) {
            (Op::CreateDir { path }, _) => {
                self.dirs.push(DirState::default());
                self.change(path, root, |name, disk| Change::Add(name, Node::Dir(disk.dirs.len() - 1)));
            }
            (Op::Create { path }, _) => {
                self.files.push(FileState::open(path, Vec::new()));
                self.change(path, root, |name, disk| Change::Add(name, Node::File(disk.files.len() - 1)));
            }
            (Op::Unlink { path }, _) => self.change(path, root, |name, _| Change::Remove(name)),
            (Op::Rename { from, to }, _) => {
                assert_eq!(from.parent(), to.parent(), "a rename into another directory is not simulated");
                let to = to.file_name().unwrap().to_owned();
                self.change(from, root, |name, _| Change::Rename(name, to));
            }
            (_, Some(Syncing::File { file, bytes })) => {
                self.files[file].durable = bytes;
                self.files[file].snapshots.clear();
            }
            (_, Some(Syncing::Range { file, start, bytes })) => self.files[file].make_durable(start, &bytes),
            (_, Some(Syncing::Dir { dir, changes })) => {
                let DirState { durable, changes: pending, .. } = &mut self.dirs[dir];
                pending.drain(..changes.min(pending.len())).for_each(|change| change.apply(durable));
            }
            _ => {}
        }
    }

    fn change(&mut self, path: &Path, root: &Path, change: impl FnOnce(OsString, &Disk) -> Change) {
        let dir = self.dir(path.parent().unwrap(), root).unwrap();
        let change = change(path.file_name().unwrap().to_owned(), self);
        change.apply(&mut self.dirs[dir].current);
        self.dirs[dir].changes.push(change);
    }

    fn node(&self, path: &Path, root: &Path) -> Option<Node> {
        let mut node = Node::Dir(0);
        for name in path.strip_prefix(root).ok()? {
            let Node::Dir(dir) = node else {
                return None;
            };
            node = *self.dirs[dir].current.get(name)?;
        }
        Some(node)
    }

    fn file(&self, path: &Path, root: &Path) -> Option<usize> {
        match self.node(path, root)? {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    fn dir(&self, path: &Path, root: &Path) -> Option<usize> {
        match self.node(path, root)? {
            Node::Dir(dir) => Some(dir),
            Node::File(_) => None,
        }
    }

    /// Keeps the current version of every file as one that a sector may have on the disk.
    pub(super) fn take_snapshot(&mut self) {
        for file in self.files.iter_mut().filter(|file| matches!(file.current, Current::Open(_))) {
            if file.snapshots.len() == SNAPSHOTS_MAX {
                file.snapshots.remove(0);
            }
            let current = file.current();
            file.snapshots.push(current);
        }
    }

    // --- crashes ---

    /// What a power cut leaves.
    pub(super) fn power_cut(&mut self, rng: &mut Rng) -> Image {
        let mut image = Image::default();
        self.collect(0, Path::new(""), &mut image, &mut Some(rng));
        image
    }

    /// What a kill leaves.
    pub(super) fn page_cache(&mut self) -> Image {
        let mut image = Image::default();
        self.collect(0, Path::new(""), &mut image, &mut None);
        image
    }

    /// Adds a directory to an image: what survives by the dice, or all of it without them.
    fn collect(&mut self, dir: usize, path: &Path, image: &mut Image, dice: &mut Option<&mut Rng>) {
        let names = match dice {
            Some(rng) => self.dirs[dir].survivors(rng),
            None => self.dirs[dir].current.clone(),
        };
        for (name, node) in names {
            let path = path.join(name);
            match node {
                Node::Dir(below) => {
                    image.dirs.push(path.clone());
                    self.collect(below, &path, image, dice);
                }
                Node::File(file) => {
                    let file = &mut self.files[file];
                    let bytes = match dice {
                        Some(rng) => file.survivor(rng),
                        None => file.current(),
                    };
                    image.files.push((path, bytes));
                }
            }
        }
    }

    pub(super) fn durable_bytes(&self) -> Vec<Vec<u8>> {
        self.files.iter().map(|file| file.durable.clone()).collect()
    }
}

impl DirState {
    /// The names that a power cut leaves.
    fn survivors(&self, rng: &mut Rng) -> BTreeMap<OsString, Node> {
        let prefix = match rng.within(0..4) {
            0 => 0,
            1 => self.changes.len(),
            _ => rng.within(0..self.changes.len() as u64 + 1) as usize,
        };
        let mut names = self.durable.clone();
        for change in &self.changes[..prefix] {
            if !(matches!(change, Change::Remove(_)) && rng.one_in(3)) {
                change.apply(&mut names);
            }
        }
        names
    }
}

/// The pages of a file of `len` bytes that `bytes` touches.
fn pages(bytes: &Range<u64>, len: u64) -> Range<u64> {
    let end = bytes.end.next_multiple_of(PAGE).min(len);
    (bytes.start / PAGE * PAGE).min(end)..end
}
