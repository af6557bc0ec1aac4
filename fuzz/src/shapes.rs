//! Valid logs of several shapes, made by the library once in a process, and what is known of each by who made it.

use crate::encode;
use crate::files::{segment_name, Files, MANIFEST};
use crate::format;
use crate::probe::{compressing, options, Digest};
use crate::shared::fast_dir;
use maplog::{Log, Options, RecoveryMode, Verify};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// A log as it lies on disk, and as its user knows it.
pub struct Shape {
    pub files: Files,
    pub first: u64,
    pub entries: BTreeMap<u64, Digest>,
    /// Batches of more than one entry of which no part was cut off.
    pub batches: Vec<Range<u64>>,
    /// What was cut off.
    pub dead: Vec<(u64, Digest)>,
}

impl Shape {
    pub fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The seqs of the batch that `seq` belongs to.
    pub fn batch_of(&self, seq: u64) -> Range<u64> {
        self.batches.iter().find(|batch| batch.contains(&seq)).cloned().unwrap_or(seq..seq + 1)
    }
}

/// How a log comes to rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
    /// Killed when the mark was stored.
    Idle,
}

/// The shapes. Call it before an execution is limited.
pub fn shapes() -> &'static [Shape] {
    static SHAPES: OnceLock<Vec<Shape>> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let plain = || options(RecoveryMode::Strict, Verify::Unproven);
        vec![
            make(plain(), End::Closed, three_segments),
            make(plain(), End::Killed, three_segments),
            make(plain(), End::Idle, three_segments),
            make(plain(), End::Closed, twice_cut),
            make(plain(), End::Killed, twice_cut),
            make(plain(), End::Idle, recycled),
            make(compressing(plain()), End::Closed, three_segments),
            make(compressing(plain()), End::Killed, adopted),
            make(plain(), End::Killed, begun_again),
        ]
    })
}

/// A log in the making.
struct Maker<'d> {
    dir: &'d Path,
    options: Options,
    log: Log,
    shape: Shape,
    /// Payloads so far: no two are equal.
    payloads: u64,
    /// What was synced.
    durable: u64,
    /// The mark that the last change has left in the manifest.
    marked: Option<u64>,
}

fn make(options: Options, end: End, build: fn(&mut Maker<'_>)) -> Shape {
    loop {
        let scratch = fast_dir();
        let dir = scratch.path().join("log");
        let log = options.clone().open(&dir).unwrap();
        let shape = Shape {
            files: Files::default(),
            first: 1,
            entries: BTreeMap::new(),
            batches: Vec::new(),
            dead: Vec::new(),
        };
        let mut maker =
            Maker { dir: &dir, options: options.clone(), log, shape, payloads: 0, durable: 0, marked: None };
        build(&mut maker);
        match end {
            End::Closed => {
                maker.log.close().unwrap();
                maker.marked = Some(maker.shape.next() - 1);
            }
            End::Killed => {}
            End::Idle => {
                std::thread::sleep(Duration::from_millis(20));
                maker.marked = Some(maker.durable);
            }
        }
        let files = Files::read(&dir);
        let (_, slot) = format::newest_slot(&dir);
        // Otherwise the keeper was faster, or slower, than meant.
        if slot.mark.map(|mark| mark.seq) == maker.marked {
            return Shape { files: settled(files), ..maker.shape };
        }
    }
}

/// The same log, alike each time that it is made: without files that the keeper had made and that hold nothing yet, and with the
/// newest slot of the manifest first.
fn settled(mut files: Files) -> Files {
    let holds_frames = |name: &str, bytes: &[u8]| {
        format::Segment::of(Path::new(name), bytes).is_some_and(|segment| !segment.frames.is_empty())
    };
    files.0.retain(|name, bytes| name == MANIFEST || holds_frames(name, bytes));
    let manifest = files.0.get_mut(MANIFEST).unwrap();
    let mut slots = [0, 4096].map(|at| manifest[at..at + encode::SLOT].to_vec());
    slots.sort_by_key(|slot| std::cmp::Reverse(encode::generation(slot)));
    for (slot, generation) in slots.iter_mut().zip([9, 8]) {
        encode::put_generation(slot, generation);
    }
    *manifest = encode::manifest([&slots[0], &slots[1]]);
    files
}

impl Maker<'_> {
    fn payload(&mut self, len: usize) -> Vec<u8> {
        self.payloads += 1;
        let name = format!("{:04x} ", self.payloads);
        name.bytes().cycle().take(len).collect()
    }

    fn push(&mut self, payload: &[u8]) {
        let next = self.shape.next();
        self.shape.entries.insert(next, Digest::of(payload));
    }

    fn append(&mut self, lens: &[usize]) {
        for len in lens {
            let payload = self.payload(*len);
            self.log.append(&payload).unwrap();
            self.push(&payload);
        }
    }

    fn append_batch(&mut self, lens: &[usize]) {
        let payloads: Vec<_> = lens.iter().map(|len| self.payload(*len)).collect();
        self.shape.batches.push(self.log.append_batch(&payloads).unwrap());
        payloads.iter().for_each(|payload| self.push(payload));
    }

    fn sync(&mut self) {
        self.durable = self.log.sync().unwrap();
    }

    fn rotate(&mut self) {
        self.log.rotate().unwrap();
        self.durable = self.shape.next() - 1;
    }

    fn truncate_after(&mut self, seq: u64) {
        self.log.truncate_after(seq).unwrap();
        (self.durable, self.marked) = (seq, Some(seq));
        self.shape.dead.extend(self.shape.entries.split_off(&(seq + 1)));
        self.shape.batches.retain(|batch| batch.end <= seq + 1);
    }

    fn truncate_before(&mut self, seq: u64) {
        self.shape.first = self.log.truncate_before(seq).unwrap();
        self.marked = Some(self.durable);
        let kept = self.shape.entries.split_off(&self.shape.first);
        self.shape.dead.extend(std::mem::replace(&mut self.shape.entries, kept));
        self.shape.batches.retain(|batch| batch.start >= self.shape.first);
    }
}

fn three_segments(maker: &mut Maker<'_>) {
    maker.append(&[5, 40, 0]);
    maker.append_batch(&[17, 64]);
    maker.rotate();
    maker.append(&[300, 8]);
    maker.append_batch(&[1, 2, 3]);
    maker.rotate();
    maker.append(&[33, 90]);
    maker.sync();
    maker.append(&[7]);
    maker.append_batch(&[60, 61]);
    maker.append(&[9, 10]);
}

/// In two segments stand entries that are dead: the end of one is in a link, that of the other in the manifest.
fn twice_cut(maker: &mut Maker<'_>) {
    maker.append(&[48; 9]);
    maker.truncate_after(5);
    maker.append(&[48; 4]);
    maker.sync();
    maker.truncate_after(7);
    maker.append(&[48; 3]);
    maker.sync();
    maker.append(&[48; 2]);
}

/// The last segment's file was one before.
fn recycled(maker: &mut Maker<'_>) {
    for _ in 0..4 {
        maker.append(&[700; 6]);
        maker.rotate();
        maker.truncate_before(maker.shape.next() - 6);
        // Until the keeper has taken the dead files out of the way.
        while Files::read(maker.dir).segments().any(|name| *name < segment_name(maker.log.segments()[0].id)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    maker.append(&[20, 700]);
    maker.sync();
    maker.append(&[700, 20]);
    assert!(format::segments(maker.dir).iter().any(|segment| segment.is_recycled && !segment.frames.is_empty()));
}

/// Recovered after a kill, and gone on with.
fn adopted(maker: &mut Maker<'_>) {
    maker.append(&[200; 5]);
    maker.sync();
    maker.append_batch(&[200; 3]);
    let image = Files::read(maker.dir);
    maker.log.close().unwrap();
    std::fs::remove_dir_all(maker.dir).unwrap();
    image.write(maker.dir);
    maker.log = maker.options.clone().open(maker.dir).unwrap();
    (maker.durable, maker.marked) = (8, Some(8));
    maker.append(&[200; 3]);
    maker.sync();
    maker.append_batch(&[200; 2]);
}

/// Begun again at another seq, and its older entries dropped.
fn begun_again(maker: &mut Maker<'_>) {
    maker.append(&[30; 3]);
    maker.log.reset(100).unwrap();
    (maker.durable, maker.marked) = (99, None);
    maker.shape.dead.extend(std::mem::take(&mut maker.shape.entries));
    maker.shape.first = 100;
    maker.append(&[30; 4]);
    maker.rotate();
    maker.append(&[30; 4]);
    maker.rotate();
    maker.append(&[30; 2]);
    maker.truncate_before(105);
    maker.append(&[30; 2]);
}
