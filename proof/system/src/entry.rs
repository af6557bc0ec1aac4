//! What the writers append: payloads that say who appended them, and that nobody else would have appended.

use crate::rng::Rng;
use anyhow::{bail, ensure, Result};

/// Who appended an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The log's number: an entry of another one is foreign.
    pub run: u32,
    pub call: CallId,
    /// The entry's place in its batch.
    pub index: u16,
}

/// One call on a log, by one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    /// The number of the open in which it was made.
    pub life: u32,
    pub thread: u16,
    /// The number of the call among those of its thread.
    pub number: u32,
}

/// Bytes that say all that [`Id`] holds, the length, and how the rest is filled.
const HEAD_LEN: usize = 24;
/// Bytes of the shortest payload.
pub const MIN_LEN: usize = 32;

/// How a payload is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    Random,
    /// One byte over and over: it compresses well.
    Even,
}

/// The payload of `len` bytes that `id` appends.
pub fn payload(id: Id, len: usize, filling: Filling) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(id, filling, &mut bytes);
    bytes
}

/// Writes the payload of `id` to `bytes`, which are at least [`MIN_LEN`] long.
pub fn fill(id: Id, filling: Filling, bytes: &mut [u8]) {
    let len = bytes.len() as u32;
    let Id { run, call: CallId { life, thread, number }, index } = id;
    bytes[0..4].copy_from_slice(&run.to_le_bytes());
    bytes[4..8].copy_from_slice(&life.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..14].copy_from_slice(&thread.to_le_bytes());
    bytes[14..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..20].copy_from_slice(&len.to_le_bytes());
    bytes[20..24].copy_from_slice(&(filling as u32).to_le_bytes());
    let (head, rest) = bytes.split_at_mut(HEAD_LEN);
    let seed =
        head.chunks(8).fold(0, |seed, word| word.iter().fold(seed, |s: u64, b| s.rotate_left(9) ^ u64::from(*b)));
    let mut rng = Rng::new(seed);
    match filling {
        Filling::Even => rest.fill(rng.next() as u8),
        Filling::Random => rng.fill(rest),
    }
}

/// Who appended `bytes`.
///
/// # Errors
/// If no one did: what is wrong with them.
pub fn identify(bytes: &[u8]) -> Result<Id> {
    ensure!(bytes.len() >= MIN_LEN, "{} bytes are too few for an entry of ours", bytes.len());
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let call = CallId { life: u32_at(4), number: u32_at(8), thread: u16_at(12) };
    let id = Id { run: u32_at(0), call, index: u16_at(14) };
    let filling = match u32_at(20) {
        0 => Filling::Random,
        1 => Filling::Even,
        other => bail!("no entry of ours is filled in way {other}"),
    };
    ensure!(payload(id, bytes.len(), filling) == bytes, "the bytes are not what {id:?} appended");
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_seen() {
        let id = Id { run: 7, call: CallId { life: 1, thread: 2, number: 3 }, index: 4 };
        for (len, filling) in [(MIN_LEN, Filling::Random), (61, Filling::Random), (300, Filling::Even)] {
            let bytes = payload(id, len, filling);
            assert_eq!(identify(&bytes).unwrap(), id);
            for at in 0..len {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert_ne!(identify(&changed).ok(), Some(id), "byte {at} of {len}");
            }
            assert!(identify(&bytes[..len - 1]).is_err());
        }
    }
}
