//! Where an execution takes place: a log of its own over real files, a disk that is watched, and what was appended and acked.

use crate::entry;
use maplog::testing::{observe, Observer, ObserverGuard, Op};
use maplog::{Error, Log, Options, Result, View};
use shuttle::current::{context_switches, me, TaskId};
use shuttle::rand::RngCore;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Small files: a segment holds two or three of the larger entries.
pub(crate) const SEGMENT_SIZE: u64 = 8 << 10;

/// A moment of an execution: how many scheduling points were passed.
pub(crate) type Moment = usize;

pub(crate) fn now() -> Moment {
    context_switches()
}

/// A number below `count`, the same in a replay.
pub(crate) fn below(count: u64) -> u64 {
    shuttle::rand::thread_rng().next_u64() % count
}

/// One of these.
pub(crate) fn any<T: Copy>(choices: &[T]) -> T {
    choices[below(choices.len() as u64) as usize]
}

/// What was met in all executions, to tell what a model shows.
static MET: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

pub(crate) fn met(what: &'static str) {
    *locked(&MET).entry(what).or_insert(0) += 1;
}

pub(crate) fn times_met(what: &str) -> u64 {
    locked(&MET).get(what).copied().unwrap_or(0)
}

/// Set where one execution is shown.
pub(crate) static TELLS: AtomicBool = AtomicBool::new(false);

/// Says what happens now, in an execution that is shown.
pub(crate) fn tell(what: impl FnOnce() -> String) {
    if TELLS.load(Ordering::Relaxed) {
        println!("{:>6} {:?}: {}", now(), me(), what());
    }
}

/// No thread of a model waits for these: they are let go of before the next scheduling point.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the threads of an execution share, but for the log.
pub(crate) struct Scene {
    dir: PathBuf,
    pub(crate) disk: Arc<Disk>,
    next_id: AtomicU64,
    history: Mutex<History>,
    _observer: ObserverGuard,
}

/// What was appended and acked.
#[derive(Default)]
struct History {
    placed: Vec<Placed>,
    acks: Vec<Ack>,
}

/// An entry, as the append that returned it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) id: u64,
    pub(crate) seq: u64,
    pub(crate) began: Moment,
    pub(crate) returned: Moment,
}

/// Somebody was told that everything up to `seq` is durable.
#[derive(Debug, Clone, Copy)]
struct Ack {
    seq: u64,
    at: Moment,
    by: &'static str,
}

impl Scene {
    /// Makes in `dir` what each execution begins with: an empty log, which is copied, for making one syncs directories up to the root.
    pub(crate) fn prepare(dir: &Path, in_an_execution: impl FnOnce(Box<dyn Fn() + Send + Sync>)) {
        let template = dir.join("template");
        let _ = fs::remove_dir_all(&template);
        in_an_execution(Box::new(move || Log::open(&template).and_then(|log| log.close()).expect("an empty log")));
        fs::copy(dir.join("template/metadata/wal.meta"), dir.join("wal.meta")).expect("its manifest");
    }

    pub(crate) fn new(dir: &Path) -> Scene {
        maplog::testing::set_clock_ms(Some(1));
        let log = dir.join("log");
        let _ = fs::remove_dir_all(&log);
        for folder in ["segments", "checkpoints", "metadata"] {
            fs::create_dir_all(log.join(folder)).expect("a folder");
        }
        fs::copy(dir.join("wal.meta"), log.join("metadata/wal.meta")).expect("a manifest");
        let disk = Arc::new(Disk::default());
        let observer = observe(&log, Arc::clone(&disk) as Arc<dyn Observer>);
        Scene { dir: log, disk, next_id: AtomicU64::new(1), history: Mutex::default(), _observer: observer }
    }

    pub(crate) fn open(&self, options: Options) -> Log {
        self.try_open(options).expect("an open of intact files")
    }

    pub(crate) fn try_open(&self, options: Options) -> Result<Log> {
        options.open(&self.dir)
    }

    /// Leaves the directory as a kill of the process leaves it now, and closes the log elsewhere.
    pub(crate) fn kill(&self, log: Log) {
        let killed = self.dir.with_file_name("killed");
        let _ = fs::remove_dir_all(&killed);
        for folder in ["segments", "checkpoints", "metadata"] {
            fs::create_dir_all(killed.join(folder)).expect("a folder");
            for file in fs::read_dir(self.dir.join(folder)).expect("a folder") {
                let name = PathBuf::from(folder).join(file.expect("a file").file_name());
                fs::copy(self.dir.join(&name), killed.join(&name)).expect("a copy");
            }
        }
        log.close().expect("a close");
        drop(log);
        fs::remove_dir_all(&self.dir).expect("a folder to remove");
        fs::rename(killed, &self.dir).expect("a new name");
    }

    /// An entry to append: its id and its bytes.
    pub(crate) fn entry(&self, len: usize) -> (u64, Vec<u8>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        (id, entry::bytes(id, len))
    }

    /// An append that began at `began` returned Ok.
    pub(crate) fn placed(&self, id: u64, seq: u64, began: Moment) {
        tell(|| format!("appended entry {id} at {seq}, from {began} on"));
        locked(&self.history).placed.push(Placed { id, seq, began, returned: now() });
    }

    /// Somebody was told that everything up to `seq` is durable.
    pub(crate) fn acked(&self, seq: u64, by: &'static str) {
        tell(|| format!("{by} said that {seq} is durable"));
        locked(&self.history).acks.push(Ack { seq, at: now(), by });
    }

    /// All entries that an append returned for, in the order of their seqs.
    pub(crate) fn all_placed(&self) -> Vec<Placed> {
        let mut placed = locked(&self.history).placed.clone();
        placed.sort_by_key(|placed| placed.seq);
        placed
    }

    /// The highest seq that an append has returned.
    pub(crate) fn last_placed(&self) -> u64 {
        locked(&self.history).placed.iter().map(|placed| placed.seq).max().unwrap_or(0)
    }

    /// What was acked was durable by then, with all before it, in a log of which nothing was cut.
    pub(crate) fn check_acks(&self) {
        let history = locked(&self.history);
        for ack in &history.acks {
            for placed in history.placed.iter().filter(|placed| placed.seq <= ack.seq) {
                let durable = self.disk.durable_at(placed.id);
                assert!(
                    durable.is_some_and(|at| at <= ack.at),
                    "{} said at {} that {} is durable; entry {} became so at {durable:?}",
                    ack.by,
                    ack.at,
                    ack.seq,
                    placed.seq
                );
            }
        }
    }

    /// `found` is what appends returned for, each at the seq that it was given, and one entry for each seq from 1 on.
    pub(crate) fn check_complete(&self, found: &[(u64, u64)]) {
        let expected: Vec<_> = self.all_placed().iter().map(|placed| (placed.seq, placed.id)).collect();
        assert_eq!(found, expected, "(seq, id) of all entries, beside what the appends returned");
        assert!(found.iter().map(|(seq, _)| *seq).eq(1..=found.len() as u64), "a hole in {found:?}");
    }
}

/// Every entry of a view, read from the front: its seqs without a hole, its bytes as they were appended.
pub(crate) fn read_view(view: &View) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for entry in view.iter() {
        let entry = entry.expect("an intact entry");
        let id = entry::id_of(entry.payload());
        found.push((
            entry.seq(),
            id.unwrap_or_else(|| panic!("the bytes of {} are not what was appended", entry.seq())),
        ));
    }
    let seqs = view.first_seq()..view.next_seq();
    assert!(found.iter().map(|(seq, _)| *seq).eq(seqs.clone()), "a view of {seqs:?} holds {found:?}");
    found
}

/// The disk under the log: which entries are durable on it, and since when.
///
/// A sync covers what the file held when it began. After one that failed nothing that the file holds becomes durable any more,
/// whatever later ones return.
#[derive(Default)]
pub(crate) struct Disk {
    state: Mutex<DiskState>,
}

#[derive(Default)]
struct DiskState {
    durable: HashMap<u64, Moment>,
    /// What a sync in flight covers, by its file.
    in_flight: HashMap<PathBuf, Vec<u8>>,
    lost: HashSet<PathBuf>,
    fault: Option<Fault>,
    failed: u64,
    recycled: u64,
    manifest_writes: Vec<(Moment, TaskId)>,
}

/// Which operations fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) of: Victim,
    /// So many pass before.
    pub(crate) after: u64,
    /// So many fail.
    pub(crate) times: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// A sync of a segment that may hold entries: an I/O error.
    Sync,
    /// A write or sync of the manifest: an I/O error.
    Manifest,
    /// Anything that takes space for a file to come, or for one that grows: no space.
    Space,
}

enum Kind {
    Segment,
    Spare,
    Manifest,
    Other,
}

fn kind_of(path: &Path) -> Kind {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "wal.meta" => Kind::Manifest,
        _ if name.starts_with("wal-") => Kind::Segment,
        _ if name.starts_with("spare-") => Kind::Spare,
        _ => Kind::Other,
    }
}

/// What the file holds. Nothing once it is unlinked: a sync of it keeps nothing any more.
fn image_of(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

impl Disk {
    /// From now on, operations fail as `fault` says.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        locked(&self.state).fault = fault;
    }

    /// How many operations were made to fail.
    pub(crate) fn failed(&self) -> u64 {
        locked(&self.state).failed
    }

    /// When the entry with this id became durable.
    pub(crate) fn durable_at(&self, id: u64) -> Option<Moment> {
        locked(&self.state).durable.get(&id).copied()
    }

    /// How many segments were kept to be used again.
    pub(crate) fn recycled(&self) -> u64 {
        locked(&self.state).recycled
    }

    /// When the manifest was written, and by which thread.
    pub(crate) fn manifest_writes(&self) -> Vec<(Moment, TaskId)> {
        locked(&self.state).manifest_writes.clone()
    }
}

impl Observer for Disk {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        let mut state = locked(&self.state);
        if let Some(errno) = state.next_fault(op) {
            tell(|| format!("fails: {op:?}"));
            state.failed += 1;
            state.lost.insert(op.path().to_owned());
            return Err(errno.into());
        }
        match op {
            Op::SyncFile { path } => {
                state.in_flight.insert(path.to_path_buf(), image_of(path));
            }
            Op::SyncRange { path, bytes } => {
                let image = image_of(path);
                let pages =
                    (bytes.start / 4096 * 4096) as usize..image.len().min(bytes.end.next_multiple_of(4096) as usize);
                state.in_flight.insert(path.to_path_buf(), image.get(pages).unwrap_or_default().to_vec());
            }
            Op::Write { path, .. } if matches!(kind_of(path), Kind::Manifest) => {
                state.manifest_writes.push((now(), me()))
            }
            Op::Rename { from, to } if matches!((kind_of(from), kind_of(to)), (Kind::Segment, Kind::Spare)) => {
                state.recycled += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn after(&self, op: &Op<'_>, succeeded: bool) {
        let (Op::SyncFile { path } | Op::SyncRange { path, .. }) = op else {
            return;
        };
        let mut state = locked(&self.state);
        let covered = state.in_flight.remove(*path).unwrap_or_default();
        if succeeded && !state.lost.contains(*path) {
            tell(|| format!("synced {}", path.display()));
            for id in entry::ids_in(&covered) {
                state.durable.entry(id).or_insert_with(now);
            }
        }
    }
}

impl DiskState {
    /// The error of `op`, if it is its turn to fail.
    fn next_fault(&mut self, op: &Op<'_>) -> Option<rustix::io::Errno> {
        use rustix::io::Errno;
        let fault = self.fault.as_mut()?;
        let errno = match (fault.of, op, kind_of(op.path())) {
            (Victim::Sync, Op::SyncFile { .. } | Op::SyncRange { .. }, Kind::Segment) => Errno::IO,
            (Victim::Manifest, Op::Write { .. } | Op::SyncFile { .. }, Kind::Manifest) => Errno::IO,
            (Victim::Space, Op::Create { .. } | Op::Write { .. } | Op::Rename { .. }, Kind::Spare) => Errno::NOSPC,
            (Victim::Space, Op::Write { data, .. }, Kind::Segment) if data.iter().all(|byte| *byte == 0) => {
                Errno::NOSPC
            }
            _ => return None,
        };
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        fault.times = fault.times.checked_sub(1)?;
        Some(errno)
    }
}

/// Whether this is the error of a log that was closed.
pub(crate) fn is_closed<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Closed))
}
