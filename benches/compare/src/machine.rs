//! What is asked of the machine.

use crate::rounds::Skipped;
use anyhow::{ensure, Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs `f` on one core. Threads that `f` starts stay there too: start them before.
pub fn pinned<T>(f: impl FnOnce() -> T) -> T {
    let before = rustix::thread::sched_getaffinity(None);
    let mut one = rustix::thread::CpuSet::new();
    one.set(std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1));
    // A machine that does not let us pin is measured unpinned.
    let _ = rustix::thread::sched_setaffinity(None, &one);
    let result = f();
    if let Ok(before) = before {
        let _ = rustix::thread::sched_setaffinity(None, &before);
    }
    result
}

/// The block device below a directory. It counts what anybody writes to it: run alone.
pub struct Device {
    dir: File,
    stat: PathBuf,
}

impl Device {
    /// # Errors
    /// [`Skipped`] if the kernel keeps no count: the directory is in memory, or on several devices.
    pub fn of(dir: &Path) -> Result<Device> {
        let dir = File::open(dir)?;
        let number = rustix::fs::fstat(&dir)?.st_dev;
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        if !stat.exists() {
            return Err(Skipped(format!("no {}", stat.display())).into());
        }
        Ok(Device { dir, stat })
    }

    /// The bytes that were written to the device so far, after a sync of its file system.
    pub fn written(&self) -> Result<u64> {
        /// As the kernel counts them, whatever the device's own are.
        const SECTOR: u64 = 512;
        rustix::fs::syncfs(&self.dir)?;
        let stat = fs::read_to_string(&self.stat)?;
        let sectors: u64 = stat.split_whitespace().nth(6).context("the sectors written")?.parse()?;
        Ok(sectors * SECTOR)
    }
}

/// Bytes of memory of this process that no file stands behind.
pub fn anonymous_memory() -> Result<u64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line =
        rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("a line about anonymous memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Instructions that an append spends on the counters of `stats()`. The script that counts is the only place that knows how.
///
/// # Errors
/// [`Skipped`] if the script says that it cannot count here.
pub fn instructions_of_counters() -> Result<f64> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/instructions.sh");
    let Output { status, stdout, .. } = Command::new(script).arg("counters").stderr(Stdio::inherit()).output()?;
    let stdout = String::from_utf8(stdout)?;
    let line = stdout.lines().last().unwrap_or_default();
    if let Some(why) = line.strip_prefix("skipped: ") {
        return Err(Skipped(why.to_owned()).into());
    }
    ensure!(status.success(), "counting instructions ended with {status}");
    Ok(line.split_whitespace().last().context("a figure")?.parse()?)
}
