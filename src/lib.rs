//! maplog: a write-ahead log to link into a storage engine. Synchronous, zero-copy, memory-mapped.
//!
//! Entries are appended to pre-allocated, mapped segment files, are durable when the call that promised so returns, and are read as
//! slices straight from the mapping. Open recovers what a crash left, and tells a torn tail, which is dropped, from damage, which
//! is named.
//!
//! ```
//! use maplog::{Log, Options, SyncPolicy};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let log = Log::open(dir)?;
//! log.append(b"first")?; // durable on return: the default
//! let seqs = log.append_batch(["second", "third"])?; // both or none, whatever happens
//! assert_eq!(seqs, 2..4);
//! log.close()?;
//!
//! let log = Options::new().sync_policy(SyncPolicy::Manual).open(dir)?;
//! log.append(b"fourth")?; // in the page cache: survives a kill, not a power cut
//! log.sync()?; // now it does
//! for entry in log.view().iter() {
//!     println!("{}", String::from_utf8_lossy(entry?.payload()));
//! }
//! log.truncate_before(3)?; // what a checkpoint made needless
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The promises, and what each call leaves when the power goes, are in the repository: `docs/durability.md`. The bytes on disk are in
//! `docs/format.md`.

#[cfg(not(all(unix, target_pointer_width = "64")))]
compile_error!("maplog maps files of up to 4 GiB: it needs a 64-bit Unix");

mod error;
mod format;
mod log;
mod options;
mod read;
mod recover;
mod segment;
mod sys;
mod write;

pub use error::{Damage, DamageKind, Error, Result};
pub use log::{Log, SegmentInfo, SegmentState, Stats, ValidationReport};
pub use options::{Ack, Compression, Options, RecoveryMode, SyncPolicy, Verify};
pub use read::entry::{Entry, PinnedEntry};
pub use read::follow::Follower;
pub use read::iter::{Iter, LogIter};
pub use read::view::View;
pub use recover::report::RecoveryReport;

/// The seams that our own tests and benches drive. No part of the public interface.
#[cfg(feature = "__testing")]
#[doc(hidden)]
pub mod testing {
    pub use crate::format::frame::testing::{decode_frame, encode_frame};
    pub use crate::sys::clock::testing::set_clock_ms;
    pub use crate::sys::hook::{observe, Observer, ObserverGuard, Op};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
