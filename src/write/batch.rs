//! What is done to payloads before the lock: sizes checked, compressed, checksummed.

use crate::error::{Error, Result};
use crate::format::frame::{self, HEADER_LEN};
use crate::format::segment;
use crate::options::{Compression, Options};
use crate::sys::crc;
use std::borrow::Cow;

/// The limits and the compression of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intake {
    entry_max: u32,
    /// Bytes that a segment has for frames.
    room: u64,
    compression: Compression,
}

/// A payload as it will be stored, owned if it was compressed.
#[derive(Debug)]
pub(crate) struct Payload<'p> {
    stored: Cow<'p, [u8]>,
    crc: u32,
    flags: u8,
}

/// What of a frame is known before it has its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'p> {
    pub(crate) stored: &'p [u8],
    pub(crate) crc: u32,
    /// [`frame::FLAG_LZ4`] or nothing.
    pub(crate) flags: u8,
}

impl Payload<'_> {
    pub(crate) fn body(&self) -> Body<'_> {
        Body { stored: &self.stored, crc: self.crc, flags: self.flags }
    }
}

impl Body<'_> {
    /// Its frame, with zeros for the header.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0; self.frame_len() as usize];
        frame[HEADER_LEN..][..self.stored.len()].copy_from_slice(self.stored);
        frame
    }

    #[inline]
    pub(crate) fn frame_len(&self) -> u64 {
        frame::frame_len(self.stored.len() as u64)
    }
}

/// Payloads that are appended together.
#[derive(Debug)]
pub(crate) struct Batch<'p> {
    pub(crate) payloads: Vec<Payload<'p>>,
    /// Bytes of all frames.
    pub(crate) frames_len: u64,
}

impl Intake {
    pub(crate) fn new(options: &Options) -> Intake {
        Intake {
            entry_max: options.entry_max(),
            room: options.segment_size - segment::FRAMES_OFFSET,
            compression: options.compression,
        }
    }

    /// Checks a payload's length in bytes.
    #[inline]
    pub(crate) fn check_len(&self, len: usize) -> Result<()> {
        if len as u64 > u64::from(self.entry_max) {
            return Err(Error::EntryTooLarge { len: len as u64, max: u64::from(self.entry_max) });
        }
        Ok(())
    }

    /// Prepares one payload as it is, in a log that compresses none.
    #[inline]
    pub(crate) fn plain<'p>(&self, raw: &'p [u8]) -> Result<Option<Body<'p>>> {
        self.check_len(raw.len())?;
        let is_plain = self.compression == Compression::None;
        Ok(is_plain.then(|| Body { stored: raw, crc: crc::crc32c(raw), flags: 0 }))
    }

    /// Prepares one payload, compressed if it is to be and that is worth it.
    #[inline]
    pub(crate) fn payload<'p>(&self, raw: &'p [u8]) -> Result<Payload<'p>> {
        if let Some(Body { stored, crc, flags }) = self.plain(raw)? {
            return Ok(Payload { stored: stored.into(), crc, flags });
        }
        let compressed = match self.compression {
            Compression::Lz4 { min_size } if raw.len() as u64 >= u64::from(min_size) => frame::compress(raw),
            _ => None,
        };
        let flags = if compressed.is_some() { frame::FLAG_LZ4 } else { 0 };
        let stored = compressed.map_or(Cow::Borrowed(raw), Cow::Owned);
        Ok(Payload { crc: crc::crc32c(&stored), stored, flags })
    }

    /// Prepares a batch from `items`, each of which is asked for its bytes once.
    pub(crate) fn batch<'p>(&self, items: impl Iterator<Item = &'p [u8]>) -> Result<Batch<'p>> {
        // Not collected as a `Result`, which forgets how many items there are.
        let mut payloads = Vec::with_capacity(items.size_hint().0);
        for raw in items {
            payloads.push(self.payload(raw)?);
        }
        let frames_len = payloads.iter().map(|payload| payload.body().frame_len()).sum();
        if frames_len > self.room {
            return Err(Error::BatchTooLarge { len: frames_len, max: self.room });
        }
        Ok(Batch { payloads, frames_len })
    }
}
