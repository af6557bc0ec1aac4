//! What is asked of the machine.

/// Runs `f` on one core. Threads that `f` starts stay there too: start them before.
pub fn pinned<T>(f: impl FnOnce() -> T) -> T {
    let before = rustix::thread::sched_getaffinity(None);
    let mut one = rustix::thread::CpuSet::new();
    one.set(std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1));
    // A machine that does not let us pin is measured unpinned.
    let _ = rustix::thread::sched_setaffinity(None, &one);
    let result = f();
    if let Ok(before) = before {
        let _ = rustix::thread::sched_setaffinity(None, &before);
    }
    result
}
