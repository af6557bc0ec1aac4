//! Publication: whatever a reader sees is a prefix without a hole, each entry with all of its bytes, and it never goes back.

use crate::entry;
use crate::scene::{any, below, now, read_view, Scene};
use maplog::{Log, Options, SyncPolicy};
use shuttle::thread;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub(crate) fn run(scene: &Arc<Scene>) {
    let log = scene.open(Options::new().segment_size(crate::scene::SEGMENT_SIZE).sync_policy(SyncPolicy::Manual));
    let seen = Seen::default();
    thread::scope(|scope| {
        for _ in 0..2 + below(2) {
            scope.spawn(|| append(scene, &log));
        }
        for _ in 0..1 + below(2) {
            scope.spawn(|| read(scene, &log, &seen));
        }
    });
    let found = read_view(&log.view());
    scene.check_complete(&found);
    found.iter().for_each(|&entry| seen.check(entry));
    log.close().expect("a close");
}

fn append(scene: &Scene, log: &Log) {
    for _ in 0..2 + below(3) {
        let lens = [24, 40, 700, 2500, 3900];
        let began = now();
        let mut entries: Vec<_> = (0..1).map(|_| scene.entry(any(&lens))).collect();
        let first = match below(4) {
            0 => log.append_with(entries[0].1.len(), |place| place.copy_from_slice(&entries[0].1)),
            1 => {
                entries.push(scene.entry(any(&lens[..3])));
                log.append_batch(entries.iter().map(|(_, bytes)| bytes)).map(|seqs| seqs.start)
            }
            _ => log.append(&entries[0].1),
        };
        let first = first.expect("an append");
        for ((id, _), seq) in entries.iter().zip(first..) {
            scene.placed(*id, seq, began);
            let own = log.get(seq).expect("an intact entry").expect("what this thread appended");
            assert_eq!(entry::id_of(own.payload()), Some(*id), "this thread's entry {seq}");
        }
    }
}

fn read(scene: &Scene, log: &Log, seen: &Seen) {
    let mut last = 1;
    let mut pins = Vec::new();
    for _ in 0..2 + below(3) {
        let placed = scene.last_placed();
        let published = log.next_seq();
        assert!(
            published >= last && published > placed,
            "next_seq was {last}, {placed} was appended, and now it is {published}"
        );
        let view = log.view();
        assert!(view.next_seq() >= published, "next_seq was {published}, and a view ends at {}", view.next_seq());
        last = view.next_seq();
        assert!(log.durable_seq() < log.next_seq(), "durable beyond what was published");
        read_view(&view).into_iter().for_each(|entry| seen.check(entry));
        let backwards = view.iter().rev().map(|entry| entry.expect("an intact entry").seq());
        assert!(backwards.eq((1..last).rev()), "an iterator from behind");
        if last > 1 {
            let seq = 1 + below(last - 1);
            let entry = view.get(seq).expect("an intact entry").expect("an entry of the view");
            seen.check((seq, entry::id_of(entry.payload()).expect("the bytes that were appended")));
            pins.push(log.get(seq).expect("an intact entry").expect("a published entry"));
        }
        assert!(view.get(last).expect("a look").is_none(), "an entry past the view's end");
    }
    for pinned in log.iter().map(|entry| entry.expect("an intact entry")).chain(pins) {
        seen.check((pinned.seq(), entry::id_of(pinned.payload()).expect("the bytes that were appended")));
    }
}

/// Which entry anybody saw at a seq: the same for all.
#[derive(Default)]
struct Seen {
    ids: Mutex<HashMap<u64, u64>>,
}

impl Seen {
    fn check(&self, (seq, id): (u64, u64)) {
        let before = *crate::scene::locked(&self.ids).entry(seq).or_insert(id);
        assert_eq!(before, id, "two entries at {seq}");
    }
}
