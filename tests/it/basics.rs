//! What every user does: append, sync, read, truncate, close, open again.

use crate::shared::fast_dir;
use crate::support::logs::copy_dir;
use maplog::{Ack, Compression, Error, Log, Options, SegmentState, SyncPolicy};
use std::borrow::Cow;
use std::time::Duration;

fn manual() -> Options {
    Options::new().segment_size(16 << 10).sync_policy(SyncPolicy::Manual)
}

fn payload(seq: u64) -> Vec<u8> {
    format!("entry {seq} ").into_bytes().repeat((seq % 7 + 1) as usize)
}

fn fill(log: &Log, seqs: std::ops::Range<u64>) {
    for seq in seqs {
        assert_eq!(log.append(&payload(seq)).unwrap(), seq);
    }
}

fn check(log: &Log, seqs: std::ops::Range<u64>) {
    let view = log.view();
    assert_eq!((view.first_seq(), view.next_seq()), (seqs.start, seqs.end));
    let forward: Vec<_> = view.iter().map(|entry| entry.unwrap()).collect();
    assert_eq!(forward.len() as u64, seqs.end - seqs.start);
    for (entry, seq) in forward.iter().zip(seqs.clone()) {
        assert_eq!((entry.seq(), entry.payload()), (seq, &payload(seq)[..]));
    }
    let backward: Vec<_> = view.iter().rev().map(|entry| entry.unwrap().seq()).collect();
    assert_eq!(backward, seqs.clone().rev().collect::<Vec<_>>());
    for seq in seqs {
        assert_eq!(view.get(seq).unwrap().unwrap().payload(), payload(seq));
    }
}

#[test]
fn entries_come_back_in_order_across_rotation_close_and_open() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1..1001);
    check(&log, 1..1001);
    assert!(log.segments().len() > 3);
    log.close().unwrap();
    let log = manual().open(dir.path()).unwrap();
    assert!(log.recovery().clean, "{}", log.recovery());
    assert_eq!(log.recovery().entries_scanned, 0);
    check(&log, 1..1001);
    fill(&log, 1001..2001);
    check(&log, 1..2001);
    assert!(log.validate().unwrap().is_intact());
}

#[test]
fn the_default_acks_what_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let log = Options::new().segment_size(64 << 10).open(dir.path()).unwrap();
    let seq = log.append(b"x").unwrap();
    assert_eq!(log.durable_seq(), seq);
    let seqs = log.append_batch(["a", "b", "c"]).unwrap();
    assert_eq!((seqs.clone(), log.durable_seq()), (2..5, 4));
    let seq = log.append_as(b"later", Ack::Buffered).unwrap();
    assert_eq!(log.durable_seq(), seq - 1);
    log.wait_durable(seq).unwrap();
    assert_eq!(log.durable_seq(), seq);
    assert!(matches!(log.wait_durable(seq + 1), Err(Error::SeqOutOfRange { .. })));
}

#[test]
fn policies_sync_when_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let batch = SyncPolicy::Batch { entries: 3, bytes: 1000 };
    let log = manual().sync_policy(batch).open(dir.path().join("batch")).unwrap();
    log.append(b"1").unwrap();
    log.append(b"2").unwrap();
    assert_eq!(log.durable_seq(), 0);
    log.append(b"3").unwrap();
    assert_eq!(log.durable_seq(), 3);
    log.append(&[0; 1000]).unwrap();
    assert_eq!(log.durable_seq(), 4);

    let interval = SyncPolicy::Interval(Duration::from_millis(5));
    let log = manual().sync_policy(interval).open(dir.path().join("interval")).unwrap();
    log.append(b"1").unwrap();
    let mut follower = log.follow_durable(1).unwrap();
    assert_eq!(follower.next_timeout(Duration::from_secs(10)).unwrap().unwrap().seq(), 1);

    let log = manual().open(dir.path().join("manual")).unwrap();
    log.append(b"1").unwrap();
    assert_eq!(log.durable_seq(), 0);
    assert_eq!(log.sync().unwrap(), 1);
}

#[test]
fn truncations_take_what_they_say_and_last() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1..1001);
    let first = log.truncate_before(500).unwrap();
    assert!(first > 1 && first <= 500);
    check(&log, first..1001);
    log.truncate_after(700).unwrap();
    check(&log, first..701);
    assert_eq!(log.durable_seq(), 700);
    fill(&log, 701..900);
    check(&log, first..900);
    log.close().unwrap();
    let log = manual().open(dir.path()).unwrap();
    check(&log, first..900);
    log.truncate_after(first - 1).unwrap();
    check(&log, first..first);
    fill(&log, first..first + 10);
    log.reset(5000).unwrap();
    check(&log, 5000..5000);
    fill(&log, 5000..5010);
    log.rotate().unwrap();
    assert_eq!(log.segments().last().unwrap().state, SegmentState::Sealed);
    fill(&log, 5010..5020);
    drop(log);
    let log = manual().open(dir.path()).unwrap();
    check(&log, 5000..5020);
}

#[test]
fn a_copy_of_the_files_at_any_moment_opens_with_all_that_was_appended() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual().open(dir.path().join("log")).unwrap();
    for round in 0..10 {
        fill(&log, round * 100 + 1..round * 100 + 101);
        let copy = dir.path().join(format!("copy{round}"));
        copy_dir(&dir.path().join("log"), &copy);
        let copied = manual().open(&copy).unwrap();
        assert!(!copied.recovery().clean);
        check(&copied, 1..round * 100 + 101);
        fill(&copied, round * 100 + 101..round * 100 + 201);
        check(&copied, 1..round * 100 + 201);
    }
}

#[test]
fn compressed_entries_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = manual().compression(Compression::Lz4 { min_size: 64 });
    let log = options.clone().open(dir.path()).unwrap();
    let text = b"again and again ".repeat(100);
    log.append(&text).unwrap();
    log.append(b"short").unwrap();
    assert!(log.stats().bytes_appended < 200);
    drop(log);
    let log = options.open(dir.path()).unwrap();
    assert_eq!(log.get(1).unwrap().unwrap().payload(), text);
    assert_eq!(log.get(2).unwrap().unwrap().payload(), b"short");
    assert!(log.get(3).unwrap().is_none());
}

#[test]
fn entries_below_the_size_to_compress_are_stored_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual().compression(Compression::Lz4 { min_size: 64 }).open(dir.path()).unwrap();
    log.append(&[7; 63]).unwrap();
    assert_eq!(log.stats().bytes_appended, 63);
    log.append(&[7; 64]).unwrap();
    assert!(log.stats().bytes_appended < 63 + 64);
    log.append_batch([&[7; 63]]).unwrap();
    let view = log.view();
    let is_borrowed = |seq| matches!(view.get(seq).unwrap().unwrap().into_payload(), Cow::Borrowed(_));
    assert_eq!([1, 2, 3].map(is_borrowed), [true, false, true]);
}

#[test]
fn the_room_that_a_crash_leaves_unused_is_given_back_and_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = manual().open(dir.path().join("log")).unwrap();
    fill(&log, 1..11);
    copy_dir(&dir.path().join("log"), &dir.path().join("copy"));
    let copied = manual().open(dir.path().join("copy")).unwrap();
    let segments = copied.segments();
    assert_eq!(segments[0].bytes_allocated, 4096);
    assert_eq!(segments[0].path.metadata().unwrap().len(), 4096);
    check(&copied, 1..11);
}

#[test]
fn a_reopened_log_says_how_much_disk_its_last_segment_takes() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(1 << 20).sync_policy(SyncPolicy::Manual);
    let log = options.clone().open(dir.path()).unwrap();
    fill(&log, 1..11);
    log.close().unwrap();
    let log = options.open(dir.path()).unwrap();
    let segment = log.segments().remove(0);
    assert_eq!(segment.bytes_allocated, segment.path.metadata().unwrap().len());
    assert!(segment.bytes_used < 4096 && segment.bytes_allocated > 4096, "{segment:?}");
}

#[test]
fn segments_of_an_earlier_run_read_the_same_in_every_way() {
    // Several chunks of 256 KiB to a segment, and frames across their borders: each chunk is brought in when somebody comes to it.
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(1 << 20).sync_policy(SyncPolicy::Manual);
    let payload = |seq: u64| vec![seq as u8; (seq * 7919 % 3001) as usize];
    const LAST: u64 = 2000;
    let log = options.clone().open(dir.path()).unwrap();
    (1..=LAST).for_each(|seq| assert_eq!(log.append(&payload(seq)).unwrap(), seq));
    let check = |log: &Log| {
        let view = log.view();
        let is = |entry: maplog::Result<maplog::Entry<'_>>, seq| {
            let entry = entry.unwrap();
            assert!(entry.seq() == seq && entry.payload() == payload(seq), "seq {seq}");
        };
        for seq in (1..=LAST).map(|n| n * 1237 % LAST + 1) {
            is(Ok(view.get(seq).unwrap().unwrap()), seq);
        }
        let mut ends = view.iter();
        for seq in 1..=LAST / 2 {
            is(ends.next().unwrap(), seq);
            is(ends.next_back().unwrap(), LAST + 1 - seq);
        }
        assert!(ends.next().is_none() && ends.next_back().is_none());
        (1..=LAST).zip(view.iter()).for_each(|(seq, entry)| is(entry, seq));
        (1..=LAST).rev().zip(view.iter().rev()).for_each(|(seq, entry)| is(entry, seq));
        let mut some = view.iter();
        some.by_ref().take(100).for_each(drop);
        assert_eq!(some.size_hint(), (1, Some(1900)));
    };
    check(&log);
    log.close().unwrap();
    check(&options.clone().open(dir.path()).unwrap());
}

#[test]
fn a_log_that_is_closed_keeps_no_empty_file() {
    let dir = fast_dir();
    let segments = || std::fs::read_dir(dir.path().join("segments")).unwrap().count();
    let log = manual().open(dir.path()).unwrap();
    let filled = std::panic::AssertUnwindSafe(|| log.append_with(10, |_| panic!("nothing to fill in")));
    assert!(std::panic::catch_unwind(filled).is_err());
    assert!(segments() > 0, "one was made for it");
    log.close().unwrap();
    assert_eq!(segments(), 0);

    let log = manual().open(dir.path()).unwrap();
    log.append(b"an entry").unwrap();
    log.close().unwrap();
    assert_eq!(segments(), 1);
}

#[test]
fn user_code_of_one_log_may_call_another() {
    let (one_dir, other_dir) = (fast_dir(), fast_dir());
    let (one, other) = (manual().open(one_dir.path()).unwrap(), manual().open(other_dir.path()).unwrap());
    for (outer, inner) in [(&one, &other), (&other, &one)] {
        outer.append_with(1, |place| place[0] = inner.append(b"an entry").unwrap() as u8).unwrap();
        inner.sync().unwrap();
    }
    assert_eq!((one.next_seq(), other.next_seq()), (3, 3));
}
