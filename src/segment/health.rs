//! Whether the log may still be written: the one place that remembers a failed sync, and that the log was closed.

use crate::error::{Error, Result};
use crate::sys::sync::{AtomicU8, Ordering};

const POISONED: u8 = 1;
const CLOSED: u8 = 2;

/// Two flags that are raised and never lowered.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Raised with Release: by whoever saw a sync fail, before it lets go of the lock under which it synced, and by close. Loaded
    /// with Acquire.
    flags: AtomicU8,
}

impl Health {
    /// Ok while the log takes writes.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        match self.flags.load(Ordering::Acquire) {
            0 => Ok(()),
            flags if flags & CLOSED != 0 => Err(Error::Closed),
            _ => Err(Error::Poisoned),
        }
    }

    /// Whether [`check`](Self::check) is Ok.
    #[inline]
    pub(crate) fn is_fine(&self) -> bool {
        self.flags.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.flags.load(Ordering::Acquire) & POISONED != 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & CLOSED != 0
    }

    /// A sync failed: nobody knows what is on the disk.
    pub(crate) fn poison(&self) {
        self.flags.fetch_or(POISONED, Ordering::Release);
    }

    /// Nothing new is taken.
    pub(crate) fn close(&self) {
        self.flags.fetch_or(CLOSED, Ordering::Release);
    }
}
