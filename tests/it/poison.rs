//! One failed sync: the call that met it gets `Io`, all others and all later ones `Poisoned`, the durable seq stays,
//! nothing is tried again, reads go on, close says so and gives the directory free, and the next open has everything
//! that was acked.

use crate::seam::{self, name_of, within_ten_seconds, Watched, EIO};
use maplog::testing::Op;
use maplog::{Ack, Error, Log, Options, SyncPolicy};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Barrier};
use std::thread;
use std::time::Duration;

fn small(policy: SyncPolicy) -> Options {
    Options::new().segment_size(16 << 10).sync_policy(policy)
}

fn payload(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat(20)
}

/// Has the first operation that `is_it` fail.
fn fail_once(watched: &Watched, is_it: impl Fn(&Op<'_>) -> bool + Send + Sync + 'static) {
    let failed = AtomicBool::new(false);
    watched.fail_when(move |op| (is_it(op) && !failed.swap(true, Ordering::Relaxed)).then_some(EIO));
}

fn is_manifest(path: &Path) -> bool {
    path.ends_with("metadata/wal.meta")
}

#[track_caller]
fn is_io(result: maplog::Result<impl std::fmt::Debug>) {
    match result {
        Err(Error::Io { op, path, source }) => {
            assert_eq!(source.raw_os_error(), Some(EIO));
            assert!(op == "sync" || op == "write", "{op} {}", path.display());
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_poisoned(result: maplog::Result<impl std::fmt::Debug>) {
    assert!(matches!(result, Err(Error::Poisoned)), "{result:?}");
}

/// Everything that holds after a failed sync, of a log that holds `payload`s up to `last`; closes it, and opens it again.
#[track_caller]
fn check_poisoned(log: &Log, watched: &Watched, dir: &Path, durable: u64) {
    watched.forget();
    let last = log.next_seq() - 1;
    is_poisoned(log.append(b"x"));
    is_poisoned(log.append_as(b"x", Ack::Buffered));
    is_poisoned(log.append_as(b"x", Ack::Durable));
    is_poisoned(log.append_with(1, |place| place.fill(1)));
    is_poisoned(log.append_batch(["x", "y"]));
    is_poisoned(log.append_batch(Vec::<&str>::new()));
    is_poisoned(log.sync());
    is_poisoned(log.rotate());
    is_poisoned(log.reset(last + 10));
    is_poisoned(log.truncate_before(last));
    is_poisoned(log.truncate_after(last.saturating_sub(1)));
    if last > durable {
        is_poisoned(log.wait_durable(last));
        let (send, receive) = mpsc::channel();
        log.on_durable(last, move |result| send.send(result).unwrap());
        is_poisoned(receive.try_recv().unwrap());
    }
    log.wait_durable(durable).unwrap();
    assert_eq!((log.durable_seq(), log.next_seq()), (durable, last + 1));
    // Reads go on.
    for seq in log.first_seq()..=last {
        assert_eq!(log.get(seq).unwrap().unwrap().payload(), payload(seq));
    }
    assert_eq!(log.view().iter().rev().count() as u64, last + 1 - log.first_seq());
    let mut follower = log.follow(log.first_seq()).unwrap();
    for seq in log.first_seq()..=last {
        assert_eq!(follower.next_timeout(Duration::ZERO).unwrap().unwrap().seq(), seq);
    }
    is_poisoned(within_ten_seconds("a follower of a poisoned log", move || {
        follower.next_timeout(Duration::from_secs(60))
    }));
    assert!(log.validate().unwrap().is_intact());
    thread::sleep(Duration::from_millis(20));
    assert_eq!(log.durable_seq(), durable);

    let (first, manifest) = (log.first_seq(), std::fs::read(dir.join("metadata/wal.meta")).unwrap());
    assert!(log.close().is_err(), "close says that not all is durable");
    log.close().unwrap();
    check_closed(log);
    assert_eq!(std::fs::read(dir.join("metadata/wal.meta")).unwrap(), manifest, "neither mark nor clean");
    let again: Vec<_> = watched
        .events()
        .into_iter()
        .filter(|event| ["Write", "SyncFile", "SyncRange"].contains(&event.name.as_str()))
        .filter(|event| seam::is_segment(&event.path) || is_manifest(&event.path))
        .collect();
    assert!(again.is_empty(), "nothing is tried again: {again:?}");

    watched.heal();
    let log = small(SyncPolicy::Manual).open(dir).unwrap();
    assert!(!log.recovery().clean);
    assert_eq!((log.first_seq(), log.next_seq()), (first, last + 1), "nothing crashed: all is there");
    assert!(log.iter().map(|entry| entry.unwrap()).all(|entry| entry.payload() == payload(entry.seq())));
    assert_eq!(log.append(&payload(last + 1)).unwrap(), last + 1);
    assert_eq!(log.sync().unwrap(), last + 1);
}

/// Once it is closed a log says so, whatever was wrong with it before.
#[track_caller]
fn check_closed(log: &Log) {
    for (call, result) in [
        ("append", log.append(b"x").map(drop)),
        ("append_as buffered", log.append_as(b"x", Ack::Buffered).map(drop)),
        ("append_as durable", log.append_as(b"x", Ack::Durable).map(drop)),
        ("append_with", log.append_with(1, |_| {}).map(drop)),
        ("append_batch", log.append_batch(["x", "y"]).map(drop)),
        ("sync", log.sync().map(drop)),
        ("wait_durable", log.wait_durable(1)),
        ("rotate", log.rotate()),
        ("truncate_before", log.truncate_before(1).map(drop)),
        ("truncate_after", log.truncate_after(1)),
        ("reset", log.reset(100)),
        ("get", log.get(1).map(drop)),
        ("validate", log.validate().map(drop)),
    ] {
        assert!(matches!(result, Err(Error::Closed)), "{call}: {result:?}");
    }
}

fn open(dir: &Path, policy: SyncPolicy, entries: u64) -> Log {
    let log = small(policy).open(dir).unwrap();
    (1..=entries).for_each(|seq| assert_eq!(log.append(&payload(seq)).unwrap(), seq));
    log
}

#[test]
fn a_failed_sync_of_the_active_segment_poisons() {
    for policy in [SyncPolicy::Immediate, SyncPolicy::Batch { entries: 11, bytes: 1 << 20 }] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), policy, 10);
        let durable = log.durable_seq();
        let watched = seam::watch(dir.path());
        fail_once(&watched, |op| matches!(op, Op::SyncRange { .. }));
        is_io(log.append(&payload(11)));
        check_poisoned(&log, &watched, dir.path(), durable);
    }
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual, 10);
    log.sync().unwrap();
    log.append(&payload(11)).unwrap();
    let watched = seam::watch(dir.path());
    fail_once(&watched, |op| matches!(op, Op::SyncRange { .. }));
    is_io(log.sync());
    check_poisoned(&log, &watched, dir.path(), 10);
}

#[test]
fn a_failed_sync_of_the_interval_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Interval(Duration::from_millis(2)), 0);
    let watched = seam::watch(dir.path());
    fail_once(&watched, |op| matches!(op, Op::SyncRange { .. }));
    let (send, receive) = mpsc::channel();
    log.append(&payload(1)).unwrap();
    log.on_durable(1, move |result| send.send(result).unwrap());
    is_poisoned(receive.recv_timeout(Duration::from_secs(30)).unwrap());
    check_poisoned(&log, &watched, dir.path(), 0);
}

#[test]
fn one_failure_is_one_io_and_poisoned_for_all_who_waited_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(small(SyncPolicy::Manual).open(dir.path()).unwrap());
    (1..=9).for_each(|seq| assert_eq!(log.append(&payload(seq)).unwrap(), seq));
    let watched = seam::watch(dir.path());
    let (syncing, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (syncing_too, go_on_too) = (Arc::clone(&syncing), Arc::clone(&go_on));
    watched.fail_when(move |op| {
        matches!(op, Op::SyncRange { .. }).then(|| {
            syncing_too.wait();
            go_on_too.wait();
            EIO
        })
    });
    let leading = Arc::clone(&log);
    let leader = thread::spawn(move || leading.wait_durable(9));
    syncing.wait();
    let waiters: Vec<_> = (0..8)
        .map(|n| {
            let log = Arc::clone(&log);
            thread::spawn(move || match n % 3 {
                0 => log.wait_durable(n + 1),
                1 => log.sync().map(drop),
                _ => log.rotate(),
            })
        })
        .collect();
    let mut durable = log.follow_durable(1).unwrap();
    let follower = thread::spawn(move || durable.next_timeout(Duration::from_secs(60)));
    let (send, receive) = mpsc::channel();
    (1..=9).for_each(|seq| {
        let send = send.clone();
        log.on_durable(seq, move |result| send.send(result).unwrap());
    });
    thread::sleep(Duration::from_millis(20));
    go_on.wait();
    is_io(leader.join().unwrap());
    waiters.into_iter().for_each(|waiter| is_poisoned(within_ten_seconds("a waiter", || waiter.join().unwrap())));
    is_poisoned(within_ten_seconds("a durable follower", || follower.join().unwrap()));
    let told: Vec<_> = (0..9).map(|_| receive.recv_timeout(Duration::from_secs(30)).unwrap()).collect();
    told.into_iter().for_each(|result| is_poisoned(result));
    drop(send);
    check_poisoned(&log, &watched, dir.path(), 0);
    assert!(receive.try_recv().is_err(), "each callback is called once");
}

#[test]
fn a_failed_sync_of_a_sealed_segment_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual, 10);
    log.sync().unwrap();
    let watched = seam::watch(dir.path());
    let first = seam::segment_files(dir.path()).swap_remove(0);
    fail_once(&watched, move |op| matches!(op, Op::SyncFile { path } if *path == first));
    let (send, receive) = mpsc::channel();
    log.append(&payload(11)).unwrap();
    log.on_durable(11, move |result| send.send(result).unwrap());
    let mut follower = log.follow_durable(11).unwrap();
    let follower = thread::spawn(move || follower.next_timeout(Duration::from_secs(60)));
    // The keeper syncs it; no caller does.
    for seq in 12.. {
        match log.append(&payload(seq)) {
            Ok(given) => assert_eq!(given, seq),
            Err(error) => {
                is_poisoned(Err::<(), _>(error));
                break;
            }
        }
    }
    is_poisoned(receive.recv_timeout(Duration::from_secs(30)).unwrap());
    is_poisoned(within_ten_seconds("a durable follower", || follower.join().unwrap()));
    check_poisoned(&log, &watched, dir.path(), 10);
}

#[test]
fn a_manifest_that_cannot_be_written_poisons_whoever_writes_it() {
    type Call = fn(&Log) -> maplog::Result<()>;
    let calls: [(&str, Call); 3] = [
        ("truncate_before", |log| log.truncate_before(150).map(drop)),
        ("truncate_after", |log| log.truncate_after(200)),
        ("reset", |log| log.reset(1000)),
    ];
    for (name, call) in calls {
        for failing in ["Write", "SyncFile"] {
            let dir = tempfile::tempdir().unwrap();
            let log = open(dir.path(), SyncPolicy::Manual, 200);
            log.sync().unwrap();
            // The mark is stored by now, and nobody else writes the manifest.
            thread::sleep(Duration::from_millis(30));
            log.append(&payload(201)).unwrap();
            let durable_before = log.durable_seq();
            let watched = seam::watch(dir.path());
            fail_once(&watched, move |op| name_of(op) == failing && is_manifest(op.path()));
            is_io(call(&log));
            is_poisoned(log.append(b"x"));
            is_poisoned(log.sync());
            is_poisoned(log.truncate_before(100));
            assert!(log.durable_seq() >= durable_before || name != "truncate_before", "{name}");
            assert!(log.close().is_err(), "{name}, {failing}");
            watched.heal();
            // Either side of the change, and never between.
            let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
            let held = (log.first_seq(), log.next_seq());
            let (old, new) = match name {
                "truncate_before" => ((1, 202), None),
                "truncate_after" => ((1, 202), Some((1, 201))),
                _ => ((1, 202), Some((1000, 1000))),
            };
            let is_new = Some(held) == new || new.is_none() && held.0 > 1 && held.0 <= 150 && held.1 == 202;
            assert!(held == old || is_new, "{name}, {failing}: {held:?}");
            assert!(log.iter().map(|entry| entry.unwrap()).all(|entry| entry.payload() == payload(entry.seq())));
            let next = log.next_seq();
            assert_eq!(log.append(&payload(next)).unwrap(), next);
        }
    }
}

#[test]
fn a_mark_that_cannot_be_written_poisons_and_tells_who_waits() {
    for failing in ["Write", "SyncFile"] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), SyncPolicy::Manual, 0);
        let watched = seam::watch(dir.path());
        fail_once(&watched, move |op| name_of(op) == failing && is_manifest(op.path()));
        log.append(&payload(1)).unwrap();
        log.sync().unwrap();
        log.append(&payload(2)).unwrap();
        let (send, receive) = mpsc::channel();
        log.on_durable(2, move |result| send.send(result).unwrap());
        let followers = [log.follow(3).unwrap(), log.follow_durable(2).unwrap()];
        let followers =
            followers.map(|mut follower| thread::spawn(move || follower.next_timeout(Duration::from_secs(60))));
        // The keeper stores the mark, once the log is idle; nobody calls the log meanwhile.
        let told = receive.recv_timeout(Duration::from_secs(5));
        is_poisoned(told.expect("a callback that can only fail is called when that is known"));
        for follower in followers {
            is_poisoned(within_ten_seconds("a follower of a poisoned log", || follower.join().unwrap()));
        }
        check_poisoned(&log, &watched, dir.path(), 1);
    }
}

#[test]
fn a_file_that_cannot_be_prepared_does_not_poison() {
    for failing in ["Create", "Write", "SyncFile", "Rename", "SyncDir", "Map"] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), SyncPolicy::Immediate, 10);
        let watched = seam::watch(dir.path());
        let in_use = seam::segment_files(dir.path());
        watched.fail_when(move |op| {
            let is_new =
                op.path().starts_with(in_use[0].parent().unwrap()) && !in_use.iter().any(|path| path == op.path());
            (name_of(op) == failing && is_new).then_some(EIO)
        });
        let mut next = 11;
        let error = loop {
            match log.append(&payload(next)) {
                Ok(_) => next += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Io { .. }), "{failing}: {error}");
        assert!(matches!(log.append(&payload(next)), Err(Error::Io { .. })), "{failing}");
        assert_eq!((log.next_seq(), log.durable_seq()), (next, next - 1), "{failing}");
        watched.heal();
        for seq in next..next + 300 {
            assert_eq!(log.append(&payload(seq)).unwrap(), seq, "{failing}");
        }
        log.close().unwrap();
        let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
        assert_eq!((log.first_seq(), log.next_seq()), (1, next + 300));
    }
}
