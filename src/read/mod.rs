//! The borrow path: entries read straight from the mappings.
//!
//! A view is a list of segments and the seq up to which they were published; whoever holds it, or an entry, keeps the segments it
//! can see alive, whatever the log does meanwhile. This folder promises that an entry is what was appended or an error that says
//! what is damaged: every frame that an earlier run wrote is checked when it is read.

pub(crate) mod entry;
pub(crate) mod follow;
mod index;
pub(crate) mod iter;
mod run;
pub(crate) mod view;
pub(crate) mod walk;
