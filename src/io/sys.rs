//! Thin, safe wrappers around the system calls that several files here need.
#![allow(unsafe_code, reason = "system calls without a wrapper in std")]

use std::ffi::{c_int, c_ulong, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Turns the -1 of a system call into the error that it left behind.
pub(crate) fn check(returned: c_int) -> io::Result<c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// The same for calls that return a length.
pub(crate) fn check_len(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// A close-on-exec, non-blocking socket.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) })?;
    // SAFETY: the call has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Types whose bytes may be given to the kernel and taken from it as they are.
///
/// # Safety
/// Every bit pattern is a valid value, and there is no pointer inside that the option would not read.
pub(crate) unsafe trait SocketOption: Copy {}
// SAFETY: plain integers.
unsafe impl SocketOption for c_int {}
// SAFETY: two plain integers (struct tpacket_stats).
unsafe impl SocketOption for [u32; 2] {}
// SAFETY: an integer and a pointer to filters; only `attach_filter` passes one, and keeps what it points to alive.
unsafe impl SocketOption for libc::sock_fprog {}

/// The beginning of `struct tcp_info` (linux/tcp.h): 8 bytes of states and counts, then 32-bit figures.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct TcpInfo {
    states: [u8; 8],
    figures: [u32; 16],
}
// SAFETY: plain integers.
unsafe impl SocketOption for TcpInfo {}

impl TcpInfo {
    /// `tcpi_rtt`: the smoothed round trip, in microseconds.
    pub(crate) fn round_trip_us(&self) -> u32 {
        /// Behind rto, ato, two segment sizes, five counts of packets, four ages, and two sizes of the path.
        const RTT: usize = 15;
        self.figures[RTT]
    }
}

/// setsockopt(2).
pub(crate) fn set_option<T: SocketOption>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let value: *const T = value;
    // SAFETY: pointer and length describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.cast::<c_void>(), size_of::<T>() as u32) })?;
    Ok(())
}

/// getsockopt(2).
pub(crate) fn option<T: SocketOption + Default>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as u32;
    let at: *mut T = &mut value;
    // SAFETY: the kernel writes at most `len` bytes to `value`, whose type takes any bit pattern.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, at.cast::<c_void>(), &mut len) })?;
    Ok(value)
}

/// Attaches a classic BPF program to a socket.
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// An `ifreq` that names an interface.
pub(crate) fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/']) {
        let text = format!("{name:?} is no interface name (1 to 15 bytes)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// An ioctl whose argument is an `ifreq`.
///
/// # Safety
/// Any pointer in the request that `operation` follows must be valid for it.
pub(crate) unsafe fn interface_ioctl(
    fd: BorrowedFd<'_>,
    operation: c_ulong,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    let request: *mut libc::ifreq = request;
    // SAFETY: `request` is a live ifreq; the caller answers for the pointers in it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), operation, request) })?;
    Ok(())
}

/// An ioctl whose argument is an integer, not a pointer.
pub(crate) fn value_ioctl(fd: BorrowedFd<'_>, operation: c_ulong, value: c_ulong) -> io::Result<()> {
    // SAFETY: the operations used here (TUNSETPERSIST, TUNSETOFFLOAD) take their argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), operation, value) })?;
    Ok(())
}

/// Makes a descriptor non-blocking.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Waits until `fd` can be read, at most `limit`; tells whether it can.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    // SAFETY: one live pollfd, one live timespec, no signal mask.
    match check(unsafe { libc::ppoll(&mut poll, 1, &limit, std::ptr::null()) }) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// The address of a packet socket: an interface and an Ethernet protocol (0: nothing is received).
pub(crate) fn bind_link(fd: BorrowedFd<'_>, interface: u32, ethernet_protocol: u16) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethernet_protocol.to_be();
    address.sll_ifindex = i32::try_from(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let address: *const libc::sockaddr_ll = &address;
    // SAFETY: pointer and length describe one live sockaddr_ll.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.cast(), size_of::<libc::sockaddr_ll>() as u32) })?;
    Ok(())
}
