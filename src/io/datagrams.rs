//! UDP datagrams in batches: many for one system call, each from or to an address of its own.
#![allow(unsafe_code, reason = "sendmmsg and recvmmsg have no wrapper in std")]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sys;

/// Datagrams a call. Beyond some dozens a call costs nothing a datagram.
pub(crate) const BATCH: usize = 64;

/// The longest datagram that is read whole: a packet of Ethernet's size.
const DATAGRAM_BYTES_MAX: usize = 1_500;

/// Sends up to [`BATCH`] datagrams and never blocks; tells how many the kernel took, from the first on. What stopped it
/// is told where it took none.
///
/// # Errors
/// Those of sendmmsg(2) for the first datagram.
pub(crate) fn send(fd: BorrowedFd<'_>, datagrams: &[(SocketAddrV4, &[u8])]) -> io::Result<usize> {
    let count = datagrams.len().min(BATCH);
    // SAFETY: all zeroes is a valid sockaddr_in.
    let mut names: [libc::sockaddr_in; BATCH] = unsafe { zeroed() };
    let mut areas = [IoSlice::new(&[]); BATCH];
    // SAFETY: all zeroes is a valid mmsghdr: no name, no areas, no control data.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for (at, (to, bytes)) in datagrams.iter().take(count).enumerate() {
        names[at].sin_family = libc::AF_INET as u16;
        names[at].sin_port = to.port().to_be();
        names[at].sin_addr.s_addr = u32::from(*to.ip()).to_be();
        areas[at] = IoSlice::new(bytes);
    }
    for ((message, name), area) in messages.iter_mut().zip(&mut names).zip(&mut areas) {
        let (name, area): (*mut libc::sockaddr_in, *mut IoSlice<'_>) = (name, area);
        message.msg_hdr.msg_name = name.cast();
        message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        // IoSlice has the layout of iovec.
        message.msg_hdr.msg_iov = area.cast();
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: each message points to a name and an area that outlive the call; the kernel only reads them.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT) };
    Ok(usize::try_from(sys::check(sent)?).unwrap_or(0))
}

/// Where datagrams are read to.
#[derive(Debug)]
pub(crate) struct Receiver {
    bytes: Box<[[u8; DATAGRAM_BYTES_MAX]]>,
}

impl Receiver {
    /// Room for one batch.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![[0; DATAGRAM_BYTES_MAX]; BATCH].into_boxed_slice() }
    }

    /// Reads a batch without blocking and gives each datagram to `each`; tells how many there were.
    ///
    /// # Errors
    /// Those of recvmmsg(2), but for `WouldBlock`, which is a batch of none.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        mut each: impl FnMut(SocketAddrV4, &[u8]),
    ) -> io::Result<usize> {
        // SAFETY: all zeroes is a valid sockaddr_in.
        let mut names: [libc::sockaddr_in; BATCH] = unsafe { zeroed() };
        // SAFETY: all zeroes is a valid mmsghdr: no name, no areas, no control data.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let mut areas: Vec<IoSliceMut<'_>> = self.bytes.iter_mut().map(|bytes| IoSliceMut::new(bytes)).collect();
        for ((message, name), area) in messages.iter_mut().zip(&mut names).zip(&mut areas) {
            let (name, area): (*mut libc::sockaddr_in, *mut IoSliceMut<'_>) = (name, area);
            message.msg_hdr.msg_name = name.cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            // IoSliceMut has the layout of iovec.
            message.msg_hdr.msg_iov = area.cast();
            message.msg_hdr.msg_iovlen = 1;
        }
        let (to, flags) = (messages.as_mut_ptr(), libc::MSG_DONTWAIT);
        // SAFETY: each message points to a name and an area that outlive the call and that nothing else refers to.
        let received = unsafe { libc::recvmmsg(fd.as_raw_fd(), to, BATCH as u32, flags, std::ptr::null_mut()) };
        let count = match sys::check(received) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        for at in 0..count {
            let from = Ipv4Addr::from(u32::from_be(names[at].sin_addr.s_addr));
            let len = (messages[at].msg_len as usize).min(DATAGRAM_BYTES_MAX);
            each(SocketAddrV4::new(from, u16::from_be(names[at].sin_port)), &self.bytes[at][..len]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    fn socket() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let SocketAddr::V4(address) = socket.local_addr().expect("an address") else { panic!("IPv4 was asked for") };
        (socket, address)
    }

    #[test]
    fn a_batch_arrives_whole_in_order_with_its_senders() {
        let ((sender, from), (first, first_address), (second, second_address)) = (socket(), socket(), socket());
        let long = [7; DATAGRAM_BYTES_MAX];
        let batch = [(first_address, &b"one"[..]), (second_address, &long[..]), (first_address, &[][..])];
        assert_eq!(send(sender.as_fd(), &batch).expect("sent"), 3);
        let mut receiver = Receiver::new();
        let mut take = |socket: &UdpSocket| {
            let mut taken = Vec::new();
            receiver.receive(socket.as_fd(), |from, bytes| taken.push((from, bytes.to_vec()))).expect("received");
            taken
        };
        assert_eq!(take(&first), [(from, b"one".to_vec()), (from, Vec::new())]);
        assert_eq!(take(&second), [(from, long.to_vec())]);
        assert_eq!(take(&first), []);
    }

    #[test]
    fn more_than_a_batch_is_taken_up_to_a_batch() {
        let ((sender, _), (receiving, to)) = (socket(), socket());
        assert_eq!(send(sender.as_fd(), &vec![(to, &b"x"[..]); BATCH + 1]).expect("sent"), BATCH);
        let mut receiver = Receiver::new();
        assert_eq!(receiver.receive(receiving.as_fd(), |_, bytes| assert_eq!(bytes, b"x")).expect("received"), BATCH);
    }
}
