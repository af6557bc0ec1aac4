//! `truncate_after` and `reset` against appenders, waiters, syncs in flight and followers: what was cut is told so and never comes back,
//! what stays is durable, and nobody takes an entry for the one that had its seq before.

use crate::entry;
use crate::scene::{any, below, locked, met, now, read_view, tell, Moment, Placed, Scene, SEGMENT_SIZE};
use maplog::{Ack, Error, Follower, Log, Options, SyncPolicy};
use shuttle::current::{me, TaskId};
use shuttle::thread;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) fn run(scene: &Arc<Scene>) {
    let policy = any(&[SyncPolicy::Immediate, SyncPolicy::Manual, SyncPolicy::Batch { entries: 2, bytes: 1 << 20 }]);
    let options = Options::new().segment_size(SEGMENT_SIZE).sync_policy(policy);
    let log = scene.open(options.clone().max_concurrent_writes(any(&[1, 2, 1024])));
    let cuts = Cuts {
        scene,
        log: &log,
        policy,
        told: Arc::default(),
        registered: AtomicU64::new(0),
        ended: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        if below(2) == 0 {
            scope.spawn(|| cuts.follow());
        }
        scope.spawn(|| {
            thread::scope(|scope| {
                scope.spawn(|| (0..1 + below(2)).for_each(|_| cuts.cut()));
                for _ in 0..1 + below(2) {
                    scope.spawn(|| cuts.append_some());
                }
            });
            // The follower has what there is to get, and a last entry to end with.
            cuts.append(Some(Ack::Durable));
            cuts.ended.store(true, Ordering::Relaxed);
            cuts.append(Some(Ack::Durable));
        });
    });
    let found = read_view(&log.view());
    cuts.judge(&found);
    log.close().expect("a close");
    let called = locked(&cuts.told).callbacks;
    assert_eq!(called, (cuts.registered.load(Ordering::Relaxed), 0), "calls of callbacks, and strange ones");
    let reopened = scene.open(options);
    assert_eq!(read_view(&reopened.view()), found, "(seq, id) of the log that was opened again, beside what it was");
    reopened.close().expect("a close");
}

struct Cuts<'s> {
    scene: &'s Arc<Scene>,
    log: &'s Log,
    policy: SyncPolicy,
    told: Arc<Mutex<Told>>,
    registered: AtomicU64,
    /// Nobody cuts any more, and the next entry is the last.
    ended: AtomicBool,
}

/// What callers were told.
#[derive(Default)]
struct Told {
    cuts: Vec<Cut>,
    /// An append that waited was told that its entry is durable.
    durable: Vec<(u64, Moment)>,
    /// An append that waited was told that its entry was cut away.
    truncated: Vec<(u64, Moment, Moment)>,
    /// Somebody was told that what has this seq is durable.
    durable_seqs: Vec<(u64, Moment)>,
    /// A sync that began at the first of these returned at the second.
    syncs: Vec<(Moment, Moment)>,
    /// Results of callbacks: how many, and how many were none of those that there are.
    callbacks: (u64, u64),
}

/// A `truncate_after`, or a `reset` if nothing was kept.
#[derive(Debug, Clone, Copy)]
struct Cut {
    last_kept: u64,
    /// The seq that was given next.
    resume: u64,
    began: Moment,
    /// No later than this, what was cut was gone: the manifest was being written.
    gone: Moment,
    returned: Moment,
}

impl Cut {
    /// Whether it may have taken an entry with this seq, whose append began then.
    fn may_take(&self, seq: u64, append_began: Moment) -> bool {
        seq > self.last_kept && self.returned > append_began
    }
}

impl Cuts<'_> {
    fn cut(&self) {
        let next_seq = self.log.next_seq();
        let kept = next_seq - 1 - below(next_seq.min(4));
        let began = now();
        let (last_kept, resume) = match below(4) {
            0 => (0, any(&[1, next_seq, next_seq + 3])),
            _ => (kept, kept + 1),
        };
        let result = if last_kept == 0 { self.log.reset(resume) } else { self.log.truncate_after(last_kept) };
        match result {
            Ok(()) => {}
            // A reset by the other one has gone past it.
            Err(Error::SeqOutOfRange { .. }) if last_kept > 0 => return,
            Err(error) => panic!("a cut said {error:?}"),
        }
        let returned = now();
        tell(|| format!("cut after {last_kept}, to go on at {resume}, from {began} on"));
        let is_its = |&(at, by): &(Moment, TaskId)| at > began && by == me();
        let gone = self.scene.disk.manifest_writes().into_iter().find(is_its).map_or(returned, |(at, _)| at);
        locked(&self.told).cuts.push(Cut { last_kept, resume, began, gone, returned });
    }

    fn append_some(&self) {
        for _ in 0..2 + below(2) {
            let ack = any(&[None, Some(Ack::Durable), Some(Ack::Buffered)]);
            let placed = self.append(ack);
            match below(5) {
                0 => {
                    let began = now();
                    self.log.sync().expect("a sync");
                    locked(&self.told).syncs.push((began, now()));
                }
                1 => {
                    if let Some(seq) = placed {
                        match self.log.wait_durable(seq) {
                            Ok(()) => locked(&self.told).durable_seqs.push((seq, now())),
                            Err(Error::Truncated { .. } | Error::SeqOutOfRange { .. }) => met("truncated"),
                            Err(error) => panic!("wait_durable said {error:?}"),
                        }
                    }
                }
                2 => {
                    if let Some(seq) = placed {
                        self.register(seq);
                    }
                }
                _ => {}
            }
        }
    }

    fn append(&self, ack: Option<Ack>) -> Option<u64> {
        let (id, bytes) = self.scene.entry(any(&[24, 24, 1500, 3700]));
        let began = now();
        let appended = match ack {
            None => self.log.append(&bytes),
            Some(ack) => self.log.append_as(&bytes, ack),
        };
        match appended {
            Ok(seq) => {
                self.scene.placed(id, seq, began);
                if ack == Some(Ack::Durable) || ack.is_none() && self.policy == SyncPolicy::Immediate {
                    locked(&self.told).durable.push((id, now()));
                }
                Some(seq)
            }
            Err(Error::Truncated { .. }) if ack != Some(Ack::Buffered) => {
                met("truncated");
                locked(&self.told).truncated.push((id, began, now()));
                None
            }
            Err(error) => panic!("an append said {error:?}"),
        }
    }

    fn register(&self, seq: u64) {
        self.registered.fetch_add(1, Ordering::Relaxed);
        let told = Arc::clone(&self.told);
        self.log.on_durable(seq, move |result| {
            let mut told = locked(&told);
            told.callbacks.0 += 1;
            match result {
                Ok(()) => told.durable_seqs.push((seq, now())),
                Err(Error::Truncated { .. } | Error::SeqOutOfRange { .. }) => {}
                Err(_) => told.callbacks.1 += 1,
            }
        });
    }

    /// Follows to the last entry.
    fn follow(&self) {
        let is_durable = below(2) == 0;
        let mut follower = self.follower(is_durable, self.log.first_seq());
        loop {
            let (expected, began) = (follower.next_seq(), now());
            match follower.next_timeout(Duration::MAX) {
                Ok(entry) => {
                    let entry = entry.expect("an entry: this wait has no end");
                    assert_eq!(entry.seq(), expected, "the entry that comes next");
                    let id = entry::id_of(entry.payload()).expect("the bytes that were appended");
                    tell(|| format!("followed to {}, entry {id}", entry.seq()));
                    self.check_alive(id, entry.seq(), began);
                    if is_durable {
                        assert!(
                            self.scene.disk.durable_at(id).is_some(),
                            "{} was followed, and is not durable",
                            entry.seq()
                        );
                    }
                    if self.ended.load(Ordering::Relaxed) && entry.seq() == self.log.next_seq() - 1 {
                        return;
                    }
                }
                Err(Error::Truncated { first_seq }) => {
                    met("follower was cut");
                    tell(|| format!("a follower at {expected} was cut: the log begins at {first_seq}"));
                    follower = self.follow_again(is_durable, first_seq, follower);
                }
                Err(error) => panic!("a follower was told {error:?}"),
            }
        }
    }

    /// A follower from `from_seq` on, or from where the log begins if a cut has come meanwhile.
    fn follower(&self, is_durable: bool, mut from_seq: u64) -> Follower {
        loop {
            let follower = if is_durable { self.log.follow_durable(from_seq) } else { self.log.follow(from_seq) };
            match follower {
                Ok(follower) => return follower,
                Err(Error::Truncated { .. } | Error::SeqOutOfRange { .. }) => from_seq = self.log.first_seq(),
                Err(error) => panic!("follow said {error:?}"),
            }
        }
    }

    /// A follower in place of one that was cut. That one remembers the cuts until the other is there.
    fn follow_again(&self, is_durable: bool, mut from_seq: u64, mut cut: Follower) -> Follower {
        loop {
            let again = self.follower(is_durable, from_seq);
            match cut.next_timeout(Duration::ZERO) {
                Err(Error::Truncated { first_seq }) if first_seq >= again.next_seq() => return again,
                Err(Error::Truncated { .. }) if again.next_seq() == self.log.first_seq() => return again,
                Err(Error::Truncated { first_seq }) => from_seq = first_seq,
                // It had got nothing yet, and the log has gone back to where it is.
                Ok(_) => return cut,
                Err(error) => panic!("a follower that was cut was told {error:?}"),
            }
        }
    }

    /// No cut that had returned by `moment` took the entry.
    fn check_alive(&self, id: u64, seq: u64, moment: Moment) {
        let appended = self.scene.all_placed().into_iter().find(|placed| placed.id == id);
        let killer = appended.and_then(|placed| {
            let told = locked(&self.told);
            told.cuts.iter().find(|cut| cut.takes_for_sure(&placed) && cut.returned < moment).copied()
        });
        assert!(killer.is_none(), "entry {seq} was read at {moment}, after {killer:?}");
    }

    /// Holds what callers were told against what is there and what became durable when.
    fn judge(&self, found: &[(u64, u64)]) {
        let told = locked(&self.told);
        let found: HashMap<u64, u64> = found.iter().map(|(seq, id)| (*id, *seq)).collect();
        let placed = self.scene.all_placed();
        let durable_at = |id| self.scene.disk.durable_at(id).unwrap_or(Moment::MAX);
        for entry in &placed {
            let killers: Vec<_> = told.cuts.iter().filter(|cut| cut.may_take(entry.seq, entry.began)).collect();
            match found.get(&entry.id) {
                Some(seq) => assert_eq!(*seq, entry.seq, "the seq of {entry:?}"),
                None => assert!(!killers.is_empty(), "{entry:?} is gone, and nobody cut it: {:?}", told.cuts),
            }
            let sure = told.cuts.iter().find(|cut| cut.takes_for_sure(entry));
            assert!(sure.is_none() || !found.contains_key(&entry.id), "{entry:?} is there after {sure:?}");
            if killers.is_empty() {
                for cut in told.cuts.iter().filter(|cut| entry.returned < cut.began) {
                    assert!(durable_at(entry.id) <= cut.returned, "{entry:?} was kept by {cut:?}, and was not durable");
                }
                for (began, returned) in told.syncs.iter().filter(|(began, _)| entry.returned < *began) {
                    assert!(durable_at(entry.id) <= *returned, "{entry:?} was not durable after a sync of {began}");
                }
            }
        }
        for (id, at) in &told.durable {
            let durable = durable_at(*id);
            assert!(durable <= *at, "append said at {at} that entry {id} is durable, which it became at {durable}");
            if let Some(entry) = placed.iter().find(|placed| placed.id == *id && !found.contains_key(id)) {
                let killers = told.cuts.iter().filter(|cut| cut.may_take(entry.seq, entry.began));
                let gone = killers.map(|cut| cut.gone).max().unwrap_or(0);
                assert!(
                    durable <= gone,
                    "{entry:?} was cut by {gone}, became durable at {durable}, and its append said Ok"
                );
            }
        }
        for (id, began, returned) in &told.truncated {
            assert!(!found.contains_key(id), "an append said Truncated of entry {id}, which is there");
            let is_cut = |cut: &Cut| cut.returned > *began && cut.began < *returned;
            assert!(told.cuts.iter().any(is_cut), "Truncated at {returned}, and nobody cut since {began}");
        }
        for (seq, at) in &told.durable_seqs {
            let is_it = |placed: &&Placed| placed.seq == *seq && durable_at(placed.id) <= *at;
            // What a reset dropped counts as durable.
            let is_dropped = told.cuts.iter().any(|cut| cut.last_kept == 0 && cut.resume > *seq && cut.began < *at);
            assert!(is_dropped || placed.iter().any(|placed| is_it(&placed)), "{seq} was said to be durable at {at}");
        }
    }
}

impl Cut {
    /// Whether it took this entry, which had been appended before it began.
    fn takes_for_sure(&self, placed: &Placed) -> bool {
        placed.seq > self.last_kept && placed.returned < self.began
    }
}
