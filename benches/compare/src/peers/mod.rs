//! The other logs, each at the works that it can do through its own public interface.
//!
//! A peer is a type that implements [`Peer`]; each file says what its crate promises, which calls were taken, and what is odd about it.
//! One function a work turns a peer into a [`Subject`]; nothing in a timed loop is called through a pointer. What a peer cannot do it has
//! no row for.
//!
//! The works that read (open, replay, get) write their log in the first round, beside the round's directory, and use it in all rounds:
//! writing takes longer than what is measured. What was written is pushed to the disk before the clock starts.

mod commitlog;
mod logdb;
mod nano_wal;
mod okaywal;
mod open_wal;
mod raft_engine;
mod seglog;
mod wal_db;

use crate::clock::{ms, ns, per_second, timed, timed_threads};
use crate::machine::pinned;
use crate::rounds::{once, Kept, Promise, Slice, Subject};
use crate::tails::{Latencies, Unwatched, Watch};
use crate::works::{payload, xorshift, Work, SEGMENT};
use anyhow::{bail, ensure, Context, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A sustained run syncs after this many bytes of payload.
const SYNC_EVERY: u64 = 16 << 20;
/// What a sustained run keeps.
const KEEP: u64 = 4 * SEGMENT;

/// What a report says of a peer.
#[derive(Debug, Clone, Copy)]
struct About {
    name: &'static str,
    version: &'static str,
    license: &'static str,
    /// What is true of an entry when the append that does not sync returns.
    promise: Promise,
    /// Whether reading compares checksums.
    verifies: bool,
    /// What one must know to read the figures.
    note: &'static str,
}

/// One of the other logs.
trait Peer: Sized + Send + 'static {
    const ABOUT: About;
    /// The most entries that it opens, replays or gets from; what it does to more takes too long. Such an open's time is scaled up.
    const MOST_READ: u64 = u64::MAX;
    /// Random reads of one round.
    const GETS: usize = 200_000;
    /// Whether a sustained run syncs on a second thread. Otherwise it does so between two appends.
    const SYNCS_ASIDE: bool = false;
    /// Whether the times of its single appends have rows: those that do best under a sustained load.
    const HAS_LATENCIES: bool = false;
    /// What several threads use at once.
    type Shared: Shared;

    fn can(work: Work) -> bool;

    /// Opens what is in a directory, or begins there.
    fn open(dir: &Path, work: Work) -> Result<Self>;

    fn share(self) -> Self::Shared;

    /// Appends without a sync. What [`Peer::get`] and [`Peer::truncate_before`] find the entry by.
    fn append(&mut self, _payload: &[u8]) -> Result<u64> {
        unsupported::<Self, _>()
    }

    fn append_batch(&mut self, _payloads: &[&[u8]]) -> Result<()> {
        unsupported::<Self, _>()
    }

    /// Appends, and returns when the entry is durable.
    fn append_durable(&mut self, _payload: &[u8]) -> Result<u64> {
        unsupported::<Self, _>()
    }

    fn sync(&mut self) -> Result<()> {
        unsupported::<Self, _>()
    }

    /// Drops what lies before an entry, as far as whole files go.
    fn truncate_before(&mut self, _position: u64) -> Result<()> {
        unsupported::<Self, _>()
    }

    /// Closes in the way after which the next open has least to do.
    fn close(self) -> Result<()> {
        Ok(())
    }

    /// Hands on every payload.
    fn replay(&mut self, _each: impl FnMut(&[u8])) -> Result<()> {
        unsupported::<Self, _>()
    }

    /// Hands on one payload.
    fn get<T>(&mut self, _position: u64, _look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        unsupported::<Self, _>()
    }

    /// Whether the last of `count` entries is there, without reading all of them.
    fn holds(&mut self, count: u64, last: u64) -> Result<bool>;

    /// Writes `count` entries and closes; where the entries are.
    fn write(dir: &Path, work: Work, payload: &[u8], count: u64) -> Result<Vec<u64>> {
        let mut peer = Self::open(dir, work)?;
        let mut positions = Vec::with_capacity(count as usize);
        for _ in 0..count {
            positions.push(peer.append(payload)?);
        }
        peer.close()?;
        Ok(positions)
    }

    /// Opens, and looks at every payload; the time of the latter.
    fn timed_replay(dir: &Path, work: Work) -> Result<(Duration, Found)> {
        let mut peer = Self::open(dir, work)?;
        let mut found = Found::default();
        let elapsed = pinned(|| timed(|| peer.replay(|payload| found.look(payload))))?;
        peer.close()?;
        Ok((elapsed, found))
    }

    /// Appends `count` entries, with everything made durable behind, and what is older than [`KEEP`] dropped.
    fn timed_sustained(self, payload: &[u8], count: u64, watch: &mut impl Watch) -> Result<Duration> {
        if Self::SYNCS_ASIDE {
            sustained_aside(&self.share(), payload, count, watch)
        } else {
            sustained(self, payload, count, watch)
        }
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    entries: u64,
    bytes: u64,
}

impl Found {
    #[inline]
    fn look(&mut self, payload: &[u8]) {
        self.entries += 1;
        self.bytes += payload.len() as u64;
        black_box(payload.first());
    }
}

/// A log that several threads use at once.
trait Shared: Sync {
    /// What a thread has of its own.
    type Lane;

    fn lane(&self, thread: usize) -> Self::Lane;
    fn append(&self, lane: &mut Self::Lane, payload: &[u8]) -> Result<u64>;
    fn append_durable(&self, lane: &mut Self::Lane, payload: &[u8]) -> Result<u64>;

    fn sync(&self) -> Result<()> {
        bail!("cannot sync from another thread")
    }

    /// As [`Peer::truncate_before`]; no other thread is in the log meanwhile.
    fn truncate_before(&self, _position: u64) -> Result<()> {
        bail!("cannot truncate from another thread")
    }
}

/// A peer for one thread is shared by a mutex.
impl<P: Peer> Shared for Mutex<P> {
    type Lane = ();

    fn lane(&self, _thread: usize) {}

    #[inline]
    fn append(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        self.lock().append(payload)
    }

    #[inline]
    fn append_durable(&self, (): &mut (), payload: &[u8]) -> Result<u64> {
        self.lock().append_durable(payload)
    }
}

fn unsupported<P: Peer, T>() -> Result<T> {
    bail!("{} cannot do this", P::ABOUT.name)
}

/// Calls a macro with every peer's type.
macro_rules! each_peer {
    ($do:ident) => {
        $do!(
            commitlog::Commitlog,
            logdb::Logdb,
            nano_wal::NanoWal,
            okaywal::OkayWal,
            open_wal::OpenWal,
            raft_engine::RaftEngine,
            seglog::Seglog,
            wal_db::WalDb
        )
    };
}

/// Those that can do a work.
pub fn subjects(work: Work) -> Vec<Subject> {
    if is_ours_alone(work) {
        return Vec::new();
    }
    macro_rules! all {
        ($($peer:ty),*) => {
            [$(<$peer>::can(work).then(|| subject::<$peer>(work))),*]
        };
    }
    each_peer!(all).into_iter().flatten().collect()
}

/// As [`subjects`], for the times of single appends.
pub fn latencies(work: Work) -> Vec<Subject<Latencies>> {
    macro_rules! all {
        ($($peer:ty),*) => {
            [$(<$peer>::HAS_LATENCIES.then(|| latencies_of::<$peer>(work))),*]
        };
    }
    each_peer!(all).into_iter().flatten().collect()
}

/// Whether a work asks what is asked of maplog alone.
fn is_ours_alone(work: Work) -> bool {
    matches!(
        work,
        Work::OpenKilled { .. }
            | Work::Reread { .. }
            | Work::GetOwn { .. }
            | Work::OpenSegments { .. }
            | Work::Memory { .. }
            | Work::Counters { .. }
    )
}

/// Prints what there is to say of each.
pub fn print() {
    macro_rules! all {
        ($($peer:ty),*) => {
            [$(<$peer>::ABOUT),*]
        };
    }
    for About { name, version, license, promise, verifies, note } in each_peer!(all) {
        let reads = if verifies { "verify checksums" } else { "verify nothing" };
        println!("{name} {version} ({license}): append reaches the {promise}; reads {reads}; {note}");
    }
}

fn subject<P: Peer>(work: Work) -> Subject {
    let promise = match work {
        Work::Durable { .. } | Work::Group { .. } => Promise::Durable,
        _ => P::ABOUT.promise,
    };
    let mut kept = Kept::default();
    Subject::new(P::ABOUT.name, promise, move |dir| match work {
        Work::Append { threads: 1, .. } => append::<P>(dir, work),
        Work::Append { threads, .. } => append_by::<P>(dir, work, threads),
        Work::Batch { batch, .. } => append_batches::<P>(dir, work, batch),
        Work::Durable { .. } => durable::<P>(dir, work),
        Work::Group { threads, .. } => group::<P>(dir, work, threads),
        Work::OpenClean { .. } => on_written::<P>(&mut kept, dir, work, open::<P>),
        Work::Replay { .. } => on_written::<P>(&mut kept, dir, work, replay::<P>),
        Work::Get { .. } => on_written::<P>(&mut kept, dir, work, get::<P>),
        Work::Sustained { bytes, .. } => {
            let run = sustained_run::<P, _>(dir, work, Unwatched)?;
            Ok(once(move || Ok(per_second(run()?.0, bytes) / 1e6)))
        }
        _ => unsupported::<P, _>(),
    })
}

fn latencies_of<P: Peer>(work: Work) -> Subject<Latencies> {
    Subject::new(P::ABOUT.name, P::ABOUT.promise, move |dir| {
        let run = sustained_run::<P, _>(dir, work, Latencies::default())?;
        Ok(once(move || Ok(run()?.1)))
    })
}

/// ns an append.
fn append<P: Peer>(dir: &Path, work: Work) -> Result<Slice> {
    let (mut peer, payload, count) = (P::open(dir, work)?, payload(work.size()), work.entries());
    Ok(once(move || {
        let elapsed = pinned(|| {
            timed(|| {
                for _ in 0..count {
                    black_box(peer.append(black_box(&payload))?);
                }
                Ok(())
            })
        })?;
        peer.close()?;
        Ok(ns(elapsed, count))
    }))
}

/// ns an append, over all threads.
fn append_by<P: Peer>(dir: &Path, work: Work, threads: usize) -> Result<Slice> {
    let (peer, payload, count) = (P::open(dir, work)?, payload(work.size()), work.entries());
    Ok(once(move || {
        let shared = peer.share();
        let append = |lane: &mut _| {
            for _ in 0..count / threads as u64 {
                black_box(shared.append(lane, black_box(&payload))?);
            }
            Ok(())
        };
        Ok(ns(timed_threads(threads, |thread| shared.lane(thread), append)?, count))
    }))
}

/// ns an entry.
fn append_batches<P: Peer>(dir: &Path, work: Work, batch: usize) -> Result<Slice> {
    let (mut peer, payload, count) = (P::open(dir, work)?, payload(work.size()), work.entries());
    Ok(once(move || {
        let payloads = vec![&payload[..]; batch];
        let elapsed = pinned(|| {
            timed(|| {
                for _ in 0..count / batch as u64 {
                    peer.append_batch(black_box(&payloads))?;
                }
                Ok(())
            })
        })?;
        peer.close()?;
        Ok(ns(elapsed, count))
    }))
}

/// us an append. What was appended is looked for in the log that is opened again.
fn durable<P: Peer>(dir: &Path, work: Work) -> Result<Slice> {
    let (mut peer, payload, count) = (P::open(dir, work)?, payload(work.size()), work.entries());
    let dir = dir.to_owned();
    Ok(once(move || {
        let mut last = 0;
        let elapsed = timed(|| {
            for _ in 0..count {
                last = peer.append_durable(&payload)?;
            }
            Ok(())
        })?;
        peer.close()?;
        let mut peer = P::open(&dir, work)?;
        ensure!(peer.holds(count, last)?, "the last of {count} entries is missing");
        peer.close()?;
        Ok(ns(elapsed, count) / 1e3)
    }))
}

/// Durable appends a second.
fn group<P: Peer>(dir: &Path, work: Work, threads: usize) -> Result<Slice> {
    let (peer, payload, count) = (P::open(dir, work)?, payload(work.size()), work.entries());
    Ok(once(move || {
        let shared = peer.share();
        let append = |lane: &mut _| {
            for _ in 0..count / threads as u64 {
                shared.append_durable(lane, &payload)?;
            }
            Ok(())
        };
        Ok(per_second(timed_threads(threads, |thread| shared.lane(thread), append)?, count))
    }))
}

/// A sustained work; what it took, and what was seen of it.
fn sustained_run<P: Peer, W: Watch>(
    dir: &Path,
    work: Work,
    mut watch: W,
) -> Result<impl FnOnce() -> Result<(Duration, W)>> {
    let (peer, payload) = (P::open(dir, work)?, payload(work.size()));
    Ok(move || Ok((peer.timed_sustained(&payload, work.entries(), &mut watch)?, watch)))
}

/// A closed log that all rounds of a work read.
struct Written {
    dir: PathBuf,
    /// Where each entry is.
    positions: Vec<u64>,
    /// How many times as much was asked for.
    short_by: f64,
}

impl Written {
    fn write<P: Peer>(dir: &Path, work: Work) -> Result<Written> {
        let count = work.entries().min(P::MOST_READ);
        let positions = P::write(dir, work, &payload(work.size()), count)?;
        ensure!(positions.len() as u64 == count, "{} of {count} entries were written", positions.len());
        rustix::fs::syncfs(File::open(dir)?)?;
        Ok(Written { dir: dir.to_owned(), positions, short_by: work.entries() as f64 / count as f64 })
    }

    fn count(&self) -> u64 {
        self.positions.len() as u64
    }
}

/// Does something with a log that is written in the first round.
fn on_written<P: Peer>(
    kept: &mut Kept<Rc<Written>>,
    dir: &Path,
    work: Work,
    read: impl FnOnce(&Written, Work) -> Result<f64> + 'static,
) -> Result<Slice> {
    let (_, written) = kept.get(dir, |dir| Ok(Rc::new(Written::write::<P>(dir, work)?)))?;
    let written = Rc::clone(written);
    Ok(once(move || read(&written, work)))
}

/// ms until the log is open.
fn open<P: Peer>(written: &Written, work: Work) -> Result<f64> {
    let start = Instant::now();
    let mut peer = P::open(&written.dir, work)?;
    let elapsed = start.elapsed();
    let last = written.positions.last().copied().context("an empty log")?;
    ensure!(peer.holds(written.count(), last)?, "the last of {} entries is missing", written.count());
    peer.close()?;
    Ok(ms(elapsed) * written.short_by)
}

/// ns an entry.
fn replay<P: Peer>(written: &Written, work: Work) -> Result<f64> {
    let (elapsed, found) = P::timed_replay(&written.dir, work)?;
    let count = written.count();
    ensure!(found == Found { entries: count, bytes: count * work.size() as u64 }, "{found:?} of {count} entries");
    Ok(ns(elapsed, count))
}

/// ns an entry, after one pass over the same entries.
fn get<P: Peer>(written: &Written, work: Work) -> Result<f64> {
    let mut next = xorshift();
    let picked: Vec<u64> =
        (0..P::GETS).map(|_| written.positions[(next() % written.positions.len() as u64) as usize]).collect();
    let mut peer = P::open(&written.dir, work)?;
    let mut pass = || {
        timed(|| {
            for &position in &picked {
                let len = peer.get(position, |payload| {
                    black_box(payload.first());
                    payload.len()
                })?;
                ensure!(len == work.size(), "{len} bytes at {position}");
            }
            Ok(())
        })
    };
    pass()?;
    let elapsed = pass()?;
    peer.close()?;
    Ok(ns(elapsed, P::GETS as u64))
}

/// Where a sustained run stands: it says when to sync, and what to drop then.
struct Marks {
    every: u64,
    left: u64,
    kept: VecDeque<u64>,
}

impl Marks {
    fn new(size: usize) -> Marks {
        let every = SYNC_EVERY / size as u64;
        Marks { every, left: every, kept: VecDeque::new() }
    }

    /// Takes note of an appended entry; whether a sync is due.
    #[inline]
    fn appended(&mut self, position: u64) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        self.left = self.every;
        self.kept.push_back(position);
        true
    }

    /// The entry before which all is too old, if there is a new one.
    fn too_old(&mut self) -> Option<u64> {
        if self.kept.len() as u64 * SYNC_EVERY > KEEP {
            self.kept.pop_front()
        } else {
            None
        }
    }
}

/// Syncs between two appends.
fn sustained<P: Peer>(mut peer: P, payload: &[u8], count: u64, watch: &mut impl Watch) -> Result<Duration> {
    let mut marks = Marks::new(payload.len());
    let elapsed = timed(|| {
        for _ in 0..count {
            let position = watch.time(|| peer.append(black_box(payload)))?;
            if marks.appended(position) {
                peer.sync()?;
                if let Some(position) = marks.too_old() {
                    peer.truncate_before(position)?;
                }
            }
        }
        peer.sync()
    })?;
    peer.close()?;
    Ok(elapsed)
}

/// Syncs on a second thread: each time when one sync is due, the one before must have ended.
fn sustained_aside<S: Shared>(shared: &S, payload: &[u8], count: u64, watch: &mut impl Watch) -> Result<Duration> {
    let mut marks = Marks::new(payload.len());
    let (to_sync, due) = mpsc::channel::<()>();
    let (to_go_on, synced) = mpsc::channel::<Result<()>>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for () in due {
                if to_go_on.send(shared.sync()).is_err() {
                    break;
                }
            }
        });
        let mut lane = shared.lane(0);
        let elapsed = timed(|| {
            let mut syncing = false;
            for _ in 0..count {
                let position = watch.time(|| shared.append(&mut lane, black_box(payload)))?;
                if marks.appended(position) {
                    if syncing {
                        synced.recv()??;
                    }
                    if let Some(position) = marks.too_old() {
                        shared.truncate_before(position)?;
                    }
                    to_sync.send(())?;
                    syncing = true;
                }
            }
            if syncing {
                synced.recv()??;
            }
            shared.sync()
        });
        drop(to_sync);
        elapsed
    })
}
