//! A byte stream under a WebSocket: TCP, with or without TLS, non-blocking, usable from two threads.
//!
//! Both directions of a TLS connection are one state, so it has a lock of its own, held for the cipher and the socket's
//! own calls, never across a handler. Plain TCP needs none.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mio::event::Source;
use mio::net::TcpStream;
use rustls::Connection;

mod tcp;

pub use tcp::TcpOptions;

/// The most plaintext of a TLS record (RFC 8446, 5.1).
const TLS_RECORD_BYTES: usize = 16_384;

/// What rustls takes at once and may hold for a socket that is full: four records, to the byte, so that it makes no small
/// one behind them. A super-packet's message is one system call; where the link is slow, messages are shorter.
const TLS_BUFFER_BYTES: usize = 4 * TLS_RECORD_BYTES;

/// Ciphertext that one system call reads: four records with their headers and tags (RFC 8446, 5.2), a link's largest
/// batch.
const TLS_READ_BYTES: usize = 4 * (TLS_RECORD_BYTES + 256 + 5);

thread_local! {
    /// Where ciphertext is read to: one a thread, so that an idle connection holds none. rustls would read it in pieces
    /// of 4 KiB, a system call each.
    static CIPHERTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection's TLS.
struct Tls {
    connection: Connection,
    /// Ciphertext that was read and not taken in, because the caller's buffer was full of what came before it.
    untaken: Vec<u8>,
}

/// One end of a connection.
pub struct Transport {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Mutex<Tls>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("is_encrypted", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// What an attempt to write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes taken.
    pub bytes: usize,
    /// The socket takes no more until it is writable again.
    pub blocked: bool,
}

impl Transport {
    /// A transport over a connected, non-blocking stream.
    pub fn new(stream: TcpStream, tls: Option<Connection>) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        // A message is written whole, with one flush a batch: Nagle's algorithm could only delay its last segment.
        stream.set_nodelay(true)?;
        let tls = tls.map(|mut connection| {
            connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
            Mutex::new(Tls { connection, untaken: Vec::new() })
        });
        Ok(Self { stream, peer, tls })
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether TLS is spoken.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The stream as a readiness source, to be registered once.
    pub fn source(&mut self) -> &mut impl Source {
        &mut self.stream
    }

    /// Reads what is there, decrypted. `Ok(0)` is the end of the stream; `WouldBlock` means that the next readiness
    /// event tells when there is more.
    ///
    /// # Errors
    /// Those of the socket; `InvalidData` for a TLS error.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.read_both(into, &mut [])
    }

    /// Reads what is there into `first`, and into `second` what is behind that.
    ///
    /// # Errors
    /// As [`Transport::read`].
    pub fn read_both(&self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => retry(|| (&self.stream).read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])),
            Some(tls) => locked(tls).read(&self.stream, Areas { first, second, filled: 0 }),
        }
    }

    /// Writes as much of `slices` as is taken.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<Written> {
        let Some(tls) = &self.tls else {
            return Ok(match retry(|| (&self.stream).write_vectored(slices)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Written { bytes: 0, blocked: true },
                bytes => Written { bytes: bytes?, blocked: false },
            });
        };
        let tls = &mut locked(tls).connection;
        if flush(tls, &self.stream)? || tls.is_handshaking() {
            return Ok(Written { bytes: 0, blocked: true });
        }
        // All slices at once: records are filled across them.
        let bytes = tls.writer().write_vectored(slices)?;
        let blocked = flush(tls, &self.stream)?;
        Ok(Written { bytes, blocked })
    }

    /// Writes out what TLS still holds; `true` when the socket takes no more.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&self) -> io::Result<bool> {
        self.tls.as_ref().map_or(Ok(false), |tls| flush(&mut locked(tls).connection, &self.stream))
    }

    /// Whether a TLS handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| locked(tls).connection.is_handshaking())
    }

    /// Whether a read that brings less than it could has brought all that there is: over TLS it may be a record's end.
    pub fn ends_reads_short(&self) -> bool {
        self.tls.is_none()
    }

    /// Tells the peer that no more comes.
    pub fn finish(&self) {
        if let Some(tls) = &self.tls {
            let tls = &mut locked(tls).connection;
            tls.send_close_notify();
            // A peer that is gone need not be told.
            drop(flush(tls, &self.stream));
        }
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Ends the connection both ways.
    pub fn shut(&self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Where plaintext goes: to one place and on to another.
struct Areas<'a> {
    first: &'a mut [u8],
    second: &'a mut [u8],
    filled: usize,
}

impl Areas<'_> {
    fn room(&self) -> usize {
        self.first.len() + self.second.len() - self.filled
    }

    /// Takes in what of the plaintext there is room for; `true` at the end of the stream.
    fn fill(&mut self, mut plaintext: rustls::Reader<'_>) -> io::Result<bool> {
        while self.room() > 0 {
            let second = self.filled.saturating_sub(self.first.len());
            let area = self.first.get_mut(self.filled..).filter(|area| !area.is_empty());
            match plaintext.read(area.unwrap_or(&mut self.second[second..])) {
                Ok(0) => return Ok(true),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Tls {
    fn read(&mut self, stream: &TcpStream, mut into: Areas<'_>) -> io::Result<usize> {
        loop {
            if into.fill(self.connection.reader())? || into.filled > 0 {
                return Ok(into.filled);
            }
            let is_at_end = if self.untaken.is_empty() {
                CIPHERTEXT.with_borrow_mut(|ciphertext| {
                    ciphertext.resize(TLS_READ_BYTES, 0);
                    // More than fits into the caller's buffer would have to be kept.
                    let room = into.room().clamp(TLS_RECORD_BYTES, TLS_READ_BYTES);
                    let count = retry(|| (&*stream).read(&mut ciphertext[..room]))?;
                    self.take_in(&ciphertext[..count], stream, &mut into).map(|ended| ended || count == 0)
                })
            } else {
                let untaken = std::mem::take(&mut self.untaken);
                self.take_in(&untaken, stream, &mut into)
            };
            // Else nothing whole was there: a handshake's message, or the start of a record.
            if is_at_end? || into.filled > 0 {
                return Ok(into.filled);
            }
        }
    }

    /// Decrypts what of the ciphertext there is room for, and keeps the rest; `true` at the end of the stream.
    fn take_in(&mut self, mut ciphertext: &[u8], stream: &TcpStream, into: &mut Areas<'_>) -> io::Result<bool> {
        let tls = &mut self.connection;
        while !ciphertext.is_empty() && into.room() > 0 {
            if tls.read_tls(&mut ciphertext)? == 0 {
                // The peer has said that it is done: what follows is nobody's.
                return Ok(true);
            }
            let processed = tls.process_new_packets();
            // Handshake answers and alerts, the last one included, go out before anything else.
            flush(tls, stream)?;
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            into.fill(tls.reader())?;
        }
        self.untaken.extend_from_slice(ciphertext);
        Ok(false)
    }
}

fn locked(tls: &Mutex<Tls>) -> MutexGuard<'_, Tls> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes out ciphertext; `true` when the socket takes no more.
fn flush(tls: &mut Connection, mut stream: &TcpStream) -> io::Result<bool> {
    while tls.wants_write() {
        match retry(|| tls.write_tls(&mut stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            written => drop(written?),
        }
    }
    Ok(false)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as StdStream};
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// Both ends of a TLS connection over loopback, behind their handshake.
    fn encrypted() -> (Transport, Transport) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let near = StdStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (far, _) = listener.accept().expect("a connection");
        let certified = rcgen::generate_simple_self_signed(["gateway".to_owned()]).expect("a certificate");
        let (certificate, key) = (certified.cert.der().clone(), certified.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.try_into().expect("a key"))
            .expect("a server");
        let name = "gateway".try_into().expect("a name");
        let client = ClientConnection::new(Arc::new(client), name).expect("a client").into();
        let server = ServerConnection::new(Arc::new(server)).expect("a server").into();
        let [near, far] = [(near, client), (far, server)].map(|(stream, tls)| {
            stream.set_nonblocking(true).expect("non-blocking");
            Transport::new(TcpStream::from_std(stream), Some(tls)).expect("connected")
        });
        while near.is_handshaking() || far.is_handshaking() {
            for end in [&near, &far] {
                end.flush().expect("open");
                assert_eq!(end.read(&mut [0; 64]).expect_err("no data yet").kind(), io::ErrorKind::WouldBlock);
            }
        }
        (near, far)
    }

    /// Sends `sent` in slices of `slice_bytes` and reads it into buffers of `into_bytes`, one thing after the other.
    fn carried(sent: &[u8], slice_bytes: usize, into_bytes: usize) -> Vec<u8> {
        let (near, far) = encrypted();
        let (mut received, mut into, mut written) = (Vec::new(), vec![0; into_bytes], 0);
        while received.len() < sent.len() {
            let slices: Vec<_> = sent[written..].chunks(slice_bytes).take(50).map(IoSlice::new).collect();
            written += near.write(&slices).expect("open").bytes;
            near.flush().expect("open");
            // Into two areas, the first of which is filled first.
            let (first, second) = into.split_at_mut(into_bytes / 3);
            match far.read_both(first, second) {
                Ok(count) => received.extend_from_slice(&into[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        near.finish();
        let ended = std::iter::repeat_with(|| far.read(&mut into)).find(|read| read.is_ok());
        assert_eq!(ended.and_then(Result::ok), Some(0), "nothing is behind it but the end");
        received
    }

    #[test]
    fn what_is_encrypted_arrives_whole_whatever_the_slices_and_the_readers_buffer() {
        let sent: Vec<u8> = (0..300_000_usize).map(|at| (at * 7 + at / 251) as u8).collect();
        for (slice_bytes, into_bytes) in
            [(67, 100_000), (1_448, 524_288), (65_536, 16_384), (65_536, 5_000), (9_000, 333)]
        {
            assert!(carried(&sent, slice_bytes, into_bytes) == sent, "{slice_bytes} into {into_bytes}");
        }
    }
}
