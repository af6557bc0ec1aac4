//! What the pieces of a log cost, through its public API. Sizes are bytes of payload: 128 where a bench names none.
//!
//! The logs lie on the disk that the build lies on: in memory, a sync would cost nothing. A segment that is appended to has all of its
//! blocks and pages before the clock starts, and is at most half full when the clock stops: no append waits for the log's own thread,
//! or has it make the next file meanwhile.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use maplog::{Log, Options, SyncPolicy};
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{fs, io, thread};
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes of a segment.
const SEGMENT: u64 = 32 << 20;
/// Bytes of payload in a log that is read or recovered. With their frames they fill less than half a segment.
const LOG: u64 = 8 << 20;
/// Bytes of a payload where a bench names none.
const SIZE: u64 = 128;

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    append(&mut criterion)?;
    append_batch(&mut criterion)?;
    iter(&mut criterion)?;
    get(&mut criterion)?;
    sync(&mut criterion)?;
    recovery(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// An append that waits for no sync.
fn append(criterion: &mut Criterion) -> Result<()> {
    let scratch = Scratch::new(SyncPolicy::Manual)?;
    let log = &scratch.log;
    let mut group = criterion.benchmark_group("append");
    for size in [16, 128, 1 << 10, 16 << 10] {
        let payload = vec![7; size as usize];
        group.throughput(elements(1, size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|count| time_appends(log, count, frame_len(size), || log.append(black_box(&payload))));
        });
    }
    Ok(())
}

/// A batch of a hundred entries that waits for no sync.
fn append_batch(criterion: &mut Criterion) -> Result<()> {
    const ENTRIES: u64 = 100;
    let scratch = Scratch::new(SyncPolicy::Manual)?;
    let log = &scratch.log;
    let batch = [[7; SIZE as usize]; ENTRIES as usize];
    let batch_len = ENTRIES * frame_len(SIZE);
    let mut group = criterion.benchmark_group("append_batch");
    group.throughput(elements(ENTRIES, SIZE));
    group.bench_function(format!("{ENTRIES}x{SIZE}"), |bencher| {
        bencher.iter_custom(|count| time_appends(log, count, batch_len, || log.append_batch(black_box(&batch))));
    });
    Ok(())
}

/// A pass over a whole log: one of this run, and one of an earlier run, of which every byte is checked.
fn iter(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("iter");
    for size in [128, 4 << 10] {
        group.throughput(elements(LOG / size, size));
        for (whose, scratch) in own_and_checked(size)? {
            group.bench_function(BenchmarkId::new(whose, size), |bencher| {
                bencher.iter(|| {
                    for entry in scratch.log.view().iter() {
                        black_box(entry.expect("an entry that is whole").payload());
                    }
                });
            });
        }
    }
    Ok(())
}

/// A lookup by seq, in an order that no processor foresees.
fn get(criterion: &mut Criterion) -> Result<()> {
    const ENTRIES: u64 = LOG / SIZE;
    let mut group = criterion.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    for (whose, scratch) in own_and_checked(SIZE)? {
        let view = scratch.log.view();
        let mut index = 0;
        group.bench_function(whose, |bencher| {
            bencher.iter(|| {
                index = (index * 32_557 + 1) % ENTRIES; // comes by every index, for there are 2^16
                let entry = view.get(1 + index).expect("an entry that is whole").expect("an entry");
                entry.payload()[0]
            });
        });
    }
    Ok(())
}

/// An append by each of several threads, every one of which waits until its own is durable.
fn sync(criterion: &mut Criterion) -> Result<()> {
    let scratch = Scratch::new(SyncPolicy::Immediate)?;
    let log = &scratch.log;
    let mut group = criterion.benchmark_group("sync");
    for threads in [1, 8, 32] {
        group.throughput(Throughput::Elements(threads));
        group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
            bencher.iter_custom(|count| {
                start_over(log).expect("an empty segment");
                time_threads(threads, || {
                    for _ in 0..count {
                        log.append(&[7; SIZE as usize]).expect("a durable append");
                    }
                })
            });
        });
    }
    Ok(())
}

/// Opening what a kill left of a log that was never synced. The scan: checking every entry, and looking over the rest of the segment.
/// All of it: the scan, and writing the entries once more, to the disk.
fn recovery(criterion: &mut Criterion) -> Result<()> {
    let killed = copy(Scratch::filled(SIZE)?.dir.path())?;
    let copied = || copy(killed.path()).expect("a copy");
    let open = |dir| {
        let recovered = Scratch::open(dir, SyncPolicy::Manual).expect("a log that recovers");
        assert_eq!(recovered.log.recovery().entries_scanned, LOG / SIZE);
        recovered
    };
    let mut group = criterion.benchmark_group("recovery");
    group.throughput(elements(LOG / SIZE, SIZE));
    group.bench_function("scan", |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| open(copied()).log.recovery().duration).sum());
    });
    group.bench_function("open", |bencher| bencher.iter_batched(copied, open, BatchSize::PerIteration));
    Ok(())
}

/// A log in a directory of its own, which goes when the log is closed.
struct Scratch {
    log: Log,
    dir: TempDir,
}

impl Scratch {
    fn new(policy: SyncPolicy) -> Result<Scratch> {
        Scratch::open(temp_dir()?, policy)
    }

    fn open(dir: TempDir, policy: SyncPolicy) -> Result<Scratch> {
        let log = Options::new().segment_size(SEGMENT).sync_policy(policy).open(dir.path())?;
        Ok(Scratch { log, dir })
    }

    /// A log of entries of `size` bytes, none of them synced.
    fn filled(size: u64) -> Result<Scratch> {
        let scratch = Scratch::new(SyncPolicy::Manual)?;
        let payload = vec![7; size as usize];
        for _ in 0..LOG / size {
            scratch.log.append(&payload)?;
        }
        settle(&scratch.log)?;
        Ok(scratch)
    }

    /// The same log in its next run.
    fn reopened(self) -> Result<Scratch> {
        self.log.close()?;
        Scratch::open(self.dir, SyncPolicy::Manual)
    }
}

/// Two logs of entries of `size` bytes: one of this run, and one of an earlier run.
fn own_and_checked(size: u64) -> Result<[(&'static str, Scratch); 2]> {
    Ok([("own", Scratch::filled(size)?), ("checked", Scratch::filled(size)?.reopened()?)])
}

fn temp_dir() -> io::Result<TempDir> {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
}

fn elements(count: u64, size: u64) -> Throughput {
    Throughput::ElementsAndBytes { elements: count, bytes: count * size }
}

/// The most bytes that an entry of `size` bytes takes in a segment.
fn frame_len(size: u64) -> u64 {
    size + 40
}

/// Goes on in an empty segment that has all of its blocks: where the log was appended to before, in the same file.
fn start_over(log: &Log) -> Result<()> {
    log.rotate()?;
    log.truncate_before(log.next_seq())?;
    log.append(b"")?;
    settle(log)
}

/// Waits until the log's segments have all of their blocks, and its own thread nothing to do.
fn settle(log: &Log) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while log.segments().iter().any(|segment| segment.bytes_allocated < SEGMENT) {
        if Instant::now() > deadline {
            return Err("a segment does not get its blocks".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The time of `count` calls of `append`, each of which takes at most `len` bytes of a segment. The clock stands while room is made.
fn time_appends<T>(log: &Log, count: u64, len: u64, append: impl Fn() -> maplog::Result<T>) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let fitting = left.min(SEGMENT / 2 / len);
        start_over(log).expect("an empty segment");
        let start = Instant::now();
        for _ in 0..fitting {
            black_box(append().expect("an append"));
        }
        elapsed += start.elapsed();
        left -= fitting;
    }
    elapsed
}

/// Runs `work` in several threads at once; the time from the first start to the last end. Each thread reads the clock itself: one
/// that waits for them may come to it late.
fn time_threads(threads: u64, work: impl Fn() + Sync) -> Duration {
    let barrier = Barrier::new(threads as usize);
    let run = || {
        barrier.wait();
        let start = Instant::now();
        work();
        (start, Instant::now())
    };
    let spans: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread that ends")).collect()
    });
    let first = spans.iter().map(|(start, _)| *start).min();
    let last = spans.iter().map(|(_, end)| *end).max();
    first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first)
}

/// A copy of a directory, synced: of an open log, what is left if its process is killed.
fn copy(dir: &Path) -> io::Result<TempDir> {
    let copy = temp_dir()?;
    copy_into(dir, copy.path())?;
    Ok(copy)
}

fn copy_into(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_into(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}
