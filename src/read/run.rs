//! The fast lane of an iterator, and of a lookup.

use super::entry::Entry;
use crate::format::frame::Header;
use crate::format::walk::{Image, Position};
use crate::sys::prefetch_ahead;

/// Frames of one segment that are mapped, brought in and published. It gives entries for as long as the next one is valid, whole and
/// not compressed; whatever else comes is for the [`Walk`](super::walk::Walk) to judge.
#[derive(Debug, Clone)]
pub(super) struct Run<'v> {
    image: Image<'v>,
    at: Position,
    end_seq: u64,
}

impl<'v> Run<'v> {
    /// The frames of `image` from `at` on, below `end_seq`.
    pub(super) fn new(image: Image<'v>, at: Position, end_seq: u64) -> Run<'v> {
        Run { image, at, end_seq }
    }

    /// Where the next frame starts.
    pub(super) fn position(&self) -> Position {
        self.at
    }

    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<Entry<'v>> {
        if self.at.seq >= self.end_seq {
            return None;
        }
        let (header, entry) = plain_entry(&self.image, self.at)?;
        prefetch_ahead(self.image.bytes, self.at.offset, header.frame_len());
        self.at = self.at.after(&header);
        Some(entry)
    }
}

/// The entry of the frame at `at` with its header, if it is valid, whole and not compressed.
#[inline(always)]
pub(super) fn plain_entry<'v>(image: &Image<'v>, at: Position) -> Option<(Header, Entry<'v>)> {
    let header = image.frame(at).ok().filter(|header| !header.is_compressed())?;
    Some((header, Entry::borrowed(&header, image.stored(at, &header))))
}
