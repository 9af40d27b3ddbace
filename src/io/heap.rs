//! The allocator's free memory, which it keeps for itself unless it is asked.
#![allow(unsafe_code, reason = "malloc_trim(3) has no wrapper")]

/// Gives the kernel what of the heap is free, page by page. Takes up to milliseconds, in which others may wait for memory. An
/// allocator that cannot do that is left alone.
pub fn return_to_kernel() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, touches free memory alone, and does so under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
