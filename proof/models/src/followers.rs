//! Following: each entry once and in order, no wake-up lost; close, poison and retention end the wait.

use crate::entry;
use crate::scene::{any, below, met, now, tell, Fault, Scene, Victim, SEGMENT_SIZE};
use maplog::{Error, Follower, Log, Options, SyncPolicy};
use shuttle::thread;
use std::sync::Arc;
use std::time::Duration;

/// How the followers come to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// They have got so many entries.
    Count,
    Closed,
    Poisoned,
}

pub(crate) fn run(scene: &Arc<Scene>) {
    let policies = [
        SyncPolicy::Immediate,
        SyncPolicy::Batch { entries: 2, bytes: 3000 },
        SyncPolicy::Interval(Duration::from_millis(1)),
        SyncPolicy::Manual,
    ];
    let log = scene.open(Options::new().segment_size(SEGMENT_SIZE).sync_policy(any(&policies)));
    let end = any(&[End::Count, End::Count, End::Closed, End::Poisoned]);
    if end == End::Poisoned {
        scene.disk.set_fault(Some(Fault { of: Victim::Sync, after: below(4), times: 1 }));
    }
    let each = 2 + below(2);
    let appenders = 1 + below(2);
    let first_is_durable = below(2) == 0;
    // The closure of a scope waits for nothing: its threads' end would wake it.
    thread::scope(|scope| {
        scope.spawn(|| follow(scene, &log, first_is_durable, end, each * appenders));
        if below(2) == 0 {
            scope.spawn(|| follow(scene, &log, !first_is_durable, end, each * appenders));
        }
        if end == End::Closed && below(2) == 0 {
            scope.spawn(|| log.close().expect("a close"));
        }
        scope.spawn(|| {
            thread::scope(|scope| {
                for _ in 0..appenders {
                    scope.spawn(|| (0..each).for_each(|_| append(scene, &log, end)));
                }
                if end == End::Count && below(3) == 0 {
                    scope.spawn(|| trim(&log));
                }
            });
            match end {
                End::Count => drop(log.sync().expect("a sync")),
                End::Closed => log.close().expect("a close"),
                End::Poisoned => while log.append(&scene.entry(24).1).and_then(|_| log.sync()).is_ok() {},
            }
        });
    });
    drop(log.close());
}

fn append(scene: &Scene, log: &Log, end: End) {
    let (id, bytes) = scene.entry(any(&[24, 700, 3000]));
    let began = now();
    match log.append(&bytes) {
        Ok(seq) => scene.placed(id, seq, began),
        Err(Error::Closed) if end == End::Closed => {}
        Err(Error::Poisoned | Error::Io { .. }) if end == End::Poisoned => {}
        Err(error) => panic!("an append said {error:?}"),
    }
}

fn trim(log: &Log) {
    for _ in 0..2 {
        let seq = log.next_seq();
        log.truncate_before(seq).expect("a truncation");
        log.rotate().expect("a rotate");
    }
}

fn follow(scene: &Scene, log: &Log, is_durable: bool, end: End, count: u64) {
    let follow = |from_seq| if is_durable { log.follow_durable(from_seq) } else { log.follow(from_seq) };
    let first = || -> Option<Follower> {
        loop {
            match follow(log.first_seq()) {
                Ok(follower) => return Some(follower),
                Err(Error::Truncated { .. }) => {}
                Err(Error::Closed) if end == End::Closed => return None,
                Err(error) => panic!("follow said {error:?}"),
            }
        }
    };
    let Some(mut follower) = first() else {
        return;
    };
    while end != End::Count || follower.next_seq() <= count {
        let expected = follower.next_seq();
        let patience = any(&[Duration::MAX, Duration::MAX, Duration::from_millis(1), Duration::ZERO]);
        match follower.next_timeout(patience) {
            Ok(None) => {
                assert!(patience != Duration::MAX, "a wait without an end has timed out");
                // Others have to come on.
                thread::yield_now();
            }
            Ok(Some(entry)) => {
                let id = entry::id_of(entry.payload()).expect("the bytes that were appended");
                tell(|| format!("followed to {}, entry {id}", entry.seq()));
                assert_eq!(entry.seq(), expected, "the entry that comes next");
                // What was dropped counts as durable.
                let is_there = entry.seq() >= log.first_seq();
                if is_durable && is_there {
                    assert!(scene.disk.durable_at(id).is_some(), "{expected} was followed, and is not durable");
                }
            }
            Err(Error::Truncated { first_seq }) => {
                met("retention passed a follower");
                assert!(first_seq > expected, "a follower at {expected} was passed by {first_seq}");
                match first() {
                    Some(again) => follower = again,
                    None => return,
                }
            }
            Err(Error::Closed) if end == End::Closed => return met("a follower was closed"),
            Err(Error::Poisoned) if end == End::Poisoned => return met("a follower was poisoned"),
            Err(error) => panic!("a follower was told {error:?}"),
        }
    }
    met("followed to the end");
}
