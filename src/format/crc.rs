//! CRC-32C (Castagnoli polynomial, RFC 3720 appendix B.4), the one checksum of the format.

/// The checksum of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// The checksum of `bytes` with `seed` in place of the usual start: for equal bytes, different seeds never give the same checksum.
pub(crate) fn crc32c_seeded(seed: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c_seeded(0, b"123456789"), crc32c(b"123456789"));
    }

    #[test]
    fn seeds_separate_equal_bytes() {
        let sums: std::collections::HashSet<_> = (0..4096).map(|seed| crc32c_seeded(seed, &[0; 28])).collect();
        assert_eq!(sums.len(), 4096);
    }
}
