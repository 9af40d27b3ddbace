//! Asking a child process to end: kill(2), which std offers with SIGKILL alone.
#![allow(unsafe_code, reason = "kill(2) has no wrapper in std for SIGTERM")]

use std::io;
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
