//! What a person on the laptop would do: ping, look a name up, upload, download.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, Socket, Type};

use super::dns;
use super::internet::{self, DIGEST_BYTES, Order};
use super::namespace::{Error, Namespace};
use crate::checksum;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// A transfer that stands still for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A name is asked for again after so long, so often (RFC 1035, 4.2.1, has it the resolver's choice).
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
const QUESTIONS_MAX: u16 = 5;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// An echo's payload, as ping(8) has it.
const ECHO_PAYLOAD_BYTES: usize = 56;
const IPV4_HEADER_BYTES_MIN: usize = 20;
const PACKET_BYTES_MAX: usize = 1500;

/// Round-trip times, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pings {
    /// Echo requests sent.
    pub sent: usize,
    /// The time of each that came back, the shortest first.
    pub times: Vec<Duration>,
}

impl Pings {
    /// The time that the share `q` (0 to 1) of the answers did not exceed, in milliseconds.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let last = self.times.len().checked_sub(1)?;
        Some(self.times[(last as f64 * q).round() as usize].as_secs_f64() * 1e3)
    }
}

/// One bulk transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// Bytes moved.
    pub bytes: u64,
    /// From the first byte on its way to the word that the last one is there.
    pub took: Duration,
    /// Whether both ends have the same SHA-256 digest.
    pub sha256_ok: bool,
}

impl Transfer {
    /// Megabits (10⁶) of payload a second.
    pub fn mbit_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.took.as_secs_f64()
    }
}

/// Sends `count` echo requests, `apart` from each other, each after the one before it was answered or given up.
///
/// # Errors
/// No socket, or no route.
pub fn ping(from: &Namespace, to: Ipv4Addr, count: u16, apart: Duration) -> Result<Pings, Error> {
    let socket = inside(from, || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.connect(&SocketAddrV4::new(to, 0).into())?;
        Ok(socket)
    })?;
    let mut pings = Pings { sent: count.into(), times: Vec::new() };
    let identifier = std::process::id() as u16;
    for sequence in 0..count {
        let started = Instant::now();
        let answered = echo(&socket, identifier, sequence).map_err(|error| from.io_error(error))?;
        let took = started.elapsed();
        if answered {
            pings.times.push(took);
        }
        std::thread::sleep(apart.saturating_sub(took));
    }
    pings.times.sort_unstable();
    Ok(pings)
}

fn echo(mut socket: &Socket, identifier: u16, sequence: u16) -> io::Result<bool> {
    let late = Instant::now() + PATIENCE;
    socket.send(&echo_request(identifier, sequence))?;
    let mut packet = [0; PACKET_BYTES_MAX];
    loop {
        let left = late.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut packet) {
            Ok(length) if is_reply(&packet[..length], identifier, sequence) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// An echo request (RFC 792).
fn echo_request(identifier: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![ECHO_REQUEST, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.resize(message.len() + ECHO_PAYLOAD_BYTES, 0x55);
    let sum = checksum::of(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Whether an IPv4 packet, as a raw socket gets it, is the reply to this request.
fn is_reply(packet: &[u8], identifier: u16, sequence: u16) -> bool {
    let header_bytes = packet.first().map_or(IPV4_HEADER_BYTES_MIN, |first| usize::from(first & 0xf) * 4);
    let Some(message) = packet.get(header_bytes..) else { return false };
    let wanted = [identifier.to_be_bytes(), sequence.to_be_bytes()].concat();
    message.first() == Some(&ECHO_REPLY) && message.get(4..8) == Some(&wanted[..])
}

/// Asks `server` for the address of `name`; `None` where it knows none, or says nothing.
///
/// # Errors
/// No socket, or no route.
pub fn look_up(from: &Namespace, server: SocketAddr, name: &str) -> Result<Option<Ipv4Addr>, Error> {
    let socket = inside(from, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(ASK_AGAIN_AFTER))?;
        Ok(socket)
    })?;
    let mut answer = [0; PACKET_BYTES_MAX];
    for id in 1..=QUESTIONS_MAX {
        socket.send(&dns::question(id, name)).map_err(|error| from.io_error(error))?;
        match socket.recv(&mut answer) {
            Ok(length) => return Ok(dns::address(&answer[..length], id)),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(from.io_error(error)),
        }
    }
    Ok(None)
}

/// Sends `bulk` to the host.
///
/// # Errors
/// The connection failed.
pub fn upload(from: &Namespace, host: Ipv4Addr, bulk: &[u8]) -> Result<Transfer, Error> {
    let bytes = bulk.len() as u64;
    let mut stream = call(from, host)?;
    let mut send = || {
        let started = Instant::now();
        order(&mut stream, Order::Take, bytes)?;
        stream.write_all(bulk)?;
        stream.read_exact(&mut [0])?;
        let took = started.elapsed();
        Ok(Transfer { bytes, took, sha256_ok: digest(&mut stream)? == Sha256::digest(bulk)[..] })
    };
    send().map_err(|error| from.io_error(error))
}

/// Fetches so many bytes from the host.
///
/// # Errors
/// The connection failed.
pub fn download(from: &Namespace, host: Ipv4Addr, bytes: u64) -> Result<Transfer, Error> {
    let mut stream = call(from, host)?;
    let mut fetch = || {
        let started = Instant::now();
        order(&mut stream, Order::Give, bytes)?;
        let taken = internet::take(&mut stream, bytes)?;
        let took = started.elapsed();
        Ok(Transfer { bytes, took, sha256_ok: digest(&mut stream)? == Sha256::digest(&taken)[..] })
    };
    fetch().map_err(|error| from.io_error(error))
}

fn call(from: &Namespace, host: Ipv4Addr) -> Result<TcpStream, Error> {
    inside(from, || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_congestion(internet::CONGESTION_CONTROL)?;
        socket.connect_timeout(&SocketAddrV4::new(host, internet::BULK_PORT).into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(stream)
    })
}

fn order(stream: &mut TcpStream, order: Order, bytes: u64) -> io::Result<()> {
    stream.write_all(&[&[order.byte()], &bytes.to_be_bytes()[..]].concat())
}

fn digest(stream: &mut TcpStream) -> io::Result<[u8; DIGEST_BYTES]> {
    let mut digest = [0; DIGEST_BYTES];
    stream.read_exact(&mut digest)?;
    Ok(digest)
}

/// Makes a socket in a namespace, where it stays.
fn inside<T: Send>(namespace: &Namespace, make: impl FnOnce() -> io::Result<T> + Send) -> Result<T, Error> {
    namespace.run(make)?.map_err(|error| namespace.io_error(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_reply_to_one_request_is_not_the_reply_to_another() {
        let mut message = echo_request(7, 1);
        assert!(checksum::is_valid(&message));
        message[0] = ECHO_REPLY;
        let packet = [&[0x45; IPV4_HEADER_BYTES_MIN][..], &message].concat();
        assert!(is_reply(&packet, 7, 1));
        assert!(!is_reply(&packet, 7, 2) && !is_reply(&packet, 8, 1));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let times = (1..=101).map(Duration::from_millis).collect();
        let pings = Pings { sent: 101, times };
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| pings.quantile_ms(q)), [1.0, 51.0, 100.0, 101.0].map(Some));
        assert_eq!(Pings::default().quantile_ms(0.5), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_judged_without_a_panic(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = is_reply(&packet, 1, 1);
        }
    }
}
