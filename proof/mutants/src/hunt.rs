//! Runs tests against one mutant after the other. A test that does not reach a mutant cannot notice it, and is not run against it; of the
//! others one failure is enough.

use crate::build::Test;
use crate::mutant::{Mutant, Outcome};
use anyhow::{ensure, Result};
use rustix::process::{kill_process_group, Pid, Signal};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// So many tests run at once.
const AT_ONCE: usize = 3;
/// A test that takes longer than this, and twenty times what it takes without a mutant, hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a test of the tree without a mutant takes, and reaches.
struct Reach {
    took: Duration,
    sites: HashSet<usize>,
}

pub(crate) struct Hunt<'t> {
    tree: &'t Path,
    tests: &'t [Test],
    reach: Vec<Reach>,
    /// How often a test noticed a mutant of a file.
    noticed: Mutex<HashMap<(String, usize), u32>>,
}

/// A test that runs. Dropped, it and all that it started are killed, and its files are gone.
struct Running {
    child: Child,
    since: Instant,
    _files: TempDir,
}

impl Running {
    fn outcome(mut self, patience: Duration) -> Result<Outcome> {
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(Outcome::Missed),
                Some(_) => return Ok(Outcome::Caught),
                None if self.since.elapsed() > patience => return Ok(Outcome::Timeout),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn start(tree: &Path, test: &Test, variable: &str, value: &str) -> Result<Running> {
    let files = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir()?;
    let mut command = Command::new(&test.binary);
    command.args(["--exact", &test.name]).current_dir(tree).process_group(0);
    command.env(variable, value).env("TMPDIR", files.path()).env("CARGO_MANIFEST_DIR", tree);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Running { child: command.spawn()?, since: Instant::now(), _files: files })
}

impl<'t> Hunt<'t> {
    /// Runs each test without a mutant: it must pass.
    pub(crate) fn new(tree: &'t Path, tests: &'t [Test]) -> Result<Hunt<'t>> {
        let notes = tempfile::tempdir()?;
        std::fs::set_permissions(notes.path(), PermissionsExt::from_mode(0o755))?;
        let reach = in_parallel(0..tests.len(), |test| {
            let note = notes.path().join(test.to_string());
            std::fs::write(&note, "")?;
            // A test may become another user.
            std::fs::set_permissions(&note, PermissionsExt::from_mode(0o666))?;
            let mut running = start(tree, &tests[test], "MUTANTS_REACHED", &note.to_string_lossy())?;
            ensure!(running.child.wait()?.success(), "{} fails without a mutant", tests[test].name);
            let sites = std::fs::read_to_string(&note)?.lines().map(str::parse).collect::<Result<_, _>>()?;
            Ok(Reach { took: running.since.elapsed(), sites })
        })?;
        Ok(Hunt { tree, tests, reach, noticed: Mutex::default() })
    }

    /// How long all tests took, one after the other.
    pub(crate) fn took(&self) -> Duration {
        self.reach.iter().map(|reach| reach.took).sum()
    }

    /// Runs the tests that reach a mutant until one notices it: it fails twice, or hangs.
    pub(crate) fn run(&self, number: usize, mutant: &Mutant, site: usize) -> Result<Outcome> {
        for test in self.order(mutant, site) {
            let mut outcome = self.outcome(test, number)?;
            if outcome == Outcome::Caught {
                // Again: one that fails now and then, on a busy machine, has noticed nothing.
                outcome = self.outcome(test, number)?;
                if outcome == Outcome::Missed {
                    eprintln!("failed once, and not again: {}, with {}", self.tests[test].name, mutant.name);
                }
            }
            if outcome != Outcome::Missed {
                *self.noticed.lock().expect("no panic").entry((mutant.file.clone(), test)).or_default() += 1;
                return Ok(outcome);
            }
        }
        Ok(Outcome::Missed)
    }

    /// The tests that reach a site; first those that noticed others of this file, and take little time.
    fn order(&self, mutant: &Mutant, site: usize) -> Vec<usize> {
        let mut tests: Vec<usize> =
            (0..self.tests.len()).filter(|test| self.reach[*test].sites.contains(&site)).collect();
        let noticed = self.noticed.lock().expect("no panic");
        tests.sort_by_key(|test| {
            let noticed = noticed.get(&(mutant.file.clone(), *test)).copied().unwrap_or(0);
            (self.reach[*test].took + Duration::from_millis(20)) / (1 + 4 * noticed)
        });
        tests
    }

    fn outcome(&self, test: usize, number: usize) -> Result<Outcome> {
        // One that hangs takes much longer than without the mutant.
        let patience = PATIENCE + 20 * self.reach[test].took;
        start(self.tree, &self.tests[test], "MUTANT", &number.to_string())?.outcome(patience)
    }
}

/// Runs all tests of a build that has one mutant, until one of them notices it.
pub(crate) fn run_all(tree: &Path, tests: &[Test]) -> Result<Outcome> {
    let noticed = OnceLock::new();
    in_parallel(tests.iter(), |test| {
        if noticed.get().is_none() {
            let outcome = start(tree, test, "MUTANT", "alone")?.outcome(3 * PATIENCE)?;
            if outcome != Outcome::Missed {
                let _ = noticed.set(outcome); // the first one counts
            }
        }
        Ok(())
    })?;
    Ok(noticed.into_inner().unwrap_or(Outcome::Missed))
}

/// Calls `call` for each item, on a few threads; the results in the order of the items.
pub(crate) fn in_parallel<I: Send, T: Send>(
    items: impl Iterator<Item = I> + Send,
    call: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let items = Mutex::new(items.enumerate());
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| loop {
                let Some((index, item)) = items.lock().expect("no panic").next() else { break };
                let result = call(item);
                results.lock().expect("no panic").insert(index, result);
            });
        }
    });
    results.into_inner().expect("no panic").into_values().collect()
}
