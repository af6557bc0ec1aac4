//! Reading everything, to find out whether it is what was written.

use super::Inner;
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::segment::{Identity, Link, BLOCK_LEN, LINK_OFFSET};
use crate::read::walk;
use crate::segment::manifest;
use crate::segment::sealed::Segment;
use crate::segment::set::Slot;
use crate::sys::file::File;
use crate::write::appender::Snapshot;

/// What [`Log::validate`](crate::Log::validate) found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ValidationReport {
    /// Segments that were read.
    pub segments: u64,
    /// Entries that are what was appended.
    pub entries: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Everything that is not what was written.
    pub damage: Vec<Damage>,
    /// What is no damage yet: one bad slot of the manifest, whose copy is good.
    pub notes: Vec<String>,
}

impl ValidationReport {
    /// True if nothing is damaged.
    pub fn is_intact(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Inner {
    pub(super) fn validate(&self) -> Result<ValidationReport> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let mut report = ValidationReport::default();
        self.validate_manifest(&mut report)?;
        let Snapshot { slots, next_seq, .. } = self.appender.snapshot();
        for slot in slots.list() {
            match slot {
                Slot::Lost(damage) => report.damage.push(Damage::clone(damage)),
                Slot::Segment { segment, end } => {
                    report.segments += 1;
                    report.damage.extend(self.head_damage(segment)?);
                    let frames = walk::check_all(segment, *end, next_seq)?;
                    report.entries += frames.entries;
                    report.bytes += frames.bytes;
                    report.damage.extend(frames.damage);
                }
            }
        }
        Ok(report)
    }

    fn validate_manifest(&self, report: &mut ValidationReport) -> Result<()> {
        // Under the lock: nobody may be writing a slot.
        let _upkeep = self.upkeep.lock();
        match manifest::find(&self.paths.manifest) {
            Ok(Some(found)) => report.notes.extend(found.broken),
            Ok(None) => report.damage.push(Damage {
                path: self.paths.manifest.clone(),
                bytes: 0..0,
                seqs: 0..0,
                kind: DamageKind::Missing,
            }),
            Err(Error::Damaged { damage }) => report.damage.push(*damage),
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(_) => report.damage.push(Damage {
                path: self.paths.manifest.clone(),
                bytes: 0..crate::format::manifest::FILE_LEN,
                seqs: 0..0,
                kind: DamageKind::Manifest,
            }),
        }
        Ok(())
    }

    /// What is wrong with the first 128 bytes of a segment, as the file has them.
    fn head_damage(&self, segment: &Segment) -> Result<Option<Damage>> {
        let len = BLOCK_LEN as u64;
        let damage = |bytes, kind| Some(Damage { path: segment.path.to_path_buf(), bytes, seqs: 0..0, kind });
        let file = match File::open_read(&segment.path) {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let slots = self.appender.set.read();
                let is_live = slots.list().iter().filter_map(Slot::segment).any(|live| live.id == segment.id);
                // Truncated away since the snapshot, or removed by somebody.
                return Ok(if is_live { damage(0..0, DamageKind::Missing) } else { None });
            }
            Err(error) => return Err(error),
        };
        let identity = file.read_block(0)?.and_then(|block| Identity::decode(&block).ok());
        let link = file.read_block(LINK_OFFSET)?;
        Ok(match identity {
            Some(identity) if identity.id == segment.id => {
                match link.and_then(|block| Link::decode(&block, segment.id, identity.salt)) {
                    Some(link) if link.base_seq == segment.base_seq => None,
                    _ => damage(len..2 * len, DamageKind::Link),
                }
            }
            _ => damage(0..len, DamageKind::Identity),
        })
    }
}
