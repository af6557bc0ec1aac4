//! What holds of every log that opens, whatever its files hold: all ways of reading it agree, each call does what it says, and what
//! was there is there again after a close or a kill. Nothing here knows what the log should hold: its user does.

use crate::files::Files;
use crate::input::Input;
use maplog::{Compression, DamageKind, Error, Log, Options, RecoveryMode, Result, SyncPolicy, Verify, View};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seqs are below this.
const SEQ_LIMIT: u64 = 1 << 63;
/// Of a range of seqs that nobody could have filled, so many are asked for one by one.
const ASKED: u64 = 300;
/// The most calls that a script makes.
const CALLS: usize = 12;
/// More than any log has that an execution makes.
const ITEMS: usize = 10_000;

/// A payload, by its length and a hash: the bytes themselves may be 255 times those on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(usize, u64);

impl Digest {
    pub fn of(payload: &[u8]) -> Digest {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(payload);
        Digest(payload.len(), hasher.finish())
    }
}

pub fn options(mode: RecoveryMode, verify: Verify) -> Options {
    Options::new().segment_size(8192).sync_policy(SyncPolicy::Manual).recovery(mode).verify(verify)
}

/// Opens a log, if it is not refused. A refusal names a cause that lies in the bytes, and changes none of them.
pub fn open(dir: &Path, options: Options) -> Result<Log> {
    let before = Files::read(dir);
    let opened = options.open(dir);
    match &opened {
        Ok(_) => {}
        Err(Error::Damaged { .. } | Error::NotALog { .. } | Error::UnsupportedVersion { .. }) => {
            assert!(Files::read(dir) == before, "an open that is refused has changed a file");
        }
        Err(error) => panic!("open: {error}"),
    }
    opened
}

/// What a log gives when it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub first: u64,
    pub next: u64,
    pub entries: BTreeMap<u64, Digest>,
    /// Seqs that cannot be read, in order.
    pub lost: Vec<Range<u64>>,
    /// Those of them whose frames are whole by their checksums and cannot be decompressed: that shows itself to a reader alone.
    undecodable: BTreeSet<u64>,
    /// Each seq is one of both: nothing was left out because it would take too long.
    pub is_all: bool,
}

impl Seen {
    /// Reads all of `log` in every way.
    pub fn read(log: &Log, mode: RecoveryMode) -> Seen {
        let view = log.view();
        let (first, next) = (view.first_seq(), view.next_seq());
        assert!(1 <= first && first <= next && next <= SEQ_LIMIT, "the log says to hold [{first}, {next})");
        assert_eq!((log.first_seq(), log.next_seq()), (first, next));
        assert!(log.durable_seq() < next, "durable_seq is {}, next_seq {next}", log.durable_seq());
        let mut seen = Seen {
            first,
            next,
            entries: BTreeMap::new(),
            lost: Vec::new(),
            undecodable: BTreeSet::new(),
            is_all: true,
        };
        seen.read_forward(&view, mode);
        seen.read_backward(&view, mode);
        seen.read_one_by_one(&view);
        seen.read_pinned(log);
        seen.validate(log);
        seen
    }

    fn read_forward(&mut self, view: &View, mode: RecoveryMode) {
        let mut at = self.first;
        let mut items = view.iter();
        while let Some(item) = items.next() {
            match item {
                Ok(entry) => {
                    assert_eq!(entry.seq(), at, "the iterator skips or repeats");
                    self.entries.insert(at, Digest::of(entry.payload()));
                    at += 1;
                }
                Err(Error::Damaged { damage }) => {
                    assert!(damage.seqs.contains(&at), "damage at seq {at}: {damage}");
                    let end = damage.seqs.end.min(self.next);
                    self.lost.push(at..end);
                    if damage.kind == DamageKind::Compression {
                        self.undecodable.insert(at);
                    }
                    at = end;
                    if mode == RecoveryMode::Strict {
                        assert!(items.next().is_none(), "a strict iterator goes on behind damage");
                        break;
                    }
                }
                Err(error) => panic!("reading: {error}"),
            }
        }
        if at < self.next {
            assert!(
                mode == RecoveryMode::Strict && !self.lost.is_empty(),
                "the iterator ends at {at} of {}",
                self.next
            );
            self.read_behind_damage(view, at);
        }
    }

    /// What a strict iterator does not reach.
    fn read_behind_damage(&mut self, view: &View, from: u64) {
        let end = self.next.min(from + ASKED);
        self.is_all = end == self.next;
        for seq in from..end {
            match view.get(seq) {
                Ok(Some(entry)) => drop(self.entries.insert(seq, Digest::of(entry.payload()))),
                Ok(None) => panic!("seq {seq} is not there, and no error says so"),
                Err(Error::Damaged { .. }) => self.lost.push(seq..seq + 1),
                Err(error) => panic!("reading: {error}"),
            }
        }
    }

    fn read_backward(&mut self, view: &View, mode: RecoveryMode) {
        let mut at = self.next;
        let mut items = view.iter().rev();
        while let Some(item) = items.next() {
            match item {
                Ok(entry) => {
                    at -= 1;
                    assert_eq!(entry.seq(), at, "the iterator skips or repeats on its way back");
                    let digest = Digest::of(entry.payload());
                    let known = self.entries.insert(at, digest);
                    let is_news = known.is_none() && !self.is_all;
                    assert!(known == Some(digest) || is_news, "seq {at} reads differently from the back");
                }
                Err(Error::Damaged { damage }) => {
                    assert!(damage.seqs.contains(&(at - 1)), "damage at seq {}: {damage}", at - 1);
                    let start = damage.seqs.start.max(self.first);
                    let readable = self.entries.range(start..at).next();
                    assert!(readable.is_none() || mode == RecoveryMode::Strict, "{readable:?} is lost from the back");
                    at = start;
                    if mode == RecoveryMode::Strict {
                        assert!(items.next().is_none(), "a strict iterator goes on before damage");
                        return;
                    }
                }
                Err(error) => panic!("reading backward: {error}"),
            }
        }
        assert_eq!(at, self.first, "the iterator ends early on its way back");
    }

    fn read_one_by_one(&self, view: &View) {
        for (seq, digest) in &self.entries {
            match view.get(*seq) {
                Ok(Some(entry)) => {
                    assert!(
                        entry.seq() == *seq && Digest::of(entry.payload()) == *digest,
                        "seq {seq} reads differently"
                    );
                }
                other => panic!("seq {seq} cannot be read any more: {other:?}"),
            }
        }
        for lost in &self.lost {
            for seq in [lost.start, lost.start + (lost.end - lost.start) / 2, lost.end - 1] {
                match view.get(seq) {
                    Err(Error::Damaged { damage }) => assert!(damage.seqs.contains(&seq), "seq {seq}: {damage}"),
                    other => panic!("seq {seq} is lost and not damaged: {other:?}"),
                }
            }
        }
        for outside in [self.first - 1, self.next] {
            assert!(view.get(outside).unwrap().is_none(), "seq {outside} is outside, and there");
        }
    }

    /// Entries that keep themselves alive: the first and the last one, and the one that a follower gives.
    fn read_pinned(&self, log: &Log) {
        let ends = [self.entries.iter().next(), self.entries.iter().next_back()];
        for (seq, digest) in ends.into_iter().flatten() {
            let entry = log.get(*seq).unwrap().unwrap();
            assert!(
                entry.seq() == *seq && Digest::of(entry.payload()) == *digest,
                "seq {seq} reads differently, pinned"
            );
            let mut follower = log.follow(*seq).unwrap();
            let followed = follower.next_timeout(Duration::ZERO).unwrap().unwrap();
            assert!(
                followed.seq() == *seq && followed.payload() == entry.payload(),
                "seq {seq} is followed differently"
            );
        }
    }

    fn validate(&self, log: &Log) {
        let report = log.validate().unwrap();
        if self.is_all {
            assert_eq!(report.entries, self.entries.len() as u64, "validate counts other entries: {report:?}");
        }
        let lists = |seq| report.damage.iter().any(|damage| damage.seqs.contains(&seq));
        for lost in &self.lost {
            assert!(lists(lost.start) && lists(lost.end - 1), "validate does not list {lost:?}: {report:?}");
        }
        for seq in self.entries.keys() {
            assert!(!lists(*seq), "validate lists seq {seq}, which can be read");
        }
    }

    /// A seq between the one before the first and the next one.
    fn pick(&self, input: &mut Input<'_>) -> u64 {
        let fraction = u128::from(input.byte());
        let width = u128::from(self.next - self.first + 1);
        self.first - 1 + (width * fraction / 255) as u64
    }

    fn push(&mut self, payload: &[u8]) {
        self.entries.insert(self.next, Digest::of(payload));
        self.next += 1;
    }

    fn keep(&mut self, seqs: Range<u64>) {
        (self.first, self.next) = (seqs.start, seqs.end);
        self.entries.retain(|seq, _| seqs.contains(seq));
        self.lost = clipped(&self.lost, &seqs);
    }

    /// What was there is there, and what was lost stays lost.
    fn check_again(&self, again: &Seen) {
        assert_eq!((again.first, again.next), (self.first, self.next), "the log has other ends");
        for (seq, digest) in &self.entries {
            assert_eq!(again.entries.get(seq), Some(digest), "seq {seq}");
        }
        if self.is_all {
            assert_eq!(again.entries.len(), self.entries.len(), "entries have come from nowhere");
        }
    }
}

/// The parts of `ranges` that lie in `within`.
fn clipped(ranges: &[Range<u64>], within: &Range<u64>) -> Vec<Range<u64>> {
    let clip = |range: &Range<u64>| range.start.max(within.start)..range.end.min(within.end);
    ranges.iter().map(clip).filter(|range| !range.is_empty()).collect()
}

/// A log that is open, and what is known of it.
pub struct Subject<'s> {
    scratch: &'s Path,
    dir: PathBuf,
    /// Copies so far.
    kills: u32,
    log: Log,
    mode: RecoveryMode,
    verify: Verify,
    pub seen: Seen,
    /// What a salvage says is lost of the live seqs.
    losses: Vec<Range<u64>>,
    /// It was opened without a word of a loss, be it of no seq.
    is_intact: bool,
    /// The next seq when it was opened.
    opened_next: u64,
    /// A change was asked for since: a salvage has written what it found to be lost.
    is_changed: bool,
    /// Its files may lie.
    is_forged: bool,
    /// What is known to have been appended in one call.
    batches: &'s [Range<u64>],
}

impl<'s> Subject<'s> {
    /// Opens the log in `dir`, if it is not refused, and reads it.
    pub fn open(scratch: &'s Path, dir: PathBuf, mode: RecoveryMode, verify: Verify) -> Result<Subject<'s>> {
        let log = open(&dir, options(mode, verify))?;
        let report = log.recovery();
        assert_eq!(report.last_seq + 1, log.next_seq(), "{report}");
        assert!(mode == RecoveryMode::Salvage || report.losses.is_empty(), "{report}");
        let seen = Seen::read(&log, mode);
        let losses: Vec<_> =
            report.losses.iter().map(|loss| loss.seqs.clone()).filter(|seqs| !seqs.is_empty()).collect();
        for pair in losses.windows(2) {
            assert!(pair[0].end <= pair[1].start, "a loss is listed twice: {losses:?}");
        }
        let is_listed = |seq| losses.iter().any(|loss| loss.contains(&seq));
        for lost in seen.lost.iter().filter(|_| mode == RecoveryMode::Salvage) {
            let is_whole = lost.end - lost.start == 1 && seen.undecodable.contains(&lost.start);
            assert!(is_whole || is_listed(lost.start) && is_listed(lost.end - 1), "{lost:?} is not listed: {losses:?}");
        }
        let losses = clipped(&losses, &(seen.first..seen.next));
        let (is_intact, opened_next) = (report.losses.is_empty(), seen.next);
        Ok(Subject {
            is_intact,
            opened_next,
            scratch,
            dir,
            kills: 0,
            log,
            mode,
            verify,
            seen,
            losses,
            is_changed: false,
            is_forged: false,
            batches: &[],
        })
    }

    /// The same log, of which the files may hold what no writer stores, with checksums that hold.
    pub fn forged(self) -> Subject<'s> {
        Subject { is_forged: true, ..self }
    }

    pub fn with_batches(self, batches: &'s [Range<u64>]) -> Subject<'s> {
        Subject { batches, ..self }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Makes the calls that the input says, and checks each against what is known.
    pub fn run(mut self, input: &mut Input<'_>) {
        if self.is_forged && self.mode == RecoveryMode::Strict && self.verify == Verify::Unproven {
            return self.run_unjudged(input);
        }
        let mut calls = 0;
        while !input.is_empty() && calls < CALLS {
            calls += 1;
            let call = input.byte() % 12;
            self.is_changed |= matches!(call, 0..=2 | 4..=7);
            match call {
                0..=2 => {
                    if !self.append(input, call) {
                        break;
                    }
                }
                3 => assert_eq!(self.log.sync().unwrap(), self.seen.next - 1),
                4 => self.truncate_after(input),
                5 => self.truncate_before(input),
                6 => self.log.rotate().unwrap(),
                7 => self.reset(input),
                8 => self.check(),
                _ => match self.reopen(input) {
                    Some(again) => self = again,
                    None => return,
                },
            }
        }
        self.check();
        self.reopen(&mut Input::new(&[0, 0]));
    }

    /// Makes calls on a log that believed a lie without a look: nothing is certain but that it neither panics nor hangs.
    fn run_unjudged(self, input: &mut Input<'_>) {
        for _ in 0..CALLS {
            let payload = vec![input.byte(); usize::from(input.short()) % 1500];
            let seq = self.seen.pick(input);
            let _ = match input.byte() % 6 {
                0 => self.log.append(&payload).map(drop),
                1 => self.log.append_batch([&payload, &payload]).map(drop),
                2 => self.log.truncate_after(seq),
                3 => self.log.truncate_before(seq).map(drop),
                4 => self.log.rotate(),
                _ => self.log.validate().map(drop),
            };
            if input.is_empty() {
                break;
            }
        }
        let view = self.log.view();
        assert!(view.iter().take(ITEMS).count() < ITEMS && view.iter().rev().take(ITEMS).count() < ITEMS, "no end");
        let _ = self.log.close();
        for mode in [RecoveryMode::Strict, RecoveryMode::Salvage] {
            let _ = options(mode, Verify::All).open(&self.dir);
        }
    }

    fn check(&self) {
        self.seen.check_again(&Seen::read(&self.log, self.mode));
    }

    /// Appends; false if the log takes no more.
    fn append(&mut self, input: &mut Input<'_>, call: u8) -> bool {
        let (len, byte) = (usize::from(input.short()) % 1500, input.byte());
        let payload = vec![byte; len];
        let count = if call == 2 { 2 } else { 1 };
        let appended = match call {
            0 => self.log.append(&payload).map(|seq| seq..seq + 1),
            1 => self.log.append_with(len, |place| place.fill(byte)).map(|seq| seq..seq + 1),
            _ => self.log.append_batch([&payload, &payload]),
        };
        match appended {
            Ok(seqs) => assert_eq!(seqs, self.seen.next..self.seen.next + count),
            Err(Error::SeqOutOfRange { .. }) if self.seen.next > SEQ_LIMIT - 1000 => return false,
            // There is no id left for a segment: the manifest was made up.
            Err(Error::Io { op: "name", .. }) => return false,
            Err(error) => panic!("append: {error}"),
        }
        (0..count).for_each(|_| self.seen.push(&payload));
        true
    }

    fn truncate_after(&mut self, input: &mut Input<'_>) {
        let seq = self.seen.pick(input);
        match self.log.truncate_after(seq) {
            Ok(()) => {
                self.seen.keep(self.seen.first..self.seen.next.min(seq + 1));
                self.losses = clipped(&self.losses, &(self.seen.first..self.seen.next));
                assert_eq!(self.log.durable_seq() + 1, self.seen.next, "what stays is durable");
            }
            Err(Error::Damaged { .. }) => self.check_refused(seq),
            Err(error) => panic!("truncate_after {seq}: {error}"),
        }
    }

    fn truncate_before(&mut self, input: &mut Input<'_>) {
        let seq = self.seen.pick(input);
        match self.log.truncate_before(seq) {
            Ok(first) => {
                assert!(
                    first <= seq.max(self.seen.first) && first >= self.seen.first,
                    "truncate_before {seq}: {first}"
                );
                self.seen.keep(first..self.seen.next);
                self.losses = clipped(&self.losses, &(self.seen.first..self.seen.next));
            }
            Err(Error::Damaged { .. }) => self.check_refused(seq),
            Err(error) => panic!("truncate_before {seq}: {error}"),
        }
    }

    /// A cut is refused at a seq that is lost, and nowhere else.
    fn check_refused(&self, seq: u64) {
        let is_lost = self.seen.lost.iter().any(|lost| lost.contains(&seq));
        assert!(is_lost || !self.seen.is_all, "a cut at seq {seq} is refused, which is not lost");
    }

    fn reset(&mut self, input: &mut Input<'_>) {
        let next = input.one_of(&[1, self.seen.next, self.seen.first, 1 << 40]).min(SEQ_LIMIT - 1);
        self.log.reset(next).unwrap();
        self.seen.keep(next..next);
        self.losses.clear();
        self.seen.is_all = true;
    }

    /// Closes the log, or leaves it as a kill does, and opens it again; None if that is refused, for a reason.
    fn reopen(mut self, input: &mut Input<'_>) -> Option<Subject<'s>> {
        let how = input.byte();
        if how & 1 == 0 {
            self.log.close().unwrap();
        } else {
            self.kills += 1;
            let copy = self.scratch.join(format!("{}.{}", self.dir.file_name().unwrap().to_str().unwrap(), self.kills));
            Files::read(&self.dir).write(&copy);
            self.dir = copy;
        }
        let mode = match how & 10 {
            0 => self.mode,
            8 => RecoveryMode::Strict,
            _ => RecoveryMode::Salvage,
        };
        // What was not looked at when it was first opened may be refused by whoever looks.
        let is_all_looked_at = how & 4 != 0 || mode != self.mode && (self.is_forged || !self.is_changed);
        let verify = if is_all_looked_at { Verify::All } else { self.verify };
        // A salvage loses none of the frames that lie about their batch, and a strict open refuses them.
        let looks_closer = verify != self.verify || self.is_forged && mode != self.mode;
        let Subject { scratch, dir, kills, seen, losses, log, opened_next, is_forged, is_intact, batches, .. } = self;
        drop(log);
        match Subject::open(scratch, dir, mode, verify) {
            Ok(again) => {
                // If the loss was a lie, it is gone with the lie.
                let may_be_whole = mode == RecoveryMode::Salvage || is_forged;
                assert!(may_be_whole || losses.is_empty(), "a loss is forgotten: {losses:?}");
                let mut seen = seen;
                let report = again.log.recovery();
                let was_lost = |seq: &u64| losses.iter().any(|loss| loss.contains(seq));
                // A lie may be gone, too, that had made up for another one: what was not appended since may be lost. And of a batch that
                // has lost a part, the rest is there for as long as something says that it was durable. But it is listed.
                let is_lost = |seq: &u64| again.losses.iter().any(|loss| loss.contains(seq));
                let broken = batches.iter().filter(|batch| (*batch).clone().any(|seq| was_lost(&seq)));
                let may_be_lost =
                    |seq: &u64| is_forged && *seq < opened_next || broken.clone().any(|batch| batch.contains(seq));
                seen.entries.retain(|seq, _| !(is_lost(seq) && may_be_lost(seq)));
                if is_forged || report.notes.iter().any(|note| note.contains("truncated")) {
                    // What the manifest said when it was first salvaged is gone: if it was a lie, entries are found that it hid; if
                    // not, entries that had been truncated may be back, and that is noted.
                    let back = again.seen.entries.iter().filter(|(seq, _)| was_lost(seq));
                    seen.entries.extend(back.map(|(seq, digest)| (*seq, *digest)));
                }
                if is_forged && report.notes.iter().any(|note| note.contains("truncated")) {
                    // Of two frames of one seq, of which one was a lie, the other one is believed now.
                    let others =
                        again.seen.entries.range(..opened_next).filter(|(seq, _)| seen.entries.contains_key(seq));
                    let others: Vec<_> = others.map(|(seq, digest)| (*seq, *digest)).collect();
                    seen.entries.extend(others);
                }
                // With a loss that was a lie, what it hid behind the end is found as well.
                let is_healed = is_forged && again.seen.entries.keys().any(was_lost);
                if is_healed {
                    let behind = again.seen.entries.range(seen.next..);
                    seen.entries.extend(behind.map(|(seq, digest)| (*seq, *digest)));
                }
                let is_known = |seq: u64| {
                    let is_listed = again.losses.iter().any(|loss| loss.contains(&seq));
                    is_listed || seen.entries.contains_key(&seq) || again.seen.undecodable.contains(&seq)
                };
                for loss in &losses {
                    assert!(is_known(loss.start) && is_known(loss.end - 1), "{loss:?} is forgotten: {report}");
                }
                if !again.losses.is_empty() || is_healed {
                    // How many entries a file held of which the head is gone is a guess, and never too low.
                    assert!(
                        again.seen.next >= seen.next,
                        "the log ends at {}, and did at {}",
                        again.seen.next,
                        seen.next
                    );
                    seen.next = again.seen.next;
                }
                seen.check_again(&again.seen);
                Some(Subject { kills, is_forged, batches, ..again })
            }
            Err(error) => {
                let is_whole = is_intact && seen.lost.is_empty() && seen.is_all;
                assert!(mode == RecoveryMode::Strict, "a salvage is refused: {error}");
                assert!(!is_whole || looks_closer, "a log that was whole is refused: {error}");
                None
            }
        }
    }
}

/// Lets a log compress what it is given, on top of `options`.
pub fn compressing(options: Options) -> Options {
    options.compression(Compression::Lz4 { min_size: 16 })
}
