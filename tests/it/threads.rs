//! Several threads on one log: who appends, reads, follows, waits, truncates and closes at once gets what he was
//! promised, and nobody waits for ever.

use crate::seam::{self, within_ten_seconds};
use crate::shared::Rng;
use maplog::{Ack, Error, Follower, Log, Options, PinnedEntry, SyncPolicy, View};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn small(policy: SyncPolicy) -> Options {
    Options::new().segment_size(16 << 10).sync_policy(policy)
}

/// Bytes that name themselves: an id that is given once, and a pattern that follows from it.
fn payload(id: u64) -> Vec<u8> {
    let mut rng = Rng::new(id);
    let words = 1 + rng.within(0..30);
    let mut bytes = id.to_le_bytes().to_vec();
    (0..words).for_each(|_| bytes.extend(rng.within(0..u64::MAX).to_le_bytes()));
    bytes
}

/// The id of a payload, every byte of which is checked.
#[track_caller]
fn id_of(bytes: &[u8]) -> u64 {
    let id = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, payload(id), "id {id}");
    id
}

/// In place of a seq: the append was told that a cut had taken some of its entries.
const ANYWHERE: u64 = 0;

/// What all threads of a test share.
struct Shared {
    log: Log,
    stop: AtomicBool,
    /// Nobody appends or cuts any more.
    finished: AtomicBool,
    next_id: AtomicU64,
    /// Which seq an append said that it gave to an id.
    acked: Mutex<HashMap<u64, u64>>,
    callbacks: Arc<AtomicU64>,
}

impl Shared {
    fn new(log: Log) -> Arc<Shared> {
        Arc::new(Shared {
            log,
            stop: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            acked: Mutex::default(),
            callbacks: Arc::default(),
        })
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn acked(&self, id: u64, seq: u64) {
        assert_eq!(self.acked.lock().unwrap().insert(id, seq), None);
    }

    fn append_something(&self, rng: &mut Rng) {
        let id = self.id();
        let bytes = payload(id);
        let appended = match rng.within(0..20) {
            0 => self.log.append_as(&bytes, Ack::Durable),
            1..=3 => self.log.append_with(bytes.len(), |place| place.copy_from_slice(&bytes)),
            4..=7 => {
                let ids: Vec<_> = (0..1 + rng.within(0..6)).map(|_| self.id()).collect();
                let payloads: Vec<_> = ids.iter().map(|&id| payload(id)).collect();
                match self.log.append_batch(&payloads) {
                    Ok(seqs) => {
                        assert_eq!(seqs.end - seqs.start, ids.len() as u64);
                        seqs.zip(ids).for_each(|(seq, id)| self.acked(id, seq));
                    }
                    // The cut may have left the first of them.
                    Err(Error::Truncated { .. }) => ids.into_iter().for_each(|id| self.acked(id, ANYWHERE)),
                    Err(error) => panic!("{error}"),
                }
                return;
            }
            _ => self.log.append(&bytes),
        };
        match appended {
            Ok(seq) => self.acked(id, seq),
            Err(Error::Truncated { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Checks a view from both ends, and keeps some of its entries.
    fn read(&self, rng: &mut Rng, pinned: &mut Vec<(u64, PinnedEntry)>) {
        let view = self.log.view();
        let seqs: Vec<_> = view.iter().map(|entry| entry.unwrap()).map(|e| (e.seq(), id_of(e.payload()))).collect();
        assert!(seqs.iter().map(|(seq, _)| *seq).eq(view.first_seq()..view.next_seq()));
        let back: Vec<_> =
            view.iter().rev().map(|entry| entry.unwrap()).map(|e| (e.seq(), id_of(e.payload()))).collect();
        assert!(back.iter().rev().eq(&seqs));
        if let Some((seq, id)) = seqs.get(rng.within(0..seqs.len().max(1) as u64) as usize) {
            assert_eq!(id_of(view.get(*seq).unwrap().unwrap().payload()), *id);
        }
        pinned.extend(self.log.iter().step_by(97).map(|entry| entry.unwrap()).map(|e| (id_of(e.payload()), e)).take(3));
    }

    fn cut_something(&self, rng: &mut Rng) {
        let (first, next) = (self.log.first_seq(), self.log.next_seq());
        let done = match rng.within(0..20) {
            0..=9 => {
                let seq = first + rng.within(0..next - first + 1) / 2;
                self.log.truncate_before(seq).map(|now| assert!(now <= seq.max(first)))
            }
            10..=17 => self.log.truncate_after(next - 1 - rng.within(0..30).min(next - first)),
            18 => self.log.rotate(),
            _ => self.log.reset(next - rng.within(0..20).min(next - first)),
        };
        match done {
            // Others append and cut meanwhile.
            Ok(()) | Err(Error::SeqOutOfRange { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn wait_for_something(&self, rng: &mut Rng) {
        let seq = self.log.next_seq().saturating_sub(rng.within(0..10));
        match self.log.wait_durable(seq) {
            Ok(()) | Err(Error::Truncated { .. } | Error::SeqOutOfRange { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let callbacks = Arc::clone(&self.callbacks);
        callbacks.fetch_add(1, Ordering::Relaxed);
        self.log.on_durable(seq, move |_| {
            callbacks.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// What a reader that follows the log believes it to hold.
struct Replica {
    entries: BTreeMap<u64, u64>,
    follower: Follower,
    durable: bool,
    /// Where it last had to begin again.
    from: u64,
}

impl Replica {
    fn follow(log: &Log, durable: bool, from: u64) -> maplog::Result<Follower> {
        if durable {
            log.follow_durable(from)
        } else {
            log.follow(from)
        }
    }

    /// Takes what comes until nobody appends any more and nothing is left.
    fn run(mut self, shared: &Shared) -> Replica {
        loop {
            let finished = shared.finished.load(Ordering::Relaxed);
            match self.follower.next_timeout(Duration::from_millis(20)) {
                Ok(Some(entry)) => {
                    let expected = self.entries.last_key_value().map_or(self.from, |(last, _)| self.from.max(last + 1));
                    assert_eq!(entry.seq(), expected);
                    self.entries.insert(entry.seq(), id_of(entry.payload()));
                }
                Ok(None) if finished && self.follower.next_seq() == shared.log.next_seq() => return self,
                Ok(None) => {}
                Err(Error::Truncated { first_seq }) => self.go_on_at(&shared.log, first_seq),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Forgets what was cut. The old follower remembers the cuts until the new one is there.
    fn go_on_at(&mut self, log: &Log, mut seq: u64) {
        loop {
            match Self::follow(log, self.durable, seq) {
                Ok(follower) => match self.follower.next_timeout(Duration::ZERO) {
                    // Retention may have gone past where the cut was.
                    Err(Error::Truncated { first_seq })
                        if first_seq == seq || first_seq < seq && seq == log.first_seq() =>
                    {
                        self.follower = follower;
                        self.entries.split_off(&first_seq);
                        self.from = seq;
                        return;
                    }
                    Err(Error::Truncated { first_seq }) => seq = first_seq,
                    other => panic!("a follower that was cut off came back: {other:?}"),
                },
                Err(Error::Truncated { first_seq }) => seq = first_seq,
                Err(Error::SeqOutOfRange { .. }) => match self.follower.next_timeout(Duration::ZERO) {
                    Err(Error::Truncated { first_seq }) => seq = first_seq,
                    other => panic!("a follower that was cut off came back: {other:?}"),
                },
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn spawn<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        // A thread that failed ends the test for all.
        struct Stop<'s>(&'s Shared);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.stop.store(true, Ordering::Relaxed);
                    self.0.finished.store(true, Ordering::Relaxed);
                }
            }
        }
        let _stop = Stop(&shared);
        work(&shared)
    })
}

/// Appends, reads, follows, waits and cuts at once for `time`, and compares what everybody saw.
fn everything_at_once(seed: u64, policy: SyncPolicy, time: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(small(policy).open(dir.path()).unwrap());
    let mut workers = Vec::new();
    for worker in 0..5 {
        workers.push(spawn(&shared, move |shared| {
            let mut rng = Rng::new(seed * 100 + worker);
            while !shared.stopped() {
                match worker {
                    0..=2 => shared.append_something(&mut rng),
                    3 => {
                        shared.cut_something(&mut rng);
                        thread::sleep(Duration::from_micros(rng.within(0..4000)));
                    }
                    _ => {
                        shared.wait_for_something(&mut rng);
                        thread::sleep(Duration::from_micros(rng.within(0..1000)));
                    }
                }
            }
        }));
    }
    let reader = spawn(&shared, move |shared| {
        let (mut rng, mut pinned) = (Rng::new(seed), Vec::new());
        while !shared.stopped() {
            shared.read(&mut rng, &mut pinned);
        }
        pinned
    });
    let replicas = [false, true].map(|durable| {
        let follower = Replica::follow(&shared.log, durable, shared.log.first_seq());
        spawn(&shared, move |shared| {
            let from = 1;
            let follower = follower.or_else(|_| Replica::follow(&shared.log, durable, from)).unwrap();
            let from = follower.next_seq();
            Replica { entries: BTreeMap::new(), follower, durable, from }.run(shared)
        })
    });
    let deadline = Instant::now() + time;
    while Instant::now() < deadline && !shared.stopped() {
        thread::sleep(Duration::from_millis(5));
    }
    shared.stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    shared.finished.store(true, Ordering::Relaxed);
    shared.log.sync().unwrap();
    let pinned = reader.join().unwrap();
    assert!(pinned.iter().all(|(id, entry)| id_of(entry.payload()) == *id));

    let contents =
        |log: &Log| log.iter().map(|e| e.unwrap()).map(|e| (e.seq(), id_of(e.payload()))).collect::<Vec<_>>();
    let held = contents(&shared.log);
    for replica in replicas {
        let replica = replica.join().unwrap();
        for (seq, id) in held.iter().filter(|(seq, _)| *seq >= replica.from) {
            assert_eq!(replica.entries.get(seq), Some(id), "seq {seq}, durable {}", replica.durable);
        }
    }
    let acked = shared.acked.lock().unwrap();
    for (seq, id) in &held {
        assert!([Some(seq), Some(&ANYWHERE)].contains(&acked.get(id)), "nobody was told of seq {seq}");
    }
    shared.log.close().unwrap();
    assert_eq!(shared.callbacks.load(Ordering::Relaxed), 0, "each is called once");
    let log = small(policy).open(dir.path()).unwrap();
    assert_eq!(contents(&log), held);
}

#[test]
fn everybody_agrees_whatever_is_cut_meanwhile() {
    let policies = [
        (SyncPolicy::Manual, 1200),
        (SyncPolicy::Batch { entries: 20, bytes: 3000 }, 800),
        (SyncPolicy::Interval(Duration::from_millis(1)), 800),
    ];
    for (seed, (policy, millis)) in (1..).zip(policies) {
        println!("seed {seed}, {policy:?}");
        everything_at_once(seed, policy, Duration::from_millis(millis));
    }
}

/// Has `threads` threads append `count` entries each; checks the acks, and gives the highest seq.
fn append_from_threads(
    log: &Arc<Log>,
    threads: u64,
    count: u64,
    append: fn(&Log, &[u8]) -> maplog::Result<u64>,
) -> u64 {
    let workers = (0..threads).map(|worker| {
        let log = Arc::clone(log);
        thread::spawn(move || {
            (0..count)
                .map(|n| worker * count + n)
                .map(|id| {
                    let seq = append(&log, &payload(id)).unwrap();
                    (seq, id)
                })
                .collect::<Vec<_>>()
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut acked = BTreeMap::new();
    for worker in workers {
        let given = worker.join().unwrap();
        assert!(given.windows(2).all(|pair| pair[0].0 < pair[1].0), "one thread's entries keep their order");
        acked.extend(given);
    }
    let held = log.iter().map(|entry| entry.unwrap()).map(|e| (e.seq(), id_of(e.payload())));
    assert!(held.eq(acked.iter().map(|(seq, id)| (*seq, *id))));
    assert_eq!(acked.len() as u64, threads * count);
    threads * count
}

#[test]
fn threads_that_append_at_once_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(1 << 20);
    let log = Arc::new(options.open(dir.path()).unwrap());
    let watched = seam::watch(dir.path());
    // A sync that takes a millisecond, as on most disks: who comes meanwhile waits for the next one.
    watched.fail_when(|op| {
        if seam::name_of(op) == "SyncRange" {
            thread::sleep(Duration::from_millis(1));
        }
        None
    });
    let appended = append_from_threads(&log, 8, 50, |log, bytes| {
        let seq = log.append(bytes)?;
        assert!(log.durable_seq() >= seq);
        Ok(seq)
    });
    let syncs = watched.count("SyncRange") as u64;
    assert!(syncs * 2 < appended, "{syncs} syncs for {appended} appends");
    assert_eq!(log.durable_seq(), appended);
    let stats = log.stats();
    assert_eq!(stats.entries_appended, appended);
    assert!(stats.syncs > 0 && stats.syncs <= syncs + watched.count("SyncFile") as u64);
}

#[test]
fn few_concurrent_writes_still_serve_all() {
    for allowed in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().segment_size(16 << 10).max_concurrent_writes(allowed);
        let log = Arc::new(options.open(dir.path()).unwrap());
        let appended = within_ten_seconds("appends with few concurrent writes", {
            let log = Arc::clone(&log);
            move || append_from_threads(&log, 12, 15, |log, bytes| log.append(bytes))
        });
        assert_eq!(log.durable_seq(), appended);
    }
}

#[test]
fn who_need_not_wait_needs_no_leave() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(Options::new().segment_size(64 << 10).max_concurrent_writes(1).open(dir.path()).unwrap());
    log.append(b"first").unwrap();
    let watched = seam::watch(dir.path());
    let (entered, gate) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (entered_too, gate_too, once) = (Arc::clone(&entered), Arc::clone(&gate), AtomicBool::new(true));
    watched.fail_when(move |op| {
        if seam::name_of(op) == "SyncRange" && once.swap(false, Ordering::Relaxed) {
            entered_too.wait();
            gate_too.wait();
        }
        None
    });
    let waiting = Arc::clone(&log);
    let waiting = thread::spawn(move || waiting.append(b"second").unwrap());
    entered.wait();
    // The one caller that may wait is in its sync.
    let blocked = Arc::clone(&log);
    let blocked = thread::spawn(move || blocked.append(b"a later one").unwrap());
    thread::sleep(Duration::from_millis(20));
    assert_eq!(log.next_seq(), 3, "who may not wait yet appends nothing");
    assert_eq!(log.append_as(b"third", Ack::Buffered).unwrap(), 3);
    assert_eq!(log.get(3).unwrap().unwrap().payload(), b"third");
    gate.wait();
    assert_eq!((waiting.join().unwrap(), blocked.join().unwrap()), (2, 4));
    assert_eq!(log.durable_seq(), 4);
}

#[test]
fn close_ends_every_wait() {
    for policy in [SyncPolicy::Immediate, SyncPolicy::Manual, SyncPolicy::Batch { entries: 50, bytes: 1 << 20 }] {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(small(policy).open(dir.path()).unwrap());
        let results = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for worker in 0..4u64 {
            let log = Arc::clone(&log);
            threads.push(thread::spawn(move || {
                let mut last = None;
                for n in 0.. {
                    match log.append(&payload(worker << 32 | n)) {
                        Ok(seq) => last = Some(seq),
                        Err(Error::Closed) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                last
            }));
        }
        let followers = [false, true].map(|durable| {
            let mut follower = Replica::follow(&log, durable, 1).unwrap();
            thread::spawn(move || loop {
                match follower.next_timeout(Duration::from_secs(60)) {
                    Ok(entry) => drop(id_of(entry.unwrap().payload())),
                    Err(error) => return error,
                }
            })
        });
        thread::sleep(Duration::from_millis(50));
        let last_seen = log.next_seq() - 1;
        let theirs = Arc::clone(&results);
        log.on_durable(last_seen, move |result| theirs.lock().unwrap().push(result.is_ok()));
        let closing = Arc::clone(&log);
        within_ten_seconds("close, while threads append", move || closing.close().unwrap());
        let acked: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        for follower in followers {
            assert!(matches!(
                within_ten_seconds("a follower of a closed log", || follower.join().unwrap()),
                Error::Closed
            ));
        }
        assert_eq!(*results.lock().unwrap(), [true], "close made it durable");
        assert!(acked.iter().all(|&seq| seq <= log.durable_seq()), "close makes all durable that was appended");
        assert!(matches!(log.append(b"x"), Err(Error::Closed)) && matches!(log.sync(), Err(Error::Closed)));
        log.close().unwrap();
        let next_seq = log.next_seq();
        let log = small(policy).open(dir.path()).unwrap();
        assert!(log.recovery().clean);
        assert_eq!(log.next_seq(), next_seq);
        assert!(log.iter().all(|entry| entry.map(|entry| id_of(entry.payload())).is_ok()));
    }
}

#[test]
fn durable_followers_hear_of_every_single_append() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let heard = Arc::new(AtomicU64::new(0));
    const FOLLOWERS: u64 = 3;
    let threads: Vec<_> = (0..FOLLOWERS)
        .map(|_| {
            let (mut follower, heard) = (log.follow_durable(1).unwrap(), Arc::clone(&heard));
            thread::spawn(move || loop {
                match follower.next_timeout(Duration::from_secs(60)) {
                    Ok(entry) => drop((entry.unwrap(), heard.fetch_add(1, Ordering::Release))),
                    Err(Error::Closed) => return,
                    Err(error) => panic!("{error}"),
                }
            })
        })
        .collect();
    for seq in 1..=1000 {
        log.append(b"one at a time: nothing that comes later makes up for a lost wake-up").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while heard.load(Ordering::Acquire) < seq * FOLLOWERS {
            assert!(Instant::now() < deadline, "a follower sleeps though seq {seq} is durable");
            std::hint::spin_loop();
        }
    }
    log.close().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Opens the log in `dir` as soon as it is unlocked.
fn open_when_free(dir: &std::path::Path) -> Log {
    let mut log = None;
    seam::wait_until("the directory is unlocked", || {
        log = match small(SyncPolicy::Manual).open(dir) {
            Ok(log) => Some(log),
            Err(Error::Locked { .. }) => None,
            Err(error) => panic!("{error}"),
        };
        log.is_some()
    });
    log.unwrap()
}

#[test]
fn the_last_handle_may_be_dropped_in_a_callback() {
    // On the interval's thread, which syncs.
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(small(SyncPolicy::Interval(Duration::from_millis(20))).open(dir.path()).unwrap());
    log.append(&payload(1)).unwrap();
    let last = Arc::clone(&log);
    log.on_durable(1, move |result| {
        result.unwrap();
        drop(last);
    });
    drop(log);
    assert_eq!(open_when_free(dir.path()).next_seq(), 2);

    // On the keeper's thread, which syncs what was sealed.
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(small(SyncPolicy::Manual).open(dir.path()).unwrap());
    log.append(&payload(1)).unwrap();
    let last = Arc::clone(&log);
    log.on_durable(1, move |result| {
        result.unwrap();
        // The other handle goes first.
        thread::sleep(Duration::from_millis(20));
        drop(last);
    });
    let mut next = 2;
    while log.stats().rotations < 2 {
        log.append(&payload(next)).unwrap();
        next += 1;
    }
    drop(log);
    let log = open_when_free(dir.path());
    assert_eq!(log.next_seq(), next);
    assert!(log.iter().all(|entry| id_of(entry.unwrap().payload()) < next));
}

#[test]
fn a_callback_on_any_thread_may_append_across_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(small(SyncPolicy::Manual).open(dir.path()).unwrap());
    log.append(&payload(1)).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let appending = Arc::clone(&log);
    // Called by the keeper, once the first segment is sealed: the thread that makes the next files.
    log.on_durable(1, move |result| {
        result.unwrap();
        let seqs: Vec<_> = (0..1000).map(|id| appending.append(&payload(1 << 20 | id)).unwrap()).collect();
        send.send(seqs).unwrap();
    });
    while log.stats().rotations < 2 {
        log.append(&payload(2)).unwrap();
    }
    let seqs = receive.recv_timeout(Duration::from_secs(5)).expect("an append in a callback waits for ever");
    for (id, seq) in seqs.into_iter().enumerate() {
        assert_eq!(id_of(log.get(seq).unwrap().unwrap().payload()), 1 << 20 | id as u64);
    }
}

#[test]
fn a_view_in_one_thread_outlives_the_log_in_another() {
    let dir = tempfile::tempdir().unwrap();
    let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
    let threads: Vec<_> = (1..=20u64)
        .map(|round| {
            for n in 0..50 {
                log.append(&payload(round << 8 | n)).unwrap();
            }
            let view: View = log.view();
            thread::spawn(move || {
                view.iter().filter(|entry| id_of(entry.as_ref().unwrap().payload()) > 0).count() as u64 == round * 50
            })
        })
        .collect();
    drop(log);
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}
