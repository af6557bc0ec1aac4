//! The table and the JSON.

use crate::bars;
use crate::contest::{FLOOR, OURS};
use crate::rounds::{Promise, Rounds, Skipped};
use crate::works::Row;
use anyhow::{Context, Result};
use serde_json::{json, Value};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// What one subject's rounds came to in one row.
#[derive(Debug, Clone)]
pub struct Figure {
    pub row: Row,
    pub subject: &'static str,
    pub promise: Promise,
    /// One figure a round, in order of size.
    sorted: Vec<f64>,
}

impl Figure {
    /// What `of` makes of each round's sample.
    fn new<S>(row: Row, rounds: &Rounds<S>, of: impl Fn(&S) -> f64) -> Figure {
        let mut sorted: Vec<f64> = rounds.samples.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        Figure { row, subject: rounds.subject, promise: rounds.promise, sorted }
    }

    pub fn median(&self) -> f64 {
        self.sorted[self.sorted.len() / 2]
    }

    /// The distance from the first to the third quartile, as a part of the median.
    fn spread(&self) -> f64 {
        let quartile = |part: usize| self.sorted[(self.sorted.len() - 1) * part / 4];
        (quartile(3) - quartile(1)) / self.median()
    }
}

/// Collects what was measured.
pub struct Report {
    json: Option<File>,
    missed: Vec<String>,
}

impl Report {
    pub fn new(json: Option<&Path>) -> Result<Report> {
        let create = |path: &Path| File::create(path).with_context(|| path.display().to_string());
        Ok(Report { json: json.map(create).transpose()?, missed: Vec::new() })
    }

    /// Prints what stands above the rows.
    pub fn print_head(&self) {
        println!(
            "{:<44} {:<12} {:<10} {:>12} {:>7} {:>8}  bar",
            "work", "subject", "promise", "median", "spread", "x floor"
        );
    }

    /// Prints one row: what `of` makes of each round's sample, or why there is nothing.
    pub fn add<S>(&mut self, row: Row, done: &Result<Vec<Rounds<S>>, Skipped>, of: impl Fn(&S) -> f64) -> Result<()> {
        match done {
            Ok(done) => self.print(&done.iter().map(|rounds| Figure::new(row, rounds, &of)).collect::<Vec<_>>()),
            Err(why) => self.skip(row, why),
        }
    }

    fn print(&mut self, figures: &[Figure]) -> Result<()> {
        let floor = figures.iter().find(|figure| figure.subject == FLOOR).map(Figure::median);
        let verdict = bars::verdict(figures);
        for figure in figures {
            let Figure { row, subject, promise, .. } = figure;
            let (name, unit, median) = (row.to_string(), row.unit(), figure.median());
            let ratio = floor.map(|floor| median / floor);
            let verdict = verdict.as_ref().filter(|_| *subject == OURS);
            let bar = verdict
                .map_or(String::new(), |(text, held)| format!("{text}: {}", if *held { "held" } else { "MISSED" }));
            println!(
                "{name:<44} {subject:<12} {promise:<10} {median:>12.1} {unit:<7} {:>4.0} % {:>8}  {bar}",
                100.0 * figure.spread(),
                ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
            );
            if verdict.is_some_and(|(_, held)| !held) {
                self.missed.push(name.clone());
            }
            self.write_json(json!({
                "work": name, "size": row.work.size(), "threads": row.work.threads(), "subject": subject,
                "value": median, "unit": unit, "floor_ratio": ratio,
                "bar": verdict.map(|(text, _)| text), "held": verdict.map(|(_, held)| held),
            }))?;
        }
        Ok(())
    }

    fn skip(&mut self, row: Row, why: &Skipped) -> Result<()> {
        println!("{:<44} skipped: {why}", row.to_string());
        self.write_json(json!({
            "work": row.to_string(), "size": row.work.size(), "threads": row.work.threads(), "subject": OURS,
            "value": null, "unit": row.unit(), "floor_ratio": null, "bar": null, "held": null,
        }))
    }

    /// Prints what stands above rows of several measures, each with its unit.
    pub fn print_measures(&self, of: &str, measures: &[(&str, &str)]) {
        print!("{of:<20}");
        for (name, unit) in measures {
            print!(" {:>19}", format!("{name}, {unit}"));
        }
        println!();
    }

    /// Prints one row of several measures of one log of entries of `size` bytes.
    pub fn add_measures(&mut self, of: &str, size: usize, measures: &[(&str, &str)], values: &[f64]) -> Result<()> {
        print!("{of:<20}");
        for ((name, unit), value) in measures.iter().zip(values) {
            print!(" {value:>19.2}");
            self.write_json(json!({
                "work": format!("growth, {of}: {name}"), "size": size, "threads": 1, "subject": OURS,
                "value": value, "unit": unit, "floor_ratio": null, "bar": null, "held": null,
            }))?;
        }
        println!();
        Ok(())
    }

    fn write_json(&mut self, object: Value) -> Result<()> {
        if let Some(json) = &mut self.json {
            writeln!(json, "{object}")?;
        }
        Ok(())
    }

    /// Names the bars that were missed; whether there was none.
    pub fn finish(self) -> Result<bool> {
        for work in &self.missed {
            println!("missed: {work}");
        }
        Ok(self.missed.is_empty())
    }
}
