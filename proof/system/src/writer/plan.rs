//! What a seed makes of a writer: how the log is opened, and what its threads call how often.

use super::Phase;
use crate::entry::{Filling, MIN_LEN};
use crate::rng::Rng;
use maplog::{Compression, Options, SyncPolicy};
use std::time::Duration;

/// What a writer does.
#[derive(Debug, Clone)]
pub struct Plan {
    pub policy: SyncPolicy,
    pub segment_size: u64,
    pub compression: Compression,
    pub appenders: u16,
    /// The longest pause between two calls of a thread.
    pub pause_us: u64,
    /// Entries that trailing truncation leaves.
    pub keep: u64,
    /// Most entries of one batch.
    pub batch_max: u64,
    /// What it is to be killed at.
    pub aim: Option<Phase>,
}

/// Bytes of a frame that are not payload, at most; and those of a segment that are not frames.
const FRAME_OVERHEAD: u64 = 40;
const SEGMENT_OVERHEAD: u64 = 128;

impl Plan {
    pub fn draw(rng: &mut Rng, aim: Option<Phase>) -> Plan {
        let policy = match rng.within(0..10) {
            0..=2 => SyncPolicy::Immediate,
            3..=4 => SyncPolicy::Batch { entries: rng.within(1..200) as u32, bytes: rng.within(1..100_000) },
            5..=6 => SyncPolicy::Interval(Duration::from_micros(rng.within(200..20_000))),
            _ => SyncPolicy::Manual,
        };
        let compression = if rng.one_in(3) { Compression::Lz4 { min_size: 64 } } else { Compression::None };
        let mut plan = Plan {
            policy,
            compression,
            segment_size: rng.pick(&[8 << 10, 16 << 10, 64 << 10, 256 << 10, 256 << 10, 1 << 20]),
            appenders: rng.within(2..4) as u16,
            pause_us: rng.pick(&[20, 100, 1000]),
            keep: rng.within(50..2000),
            batch_max: rng.pick(&[5, 50, 50, 2000]),
            aim,
        };
        if aim == Some(Phase::Batch) {
            // It takes long enough to be hit.
            (plan.segment_size, plan.batch_max) = (1 << 20, 10_000);
        }
        plan
    }

    pub fn options(&self) -> Options {
        Options::new().sync_policy(self.policy).segment_size(self.segment_size).compression(self.compression)
    }

    /// The length of a payload.
    pub fn payload_len(&self, rng: &mut Rng) -> usize {
        let most = (self.segment_size - SEGMENT_OVERHEAD - FRAME_OVERHEAD).min(40_000);
        let below = match rng.within(0..100) {
            0..=59 => 120,
            60..=89 => 1000,
            90..=98 => 4000,
            _ => most,
        };
        rng.within(MIN_LEN as u64..below) as usize
    }

    /// The lengths of the payloads of a batch, which fits a segment.
    pub fn batch_lens(&self, rng: &mut Rng) -> Vec<usize> {
        let count = rng.within(2..self.batch_max + 1);
        let mut room = self.segment_size - SEGMENT_OVERHEAD;
        let mut lens = Vec::new();
        for _ in 0..count {
            // The more there are, the smaller they are.
            let len = if count > 60 { rng.within(MIN_LEN as u64..48) as usize } else { self.payload_len(rng) };
            let needed = len as u64 + FRAME_OVERHEAD;
            if needed > room {
                break;
            }
            room -= needed;
            lens.push(len);
        }
        lens
    }

    pub fn filling(rng: &mut Rng) -> Filling {
        rng.pick(&[Filling::Random, Filling::Random, Filling::Even])
    }
}
