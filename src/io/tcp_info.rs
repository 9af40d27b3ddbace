//! What the kernel knows of a TCP connection.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::sys;

/// The smoothed round trip; `None` where none was measured.
pub(crate) fn round_trip(fd: BorrowedFd<'_>) -> Option<Duration> {
    let info: sys::TcpInfo = sys::option(fd, libc::IPPROTO_TCP, libc::TCP_INFO).ok()?;
    let micros = u64::from(info.round_trip_us());
    (micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_handshake_alone_has_timed_a_connection_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (far, _) = listener.accept().expect("a connection");
        assert!(round_trip(near.as_fd()).is_some());
        assert!(round_trip(far.as_fd()).is_some());
    }

    #[test]
    fn what_is_no_tcp_connection_has_no_round_trip() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        assert_eq!(round_trip(socket.as_fd()), None);
    }
}
