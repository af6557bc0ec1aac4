//! Payloads that say who appended them: at which seq, by which order. Any byte that is not as it was appended shows.

use crate::rng::Rng;

/// The shortest payload.
pub const HEAD: usize = 16;

/// The payload of `len` bytes that the order with the number `order` appends at `seq`.
pub fn write(order: u32, seq: u64, place: &mut [u8]) {
    let len = place.len();
    let (head, body) = place.split_at_mut(HEAD);
    head[..4].copy_from_slice(&order.to_le_bytes());
    head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    head[8..].copy_from_slice(&seq.to_le_bytes());
    Rng::new(seq << 20 ^ u64::from(order)).fill(body);
}

/// As [`write`], into a vector.
pub fn payload(order: u32, seq: u64, len: usize) -> Vec<u8> {
    let mut payload = vec![0; len];
    write(order, seq, &mut payload);
    payload
}

/// The number of the order that appended an entry at `seq`; None if no order appends these bytes there.
pub fn order_of(seq: u64, bytes: &[u8]) -> Option<u32> {
    let order = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    (bytes.len() >= HEAD && payload(order, seq, bytes.len()) == bytes).then_some(order)
}
