//! The disk of the simulator: for each file what is durable, what is current and what it was in between; for each directory the
//! durable names and the changes since.

use crate::shared::Rng;
use maplog::testing::Op;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::{self, ThreadId};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
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
    /// Pages that a failed sync has left behind, with what they held: clean to the kernel, and not on the disk.
    stale: BTreeMap<usize, Vec<u8>>,
}

/// What survives as a whole, or not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grain {
    Sector,
    Page,
    /// A sector, or its first bytes alone.
    Torn,
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
    Range { file: usize, start: usize, bytes: Vec<u8> },
    Dir { dir: usize, changes: usize },
}

/// What a crash leaves: directories, and files with their bytes, by path below the root.
#[derive(Clone, Default, Hash)]
pub(crate) struct Image {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
}

impl Image {
    /// What lies below `root`.
    pub(crate) fn read(root: &Path) -> Image {
        let mut image = Image::default();
        image.read_dir(root, Path::new(""));
        image
    }

    fn read_dir(&mut self, root: &Path, dir: &Path) {
        let mut names: Vec<_> = fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for path in names.iter().map(|name| dir.join(name)) {
            if root.join(&path).is_dir() {
                self.dirs.push(path.clone());
                self.read_dir(root, &path);
            } else {
                match fs::read(root.join(&path)) {
                    // A spare of a living log: the keeper has given it its real name, or removed it.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    bytes => self.files.push((path, bytes.unwrap())),
                }
            }
        }
    }

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
        let current = Current::Open(File::open(path).unwrap());
        FileState { current, durable, snapshots: Vec::new(), stale: BTreeMap::new() }
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

    /// What a power cut leaves of the file, which holds `current`.
    fn survivor(&self, current: &[u8], rng: &mut Rng) -> Vec<u8> {
        let mut versions = vec![self.durable.as_slice(), current];
        versions.extend(self.snapshots.iter().map(Vec::as_slice));
        let grain = *rng.pick(&[Grain::Sector, Grain::Sector, Grain::Page, Grain::Torn]);
        let step = if grain == Grain::Page { PAGE } else { SECTOR };
        let mut image = vec![0; rng.pick(&versions).len()];
        // How likely an unsynced part is on the disk, in sixteenths: from none to all of them.
        let likely = *rng.pick(&[0, 1, 4, 8, 12, 15, 16]);
        let in_between = rng.one_in(2);
        for start in (0..image.len()).step_by(step) {
            let place = start..image.len().min(start + step);
            let version = match rng.within(0..16) < likely {
                false => self.durable.as_slice(),
                true if in_between && rng.one_in(4) => rng.pick(&versions),
                true => current,
            };
            // A version that ends before says nothing about this place, and what was durable stays.
            let version = if version.len() > start { version } else { &self.durable };
            image[place.clone()].copy_from_slice(&part(version, &place));
            if grain == Grain::Torn && rng.one_in(8) {
                let torn_at = rng.within(0..place.len() as u64) as usize;
                let before = part(&self.durable, &place);
                image[place.start + torn_at..place.end].copy_from_slice(&before[torn_at..]);
            }
        }
        image
    }

    /// The bytes from `start` on, which the file held when a sync of them began, are durable, and no earlier ones can come back: but
    /// for pages that the kernel takes for clean.
    fn make_durable(&mut self, start: usize, bytes: &[u8]) {
        let FileState { durable, snapshots, stale, .. } = self;
        for (index, bytes) in bytes.chunks(PAGE).enumerate() {
            let (page, place) = (start / PAGE + index, start + index * PAGE..start + index * PAGE + bytes.len());
            if stale.get(&page).is_some_and(|held| held == bytes) {
                continue;
            }
            stale.remove(&page);
            for version in std::iter::once(&mut *durable).chain(&mut *snapshots) {
                if version.len() < place.end {
                    version.resize(place.end, 0);
                }
                version[place.clone()].copy_from_slice(bytes);
            }
        }
    }

    /// A sync of these bytes failed: each page is on the disk, or is not and counts as clean.
    fn fail_sync(&mut self, start: usize, bytes: &[u8], rng: &mut Rng) {
        for (index, bytes) in bytes.chunks(PAGE).enumerate() {
            let start = start + index * PAGE;
            if rng.one_in(2) {
                self.make_durable(start, bytes);
            } else if part(&self.durable, &(start..start + bytes.len())) != bytes {
                self.stale.insert(start / PAGE, bytes.to_vec());
            }
        }
    }
}

/// The bytes of a place, with zeros past the end.
fn part(bytes: &[u8], place: &Range<usize>) -> Vec<u8> {
    let mut part = bytes.get(place.start..bytes.len().min(place.end)).unwrap_or_default().to_vec();
    part.resize(place.len(), 0);
    part
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
        if let Some(syncing) = self.covered(op, root) {
            self.syncing.insert(thread::current().id(), syncing);
        }
    }

    /// What a sync that begins now will have made durable.
    fn covered(&mut self, op: &Op<'_>, root: &Path) -> Option<Syncing> {
        match op {
            Op::SyncFile { path } => {
                let file = self.file(path, root)?;
                Some(Syncing::File { file, bytes: self.files[file].current() })
            }
            Op::SyncRange { path, bytes } => {
                let file = self.file(path, root)?;
                let content = self.files[file].current();
                let pages = pages(bytes, content.len());
                Some(Syncing::Range { file, start: pages.start, bytes: content[pages].to_vec() })
            }
            Op::SyncDir { path } => {
                let dir = self.dir(path, root)?;
                Some(Syncing::Dir { dir, changes: self.dirs[dir].changes.len() })
            }
            _ => None,
        }
    }

    /// The sync does not do what it is there for.
    pub(super) fn fail_sync(&mut self, op: &Op<'_>, root: &Path, rng: &mut Rng) {
        match self.covered(op, root) {
            Some(Syncing::File { file, bytes }) => self.files[file].fail_sync(0, &bytes, rng),
            Some(Syncing::Range { file, start, bytes }) => self.files[file].fail_sync(start, &bytes, rng),
            Some(Syncing::Dir { .. }) | None => {}
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
            (Op::Write { path, offset, data }, _) => {
                if let Some(file) = self.file(path, root) {
                    let end = *offset as usize + data.len();
                    self.files[file]
                        .stale
                        .retain(|page, _| (page + 1) * PAGE <= *offset as usize || end <= page * PAGE);
                }
            }
            (_, Some(Syncing::File { file, bytes })) => {
                let file = &mut self.files[file];
                file.make_durable(0, &bytes);
                file.durable.truncate(bytes.len());
                file.snapshots.clear();
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

    /// What a power cut may leave: so many images.
    pub(super) fn power_cuts(&mut self, count: usize, rng: &mut Rng) -> Vec<Image> {
        let current = self.current();
        (0..count).map(|_| self.image(&current, &mut Some(rng))).collect()
    }

    /// What a kill leaves.
    pub(super) fn page_cache(&mut self) -> Image {
        let current = self.current();
        self.image(&current, &mut None)
    }

    fn current(&mut self) -> Vec<Vec<u8>> {
        self.files.iter_mut().map(FileState::current).collect()
    }

    /// What survives by the dice, or all of it without them.
    fn image(&self, current: &[Vec<u8>], dice: &mut Option<&mut Rng>) -> Image {
        let mut image = Image::default();
        self.collect(0, Path::new(""), current, &mut image, dice);
        image
    }

    fn collect(&self, dir: usize, path: &Path, current: &[Vec<u8>], image: &mut Image, dice: &mut Option<&mut Rng>) {
        let names = match dice {
            Some(rng) => self.dirs[dir].survivors(rng),
            None => self.dirs[dir].current.clone(),
        };
        for (name, node) in names {
            let path = path.join(name);
            match node {
                Node::Dir(below) => {
                    image.dirs.push(path.clone());
                    self.collect(below, &path, current, image, dice);
                }
                Node::File(file) => {
                    let bytes = match dice {
                        Some(rng) => self.files[file].survivor(&current[file], rng),
                        None => current[file].clone(),
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
fn pages(bytes: &Range<u64>, len: usize) -> Range<usize> {
    let end = (bytes.end as usize).next_multiple_of(PAGE).min(len);
    (bytes.start as usize / PAGE * PAGE).min(end)..end
}
