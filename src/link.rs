//! A link: one WebSocket connection that serves a tether, at whichever end.
//!
//! Reading and writing have a lock each, so that the thread that reads a link and the one that writes it do not wait for
//! each other. Bytes are counted both ways for the window: what stands between the two ends is what was sent and has
//! not been acknowledged.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::budget::Share;
use crate::packet::{Buf, BufPool, Offload};
use crate::runtime::lanes::LaneId;
use crate::tether_links::TetherLinks;
use crate::transport::Transport;
use crate::window::Window;
use crate::wire::capsule::{DATAGRAM_HEADER_BYTES_MAX, Features, datagram_header};
use crate::wire::frame::{Decoder, FrameError, Role, Subprotocol};

mod acknowledge;
mod ear;
mod inbox;
mod outbox;
#[cfg(test)]
pub(crate) mod testing;

pub use acknowledge::{ACK_DELAY_MS, ACK_EVERY_BYTES, ACK_SMALL_BYTES, ACK_TURNS_MAX};
pub use ear::Heard;
use inbox::Inbox;
pub use inbox::{Event, Message, Reader, Turn, read_buffer_bytes};
pub use outbox::Outbox;

/// Bytes that one batch may put into a link: some messages of what a browser relays best, so that a fast link has one
/// system call for them, and little enough that a tether cannot keep a thread for long (0.2 ms at 10 Gbit/s).
pub const BATCH_BYTES_MAX: u64 = 262_144;

/// The most that a thread reads from links before the next ones have their turn.
pub const READ_BUDGET_BYTES: usize = 262_144;

/// The least of it that one link's turn brings: some large packets, or two dozen small ones, so that the turn is worth its cost. By
/// measurement, docs/decisions/0004-credit.md.
pub const READ_TURN_BYTES_MIN: usize = 4_096;

/// The same where no other is there to have a turn: to leave the rest to another thread costs more than to go on, and
/// it is not for long (0.8 ms at 10 Gbit/s).
pub const READ_BUDGET_ALONE_BYTES: usize = 4 * READ_BUDGET_BYTES;

/// The shortest packet that there is (RFC 791, 3.1).
const IPV4_HEADER_BYTES: u64 = 20;

/// One WebSocket connection.
#[derive(Debug)]
pub struct Link {
    lane: LaneId,
    transport: Transport,
    role: Role,
    subprotocol: OnceLock<Subprotocol>,
    owner: OnceLock<Arc<TetherLinks>>,
    features: OnceLock<Features>,
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    open: AtomicBool,
    closed: AtomicBool,
    /// The socket takes no more until it is writable again.
    blocked: AtomicBool,
    /// Behind what is to be read is the connection's end, and readiness has told of it.
    peer_ends: AtomicBool,
    counts: Counts,
    /// Known once the link serves a tether, which says how large it may get.
    window: OnceLock<Mutex<Window>>,
    born: Instant,
    /// Milliseconds after `born` at which the peer was last heard.
    heard_ms: AtomicU64,
    /// The same for when the peer was last asked for a sign of life.
    asked_ms: AtomicU64,
    /// Microseconds after `born` from which on the peer may be told at once again what has come.
    ack_from_us: AtomicU64,
    ack_is_scheduled: AtomicBool,
    /// Somebody comes back to it when it may have credit to give.
    credit_is_put_off: AtomicBool,
    /// How often the scheduled acknowledgement was put off.
    ack_turns: AtomicU32,
    _memory: Option<Share>,
}

/// Bytes of DATAGRAM capsules since the link began.
#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    /// What the peer was last told of `received`.
    received_told: AtomicU64,
    sent: AtomicU64,
    /// What the peer said that it has received.
    sent_acked: AtomicU64,
    /// Up to where the peer lets us send.
    credit: AtomicU64,
    /// Up to where the peer was last told that it may send.
    credit_told: AtomicU64,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer closed its side.
    #[error("the peer closed the connection")]
    Ended,
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// There is no memory for the part of a message that has come.
    #[error("the gateway is out of memory for unfinished messages")]
    NoMemory,
    /// The peer broke a rule of RFC 6455.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

impl Link {
    /// A link over a transport whose upgrade is still to come.
    pub fn new(lane: LaneId, transport: Transport, role: Role, now: Instant) -> Self {
        Self {
            lane,
            transport,
            role,
            subprotocol: OnceLock::new(),
            owner: OnceLock::new(),
            features: OnceLock::new(),
            inbox: Mutex::new(Inbox::default()),
            outbox: Mutex::new(Outbox::default()),
            open: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            peer_ends: AtomicBool::new(false),
            counts: Counts { credit: AtomicU64::new(u64::MAX), ..Counts::default() },
            window: OnceLock::new(),
            born: now,
            heard_ms: AtomicU64::new(0),
            asked_ms: AtomicU64::new(0),
            ack_from_us: AtomicU64::new(0),
            ack_is_scheduled: AtomicBool::new(false),
            credit_is_put_off: AtomicBool::new(false),
            ack_turns: AtomicU32::new(0),
            _memory: None,
        }
    }

    /// Has the link hold `itself` of a memory budget, and draw what it keeps of unfinished messages through `messages`.
    #[must_use]
    pub fn drawing_on(mut self, itself: Share, messages: Share) -> Self {
        self.inbox.get_mut().unwrap_or_else(PoisonError::into_inner).memory = Some(messages);
        self._memory = Some(itself);
        self
    }

    /// The same link at another lane: one whose handshake is under way has no place of its own yet.
    #[must_use]
    pub fn at(self, lane: LaneId) -> Self {
        Self { lane, ..self }
    }

    /// The link's lane, which is its place in the table of links.
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// Which end of the WebSocket this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The connection below.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The tether that this link serves, once it was welcomed.
    pub fn owner(&self) -> Option<&Arc<TetherLinks>> {
        self.owner.get()
    }

    /// When the link began.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// When the peer was last heard.
    pub fn heard(&self) -> Instant {
        self.born + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }

    /// The upgrade is done: from now on frames are spoken. `rest` are bytes that came behind the upgrade.
    pub fn upgraded(&self, subprotocol: Subprotocol, message_bytes_max: usize, rest: &[u8]) {
        let mut inbox = locked(&self.inbox);
        inbox.decoder = Some(Decoder::new(self.role, subprotocol, message_bytes_max));
        inbox.tail.extend_from_slice(rest);
        self.subprotocol.get_or_init(|| subprotocol);
    }

    /// The handshake is done: the link serves `owner`, with messages up to `message_bytes_max`.
    pub fn opened(&self, owner: Arc<TetherLinks>, features: Features, message_bytes_max: usize, credit: Option<u64>) {
        if let Some(decoder) = &mut locked(&self.inbox).decoder {
            decoder.set_message_bytes_max(message_bytes_max);
        }
        if let Some(credit) = credit {
            self.counts.credit.store(credit, Ordering::Relaxed);
        }
        self.features.get_or_init(|| features);
        self.window.get_or_init(|| Mutex::new(owner.window(self.born)));
        // What held of the tether's link before says nothing of this one.
        owner.set_cut_bytes(self.cut_bytes().unwrap_or(u64::MAX));
        self.owner.get_or_init(|| owner);
        self.open.store(true, Ordering::Release);
    }

    /// Whether the handshake is done and the link not closed.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && !self.is_closed()
    }

    /// Whether the link was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether the socket takes no more until it is writable again. While somebody writes it may only seem so: who has just
    /// written goes by what [`Link::flush`] told.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    /// Readiness has told that the peer sends no more: it will not tell again, so the end is to be read.
    pub fn peer_ends(&self) {
        self.peer_ends.store(true, Ordering::Release);
    }

    /// What the peer can take.
    pub fn features(&self) -> Features {
        self.features.get().copied().unwrap_or_default()
    }

    /// Counts a received DATAGRAM capsule.
    pub fn count_received(&self, capsule_bytes: usize) {
        self.counts.received.fetch_add(capsule_bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of DATAGRAM capsules received.
    pub fn received_bytes(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }

    /// The peer has received up to `bytes`; `false` where that goes back, or beyond what was sent.
    #[must_use]
    pub fn acked(&self, now: Instant, bytes: u64) -> bool {
        let is_possible = bytes <= self.counts.sent.load(Ordering::Relaxed)
            && self.counts.sent_acked.fetch_max(bytes, Ordering::Relaxed) <= bytes;
        if let Some(window) = self.window.get().filter(|_| is_possible) {
            let resized = {
                let mut window = locked(window);
                window.acked(now, bytes);
                window.take_resized()
            };
            for resized in resized.into_iter().flatten() {
                self.owner.get().inspect(|owner| owner.tell_window(now, resized));
            }
        }
        is_possible
    }

    /// The peer lets us send up to `bytes`. Never goes back.
    pub fn credited(&self, bytes: u64) {
        self.counts.credit.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Bytes sent and not yet acknowledged.
    pub fn in_flight_bytes(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed).saturating_sub(self.counts.sent_acked.load(Ordering::Relaxed))
    }

    /// Bytes that the peer has acknowledged.
    pub fn acked_bytes(&self) -> u64 {
        self.counts.sent_acked.load(Ordering::Relaxed)
    }

    /// Bytes of packets that may be sent now: what the window and the peer's credit leave, and no more than one batch.
    pub fn sendable_bytes(&self) -> u64 {
        let sent = self.counts.sent.load(Ordering::Relaxed);
        let credit = packet_bytes_within(self.counts.credit.load(Ordering::Relaxed).saturating_sub(sent));
        let Some(window) = self.window.get() else { return 0 };
        let mut window = locked(window);
        let sendable = window.sendable_bytes(self.in_flight_bytes());
        if sendable == 0 {
            window.full();
        }
        credit.min(sendable).min(BATCH_BYTES_MAX)
    }

    /// Bytes that the window lets be on their way.
    pub fn window_bytes(&self) -> u64 {
        self.window.get().map_or(0, |window| locked(window).bytes())
    }

    /// The smallest round trip of late, where one is known.
    pub fn smallest_round_trip(&self) -> Option<Duration> {
        locked(self.window.get()?).smallest()
    }

    /// The most bytes that a super-packet should have; `None` where the link is fast.
    pub fn cut_bytes(&self) -> Option<u64> {
        locked(self.window.get()?).cut_bytes()
    }

    /// Has the window know what was put into the outbox: before it is flushed, or its acknowledgement may come first.
    pub fn note_sent(&self, now: Instant) {
        if let Some(window) = self.window.get() {
            locked(window).sent(now, self.counts.sent.load(Ordering::Relaxed));
        }
    }

    /// Has the window know that the socket holds back what is to be sent.
    pub fn note_blocked(&self) {
        if let Some(window) = self.window.get() {
            locked(window).blocked();
        }
    }

    /// Up to where the peer was last told that it may send.
    pub fn credit_told_bytes(&self) -> u64 {
        self.counts.credit_told.load(Ordering::Relaxed)
    }

    /// The locked outbox, to put messages in and flush it.
    pub fn outbox(&self) -> MutexGuard<'_, Outbox> {
        locked(&self.outbox)
    }

    /// Puts one packet, as a DATAGRAM capsule, into the message that is being filled.
    pub fn push_datagram(&self, outbox: &mut Outbox, mut buf: Buf, offload: Offload) {
        let header = datagram_header(buf.len(), offload);
        let Some(room) = buf.prepend(header.len()) else { return };
        room.copy_from_slice(&header);
        self.counts.sent.fetch_add(buf.len() as u64, Ordering::Relaxed);
        outbox.push(buf);
    }

    /// The upgrade was agreed on; `None` before.
    pub fn subprotocol(&self) -> Option<Subprotocol> {
        self.subprotocol.get().copied()
    }

    /// Frames what the outbox holds and writes what the socket takes. Tells whether it takes no more until it is writable
    /// again.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&self, outbox: &mut Outbox, pool: &BufPool) -> io::Result<bool> {
        if self.is_closed() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.write(outbox, pool)
    }

    fn write(&self, outbox: &mut Outbox, pool: &BufPool) -> io::Result<bool> {
        let subprotocol = self.subprotocol.get().copied().unwrap_or(Subprotocol::Binary);
        // Said before the socket is tried: a readiness event that comes between the try and its result finds it.
        let was_blocked = self.blocked.swap(true, Ordering::SeqCst);
        let mut blocked = self.transport.flush()?;
        if was_blocked && !blocked {
            blocked = self.write_framed(outbox)?;
        }
        // Nothing is framed that the socket does not take: a peer that does not read would have it pile up here.
        while !blocked && outbox.frame(subprotocol, self.role, pool) {
            blocked = self.write_framed(outbox)?;
        }
        self.blocked.store(blocked, Ordering::Release);
        Ok(blocked)
    }

    /// Writes what is framed, until the socket takes no more; tells whether that was so.
    fn write_framed(&self, outbox: &mut Outbox) -> io::Result<bool> {
        let mut blocked = false;
        while !blocked && !outbox.is_empty() {
            blocked = outbox.write_to(|slices: &[IoSlice<'_>]| self.transport.write(slices))?.blocked;
        }
        Ok(blocked)
    }

    /// Sends a close frame with `code` behind what waits, as far as the socket takes it, and ends the connection behind
    /// it. What the socket does not take is left to [`Link::see_off`].
    pub fn close(&self, code: u16, reason: &str, pool: &BufPool) {
        let mut outbox = self.outbox();
        // Under the outbox's lock: nothing is written behind the close frame.
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.subprotocol.get().is_some() {
            outbox.close(code, reason);
            // A socket that fails is found out again by whoever sees the link off.
            drop(self.write(&mut outbox, pool));
        }
        if !self.is_blocked() {
            self.transport.finish();
        }
    }

    /// Goes on with the end of a closed link: writes what is left of its goodbye, and reads what still comes, which is of
    /// no use to anybody. The kernel would reset a connection that is closed over unread bytes, and the goodbye would be
    /// lost. `true` once the peer has hung up too.
    pub fn see_off(&self, scratch: &mut [u8], pool: &BufPool) -> bool {
        if self.is_blocked() {
            let mut outbox = self.outbox();
            if self.write(&mut outbox, pool).is_err() {
                return true;
            }
            if !self.is_blocked() {
                self.transport.finish();
            }
        }
        let mut read_bytes = 0;
        while read_bytes < READ_BUDGET_BYTES {
            match self.transport.read(scratch) {
                Ok(0) => return true,
                Ok(count) => read_bytes += count,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        false
    }

    /// Ends the connection behind what was written, without a close frame.
    pub fn finish(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.transport.finish();
        }
    }

    /// Whether the peer was not asked for a sign of life within `every`; marks it as asked.
    pub fn ping_is_due(&self, now: Instant, every: Duration) -> bool {
        let now_ms = now.saturating_duration_since(self.born).as_millis() as u64;
        let asked = self.asked_ms.load(Ordering::Relaxed);
        let is_due = now_ms.saturating_sub(asked) >= every.as_millis() as u64;
        if is_due {
            self.asked_ms.store(now_ms, Ordering::Relaxed);
        }
        is_due
    }

    /// Marks the link as ended, without a word to the peer.
    pub fn abandon(&self) {
        // One that was closed with a word is left to finish it.
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.transport.shut();
        }
    }
}

/// Bytes of packets of which each begins within `credit` bytes, whatever they are: credit counts capsules with their headers,
/// and the fewer bytes a packet has, the more of it is header.
fn packet_bytes_within(credit: u64) -> u64 {
    let capsule_bytes = IPV4_HEADER_BYTES + DATAGRAM_HEADER_BYTES_MAX as u64;
    // Credit without an end is more than can be multiplied, and than any batch.
    (credit.min(u64::MAX / IPV4_HEADER_BYTES) * IPV4_HEADER_BYTES).div_ceil(capsule_bytes)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
