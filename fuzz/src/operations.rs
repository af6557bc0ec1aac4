//! Target `operations`: the input is a list of calls on a log that lives in the crash simulator of the tests, with kills and power cuts
//! among them, some in the middle of a call or of a recovery. What is read is what the model holds; what a crash leaves is what the
//! oracle of the tests allows; and what was borrowed stays what it was.

use crate::files::Files;
use crate::input::Input;
use crate::oracle::{Doing, Expect, Model, Recovered, Running};
use crate::probe::{compressing, options};
use crate::shared::{fast_dir, lock, Rng};
use crate::sim::{Crash, Disk, Image, Sim};
use maplog::{Ack, Log, Options, PinnedEntry, RecoveryMode, Result, SyncPolicy, Verify, View};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// The most calls that one execution makes.
const CALLS: usize = 48;
/// Of what a power cut might have left, images that are recovered beside the one that the log goes on with.
const EXAMINED: usize = 2;
/// Bytes that may be alive: the simulator keeps every file that was there, each in up to six versions, and each call may fill two.
const LIVE_MAX: usize = 32 << 20;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut setup = Setup::read(&mut input);
    let from_nothing = input.byte() % 16 == 1;
    let empty = empty_log();
    crate::execute("operations", LIVE_MAX, |scratch| {
        let root = scratch.join("0");
        match from_nothing {
            true => std::fs::create_dir(&root).unwrap(),
            false => empty.write(&root),
        }
        let disk = Disk::load(&root);
        let mut held = Held::default();
        let nothing = Wreckage { scratch, roots: 0, root, disk, expect: Expect::nothing(), is_settled: true };
        let mut world = nothing.open(&mut setup, &mut input);
        for _ in 0..CALLS {
            if input.is_empty() {
                break;
            }
            world = world.call(&mut setup, &mut input, &mut held);
        }
        world.crash(Crash::PowerCut).open(&mut setup, &mut Input::new(&[]));
        held.check();
    });
}

/// A log without an entry. To create one takes a sync of every directory up to the root, which is no file of ours.
fn empty_log() -> &'static Files {
    static EMPTY: OnceLock<Files> = OnceLock::new();
    EMPTY.get_or_init(|| {
        let scratch = fast_dir();
        let dir = scratch.path().join("log");
        Options::new().open(&dir).unwrap().close().unwrap();
        Files::read(&dir)
    })
}

/// What an execution's logs have in common.
struct Setup {
    policy: SyncPolicy,
    is_compressing: bool,
    /// Entries of one size have their frames at the same offsets in every life of a file.
    usual_len: usize,
    rng: Rng,
    /// Payloads so far: no two are equal.
    payloads: u64,
    may_idle: bool,
}

impl Setup {
    fn read(input: &mut Input<'_>) -> Setup {
        let policy = match input.byte() % 8 {
            0..=3 => SyncPolicy::Manual,
            4 | 5 => SyncPolicy::Immediate,
            6 => SyncPolicy::Batch { entries: 5, bytes: 1000 },
            _ => SyncPolicy::Interval(Duration::from_millis(1)),
        };
        Setup {
            policy,
            is_compressing: input.byte() & 1 != 0,
            usual_len: input.one_of(&[8, 32, 72, 200, 700]),
            rng: Rng::new(u64::from(input.short())),
            payloads: 0,
            may_idle: true,
        }
    }

    fn options(&self, how: u8, mode: RecoveryMode) -> Options {
        let verify = if how & 1 == 0 { Verify::Unproven } else { Verify::All };
        let size = 8192 + 4096 * u64::from(how >> 3 & 1);
        let options = Options::new().segment_size(size).sync_policy(self.policy).verify(verify).recovery(mode);
        if self.is_compressing {
            compressing(options)
        } else {
            options
        }
    }

    fn payload(&mut self, len: usize) -> Vec<u8> {
        self.payloads += 1;
        let number = self.payloads.to_be_bytes();
        number.iter().rev().copied().cycle().take(len).collect()
    }

    /// A length that is mostly the usual one.
    fn len(&self, input: &mut Input<'_>) -> usize {
        match input.byte() {
            byte @ 0..=31 => usize::from(byte) * 60,
            _ => self.usual_len,
        }
    }
}

/// What a crash has left.
struct Wreckage<'s> {
    scratch: &'s Path,
    roots: u32,
    root: PathBuf,
    disk: Disk,
    expect: Expect,
    /// What a salvage shows is what an open finds after one more crash. It is not where a cut was killed of which the page cache
    /// alone knows: a strict open makes the cut durable, and a salvage, which writes nothing, shows it all the same.
    is_settled: bool,
}

impl<'s> Wreckage<'s> {
    fn open(self, setup: &mut Setup, input: &mut Input<'_>) -> World<'s> {
        let Wreckage { scratch, roots, root, disk, expect, is_settled } = self;
        let model = Arc::new(Mutex::new(Model::Opening(expect)));
        let sim = Sim::start(&root, disk, Arc::clone(&model), Rng::new(setup.rng.next()));
        Closed { scratch, roots, root, sim, model, is_settled, is_clean: false }.open(setup, input)
    }
}

/// A world in which the log is not open.
struct Closed<'s> {
    scratch: &'s Path,
    roots: u32,
    root: PathBuf,
    sim: Sim<Model>,
    model: Arc<Mutex<Model>>,
    is_settled: bool,
    is_clean: bool,
}

impl<'s> Closed<'s> {
    /// Opens the log, again and again while crashes come in between, and judges what is recovered.
    fn open(self, setup: &mut Setup, input: &mut Input<'_>) -> World<'s> {
        let Closed { scratch, roots, root, sim, model, is_settled, is_clean } = self;
        let (how, crash) = (input.byte(), crash(input.byte()));
        if let (Some(crash), Some(operation)) = (crash, how.checked_sub(200)) {
            sim.plan_crash(u64::from(operation), crash);
        }
        let is_salvaged = is_settled && how & 6 == 6;
        let mode = if is_salvaged { RecoveryMode::Salvage } else { RecoveryMode::Strict };
        let opened = setup.options(how, mode).open(&root);
        let read = opened.and_then(|log| Ok((Recovered::read(&log)?, log.validate()?, log)));
        let (recovered, validated, log) = match read {
            Ok(read) => read,
            Err(_) if sim.stopped() => {
                return Stopped { scratch, roots, root, sim, is_settled }.wreck().open(setup, input);
            }
            Err(error) => panic!("a crash image does not open: {error}"),
        };
        if !sim.stopped() {
            let report = log.recovery();
            assert!(report.losses.is_empty(), "a crash is called damage: {report}");
            assert!(report.clean || !is_clean, "it was closed: {report}");
            assert!(report.proven_seq <= report.last_seq, "{report}");
            assert!(validated.is_intact() && validated.entries == recovered.entries.len() as u64, "{validated:?}");
            match &*lock(&model) {
                Model::Opening(expect) => expect.check(&recovered),
                Model::Running(_) => unreachable!("the log was opened"),
            }
            let mut running = recovered.running();
            if is_salvaged {
                // A salvage makes nothing durable before the first change.
                running.durable = log.durable_seq();
            }
            assert_eq!(log.durable_seq(), running.durable, "what was recovered is durable");
            *lock(&model) = Model::Running(running);
        }
        World { scratch, roots, root, sim, model, log, is_settled, is_salvaged }
    }
}

/// A simulated world that has stopped.
struct Stopped<'s> {
    scratch: &'s Path,
    roots: u32,
    root: PathBuf,
    sim: Sim<Model>,
    is_settled: bool,
}

impl<'s> Stopped<'s> {
    /// What the crash has left, in a directory of its own.
    fn wreck(self) -> Wreckage<'s> {
        let Stopped { scratch, roots, root, sim, is_settled } = self;
        let mut wreck = sim.wreck(Crash::PowerCut);
        let expect = wreck.model.clone().expect(wreck.crash);
        let after_power_cut = wreck.model.clone().expect(Crash::PowerCut);
        wreck.power_cuts.iter().take(EXAMINED).for_each(|image| examine(image, &after_power_cut, scratch));
        let is_settled = match &wreck.model {
            _ if wreck.crash == Crash::PowerCut => true,
            Model::Opening(_) => is_settled,
            Model::Running(running) => {
                !matches!(running.doing, Some(Doing::TruncateBefore(_) | Doing::TruncateAfter(_) | Doing::Reset(_)))
            }
        };
        let roots = roots + 1;
        let next = scratch.join(roots.to_string());
        let disk = wreck.settle(&next);
        std::fs::remove_dir_all(root).unwrap();
        Wreckage { scratch, roots, root: next, disk, expect, is_settled }
    }
}

/// Recovers what else a power cut might have left, in peace.
fn examine(image: &Image, expect: &Expect, scratch: &Path) {
    let root = scratch.join("copy");
    image.write_to(&root);
    let log = options(RecoveryMode::Strict, Verify::All).open(&root).unwrap();
    assert_eq!(log.recovery().losses, [], "a crash is called damage");
    expect.check(&Recovered::read(&log).unwrap());
    drop(log);
    std::fs::remove_dir_all(root).unwrap();
}

/// A log that is open, its model, and the world that they live in.
struct World<'s> {
    scratch: &'s Path,
    roots: u32,
    root: PathBuf,
    sim: Sim<Model>,
    model: Arc<Mutex<Model>>,
    log: Log,
    is_settled: bool,
    is_salvaged: bool,
}

fn crash(byte: u8) -> Option<Crash> {
    [None, Some(Crash::Kill), Some(Crash::PowerCut), Some(Crash::PowerCut)][usize::from(byte % 4)]
}

impl<'s> World<'s> {
    /// Makes the next call. If the world stops in it, the log is recovered.
    fn call(mut self, setup: &mut Setup, input: &mut Input<'_>, held: &mut Held) -> World<'s> {
        if self.sim.stopped() {
            return self.wreck().open(setup, input);
        }
        let kind = input.byte() % 22;
        let result = match kind {
            17 => return self.reopen(setup, input),
            18 | 19 => {
                let crash = if input.byte() & 1 == 0 { Crash::PowerCut } else { Crash::Kill };
                return self.crash(crash).open(setup, input);
            }
            20 => {
                let crash = crash(input.byte()).unwrap_or(Crash::PowerCut);
                self.sim.plan_crash(1 + u64::from(input.byte()), crash);
                Ok(())
            }
            _ => self.simple_call(kind, setup, input, held),
        };
        match result {
            Ok(()) => self,
            Err(_) if self.sim.stopped() => self.wreck().open(setup, input),
            Err(error) => panic!("a call failed in a world that goes on: {error}"),
        }
    }

    fn simple_call(&mut self, kind: u8, setup: &mut Setup, input: &mut Input<'_>, held: &mut Held) -> Result<()> {
        let (first, next) = {
            let mut model = lock(&self.model);
            let running = model.running();
            (running.first, running.next())
        };
        match kind {
            0..=3 => {
                let payload = setup.payload(setup.len(input));
                self.append(vec![payload], |log, payloads| log.append(&payloads[0]).map(|seq| seq..seq + 1))
            }
            4 => {
                let payload = setup.payload(setup.len(input));
                self.append(vec![payload], |log, payloads| {
                    let payload = &payloads[0];
                    log.append_with(payload.len(), |place| place.copy_from_slice(payload)).map(|seq| seq..seq + 1)
                })
            }
            5 => {
                let payload = setup.payload(setup.len(input));
                self.append(vec![payload], |log, payloads| {
                    log.append_as(&payloads[0], Ack::Durable).map(|seq| seq..seq + 1)
                })?;
                self.became_durable(next);
                Ok(())
            }
            6 => {
                let count = 2 + input.below(20);
                let len = setup.usual_len.min(8064 / count - 40);
                let payloads = (0..count).map(|_| setup.payload(len)).collect();
                self.append(payloads, |log, payloads| log.append_batch(payloads))
            }
            7 => (0..input.below(30)).try_for_each(|_| {
                let payload = setup.payload(setup.usual_len);
                self.append(vec![payload], |log, payloads| log.append(&payloads[0]).map(|seq| seq..seq + 1))
            }),
            8 => {
                let durable = self.upkeep("sync", |log| log.sync())?;
                assert_eq!(durable, next - 1);
                self.became_durable(next - 1);
                Ok(())
            }
            9 if next > first => {
                let seq = pick(first..next, input);
                self.upkeep("wait_durable", |log| log.wait_durable(seq))?;
                self.became_durable(seq);
                Ok(())
            }
            10 => self.truncate_before(pick(first..next + 1, input)),
            11 => {
                let lowest = if input.byte() & 3 == 0 { first - 1 } else { (first - 1).max(next.saturating_sub(10)) };
                self.truncate_after(pick(lowest..next, input))
            }
            12 => {
                self.upkeep("rotate", |log| log.rotate())?;
                self.became_durable(next - 1);
                Ok(())
            }
            13 => self.reset(input.one_of(&[1, next.saturating_sub(20).max(1), next, next + 1000])),
            14 => {
                held.views.push((self.log.view(), lock(&self.model).running().entries.clone()));
                Ok(())
            }
            15 if next > first => {
                let seq = pick(first..next, input);
                let entry = self.log.get(seq)?.unwrap();
                held.pins.push((entry, lock(&self.model).running().entries[&seq].clone()));
                Ok(())
            }
            21 if std::mem::take(&mut setup.may_idle) => {
                // The keeper has time to store a mark.
                std::thread::sleep(Duration::from_millis(6));
                Ok(())
            }
            _ => {
                let read = Recovered::read(&self.log)?;
                let validated = self.log.validate()?;
                held.check();
                let mut model = lock(&self.model);
                let running = model.running();
                assert!(read.first == running.first && read.entries == running.entries, "the log reads differently");
                assert!(validated.is_intact() && validated.entries == running.entries.len() as u64, "{validated:?}");
                Ok(())
            }
        }
    }

    fn append(
        &mut self,
        payloads: Vec<Vec<u8>>,
        call: impl FnOnce(&Log, &[Vec<u8>]) -> Result<Range<u64>>,
    ) -> Result<()> {
        let before = {
            let mut model = lock(&self.model);
            let running = model.running();
            running.doing = Some(Doing::Append { payloads: payloads.clone(), durable: running.durable });
            running.durable
        };
        let returned = call(&self.log, &payloads);
        let mut model = lock(&self.model);
        let running = model.running();
        assert_eq!(returned?, running.next()..running.next() + payloads.len() as u64);
        running.push(payloads, before);
        running.doing = None;
        let durable = self.log.durable_seq();
        assert!(durable >= running.durable && durable <= running.last(), "durable_seq is {durable}");
        running.durable = durable;
        Ok(())
    }

    fn became_durable(&self, seq: u64) {
        let durable = self.log.durable_seq();
        assert!(durable >= seq, "durable_seq is {durable}, {seq} was waited for");
        let mut model = lock(&self.model);
        let running = model.running();
        running.durable = running.durable.max(seq);
    }

    fn upkeep<T>(&self, what: &'static str, call: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
        lock(&self.model).running().doing = Some(Doing::Upkeep(what));
        let returned = call(&self.log)?;
        lock(&self.model).running().doing = None;
        Ok(returned)
    }

    fn truncate_before(&mut self, seq: u64) -> Result<()> {
        lock(&self.model).running().doing = Some(Doing::TruncateBefore(seq));
        let first = self.log.truncate_before(seq)?;
        let mut model = lock(&self.model);
        let running = model.running();
        assert!((running.first..=seq.max(running.first)).contains(&first), "truncate_before {seq}: {first}");
        running.drop_before(first);
        running.doing = None;
        Ok(())
    }

    fn truncate_after(&mut self, seq: u64) -> Result<()> {
        lock(&self.model).running().doing = Some(Doing::TruncateAfter(seq));
        self.log.truncate_after(seq)?;
        let mut model = lock(&self.model);
        let running = model.running();
        if seq < running.last() {
            running.drop_after(seq);
        }
        (running.durable, running.doing) = (running.last(), None);
        assert_eq!((self.log.next_seq(), self.log.durable_seq()), (running.next(), running.durable));
        Ok(())
    }

    fn reset(&mut self, next: u64) -> Result<()> {
        lock(&self.model).running().doing = Some(Doing::Reset(next));
        self.log.reset(next)?;
        *lock(&self.model).running() = Running::empty(next);
        Ok(())
    }

    /// Closes the log and opens it again where it lies.
    fn reopen(self, setup: &mut Setup, input: &mut Input<'_>) -> World<'s> {
        lock(&self.model).running().doing = Some(Doing::Upkeep("close"));
        let closed = self.log.close();
        if self.sim.stopped() {
            return self.wreck().open(setup, input);
        }
        closed.unwrap_or_else(|error| panic!("close: {error}"));
        let World { scratch, roots, root, sim, model, log, is_salvaged, .. } = self;
        drop(log);
        let expect = lock(&model).running().expect(Crash::Kill);
        *lock(&model) = Model::Opening(expect);
        // One that was salvaged and not changed is left as it was found.
        Closed { scratch, roots, root, sim, model, is_settled: true, is_clean: !is_salvaged }.open(setup, input)
    }

    /// Stops the world now, if it has not stopped yet.
    fn crash(self, crash: Crash) -> Wreckage<'s> {
        self.sim.stop(crash, "a call");
        self.wreck()
    }

    /// What the crash has left that stopped the world.
    fn wreck(self) -> Wreckage<'s> {
        let World { scratch, roots, root, sim, log, is_settled, .. } = self;
        drop(log);
        Stopped { scratch, roots, root, sim, is_settled }.wreck()
    }
}

fn pick(seqs: Range<u64>, input: &mut Input<'_>) -> u64 {
    seqs.start + (seqs.end - seqs.start) * u64::from(input.byte()) / 256
}

/// What was borrowed, each with what it has to be.
#[derive(Default)]
struct Held {
    views: Vec<(View, BTreeMap<u64, Vec<u8>>)>,
    pins: Vec<(PinnedEntry, Vec<u8>)>,
}

impl Held {
    fn check(&self) {
        for (view, entries) in &self.views {
            let read = view.iter().map(|entry| entry.unwrap());
            assert!(read.map(|entry| entry.payload().to_vec()).eq(entries.values().cloned()), "a view has changed");
        }
        for (entry, payload) in &self.pins {
            assert!(entry.payload() == payload, "pinned seq {} has changed", entry.seq());
        }
    }
}
