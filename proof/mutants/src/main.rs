//! Mutation testing without a build for each mutant: `mutants TREE K/N RESULTS`, as `ci/mutants.sh` runs it.
//!
//! TREE is a copy of the repository, which is changed. All mutants that cargo-mutants lists for it are built into one library, each behind a
//! switch; every Nth from the Kth on is switched on, and the selected tests that reach it run until one fails. Mutants of what the compiler
//! evaluates cannot be switched: for each of them there is a build. To the file RESULTS a line is added for each, outcome and name.

mod build;
mod hunt;
mod mutant;
mod weave;

use anyhow::{Context, Result};
use build::Build;
use hunt::{in_parallel, Hunt};
use mutant::{Mutant, Outcome};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().context("mutants TREE K/N RESULTS");
    let (tree, shard, results) = (argument()?, argument()?, argument()?);
    let (shard, shards) = shard.split_once('/').context("a shard is K/N")?;
    let (shard, shards): (usize, usize) = (shard.parse()?, shards.parse()?);
    let tree = Path::new(&tree);
    let results = std::fs::OpenOptions::new().create(true).append(true).open(results)?;

    let mutants = mutant::list(tree)?;
    let build = Build::with_all(tree, &mutants)?;
    let tests = build::tests(tree)?.context("the tests do not compile")?;
    let hunt = Hunt::new(tree, &tests)?;
    let (switched, took) = (build.sites.len(), hunt.took());
    eprintln!(
        "{switched} of {} mutants in one build; {} tests, {took:.1?} one after the other",
        mutants.len(),
        tests.len()
    );

    let note = |mutant: &Mutant, outcome: Outcome, since: Instant| {
        if matches!(outcome, Outcome::Missed | Outcome::Timeout) {
            eprintln!("{outcome} in {:.1?}: {}", since.elapsed(), mutant.name);
        }
        Ok(writeln!(&results, "{outcome}\t{}", mutant.name)?)
    };
    let of_shard: Vec<_> = (1..).zip(&mutants).skip(shard).step_by(shards).collect();
    let alone = in_parallel(of_shard.into_iter(), |(number, mutant)| {
        let since = Instant::now();
        let outcome = match build.sites.get(&number) {
            Some(site) => hunt.run(number, mutant, *site)?,
            None if build.unviable.contains(&number) => Outcome::Unviable,
            None => return Ok(Some(mutant)),
        };
        note(mutant, outcome, since).map(|()| None)
    })?;
    build.restore()?;
    for mutant in alone.into_iter().flatten() {
        let since = Instant::now();
        note(mutant, build.run_alone(mutant)?, since)?;
    }
    Ok(())
}
