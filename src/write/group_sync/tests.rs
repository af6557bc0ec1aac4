//! How claims are settled, and by whom, without a disk.

use super::*;

fn group() -> GroupSync {
    GroupSync::new(0, 0, None, 8)
}

fn mark(seq: u64) -> Mark {
    Mark { seq, segment: 1, offset: 128 + 8 * seq }
}

fn claim(seq: u64, epoch: u64) -> Claim {
    Claim { seq, epoch }
}

fn truncated_at(group: &GroupSync, claim: Claim) -> Option<u64> {
    match group.judge(claim) {
        Some(Err(Error::Truncated { first_seq })) => Some(first_seq),
        _ => None,
    }
}

/// A cut that is on the disk at once.
fn cut(group: &GroupSync, epoch: u64, last_kept: u64, resume: u64, mark: Option<Mark>) {
    let mut callbacks = group.cut(epoch, last_kept, resume, mark);
    group.end_cut(&mut callbacks, true);
    group.settle_cut(callbacks);
}

#[test]
fn a_stale_sync_moves_nothing() {
    let group = group();
    assert!(group.advance(0, mark(50), None));
    cut(&group, 1, 50, 51, Some(mark(50)));
    assert!(!group.advance(0, mark(100), None), "it began before the cut");
    assert_eq!(group.durable_seq(), 50);
    assert!(group.judge(claim(51, 1)).is_none());
}

#[test]
fn what_was_salvaged_before_a_cut_moves_nothing_after_it() {
    let group = group();
    cut(&group, 1, 0, 1, None);
    group.adopted(0, 50, Some(mark(50)));
    assert_eq!((group.durable_seq(), group.mark()), (0, None));
    group.adopted(1, 50, Some(mark(50)));
    assert_eq!((group.durable_seq(), group.mark()), (50, Some(mark(50))));
}

#[test]
fn a_claim_is_judged_by_the_lowest_cut_since() {
    let group = group();
    let _keeps_cuts = group.register();
    for (epoch, last_kept) in [(1, 50), (2, 30), (3, 80)] {
        cut(&group, epoch, last_kept, last_kept + 1, Some(mark(last_kept)));
    }
    assert_eq!(truncated_at(&group, claim(60, 0)), Some(31));
    assert_eq!(truncated_at(&group, claim(31, 1)), Some(31));
    assert_eq!(truncated_at(&group, claim(60, 2)), None, "60 was below the cut at 80");
    assert_eq!(truncated_at(&group, claim(90, 2)), Some(81));
    assert!(matches!(group.judge(claim(30, 0)), Some(Ok(()))));
}

#[test]
fn cuts_are_forgotten_with_the_last_claim_from_before() {
    let group = group();
    let old = group.register();
    for epoch in 1..=100 {
        cut(&group, epoch, epoch, epoch + 1, None);
    }
    assert_eq!(group.state.lock().cuts.len(), 100);
    let new = group.register();
    drop(old);
    assert!(group.state.lock().cuts.is_empty());
    drop(new);

    let entered = group.enter();
    cut(&group, 101, 50, 51, None);
    assert_eq!(truncated_at(&group, claim(60, entered)), Some(51));
    group.leave(entered);
    assert!(group.state.lock().cuts.is_empty() && group.state.lock().claims.is_empty());
}

#[test]
fn a_claim_that_was_cut_is_not_taken_for_the_entry_that_has_its_seq_now() {
    let group = group();
    let _keeps_cuts = group.register();
    cut(&group, 1, 50, 51, Some(mark(50)));
    assert!(group.advance(1, mark(100), None));
    assert!(matches!(group.wait(claim(60, 0)), Step::Done(Err(Error::Truncated { first_seq: 51 }))));
    assert!(matches!(group.wait(claim(60, 1)), Step::Done(Ok(()))));
    assert!(matches!(group.wait(claim(50, 0)), Step::Done(Ok(()))));
}

#[test]
fn a_group_is_those_who_wait_however_much_they_wait_for() {
    let group = std::sync::Arc::new(group());
    let Step::Lead(leadership) = group.wait(claim(1_000_000, 0)) else { panic!("nobody else leads") };
    let follower = {
        let group = std::sync::Arc::clone(&group);
        std::thread::spawn(move || matches!(group.wait(claim(1, 0)), Step::Done(Ok(()))))
    };
    while group.gathered() < 2 {
        std::thread::yield_now();
    }
    assert!(group.advance(0, mark(1_000_000), Some(leadership)));
    assert!(follower.join().unwrap());
    assert_eq!((group.last_group(), group.gathered()), (2, 1), "those who were served wait no more");
    let Step::Lead(leadership) = group.wait(claim(3_000_000, 0)) else { panic!("nobody else leads") };
    assert!(group.advance(0, mark(3_000_000), Some(leadership)));
    assert_eq!(group.last_group(), 1);
}

#[test]
fn a_leader_waits_for_as_many_as_last_time_and_not_for_ever() {
    let pauses = |expected: u32, gathered: &[u32]| {
        let paused = std::cell::Cell::new(0);
        let now = || *gathered.get(paused.get()).or(gathered.last()).unwrap();
        gather(expected, now, || paused.set(paused.get() + 1));
        paused.get()
    };
    assert_eq!(pauses(0, &[1]), 0, "the first sync");
    assert_eq!(pauses(1, &[1]), 0, "the caller is there");
    assert_eq!(pauses(3, &[3]), 0);
    assert_eq!(pauses(3, &[1, 2, 3]), 2);
    assert_eq!(pauses(3, &[1, 4]), 1);
    assert_eq!(pauses(3, &[1]), 4, "nobody comes");
    assert_eq!(pauses(9, &[1, 1, 1, 2, 2, 2, 3]), 10, "each who comes is a reason to wait for the next");
}

#[test]
fn callbacks_are_called_once_whatever_happens() {
    let group = group();
    let (send, receive) = std::sync::mpsc::channel();
    let register = |seq| {
        let send = send.clone();
        let epoch = group.state.lock().epoch;
        group.on_durable(claim(seq, epoch), Box::new(move |result| send.send((seq, result.is_ok())).unwrap()));
    };
    (1..=5).for_each(register);
    group.advance(0, mark(2), None);
    assert_eq!(receive.try_iter().collect::<Vec<_>>(), [(1, true), (2, true)]);
    register(1);
    assert_eq!(receive.try_recv().unwrap(), (1, true));
    cut(&group, 1, 4, 5, Some(mark(4)));
    assert_eq!(receive.try_iter().collect::<Vec<_>>(), [(5, false), (3, true), (4, true)]);
    register(6);
    group.fail(None);
    group.close();
    assert_eq!(receive.try_iter().collect::<Vec<_>>(), [(6, false)]);
}

#[test]
fn a_leadership_that_is_dropped_falls_to_the_next() {
    let group = group();
    let Step::Lead(leadership) = group.wait(claim(1, 0)) else { panic!("nobody else leads") };
    let changes = group.changed.count();
    drop(leadership);
    assert!(group.changed.count() > changes, "those who wait look again");
    assert!(matches!(group.wait(claim(1, 0)), Step::Lead(_)));
}

#[test]
fn what_is_durable_is_told_without_the_lock_and_only_of_the_epoch_that_is_now() {
    let group = group();
    assert!(!group.is_durable(claim(1, 0)) && group.is_durable(claim(0, 0)));
    assert!(group.advance(0, mark(50), None));
    assert!(group.is_durable(claim(50, 0)) && !group.is_durable(claim(51, 0)));
    assert_eq!(group.durable_seq_in(0), Some(50));
    assert_eq!(group.durable_seq_in(1), None);
    cut(&group, 1, 20, 21, Some(mark(20)));
    assert!(!group.is_durable(claim(20, 0)) && group.is_durable(claim(20, 1)) && !group.is_durable(claim(21, 1)));
    assert_eq!((group.durable_seq_in(0), group.durable_seq_in(1)), (None, Some(20)));
}

#[test]
fn of_two_cuts_at_one_seq_the_later_says_where_the_log_goes_on() {
    let group = group();
    let _keeps_cuts = group.register();
    cut(&group, 1, 30, 31, None);
    cut(&group, 2, 30, 1000, None);
    assert_eq!(truncated_at(&group, claim(40, 0)), Some(1000));
}

#[test]
fn what_was_salvaged_becomes_durable_and_nothing_less() {
    let group = group();
    assert!(group.advance(0, mark(50), None));
    let changes = group.changed.count();
    for seq in [49, 50] {
        group.adopted(0, seq, Some(mark(seq - 10)));
        assert_eq!((group.durable_seq(), group.mark()), (50, Some(mark(50))));
    }
    assert_eq!(group.changed.count(), changes, "nobody is woken for nothing");
    group.adopted(0, 51, Some(mark(51)));
    assert_eq!((group.durable_seq(), group.mark()), (51, Some(mark(51))));
    assert!(group.changed.count() > changes);
}

#[test]
fn what_is_dropped_counts_as_durable_and_takes_the_mark_along() {
    let group = group();
    let in_segment = |segment, seq| Mark { segment, ..mark(seq) };
    assert!(group.advance(0, in_segment(3, 50), None));
    let changes = group.changed.count();
    for seq in [49, 50] {
        group.drop_before(3, seq);
        assert_eq!((group.durable_seq(), group.mark()), (50, Some(in_segment(3, 50))));
    }
    assert_eq!(group.changed.count(), changes, "nobody is woken for nothing");
    group.drop_before(4, 60);
    assert_eq!((group.durable_seq(), group.mark()), (60, None));
    assert!(group.changed.count() > changes);
}

#[test]
fn a_callback_that_comes_late_is_told_at_once() {
    let group = group();
    let _keeps_cuts = group.register();
    let told = |seq, epoch| {
        let (send, receive) = std::sync::mpsc::channel();
        group.on_durable(claim(seq, epoch), Box::new(move |result| send.send(result).unwrap()));
        receive.try_recv().ok()
    };
    assert!(told(1, 0).is_none(), "not settled yet");
    assert!(group.advance(0, mark(50), None));
    assert!(matches!(told(50, 0), Some(Ok(()))));
    cut(&group, 1, 20, 21, Some(mark(20)));
    assert!(matches!(told(30, 0), Some(Err(Error::Truncated { first_seq: 21 }))));
    group.close();
    assert!(matches!(told(21, 1), Some(Err(Error::Closed))));
}

#[test]
fn no_more_wait_than_may_and_each_who_leaves_lets_one_in() {
    let group = std::sync::Arc::new(GroupSync::new(0, 0, None, 2));
    let first = group.writer().unwrap();
    let second = group.admit(group.register());
    let third = {
        let group = std::sync::Arc::clone(&group);
        std::thread::spawn(move || group.writer().is_ok())
    };
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!third.is_finished());
    drop(first);
    assert!(third.join().unwrap());
    drop(second);
    assert_eq!(group.state.lock().writers, 0);
    group.close();
    assert!(matches!(group.writer(), Err(Error::Closed)));
}

#[test]
fn how_far_a_log_is_durable_can_be_printed() {
    let group = group();
    assert!(group.advance(0, mark(50), None));
    cut(&group, 7, 20, 21, Some(mark(20)));
    let printed = format!("{group:?}");
    assert!(printed.contains("epoch: 7, durable_seq: 20"), "{printed}");
}
