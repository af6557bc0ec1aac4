//! The contract of the public interface, name by name: that this file compiles is most of the test. It is written from
//! the contract and not from the code, so that a changed signature fails here before it fails in somebody's engine.

use maplog::{
    Ack, Compression, Damage, Entry, Error, Follower, Iter, Log, LogIter, Options, PinnedEntry, RecoveryMode,
    RecoveryReport, Result, SegmentInfo, Stats, SyncPolicy, ValidationReport, Verify, View,
};
use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn send_sync<T: Send + Sync>() {}
fn send<T: Send + 'static>() {}
fn debug<T: Debug>() {}
fn iterator<I: Iterator<Item = T> + DoubleEndedIterator, T>() {}

#[test]
fn types_have_the_promised_traits() {
    send_sync::<Log>();
    send::<Log>();
    send_sync::<PinnedEntry>();
    send::<PinnedEntry>();
    send::<LogIter>();
    send::<Follower>();
    send::<View>();
    send_sync::<View>();
    send_sync::<Entry<'static>>();
    send_sync::<Error>();
    send::<Error>();
    fn options<T: Clone + Debug + Default + Send + Sync>() {}
    options::<Options>();
    fn choice<T: Copy + Debug + PartialEq>() {}
    choice::<SyncPolicy>();
    choice::<Compression>();
    choice::<RecoveryMode>();
    choice::<Verify>();
    choice::<Ack>();
    fn cloned<T: Clone>() {}
    cloned::<View>();
    cloned::<Damage>();
    fn error<T: std::error::Error + Debug + Display>() {}
    error::<Error>();
    fn bytes<T: AsRef<[u8]>>() {}
    bytes::<PinnedEntry>();
    iterator::<Iter<'static>, Result<Entry<'static>>>();
    fn log_iter<I: Iterator<Item = Result<PinnedEntry>> + Send + 'static>() {}
    log_iter::<LogIter>();
    for check in [debug::<Log>, debug::<View>, debug::<Entry<'static>>, debug::<PinnedEntry>, debug::<Follower>] {
        check();
    }
    for check in [debug::<RecoveryReport>, debug::<Damage>, debug::<SegmentInfo>, debug::<Stats>] {
        check();
    }
    debug::<ValidationReport>();
}

#[test]
fn options_are_built_by_value() {
    let _: fn() -> Options = Options::new;
    let _: fn(Options, u64) -> Options = Options::segment_size;
    let _: fn(Options, u32) -> Options = Options::max_entry_size;
    let _: fn(Options, SyncPolicy) -> Options = Options::sync_policy;
    let _: fn(Options, Compression) -> Options = Options::compression;
    let _: fn(Options, RecoveryMode) -> Options = Options::recovery;
    let _: fn(Options, Verify) -> Options = Options::verify;
    let _: fn(Options, u32) -> Options = Options::max_concurrent_writes;
    let _: fn(Options, bool) -> Options = Options::create;
    let _: fn(&Options) -> Result<()> = Options::validate;
    let _: fn(Options, PathBuf) -> Result<Log> = Options::open;
    let _: fn(PathBuf) -> Result<Log> = Log::open;
    // Any path will do.
    let _ = |dir: &str| Log::open(dir);
    let _ = |dir: &Path| Log::open(dir);
    let _ = |dir: &tempfile::TempDir| Options::new().open(dir);
    assert_eq!(format!("{:?}", Options::new()), format!("{:?}", Options::default()));
}

#[test]
fn choices_have_these_variants_and_no_other() {
    // Without a wildcard: a program may match on them.
    let _ = |policy: SyncPolicy| match policy {
        SyncPolicy::Immediate | SyncPolicy::Manual => {}
        SyncPolicy::Batch { entries, bytes } => {
            let _: (u32, u64) = (entries, bytes);
        }
        SyncPolicy::Interval(interval) => {
            let _: Duration = interval;
        }
    };
    let _ = |compression: Compression| match compression {
        Compression::None => 0,
        Compression::Lz4 { min_size } => {
            let min_size: u32 = min_size;
            min_size
        }
    };
    let _ = |mode: RecoveryMode| match mode {
        RecoveryMode::Strict | RecoveryMode::Salvage => {}
    };
    let _ = |verify: Verify| match verify {
        Verify::Unproven | Verify::All => {}
    };
    let _ = |ack: Ack| match ack {
        Ack::Buffered | Ack::Durable => {}
    };
}

/// If the error could be matched without a wildcard, the wildcard would be unreachable, and this would not compile.
#[deny(unreachable_patterns)]
fn name_of(error: Error) -> &'static str {
    match error {
        Error::Io { op, path, source } => {
            let _: (String, PathBuf, std::io::Error) = (op.to_string(), path, source);
            "Io"
        }
        Error::InvalidOptions { field, value, allowed } => {
            let _: [String; 3] = [field.to_string(), value.to_string(), allowed.to_string()];
            "InvalidOptions"
        }
        Error::Locked { path } => {
            let _: PathBuf = path;
            "Locked"
        }
        Error::Damaged { damage } => {
            let _: Box<Damage> = damage;
            "Damaged"
        }
        Error::EntryTooLarge { len, max } | Error::BatchTooLarge { len, max } => {
            let _: (u64, u64) = (len, max);
            "TooLarge"
        }
        Error::NoSpace { path, needed } => {
            let _: (PathBuf, u64) = (path, needed);
            "NoSpace"
        }
        Error::Poisoned => "Poisoned",
        Error::Closed => "Closed",
        Error::Truncated { first_seq } => {
            let _: u64 = first_seq;
            "Truncated"
        }
        Error::SeqOutOfRange { seq, first_seq, next_seq } => {
            let _: (u64, u64, u64) = (seq, first_seq, next_seq);
            "SeqOutOfRange"
        }
        Error::UnsupportedVersion { path, found, supported } => {
            let _: (PathBuf, u32, u32) = (path, found, supported);
            "UnsupportedVersion"
        }
        Error::NotALog { path } => {
            let _: PathBuf = path;
            "NotALog"
        }
        _ => "a later one",
    }
}

#[test]
fn errors_have_named_fields_and_there_may_be_more() {
    assert_eq!(name_of(Error::Poisoned), "Poisoned");
    let no_space = Error::NoSpace { path: "x".into(), needed: 7 };
    assert!(no_space.is_no_space() && !no_space.is_damage());
    let _ = |damage: Damage| {
        let Damage { path, bytes, seqs, kind, .. } = damage;
        let _: (PathBuf, Range<u64>, Range<u64>) = (path, bytes, seqs);
        format!("{kind:?}")
    };
}

#[test]
fn reports_have_these_fields() {
    let _ = |info: SegmentInfo| {
        let _: (u64, PathBuf, u64, u64) = (info.id, info.path, info.first_seq, info.next_seq);
        let _: (u64, u64, bool) = (info.bytes_used, info.bytes_allocated, info.pinned);
        format!("{:?}", info.state)
    };
    let _ = |report: RecoveryReport| {
        let _: (bool, u64, u64, u64) = (report.clean, report.segments, report.entries_scanned, report.bytes_scanned);
        let _: (u64, u64, u64) = (report.proven_seq, report.last_seq, report.torn_bytes);
        let _: (Vec<Damage>, Vec<String>, Duration) = (report.losses, report.notes, report.duration);
    };
    let _ = |report: ValidationReport| {
        let _: Vec<Damage> = report.damage;
    };
}

type Callback = Box<dyn FnOnce(Result<()>) + Send + 'static>;

#[test]
fn calls_on_the_log_have_these_signatures() {
    let _: fn(&Log) -> &RecoveryReport = Log::recovery;
    let _: for<'a> fn(&'a Log, &'a [u8]) -> Result<u64> = Log::append;
    type Fill = fn(&mut [u8]);
    let _: fn(&Log, usize, Fill) -> Result<u64> = Log::append_with;
    let _: fn(&Log, Vec<String>) -> Result<Range<u64>> = Log::append_batch;
    let _: for<'a> fn(&'a Log, &'a [u8], Ack) -> Result<u64> = Log::append_as;
    let _: fn(&Log) -> Result<u64> = Log::sync;
    let _: fn(&Log, u64) -> Result<()> = Log::wait_durable;
    let _: fn(&Log, u64, Callback) = Log::on_durable;
    let _: [fn(&Log) -> u64; 3] = [Log::durable_seq, Log::next_seq, Log::first_seq];
    let _: fn(&Log) -> View = Log::view;
    let _: fn(&Log) -> LogIter = Log::iter;
    let _: fn(&Log, u64) -> Result<Option<PinnedEntry>> = Log::get;
    let _: [fn(&Log, u64) -> Result<Follower>; 2] = [Log::follow, Log::follow_durable];
    let _: fn(&Log, u64) -> Result<u64> = Log::truncate_before;
    let _: fn(&Log, u64) -> Result<()> = Log::truncate_after;
    let _: fn(&Log, u64) -> Result<()> = Log::reset;
    let _: [fn(&Log) -> Result<()>; 2] = [Log::rotate, Log::close];
    let _: fn(&Log) -> Vec<SegmentInfo> = Log::segments;
    let _: fn(&Log) -> Stats = Log::stats;
    let _: fn(&Log) -> Result<ValidationReport> = Log::validate;
}

#[test]
fn calls_that_read_have_these_signatures() {
    fn entry<'v>(_: &'v View) {
        let _: fn(Entry<'v>) -> Cow<'v, [u8]> = Entry::into_payload;
        let _: for<'a> fn(&'a Entry<'v>) -> &'a [u8] = Entry::payload;
        let _: fn(&Entry<'v>) -> u64 = Entry::seq;
        let _: fn(&Entry<'v>) -> SystemTime = Entry::timestamp;
    }
    let _: fn(&View) = entry;
    let _: for<'v> fn(&'v View) -> Iter<'v> = View::iter;
    let _: for<'v> fn(&'v View, u64) -> Result<Option<Entry<'v>>> = View::get;
    let _: for<'v> fn(&'v View, Range<u64>) -> Iter<'v> = View::range;
    let _ = |view: &View| (view.range(..).count(), view.range(3..=5).count(), view.range(7..).count());
    let _: fn(&PinnedEntry) -> u64 = PinnedEntry::seq;
    let _: fn(&PinnedEntry) -> SystemTime = PinnedEntry::timestamp;
    let _: fn(&PinnedEntry) -> &[u8] = PinnedEntry::payload;
    let _: fn(&mut Follower, Duration) -> Result<Option<PinnedEntry>> = Follower::next_timeout;
}

fn small(policy: SyncPolicy) -> Options {
    Options::new().segment_size(8 << 10).sync_policy(policy)
}

#[test]
fn defaults_are_the_documented_ones() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path().join("new/nested/log")).unwrap();
    assert!(log.recovery().clean && log.recovery().losses.is_empty() && log.recovery().notes.is_empty());
    assert_eq!((log.first_seq(), log.next_seq(), log.durable_seq()), (1, 1, 0));
    let seq = log.append(&vec![7; 16 << 20]).unwrap();
    assert_eq!((seq, log.durable_seq()), (1, 1), "Immediate, and 16 MiB fit");
    assert!(matches!(
        log.append(&vec![7; (16 << 20) + 1]),
        Err(Error::EntryTooLarge { len: 16_777_217, max: 16_777_216 })
    ));
    let text = vec![b'a'; 1000];
    log.append(&text).unwrap();
    let view = log.view();
    assert!(matches!(view.get(2).unwrap().unwrap().into_payload(), Cow::Borrowed(bytes) if bytes == text));
    assert_eq!(log.segments()[0].bytes_used % 8, 0);
}

#[test]
fn ranges_are_clipped_and_run_from_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
    for seq in 1..=300u64 {
        log.append(&seq.to_le_bytes().repeat(16)).unwrap();
    }
    let first = log.truncate_before(100).unwrap();
    assert!((2..=100).contains(&first) && log.first_seq() == first);
    let view = log.view();
    let seqs = |iter: Iter<'_>| iter.map(|entry| entry.unwrap().seq()).collect::<Vec<_>>();
    assert_eq!(seqs(view.range(..)), (first..=300).collect::<Vec<_>>());
    assert_eq!(seqs(view.range(0..first + 2)), [first, first + 1]);
    assert_eq!(seqs(view.range(299..=u64::MAX)), [299, 300]);
    assert_eq!(seqs(view.range(300..)), [300]);
    assert!(seqs(view.range(301..)).is_empty() && seqs(view.range(200..200)).is_empty());
    assert!(seqs(view.range(..first)).is_empty() && seqs(view.range(u64::MAX..)).is_empty());
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = view.range(250..200);
    assert!(seqs(backwards).is_empty(), "a range that ends before it starts is empty");
    let excluded = (std::ops::Bound::Excluded(298), std::ops::Bound::Unbounded);
    assert_eq!(seqs(view.range(excluded)), [299, 300]);
    let mut both = view.range(150..154);
    let mut next = |front: bool| if front { both.next() } else { both.next_back() }.map(|entry| entry.unwrap().seq());
    assert_eq!([next(true), next(false), next(false), next(true)], [Some(150), Some(153), Some(152), Some(151)]);
    assert_eq!([next(true), next(false), next(true)], [None; 3]);
    for absent in [0, first - 1, 301, u64::MAX] {
        assert!(view.get(absent).unwrap().is_none() && log.get(absent).unwrap().is_none(), "{absent}");
    }
}

#[test]
fn a_view_is_of_its_moment() {
    let dir = tempfile::tempdir().unwrap();
    let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
    for seq in 1..=200u64 {
        log.append(&seq.to_le_bytes().repeat(16)).unwrap();
    }
    let view = log.view();
    let iter = log.iter();
    log.truncate_after(120).unwrap();
    log.truncate_before(110).unwrap();
    log.append(b"another 121").unwrap();
    let expected: Vec<_> = (1..=200u64).map(|seq| (seq, seq.to_le_bytes().repeat(16))).collect();
    let again = view.clone();
    drop(view);
    let borrowed: Vec<_> = again.iter().map(|e| e.unwrap()).map(|e| (e.seq(), e.payload().to_vec())).collect();
    assert_eq!(borrowed, expected);
    let other_thread = std::thread::spawn(move || iter.map(|e| e.unwrap()).collect::<Vec<_>>());
    let pinned: Vec<_> = other_thread.join().unwrap();
    assert!(pinned.iter().zip(&expected).all(|(e, (seq, payload))| e.seq() == *seq && e.as_ref() == payload));
    assert_eq!(pinned.len(), 200);
    assert_eq!(log.view().get(121).unwrap().unwrap().payload(), b"another 121");
    assert!(log.view().get(122).unwrap().is_none());
}

#[test]
fn an_empty_log_starts_where_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
    log.append_batch(["a", "b", "c"]).unwrap();
    assert_eq!(log.append_batch(Vec::<&str>::new()).unwrap(), 4..4, "an empty batch appends nothing");
    log.reset(1000).unwrap();
    assert_eq!((log.first_seq(), log.next_seq()), (1000, 1000));
    log.close().unwrap();
    let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
    assert_eq!((log.first_seq(), log.next_seq(), log.iter().count()), (1000, 1000, 0));
    assert_eq!(log.append(b"d").unwrap(), 1000);
    assert!(matches!(log.reset(0), Err(Error::SeqOutOfRange { seq: 0, .. })));
    assert!(matches!(log.reset(1 << 63), Err(Error::SeqOutOfRange { .. })));
    assert_eq!(log.next_seq(), 1001, "a refused reset changes nothing");
}

#[test]
fn every_seq_below_two_to_the_63_is_given_and_none_above() {
    const LIMIT: u64 = 1 << 63;
    let dir = tempfile::tempdir().unwrap();
    let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
    let is_over = |result: Result<u64>| matches!(result, Err(Error::SeqOutOfRange { seq: LIMIT, .. }));
    let batch = |payload: &[u8], count| log.append_batch(vec![payload; count]).map(|seqs| seqs.end);
    let large = [7; 1000];

    log.reset(LIMIT - 4).unwrap();
    assert!(is_over(batch(b"", 5)));
    assert_eq!(log.next_seq(), LIMIT - 4, "a batch that does not fit appends nothing");
    assert_eq!(batch(&large, 2).unwrap(), LIMIT - 2);
    assert!(is_over(batch(b"", 3)));
    assert_eq!(log.append(&large).unwrap(), LIMIT - 2);
    assert_eq!(log.append_with(1000, |place| place.fill(7)).unwrap(), LIMIT - 1);
    for _ in 0..2 {
        assert!(is_over(log.append(b"")) && is_over(log.append_as(b"", Ack::Durable)) && is_over(batch(b"", 1)));
        assert!(is_over(log.append_with(0, |_| ())));
        assert_eq!((log.next_seq(), log.sync().unwrap()), (LIMIT, LIMIT - 1));
        log.rotate().unwrap();
    }
    log.close().unwrap();

    let log = small(SyncPolicy::Manual).open(dir.path()).unwrap();
    assert!(log.iter().map(|entry| entry.unwrap()).all(|entry| entry.as_ref() == large));
    assert_eq!((log.iter().count(), log.next_seq()), (4, LIMIT));
    assert!(is_over(log.append(b"")));
    log.truncate_after(LIMIT - 2).unwrap();
    assert_eq!(log.append(b"the last one").unwrap(), LIMIT - 1);
    assert!(is_over(log.append(b"")));
}
