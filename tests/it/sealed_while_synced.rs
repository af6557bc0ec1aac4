//! A segment that is filled and sealed while a sync of its first part is under way: the rest has to be synced too before anything
//! past it is called durable.

use crate::shared::lock;
use maplog::testing::{observe, Observer, Op};
use maplog::{Log, Options, SyncPolicy};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Holds operations up, by the kind of file and operation.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    hold_marks: bool,
    hold_ranges: bool,
    held_marks: u32,
    held_ranges: u32,
    /// Syncs of the whole first segment that returned Ok.
    first_synced: u32,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let state = lock(&self.state);
        let limit = Duration::from_secs(30);
        let waited = self.changed.wait_timeout_while(state, limit, |state| !until(state)).unwrap();
        assert!(!waited.1.timed_out(), "nothing came to the gate, or it was never opened");
    }
}

impl Observer for Gate {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        match op {
            Op::Write { path, .. } if path.ends_with("metadata/wal.meta") => {
                self.change(|state| state.held_marks += u32::from(state.hold_marks));
                self.wait(|state| !state.hold_marks);
            }
            Op::SyncRange { .. } => {
                self.change(|state| state.held_ranges += u32::from(state.hold_ranges));
                self.wait(|state| !state.hold_ranges);
            }
            _ => {}
        }
        Ok(())
    }

    fn after(&self, op: &Op<'_>, succeeded: bool) {
        if matches!(op, Op::SyncFile { path } if path.ends_with("segments/wal-000001.log")) {
            self.change(|state| state.first_synced += u32::from(succeeded));
        }
    }
}

fn append_until(log: &Log, done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        log.append(&[7; 40]).unwrap();
    }
    panic!("10,000 appends were not enough");
}

#[test]
fn what_was_appended_during_a_sync_of_its_segment_is_synced_too() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let _guard = observe(dir.path(), Arc::clone(&gate) as Arc<dyn Observer>);
    let options = Options::new().segment_size(8192).sync_policy(SyncPolicy::Manual);
    let log = Arc::new(options.open(dir.path().join("log")).unwrap());
    let second: &Path = &dir.path().join("log/segments/wal-000002.log");

    // The next file is ready, and the keeper is kept busy with a mark: it will not sync the sealed segment by itself.
    for _ in 0..60 {
        log.append(&[7; 40]).unwrap();
    }
    while !second.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    gate.change(|state| state.hold_marks = true);
    log.sync().unwrap();
    gate.wait(|state| state.held_marks > 0);

    // A sync of a part of the first segment, which is sealed before it returns.
    log.append(&[7; 40]).unwrap();
    gate.change(|state| state.hold_ranges = true);
    let leader = std::thread::spawn({
        let log = Arc::clone(&log);
        move || log.sync().unwrap()
    });
    gate.wait(|state| state.held_ranges > 0);
    append_until(&log, || log.segments().len() == 2);
    gate.change(|state| state.hold_ranges = false);
    let led = leader.join().unwrap();
    assert!(led >= 61);

    let synced = log.sync().unwrap();
    let first_synced = lock(&gate.state).first_synced;
    gate.change(|state| state.hold_marks = false);
    log.close().unwrap();
    assert_eq!(synced, log.next_seq() - 1);
    assert_eq!(first_synced, 1, "durable up to {synced}, and the first segment was not synced");
}
