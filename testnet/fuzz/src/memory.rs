//! How much memory is asked for at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// The largest allocation of this thread since it was last asked about.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which notes the largest allocation of each thread. To be made the global one by whoever checks.
pub struct Watched;

fn note(size: usize) {
    // A thread that is going has no such cell any more, and nobody who asks.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

#[expect(unsafe_code, reason = "an allocator cannot be made otherwise; each call is handed on as it came")]
// SAFETY: every call goes to the system's allocator with the same arguments, whose promises these then are; `note`
// neither allocates nor unwinds.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Something was being measured before, perhaps.
pub(crate) struct Before(usize);

/// Begins to measure this thread.
pub(crate) fn start() -> Before {
    Before(LARGEST.replace(0))
}

/// The largest allocation of this thread since then, in bytes; 0 where [`Watched`] is not the global allocator.
pub(crate) fn largest_since(before: Before) -> usize {
    let largest = LARGEST.get();
    LARGEST.set(before.0.max(largest));
    largest
}
