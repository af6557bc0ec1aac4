//! The manifest: one bad slot is repaired and reported, two are an error, and no write to it, torn or lost, costs the log.

use crate::shared::{fast_dir, Rng};
use crate::support::format::{self, Mark};
use crate::support::image::{Cut, Film, Recorder};
use crate::support::logs::{assert_holds, contents, copy_dir, fill, manual, payload, wait_until};
use crate::support::seam;
use maplog::testing::Op;
use maplog::{Error, RecoveryMode};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What [`truncated`] leaves.
const LEFT: [(u8, Range<u64>); 2] = [(1, 101..301), (2, 301..311)];

/// A log that was cut from both sides, as a kill leaves it and as a close does.
fn truncated(dir: &Path) -> [PathBuf; 2] {
    let log_dir = dir.join("log");
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..351);
    log.truncate_before(150).unwrap();
    log.truncate_after(300).unwrap();
    fill(&log, 2, 301..311);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&log_dir) == 310);
    let killed = dir.join("killed");
    copy_dir(&log_dir, &killed);
    log.close().unwrap();
    [killed, log_dir]
}

#[test]
fn case_07_a_flip_in_the_newest_slot_is_repaired_and_reported() {
    let dir = fast_dir();
    let copy = dir.path().join("copy");
    for base in truncated(dir.path()) {
        let newest = format::SLOT_OFFSETS[format::newest_slot(&base).0];
        for byte in newest..newest + format::SLOT_LEN {
            let _ = fs::remove_dir_all(&copy);
            copy_dir(&base, &copy);
            format::flip(&format::manifest_path(&copy), byte);
            let log = manual().open(&copy).unwrap_or_else(|error| panic!("byte {byte}: {error}"));
            assert_holds(&log, &LEFT);
            let notes = &log.recovery().notes;
            assert!(notes.iter().any(|note| note.contains("slot")), "byte {byte}: {notes:?}");
            drop(log);
            let log = manual().open(&copy).unwrap();
            assert_eq!(log.recovery().notes, [""; 0], "byte {byte}");
            assert_holds(&log, &LEFT);
        }
    }
}

#[test]
fn case_08_two_bad_slots_or_no_manifest_are_an_error_and_change_nothing() {
    let dir = fast_dir();
    let copy = dir.path().join("copy");
    let ruin: [fn(&Path); 4] = [
        |manifest| format::SLOT_OFFSETS.iter().for_each(|offset| format::flip(manifest, offset + 100)),
        |manifest| fs::write(manifest, vec![0; 8192]).unwrap(),
        |manifest| fs::write(manifest, b"").unwrap(),
        |manifest| fs::remove_file(manifest).unwrap(),
    ];
    for base in truncated(dir.path()) {
        for (index, ruin) in ruin.iter().enumerate() {
            let _ = fs::remove_dir_all(&copy);
            copy_dir(&base, &copy);
            let manifest = format::manifest_path(&copy);
            ruin(&manifest);
            let before = contents(&copy);
            for mode in [RecoveryMode::Strict, RecoveryMode::Salvage] {
                for create in [true, false] {
                    match manual().recovery(mode).create(create).open(&copy) {
                        Err(Error::Damaged { damage }) => assert_eq!(damage.path, manifest, "ruin {index}"),
                        Err(Error::NotALog { path }) => assert_eq!(path, manifest, "ruin {index}"),
                        other => panic!("ruin {index}: {other:?}"),
                    }
                }
            }
            assert!(contents(&copy) == before, "ruin {index}: something was changed");
        }
    }
}

#[test]
fn case_21_a_mark_ends_a_batch_of_a_live_segment_and_one_that_does_not_is_refused() {
    let dir = fast_dir();
    let log_dir = dir.path().join("log");
    fs::create_dir(&log_dir).unwrap();
    let findings = Arc::<Mutex<Vec<String>>>::default();
    let marks = Arc::<Mutex<u32>>::default();
    let (found, counted, watched) = (Arc::clone(&findings), Arc::clone(&marks), log_dir.clone());
    let guard = seam::watch(&log_dir, move |op| {
        let Op::Write { path, data, .. } = op else { return };
        let slot = if path.ends_with("wal.meta") { format::slot(data) } else { None };
        let Some((slot, mark)) = slot.and_then(|slot| Some((slot.clone(), slot.mark?))) else { return };
        let segment = format::segment(&watched, mark.segment);
        let last = segment.frames.iter().find(|frame| frame.bytes.end == mark.offset);
        let fits = last.is_some_and(|frame| frame.seq == mark.seq && frame.is_last_of_batch);
        if !fits || slot.first_segment > mark.segment || segment.id != mark.segment {
            found.lock().unwrap().push(format!("{slot:?}: {last:?}"));
        }
        *counted.lock().unwrap() += 1;
    });
    let log = manual().open(&log_dir).unwrap();
    let mut rng = Rng::new(21);
    for round in 0..300 {
        let first = log.next_seq();
        let count = 1 + rng.next() % 40;
        log.append_batch((first..first + count).map(|seq| payload(1, seq))).unwrap();
        if rng.one_in(2) {
            log.sync().unwrap();
        }
        if round % 10 == 9 {
            let next_seq = log.next_seq();
            log.truncate_before(next_seq.saturating_sub(rng.next() % 300)).unwrap();
        }
    }
    let is_recycled = format::segments(&log_dir).iter().any(|segment| segment.is_recycled);
    assert!(is_recycled, "no file was recycled: {:?}", log.segments());
    let first_id = log.segments()[0].id;
    log.close().unwrap();
    drop(guard);
    assert_eq!(*findings.lock().unwrap(), [""; 0]);
    assert!(*marks.lock().unwrap() > 20);

    let mark = format::newest_slot(&log_dir).1.mark.unwrap();
    for bad in [
        Mark { segment: first_id - 1, ..mark },
        Mark { seq: 1, ..mark },
        Mark { offset: mark.offset + 1, ..mark },
        Mark { offset: format::FRAMES, ..mark },
    ] {
        format::forge_mark(&log_dir, bad);
        assert!(manual().open(&log_dir).unwrap_err().is_damage(), "{bad:?}");
    }
    format::forge_mark(&log_dir, mark);
    manual().open(&log_dir).unwrap();
}

/// Opens a copy of `image` and asserts that it is what [`truncated`] left, with a third entry of the second life or without.
#[track_caller]
fn assert_opens(image: &Path, what: &str) {
    let log = manual().open(image).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_holds(&log, &LEFT);
    assert!(log.recovery().losses.is_empty());
}

/// Cuts before every write to the manifest that an open of `image` makes, each with a first part of that write on the disk.
fn torn_writes_of_open(dir: &Path, image: &Path) -> Vec<Cut> {
    let opened = dir.join("opened");
    let _ = fs::remove_dir_all(&opened);
    copy_dir(image, &opened);
    let cuts = Arc::<Mutex<Vec<Cut>>>::default();
    let taken = Arc::clone(&cuts);
    let recording = Recorder::start_with(&opened, move |recorder, op| {
        if let Op::Write { path, offset, data } = op {
            if path.ends_with("wal.meta") {
                for len in [0, 36, 90, 200, data.len()] {
                    let mut cut = recorder.cut();
                    cut.tear(recorder.relative(path), *offset, &data[..len]);
                    taken.lock().unwrap().push(cut);
                }
            }
        }
        Ok(())
    });
    manual().open(&opened).unwrap();
    drop(recording);
    let cuts = std::mem::take(&mut *cuts.lock().unwrap());
    cuts
}

#[test]
fn case_28_torn_writes_of_the_mark_and_of_the_next_open_cost_nothing() {
    let dir = fast_dir();
    let [killed, _] = truncated(dir.path());
    let (torn, image) = (dir.path().join("torn"), dir.path().join("image"));
    // The mark-only write tore the slot that it wrote.
    let (newest, _) = format::newest_slot(&killed);
    for keep in [0, 36, 90, 200] {
        let _ = fs::remove_dir_all(&torn);
        copy_dir(&killed, &torn);
        let mut bytes = fs::read(format::manifest_path(&torn)).unwrap();
        let slot = format::SLOT_OFFSETS[newest] as usize;
        let older = format::SLOT_OFFSETS[1 - newest] as usize;
        bytes.copy_within(older + keep..older + format::SLOT_LEN as usize, slot + keep);
        fs::write(format::manifest_path(&torn), bytes).unwrap();
        let cuts = torn_writes_of_open(dir.path(), &torn);
        assert!(cuts.len() >= 10, "an open writes both slots");
        for (index, cut) in cuts.iter().enumerate() {
            cut.write_durable(&image);
            assert_opens(&image, &format!("tear at {keep}, then cut {index}"));
            cut.write_seeded(index as u64, &image);
            assert_opens(&image, &format!("tear at {keep}, then cut {index}, seeded"));
        }
    }
}

#[test]
fn case_28_killed_between_a_slot_and_its_sync_the_log_opens_after_any_power_cut() {
    let dir = fast_dir();
    let (log_dir, killed, image) = (dir.path().join("log"), dir.path().join("killed"), dir.path().join("image"));
    fs::create_dir(&log_dir).unwrap();
    let film = Film::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..351);
    log.truncate_before(150).unwrap();
    film.phase(1);
    log.truncate_after(300).unwrap();
    film.phase(2);
    let cuts = film.stop();
    drop(log);
    for (phase, cut) in cuts.iter().filter(|(phase, _)| *phase > 0) {
        cut.write_live(&killed);
        let reopening = Film::resume(&killed, cut);
        let log = manual().open(&killed).unwrap();
        let end = log.next_seq();
        assert!(end == 301 || *phase < 2 && end == 351, "phase {phase}: {end}");
        assert_holds(&log, &[(1, 101..end)]);
        let opened = reopening.stop();
        drop(log);
        for (index, (_, cut)) in opened.iter().enumerate() {
            let has_returned = index + 1 == opened.len();
            for seed in 0..2 {
                cut.write_seeded(seed, &image);
                let log = manual().open(&image).unwrap_or_else(|error| panic!("cut {index}, seed {seed}: {error}"));
                let found = log.next_seq();
                // Until the cut at 300 is durable nobody was told that anything is; once open has returned, all it holds is.
                let fits = if has_returned { found == end } else { found == 301 || *phase < 2 };
                assert!(fits, "in phase {phase}, cut {index}, seed {seed}: {found}");
                assert_holds(&log, &[(1, 101..found)]);
            }
        }
    }
}
