//! The other side of the oracle: what a witness covers is changed in a crash image, and has to be named.

use crate::chain::LONGEST_BATCH;
use crate::oracle::{Expect, Recovered, Witnesses};
use crate::shared::Rng;
use crate::sim::Image;
use maplog::{Damage, Error, Log, Options, RecoveryMode, SyncPolicy, Verify};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

const HEADER: usize = 32;
/// Identity and link.
const BLOCKS: Range<usize> = 0..128;
/// The slots of the manifest.
const SLOTS: [Range<usize>; 2] = [0..256, 4096..4352];

/// Where payloads stand: the index of the file in the image, and the offset. Those of less than eight bytes have no place.
type Places = BTreeMap<u64, (usize, usize)>;

/// An entry that was acked, and of which something on the disk says so.
struct Target {
    seq: u64,
    /// Index of its file in the image.
    file: usize,
    frame: Range<usize>,
}

/// What is done to an image.
#[derive(Debug, Clone, Copy)]
enum Deed {
    FlipBit,
    Overwrite,
    FlipBlocks,
    Shorten,
    Remove,
}

/// Changes an image in one place that a witness covers, and opens it in every way. Says what was done; None if nothing of the image is
/// proven. `recovered` is what the image gave before, `appended` what was ever appended, at which seq.
pub(crate) fn examine(
    image: &Image,
    log_dir: &Path,
    expect: &Expect,
    recovered: &Recovered,
    appended: &HashSet<(u64, Vec<u8>)>,
    root: &Path,
    rng: &mut Rng,
) -> Option<&'static str> {
    let places = places(image, &log_dir.join("segments"), recovered);
    let witnesses = expect.witnesses();
    let proven: Vec<_> = places.iter().filter(|(seq, _)| witnesses.cover(**seq)).collect();
    if proven.is_empty() {
        return None;
    }
    let (&seq, &(file, at)) = *rng.pick(&proven);
    let target = Target { seq, file, frame: at - HEADER..at + recovered.entries[&seq].len().next_multiple_of(8) };
    let mut deed =
        *rng.pick(&[Deed::FlipBit, Deed::FlipBit, Deed::Overwrite, Deed::FlipBlocks, Deed::Shorten, Deed::Remove]);
    let mut left = witnesses.clone();
    left.retain(|carrier| deed.leaves(carrier, &target, &places));
    if !left.cover(seq) {
        (deed, left) = (Deed::FlipBit, witnesses);
    }
    let mut damaged = image.clone();
    let changed = deed.carry_out(&mut damaged, &target, rng);
    let path = root.join(&image.files[target.file].0);
    let check = Check { deed, target: &target, path, changed, recovered, appended, witnesses: left };
    let options = Options::new().sync_policy(SyncPolicy::Manual);
    let open = |options: Options| {
        damaged.write_to(root);
        let result = options.open(root.join(log_dir));
        let untouched = Image::read(root).files;
        (result, untouched)
    };

    let (result, left) = open(options.clone().verify(Verify::All));
    match result {
        Err(Error::Damaged { damage }) => check.names(&damage),
        other => panic!("{deed:?} of seq {}, {:?}: {other:?}", target.seq, check.changed),
    }
    let is_log = |(path, _): &&(PathBuf, Vec<u8>)| !path.ends_with("lock") && !path.ends_with("readers");
    assert!(left.iter().filter(is_log).eq(damaged.files.iter().filter(is_log)), "an open that refuses changes files");
    std::fs::remove_dir_all(root).unwrap();

    match open(options.clone()).0 {
        Err(Error::Damaged { damage }) => check.names(&damage),
        Err(error) => panic!("{deed:?} of seq {}: {error}", target.seq),
        Ok(log) => check.is_met_by_readers(&log),
    }
    std::fs::remove_dir_all(root).unwrap();

    let salvaged = open(options.recovery(RecoveryMode::Salvage)).0;
    check.is_salvaged(&salvaged.unwrap_or_else(|error| panic!("{deed:?} of seq {}: {error}", target.seq)));
    std::fs::remove_dir_all(root).unwrap();
    Some(deed.name())
}

/// Changes a bit of one slot of the manifest, where both are intact: the other one is believed, and the open says so. Says what was done.
pub(crate) fn examine_manifest(
    image: &Image,
    log_dir: &Path,
    expect: &Expect,
    root: &Path,
    rng: &mut Rng,
) -> Option<&'static str> {
    let path = log_dir.join("metadata/wal.meta");
    let mut damaged = image.clone();
    let (_, bytes) = damaged.files.iter_mut().find(|(name, _)| *name == path)?;
    if !SLOTS.iter().all(|slot| bytes.get(slot.clone()).is_some_and(is_sealed)) {
        return None;
    }
    let slot = rng.pick(&SLOTS);
    let at = rng.within(slot.start as u64..slot.end as u64) as usize;
    bytes[at] ^= 1 << rng.within(0..8);
    damaged.write_to(root);
    let log = Options::new().sync_policy(SyncPolicy::Manual).open(root.join(log_dir));
    let log = log.unwrap_or_else(|error| panic!("byte {at} of the manifest flipped: {error}"));
    expect.check(&Recovered::read(&log).unwrap());
    assert!(!log.recovery().notes.is_empty(), "byte {at} of the manifest flipped: nothing is said of it");
    drop(log);
    std::fs::remove_dir_all(root).unwrap();
    Some("flipped bits of manifests")
}

/// Whether the last four bytes are the checksum of the rest.
fn is_sealed(slot: &[u8]) -> bool {
    let (rest, sum) = slot.split_at(slot.len() - 4);
    crc32c::crc32c(rest).to_le_bytes() == sum
}

/// Finds the payloads that were recovered in the files below `segments`: frames, and so payloads, begin at multiples of eight.
fn places(image: &Image, segments: &Path, recovered: &Recovered) -> Places {
    let long = recovered.entries.iter().filter(|(_, payload)| payload.len() >= 8);
    let by_start: HashMap<&[u8], _> = long.map(|(seq, payload)| (&payload[..8], (*seq, payload))).collect();
    let mut places = Places::new();
    for (file, (_, bytes)) in image.files.iter().enumerate().filter(|(_, (path, _))| path.starts_with(segments)) {
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            if let Some((seq, _)) = by_start.get(word).filter(|(_, payload)| bytes[index * 8..].starts_with(payload)) {
                places.insert(*seq, (file, index * 8));
            }
        }
    }
    places
}

impl Deed {
    fn name(self) -> &'static str {
        match self {
            Deed::FlipBit => "flipped bits",
            Deed::Overwrite => "overwritten frames",
            Deed::FlipBlocks => "flipped bits of identities and links",
            Deed::Shorten => "shortened files",
            Deed::Remove => "removed files",
        }
    }

    /// Whether the frame of the entry `carrier` is what it was.
    fn leaves(self, carrier: u64, target: &Target, places: &Places) -> bool {
        let is_elsewhere = |from: u64| {
            let place = places.get(&carrier).filter(|(file, _)| *file == target.file);
            places.contains_key(&carrier) && (place.is_none() || carrier < from)
        };
        match self {
            Deed::FlipBit | Deed::Overwrite => carrier != target.seq,
            Deed::FlipBlocks => true,
            Deed::Shorten => is_elsewhere(target.seq),
            Deed::Remove => is_elsewhere(0),
        }
    }

    /// Does it; which bytes were changed.
    fn carry_out(self, image: &mut Image, target: &Target, rng: &mut Rng) -> Range<usize> {
        let bytes = &mut image.files[target.file].1;
        match self {
            Deed::FlipBit | Deed::FlipBlocks => {
                let place = if matches!(self, Deed::FlipBit) { target.frame.clone() } else { BLOCKS };
                let at = rng.within(place.start as u64..place.end as u64) as usize;
                bytes[at] ^= 1 << rng.within(0..8);
                at..at + 1
            }
            Deed::Overwrite => {
                let start = rng.within(target.frame.start as u64..target.frame.end as u64) as usize;
                let end = rng.within(start as u64 + 1..target.frame.end as u64 + 1) as usize;
                let before = bytes[start..end].to_vec();
                bytes[start..end].fill(*rng.pick(&[0, 0xff, 0x5a]));
                if bytes[start..end] == before {
                    bytes[start] ^= 1;
                }
                start..end
            }
            Deed::Shorten => {
                let len = rng.within(target.frame.start as u64..target.frame.end as u64) as usize;
                let changed = len..bytes.len();
                bytes.truncate(len);
                changed
            }
            Deed::Remove => {
                let (_, bytes) = image.files.remove(target.file);
                0..bytes.len()
            }
        }
    }
}

/// What was done, and how it has to be met.
struct Check<'c> {
    deed: Deed,
    target: &'c Target,
    path: PathBuf,
    changed: Range<usize>,
    recovered: &'c Recovered,
    appended: &'c HashSet<(u64, Vec<u8>)>,
    witnesses: Witnesses,
}

impl Check<'_> {
    fn says(&self, what: &str, damage: &Damage) -> String {
        format!("{:?} of seq {}, bytes {:?}: {what}: {damage:?}", self.deed, self.target.seq, self.changed)
    }

    /// The damage is what was done.
    fn names(&self, damage: &Damage) {
        let Damage { path, bytes, seqs, .. } = damage;
        assert!(*path == self.path, "{}", self.says("another file", damage));
        if self.takes_an_end_away() {
            assert!(seqs.end > self.target.seq, "{}", self.says("other seqs", damage));
            return;
        }
        assert!(seqs.contains(&self.target.seq), "{}", self.says("other seqs", damage));
        let overlaps = bytes.start < self.changed.end as u64 && (self.changed.start as u64) < bytes.end;
        assert!(overlaps, "{}", self.says("other bytes", damage));
        let takes_a_batch_at_most = seqs.end.min(self.recovered.last() + 1) - seqs.start <= LONGEST_BATCH;
        assert!(takes_a_batch_at_most || !self.spoils_one_frame(), "{}", self.says("more seqs", damage));
    }

    /// All other frames are what they were.
    fn spoils_one_frame(&self) -> bool {
        matches!(self.deed, Deed::FlipBit | Deed::Overwrite)
    }

    /// A removed file's link said where the file before ends. Without it, nothing on the disk tells the last entries of that file from
    /// ones that a cut had dropped.
    fn takes_an_end_away(&self) -> bool {
        matches!(self.deed, Deed::Remove)
    }

    /// A log that opens all the same: whoever reads the entry is told, and all others are what they were.
    fn is_met_by_readers(&self, log: &Log) {
        let next = self.recovered.last() + 1;
        assert_eq!((log.first_seq(), log.next_seq()), (self.recovered.first, next), "{:?} was hidden", self.deed);
        match log.get(self.target.seq) {
            Err(Error::Damaged { damage }) => self.names(&damage),
            other => panic!("{:?} of seq {}: {other:?}", self.deed, self.target.seq),
        }
        let report = log.validate().unwrap();
        assert!(report.damage.iter().any(|damage| damage.seqs.contains(&self.target.seq)), "{:?}", report.damage);
        let view = log.view();
        for (entry, (seq, payload)) in view.iter().zip(&self.recovered.entries) {
            match entry {
                Ok(entry) => assert!(entry.seq() == *seq && entry.payload() == payload, "seq {seq} is another one"),
                Err(error) => {
                    assert!(error.is_damage() && *seq <= self.target.seq, "{error} at seq {seq}");
                    return;
                }
            }
        }
        panic!("{:?} of seq {} is not met", self.deed, self.target.seq);
    }

    /// Every entry comes out as it was, or is listed as lost; what was damaged is listed.
    fn is_salvaged(&self, log: &Log) {
        let (losses, notes) = (&log.recovery().losses, &log.recovery().notes);
        let is_lost = |seq: u64| losses.iter().any(|loss| loss.seqs.contains(&seq));
        let is_listed = losses.iter().any(|loss| loss.path == self.path || loss.seqs.contains(&self.target.seq));
        // Nothing may be left that says that there was such a file: then, what it held is sought in the one before.
        let is_noted = notes.iter().any(|note| note.contains("may be ones that had been truncated"));
        let is_told = is_listed || self.takes_an_end_away() && is_noted;
        assert!(is_told, "{:?} of seq {} is not listed: {losses:?}", self.deed, self.target.seq);
        // A salvage goes on behind the place where the crash has torn the log, and lists what is missing there.
        let recovered = |seqs: &Range<u64>| seqs.start..seqs.end.min(self.recovered.last() + 1);
        let is_meant = |Damage { seqs, .. }: &Damage| {
            recovered(seqs).is_empty() || recovered(seqs) == (self.target.seq..self.target.seq + 1)
        };
        let is_exact = losses.iter().all(is_meant);
        assert!(is_exact || !self.spoils_one_frame(), "{:?} of seq {}: {losses:?}", self.deed, self.target.seq);
        for (seq, payload) in &self.recovered.entries {
            match log.get(*seq) {
                Ok(Some(entry)) if entry.payload() == payload => {}
                Ok(Some(entry)) => {
                    let was_there = self.appended.contains(&(*seq, entry.payload().to_vec()));
                    assert!(self.takes_an_end_away() && is_noted && was_there, "seq {seq} is another one");
                }
                other => assert!(
                    is_lost(*seq) || !self.witnesses.cover(*seq),
                    "{:?} of seq {}: seq {seq} is {other:?}, and not listed: {losses:?}",
                    self.deed,
                    self.target.seq
                ),
            }
        }
    }
}

/// Where `part` stands in `bytes`.
pub(crate) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == part[0]) {
        let start = from + at;
        if bytes.get(start..start + part.len()) == Some(part) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}
