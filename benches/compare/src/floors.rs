//! The floors: what the hardware does for the same work, as plain loops. The same frame bytes as the log's (a 32-byte header, the
//! payload, zeros up to a multiple of eight), the same kind of prepared segments, one checksum an entry by the `crc32c` crate; no
//! lock where one thread works, no index, no library code. A floor that gets slower makes a bar worthless, so each is printed beside
//! a figure that it should be near.

use crate::clock::timed_threads;
use crate::tails::Watch;
use anyhow::{ensure, Result};
use memmap2::{Advice, MmapMut, MmapOptions};
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const HEADER: usize = 32;

/// Bytes of a frame.
pub const fn frame_len(payload: usize) -> usize {
    (HEADER + payload + 7) & !7
}

/// A segment file with all of its blocks, mapped and populated.
pub struct Segment {
    pub file: File,
    pub map: MmapMut,
}

/// Makes a file of `len` bytes by writing zeros, `chunk` at a time, and syncs it.
pub fn zeroed_file(path: &Path, len: u64, chunk: usize) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; chunk];
    let mut at = 0;
    while at < len {
        let part = zeros.len().min((len - at) as usize);
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    file.sync_data()?;
    Ok(file)
}

/// Maps a file for stores, with all of its pages.
fn map(file: &File) -> Result<MmapMut> {
    // SAFETY: the file is this run's own.
    let map = unsafe { MmapOptions::new().map_mut(file) }?;
    map.advise(Advice::PopulateWrite)?;
    Ok(map)
}

impl Segment {
    pub fn make(path: &Path, len: u64, chunk: usize) -> Result<Segment> {
        let file = zeroed_file(path, len, chunk)?;
        let map = map(&file)?;
        Ok(Segment { file, map })
    }
}

/// Stores a header.
#[inline(always)]
fn put_header(header: &mut [u8; HEADER], seq: u64, payload_len: usize, crc: u32) {
    header[0..4].copy_from_slice(&(crc ^ seq as u32).to_le_bytes());
    header[4..8].copy_from_slice(&((HEADER + payload_len) as u32).to_le_bytes());
    header[8..16].copy_from_slice(&seq.to_le_bytes());
    header[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    header[24..32].copy_from_slice(&(seq << 8).to_le_bytes());
}

/// Stores a frame with a payload whose checksum is `crc`; where the next one goes.
#[inline(always)]
fn put_frame(map: &mut [u8], at: usize, seq: u64, payload: &[u8], crc: u32) -> usize {
    let end = at + frame_len(payload.len());
    let Some((header, body)) = map[at..end].split_first_chunk_mut() else {
        unreachable!("a frame is longer than its header");
    };
    put_header(header, seq, payload.len(), crc);
    body[..payload.len()].copy_from_slice(payload);
    body[payload.len()..].fill(0);
    end
}

/// Appends `count` times; the time of it.
pub fn append(map: &mut [u8], payload: &[u8], count: u64) -> Duration {
    let start = Instant::now();
    let mut at = 0;
    for seq in 1..=count {
        let payload = black_box(payload);
        at = put_frame(map, at, seq, payload, crc32c::crc32c(payload));
    }
    black_box(at);
    start.elapsed()
}

/// Appends batches: first all checksums of a batch, then all frames.
pub fn append_batches(map: &mut [u8], payloads: &[&[u8]], batches: u64) -> Duration {
    let start = Instant::now();
    let mut crcs = vec![0; payloads.len()];
    let (mut at, mut seq) = (0, 0);
    for _ in 0..batches {
        let payloads = black_box(payloads);
        for (crc, payload) in crcs.iter_mut().zip(payloads) {
            *crc = crc32c::crc32c(payload);
        }
        for (&crc, payload) in crcs.iter().zip(payloads) {
            seq += 1;
            at = put_frame(map, at, seq, payload, crc);
        }
    }
    black_box(at);
    start.elapsed()
}

/// Appends `count` times from `threads` threads, by one mutex; checksums before it is taken.
pub fn append_by_mutex(map: &mut [u8], payload: &[u8], threads: usize, count: u64) -> Result<Duration> {
    struct Cursor<'m> {
        map: &'m mut [u8],
        at: usize,
        seq: u64,
    }
    let cursor = Mutex::new(Cursor { map, at: 0, seq: 0 });
    let each = count / threads as u64;
    let append = |_: &mut ()| {
        for _ in 0..each {
            let payload = black_box(payload);
            let crc = crc32c::crc32c(payload);
            let mut cursor = cursor.lock();
            let Cursor { map, at, seq } = &mut *cursor;
            *seq += 1;
            *at = put_frame(map, *at, *seq, payload, crc);
        }
        Ok(())
    };
    timed_threads(threads, |_| (), append)
}

/// One `pwrite` and `fdatasync`.
pub fn durable(file: &File, at: u64, payload: &[u8]) -> Result<Duration> {
    let start = Instant::now();
    let mut frame = vec![0; frame_len(payload.len())];
    put_frame(&mut frame, 0, at, payload, crc32c::crc32c(payload));
    file.write_all_at(&frame, at)?;
    file.sync_data()?;
    Ok(start.elapsed())
}

/// Group commit in its simplest form: who finds nobody syncing syncs for all who have stored, the others wait.
pub fn group_commit(map: &mut MmapMut, from: usize, payload: &[u8], threads: usize, count: u64) -> Result<Duration> {
    struct State {
        at: usize,
        seq: u64,
        durable_at: usize,
        durable_seq: u64,
        syncing: bool,
    }
    struct Raw(*mut u8, usize);
    // SAFETY: stores through it are made under the state's mutex, each to a place of its own.
    unsafe impl Send for Raw {}
    let map = &*map;
    let shared = Mutex::new((
        State { at: from, seq: 0, durable_at: from, durable_seq: 0, syncing: false },
        Raw(map.as_ptr().cast_mut(), map.len()),
    ));
    let synced = Condvar::new();
    let each = count / threads as u64;
    let append = |_: &mut ()| {
        for _ in 0..each {
            let crc = crc32c::crc32c(payload);
            let mut guard = shared.lock();
            let (state, raw) = &mut *guard;
            state.seq += 1;
            let seq = state.seq;
            // SAFETY: the mapping outlives the threads, and the mutex is held.
            let bytes = unsafe { std::slice::from_raw_parts_mut(raw.0, raw.1) };
            state.at = put_frame(bytes, state.at, seq, payload, crc);
            while guard.0.durable_seq < seq {
                if guard.0.syncing {
                    synced.wait(&mut guard);
                    continue;
                }
                guard.0.syncing = true;
                let (from, to, seq) = (guard.0.durable_at, guard.0.at, guard.0.seq);
                drop(guard);
                let flushed = map.flush_range(from, to - from);
                guard = shared.lock();
                guard.0.syncing = false;
                if flushed.is_ok() {
                    guard.0.durable_at = to;
                    guard.0.durable_seq = seq;
                }
                synced.notify_all();
                flushed?;
            }
        }
        Ok(())
    };
    let elapsed = timed_threads(threads, |_| (), append)?;
    let durable_seq = shared.lock().0.durable_seq;
    ensure!(durable_seq == each * threads as u64, "{durable_seq} of {count} are durable");
    Ok(elapsed)
}

/// Fills segment files with frames, makes them durable, and closes them.
pub fn write_log(dir: &Path, payload: &[u8], bytes: u64, segment_len: u64) -> Result<Vec<PathBuf>> {
    let (mut paths, mut seq) = (Vec::new(), 0);
    let frames = segment_len / frame_len(payload.len()) as u64;
    let mut left = bytes / payload.len() as u64;
    while left > 0 {
        let path = dir.join(format!("floor-{:06}", paths.len()));
        let mut segment = Segment::make(&path, segment_len, 64 << 10)?;
        let mut at = 0;
        for _ in 0..frames.min(left) {
            seq += 1;
            at = put_frame(&mut segment.map, at, seq, payload, crc32c::crc32c(payload));
        }
        left -= frames.min(left);
        let Segment { file, map } = segment;
        drop(map);
        file.sync_data()?;
        paths.push(path);
    }
    Ok(paths)
}

/// A read of the first block of each file.
pub fn open(paths: &[PathBuf]) -> Result<Duration> {
    let start = Instant::now();
    for path in paths {
        let mut block = [0; 4096];
        File::open(path)?.read_exact_at(&mut block, 0)?;
        black_box(block);
    }
    Ok(start.elapsed())
}

/// Whether a walk checks payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Checksum,
    /// The header alone is read.
    Nothing,
}

/// Walks `count` frames from file to file; the time, mapping and populating included.
pub fn replay(paths: &[PathBuf], count: u64, check: Check) -> Result<Duration> {
    let start = Instant::now();
    let mut seq = 0;
    for path in paths {
        let map = read_map(path)?;
        walk(&map, &mut seq, count, check)?;
    }
    ensure!(seq == count, "{seq} of {count} entries");
    Ok(start.elapsed())
}

/// As [`replay`], over mappings that are there.
pub fn walk_maps(maps: &[memmap2::Mmap], count: u64) -> Result<Duration> {
    let start = Instant::now();
    let mut seq = 0;
    for map in maps {
        walk(map, &mut seq, count, Check::Nothing)?;
    }
    ensure!(seq == count, "{seq} of {count} entries");
    Ok(start.elapsed())
}

pub fn read_map(path: &Path) -> Result<memmap2::Mmap> {
    // SAFETY: the file is this run's own, and nobody writes it any more.
    let map = unsafe { MmapOptions::new().map(&File::open(path)?) }?;
    map.advise(Advice::PopulateRead)?;
    Ok(map)
}

#[inline(always)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[inline(always)]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// The payload of the frame at `at`, if it is the one with `seq`.
#[inline(always)]
fn frame_at(map: &[u8], at: usize, seq: u64, check: Check) -> Option<&[u8]> {
    let header: &[u8; HEADER] = map.get(at..)?.first_chunk()?;
    let len = u32_at(header, 4) as usize;
    if len < HEADER || u64_at(header, 8) != seq {
        return None;
    }
    let payload = map.get(at + HEADER..at + len)?;
    if check == Check::Checksum && crc32c::crc32c(payload) != u32_at(header, 20) {
        return None;
    }
    Some(payload)
}

fn walk(map: &[u8], seq: &mut u64, count: u64, check: Check) -> Result<()> {
    let mut at = 0;
    while *seq < count {
        let Some(payload) = frame_at(map, at, *seq + 1, check) else {
            break;
        };
        black_box(payload);
        at += frame_len(payload.len());
        *seq += 1;
    }
    Ok(())
}

/// The offset of every frame, over all files.
pub fn index(maps: &[memmap2::Mmap], count: u64) -> Result<Vec<u64>> {
    let mut offsets = Vec::with_capacity(count as usize);
    for (number, map) in maps.iter().enumerate() {
        let mut at = 0;
        while let Some(payload) = frame_at(map, at, offsets.len() as u64 + 1, Check::Nothing) {
            offsets.push((number as u64) << 32 | at as u64);
            at += frame_len(payload.len());
        }
    }
    ensure!(offsets.len() as u64 == count, "{} of {count} entries", offsets.len());
    Ok(offsets)
}

/// Reads the entries with `seqs` through an index of offsets.
pub fn get(maps: &[memmap2::Mmap], index: &[u64], seqs: &[u64], check: Check) -> Result<Duration> {
    let start = Instant::now();
    for &seq in seqs {
        let place = index[seq as usize - 1];
        let payload = frame_at(&maps[(place >> 32) as usize], place as u32 as usize, seq, check);
        black_box(payload.map(|payload| payload[0]));
        ensure!(payload.is_some(), "entry {seq}");
    }
    Ok(start.elapsed())
}

/// Segments that are used again and again.
pub fn make_ring(dir: &Path, segment_len: u64, count: usize) -> Result<Vec<Segment>> {
    (0..count).map(|number| Segment::make(&dir.join(format!("ring-{number}")), segment_len, 64 << 10)).collect()
}

/// Appends `bytes` of payload to the segments of a ring. Each full one goes to a second thread, which unmaps it, makes it durable and
/// maps it again. The append that finds its segment full waits for the next one.
pub fn sustained(ring: Vec<Segment>, payload: &[u8], bytes: u64, watch: &mut impl Watch) -> Result<Duration> {
    let (to_sync, full) = mpsc::channel::<Segment>();
    let (to_fill, ready) = mpsc::channel::<Segment>();
    let segment_len = ring.first().map_or(0, |segment| segment.map.len());
    for segment in ring {
        let _ = to_fill.send(segment);
    }
    let frames = (segment_len / frame_len(payload.len())) as u64;
    let mut left = bytes / payload.len() as u64;
    std::thread::scope(|scope| {
        let syncer = scope.spawn(move || -> Result<()> {
            for Segment { file, map: filled } in full {
                drop(filled);
                file.sync_data()?;
                let map = map(&file)?;
                let _ = to_fill.send(Segment { file, map });
            }
            Ok(())
        });
        let start = Instant::now();
        let mut seq = 0;
        let mut append = |segment: &mut Segment, at| {
            seq += 1;
            let payload = black_box(payload);
            put_frame(&mut segment.map, at, seq, payload, crc32c::crc32c(payload))
        };
        let mut filled = None;
        while left > 0 {
            let (mut segment, mut at) = watch.time(|| -> Result<_> {
                if let Some(filled) = filled.take() {
                    let _ = to_sync.send(filled);
                }
                let mut segment = ready.recv()?;
                let at = append(&mut segment, 0);
                Ok((segment, at))
            })?;
            for _ in 1..frames.min(left) {
                at = watch.time(|| append(&mut segment, at));
            }
            left -= frames.min(left);
            filled = Some(segment);
        }
        if let Some(filled) = filled {
            let _ = to_sync.send(filled);
        }
        drop(to_sync);
        match syncer.join() {
            Ok(synced) => synced?,
            Err(_) => anyhow::bail!("the syncing thread panicked"),
        }
        Ok(start.elapsed())
    })
}
