//! One WebSocket of a simulated tether: dialled, welcomed, read and written without blocking, with no thread and next to no
//! memory of its own, so that one loop serves 10,000.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::client::handshake::{Handshake, HandshakeError, Offer, Step as Answer, Terms};
use crate::http::upgrade::{Asked, UpgradeError, check_upgrade_response, upgrade_request};
use crate::http::url::WsUrl;
use crate::link::{ACK_EVERY_BYTES, ACK_SMALL_BYTES};
use crate::wire::HANDSHAKE_MESSAGE_BYTES_MAX;
use crate::wire::capsule::{self, Capsule, Capsules, CloseReason};
use crate::wire::frame::{Decoder, Opcode, Role, Step, Subprotocol, append, header};

/// The mask of every frame. It protects proxies from a payload that somebody else chose (RFC 6455, 10.3); here nobody
/// did, and with zeroes nothing has to be changed.
const KEY: [u8; 4] = [0; 4];

/// The largest message that is taken, in bytes: the most that a gateway's configuration allows.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Memory that an empty tail keeps.
const TAIL_KEPT_BYTES: usize = 2_048;

/// Why a connection is at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The word for it in the report.
    pub(super) why: &'static str,
    /// When the gateway would like to be asked again, in milliseconds.
    pub(super) retry_after_ms: Option<u64>,
    /// What would end every other attempt the same way.
    pub(super) last_word: Option<HandshakeError>,
}

const fn ended(why: &'static str) -> Ended {
    Ended { why, retry_after_ms: None, last_word: None }
}

/// What came.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// It is welcomed.
    Opened(Box<Terms>),
    /// A packet.
    Packet(&'a [u8]),
}

/// How far to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Not at all: a slow reader.
    Paused,
    /// What is there.
    UntilEmpty,
    /// The peer has sent its last: up to there.
    UntilEnd,
}

#[derive(Debug)]
enum State {
    Connecting,
    Upgrading(Asked),
    Handshake(Box<Handshake>),
    Open,
    /// It said goodbye, and reads until the gateway hangs up.
    Closing,
}

/// One WebSocket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    state: State,
    offer: Option<Offer>,
    decoder: Decoder,
    /// The start of a frame whose rest has not come.
    tail: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    /// Bytes of DATAGRAM capsules, each way, and what each end told the other of them.
    received: u64,
    received_told: u64,
    sent: u64,
    credit: u64,
    /// Room in a message.
    message_bytes_max: usize,
    has_answer: bool,
}

/// What may be sent in one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Where the last capsule may begin: it may end beyond its credit.
    pub(super) credit_bytes: usize,
    /// Where it must end.
    pub(super) message_bytes: usize,
}

impl Room {
    /// Whether a capsule of `bytes` has a place behind `before` others.
    pub(super) fn fits(self, before: usize, bytes: usize) -> bool {
        before < self.credit_bytes && before + bytes <= self.message_bytes
    }
}

impl Connection {
    /// Begins to dial. It is registered with `token`. Without an `offer` it never answers the gateway's first word.
    ///
    /// # Errors
    /// No descriptor left, or no way there.
    pub(super) fn dial(to: SocketAddr, offer: Option<Offer>, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = TcpStream::connect(to)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            state: State::Connecting,
            offer,
            decoder: Decoder::new(Role::Client, Subprotocol::Binary, HANDSHAKE_MESSAGE_BYTES_MAX),
            tail: Vec::new(),
            unsent: Vec::new(),
            received: 0,
            received_told: 0,
            sent: 0,
            credit: 0,
            message_bytes_max: 0,
            has_answer: false,
        })
    }

    /// Whether it was welcomed.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether anything came from the gateway.
    pub(super) fn has_answer(&self) -> bool {
        self.has_answer
    }

    /// What of DATAGRAM capsules may be sent now, in one message.
    pub(super) fn room(&self) -> Room {
        let credit = usize::try_from(self.credit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        let credit_bytes = if self.unsent.is_empty() && self.is_open() { credit } else { 0 };
        Room { credit_bytes, message_bytes: self.message_bytes_max }
    }

    /// Received bytes that the gateway has not been told of.
    pub(super) fn owes_ack(&self) -> bool {
        self.is_open() && self.received > self.received_told
    }

    /// Whether so much is owed that it must be told at once.
    pub(super) fn owes_much(&self) -> bool {
        self.is_open() && self.received - self.received_told >= ACK_EVERY_BYTES
    }

    /// Whether so little is owed that it waits for longer.
    pub(super) fn owes_little(&self) -> bool {
        (1..ACK_SMALL_BYTES).contains(&(self.received - self.received_told))
    }

    /// Sends DATAGRAM capsules as one message, with what is owed.
    ///
    /// # Errors
    /// The connection is at its end.
    pub(super) fn send(&mut self, capsules: &[u8]) -> Result<(), Ended> {
        let mut ack = Vec::new();
        if self.owes_ack() {
            self.received_told = self.received;
            capsule::append_ack(self.received, &mut ack);
        }
        if ack.is_empty() && capsules.is_empty() {
            return Ok(());
        }
        self.sent += capsules.len() as u64;
        let head = header(Opcode::Binary, ack.len() + capsules.len(), Some(KEY));
        self.write(&[&head, &ack, capsules])
    }

    /// Tells the gateway that the tether ends. From then on nothing else is sent.
    pub(super) fn close(&mut self) {
        self.state = State::Closing;
        let mut close = Vec::new();
        capsule::append_close(CloseReason::Done, "", &mut close);
        let head = header(Opcode::Binary, close.len(), Some(KEY));
        // It ends either way.
        self.write(&[&head, &close]).unwrap_or_default();
    }

    /// Takes the socket out of the loop.
    pub(super) fn deregister(&mut self, registry: &Registry) {
        // One that was never in it need not be taken out.
        drop(registry.deregister(&mut self.stream));
    }

    /// Goes on after a readiness event: writes what waits, and reads as `reading` says.
    ///
    /// # Errors
    /// The connection is at its end.
    pub(super) fn advance(
        &mut self,
        url: &WsUrl,
        buffer: &mut [u8],
        reading: Reading,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Ended> {
        if matches!(self.state, State::Connecting) && !self.connected(url)? {
            return Ok(());
        }
        self.flush()?;
        if reading == Reading::Paused { Ok(()) } else { self.read(buffer, reading, each) }
    }

    /// Sees how the dial went, and asks for the upgrade.
    fn connected(&mut self, url: &WsUrl) -> Result<bool, Ended> {
        match self.stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(ended(word(&error))),
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(ended(word(&error))),
        }
        drop(self.stream.set_nodelay(true));
        let (request, asked) = upgrade_request(url, &[Subprotocol::Binary], [0; 16]);
        self.state = State::Upgrading(asked);
        self.write(&[&request])?;
        Ok(true)
    }

    fn read(&mut self, buffer: &mut [u8], reading: Reading, each: &mut impl FnMut(Event<'_>)) -> Result<(), Ended> {
        loop {
            let start = self.tail.len();
            buffer[..start].copy_from_slice(&self.tail);
            let count = match self.stream.read(&mut buffer[start..]) {
                Ok(0) => return Err(ended("hung_up")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ended(word(&error))),
            };
            self.has_answer = true;
            let bytes = &mut buffer[..start + count];
            let done = self.take_in(bytes, each)?;
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[done..]);
            if self.tail.is_empty() {
                self.tail.shrink_to(TAIL_KEPT_BYTES);
            }
            // A short read has emptied the socket: the next event tells of more. Only an end could still stand behind it.
            if start + count < buffer.len() && reading == Reading::UntilEmpty {
                return Ok(());
            }
        }
    }

    /// Takes the unread bytes in; tells how many of them are done with.
    fn take_in(&mut self, bytes: &mut [u8], each: &mut impl FnMut(Event<'_>)) -> Result<usize, Ended> {
        let mut done = 0;
        if let State::Upgrading(asked) = &self.state {
            match check_upgrade_response(bytes, asked).map_err(|error| not_upgraded(&error))? {
                Some((_, consumed)) => done = consumed,
                None => return Ok(0),
            }
            let Some(offer) = self.offer.take() else { return Ok(bytes.len()) };
            self.state = State::Handshake(Box::new(Handshake::new(offer)));
        }
        // The decoder lends its messages, and the state changes with each: they are apart for the while.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Client, Subprotocol::Binary, 0));
        let taken = self.take_frames(&mut decoder, bytes, done, each);
        self.decoder = decoder;
        taken
    }

    fn take_frames(
        &mut self,
        decoder: &mut Decoder,
        bytes: &mut [u8],
        mut done: usize,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<usize, Ended> {
        loop {
            match decoder.next(&mut bytes[done..]).map_err(|_| ended("broken_frame"))? {
                Step::Need(consumed) => return Ok(done + consumed),
                Step::Message { consumed, payload } => {
                    let was_open = self.is_open();
                    self.message(payload, each)?;
                    if !was_open && self.is_open() {
                        decoder.set_message_bytes_max(self.message_bytes_max);
                    }
                    done += consumed;
                }
                Step::Ping { consumed, payload } => {
                    let mut pong = Vec::new();
                    append(Opcode::Pong, payload, Some(KEY), &mut pong);
                    done += consumed;
                    self.write(&[&pong])?;
                }
                Step::Pong { consumed, .. } => done += consumed,
                Step::Close { .. } => return Err(ended("closed")),
            }
        }
    }

    fn message(&mut self, message: &[u8], each: &mut impl FnMut(Event<'_>)) -> Result<(), Ended> {
        if let State::Handshake(handshake) = &mut self.state {
            match handshake.take_in(message).map_err(not_welcome)? {
                Answer::Wait => return Ok(()),
                Answer::Answer(answer) => {
                    let head = header(Opcode::Binary, answer.len(), Some(KEY));
                    return self.write(&[&head, &answer]);
                }
                Answer::Done(terms) => {
                    self.received = terms.datagram_bytes as u64;
                    self.credit = terms.welcome.credit_bytes;
                    self.message_bytes_max = MESSAGE_BYTES_MAX.min(terms.welcome.message_bytes_max as usize);
                    self.state = State::Open;
                    each(Event::Opened(terms));
                    return Ok(());
                }
            }
        }
        for capsule in Capsules::new(message) {
            match capsule.map_err(|_| ended("broken_capsule"))? {
                Capsule::Datagram(datagram) => {
                    self.received += datagram.capsule_bytes as u64;
                    each(Event::Packet(datagram.payload));
                }
                Capsule::Credit(offset) => self.credit = self.credit.max(offset),
                Capsule::Close { reason, .. } => return Err(ended(reason.label())),
                // What a gateway tells beside packets, credit and the end is nothing to a load.
                Capsule::Ack(_)
                | Capsule::AddressAssign(_)
                | Capsule::AddressRequest(_)
                | Capsule::RouteAdvertisement(_)
                | Capsule::Challenge(_)
                | Capsule::Hello(_)
                | Capsule::OtherVersion(_)
                | Capsule::Welcome(_)
                | Capsule::Refusal(_) => {}
            }
        }
        Ok(())
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), Ended> {
        let mut written = 0;
        if self.unsent.is_empty() {
            let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
            written = match self.stream.write_vectored(&slices) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(ended(word(&error))),
            };
        }
        for part in parts {
            let skipped = written.min(part.len());
            written -= skipped;
            self.unsent.extend_from_slice(&part[skipped..]);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Ended> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ended(word(&error))),
            }
        }
        // A large remainder was an exception: it leaves no memory behind.
        self.unsent.shrink_to(TAIL_KEPT_BYTES);
        Ok(())
    }
}

fn word(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "connection_refused"
    } else if error.kind() == io::ErrorKind::TimedOut {
        "timed_out"
    } else {
        "connection_broken"
    }
}

fn not_upgraded(error: &UpgradeError) -> Ended {
    match error {
        UpgradeError::Status { status: 503, retry_after_s } => {
            Ended { retry_after_ms: retry_after_s.map(|seconds| u64::from(seconds) * 1_000), ..ended("http_503") }
        }
        UpgradeError::Status { status: 404, .. } => ended("http_404"),
        UpgradeError::Status { .. }
        | UpgradeError::Head(_)
        | UpgradeError::NotWebSocket
        | UpgradeError::Subprotocol
        | UpgradeError::Extension => ended("not_upgraded"),
    }
}

fn not_welcome(error: HandshakeError) -> Ended {
    let retry_after_ms = error.retry_after().map(|after| after.as_millis() as u64);
    let why = match &error {
        HandshakeError::Refused(refusal) => refusal.reason.label(),
        HandshakeError::WrongGateway
        | HandshakeError::OtherVersion(_)
        | HandshakeError::Capsule(_)
        | HandshakeError::OutOfOrder
        | HandshakeError::NoAddress
        | HandshakeError::BadAddress(_)
        | HandshakeError::NoRandom(_) => "broken_handshake",
    };
    Ended { why, retry_after_ms, last_word: error.is_final().then_some(error) }
}
