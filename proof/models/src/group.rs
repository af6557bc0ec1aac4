//! Group sync and poison: nobody is told Ok whose entry no sync covered, every wait ends, every callback is called once, and after
//! a sync that failed nothing goes on.

use crate::scene::{any, below, is_closed, locked, met, now, Fault, Scene, Victim, SEGMENT_SIZE};
use maplog::{Ack, Error, Log, Options, Result, SyncPolicy};
use shuttle::current::me;
use shuttle::thread;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) fn run(scene: &Arc<Scene>) {
    let policies = [
        SyncPolicy::Immediate,
        SyncPolicy::Batch { entries: 2, bytes: 3000 },
        SyncPolicy::Interval(Duration::from_millis(1)),
        SyncPolicy::Manual,
    ];
    let policy = any(&policies);
    let options = Options::new().segment_size(SEGMENT_SIZE).sync_policy(policy);
    let log = scene.open(options.max_concurrent_writes(1 + below(3) as u32));
    let victim = any(&[None, Some(Victim::Sync), Some(Victim::Sync), Some(Victim::Manifest)]);
    scene.disk.set_fault(victim.map(|of| Fault { of, after: below(8), times: 1 }));
    let group = Group { scene, log: &log, policy, ended: Ended::default(), callbacks: Arc::default() };
    thread::scope(|scope| {
        for _ in 0..2 + below(2) {
            scope.spawn(|| group.work());
        }
        if below(4) == 0 {
            scope.spawn(|| group.close());
        }
    });
    group.close();
    for calls in &*locked(&group.callbacks) {
        assert!(calls.all == 1 && calls.strange == 0, "a callback was called as in {calls:?}");
        // All that was appended is durable in the end, unless a sync fails.
        assert!(
            calls.ended == 0 || scene.disk.failed() > 0,
            "a callback was told that its entry never will be durable"
        );
    }
    scene.check_acks();
    let ended = &group.ended;
    assert!(ended.errors.load(Ordering::Relaxed) <= scene.disk.failed(), "one failed sync is one caller's error");
    if ended.is_poisoned() {
        met("poisoned");
    }
}

struct Group<'s> {
    scene: &'s Arc<Scene>,
    log: &'s Log,
    policy: SyncPolicy,
    ended: Ended,
    callbacks: Arc<Mutex<Vec<Calls>>>,
}

/// How often a callback was called.
#[derive(Debug, Default)]
struct Calls {
    all: u64,
    /// With Poisoned or Closed.
    ended: u64,
    /// With what is no answer.
    strange: u64,
}

/// How the log came to its end, as callers were told.
#[derive(Default)]
struct Ended {
    poisoned: AtomicBool,
    /// Threads that called close.
    closers: AtomicU64,
    closed: AtomicBool,
    /// Callers that got the I/O error itself.
    errors: AtomicU64,
}

/// What everybody could know when a call began.
#[derive(Clone, Copy)]
struct Known {
    poisoned: bool,
    closed: bool,
}

impl Ended {
    fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    /// Somebody got the I/O error itself.
    fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    fn known(&self) -> Known {
        Known { poisoned: self.is_poisoned(), closed: self.closed.load(Ordering::Relaxed) }
    }
}

impl Group<'_> {
    fn work(&self) {
        let mut durable = 0;
        let mut last = 0;
        for _ in 0..3 + below(3) {
            let known = self.ended.known();
            match below(12) {
                0..=3 => last = self.append(known).unwrap_or(last),
                4 => last = self.append_batch(known).unwrap_or(last),
                5 => {
                    let placed = self.scene.last_placed();
                    if let Some(seq) = self.judge(known, self.log.sync()) {
                        assert!(seq >= placed, "a sync said {seq} when {placed} had been appended");
                        self.scene.acked(seq, "sync");
                    }
                }
                6 if last > 0 => {
                    // What is durable already is so for ever.
                    let known = Known { poisoned: false, ..known };
                    if self.judge(known, self.log.wait_durable(last)).is_some() {
                        self.scene.acked(last, "wait_durable");
                    }
                }
                7 if last > 0 => self.register(last),
                8 | 9 => {
                    if let Some(seq) = self.append(known) {
                        self.register(seq);
                    }
                }
                10 => drop(self.judge(known, self.log.rotate())),
                11 => {
                    self.judge(known, self.log.truncate_before(1));
                }
                _ => {}
            }
            let seq = self.log.durable_seq();
            assert!(seq >= durable, "durable_seq went from {durable} back to {seq}");
            durable = seq;
            self.scene.acked(seq, "durable_seq");
        }
    }

    fn append(&self, known: Known) -> Option<u64> {
        let (id, bytes) = self.scene.entry(any(&[24, 700, 2500]));
        let ack = any(&[None, Some(Ack::Durable), Some(Ack::Buffered)]);
        let began = now();
        let appended = match ack {
            None => self.log.append(&bytes),
            Some(ack) => self.log.append_as(&bytes, ack),
        };
        let seq = self.judge(known, appended)?;
        self.scene.placed(id, seq, began);
        if ack == Some(Ack::Durable) || ack.is_none() && self.policy == SyncPolicy::Immediate {
            self.scene.acked(seq, "append");
        }
        Some(seq)
    }

    fn append_batch(&self, known: Known) -> Option<u64> {
        let entries = [self.scene.entry(24), self.scene.entry(900), self.scene.entry(24)];
        let began = now();
        let seqs = self.judge(known, self.log.append_batch(entries.iter().map(|(_, bytes)| bytes)))?;
        for ((id, _), seq) in entries.iter().zip(seqs.clone()) {
            self.scene.placed(*id, seq, began);
        }
        if self.policy == SyncPolicy::Immediate {
            self.scene.acked(seqs.end - 1, "append_batch");
        }
        Some(seqs.end - 1)
    }

    fn register(&self, seq: u64) {
        let scene = Arc::clone(self.scene);
        let callbacks = Arc::clone(&self.callbacks);
        let number = {
            let mut callbacks = locked(&callbacks);
            callbacks.push(Calls::default());
            callbacks.len() - 1
        };
        self.log.on_durable(seq, move |result| {
            // Nothing here may panic, for panics are caught.
            let mut callbacks = locked(&callbacks);
            let calls = &mut callbacks[number];
            calls.all += 1;
            match result {
                Ok(()) => scene.acked(seq, "a callback"),
                Err(Error::Poisoned | Error::Closed) => calls.ended += 1,
                Err(_) => calls.strange += 1,
            }
        });
    }

    fn close(&self) {
        self.ended.closers.fetch_add(1, Ordering::Relaxed);
        let poisoned = self.ended.is_poisoned();
        // The keeper may be about to write a mark: that one was durable before.
        let own_writes = || self.scene.disk.manifest_writes().iter().filter(|(_, by)| *by == me()).count();
        let writes = own_writes();
        match self.log.close() {
            Ok(()) => {
                // Twice is no error, whatever the first one said.
                if self.ended.closers.load(Ordering::Relaxed) == 1 {
                    assert!(!poisoned, "a poisoned log was closed without an error");
                    self.scene.acked(self.scene.last_placed(), "close");
                }
            }
            Err(Error::Io { .. }) => self.ended.failed(),
            Err(Error::Poisoned) => {}
            Err(error) => panic!("close said {error:?}"),
        }
        if poisoned {
            assert_eq!(own_writes(), writes, "a poisoned log's close wrote the manifest");
        }
        self.ended.closed.store(true, Ordering::Relaxed);
    }

    /// The value of a call that may have failed as the log's end explains.
    fn judge<T>(&self, known: Known, result: Result<T>) -> Option<T> {
        let failed = self.scene.disk.failed() > 0;
        match result {
            Ok(value) => {
                assert!(!known.poisoned, "Ok after somebody was told that a sync had failed");
                assert!(!known.closed, "Ok after the log was closed");
                Some(value)
            }
            _ if is_closed(&result) => {
                assert!(self.ended.closers.load(Ordering::Relaxed) > 0, "Closed, and nobody closed");
                None
            }
            Err(error) => {
                assert!(failed, "no sync failed, and a call said {error:?}");
                match error {
                    Error::Io { .. } => self.ended.failed(),
                    Error::Poisoned => {}
                    error => panic!("a failed sync is no {error:?}"),
                }
                self.ended.poisoned.store(true, Ordering::Relaxed);
                None
            }
        }
    }
}
