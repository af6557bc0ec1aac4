//! The survey: which files there are, which of them the manifest lets live, and in which order their links put them.

use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::frame::HEADER_LEN;
use crate::format::manifest::{Cut, Manifest, FILE_LEN};
use crate::format::segment::{Identity, Link, LogId, Origin, BLOCK_LEN, LINK_OFFSET};
use crate::format::walk::Position;
use crate::format::{Unreadable, VERSION};
use crate::segment::paths::{Name, Paths};
use crate::sys::file::{self, File};
use crate::sys::lock::ReadersLease;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All that can be known without reading frames.
#[derive(Debug)]
pub(super) struct Survey<'m> {
    pub(super) manifest: &'m Manifest,
    pub(super) paths: &'m Paths,
    pub(super) lease: &'m Arc<ReadersLease>,
    /// The segments that the manifest lets live, by id.
    pub(super) live: BTreeMap<u64, Candidate>,
    /// Files of segments that the manifest calls dead.
    pub(super) dead: Vec<PathBuf>,
    /// Files that never counted, or were taken out of the way.
    pub(super) spares: Vec<PathBuf>,
    /// The lowest id that no segment had.
    pub(super) next_id: u64,
    pub(super) notes: Vec<String>,
}

/// A file with the name of a live segment.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) file_len: u64,
    /// None: the first 64 bytes are not the identity of this segment of this log.
    pub(super) identity: Option<Identity>,
    pub(super) link: Option<Link>,
    /// The link behind an identity that is damaged, and not that of another log or segment.
    pub(super) bare_link: Option<Link>,
}

/// Where a segment's frames are recorded to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordedEnd {
    pub(super) seq: u64,
    pub(super) offset: u64,
}

/// A segment that something names, and a seq that it held.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedPlace {
    pub(super) segment: u64,
    pub(super) seq: u64,
}

impl RecordedEnd {
    /// Where the next frame would start.
    pub(super) fn after(self) -> Position {
        Position { seq: self.seq + 1, offset: self.offset }
    }
}

impl From<Cut> for RecordedEnd {
    fn from(cut: Cut) -> Self {
        RecordedEnd { seq: cut.end_seq, offset: cut.end_offset }
    }
}

impl<'m> Survey<'m> {
    pub(super) fn take(paths: &'m Paths, manifest: &'m Manifest, lease: &'m Arc<ReadersLease>) -> Result<Survey<'m>> {
        let mut survey = Survey {
            manifest,
            paths,
            lease,
            live: BTreeMap::new(),
            dead: Vec::new(),
            spares: Vec::new(),
            next_id: manifest.next_id(),
            notes: foreign_files(paths)?,
        };
        for path in file::list(&paths.segments)?.unwrap_or_default() {
            match Paths::name(&path) {
                Name::Foreign => survey.notes.push(foreign(&path)),
                Name::Spare => survey.spares.push(path),
                Name::Segment { id } => {
                    survey.next_id = survey.next_id.max(id + 1);
                    if manifest.is_dead(id) {
                        survey.dead.push(path);
                    } else {
                        survey.live.insert(id, Candidate::read(id, path, manifest)?);
                    }
                }
            }
        }
        // One that is missing had its id, too.
        let named = survey.named_places().map(|place| place.segment).max();
        survey.next_id = survey.next_id.max(named.map_or(0, |id| id + 1));
        Ok(survey)
    }

    /// The live segments in the order of their links, from the first one on, for as far as links lead. Of two links that name one
    /// predecessor the higher id counts: the lower one was empty, and given up. So it is with the first one: it begins where the log
    /// does, and has no live predecessor; it is the manifest's first, or one that took its place.
    pub(super) fn chain(&self) -> Vec<&Candidate> {
        let successors: BTreeMap<u64, &Candidate> = self
            .live
            .values()
            .filter(|candidate| candidate.identity.is_some())
            .filter_map(|candidate| Some((candidate.link?.predecessor?.id, candidate)))
            .collect();
        let (first_segment, first_seq) = (self.manifest.first_segment, self.manifest.first_seq);
        let first = self.live.values().rev().find(|candidate| {
            let begins = |link: Link| {
                let follows_the_dead = link.predecessor.map_or(true, |predecessor| predecessor.id < first_segment);
                link.base_seq == first_seq && follows_the_dead
            };
            candidate.identity.is_some() && candidate.link.is_some_and(begins)
        });
        // A predecessor's id is below its successor's, so this ends.
        std::iter::successors(first, |last| successors.get(&last.id).copied()).collect()
    }

    /// Where segment `id` is recorded to end: by a cut, or by its successor's link.
    pub(super) fn recorded_end(&self, id: u64, successor: Option<&Candidate>) -> Option<RecordedEnd> {
        let cut = self.manifest.cut.filter(|cut| cut.segment == id);
        cut.map(RecordedEnd::from).or_else(|| self.linked_end(id, successor))
    }

    /// Where the link of `successor`, if it names segment `id`, says that this one ends.
    pub(super) fn linked_end(&self, id: u64, successor: Option<&Candidate>) -> Option<RecordedEnd> {
        let predecessor = successor?.link?.predecessor.filter(|predecessor| predecessor.id == id)?;
        Some(RecordedEnd { seq: predecessor.end_seq, offset: predecessor.end_offset })
    }

    /// The damage of a manifest that ends the log before the entries `seqs`.
    pub(super) fn older_manifest(&self, seqs: std::ops::Range<u64>) -> Damage {
        Damage { path: self.paths.manifest.clone(), bytes: 0..FILE_LEN, seqs, kind: DamageKind::Older }
    }

    /// The segments in which the manifest says that something was durable, each with a seq that it held: the mark, and the cut.
    pub(super) fn proven_places(&self) -> impl Iterator<Item = NamedPlace> {
        let Manifest { mark, cut, .. } = self.manifest;
        let mark = mark.map(|mark| NamedPlace { segment: mark.segment, seq: mark.seq });
        let cut = cut.map(|cut| NamedPlace { segment: cut.segment, seq: cut.end_seq });
        mark.into_iter().chain(cut)
    }

    /// Those, and the segments that links name as their predecessors.
    pub(super) fn named_places(&self) -> impl Iterator<Item = NamedPlace> + '_ {
        let predecessors = self.live.values().filter_map(|candidate| candidate.link?.predecessor);
        let linked = predecessors.map(|predecessor| NamedPlace { segment: predecessor.id, seq: predecessor.end_seq });
        self.proven_places().chain(linked)
    }

    /// Takes what a damaged identity said from the link; the damage of each. Every file has a salt of its own: of two that have the
    /// same one the later is a copy, and nobody knows what its own file said.
    pub(super) fn restore_identities(&mut self) -> Vec<Damage> {
        let log_id = self.manifest.log_id;
        let whole = self.live.values().filter_map(|candidate| candidate.identity);
        let mut salts: BTreeSet<u64> = whole.map(|identity| identity.salt).collect();
        let mut restored = Vec::new();
        for candidate in self.live.values_mut().filter(|candidate| candidate.identity.is_none()) {
            candidate.bare_link = candidate.bare_link.filter(|link| salts.insert(link.salt));
            if let Some(identity) = candidate.identity_by_link(log_id) {
                (candidate.identity, candidate.link) = (Some(identity), candidate.bare_link);
                restored.push(candidate.identity_damage(0..0));
            }
        }
        restored
    }

    /// What the manifest alone proves, and what a salvage has found to be lost: that was there too.
    pub(super) fn proven_seq(&self) -> u64 {
        let Manifest { cut, lost, .. } = self.manifest;
        let lost_seq = if lost.is_empty() { 0 } else { lost.end - 1 };
        self.manifest.durable_seq().max(cut.map_or(0, |cut| cut.end_seq)).max(lost_seq)
    }
}

impl Candidate {
    fn read(id: u64, path: PathBuf, manifest: &Manifest) -> Result<Candidate> {
        let file = File::open_read(&path)?;
        let identity_block = file.read_block(0)?.ok_or(Unreadable::Short);
        let link_block = file.read_block(LINK_OFFSET)?;
        let mut bare_link = None;
        let identity = match identity_block.and_then(|block| Identity::decode(&block)) {
            Ok(identity) if identity.log_id == manifest.log_id && identity.id == id => Some(identity),
            Ok(_) => None,
            Err(Unreadable::Version(found)) => {
                return Err(Error::UnsupportedVersion { path, found, supported: VERSION });
            }
            Err(Unreadable::Short | Unreadable::Foreign | Unreadable::Corrupt(_)) => {
                bare_link = link_block.and_then(|block| Link::decode_any(&block, id));
                None
            }
        };
        let link = identity.zip(link_block).and_then(|(identity, block)| Link::decode(&block, id, identity.salt));
        Ok(Candidate { id, file_len: file.len()?, path, identity, link, bare_link })
    }

    /// Whether anything but zeros stands where a header would, at `offset`. Read by a call: a mapping would need space for a hole.
    pub(super) fn has_bytes_at(&self, offset: u64) -> Result<bool> {
        if self.file_len.checked_sub(HEADER_LEN as u64).map_or(true, |last| last < offset) {
            return Ok(false);
        }
        let header = File::open_read(&self.path)?.read_block(offset)?;
        Ok(header.is_some_and(|header| header != [0; HEADER_LEN]))
    }

    /// What a damaged identity said: the link has a checksum of its own, and repeats the salt.
    pub(super) fn identity_by_link(&self, log_id: LogId) -> Option<Identity> {
        // Whether the file was fresh is not known: nothing may rest on it.
        let identity = |link: Link| Identity { origin: Origin::Recycled, log_id, id: self.id, salt: link.salt };
        self.bare_link.map(identity)
    }

    pub(super) fn identity_damage(&self, seqs: std::ops::Range<u64>) -> Damage {
        Damage { path: self.path.clone(), bytes: 0..BLOCK_LEN as u64, seqs, kind: DamageKind::Identity }
    }

    pub(super) fn link_damage(&self, seqs: std::ops::Range<u64>) -> Damage {
        let bytes = BLOCK_LEN as u64..2 * BLOCK_LEN as u64;
        Damage { path: self.path.clone(), bytes, seqs, kind: DamageKind::Link }
    }
}

/// Notes about files beside ours, which are left alone.
fn foreign_files(paths: &Paths) -> Result<Vec<String>> {
    let new_manifest = paths.new_manifest();
    let ours: [&Path; 7] = [
        &paths.segments,
        &paths.checkpoints,
        &paths.metadata,
        &paths.lock,
        &paths.readers,
        &paths.manifest,
        &new_manifest,
    ];
    let mut notes = Vec::new();
    for dir in [&paths.dir, &paths.metadata] {
        for path in file::list(dir)?.unwrap_or_default() {
            if !ours.contains(&path.as_path()) {
                notes.push(foreign(&path));
            }
        }
    }
    Ok(notes)
}

fn foreign(path: &Path) -> String {
    format!("{} is not a file of the log, and was left alone", path.display())
}
