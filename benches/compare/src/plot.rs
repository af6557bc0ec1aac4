//! Draws how long the slowest appends take: a line a subject, both axes logarithmic.

use crate::rounds::Rounds;
use crate::tails::Latencies;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// All lengths are in pixels.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 70.0;

/// Distinguishable without seeing red or green well.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Points of a line between a percentile and the next one with a nine more.
const POINTS_A_NINE: u32 = 40;

/// An axis from one power of ten to another, and where it lies on the paper.
struct Axis {
    /// Exponents of ten.
    from: f64,
    to: f64,
    /// Pixels.
    start: f64,
    end: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let part = (value.log10() - self.from) / (self.to - self.from);
        self.start + part * (self.end - self.start)
    }

    /// The whole exponents.
    fn powers(&self) -> impl Iterator<Item = i32> {
        self.from.ceil() as i32..=self.to as i32
    }
}

/// Writes the picture of all rounds of a work.
pub fn write(file: &Path, title: &str, done: &[Rounds<Latencies>]) -> Result<()> {
    let lines: Vec<(&str, Latencies)> =
        done.iter().map(|rounds| (rounds.subject, Latencies::merge(&rounds.samples))).collect();
    std::fs::write(file, draw(title, &lines)?).with_context(|| file.display().to_string())
}

fn draw(title: &str, lines: &[(&str, Latencies)]) -> Result<String> {
    let most = lines.iter().map(|(_, latencies)| latencies.count()).max().context("nothing to draw")? as f64;
    let slowest = lines.iter().map(|(_, latencies)| latencies.at(100.0)).fold(1.0, f64::max);
    // Where 1 of x appends is slower.
    let x = Axis { from: 0.0, to: most.log10(), start: LEFT, end: WIDTH - RIGHT };
    let y = Axis { from: 0.0, to: slowest.log10().ceil(), start: HEIGHT - BOTTOM, end: TOP };
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13">"#
    )?;
    writeln!(svg, r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#)?;
    let middle = (x.start + x.end) / 2.0;
    text(&mut svg, (middle, TOP - 22.0), "middle", title)?;
    text(&mut svg, (middle, HEIGHT - 18.0), "middle", "percentile of the appends")?;
    let (side, half) = (24.0, (y.start + y.end) / 2.0);
    writeln!(
        svg,
        r#"<text x="{side}" y="{half}" text-anchor="middle" transform="rotate(-90 {side} {half})">latency of an append</text>"#
    )?;
    for power in x.powers() {
        let at = x.place(10f64.powi(power));
        line(&mut svg, (at, y.start), (at, y.end))?;
        text(&mut svg, (at, y.start + 20.0), "middle", &percentile(power))?;
    }
    for power in y.powers() {
        let at = y.place(10f64.powi(power));
        line(&mut svg, (x.start, at), (x.end, at))?;
        text(&mut svg, (x.start - 8.0, at + 4.0), "end", &time(power))?;
    }
    for (number, (subject, latencies)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = curve(latencies).map(|(one_of, ns)| format!("{:.1},{:.1}", x.place(one_of), y.place(ns.max(1.0))));
        let points = points.collect::<Vec<_>>().join(" ");
        writeln!(svg, r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#)?;
        let (legend, down) = (x.end + 16.0, y.end + 14.0 + 22.0 * number as f64);
        writeln!(svg, r#"<rect x="{legend}" y="{}" width="18" height="4" fill="{colour}"/>"#, down - 6.0)?;
        text(&mut svg, (legend + 26.0, down), "start", subject)?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

/// The ns that 1 of so many appends takes at least, up to the slowest one.
fn curve(latencies: &Latencies) -> impl Iterator<Item = (f64, f64)> + '_ {
    let most = latencies.count() as f64;
    let steps = (most.log10() * f64::from(POINTS_A_NINE)) as u32;
    let one_of = (0..=steps).map(|step| 10f64.powf(f64::from(step) / f64::from(POINTS_A_NINE))).chain([most]);
    one_of.map(|one_of| (one_of, latencies.at(100.0 * (1.0 - 1.0 / one_of))))
}

/// The percentile that 1 of 10 to the power of `nines` is beyond.
fn percentile(nines: i32) -> String {
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        _ => format!("99.{} %", "9".repeat(nines as usize - 2)),
    }
}

/// 10 to the power of `power` ns.
fn time(power: i32) -> String {
    let unit = ["ns", "us", "ms", "s"].get(power as usize / 3).unwrap_or(&"s");
    format!("{} {unit}", 10_u32.pow(power as u32 % 3))
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) -> Result<()> {
    Ok(writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#)?)
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> Result<()> {
    Ok(writeln!(svg, r##"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="#dddddd"/>"##)?)
}
