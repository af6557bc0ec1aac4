//! The write and read paths on one small log: what Miri runs, on the heap twin of the mappings.

use crate::segment::set::Slots;
use crate::{Error, Log, Options, PinnedEntry, SyncPolicy};
use std::time::{Duration, Instant};

fn options() -> Options {
    Options::new().segment_size(8 << 10).sync_policy(SyncPolicy::Manual)
}

fn payload(seq: u64) -> Vec<u8> {
    vec![seq as u8; (seq * 37 % 300) as usize]
}

fn check(log: &Log, first: u64, next: u64) {
    let view = log.view();
    let seqs = first..next;
    assert!(view.iter().map(|entry| entry.unwrap().seq()).eq(seqs.clone()));
    assert!(view.iter().rev().map(|entry| entry.unwrap().seq()).eq(seqs.rev()));
    for entry in view.iter() {
        let entry = entry.unwrap();
        assert_eq!(entry.payload(), payload(entry.seq()));
    }
}

#[test]
fn append_read_truncate_recycle_close_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    for seq in 1..=60 {
        match seq % 3 {
            0 => log.append(&payload(seq)).unwrap(),
            1 => log.append_with(payload(seq).len(), |place| place.copy_from_slice(&payload(seq))).unwrap(),
            _ => log.append_batch([payload(seq)]).unwrap().start,
        };
    }
    let pinned: Vec<PinnedEntry> = log.iter().map(|entry| entry.unwrap()).collect();
    check(&log, 1, 61);
    log.truncate_after(50).unwrap();
    let first = log.truncate_before(30).unwrap();
    for seq in 51..=90 {
        log.append(&payload(seq)).unwrap();
    }
    log.sync().unwrap();
    check(&log, first, 91);
    log.close().unwrap();
    for entry in &pinned {
        assert_eq!(entry.payload(), payload(entry.seq()));
    }
    let log = options().open(dir.path()).unwrap();
    assert!(log.recovery().clean);
    log.append(&payload(91)).unwrap();
    check(&log, first, 92);
    assert!(log.validate().unwrap().is_intact());
}

#[test]
fn threads_append_read_follow_and_cut() {
    const EACH: u64 = if cfg!(miri) { 6 } else { 20 };
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..EACH).for_each(|_| assert!(log.append(&[7; 100]).unwrap() > 0)));
        }
        scope.spawn(|| {
            let mut follower = log.follow(1).unwrap();
            for seq in 1..=2 * EACH {
                let entry = follower.next_timeout(Duration::from_secs(600)).unwrap().unwrap();
                assert_eq!((entry.seq(), entry.payload()), (seq, &[7; 100][..]));
            }
        });
        scope.spawn(|| {
            while log.next_seq() <= 2 * EACH {
                log.sync().unwrap();
                assert!(log.view().iter().all(|entry| entry.unwrap().payload() == [7; 100]));
            }
        });
    });
    log.truncate_after(EACH).unwrap();
    assert_eq!(log.view().iter().count() as u64, EACH);
}

#[test]
fn threads_wait_rotate_and_drop_what_is_old() {
    const EACH: u64 = 3;
    let dir = tempfile::tempdir().unwrap();
    let log = options().sync_policy(SyncPolicy::Immediate).open(dir.path()).unwrap();
    let is_intact = |entry: &PinnedEntry| entry.payload() == [7; 3000];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let seq = log.append(&[7; 3000]).unwrap();
                    assert!(log.durable_seq() >= seq);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..EACH {
                let pinned: Vec<PinnedEntry> = log.iter().map(|entry| entry.unwrap()).collect();
                log.truncate_before(log.next_seq()).unwrap();
                assert!(pinned.iter().all(is_intact));
            }
        });
        let mut follower = log.follow_durable(1).unwrap();
        scope.spawn(move || {
            while follower.next_seq() <= 2 * EACH {
                match follower.next_timeout(Duration::from_secs(600)) {
                    Ok(entry) => assert!(is_intact(&entry.unwrap())),
                    Err(error) => return assert!(matches!(error, Error::Truncated { .. })),
                }
            }
        });
    });
    assert_eq!((log.next_seq(), log.durable_seq()), (2 * EACH + 1, 2 * EACH));
    log.close().unwrap();
}

#[test]
fn a_follower_takes_nothing_that_is_being_cut_away() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    log.append(b"gone").unwrap();
    let appender = &log.inner.appender;
    std::thread::scope(|scope| {
        // A reset, as far as the group knows it and readers do not.
        let mut cursor = appender.cursor();
        cursor.epoch += 1;
        cursor.jump(1);
        drop(cursor.active.take());
        let mut callbacks = appender.group.cut(cursor.epoch, 0, 1, None);
        let followed = scope.spawn(|| log.follow(1).unwrap().next_timeout(Duration::ZERO).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        appender.show_cut(&cursor, Slots::new(Vec::new(), 1));
        drop(cursor);
        appender.group.end_cut(&mut callbacks, true);
        appender.group.settle_cut(callbacks);
        assert!(followed.join().unwrap().is_none(), "the entry that was cut");
    });
}

#[test]
fn a_wait_for_an_entry_ends_with_the_entry_with_a_cut_and_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    (1..=3).for_each(|seq| assert_eq!(log.append(&payload(seq)).unwrap(), seq));
    let appender = &log.inner.appender;
    let soon = || Instant::now() + Duration::from_millis(1);
    let published = |seq, epoch| appender.wait_published(seq, epoch, soon());
    let durable = |seq, epoch| appender.group.wait_durable_until(seq, epoch, soon());

    assert!(published(1, 0) && published(3, 0));
    assert!(!published(4, 0), "it is the next");
    assert!(!durable(1, 0));
    log.sync().unwrap();
    assert!(durable(1, 0) && durable(3, 0));
    assert!(!durable(4, 0));
    log.truncate_after(1).unwrap();
    assert!(published(3, 0) && durable(3, 0), "who does not know of the cut has to look");
    assert!(!published(2, 1) && !durable(2, 1));
    log.close().unwrap();
    assert!(published(2, 1) && durable(2, 1));
}

#[test]
fn an_append_that_has_room_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    let cursor = || log.inner.appender.cursor();
    assert!(!cursor().has_room(0) && !cursor().needs_attention(), "there is no segment");
    log.append(&[7; 1000]).unwrap();
    let room = (8 << 10) - 128 - 1032;
    assert!(cursor().has_room(room) && !cursor().has_room(room + 1));
    assert!(!cursor().needs_attention(), "nobody waits for an entry, and no file is wanted");
    cursor().watch();
    assert!(cursor().needs_attention());
}
