//! accept: what a connection goes through before it may carry a packet: TLS, upgrade, hello.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::{self, HEAD_BYTES_MAX, HeadError, upgrade};
use crate::link::{Event, Link, LinkError, READ_BUDGET_BYTES, Reader, Turn, read_buffer_bytes};
use crate::packet::{BufPool, Packet, Raw};
use crate::runtime::queue::Latch;
use crate::runtime::work::{Handler, WorkOf};
use crate::stages::ip_parse::Parsed;
use crate::table::Table;
use crate::wire::HANDSHAKE_MESSAGE_BYTES_MAX;
use crate::wire::capsule::{Capsule, Capsules, Challenge, Hello, Refusal, RefusalReason};
use crate::wire::frame::{Subprotocol, close_code};
use crate::wire::proof::Nonce;

mod guests;
#[cfg(test)]
mod tests;

pub use guests::{Guest, Guests};

crate::reasons! {
    /// Why a connection comes to nothing.
    pub enum Reason {
        /// As many connections as may be.
        Full = "full",
        /// It took longer than it may.
        TooSlow = "too_slow",
        /// Not a request for a WebSocket of ours.
        BadRequest = "bad_request",
        /// Frames or capsules against the rules.
        BadHandshake = "bad_handshake",
        /// The credential is unknown, or the proof wrong.
        BadCredential = "bad_credential",
        /// No address or place is free.
        NoAddress = "no_address",
        /// The gateway has too much to do, or is nearly out of memory.
        Overload = "overload",
        /// As many connections from this address as may be before they have proven who they are.
        AddressLimit = "address_limit",
        /// The credential has as many tethers as it may have.
        AlreadyConnected = "already_connected",
        /// The peer left, TLS failures included.
        PeerLeft = "peer_left",
    }
}

/// A connection before its welcome.
#[derive(Debug)]
pub struct Pending {
    link: Arc<Link>,
    /// Its place among those of its address.
    _guest: Option<Guest>,
    state: Mutex<State>,
}

impl Pending {
    /// A connection that has said nothing.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link, _guest: None, state: Mutex::new(State::Head(Vec::new())) }
    }

    /// Has the connection take the place of `guest` until it is judged.
    #[must_use]
    pub fn counted_as(self, guest: Guest) -> Self {
        Self { _guest: Some(guest), ..self }
    }

    /// Ends the wait for its hello; `false` where it was judged already. What is judged now is judged before or not at
    /// all.
    pub fn give_up(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(std::mem::replace(&mut *state, State::Over), State::Over)
    }

    /// Its link.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

#[derive(Debug)]
enum State {
    /// The request's head is coming.
    Head(Vec<u8>),
    /// Challenged; the hello is coming.
    Hello(Challenge),
    /// Welcomed or refused.
    Over,
}

/// Who decides about a proven or unproven client.
pub trait Doorkeeper: Send + Sync + 'static {
    /// Judges a hello: opens the link and sends the welcome, or says why not.
    ///
    /// # Errors
    /// The refusal to be sent.
    fn admit(&self, now: Instant, link: &Arc<Link>, challenge: &Challenge, hello: &Hello) -> Result<(), Refusal>;

    /// The connection comes to nothing.
    fn turn_away(&self, link: &Arc<Link>, reason: Reason);

    /// The link is open: whatever follows is ws-decode's.
    fn opened(&self, link: &Arc<Link>);
}

/// The stage's handler.
#[derive(Debug)]
pub struct Accept<D> {
    /// Connections before their welcome, at the lane of their link.
    pub pending: Arc<Table<Pending>>,
    /// Where messages with packets would get their memory; what accept says needs none of it.
    pub pool: BufPool,
    /// The path of the WebSocket.
    pub path: String,
    /// Who decides.
    pub door: Arc<D>,
}

enum Stop {
    /// Not our business any more, or all is said: wait for the next event.
    Wait,
    /// To be refused in HTTP.
    Http(Vec<u8>),
    /// To be refused in a capsule.
    Refuse(Refusal),
    Link(LinkError),
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::Wait } else { Self::Link(error.into()) }
    }
}

impl<D: Doorkeeper> Handler for Accept<D> {
    type Queue = Latch;
    type Out = Packet<Raw>;
    type Turned = Packet<Parsed>;
    const COUNTS_ITEMS: bool = false;

    fn handle(&self, now: Instant, work: &mut WorkOf<Self>) {
        work.batch.items.clear();
        for &lane in &work.batch.lanes {
            let Some(pending) = self.pending.get(lane) else { continue };
            if pending.link.is_open() {
                self.door.opened(&pending.link);
                continue;
            }
            let mut state = pending.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(stop) = self.advance(now, &pending.link, &mut state) {
                self.end(&pending.link, &mut state, stop);
            }
        }
    }
}

impl<D: Doorkeeper> Accept<D> {
    fn advance(&self, now: Instant, link: &Arc<Link>, state: &mut State) -> Result<(), Stop> {
        if let State::Over = state {
            // Judged or given up since it was found: whoever did that has counted it and closed the link.
            return Ok(());
        }
        if let State::Head(head) = state {
            let challenge = self.upgrade(link, head)?;
            *state = State::Hello(challenge);
        }
        link.flush(&mut link.outbox(), &self.pool)?;
        if let State::Hello(challenge) = state
            && let Some(hello) = read_hello(now, link)?
        {
            self.door.admit(now, link, challenge, &hello).map_err(Stop::Refuse)?;
            *state = State::Over;
            link.flush(&mut link.outbox(), &self.pool)?;
            self.door.opened(link);
        }
        Ok(())
    }

    /// Reads the request; once it is whole, answers it and challenges.
    fn upgrade(&self, link: &Link, head: &mut Vec<u8>) -> Result<Challenge, Stop> {
        // Of TLS: what a full socket kept back of the handshake.
        link.transport().flush()?;
        loop {
            let mut chunk = [0; HEAD_BYTES_MAX];
            let count = link.transport().read(&mut chunk)?;
            if count == 0 {
                return Err(Stop::Link(LinkError::Ended));
            }
            head.extend_from_slice(&chunk[..count]);
            let parsed = http::parse_head(head).map_err(|error: HeadError| Stop::Http(error.response()))?;
            let Some((request, consumed)) = parsed else { continue };
            let accepted = upgrade::upgrade(&request, &self.path, &Subprotocol::ALL)
                .map_err(|refusal| Stop::Http(refusal.response()))?;
            let nonce = Nonce::random().map_err(|_| Stop::Refuse(busy("the gateway has no random numbers")))?;
            let challenge = Challenge { nonce };
            link.outbox().raw(&accepted.response);
            link.upgraded(accepted.subprotocol, HANDSHAKE_MESSAGE_BYTES_MAX, &head[consumed..]);
            link.outbox().control(|out| challenge.append(out));
            return Ok(challenge);
        }
    }

    fn end(&self, link: &Arc<Link>, state: &mut State, stop: Stop) {
        let reason = match stop {
            Stop::Wait => return,
            Stop::Http(response) => {
                let mut outbox = link.outbox();
                outbox.raw(&response);
                // Who does not take its refusal goes without.
                drop(link.flush(&mut outbox, &self.pool));
                Reason::BadRequest
            }
            Stop::Refuse(refusal) => self.refuse(link, &refusal),
            Stop::Link(LinkError::Frame(error)) => {
                link.close(error.close_code(), &error.to_string(), &self.pool);
                Reason::BadHandshake
            }
            Stop::Link(error @ LinkError::NoMemory) => {
                link.close(close_code::TRY_AGAIN_LATER, &error.to_string(), &self.pool);
                Reason::Full
            }
            Stop::Link(LinkError::Ended | LinkError::Socket(_)) => Reason::PeerLeft,
        };
        *state = State::Over;
        self.door.turn_away(link, reason);
    }

    fn refuse(&self, link: &Link, refusal: &Refusal) -> Reason {
        link.outbox().control(|out| refusal.append(out));
        link.close(refusal.reason.close_code(), refusal.reason.label(), &self.pool);
        match refusal.reason {
            RefusalReason::BadCredential => Reason::BadCredential,
            RefusalReason::NoAddress => Reason::NoAddress,
            RefusalReason::Busy => Reason::Overload,
            RefusalReason::AlreadyConnected => Reason::AlreadyConnected,
            RefusalReason::UnsupportedVersion
            | RefusalReason::ShuttingDown
            | RefusalReason::BadHandshake
            | RefusalReason::Other(_) => Reason::BadHandshake,
        }
    }
}

fn busy(text: &str) -> Refusal {
    Refusal { reason: RefusalReason::Busy, retry_after_ms: RETRY_AFTER_MS, text: text.to_owned() }
}

/// When a client that was refused for lack of something may try again: a second or so frees a place.
pub const RETRY_AFTER_MS: u32 = 1_000;

/// When clients that were refused under overload may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The least time until then.
    pub after: Duration,
    /// How far those times are spread, so that who was refused together does not come back together.
    pub spread: Duration,
}

impl Retry {
    /// No rung of the ladder is left sooner.
    pub const DEFAULT: Self = Self { after: Duration::from_secs(2), spread: Duration::from_secs(4) };

    /// Such a time, in milliseconds.
    pub fn draw_ms(&self) -> u32 {
        // A system without random numbers has told so at the start; everybody then comes at the latest time.
        let drawn = getrandom::u32().unwrap_or(u32::MAX);
        self.after.as_millis() as u32 + ((u128::from(drawn) * self.spread.as_millis()) >> 32) as u32
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Messages that are read for a hello: a peer may send empty ones, and capsules that are not known here.
const MESSAGES_MAX: usize = 8;

fn read_hello(now: Instant, link: &Link) -> Result<Option<Hello>, Stop> {
    let mut hello = None;
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(read_buffer_bytes(HANDSHAKE_MESSAGE_BYTES_MAX), 0);
        for _ in 0..MESSAGES_MAX {
            // One at a time: what is behind the hello is not accept's.
            let reader = Reader { buffer, pool: None, budget_bytes: READ_BUDGET_BYTES, messages_max: 1 };
            let turn = link.receive(now, reader, |event| match event {
                Event::Message(message) => {
                    hello = hello_of(message.bytes())?;
                    Ok::<_, Stop>(())
                }
                Event::Close(_) => Err(Stop::Link(LinkError::Ended)),
            })?;
            if hello.is_some() || turn == Turn::Drained {
                return Ok(hello);
            }
        }
        Err(bad_handshake("too much before HELLO".to_owned()))
    })
}

/// The hello in a message; none where there is nothing in it.
fn hello_of(message: &[u8]) -> Result<Option<Hello>, Stop> {
    let mut capsules = Capsules::new(message);
    let hello = match capsules.next() {
        None => return Ok(None),
        Some(Ok(Capsule::Hello(hello))) => *hello,
        Some(Ok(Capsule::OtherVersion(_))) => {
            return Err(refuse(RefusalReason::UnsupportedVersion, "this gateway speaks version 1".to_owned()));
        }
        Some(Err(error)) => return Err(bad_handshake(error.to_string())),
        Some(Ok(_)) => return Err(bad_handshake("the first capsule must be HELLO".to_owned())),
    };
    match capsules.next() {
        None => Ok(Some(hello)),
        Some(_) => Err(bad_handshake("nothing may follow HELLO before WELCOME".to_owned())),
    }
}

fn bad_handshake(text: String) -> Stop {
    refuse(RefusalReason::BadHandshake, text)
}

fn refuse(reason: RefusalReason, text: String) -> Stop {
    Stop::Refuse(Refusal { reason, retry_after_ms: 0, text })
}
