//! Counts the memory that is in use.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// The system's allocator, counting for each thread, so that tests beside each other do not count each other's.
struct Counting;

thread_local! {
    /// In use now. Below zero where a thread frees what another one took.
    static NOW: Cell<isize> = const { Cell::new(0) };
    /// The most since it was last set.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is the system's allocator's; counting neither allocates nor panics (the cells need no destructor).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `dealloc`; the pointer is the system's allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count(change: isize) {
    let now = NOW.get().saturating_add(change);
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

/// Most bytes in use during `run`, beyond those in use before.
pub(crate) fn peak_during(run: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    run();
    usize::try_from(PEAK.get() - before).unwrap_or_default()
}
