//! The table and the JSON.

use crate::bars;
use crate::contest::{FLOOR, OURS};
use crate::rounds::Figure;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Collects what was measured.
pub struct Report {
    json: Option<File>,
    missed: Vec<String>,
}

impl Report {
    pub fn new(json: Option<&Path>) -> Result<Report> {
        let create = |path: &Path| File::create(path).with_context(|| path.display().to_string());
        println!(
            "{:<44} {:<12} {:<10} {:>12} {:>7} {:>8}  bar",
            "work", "subject", "promise", "median", "spread", "x floor"
        );
        Ok(Report { json: json.map(create).transpose()?, missed: Vec::new() })
    }

    /// Prints the figures of one work.
    pub fn add(&mut self, figures: &[Figure]) -> Result<()> {
        let floor = figures.iter().find(|figure| figure.subject == FLOOR).map(Figure::median);
        let verdict = bars::verdict(figures);
        for figure in figures {
            let Figure { work, subject, promise, .. } = figure;
            let (name, unit, median) = (work.to_string(), work.unit(), figure.median());
            let ratio = floor.map(|floor| median / floor);
            let verdict = verdict.as_ref().filter(|_| *subject == OURS);
            let bar = verdict
                .map_or(String::new(), |(text, held)| format!("{text}: {}", if *held { "held" } else { "MISSED" }));
            println!(
                "{name:<44} {subject:<12} {promise:<10} {median:>9.1} {unit:<4} {:>4.0} % {:>8}  {bar}",
                100.0 * figure.spread(),
                ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
            );
            if verdict.is_some_and(|(_, held)| !held) {
                self.missed.push(name.clone());
            }
            if let Some(json) = &mut self.json {
                let row = serde_json::json!({
                    "work": name, "size": work.size(), "threads": work.threads(), "subject": subject,
                    "value": median, "unit": unit, "floor_ratio": ratio,
                    "bar": verdict.map(|(text, _)| text), "held": verdict.map(|(_, held)| held),
                });
                writeln!(json, "{row}")?;
            }
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
