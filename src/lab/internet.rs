//! The host on the internet: it answers DNS, takes and gives bulk data, and echoes datagrams.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};
use socket2::SockRef;

use super::dns;
use super::namespace::{Error, Namespace};

/// The name that DNS has for the host.
pub const NAME: &str = "internet.example";
/// Where DNS is answered.
pub const DNS_PORT: u16 = 53;
/// Where datagrams come back from: the echo service (RFC 862).
pub const ECHO_PORT: u16 = 7;
/// Where bulk data is taken and given.
pub const BULK_PORT: u16 = 9000;
/// Bulk data in one transfer at most.
pub const BULK_BYTES_MAX: u64 = 1 << 30;
/// The congestion control of bulk data, as most of the internet has it. It is always said, so that no machine's default
/// decides; by socket, because a namespace may not choose what its host has not allowed.
pub const CONGESTION_CONTROL: &[u8] = b"cubic";
/// The length of a SHA-256 digest.
pub const DIGEST_BYTES: usize = 32;

/// How often a server looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A peer that is silent for so long in the middle of a transfer is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// What a client of the bulk service asks for. The order is followed by the number of bytes, eight of them, the highest
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The client's bytes follow; it gets one byte when all are there, then their digest.
    Take,
    /// It gets so many bytes, then their digest.
    Give,
}

impl Order {
    /// The order in one byte.
    pub fn byte(self) -> u8 {
        match self {
            Self::Take => b'T',
            Self::Give => b'G',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Take, Self::Give].into_iter().find(|order| order.byte() == byte)
    }
}

/// The running servers. They end when dropped.
#[derive(Debug)]
pub struct Internet {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Internet {
    /// Starts the servers on `address` in `namespace`. `bulk` is what it gives, over and over.
    ///
    /// # Errors
    /// A port that is taken.
    pub fn start(namespace: &Namespace, address: Ipv4Addr, bulk: Arc<[u8]>) -> Result<Self, Error> {
        let bind = || {
            let udp = |port| UdpSocket::bind((address, port));
            let listener = TcpListener::bind((address, BULK_PORT))?;
            SockRef::from(&listener).set_tcp_congestion(CONGESTION_CONTROL)?;
            Ok((udp(DNS_PORT)?, udp(ECHO_PORT)?, listener))
        };
        let (dns, echo, listener) = namespace.run(bind)?.map_err(|error| namespace.io_error(error))?;
        let mut servers = Self { over: Arc::default(), threads: Vec::new(), seen: Arc::default() };
        let zone = move |name: &str| (name == NAME).then_some(address);
        servers.serve_datagrams(dns, move |question, _| dns::answer(question, zone));
        let seen = Arc::clone(&servers.seen);
        servers.serve_datagrams(echo, move |payload, from| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(from);
            Some(payload.to_vec())
        });
        servers.serve_bulk(listener, bulk);
        Ok(servers)
    }

    /// From where datagrams for the echo service came, one entry each.
    pub fn echoed_to(&self) -> Vec<SocketAddr> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn serve_datagrams(
        &mut self,
        socket: UdpSocket,
        answer: impl Fn(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + 'static,
    ) {
        let over = Arc::clone(&self.over);
        self.threads.push(std::thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            if socket.set_read_timeout(Some(LOOK_EVERY)).is_err() {
                return;
            }
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
                if let Some(answer) = answer(&datagram[..length], from) {
                    // Whoever asked asks again.
                    drop(socket.send_to(&answer, from));
                }
            }
        }));
    }

    fn serve_bulk(&mut self, listener: TcpListener, bulk: Arc<[u8]>) {
        let over = Arc::clone(&self.over);
        self.threads.push(std::thread::spawn(move || {
            if listener.set_nonblocking(true).is_err() {
                return;
            }
            let mut transfers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let bulk = Arc::clone(&bulk);
                        // The client notices a transfer that fails.
                        transfers.push(std::thread::spawn(move || drop(transfer(stream, &bulk))));
                    }
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        }));
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn transfer(mut stream: TcpStream, bulk: &[u8]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let (mut order, mut length) = ([0; 1], [0; 8]);
    stream.read_exact(&mut order)?;
    stream.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    let order = Order::of(order[0]).filter(|_| length <= BULK_BYTES_MAX).ok_or(io::ErrorKind::InvalidData)?;
    match order {
        Order::Take => {
            let taken = take(&mut stream, length)?;
            stream.write_all(&[order.byte()])?;
            stream.write_all(&Sha256::digest(taken))
        }
        Order::Give => {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let given = bulk.get(..length).ok_or(io::ErrorKind::InvalidData)?;
            stream.write_all(given)?;
            stream.write_all(&Sha256::digest(given))
        }
    }
}

/// Reads so many bytes. They are kept, and their digest is made when all are there, so that the transfer is measured and
/// not the digest.
pub(super) fn take(stream: &mut TcpStream, length: u64) -> io::Result<Vec<u8>> {
    let mut taken = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut taken)?;
    Ok(taken)
}
