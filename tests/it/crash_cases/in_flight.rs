//! Syncs that are in flight while a cut or a reset takes what they cover: they move nothing, and nobody is told a lie.
//!
//! A truncation syncs first. So that it finds a sync in flight that began later, it is held back between the two: by the lock of the
//! manifest, which a `validate` holds for as long as its read of the manifest is held.

use crate::shared::fast_dir;
use crate::support::format;
use crate::support::image::{Recorder, Recording};
use crate::support::logs::{assert_holds, fill, manual, payload, wait_until};
use crate::support::seam::{self, Gate};
use maplog::testing::Op;
use maplog::{Ack, Error, Log, Result};
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for a thread to come to where it waits, most of the time; no verdict depends on it.
const A_MOMENT: Duration = Duration::from_millis(50);

/// A log whose syncs of segment 1, and whose reads of the manifest, can be held.
struct Stage {
    _dir: TempDir,
    log_dir: PathBuf,
    image: PathBuf,
    recording: Recording,
    sync: Gate,
    manifest: Gate,
    log: Arc<Log>,
}

fn stage() -> Stage {
    let dir = fast_dir();
    let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
    fs::create_dir(&log_dir).unwrap();
    let (sync, manifest) = (Gate::default(), Gate::default());
    let (sync_gate, manifest_gate) = (sync.clone(), manifest.clone());
    let recording = Recorder::start_with(&log_dir, move |_, op| {
        match op {
            op if seam::is_sync_of(op, "wal-000001") => sync_gate.pass(),
            Op::Read { path, .. } if path.ends_with("wal.meta") => manifest_gate.pass(),
            _ => {}
        }
        Ok(())
    });
    let log = Arc::new(manual().open(&log_dir).unwrap());
    Stage { _dir: dir, log_dir, image, recording, sync, manifest, log }
}

impl Stage {
    fn in_thread<T: Send + 'static>(&self, call: impl FnOnce(&Log) -> T + Send + 'static) -> Receiver<T> {
        in_thread(&self.log, call)
    }

    /// Starts a truncation that comes to its end only once the manifest's gate is opened.
    fn start_truncate_after(&self, seq: u64) -> Receiver<Result<()>> {
        self.manifest.shut();
        let _validating = self.in_thread(|log| log.validate().unwrap().is_intact());
        self.manifest.wait_held();
        let cut = self.in_thread(move |log| log.truncate_after(seq));
        thread::sleep(A_MOMENT);
        cut
    }

    fn for_each_power_cut(&self, check: impl Fn(&Log)) {
        let cut = self.recording.cut();
        for seed in 0..20 {
            cut.write_seeded(seed, &self.image);
            check(&manual().open(&self.image).unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        }
    }
}

fn in_thread<T: Send + 'static>(log: &Arc<Log>, call: impl FnOnce(&Log) -> T + Send + 'static) -> Receiver<T> {
    let (log, (send, receive)) = (Arc::clone(log), channel());
    thread::spawn(move || drop(send.send(call(&log))));
    receive
}

fn is_truncated_to<T>(result: &Result<T>, seq: u64) -> bool {
    matches!(result, Err(Error::Truncated { first_seq }) if *first_seq == seq)
}

#[test]
fn case_04_a_sync_in_flight_makes_nothing_durable_that_was_appended_after_a_cut() {
    let stage = stage();
    let log = &stage.log;
    fill(log, 1, 1..51);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&stage.log_dir) == 50);
    wait_until("segment 2", || format::segment_path(&stage.log_dir, 2).exists());
    let cut = stage.start_truncate_after(50);
    fill(log, 1, 51..101);
    stage.sync.shut();
    let leader = stage.in_thread(|log| log.wait_durable(100));
    stage.sync.wait_held();
    let follower = stage.in_thread(|log| log.wait_durable(75));
    let synced = stage.in_thread(|log| log.sync());
    let (send, called) = channel();
    log.on_durable(60, move |result| drop(send.send(result)));
    thread::sleep(A_MOMENT);
    stage.manifest.open();
    cut.recv_timeout(PATIENCE).expect("a cut does not wait for the sync").unwrap();
    assert!(is_truncated_to(&called.recv_timeout(PATIENCE).unwrap(), 51));
    fill(log, 2, 51..101);
    assert_eq!(log.durable_seq(), 50);
    stage.sync.open();
    assert!(is_truncated_to(&leader.recv_timeout(PATIENCE).unwrap(), 51));
    assert!(is_truncated_to(&follower.recv_timeout(PATIENCE).unwrap(), 51));
    assert_eq!(synced.recv_timeout(PATIENCE).unwrap().unwrap(), 50, "of what it was to sync, this is left");
    assert_eq!(log.durable_seq(), 50, "the sync that returned covers what is gone");
    stage.for_each_power_cut(|log| assert_holds(log, &[(1, 1..51), (2, 51..log.next_seq())]));
    log.wait_durable(100).unwrap();
    assert_eq!(log.durable_seq(), 100);
    stage.for_each_power_cut(|log| assert_holds(log, &[(1, 1..51), (2, 51..101)]));
}

#[test]
fn case_04_a_sync_in_flight_makes_nothing_durable_that_was_appended_after_a_reset() {
    let stage = stage();
    let log = &stage.log;
    fill(log, 1, 1..101);
    stage.sync.shut();
    let leader = stage.in_thread(|log| log.wait_durable(100));
    stage.sync.wait_held();
    log.reset(1).unwrap();
    fill(log, 2, 1..51);
    assert_eq!(log.durable_seq(), 0);
    stage.sync.open();
    assert!(is_truncated_to(&leader.recv_timeout(PATIENCE).unwrap(), 1));
    assert_eq!(log.durable_seq(), 0);
    stage.for_each_power_cut(|log| assert_holds(log, &[(2, 1..log.next_seq())]));
    log.sync().unwrap();
    stage.for_each_power_cut(|log| assert_holds(log, &[(2, 1..51)]));
}

#[test]
fn case_30_a_sync_of_a_sealed_segment_by_the_keeper_makes_nothing_durable_that_was_appended_after_a_cut() {
    let stage = stage();
    let log = &stage.log;
    fill(log, 1, 1..51);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&stage.log_dir) == 50);
    wait_until("segment 2", || format::segment_path(&stage.log_dir, 2).exists());
    let cut = stage.start_truncate_after(50);
    stage.sync.shut();
    // 101 seals the segment, and the keeper begins to sync it.
    fill(log, 1, 51..102);
    stage.sync.wait_held();
    stage.manifest.open();
    cut.recv_timeout(PATIENCE).expect("a cut does not wait for the keeper").unwrap();
    assert_eq!((log.next_seq(), log.durable_seq()), (51, 50));
    // The keeper is held, and appends wait for the file that it makes.
    let appended = stage.in_thread(|log| fill(log, 2, 51..101));
    thread::sleep(A_MOMENT);
    stage.sync.open();
    appended.recv_timeout(PATIENCE).unwrap();
    thread::sleep(A_MOMENT);
    assert_eq!(log.durable_seq(), 50);
    assert_eq!(format::marked_seq(&stage.log_dir), 50);
    stage.for_each_power_cut(|log| assert_holds(log, &[(1, 1..51), (2, 51..log.next_seq())]));
    log.sync().unwrap();
    stage.for_each_power_cut(|log| assert_holds(log, &[(1, 1..51), (2, 51..101)]));
}

#[test]
fn case_31_who_waited_for_an_entry_that_was_cut_is_not_told_of_the_one_that_got_its_seq() {
    let stage = stage();
    let log = &stage.log;
    fill(log, 1, 1..51);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&stage.log_dir) == 50);
    let cut = stage.start_truncate_after(50);
    fill(log, 1, 51..100);
    stage.sync.shut();
    let leader = stage.in_thread(|log| log.wait_durable(99));
    stage.sync.wait_held();
    let waiting: Vec<_> = (0..8).map(|_| stage.in_thread(|log| log.wait_durable(99))).collect();
    let appending = stage.in_thread(|log| log.append_as(&payload(1, 100), Ack::Durable));
    wait_until("entry 100", || log.next_seq() == 101);
    thread::sleep(A_MOMENT);
    stage.manifest.open();
    cut.recv_timeout(PATIENCE).unwrap().unwrap();
    // As many again, and synced: the seqs are the same, the entries are others.
    let others: Vec<_> = (0..4).map(|_| stage.in_thread(|log| log.sync())).collect();
    fill(log, 2, 51..101);
    stage.sync.open();
    log.sync().unwrap();
    assert_eq!(log.durable_seq(), 100);
    for waiter in waiting.into_iter().chain([leader]) {
        assert!(is_truncated_to(&waiter.recv_timeout(PATIENCE).unwrap(), 51));
    }
    assert!(is_truncated_to(&appending.recv_timeout(PATIENCE).unwrap(), 51));
    assert!(others.into_iter().all(|sync| sync.recv_timeout(PATIENCE).unwrap().is_ok()));
    stage.for_each_power_cut(|log| assert_holds(log, &[(1, 1..51), (2, 51..101)]));
}

/// A log of which 1 to 5 are durable and 6 to 10 are not, while `cut` waits to write the manifest; and what the cut says.
fn cutting(
    gate: &Gate,
    fails: bool,
    cut: fn(&Log) -> Result<()>,
) -> (TempDir, Arc<Log>, Receiver<Result<()>>, maplog::testing::ObserverGuard) {
    let dir = fast_dir();
    let log = Arc::new(manual().open(dir.path()).unwrap());
    fill(&log, 1, 1..6);
    log.sync().unwrap();
    fill(&log, 1, 6..11);
    thread::sleep(A_MOMENT); // the keeper has stored its mark
    gate.shut();
    let held = gate.clone();
    let guard = seam::before(dir.path(), move |op| match op {
        Op::Write { path, .. } if path.ends_with("wal.meta") => {
            held.pass();
            if fails {
                Err(seam::eio())
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    });
    let receive = in_thread(&log, cut);
    gate.wait_held();
    (dir, log, receive, guard)
}

#[test]
fn nothing_counts_as_durable_by_a_reset_before_the_manifest_says_so() {
    for fails in [false, true] {
        let gate = Gate::default();
        let (_dir, log, reset, _guard) = cutting(&gate, fails, |log| log.reset(100));
        assert_eq!(log.durable_seq(), 5);
        let calls: [fn(&Log) -> Result<u64>; 2] = [|log| log.sync(), |log| log.wait_durable(8).map(|()| 8)];
        let answers = calls.map(|call| in_thread(&log, call));
        for answer in &answers {
            assert!(answer.recv_timeout(A_MOMENT).is_err(), "an answer before the reset is on the disk");
        }
        gate.open();
        assert_eq!(reset.recv_timeout(PATIENCE).unwrap().is_err(), fails);
        for (answer, durable) in answers.iter().zip([99, 8]) {
            match answer.recv_timeout(PATIENCE).unwrap() {
                Ok(seq) => assert_eq!((seq, fails), (durable, false)),
                Err(error) => assert!(fails && matches!(error, Error::Poisoned), "{error}"),
            }
        }
        assert_eq!(log.durable_seq(), if fails { 5 } else { 99 });
    }
}

#[test]
fn what_a_cut_takes_away_is_not_durable_from_its_begin_on() {
    for fails in [false, true] {
        let gate = Gate::default();
        let (_dir, log, cut, _guard) = cutting(&gate, fails, |log| log.truncate_after(3));
        assert_eq!(log.durable_seq(), 3);
        gate.open();
        assert_eq!(cut.recv_timeout(PATIENCE).unwrap().is_err(), fails);
        assert_eq!(log.durable_seq(), 3);
    }
}

#[test]
fn a_sync_from_before_a_cut_that_failed_is_no_success() {
    let (manifest, sync) = (Gate::default(), Gate::default());
    let dir = fast_dir();
    let log = Arc::new(manual().open(dir.path()).unwrap());
    fill(&log, 1, 1..6);
    thread::sleep(A_MOMENT);
    let (held_manifest, held_sync) = (manifest.clone(), sync.clone());
    let _guard = seam::before(dir.path(), move |op| match op {
        Op::Write { path, .. } if path.ends_with("wal.meta") => {
            held_manifest.pass();
            Err(seam::eio())
        }
        op if seam::is_sync_of(op, "wal-000001") => {
            held_sync.pass();
            Ok(())
        }
        _ => Ok(()),
    });
    manifest.shut();
    sync.shut();
    let synced = in_thread(&log, |log| log.sync());
    sync.wait_held();
    let reset = in_thread(&log, |log| log.reset(100));
    manifest.wait_held();
    sync.open();
    assert!(synced.recv_timeout(A_MOMENT).is_err(), "an answer before the reset is on the disk");
    manifest.open();
    assert!(matches!(reset.recv_timeout(PATIENCE).unwrap(), Err(Error::Io { .. })));
    assert!(matches!(synced.recv_timeout(PATIENCE).unwrap(), Err(Error::Poisoned)));
}
