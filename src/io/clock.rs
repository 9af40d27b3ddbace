//! The clock that every process of a machine shares.
#![allow(unsafe_code, reason = "std tells no absolute time of CLOCK_MONOTONIC")]

/// Nanoseconds of CLOCK_MONOTONIC. Unlike an `Instant` it means the same in another process, so what one sends another
/// can time.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one live timespec, which the kernel fills in.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let first = monotonic_ns();
        assert!(first > 0 && monotonic_ns() >= first);
    }
}
