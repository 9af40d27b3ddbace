//! The poller: who is ready. It accepts connections and turns readiness into signals. It reads nothing of links, but for what is not
//! to wait for a turn that has to wait.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::{ServerConfig, ServerConnection};
use tracing::{debug, warn};

use super::registry::Registry;
use crate::budget::{Part, Share};
use crate::http::HEAD_BYTES_MAX;
use crate::http::upgrade::Refusal;
use crate::link::Link;
use crate::runtime::inlet::Inlet;
use crate::runtime::lanes::{Entry, LaneId};
use crate::runtime::queue::Signal;
use crate::stages::accept::{Guest, Pending, RETRY_AFTER_MS, Reason, Retry};
use crate::stages::ws_decode::LinkKeeper as _;
use crate::transport::{TcpOptions, Transport};
use crate::wire::frame::Role;

/// Events taken at once. A thousand ready links are looked at in a few turns.
const EVENTS: usize = 256;

/// Connections accepted in one turn, so that a storm of them does not keep ready links waiting.
const ACCEPTS_A_TURN: usize = 32;

/// How long a listener rests after an error that trying again at once would only repeat (no file descriptors).
const REST_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Under overload so many times fewer handshakes may be under way at once.
const OVERLOAD_HANDSHAKES_DIVISOR: usize = 4;

/// What a link holds of the memory budget while it is idle: itself, its places in the tables and lanes, and the little
/// that is kept of its buffers.
const LINK_BYTES: u64 = 4_096;

/// The same over TLS: rustls keeps a session, and up to a record each way.
const LINK_BYTES_TLS: u64 = LINK_BYTES + 40_960;

/// Tokens from here on are listeners; below it they are links' lanes.
const LISTENERS: usize = 1 << 32;

/// The token of the waker.
const WAKER: Token = Token(usize::MAX);

/// The poller's thread, before it runs.
pub(super) struct Poller {
    poll: Poll,
    listeners: Vec<TcpListener>,
    tcp: TcpOptions,
    registry: Arc<Registry>,
    tls: Option<Arc<ServerConfig>>,
    accept: Inlet<Signal>,
    ws_decode: Inlet<Signal>,
    link_signals: Vec<Entry<Signal>>,
    accept_signals: Vec<Entry<Signal>>,
    /// Links whose readiness is told of.
    told: Vec<LaneId>,
    /// Until then the listeners rest.
    rests_until: Option<Instant>,
}

impl Poller {
    /// Binds `addresses`. What is accepted there sends as `tcp` says.
    ///
    /// # Errors
    /// An address or an option that cannot be had.
    pub(super) fn bind(
        addresses: &[SocketAddr],
        tcp: TcpOptions,
        registry: Arc<Registry>,
        tls: Option<Arc<ServerConfig>>,
        accept: Inlet<Signal>,
        ws_decode: Inlet<Signal>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for address in addresses {
            let mut listener = TcpListener::bind(*address)
                .map_err(|error| io::Error::new(error.kind(), format!("listening on {address}: {error}")))?;
            tcp.apply(&listener)?;
            poll.registry().register(&mut listener, Token(LISTENERS + listeners.len()), Interest::READABLE)?;
            listeners.push(listener);
        }
        let (link_signals, accept_signals, told) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            poll,
            listeners,
            tcp,
            registry,
            tls,
            accept,
            ws_decode,
            link_signals,
            accept_signals,
            told,
            rests_until: None,
        })
    }

    /// The addresses that were bound.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// What wakes the poller so that it sees that the gateway stops.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    /// Runs until `is_over` says so after a wake-up. Once the gateway stops, nobody is accepted any more.
    pub(super) fn run(mut self, is_over: impl Fn() -> bool) {
        let mut events = Events::with_capacity(EVENTS);
        while !is_over() {
            let limit = self.rests_until.map(|until| until.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, limit) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    warn!(%error, "the poller failed");
                    return;
                }
                Ok(()) => {}
            }
            if self.registry.is_stopping() {
                self.listeners.clear();
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    Token(token) if token >= LISTENERS => self.accept_all(token - LISTENERS),
                    Token(token) => self.signal(now, LaneId(token as u32), event),
                }
            }
            if self.rests_until.take_if(|until| *until <= now).is_some() {
                (0..self.listeners.len()).for_each(|index| self.come_back(index));
            }
            let behind = self.link_signals.len() + self.accept_signals.len() > 1;
            self.told.extend(self.link_signals.iter().map(|entry| entry.lane));
            self.ws_decode.push(now, behind, &mut self.link_signals);
            self.registry.listen(&mut self.told);
            self.accept.push(now, true, &mut self.accept_signals);
        }
    }

    fn signal(&mut self, since: Instant, lane: LaneId, event: &mio::event::Event) {
        let Some(link) = self.registry.links.get(lane) else { return };
        let entry = Entry { origin: lane, lane, item: Signal { since } };
        if event.is_read_closed() || event.is_error() {
            link.peer_ends();
        }
        if !link.is_open() {
            self.accept_signals.push(entry);
            return;
        }
        // The end of a connection is told once, and found out by reading.
        if event.is_read_closed() || event.is_error() || event.is_readable() && self.registry.reads_on(&link) {
            self.link_signals.push(entry);
        }
        if event.is_writable()
            && link.is_blocked()
            && let Some(owner) = link.owner()
        {
            self.registry.has_control(owner.lane());
        }
    }

    fn accept_all(&mut self, index: usize) {
        for _ in 0..ACCEPTS_A_TURN {
            let Some(listener) = self.listeners.get(index) else { return };
            match listener.accept() {
                Ok((stream, peer)) => self.take_in(stream, peer.ip()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    debug!(%error, "a connection could not be accepted");
                    self.rests_until = Some(Instant::now() + REST_AFTER_ERROR);
                    return;
                }
            }
        }
        // Readiness is told once: what was left is come back to in the next turn.
        self.come_back(index);
    }

    fn come_back(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        if let Err(error) = self.poll.registry().reregister(listener, Token(LISTENERS + index), Interest::READABLE) {
            warn!(%error, "a listener was lost");
        }
    }

    fn take_in(&mut self, stream: TcpStream, peer: IpAddr) {
        self.registry.metrics.connections_accepted.inc();
        let (guest, memory, lane) = match self.room_for(peer) {
            Ok(room) => room,
            Err(reason) => {
                self.registry.count_refused(reason);
                return refuse_busy(
                    stream,
                    self.tls.is_some(),
                    retry_after_ms(reason, self.registry.terms.overload_retry),
                );
            }
        };
        match self.open(lane, stream, memory) {
            Ok(link) => {
                self.registry.metrics.handshakes.add(1);
                self.registry.pending.put(lane, Arc::new(Pending::new(Arc::clone(&link)).counted_as(guest)));
                // Last, since a link that is found can be ended.
                self.registry.links.put(lane, link);
            }
            Err(error) => {
                debug!(%error, "a connection was lost before it began");
                self.registry.links.release(lane);
            }
        }
    }

    /// What a connection from `peer` needs: a place among those of its address, memory, and a lane.
    fn room_for(&self, peer: IpAddr) -> Result<(Guest, Share, LaneId), Reason> {
        let (registry, is_overloaded) = (&self.registry, self.registry.overload.refuses_tethers());
        let max = registry.terms.handshakes_max;
        // Under overload who comes back to a tether is still let in, which only the hello tells: a few are heard.
        let max = if is_overloaded { (max / OVERLOAD_HANDSHAKES_DIVISOR).max(1) } else { max };
        if registry.metrics.handshakes.get() >= max as u64 {
            return Err(if is_overloaded { Reason::Overload } else { Reason::Full });
        }
        let guest = registry.guests.come(peer).ok_or(Reason::AddressLimit)?;
        let mut memory = registry.pool.budget().share(Part::Links);
        if !memory.set(if self.tls.is_some() { LINK_BYTES_TLS } else { LINK_BYTES }) {
            return Err(Reason::Overload);
        }
        Ok((guest, memory, registry.links.reserve().ok_or(Reason::Full)?))
    }

    fn open(&self, lane: LaneId, stream: TcpStream, memory: Share) -> io::Result<Arc<Link>> {
        let tls = match &self.tls {
            Some(config) => Some(ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?.into()),
            None => None,
        };
        self.tcp.connected(&stream);
        let mut transport = Transport::new(stream, tls)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(transport.source(), Token(lane.0 as usize), interest)?;
        let messages = self.registry.pool.budget().share(Part::Messages);
        Ok(Arc::new(Link::new(lane, transport, Role::Server, Instant::now()).drawing_on(memory, messages)))
    }
}

fn retry_after_ms(reason: Reason, overload: Retry) -> u32 {
    if reason == Reason::Overload { overload.draw_ms() } else { RETRY_AFTER_MS }
}

/// Says in plain HTTP that there is no room; over TLS a handshake would cost more than the refusal is worth.
fn refuse_busy(stream: TcpStream, is_encrypted: bool, retry_after_ms: u32) {
    if !is_encrypted {
        let refusal = Refusal::Busy { retry_after_s: retry_after_ms.div_ceil(1_000) };
        // Who cannot be told is closed without a word.
        drop(io::Write::write(&mut &stream, &refusal.response()));
        drop(stream.shutdown(std::net::Shutdown::Write));
        // A socket that is closed over an unread request is reset, and the refusal lost.
        drop(io::Read::read(&mut &stream, &mut [0; HEAD_BYTES_MAX]));
    }
}
