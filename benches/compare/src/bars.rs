//! What maplog must reach: each a ratio to what was measured beside it in the same run.

use crate::contest::{FLOOR, OURS, TENTH};
use crate::report::Figure;
use crate::rounds::Promise;
use crate::works::{Aspect, Row, Work};

/// What our figure is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bar {
    /// At most so many times the floor's time.
    TimesFloor(f64),
    /// At least so many times the floor's rate.
    RateOfFloor(f64),
    /// At most so many times what maplog takes with a tenth of the bytes.
    TimesTenth(f64),
    /// So many times as good as each peer whose append reaches the page cache.
    BetterThanPageCachePeers(f64),
    /// So many times as good as every peer.
    BetterThanPeers(f64),
    /// At most so much, in the work's unit.
    AtMost(f64),
}

/// The bars of a row.
fn bars(row: Row) -> Vec<Bar> {
    match (row.aspect, row.work) {
        (Aspect::Figure, work) => bars_of_work(work),
        (Aspect::Latency { percentile: 99.9 }, Work::Sustained { size: 128, .. }) => vec![Bar::TimesFloor(2.0)],
        (Aspect::Latency { percentile: 99.99 }, Work::Sustained { size: 128, .. }) => vec![Bar::TimesFloor(8.0)],
        _ => Vec::new(),
    }
}

fn bars_of_work(work: Work) -> Vec<Bar> {
    use Bar::{AtMost, BetterThanPageCachePeers, BetterThanPeers, RateOfFloor, TimesFloor, TimesTenth};
    match work {
        Work::Append { size: 128, threads: 1, .. } => vec![TimesFloor(1.8), BetterThanPageCachePeers(3.0)],
        Work::Append { size: 16, threads: 1, .. } => vec![TimesFloor(2.7)],
        Work::Append { size: 1024, threads: 1, .. } => vec![TimesFloor(1.35)],
        Work::Append { size: 16384, threads: 1, .. } => vec![TimesFloor(1.15)],
        Work::Append { threads: 2 | 4, .. } => vec![TimesFloor(1.5)],
        Work::Batch { .. } => vec![TimesFloor(1.25)],
        Work::Durable { .. } => vec![TimesFloor(1.1)],
        Work::Group { threads: 8, .. } => vec![RateOfFloor(1.15), BetterThanPeers(1.0)],
        Work::Group { threads: 32, .. } => vec![RateOfFloor(1.0), BetterThanPeers(1.0)],
        Work::OpenClean { .. } => vec![AtMost(5.0)],
        Work::OpenKilled { .. } => vec![AtMost(25.0)],
        Work::Replay { size: 128, .. } => vec![TimesFloor(1.25), BetterThanPeers(1.0)],
        Work::Replay { .. } => vec![TimesFloor(1.25)],
        Work::Reread { .. } => vec![TimesFloor(1.6)],
        Work::GetOwn { .. } => vec![TimesFloor(2.0)],
        Work::Get { .. } => vec![TimesFloor(1.35)],
        Work::Sustained { .. } => vec![RateOfFloor(0.85), BetterThanPeers(2.5)],
        Work::OpenSegments { .. } => vec![TimesTenth(2.0)],
        Work::Memory { bytes, .. } if bytes == 10 << 30 => vec![AtMost(64.0)],
        Work::Counters { .. } => vec![AtMost(4.0)],
        Work::Append { .. } | Work::Group { .. } | Work::Memory { .. } => Vec::new(),
    }
}

impl Bar {
    fn text(self, row: Row) -> String {
        match self {
            Bar::TimesFloor(limit) => format!("<= {limit} x floor"),
            Bar::RateOfFloor(limit) => format!(">= {limit} x floor"),
            Bar::TimesTenth(limit) => format!("<= {limit} x {TENTH}"),
            Bar::BetterThanPageCachePeers(times) => format!(">= {times} x better than page-cache peers"),
            Bar::BetterThanPeers(times) => format!(">= {times} x better than peers"),
            Bar::AtMost(limit) => format!("<= {limit} {}", row.unit()),
        }
    }

    /// Whether `ours` holds it beside the other figures of the work; None where there is nothing to hold it against.
    fn holds(self, ours: &Figure, others: &[Figure]) -> Option<bool> {
        // How many times as good as another one.
        let times_as_good = |other: &Figure| match ours.row.more_is_better() {
            true => ours.median() / other.median(),
            false => other.median() / ours.median(),
        };
        let one = |subject| others.iter().find(|figure| figure.subject == subject).map(times_as_good);
        let worst_of = |is_meant: fn(&Figure) -> bool| {
            let peers = others.iter().filter(|figure| figure.subject != FLOOR && is_meant(figure));
            peers.map(times_as_good).min_by(f64::total_cmp)
        };
        match self {
            Bar::TimesFloor(limit) => one(FLOOR).map(|good| 1.0 / good <= limit),
            Bar::RateOfFloor(limit) => one(FLOOR).map(|good| good >= limit),
            Bar::TimesTenth(limit) => one(TENTH).map(|good| 1.0 / good <= limit),
            Bar::BetterThanPageCachePeers(times) => {
                worst_of(|peer| peer.promise == Promise::PageCache).map(|good| good >= times)
            }
            Bar::BetterThanPeers(times) => worst_of(|_| true).map(|good| good >= times),
            Bar::AtMost(limit) => Some(ours.median() <= limit),
        }
    }
}

/// What the figures of a row say of its bars: their text, and whether all hold. None for a row without bars.
pub fn verdict(figures: &[Figure]) -> Option<(String, bool)> {
    let ours = figures.iter().find(|figure| figure.subject == OURS)?;
    let others: Vec<Figure> = figures.iter().filter(|figure| figure.subject != OURS).cloned().collect();
    let judged: Vec<(String, bool)> =
        bars(ours.row).into_iter().filter_map(|bar| Some((bar.text(ours.row), bar.holds(ours, &others)?))).collect();
    let texts: Vec<&str> = judged.iter().map(|(text, _)| text.as_str()).collect();
    (!judged.is_empty()).then(|| (texts.join("; "), judged.iter().all(|(_, holds)| *holds)))
}
