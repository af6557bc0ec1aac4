//! Random calls on a log against a plain model of it: a map from seqs to payloads. Views and pinned entries are held across
//! truncation, recycling, close and reopen, and compared again at the end; a kill is a copy of the directory.
//!
//! A failure prints its seed; `MAPLOG_SEEDS=start..end` runs others.

use crate::shared::{fast_dir, seeds, Rng};
use crate::support::logs::copy_dir;
use maplog::{Compression, Error, Follower, Log, Options, PinnedEntry, SyncPolicy, View};
use std::collections::BTreeMap;
use std::fs;
use std::ops::{Bound, Range};
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, UNIX_EPOCH};

const SEEDS: Range<u64> = 0..150;
const STEPS: u64 = 250;

type Entries = BTreeMap<u64, Vec<u8>>;

#[test]
fn a_log_is_what_a_map_of_its_entries_is() {
    for seed in seeds(SEEDS) {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("seed {seed} failed; run it again with MAPLOG_SEEDS={seed}..{}", seed + 1);
            panic::resume_unwind(panic);
        }
    }
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let scratch = fast_dir();
    let policy = match rng.within(0..4) {
        0 => SyncPolicy::Immediate,
        1 => SyncPolicy::Batch { entries: rng.within(1..50) as u32, bytes: rng.within(1..20_000) },
        2 => SyncPolicy::Interval(Duration::from_millis(1)),
        _ => SyncPolicy::Manual,
    };
    let mut options = Options::new().segment_size(rng.within(2..9) * 4096).sync_policy(policy);
    if rng.one_in(3) {
        options = options.compression(Compression::Lz4 { min_size: 32 });
    }
    let log = options.clone().open(scratch.path().join("0")).unwrap();
    assert!(log.recovery().clean, "a new log is clean");
    let mut bench = Bench {
        rng,
        scratch,
        dirs: 0,
        options,
        log,
        first: 1,
        entries: Entries::new(),
        durable: 0,
        views: Vec::new(),
        pins: Vec::new(),
        follower: None,
    };
    for _ in 0..STEPS {
        bench.step();
    }
    bench.check_all();
    bench.log.close().unwrap();
    bench.check_held();
}

/// A log beside its model.
struct Bench {
    rng: Rng,
    scratch: tempfile::TempDir,
    /// The log lies in the directory with this number.
    dirs: u64,
    options: Options,
    log: Log,
    first: u64,
    entries: Entries,
    /// What was durable at the last look; nothing but a cut lowers it.
    durable: u64,
    views: Vec<(View, u64, Entries)>,
    pins: Vec<(PinnedEntry, u64, Vec<u8>)>,
    /// A follower, and the seq that it gives next.
    follower: Option<(Follower, u64)>,
}

impl Bench {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn payload(&mut self) -> Vec<u8> {
        let len = match self.rng.within(0..10) {
            0 => 0,
            1 => self.rng.within(1000..4000),
            _ => self.rng.within(1..200),
        };
        if self.rng.one_in(3) {
            // Something to compress.
            let word = self.rng.bytes(8);
            return word.iter().copied().cycle().take(len as usize).collect();
        }
        self.rng.bytes(len as usize)
    }

    fn step(&mut self) {
        match self.rng.within(0..100) {
            0..=39 => self.append(),
            40..=47 => self.append_batch(),
            48..=52 => {
                assert_eq!(self.log.sync().unwrap(), self.next() - 1);
                assert_eq!(self.log.durable_seq(), self.next() - 1);
            }
            53..=56 => self.truncate_before(),
            57..=60 => self.truncate_after(),
            61 => self.reset(),
            62 | 63 => {
                self.log.rotate().unwrap();
                assert_eq!(self.log.durable_seq(), self.next() - 1);
            }
            64..=67 => self.hold_view(),
            68..=72 => self.pin(),
            73..=79 => self.check_range(),
            80..=87 => self.follow(),
            88..=91 => self.reopen(),
            92 | 93 => self.kill(),
            94..=96 => self.refused_calls(),
            _ => self.check_all(),
        }
        self.check_bounds();
    }

    fn append(&mut self) {
        for _ in 0..self.rng.within(1..20) {
            let payload = self.payload();
            let seq = if self.rng.one_in(4) {
                self.log.append_with(payload.len(), |place| {
                    assert!(place.iter().all(|&byte| byte == 0), "the place is zeroed");
                    place.copy_from_slice(&payload);
                })
            } else {
                self.log.append(&payload)
            };
            assert_eq!(seq.unwrap(), self.next());
            self.entries.insert(self.next(), payload);
        }
    }

    fn append_batch(&mut self) {
        let payloads: Vec<_> = (0..self.rng.within(0..12)).map(|_| self.payload()).collect();
        let end = self.next() + payloads.len() as u64;
        match self.log.append_batch(&payloads) {
            Ok(seqs) => {
                assert_eq!(seqs, self.next()..end);
                self.entries.extend(seqs.zip(payloads));
            }
            Err(Error::BatchTooLarge { len, max }) => assert!(len > max),
            Err(error) => panic!("{error}"),
        }
    }

    fn truncate_before(&mut self) {
        let seq = self.rng.within(self.first..self.next() + 1);
        let first = self.log.truncate_before(seq).unwrap();
        assert!((self.first..=seq).contains(&first));
        self.entries = self.entries.split_off(&first);
        self.first = first;
        self.expect_truncated(|next| next < first);
    }

    fn truncate_after(&mut self) {
        let lowest =
            if self.rng.one_in(4) { self.first - 1 } else { (self.first - 1).max(self.next().saturating_sub(9)) };
        let seq = self.rng.within(lowest..self.next() + 1);
        let is_cut = seq + 1 < self.next();
        self.log.truncate_after(seq).unwrap();
        self.entries.split_off(&(seq + 1));
        assert_eq!(self.log.durable_seq(), self.next() - 1, "what stays is durable");
        self.durable = self.next() - 1;
        if is_cut {
            self.expect_truncated(|next| next > seq + 1);
        }
    }

    fn reset(&mut self) {
        let next = *self.rng.pick(&[1, self.next(), self.next() + 100]);
        self.log.reset(next).unwrap();
        self.entries.clear();
        (self.first, self.durable) = (next, next - 1);
        self.follower = None;
    }

    /// A follower that stood at a seq of `gone` is told so.
    fn expect_truncated(&mut self, gone: impl Fn(u64) -> bool) {
        if !self.follower.as_ref().is_some_and(|(_, next)| gone(*next)) {
            return;
        }
        if let Some((mut follower, next)) = self.follower.take() {
            let told = follower.next_timeout(Duration::ZERO);
            assert!(matches!(told, Err(Error::Truncated { .. })), "a follower at {next}: {told:?}");
        }
    }

    fn follow(&mut self) {
        if self.follower.is_none() {
            let from = self.rng.within(self.first..self.next() + 1);
            self.follower = Some((self.log.follow(from).unwrap(), from));
        }
        let end = self.next();
        let Some((follower, next)) = &mut self.follower else {
            return;
        };
        let stop = self.rng.within(*next..end + 1);
        while *next < stop {
            let entry = follower.next_timeout(Duration::ZERO).unwrap().unwrap();
            assert!(entry.seq() == *next && entry.payload() == self.entries[next]);
            *next += 1;
        }
        if *next == end {
            assert!(follower.next_timeout(Duration::ZERO).unwrap().is_none());
        }
    }

    fn reopen(&mut self) {
        if self.rng.one_in(2) {
            self.log.close().unwrap();
            assert!(matches!(self.log.append(b"late"), Err(Error::Closed)));
        }
        if self.rng.one_in(3) {
            // Files that are there keep their size, and their entries.
            let largest = self.entries.values().map(Vec::len).max().unwrap_or(0) as u64;
            let enough = (largest + 8192).next_multiple_of(4096);
            self.options = self.options.clone().segment_size(enough.max(self.rng.within(2..9) * 4096));
        }
        self.follower = None;
        let dir = self.scratch.path().join(self.dirs.to_string());
        // The old log has to go before the new one can have the directory.
        let elsewhere = self.scratch.path().join("elsewhere");
        drop(std::mem::replace(&mut self.log, self.options.clone().open(&elsewhere).unwrap()));
        self.log = self.options.clone().open(&dir).unwrap();
        fs::remove_dir_all(&elsewhere).unwrap();
        let report = self.log.recovery();
        assert!(report.clean && report.entries_scanned == 0, "{report}");
        self.durable = self.log.durable_seq();
        self.check_all();
    }

    /// The process is gone, the page cache is not: the log goes on in a copy of its files.
    fn kill(&mut self) {
        let from = self.scratch.path().join(self.dirs.to_string());
        self.dirs += 1;
        let to = self.scratch.path().join(self.dirs.to_string());
        copy_dir(&from, &to);
        self.follower = None;
        self.log = self.options.clone().open(&to).unwrap();
        assert_eq!(self.log.durable_seq(), self.next() - 1, "what was recovered is durable");
        self.durable = self.next() - 1;
        self.check_all();
    }

    fn refused_calls(&mut self) {
        let (first, next) = (self.first, self.next());
        assert!(matches!(self.log.truncate_before(next + 1), Err(Error::SeqOutOfRange { .. })));
        assert!(matches!(self.log.wait_durable(next), Err(Error::SeqOutOfRange { .. })));
        assert!(matches!(self.log.follow(next + 1), Err(Error::SeqOutOfRange { .. })));
        assert!(matches!(self.log.reset(0), Err(Error::SeqOutOfRange { .. })));
        if first > 1 {
            assert!(matches!(self.log.truncate_after(first - 2), Err(Error::SeqOutOfRange { .. })));
            let told = self.log.follow(first - 1);
            assert!(matches!(told, Err(Error::Truncated { first_seq }) if first_seq == first));
        }
        let too_large = vec![0; 1 << 20];
        assert!(matches!(self.log.append(&too_large), Err(Error::EntryTooLarge { .. })));
    }

    fn hold_view(&mut self) {
        self.views.push((self.log.view(), self.first, self.entries.clone()));
        if self.views.len() > 4 {
            let (view, first, entries) = self.views.remove(self.rng.within(0..5) as usize);
            check_view(&view, first, &entries);
        }
    }

    fn pin(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let seq = self.rng.within(self.first..self.next());
        let entry = match self.rng.one_in(2) {
            true => self.log.get(seq).unwrap().unwrap(),
            false => self.log.iter().nth((seq - self.first) as usize).unwrap().unwrap(),
        };
        self.pins.push((entry, seq, self.entries[&seq].clone()));
    }

    /// A range, read from both ends in a random order.
    fn check_range(&mut self) {
        let (low, high) = (self.first.saturating_sub(3), self.next() + 3);
        let (a, b) = (self.rng.within(low..high), self.rng.within(low..high));
        let (a, b) = (a.min(b), a.max(b));
        let bounds = match self.rng.within(0..3) {
            0 => (Bound::Included(a), Bound::Excluded(b)),
            1 => (Bound::Excluded(a), Bound::Included(b + 1)),
            _ => (Bound::Included(a), Bound::Unbounded),
        };
        let view = self.log.view();
        let mut iter = view.range(bounds);
        let mut expected = self.entries.range(bounds);
        loop {
            let (entry, wanted) = match self.rng.one_in(2) {
                true => (iter.next(), expected.next()),
                false => (iter.next_back(), expected.next_back()),
            };
            match (entry.transpose().unwrap(), wanted) {
                (None, None) => break,
                (Some(entry), Some((seq, payload))) => {
                    assert!(entry.seq() == *seq && entry.payload() == payload, "seq {seq} of {bounds:?}");
                }
                (entry, wanted) => panic!("{bounds:?}: {entry:?}, expected {wanted:?}"),
            }
        }
    }

    fn check_bounds(&mut self) {
        let (durable, last) = (self.log.durable_seq(), self.next() - 1);
        assert_eq!((self.log.first_seq(), self.log.next_seq()), (self.first, last + 1));
        assert!(durable <= last && durable >= self.durable, "durable_seq went from {} to {durable}", self.durable);
        self.durable = durable;
    }

    fn check_all(&self) {
        check_view(&self.log.view(), self.first, &self.entries);
        self.check_held();
        let validated = self.log.validate().unwrap();
        assert!(validated.is_intact() && validated.entries == self.entries.len() as u64, "{validated:?}");
        let mut next = self.first;
        for segment in self.log.segments() {
            assert_eq!(segment.first_seq, next, "{segment:?}");
            next = segment.next_seq;
        }
        assert!(next == self.next() || self.entries.is_empty());
    }

    /// Whatever happened to the log since, what was borrowed from it is the same.
    fn check_held(&self) {
        for (view, first, entries) in &self.views {
            check_view(view, *first, entries);
        }
        for (entry, seq, payload) in &self.pins {
            assert!(entry.seq() == *seq && entry.payload() == payload, "pinned seq {seq}");
        }
    }
}

fn check_view(view: &View, first: u64, entries: &Entries) {
    let next = first + entries.len() as u64;
    assert_eq!((view.first_seq(), view.next_seq()), (first, next));
    let mut last_time = UNIX_EPOCH;
    let mut count = 0;
    for (entry, (seq, payload)) in view.iter().zip(entries) {
        let entry = entry.unwrap();
        assert!(entry.seq() == *seq && entry.payload() == payload, "seq {seq}");
        assert!(entry.timestamp() >= last_time, "time went back at seq {seq}");
        last_time = entry.timestamp();
        count += 1;
    }
    assert_eq!(count, entries.len());
    let backward = view.iter().rev().map(|entry| entry.unwrap().seq());
    assert!(backward.eq(entries.keys().rev().copied()));
    assert!(view.get(first - 1).unwrap().is_none() && view.get(next).unwrap().is_none());
    if let Some((seq, payload)) = entries.iter().nth(entries.len() / 2) {
        assert_eq!(view.get(*seq).unwrap().unwrap().payload(), payload);
    }
}
