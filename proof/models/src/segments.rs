//! Seal, rotate, recycle and unlink against readers: what somebody holds stays the same bytes, whatever becomes of the files.

use crate::entry;
use crate::scene::{any, below, locked, met, now, read_view, Scene, SEGMENT_SIZE};
use maplog::{Log, Options, PinnedEntry, SyncPolicy, View};
use shuttle::thread;
use std::sync::{Arc, Mutex};

pub(crate) fn run(scene: &Arc<Scene>) {
    let policy = any(&[SyncPolicy::Immediate, SyncPolicy::Manual, SyncPolicy::Manual]);
    let log = scene.open(Options::new().segment_size(SEGMENT_SIZE).sync_policy(policy));
    let held = Mutex::new(Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| append(scene, &log, 4 + below(4)));
        if below(2) == 0 {
            scope.spawn(|| append(scene, &log, 2 + below(3)));
        }
        scope.spawn(|| trim(&log));
        for _ in 0..1 + below(2) {
            scope.spawn(|| {
                let mut taken = read(&log);
                locked(&held).append(&mut taken);
            });
        }
    });
    let recycled = scene.disk.recycled();
    let mut held = held.into_inner().unwrap_or_default();
    // What was recycled is now written again.
    append(scene, &log, 6);
    check(&held);
    held.push(Held::take(&log));
    let first_seq = log.first_seq();
    log.close().expect("a close");
    drop(log);
    check(&held);
    if recycled > 0 {
        met("recycled");
    }
    if held.iter().any(|held| held.holds_below(first_seq)) {
        met("held what is gone");
    }
}

fn append(scene: &Scene, log: &Log, count: u64) {
    for _ in 0..count {
        let (id, bytes) = scene.entry(any(&[24, 1800, 3600, 3700]));
        let began = now();
        let seq = log.append(&bytes).expect("an append");
        scene.placed(id, seq, began);
    }
}

fn trim(log: &Log) {
    for _ in 0..3 + below(3) {
        match below(8) {
            0 => log.rotate().expect("a rotate"),
            1 => {
                let report = log.validate().expect("a validation");
                assert!(report.is_intact(), "an intact log is said to be damaged: {:?}", report.damage);
            }
            2 => drop(log.sync().expect("a sync")),
            3 => drop(log.segments()),
            _ => {
                let seq = log.next_seq().saturating_sub(below(3)).max(1);
                let bound = seq.max(log.first_seq());
                let first_seq = log.truncate_before(seq).expect("a truncation");
                assert!(first_seq <= bound, "truncated at {seq}, and it begins at {first_seq}");
                assert_eq!(log.first_seq(), first_seq, "after a truncation");
            }
        }
    }
}

fn read(log: &Log) -> Vec<Held> {
    let mut held = Vec::new();
    for _ in 0..2 + below(2) {
        held.push(Held::take(log));
        check(&held);
        if below(3) == 0 {
            held.swap_remove(below(held.len() as u64) as usize);
        }
    }
    held
}

/// What a reader keeps, and what it was when it was taken.
enum Held {
    View(View, Vec<(u64, u64)>),
    Pins(Vec<(PinnedEntry, u64)>),
}

impl Held {
    fn take(log: &Log) -> Held {
        let view = log.view();
        match below(3) {
            0 => {
                // One entry, from a view that is gone.
                let seq = view.first_seq() + below((view.next_seq() - view.first_seq()).max(1));
                Held::Pins(log.get(seq).expect("an intact entry, or none").into_iter().map(with_id).collect())
            }
            1 => Held::Pins(log.iter().map(|entry| with_id(entry.expect("an intact entry"))).collect()),
            _ => {
                // Some views are first looked at when their segments are gone.
                let found = if below(2) == 0 { read_view(&view) } else { Vec::new() };
                Held::View(view, found)
            }
        }
    }

    fn check(&self) {
        match self {
            Held::View(view, before) => {
                let found = read_view(view);
                assert!(before.is_empty() || *before == found, "a view changed from {before:?} to {found:?}");
            }
            Held::Pins(pins) => {
                for (pinned, id) in pins {
                    let now = entry::id_of(pinned.payload());
                    assert_eq!(now, Some(*id), "the bytes of the pinned entry {}", pinned.seq());
                }
            }
        }
    }

    fn holds_below(&self, first_seq: u64) -> bool {
        match self {
            Held::View(view, _) => view.first_seq() < first_seq,
            Held::Pins(pins) => pins.iter().any(|(pinned, _)| pinned.seq() < first_seq),
        }
    }
}

fn with_id(pinned: PinnedEntry) -> (PinnedEntry, u64) {
    let id = entry::id_of(pinned.payload()).expect("the bytes that were appended");
    (pinned, id)
}

fn check(held: &[Held]) {
    held.iter().for_each(Held::check);
}
