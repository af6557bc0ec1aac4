//! The ledger: what a writer is about to do and what returned, in one order, in a file that a killed writer leaves whole.
//!
//! It lies in memory (tmpfs), away from the disk under test. Each record is one append of 64 bytes to the file: the kernel gives it
//! its place, and what was written stays when the writer dies. A call is noted before it is made and after it returned, so a call of
//! which the end stands before the begin of another one was over before the other began.

use crate::entry::{CallId, Id};
use anyhow::{bail, Context, Result};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A page holds a whole number of records, so none is ever seen in part.
const RECORD_LEN: usize = 64;

/// One thing that a writer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The log is about to be opened.
    Opening { life: u32 },
    /// The open log holds this entry.
    Found { seq: u64, id: Id },
    /// The log was opened, and all that it holds was named.
    Opened { life: u32, first_seq: u64, next_seq: u64 },
    /// A call is about to be made.
    About { id: CallId, call: Call },
    /// The call returned Ok.
    Did { id: CallId, outcome: Outcome },
    /// The call returned an error that says nothing about what happened, and that another thread may have brought about.
    Refused { id: CallId },
}

/// A call on the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Of one entry or a batch, by whichever call.
    Append {
        entries: u16,
    },
    /// Makes durable what was appended: sync, and waiting for an entry.
    Sync,
    Rotate,
    TruncateBefore {
        seq: u64,
    },
    TruncateAfter {
        seq: u64,
    },
    Reset {
        next_seq: u64,
    },
    Close,
}

/// What a call returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Of an append the first seq, of `truncate_before` the first seq of the log.
    pub seq: u64,
    /// Everything up to this seq was said to be durable when it returned.
    pub durable: u64,
}

/// The file that holds the records.
#[derive(Debug)]
pub struct Ledger {
    file: File,
}

impl Ledger {
    /// An empty ledger at `path`.
    pub fn create(path: &Path) -> Result<Ledger> {
        File::create(path).with_context(|| format!("the ledger {}", path.display()))?;
        Ledger::open(path)
    }

    pub fn open(path: &Path) -> Result<Ledger> {
        let opened = File::options().read(true).append(true).open(path);
        Ok(Ledger { file: opened.with_context(|| format!("the ledger {}", path.display()))? })
    }

    /// Writes a record down.
    ///
    /// # Panics
    /// If it cannot be written: what happens from then on would go unseen.
    pub fn note(&self, record: Record) {
        self.note_all(&[record]);
    }

    /// Writes records down, next to each other unless another thread comes between.
    ///
    /// # Panics
    /// As [`note`](Self::note).
    pub fn note_all(&self, records: &[Record]) {
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        (&self.file).write_all(&bytes).expect("the ledger takes a record");
    }

    /// How many records there are now.
    pub fn len(&self) -> usize {
        self.file.metadata().map_or(0, |metadata| metadata.len() as usize / RECORD_LEN)
    }

    /// The records from `start` on.
    pub fn read_from(&self, start: usize) -> Result<Vec<Record>> {
        let mut bytes = vec![0; self.len().saturating_sub(start) * RECORD_LEN];
        self.file.read_exact_at(&mut bytes, (start * RECORD_LEN) as u64)?;
        bytes.chunks(RECORD_LEN).map(Record::decode).collect()
    }
}

impl Record {
    fn encode(&self) -> [u8; RECORD_LEN] {
        let of_call =
            |what: &str, id: CallId, rest: String| format!("{what} {} {} {} {rest}", id.life, id.thread, id.number);
        let text = match *self {
            Record::Opening { life } => format!("opening {life}"),
            Record::Found { seq, id } => of_call("found", id.call, format!("{} {seq} {}", id.index, id.run)),
            Record::Opened { life, first_seq, next_seq } => format!("opened {life} {first_seq} {next_seq}"),
            Record::About { id, call } => of_call("about", id, call.encode()),
            Record::Did { id, outcome: Outcome { seq, durable } } => of_call("did", id, format!("{seq} {durable}")),
            Record::Refused { id } => of_call("refused", id, String::new()),
        };
        let mut bytes = [b' '; RECORD_LEN];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes[RECORD_LEN - 1] = b'\n';
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Record> {
        let text = std::str::from_utf8(bytes)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |at: usize| -> Result<u64> {
            let word = words.get(at).with_context(|| format!("too few words in the record {text:?}"))?;
            word.parse().with_context(|| format!("the record {text:?}"))
        };
        let call = || -> Result<CallId> {
            Ok(CallId { life: number(1)? as u32, thread: number(2)? as u16, number: number(3)? as u32 })
        };
        Ok(match words[..] {
            ["opening", ..] => Record::Opening { life: number(1)? as u32 },
            ["found", ..] => {
                let id = Id { run: number(6)? as u32, call: call()?, index: number(4)? as u16 };
                Record::Found { seq: number(5)?, id }
            }
            ["opened", ..] => Record::Opened { life: number(1)? as u32, first_seq: number(2)?, next_seq: number(3)? },
            ["about", _, _, _, what, ..] => Record::About { id: call()?, call: Call::decode(what, number(5)?)? },
            ["did", ..] => Record::Did { id: call()?, outcome: Outcome { seq: number(4)?, durable: number(5)? } },
            ["refused", ..] => Record::Refused { id: call()? },
            _ => bail!("no record: {text:?}"),
        })
    }
}

impl Call {
    fn encode(self) -> String {
        match self {
            Call::Append { entries } => format!("append {entries}"),
            Call::Sync => "sync 0".to_owned(),
            Call::Rotate => "rotate 0".to_owned(),
            Call::TruncateBefore { seq } => format!("before {seq}"),
            Call::TruncateAfter { seq } => format!("after {seq}"),
            Call::Reset { next_seq } => format!("reset {next_seq}"),
            Call::Close => "close 0".to_owned(),
        }
    }

    fn decode(what: &str, number: u64) -> Result<Call> {
        Ok(match what {
            "append" => Call::Append { entries: number as u16 },
            "sync" => Call::Sync,
            "rotate" => Call::Rotate,
            "before" => Call::TruncateBefore { seq: number },
            "after" => Call::TruncateAfter { seq: number },
            "reset" => Call::Reset { next_seq: number },
            "close" => Call::Close,
            _ => bail!("no call: {what}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_noted() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(&dir.path().join("ledger")).unwrap();
        let id = CallId { life: u32::MAX, thread: u16::MAX, number: 99_999_999 };
        let records = [
            Record::Opening { life: 1 },
            Record::Found { seq: 1 << 40, id: Id { run: 4_000_000, call: id, index: u16::MAX } },
            Record::Opened { life: 1, first_seq: 7, next_seq: 1 << 62 },
            Record::About { id, call: Call::Append { entries: 3 } },
            Record::About { id, call: Call::TruncateBefore { seq: 1 << 50 } },
            Record::Did { id, outcome: Outcome { seq: 1 << 40, durable: 5 } },
            Record::Refused { id },
        ];
        ledger.note_all(&records);
        assert_eq!(ledger.len(), records.len());
        assert_eq!(ledger.read_from(0).unwrap(), records);
        assert_eq!(ledger.read_from(5).unwrap(), records[5..]);
    }
}
