//! What open does: finds out which segments live and where the log ends, tells a torn tail from damage, and makes sure that what it
//! keeps is on the disk.
//!
//! Nothing is changed before the verdict. What then has to be changed is a [`adopt::Plan`], which a strict open carries out at once
//! and a salvaging one with the first append or truncate.
//!
//! 1. [`survey`]: the manifest says which segments live; their links say in which order.
//! 2. [`scan`]: the stretch that no witness covers is walked to X, the first frame (or batch) that is not valid; past X, headers are
//!    looked for that carry a witness.
//! 3. [`verdict`]: X is damage if a witness reaches it, and the torn tail begins there if none does. [`explain`] names the damage.
//! 4. [`adopt`]: what is kept is written again and synced, the manifest says where it ends, the rest is unlinked.

pub(crate) mod adopt;
mod explain;
pub(crate) mod report;
mod salvage;
pub(crate) mod scan;
mod strict;
mod survey;
mod verdict;

use crate::error::{Damage, Result};
use crate::format::manifest::{Manifest, Mark};
use crate::format::walk::Position;
use crate::options::{Options, RecoveryMode, Verify};
use crate::segment::paths::Paths;
use crate::sys::lock::{Alone, ReadersLease};
use report::RecoveryReport;
use std::path::PathBuf;
use std::sync::Arc;
use survey::Survey;

/// A segment that is kept, as far as it is.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    pub(crate) salt: u64,
    pub(crate) base_seq: u64,
    /// Where the frame of `base_seq` starts.
    pub(crate) base_offset: u64,
    /// Where its frames end.
    pub(crate) end: Position,
    pub(crate) file_len: u64,
}

/// One element of the recovered log's order.
#[derive(Debug)]
pub(crate) enum Piece {
    Segment(Kept),
    /// Entries that no file holds any more.
    Lost(Damage),
}

/// What recovery found, and what it wants changed.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
    /// How far the log is durable once the plan is carried out. None: no entry is left.
    pub(crate) mark: Option<Mark>,
    /// The id that the next segment gets.
    pub(crate) next_id: u64,
    pub(crate) last_timestamp_ms: u64,
    /// The log was closed, and its last segment may be appended to.
    pub(crate) appendable: bool,
    pub(crate) plan: adopt::Plan,
    pub(crate) report: RecoveryReport,
}

/// Recovers the log that `manifest` describes. Changes nothing.
pub(crate) fn recover(
    options: &Options,
    paths: &Paths,
    manifest: &Manifest,
    lease: &Arc<ReadersLease>,
    alone: Alone,
) -> Result<Recovered> {
    let survey = Survey::take(paths, manifest, lease)?;
    match options.recovery {
        RecoveryMode::Salvage => salvage::recover(survey, alone),
        RecoveryMode::Strict => {
            // A log that was salvaged says where: until that is truncated away, nothing about it is taken for granted.
            let verify = if manifest.lost.is_empty() { options.verify } else { Verify::All };
            strict::recover(&survey, verify, alone)
        }
    }
}
