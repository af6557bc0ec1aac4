//! Property tests over crash images: random calls on a log in a simulated world, a crash at a random operation, recovery from what
//! the crash left, and so on for several incarnations, with everything that an earlier one dropped or truncated still lying about.
//!
//! Each seed is one chain of incarnations under one sync policy. A failure prints the seed and what was done. To run more seeds, or
//! one again:
//!
//! ```text
//! MAPLOG_SEEDS=1000..2000 cargo test --release --features __testing --test it crash_images
//! ```
//!
//! A seed fixes the calls and the choices of the crash. The log's own threads are not under its control, so that a failure of a
//! rare interleaving may need the seed more than once.

mod oracle;

use crate::sim::{lock, scratch_dir, seeds, Crash, Disk, Rng, Sim, Wreck};
use maplog::{Ack, Log, Options, RecoveryMode, SyncPolicy, Verify};
use oracle::{Doing, Expect, Model, Recovered, Running};
use std::fmt::Write as _;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Seeds that each policy runs with if nobody asks for others.
const SEEDS: Range<u64> = 0..40;
const INCARNATIONS: u64 = 8;
/// The log lies in directories that its first open makes.
const LOG_DIR: &str = "new/log";

#[test]
fn crashes_under_immediate_sync_keep_the_promises() {
    run_seeds(|_| SyncPolicy::Immediate);
}

#[test]
fn crashes_under_batch_sync_keep_the_promises() {
    run_seeds(|rng| SyncPolicy::Batch { entries: rng.within(1..30) as u32, bytes: rng.within(100..4000) });
}

#[test]
fn crashes_under_interval_sync_keep_the_promises() {
    run_seeds(|rng| SyncPolicy::Interval(Duration::from_micros(rng.within(200..5000))));
}

#[test]
fn crashes_under_manual_sync_keep_the_promises() {
    run_seeds(|_| SyncPolicy::Manual);
}

// The seed is for whoever reads the failure.
#[allow(clippy::print_stderr)]
fn run_seeds(policy: impl Fn(&mut Rng) -> SyncPolicy) {
    for seed in seeds(SEEDS) {
        let mut rng = Rng::new(seed);
        let trace = Arc::new(Mutex::new(String::new()));
        let mut chain = Chain {
            policy: policy(&mut rng),
            // Entries of one size have their frames at the same offsets in every life of a file.
            usual_len: *rng.pick(&[8, 32, 72, 200]),
            segment_size: rng.within(2..9) * 4096,
            rng,
            scratch: scratch_dir(),
            roots: 0,
            trace: Arc::clone(&trace),
        };
        writeln!(lock(&trace), "{:?}, segments of {} bytes", chain.policy, chain.segment_size).unwrap();
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| chain.run())) {
            eprintln!("seed {seed} failed; run it again with MAPLOG_SEEDS={seed}..{}\n{}", seed + 1, lock(&trace));
            panic::resume_unwind(panic);
        }
    }
}

/// One log through all its incarnations.
struct Chain {
    rng: Rng,
    policy: SyncPolicy,
    usual_len: u64,
    segment_size: u64,
    scratch: tempfile::TempDir,
    /// Worlds so far.
    roots: u64,
    trace: Arc<Mutex<String>>,
}

/// How one incarnation ended.
enum End {
    Stopped,
    Closed,
}

impl Chain {
    fn say(&self, what: impl AsRef<str>) {
        writeln!(lock(&self.trace), "{}", what.as_ref()).unwrap();
    }

    fn new_root(&mut self) -> PathBuf {
        self.roots += 1;
        self.scratch.path().join(format!("world{}", self.roots))
    }

    fn options(&mut self) -> Options {
        let verify = *self.rng.pick(&[Verify::Unproven, Verify::All]);
        Options::new().segment_size(self.segment_size).sync_policy(self.policy).verify(verify)
    }

    fn run(&mut self) {
        let mut root = self.new_root();
        std::fs::create_dir(&root).unwrap();
        let mut disk = Disk::load(&root);
        let mut expect = Expect::nothing();
        let mut durable = None;
        // What an open gives that nobody interrupts: the one that somebody did must give the same in the end.
        let mut uninterrupted = None;
        let mut is_clean = false;
        for incarnation in 0..INCARNATIONS {
            let model = Arc::new(Mutex::new(Model::Opening(expect.clone())));
            let sim = Sim::start(&root, disk, Arc::clone(&model), self.rng.fork());
            self.say(format!("--- incarnation {incarnation}"));
            let crash = *self.rng.pick(&[Crash::PowerCut, Crash::PowerCut, Crash::Kill]);
            if incarnation == 0 && self.rng.one_in(2) {
                // While the log is being made.
                sim.plan(self.rng.within(1..20), crash);
            } else {
                self.plan(&sim, crash);
            }
            let mut life = Life {
                chain: self,
                root: &root,
                model,
                durable: durable.take(),
                uninterrupted: uninterrupted.take(),
                is_clean,
            };
            // A clean close is followed by another open in the same world.
            let end = loop {
                match life.live(&sim) {
                    End::Closed if life.chain.rng.one_in(2) => {
                        life.reopen();
                        life.chain.plan(&sim, crash);
                    }
                    end => break end,
                }
            };
            uninterrupted = life.uninterrupted;
            is_clean = matches!(end, End::Closed) && !sim.stopped();
            let mut wreck = sim.wreck(crash);
            self.say(format!("{crash:?} at {}{}", wreck.at, if is_clean { ", closed" } else { "" }));
            let opening = matches!(wreck.model, Model::Opening(_));
            expect = wreck.model.clone().expect(crash);
            std::fs::remove_dir_all(&root).unwrap();
            root = self.new_root();
            disk = wreck.settle(&root);
            if crash == Crash::Kill {
                uninterrupted = None;
            } else if !opening || uninterrupted.is_none() {
                uninterrupted = Some(self.recover_a_copy(&wreck));
            }
            durable = Some(wreck.durable);
        }
    }

    /// Plans the crash of an incarnation: while it opens, while it runs, or when it has come to rest.
    fn plan(&mut self, sim: &Sim<Model>, crash: Crash) {
        let operation = match self.rng.within(0..8) {
            0 | 1 => self.rng.within(1..40),
            2..=4 => self.rng.within(30..150),
            5 | 6 => self.rng.within(100..600),
            _ => u64::MAX / 2,
        };
        sim.plan(operation, crash);
    }

    /// Recovers a copy of what a power cut left, in peace: once as usual, and sometimes to salvage, which finds nothing lost.
    fn recover_a_copy(&mut self, wreck: &Wreck<Model>) -> Recovered {
        let recover = |options: Options| {
            let root = self.scratch.path().join("copy");
            wreck.image.write_to(&root);
            let log = options.open(root.join(LOG_DIR)).unwrap_or_else(|e| panic!("a crash image does not open: {e}"));
            let recovered = Recovered::read(&log).unwrap();
            assert_eq!(log.recovery().losses, [], "a crash loses nothing that has to be listed");
            drop(log);
            std::fs::remove_dir_all(&root).unwrap();
            recovered
        };
        let options = Options::new().segment_size(self.segment_size).sync_policy(SyncPolicy::Manual);
        let recovered = recover(options.clone());
        if self.rng.one_in(4) {
            let salvaged = recover(options.recovery(RecoveryMode::Salvage));
            assert!(recovered == salvaged, "salvage finds something else");
        }
        recovered
    }
}

/// One world, from its first open to its end.
struct Life<'c> {
    chain: &'c mut Chain,
    root: &'c Path,
    model: Arc<Mutex<Model>>,
    /// What the files held for sure when they were left.
    durable: Option<Vec<Vec<u8>>>,
    /// What an open gave that nobody interrupted.
    uninterrupted: Option<Recovered>,
    /// The log is new, or was closed.
    is_clean: bool,
}

impl Life<'_> {
    /// Opens the log, judges what was recovered, and works with it until the world stops or the log is closed.
    fn live(&mut self, sim: &Sim<Model>) -> End {
        let options = self.chain.options();
        let log = match options.open(self.root.join(LOG_DIR)) {
            Ok(log) => log,
            Err(_) if sim.stopped() => return End::Stopped,
            Err(error) => panic!("open of a crash image failed: {error}"),
        };
        let recovered = match Recovered::read(&log) {
            Ok(recovered) => recovered,
            Err(_) if sim.stopped() => return End::Stopped,
            Err(error) => panic!("what was recovered cannot be read: {error}"),
        };
        if let Some(uninterrupted) = self.uninterrupted.take() {
            assert!(recovered == uninterrupted, "recovery of a copy ended elsewhere");
        }
        self.judge(&log, &recovered, sim);
        *lock(&self.model) = Model::Running(recovered.running());
        self.work(&log, sim)
    }

    /// After a close: the log is opened again where it lies.
    fn reopen(&mut self) {
        let mut model = lock(&self.model);
        let expect = model.running().expect(Crash::Kill);
        *model = Model::Opening(expect);
        self.is_clean = true;
        self.durable = None;
    }

    fn judge(&self, log: &Log, recovered: &Recovered, sim: &Sim<Model>) {
        let report = log.recovery();
        let (first, last) = (recovered.first, log.next_seq() - 1);
        self.chain.say(format!("open: [{first}, {last}], proven {}, clean {}", report.proven_seq, report.clean));
        match &*lock(&self.model) {
            Model::Opening(expect) => expect.check(recovered),
            Model::Running(_) => unreachable!("the log was opened"),
        }
        assert_eq!(report.last_seq, last);
        assert!(report.proven_seq <= last, "proven: {}", report.proven_seq);
        assert_eq!(log.durable_seq(), last, "what was recovered is durable");
        assert_eq!(report.losses, []);
        assert!(report.clean || !self.is_clean, "it was closed");
        if let Some(durable) = &self.durable {
            let proven = recovered.entries.range(..=report.proven_seq).rev().take(5);
            for (seq, payload) in proven.filter(|(_, payload)| payload.len() >= 8) {
                let found = durable.iter().any(|bytes| contains(bytes, payload));
                assert!(found, "seq {seq} is called proven ({}), and was never durable", report.proven_seq);
            }
        }
        match log.validate() {
            Ok(report) => assert!(report.is_intact(), "{:?}", report.damage),
            Err(_) if sim.stopped() => {}
            Err(error) => panic!("validate failed: {error}"),
        }
    }

    /// Random calls, until one fails because the world has stopped.
    fn work(&mut self, log: &Log, sim: &Sim<Model>) -> End {
        for _ in 0..self.chain.rng.within(10..120) {
            if sim.stopped() {
                return End::Stopped;
            }
            match self.step(log) {
                Ok(()) => {}
                Err(_) if sim.stopped() => return End::Stopped,
                Err(error) => panic!("a call failed in a world that goes on: {error}"),
            }
        }
        if self.chain.rng.one_in(3) {
            return End::Stopped;
        }
        self.chain.say("close");
        lock(&self.model).running().doing = Some(Doing::Upkeep);
        match log.close() {
            Ok(()) => {}
            Err(_) if sim.stopped() => return End::Stopped,
            Err(error) => panic!("close failed: {error}"),
        }
        let mut model = lock(&self.model);
        let running = model.running();
        (running.durable, running.doing) = (running.last(), None);
        End::Closed
    }

    fn payload(&mut self) -> Vec<u8> {
        let rng = &mut self.chain.rng;
        let len = match rng.within(0..20) {
            0 => rng.within(0..8),
            1 => rng.within(500..3000),
            2..=5 => rng.within(8..300),
            _ => self.chain.usual_len,
        };
        self.chain.rng.bytes(len as usize)
    }

    fn step(&mut self, log: &Log) -> maplog::Result<()> {
        let (first, next) = {
            let mut model = lock(&self.model);
            let running = model.running();
            (running.first, running.next())
        };
        match self.chain.rng.within(0..100) {
            0..=39 => {
                let payload = self.payload();
                self.append_by_policy(log, vec![payload], |log, payloads| {
                    log.append(&payloads[0]).map(|seq| seq..seq + 1)
                })
            }
            40..=47 => {
                let payload = self.payload();
                self.append_by_policy(log, vec![payload], |log, payloads| {
                    let payload = &payloads[0];
                    log.append_with(payload.len(), |place| place.copy_from_slice(payload)).map(|seq| seq..seq + 1)
                })
            }
            48..=53 => {
                let (payload, ack) = (self.payload(), *self.chain.rng.pick(&[Ack::Buffered, Ack::Durable]));
                self.append_as(log, payload, ack)
            }
            54..=63 => {
                let count = self.chain.rng.within(2..40);
                let len = self.chain.usual_len.min((self.chain.segment_size - 128) / count - 40) as usize;
                let payloads = (0..count).map(|_| self.chain.rng.bytes(len)).collect();
                self.append_by_policy(log, payloads, |log, payloads| log.append_batch(payloads))
            }
            64..=71 => {
                // Enough of one size to fill a segment now and then.
                for _ in 0..self.chain.rng.within(10..60) {
                    let payload = self.chain.rng.bytes(self.chain.usual_len as usize);
                    self.append_by_policy(log, vec![payload], |log, p| log.append(&p[0]).map(|seq| seq..seq + 1))?;
                }
                Ok(())
            }
            72..=76 => {
                let durable = self.upkeep(log, "sync", |log| log.sync())?;
                assert_eq!(durable, next - 1);
                lock(&self.model).running().durable = next - 1;
                Ok(())
            }
            77..=79 if next > first => {
                let seq = self.chain.rng.within(first..next);
                self.upkeep(log, &format!("wait_durable {seq}"), |log| log.wait_durable(seq))?;
                assert!(log.durable_seq() >= seq);
                let mut model = lock(&self.model);
                let running = model.running();
                running.durable = running.durable.max(seq);
                Ok(())
            }
            80..=86 => self.truncate_before(log, first, next),
            87..=91 => self.truncate_after(log, first, next),
            92 => self.reset(log, next),
            93..=95 => {
                self.upkeep(log, "rotate", |log| log.rotate())?;
                lock(&self.model).running().durable = next - 1;
                Ok(())
            }
            // The keeper has time to store a mark.
            96 | 97 => {
                self.chain.say("idle");
                std::thread::sleep(Duration::from_millis(6));
                Ok(())
            }
            _ => {
                let read = Recovered::read(log)?;
                let mut model = lock(&self.model);
                let running = model.running();
                assert!(read.first == running.first && read.entries == running.entries, "the log reads differently");
                Ok(())
            }
        }
    }

    fn append_as(&mut self, log: &Log, payload: Vec<u8>, ack: Ack) -> maplog::Result<()> {
        self.append(log, vec![payload], |log, payloads| log.append_as(&payloads[0], ack).map(|seq| seq..seq + 1))?;
        if ack == Ack::Durable {
            let mut model = lock(&self.model);
            let running = model.running();
            running.durable = running.last();
            assert!(log.durable_seq() >= running.durable);
        }
        Ok(())
    }

    fn append(
        &mut self,
        log: &Log,
        payloads: Vec<Vec<u8>>,
        call: impl FnOnce(&Log, &[Vec<u8>]) -> maplog::Result<Range<u64>>,
    ) -> maplog::Result<()> {
        lock(&self.model).running().doing = Some(Doing::Append(payloads.clone()));
        let returned = call(log, &payloads);
        let mut model = lock(&self.model);
        let running = model.running();
        let count = payloads.len() as u64;
        self.chain.say(format!("append {count} of {} at {}: {returned:?}", payloads[0].len(), running.next()));
        assert_eq!(returned?, running.next()..running.next() + count);
        running.push(payloads);
        running.doing = None;
        self.note_durable(log, running);
        Ok(())
    }

    /// An append that the policy acks.
    fn append_by_policy(
        &mut self,
        log: &Log,
        payloads: Vec<Vec<u8>>,
        call: impl FnOnce(&Log, &[Vec<u8>]) -> maplog::Result<Range<u64>>,
    ) -> maplog::Result<()> {
        self.append(log, payloads, call)?;
        let model = &mut *lock(&self.model);
        let running = model.running();
        let unsynced = running.entries.range(running.durable + 1..).map(|(_, payload)| payload.len() as u64);
        match self.chain.policy {
            SyncPolicy::Immediate => assert_eq!(running.durable, running.last()),
            SyncPolicy::Batch { entries, bytes } => {
                let (count, sum) = (unsynced.clone().count(), unsynced.sum::<u64>());
                assert!(count < entries as usize && sum < bytes, "{count} entries of {sum} bytes are not synced");
            }
            _ => {}
        }
        Ok(())
    }

    /// What the log says is durable is acked.
    fn note_durable(&self, log: &Log, running: &mut Running) {
        let durable = log.durable_seq();
        assert!(durable >= running.durable && durable <= running.last(), "durable_seq {durable}");
        running.durable = durable;
    }

    fn upkeep<T>(&mut self, log: &Log, what: &str, call: impl FnOnce(&Log) -> maplog::Result<T>) -> maplog::Result<T> {
        lock(&self.model).running().doing = Some(Doing::Upkeep);
        self.chain.say(what);
        let returned = call(log)?;
        lock(&self.model).running().doing = None;
        Ok(returned)
    }

    fn truncate_before(&mut self, log: &Log, first: u64, next: u64) -> maplog::Result<()> {
        let seq = self.chain.rng.within(first..next + 1);
        lock(&self.model).running().doing = Some(Doing::TruncateBefore(seq));
        let returned = log.truncate_before(seq);
        self.chain.say(format!("truncate_before {seq}: {returned:?}"));
        let first_kept = returned?;
        assert!((first..=seq).contains(&first_kept) && log.first_seq() == first_kept);
        let mut model = lock(&self.model);
        model.running().drop_before(first_kept);
        model.running().doing = None;
        Ok(())
    }

    fn truncate_after(&mut self, log: &Log, first: u64, next: u64) -> maplog::Result<()> {
        // Mostly near the end, so that the log grows.
        let lowest = if self.chain.rng.one_in(3) { first - 1 } else { (first - 1).max(next.saturating_sub(10)) };
        let seq = self.chain.rng.within(lowest..next);
        lock(&self.model).running().doing = Some(Doing::TruncateAfter(seq));
        let returned = log.truncate_after(seq);
        self.chain.say(format!("truncate_after {seq}: {returned:?}"));
        returned?;
        let mut model = lock(&self.model);
        let running = model.running();
        running.drop_after(seq);
        (running.durable, running.doing) = (running.last(), None);
        assert_eq!((log.next_seq(), log.durable_seq()), (running.next(), running.durable));
        Ok(())
    }

    fn reset(&mut self, log: &Log, next: u64) -> maplog::Result<()> {
        let seq = *self.chain.rng.pick(&[1, next.saturating_sub(20).max(1), next, next + 1000]);
        lock(&self.model).running().doing = Some(Doing::Reset(seq));
        let returned = log.reset(seq);
        self.chain.say(format!("reset {seq}: {returned:?}"));
        returned?;
        let mut model = lock(&self.model);
        *model.running() = Running { first: seq, durable: seq - 1, ..Running::default() };
        Ok(())
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let (first, len) = (part[0], part.len());
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        let start = from + at;
        if bytes.get(start..start + len) == Some(part) {
            return true;
        }
        from = start + 1;
    }
    false
}
