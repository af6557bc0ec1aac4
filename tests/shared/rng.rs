//! Random numbers from a seed: SplitMix64, so that a printed seed is all that a failure needs.

use std::ops::Range;

/// A generator of random numbers.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6d61_706c_6f67)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `range`, which is not empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.next() % n == 0
    }

    pub(crate) fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.within(0..from.len() as u64) as usize]
    }

    /// `len` bytes that no other call gives.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// The seeds that MAPLOG_SEEDS=start..end asks for, or else `usual`.
pub(crate) fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("MAPLOG_SEEDS") else {
        return usual;
    };
    let parse = |(start, end): (&str, &str)| Some(start.parse().ok()?..end.parse().ok()?);
    asked.split_once("..").and_then(parse).unwrap_or_else(|| panic!("MAPLOG_SEEDS={asked} is not start..end"))
}
