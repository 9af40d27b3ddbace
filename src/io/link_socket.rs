//! A plain packet socket that sees every frame of an interface and can send frames: for the lab's boxes and listeners.
#![allow(unsafe_code, reason = "recv into a buffer that std has no socket type for")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::netlink::Netlink;
use super::packet_socket::PACKET_IGNORE_OUTGOING;
use super::sys;

/// Every protocol (linux/if_ether.h).
const ETH_P_ALL: u16 = 0x0003;

/// Which frames a socket sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Those that arrive.
    Arriving,
    /// Those that leave, too.
    Both,
}

/// A packet socket bound to one interface.
#[derive(Debug)]
pub struct LinkSocket {
    fd: OwnedFd,
}

impl LinkSocket {
    /// Opens it on `interface` of this thread's network namespace, with room for `buffer_bytes` of unread frames.
    ///
    /// # Errors
    /// No such interface, or CAP_NET_RAW is missing.
    pub fn open(interface: &str, sees: Sees, buffer_bytes: u32) -> io::Result<Self> {
        let link = Netlink::open().and_then(|mut netlink| netlink.link(interface)).map_err(io::Error::other)?;
        let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        let ignore = i32::from(sees == Sees::Arriving);
        sys::set_option(fd.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &ignore)?;
        let bytes = i32::try_from(buffer_bytes).unwrap_or(i32::MAX);
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            sys::set_option(fd.as_fd(), libc::SOL_SOCKET, option, &bytes)?;
        }
        sys::bind_link(fd.as_fd(), link.index, ETH_P_ALL)?;
        Ok(Self { fd })
    }

    /// The next frame, cut to the buffer; `None` when there is none.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn receive(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: pointer and length describe `frame`, which outlives the call.
        let len =
            unsafe { libc::recv(self.fd.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
        match sys::check_len(len) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            received => received.map(Some),
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel's queue is full, the frame is too large, or the interface is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe `frame`, which outlives the call.
        let len = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
        sys::check_len(len).map(drop)
    }

    /// Waits for a frame, at most `limit`; tells whether there is one.
    ///
    /// # Errors
    /// Whatever ppoll(2) says.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        sys::wait_readable(self.fd.as_fd(), limit)
    }
}

impl AsFd for LinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
