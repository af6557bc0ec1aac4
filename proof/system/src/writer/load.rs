//! What a writer's threads do until it is killed: several append in every way there is and sync, one does the upkeep.

use super::killer::{Killer, Phase};
use super::plan::Plan;
use super::{open, Writer};
use crate::entry::{self, CallId, Id};
use crate::ledger::{Call, Ledger, Outcome, Record};
use crate::rng::Rng;
use anyhow::{Context, Result};
use maplog::{Ack, Error, Log, SyncPolicy};
use parking_lot::RwLock;
use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What the threads share.
pub struct Load {
    writer: Writer,
    plan: Plan,
    ledger: Arc<Ledger>,
    killer: Killer,
    /// Held for writing while the log is opened again.
    current: RwLock<Current>,
}

/// The log, and the number of its open.
struct Current {
    log: Log,
    life: u32,
}

/// One of the threads.
struct Caller<'l> {
    load: &'l Load,
    thread: u16,
    calls: u32,
    rng: Rng,
}

/// The number of the thread that does the upkeep.
const UPKEEP: u16 = 0;

impl Load {
    pub fn new(writer: Writer, plan: Plan, log: Log, ledger: Arc<Ledger>, killer: Killer) -> Load {
        let current = RwLock::new(Current { log, life: writer.life });
        Load { writer, plan, ledger, killer, current }
    }

    /// Runs until the process is killed, or a call fails that may not.
    pub fn run(&self, mut rng: Rng) -> Result<()> {
        thread::scope(|scope| {
            for thread in 1..=self.plan.appenders {
                let mut caller = Caller { load: self, thread, calls: 0, rng: rng.fork() };
                scope.spawn(move || end_with_error(caller.append_for_ever()));
            }
            let mut upkeep = Caller { load: self, thread: UPKEEP, calls: 0, rng: rng.fork() };
            end_with_error(upkeep.keep_up_for_ever())
        })
    }
}

/// Ends the process, whatever the other threads do.
fn end_with_error(result: Result<()>) -> ! {
    if let Err(error) = result {
        println!("{error:#}");
    }
    std::process::exit(1)
}

impl Caller<'_> {
    fn append_for_ever(&mut self) -> Result<()> {
        loop {
            let current = self.load.current.read();
            self.append_or_sync(&current)?;
            drop(current);
            self.pause();
        }
    }

    fn pause(&mut self) {
        match self.rng.of_any_size(self.load.plan.pause_us) {
            0..=20 => {}
            pause_us => thread::sleep(Duration::from_micros(pause_us)),
        }
    }

    /// Makes a call, and notes it before and after. None: it was refused, for another thread got in its way.
    fn call(
        &mut self,
        current: &Current,
        call: Call,
        make: impl FnOnce(&Log, CallId) -> maplog::Result<Outcome>,
    ) -> Result<Option<Outcome>> {
        let id = self.next_id(current, call);
        match make(&current.log, id) {
            Ok(outcome) => {
                let durable = outcome.durable.max(current.log.durable_seq());
                let outcome = Outcome { durable, ..outcome };
                self.load.ledger.note(Record::Did { id, outcome });
                Ok(Some(outcome))
            }
            Err(Error::Closed | Error::Truncated { .. } | Error::SeqOutOfRange { .. }) => {
                self.load.ledger.note(Record::Refused { id });
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("{call:?}")),
        }
    }

    fn next_id(&mut self, current: &Current, call: Call) -> CallId {
        self.calls += 1;
        let id = CallId { life: current.life, thread: self.thread, number: self.calls };
        self.load.ledger.note(Record::About { id, call });
        id
    }

    // --- what appenders do ---

    fn append_or_sync(&mut self, current: &Current) -> Result<()> {
        match self.rng.within(0..100) {
            0..=34 => self.append(current, None),
            35..=44 => self.append(current, Some(Ack::Buffered)),
            45..=46 => self.append(current, Some(Ack::Durable)),
            47..=64 => self.append_with(current),
            65..=92 => self.append_batch(current),
            93..=94 => self.sync(current),
            95..=96 => self.wait_durable(current),
            _ => {
                self.on_durable(current);
                Ok(())
            }
        }
    }

    fn append(&mut self, current: &Current, ack: Option<Ack>) -> Result<()> {
        let (load, len, filling) = (self.load, self.load.plan.payload_len(&mut self.rng), Plan::filling(&mut self.rng));
        let is_acked = ack.map_or(load.plan.policy == SyncPolicy::Immediate, |ack| ack == Ack::Durable);
        self.call(current, Call::Append { entries: 1 }, |log, call| {
            let payload = entry::payload(Id { run: load.writer.run, call, index: 0 }, len, filling);
            let seq = ack.map_or_else(|| log.append(&payload), |ack| log.append_as(&payload, ack))?;
            Ok(Outcome { seq, durable: if is_acked { seq } else { 0 } })
        })?;
        Ok(())
    }

    fn append_with(&mut self, current: &Current) -> Result<()> {
        let (load, len, filling) = (self.load, self.load.plan.payload_len(&mut self.rng), Plan::filling(&mut self.rng));
        let is_acked = load.plan.policy == SyncPolicy::Immediate;
        self.call(current, Call::Append { entries: 1 }, |log, call| {
            let id = Id { run: load.writer.run, call, index: 0 };
            let seq = log.append_with(len, |place| entry::fill(id, filling, place))?;
            Ok(Outcome { seq, durable: if is_acked { seq } else { 0 } })
        })?;
        Ok(())
    }

    fn append_batch(&mut self, current: &Current) -> Result<()> {
        let (load, lens, filling) = (self.load, self.load.plan.batch_lens(&mut self.rng), Plan::filling(&mut self.rng));
        if lens.is_empty() {
            return Ok(());
        }
        let is_acked = load.plan.policy == SyncPolicy::Immediate;
        self.call(current, Call::Append { entries: lens.len() as u16 }, |log, call| {
            let id = |index| Id { run: load.writer.run, call, index };
            let payloads: Vec<_> =
                (0..).zip(&lens).map(|(index, len)| entry::payload(id(index), *len, filling)).collect();
            if call.number > 10 {
                load.killer.enter(Phase::Batch);
            }
            let seqs = log.append_batch(&payloads)?;
            Ok(Outcome { seq: seqs.start, durable: if is_acked { seqs.end - 1 } else { 0 } })
        })?;
        Ok(())
    }

    fn sync(&mut self, current: &Current) -> Result<()> {
        self.call(current, Call::Sync, |log, _| Ok(Outcome { seq: 0, durable: log.sync()? }))?;
        Ok(())
    }

    fn wait_durable(&mut self, current: &Current) -> Result<()> {
        let seq = current.log.next_seq() - 1;
        self.call(current, Call::Sync, |log, _| log.wait_durable(seq).map(|()| Outcome { seq: 0, durable: seq }))?;
        Ok(())
    }

    /// Notes the end of the call when the callback is called.
    fn on_durable(&mut self, current: &Current) {
        let seq = current.log.next_seq() - 1;
        let id = self.next_id(current, Call::Sync);
        let ledger = Arc::clone(&self.load.ledger);
        current.log.on_durable(seq, move |settled| {
            ledger.note(match settled {
                Ok(()) => Record::Did { id, outcome: Outcome { seq: 0, durable: seq } },
                Err(_) => Record::Refused { id },
            });
        });
    }

    // --- what the upkeep does ---

    fn keep_up_for_ever(&mut self) -> Result<()> {
        // The others come to append something before the aim is taken.
        let mut patience = self.rng.within(3..20);
        loop {
            thread::sleep(Duration::from_micros(self.rng.within(500..12_000)));
            patience = patience.saturating_sub(1);
            let choice = self.rng.within(0..100);
            match self.load.plan.aim.filter(|_| patience == 0) {
                Some(Phase::Close) if choice < 50 => self.open_again()?,
                Some(Phase::Upkeep) if choice < 70 => {
                    self.load.killer.enter(Phase::Upkeep);
                    self.change(choice)?;
                }
                _ if choice >= 92 => self.open_again()?,
                _ => self.change(choice)?,
            }
            if self.load.writer.write_back && self.rng.one_in(2) {
                self.write_back();
            }
        }
    }

    fn change(&mut self, choice: u64) -> Result<()> {
        let load = self.load;
        let current = load.current.read();
        let (first, next) = (current.log.first_seq(), current.log.next_seq());
        match choice {
            0..=49 => {
                let seq = next.saturating_sub(load.plan.keep).max(first);
                self.call(&current, Call::TruncateBefore { seq }, |log, _| {
                    Ok(Outcome { seq: log.truncate_before(seq)?, durable: 0 })
                })?;
            }
            50..=62 => {
                self.call(&current, Call::Rotate, |log, _| log.rotate().map(|()| Outcome::default()))?;
            }
            63..=70 => {
                let seq = next.saturating_sub(1 + self.rng.of_any_size(100)).max(first - 1);
                self.call(&current, Call::TruncateAfter { seq }, |log, _| {
                    log.truncate_after(seq).map(|()| Outcome { seq: 0, durable: seq })
                })?;
            }
            71..=72 => {
                let next_seq = next + self.rng.within(0..10);
                self.call(&current, Call::Reset { next_seq }, |log, _| {
                    log.reset(next_seq).map(|()| Outcome::default())
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Closes the log and opens it again, sometimes while others append.
    fn open_again(&mut self) -> Result<()> {
        let load = self.load;
        let close = |caller: &mut Self, current: &Current| {
            caller.call(current, Call::Close, |log, _| {
                load.killer.enter(Phase::Close);
                log.close()?;
                Ok(Outcome { seq: 0, durable: log.next_seq() - 1 })
            })
        };
        if self.rng.one_in(2) {
            close(self, &load.current.read())?;
        }
        let mut current = load.current.write();
        close(self, &current)?;
        current.life += 1;
        current.log = open(&load.writer, load.plan.options(), current.life, &load.ledger)?;
        Ok(())
    }

    /// Has the kernel write the dirty pages of a segment back, as it may at any time. Dropping their cache starts that.
    fn write_back(&mut self) {
        use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
        let names = std::fs::read_dir(self.load.writer.dir.join("segments")).into_iter().flatten().flatten();
        let mut paths: Vec<_> = names.map(|name| name.path()).collect();
        paths.sort();
        if paths.is_empty() {
            return;
        }
        let path = self.rng.pick(&paths.iter().collect::<Vec<_>>());
        if let Ok(file) = File::open(path) {
            let page = self.rng.within(0..64) as i64 * 4096;
            let _ =
                posix_fadvise(&file, page, self.rng.pick(&[4096, 65536, 0]), PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }
}
