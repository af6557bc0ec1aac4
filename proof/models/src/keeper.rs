//! The keeper against appenders that need the next file, or more of the one they have: whoever waits is told, a full disk poisons
//! nothing and leaves no hole, and close comes between at any point.

use crate::scene::{any, below, met, now, read_view, Fault, Scene, Victim, SEGMENT_SIZE};
use maplog::{Error, Log, Options, SyncPolicy};
use shuttle::thread;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

pub(crate) fn run(scene: &Arc<Scene>) {
    // A large file is used before all of it is there, and grows meanwhile.
    let grows = below(4) == 0;
    let segment_size = if grows { 512 << 10 } else { SEGMENT_SIZE };
    let policy = any(&[SyncPolicy::Immediate, SyncPolicy::Manual]);
    let options = Options::new().segment_size(segment_size).sync_policy(policy);
    let log = scene.open(options.clone());
    let victim = any(&[None, Some(Victim::Space), Some(Victim::Space), Some(Victim::Sync)]);
    let times = if victim == Some(Victim::Space) { 1 + below(3) } else { 1 };
    scene.disk.set_fault(victim.map(|of| Fault { of, after: below(10), times }));
    let keeper = Keeper {
        scene,
        log: &log,
        len: segment_size as usize * any(&[2, 4]) / 10,
        may_poison: victim == Some(Victim::Sync),
        closing: AtomicBool::new(false),
        refused: AtomicU64::new(0),
    };
    let threads = 2 + below(2);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| keeper.append());
        }
        if below(3) == 0 {
            scope.spawn(|| keeper.close());
        }
    });
    keeper.close();
    let refused = keeper.refused.load(Ordering::Relaxed);
    let failed = scene.disk.failed();
    assert!(refused <= failed * threads, "{failed} operations failed, and {refused} appends were refused");
    scene.disk.set_fault(None);
    let reopened = scene.open(options);
    let found = read_view(&reopened.view());
    if keeper.may_poison && failed > 0 {
        met("poisoned");
        // What an append was refused for may be there.
        let is_there = |placed: &crate::scene::Placed| found.contains(&(placed.seq, placed.id));
        assert!(scene.all_placed().iter().all(is_there), "only {found:?} is there of {:?}", scene.all_placed());
    } else {
        scene.check_complete(&found);
    }
    reopened.close().expect("a close");
    if refused > 0 {
        met("no space");
    }
    if grows {
        met("a large file");
    }
}

struct Keeper<'s> {
    scene: &'s Scene,
    log: &'s Log,
    /// How long entries are: a few to a file.
    len: usize,
    may_poison: bool,
    closing: AtomicBool,
    /// Appends that found no space.
    refused: AtomicU64,
}

impl Keeper<'_> {
    fn append(&self) {
        for _ in 0..3 {
            let (id, bytes) = self.scene.entry(self.len + 8 * below(20) as usize);
            loop {
                let began = now();
                match self.log.append(&bytes) {
                    Ok(seq) => {
                        self.scene.placed(id, seq, began);
                        break;
                    }
                    Err(Error::NoSpace { .. }) => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        // Some try again at once, others not.
                        if below(2) == 0 {
                            break;
                        }
                    }
                    Err(Error::Closed) if self.closing.load(Ordering::Relaxed) => return,
                    Err(Error::Poisoned | Error::Io { .. }) if self.may_poison && self.scene.disk.failed() > 0 => {
                        return
                    }
                    Err(error) => panic!("an append said {error:?}"),
                }
            }
        }
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        match self.log.close() {
            Ok(()) => {}
            Err(Error::Poisoned | Error::Io { .. }) if self.may_poison && self.scene.disk.failed() > 0 => {}
            Err(error) => panic!("close said {error:?}"),
        }
    }
}
