//! Target `manifest`: the manifest's slots hold anything, beside segments that are valid. Each slot is the one of a valid log, with
//! fields changed as the input says, and with a checksum that holds, or with none; or bytes of the input.

use crate::encode::{self, SLOT};
use crate::files::{Files, MANIFEST};
use crate::format;
use crate::input::Input;
use crate::probe::Subject;
use crate::segment::Frames;
use crate::shapes::{shapes, Shape};
use maplog::{RecoveryMode, Verify};
use std::path::Path;
use std::sync::OnceLock;

/// Offsets of the fields of eight bytes.
const FIELDS: std::ops::Range<usize> = 4..17;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let scene = &scenes()[input.below(shapes().len())];
    let options = input.byte();
    let mut files = scene.shape.files.clone();
    let slots = [scene.slot(&mut input), scene.slot(&mut input)];
    let mut manifest = encode::manifest([&slots[0], &slots[1]]);
    if options & 8 != 0 {
        manifest.truncate(usize::from(input.short()));
    }
    files.0.insert(MANIFEST.to_owned(), manifest);
    let verify = if options & 1 == 0 { Verify::Unproven } else { Verify::All };
    let mode = if options & 2 == 0 { RecoveryMode::Strict } else { RecoveryMode::Salvage };

    crate::execute("manifest", crate::live_max(files.total_len()), |scratch| {
        let dir = scratch.join("log");
        files.write(&dir);
        let subject = Subject::open(scratch, dir.clone(), mode, verify);
        if let Ok(subject) = subject {
            subject.seen.entries.iter().for_each(|(seq, digest)| scene.frames.check(*seq, *digest));
            if mode == RecoveryMode::Salvage {
                assert!(Files::read(&dir) == files, "a salvage that nobody writes to has changed a file");
            }
            subject.forged().run(&mut input);
        }
    });
}

/// A shape, and the numbers that mean something in it.
struct Scene {
    shape: &'static Shape,
    frames: Frames,
    numbers: Vec<u64>,
    newest: Vec<u8>,
}

fn scenes() -> &'static [Scene] {
    static SCENES: OnceLock<Vec<Scene>> = OnceLock::new();
    SCENES.get_or_init(|| shapes().iter().map(Scene::new).collect())
}

impl Scene {
    fn new(shape: &'static Shape) -> Scene {
        let mut numbers =
            vec![0, 1, 128, 8192, 1 << 32, (1 << 61) - 1, 1 << 61, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX];
        for name in shape.files.segments() {
            let segment = format::Segment::of(Path::new(name), &shape.files.0[name]).unwrap();
            numbers.push(segment.id);
            numbers.extend(segment.frames.iter().flat_map(|frame| [frame.seq, frame.bytes.end]));
        }
        numbers.sort_unstable();
        numbers.dedup();
        let newest = shape.files.0[MANIFEST][..SLOT].to_vec();
        Scene { shape, frames: Frames::of(&shape.files), numbers, newest }
    }

    /// A slot as the input says.
    fn slot(&self, input: &mut Input<'_>) -> Vec<u8> {
        let kind = input.byte();
        let mut slot = if kind & 1 == 0 { self.newest.clone() } else { input.bytes(SLOT).to_vec() };
        slot.resize(SLOT, 0);
        for _ in 0..kind >> 1 & 7 {
            let (field, how) = (input.byte(), input.byte());
            let at = 8 * (FIELDS.start + usize::from(field) % FIELDS.len());
            let value = match how % 4 {
                0 => input.one_of(&self.numbers),
                1 => encode::get(&slot, at).wrapping_add_signed(i64::from(input.byte() as i8)),
                2 => input.long(),
                _ => {
                    slot[usize::from(input.byte())] = how;
                    continue;
                }
            };
            encode::put(&mut slot, at, value);
        }
        if kind & 16 == 0 {
            let log_id = self.newest[16..32].try_into().unwrap();
            encode::repair_slot(&mut slot, log_id);
        }
        slot
    }
}
