//! The handshake on a real link: read, ask [`Handshake`], write, against one deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Connection;
use super::handshake::{Handshake, HandshakeError, Offer, Step, Terms};
use crate::dial;
use crate::link::{Event, Link, LinkError, READ_BUDGET_BYTES, Reader, read_buffer_bytes};
use crate::packet::BufPool;
use crate::relay::ended::Ended;
use crate::runtime::lanes::LaneId;
use crate::stop::Stop;
use crate::wire::frame::{Role, close_code};

/// How long the gateway may take from the first byte to its terms. The phone's page may have to dial it first.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the word to stop is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The longest message of a handshake. The gateway's own are below 4 KiB, but the first packets may share a message with
/// its last words.
const MESSAGE_BYTES_MAX: usize = 256 * 1_024;

/// Where a link is while its handshake is under way: nowhere.
const NO_LANE: LaneId = LaneId(u32::MAX);

/// Memory for HELLO and the like.
const POOL_BYTES: u64 = 1 << 20;

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// By what the gateway said.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The other end closed its WebSocket.
    #[error("{0}")]
    Closed(Closed),
    /// The connection broke.
    #[error("the connection broke during the handshake: {0}")]
    Link(#[from] LinkError),
    /// The gateway is too slow.
    #[error("the gateway did not answer within {} s", PATIENCE.as_secs())]
    TooSlow,
    /// The word to stop came first.
    #[error("stopped while connecting")]
    Stopped,
}

/// Who closed, and how.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Closed {
    /// The gateway.
    #[error("the gateway closed the connection (code {0:?})")]
    Gateway(Option<u16>),
    /// The relay.
    #[error("{0}")]
    Relay(Ended),
}

impl OpeningError {
    /// Whether another attempt would end the same way.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Handshake(error) if error.is_final())
    }

    /// When the gateway would like to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Handshake(error) = self { error.retry_after() } else { None }
    }
}

impl From<io::Error> for OpeningError {
    fn from(error: io::Error) -> Self {
        Self::Link(error.into())
    }
}

/// A link whose handshake is done, and what was agreed. It has no lane yet.
#[derive(Debug)]
pub struct Opened {
    pub(super) link: Link,
    pub(super) terms: Terms,
    /// The other end of its connection.
    pub(super) peer: SocketAddr,
}

/// Opens sessions, or goes on with the one that there is. Whoever brings a connection does it on a thread of its own: who says
/// nothing, or says it slowly, keeps nobody else waiting.
#[derive(Debug)]
pub(super) struct Opener {
    offer: Mutex<Offer>,
    stop: Stop,
}

impl Opener {
    /// One that offers this until `stop`.
    pub(super) fn new(offer: Offer, stop: Stop) -> Self {
        Self { offer: Mutex::new(offer), stop }
    }

    /// From now on, that session is gone on with.
    pub(super) fn goes_on_with(&self, ticket: &[u8]) {
        ticket.clone_into(&mut self.offer.lock().unwrap_or_else(PoisonError::into_inner).ticket);
    }

    /// Goes through the handshake on a connection.
    ///
    /// # Errors
    /// [`OpeningError`]; the connection is closed then.
    pub(super) fn open(&self, connection: Connection) -> Result<Opened, OpeningError> {
        let offer = self.offer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Connection { transport, role, subprotocol, rest } = connection;
        let peer = transport.peer();
        let link = Link::new(NO_LANE, transport, role, Instant::now());
        link.upgraded(subprotocol, MESSAGE_BYTES_MAX, &rest);
        let opening = Opening { link: &link, pool: BufPool::new(POOL_BYTES) };
        match opening.converse(Handshake::new(offer), &self.stop) {
            Ok(terms) => {
                link.count_received(terms.datagram_bytes);
                Ok(Opened { link, terms, peer })
            }
            Err(error) => {
                let (code, text) = match &error {
                    OpeningError::Handshake(HandshakeError::Refused(_)) => (close_code::NORMAL, ""),
                    OpeningError::Handshake(HandshakeError::WrongGateway) => {
                        (close_code::POLICY_VIOLATION, "wrong proof")
                    }
                    OpeningError::Handshake(_) => (close_code::PROTOCOL_ERROR, "broken handshake"),
                    OpeningError::Link(LinkError::Frame(error)) => (error.close_code(), "broken frame"),
                    OpeningError::TooSlow => (close_code::GOING_AWAY, "too slow"),
                    OpeningError::Closed(_) | OpeningError::Link(_) | OpeningError::Stopped => (close_code::NORMAL, ""),
                };
                link.close(code, text, &opening.pool);
                Err(error)
            }
        }
    }
}

struct Opening<'a> {
    link: &'a Link,
    pool: BufPool,
}

impl Opening<'_> {
    fn converse(&self, mut handshake: Handshake, stop: &Stop) -> Result<Terms, OpeningError> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; read_buffer_bytes(MESSAGE_BYTES_MAX)];
        loop {
            if let Some(terms) = self.read(&mut handshake, &mut buffer)? {
                return Ok(terms);
            }
            self.link.flush(&mut self.link.outbox(), &self.pool)?;
            let now = Instant::now();
            if stop.is_triggered() {
                return Err(OpeningError::Stopped);
            } else if now >= deadline {
                return Err(OpeningError::TooSlow);
            }
            let until = deadline.min(now + LOOK_EVERY);
            dial::wait(self.link.transport(), true, self.link.is_blocked(), until)?;
        }
    }

    /// Reads until nothing is there or the handshake is done. What follows it stays in the link.
    fn read(&self, handshake: &mut Handshake, buffer: &mut [u8]) -> Result<Option<Terms>, OpeningError> {
        loop {
            let (mut terms, mut messages) = (None, 0);
            let reader = Reader { buffer, pool: None, budget_bytes: READ_BUDGET_BYTES, messages_max: 1 };
            self.link.receive(Instant::now(), reader, |event| match event {
                Event::Message(message) => {
                    messages += 1;
                    match handshake.take_in(message.bytes())? {
                        Step::Wait => {}
                        Step::Answer(answer) => self.link.outbox().control(|out| out.extend_from_slice(&answer)),
                        Step::Done(done) => terms = Some(*done),
                    }
                    Ok::<_, OpeningError>(())
                }
                Event::Close(code) => Err(OpeningError::Closed(self.closed(code))),
            })?;
            if terms.is_some() || messages == 0 {
                return Ok(terms);
            }
        }
    }

    fn closed(&self, code: Option<u16>) -> Closed {
        match (self.link.role(), code) {
            (Role::Server, Some(code)) => Closed::Relay(Ended::from(code)),
            (Role::Server | Role::Client, code) => Closed::Gateway(code),
        }
    }
}
