//! ws-decode: reads a link, decodes frames, splits capsules into packets.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use crate::link::{
    Event, Heard, Link, LinkError, Message, READ_BUDGET_ALONE_BYTES, READ_BUDGET_BYTES, READ_TURN_BYTES_MIN, Reader,
    Turn, read_buffer_bytes,
};
use crate::packet::{Buf, BufPool, COPIED_BYTES_MAX, Offload, PACKET_BYTES_MAX, Packet, Raw};
use crate::runtime::lanes::{Entry, LaneId, Outcome};
use crate::runtime::queue::Latch;
use crate::runtime::work::{Handler, Tally, WorkOf};
use crate::stages::Reason as _;
use crate::stages::ip_parse::Parsed;
use crate::table::Table;
use crate::tether_links::TetherLinks;
use crate::wire::capsule::{Capsule, CapsuleError, Capsules, CloseReason, Datagram, append_close};
use crate::wire::frame::close_code;

#[cfg(test)]
mod tests;

crate::reasons! {
    /// Why ws-decode drops a packet.
    pub enum Reason {
        /// A datagram in a context that was not agreed.
        UnknownContext = "unknown_context",
        /// The tether has more in the gateway than its credit allows.
        OverCredit = "over_credit",
        /// The buffer pool is at its limit.
        NoBuffer = "no_buffer",
    }
}

/// What ws-decode tells whoever keeps the links.
pub trait LinkKeeper: Send + Sync + 'static {
    /// There is something to be sent on a link of this tether beside packets.
    fn has_control(&self, tether: LaneId);

    /// The link owes an acknowledgement that may wait for a message to ride on.
    fn ack_later(&self, link: &Arc<Link>);

    /// Wakes whoever sends the acknowledgements that [`LinkKeeper::ack_later`] noted, where nobody was woken for them yet.
    fn wake_for_acks(&self);

    /// Whether a link is read though what was read of it was not all: not for what its peer sends while the pipeline drains.
    fn reads_on(&self, _link: &Link) -> bool {
        true
    }

    /// The link is to be closed with this code.
    fn close(&self, link: &Arc<Link>, code: u16, reason: &str);

    /// The peer has closed the link, with this reason if it gave one.
    fn closed(&self, link: &Arc<Link>, reason: Option<CloseReason>);

    /// The link is at its end.
    fn ended(&self, link: &Arc<Link>, error: &LinkError);
}

/// The stage's handler.
#[derive(Debug)]
pub struct WsDecode<K> {
    /// Every link at its lane.
    pub links: Arc<Table<Link>>,
    /// Where packets get their memory.
    pub pool: BufPool,
    /// The largest message, which sets the size of a thread's read buffer.
    pub message_bytes_max: usize,
    /// Who keeps the links.
    pub keeper: Arc<K>,
}

/// Hears what a link has to say beside its packets, which wait for room further on: acknowledgements are not to wait with them,
/// nor are the pings in between. To hear costs about what a small packet does, so only a link that owes an acknowledgement is
/// heard. For a thread that knows of the link's readiness, and has nothing of its turn.
pub fn listen(keeper: &impl LinkKeeper, now: Instant, link: &Link, message_bytes_max: usize) -> Heard {
    let owes = !link.is_closed() && link.in_flight_bytes() > 0;
    let Some(tether) = link.owner().filter(|_| owes) else { return Heard::default() };
    let mut was_acked = false;
    let heard = with_buffer(message_bytes_max, |buffer| {
        link.listen(now, buffer, |message| {
            let mut capsules = Capsules::agreed(link.features(), message);
            capsules.all(|capsule| match capsule {
                Ok(Capsule::Ack(bytes)) => {
                    was_acked = true;
                    acked(now, link, tether, bytes)
                }
                Ok(_) => true,
                // What breaks a rule does so in the link's turn, behind what came before it.
                Err(_) => false,
            })
        })
    });
    if was_acked && tether.window_opened() || heard.pings > 0 {
        keeper.has_control(tether.lane());
    }
    heard
}

/// Takes note of an acknowledgement; `false` where it breaks a rule.
fn acked(now: Instant, link: &Link, tether: &TetherLinks, bytes: u64) -> bool {
    let is_possible = link.acked(now, bytes);
    // A link that was replaced says nothing of the one in its place.
    if is_possible && tether.to_send().is_some_and(|newest| std::ptr::eq(&raw const *newest, link)) {
        tether.set_cut_bytes(link.cut_bytes().unwrap_or(u64::MAX));
    }
    is_possible
}

/// Writes the acknowledgement from this thread where the link is free: to wake another one for it costs both ends more than
/// the message does.
pub fn tell_received(keeper: &impl LinkKeeper, now: Instant, link: &Arc<Link>, tether: &TetherLinks, pool: &BufPool) {
    match link.try_tell_received(now, tether.grant(now, link), pool) {
        Ok(true) => {}
        Ok(false) => keeper.has_control(tether.lane()),
        Err(error) => keeper.ended(link, &error.into()),
    }
}

/// What a client may be over its credit: it stops behind the packet that crosses the line. That may be a super-packet which it
/// had to cut, of about twice the bytes where segments are as short as the headers that each of them repeats.
const SLACK_BYTES: u64 = 2 * PACKET_BYTES_MAX as u64;

/// What each of so many links that wait may bring in its turn. Together they bring what one thread reads before others have
/// theirs: where all of what has come of a link were read, each round over many of them would take longer than the one before
/// while more comes than leaves, and whose turn was last would have got twice what the others have.
fn turn_bytes(links: usize) -> usize {
    match links {
        0 | 1 => READ_BUDGET_ALONE_BYTES,
        several => (READ_BUDGET_BYTES / several).max(READ_TURN_BYTES_MIN),
    }
}

thread_local! {
    /// The read buffer: one a thread, so that an idle link holds none.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn with_buffer<T>(message_bytes_max: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        let bytes = read_buffer_bytes(message_bytes_max);
        if buffer.len() < bytes {
            // Zeros of the allocator's, so that what is never read to takes no memory.
            *buffer = vec![0; bytes];
        }
        use_it(buffer)
    })
}

/// Why a turn of reading ended before its time.
enum Stop {
    Link(LinkError),
    Capsule(CapsuleError),
    /// A capsule that the peer may not send, or not now.
    Unexpected(&'static str),
    /// The peer said goodbye.
    Close(Option<CloseReason>),
    /// The gateway has other terms for the tether, which are taken up by the handshake of the next link.
    OtherTerms,
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl<K: LinkKeeper> Handler for WsDecode<K> {
    type Queue = Latch;
    type Out = Packet<Raw>;
    type Turned = Packet<Parsed>;
    const COUNTS_ITEMS: bool = false;

    fn handle(&self, now: Instant, work: &mut WorkOf<Self>) {
        let mut signals = work.batch.items.drain(..).peekable();
        let budget_bytes = turn_bytes(work.batch.lanes.len() + work.batch.others);
        for index in 0..work.batch.lanes.len() {
            let lane = work.batch.lanes[index];
            let signalled =
                std::iter::from_fn(|| signals.next_if(|entry| entry.lane == lane)).map(|entry| entry.item.since).min();
            let Some(link) = self.links.get(lane) else { continue };
            let Some(tether) = link.owner().cloned().filter(|_| !link.is_closed()) else { continue };
            let before = work.out.len();
            let turn = self.read(now, budget_bytes, &link, &tether, &mut work.out, &mut work.tally);
            if work.out.len() > before {
                tether.stir();
            }
            // What is inside of it: not what was dropped here.
            let bytes = work.out[before..].iter().map(|entry| entry.item.bytes().len() as u64).sum();
            tether.was_read(now, bytes, signalled, matches!(turn, Ok(Turn::More)));
            self.acknowledge(now, &link, &tether);
            match turn {
                Ok(Turn::Drained) => {}
                Ok(Turn::More) if !self.keeper.reads_on(&link) => {}
                Ok(Turn::More) => work.outcomes.push((lane, Outcome { again: true, ..Outcome::default() })),
                Err(stop) => self.end(&link, &stop),
            }
        }
    }

    fn handed_on(&self) {
        self.keeper.wake_for_acks();
    }
}

/// A DATAGRAM capsule without its bytes.
#[derive(Clone, Copy)]
struct Came {
    /// Bytes of its payload.
    bytes: usize,
    /// `None` where its context was not agreed.
    offload: Option<Offload>,
    capsule_bytes: usize,
}

impl<K: LinkKeeper> WsDecode<K> {
    fn read(
        &self,
        now: Instant,
        budget_bytes: usize,
        link: &Arc<Link>,
        tether: &Arc<TetherLinks>,
        out: &mut Vec<Entry<Packet<Raw>>>,
        tally: &mut Tally,
    ) -> Result<Turn, Stop> {
        with_buffer(self.message_bytes_max, |buffer| {
            let reader = Reader { buffer, pool: Some(&self.pool), budget_bytes, messages_max: usize::MAX };
            link.receive(now, reader, |event| match event {
                Event::Message(message) => self.take_apart(now, link, tether, message, out, tally),
                Event::Close(_) => Err(Stop::Close(None)),
            })
        })
    }

    /// Takes a message's packets in and obeys its other capsules. Packets are copied into buffers of their size, but for a
    /// large one at the end of a message with a buffer of its own: that is what a super-packet is sent as, and it stays there.
    fn take_apart(
        &self,
        now: Instant,
        link: &Arc<Link>,
        tether: &Arc<TetherLinks>,
        message: Message<'_>,
        out: &mut Vec<Entry<Packet<Raw>>>,
        tally: &mut Tally,
    ) -> Result<(), Stop> {
        let (mut stays, mut capsules) = (None, Capsules::agreed(link.features(), message.bytes()));
        let was_heard = matches!(message, Message::Heard(_));
        while let Some(capsule) = capsules.next() {
            let capsule = capsule.map_err(Stop::Capsule)?;
            let Capsule::Datagram(Datagram { payload, offload, capsule_bytes }) = capsule else {
                if !was_heard || !matches!(capsule, Capsule::Ack(_)) {
                    self.control(now, link, tether, capsule)?;
                }
                continue;
            };
            let came = Came { bytes: payload.len(), offload, capsule_bytes };
            let has_own = matches!(message, Message::Owned(_)) && capsules.is_at_end();
            if has_own && came.bytes > COPIED_BYTES_MAX {
                stays = Some(came);
            } else {
                self.take_in(link, tether, came, || self.pool.copy(payload), out, tally);
            }
        }
        if let (Some(came), Message::Owned(mut buf)) = (stays, message) {
            buf.strip(buf.len() - came.bytes);
            self.take_in(link, tether, came, || Some(buf), out, tally);
        }
        Ok(())
    }

    fn take_in(
        &self,
        link: &Link,
        tether: &TetherLinks,
        came: Came,
        buf: impl FnOnce() -> Option<Buf>,
        out: &mut Vec<Entry<Packet<Raw>>>,
        tally: &mut Tally,
    ) {
        let bytes = came.bytes as u64;
        tally.received.bytes += bytes;
        match self.packet(tether, came, buf) {
            Ok(packet) => {
                tally.received.segments += u64::from(packet.segments());
                out.push(Entry { origin: link.lane(), lane: tether.lane(), item: packet });
            }
            Err(reason) => {
                tally.received.segments += 1;
                tally.drop_segments(reason.index(), 1, bytes);
            }
        }
        // Counted once it is charged, so that a grant made meanwhile is never too large.
        link.count_received(came.capsule_bytes);
    }

    /// What came as a packet that is charged to its tether.
    fn packet(
        &self,
        tether: &TetherLinks,
        came: Came,
        buf: impl FnOnce() -> Option<Buf>,
    ) -> Result<Packet<Raw>, Reason> {
        let offload = came.offload.ok_or(Reason::UnknownContext)?;
        let credit = tether.windows().credit_bytes;
        if credit.is_some_and(|credit| tether.account().inside_bytes() > credit + SLACK_BYTES) {
            return Err(Reason::OverCredit);
        }
        let mut buf = buf().filter(|buf| buf.len() == came.bytes).ok_or(Reason::NoBuffer)?;
        if credit.is_some() {
            buf.charge(tether.account(), came.capsule_bytes as u64);
        }
        Ok(Packet::raw(buf, offload))
    }

    fn control(&self, now: Instant, link: &Arc<Link>, tether: &TetherLinks, capsule: Capsule<'_>) -> Result<(), Stop> {
        // Only a gateway grants credit.
        let is_gateway = tether.windows().credit_bytes.is_some();
        match capsule {
            Capsule::Ack(bytes) => {
                if !acked(now, link, tether, bytes) {
                    return Err(Stop::Unexpected("ACK went back, or beyond what was sent"));
                }
            }
            Capsule::Close { reason, .. } => return Err(Stop::Close(Some(reason))),
            Capsule::Credit(bytes) if !is_gateway => link.credited(bytes),
            Capsule::AddressAssign(_) | Capsule::RouteAdvertisement(_) if !is_gateway => return Err(Stop::OtherTerms),
            Capsule::AddressRequest(_) if is_gateway => {}
            Capsule::Credit(_)
            | Capsule::AddressAssign(_)
            | Capsule::RouteAdvertisement(_)
            | Capsule::AddressRequest(_) => {
                return Err(Stop::Unexpected("a capsule that this end alone may send"));
            }
            Capsule::Datagram(_)
            | Capsule::Challenge(_)
            | Capsule::Hello(_)
            | Capsule::Welcome(_)
            | Capsule::Refusal(_)
            | Capsule::OtherVersion(_) => {
                return Err(Stop::Unexpected("a capsule of the handshake came after it"));
            }
        }
        if tether.window_opened() {
            self.keeper.has_control(tether.lane());
        }
        Ok(())
    }

    /// Acknowledges at once what is much, and soon what is little.
    fn acknowledge(&self, now: Instant, link: &Arc<Link>, tether: &TetherLinks) {
        if link.outbox().owes_pong() {
            self.keeper.has_control(tether.lane());
        } else if link.owes_ack_now(now, tether.credit_bytes()) {
            self.acknowledge_now(now, link, tether);
        } else if link.unacknowledged_bytes() > 0 && link.schedule_ack() {
            self.keeper.ack_later(link);
        }
    }

    /// Acknowledges at once, and again later where the peer may wait for credit.
    fn acknowledge_now(&self, now: Instant, link: &Arc<Link>, tether: &TetherLinks) {
        tell_received(&*self.keeper, now, link, tether, &self.pool);
        if tether.owes_credit(link) && link.schedule_ack() {
            self.keeper.ack_later(link);
        }
    }

    fn end(&self, link: &Arc<Link>, stop: &Stop) {
        match stop {
            Stop::Link(LinkError::Frame(error)) => self.keeper.close(link, error.close_code(), &error.to_string()),
            Stop::Link(error @ (LinkError::Ended | LinkError::Socket(_))) => self.keeper.ended(link, error),
            Stop::Link(error @ LinkError::NoMemory) => {
                self.keeper.close(link, close_code::TRY_AGAIN_LATER, &error.to_string());
            }
            Stop::Capsule(error) => self.break_off(link, &error.to_string()),
            Stop::Unexpected(what) => self.break_off(link, what),
            Stop::Close(reason) => self.keeper.closed(link, *reason),
            Stop::OtherTerms => self.keeper.close(link, close_code::NORMAL, "the gateway has other terms"),
        }
    }

    /// Closes a link whose peer broke the protocol. The close code may be lost in a relay, so a CLOSE goes before it.
    fn break_off(&self, link: &Arc<Link>, what: &str) {
        link.outbox().control(|out| append_close(CloseReason::ProtocolError, what, out));
        self.keeper.close(link, CloseReason::ProtocolError.close_code(), what);
    }
}
