//! Power cuts of a log that only appends: what was acked is there, what was lost stays lost, and no crash is called damage.

use crate::shared::fast_dir;
use crate::support::format;
use crate::support::image::{Cut, Film, Recorder, Unsynced, What};
use crate::support::logs::{assert_holds, copy_dir, fill, lives, manual, payload, wait_until};
use crate::support::seam::{self, Gate};
use maplog::{Log, Verify};
use std::fs;
use std::path::Path;

/// Opens an image of a pure crash: that works, and nothing is lost but a tail.
#[track_caller]
fn open(image: &Path, what: &str) -> Log {
    manual().open(image).unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[test]
fn case_02_a_million_appends_without_a_sync_carry_no_witness_for_what_was_not_durable() {
    const APPENDS: u64 = 1_000_000;
    for segment_size in [48 << 20, 4 << 20] {
        let dir = fast_dir();
        let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
        fs::create_dir(&log_dir).unwrap();
        let options = manual().segment_size(segment_size);
        let recording = Recorder::start(&log_dir);
        let log = options.clone().open(&log_dir).unwrap();
        // What was durable right after each append is the most that its frame may claim.
        let mut durable = vec![0];
        for seq in 1..=APPENDS {
            log.append(&seq.to_le_bytes()).unwrap();
            durable.push(log.durable_seq());
        }
        let cut = recording.cut();
        let acked = log.durable_seq();
        drop(recording);
        for segment in format::segments(&log_dir) {
            for frame in &segment.frames {
                let (seq, witness) = (frame.seq, frame.witness.unwrap());
                assert!(witness <= durable[seq as usize], "the frame of {seq} claims {witness}");
            }
        }
        drop(log);
        for seed in 0..3 {
            match seed {
                0 => cut.write_durable(&image),
                _ => cut.write_seeded(seed, &image),
            }
            let log = options.clone().open(&image).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let report = log.recovery();
            assert!(report.last_seq >= durable[APPENDS as usize].min(acked), "seed {seed}: {report}");
            assert!(report.proven_seq <= acked, "seed {seed}: {report}");
            let last = log.get(report.last_seq).unwrap();
            assert!(last.map_or(report.last_seq == 0, |last| last.payload() == report.last_seq.to_le_bytes()));
        }
    }
}

#[test]
fn case_03_a_tail_that_is_lost_before_a_rotation_takes_the_next_segment_with_it() {
    let dir = fast_dir();
    let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
    fs::create_dir(&log_dir).unwrap();
    let gate = Gate::default();
    let held = gate.clone();
    let recording = Recorder::start_with(&log_dir, move |_, op| {
        if seam::is_sync_of(op, "wal-000001") {
            held.pass();
        }
        Ok(())
    });
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..61);
    log.sync().unwrap();
    wait_until("segment 2", || format::segment_path(&log_dir, 2).exists());
    wait_until("the mark", || format::marked_seq(&log_dir) == 60);
    gate.shut();
    fill(&log, 1, 61..121);
    gate.wait_held();
    let cut = recording.cut();
    gate.open();
    drop(log);
    drop(recording);

    cut.write(&image, |unsynced| unsynced.is_of_segment(2));
    assert_eq!(format::segment(&image, 2).frames.last().unwrap().seq, 120, "B reached the disk");
    let recording = Recorder::start(&image);
    let log = open(&image, "A's tail is lost");
    assert_holds(&log, &[(1, 1..61)]);
    fill(&log, 2, 61..131);
    let second = recording.cut();
    drop(log);
    drop(recording);
    for seed in 0..50 {
        second.write_seeded(seed, &image);
        let log = open(&image, &format!("seed {seed}"));
        assert_holds(&log, &[(1, 1..61), (2, 61..log.next_seq())]);
    }
}

#[test]
fn case_12_later_frames_of_a_run_whose_link_and_first_frames_were_lost_never_come_back() {
    let dir = fast_dir();
    let (log_dir, image, again) = (dir.path().join("log"), dir.path().join("image"), dir.path().join("again"));
    fs::create_dir(&log_dir).unwrap();
    let recording = Recorder::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..101);
    log.sync().unwrap();
    fill(&log, 1, 101..161);
    let cut = recording.cut();
    drop(log);
    drop(recording);
    for lost_sectors in [1, 3, 5] {
        let is_late = |what: &What| matches!(what, What::Sector(bytes) if bytes.start >= lost_sectors * 512);
        cut.write(&image, |unsynced: &Unsynced<'_>| unsynced.is_of_segment(2) && is_late(&unsynced.what));
        let recording = Recorder::start(&image);
        let log = open(&image, "the link is lost");
        assert_holds(&log, &[(1, 1..101)]);
        fill(&log, 2, 101..161);
        let second = recording.cut();
        drop(log);
        drop(recording);
        for seed in 0..40 {
            second.write_seeded(seed, &again);
            let log = open(&again, &format!("seed {seed}"));
            assert_holds(&log, &[(1, 1..101), (2, 101..log.next_seq())]);
        }
    }
}

#[test]
fn case_13_an_entry_synced_after_a_clean_open_survives_a_kill_and_a_power_cut() {
    let dir = fast_dir();
    let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..51);
    log.close().unwrap();
    assert!(format::newest_slot(&log_dir).1.clean);
    let recording = Recorder::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    assert!(!format::newest_slot(&log_dir).1.clean, "nothing may be appended to a log that is said to be closed");
    fill(&log, 1, 51..52);
    log.sync().unwrap();
    let cut = recording.cut();
    copy_dir(&log_dir, &image);
    assert_holds(&open(&image, "killed"), &[(1, 1..52)]);
    for seed in 0..20 {
        cut.write_seeded(seed, &image);
        assert_holds(&open(&image, &format!("seed {seed}")), &[(1, 1..52)]);
    }
}

/// A crash in the middle of things: a cut, a torn tail over two segments, a file with garbage.
fn torn_log(dir: &Path) -> Cut {
    let log_dir = dir.join("torn");
    fs::create_dir(&log_dir).unwrap();
    let gate = Gate::default();
    let held = gate.clone();
    let recording = Recorder::start_with(&log_dir, move |_, op| {
        if seam::is_sync_of(op, "wal-000004") {
            held.pass();
        }
        Ok(())
    });
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..251);
    log.truncate_before(120).unwrap();
    log.truncate_after(220).unwrap();
    fill(&log, 2, 221..281);
    log.sync().unwrap();
    wait_until("segment 5", || format::segment_path(&log_dir, 5).exists());
    gate.shut();
    fill(&log, 2, 281..341);
    gate.wait_held();
    let cut = recording.cut();
    gate.open();
    cut
}

#[test]
fn case_15_a_recovery_cut_short_at_every_step_twice_in_a_row_ends_as_if_it_had_not_been() {
    let dir = fast_dir();
    let torn = torn_log(dir.path());
    let [base, first, second] = ["base", "first", "second"].map(|name| dir.path().join(name));
    for seed in [3, 8] {
        torn.write_seeded(seed, &base);
        copy_dir(&base, &first);
        let uncut = lives(&open(&first, "uncut"));
        assert!(uncut.len() >= 180, "seed {seed}: what was synced is there");
        fs::remove_dir_all(&first).unwrap();
        copy_dir(&base, &first);
        let film = Film::start(&first);
        let log = open(&first, "filmed");
        let cuts = film.stop();
        drop(log);
        for (step, (_, cut)) in cuts.iter().enumerate() {
            cut.write_seeded(step as u64, &second);
            let film = Film::start(&second);
            let log = open(&second, &format!("seed {seed}, step {step}"));
            let inner = film.stop();
            assert!(lives(&log) == uncut, "seed {seed}, step {step}");
            drop(log);
            for (inner_step, (_, cut)) in inner.iter().enumerate() {
                cut.write_seeded(inner_step as u64, &second);
                let log = open(&second, &format!("seed {seed}, steps {step} and {inner_step}"));
                assert!(lives(&log) == uncut, "seed {seed}, steps {step} and {inner_step}");
            }
        }
    }
}

#[test]
fn case_18_a_batch_over_a_page_boundary_is_there_in_whole_or_not_at_all() {
    let dir = fast_dir();
    let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
    fs::create_dir(&log_dir).unwrap();
    let recording = Recorder::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..31);
    log.sync().unwrap();
    log.append_batch((31..81).map(|seq| payload(1, seq))).unwrap();
    let pages = format::find(&log_dir, 31).1.bytes.start / 4096..format::find(&log_dir, 80).1.bytes.end / 4096;
    assert_ne!(pages.start, pages.end, "the batch lies over a boundary");
    let cut = recording.cut();
    let mut sectors = Vec::new();
    cut.write(&image, |unsynced| {
        if let (true, What::Sector(bytes)) = (unsynced.is_of_segment(1), &unsynced.what) {
            sectors.push(bytes.start);
        }
        true
    });
    assert_holds(&open(&image, "nothing lost"), &[(1, 1..81)]);
    // Each sector alone, then any of them.
    for lost in &sectors {
        cut.write(&image, |unsynced| !matches!(&unsynced.what, What::Sector(bytes) if bytes.start == *lost));
        assert_holds(&open(&image, &format!("sector {lost} is lost")), &[(1, 1..31)]);
    }
    for seed in 0..150 {
        cut.write_seeded(seed, &image);
        let log = manual().verify(Verify::All).open(&image).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!([31, 81].contains(&log.next_seq()), "seed {seed}: {}", log.recovery());
        assert_holds(&log, &[(1, 1..log.next_seq())]);
    }
}
