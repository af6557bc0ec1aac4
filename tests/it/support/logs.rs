//! Logs with a known content. The standard geometry puts exactly a hundred entries into a segment: seq 1 to 100 into the first, and
//! so on, if nothing is cut.

use crate::shared::Rng;
use maplog::{Log, Options, SyncPolicy};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const SEGMENT: u64 = 8 << 10;
/// Bytes of a standard payload. With its header: 80, of which a segment of 8 KiB holds a hundred.
pub(crate) const PAYLOAD: usize = 48;

/// Segments of a hundred entries; nothing is synced unasked, but for sealed segments.
pub(crate) fn manual() -> Options {
    Options::new().segment_size(SEGMENT).sync_policy(SyncPolicy::Manual)
}

/// The payload of `seq` in its life `life`: a seq that a cut took away is given again.
pub(crate) fn payload(life: u8, seq: u64) -> [u8; PAYLOAD] {
    let mut payload = [life; PAYLOAD];
    payload[8..16].copy_from_slice(&seq.to_le_bytes());
    // Random to the last byte: what an earlier life of a file left in some place never equals what was written there later.
    let mut rng = Rng::new(seq << 8 | u64::from(life));
    payload[16..].chunks_exact_mut(8).for_each(|place| place.copy_from_slice(&rng.next().to_le_bytes()));
    payload
}

/// Appends the entries `seqs` of the life `life`.
pub(crate) fn fill(log: &Log, life: u8, seqs: Range<u64>) {
    for seq in seqs {
        assert_eq!(log.append(&payload(life, seq)).unwrap(), seq);
    }
}

/// The life of every entry of the log, from its first to its last; every payload is one that was appended.
pub(crate) fn lives(log: &Log) -> Vec<(u64, u8)> {
    let view = log.view();
    let read = |entry: maplog::Result<maplog::Entry<'_>>| {
        let entry = entry.unwrap();
        let life = entry.payload()[0];
        assert_eq!(entry.payload(), payload(life, entry.seq()), "seq {}", entry.seq());
        (entry.seq(), life)
    };
    let found: Vec<_> = view.iter().map(read).collect();
    let seqs: Vec<_> = found.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (view.first_seq()..view.next_seq()).collect::<Vec<_>>());
    found
}

/// Asserts that the log holds exactly these runs of entries: lives and their seqs.
#[track_caller]
pub(crate) fn assert_holds(log: &Log, runs: &[(u8, Range<u64>)]) {
    let expected: Vec<_> = runs.iter().flat_map(|(life, seqs)| seqs.clone().map(|seq| (seq, *life))).collect();
    let found = lives(log);
    let ends = |lives: &[(u64, u8)]| (lives.first().copied(), lives.last().copied(), lives.len());
    assert!(found == expected, "found {:?}, expected {:?}", ends(&found), ends(&expected));
}

/// Copies a log's directory: what a kill of the process would leave, page cache and all.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            match fs::copy(&path, &target) {
                // A spare of a living log: the keeper has given it its real name, or removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => assert!(copied.is_ok(), "{}: {copied:?}", path.display()),
            }
        }
    }
}

/// Bytes of all files below `dir`.
pub(crate) fn disk_use(dir: &Path) -> u64 {
    let size = |path: &Path| if path.is_dir() { disk_use(path) } else { fs::metadata(path).unwrap().len() };
    fs::read_dir(dir).unwrap().map(|entry| size(&entry.unwrap().path())).sum()
}

/// The files below `dir` with their contents.
pub(crate) fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Waits until `done`, which some background thread brings about.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
