//! A byte stream under a WebSocket: TCP, with or without TLS, non-blocking, usable from two threads.
//!
//! Both directions of a TLS connection are one state, so it has a lock of its own, held for the cipher and the socket's
//! own calls, never across a handler. Plain TCP needs none.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mio::event::Source;
use mio::net::TcpStream;
use rustls::Connection;

mod tcp;

pub use tcp::TcpOptions;

/// Ciphertext that rustls may hold for a socket that does not take it. Two full records: enough to keep the socket
/// busy, little enough that the queue stands where it is managed.
const TLS_BUFFER_BYTES: usize = 2 * 16_640;

/// One end of a connection.
pub struct Transport {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Mutex<Connection>>,
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
            Mutex::new(connection)
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
        let Some(tls) = &self.tls else { return retry(|| (&self.stream).read(into)) };
        let mut tls = locked(tls);
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if retry(|| tls.read_tls(&mut &self.stream))? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets();
            // Handshake answers and alerts, the last one included, go out before anything else.
            flush(&mut tls, &self.stream)?;
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
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
        let mut tls = locked(tls);
        let mut bytes = 0;
        if flush(&mut tls, &self.stream)? || tls.is_handshaking() {
            return Ok(Written { bytes, blocked: true });
        }
        for slice in slices {
            let taken = tls.writer().write(slice)?;
            bytes += taken;
            if taken < slice.len() {
                break;
            }
        }
        let blocked = flush(&mut tls, &self.stream)?;
        Ok(Written { bytes, blocked })
    }

    /// Writes out what TLS still holds; `true` when the socket takes no more.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&self) -> io::Result<bool> {
        self.tls.as_ref().map_or(Ok(false), |tls| flush(&mut locked(tls), &self.stream))
    }

    /// Whether a TLS handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| locked(tls).is_handshaking())
    }

    /// Tells the peer that no more comes.
    pub fn finish(&self) {
        if let Some(tls) = &self.tls {
            let mut tls = locked(tls);
            tls.send_close_notify();
            // A peer that is gone need not be told.
            drop(flush(&mut tls, &self.stream));
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

fn locked(tls: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
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
