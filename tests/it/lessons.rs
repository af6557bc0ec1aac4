//! What went wrong in logs that people trust, line by line, and the test that shows that it does not here. Those that are shown
//! nowhere else are in this file.
//!
//! | they had | shown by |
//! |---|---|
//! | Pebble #453: damage in acked data ignored | `flips::every_bit_that_a_witness_covers_is_damage_when_everything_is_verified`, `flips::reads_and_validate_name_every_flipped_byte_of_a_closed_log`, `flips::a_flipped_slot_of_the_manifest_changes_nothing` |
//! | Pebble #6031: a witness that advanced under one option only | `lessons::the_witness_on_disk_advances_under_every_option` |
//! | PostgreSQL: pages of a dropped tail accepted after the next crash | `power::case_03_a_tail_that_is_lost_before_a_rotation_takes_the_next_segment_with_it`, `power::case_12_later_frames_of_a_run_whose_link_and_first_frames_were_lost_never_come_back`, `cuts::case_05_an_entry_that_a_cut_took_never_comes_back_and_its_witnesses_are_no_damage` |
//! | fsyncgate: a retried fsync reports success | `poison::case_16_every_failing_sync_poisons_whoever_asked_for_it`, `poison::case_32_a_sync_that_leader_and_keeper_share_acks_nobody_when_it_fails` |
//! | commonware #3928: the next sync skips what recovery adopts | `poison::case_16_adopted_entries_are_written_again_after_a_failed_sync_and_a_kill` |
//! | RocksDB #6351, #12403: recycled files make the end and damage look alike | `lessons::recovery_over_a_recycled_file_equals_recovery_over_zeros`, `recycling::case_17_garbage_in_a_recycled_file_is_neither_a_witness_nor_an_alarm` |
//! | Pebble #567: recycled a file of an older format | `lessons::no_file_that_this_open_did_not_make_is_recycled` |
//! | RocksDB #7701: a cut at a record boundary went unseen | `flips::a_segment_cut_at_any_length_is_damage_if_it_held_entries_there`, `flips::a_segment_file_that_is_gone_is_damage` |
//! | BookKeeper #2983, RocketMQ: a mark stored before the sync | `lessons::a_mark_is_stored_only_after_the_sync_that_covers_it` |
//! | RocksDB: a read error taken for the end | `full_disk::every_operation_of_an_open_after_a_kill_may_fail` |
//! | PostgreSQL: a garbage length became a huge allocation | `lessons::lengths_that_cannot_be_allocate_nothing` |
//! | etcd #5230, #6515, #11488; commonware #4327: holes wedge start-up | `power::case_15_a_recovery_cut_short_at_every_step_twice_in_a_row_ends_as_if_it_had_not_been`, `creation::case_29_a_power_cut_at_any_step_of_making_a_log_in_new_nested_directories_is_no_error` |
//! | RocksDB #10892, #9766: false alarms that block open | `power::case_18_a_batch_over_a_page_boundary_is_there_in_whole_or_not_at_all`, `recycling::case_09_unlinks_that_reach_the_disk_in_any_order_leave_no_hole` |
//! | SQLite's WAL-reset race | `in_flight::case_04_a_sync_in_flight_makes_nothing_durable_that_was_appended_after_a_cut`, `in_flight::case_30_a_sync_of_a_sealed_segment_by_the_keeper_makes_nothing_durable_that_was_appended_after_a_cut`; with readers and recycling, the models segments and mix of proof/models |
//! | Kafka KAFKA-7442, Badger, RocketMQ: readers crash | `pins::case_06_a_pinned_entry_outlives_close_reopen_truncation_and_recycling`, `pins::case_35_a_view_that_was_never_read_reads_every_byte_after_another_process_rotated` |
//! | Chronicle #1282, Badger #1682, RocketMQ #9693: disk full is SIGBUS | `space::case_14_a_disk_that_is_really_full_is_an_error_and_no_signal`, `space::case_39_a_file_that_cannot_grow_keeps_its_entries_and_is_filled_to_where_it_has_blocks` |
//! | NATS: acked messages lost with the default | `lessons::the_default_policy_acks_what_a_power_cut_keeps` |
//! | Prometheus #7245: repair deleted almost everything | `salvage::case_38_losses_inside_segments_are_skipped_listed_and_truncated_away`; no damaged file is changed or removed: `fuzzed::a_damaged_file_stays_until_it_is_truncated_away` |
//! | etcd #11220: "crc mismatch, cannot be repaired" | `lessons::damage_says_where_what_and_which_entries`, `salvage::case_38_a_lost_segment_is_one_loss_and_a_cut_before_it_takes_it_away` |

use crate::shared::fast_dir;
use crate::support::child;
use crate::support::format;
use crate::support::image::{Recorder, What};
use crate::support::logs::{assert_holds, copy_dir, fill, lives, manual, payload, wait_until};
use crate::support::seam;
use maplog::testing::Op;
use maplog::{Ack, Compression, Options, RecoveryMode, SyncPolicy, Verify};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn every_test_that_is_pointed_to_exists() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let own = fs::read_to_string(tests.join("lessons.rs")).unwrap();
    let table =
        own.lines().filter(|line| line.starts_with("//! |")).flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut pointers = 0;
    for name in table {
        let (module, test) = name.rsplit_once("::").unwrap();
        let places = ["", "crash_cases/"].map(|folder| tests.join(format!("{folder}{module}.rs")));
        let texts = places.iter().filter_map(|path| fs::read_to_string(path).ok());
        assert!(texts.into_iter().any(|text| text.contains(&format!("\nfn {test}()"))), "{name}");
        pointers += 1;
    }
    assert!(pointers > 19, "each line has a test");
}

#[test]
fn the_witness_on_disk_advances_under_every_option() {
    let never = SyncPolicy::Interval(Duration::from_secs(3600));
    let policies =
        [SyncPolicy::Immediate, SyncPolicy::Batch { entries: 1000, bytes: 1 << 30 }, never, SyncPolicy::Manual];
    for policy in policies {
        for compression in [Compression::None, Compression::Lz4 { min_size: 1 }] {
            for recovery in [RecoveryMode::Strict, RecoveryMode::Salvage] {
                for verify in [Verify::Unproven, Verify::All] {
                    let options = Options::new().segment_size(64 << 10).sync_policy(policy);
                    let options = options.compression(compression).recovery(recovery).verify(verify);
                    witness_advances(&options.max_concurrent_writes(1));
                }
            }
        }
    }
}

/// With the first append after a sync, after some milliseconds idle, and at close.
fn witness_advances(options: &Options) {
    let dir = fast_dir();
    let log = options.clone().open(dir.path()).unwrap();
    for round in 0..3 {
        let seq = log.append_as(&[7; 100], Ack::Durable).unwrap();
        let next = log.append_as(&[8; 100], Ack::Buffered).unwrap();
        assert_eq!(format::find(dir.path(), next).1.witness, Some(seq), "{options:?}, round {round}");
        wait_until("the mark", || format::marked_seq(dir.path()) >= seq);
    }
    let last = log.next_seq() - 1;
    log.close().unwrap();
    let slot = format::newest_slot(dir.path()).1;
    assert!(slot.clean && slot.mark.unwrap().seq == last, "{options:?}: {slot:?}");
}

/// A log whose active segment is a recycled file with entries in it, forty of them not synced.
fn with_recycled(log_dir: &Path) -> (crate::support::image::Cut, u64) {
    fs::create_dir(log_dir).unwrap();
    let recording = Recorder::start(log_dir);
    let log = manual().open(log_dir).unwrap();
    wait_until("a recycled file", || {
        let first = log.next_seq();
        fill(&log, 1, first..first + 101 - (first - 1) % 100);
        log.sync().unwrap();
        log.truncate_before(log.next_seq()).unwrap();
        format::segment(log_dir, log.segments().last().unwrap().id).is_recycled
    });
    let acked = log.sync().unwrap();
    fill(&log, 1, acked + 1..acked + 41);
    (recording.cut(), log.segments().last().unwrap().id)
}

#[test]
fn recovery_over_a_recycled_file_equals_recovery_over_zeros() {
    let dir = fast_dir();
    let [log_dir, garbage, zeros] = ["log", "garbage", "zeros"].map(|name| dir.path().join(name));
    let (cut, id) = with_recycled(&log_dir);
    cut.write_live(&garbage);
    let whole = format::segment(&garbage, id);
    // The first frame is synced, and what comes after it is not.
    let (synced, end) = (whole.frames[0].bytes.end, whole.end());
    let len = fs::metadata(&whole.path).unwrap().len();
    for seed in 0..60 {
        let mut rng = crate::shared::Rng::new(seed);
        let mut kept = BTreeSet::new();
        cut.write(&garbage, |unsynced| {
            let survives = rng.one_in(2);
            if let (true, What::Sector(bytes)) = (survives && unsynced.is_of_segment(id), &unsynced.what) {
                kept.insert(bytes.start);
            }
            survives
        });
        let _ = fs::remove_dir_all(&zeros);
        copy_dir(&garbage, &zeros);
        let file = fs::File::options().write(true).open(format::segment_path(&zeros, id)).unwrap();
        for start in (0..len).step_by(512) {
            let from = if kept.contains(&start) { end } else { synced }.max(start);
            if from < start + 512 {
                file.write_all_at(&vec![0; (start + 512 - from) as usize], from).unwrap();
            }
        }
        let open = |image: &Path| manual().open(image).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let [over_garbage, over_zeros] = [open(&garbage), open(&zeros)];
        let result = |log: &maplog::Log| (lives(log), log.recovery().proven_seq, log.recovery().clean);
        let ends = [&over_garbage, &over_zeros].map(|log| (log.first_seq(), log.next_seq(), log.recovery().proven_seq));
        assert!(result(&over_garbage) == result(&over_zeros), "with seed {seed}: {ends:?}");
    }
}

#[test]
fn no_file_that_this_open_did_not_make_is_recycled() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..251);
    log.close().unwrap();
    // A segment of this very log, and one of nobody's, under the names of spares.
    let segments = dir.path().join("segments");
    fs::copy(format::segment_path(dir.path(), 1), segments.join("spare-000001")).unwrap();
    fs::write(segments.join("spare-000002"), vec![0x5a; 8192]).unwrap();
    let early: BTreeSet<_> = fs::read_dir(&segments).unwrap().map(|entry| inode(&entry.unwrap().path())).collect();
    let log = manual().open(dir.path()).unwrap();
    for _ in 0..12 {
        let first = log.next_seq();
        fill(&log, 1, first..first + 100);
        log.truncate_before(first).unwrap();
        for segment in format::segments(dir.path()).iter().filter(|segment| segment.is_recycled) {
            assert!(!early.contains(&inode(&segment.path)), "{} was there before", segment.path.display());
        }
    }
}

fn inode(path: &Path) -> (u64, Option<std::time::SystemTime>) {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path);
    // The number alone is given again; with the time of its birth it is one file's.
    metadata.map_or((0, None), |metadata| (metadata.ino(), metadata.created().ok()))
}

#[test]
fn a_mark_is_stored_only_after_the_sync_that_covers_it() {
    for policy in [SyncPolicy::Immediate, SyncPolicy::Manual, SyncPolicy::Interval(Duration::from_millis(1))] {
        let dir = fast_dir();
        let [log_dir, image] = ["log", "image"].map(|name| dir.path().join(name));
        fs::create_dir(&log_dir).unwrap();
        let findings = Arc::<Mutex<Vec<String>>>::default();
        let marks = Arc::<Mutex<BTreeSet<u64>>>::default();
        let (found, seen) = (Arc::clone(&findings), Arc::clone(&marks));
        let recording = Recorder::start_with(&log_dir, move |recorder, op| {
            let Op::Write { path, data, .. } = op else { return Ok(()) };
            let slot = if path.ends_with("wal.meta") { format::slot(data) } else { None };
            if let Some(mark) = slot.and_then(|slot| slot.mark) {
                recorder.cut().write_durable(&image);
                let segment = format::segment(&image, mark.segment);
                if !segment.frames.iter().any(|frame| frame.seq == mark.seq && frame.bytes.end == mark.offset) {
                    found.lock().unwrap().push(format!("{mark:?}: {:?}", segment.frames.last()));
                }
                seen.lock().unwrap().insert(mark.seq);
            }
            Ok(())
        });
        let log = manual().sync_policy(policy).open(&log_dir).unwrap();
        for round in 0..12 {
            let first = log.next_seq();
            fill(&log, 1, first..first + 37);
            match round % 4 {
                0 => drop(log.sync().unwrap()),
                1 => std::thread::sleep(Duration::from_millis(12)),
                2 => drop(log.truncate_before(first).unwrap()),
                _ => log.truncate_after(first + 10).unwrap(),
            }
        }
        log.close().unwrap();
        drop(recording);
        assert_eq!(*findings.lock().unwrap(), [""; 0], "{policy:?}");
        assert!(marks.lock().unwrap().len() > 5, "{policy:?}");
    }
}

/// In a process of its own, whose peak of memory is nobody else's.
#[test]
fn lengths_that_cannot_be_allocate_nothing() {
    if let Some(dir) = child::dir() {
        for mode in [RecoveryMode::Salvage, RecoveryMode::Strict] {
            let _ = manual().recovery(mode).verify(Verify::All).open(&dir).map(|log| log.validate().unwrap());
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        let peak: u64 = peak.unwrap_or(0);
        assert!(peak < 48 << 10, "{peak} KiB");
        return;
    }
    for len in [0, 1, 31, 32, 8192, 1 << 20, 1 << 31, u32::MAX - 8, u32::MAX] {
        for synced in [false, true] {
            let dir = fast_dir();
            let log_dir = dir.path().join("log");
            let log = manual().open(&log_dir).unwrap();
            fill(&log, 1, 1..21);
            if synced {
                log.sync().unwrap();
            }
            let copy = dir.path().join("copy");
            copy_dir(&log_dir, &copy);
            format::forge_length(&copy, 11, len);
            child::run("lessons::lengths_that_cannot_be_allocate_nothing", &copy);
        }
    }
}

#[test]
fn the_default_policy_acks_what_a_power_cut_keeps() {
    let dir = fast_dir();
    let [log_dir, image] = ["log", "image"].map(|name| dir.path().join(name));
    fs::create_dir(&log_dir).unwrap();
    let recording = Recorder::start(&log_dir);
    let log = Options::new().segment_size(8 << 10).open(&log_dir).unwrap();
    for seq in 1..131 {
        log.append(&payload(1, seq)).unwrap();
        recording.cut().write_durable(&image);
        assert_holds(&manual().open(&image).unwrap(), &[(1, 1..seq + 1)]);
    }
}

#[test]
fn damage_says_where_what_and_which_entries() {
    let dir = fast_dir();
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..31);
    log.close().unwrap();
    let (segment, frame) = format::find(dir.path(), 17);
    format::flip(&segment.path, frame.payload.start + 5);
    let error = manual().verify(Verify::All).open(dir.path()).unwrap_err().to_string();
    let bytes = format!("bytes {}..{}", frame.bytes.start, frame.bytes.end);
    let name = segment.path.display().to_string();
    for part in [&name, &bytes, "expected 0x", "checksum is 0x", "lost: seq 17"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let log = manual().recovery(RecoveryMode::Salvage).open(dir.path()).unwrap();
    assert_eq!(log.view().iter().filter(Result::is_ok).count(), 29, "the others can be saved");
}

#[test]
fn the_seam_sees_what_it_must_fail() {
    // The tests that make operations fail show nothing if no operation comes by.
    let dir = fast_dir();
    let seen = Arc::<Mutex<BTreeSet<String>>>::default();
    let names = Arc::clone(&seen);
    let guard = seam::watch(dir.path(), move |op| {
        let text = format!("{op:?}");
        names.lock().unwrap().insert(text.split(' ').next().unwrap_or_default().to_owned());
    });
    let log = manual().open(dir.path()).unwrap();
    fill(&log, 1, 1..151);
    log.sync().unwrap();
    log.truncate_before(101).unwrap();
    drop(log);
    drop(guard);
    let seen = seen.lock().unwrap();
    for op in
        ["CreateDir", "Create", "Open", "Write", "SyncFile", "SyncRange", "SyncDir", "Rename", "Unlink", "List", "Map"]
    {
        assert!(seen.contains(op), "{op} is not in {seen:?}");
    }
}
