//! The bytes of a disk, in memory. Pages that nobody wrote take no room, and a copy shares its pages with the original.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub const PAGE: usize = 4096;

/// The bytes of a disk.
#[derive(Debug, Clone)]
pub struct Medium {
    /// None: zeros.
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

impl Medium {
    /// A disk of zeros.
    #[cfg(test)]
    pub fn blank(bytes: usize) -> Medium {
        Medium { pages: vec![None; bytes / PAGE] }
    }

    /// The bytes of a file, whose length is a multiple of a page.
    pub fn load(path: &Path) -> Result<Medium> {
        let mut file = File::open(path).with_context(|| format!("{}", path.display()))?;
        let mut pages = Vec::new();
        let mut page = [0; PAGE];
        for _ in 0..file.metadata()?.len() / PAGE as u64 {
            file.read_exact(&mut page)?;
            pages.push(page.iter().any(|byte| *byte != 0).then(|| Arc::new(page)));
        }
        Ok(Medium { pages })
    }

    pub fn len(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    /// Fills `buf` with the bytes at `at`; those past the end are zeros.
    pub fn read(&self, at: u64, buf: &mut [u8]) {
        for (page, start, piece) in pieces(at, buf.len()) {
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(bytes) => buf[piece.clone()].copy_from_slice(&bytes[start..start + piece.len()]),
                None => buf[piece].fill(0),
            }
        }
    }

    /// Overwrites the bytes at `at`; those past the end are dropped.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        for (page, start, piece) in pieces(at, bytes.len()) {
            if let Some(page) = self.pages.get_mut(page) {
                let page = Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE])));
                page[start..start + piece.len()].copy_from_slice(&bytes[piece]);
            }
        }
    }
}

/// The parts of `len` bytes at `at` that lie in one page each: the page, where in it the part starts, and which bytes it is.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = at as usize + done;
        let piece = done..len.min(done + PAGE - at % PAGE);
        done = piece.end;
        (!piece.is_empty()).then_some((at / PAGE, at % PAGE, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_copy_stays_as_it_was() {
        let mut medium = Medium::blank(4 * PAGE);
        let bytes: Vec<u8> = (0..2 * PAGE).map(|n| (n % 251) as u8 + 1).collect();
        medium.write(1000, &bytes);
        let copy = medium.clone();
        medium.write(1500, &[0; 512]);
        let mut read = vec![7; 2 * PAGE + 2];
        copy.read(999, &mut read);
        assert_eq!((read[0], &read[1..=2 * PAGE], read[2 * PAGE + 1]), (0, &bytes[..], 0));
        medium.read(1500, &mut read[..512]);
        assert_eq!(read[..512], [0; 512]);
        assert_eq!(medium.len(), 4 * PAGE as u64);
    }
}
