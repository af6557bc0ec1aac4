//! The seeds: what each target starts from, under a name that says what it is about. They are committed as files; this is how they
//! are made anew when an input's layout changes:
//!
//! ```text
//! cargo run --manifest-path fuzz/Cargo.toml --example seeds
//! ```

use crate::encode::{self, Segment, FLAG_FIRST, FLAG_LAST, FLAG_LZ4, FRAMES, NO_WITNESS};
use std::fs;
use std::path::Path;

const ALONE: u8 = FLAG_FIRST | FLAG_LAST;

/// Writes all seeds to `dir`, a directory for each target.
pub fn write(dir: &Path) {
    let targets =
        [("segment", segment()), ("manifest", manifest()), ("mutate", mutate()), ("operations", operations())];
    for (target, seeds) in targets {
        let dir = dir.join(target);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        seeds.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
    }
}

type Seeds = Vec<(String, Vec<u8>)>;

// Bits of the first control byte of the target `segment`: what is repaired; and all of it.
const IDENTITY: u8 = 1;
const LINK: u8 = 2;
const HEADERS: u8 = 4;
const PAYLOADS: u8 = 8;
const ALL: u8 = 63;
// Of the second: segments that are good, before and after.
const BEHIND: u8 = 1;
const BETWEEN: u8 = 3;
// Of the third: a cut; a mark in the segment, at the end of the log, in the segment before; clean; losses.
const CUT: u8 = 1;
const MARK: u8 = 2;
const MARK_AT_END: u8 = 4;
const MARK_BEFORE: u8 = 6;
const CLEAN: u8 = 8;
const LOST: u8 = 16;
// Of the sixth: everything is verified; whom the script runs on, the salvaged log if neither.
const VERIFY: u8 = 1;
const STRICT: u8 = 2;
const UNPROVEN: u8 = 4;

fn segment() -> Seeds {
    // Appends, cuts, reopens and kills, each with its arguments.
    let script = [0, 20, 0, 7, 3, 2, 5, 0, 1, 4, 200, 9, 1, 5, 60, 6, 1, 30, 0, 2, 10, 3, 7, 1, 8];
    let seed = |name: &str, control: [u8; 8], bytes: &[u8]| {
        let mut seed = control.to_vec();
        seed.push(script.len() as u8);
        seed.extend(script);
        seed.extend(bytes);
        (name.to_owned(), seed)
    };
    let plain = plain_segment();
    let batch = frames(&[(1, FLAG_FIRST, b"one"), (2, 0, b"two"), (3, FLAG_LAST, b"three"), (4, FLAG_FIRST, b"torn")]);
    // A literal of five bytes, then a match of 255 + 19 at a distance of one: `lz4` in the raw block format.
    let block = b"\x1fa\x01\x00\xff\x00\x50bcdef";
    let lz4 = |raw_len: u32| {
        let stored = [&raw_len.to_le_bytes()[..], block].concat();
        frames(&[(1, ALONE, b"plain"), (2, ALONE | FLAG_LZ4, &stored)])
    };
    let with_length = |len: u32| {
        let mut bytes = plain.clone();
        bytes[FRAMES + 4..FRAMES + 8].copy_from_slice(&len.to_le_bytes());
        bytes
    };
    let with_link = |fields: [u64; 4]| {
        let mut bytes = plain.clone();
        fields.iter().enumerate().for_each(|(index, field)| encode::put(&mut bytes, 64 + 8 * index, *field));
        bytes
    };
    let changed = |at: usize, change: u8| {
        let mut bytes = plain.clone();
        bytes[at] ^= change;
        bytes
    };
    let witness = {
        let mut segment = Segment::new(2, 77, 8, None);
        segment.push(8, 1, ALONE, b"claims 7").push(9, NO_WITNESS, ALONE, b"").push(10, 2, ALONE, b"claims 8");
        segment.0
    };
    let mut recycled = plain.clone();
    recycled[12] = 1;
    vec![
        seed("alone", [ALL, 0, MARK, 2, 0, STRICT, 2, 0], &plain),
        seed("alone-and-clean", [ALL, 0, MARK | CLEAN, 9, 0, UNPROVEN, 0, 0], &plain),
        seed("as-it-is", [0, 0, 0, 0, 0, VERIFY | UNPROVEN, 1, 0], &plain),
        seed("last", [ALL, BEHIND, MARK_BEFORE, 0, 0, STRICT, 2, 0], &witness),
        seed("between", [ALL, BETWEEN, MARK_AT_END, 0, 0, STRICT, 0, 9], &plain),
        seed("between-and-salvaged", [ALL, BETWEEN, MARK_AT_END | LOST, 0, 0, 0, 0, 9], &plain),
        seed("between-ended-early", [ALL, BETWEEN, MARK_AT_END | CLEAN, 0, 0, UNPROVEN, 0, 1], &plain),
        seed("cut", [ALL, 0, CUT | MARK, 1, 1, UNPROVEN, 2, 0], &plain),
        seed("recycled", [ALL, 0, 0, 0, 0, STRICT, 2, 0], &recycled),
        seed("batches", [ALL, 0, 0, 0, 0, STRICT, 1, 0], &batch),
        seed("batch-cut", [ALL, 0, CUT | MARK, 1, 1, STRICT, 1, 0], &batch),
        seed("compressed", [ALL, 0, MARK, 9, 0, STRICT, 0, 0], &lz4(280)),
        seed("compressed-short", [ALL, 0, MARK, 9, 0, STRICT, 0, 0], &lz4(279)),
        seed("compressed-most", [ALL, 0, MARK, 9, 0, 0, 0, 0], &lz4(255 * block.len() as u32)),
        seed("compressed-lie", [ALL, 0, MARK, 9, 0, 0, 0, 0], &lz4(u32::MAX)),
        seed("padding", [IDENTITY | LINK | HEADERS, 0, MARK, 9, 0, 0, 0, 0], &changed(FRAMES + 39, 1)),
        seed("payload", [IDENTITY | LINK | HEADERS, 0, MARK, 9, 0, 0, 0, 0], &changed(FRAMES + 33, 1)),
        seed("header", [IDENTITY | LINK, 0, MARK, 9, 0, 0, 0, 0], &changed(FRAMES + 9, 1)),
        seed("kind", [IDENTITY | LINK | HEADERS | PAYLOADS, 0, MARK, 9, 0, 0, 0, 0], &changed(FRAMES + 30, 1)),
        seed("identity", [LINK | HEADERS, 0, MARK, 9, 0, 0, 0, 0], &changed(33, 1)),
        seed("link", [IDENTITY, BEHIND, MARK, 9, 0, 0, 0, 0], &changed(70, 1)),
        seed("length-too-short", [IDENTITY | LINK, 0, MARK, 9, 0, 0, 0, 0], &with_length(31)),
        seed("length-of-the-rest", [ALL, 0, MARK, 9, 0, 0, 0, 0], &with_length(plain.len() as u32 - 128)),
        seed("length-without-padding", [HEADERS | PAYLOADS, 0, 0, 0, 0, 0, 0, 0], &without_padding()),
        seed("link-far", [IDENTITY | LINK, 0, 0, 0, 0, STRICT, 0, 0], &with_link([1 << 62, 1, (1 << 62) - 1, !7])),
        seed("link-at-the-limit", [IDENTITY | LINK, BEHIND, 0, 0, 0, 0, 0, 0], &with_link([!0, 1, !0, !7])),
        seed("seq-at-the-limit", [15, 0, MARK, 9, 0, STRICT, 0, 0], &near_the_last_seq()),
        seed("empty", [ALL, BETWEEN, MARK_AT_END, 0, 0, 0, 0, 0], &[]),
        seed("identity-alone", [ALL, 0, 0, 0, 0, 0, 0, 0], &plain[..64]),
        seed("head-alone", [ALL, BETWEEN, MARK_AT_END, 0, 0, 0, 4, 0], &plain[..128]),
    ]
}

/// A segment with these frames: seq, flags, stored payload.
fn frames(frames: &[(u64, u8, &[u8])]) -> Vec<u8> {
    let mut segment = Segment::new(2, 77, frames[0].0, None);
    for (seq, flags, stored) in frames {
        segment.push(*seq, NO_WITNESS, *flags, stored);
    }
    segment.0
}

fn plain_segment() -> Vec<u8> {
    frames(&[(1, ALONE, b"first"), (2, ALONE, b""), (3, ALONE, b"third, of some length"), (4, ALONE, b"eight by")])
}

/// The last frame has no room for its padding.
fn without_padding() -> Vec<u8> {
    let mut bytes = frames(&[(1, ALONE, b"first"), (2, ALONE, b"12345")]);
    bytes.truncate(bytes.len() - 3);
    bytes
}

fn near_the_last_seq() -> Vec<u8> {
    let last = (1 << 63) - 1;
    frames(&[(last - 2, ALONE, b"near"), (last - 1, ALONE, b"nearer"), (last, ALONE, b"last")])
}

fn manifest() -> Seeds {
    // An append, a cut, a kill, a reset.
    let script = [0, 9, 0, 1, 4, 200, 9, 1, 7, 1, 8];
    let seed = |name: String, parts: &[&[u8]]| (name, [&parts.concat()[..], &script].concat());
    // How much of a shape is edited how: nothing; a field to a number that means something there; a little less; far away;
    // and the most there is.
    let mut seeds: Seeds = (0..9).map(|shape| seed(format!("shape-{shape}"), &[&[shape, shape & 3, 0, 0]])).collect();
    let fields =
        ["generation", "first-segment", "first-seq", "cut-segment", "cut-end-seq", "cut-end-offset", "cut-next-id"];
    let fields =
        fields.iter().chain(&["mark-seq", "mark-segment", "mark-offset", "timestamp", "lost-start", "lost-end"]);
    for (field, name) in (0..).zip(fields) {
        let known = [2, field, 0, 7];
        let less = [2, field, 1, 255];
        let number = |number: u64| [&[2, field, 2][..], &number.to_le_bytes()].concat();
        let (far, most) = (number((1 << 61) + 8), number(u64::MAX));
        seeds.push(seed(format!("{name}-known"), &[&[3, field & 3], &known, &known]));
        seeds.push(seed(format!("{name}-less"), &[&[5, field & 3], &less, &[0]]));
        seeds.push(seed(format!("{name}-far"), &[&[4, field & 3], &far, &far]));
        seeds.push(seed(format!("{name}-most"), &[&[3, field & 3], &most, &most]));
    }
    seeds.push(seed("short".to_owned(), &[&[0, 8, 0, 0], &[16, 16]]));
    seeds.push(seed("no-slot".to_owned(), &[&[0, 2, 18, 3, 3, 5, 18, 3, 3, 5]]));
    seeds
}

fn mutate() -> Seeds {
    let kinds = [
        ("frame", 0),
        ("head", 3),
        ("byte", 4),
        ("sector", 5),
        ("block", 6),
        ("shortened", 7),
        ("spliced", 8),
        ("swapped", 9),
        ("gone", 10),
        ("copied", 11),
    ];
    let mut seeds: Seeds = (0..9).map(|shape| (format!("shape-{shape}"), vec![shape, shape & 3, 0])).collect();
    for (index, (name, kind)) in kinds.into_iter().enumerate() {
        for shape in [index as u8 % 9, (index as u8 + 4) % 9] {
            // The same twice, in two files, then calls.
            let change = |file: u8| [kind, file, 3 * shape + 1, 0, 77 + file, 1];
            let script = [0, 9, 0, 1, 4, 200, 9, 1, 5, 90, 9, 2];
            let head = [shape, 2 * (shape & 1) + (shape >> 1 & 1), 2];
            let bytes = [&head[..], &change(1), &change(2), &script].concat();
            seeds.push((format!("{name}-{shape}"), bytes));
        }
    }
    // Bits of every part of a frame: checksum, length, seq, distance, payload's checksum, time, kind, flags, payload, padding.
    for (bit, at) in [0u16, 4, 8, 16, 20, 24, 30, 31, 32, 39].into_iter().enumerate() {
        let b = (at << 3 | bit as u16 & 7).to_le_bytes();
        seeds.push((format!("frame-byte-{at}"), vec![bit as u8 % 9, bit as u8 & 3, 1, 0, 0, bit as u8, 0, b[0], b[1]]));
    }
    // A frame is damaged, what lies before it is truncated, and a strict open has to refuse.
    seeds.push(("salvaged-then-strict".to_owned(), vec![0, 2, 1, 0, 0, 6, 0, 1, 1, 5, 90, 9, 8]));
    // Found by fuzzing.
    let forgotten_cut: &[u8] = &[3, 2, 2, 10, 255, 10, 254, 1, 5, 90, 122, 3, 10, 254, 1, 5, 90];
    let copied_over_two: &[u8] = &[
        255, 141, 141, 63, 45, 45, 141, 141, 141, 59, 141, 141, 141, 114, 141, 141, 141, 110, 114, 114, 114, 141, 141,
        141, 141, 82, 141, 141, 35,
    ];
    let renamed: &[u8] = &[3, 2, 3, 6, 2, 0, 0, 0, 0, 9, 2, 0, 0, 3, 0, 10, 2, 0, 0, 0, 0];
    seeds.push(("forgotten-cut".to_owned(), forgotten_cut.to_vec()));
    seeds.push(("copied-over-two".to_owned(), copied_over_two.to_vec()));
    seeds.push(("renamed-without-identity".to_owned(), renamed.to_vec()));
    seeds
}

fn operations() -> Seeds {
    // Policy, compression, usual length, two bytes of seed, start; then what the first open is like.
    let seed = |name: &str, setup: [u8; 6], calls: &[u8]| (name.to_owned(), [&setup[..], &[0, 0], calls].concat());
    // Calls with their arguments; of a crash, also what the open after it is like.
    const APPEND: [u8; 2] = [0, 40];
    const BATCH: [u8; 2] = [6, 9];
    const FILL: [u8; 2] = [7, 29];
    const SYNC: [u8; 1] = [8];
    const BEFORE: [u8; 2] = [10, 200];
    const AFTER: [u8; 3] = [11, 1, 100];
    const ROTATE: [u8; 1] = [12];
    const RESET: [u8; 2] = [13, 3];
    const VIEW: [u8; 1] = [14];
    const PIN: [u8; 2] = [15, 128];
    const READ: [u8; 1] = [16];
    const REOPEN: [u8; 3] = [17, 0, 0];
    const SALVAGE: [u8; 3] = [17, 6, 0];
    const POWER_CUT: [u8; 4] = [18, 0, 0, 0];
    const KILL: [u8; 4] = [18, 1, 0, 0];
    /// And the recovery is cut short at its fourth operation.
    const POWER_CUT_TWICE: [u8; 6] = [18, 0, 204, 2, 0, 0];
    const PLANNED: [u8; 3] = [20, 2, 11];
    const IDLE: [u8; 1] = [21];
    let manual = [0, 0, 1, 1, 0, 0];
    let immediate = [4, 0, 2, 2, 0, 0];
    let calls = |calls: &[&[u8]]| calls.concat();
    vec![
        seed("read", manual, &calls(&[&APPEND, &BATCH, &READ, &VIEW, &PIN, &FILL, &SYNC, &READ])),
        seed("reopened", manual, &calls(&[&FILL, &REOPEN, &APPEND, &SALVAGE, &APPEND, &REOPEN, &READ])),
        seed("killed", manual, &calls(&[&FILL, &KILL, &APPEND, &READ, &KILL, &BATCH, &POWER_CUT, &READ])),
        seed(
            "killed-then-power-cut",
            manual,
            &calls(&[&SYNC, &APPEND, &APPEND, &KILL, &APPEND, &SYNC, &POWER_CUT, &READ]),
        ),
        seed("power-cut", immediate, &calls(&[&APPEND, &APPEND, &POWER_CUT, &APPEND, &POWER_CUT, &READ])),
        seed("power-cut-twice", immediate, &calls(&[&APPEND, &POWER_CUT_TWICE, &APPEND, &POWER_CUT_TWICE, &READ])),
        seed("cut", manual, &calls(&[&FILL, &AFTER, &APPEND, &POWER_CUT, &AFTER, &APPEND, &KILL, &POWER_CUT, &READ])),
        seed("cut-and-synced", manual, &calls(&[&FILL, &SYNC, &AFTER, &APPEND, &APPEND, &SYNC, &POWER_CUT, &READ])),
        seed("cut-twice", manual, &calls(&[&FILL, &AFTER, &APPEND, &AFTER, &APPEND, &SYNC, &AFTER, &POWER_CUT, &READ])),
        seed("dropped", [0, 0, 4, 3, 0, 0], &calls(&[&FILL, &ROTATE, &FILL, &BEFORE, &FILL, &VIEW, &POWER_CUT, &READ])),
        seed(
            "recycled",
            [0, 0, 4, 4, 0, 0],
            &calls(&[&FILL, &BEFORE, &FILL, &BEFORE, &FILL, &BEFORE, &FILL, &POWER_CUT]),
        ),
        seed(
            "begun-again",
            manual,
            &calls(&[&FILL, &RESET, &APPEND, &POWER_CUT, &RESET, &APPEND, &SYNC, &KILL, &READ]),
        ),
        seed("in-a-call", immediate, &calls(&[&PLANNED, &FILL, &PLANNED, &AFTER, &APPEND, &PLANNED, &ROTATE, &FILL])),
        seed("in-an-open", manual, &calls(&[&FILL, &POWER_CUT_TWICE, &FILL, &KILL, &POWER_CUT_TWICE, &READ])),
        seed("from-nothing", [0, 0, 1, 5, 0, 1], &calls(&[&APPEND, &SYNC, &POWER_CUT, &APPEND, &READ])),
        seed("compressed", [0, 1, 4, 6, 0, 0], &calls(&[&FILL, &BATCH, &KILL, &VIEW, &PIN, &BEFORE, &AFTER, &READ])),
        seed("batch-policy", [6, 0, 2, 7, 0, 0], &calls(&[&FILL, &BATCH, &POWER_CUT, &BATCH, &FILL, &KILL, &READ])),
        seed("interval-policy", [7, 0, 2, 8, 0, 0], &calls(&[&FILL, &IDLE, &BATCH, &POWER_CUT, &FILL, &KILL, &READ])),
        seed("marked", manual, &calls(&[&FILL, &SYNC, &IDLE, &APPEND, &POWER_CUT, &AFTER, &APPEND, &POWER_CUT, &READ])),
        seed(
            "held",
            [0, 0, 4, 9, 0, 0],
            &calls(&[&FILL, &VIEW, &PIN, &REOPEN, &BEFORE, &FILL, &AFTER, &KILL, &RESET, &READ]),
        ),
    ]
}
