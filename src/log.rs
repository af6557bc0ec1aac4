//! The log itself: the public calls, each of them a few lines over the folders that do the work.

mod info;
mod open;
mod upkeep;
mod validate;

#[cfg(test)]
mod tests;

pub use info::{SegmentInfo, SegmentState, Stats};
pub use validate::ValidationReport;

use crate::error::{Error, Result};
use crate::format::manifest::Mark;
use crate::options::{Ack, Options};
use crate::read::entry::PinnedEntry;
use crate::read::follow::{Follower, Until};
use crate::read::iter::LogIter;
use crate::read::view::View;
use crate::read::walk::OnDamage;
use crate::recover::report::RecoveryReport;
use crate::segment::keeper::Duties;
use crate::segment::paths::Paths;
use crate::sys::lock::DirLock;
use crate::sys::sync::{AtomicBool, Mutex, Ordering};
use crate::write::appender::{Appender, Snapshot};
use crate::write::reentry;
use crate::write::ticker::Ticker;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use upkeep::Upkeep;

/// A write-ahead log in a directory.
///
/// All calls take `&self` and block; share it between threads in an `Arc`. One `Log` at a time has a directory open.
///
/// Dropping it is [`close`](Self::close) without the error. Entries and views that were taken from it stay valid.
///
/// ```
/// use maplog::Log;
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// let seq = log.append(b"set x = 1")?; // durable from here on
/// for entry in log.view().iter() {
///     let entry = entry?;
///     assert_eq!((entry.seq(), entry.payload()), (seq, &b"set x = 1"[..]));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Log {
    inner: Arc<Inner>,
}

/// What the log's threads share with it.
struct Inner {
    appender: Arc<Appender>,
    upkeep: Mutex<Upkeep>,
    /// A salvaging open changes nothing before the first change is asked for: its plan waits in `upkeep`.
    planned: AtomicBool,
    paths: Paths,
    report: RecoveryReport,
    on_damage: OnDamage,
    ticker: Mutex<Option<Ticker>>,
    /// None once the log is closed. Held while it is being closed.
    lock: Mutex<Option<DirLock>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.inner.paths.dir)
            .field("first_seq", &self.first_seq())
            .field("next_seq", &self.next_seq())
            .field("durable_seq", &self.durable_seq())
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Opens the log in `dir`, or creates it, and recovers what a crash left.
    ///
    /// When it returns, all that [`recovery`](Log::recovery) reports is durable. It takes no free space on the disk for a log that
    /// is there, and waits for no segment file to be prepared. Nobody but this library may change the files in `dir` while a log, or
    /// an entry that was read from it, is alive: entries are borrowed from mappings of those files.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`]; [`Error::Locked`]; [`Error::Damaged`] (in [`RecoveryMode::Strict`](crate::RecoveryMode::Strict)
    /// for any damage that is read, always if the manifest is lost); [`Error::NotALog`]; [`Error::UnsupportedVersion`];
    /// [`Error::NoSpace`] when a new log is made; [`Error::Io`]. An error while reading is never taken for the end of the log.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Log> {
        self.validate()?;
        let inner = open::open(&self, dir.as_ref())?;
        Ok(Log { inner })
    }
}

impl Log {
    /// Opens or creates the log in `dir` with [`Options::default`]: see [`Options::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Log> {
        Options::default().open(dir)
    }

    /// What open found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.report
    }

    // --- write ---

    /// Appends an entry; its seq. Any length up to [`max_entry_size`](Options::max_entry_size), zero included.
    ///
    /// Durable on return under [`SyncPolicy::Immediate`](crate::SyncPolicy::Immediate); else as the policy says. In any case it is
    /// in the page cache: killing the process does not lose it.
    ///
    /// # Errors
    /// [`Error::EntryTooLarge`], [`Error::NoSpace`], [`Error::Closed`]: nothing was appended. [`Error::Io`] from the sync and
    /// [`Error::Poisoned`]: nobody can say whether the entry is durable; open the log again to find out. [`Error::Io`] from making
    /// a segment file, or from writing the entry: nothing was appended, and the next append tries again. [`Error::Truncated`]:
    /// another thread cut the entry away before it was durable.
    ///
    /// # Panics
    /// In an `on_durable` callback of this log, if the policy may have it wait.
    pub fn append(&self, payload: &[u8]) -> Result<u64> {
        self.before_append(None)?;
        self.inner.appender.append(payload, None)
    }

    /// Appends an entry of `len` bytes that `fill` writes in place, in the mapping; its seq. `fill` gets zeros. The entry is never
    /// compressed, and acked as [`append`](Self::append) does.
    ///
    /// `fill` runs under the log's lock: keep it short. If it panics, nothing is appended and the log goes on.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    ///
    /// # Panics
    /// Any call on this log from `fill` panics.
    pub fn append_with(&self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<u64> {
        self.before_append(None)?;
        self.inner.appender.append_with(len, fill)
    }

    /// Appends entries that a crash keeps all together or not at all; their seqs. Each item is asked for its bytes once, before the
    /// log is locked. An empty batch appends nothing.
    ///
    /// Acked as [`append`](Self::append) does.
    ///
    /// # Errors
    /// As [`append`](Self::append), and [`Error::BatchTooLarge`] if the frames can never fit one segment.
    pub fn append_batch(&self, payloads: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Range<u64>> {
        let payloads: Vec<_> = payloads.into_iter().collect();
        self.before_append(None)?;
        self.inner.appender.append_batch(payloads.iter().map(AsRef::as_ref))
    }

    /// Appends an entry and acks it as `ack` says, whatever the policy; its seq. With [`Ack::Durable`] it, and all before it, is
    /// durable on return.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_as(&self, payload: &[u8], ack: Ack) -> Result<u64> {
        self.before_append(Some(ack))?;
        self.inner.appender.append(payload, Some(ack))
    }

    /// Makes everything that was appended before the call durable; the durable seq.
    ///
    /// # Errors
    /// [`Error::Io`] if this call's sync failed: the log is poisoned. [`Error::Poisoned`] if an earlier one did.
    /// [`Error::Closed`].
    ///
    /// # Panics
    /// In an `on_durable` callback of this log.
    pub fn sync(&self) -> Result<u64> {
        reentry::check_wait(self.inner.appender.number());
        self.inner.sync()
    }

    /// Waits until the entry with `seq`, and all before it, is durable; leads the sync itself if nobody does. Entries that were
    /// dropped by [`truncate_before`](Self::truncate_before) count as durable.
    ///
    /// # Errors
    /// [`Error::SeqOutOfRange`] at or above [`next_seq`](Self::next_seq); [`Error::Truncated`] if a cut took the entry meanwhile;
    /// [`Error::Io`], [`Error::Poisoned`] and [`Error::Closed`] as [`sync`](Self::sync).
    ///
    /// # Panics
    /// In an `on_durable` callback of this log.
    pub fn wait_durable(&self, seq: u64) -> Result<()> {
        reentry::check_wait(self.inner.appender.number());
        let appender = &self.inner.appender;
        if self.inner.is_closed() {
            return Err(Error::Closed);
        }
        self.inner.adopt_salvaged()?;
        let (_registration, claim) = appender.claim(seq)?;
        appender.wait(claim)
    }

    /// Has `callback` called once: with Ok when the entry with `seq` is durable, with the error when it never will be
    /// ([`Error::Truncated`], [`Error::Poisoned`], [`Error::Closed`]), at once if that is known already, or if `seq` is at or above
    /// [`next_seq`](Self::next_seq) ([`Error::SeqOutOfRange`]). It makes nobody sync.
    ///
    /// It is called with no lock held, by the thread that synced, failed or cut: often one of the log's own. It may append as long
    /// as the append does not wait for durability; a call that waits on this log panics. Panics in it are caught.
    pub fn on_durable(&self, seq: u64, callback: impl FnOnce(Result<()>) + Send + 'static) {
        reentry::check_call(self.inner.appender.number());
        let appender = &self.inner.appender;
        match appender.claim(seq) {
            Ok((_registration, claim)) => appender.group.on_durable(claim, Box::new(callback)),
            Err(error) => appender.group.call_now(Box::new(callback), Err(error)),
        }
    }

    /// Everything up to this seq is durable.
    pub fn durable_seq(&self) -> u64 {
        self.inner.appender.group.durable_seq()
    }

    /// The seq that the next entry gets.
    pub fn next_seq(&self) -> u64 {
        self.inner.appender.next_seq()
    }

    /// The first seq that the log holds; [`next_seq`](Self::next_seq) if it is empty.
    pub fn first_seq(&self) -> u64 {
        self.inner.appender.set.read().first_seq
    }

    // --- read ---

    /// The log as it is at this moment. Whether its entries are durable is a matter of [`durable_seq`](Self::durable_seq).
    ///
    /// A view of a closed log gives [`Error::Closed`] in place of entries.
    pub fn view(&self) -> View {
        reentry::check_call(self.inner.appender.number());
        let Snapshot { slots, next_seq, .. } = self.inner.appender.snapshot();
        View::new(slots, next_seq, self.inner.on_damage, self.inner.is_closed())
    }

    /// All entries of this moment, each of which keeps its own segment alive.
    pub fn iter(&self) -> LogIter {
        LogIter::new(self.view())
    }

    /// The entry with `seq`, pinned; None if the log does not hold it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the entry is not what was appended; [`Error::Io`]; [`Error::Closed`].
    pub fn get(&self, seq: u64) -> Result<Option<PinnedEntry>> {
        self.view().get_pinned(seq)
    }

    /// Follows the log from `from_seq` on: entries as they are published, durable or not.
    ///
    /// # Errors
    /// [`Error::Truncated`] if the log starts later; [`Error::SeqOutOfRange`] above [`next_seq`](Self::next_seq);
    /// [`Error::Closed`].
    pub fn follow(&self, from_seq: u64) -> Result<Follower> {
        self.follower(from_seq, Until::Published)
    }

    /// Follows the log from `from_seq` on: entries once they are durable. What a replica may be told.
    ///
    /// # Errors
    /// As [`follow`](Self::follow).
    pub fn follow_durable(&self, from_seq: u64) -> Result<Follower> {
        self.follower(from_seq, Until::Durable)
    }

    fn follower(&self, from_seq: u64, until: Until) -> Result<Follower> {
        reentry::check_call(self.inner.appender.number());
        if self.inner.is_closed() {
            return Err(Error::Closed);
        }
        Follower::new(Arc::clone(&self.inner.appender), until, self.inner.on_damage, from_seq)
    }

    // --- upkeep ---

    /// Drops entries below `seq`, whole segments at a time: those of which every entry is below. The active segment stays. Returns
    /// the new first seq, at most `seq`. Durable on return; the files are recycled or unlinked soon after.
    ///
    /// Entries that were not durable yet count as durable once they are dropped.
    ///
    /// # Errors
    /// [`Error::SeqOutOfRange`] above [`next_seq`](Self::next_seq); [`Error::Damaged`] if `seq` is lost, in a log that was opened
    /// to salvage; [`Error::Io`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn truncate_before(&self, seq: u64) -> Result<u64> {
        reentry::check_wait(self.inner.appender.number());
        self.inner.truncate_before(seq)
    }

    /// Drops entries above `seq`, exactly; their seqs are given again. What stays is durable on return, and so is the cut: nothing
    /// dropped comes back. Who waits for what is dropped gets [`Error::Truncated`]. At or above the last seq it only syncs.
    ///
    /// # Errors
    /// [`Error::SeqOutOfRange`] if `seq` is below the entry before [`first_seq`](Self::first_seq); [`Error::Damaged`] if `seq` is
    /// lost; [`Error::Io`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn truncate_after(&self, seq: u64) -> Result<()> {
        reentry::check_wait(self.inner.appender.number());
        self.inner.truncate_after(seq)
    }

    /// Drops everything and goes on at `next_seq`, which may be any seq from 1 on: a snapshot was installed. Durable on return.
    ///
    /// # Errors
    /// [`Error::SeqOutOfRange`] for zero and from 2^63 on; [`Error::Io`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn reset(&self, next_seq: u64) -> Result<()> {
        reentry::check_wait(self.inner.appender.number());
        self.inner.reset(next_seq)
    }

    /// Seals the active segment: the next append starts a new one. What was appended before is durable on return. Does nothing more
    /// if the active segment holds no entry.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn rotate(&self) -> Result<()> {
        reentry::check_wait(self.inner.appender.number());
        self.inner.rotate()
    }

    /// The live segments, in order.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        reentry::check_call(self.inner.appender.number());
        info::segments(&self.inner.appender)
    }

    /// Counters of this `Log`, from zero at open.
    pub fn stats(&self) -> Stats {
        reentry::check_call(self.inner.appender.number());
        info::stats(&self.inner.appender)
    }

    /// Reads every byte of the live segments and of the manifest, and lists all damage. Appends go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] if something cannot be read; [`Error::Closed`]. Damage is no error: it is in the report.
    pub fn validate(&self) -> Result<ValidationReport> {
        reentry::check_call(self.inner.appender.number());
        self.inner.validate()
    }

    /// Closes the log: refuses new appends, finishes those that have begun, makes everything durable, settles who waits, and gives
    /// the directory free. Everything is durable if it returns Ok; the next open has nothing to scan. Calling it again does nothing.
    ///
    /// # Errors
    /// [`Error::Io`] if the last sync fails; [`Error::Poisoned`]: the log is closed and unlocked all the same.
    ///
    /// # Panics
    /// In an `on_durable` callback of this log.
    pub fn close(&self) -> Result<()> {
        reentry::check_wait(self.inner.appender.number());
        self.inner.close()
    }

    /// What every append does first.
    #[inline]
    fn before_append(&self, ack: Option<Ack>) -> Result<()> {
        if reentry::in_user_code() || self.inner.planned.load(Ordering::Acquire) {
            return self.before_special_append(ack);
        }
        Ok(())
    }

    /// As [`before_append`](Self::before_append), from user code or before a salvage was carried out.
    #[cold]
    fn before_special_append(&self, ack: Option<Ack>) -> Result<()> {
        if self.inner.appender.may_wait(ack) {
            reentry::check_wait(self.inner.appender.number());
        } else {
            reentry::check_call(self.inner.appender.number());
        }
        if self.inner.planned.load(Ordering::Acquire) {
            self.inner.carry_out_plan()?;
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Who wants the error calls `close`.
        let _ = self.inner.close();
    }
}

impl Duties for Inner {
    fn sync_sealed(&self) {
        self.appender.sync_sealed();
    }

    fn durable_mark(&self) -> Option<Mark> {
        self.appender.group.mark()
    }

    fn store_mark(&self) {
        Inner::store_mark(self);
    }

    fn tell_failure(&self) {
        self.appender.fail();
    }
}

impl Inner {
    fn is_closed(&self) -> bool {
        self.appender.health.is_closed()
    }
}
