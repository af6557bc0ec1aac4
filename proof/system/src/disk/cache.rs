//! A disk with a volatile write cache, and what a power cut leaves of it.
//!
//! A write goes to the cache; a flush makes durable what was written before it. Until then each sector may be on the medium in any
//! version that it had since the last flush, whatever became of the others: disks write back when and in what order they like.

use super::medium::{Medium, PAGE};
use crate::rng::Rng;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// What the cache holds before it begins to write back by itself.
const PENDING_MAX: usize = 128 << 20;

/// A disk, seen from above: its medium and its cache.
#[derive(Debug)]
pub struct Cache {
    durable: Medium,
    /// What reads see: the medium, and over it the cache.
    seen: Medium,
    pending: VecDeque<Write>,
    pending_bytes: usize,
    /// Bytes that are written as a whole or not at all.
    sector: usize,
}

/// A write that no flush has covered.
#[derive(Debug, Clone)]
struct Write {
    at: u64,
    bytes: Arc<[u8]>,
}

/// What a disk was at one moment.
#[derive(Debug, Clone)]
pub struct Frozen {
    durable: Medium,
    pending: Vec<Write>,
    sector: usize,
}

impl Cache {
    pub fn new(medium: Medium, sector: usize) -> Cache {
        Cache { durable: medium.clone(), seen: medium, pending: VecDeque::new(), pending_bytes: 0, sector }
    }

    pub fn len(&self) -> u64 {
        self.seen.len()
    }

    pub fn read(&self, at: u64, buf: &mut [u8]) {
        self.seen.read(at, buf);
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        self.seen.write(at, bytes);
        self.pending.push_back(Write { at, bytes: bytes.into() });
        self.pending_bytes += bytes.len();
        while self.pending_bytes > PENDING_MAX {
            self.write_back_oldest();
        }
    }

    pub fn flush(&mut self) {
        while !self.pending.is_empty() {
            self.write_back_oldest();
        }
    }

    fn write_back_oldest(&mut self) {
        if let Some(Write { at, bytes }) = self.pending.pop_front() {
            self.durable.write(at, &bytes);
            self.pending_bytes -= bytes.len();
        }
    }

    pub fn freeze(&self) -> Frozen {
        Frozen { durable: self.durable.clone(), pending: self.pending.iter().cloned().collect(), sector: self.sector }
    }

    /// Everything, as an orderly end leaves it.
    pub fn into_seen(self) -> Medium {
        self.seen
    }
}

/// Which of the sectors in the cache reach the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    None,
    All,
    /// Each with this chance, in percent.
    Each(u64),
    /// As `Each`, 4 KiB at a time.
    Pages(u64),
    /// The first so many writes, the next one in part.
    Prefix(usize),
    /// All but a few.
    AllBut(u64),
    /// Each in a version that it had at any time.
    Versions,
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Style::None => write!(f, "nothing of the cache"),
            Style::All => write!(f, "all of the cache"),
            Style::Each(percent) => write!(f, "{percent} % of the sectors"),
            Style::Pages(percent) => write!(f, "{percent} % of the pages"),
            Style::Prefix(writes) => write!(f, "the first {writes} writes"),
            Style::AllBut(sectors) => write!(f, "all but one of {sectors} sectors"),
            Style::Versions => write!(f, "any version of each sector"),
        }
    }
}

impl Style {
    fn draw(rng: &mut Rng, writes: usize) -> Style {
        match rng.within(0..12) {
            0..=1 => Style::None,
            2 => Style::All,
            3..=4 => Style::Each(rng.within(1..100)),
            5..=6 => Style::Pages(rng.within(1..100)),
            7..=8 => Style::Prefix(rng.within(0..writes as u64 + 1) as usize),
            9 => Style::AllBut(rng.pick(&[4, 16, 64])),
            _ => Style::Versions,
        }
    }
}

impl Frozen {
    /// How many sectors' writes are in the cache.
    pub fn pending_sectors(&self) -> usize {
        self.pending.iter().map(|write| write.bytes.len() / self.sector).sum()
    }

    /// A medium that a power cut may leave, and what of the cache is on it.
    pub fn after_power_cut(&self, rng: &mut Rng) -> (Medium, Style) {
        let style = Style::draw(rng, self.pending.len());
        (self.with(style, rng), style)
    }

    /// The medium with so much of the cache on it.
    pub fn with(&self, style: Style, rng: &mut Rng) -> Medium {
        let mut versions: HashMap<u64, Vec<(usize, &[u8])>> = HashMap::new();
        for (number, write) in self.pending.iter().enumerate() {
            for (index, bytes) in write.bytes.chunks(self.sector).enumerate() {
                versions.entry(write.at + (index * self.sector) as u64).or_default().push((number, bytes));
            }
        }
        let mut sectors: Vec<u64> = versions.keys().copied().collect();
        sectors.sort_unstable();
        let mut medium = self.durable.clone();
        let (mut page, mut has_page) = (None, false);
        for at in sectors {
            let versions = &versions[&at];
            let all = versions.len();
            if page != Some(at / PAGE as u64) {
                page = Some(at / PAGE as u64);
                has_page = matches!(style, Style::Pages(percent) if rng.within(0..100) < percent);
            }
            let kept = match style {
                Style::None => 0,
                Style::All => all,
                Style::Each(percent) => {
                    if rng.within(0..100) < percent {
                        all
                    } else {
                        0
                    }
                }
                Style::Pages(_) => {
                    if has_page {
                        all
                    } else {
                        0
                    }
                }
                Style::AllBut(one_in) => {
                    if rng.one_in(one_in) {
                        0
                    } else {
                        all
                    }
                }
                Style::Versions => rng.within(0..all as u64 + 1) as usize,
                Style::Prefix(writes) => {
                    let torn = versions.iter().any(|(number, _)| *number == writes) && rng.one_in(2);
                    versions.iter().filter(|(number, _)| *number < writes).count() + usize::from(torn)
                }
            };
            if let Some((_, bytes)) = kept.checked_sub(1).map(|last| versions[last]) {
                medium.write(at, bytes);
            }
        }
        medium
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;

    fn sector(medium: &Medium, number: u64) -> u8 {
        let mut buf = [0; SECTOR];
        medium.read(number * SECTOR as u64, &mut buf);
        assert!(buf.iter().all(|byte| *byte == buf[0]), "a sector is never torn");
        buf[0]
    }

    /// Sectors 0 to 2 hold 1, flushed. Then 2 is written to sectors 0 to 15, 3 to sector 0.
    fn used() -> Cache {
        let mut cache = Cache::new(Medium::blank(2 * PAGE), SECTOR);
        cache.write(0, &[1; 3 * SECTOR]);
        cache.flush();
        cache.write(0, &[2; 16 * SECTOR]);
        cache.write(0, &[3; SECTOR]);
        cache
    }

    #[test]
    fn a_flush_makes_durable_what_was_written_before_it_and_nothing_else() {
        let cache = used();
        let medium = cache.freeze().with(Style::None, &mut Rng::new(1));
        assert_eq!([0, 2, 3, 15].map(|number| sector(&medium, number)), [1, 1, 0, 0]);
        let medium = cache.freeze().with(Style::All, &mut Rng::new(1));
        assert_eq!([0, 2, 3, 15].map(|number| sector(&medium, number)), [3, 2, 2, 2]);
        assert_eq!(sector(&cache.into_seen(), 0), 3);
    }

    #[test]
    fn each_style_leaves_every_version_that_it_may_and_no_other() {
        let frozen = used().freeze();
        let mut rng = Rng::new(7);
        let mut seen = HashMap::new();
        for _ in 0..3000 {
            let (medium, style) = frozen.after_power_cut(&mut rng);
            let sectors = (0..16).map(|number| sector(&medium, number)).collect::<Vec<_>>();
            assert!([1, 2, 3].contains(&sectors[0]) && [1, 2].contains(&sectors[1]) && [0, 2].contains(&sectors[15]));
            seen.entry(std::mem::discriminant(&style)).or_insert_with(Vec::new).push(sectors);
        }
        let of = |style: Style| &seen[&std::mem::discriminant(&style)];
        assert!(of(Style::Pages(1)).iter().all(|sectors| sectors[8..].iter().all(|value| *value == sectors[8])));
        assert!(of(Style::Each(1)).iter().all(|sectors| sectors[0] != 2), "an older version");
        assert!([1, 2, 3].iter().all(|value| of(Style::Versions).iter().any(|sectors| sectors[0] == *value)));
        let torn = |sectors: &Vec<u8>| sectors[8] != sectors[15] && sectors[0] != 3;
        assert!(of(Style::Prefix(0)).iter().any(torn), "the last write of a prefix is torn");
        assert!(of(Style::Prefix(0))
            .iter()
            .all(|sectors| sectors[0] != 3 || sectors[1..].iter().all(|value| *value == 2)));
    }
}
