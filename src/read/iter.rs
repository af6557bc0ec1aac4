//! Iterators: over a view's borrowed entries, and over pinned ones.

use super::entry::{Entry, PinnedEntry};
use super::run::Run;
use super::view::View;
use super::walk::Walk;
use crate::error::Result;
use std::iter::FusedIterator;
use std::ops::Range;

/// The entries of a [`View`], borrowed from it, from either end.
///
/// An item is `Err` where an entry cannot be read. In a log that was opened strictly the iterator then ends; in one that was opened
/// to salvage, a damaged stretch is one `Err`, and the iterator goes on behind it.
#[derive(Debug, Clone)]
pub struct Iter<'v> {
    view: &'v View,
    walk: Walk,
    /// What comes next and needs no walk: the walk stands where the run began.
    run: Option<Run<'v>>,
}

impl<'v> Iter<'v> {
    pub(super) fn new(view: &'v View, walk: Walk) -> Self {
        Iter { view, walk, run: None }
    }

    /// Has the walk come to where the run has.
    fn end_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.walk.skip_to(run.position());
        }
    }

    /// The next entry where there is no run, or where it ends.
    #[inline(never)]
    fn walk_on(&mut self) -> Option<Result<Entry<'v>>> {
        self.end_run();
        let entry = step(self.view, &mut self.walk, |walk, view| {
            Some(walk.next(&view.slots, view.next_seq)?.and_then(|found| Entry::new(&found)))
        });
        if matches!(entry, Some(Ok(_))) {
            self.run = self.walk.run(&self.view.slots, self.view.next_seq);
        }
        entry
    }
}

impl<'v> Iterator for Iter<'v> {
    type Item = Result<Entry<'v>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.run.as_mut().and_then(Run::next) {
            Some(entry) => Some(Ok(entry)),
            None => self.walk_on(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.walk.left();
        size_hint(self.run.as_ref().map_or(left.start, |run| run.position().seq)..left.end)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.end_run();
        step(self.view, &mut self.walk, |walk, view| {
            Some(walk.next_back(&view.slots, view.next_seq)?.and_then(|found| Entry::new(&found)))
        })
    }
}

impl FusedIterator for Iter<'_> {}

/// The entries of a log, each of which keeps its own segment alive: to hand to other threads, or to keep.
///
/// It runs over the snapshot of the moment it was made, and treats damage as [`Iter`] does.
#[derive(Debug, Clone)]
pub struct LogIter {
    view: View,
    walk: Walk,
}

impl LogIter {
    pub(crate) fn new(view: View) -> LogIter {
        let walk = Walk::new(view.first_seq()..view.next_seq(), view.on_damage);
        LogIter { view, walk }
    }
}

/// One step of an iterator: `next` finds an entry. A view of a closed log says so, once; an entry that is found and cannot be had is
/// damage like any other.
#[inline]
fn step<'v, T>(
    view: &'v View,
    walk: &mut Walk,
    next: impl FnOnce(&mut Walk, &'v View) -> Option<Result<T>>,
) -> Option<Result<T>> {
    if walk.left().is_empty() {
        return None;
    }
    if let Err(closed) = view.check_open() {
        *walk = Walk::new(0..0, view.on_damage);
        return Some(Err(closed));
    }
    let entry = next(walk, view)?;
    if entry.is_err() {
        walk.meet_damage();
    }
    Some(entry)
}

impl Iterator for LogIter {
    type Item = Result<PinnedEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        step(&self.view, &mut self.walk, |walk, view| {
            Some(walk.next(&view.slots, view.next_seq)?.and_then(|found| PinnedEntry::new(&found)))
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        size_hint(self.walk.left())
    }
}

impl DoubleEndedIterator for LogIter {
    fn next_back(&mut self) -> Option<Self::Item> {
        step(&self.view, &mut self.walk, |walk, view| {
            Some(walk.next_back(&view.slots, view.next_seq)?.and_then(|found| PinnedEntry::new(&found)))
        })
    }
}

impl FusedIterator for LogIter {}

/// Damaged stretches make one item of many seqs, so only the upper bound is known.
fn size_hint(left: Range<u64>) -> (usize, Option<usize>) {
    (usize::from(!left.is_empty()), usize::try_from(left.end - left.start).ok())
}
