//! A segment file's life: prepared, then active, then sealed, then recycled or unlinked; and the manifest, which says which of them
//! count.
//!
//! This folder owns the files of the directory. It promises that a segment handed out is synced under its name, backed up to its
//! capacity and mapped; that a file is reused only when nobody can see it any more; and that a failed sync is remembered before
//! anybody else can sync the same file. It leaves to others what is written into segments, and when it becomes durable.

pub(crate) mod active;
pub(crate) mod health;
pub(crate) mod keeper;
pub(crate) mod manifest;
pub(crate) mod offsets;
pub(crate) mod paths;
mod prepare;
pub(crate) mod sealed;
pub(crate) mod set;
