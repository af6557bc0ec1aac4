//! The process's side: each command is one call on the log.

use super::idle::{Gate, Watcher};
use super::payload::{order_of, payload, write};
use super::words::{Answer, Command, Failure, How, Kind, Order, Outcome, Policy, Run, State};
use maplog::{Ack, Entry, Log, Options, PinnedEntry, SyncPolicy, View};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

pub struct Actor {
    dir: PathBuf,
    watcher: Watcher,
    open: Option<Open>,
    view: Option<View>,
    pinned: Option<PinnedEntry>,
    gate: Arc<Gate>,
}

struct Open {
    log: Log,
    keeper: i32,
    ticker: Option<i32>,
}

/// A call's result, as the answer has it.
type Called = Result<Outcome, Failure>;

impl Actor {
    pub fn new(dir: &Path) -> Actor {
        Actor {
            dir: dir.to_owned(),
            watcher: Watcher::start(),
            open: None,
            view: None,
            pinned: None,
            gate: Arc::default(),
        }
    }

    pub fn act(&mut self, Order { number, command }: Order) -> Answer {
        let mut outcome = self.call(number, command).unwrap_or_else(Outcome::Failed);
        if let Some(Open { keeper, ticker, .. }) = self.open {
            if let Err(why) = self.watcher.wait_idle(keeper, ticker) {
                outcome = Outcome::Stuck(why);
            }
        }
        Answer { outcome, state: self.open.as_ref().map(|Open { log, .. }| state(log)) }
    }

    fn call(&mut self, order: u32, command: Command) -> Called {
        match command {
            Command::Open { policy, segment_size } => return self.open(policy, segment_size),
            Command::Close => {
                self.gate.open();
                return self.close();
            }
            Command::CloseAndFreeKeeper => {
                self.watcher.open_when_idle(Arc::clone(&self.gate));
                let closed = self.close();
                self.gate.open();
                return match self.watcher.answer() {
                    Ok(_) => closed,
                    Err(why) => Ok(Outcome::Stuck(why)),
                };
            }
            Command::ReadHeldView => return self.view.as_ref().map_or(Err(not_open()), read),
            Command::ReadPinned => {
                let entry = self.pinned.as_ref().ok_or_else(not_open)?;
                let order = order_of(entry.seq(), entry.payload());
                return Ok(Outcome::Entries(vec![Run { first_seq: entry.seq(), count: 1, order }]));
            }
            _ => {}
        }
        let log = &self.open.as_ref().ok_or_else(not_open)?.log;
        let seq = log.next_seq();
        Ok(match command {
            Command::Append { how, len } => Outcome::Seq(append(log, how, order, seq, len)?),
            Command::Batch { lens } => {
                let payloads = (seq..).zip(lens).map(|(seq, len)| payload(order, seq, len));
                Outcome::Seq(log.append_batch(payloads)?.start)
            }
            Command::Fill { len, count, sync_every } => fill(log, order, len, count, sync_every),
            Command::Sync => Outcome::Seq(log.sync()?),
            Command::Wait(seq) => done(log.wait_durable(seq))?,
            Command::Rotate => done(log.rotate())?,
            Command::TruncateBefore(seq) => Outcome::Seq(log.truncate_before(seq)?),
            Command::TruncateAfter(seq) => done(log.truncate_after(seq))?,
            Command::Reset(seq) => done(log.reset(seq))?,
            Command::Read => read(&log.view())?,
            Command::Validate => {
                let report = log.validate()?;
                let damage = report.damage.first().map(ToString::to_string);
                damage.map_or(Ok(Outcome::Done), |text| Err(Failure { kind: Kind::Other, text }))?
            }
            Command::HoldView => {
                self.view = Some(log.view());
                Outcome::Done
            }
            Command::Pin(seq) => {
                self.pinned = log.get(seq)?;
                Outcome::Done
            }
            Command::HoldKeeper => {
                self.gate = Arc::default();
                let gate = Arc::clone(&self.gate);
                log.on_durable(seq - 1, move |_| gate.hold_keeper());
                Outcome::Done
            }
            Command::FreeKeeper => {
                self.gate.open();
                Outcome::Done
            }
            Command::Open { .. }
            | Command::Close
            | Command::CloseAndFreeKeeper
            | Command::ReadHeldView
            | Command::ReadPinned => unreachable!("done above"),
        })
    }

    fn open(&mut self, policy: Policy, segment_size: u64) -> Called {
        let sync_policy = match policy {
            Policy::Immediate => SyncPolicy::Immediate,
            Policy::Manual => SyncPolicy::Manual,
            Policy::Interval => SyncPolicy::Interval(Duration::from_millis(1)),
        };
        let log = Options::new().sync_policy(sync_policy).segment_size(segment_size).open(&self.dir)?;
        let ticker = (policy == Policy::Interval).then(|| self.watcher.find_ticker()).transpose();
        match self.watcher.find_keeper().and_then(|keeper| Ok((keeper, ticker?))) {
            Ok((keeper, ticker)) => {
                self.open = Some(Open { log, keeper, ticker });
                Ok(Outcome::Opened { keeper, ticker })
            }
            Err(why) => Ok(Outcome::Stuck(why)),
        }
    }

    fn close(&mut self) -> Called {
        let Open { log, .. } = self.open.take().ok_or_else(not_open)?;
        done(log.close())
    }
}

fn done(called: maplog::Result<()>) -> Called {
    Ok(called.map(|()| Outcome::Done)?)
}

fn not_open() -> Failure {
    Failure { kind: Kind::NotOpen, text: "no log is open".into() }
}

fn append(log: &Log, how: How, order: u32, seq: u64, len: usize) -> maplog::Result<u64> {
    match how {
        How::AsPolicySays => log.append(&payload(order, seq, len)),
        How::InPlace => log.append_with(len, |place| write(order, seq, place)),
        How::Durable => log.append_as(&payload(order, seq, len), Ack::Durable),
        How::Awaited => {
            let seq = log.append(&payload(order, seq, len))?;
            let (tell, told) = channel();
            log.on_durable(seq, move |durable| drop(tell.send(durable)));
            told.recv().unwrap_or(Err(maplog::Error::Closed)).map(|()| seq)
        }
    }
}

fn fill(log: &Log, order: u32, len: usize, count: u64, sync_every: u64) -> Outcome {
    let first_seq = log.next_seq();
    for done in 0..count {
        let filled = |count, error: maplog::Error| Outcome::Filled { first_seq, count, failure: Some(error.into()) };
        if let Err(error) = append(log, How::AsPolicySays, order, first_seq + done, len) {
            return filled(done, error);
        }
        let is_due = (done + 1) % sync_every == 0;
        if let Some(error) = is_due.then(|| log.sync().err()).flatten() {
            return filled(done + 1, error);
        }
    }
    Outcome::Filled { first_seq, count, failure: None }
}

fn state(log: &Log) -> State {
    let segments = log.segments();
    State {
        first_seq: log.first_seq(),
        next_seq: log.next_seq(),
        durable_seq: log.durable_seq(),
        segments: segments.len(),
        allocated: segments.iter().map(|segment| segment.bytes_allocated).sum(),
    }
}

fn read(view: &View) -> Called {
    let mut runs: Vec<Run> = Vec::new();
    for entry in view.iter() {
        let entry: Entry<'_> = entry?;
        let (seq, order) = (entry.seq(), order_of(entry.seq(), entry.payload()));
        match runs.last_mut() {
            Some(run) if run.order == order && run.first_seq + run.count == seq => run.count += 1,
            _ => runs.push(Run { first_seq: seq, count: 1, order }),
        }
    }
    Ok(Outcome::Entries(runs))
}
