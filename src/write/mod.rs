//! The append path and the sync path.
//!
//! Appenders claim a seq and a place under the cursor's lock, store the frame into the mapping and publish it; no system call, no
//! allocation and no wait happens there. Who needs durability then meets the others in the group sync, where one leads and the rest
//! follow. This folder promises that seqs are contiguous, that a published frame is complete, and that the durable seq moves only
//! after a sync that covers it returned Ok. It leaves the choice of what is still live to the manifest's keepers above it.
//!
//! Locks, in the order in which they may be taken: manifest (`log`), cursor, set, group, keeper's state, a backing's state. User code
//! runs with none of them held, but for `append_with`'s fill, which runs under the cursor's.

pub(crate) mod appender;
pub(crate) mod batch;
mod broadcast;
pub(crate) mod counters;
pub(crate) mod cursor;
pub(crate) mod group_sync;
pub(crate) mod reentry;
pub(crate) mod ticker;
