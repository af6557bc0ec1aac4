//! The bytes on disk, and nothing else: no I/O, no `unsafe`, no state. This folder is the one source of format version 1; the page
//! `docs/format.md` explains it, and a test compares its tables with the constants here.
//!
//! All integers are little-endian. A log is a directory:
//!
//! - `metadata/wal.meta`, the [`manifest`]: two slots that say which segments count and up to where.
//! - `segments/wal-NNNNNN.log`, the [`segment`]s: a 64-byte identity, a 64-byte link to the segment before, then frames.
//!
//! A **[`frame`] is valid if and only if** its header's checksum, seeded with the segment's salt and the frame's offset, holds; its
//! payload's checksum holds; its seq is the one that its place demands; its length fits the file; and its padding is zero.
//! Nothing that these rules accept depends on how a log was opened.
//!
//! Hostile bytes are harmless: decoding never panics, and allocates nothing except in [`frame::decompress`], whose output is bounded
//! by 255 times the bytes that are there.

pub(crate) mod frame;
pub(crate) mod manifest;
#[cfg(test)]
mod page;
pub(crate) mod segment;
pub(crate) mod walk;

use crate::sys::crc;

/// The version of the format that this library reads and writes.
pub(crate) const VERSION: u32 = 1;

/// Ids of segments are below this. No log reaches it: a manifest that does was made up.
pub(crate) const ID_LIMIT: u64 = 1 << 62;

/// First seq that no log ever reaches: seqs are below 2^63.
pub(crate) const SEQ_LIMIT: u64 = 1 << 63;

/// The little-endian integer at `at`. Panics if it is not within `bytes`: callers check lengths first.
#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// As [`u32_at`], for eight bytes.
#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[inline]
fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[inline]
fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// What a block with magic, version and a checksum at its end turned out to be. These three keep their places in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The file ends before the block does.
    Short,
    /// It does not begin with the magic bytes.
    Foreign,
    /// The checksum holds, the version is another one.
    Version(u32),
    /// The magic is there, the checksum does not hold or a field contradicts another. The version may be another one.
    Corrupt(u32),
}

/// Checks magic, checksum (the last four bytes of `block`) and version, in this order of belief.
fn check_block(block: &[u8], magic: [u8; 8]) -> Result<(), Unreadable> {
    let crc_offset = block.len() - 4;
    let version = u32_at(block, BLOCK_VERSION);
    if block[..8] != magic {
        return Err(Unreadable::Foreign);
    }
    if crc::crc32c(&block[..crc_offset]) != u32_at(block, crc_offset) {
        return Err(Unreadable::Corrupt(version));
    }
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    Ok(())
}

/// Offset of the version in a block that starts with magic bytes.
pub(crate) const BLOCK_VERSION: usize = 8;

/// Stores the checksum of all that stands before it in the last four bytes of `block`.
fn seal_block(block: &mut [u8]) {
    let crc_offset = block.len() - 4;
    let crc = crc::crc32c(&block[..crc_offset]);
    put_u32(block, crc_offset, crc);
}
