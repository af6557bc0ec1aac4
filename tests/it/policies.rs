//! When what is durable: the sync policies, `append_as`, waits and callbacks with each of their ends, and where a
//! witness of it stands on disk. Also what a log tells about itself: stats, segments, the recovery report, validation.

use crate::seam;
use crate::support::logs::copy_dir;
use maplog::{Ack, DamageKind, Error, Follower, Log, Options, SegmentState, SyncPolicy};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

const POLICIES: [SyncPolicy; 4] = [
    SyncPolicy::Immediate,
    SyncPolicy::Batch { entries: 1000, bytes: 1 << 20 },
    SyncPolicy::Interval(Duration::from_millis(5)),
    SyncPolicy::Manual,
];

fn small(policy: SyncPolicy) -> Options {
    Options::new().segment_size(16 << 10).sync_policy(policy)
}

fn open(dir: &Path, policy: SyncPolicy) -> Arc<Log> {
    Arc::new(small(policy).open(dir).unwrap())
}

#[test]
fn append_as_overrides_every_policy() {
    for policy in POLICIES {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), policy);
        let slow = seam::watch(dir.path());
        if policy != SyncPolicy::Immediate {
            log.append(b"1").unwrap();
        } else {
            log.append_as(b"1", Ack::Buffered).unwrap();
        }
        let seq = log.append_as(b"2", Ack::Durable).unwrap();
        assert_eq!((seq, log.durable_seq()), (2, 2), "{policy:?}: with it, all before it");
        let syncs = slow.count("SyncRange");
        if !matches!(policy, SyncPolicy::Interval(_)) {
            (3..1003).for_each(|seq| assert_eq!(log.append_as(b"x", Ack::Buffered).unwrap(), seq));
            assert_eq!(slow.count("SyncRange"), syncs, "{policy:?}");
            assert!(log.durable_seq() < 1002, "the keeper syncs what is sealed, and no more");
        }
        assert_eq!(log.sync().unwrap(), log.next_seq() - 1);
    }
}

#[test]
fn batch_syncs_with_the_append_that_fills_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Batch { entries: 5, bytes: 100 });
    let durable = |payload: &[u8]| {
        log.append(payload).unwrap();
        log.durable_seq()
    };
    assert_eq!([durable(b"1"), durable(b"2"), durable(b"3"), durable(b"4")], [0; 4]);
    assert_eq!(durable(b"5"), 5, "five entries");
    assert_eq!([durable(&[0; 50]), durable(&[0; 49])], [5; 2]);
    assert_eq!(durable(b"8"), 8, "a hundred bytes");
    assert_eq!(durable(&[0; 100]), 9, "at once");
    // Whoever syncs in between begins both bounds again.
    assert_eq!([durable(b"10"), durable(b"11"), durable(b"12"), durable(b"13")], [9; 4]);
    log.sync().unwrap();
    assert_eq!([durable(b"14"), durable(b"15"), durable(b"16"), durable(b"17")], [13; 4]);
    assert_eq!(log.append_batch(["18", "19"]).unwrap(), 18..20);
    assert_eq!(log.durable_seq(), 19, "the batch filled it, and is durable as a whole");
    log.append(b"20").unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(log.durable_seq(), 19, "a rest below both bounds is synced by nobody");
    log.wait_durable(20).unwrap();
    assert_eq!(log.durable_seq(), 20);
}

#[test]
fn interval_syncs_by_itself_and_only_when_there_is_something_new() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Interval(Duration::from_millis(3)));
    for seq in 1..=5 {
        log.append(b"x").unwrap();
        seam::wait_until("the interval's sync", || log.durable_seq() == seq);
    }
    let watched = seam::watch(dir.path());
    let syncs = log.stats().syncs;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((log.stats().syncs, watched.count("SyncRange")), (syncs, 0));
}

#[test]
fn waits_end_as_the_contract_says() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    let out_of_range = |seq, next| match log.wait_durable(seq) {
        Err(Error::SeqOutOfRange { seq: named, first_seq: 1, next_seq }) => assert_eq!((named, next_seq), (seq, next)),
        other => panic!("{other:?}"),
    };
    out_of_range(1, 1);
    out_of_range(u64::MAX, 1);
    (1..=500).for_each(|_| drop(log.append(&[7; 100])));
    out_of_range(501, 501);
    log.wait_durable(500).unwrap();
    assert_eq!(log.durable_seq(), 500);
    // What was dropped counts as durable.
    log.append(b"501").unwrap();
    log.truncate_before(300).unwrap();
    log.wait_durable(1).unwrap();
    log.close().unwrap();
    assert!(matches!(log.wait_durable(501), Err(Error::Closed)));
    assert!(matches!(log.append_batch(Vec::<&str>::new()), Err(Error::Closed)));
    assert!(matches!(log.get(400), Err(Error::Closed)) && matches!(log.follow(400), Err(Error::Closed)));
    assert!(matches!(log.view().iter().next(), Some(Err(Error::Closed))) && log.validate().is_err());
    assert!(matches!(log.truncate_before(400), Err(Error::Closed)) && matches!(log.reset(1), Err(Error::Closed)));
    assert!(matches!(log.truncate_after(400), Err(Error::Closed)) && matches!(log.rotate(), Err(Error::Closed)));
}

#[test]
fn a_follower_says_when_nothing_came_in_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    log.append(b"1").unwrap();
    let next = |follower: &mut Follower| {
        let entry = follower.next_timeout(Duration::from_millis(1)).unwrap();
        entry.map(|entry| entry.seq())
    };
    let (mut published, mut durable) = (log.follow(1).unwrap(), log.follow_durable(1).unwrap());
    assert_eq!((next(&mut published), next(&mut durable)), (Some(1), None));
    assert_eq!((next(&mut published), next(&mut durable)), (None, None));
    log.sync().unwrap();
    assert_eq!((next(&mut published), next(&mut durable)), (None, Some(1)));
    assert_eq!((next(&mut published), next(&mut durable)), (None, None));
}

#[test]
fn the_next_file_is_made_once_half_of_the_active_one_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    let files = || seam::segment_files(dir.path()).len();
    while log.segments().iter().map(|segment| segment.bytes_used).sum::<u64>() < (8 << 10) - 200 {
        log.append(&[7; 100]).unwrap();
    }
    let last = log.sync().unwrap();
    seam::wait_until("the mark of an idle log", || mark(dir.path()).0 == last);
    assert_eq!(files(), 1);
    log.append(&[7; 200]).unwrap();
    seam::wait_until("the next file", || files() == 2);
}

/// Registers callbacks for `seqs` that say what they were called with, in the order of the calls.
fn told(log: &Log, seqs: &[u64]) -> Receiver<(u64, String)> {
    let (send, receive) = mpsc::channel();
    for &seq in seqs {
        let send = send.clone();
        log.on_durable(seq, move |result| {
            let result = match result {
                Ok(()) => "Ok".to_owned(),
                Err(Error::Truncated { first_seq }) => format!("Truncated at {first_seq}"),
                Err(error) => format!("{error:?}"),
            };
            send.send((seq, result)).unwrap();
        });
    }
    receive
}

/// What was told so far, as (seq, result).
fn so_far(receive: &Receiver<(u64, String)>) -> Vec<(u64, String)> {
    receive.try_iter().collect()
}

fn all(seqs: impl IntoIterator<Item = u64>, result: &str) -> Vec<(u64, String)> {
    seqs.into_iter().map(|seq| (seq, result.to_owned())).collect()
}

#[test]
fn callbacks_are_called_once_in_the_order_of_seqs() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    (1..=10).for_each(|_| drop(log.append(b"x")));
    let calls = told(&log, &[7, 3, 10, 3, 1]);
    assert!(so_far(&calls).is_empty(), "it makes nobody sync");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((so_far(&calls), log.durable_seq()), (Vec::new(), 0));
    log.wait_durable(4).unwrap();
    assert_eq!(so_far(&calls), all([1, 3, 3, 7, 10], "Ok"), "the sync covered all");
    assert_eq!(so_far(&told(&log, &[2, 10])), all([2, 10], "Ok"), "at once");
    let refused = so_far(&told(&log, &[11]));
    assert_eq!(refused, all([11], "SeqOutOfRange { seq: 11, first_seq: 1, next_seq: 11 }"));

    (11..=20).for_each(|_| drop(log.append(b"x")));
    let calls = told(&log, &[12, 15, 16, 20]);
    log.truncate_after(15).unwrap();
    let mut result = so_far(&calls);
    result.sort();
    // What stays is synced before the cut takes effect, and that sync covers the rest as well.
    assert_eq!(result, all([12, 15, 16, 20], "Ok"));
    (16..=20).for_each(|_| drop(log.append(b"x")));
    let calls = told(&log, &[17, 20]);
    log.reset(100).unwrap();
    assert_eq!(so_far(&calls), all([17, 20], "Truncated at 100"));
    (100..=110).for_each(|_| drop(log.append(b"x")));
    let calls = told(&log, &[105, 110]);
    log.close().unwrap();
    assert_eq!(so_far(&calls), all([105, 110], "Ok"), "close makes all durable");
    drop(log);
    assert!(calls.recv().is_err(), "called once, and gone");
}

#[test]
fn a_callback_may_panic_and_append_but_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    log.append(b"1").unwrap();
    log.on_durable(1, |_| panic!("a panic of the caller's own"));
    let (send, receive) = mpsc::channel();
    let inside = Arc::clone(&log);
    log.on_durable(1, move |result| {
        result.unwrap();
        assert_eq!(inside.append(b"from inside").unwrap(), 2);
        assert_eq!(inside.get(2).unwrap().unwrap().payload(), b"from inside");
        inside.on_durable(2, |_| {});
        type Call = fn(&Log);
        let waits: [(&str, Call); 8] = [
            ("sync", |log| drop(log.sync())),
            ("wait_durable", |log| drop(log.wait_durable(1))),
            ("append_as", |log| drop(log.append_as(b"x", Ack::Durable))),
            ("truncate_before", |log| drop(log.truncate_before(1))),
            ("truncate_after", |log| drop(log.truncate_after(1))),
            ("reset", |log| drop(log.reset(1))),
            ("rotate", |log| drop(log.rotate())),
            ("close", |log| drop(log.close())),
        ];
        for (name, call) in waits {
            let panic = catch_unwind(AssertUnwindSafe(|| call(&inside))).expect_err(name);
            send.send((name, panic.downcast_ref::<&str>().map(|text| text.to_string()))).unwrap();
        }
    });
    log.sync().unwrap();
    let panics: Vec<_> = receive.iter().collect();
    assert_eq!(panics.len(), 8);
    for (name, text) in panics {
        assert_eq!(
            text.as_deref(),
            Some("an on_durable callback may not wait on its log: hand the work to another thread"),
            "{name}"
        );
    }
    assert_eq!(log.sync().unwrap(), 2, "the log goes on");
}

#[test]
fn a_fill_that_panics_or_calls_the_log_appends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    log.append(b"1").unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| log.append_with(10, |_| panic!("of the caller's own")))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the caller's own"));
    type Call = fn(&Log);
    let calls: [Call; 6] = [
        |log| drop(log.append(b"x")),
        |log| drop(log.sync()),
        |log| drop(log.view()),
        |log| drop(log.get(1)),
        |log| drop(log.segments()),
        |log| drop(log.append_with(1, |_| {})),
    ];
    for call in calls {
        let panic = catch_unwind(AssertUnwindSafe(|| log.append_with(10, |_| call(&log)))).unwrap_err();
        let text = panic.downcast_ref::<&str>().copied();
        assert_eq!(text, Some("append_with's fill called the log that it is filling an entry of"));
    }
    assert_eq!(log.next_seq(), 2);
    log.append_with(10, |place| place[..2].fill(1)).unwrap();
    assert_eq!(log.get(2).unwrap().unwrap().payload(), [1, 1, 0, 0, 0, 0, 0, 0, 0, 0], "the rest is zeros");
    assert!(log.validate().unwrap().is_intact());
}

#[test]
fn stats_and_segments_tell_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    assert!(log.segments().is_empty() || log.segments()[0].first_seq == log.segments()[0].next_seq);
    (1..=200).for_each(|_| drop(log.append(&[7; 100])));
    log.append_batch([[7; 100]; 10]).unwrap();
    let stats = log.stats();
    assert_eq!((stats.entries_appended, stats.bytes_appended), (210, 21_000));
    let segments = log.segments();
    assert_eq!(stats.rotations, segments.len() as u64, "each was made active once");
    let mut seq = 1;
    for (index, info) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        assert_eq!(info.state, if last { SegmentState::Active } else { SegmentState::Sealed });
        assert_eq!((info.id, info.first_seq), (index as u64 + 1, seq));
        assert!(info.path.ends_with(format!("segments/wal-{:06}.log", info.id)) && info.path.is_file());
        // 128 bytes of identity and link, and 136 of each frame: 32 of header, 100 of payload, 4 of padding.
        assert_eq!(info.bytes_used, 128 + 136 * (info.next_seq - info.first_seq));
        assert_eq!((info.bytes_allocated, info.path.metadata().unwrap().len()), (16 << 10, 16 << 10));
        assert!(!info.pinned);
        seq = info.next_seq;
    }
    assert_eq!(seq, 211);
    let pinned = log.get(150).unwrap().unwrap();
    let is_pinned = |log: &Log| log.segments().iter().map(|info| info.pinned).collect::<Vec<_>>();
    let holds = segments.iter().map(|info| (info.first_seq..info.next_seq).contains(&150)).collect::<Vec<_>>();
    assert_eq!(is_pinned(&log), holds);
    let view = log.view();
    assert!(is_pinned(&log).into_iter().all(|pinned| pinned), "a view pins all that it covers");
    drop((pinned, view));
    assert!(!is_pinned(&log).contains(&true));
    let before = log.stats().syncs;
    log.sync().unwrap();
    assert!(log.stats().syncs > before);
    log.rotate().unwrap();
    assert!(log.segments().iter().all(|info| info.state == SegmentState::Sealed), "the next append makes one active");
    log.rotate().unwrap();
    assert_eq!(log.segments().len(), segments.len(), "nothing to seal");
}

#[test]
fn the_recovery_report_says_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"), SyncPolicy::Manual);
    (1..=40).for_each(|_| drop(log.append(&[7; 100])));
    log.sync().unwrap();
    seam::wait_until("the mark is stored", || mark(&dir.path().join("log")).0 == 40);
    (41..=50).for_each(|_| drop(log.append(&[7; 100])));
    let killed = dir.path().join("killed");
    copy_dir(&dir.path().join("log"), &killed);
    // Half of the last frame is lost.
    let file = killed.join("segments/wal-000001.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[128 + 49 * 136 + 60..].fill(0);
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(killed.join("notes.txt"), "").unwrap();
    let recovered = open(&killed, SyncPolicy::Manual);
    let report = recovered.recovery();
    assert!(report.duration > Duration::ZERO && report.losses.is_empty());
    let text = report.to_string().replace(&format!("{:?}", report.duration), "TIME");
    insta::assert_snapshot!(text.replace(dir.path().to_str().unwrap(), "DIR"), @r"
    recovered after a crash: 1 segments, last seq 49, proven up to seq 40
    scanned 9 entries, 1224 bytes; torn tail of 136 bytes dropped; took TIME
    note: DIR/killed/notes.txt is not a file of the log, and was left alone
    ");
    assert_eq!((recovered.next_seq(), recovered.durable_seq()), (50, 49));
    log.close().unwrap();
    let log = open(&dir.path().join("log"), SyncPolicy::Manual);
    let report = log.recovery();
    assert_eq!((report.clean, report.entries_scanned, report.bytes_scanned, report.torn_bytes), (true, 0, 0, 0));
    assert_eq!((report.segments, report.proven_seq, report.last_seq), (1, 50, 50));
}

#[test]
fn validation_lists_all_damage_and_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Manual);
    (1..=200).for_each(|_| drop(log.append(&[7; 100])));
    log.sync().unwrap();
    let report = log.validate().unwrap();
    assert!(report.is_intact() && report.notes.is_empty());
    assert_eq!((report.segments, report.entries, report.bytes), (2, 200, 200 * 136));
    // A payload, a header, a padding and an identity: of entries 3, 10 and 50, and of the second file.
    let files = seam::segment_files(dir.path());
    let flips = [(0, 128 + 2 * 136 + 40), (0, 128 + 9 * 136 + 8), (0, 128 + 49 * 136 + 133), (1, 20)];
    for (file, at) in flips {
        let mut bytes = std::fs::read(&files[file]).unwrap();
        bytes[at] ^= 1;
        use std::os::unix::fs::FileExt;
        let opened = std::fs::File::options().write(true).open(&files[file]).unwrap();
        opened.write_at(&bytes[at..=at], at as u64).unwrap();
    }
    let report = log.validate().unwrap();
    let found: Vec<_> = report.damage.iter().map(|damage| (damage.path.clone(), damage.seqs.clone())).collect();
    let path = |index: usize| files[index].clone();
    assert_eq!(found, [(path(0), 3..4), (path(0), 10..11), (path(0), 50..51), (path(1), 0..0)]);
    for (damage, (_, at)) in report.damage.iter().zip(flips) {
        assert!(damage.bytes.contains(&(at as u64)), "{damage}");
    }
    assert!(
        matches!(report.damage[0].kind, DamageKind::Payload { .. }) && report.damage[2].kind == DamageKind::Padding
    );
    assert!(!report.is_intact());
    drop(log);
    assert!(matches!(small(SyncPolicy::Manual).open(dir.path()), Err(Error::Damaged { .. } | Error::NotALog { .. })));
}

/// The newest mark in the manifest as it is on disk, and whether it says that the log was closed.
fn mark(dir: &Path) -> (u64, bool) {
    let bytes = std::fs::read(dir.join("metadata/wal.meta")).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let slot = [0, 4096].into_iter().max_by_key(|slot| number(slot + 32)).unwrap();
    (if number(slot + 96) == 0 { 0 } else { number(slot + 88) }, bytes[slot + 12] & 1 == 1)
}

#[test]
fn a_witness_is_on_disk_after_a_moment_and_at_close() {
    for policy in POLICIES {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), policy);
        let mut waits = Vec::new();
        for _ in 0..20 {
            let seq = log.append_as(b"x", Ack::Durable).unwrap();
            let started = Instant::now();
            seam::wait_until("the mark of what is durable", || mark(dir.path()).0 == seq);
            waits.push(started.elapsed());
        }
        // 5 ms idle, on a machine that may be busy now and then.
        waits.sort();
        assert!(waits[waits.len() / 2] < Duration::from_millis(100), "{policy:?}: {waits:?}");
        let last = log.append_as(b"x", Ack::Buffered).unwrap();
        assert!(
            mark(dir.path()).0 < last || matches!(policy, SyncPolicy::Interval(_)),
            "a mark is never ahead of the sync"
        );
        log.close().unwrap();
        assert_eq!(mark(dir.path()), (last, true), "{policy:?}");
        let log = open(dir.path(), policy);
        assert_eq!(mark(dir.path()), (last, false), "an open log is not clean");
        drop(log);
    }
}

#[test]
fn a_segment_without_an_entry_is_never_marked() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"), SyncPolicy::Manual);
    let panicked = || catch_unwind(AssertUnwindSafe(|| log.append_with(1000, |_| panic!("in fill"))));
    // The first segment of the log, and one after another.
    assert!(panicked().is_err());
    log.sync().unwrap();
    assert_eq!(mark(&dir.path().join("log")), (0, false));
    while log.segments().last().unwrap().bytes_used < (16 << 10) - 1000 {
        log.append(&[7; 100]).unwrap();
    }
    assert!(panicked().is_err());
    assert_eq!(log.segments().len(), 2);
    let last = log.sync().unwrap();
    assert_eq!(last, log.next_seq() - 1);
    seam::wait_until("the mark", || mark(&dir.path().join("log")).0 == last);
    copy_dir(&dir.path().join("log"), &dir.path().join("killed"));
    for name in ["killed", "log"] {
        log.close().unwrap();
        let log = open(&dir.path().join(name), SyncPolicy::Manual);
        assert_eq!((log.next_seq(), log.recovery().proven_seq), (last + 1, last), "{name}");
        assert_eq!(log.append(b"next").unwrap(), last + 1);
    }
}

#[test]
fn the_append_after_a_sync_carries_the_witness() {
    for policy in POLICIES {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), policy);
        for round in 0..10u64 {
            let durable = log.append_as(b"x", Ack::Durable).unwrap();
            let at = log.segments().pop().unwrap().bytes_used as usize;
            let seq = log.append_as(b"x", Ack::Buffered).unwrap();
            let frame = std::fs::read(&seam::segment_files(dir.path())[0]).unwrap().split_off(at);
            assert_eq!(u64::from_le_bytes(frame[8..16].try_into().unwrap()), seq);
            let distance = u32::from_le_bytes(frame[16..20].try_into().unwrap());
            assert_eq!(seq - u64::from(distance), durable, "{policy:?}, round {round}");
        }
    }
}
