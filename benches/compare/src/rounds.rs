//! Runs the subjects of one work in turn, several rounds, so that a slow minute of the machine hits them all.

use crate::machine::Device;
use crate::works::Work;
use anyhow::{Context, Result};
use std::path::Path;
use tempfile::TempDir;

/// What is true of an entry when a subject's append returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It is in memory of the process: a kill loses it.
    #[cfg_attr(not(feature = "peers"), allow(dead_code))] // peers alone promise so little
    Memory,
    /// It is in the page cache: a power cut loses it.
    PageCache,
    /// It is on the disk.
    Durable,
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Promise::Memory => "memory",
            Promise::PageCache => "page cache",
            Promise::Durable => "durable",
        })
    }
}

/// What a slice of a work comes to.
pub trait Sample: Sized {
    /// What the slices of a round come to. There is at least one.
    fn of_round(slices: Vec<Self>) -> Self;
}

/// A figure in the work's unit. That of a round is its slices' median: what the machine did to a few of them is not in it.
impl Sample for f64 {
    fn of_round(mut slices: Vec<f64>) -> f64 {
        slices.sort_by(f64::total_cmp);
        slices[slices.len() / 2]
    }
}

/// Does one slice of a work. Preparing and cleaning up are not in what it returns.
pub type Slice<S = f64> = Box<dyn FnMut() -> Result<S>>;

/// Prepares a round in a directory.
type Prepare<S> = Box<dyn FnMut(&Path) -> Result<Slice<S>>>;

/// A slice that is all of a round.
pub fn once<S: 'static>(run: impl FnOnce() -> Result<S> + 'static) -> Slice<S> {
    let mut run = Some(run);
    Box::new(move || run.take().context("a round's one slice was taken twice")?())
}

/// One who does a work.
pub struct Subject<S = f64> {
    pub name: &'static str,
    pub promise: Promise,
    /// Prepares a round, in an empty directory of its own.
    prepare: Prepare<S>,
    /// Whether a round has as many slices as its work says, in turn with the others'. Otherwise it has one, which is the whole work.
    is_sliced: bool,
}

impl<S> Subject<S> {
    /// One who does the whole work at once.
    pub fn new(
        name: &'static str,
        promise: Promise,
        prepare: impl FnMut(&Path) -> Result<Slice<S>> + 'static,
    ) -> Subject<S> {
        Subject { name, promise, prepare: Box::new(prepare), is_sliced: false }
    }

    /// One who takes turns with the others, slice by slice.
    pub fn sliced(
        name: &'static str,
        promise: Promise,
        prepare: impl FnMut(&Path) -> Result<Slice<S>> + 'static,
    ) -> Subject<S> {
        Subject { is_sliced: true, ..Subject::new(name, promise, prepare) }
    }

    /// Those that do the whole work at once are slow, and not held against a bar: a third of the rounds will do.
    fn takes_part_in(&self, round: usize) -> bool {
        self.is_sliced || round.is_multiple_of(3)
    }

    fn slices(&self, work: Work) -> usize {
        if self.is_sliced {
            work.slices()
        } else {
            1
        }
    }
}

impl Subject {
    /// The same work by the same subject, with what it makes the device write as its figure: bytes an entry. All slices in a row.
    pub fn written(self, work: Work) -> Subject {
        let slices = self.slices(work);
        let mut prepare = self.prepare;
        Subject::new(self.name, self.promise, move |dir| {
            let (mut slice, device) = (prepare(dir)?, Device::of(dir)?);
            Ok(once(move || {
                let before = device.written()?;
                for _ in 0..slices {
                    slice()?;
                }
                Ok((device.written()? - before) as f64 / work.entries() as f64)
            }))
        })
    }
}

/// What one subject did, a sample a round.
pub struct Rounds<S> {
    pub subject: &'static str,
    pub promise: Promise,
    pub samples: Vec<S>,
}

/// A row that cannot be had on this machine, and why.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// Has each subject do the work `count` times, each time beginning with another one. A subject that fails is reported and left out:
/// a peer's bug is no reason to know nothing.
pub fn run<S: Sample>(
    work: Work,
    count: usize,
    scratch: &Path,
    mut subjects: Vec<Subject<S>>,
) -> Result<Vec<Rounds<S>>, Skipped> {
    let mut samples: Vec<Vec<S>> = subjects.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![false; subjects.len()];
    for round in 0..count {
        let (sliced, whole): (Vec<usize>, Vec<usize>) = (0..subjects.len())
            .map(|turn| (round + turn) % subjects.len())
            .filter(|&index| !failed[index] && subjects[index].takes_part_in(round))
            .partition(|&index| subjects[index].is_sliced);
        for group in std::iter::once(sliced).chain(whole.into_iter().map(|index| vec![index])) {
            match run_round(work, scratch, &mut subjects, &group) {
                Ok(done) => group.iter().zip(done).for_each(|(&index, sample)| samples[index].push(sample)),
                Err((index, error)) => {
                    let error = match error.downcast::<Skipped>() {
                        Ok(skipped) => return Err(skipped),
                        Err(error) => error,
                    };
                    eprintln!("{work}: {} failed, and is left out: {error:#}", subjects[index].name);
                    failed[index] = true;
                }
            }
        }
    }
    let done = subjects.iter().zip(samples).filter(|(_, samples)| !samples.is_empty());
    Ok(done.map(|(subject, samples)| Rounds { subject: subject.name, promise: subject.promise, samples }).collect())
}

/// One round of those that take turns; what each did, or who failed.
fn run_round<S: Sample>(
    work: Work,
    scratch: &Path,
    subjects: &mut [Subject<S>],
    group: &[usize],
) -> Result<Vec<S>, (usize, anyhow::Error)> {
    let mut dirs = Vec::new();
    let mut slices = Vec::new();
    for &index in group {
        let mut prepare = || -> Result<Slice<S>> {
            let dir = tempfile::Builder::new().prefix("run-").tempdir_in(scratch).context("a directory for a run")?;
            let slice = (subjects[index].prepare)(dir.path())?;
            dirs.push(dir);
            Ok(slice)
        };
        slices.push(prepare().map_err(|error| (index, error))?);
    }
    let count = group.first().map_or(1, |&index| subjects[index].slices(work));
    let mut samples: Vec<Vec<S>> = group.iter().map(|_| Vec::with_capacity(count)).collect();
    for turn in 0..count {
        for place in 0..group.len() {
            let place = (turn + place) % group.len();
            samples[place].push(slices[place]().map_err(|error| (group[place], error))?);
        }
    }
    Ok(samples.into_iter().map(S::of_round).collect())
}

/// What a subject makes in its first round, in a directory beside the round's, for all rounds: making it takes longer than what is
/// measured.
pub struct Kept<T>(Option<(TempDir, T)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(None)
    }
}

impl<T> Kept<T> {
    /// Its directory and what was made, if need be now, for a round in `dir`.
    pub fn get(&mut self, dir: &Path, make: impl FnOnce(&Path) -> Result<T>) -> Result<(&Path, &T)> {
        if self.0.is_none() {
            let beside = dir.parent().context("a directory beside the run's")?;
            let dir = tempfile::Builder::new().prefix("kept-").tempdir_in(beside)?;
            let made = make(dir.path())?;
            self.0 = Some((dir, made));
        }
        let (dir, made) = self.0.as_ref().context("made above")?;
        Ok((dir.path(), made))
    }
}
