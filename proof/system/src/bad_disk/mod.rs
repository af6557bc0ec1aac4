//! Bad disk: a disk that fails a write, a flush or a read, under a log on a real file system.
//!
//! A failed write or flush poisons the log; once the disk is healed, and after a power cut too, everything that was acked is there.
//! A sector that cannot be read is an error, and neither the end of the log nor a signal.

mod victim;

pub use victim::Victim;

use crate::check::OnDisk;
use crate::disk::{can_serve, Disk, Fault, FileSystem, Medium, Space, Style};
use crate::ledger::Ledger;
use crate::oracle::{Crash, Expect, Story};
use crate::rng::Rng;
use anyhow::{bail, ensure, Context, Result};
use clap::{Args, ValueEnum};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use victim::{doomed_bytes, Trouble, ARM, HEAL, LIFE, RUN};

#[derive(Debug, Args)]
pub struct BadDisk {
    /// The file systems.
    #[arg(long, value_delimiter = ',', default_value = "ext4,xfs,btrfs")]
    fs: Vec<FileSystem>,
    /// This trouble alone.
    #[arg(long)]
    only: Option<Trouble>,
}

/// Nothing arrives for so long: whoever had something to sync has done it.
const QUIET: Duration = Duration::from_millis(100);
/// No call takes so long, however busy the machine is.
const HANGS_AFTER: Duration = Duration::from_secs(60);

impl BadDisk {
    pub fn run(&self) -> Result<()> {
        ensure!(can_serve()?, "skipped: no /dev/fuse");
        let space = Space::enter()?;
        let mut cases = 0;
        for &kind in &self.fs {
            let empty = kind.make(&space)?;
            let patient = OnDisk { space: &space, kind, run: RUN };
            for &trouble in Trouble::value_variants() {
                if self.only.is_some_and(|only| only != trouble) {
                    continue;
                }
                let case = if trouble.is_of_reads() { read_case } else { write_case };
                let survived = case(patient, trouble, empty.clone());
                survived.with_context(|| format!("violation: {}, {trouble:?}", kind.name()))?;
                cases += 1;
            }
        }
        println!("ok {cases} cases, 0 violations");
        Ok(())
    }
}

/// What the disk refuses in a trouble.
fn fault(trouble: Trouble) -> Fault {
    use Trouble::*;
    const MANIFEST: &[u8] = b"MAPLOGMF";
    match trouble {
        WriteAtSync | WriteAtAppend | WriteAtRotate => Fault::Write(doomed_bytes()),
        WriteOfManifest | WriteOfMark => Fault::Write(MANIFEST.to_vec()),
        ReadOfEntry | ReadOfUnproven => Fault::Read(doomed_bytes()),
        ReadOfManifest => Fault::Read(MANIFEST.to_vec()),
        FlushAtTruncateBefore | FlushAtTruncateAfter | FlushAtReset => Fault::FlushAfter(MANIFEST.to_vec()),
        FlushAtSync | FlushAtAppend | FlushAtBatch | FlushAtRotate | FlushAtClose | FlushOfSealed => Fault::Flush,
    }
}

/// The log meets the fault while it writes. What was acked is there when the disk is healed, with all that the kernel has written
/// since, and also if the power goes at once.
fn write_case(patient: OnDisk, trouble: Trouble, medium: Medium) -> Result<()> {
    let disk = patient.mount(medium)?.map_err(anyhow::Error::msg)?;
    let ledger = Ledger::create(&patient.space.path("ledger"))?;
    let mut cut = None;
    suffer(patient, &disk, trouble, |asked| {
        if asked == ARM {
            disk.served().wait_quiet(QUIET);
            disk.served().set_fault(fault(trouble));
        } else {
            ensure!(disk.served().counts().faults > 0, "the fault was not met");
            cut = Some(disk.served().freeze().with(Style::None, &mut Rng::new(1)));
            disk.served().set_fault(Fault::None);
        }
        Ok(())
    })?;
    let healed = disk.unmount()?;
    let story = Story::read(&ledger.read_from(0)?, Expect::nothing(), RUN)?;
    let cut = cut.context("the victim never asked to be healed")?;
    for (medium, what) in [(healed, "healed"), (cut, "after a power cut")] {
        let disk = patient.mount(medium)?.map_err(anyhow::Error::msg).context(what)?;
        patient.check(disk, LIFE + 2, story.end(Crash::PowerCut)).context(what)?;
    }
    Ok(())
}

/// The log is written to a good disk, and meets the fault when it is opened or read.
fn read_case(patient: OnDisk, trouble: Trouble, medium: Medium) -> Result<()> {
    let disk = patient.mount(medium)?.map_err(anyhow::Error::msg)?;
    let ledger = Ledger::create(&patient.space.path("ledger"))?;
    suffer(patient, &disk, trouble, |asked| bail!("the victim asks to {asked}"))?;
    let medium = disk.unmount()?;
    let story = Story::read(&ledger.read_from(0)?, Expect::nothing(), RUN)?;

    let disk = patient.mount(medium)?.map_err(anyhow::Error::msg)?;
    disk.served().set_fault(fault(trouble));
    suffer(patient, &disk, trouble, |asked| bail!("the victim asks to {asked}"))?;
    ensure!(disk.served().counts().faults > 0, "the fault was not met");
    disk.served().set_fault(Fault::None);
    let medium = disk.unmount()?;

    let disk = patient.mount(medium)?.map_err(anyhow::Error::msg)?;
    patient.check(disk, LIFE + 2, story.end(Crash::Kill)).context("healed")
}

/// Runs the victim to its end, and does what it asks for.
fn suffer(patient: OnDisk, disk: &Disk, trouble: Trouble, mut answer: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let name = trouble.to_possible_value().context("a name")?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["victim", name.get_name()])
        .args([disk.log_dir(), patient.space.path("ledger")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("the victim")?;
    let mut answers = child.stdin.take().context("a pipe")?;
    let lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    let (send, lines_said) = mpsc::channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
    let mut said = Vec::new();
    loop {
        match lines_said.recv_timeout(HANGS_AFTER) {
            Ok(line) if line == ARM || line == HEAL => {
                answer(&line)?;
                writeln!(answers)?;
            }
            Ok(line) => said.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                bail!("the victim hangs: {}", said.join("; "));
            }
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "the victim ended with {status}: {}", said.join("; "));
    Ok(())
}
