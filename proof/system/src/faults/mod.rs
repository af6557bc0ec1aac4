//! Every system call fails once. A script takes a log through its life; each file, mapping and sync call that the library makes in it
//! fails in a run of its own, with each error that fits it, and in another one the process is killed there.
//!
//! strace makes the calls fail. It counts them for each thread, so the thread that is meant is traced alone: the first one from its
//! start, the log's own from the moment on in which it is open and they sleep. The puppet waits after each command until these are idle,
//! so every run makes the same calls. That is checked at the start of a scene, and the call that was hit is looked at in each run.

mod judge;
mod run;
mod scenes;
mod table;
mod trace;

use crate::part::part;
use crate::puppet::{Command, Policy};
use crate::scratch;
use crate::worlds::Worlds;
use anyhow::{bail, ensure, Context, Result};
use judge::Verdict;
use run::{Fault, Point, Record, Role};
use scenes::Scene;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Debug, clap::Args)]
pub struct Faults {
    /// Only runs whose name contains this: SCENE/THREAD/CALL#NTH(FILE)@STEP:FAULT.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Of all that befalls a point, every Nth, from the Kth on, which is another one for the next point.
    #[arg(long, value_name = "K/N", default_value = "0/1", value_parser = part)]
    part: (usize, usize),
    /// Where the logs are: no fault needs a disk.
    #[arg(long, value_name = "DIR", default_value_os_t = scratch::memory_dir())]
    scratch: PathBuf,
    /// Runs at a time: they sleep half of their time.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Lists the runs instead.
    #[arg(long)]
    list: bool,
}

/// As often a scene is run without a fault, to see that it makes the same calls each time.
const BASES: usize = 3;
/// A run in which the call was not met, for a thread came late on a busy machine, is done again so often.
const TRIES: usize = 5;
/// More violations say nothing more.
const VIOLATIONS_MAX: usize = 20;

/// One run.
struct Job<'b> {
    /// The number of the point and that of the fault, added up.
    number: usize,
    base: &'b Base,
    point: &'b Point,
    fault: Fault,
}

/// A scene without a fault, as one of its threads does it.
struct Base {
    scene: Arc<Prepared>,
    record: Record,
}

struct Prepared {
    scene: Scene,
    /// The log that the script starts from, and what it holds.
    template: PathBuf,
    worlds: Worlds,
}

impl Faults {
    pub fn run(&self) -> Result<()> {
        let scratch = scratch::dir(&self.scratch)?;
        let bases = self.bases(scratch.path())?;
        let all = jobs(&bases)?;
        let selected: Vec<&Job<'_>> = all.iter().filter(|job| self.selects(job)).collect();
        ensure!(!selected.is_empty(), "no run is selected");
        if self.list {
            selected.iter().for_each(|job| println!("{}", job.name()));
            return Ok(());
        }
        let points =
            |jobs: &mut dyn Iterator<Item = &Job<'_>>| jobs.map(Job::point_name).collect::<BTreeSet<_>>().len();
        let (met, of) = (points(&mut selected.iter().copied()), points(&mut all.iter()));
        let kinds = all.iter().map(|job| job.point.call.name.as_str()).collect::<BTreeSet<_>>().len();
        let runs = format!("{met} of {of} points of {kinds} kinds of calls, {} of {} runs", selected.len(), all.len());
        println!("{runs}");
        match do_all(&selected, self.jobs, scratch.path())? {
            0 => println!("ok {runs}, 0 violations"),
            violations => bail!("{violations} violations"),
        }
        Ok(())
    }

    /// The scenes without a fault.
    fn bases(&self, scratch: &Path) -> Result<Vec<Base>> {
        let mut bases = Vec::new();
        // A name with a slash is that of a scene up to there: no other needs to be run.
        let scene_only = self.only.split_once('/').map_or("", |(scene, _)| scene);
        for scene in scenes::scenes().into_iter().filter(|scene| scene.name.ends_with(scene_only)) {
            let template = scratch.join(scene.name);
            std::fs::create_dir(&template)?;
            let worlds = scene.prepare(&template)?;
            let prepared = Arc::new(Prepared { scene, template, worlds });
            for role in roles(&prepared.scene) {
                match base(&prepared, role, &scratch.join("base"))? {
                    Ok(base) => bases.push(base),
                    Err(why) => bail!("violation: {}/{role}, without a fault: {why}", prepared.scene.name),
                }
            }
        }
        Ok(bases)
    }

    fn selects(&self, job: &Job<'_>) -> bool {
        let (k, n) = self.part;
        job.number % n == k && job.name().contains(&self.only)
    }
}

/// The threads of the library that a scene knows.
fn roles(scene: &Scene) -> Vec<Role> {
    let mut roles = vec![Role::Main];
    let opens = scene.script.iter().filter(|command| matches!(command, Command::Open { .. }));
    for (number, open) in (1..).zip(opens) {
        roles.push(Role::Keeper(number));
        if matches!(open, Command::Open { policy: Policy::Interval, .. }) {
            roles.push(Role::Ticker(number));
        }
    }
    roles
}

/// Runs a scene without a fault, several times: the calls are the same each time.
fn base(prepared: &Arc<Prepared>, role: Role, dir: &Path) -> Result<Verdict<Base>> {
    let scene = &prepared.scene;
    let mut records = Vec::new();
    for _ in 0..BASES {
        prepared.copy_to(dir)?;
        records.push(run::run(scene, role, None, dir)?);
    }
    let record = records.pop().context("a run")?;
    for other in &records {
        if !judge::is_same_run(&record, other) {
            bail!("{}/{role}: two runs without a fault differ\n{}", scene.name, difference(&record, other));
        }
    }
    let worlds = match judge_base(&record, prepared.worlds.clone()) {
        Ok(worlds) => worlds,
        Err(why) => return Ok(Err(why)),
    };
    if scene.name == "rotate" {
        ensure!(run::has_recycled_file(&dir.join(scene.dir))?, "no file was used again");
    }
    let left = prepared.check_what_is_left(dir, worlds)?;
    Ok(left.map(|()| Base { scene: Arc::clone(prepared), record }))
}

/// Without a fault, everything succeeds.
fn judge_base(record: &Record, mut worlds: Worlds) -> Verdict<Worlds> {
    for (step, told) in record.told.iter().enumerate() {
        let outcome = told.answer.as_ref().map(|answer| &answer.outcome);
        match outcome {
            None | Some(crate::puppet::Outcome::Failed(_)) => {
                return Err(format!("step {step}, {}: {outcome:?}, {:?}", told.command, record.end))
            }
            Some(_) => worlds.apply(step as u32, &told.command, outcome)?,
        }
    }
    Ok(worlds)
}

fn difference(one: &Record, other: &Record) -> String {
    let lines = |record: &Record| -> Vec<String> {
        let calls = record.calls.iter().map(Point::to_string);
        calls.chain(record.told.iter().map(|told| format!("{told:?}"))).collect()
    };
    let (one, other) = (lines(one), lines(other));
    let only = |in_this: &[String], not_in: &[String]| {
        let missing = in_this.iter().filter(|line| !not_in.contains(line)).take(10);
        missing.map(|line| format!("  {line}\n")).collect::<String>()
    };
    format!("only in one:\n{}only in the other:\n{}", only(&one, &other), only(&other, &one))
}

fn jobs(bases: &[Base]) -> Result<Vec<Job<'_>>> {
    let mut jobs = Vec::new();
    for base in bases {
        let only = base.scene.scene.only;
        let is_meant = |point: &&Point| only.is_none_or(|only| only.contains(&point.call.name.as_str()));
        for (index, point) in base.record.calls.iter().filter(is_meant).enumerate() {
            let faults =
                table::faults(&point.call).with_context(|| format!("{point}: a call that the table does not know"))?;
            jobs.extend((index..).zip(faults).map(|(number, fault)| Job { number, base, point, fault }));
        }
    }
    Ok(jobs)
}

impl Prepared {
    fn copy_to(&self, dir: &Path) -> Result<()> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        run::copy_dir(&self.template, dir)
    }

    fn check_what_is_left(&self, dir: &Path, worlds: Worlds) -> Result<Verdict> {
        let open = self.scene.script.iter().find(|command| matches!(command, Command::Open { .. }));
        let Some(&Command::Open { policy, segment_size }) = open else { bail!("a script without an open") };
        judge::check_what_is_left(&dir.join(self.scene.dir), policy, segment_size, worlds)
    }
}

impl Job<'_> {
    fn point_name(&self) -> String {
        format!("{}/{}", self.base.scene.scene.name, self.point)
    }

    fn name(&self) -> String {
        format!("{}:{}", self.point_name(), self.fault)
    }

    /// Does the run; the verdict.
    fn run(&self, dir: &Path) -> Result<Verdict> {
        let prepared = &self.base.scene;
        for _ in 0..TRIES {
            prepared.copy_to(dir)?;
            let record = run::run(&prepared.scene, self.point.role, Some((self.point, self.fault)), dir)?;
            if !record.calls.iter().any(|point| point.call.is_hit && point.is_as(self.point)) {
                continue;
            }
            return Ok(
                match judge::judge(&self.base.record, &record, self.point, self.fault, prepared.worlds.clone()) {
                    Ok(worlds) => prepared.check_what_is_left(dir, worlds)?,
                    Err(why) => Err(why),
                },
            );
        }
        bail!("{}: the call was not met", self.name())
    }
}

/// Does the runs, several at a time; the number of violations.
fn do_all(selected: &[&Job<'_>], jobs: usize, scratch: &Path) -> Result<usize> {
    let next = AtomicUsize::new(0);
    let violations = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for worker in 0..jobs {
            let (next, violations, failure) = (&next, &violations, &failure);
            scope.spawn(move || {
                let dir = scratch.join(format!("worker-{worker}"));
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = selected.get(index) else { break };
                    if index > 0 && index % 500 == 0 {
                        println!("{index} runs");
                    }
                    match job.run(&dir) {
                        Ok(Ok(())) => {}
                        Ok(Err(why)) => {
                            println!("violation: {}: {why}", job.name());
                            if violations.fetch_add(1, Ordering::Relaxed) + 1 >= VIOLATIONS_MAX {
                                next.store(selected.len(), Ordering::Relaxed);
                            }
                        }
                        Err(error) => {
                            next.store(selected.len(), Ordering::Relaxed);
                            *failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some(error) => Err(error),
        None => Ok(violations.into_inner()),
    }
}
