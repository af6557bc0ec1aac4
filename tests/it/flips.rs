//! Every byte of a small log changed, and every file of it cut at each length: what a witness covers is damage at every position,
//! what nobody covers is torn at worst, and a slot of the manifest is never missed.
//!
//! The verdict that must come out follows from the place alone: a segment is an identity of 64 bytes, a link of 64, and frames of
//! 32 bytes and the payload, up to the next multiple of eight.

use crate::shared::fast_dir;
use crate::support::logs::copy_dir;
use maplog::{Damage, Error, Log, Options, RecoveryMode, SyncPolicy, Verify};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MANIFEST: &str = "metadata/wal.meta";
const SEGMENT_SIZE: usize = 8192;
/// Of the bytes that no entry has, one in so many is tried.
const REST_STEP: usize = 131;

fn options() -> Options {
    Options::new().segment_size(SEGMENT_SIZE as u64).sync_policy(SyncPolicy::Manual)
}

/// A log as it lies on disk, and what is known of it.
struct Specimen {
    dir: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
    entries: BTreeMap<u64, Vec<u8>>,
    /// Where each entry's frame is: an index into `files`, and the bytes.
    frames: BTreeMap<u64, (usize, Range<usize>)>,
    /// The last seq that was synced, and that something on the disk says was.
    covered: u64,
}

/// What a byte of a segment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Identity,
    Link,
    Frame(u64),
    /// Past the last frame.
    Rest,
}

fn payload(seq: u64) -> Vec<u8> {
    (0..seq * 7 % 45).map(|i| (seq * 31 + i) as u8).collect()
}

/// Appends to a new log, with a new segment wherever `rotate` says so.
fn fill(log: &Log, seqs: Range<u64>, rotate: &[u64], synced: u64) {
    for seq in seqs {
        if seq % 10 == 4 {
            log.append_batch([payload(seq), payload(seq + 1)]).unwrap();
        } else if seq % 10 != 5 {
            log.append(&payload(seq)).unwrap();
        }
        if rotate.contains(&seq) {
            log.rotate().unwrap();
        }
        if seq == synced {
            log.sync().unwrap();
        }
    }
}

impl Specimen {
    /// Three segments, closed.
    fn closed() -> Specimen {
        let dir = fast_dir();
        let log = options().open(dir.path().join("log")).unwrap();
        fill(&log, 1..41, &[13, 27], 40);
        log.close().unwrap();
        Specimen::take(dir, 1..41, &[13, 27], 40)
    }

    /// Two segments, of which 1 to 30 were synced and 31 to 36 were appended after that; then killed.
    fn killed(idle: Duration) -> Specimen {
        let dir = fast_dir();
        let running = dir.path().join("running");
        let log = options().open(&running).unwrap();
        fill(&log, 1..37, &[13], 30);
        std::thread::sleep(idle);
        copy_dir(&running, &dir.path().join("log"));
        drop(log);
        Specimen::take(dir, 1..37, &[13], 30)
    }

    fn take(dir: tempfile::TempDir, seqs: Range<u64>, rotate: &[u64], covered: u64) -> Specimen {
        let mut files = Vec::new();
        read_files(&dir.path().join("log"), Path::new(""), &mut files);
        // A kill may leave a file that was prepared and not used yet.
        let mut frames = BTreeMap::new();
        let mut id = 1;
        let mut at = 128;
        for seq in seqs.clone() {
            let name = format!("segments/wal-{id:06}.log");
            let file = files.iter().position(|(path, _)| *path == Path::new(&name)).unwrap();
            let end = at + (32 + payload(seq).len()).next_multiple_of(8);
            frames.insert(seq, (file, at..end));
            at = end;
            if rotate.contains(&seq) {
                (id, at) = (id + 1, 128);
            }
        }
        let entries = seqs.map(|seq| (seq, payload(seq))).collect();
        Specimen { dir, files, entries, frames, covered }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The files that hold entries.
    fn segments(&self) -> Vec<usize> {
        let mut files: Vec<usize> = self.frames.values().map(|(file, _)| *file).collect();
        files.dedup();
        files
    }

    fn manifest(&self) -> usize {
        self.files.iter().position(|(path, _)| path == Path::new(MANIFEST)).unwrap()
    }

    fn seqs_in(&self, file: usize) -> Range<u64> {
        let mut seqs = self.frames.iter().filter(|(_, (f, _))| *f == file).map(|(seq, _)| *seq);
        let first = seqs.next().unwrap();
        first..seqs.next_back().unwrap() + 1
    }

    fn end_of(&self, file: usize) -> usize {
        self.frames[&(self.seqs_in(file).end - 1)].1.end
    }

    fn place(&self, file: usize, offset: usize) -> Place {
        match offset {
            0..=63 => Place::Identity,
            64..=127 => Place::Link,
            _ => {
                let frame = self.frames.iter().find(|(_, (f, bytes))| *f == file && bytes.contains(&offset));
                frame.map_or(Place::Rest, |(seq, _)| Place::Frame(*seq))
            }
        }
    }

    /// The files as they were, but for one.
    fn restore(&self, changed: usize, bytes: &[u8]) {
        let root = self.path();
        for dir in ["segments", "checkpoints", "metadata"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for entry in fs::read_dir(root.join("segments")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (index, (path, good)) in self.files.iter().enumerate() {
            fs::write(root.join(path), if index == changed { bytes } else { good }).unwrap();
        }
    }

    /// Every offset of a segment up to its last frame, and some after it.
    fn offsets(&self, file: usize) -> impl Iterator<Item = usize> {
        let end = self.end_of(file);
        (0..end + 16).chain((end + 16..self.files[file].1.len()).step_by(REST_STEP))
    }

    /// The entries that the log gives, which must be the first of those that were appended.
    fn check_up_to(&self, log: &Log, last: u64, what: &str) {
        let view = log.view();
        assert_eq!((view.first_seq(), view.next_seq()), (1, last + 1), "{what}");
        for (entry, (seq, payload)) in view.iter().zip(&self.entries) {
            let entry = entry.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(entry.seq() == *seq && entry.payload() == payload, "{what}: seq {seq}");
        }
        let validated = log.validate().unwrap();
        assert!(validated.is_intact() && validated.entries == last, "{what}: {validated:?}");
    }

    fn last(&self) -> u64 {
        *self.entries.keys().last().unwrap()
    }
}

fn read_files(root: &Path, below: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        if root.join(&path).is_dir() {
            read_files(root, &path, files);
        } else {
            files.push((path.clone(), fs::read(root.join(&path)).unwrap()));
        }
    }
}

fn flipped(bytes: &[u8], offset: usize, bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset] ^= 1 << bit;
    bytes
}

/// The damage that `result` reports.
fn damage<T>(result: Result<T, Error>, what: &str) -> Damage {
    match result {
        Err(Error::Damaged { damage }) => *damage,
        Err(error) => panic!("{what}: {error}, not damage"),
        Ok(_) => panic!("{what}: not noticed"),
    }
}

/// Panics unless the damage is named by file, bytes and seqs.
fn check_named(damage: &Damage, path: &Path, offset: usize, place: Place, what: &str) {
    assert!(damage.path == path, "{what}: {damage}");
    assert!(damage.bytes.contains(&(offset as u64)), "{what}: {damage}");
    if let Place::Frame(seq) = place {
        assert!(damage.seqs.contains(&seq), "{what}: {damage}");
        // The neighbours are intact; a batch is lost as a whole.
        assert!(damage.seqs.end - damage.seqs.start <= 2, "{what}: {damage}");
    }
}

#[test]
fn every_bit_that_a_witness_covers_is_damage_when_everything_is_verified() {
    let log = Specimen::closed();
    for file in log.segments() {
        let (name, good) = &log.files[file];
        let path = log.path().join(name);
        for offset in 0..log.end_of(file) {
            for bit in 0..8 {
                let what = format!("{} byte {offset} bit {bit}", name.display());
                log.restore(file, &flipped(good, offset, bit));
                let damage = damage(options().verify(Verify::All).open(log.path()), &what);
                check_named(&damage, &path, offset, log.place(file, offset), &what);
            }
        }
    }
}

#[test]
fn reads_and_validate_name_every_flipped_byte_of_a_closed_log() {
    let log = Specimen::closed();
    for file in log.segments() {
        let (name, good) = &log.files[file];
        let path = log.path().join(name);
        for offset in log.offsets(file) {
            let place = log.place(file, offset);
            let what = format!("{} byte {offset}, {place:?}", name.display());
            log.restore(file, &flipped(good, offset, offset * 5 % 8));
            let opened = options().open(log.path());
            match place {
                Place::Identity | Place::Link => check_named(&damage(opened, &what), &path, offset, place, &what),
                Place::Rest => log.check_up_to(&opened.unwrap(), log.last(), &what),
                Place::Frame(seq) => {
                    let opened = opened.unwrap_or_else(|e| panic!("{what}: a clean log is not scanned: {e}"));
                    check_reads(&log, &opened, seq, &what);
                    let validated = opened.validate().unwrap();
                    assert_eq!(validated.damage.len(), 1, "{what}");
                    check_named(&validated.damage[0], &path, offset, place, &what);
                    check_named(&damage(opened.get(seq), &what), &path, offset, place, &what);
                }
            }
        }
    }
}

/// Only the entry `bad` is lost, from wherever one reads.
fn check_reads(log: &Specimen, opened: &Log, bad: u64, what: &str) {
    let view = opened.view();
    for (seq, payload) in &log.entries {
        match view.get(*seq) {
            Ok(Some(entry)) => assert!(*seq != bad && entry.payload() == payload, "{what}: seq {seq}"),
            other => assert!(*seq == bad && other.is_err_and(|e| e.is_damage()), "{what}: seq {seq}"),
        }
    }
    let forward: Vec<_> = view.iter().collect();
    assert!(forward.len() as u64 == bad && forward.last().unwrap().is_err(), "{what}");
    let backward: Vec<_> = view.iter().rev().collect();
    assert!(backward.len() as u64 == log.last() + 1 - bad && backward.last().unwrap().is_err(), "{what}");
}

#[test]
fn salvage_loses_what_was_flipped_and_nothing_else() {
    let log = Specimen::closed();
    for file in log.segments() {
        let (name, good) = &log.files[file];
        let path = log.path().join(name);
        for offset in log.offsets(file) {
            let place = log.place(file, offset);
            let what = format!("{} byte {offset}, {place:?}", name.display());
            let bad = flipped(good, offset, offset * 3 % 8);
            log.restore(file, &bad);
            let opened = options().recovery(RecoveryMode::Salvage).open(log.path()).unwrap();
            let losses = &opened.recovery().losses;
            let lost = match place {
                Place::Rest => {
                    assert!(losses.is_empty(), "{what}: {losses:?}");
                    log.check_up_to(&opened, log.last(), &what);
                    continue;
                }
                Place::Frame(seq) => seq..seq + 1,
                // The link repeats what the identity says of the frames, and the other way round.
                Place::Identity | Place::Link => 0..0,
            };
            assert_eq!(losses.len(), 1, "{what}: {losses:?}");
            assert!(losses[0].path == path && losses[0].bytes.contains(&(offset as u64)), "{what}: {losses:?}");
            assert_eq!(losses[0].seqs, lost, "{what}");
            assert_eq!(opened.next_seq(), log.last() + 1, "{what}");
            for (seq, payload) in &log.entries {
                match opened.get(*seq) {
                    Ok(Some(entry)) => assert!(!lost.contains(seq) && entry.payload() == payload, "{what}: seq {seq}"),
                    other => assert!(lost.contains(seq) && other.is_err_and(|e| e.is_damage()), "{what}: seq {seq}"),
                }
            }
            let read = opened.view().iter().filter(|entry| entry.is_ok()).count();
            assert_eq!(read as u64, log.last() - (lost.end - lost.start), "{what}");
            drop(opened);
            assert!(fs::read(&path).unwrap() == bad, "{what}: salvage changed the file");
        }
    }
}

#[test]
fn a_segment_cut_at_any_length_is_damage_if_it_held_entries_there() {
    let log = Specimen::closed();
    for file in log.segments() {
        let (name, good) = &log.files[file];
        for len in log.offsets(file) {
            let what = format!("{} cut to {len} bytes", name.display());
            for verify in [Verify::Unproven, Verify::All] {
                log.restore(file, &good[..len]);
                let opened = options().verify(verify).open(log.path());
                if len < log.end_of(file) {
                    let damage = damage(opened, &what);
                    assert!(damage.path == log.path().join(name), "{what}: {damage}");
                } else {
                    let opened = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
                    log.check_up_to(&opened, log.last(), &what);
                    assert_eq!(opened.append(b"more").unwrap(), log.last() + 1, "{what}");
                    opened.close().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_segment_file_that_is_gone_is_damage() {
    let log = Specimen::closed();
    for file in log.segments() {
        for verify in [Verify::Unproven, Verify::All] {
            log.restore(usize::MAX, &[]);
            let path = log.path().join(&log.files[file].0);
            fs::remove_file(&path).unwrap();
            let damage = damage(options().verify(verify).open(log.path()), "gone");
            assert_eq!(damage.path, path);
            assert!(damage.seqs.contains(&log.seqs_in(file).start), "{damage}");
        }
    }
}

#[test]
fn a_flipped_slot_of_the_manifest_changes_nothing() {
    for log in [Specimen::closed(), Specimen::killed(Duration::ZERO)] {
        let file = log.manifest();
        let good = &log.files[file].1;
        let slots = (0..256).chain(4096..4352);
        for offset in slots.chain((0..good.len()).step_by(REST_STEP)) {
            let what = format!("manifest byte {offset}");
            log.restore(file, &flipped(good, offset, offset * 5 % 8));
            let opened = options().verify(Verify::All).open(log.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
            log.check_up_to(&opened, log.last(), &what);
            assert_eq!(opened.recovery().notes.len(), usize::from(offset % 4096 < 256), "{what}");
        }
        for len in (0..good.len()).step_by(37).chain([255, 256, 4095, 4096, 4351, 4352]) {
            let what = format!("manifest cut to {len} bytes");
            log.restore(file, &good[..len]);
            match options().open(log.path()) {
                Ok(opened) if len >= 256 => log.check_up_to(&opened, log.last(), &what),
                Err(Error::Damaged { .. } | Error::NotALog { .. }) if len < 256 => {}
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[test]
fn every_flipped_byte_of_a_killed_log_is_damage_or_torn_as_the_witness_says() {
    // With the witness in the frames alone, or in the manifest too.
    for idle in [Duration::ZERO, Duration::from_millis(30)] {
        let log = Specimen::killed(idle);
        for file in log.segments() {
            let (name, good) = &log.files[file];
            let path = log.path().join(name);
            for offset in log.offsets(file) {
                let place = log.place(file, offset);
                let what = format!("{} byte {offset}, {place:?}, after {idle:?}", name.display());
                log.restore(file, &flipped(good, offset, offset * 7 % 8));
                let opened = options().verify(Verify::All).open(log.path());
                match place {
                    Place::Frame(seq) if seq > log.covered => {
                        // A batch is kept as a whole or not at all.
                        let last = if seq % 10 == 5 { seq - 2 } else { seq - 1 };
                        let opened = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
                        log.check_up_to(&opened, last, &what);
                        assert!(opened.recovery().torn_bytes > 0, "{what}");
                    }
                    Place::Rest => {
                        let opened = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
                        log.check_up_to(&opened, log.last(), &what);
                    }
                    _ => check_named(&damage(opened, &what), &path, offset, place, &what),
                }
            }
        }
    }
}

#[test]
fn salvage_keeps_what_a_cut_file_still_has() {
    let log = Specimen::closed();
    for file in log.segments() {
        let (name, good) = &log.files[file];
        for len in log.offsets(file) {
            let what = format!("{} cut to {len} bytes", name.display());
            log.restore(file, &good[..len]);
            let opened = options().recovery(RecoveryMode::Salvage).open(log.path()).unwrap();
            let losses = &opened.recovery().losses;
            let is_lost = |seq: &u64| log.frames[seq].0 == file && log.frames[seq].1.end > len;
            let lost: Vec<u64> = log.entries.keys().copied().filter(is_lost).collect();
            let listed: Vec<u64> = losses.iter().flat_map(|loss| loss.seqs.clone()).collect();
            assert_eq!(listed, lost, "{what}: {losses:?}");
            assert!(losses.iter().all(|loss| loss.path == log.path().join(name)), "{what}: {losses:?}");
            assert_eq!(opened.next_seq(), log.last() + 1, "{what}");
            for (seq, payload) in &log.entries {
                match opened.get(*seq) {
                    Ok(Some(entry)) => assert!(!lost.contains(seq) && entry.payload() == payload, "{what}: seq {seq}"),
                    other => assert!(lost.contains(seq) && other.is_err_and(|e| e.is_damage()), "{what}: seq {seq}"),
                }
            }
        }
    }
}

#[test]
fn a_flipped_slot_brings_no_truncated_entry_back() {
    let dir = fast_dir();
    let running = dir.path().join("running");
    let log = options().open(&running).unwrap();
    fill(&log, 1..41, &[13, 27], 40);
    assert_eq!(log.truncate_before(20).unwrap(), 14);
    log.truncate_after(33).unwrap();
    let killed = dir.path().join("killed");
    copy_dir(&running, &killed);
    let mut files = Vec::new();
    read_files(&killed, Path::new(""), &mut files);
    let specimen = Specimen { dir, files, entries: BTreeMap::new(), frames: BTreeMap::new(), covered: 33 };
    let file = specimen.manifest();
    for offset in (0..256).chain(4096..4352) {
        specimen.restore(file, &flipped(&specimen.files[file].1, offset, offset % 8));
        let opened = options().open(specimen.path()).unwrap();
        assert_eq!((opened.first_seq(), opened.next_seq()), (14, 34), "manifest byte {offset}");
    }
    drop(log);
}
