//! The mutants, as cargo-mutants lists them.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// A change of a stretch of one file.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) genre: Genre,
    pub(crate) replacement: String,
    pub(crate) span: Span,
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub(crate) enum Genre {
    /// The body of a function.
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    /// A field of a struct expression that has a base.
    StructField,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Span {
    start: Place,
    end: Place,
}

/// Both from one.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn offset(self, text: &str) -> usize {
        let before: usize = text.split_inclusive('\n').take(self.line - 1).map(str::len).sum();
        let rest = &text[before..];
        before + rest.char_indices().nth(self.column - 1).map_or(rest.len(), |(offset, _)| offset)
    }
}

impl Span {
    /// The stretch, in bytes of the file that holds `text`.
    pub(crate) fn bytes(&self, text: &str) -> std::ops::Range<usize> {
        self.start.offset(text)..self.end.offset(text)
    }
}

/// What became of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Caught,
    /// A test hung.
    Timeout,
    Missed,
    /// It is no Rust.
    Unviable,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Outcome::Caught => "caught",
            Outcome::Timeout => "timeout",
            Outcome::Missed => "missed",
            Outcome::Unviable => "unviable",
        })
    }
}

/// All mutants of the package in `tree`. The number of one is its place in the list, from one.
pub(crate) fn list(tree: &Path) -> Result<Vec<Mutant>> {
    let listed = Command::new("cargo").args(["mutants", "--list", "--json"]).current_dir(tree).output()?;
    serde_json::from_slice(&listed.stdout).context("the list of cargo-mutants")
}
