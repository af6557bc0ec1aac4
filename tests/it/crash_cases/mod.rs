//! Sequences that broke earlier drafts of the design, each a test by its number. They go through the public API, through images of
//! the log's directory, and through the seam of the file operations. Each judges by what was appended, acked and flipped alone.
//!
//! D is a witness, X the first seq whose frame is not valid; entries that a cut took away and that were appended again have another
//! *life*, which their payloads tell. A *power cut* leaves any part of what was not synced.

// What a test printed is shown if it fails, the step or the seed first of all; and a child speaks to its parent.
#![allow(clippy::print_stdout)]

mod api;
mod creation;
mod cuts;
mod damage;
mod in_flight;
mod manifest;
mod pins;
mod poison;
mod power;
mod recycling;
mod salvage;
mod space;
