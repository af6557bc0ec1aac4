//! The operating system: files, mappings, locks and the clock. The only folder with `unsafe` in it.
//!
//! It promises that a `&[u8]` it gives out never changes while it is borrowed ([`map`]), that every failure comes back as an error
//! that names the operation and the path ([`file`]), and that nothing is retried but an interrupted call. Where Linux has a call
//! that others lack, the difference stands behind a `cfg` in the one function that needs it. What the bytes mean is for others to
//! know.
#![allow(unsafe_code)]

pub(crate) mod cache_line;
pub(crate) mod clock;
pub(crate) mod crc;
pub(crate) mod file;
pub(crate) mod hook;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod sync;

/// 64 random bits, for ids and salts: different for each call and each process, not secret.
#[cfg(not(maplog_models))]
pub(crate) fn random_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(maplog_models)]
pub(crate) use sync::random_u64;

/// Has the processor fetch what a walk over `bytes` in steps like the one of `step` bytes from `offset` comes to in a while: where each
/// step leads is known only once the one before is here, and the processor by itself does not look into the next page.
#[inline(always)]
pub(crate) fn prefetch_ahead(bytes: &[u8], offset: u64, step: u64) {
    const STEPS: u64 = 32;
    if let Some(byte) = bytes.get((offset + STEPS * step) as usize) {
        prefetch(byte);
    }
}

/// Has the processor fetch the cache line at `address`. A hint: any address will do.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads and writes nothing that a program can see, and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
