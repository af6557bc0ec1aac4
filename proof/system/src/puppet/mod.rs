//! The puppet: a process that holds a log, does what it is told, and says what came of it. The harnesses judge by what it says.
//!
//! Orders come as lines of JSON on its standard input, and each is answered by a line on its standard output, once the log's own
//! threads are idle: so the system calls of a run are the same each time. A first answer says that it is ready. The process makes no
//! file call of its own between an order and its answer, and is killed with whoever started it.

mod act;
mod handle;
mod idle;
mod payload;
mod words;

pub use handle::{End, Puppet};
pub use words::{Answer, Command, Failure, How, Kind, Order, Outcome, Policy, Run, State};

use anyhow::{Context, Result};
use nix::sys::{prctl, signal::Signal};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The log's directory.
    dir: PathBuf,
}

/// The process's side.
pub fn run(args: &Args) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut actor = act::Actor::new(&args.dir);
    answer(&Answer { outcome: Outcome::Done, state: None })?;
    for line in std::io::stdin().lines() {
        let order: Order = serde_json::from_str(&line?).context("an order")?;
        answer(&actor.act(order))?;
    }
    Ok(())
}

fn answer(answer: &Answer) -> Result<()> {
    let line = serde_json::to_string(answer)? + "\n";
    Ok(std::io::stdout().write_all(line.as_bytes())?)
}
