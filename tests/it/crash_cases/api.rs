//! Callers who do what nobody should: closures that panic or call back, items that change, clocks that jump.

use crate::shared::fast_dir;
use crate::support::child;
use crate::support::format;
use crate::support::logs::{assert_holds, fill, manual, payload};
use crate::support::seam::{self, Gate};
use maplog::testing::set_clock_ms;
use maplog::{Error, Log, SyncPolicy, Verify};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn case_19_smaller_entries_and_other_segment_sizes_keep_every_old_entry_valid() {
    let dir = fast_dir();
    let mut held = 0;
    let fits_all = manual().verify(Verify::All);
    for options in [
        fits_all.clone(),
        fits_all.clone().max_entry_size(48),
        fits_all.clone().segment_size(64 << 10).max_entry_size(48),
        fits_all.clone().segment_size(12 << 10),
        fits_all.clone(),
    ] {
        let log = options.clone().open(dir.path()).unwrap();
        assert_holds(&log, &[(1, 1..held + 1)]);
        fill(&log, 1, held + 1..held + 151);
        held += 150;
        assert!(log.validate().unwrap().is_intact());
        log.close().unwrap();
        let small = options.segment_size(8 << 10).max_entry_size(1).open(dir.path()).unwrap();
        assert!(matches!(small.append(&payload(1, held + 1)), Err(Error::EntryTooLarge { len: 48, max: 1 })));
        assert_holds(&small, &[(1, 1..held + 1)]);
    }
}

#[test]
fn case_22_a_closure_that_panics_appends_nothing_and_the_log_goes_on() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..4);
    for _ in 0..3 {
        let appended = catch_unwind(AssertUnwindSafe(|| {
            log.append_with(100, |place| {
                place.fill(0xff);
                panic!("the caller's own");
            })
        }));
        assert!(appended.is_err());
    }
    assert_eq!(log.next_seq(), 4);
    fill(&log, 1, 4..300);
    log.sync().unwrap();
    assert_holds(&log, &[(1, 1..300)]);
    drop(log);
    assert_holds(&manual().verify(Verify::All).open(dir.path()).unwrap(), &[(1, 1..300)]);
}

#[test]
fn case_22_a_closure_that_calls_the_log_panics_clearly() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..4);
    type Call = fn(&Log);
    let calls: [(&str, Call); 8] = [
        ("append", |log| drop(log.append(b"x"))),
        ("append_batch", |log| drop(log.append_batch(["x"]))),
        ("sync", |log| drop(log.sync())),
        ("wait_durable", |log| drop(log.wait_durable(1))),
        ("view", |log| drop(log.view())),
        ("truncate_after", |log| drop(log.truncate_after(1))),
        ("rotate", |log| drop(log.rotate())),
        ("close", |log| drop(log.close())),
    ];
    for (name, call) in calls {
        let appended = catch_unwind(AssertUnwindSafe(|| log.append_with(8, |_| call(&log))));
        let panic = appended.expect_err(name);
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap();
        assert!(text.contains("append_with"), "{name}: {text}");
    }
    fill(&log, 1, 4..6);
    assert_holds(&log, &[(1, 1..6)]);
}

#[test]
fn case_22_bytes_that_a_closure_leaves_unwritten_are_zeros() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    // Over garbage too: a recycled file holds what it held.
    for round in 0..10 {
        let first = log.next_seq();
        for seq in first..first + 150 {
            log.append(&[0xff; 48]).unwrap();
            assert_eq!(log.next_seq(), seq + 1);
        }
        let seq = log.append_with(1000, |place| place[500] = 7).unwrap();
        let entry = log.get(seq).unwrap().unwrap();
        let mut expected = [0; 1000];
        expected[500] = 7;
        assert_eq!(entry.payload(), expected, "round {round}");
        drop(entry);
        log.truncate_before(seq).unwrap();
    }
}

#[test]
fn case_22_nor_does_the_padding_of_any_length_keep_what_a_recycled_file_held() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    let mut recycled = 0;
    for _ in 0..10 {
        let first = log.next_seq();
        for _ in 0..150 {
            log.append(&[0xff; 48]).unwrap();
        }
        for len in 0..=17 {
            log.append(&vec![7; len]).unwrap();
        }
        for seq in first..log.next_seq() {
            let (segment, _) = format::find(dir.path(), seq); // a frame whose padding is not zero is none
            recycled += u32::from(segment.is_recycled);
        }
        log.truncate_before(log.next_seq()).unwrap();
    }
    assert!(recycled > 0, "no file was recycled");
}

/// Gives other bytes with each call, and counts the calls.
struct Fickle<'c>(&'c Cell<u32>);

impl AsRef<[u8]> for Fickle<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0.set(self.0.get() + 1);
        match self.0.get() {
            1 => b"first",
            2 => &[0xee; 4000],
            _ => &[],
        }
    }
}

#[test]
fn case_23_a_batch_asks_each_item_once() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    let calls: Vec<_> = (0..10).map(|_| Cell::new(0)).collect();
    let seqs = log.append_batch(calls.iter().map(Fickle)).unwrap();
    assert_eq!(seqs, 1..11);
    assert!(calls.iter().all(|calls| calls.get() == 1), "{calls:?}");
    fill(&log, 1, 11..12);
    for seq in seqs {
        assert_eq!(log.get(seq).unwrap().unwrap().payload(), b"first");
    }
    assert!(log.validate().unwrap().is_intact());
}

/// What a follower gets that waits in a thread of its own.
fn wait_in_thread(mut follower: maplog::Follower) -> Receiver<Option<u64>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let bound = match follower.next_timeout(PATIENCE) {
            Err(Error::Truncated { first_seq }) => Some(first_seq),
            _ => None,
        };
        let _ = send.send(bound);
    });
    // Long enough to be waiting, most of the time; what comes out does not depend on it.
    thread::sleep(Duration::from_millis(30));
    receive
}

#[test]
fn case_25_a_follower_at_100_gets_truncated_with_the_new_bound() {
    let dir = fast_dir();
    let gate = Gate::default();
    let held = gate.clone();
    let guard = seam::watch(dir.path(), move |op| {
        if seam::is_sync_of(op, "wal-000001") {
            held.pass();
        }
    });
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..100);
    let waiting = wait_in_thread(log.follow(100).unwrap());
    log.truncate_after(50).unwrap();
    assert_eq!(waiting.recv_timeout(PATIENCE), Ok(Some(51)));

    let fresh = dir.path().join("second");
    let log = manual().open(&fresh).unwrap();
    fill(&log, 1, 1..60);
    log.sync().unwrap();
    gate.shut();
    fill(&log, 1, 60..151);
    let waiting = wait_in_thread(log.follow_durable(100).unwrap());
    assert_eq!(log.truncate_before(150).unwrap(), 101);
    assert_eq!(waiting.recv_timeout(PATIENCE), Ok(Some(101)));
    gate.open();
    drop(guard);
}

#[test]
fn case_37_callbacks_may_append_and_panic_but_not_wait_and_may_drop_the_log() {
    let dir = fast_dir();
    let log = Arc::new(manual().open(dir.path()).unwrap());
    let (send, receive) = channel();
    let call = |what: &'static str, call: Box<dyn FnOnce(&Log) + Send>| {
        let (theirs, send) = (Arc::clone(&log), send.clone());
        let callback = move |result: maplog::Result<()>| {
            let outcome = catch_unwind(AssertUnwindSafe(|| call(&theirs)));
            drop(theirs);
            let _ = send.send((what, result.is_ok(), outcome.is_ok()));
            if outcome.is_err() {
                panic!("passed on");
            }
        };
        let seq = log.append(&payload(1, log.next_seq())).unwrap();
        log.on_durable(seq, callback);
        log.sync().unwrap();
        receive.recv_timeout(PATIENCE).unwrap()
    };
    let appends = call("append", Box::new(|log| assert!(log.append(&payload(1, log.next_seq())).is_ok())));
    assert_eq!(appends, ("append", true, true));
    assert_eq!(call("sync", Box::new(|log| drop(log.sync()))), ("sync", true, false));
    assert_eq!(call("wait", Box::new(|log| drop(log.wait_durable(1)))), ("wait", true, false));
    assert_eq!(call("panic", Box::new(|_| panic!("its own"))), ("panic", true, false));
    log.sync().unwrap();
    assert_holds(&log, &[(1, 1..log.next_seq())]);

    // The last handle goes with a callback, on the thread that synced: the log's own.
    drop(log);
    let dir = fast_dir();
    let gate = Gate::default();
    let held = gate.clone();
    let _guard = seam::watch(dir.path(), move |op| {
        if seam::is_sync_of(op, "wal-") {
            held.pass();
        }
    });
    let interval = SyncPolicy::Interval(Duration::from_millis(5));
    let log = manual().sync_policy(interval).open(dir.path()).unwrap();
    gate.shut();
    let slot = Arc::new(Mutex::new(None::<Log>));
    let theirs = Arc::clone(&slot);
    fill(&log, 1, 1..2);
    log.on_durable(1, move |_| {
        let last = theirs.lock().unwrap().take();
        drop(last);
        let _ = send.send(("drop", true, true));
    });
    *slot.lock().unwrap() = Some(log);
    gate.open();
    assert_eq!(receive.recv_timeout(PATIENCE).unwrap(), ("drop", true, true));
    assert_holds(&manual().open(dir.path()).unwrap(), &[(1, 1..2)]);
}

/// The clock belongs to the whole process, so this test moves it in a process of its own.
#[test]
fn case_40_timestamps_never_decrease_wherever_the_clock_jumps() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    const YEAR_9999_MS: u64 = 253_370_764_800_000;
    let Some(dir) = child::dir() else {
        let dir = fast_dir();
        child::run("crash_cases::api::case_40_timestamps_never_decrease_wherever_the_clock_jumps", dir.path());
        return;
    };
    let now = 1_800_000_000_000;
    let ms = |log: &Log, seq: u64| {
        let entry = log.get(seq).unwrap().unwrap();
        u64::try_from(entry.timestamp().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
    };
    let mut last = 0;
    let clocks = [now, now - DAY_MS, 0, now + 5, now + 3, YEAR_9999_MS, now, u64::MAX - 1, 1];
    for (round, clock) in clocks.into_iter().enumerate() {
        let log = manual().open(&dir).unwrap();
        set_clock_ms(Some(clock));
        let seq = log.append(b"x").unwrap();
        assert!(ms(&log, seq) >= last, "round {round}");
        assert!(clock > YEAR_9999_MS || ms(&log, seq) == last.max(clock), "round {round}: {}", ms(&log, seq));
        last = ms(&log, seq);
        if round % 2 == 0 {
            log.close().unwrap();
        }
    }
    let log = manual().open(&dir).unwrap();
    let all: Vec<_> = (1..log.next_seq()).map(|seq| ms(&log, seq)).collect();
    assert!(all.windows(2).all(|pair| pair[0] <= pair[1]), "{all:?}");
    set_clock_ms(None);
}
