//! maplog: a write-ahead log to link into a storage engine.

mod error;
#[allow(dead_code)]
mod format;
mod options;
#[allow(dead_code)]
mod sys;

#[cfg(not(all(unix, target_pointer_width = "64")))]
compile_error!("maplog maps files of up to 4 GiB: it needs a 64-bit Unix");

pub use error::{Damage, DamageKind, Error, Result};

pub use options::{Ack, Compression, Options, RecoveryMode, SyncPolicy, Verify};

/// The seams that our own tests drive. No part of the public interface.
#[cfg(feature = "__testing")]
#[doc(hidden)]
pub mod testing {
    pub use crate::sys::clock::testing::set_clock_ms;
    pub use crate::sys::hook::{observe, Observer, ObserverGuard, Op};
}
