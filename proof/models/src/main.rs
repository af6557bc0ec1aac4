//! Models of what threads do to each other in a log: maplog's own sources, all of them, over real files in memory, on threads whose
//! every step a scheduler chooses. See docs/testing.md, "Threads".

mod cuts;
mod entry;
mod explore;
mod followers;
mod group;
mod handles;
mod keeper;
mod mix;
mod publication;
mod scene;
mod segments;

use explore::{Explored, Job, Model, Strategy, Violation};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

const MODELS: &[Model] = &[
    Model { name: "publication", run: publication::run, meets: &[] },
    Model { name: "group", run: group::run, meets: &["poisoned"] },
    Model { name: "segments", run: segments::run, meets: &["recycled", "held what is gone"] },
    Model { name: "cuts", run: cuts::run, meets: &["truncated", "follower was cut"] },
    Model { name: "followers", run: followers::run, meets: FOLLOWERS_MEET },
    Model { name: "keeper", run: keeper::run, meets: &["no space", "a large file"] },
    Model { name: "mix", run: mix::run, meets: &["unclean", "mixed with poison"] },
    Model { name: "handles", run: handles::run, meets: &["closed by its own thread"] },
];

const FOLLOWERS_MEET: &[&str] =
    &["retention passed a follower", "a follower was closed", "a follower was poisoned", "followed to the end"];

const STRATEGIES: [Strategy; 3] = [Strategy::Random, Strategy::Priorities(2), Strategy::Priorities(4)];

const USAGE: &str = "usage: models [--executions N] [--seed N] [--only MODEL]... [--replay SCHEDULE]";

struct Args {
    executions: usize,
    seed: u64,
    only: Vec<String>,
    replay: Option<String>,
}

fn args() -> Option<Args> {
    let mut args = Args { executions: 1000, seed: 1, only: Vec::new(), replay: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--executions" => args.executions = value.parse().ok()?,
            "--seed" => args.seed = value.parse().ok()?,
            "--only" => args.only.push(value),
            "--replay" => args.replay = Some(value),
            _ => return None,
        }
    }
    Some(args)
}

fn main() -> ExitCode {
    let Some(args) = args() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let chosen = |model: &&Model| args.only.is_empty() || args.only.iter().any(|name| name == model.name);
    let models: Vec<&'static Model> = MODELS.iter().filter(chosen).collect();
    explore::keep_panics();
    let dir = scratch();
    let status = match (&args.replay, &models[..]) {
        (Some(schedule), [model]) => replay(model, schedule, &dir),
        (None, [_, ..]) => explore_all(&args, &models, &dir),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    };
    let _ = std::fs::remove_dir_all(&dir);
    status
}

/// A directory in memory, where there is one: a model syncs thousands of times.
fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let dir = parent.join(format!("maplog-models-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

fn replay(model: &'static Model, schedule: &str, dir: &Path) -> ExitCode {
    let job = Job { model, strategy: Strategy::Random, executions: 1, seed: 0 };
    scene::TELLS.store(true, std::sync::atomic::Ordering::Relaxed);
    match job.replay(schedule, dir) {
        Ok(explored) => {
            println!("ok 1 execution of {}, {} steps", model.name, explored.steps);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            print_violation(&job, &violation);
            ExitCode::FAILURE
        }
    }
}

/// Each model under each strategy, on as many threads as there are processors; the figures of each.
fn explore_all(args: &Args, models: &[&'static Model], dir: &Path) -> ExitCode {
    let executions = args.executions.div_ceil(STRATEGIES.len());
    let mut jobs = VecDeque::new();
    for (number, strategy) in STRATEGIES.into_iter().enumerate() {
        for model in models {
            // The same for a model whichever others are explored.
            let name = model.name.bytes().fold(number as u64, |sum, byte| sum.wrapping_mul(257) + u64::from(byte));
            jobs.push_back(Job { model, strategy, executions, seed: args.seed.wrapping_mul(1 << 32) ^ name });
        }
    }
    let jobs = Mutex::new(jobs);
    let done: Mutex<Vec<(Job, Explored)>> = Mutex::default();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (jobs, done, dir) = (&jobs, &done, dir.join(worker.to_string()));
            scope.spawn(move || {
                std::fs::create_dir_all(&dir).expect("a scratch directory");
                while let Some(job) = scene::locked(jobs).pop_front() {
                    match job.run(&dir) {
                        Ok(explored) => scene::locked(done).push((job, explored)),
                        Err(violation) => {
                            // Under the lock: one is told, with nothing between its lines.
                            let _one = scene::locked(done);
                            print_violation(&job, &violation);
                            let _ = std::fs::remove_dir_all(dir.parent().unwrap_or(&dir));
                            std::process::exit(1);
                        }
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    print_figures(args, models, &done)
}

fn print_violation(job: &Job, violation: &Violation) {
    let Violation { execution, message, schedule } = violation;
    let message = message.replace('\n', " ");
    println!("violation: model {}, execution {execution} of {:?}: {message}", job.model.name, job.strategy);
    println!("to see it again: models --only {} --replay {schedule}", job.model.name);
}

fn print_figures(args: &Args, models: &[&'static Model], done: &[(Job, Explored)]) -> ExitCode {
    let mut all = Explored::default();
    let mut missed = false;
    for model in models {
        let mut sum = Explored::default();
        for (_, explored) in done.iter().filter(|(job, _)| job.model.name == model.name) {
            sum.executions += explored.executions;
            sum.steps += explored.steps;
        }
        let met: Vec<_> = model.meets.iter().map(|what| format!("{what} {}", scene::times_met(what))).collect();
        println!(
            "{:<12} {:>8} executions, {:>6} steps each; {}",
            model.name,
            sum.executions,
            sum.steps / sum.executions,
            met.join(", ")
        );
        missed |= args.executions >= 1000 && model.meets.iter().any(|what| scene::times_met(what) == 0);
        all.executions += sum.executions;
    }
    if missed {
        println!("a model never came to what it is about");
        return ExitCode::FAILURE;
    }
    println!("ok {} executions of {} models", all.executions, models.len());
    ExitCode::SUCCESS
}
