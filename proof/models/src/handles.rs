//! User code on the log's own threads: callbacks that append and that drop the last handle. Nobody waits for himself, every callback is
//! called, and the directory is given free with everything in it.

use crate::scene::{any, below, met, now, read_view, tell, Scene, SEGMENT_SIZE};
use maplog::{Ack, Error, Log, Options, SyncPolicy};
use shuttle::thread;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn run(scene: &Arc<Scene>) {
    let policy = any(&[SyncPolicy::Interval(Duration::from_millis(1)), SyncPolicy::Manual]);
    let options = Options::new().segment_size(SEGMENT_SIZE).sync_policy(policy);
    let log = Arc::new(scene.open(options.clone()));
    let calls = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    let mut registered = 0;
    for _ in 0..2 {
        let (scene, log, calls) = (Arc::clone(scene), Arc::clone(&log), Arc::clone(&calls));
        let with_callback = below(3) > 0;
        registered += u64::from(with_callback);
        threads.push(thread::spawn(move || work(&scene, log, policy, with_callback.then_some(calls))));
    }
    drop(log);
    threads.into_iter().for_each(|thread| thread.join().expect("a thread that panics ends the execution"));
    // The last handle may be dropped by a thread of the log's own, which nobody joins.
    let reopened = loop {
        match scene.try_open(options.clone()) {
            Err(Error::Locked { .. }) => {
                met("closed by its own thread");
                thread::yield_now();
            }
            opened => break opened.expect("an open of intact files"),
        }
    };
    assert_eq!(calls.load(Ordering::Relaxed), registered, "calls of callbacks");
    scene.check_complete(&read_view(&reopened.view()));
    assert!(reopened.recovery().clean, "the log was not closed properly");
    reopened.close().expect("a close");
}

fn work(scene: &Arc<Scene>, log: Arc<Log>, policy: SyncPolicy, calls: Option<Arc<AtomicU64>>) {
    let append = |log: &Log, ack| {
        let (id, bytes) = scene.entry(any(&[24, 2500, 3700]));
        let began = now();
        match log.append_as(&bytes, ack) {
            Ok(seq) => {
                scene.placed(id, seq, began);
                seq
            }
            Err(error) => panic!("an append said {error:?}"),
        }
    };
    let seq = append(&log, Ack::Buffered);
    if let Some(calls) = calls {
        let (log, scene) = (Arc::clone(&log), Arc::clone(scene));
        let (appends, entry) = (below(2) == 0, scene.entry(3700));
        let handle = Arc::clone(&log);
        log.on_durable(seq, move |result| {
            // Nothing here may panic, for panics are caught.
            tell(|| format!("a callback was called with {result:?}"));
            calls.fetch_add(if result.is_ok() { 1 } else { 1000 }, Ordering::Relaxed);
            if appends {
                let began = now();
                match handle.append_as(&entry.1, Ack::Buffered) {
                    Ok(seq) => scene.placed(entry.0, seq, began),
                    Err(_) => drop(calls.fetch_add(1000, Ordering::Relaxed)),
                }
            }
            drop(handle);
        });
    }
    for _ in 0..below(3) {
        append(&log, any(&[Ack::Buffered, Ack::Durable]));
    }
    if policy == SyncPolicy::Manual {
        // Or nobody calls back, and the callback keeps the log alive.
        log.sync().expect("a sync");
    }
}
