//! Where the frames of a segment start: a list that readers extend as far as they have walked, and read without a lock.
//!
//! Frames that are all of one length need no list: it begins with the first frame that does not lie where they would have it. It grows
//! by chunks, each twice as long as the one before, so that nothing is ever moved: 4 bytes a frame, and none for a segment in which
//! nobody looked up a seq.

use crate::format::frame::ALIGN;
use crate::sys::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering};

/// Offsets in the first chunk.
const FIRST_CHUNK: u64 = 1024;
/// Chunks for the smallest frames that the largest segment can hold, 2^27 of them.
const CHUNKS: usize = 18;
/// In place of the offset of a frame that is lost.
const GAP: u32 = u32::MAX;

/// The offsets of a segment's frames, in the order of their seqs.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    /// How many leading frames lie at equal distances: final once a frame behind them is known.
    even: AtomicU64,
    /// Where the first of them starts and how far it is to the next, in units of [`ALIGN`] bytes. Stored before `even` counts on them.
    first: AtomicU32,
    distance: AtomicU32,
    /// Offsets of the frames behind those, in units of [`ALIGN`] bytes.
    chunks: [OnceLock<Box<[AtomicU32]>>; CHUNKS],
    /// How many frames' places are known, and final. Raised with Release, after all else was stored; loaded with Acquire.
    known: AtomicU64,
    /// Held by the one that extends the list.
    extending: Mutex<()>,
}

/// What is known of a frame's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    At(u64),
    /// Its header is lost.
    Gap,
    Unknown,
}

/// The right to extend a list.
pub(crate) struct Extension<'o> {
    offsets: &'o Offsets,
    known: u64,
    _guard: MutexGuard<'o, ()>,
}

impl Offsets {
    /// Where the frame with this index starts.
    #[inline(always)]
    pub(crate) fn get(&self, index: u64) -> Place {
        if index >= self.known.load(Ordering::Acquire) {
            return Place::Unknown; // with the Release in Extension::push
        }
        // It may count more frames than were known just now; this one it counts, or does not, for good.
        let even = self.even.load(Ordering::Relaxed);
        if index < even {
            return Place::At(self.even_place(index) * ALIGN);
        }
        let (chunk, at) = locate(index - even);
        match self.chunks[chunk].get().map(|chunk| chunk[at].load(Ordering::Relaxed)) {
            Some(GAP) | None => Place::Gap,
            Some(offset) => Place::At(u64::from(offset) * ALIGN),
        }
    }

    /// Where the frame with this index starts if it lies as the leading ones do, in units of [`ALIGN`] bytes.
    #[inline(always)]
    fn even_place(&self, index: u64) -> u64 {
        let (first, distance) = (self.first.load(Ordering::Relaxed), self.distance.load(Ordering::Relaxed));
        u64::from(first) + u64::from(distance) * index
    }

    /// The list, to extend it: once who is at it has finished.
    pub(crate) fn extend(&self) -> Extension<'_> {
        let guard = self.extending.lock();
        Extension { offsets: self, known: self.known.load(Ordering::Relaxed), _guard: guard }
    }
}

impl Extension<'_> {
    /// The last frame at or before this index whose place is known: its index, and where it starts.
    pub(crate) fn nearest(&self, index: u64) -> Option<(u64, u64)> {
        (0..self.known.min(index + 1)).rev().find_map(|index| match self.offsets.get(index) {
            Place::At(offset) => Some((index, offset)),
            Place::Gap | Place::Unknown => None,
        })
    }

    /// The frame with this index starts at `offset`; those before it that are not known are lost.
    pub(crate) fn found(&mut self, index: u64, offset: u64) {
        while self.known < index && self.push(GAP) {}
        if self.known == index {
            self.push(u32::try_from(offset / ALIGN).unwrap_or(GAP));
        }
    }

    /// False if no segment of ours holds so many frames: they are found by walking, each time.
    fn push(&mut self, units: u32) -> bool {
        let Offsets { even, chunks, known, .. } = self.offsets;
        let even_count = even.load(Ordering::Relaxed);
        if self.known == even_count && self.lies_evenly(units) {
            even.store(even_count + 1, Ordering::Relaxed);
        } else {
            let (number, at) = locate(self.known - even_count);
            let Some(chunk) = chunks.get(number) else {
                return false;
            };
            let chunk = chunk.get_or_init(|| (0..FIRST_CHUNK << number).map(|_| AtomicU32::new(GAP)).collect());
            chunk[at].store(units, Ordering::Relaxed);
        }
        self.known += 1;
        known.store(self.known, Ordering::Release); // with the Acquire in get()
        true
    }

    /// Whether the next frame, which starts at `units`, lies as those before it do. The first two say how.
    fn lies_evenly(&self, units: u32) -> bool {
        let Offsets { first, distance, .. } = self.offsets;
        match self.known {
            _ if units == GAP => return false,
            0 => first.store(units, Ordering::Relaxed),
            1 => distance.store(units - first.load(Ordering::Relaxed), Ordering::Relaxed),
            _ => {}
        }
        self.offsets.even_place(self.known) == u64::from(units)
    }
}

/// The chunk of an index, and the place in it: chunk `n` begins at `FIRST_CHUNK * (2^n - 1)`.
#[inline]
fn locate(index: u64) -> (usize, usize) {
    let chunk = (index / FIRST_CHUNK + 1).ilog2();
    (chunk as usize, (index - FIRST_CHUNK * ((1 << chunk) - 1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lie_end_to_end() {
        assert_eq!(locate(0), (0, 0));
        assert_eq!(locate(FIRST_CHUNK - 1), (0, 1023));
        assert_eq!(locate(FIRST_CHUNK), (1, 0));
        assert_eq!(locate(3 * FIRST_CHUNK - 1), (1, 2047));
        assert_eq!(locate(3 * FIRST_CHUNK), (2, 0));
        let frames_max = (1u64 << 32) / 32;
        assert_eq!(locate(frames_max - 1).0, CHUNKS - 1);
    }

    #[test]
    fn what_was_pushed_is_found() {
        let offsets = Offsets::default();
        assert_eq!(offsets.get(0), Place::Unknown);
        let offset = |index| 128 + index * 8;
        let mut extension = offsets.extend();
        (0..5000).filter(|index| index % 100 != 7).for_each(|index| extension.found(index, offset(index)));
        extension.found(3, 0);
        assert_eq!(extension.nearest(4999), Some((4999, offset(4999))));
        assert_eq!(extension.nearest(9999), Some((4999, offset(4999))));
        assert_eq!(extension.nearest(1007), Some((1006, offset(1006))));
        drop(extension);
        assert_eq!(offsets.get(3), Place::At(offset(3)));
        assert_eq!(offsets.get(4096), Place::At(offset(4096)));
        assert_eq!(offsets.get(1007), Place::Gap);
        assert_eq!(offsets.get(5000), Place::Unknown);
    }

    #[test]
    fn frames_of_one_length_need_no_list() {
        let offsets = Offsets::default();
        let mut extension = offsets.extend();
        let even = |index| 128 + index * 160;
        (0..1000).for_each(|index| extension.found(index, even(index)));
        assert!(offsets.chunks[0].get().is_none());
        assert_eq!(offsets.get(999), Place::At(even(999)));
        let uneven = |index| even(index) + 8;
        (1001..5000).for_each(|index| extension.found(index, uneven(index)));
        assert_eq!(offsets.get(999), Place::At(even(999)));
        assert_eq!(offsets.get(1000), Place::Gap);
        assert_eq!(offsets.get(1001), Place::At(uneven(1001)));
        assert_eq!(offsets.get(4999), Place::At(uneven(4999)));
        assert_eq!(extension.nearest(1000), Some((999, even(999))));
    }

    #[test]
    fn a_list_begins_wherever_frames_stop_to_lie_evenly() {
        for places in [&[0, 8, 16][..], &[0, 8, 24], &[0, 16, 24], &[16, 24, 40]] {
            for lost in 0..=places.len() {
                let offsets = Offsets::default();
                let mut extension = offsets.extend();
                let is_known = |index: &usize| *index != lost;
                (0..places.len()).filter(is_known).for_each(|index| extension.found(index as u64, places[index]));
                for index in 0..places.len() {
                    let expected = match index {
                        _ if index != lost => Place::At(places[index]),
                        _ if lost + 1 < places.len() => Place::Gap,
                        _ => Place::Unknown,
                    };
                    assert_eq!(offsets.get(index as u64), expected, "{places:?}, {index} of them, {lost} is lost");
                }
            }
        }
    }

    #[test]
    fn who_reads_while_the_list_grows_sees_no_wrong_place() {
        const FRAMES: u64 = if cfg!(miri) { 40 } else { 20_000 };
        let place = |index| if index < FRAMES / 2 { 128 + index * 160 } else { 136 + index * 160 };
        let offsets = Offsets::default();
        std::thread::scope(|scope| {
            let reader = || {
                while offsets.get(FRAMES - 1) == Place::Unknown {
                    for index in [0, 1, 2, FRAMES / 2 - 1, FRAMES / 2, FRAMES / 2 + 1, FRAMES - 1] {
                        let seen = offsets.get(index);
                        assert!(seen == Place::Unknown || seen == Place::At(place(index)), "{index}: {seen:?}");
                    }
                }
            };
            let readers = [scope.spawn(reader), scope.spawn(reader)];
            (0..FRAMES).for_each(|index| offsets.extend().found(index, place(index)));
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }
}
