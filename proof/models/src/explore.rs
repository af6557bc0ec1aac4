//! Runs a model again and again, each time under another schedule, until one breaks a promise or all were fine.

use crate::scene::Scene;
use shuttle::scheduler::{
    DataSource, PctScheduler, RandomDataSource, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use shuttle_engine::runtime::execution::CurrentSchedule;
use shuttle_engine::scheduler::serialization::serialize_schedule;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// What threads may do to each other in a log, and what must come of it.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// One execution. It panics where a promise is broken.
    pub(crate) run: fn(&Arc<Scene>),
    /// What must have happened in some execution of many, or the model shows nothing.
    pub(crate) meets: &'static [&'static str],
}

/// How schedules are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// At each point by chance; in some executions all threads alike, in others mostly the one that runs.
    Random,
    /// Probabilistic concurrency testing: by priorities that change at this many points less one.
    Priorities(usize),
}

/// So many executions of a model.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) model: &'static Model,
    pub(crate) strategy: Strategy,
    pub(crate) executions: usize,
    pub(crate) seed: u64,
}

/// What was explored.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Explored {
    pub(crate) executions: u64,
    /// Points at which a thread was chosen.
    pub(crate) steps: u64,
}

/// The execution that broke a promise.
pub(crate) struct Violation {
    /// Which one, from 1.
    pub(crate) execution: u64,
    pub(crate) message: String,
    /// To be replayed.
    pub(crate) schedule: String,
}

std::thread_local! {
    /// What this thread's first panic said, since the last look.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has the first panic of each thread kept, and none printed: an execution that panics ends the exploration.
pub(crate) fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let place = info.location().map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
        PANIC.with_borrow_mut(|kept| kept.get_or_insert_with(|| format!("{text}{place}")).len());
    }));
}

impl Job {
    /// Explores, with logs in `dir`.
    pub(crate) fn run(&self, dir: &Path) -> Result<Explored, Violation> {
        match self.strategy {
            Strategy::Random => self.run_with(Sticky::new(self.seed, self.executions), dir),
            Strategy::Priorities(depth) => {
                self.run_with(PctScheduler::new_from_seed(self.seed, depth, self.executions), dir)
            }
        }
    }

    /// The one execution of `schedule`.
    pub(crate) fn replay(&self, schedule: &str, dir: &Path) -> Result<Explored, Violation> {
        self.run_with(ReplayScheduler::new_from_encoded(schedule), dir)
    }

    fn run_with(&self, scheduler: impl Scheduler + 'static, dir: &Path) -> Result<Explored, Violation> {
        Scene::prepare(dir, |make| {
            Runner::new(Sticky::new(0, 1), config()).run(make);
        });
        let (executions, steps) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let execution = {
            let (executions, steps, run, dir) = (executions.clone(), steps.clone(), self.model.run, dir.to_owned());
            move || {
                executions.fetch_add(1, Ordering::Relaxed);
                run(&Arc::new(Scene::new(&dir)));
                steps.fetch_add(shuttle::current::context_switches() as u64, Ordering::Relaxed);
            }
        };
        PANIC.take();
        let explored = catch_unwind(AssertUnwindSafe(|| Runner::new(scheduler, config()).run(execution)));
        let executions = executions.load(Ordering::Relaxed);
        match explored {
            Ok(_) => Ok(Explored { executions, steps: steps.load(Ordering::Relaxed) }),
            Err(_) => Err(Violation {
                execution: executions,
                message: PANIC.take().unwrap_or_default(),
                schedule: serialize_schedule(&CurrentSchedule::get_schedule()).split_whitespace().collect(),
            }),
        }
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    // Kept in the violation.
    config.failure_persistence = FailurePersistence::None;
    // Some fifty times what an execution takes: a thread that goes round in circles is one that hangs.
    config.max_steps = MaxSteps::FailAfter(200_000);
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config
}

/// Chooses by chance, in each execution with another inclination to stay with the thread that runs: races of a few operations want
/// all threads to go on in turn, others that one is held up for long.
#[derive(Debug)]
struct Sticky {
    executions_left: usize,
    data: RandomDataSource,
    /// State of the choices, apart from the data that a replay draws again.
    random: u64,
    /// How many choices of 256 stay.
    stays: u64,
}

impl Sticky {
    fn new(seed: u64, executions: usize) -> Sticky {
        Sticky { executions_left: executions, data: RandomDataSource::initialize(seed), random: 0, stays: 0 }
    }

    /// Splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Scheduler for Sticky {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.executions_left = self.executions_left.checked_sub(1)?;
        let seed = self.data.reinitialize();
        self.random = seed;
        self.stays = [0, 128, 224, 248, 254][self.next() as usize % 5];
        Some(Schedule::new(seed))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let runs = runnable.iter().position(|task| Some(task.id()) == current);
        let stays = self.next() % 256 < self.stays;
        let chosen = match runs {
            Some(runs) if stays && !is_yielding => runs,
            Some(runs) if is_yielding && runnable.len() > 1 => {
                (runs + 1 + self.next() as usize % (runnable.len() - 1)) % runnable.len()
            }
            _ => self.next() as usize % runnable.len(),
        };
        Some(runnable[chosen].id())
    }

    fn next_u64(&mut self) -> u64 {
        self.data.next_u64()
    }
}
