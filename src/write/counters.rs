//! What is counted of appends. An append pays one addition: entries are counted by their seqs.

/// Counters of one `Log`, under the cursor's lock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counters {
    /// Bytes of stored payloads.
    bytes: u64,
    /// Entries that were appended before the last cut or reset.
    entries_before: u64,
    /// The first seq that was given since.
    since: u64,
    pub(crate) rotations: u64,
}

/// A moment in a log's life, to tell later what was appended since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Counters {
    /// Counts what is appended from `next_seq` on.
    pub(crate) fn new(next_seq: u64) -> Counters {
        Counters { bytes: 0, entries_before: 0, since: next_seq, rotations: 0 }
    }

    /// An entry is appended.
    #[inline]
    pub(crate) fn count(&mut self, stored_len: u32) {
        self.bytes += u64::from(stored_len);
    }

    /// The seq after `next_seq` will not be the next, but `resume`.
    pub(crate) fn jump(&mut self, next_seq: u64, resume: u64) {
        self.entries_before += next_seq - self.since;
        self.since = resume;
    }

    /// What was appended up to `next_seq`.
    #[inline]
    pub(crate) fn tally(&self, next_seq: u64) -> Tally {
        Tally { entries: self.entries_before + (next_seq - self.since), bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_across_cuts() {
        let mut counters = Counters::new(5);
        counters.count(10);
        counters.count(20);
        assert_eq!(counters.tally(7).entries, 2);
        counters.jump(7, 2);
        assert_eq!(counters.tally(2).entries, 2);
        counters.count(1);
        let tally = counters.tally(3);
        assert_eq!((tally.entries, tally.bytes), (3, 31));
    }
}
