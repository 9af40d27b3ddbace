//! Of processes: asking a child to end (kill(2), which std offers with SIGKILL alone), and how often this one was switched.
#![allow(unsafe_code, reason = "kill(2) for SIGTERM and getrusage(2) have no wrapper in std")]

use std::io;
use std::mem::zeroed;
use std::process::Child;

use super::sys::check;

/// Sends SIGTERM to `child`, which was not waited for yet, so that its number is still its own.
///
/// # Errors
/// The kernel's.
pub fn terminate(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: no pointers; the child was not reaped, so its number names no other process.
    check(unsafe { libc::kill(id, libc::SIGTERM) })?;
    Ok(())
}

/// How often a core went from a thread of this process to another thread, over all threads, those that have ended included:
/// because it waited for something, and because it had its time. Each of the former is one wake-up.
///
/// # Errors
/// The kernel's.
pub fn context_switches() -> io::Result<(u64, u64)> {
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { zeroed() };
    // SAFETY: the pointer is to `usage`, which outlives the call.
    check(unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) })?;
    let [voluntary, involuntary] = [usage.ru_nvcsw, usage.ru_nivcsw].map(|count| u64::try_from(count).unwrap_or(0));
    Ok((voluntary, involuntary))
}
