//! Waiting for descriptors, at most for a while: poll(2).
#![allow(unsafe_code, reason = "poll(2) has no wrapper in std")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::sys::check;

/// A descriptor, and what is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Watches for something to read.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> Watched<'_> {
    Watched { fd, readable: true, writable: false }
}

/// Waits until one of the descriptors is ready, has failed or was hung up, at most `limit`; tells which of them are. A
/// signal ends the wait early.
pub(crate) fn wait<const N: usize>(watched: [Watched<'_>; N], limit: Duration) -> io::Result<[bool; N]> {
    let mut polled = watched.map(|Watched { fd, readable, writable }| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: if readable { libc::POLLIN } else { 0 } | if writable { libc::POLLOUT } else { 0 },
        revents: 0,
    });
    // Rounded up: a wait that is cut short would be repeated at once.
    let limit_ms = i32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    // SAFETY: pointer and length are those of a live array.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, limit_ms) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(polled.map(|polled| polled.revents != 0)),
    }
}
