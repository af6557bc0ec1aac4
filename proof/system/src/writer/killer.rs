//! When a writer kills itself: from within, for the time to hit is often shorter than a signal takes from another process.

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// What a writer does when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    Open,
    /// Appends from several threads.
    Load,
    /// Appends a large batch.
    Batch,
    /// Rotates, truncates or resets.
    Upkeep,
    Close,
}

/// So many microseconds after a phase begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillAt {
    pub phase: Phase,
    pub micros: u64,
}

impl fmt::Display for KillAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.phase.to_possible_value();
        write!(f, "{}:{}", name.as_ref().map_or("", |name| name.get_name()), self.micros)
    }
}

impl FromStr for KillAt {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<KillAt> {
        let (name, micros) = text.split_once(':').with_context(|| format!("{text} is not PHASE:MICROSECONDS"))?;
        let phase = Phase::from_str(name, false).map_err(anyhow::Error::msg)?;
        Ok(KillAt { phase, micros: micros.parse()? })
    }
}

/// Kills this process when its time has come.
#[derive(Debug, Clone, Copy)]
pub struct Killer(Option<KillAt>);

impl Killer {
    pub fn new(at: Option<KillAt>) -> Killer {
        Killer(at)
    }

    /// A phase begins.
    pub fn enter(&self, phase: Phase) {
        let Some(KillAt { micros, .. }) = self.0.filter(|at| at.phase == phase) else {
            return;
        };
        let due = Instant::now() + Duration::from_micros(micros);
        std::thread::spawn(move || {
            // The last stretch is too short to sleep.
            std::thread::sleep(due.saturating_duration_since(Instant::now() + Duration::from_micros(100)));
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            kill(Pid::this(), Signal::SIGKILL)
        });
    }
}
