//! Everything at once: all calls by several threads, on a disk that fails, in a log that was killed before. Nobody waits for ever, nothing
//! panics, each error is one that there is a reason for, and the directory opens again.

use crate::scene::{any, below, locked, met, now, read_view, tell, Fault, Scene, Victim, SEGMENT_SIZE};
use maplog::{Ack, Error, Log, Options, RecoveryMode, Result, SyncPolicy};
use shuttle::thread;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) fn run(scene: &Arc<Scene>) {
    let options = Options::new().segment_size(SEGMENT_SIZE);
    if below(3) == 0 {
        leave_unclean(scene, options.clone());
        met("unclean");
    }
    let policies = [
        SyncPolicy::Immediate,
        SyncPolicy::Batch { entries: 3, bytes: 5000 },
        SyncPolicy::Interval(Duration::from_millis(1)),
        SyncPolicy::Manual,
    ];
    let recovery = any(&[RecoveryMode::Strict, RecoveryMode::Salvage]);
    let writers = any(&[1, 2, 1024]);
    let log = scene.open(options.clone().recovery(recovery).sync_policy(any(&policies)).max_concurrent_writes(writers));
    let victim = any(&[None, Some(Victim::Sync), Some(Victim::Manifest), Some(Victim::Space)]);
    scene.disk.set_fault(victim.map(|of| Fault { of, after: below(8), times: 1 + below(2) }));
    let mix = Mix { scene, log: &log, victim, ends: Ends::default(), callbacks: Arc::default() };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..2 + below(3)).for_each(|_| mix.call()));
        }
        if below(3) == 0 {
            scope.spawn(|| mix.follow());
        }
        if below(4) == 0 {
            scope.spawn(|| mix.close());
        }
    });
    // A follower may still have waited for what nobody appends.
    mix.close();
    let callbacks = locked(&mix.callbacks);
    assert!(
        callbacks.iter().all(|calls| calls.load(Ordering::Relaxed) == 1),
        "callbacks were called {callbacks:?} times"
    );
    scene.disk.set_fault(None);
    let reopened = scene.open(options);
    read_view(&reopened.view());
    reopened.close().expect("a close");
    if mix.ends.poisoned.load(Ordering::Relaxed) {
        met("mixed with poison");
    }
}

/// A log that was killed with entries that no sync covered.
fn leave_unclean(scene: &Scene, options: Options) {
    let log = scene.open(options.sync_policy(SyncPolicy::Manual));
    for _ in 0..1 + below(4) {
        log.append(&scene.entry(any(&[24, 1500, 3700])).1).expect("an append");
        if below(3) == 0 {
            log.sync().expect("a sync");
        }
    }
    scene.kill(log);
}

struct Mix<'s> {
    scene: &'s Scene,
    log: &'s Log,
    victim: Option<Victim>,
    ends: Ends,
    callbacks: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
}

/// What somebody was told, or is about to be.
#[derive(Default)]
struct Ends {
    poisoned: AtomicBool,
    closing: AtomicBool,
}

impl Mix<'_> {
    fn call(&self) {
        let poisoned = self.ends.poisoned.load(Ordering::Relaxed);
        let (log, next_seq) = (self.log, self.log.next_seq());
        let some_seq = below(next_seq + 1);
        let entry = || self.scene.entry(any(&[24, 1500, 3700])).1;
        let filled = entry();
        let call = below(14);
        tell(|| format!("call {call}, with {some_seq} below or at {next_seq}"));
        let changes = match call {
            0 | 1 => self.judge(log.append(&entry())),
            2 => self.judge(log.append_as(&entry(), any(&[Ack::Buffered, Ack::Durable]))),
            3 => self.judge(log.append_batch([entry(), entry()])),
            4 => self.judge(log.append_with(filled.len(), |place| place.copy_from_slice(&filled))),
            5 => self.judge(log.sync()),
            6 => self.judge(log.rotate()),
            7 => self.judge(log.truncate_before(some_seq.max(1))),
            8 => self.judge(log.truncate_after(some_seq)),
            9 => self.judge(log.reset(any(&[1, next_seq, next_seq + 5]))),
            10 => {
                self.judge(log.wait_durable(some_seq));
                false
            }
            11 => {
                self.register(some_seq);
                false
            }
            12 => {
                self.judge(log.validate());
                self.judge(log.get(some_seq));
                false
            }
            _ => {
                let view = log.view();
                drop((log.segments(), log.stats(), log.first_seq(), log.durable_seq()));
                view.iter().for_each(|entry| {
                    self.judge(entry);
                });
                false
            }
        };
        assert!(!(changes && poisoned), "Ok after somebody was told that a sync had failed");
    }

    fn follow(&self) {
        let from_seq = self.log.first_seq();
        let follower = if below(2) == 0 { self.log.follow(from_seq) } else { self.log.follow_durable(from_seq) };
        if let Ok(mut follower) = follower {
            while self.judge(follower.next_timeout(Duration::from_millis(1))) {
                if self.ends.closing.load(Ordering::Relaxed) || below(8) == 0 {
                    return;
                }
                thread::yield_now();
            }
        }
    }

    fn register(&self, seq: u64) {
        let calls = Arc::new(AtomicU64::new(0));
        locked(&self.callbacks).push(Arc::clone(&calls));
        self.log.on_durable(seq, move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
    }

    fn close(&self) {
        self.ends.closing.store(true, Ordering::Relaxed);
        self.judge(self.log.close());
    }

    /// Whether a call succeeded. If not, there was a reason.
    fn judge<T>(&self, result: Result<T>) -> bool {
        let failed = self.scene.disk.failed() > 0;
        match result {
            Ok(_) => {
                tell(|| "Ok".to_owned());
                return true;
            }
            Err(Error::Truncated { .. } | Error::SeqOutOfRange { .. }) => {}
            Err(Error::Closed) => assert!(self.ends.closing.load(Ordering::Relaxed), "Closed, and nobody closed"),
            Err(Error::NoSpace { .. }) => assert_eq!((self.victim, failed), (Some(Victim::Space), true), "no space"),
            Err(error @ (Error::Io { .. } | Error::Poisoned)) => {
                let may_poison = matches!(self.victim, Some(Victim::Sync | Victim::Manifest));
                assert!(failed && may_poison, "no sync failed, and a call said {error:?} at {}", now());
                self.ends.poisoned.store(true, Ordering::Relaxed);
            }
            Err(error) => panic!("a call said {error:?}"),
        }
        false
    }
}
