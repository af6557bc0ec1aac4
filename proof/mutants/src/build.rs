//! One build with all mutants in it, and the tests that it has; builds with a single one.

use crate::hunt::run_all;
use crate::mutant::{Genre, Mutant, Outcome};
use crate::weave::{weave, Numbered};
use anyhow::{bail, ensure, Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tree with mutants in it.
pub(crate) struct Build<'t> {
    tree: &'t Path,
    /// Each file as it was.
    originals: BTreeMap<String, String>,
    /// The site of each mutant that the build has.
    pub(crate) sites: HashMap<usize, usize>,
    /// Mutants of which the compiler said that they are no Rust, as it would without a switch.
    pub(crate) unviable: BTreeSet<usize>,
}

/// What a mutant may be that no author should: unused, or something that overflows for sure. It shall do so when it runs.
const ALLOWED: &str = "-Awarnings -Aarithmetic_overflow -Aunconditional_panic";

/// The file of the crate's root.
const ROOT: &str = "src/lib.rs";

/// Where a mutant's value is of the wrong type it is so with a switch or without one. Others may fail for their switch's sake.
fn fails_anyway(mutant: &Mutant) -> bool {
    mutant.genre == Genre::FnValue
}

impl<'t> Build<'t> {
    /// Weaves the mutants into the sources of `tree`, without those that do not compile.
    pub(crate) fn with_all(tree: &'t Path, mutants: &[Mutant]) -> Result<Build<'t>> {
        let mut files: BTreeMap<String, Vec<Numbered<'_>>> = BTreeMap::new();
        for (number, mutant) in (1..).zip(mutants) {
            files.entry(mutant.file.clone()).or_default().push((number, mutant));
        }
        let read = |file: &String| Ok((file.clone(), std::fs::read_to_string(tree.join(file))?));
        let mut originals = files.keys().map(read).collect::<Result<BTreeMap<_, _>>>()?;
        let root = std::fs::read_to_string(tree.join(ROOT))?;
        std::fs::write(tree.join(ROOT), root.clone() + include_str!("switch.rs"))?;

        let mut broken = BTreeSet::new();
        loop {
            let mut sites = HashMap::new();
            for (file, of_file) in &files {
                let left: Vec<_> = of_file.iter().filter(|(number, _)| !broken.contains(number)).copied().collect();
                let (woven, found) = weave(&originals[file], &left).with_context(|| file.clone())?;
                std::fs::write(tree.join(file), woven)?;
                sites.extend(found);
            }
            let found = broken_mutants(tree)?;
            if found.is_empty() {
                originals.insert(ROOT.to_owned(), root);
                let unviable = broken.into_iter().filter(|number| fails_anyway(&mutants[number - 1])).collect();
                return Ok(Build { tree, originals, sites, unviable });
            }
            broken.extend(found);
        }
    }

    /// Takes all mutants out again.
    pub(crate) fn restore(&self) -> Result<()> {
        self.originals.iter().try_for_each(|(file, text)| Ok(std::fs::write(self.tree.join(file), text)?))
    }

    /// Builds the tree with this one mutant in it, and runs the tests.
    pub(crate) fn run_alone(&self, mutant: &Mutant) -> Result<Outcome> {
        let original = &self.originals[&mutant.file];
        let mut changed = original.clone();
        changed.replace_range(mutant.span.bytes(original), &mutant.replacement);
        std::fs::write(self.tree.join(&mutant.file), changed)?;
        let outcome = match tests(self.tree)? {
            None => Outcome::Unviable,
            Some(tests) => run_all(self.tree, &tests)?,
        };
        std::fs::write(self.tree.join(&mutant.file), original)?;
        Ok(outcome)
    }
}

#[derive(Deserialize)]
struct Line {
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Message {
    level: String,
    rendered: String,
    spans: Vec<MessageSpan>,
}

#[derive(Deserialize)]
struct MessageSpan {
    file_name: PathBuf,
    is_primary: bool,
    line_start: usize,
    line_end: usize,
}

/// The mutants that the compiler has errors about.
fn broken_mutants(tree: &Path) -> Result<BTreeSet<usize>> {
    let mut check = Command::new("cargo");
    check.args(["check", "--profile=mutants", "--lib", "--features=__testing", "--message-format=json"]);
    check.current_dir(tree).env("RUSTFLAGS", ALLOWED);
    let checked = check.output()?;
    let mut broken = BTreeSet::new();
    for line in String::from_utf8(checked.stdout)?.lines() {
        let Some(message) = serde_json::from_str::<Line>(line)?.message.filter(|message| message.level == "error")
        else {
            continue;
        };
        let named = |is_primary: bool| {
            let spans = message.spans.iter().filter(move |span| span.is_primary == is_primary);
            spans.map(|span| named_in(tree, span)).collect::<Result<Vec<_>>>()
        };
        // What an error is about, or else what it mentions.
        let about: BTreeSet<usize> = named(true)?.into_iter().flatten().collect();
        let mentioned: BTreeSet<usize> = named(false)?.into_iter().flatten().collect();
        let names_none = about.is_empty() && mentioned.is_empty();
        if names_none && !message.spans.is_empty() {
            bail!("no mutant's fault:\n{}", message.rendered);
        }
        broken.extend(if about.is_empty() { mentioned } else { about });
    }
    ensure!(checked.status.success() || !broken.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
    Ok(broken)
}

/// The mutants that the lines of a span name.
fn named_in(tree: &Path, span: &MessageSpan) -> Result<Vec<usize>> {
    let text = std::fs::read_to_string(tree.join(&span.file_name)).unwrap_or_default(); // not ours
    let lines = text.lines().take(span.line_end).skip(span.line_start - 1);
    let names = lines.flat_map(|line| line.split("/*mutant ").skip(1)).filter_map(|rest| rest.split("*/").next());
    names.map(|number| Ok(number.parse()?)).collect()
}

/// A test of one of the binaries.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    pub(crate) binary: PathBuf,
    pub(crate) name: String,
}

#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
}

/// Builds the tests of `tree`; those that are selected, or None if they do not compile.
pub(crate) fn tests(tree: &Path) -> Result<Option<Vec<Test>>> {
    let mut build = Command::new("cargo");
    build.args(["test", "--no-run", "--profile=mutants", "--lib", "--test=it", "--features=__testing"]);
    build.arg("--message-format=json").current_dir(tree).env("RUSTFLAGS", ALLOWED);
    let built = build.output()?;
    if !built.status.success() {
        return Ok(None);
    }
    let mut tests = Vec::new();
    for line in String::from_utf8(built.stdout)?.lines() {
        if let Some(binary) = serde_json::from_str::<Artifact>(line)?.executable {
            let ignored = listed(&binary, &["--ignored"])?;
            let names = listed(&binary, &[])?.into_iter().filter(|name| is_selected(name) && !ignored.contains(name));
            tests.extend(names.map(|name| Test { binary: binary.clone(), name }));
        }
    }
    Ok(Some(tests))
}

/// The names of tests that a binary has.
fn listed(binary: &Path, options: &[&str]) -> Result<BTreeSet<String>> {
    let listed = Command::new(binary).args(["--list", "--format=terse"]).args(options).output()?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let lines = String::from_utf8(listed.stdout)?;
    Ok(lines.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect())
}

/// The modules and tests that are left out, a line for each: they take long, or see little that others do not see.
const LEFT_OUT: &str = include_str!("../left-out");

fn is_selected(test: &str) -> bool {
    !LEFT_OUT.lines().any(|prefix| test.starts_with(prefix))
}
