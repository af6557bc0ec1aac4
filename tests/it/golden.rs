//! Small logs of every version of the format, as they lay on a disk: each is opened, and its entries are compared with what was
//! appended. The files of a released version are read for ever.
//!
//! Until 0.1.0 is released version 1 may change. Then, and only then, make its files anew, look at what changed, and commit them:
//!
//! ```sh
//! rm -r tests/golden/v1 && cargo test --features __testing --test it golden::make_golden -- --ignored --exact
//! ```
//!
//! A later version gets files of its own beside these. `expected.txt` is written from what was appended, never from what the library
//! reads back; lines with `#` say how the log came to be.

use maplog::testing::set_clock_ms;
use maplog::{Compression, Error, Log, Options, RecoveryMode, SyncPolicy, Verify};
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An entry as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    seq: u64,
    timestamp_ms: u64,
    payload: Vec<u8>,
}

fn versions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn options() -> Options {
    Options::new().segment_size(8 << 10).sync_policy(SyncPolicy::Manual)
}

/// The line of `expected.txt` for an entry: seq, timestamp in ms, length, CRC-32C, and the first bytes.
fn line(seq: u64, timestamp_ms: u64, payload: &[u8]) -> String {
    let mut line = format!("entry {seq} {timestamp_ms} {} {:08x} ", payload.len(), crc32c::crc32c(payload));
    payload.iter().take(16).for_each(|byte| write!(line, "{byte:02x}").unwrap());
    line.trim_end().to_owned()
}

fn lines_of(log: &Log) -> Vec<String> {
    let view = log.view();
    let entries = view.iter().map(|entry| {
        let entry = entry.unwrap();
        let since = entry.timestamp().duration_since(std::time::UNIX_EPOCH).unwrap();
        line(entry.seq(), since.as_millis() as u64, entry.payload())
    });
    entries.collect()
}

/// Copies the files of a log that are part of it.
fn copy_log(from: &Path, to: &Path) {
    for folder in ["metadata", "segments"] {
        fs::create_dir_all(to.join(folder)).unwrap();
        for entry in fs::read_dir(from.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("wal") {
                fs::copy(entry.path(), to.join(folder).join(name)).unwrap();
            }
        }
    }
}

/// Every golden log, with its expectation.
fn goldens() -> Vec<(PathBuf, String)> {
    let folders = |path: &Path| {
        let mut paths: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let logs = folders(&versions()).into_iter().flat_map(|version| folders(&version));
    let found: Vec<_> = logs.map(|log| (log.clone(), fs::read_to_string(log.join("expected.txt")).unwrap())).collect();
    assert!(found.len() >= 5, "{found:?}");
    found
}

fn expected_lines(expected: &str) -> Vec<&str> {
    expected.lines().filter(|line| line.starts_with("entry ")).collect()
}

fn expected_value(expected: &str, name: &str) -> String {
    let value = expected.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {expected}")).to_owned()
}

#[test]
fn golden_logs_hold_what_was_appended_however_they_are_opened() {
    for (golden, expected) in goldens() {
        for options in [
            options(),
            options().verify(Verify::All),
            options().recovery(RecoveryMode::Salvage),
            Options::new().segment_size(64 << 10).max_entry_size(1),
        ] {
            let dir = tempfile::tempdir().unwrap();
            copy_log(&golden, dir.path());
            let what = format!("{} with {options:?}", golden.display());
            let log = options.clone().create(false).open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(lines_of(&log), expected_lines(&expected), "{what}");
            assert_eq!(log.first_seq().to_string(), expected_value(&expected, "first_seq"), "{what}");
            assert_eq!(log.next_seq().to_string(), expected_value(&expected, "next_seq"), "{what}");
            let report = log.recovery();
            assert_eq!(report.clean.to_string(), expected_value(&expected, "clean"), "{what}: {report}");
            assert!(report.losses.is_empty() && report.notes.is_empty(), "{what}: {report}");
            let validated = log.validate().unwrap();
            assert!(validated.is_intact() && validated.notes.is_empty(), "{what}: {validated:?}");
        }
    }
}

#[test]
fn golden_logs_can_be_written_on() {
    for (golden, expected) in goldens() {
        let dir = tempfile::tempdir().unwrap();
        copy_log(&golden, dir.path());
        let log = options().create(false).open(dir.path()).unwrap();
        let next_seq: u64 = expected_value(&expected, "next_seq").parse().unwrap();
        for seq in next_seq..next_seq + 40 {
            assert_eq!(log.append(&[b'+'; 400]).unwrap(), seq);
        }
        log.close().unwrap();
        let log = options().open(dir.path()).unwrap();
        assert!(log.recovery().clean, "{}: {}", golden.display(), log.recovery());
        let lines = lines_of(&log);
        let old = expected_lines(&expected);
        assert_eq!(lines[..old.len()], old, "{}", golden.display());
        assert_eq!(lines.len(), old.len() + 40, "{}", golden.display());
        assert!(log.validate().unwrap().is_intact(), "{}", golden.display());
    }
}

#[test]
fn another_version_is_named() {
    let (golden, _) = goldens().swap_remove(0);
    let dir = tempfile::tempdir().unwrap();
    copy_log(&golden, dir.path());
    let manifest = dir.path().join("metadata/wal.meta");
    let mut bytes = fs::read(&manifest).unwrap();
    for slot in [0, 4096] {
        bytes[slot + 8] = 2;
        let crc = crc32c::crc32c(&bytes[slot..slot + 252]);
        bytes[slot + 252..slot + 256].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&manifest, &bytes).unwrap();
    match options().open(dir.path()) {
        Err(Error::UnsupportedVersion { path, found: 2, supported: 1 }) => assert_eq!(path, manifest),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&manifest).unwrap(), bytes, "nothing was changed");
}

/// A log that is being made, and what was appended to it.
struct Maker {
    dir: tempfile::TempDir,
    log: Log,
    given: Vec<Given>,
    now_ms: u64,
}

impl Maker {
    fn new(options: Options) -> Maker {
        let dir = tempfile::tempdir().unwrap();
        let log = options.open(dir.path()).unwrap();
        Maker { dir, log, given: Vec::new(), now_ms: 1_700_000_000_000 }
    }

    fn tick(&mut self) {
        self.now_ms += 1001;
        set_clock_ms(Some(self.now_ms));
    }

    fn take(&mut self, seqs: Range<u64>, payloads: &[Vec<u8>]) {
        assert_eq!(seqs.end - seqs.start, payloads.len() as u64);
        for (seq, payload) in seqs.zip(payloads) {
            self.given.push(Given { seq, timestamp_ms: self.now_ms, payload: payload.clone() });
        }
    }

    fn append(&mut self, payload: Vec<u8>) {
        self.tick();
        let seq = self.log.append(&payload).unwrap();
        self.take(seq..seq + 1, &[payload]);
    }

    fn append_some(&mut self, name: &str, count: usize, len: usize) {
        for index in 0..count {
            let mut payload = format!("{name} {index} ").into_bytes();
            payload.resize(len, b'0' + (index % 10) as u8);
            self.append(payload);
        }
    }

    fn append_batch(&mut self, payloads: Vec<Vec<u8>>) {
        self.tick();
        let seqs = self.log.append_batch(&payloads).unwrap();
        self.take(seqs, &payloads);
    }

    fn truncate_before(&mut self, seq: u64) {
        let first_seq = self.log.truncate_before(seq).unwrap();
        assert!(first_seq > self.given[0].seq, "it drops something");
        self.given.retain(|given| given.seq >= first_seq);
    }

    fn truncate_after(&mut self, seq: u64) {
        self.log.truncate_after(seq).unwrap();
        self.given.retain(|given| given.seq <= seq);
    }

    /// Saves the log as it lies on the disk: closed, or as a kill leaves it. Only the first `kept` entries are expected, and `change`
    /// changes the segment files.
    fn save(&self, name: &str, how: &str, closed: bool, kept: usize, change: impl Fn(&Path)) {
        let to = versions().join("v1").join(name);
        assert!(!to.exists(), "remove {} first", to.display());
        if closed {
            self.log.close().unwrap();
        }
        copy_log(self.dir.path(), &to);
        change(&to.join("segments"));
        let given = &self.given[..kept];
        let mut text = how.lines().map(|line| format!("# {line}\n")).collect::<String>();
        text.push_str("# entry SEQ TIMESTAMP_MS LENGTH CRC32C FIRST_BYTES\n");
        let (first, last) = (given[0].seq, given[given.len() - 1].seq);
        writeln!(text, "first_seq {first}\nnext_seq {}\nclean {closed}", last + 1).unwrap();
        given.iter().for_each(|given| text += &(line(given.seq, given.timestamp_ms, &given.payload) + "\n"));
        fs::write(to.join("expected.txt"), text).unwrap();
        set_clock_ms(None);
    }

    fn active_path(&self) -> PathBuf {
        self.log.segments().pop().unwrap().path
    }
}

fn unchanged(_segments: &Path) {}

#[test]
#[ignore = "writes the golden files anew"]
fn make_golden() {
    let name = |path: &Path| path.file_name().unwrap().to_owned();

    let mut maker = Maker::new(options().compression(Compression::Lz4 { min_size: 64 }));
    maker.append(b"a first entry".to_vec());
    maker.append(Vec::new());
    maker.append(b"eight by".to_vec());
    maker.append_batch(vec![b"of a batch".to_vec(), Vec::new(), b"the same words ".repeat(40), b"its last".to_vec()]);
    maker.append(b"again and again ".repeat(100));
    maker.append((0..=255).collect());
    maker.append_some("over three segments", 150, 63);
    maker.append_some("and long", 20, 400);
    maker.log.rotate().unwrap();
    maker.append_some("the last segment", 3, 20);
    let kept = maker.given.len();
    maker.save(
        "clean",
        "Single entries, some empty, a batch, entries that LZ4 makes shorter; several segments; closed.",
        true,
        kept,
        unchanged,
    );

    let mut maker = Maker::new(options());
    maker.append_some("synced", 12, 100);
    maker.log.sync().unwrap();
    maker.append_some("not synced", 4, 100);
    let kept = maker.given.len();
    maker.append_batch((0..6).map(|index| vec![b'a' + index; 150]).collect());
    let active = name(&maker.active_path());
    let used = maker.log.segments()[0].bytes_used as usize;
    maker.save(
        "torn",
        "Entries synced and not; then a batch of six, of which a power cut took the payload of the fifth. No entry of the batch is kept.",
        false,
        kept,
        |segments| {
            let mut bytes = fs::read(segments.join(&active)).unwrap();
            bytes[used - 2 * 184 + 40..used - 184].fill(0);
            fs::write(segments.join(&active), bytes).unwrap();
        },
    );

    let mut maker = Maker::new(options());
    maker.append_some("first run", 100, 300);
    maker.log.sync().unwrap();
    maker.truncate_before(40);
    maker.truncate_after(70);
    maker.append_some("second run", 5, 300);
    maker.truncate_after(73);
    maker.append_some("third run", 3, 300);
    let kept = maker.given.len();
    maker.save(
        "truncated",
        "Truncated before 40, after 70, and after 73, with appends between; killed, with all bytes on the disk.",
        false,
        kept,
        unchanged,
    );

    let mut maker = Maker::new(options());
    maker.append_batch((0..20).map(|index| vec![index; 90]).collect());
    maker.truncate_after(12);
    let kept = maker.given.len();
    maker.save("cut_batch", "A batch of twenty, cut after its twelfth entry; closed.", true, kept, unchanged);

    let mut maker = Maker::new(options());
    let is_recycled = |path: &Path| fs::read(path).unwrap()[12] == 1;
    let mut rounds = 0;
    loop {
        maker.append_some("steady", 20, 350);
        maker.log.sync().unwrap();
        rounds += 1;
        let active = maker.log.segments().pop().unwrap();
        if rounds > 3 && is_recycled(&active.path) && (1000..5000).contains(&active.bytes_used) {
            break;
        }
        let next_seq = maker.log.next_seq();
        if next_seq > 60 {
            maker.truncate_before(next_seq - 25);
        }
        // The keeper takes the dropped files out of the way, and makes the next segment from one of them.
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(rounds < 500, "no segment was made from an old file");
    }
    let (kept, active) = (maker.given.len(), maker.log.segments().pop().unwrap());
    let rest = fs::read(&active.path).unwrap().split_off(active.bytes_used as usize);
    assert!(rest.iter().any(|&byte| byte != 0), "past the end stands what stood there before");
    maker.save(
        "recycled",
        "The active segment was made from the file of a dropped one, whose frames stand past its end; killed, all bytes on the disk.",
        false,
        kept,
        unchanged,
    );
}
