//! The manifest's file: how its two slots are read, repaired and replaced.
//!
//! One slot is valid at every moment, whatever a crash tears: a slot is overwritten only while the other one is durable.

use super::health::Health;
use super::paths::Paths;
use crate::error::{Damage, DamageKind, Error, Result};
use crate::format::manifest::{Manifest, FILE_LEN, SLOT_LEN, SLOT_OFFSETS};
use crate::format::{Unreadable, VERSION};
use crate::sys::file::{self, File};
use std::path::Path;
use std::sync::Arc;

/// The manifest on disk, and what it says.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    file: File,
    current: Manifest,
    /// The slot that holds `current`: the other one is overwritten first.
    current_slot: usize,
    health: Arc<Health>,
}

/// The manifest as it was found, before anything is changed.
#[derive(Debug)]
pub(crate) struct FoundManifest {
    pub(crate) manifest: Manifest,
    /// The slot it was read from.
    slot: usize,
    /// What is wrong with the other slot.
    pub(crate) broken: Option<String>,
}

/// Reads the manifest at `path`; None if there is no such file.
pub(crate) fn find(path: &Path) -> Result<Option<FoundManifest>> {
    let file = match File::open_read(path) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
    let found = match slots {
        [Ok(first), Ok(second)] if first.log_id != second.log_id => {
            return Err(unreadable(path, Unreadable::Corrupt(VERSION), Unreadable::Corrupt(VERSION)));
        }
        [Ok(first), Ok(second)] if second.is_newer_than(&first) => {
            FoundManifest { manifest: second, slot: 1, broken: None }
        }
        [Ok(manifest), Ok(_)] => FoundManifest { manifest, slot: 0, broken: None },
        [Ok(manifest), Err(what)] => FoundManifest { manifest, slot: 0, broken: Some(describe(1, what)) },
        [Err(what), Ok(manifest)] => FoundManifest { manifest, slot: 1, broken: Some(describe(0, what)) },
        [Err(one), Err(other)] => return Err(unreadable(path, one, other)),
    };
    Ok(Some(found))
}

fn read_slot(file: &File, slot: usize) -> Result<Result<Manifest, Unreadable>> {
    let block = file.read_block(SLOT_OFFSETS[slot])?;
    Ok(block.ok_or(Unreadable::Short).and_then(|block| Manifest::decode(&block)))
}

fn describe(slot: usize, what: Unreadable) -> String {
    let reason = match what {
        Unreadable::Short => "is cut off by the end of the file".to_owned(),
        Unreadable::Foreign => "does not start with the magic bytes".to_owned(),
        Unreadable::Version(found) => format!("has format version {found}"),
        Unreadable::Corrupt(_) => "has a wrong checksum or contradicts itself".to_owned(),
    };
    format!("manifest slot {slot} {reason}: repaired from the other slot")
}

/// The error of a manifest of which no slot can be used.
fn unreadable(path: &Path, one: Unreadable, other: Unreadable) -> Error {
    let version = |found| Error::UnsupportedVersion { path: path.to_owned(), found, supported: VERSION };
    match (one, other) {
        (Unreadable::Version(found), _) | (_, Unreadable::Version(found)) => version(found),
        (Unreadable::Foreign, Unreadable::Foreign | Unreadable::Short) => Error::NotALog { path: path.to_owned() },
        // Two slots that agree on another version are more than a flipped byte.
        (Unreadable::Corrupt(one), Unreadable::Corrupt(other)) if one == other && one != VERSION => version(one),
        _ => {
            Error::damaged(Damage { path: path.to_owned(), bytes: 0..FILE_LEN, seqs: 0..0, kind: DamageKind::Manifest })
        }
    }
}

impl ManifestFile {
    /// Builds the manifest of a new log under another name, syncs and renames it: a crash leaves no manifest, or this one. Its name,
    /// and those of the directories above it, are durable with the first recovery.
    pub(crate) fn create(paths: &Paths, manifest: Manifest, health: &Arc<Health>) -> Result<ManifestFile> {
        let building = paths.new_manifest();
        file::unlink(&building)?;
        let file = File::create_new(&building)?;
        let mut bytes = vec![0; FILE_LEN as usize];
        for offset in SLOT_OFFSETS {
            bytes[offset as usize..offset as usize + SLOT_LEN].copy_from_slice(&manifest.encode());
        }
        let built = file.write_at(&bytes, 0).and_then(|()| file.sync());
        let named = built.and_then(|()| file::rename(&building, &paths.manifest));
        if let Err(error) = named {
            // Nothing half made stays behind; what cannot be removed is removed by the next try.
            let _ = file::unlink(&building);
            return Err(error);
        }
        let file = file.renamed(&paths.manifest);
        Ok(ManifestFile { file, current: manifest, current_slot: 0, health: Arc::clone(health) })
    }

    /// Takes over the manifest that was found. Nothing is written yet.
    pub(crate) fn adopt(paths: &Paths, found: FoundManifest, health: &Arc<Health>) -> Result<ManifestFile> {
        let file = File::open_write(&paths.manifest)?;
        Ok(ManifestFile { file, current: found.manifest, current_slot: found.slot, health: Arc::clone(health) })
    }

    pub(crate) fn current(&self) -> &Manifest {
        &self.current
    }

    /// Nobody has replaced the manifest since it was created: whoever created it, or opened it since, may have been killed before its
    /// name was durable.
    pub(crate) fn was_never_replaced(&self) -> bool {
        self.current.generation == Manifest::FIRST_GENERATION
    }

    /// Writes the current slot again, byte for byte, and syncs it. A process that was killed, or whose sync failed, can leave a slot
    /// that only the page cache has: until it is on the disk, the other slot may not be overwritten. Writing equal bytes tears
    /// nothing.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.write_slot(self.current_slot, &self.current.clone())
    }

    /// Replaces what the manifest says, in both slots. Durable when it returns. A failure poisons.
    ///
    /// 1. The slot that does not hold the current state is written and synced. A crash before leaves the old state, one during the
    ///    write the old state and a broken slot.
    /// 2. The other slot likewise. A crash leaves the new state. From then on no single bad slot brings the old state back.
    pub(crate) fn replace(&mut self, next: Manifest) -> Result<()> {
        self.replace_one(next.clone())?;
        self.replace_one(next)
    }

    /// As [`replace`](Self::replace), in one slot: for a mark, which is no worse for being an older one.
    pub(crate) fn replace_one(&mut self, next: Manifest) -> Result<()> {
        let next = Manifest { generation: self.current.generation.wrapping_add(1), ..next };
        let slot = 1 - self.current_slot;
        self.write_slot(slot, &next)?;
        self.current = next;
        self.current_slot = slot;
        Ok(())
    }

    fn write_slot(&mut self, slot: usize, manifest: &Manifest) -> Result<()> {
        if self.health.is_poisoned() {
            return Err(Error::Poisoned);
        }
        if !manifest.is_consistent() {
            // The other slot may be the last one that is valid: what decode would refuse is not written over this one.
            self.health.poison();
            return Err(unreadable(self.file.path(), Unreadable::Corrupt(VERSION), Unreadable::Corrupt(VERSION)));
        }
        let written = self.file.write_at(&manifest.encode(), SLOT_OFFSETS[slot]).and_then(|()| self.file.sync());
        if written.is_err() {
            self.health.poison();
        }
        written
    }
}
