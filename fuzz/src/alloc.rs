//! The allocator of every target: it counts the bytes that are alive, and ends the process with a violation when one execution
//! has more of them than it may. Mapped files are not counted: they are bounded by their size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Bytes that are alive. Relaxed, as all here: a number, which orders nothing.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// How many there may be.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Until it is dropped, no more than `bytes` may be alive beyond those that are.
pub(crate) fn limit(bytes: usize) -> Limited {
    LIMIT.store(LIVE.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    Limited
}

/// Lifts the limit when dropped.
pub(crate) struct Limited;

impl Drop for Limited {
    fn drop(&mut self) {
        lift();
    }
}

pub(crate) fn lift() {
    LIMIT.store(usize::MAX, Ordering::Relaxed);
}

impl Counting {
    fn add(&self, bytes: usize) {
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let limit = LIMIT.load(Ordering::Relaxed);
        if live > limit {
            lift();
            eprintln!("violation: an allocation of {bytes} bytes: {live} are alive then, {limit} may be");
            std::process::abort();
        }
    }

    fn remove(&self, bytes: usize) {
        LIVE.fetch_sub(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: as for this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: as for this call.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        self.remove(layout.size());
        // SAFETY: as for this call.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are alive while the bytes are moved.
        self.add(size);
        self.remove(layout.size());
        // SAFETY: as for this call.
        unsafe { System.realloc(place, layout, size) }
    }
}
