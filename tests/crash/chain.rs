//! A chain of incarnations: random calls on a log in a simulated world, a crash at a random operation, recovery from what the crash
//! left, and so on, with everything that an earlier incarnation dropped or truncated still lying about.
//!
//! A seed fixes the calls and the choices of the crash. The log's own threads are not under its control, so that a failure of a
//! rare interleaving may need the seed more than once.

use crate::damage;
use crate::figures::{phase, Figures};
use crate::oracle::{Doing, Expect, Model, Recovered, Running};
use crate::shared::{fast_dir, lock, Rng};
use crate::sim::{Crash, Disk, Failure, Image, Sim, Wreck};
use maplog::{Ack, Error, Log, Options, RecoveryMode, SyncPolicy, Verify};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const INCARNATIONS: u64 = 8;
/// The log lies in directories that its first open makes.
const LOG_DIR: &str = "new/log";
/// Entries.
pub(crate) const LONGEST_BATCH: u64 = 39;
/// By then, a sync that failed has poisoned the log, also on a busy machine.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// One log through all its incarnations.
pub(crate) struct Chain<'f> {
    rng: Rng,
    policy: SyncPolicy,
    /// Entries of one size have their frames at the same offsets in every life of a file.
    usual_len: u64,
    all_are_usual: bool,
    segment_size: u64,
    /// All that was ever appended, and at which seq.
    appended: HashSet<(u64, Vec<u8>)>,
    scratch: tempfile::TempDir,
    /// Worlds so far.
    roots: u64,
    /// What was done, for who reads a failure.
    trace: Arc<Mutex<String>>,
    figures: &'f Figures,
}

/// How one incarnation ended.
enum End {
    Stopped,
    Closed,
    /// A sync failed, and the log cannot go on.
    Failed,
}

impl Chain<'_> {
    pub(crate) fn new<'f>(seed: u64, trace: Arc<Mutex<String>>, figures: &'f Figures) -> Chain<'f> {
        let mut rng = Rng::new(seed);
        let policy = match rng.within(0..4) {
            0 => SyncPolicy::Immediate,
            1 => SyncPolicy::Batch { entries: rng.within(1..30) as u32, bytes: rng.within(100..4000) },
            2 => SyncPolicy::Interval(Duration::from_micros(rng.within(200..5000))),
            _ => SyncPolicy::Manual,
        };
        Chain {
            policy,
            usual_len: *rng.pick(&[8, 32, 72, 200]),
            all_are_usual: rng.one_in(2),
            segment_size: rng.within(2..9) * 4096,
            rng,
            appended: HashSet::new(),
            scratch: fast_dir(),
            roots: 0,
            trace,
            figures,
        }
    }

    fn say(&self, what: impl AsRef<str>) {
        writeln!(lock(&self.trace), "{}", what.as_ref()).unwrap();
    }

    fn new_root(&mut self) -> PathBuf {
        self.roots += 1;
        self.scratch.path().join(format!("world{}", self.roots))
    }

    fn options(&mut self) -> Options {
        if self.rng.one_in(8) {
            // Files that are there keep their size.
            self.segment_size = self.rng.within(2..9) * 4096;
        }
        let verify = *self.rng.pick(&[Verify::Unproven, Verify::All]);
        Options::new().segment_size(self.segment_size).sync_policy(self.policy).verify(verify)
    }

    pub(crate) fn run(&mut self) {
        self.say(format!("{:?}, segments of {} bytes", self.policy, self.segment_size));
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
            let sim = Sim::start(&root, disk, Arc::clone(&model), Rng::new(self.rng.next()));
            self.say(format!("--- incarnation {incarnation}"));
            let crash = *self.rng.pick(&[Crash::PowerCut, Crash::PowerCut, Crash::Kill]);
            if incarnation == 0 && self.rng.one_in(2) {
                // While the log is being made.
                sim.plan_crash(self.rng.within(1..20), crash);
            } else {
                self.plan(&sim, crash);
            }
            if self.rng.one_in(5) {
                sim.plan_failure(self.rng.within(1..120));
            }
            let mut life = Life {
                chain: self,
                sim: &sim,
                crash,
                root: &root,
                model,
                durable: durable.take(),
                uninterrupted: uninterrupted.take(),
                is_clean,
            };
            // A clean close is followed by another open in the same world, and so is a failure at times.
            let end = loop {
                match life.live() {
                    End::Closed if life.chain.rng.one_in(2) => life.reopen(),
                    End::Failed if life.chain.rng.one_in(2) && !sim.stopped() => life.reopen_failed(),
                    end => break end,
                }
                life.chain.plan(&sim, crash);
            };
            uninterrupted = life.uninterrupted;
            is_clean = matches!(end, End::Closed) && !sim.stopped();
            let failed = sim.has_failed();
            let mut wreck = sim.wreck(crash);
            let phase = phase(&wreck.model, &wreck.at, is_clean);
            self.say(format!("{crash:?}, {phase}, at {}", wreck.at));
            self.figures.count_crash(phase);
            let opening = matches!(wreck.model, Model::Opening(_));
            expect = wreck.model.clone().expect(crash);
            std::fs::remove_dir_all(&root).unwrap();
            self.examine_power_cuts(&mut wreck);
            root = self.new_root();
            disk = wreck.settle(&root);
            if crash == Crash::Kill || failed {
                uninterrupted = None;
            } else if !opening || uninterrupted.is_none() {
                self.figures.count_state(&wreck.image, phase);
                uninterrupted = Some(self.examine(&wreck.image, &expect));
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
        sim.plan_crash(operation, crash);
    }

    /// Looks at what else a power cut might have left.
    fn examine_power_cuts(&mut self, wreck: &mut Wreck<Model>) {
        let expect = wreck.model.clone().expect(Crash::PowerCut);
        let phase = phase(&wreck.model, &wreck.at, false);
        for image in std::mem::take(&mut wreck.power_cuts) {
            if self.figures.count_state(&image, phase) {
                self.examine(&image, &expect);
            }
        }
    }

    /// Recovers copies of an image in peace, whole and with damage done to it. What an open gives.
    fn examine(&mut self, image: &Image, expect: &Expect) -> Recovered {
        let options = Options::new().segment_size(self.segment_size).sync_policy(SyncPolicy::Manual);
        let root = self.scratch.path().join("copy");
        image.write_to(&root);
        let log = open_crash_image(options.clone().verify(self.verify()), &root);
        let recovered = Recovered::read(&log).unwrap();
        expect.check(&recovered);
        if self.rng.one_in(3) {
            self.append_and_die(log, &root, &options, &recovered);
        } else {
            drop(log);
        }
        std::fs::remove_dir_all(&root).unwrap();
        if self.rng.one_in(8) {
            image.write_to(&root);
            let log = open_crash_image(options.recovery(RecoveryMode::Salvage), &root);
            assert!(recovered == Recovered::read(&log).unwrap(), "salvage finds something else");
            drop(log);
            std::fs::remove_dir_all(&root).unwrap();
        }
        if self.rng.one_in(4) {
            let rng = &mut self.rng;
            let damaged = damage::examine(image, Path::new(LOG_DIR), expect, &recovered, &self.appended, &root, rng);
            damaged.into_iter().for_each(|what| self.figures.count_damage(what));
        }
        if self.rng.one_in(10) {
            let damaged = damage::examine_manifest(image, Path::new(LOG_DIR), expect, &root, &mut self.rng);
            damaged.into_iter().for_each(|what| self.figures.count_damage(what));
        }
        recovered
    }

    fn verify(&mut self) -> Verify {
        *self.rng.pick(&[Verify::Unproven, Verify::All])
    }

    /// Entries of the usual size on top of what was recovered, then a kill: nothing that was dropped fits in behind them.
    fn append_and_die(&mut self, log: Log, root: &Path, options: &Options, recovered: &Recovered) {
        let mut expected = recovered.clone();
        for _ in 0..self.rng.within(1..20) {
            let payload = self.rng.bytes(self.usual_len as usize);
            let seq = log.append(&payload).unwrap();
            expected.entries.insert(seq, payload);
        }
        let killed = root.with_file_name("killed");
        Image::read(root).write_to(&killed);
        drop(log);
        let log = open_crash_image(options.clone(), &killed);
        assert!(Recovered::read(&log).unwrap() == expected, "after a second crash the log is another one");
        drop(log);
        std::fs::remove_dir_all(&killed).unwrap();
    }
}

/// Opens the log of a crash image: that never fails, and loses nothing that has to be listed.
fn open_crash_image(options: Options, root: &Path) -> Log {
    let log = options.open(root.join(LOG_DIR)).unwrap_or_else(|e| panic!("a crash image does not open: {e}"));
    assert_eq!(log.recovery().losses, [], "a crash loses nothing that has to be listed");
    log
}

/// One world, from its first open to its end.
struct Life<'c, 'f> {
    chain: &'c mut Chain<'f>,
    sim: &'c Sim<Model>,
    crash: Crash,
    root: &'c Path,
    model: Arc<Mutex<Model>>,
    /// What the files held for sure when they were left.
    durable: Option<Vec<Vec<u8>>>,
    /// What an open gave that nobody interrupted.
    uninterrupted: Option<Recovered>,
    /// The log is new, or was closed.
    is_clean: bool,
}

impl Life<'_, '_> {
    /// Opens the log, judges what was recovered, and works with it until the world stops, a sync fails or the log is closed.
    fn live(&mut self) -> End {
        let options = self.chain.options();
        let log = match options.open(self.root.join(LOG_DIR)) {
            Ok(log) => log,
            Err(_) if self.sim.stopped() => return End::Stopped,
            Err(Error::Io { .. } | Error::Poisoned) if self.sim.failure().is_some() => return End::Failed,
            Err(error) => panic!("open of a crash image failed: {error}"),
        };
        let recovered = match Recovered::read(&log) {
            Ok(recovered) => recovered,
            Err(_) if self.sim.stopped() => return End::Stopped,
            Err(error) => panic!("what was recovered cannot be read: {error}"),
        };
        if let Some(uninterrupted) = self.uninterrupted.take().filter(|_| !self.sim.has_failed()) {
            assert!(recovered == uninterrupted, "recovery of a copy ended elsewhere");
        }
        self.judge(&log, &recovered);
        *lock(&self.model) = Model::Running(recovered.running());
        self.work(&log)
    }

    /// After a close: the log is opened again where it lies.
    fn reopen(&mut self) {
        let mut model = lock(&self.model);
        let expect = model.running().expect(Crash::Kill);
        *model = Model::Opening(expect);
        drop(model);
        self.is_clean = true;
        self.durable = None;
        self.sim.forget_failure();
    }

    /// After a failed sync: the process drops the log, and opens it again.
    fn reopen_failed(&mut self) {
        self.chain.say("reopen");
        let mut model = lock(&self.model);
        if let Model::Running(running) = &*model {
            *model = Model::Opening(running.expect(Crash::Kill));
        }
        drop(model);
        self.is_clean = false;
        self.durable = None;
        self.sim.forget_failure();
    }

    fn judge(&self, log: &Log, recovered: &Recovered) {
        let report = log.recovery();
        let (first, last) = (recovered.first, recovered.last());
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
                let found = durable.iter().any(|bytes| damage::find(bytes, payload).is_some());
                assert!(found, "seq {seq} is called proven ({}), and was never durable", report.proven_seq);
            }
        }
        match log.validate() {
            Ok(report) => assert!(report.is_intact(), "{:?}", report.damage),
            Err(_) if self.sim.stopped() => {}
            Err(error) => panic!("validate failed: {error}"),
        }
    }

    /// Random calls, until one fails.
    fn work(&mut self, log: &Log) -> End {
        for _ in 0..self.chain.rng.within(10..120) {
            if self.sim.stopped() {
                return End::Stopped;
            }
            if self.sim.failure() == Some(Failure::Poisons) {
                return self.is_poisoned(log);
            }
            match self.step(log) {
                Ok(()) => {}
                Err(_) if self.sim.stopped() => return End::Stopped,
                Err(error) => {
                    self.chain.say(format!("{error}"));
                    match (self.sim.failure(), error) {
                        (Some(Failure::Poisons), Error::Io { .. } | Error::Poisoned) => return self.is_poisoned(log),
                        (Some(Failure::Harmless), Error::Io { .. }) if self.goes_on(log) => continue,
                        (Some(Failure::Harmless), Error::Io { .. }) => return End::Stopped,
                        (failure, error) => panic!("what failed is {failure:?}, and a call gives {error:?}"),
                    }
                }
            }
            if self.chain.rng.one_in(8) {
                self.sim.write_back();
            }
        }
        if self.chain.rng.one_in(3) {
            return End::Stopped;
        }
        self.chain.say("close");
        self.maybe_crash_soon();
        lock(&self.model).running().doing = Some(Doing::Upkeep("close"));
        match log.close() {
            Ok(()) => assert_ne!(self.sim.failure(), Some(Failure::Poisons), "close does not tell that a sync failed"),
            Err(_) if self.sim.stopped() => return End::Stopped,
            Err(_) if self.sim.failure().is_some() => return End::Failed,
            Err(error) => panic!("close failed: {error}"),
        }
        let mut model = lock(&self.model);
        let running = model.running();
        running.all_is_proven();
        running.doing = None;
        End::Closed
    }

    /// A call failed with the sync of a name, or of a file that was to be made: nothing else was lost. False if the world stops.
    fn goes_on(&mut self, log: &Log) -> bool {
        match log.sync() {
            Ok(_) => {}
            Err(_) if self.sim.stopped() => return false,
            Err(error) => panic!("nothing that was appended is concerned, and the next sync gives {error:?}"),
        }
        let mut model = lock(&self.model);
        let running = model.running();
        match running.doing.take() {
            // The cut stands: the files that it made dead could not be removed for good.
            Some(Doing::TruncateAfter(seq)) if log.next_seq() == seq + 1 => running.drop_after(seq),
            Some(Doing::Reset(next)) if (log.first_seq(), log.next_seq()) == (next, next) => {
                *running = Running::empty(next);
            }
            _ => {}
        }
        assert_eq!(log.next_seq(), running.next(), "a call that failed changed something");
        running.durable = running.last();
        true
    }

    /// A sync of entries or of the manifest failed, of some thread: the log takes no more, and says so.
    fn is_poisoned(&mut self, log: &Log) -> End {
        let since = Instant::now();
        loop {
            match log.sync() {
                Err(Error::Poisoned) => break,
                Err(_) if self.sim.stopped() => return End::Stopped,
                // The thread that met the failure has not told it yet.
                Ok(_) if since.elapsed() < TOLD_WITHIN => std::thread::sleep(Duration::from_micros(100)),
                result => panic!("a sync failed, and the next one gives {result:?}"),
            }
        }
        let durable = log.durable_seq();
        let refused = [
            log.append(b"late").map(drop),
            log.append_batch(["late", "later"]).map(drop),
            log.append_as(b"late", Ack::Buffered).map(drop),
            log.wait_durable(log.next_seq() - 1),
            log.rotate(),
            log.truncate_before(log.next_seq()).map(drop),
            log.truncate_after(log.first_seq()),
            log.reset(1),
        ];
        let is_refused = |(index, result): (usize, &maplog::Result<()>)| {
            let waits_for_nothing = index == 3 && durable >= log.next_seq() - 1;
            matches!(result, Err(Error::Poisoned)) || waits_for_nothing && result.is_ok()
        };
        assert!(refused.iter().enumerate().all(is_refused), "a poisoned log takes a call: {refused:?}");
        assert_eq!(log.durable_seq(), durable, "the durable seq of a poisoned log moves");
        if self.sim.stopped() {
            return End::Stopped;
        }
        self.chain.figures.count_poisoned();
        if self.chain.rng.one_in(2) {
            assert!(log.close().is_err() || self.sim.stopped(), "a poisoned log is closed without an error");
        }
        End::Failed
    }

    /// Has the world stop in the middle of what comes next, at times.
    fn maybe_crash_soon(&mut self) {
        if self.chain.rng.one_in(12) {
            self.sim.plan_crash(self.chain.rng.within(1..14), self.crash);
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let rng = &mut self.chain.rng;
        let len = match rng.within(0..20) {
            _ if self.chain.all_are_usual => self.chain.usual_len,
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
                let (sim, crash) = (self.sim, self.crash);
                let (writes_back, stops) = (self.chain.rng.one_in(2), self.chain.rng.one_in(60));
                self.append_by_policy(log, vec![payload], |log, payloads| {
                    let (head, tail) = payloads[0].split_at(payloads[0].len() / 2);
                    let fill = |place: &mut [u8]| {
                        place[..head.len()].copy_from_slice(head);
                        if writes_back {
                            sim.write_back();
                        }
                        if stops {
                            sim.stop(crash, "fill");
                        }
                        place[head.len()..].copy_from_slice(tail);
                    };
                    log.append_with(payloads[0].len(), fill).map(|seq| seq..seq + 1)
                })
            }
            48..=53 => {
                let (payload, ack) = (self.payload(), *self.chain.rng.pick(&[Ack::Buffered, Ack::Durable]));
                self.append_as(log, payload, ack)
            }
            54..=63 => {
                // It has to fit a segment.
                let room = self.chain.segment_size - 128;
                let (count, len) = (self.chain.rng.within(2..LONGEST_BATCH + 1), self.chain.usual_len);
                let (count, len) = match self.chain.all_are_usual {
                    true => (count.min(room / (len + 40)), len as usize),
                    false => (count, len.min(room / count - 40) as usize),
                };
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
                self.upkeep(log, "wait_durable", |log| log.wait_durable(seq))?;
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
        let durable = {
            let mut model = lock(&self.model);
            let running = model.running();
            self.chain.appended.extend((running.next()..).zip(payloads.iter().cloned()));
            running.doing = Some(Doing::Append { payloads: payloads.clone(), durable: running.durable });
            running.durable
        };
        let returned = call(log, &payloads);
        let mut model = lock(&self.model);
        let running = model.running();
        let count = payloads.len() as u64;
        self.chain.say(format!("append {count} of {} at {}: {returned:?}", payloads[0].len(), running.next()));
        assert_eq!(returned?, running.next()..running.next() + count);
        running.push(payloads, durable);
        running.doing = None;
        self.note_durable(log, running);
        let last = running.entries.last_key_value().map(|(seq, payload)| (*seq, payload.clone()));
        drop(model);
        if let Some((seq, payload)) = last.filter(|_| self.chain.rng.one_in(4)) {
            self.have_it_noted(log, seq, payload);
        }
        Ok(())
    }

    /// Whoever syncs says so to the model, in that moment.
    fn have_it_noted(&self, log: &Log, seq: u64, payload: Vec<u8>) {
        let model = Arc::clone(&self.model);
        log.on_durable(seq, move |result| {
            if let (Ok(()), Model::Running(running)) = (result, &mut *lock(&model)) {
                // Another entry has its seq by now if a cut came in between.
                if running.entries.get(&seq) == Some(&payload) {
                    running.durable = running.durable.max(seq);
                }
            }
        });
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

    fn upkeep<T>(
        &mut self,
        log: &Log,
        what: &'static str,
        call: impl FnOnce(&Log) -> maplog::Result<T>,
    ) -> maplog::Result<T> {
        lock(&self.model).running().doing = Some(Doing::Upkeep(what));
        self.maybe_crash_soon();
        self.chain.say(what);
        let returned = call(log)?;
        lock(&self.model).running().doing = None;
        Ok(returned)
    }

    fn truncate_before(&mut self, log: &Log, first: u64, next: u64) -> maplog::Result<()> {
        let seq = self.chain.rng.within(first..next + 1);
        lock(&self.model).running().doing = Some(Doing::TruncateBefore(seq));
        self.maybe_crash_soon();
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
        self.maybe_crash_soon();
        let returned = log.truncate_after(seq);
        self.chain.say(format!("truncate_after {seq}: {returned:?}"));
        returned?;
        let mut model = lock(&self.model);
        let running = model.running();
        if seq < running.last() {
            running.drop_after(seq);
        }
        (running.durable, running.doing) = (running.last(), None);
        assert_eq!((log.next_seq(), log.durable_seq()), (running.next(), running.durable));
        Ok(())
    }

    fn reset(&mut self, log: &Log, next: u64) -> maplog::Result<()> {
        let seq = *self.chain.rng.pick(&[1, next.saturating_sub(20).max(1), next, next + 1000]);
        lock(&self.model).running().doing = Some(Doing::Reset(seq));
        self.maybe_crash_soon();
        let returned = log.reset(seq);
        self.chain.say(format!("reset {seq}: {returned:?}"));
        returned?;
        let mut model = lock(&self.model);
        *model.running() = Running::empty(seq);
        Ok(())
    }
}
