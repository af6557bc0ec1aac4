//! Power cuts while a log is made: what is there afterwards is a new log, or the log that it was.

use crate::shared::fast_dir;
use crate::support::image::Film;
use crate::support::logs::{assert_holds, fill, manual};
use std::fs;

#[test]
fn case_29_a_power_cut_at_any_step_of_making_a_log_in_new_nested_directories_is_no_error() {
    let dir = fast_dir();
    let [outer, image] = ["outer", "image"].map(|name| dir.path().join(name));
    let nested = |root: &std::path::Path| root.join("one/two/three");
    fs::create_dir(&outer).unwrap();
    let film = Film::start(&outer);
    let log = manual().open(nested(&outer)).unwrap();
    film.phase(1);
    fill(&log, 1, 1..11);
    log.sync().unwrap();
    film.phase(2);
    fill(&log, 1, 11..21);
    let cuts = film.stop();
    drop(log);
    assert!(cuts.len() > 15, "every directory, file, name and sync is a step");
    for (step, (phase, cut)) in cuts.iter().enumerate() {
        for seed in 0..12 {
            match seed {
                0 => cut.write_durable(&image),
                1 => cut.write_live(&image),
                _ => cut.write_seeded(seed, &image),
            }
            let what = format!("phase {phase}, step {step}, seed {seed}");
            let log = manual().open(nested(&image)).unwrap_or_else(|error| panic!("{what}: {error}"));
            let next = log.next_seq();
            assert!(*phase < 2 || next >= 11, "{what}: {next}");
            assert_holds(&log, &[(1, 1..next)]);
            fill(&log, 2, next..next + 5);
            log.close().unwrap();
            assert_holds(&manual().open(nested(&image)).unwrap(), &[(1, 1..next), (2, next..next + 5)]);
        }
    }
}
