//! Files that are unlinked, or used again: what they held stays dead, and says nothing about the log.

use crate::shared::fast_dir;
use crate::support::format;
use crate::support::image::{Film, Recorder};
use crate::support::logs::{assert_holds, copy_dir, fill, lives, manual, wait_until};
use crate::support::seam;
use maplog::testing::Op;
use std::fs;
use std::sync::{Arc, Mutex};

#[test]
fn case_09_unlinks_that_reach_the_disk_in_any_order_leave_no_hole() {
    let dir = fast_dir();
    let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..951);
    log.close().unwrap();
    // Files of an earlier run are unlinked, those of this run are kept as spares.
    let film = Film::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 951..1151);
    log.sync().unwrap();
    film.phase(1);
    assert_eq!(log.truncate_before(1090).unwrap(), 1001);
    film.phase(2);
    wait_until("the files to go", || format::segments(&log_dir).iter().all(|segment| segment.id > 10));
    let cuts = film.stop();
    drop(log);
    let mut bounds = [0; 2];
    for (step, (phase, cut)) in cuts.iter().enumerate().filter(|(_, (phase, _))| *phase > 0) {
        for seed in 0..8 {
            cut.write_seeded(seed + 100 * step as u64, &image);
            let log = manual().open(&image).unwrap_or_else(|error| panic!("step {step}, seed {seed}: {error}"));
            let first = log.first_seq();
            assert!(first == 1001 || first == 1 && *phase == 1, "phase {phase}, step {step}, seed {seed}: {first}");
            assert_holds(&log, &[(1, first..1151)]);
            bounds[usize::from(first == 1001)] += 1;
        }
    }
    assert!(bounds[0] > 0 && bounds[1] > 0, "both sides were seen: {bounds:?}");
}

#[test]
fn case_10_a_recycled_file_under_its_old_name_stays_dead() {
    let dir = fast_dir();
    let [log_dir, image, crafted] = ["log", "image", "crafted"].map(|name| dir.path().join(name));
    fs::create_dir(&log_dir).unwrap();
    let film = Film::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    let mut bounds = vec![1];
    for round in 0..6 {
        fill(&log, 1, round * 100 + 1..round * 100 + 101);
        film.phase(round as u32);
        log.sync().unwrap();
        bounds.push(log.truncate_before(round * 100 + 100).unwrap());
    }
    assert!(format::segments(&log_dir).iter().any(|segment| segment.is_recycled), "no file was recycled");
    let cuts = film.stop();
    drop(log);
    for (step, (phase, cut)) in cuts.iter().enumerate() {
        for seed in 0..3 {
            cut.write_seeded(seed + 10 * step as u64, &image);
            let what = format!("phase {phase}, step {step}, seed {seed}");
            let log = manual().open(&image).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(bounds.contains(&log.first_seq()), "{what}: {}", log.first_seq());
            assert!(log.next_seq() > u64::from(*phase) * 100, "{what}: {}", log.next_seq());
            lives(&log);
        }
    }
    // As if the rename had been lost, and the new header not: under a dead name lies the file of a live segment.
    let (_, last) = cuts.last().unwrap();
    last.write_live(&image);
    let expected = lives(&manual().open(&image).unwrap());
    last.write_live(&image);
    let first_segment = format::newest_slot(&image).1.first_segment;
    for segment in format::segments(&image) {
        for dead in 1..first_segment {
            let _ = fs::remove_dir_all(&crafted);
            copy_dir(&image, &crafted);
            fs::copy(format::segment_path(&image, segment.id), format::segment_path(&crafted, dead)).unwrap();
            for _ in 0..2 {
                let log = manual().open(&crafted).unwrap();
                assert!(lives(&log) == expected, "{dead} is a copy of {}", segment.id);
            }
        }
    }
}

#[test]
fn case_17_garbage_in_a_recycled_file_is_neither_a_witness_nor_an_alarm() {
    let dir = fast_dir();
    let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
    fs::create_dir(&log_dir).unwrap();
    let recording = Recorder::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    // Entries of one size: every frame of an earlier life lies where one of this life lies.
    for round in 0..8 {
        fill(&log, 1, round * 100 + 1..round * 100 + 101);
        log.sync().unwrap();
        log.truncate_before(round * 100 + 100).unwrap();
    }
    wait_until("a recycled file", || {
        let first = log.next_seq();
        fill(&log, 1, first..first + 101 - (first - 1) % 100);
        log.truncate_before(log.next_seq()).unwrap();
        let id = log.segments().last().unwrap().id;
        format::segment(&log_dir, id).is_recycled
    });
    let acked = log.sync().unwrap();
    fill(&log, 1, acked + 1..acked + 41);
    let first = log.first_seq();
    let segment = format::segment(&log_dir, log.segments().last().unwrap().id);
    assert!(segment.is_recycled && segment.frames.len() == 41, "the rest of the file is garbage");
    let cut = recording.cut();
    drop(log);
    drop(recording);
    for seed in 0..1000 {
        cut.write_seeded(seed, &image);
        let log = manual().open(&image).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let report = log.recovery();
        assert!((acked..=acked + 40).contains(&report.last_seq), "seed {seed}: {report}");
        assert!((first - 1..=acked).contains(&report.proven_seq), "seed {seed}: {report}");
        assert_holds(&log, &[(1, first..report.last_seq + 1)]);
    }
}

#[test]
fn a_recycled_byte_is_overwritten_only_under_a_synced_spare_name() {
    let dir = fast_dir();
    let log_dir = dir.path().join("log");
    fs::create_dir(&log_dir).unwrap();
    let steps = Arc::<Mutex<Vec<String>>>::default();
    let taken = Arc::clone(&steps);
    let name = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let _guard = seam::watch(&log_dir, move |op| {
        let step = match op {
            Op::Rename { from, .. } if name(from).starts_with("wal-0") => format!("retire as {}", name(op_to(op))),
            Op::Write { path, offset: 0, data } if data.len() == 128 => format!("overwrite {}", name(path)),
            Op::SyncDir { path } if path.ends_with("segments") => "sync names".to_owned(),
            _ => return,
        };
        taken.lock().unwrap().push(step);
    });
    let log = manual().open(&log_dir).unwrap();
    for round in 0..20 {
        fill(&log, 1, round * 100 + 1..round * 100 + 101);
        log.truncate_before(round * 100 + 100).unwrap();
    }
    drop(log);
    let steps = steps.lock().unwrap();
    let overwritten: Vec<_> =
        steps.iter().enumerate().filter_map(|(at, s)| Some((at, s.strip_prefix("overwrite ")?))).collect();
    assert!(!overwritten.is_empty(), "{steps:?}");
    for (at, file) in overwritten {
        let retired = steps[..at].iter().rposition(|step| *step == format!("retire as {file}"));
        let synced = retired.is_some_and(|retired| steps[retired..at].iter().any(|step| step == "sync names"));
        assert!(synced, "{file}: {steps:?}");
    }
}

/// The new name that an operation gives.
fn op_to<'o>(op: &'o Op<'_>) -> &'o std::path::Path {
    match op {
        Op::Rename { to, .. } => to,
        _ => op.path(),
    }
}
