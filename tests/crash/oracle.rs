//! What a crash may leave, and what of it is proven, judged by what was appended, acked and truncated alone.

use crate::sim::Crash;
use maplog::{Log, View};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

/// The log as its user knows it, and what the user is about to do.
#[derive(Clone)]
pub(super) enum Model {
    /// It is being opened: what may come out is what the crash before allows.
    Opening(Expect),
    Running(Running),
}

/// A log that is open.
#[derive(Clone, Default)]
pub(super) struct Running {
    pub(super) first: u64,
    /// By seq, without a hole from `first` on. Every payload was drawn once: no two entries of a whole chain are equal, unless
    /// they are very short.
    pub(super) entries: BTreeMap<u64, Vec<u8>>,
    /// The last seq that was acked as durable.
    pub(super) durable: u64,
    /// The batches of which no part was cut off.
    pub(super) batches: Vec<Range<u64>>,
    pub(super) witnesses: Witnesses,
    pub(super) doing: Option<Doing>,
}

/// What must be on the disk that says which entries were durable.
#[derive(Debug, Clone, Default)]
pub(super) struct Witnesses {
    /// Up to this seq it is in the manifest: since an open, a cut or a close.
    manifest: u64,
    /// For each entry, the last seq that was acked when it was appended: its frame says so.
    frames: BTreeMap<u64, u64>,
    /// Frames up to this seq are on the disk.
    last_frame: u64,
}

/// A call that has not returned.
#[derive(Clone)]
pub(super) enum Doing {
    Append {
        payloads: Vec<Vec<u8>>,
        /// The last seq that was acked when the call began.
        durable: u64,
    },
    TruncateBefore(u64),
    TruncateAfter(u64),
    Reset(u64),
    /// What changes nothing that a user sees.
    Upkeep(&'static str),
}

/// Bounds for what is recovered.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    first: RangeInclusive<u64>,
    last: RangeInclusive<u64>,
}

/// What may be recovered.
#[derive(Clone)]
pub(super) struct Expect {
    entries: BTreeMap<u64, Vec<u8>>,
    batches: Vec<Range<u64>>,
    /// A cut was under way that leaves this as the last seq: it may fall inside a batch.
    cut_after: Option<u64>,
    after_power_cut: Vec<Outcome>,
    after_kill: Vec<Outcome>,
    witnesses: Witnesses,
    /// The last frames that are on the disk after a power cut, and after a kill.
    durable: u64,
    last: u64,
    crash: Crash,
}

/// What was recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) first: u64,
    pub(super) entries: BTreeMap<u64, Vec<u8>>,
}

impl Running {
    /// A log without entries that goes on at `next`.
    pub(super) fn empty(next: u64) -> Running {
        Running { first: next, durable: next - 1, ..Running::default() }
    }

    pub(super) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub(super) fn last(&self) -> u64 {
        self.next() - 1
    }

    /// Adds what was appended by a call that began when all up to `durable` was acked.
    pub(super) fn push(&mut self, payloads: Vec<Vec<u8>>, durable: u64) {
        let start = self.next();
        if payloads.len() > 1 {
            self.batches.push(start..start + payloads.len() as u64);
        }
        let seqs = start..start + payloads.len() as u64;
        self.witnesses.frames.extend(seqs.map(|seq| (seq, durable)));
        self.entries.extend((start..).zip(payloads));
    }

    pub(super) fn drop_before(&mut self, first: u64) {
        self.entries = self.entries.split_off(&first);
        self.witnesses.frames = self.witnesses.frames.split_off(&first);
        self.first = first;
        self.durable = self.durable.max(first - 1);
    }

    pub(super) fn drop_after(&mut self, last: u64) {
        self.entries.split_off(&(last + 1));
        self.batches.retain(|batch| batch.end <= last + 1);
        self.all_is_proven();
    }

    /// All that is there is durable, and the manifest says so.
    pub(super) fn all_is_proven(&mut self) {
        self.durable = self.last();
        self.witnesses = Witnesses { manifest: self.durable, ..Witnesses::default() };
    }

    /// What may be recovered if the log is not closed any more in a good way.
    pub(super) fn expect(&self, crash: Crash) -> Expect {
        let mut after = self.clone();
        let (first, last) = (self.first, self.last());
        let mut firsts = first..=first;
        let mut other = None;
        match &self.doing {
            Some(Doing::Append { payloads, durable }) => after.push(payloads.clone(), *durable),
            Some(Doing::TruncateBefore(seq)) => firsts = first..=first.max(*seq),
            Some(Doing::TruncateAfter(seq)) if *seq < last => other = Some((first, *seq)),
            Some(Doing::Reset(next)) => {
                other = Some((*next, next - 1));
                after.witnesses = Witnesses::default();
            }
            _ => {}
        }
        let outcomes = |kept: u64| {
            let usual = Outcome { first: firsts.clone(), last: kept..=after.last() };
            let cut = other.map(|(first, last)| Outcome { first: first..=first, last: last..=last });
            std::iter::once(usual).chain(cut).collect()
        };
        Expect {
            after_power_cut: outcomes(self.durable),
            after_kill: outcomes(last),
            entries: after.entries,
            batches: after.batches,
            cut_after: other.map(|(_, last)| last),
            witnesses: after.witnesses,
            durable: self.durable,
            last,
            crash,
        }
    }
}

impl Expect {
    /// A log that nobody has opened yet.
    pub(super) fn nothing() -> Expect {
        Running::empty(1).expect(Crash::PowerCut)
    }

    /// Of what was recovered: the witnesses that must be on the disk.
    pub(super) fn witnesses(&self) -> Witnesses {
        let last_frame = if self.crash == Crash::Kill { self.last } else { self.durable };
        Witnesses { last_frame, ..self.witnesses.clone() }
    }

    /// What may be recovered if the recovery is itself ended by `crash`.
    fn interrupted(mut self, crash: Crash) -> Expect {
        if crash == Crash::PowerCut {
            self.crash = Crash::PowerCut;
        }
        self
    }

    /// Panics if what was recovered is not what may be.
    pub(super) fn check(&self, recovered: &Recovered) {
        let (first, last) = (recovered.first, recovered.last());
        let outcomes = if self.crash == Crash::Kill { &self.after_kill } else { &self.after_power_cut };
        let allows = |outcome: &Outcome| outcome.first.contains(&first) && outcome.last.contains(&last);
        assert!(
            outcomes.iter().any(allows),
            "recovered [{first}, {last}] after a {:?}, allowed is {outcomes:?}",
            self.crash
        );
        for (seq, payload) in &recovered.entries {
            match self.entries.get(seq) {
                Some(appended) => assert!(appended == payload, "seq {seq} is not what was appended: {payload:02x?}"),
                None => panic!("seq {seq} was not appended, or was dropped: {payload:02x?}"),
            }
        }
        for batch in &self.batches {
            let within = batch.start <= last && last + 1 < batch.end;
            assert!(!within || self.cut_after == Some(last), "the batch {batch:?} is torn at {last}");
        }
    }
}

impl Model {
    /// What may be recovered after this crash.
    pub(super) fn expect(self, crash: Crash) -> Expect {
        match self {
            Model::Opening(expect) => expect.interrupted(crash),
            Model::Running(running) => running.expect(crash),
        }
    }

    pub(super) fn running(&mut self) -> &mut Running {
        match self {
            Model::Running(running) => running,
            Model::Opening(_) => unreachable!("the log is open"),
        }
    }
}

impl Witnesses {
    /// Whether something says that the entry with `seq` was durable.
    pub(super) fn cover(&self, seq: u64) -> bool {
        self.manifest >= seq || self.carrier(seq).is_some()
    }

    /// The first entry whose frame says that the one with `seq` was durable.
    fn carrier(&self, seq: u64) -> Option<u64> {
        let mut frames = self.frames.range(..=self.last_frame);
        frames.find(|(_, durable)| **durable >= seq).map(|(carrier, _)| *carrier)
    }

    /// Those that are in the manifest, or in frames that stay.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(u64) -> bool) {
        self.frames.retain(|carrier, _| stays(*carrier));
    }
}

impl Recovered {
    /// Reads all of a log.
    pub(super) fn read(log: &Log) -> maplog::Result<Recovered> {
        let recovered = Self::read_view(&log.view())?;
        let end = recovered.first + recovered.entries.len() as u64;
        assert_eq!((recovered.first, end), (log.first_seq(), log.next_seq()), "the view is not the log");
        Ok(recovered)
    }

    fn read_view(view: &View) -> maplog::Result<Recovered> {
        let first = view.first_seq();
        let mut entries = BTreeMap::new();
        for (seq, entry) in (first..).zip(view) {
            let entry = entry?;
            assert_eq!(entry.seq(), seq, "not contiguous from {first} on");
            entries.insert(seq, entry.payload().to_vec());
        }
        Ok(Recovered { first, entries })
    }

    pub(super) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    pub(super) fn running(self) -> Running {
        let Recovered { first, entries } = self;
        let mut running = Running { first, entries, ..Running::default() };
        running.all_is_proven();
        running
    }
}
