//! CRC-32C (Castagnoli polynomial, RFC 3720 appendix B.4), the one checksum of the format.
//!
//! The `crc32c` crate computes it, except for small inputs on processors that have an instruction for it: the crate cuts its input
//! into lanes that the processor works on side by side, which pays from about a kilobyte on, while a frame's header has 28 bytes
//! and most payloads have a few hundred.

/// Inputs below this many bytes are small.
#[cfg(target_arch = "x86_64")]
const SMALL: usize = 1024;

/// The checksum of `bytes`.
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < SMALL && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has the instructions.
        return unsafe { x86::crc32c(bytes) };
    }
    ::crc32c::crc32c(bytes)
}

/// The checksum of `first` and `rest` in little-endian order, with `seed` in place of the usual start: for equal words, different
/// seeds never give the same checksum.
#[inline]
pub(crate) fn crc32c_words(seed: u32, first: u32, rest: [u64; 3]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sse4.2") {
        let [a, b, c] = rest;
        // SAFETY: the processor has the instructions.
        return unsafe { x86::crc32c_words(seed, first, a, b, c) };
    }
    crc32c_words_portable(seed, first, rest)
}

#[cfg_attr(target_arch = "x86_64", cold)]
fn crc32c_words_portable(seed: u32, first: u32, rest: [u64; 3]) -> u32 {
    let crc = ::crc32c::crc32c_append(seed, &first.to_le_bytes());
    rest.iter().fold(crc, |crc, word| ::crc32c::crc32c_append(crc, &word.to_le_bytes()))
}

/// The instruction of SSE 4.2: eight bytes at a time, one after the other.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // Since Rust 1.87 the intrinsics are safe where the feature is on.
mod x86 {
    use std::arch::x86_64::{_mm_crc32_u32, _mm_crc32_u64, _mm_crc32_u8};

    #[target_feature(enable = "sse4.2")]
    pub(super) unsafe fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u64::from(u32::MAX);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut eight = [0; 8];
            eight.copy_from_slice(word);
            // SAFETY: the caller saw that the processor has the instruction.
            crc = unsafe { _mm_crc32_u64(crc, u64::from_le_bytes(eight)) };
        }
        let mut crc = crc as u32;
        let mut rest = words.remainder();
        if rest.len() >= 4 {
            let (four, last) = rest.split_at(4);
            let mut word = [0; 4];
            word.copy_from_slice(four);
            // SAFETY: as above.
            crc = unsafe { _mm_crc32_u32(crc, u32::from_le_bytes(word)) };
            rest = last;
        }
        for &byte in rest {
            // SAFETY: as above.
            crc = unsafe { _mm_crc32_u8(crc, byte) };
        }
        !crc
    }

    /// The words one by one, so that they are passed in registers.
    #[target_feature(enable = "sse4.2")]
    pub(super) unsafe fn crc32c_words(seed: u32, first: u32, a: u64, b: u64, c: u64) -> u32 {
        // SAFETY: the caller saw that the processor has the instruction.
        let mut crc = u64::from(unsafe { _mm_crc32_u32(!seed, first) });
        for word in [a, b, c] {
            // SAFETY: as above.
            crc = unsafe { _mm_crc32_u64(crc, word) };
        }
        !(crc as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0; 2048]), ::crc32c::crc32c(&[0; 2048]));
    }

    #[test]
    fn small_inputs_agree_with_the_crate_at_every_length_and_alignment() {
        let bytes: Vec<u8> = (0..2048u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        // Under Miri a few of each, for it is slow.
        let (lengths, starts) = if cfg!(miri) { (0..40, 0..3) } else { (0..1100, 0..17) };
        for len in lengths {
            for start in starts.clone() {
                let input = &bytes[start..start + len];
                assert_eq!(crc32c(input), ::crc32c::crc32c(input), "{len} bytes at {start}");
            }
        }
    }

    #[test]
    fn words_are_bytes_in_order() {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for seed in [0, 1, u32::MAX, 0x1234_5678] {
            let words = [(); 4].map(|()| {
                random = random.rotate_left(17).wrapping_mul(0xd134_2543_de82_ef95);
                random
            });
            let (first, rest) = (words[0] as u32, [words[1], words[2], words[3]]);
            let mut bytes = first.to_le_bytes().to_vec();
            rest.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
            let expected = ::crc32c::crc32c_append(seed, &bytes);
            assert_eq!(crc32c_words(seed, first, rest), expected);
            assert_eq!(crc32c_words_portable(seed, first, rest), expected);
        }
    }

    #[test]
    fn seeds_separate_equal_words() {
        let seeds = if cfg!(miri) { 16 } else { 4096 };
        let sums: std::collections::HashSet<_> = (0..seeds).map(|seed| crc32c_words(seed, 0, [0; 3])).collect();
        assert_eq!(sums.len(), seeds as usize);
    }
}
