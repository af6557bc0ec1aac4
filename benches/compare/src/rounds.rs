//! Runs the subjects of one work in turn, several rounds, so that a slow minute of the machine hits them all.

use crate::works::Work;
use anyhow::{Context, Result};
use std::path::Path;

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

/// Does one slice of a work; the figure, in the work's unit. Preparing and cleaning up are not in it.
pub type Slice = Box<dyn FnMut() -> Result<f64>>;

/// Prepares a round in a directory.
type Prepare = Box<dyn FnMut(&Path) -> Result<Slice>>;

/// One who does a work.
pub struct Subject {
    pub name: &'static str,
    pub promise: Promise,
    /// Prepares a round, in an empty directory of its own.
    prepare: Prepare,
    /// A round has as many slices as its work says; otherwise one, which is the whole work.
    is_sliced: bool,
}

impl Subject {
    /// One who does the whole work at once.
    #[cfg_attr(not(feature = "peers"), allow(dead_code))]
    pub fn new(name: &'static str, promise: Promise, mut run: impl FnMut(&Path) -> Result<f64> + 'static) -> Subject {
        let prepare = move |dir: &Path| -> Result<Slice> {
            let figure = run(dir)?;
            Ok(Box::new(move || Ok(figure)))
        };
        Subject { name, promise, prepare: Box::new(prepare), is_sliced: false }
    }

    /// One who takes turns with the others, slice by slice.
    pub fn sliced(
        name: &'static str,
        promise: Promise,
        prepare: impl FnMut(&Path) -> Result<Slice> + 'static,
    ) -> Subject {
        Subject { name, promise, prepare: Box::new(prepare), is_sliced: true }
    }
}

/// What one subject's rounds came to.
#[derive(Debug, Clone)]
pub struct Figure {
    pub work: Work,
    pub subject: &'static str,
    pub promise: Promise,
    /// One figure a round, in order of size.
    sorted: Vec<f64>,
}

impl Figure {
    pub fn median(&self) -> f64 {
        self.sorted[self.sorted.len() / 2]
    }

    /// The distance from the first to the third quartile, as a part of the median.
    pub fn spread(&self) -> f64 {
        let quartile = |part: usize| self.sorted[(self.sorted.len() - 1) * part / 4];
        (quartile(3) - quartile(1)) / self.median()
    }
}

/// Has each subject do the work once a round, each time beginning with another one. A subject that fails is reported and left out:
/// a peer's bug is no reason to know nothing.
pub fn run(work: Work, rounds: usize, scratch: &Path, mut subjects: Vec<Subject>) -> Vec<Figure> {
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    let mut failed = vec![false; subjects.len()];
    for round in 0..rounds {
        let (sliced, whole): (Vec<usize>, Vec<usize>) = (0..subjects.len())
            .map(|turn| (round + turn) % subjects.len())
            .filter(|&index| !failed[index])
            .partition(|&index| subjects[index].is_sliced);
        let mut fail = |name, index: usize, error: anyhow::Error| {
            eprintln!("{work}: {name} failed, and is left out: {error:#}");
            failed[index] = true;
        };
        for group in std::iter::once(sliced).chain(whole.into_iter().map(|index| vec![index])) {
            match run_round(work, scratch, &mut subjects, &group) {
                Ok(medians) => group.iter().zip(medians).for_each(|(&index, median)| figures[index].push(median)),
                Err((index, error)) => fail(subjects[index].name, index, error),
            }
        }
    }
    let done = subjects.iter().zip(figures).filter(|(_, figures)| !figures.is_empty());
    done.map(|(subject, mut sorted)| {
        sorted.sort_by(f64::total_cmp);
        Figure { work, subject: subject.name, promise: subject.promise, sorted }
    })
    .collect()
}

/// One round of those that take turns; each one's median, or who failed.
fn run_round(
    work: Work,
    scratch: &Path,
    subjects: &mut [Subject],
    group: &[usize],
) -> Result<Vec<f64>, (usize, anyhow::Error)> {
    let mut dirs = Vec::new();
    let mut slices = Vec::new();
    for &index in group {
        let mut prepare = || -> Result<Slice> {
            let dir = tempfile::Builder::new().prefix("run-").tempdir_in(scratch).context("a directory for a run")?;
            let slice = (subjects[index].prepare)(dir.path())?;
            dirs.push(dir);
            Ok(slice)
        };
        slices.push(prepare().map_err(|error| (index, error))?);
    }
    let count = group.first().map_or(1, |&index| if subjects[index].is_sliced { work.slices() } else { 1 });
    let mut figures = vec![Vec::with_capacity(count); group.len()];
    for turn in 0..count {
        for place in 0..group.len() {
            let place = (turn + place) % group.len();
            figures[place].push(slices[place]().map_err(|error| (group[place], error))?);
        }
    }
    Ok(figures
        .into_iter()
        .map(|mut figures| {
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        })
        .collect())
}
