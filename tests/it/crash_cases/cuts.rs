//! Entries that a truncation took away never come back, and what it left is durable.

use crate::shared::fast_dir;
use crate::support::format;
use crate::support::image::{Film, Recorder, Recording};
use crate::support::logs::{assert_holds, copy_dir, fill, lives, manual, wait_until};
use maplog::{Log, Verify};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A log under a recorder, and where its images go.
struct Stage {
    _dir: TempDir,
    log_dir: PathBuf,
    image: PathBuf,
    recording: Recording,
}

fn stage() -> Stage {
    let dir = fast_dir();
    let (log_dir, image) = (dir.path().join("log"), dir.path().join("image"));
    fs::create_dir(&log_dir).unwrap();
    let recording = Recorder::start(&log_dir);
    Stage { _dir: dir, log_dir, image, recording }
}

impl Stage {
    /// Opens images of power cuts at this moment, all that reads nothing unproven, and hands them to `check`.
    fn for_each_power_cut(&self, seeds: u64, check: impl Fn(&Log)) {
        let cut = self.recording.cut();
        for seed in 0..seeds {
            match seed {
                0 => cut.write_durable(&self.image),
                1 => cut.write_live(&self.image),
                _ => cut.write_seeded(seed, &self.image),
            }
            let verify = if seed % 2 == 0 { Verify::Unproven } else { Verify::All };
            let opened = manual().verify(verify).open(&self.image);
            let log = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            println!("seed {seed}");
            check(&log);
        }
    }
}

#[test]
fn case_05_an_entry_that_a_cut_took_never_comes_back_and_its_witnesses_are_no_damage() {
    let stage = stage();
    let log = manual().open(&stage.log_dir).unwrap();
    for first in [1, 26, 51, 76] {
        fill(&log, 1, first..first + 25);
        log.sync().unwrap();
    }
    wait_until("the mark", || format::marked_seq(&stage.log_dir) == 100);
    log.truncate_after(50).unwrap();
    fill(&log, 2, 51..52);
    stage.for_each_power_cut(40, |log| {
        assert_holds(log, &[(1, 1..51), (2, 51..log.next_seq())]);
        assert!(log.next_seq() <= 52);
    });
}

#[test]
fn case_26_a_segment_that_a_cut_ends_is_never_appended_to_not_after_a_clean_open_either() {
    let stage = stage();
    let log = manual().open(&stage.log_dir).unwrap();
    fill(&log, 1, 1..100);
    log.truncate_after(50).unwrap();
    log.close().unwrap();
    let log = manual().open(&stage.log_dir).unwrap();
    assert!(log.recovery().clean);
    fill(&log, 2, 51..52);
    stage.for_each_power_cut(40, |log| {
        assert_holds(log, &[(1, 1..51), (2, 51..log.next_seq())]);
    });
    fill(&log, 2, 52..54);
    log.sync().unwrap();
    stage.for_each_power_cut(10, |log| assert_holds(log, &[(1, 1..51), (2, 51..54)]));
}

#[test]
fn case_27_the_mark_moves_with_a_cut() {
    let stage = stage();
    let log = manual().open(&stage.log_dir).unwrap();
    fill(&log, 1, 1..101);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&stage.log_dir) == 100);
    log.truncate_after(50).unwrap();
    assert_eq!(format::marked_seq(&stage.log_dir), 50);
    fill(&log, 2, 51..52);
    stage.for_each_power_cut(20, |log| assert_holds(log, &[(1, 1..51), (2, 51..log.next_seq())]));
}

#[test]
fn case_27_the_mark_moves_with_a_truncation_that_passes_it() {
    let stage = stage();
    let log = manual().open(&stage.log_dir).unwrap();
    fill(&log, 1, 1..61);
    log.sync().unwrap();
    wait_until("the mark", || format::marked_seq(&stage.log_dir) == 60);
    // The second segment is not synced when the first one, which holds the mark, goes.
    fill(&log, 1, 61..151);
    assert_eq!(log.truncate_before(140).unwrap(), 101);
    let (_, slot) = format::newest_slot(&stage.log_dir);
    assert!(slot.mark.map_or(true, |mark| mark.segment >= slot.first_segment), "{slot:?}");
    assert!(log.durable_seq() >= 100);
    stage.for_each_power_cut(40, |log| assert_holds(log, &[(1, 101..log.next_seq())]));
    assert_eq!(log.truncate_before(151).unwrap(), 101, "the active segment stays");
    log.sync().unwrap();
    stage.for_each_power_cut(10, |log| assert_holds(log, &[(1, 101..151)]));
}

/// The images that a list of cuts gives, few for each cut, opened, and handed to `check` with what to say if it fails.
fn for_each_image(cuts: &[(u32, crate::support::image::Cut)], image: &Path, check: impl Fn(u32, &Log)) {
    for (step, (phase, cut)) in cuts.iter().enumerate() {
        for seed in 0..3 {
            match seed {
                0 => cut.write_durable(image),
                1 => cut.write_live(image),
                _ => cut.write_seeded(step as u64, image),
            }
            let what = format!("phase {phase}, step {step}, seed {seed}");
            let log = manual().open(image).unwrap_or_else(|error| panic!("{what}: {error}"));
            println!("{what}");
            check(*phase, &log);
        }
    }
}

#[test]
fn case_33_segments_between_a_cut_and_its_next_id_never_count_again() {
    let dir = fast_dir();
    let [log_dir, lost, image] = ["log", "lost", "image"].map(|name| dir.path().join(name));
    fs::create_dir(&log_dir).unwrap();
    let film = Film::start(&log_dir);
    let log = manual().open(&log_dir).unwrap();
    fill(&log, 1, 1..451);
    film.phase(1);
    log.truncate_after(250).unwrap();
    film.phase(2);
    let cuts = film.stop();
    drop(log);
    // The cut is durable, and the files that it made dead are still there.
    let is_there = |id: u64| format::segment_path(&lost, id).exists();
    let (_, cut) = cuts
        .iter()
        .rfind(|(_, cut)| {
            cut.write_durable(&lost);
            is_there(4) && is_there(5) && format::marked_seq(&lost) == 250
        })
        .expect("the files go after the cut is durable");
    cut.write_durable(&lost);
    assert_eq!(format::segment(&lost, 5).frames.len(), 50);

    let film = Film::start(&lost);
    let log = manual().open(&lost).unwrap();
    assert_holds(&log, &[(1, 1..251)]);
    fill(&log, 2, 251..481);
    let ids: Vec<_> = log.segments().iter().map(|segment| segment.id).collect();
    assert!(ids.len() == 6 && ids[..3] == [1, 2, 3] && ids[3] > 5, "{ids:?}");
    film.phase(1);
    log.truncate_after(460).unwrap();
    film.phase(2);
    fill(&log, 3, 461..471);
    log.sync().unwrap();
    film.phase(3);
    let cuts = film.stop();
    drop(log);
    for_each_image(&cuts, &image, |phase, log| {
        let held = lives(log);
        let life = |seq: u64| held.get(seq as usize - 1).map(|(_, life)| *life);
        assert!((1..251).all(|seq| life(seq) == Some(1)), "what was synced is there");
        assert!((251..461).all(|seq| matches!(life(seq), None | Some(2))), "4 and 5 are dead");
        let late: Vec<_> = (461..=held.len() as u64).map(|seq| life(seq).unwrap()).collect();
        assert!(late.iter().all(|life| [2, 3].contains(life)) && (phase < 2 || !late.contains(&2)), "{late:?}");
        assert!(phase < 2 || held.len() >= 460, "a cut leaves what is durable");
        assert!(phase < 3 || held.len() == 470);
    });
    // Twice more, without a close.
    let (_, last) = cuts.last().unwrap();
    last.write_durable(&image);
    for round in 0..2 {
        let log = manual().open(&image).unwrap();
        assert_holds(&log, &[(1, 1..251), (2, 251..461), (3, 461..471)]);
        let next = dir.path().join(format!("round{round}"));
        copy_dir(&image, &next);
        let log = manual().open(&next).unwrap();
        assert_holds(&log, &[(1, 1..251), (2, 251..461), (3, 461..471)]);
    }
}

#[test]
fn case_34_a_cut_inside_a_batch_keeps_its_first_part() {
    let stage = stage();
    let log = manual().segment_size(16 << 10).open(&stage.log_dir).unwrap();
    fill(&log, 1, 1..51);
    log.append_batch((51..101).map(|seq| crate::support::logs::payload(1, seq))).unwrap();
    log.sync().unwrap();
    log.truncate_after(70).unwrap();
    stage.for_each_power_cut(6, |log| assert_holds(log, &[(1, 1..71)]));
    fill(&log, 2, 71..81);
    log.sync().unwrap();
    stage.for_each_power_cut(6, |log| assert_holds(log, &[(1, 1..71), (2, 71..81)]));
    // A later cut takes the place of the one inside the batch: its end is then in a link.
    log.truncate_after(75).unwrap();
    fill(&log, 3, 76..78);
    log.sync().unwrap();
    let runs = [(1, 1..71), (2, 71..76), (3, 76..78)];
    stage.for_each_power_cut(6, |log| assert_holds(log, &runs));
    log.close().unwrap();
    for verify in [Verify::Unproven, Verify::All] {
        let log = manual().verify(verify).open(&stage.log_dir).unwrap();
        assert!(log.recovery().clean);
        assert_holds(&log, &runs);
        assert!(log.validate().unwrap().is_intact());
    }
}
