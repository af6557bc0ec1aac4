//! Bytes that a cut made dead, when the cut that says so is no longer the one in the manifest: what a later one, and the damage of a
//! single block, must not bring back.

use crate::support::logs::copy_dir;
use maplog::testing::{observe, Observer, Op};
use maplog::{Error, Log, Options, RecoveryMode, SyncPolicy};
use parking_lot::Mutex;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SEGMENT_SIZE: u64 = 8 << 10;
const PAYLOAD_LEN: usize = 400;

fn options() -> Options {
    Options::new().segment_size(SEGMENT_SIZE).sync_policy(SyncPolicy::Manual)
}

fn payload(name: &str, seq: u64) -> Vec<u8> {
    let mut bytes = format!("{name} {seq} ").into_bytes();
    bytes.resize(PAYLOAD_LEN, b'.');
    bytes
}

fn append(log: &Log, name: &str, seqs: std::ops::Range<u64>) {
    for seq in seqs {
        assert_eq!(log.append(&payload(name, seq)).unwrap(), seq);
    }
}

fn segment_holding(log: &Log, seq: u64) -> PathBuf {
    log.segments().into_iter().find(|s| (s.first_seq..s.next_seq).contains(&seq)).unwrap().path
}

/// A closed log in `dir`: 1 to 5 as they were first appended, then 6 to 8 again after a first cut, of which a second one dropped 8.
/// The segment that the first cut ends still holds the frames of the old 6 and the ones after it. Returns the path of that segment,
/// and of the one that holds the new 6.
fn twice_cut(dir: &Path) -> (PathBuf, PathBuf) {
    let log = options().open(dir).unwrap();
    append(&log, "old", 1..13);
    assert_eq!(log.segments().len(), 1);
    log.truncate_after(5).unwrap();
    append(&log, "new", 6..9);
    log.truncate_after(7).unwrap();
    let paths = (segment_holding(&log, 5), segment_holding(&log, 6));
    log.close().unwrap();
    paths
}

/// What a log holds: "old" or "new" and the seq of each entry.
fn names(log: &Log) -> Vec<String> {
    let name = |payload: &[u8]| String::from_utf8_lossy(payload).split(" .").next().unwrap_or_default().to_owned();
    log.view().iter().flatten().map(|entry| name(entry.payload())).collect()
}

/// A strict open says that something is damaged, and `seqs` are among what is lost.
fn assert_refused(dir: &Path, seqs: &[u64], what: &str) {
    match options().open(dir) {
        Err(Error::Damaged { damage }) => {
            assert!(seqs.iter().all(|seq| damage.seqs.contains(seq)), "{what}: {damage}");
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(log) => panic!("{what}: opened, with {:?}; {}", names(&log), log.recovery()),
    }
}

#[test]
fn a_lost_link_does_not_bring_back_what_an_earlier_cut_dropped() {
    for byte in [0, 8, 16, 24, 32, 60] {
        let dir = tempfile::tempdir().unwrap();
        let (_, second) = twice_cut(dir.path());
        let mut bytes = fs::read(&second).unwrap();
        bytes[64 + byte] ^= 1;
        fs::write(&second, bytes).unwrap();
        let what = format!("byte {byte} of the link flipped");
        assert_refused(dir.path(), &[6, 7], &what);
        // The frames of 6 and 7 are whole, and lie in a segment that comes later than the old ones.
        let log = options().recovery(RecoveryMode::Salvage).open(dir.path()).unwrap();
        let found = names(&log);
        assert!(found.iter().all(|name| !["old 6", "old 7", "old 8"].contains(&name.as_str())), "{what}: {found:?}");
        assert_eq!(found[5..], ["new 6", "new 7"], "{what}");
    }
}

#[test]
fn a_lost_segment_does_not_bring_back_what_an_earlier_cut_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (_, second) = twice_cut(dir.path());
    fs::remove_file(&second).unwrap();
    // Where the missing segment began stands nowhere any more: of what it held, only the mark is known.
    assert_refused(dir.path(), &[7], "the segment after the first cut removed");
}

/// Copies the directory when the first segment is about to be unlinked, and at each later unlink.
struct AtUnlink {
    dir: PathBuf,
    images: PathBuf,
    taken: Mutex<u32>,
}

impl Observer for AtUnlink {
    fn before(&self, op: &Op<'_>) -> io::Result<()> {
        if matches!(op, Op::Unlink { path } if path.starts_with(self.dir.join("segments")) && path.exists()) {
            let mut taken = self.taken.lock();
            copy_dir(&self.dir, &self.images.join(taken.to_string()));
            *taken += 1;
        }
        Ok(())
    }

    fn after(&self, _op: &Op<'_>, _succeeded: bool) {}
}

#[test]
fn files_that_a_cut_made_dead_stay_dead_until_they_are_gone() {
    // 1. Entries of 1 to 100 in some segments, synced as they came; a cut drops all but the first segment's, and its unlinks are lost
    //    (the directory was not synced yet) while another thread's append is durable already.
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path()).unwrap();
    for seq in 1..101 {
        append(&log, "old", seq..seq + 1);
        log.sync().unwrap();
    }
    let dead: Vec<_> =
        log.segments().into_iter().skip(1).map(|s| (s.path.clone(), fs::read(&s.path).unwrap())).collect();
    log.truncate_after(5).unwrap();
    append(&log, "new", 6..9);
    log.sync().unwrap();
    let image = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), image.path());
    for (path, bytes) in &dead {
        fs::write(image.path().join(path.strip_prefix(dir.path()).unwrap()), bytes).unwrap();
    }
    drop(log);

    // 2. The next open is cut short at each of its unlinks.
    let images = tempfile::tempdir().unwrap();
    let observer = AtUnlink { dir: image.path().to_owned(), images: images.path().to_owned(), taken: Mutex::new(0) };
    let observer = Arc::new(observer);
    let guard = observe(image.path(), Arc::clone(&observer) as Arc<dyn Observer>);
    let log = options().open(image.path()).unwrap();
    drop(guard);
    assert_eq!(log.next_seq(), 9);
    let taken = *observer.taken.lock();
    assert!(taken as usize >= dead.len(), "{taken}");

    // 3. The open after that finds what the first one found.
    for index in 0..taken {
        let log = options().open(images.path().join(index.to_string())).unwrap();
        assert_eq!(log.next_seq(), 9, "cut short at unlink {index}");
        for (entry, seq) in log.view().iter().zip(1..) {
            let entry = entry.unwrap();
            assert_eq!(entry.payload(), payload(if seq < 6 { "old" } else { "new" }, seq));
        }
    }
}
