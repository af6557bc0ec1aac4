//! The wall clock, in milliseconds since 1970.

/// Milliseconds since 1970 by the coarse clock, which costs a fifth of the exact one and ticks every few milliseconds. It may jump in
/// either direction: who stores it makes it monotone.
#[inline]
pub(crate) fn now_ms() -> u64 {
    #[cfg(feature = "__testing")]
    if let Some(ms) = testing::fixed() {
        return ms;
    }
    system_ms()
}

#[cfg(target_os = "linux")]
#[inline]
fn system_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    const FAR: u64 = 1 << 40; // seconds: whatever the clock says, milliseconds fit
    u64::try_from(now.tv_sec).unwrap_or(0).min(FAR) * 1000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(not(target_os = "linux"))]
fn system_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A clock that a test sets, for the whole process.
#[cfg(feature = "__testing")]
pub(crate) mod testing {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The fixed time plus one; 0 while the system's clock counts.
    static FIXED: AtomicU64 = AtomicU64::new(0);

    pub(super) fn fixed() -> Option<u64> {
        FIXED.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Stops the clock at `ms` since 1970, or lets it run again.
    pub fn set_clock_ms(ms: Option<u64>) {
        FIXED.store(ms.map_or(0, |ms| ms.saturating_add(1)), Ordering::Relaxed);
    }
}
