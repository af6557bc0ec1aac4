//! What several modules of tests share: an encoder and a decoder of the bytes on disk, logs made with it by hand, images of what a power cut
//! leaves, a seam into the file operations, logs with a known content, and child processes.

// What a test printed is shown if it fails, the step or the seed first of all; and a child speaks to its parent.
#![allow(clippy::print_stdout)]

pub(crate) mod child;
pub(crate) mod encode;
pub(crate) mod forge;
pub(crate) mod format;
pub(crate) mod image;
pub(crate) mod logs;
pub(crate) mod seam;

/// Says why a test cannot do its work on this machine. Where every test has to, as in CI, that is a failure.
pub(crate) fn skip(why: impl std::fmt::Display) {
    assert!(std::env::var_os("MAPLOG_SKIPS_NOTHING").is_none(), "may not be skipped: {why}");
    println!("skipped: {why}");
}
