//! The loop that drives all tethers: one thread, one wait, nothing that a tether could hold up.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Events, Poll, Registry, Token};

use super::connection::{Connection, Ended, Event, MESSAGE_BYTES_MAX, Reading};
use super::figures::Latencies;
use super::mix::Kind;
use super::talk::{self, Counts, Stamp, Word};
use super::tether::{Tether, payload_from};
use super::{Error, Options};
use crate::client::handshake::{HandshakeError, Offer, Terms};
use crate::io::clock::monotonic_ns;
use crate::link::{ACK_DELAY_MS, ACK_TURNS_MAX, read_buffer_bytes};
use crate::wire::capsule::Features;

/// The largest packet that a tether takes, in bytes.
const MTU_BYTES: u16 = 1_500;

/// Dials under way at once. Fewer than a gateway's own limit of handshakes, by default.
const DIALS_MAX: usize = 128;

/// Connections of storms that may be open at once; connects beyond count as not tried.
const STORM_CONNECTIONS_MAX: usize = 4_096;

/// How long a refused tether waits where the gateway names no time.
const RETRY_NS: u64 = 200_000_000;

/// How long gateways may take to hang up once they were told of the end: a round trip on a bad network.
const GOODBYE_MAX_NS: u64 = 1_000_000_000;

const EVENTS_MAX: usize = 1_024;
const MS_NS: u64 = 1_000_000;

/// Packets of the same while are looked at together.
pub(super) const WINDOW_NS: u64 = 100 * MS_NS;

/// One connect of a storm.
#[derive(Debug)]
struct Gust {
    connection: Connection,
    intended_ns: u64,
}

/// Connects and what became of them.
#[derive(Debug, Default)]
pub(super) struct Connects {
    pub(super) offered: u64,
    pub(super) welcomed: u64,
    /// Refused and failed ones, by the word for it.
    pub(super) failed: BTreeMap<&'static str, u64>,
    pub(super) latencies: Latencies,
}

/// What is measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) connects: Connects,
    pub(super) storm: Connects,
    /// Half-open connections that the gateway closed.
    pub(super) half_open_closed: u64,
    /// Tethers that were welcomed and then lost.
    pub(super) ended: BTreeMap<&'static str, u64>,
    /// Of packets to the tethers, by kind.
    pub(super) down: [Latencies; Kind::ALL.len()],
    /// Of packets to the tethers that are no slow readers, by the while they were meant for.
    pub(super) windows: Vec<Latencies>,
    /// Packets that came to the wrong tether.
    pub(super) strays: u64,
}

/// What the sink has answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) started: bool,
    /// By the first tether they are of.
    pub(super) counts: BTreeMap<u32, Vec<Counts>>,
    /// Of packets from the tethers, by kind; the bucket to ask from next, and whether that was all.
    pub(super) up: [(Latencies, u32, bool); Kind::ALL.len()],
}

/// A load under way.
pub(super) struct Generator<'a> {
    pub(super) options: &'a Options,
    pub(super) run: u32,
    gateway: SocketAddr,
    poll: Poll,
    registry: Registry,
    pub(super) tethers: Vec<Tether>,
    storm: Vec<Option<Gust>>,
    pub(super) begins_ns: u64,
    pub(super) ends_ns: u64,
    /// When each tether's next packet, or connect, is due. The earliest is on top.
    pub(super) due: BinaryHeap<Reverse<(u64, u32)>>,
    acks: VecDeque<(u64, u32)>,
    pub(super) to_dial: VecDeque<u32>,
    retries: BinaryHeap<Reverse<(u64, u32)>>,
    dials: usize,
    buffer: Vec<u8>,
    capsules: Vec<u8>,
    pub(super) figures: Figures,
    pub(super) answers: Answers,
    /// Something came from the gateway.
    pub(super) has_answer: bool,
    /// The gateway's last word to all: they have one credential, and ask for the same.
    pub(super) refused: Option<HandshakeError>,
}

impl<'a> Generator<'a> {
    pub(super) fn new(options: &'a Options, gateway: SocketAddr, kinds: &[Kind], run: u32) -> io::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self {
            options,
            run,
            gateway,
            registry: poll.registry().try_clone()?,
            poll,
            tethers: kinds.iter().map(|&kind| Tether::new(kind)).collect(),
            storm: Vec::new(),
            begins_ns: 0,
            ends_ns: 0,
            due: BinaryHeap::new(),
            acks: VecDeque::new(),
            to_dial: VecDeque::new(),
            retries: BinaryHeap::new(),
            dials: 0,
            buffer: vec![0; read_buffer_bytes(MESSAGE_BYTES_MAX)],
            capsules: Vec::new(),
            figures: Figures::default(),
            answers: Answers::default(),
            has_answer: false,
            refused: None,
        })
    }

    /// Waits for events, at most until `until_ns`, and does what is to be done.
    ///
    /// # Errors
    /// Those of the wait.
    pub(super) fn turn(&mut self, events: &mut Events, until_ns: u64) -> Result<(), Error> {
        self.dial_waiting()?;
        let wait = Duration::from_nanos(self.next_ns().min(until_ns).saturating_sub(monotonic_ns()));
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in events.iter() {
            let reading =
                if event.is_read_closed() || event.is_error() { Reading::UntilEnd } else { Reading::UntilEmpty };
            self.ready(event.token().0, reading);
        }
        let now_ns = monotonic_ns();
        self.send_due(now_ns);
        self.send_acks(now_ns);
        while let Some(Reverse((_, number))) = self.retries.peek().filter(|retry| retry.0.0 <= now_ns) {
            self.to_dial.push_back(*number);
            self.retries.pop();
        }
        Ok(())
    }

    fn next_ns(&self) -> u64 {
        let due = [&self.due, &self.retries].into_iter().filter_map(|heap| heap.peek().map(|next| next.0.0));
        due.chain(self.acks.front().map(|ack| ack.0)).min().unwrap_or(u64::MAX)
    }

    fn dial_waiting(&mut self) -> Result<(), Error> {
        while self.dials < DIALS_MAX
            && let Some(number) = self.to_dial.pop_front()
        {
            let kind = self.tethers[number as usize].kind;
            let offer = (kind != Kind::HalfOpen).then(|| self.offer());
            let connection = Connection::dial(self.gateway, offer, &self.registry, Token(number as usize));
            let connection = connection.map_err(|error| self.not_dialled(error))?;
            self.tethers[number as usize].connection = Some(connection);
            if kind != Kind::HalfOpen {
                self.dials += 1;
                self.figures.connects.offered += 1;
            }
        }
        Ok(())
    }

    fn not_dialled(&self, error: io::Error) -> Error {
        let is_no_way = matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable);
        if is_no_way { self.unreachable(error.to_string()) } else { error.into() }
    }

    /// The error of a gateway that is not there.
    pub(super) fn unreachable(&self, why: String) -> Error {
        Error::Unreachable { gateway: self.options.gateway.clone(), address: self.gateway, why }
    }

    fn offer(&self) -> Offer {
        let token = self.options.token.clone();
        Offer { token, features: Features::default(), mtu_bytes: MTU_BYTES, ticket: Vec::new() }
    }

    fn ready(&mut self, token: usize, reading: Reading) {
        if token < self.tethers.len() {
            self.advance(token, reading);
        } else {
            self.blow(token - self.tethers.len(), reading);
        }
    }

    /// Goes on with a tether.
    pub(super) fn advance(&mut self, number: usize, reading: Reading) {
        let Some(mut connection) = self.tethers[number].connection.take() else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        let reading = if self.tethers[number].is_paused { Reading::Paused } else { reading };
        let (options, now_ns) = (self.options, monotonic_ns());
        let went = connection.advance(&options.gateway, &mut buffer, reading, &mut |event| match event {
            Event::Opened(terms) => self.opened(number, &terms),
            Event::Packet(packet) => self.packet(number, packet, now_ns),
        });
        self.buffer = buffer;
        self.has_answer |= connection.has_answer();
        match went {
            Ok(()) => self.keep(number, connection, now_ns),
            Err(ended) => self.ended(number, connection, ended),
        }
    }

    fn keep(&mut self, number: usize, connection: Connection, now_ns: u64) {
        let (owes_much, owes) = (connection.owes_much(), connection.owes_ack());
        let tether = &mut self.tethers[number];
        tether.connection = Some(connection);
        if owes && !owes_much && !tether.ack_is_scheduled {
            tether.ack_is_scheduled = true;
            self.acks.push_back((now_ns + ACK_DELAY_MS * MS_NS, number as u32));
        }
        if owes_much || tether.is_waiting() {
            self.send(number, owes_much);
        }
    }

    fn opened(&mut self, number: usize, terms: &Terms) {
        self.dials -= 1;
        self.figures.connects.welcomed += 1;
        self.tethers[number].leased(terms.lease, self.options.sink);
    }

    fn ended(&mut self, number: usize, mut connection: Connection, ended: Ended) {
        connection.deregister(&self.registry);
        let tether = &self.tethers[number];
        let again_ns = monotonic_ns() + ended.retry_after_ms.map_or(RETRY_NS, |ms| ms * MS_NS);
        if tether.kind == Kind::HalfOpen {
            self.figures.half_open_closed += 1;
            self.retries.push(Reverse((again_ns, number as u32)));
        } else if tether.was_welcomed {
            *self.figures.ended.entry(ended.why).or_default() += 1;
        } else {
            self.dials -= 1;
            self.refused = self.refused.take().or(ended.last_word);
            *self.figures.connects.failed.entry(ended.why).or_default() += 1;
            self.retries.push(Reverse((again_ns, number as u32)));
        }
    }

    /// Whether tethers that should be welcomed are not yet.
    pub(super) fn is_connecting(&self) -> bool {
        self.tethers.iter().any(|tether| tether.kind.stays() && !tether.was_welcomed)
    }

    /// Whether those that are to stay got in, and not one of them is there any more.
    pub(super) fn has_lost_all(&self) -> bool {
        let mut staying = self.tethers.iter().filter(|tether| tether.kind.stays() && tether.was_welcomed).peekable();
        staying.peek().is_some() && staying.all(|tether| tether.connection.is_none())
    }

    /// Gives up on tethers that were not welcomed.
    pub(super) fn give_up_dialling(&mut self) {
        self.to_dial.clear();
        self.retries.clear();
    }

    fn packet(&mut self, number: usize, packet: &[u8], now_ns: u64) {
        let Some(payload) = payload_from(self.options.sink, packet) else { return };
        let Some((stamp, body)) = Stamp::read(payload).filter(|(stamp, _)| stamp.run == self.run) else { return };
        match stamp.word {
            Word::Data if stamp.tether as usize == number => self.delivered(number, &stamp, now_ns),
            Word::Data => self.figures.strays += 1,
            Word::Asked => self.tethers[number].is_asked = true,
            Word::Started => self.answers.started = true,
            Word::Counts => drop(self.answers.counts.insert(stamp.sequence, talk::read_counts(body).collect())),
            Word::Latencies => {
                let Some((latencies, from, is_all)) = self.answers.up.get_mut(usize::from(stamp.group)) else { return };
                if stamp.sequence == *from && !*is_all {
                    talk::read_latencies(body, latencies);
                    (*from, *is_all) = (stamp.time_ns as u32, stamp.time_ns == 0);
                }
            }
            Word::Ask | Word::Start | Word::CountsOf | Word::LatenciesOf => {}
        }
    }

    fn delivered(&mut self, number: usize, stamp: &Stamp, now_ns: u64) {
        let tether = &mut self.tethers[number];
        tether.received(stamp.sequence);
        tether.in_time += u32::from(now_ns < self.ends_ns);
        let (kind, took_ns) = (tether.kind, now_ns.saturating_sub(stamp.time_ns));
        self.figures.down[kind as usize].record(took_ns);
        let window = (stamp.time_ns.saturating_sub(self.begins_ns) / WINDOW_NS) as usize;
        if kind != Kind::SlowReader
            && let Some(window) = self.figures.windows.get_mut(window)
        {
            window.record(took_ns);
        }
    }

    /// Sends what a tether may send.
    fn send(&mut self, number: usize, mut owes: bool) {
        let (run, begins_ns) = (self.run, self.begins_ns);
        let tether = &mut self.tethers[number];
        let Some(mut connection) = tether.connection.take() else { return };
        loop {
            self.capsules.clear();
            tether.take_waiting(connection.room(), run, number as u32, begins_ns, &mut self.capsules);
            if self.capsules.is_empty() && !owes {
                break tether.connection = Some(connection);
            }
            owes = false;
            if let Err(ended) = connection.send(&self.capsules) {
                break self.ended(number, connection, ended);
            }
        }
    }

    /// Says something to the sink; `false` where that cannot be sent now.
    pub(super) fn say(&mut self, number: usize, stamp: &Stamp, body: &[u8]) -> bool {
        let tether = &mut self.tethers[number];
        let Some(mut connection) = tether.connection.take() else { return false };
        self.capsules.clear();
        tether.append_word(stamp, body, &mut self.capsules);
        let fits = connection.room().fits(0, self.capsules.len());
        match if fits { connection.send(&self.capsules) } else { Ok(()) } {
            Ok(()) => tether.connection = Some(connection),
            Err(ended) => self.ended(number, connection, ended),
        }
        fits
    }

    fn send_due(&mut self, now_ns: u64) {
        while let Some((intended_ns, number)) = self.take_due(now_ns) {
            if self.tethers[number].kind == Kind::Storm {
                self.gust(intended_ns);
            } else {
                self.send(number, false);
            }
        }
    }

    /// The next tether whose time has come, and what that time was. All that is due of it comes due at once, to go into
    /// one message; connects come one by one.
    fn take_due(&mut self, now_ns: u64) -> Option<(u64, usize)> {
        let mut top = self.due.peek_mut().filter(|top| top.0.0 <= now_ns)?;
        let Reverse((intended_ns, number)) = *top;
        let (begins_ns, tether) = (self.begins_ns, &mut self.tethers[number as usize]);
        tether.comes_due();
        while tether.next_due_ns().is_some_and(|ns| tether.kind != Kind::Storm && begins_ns + ns <= now_ns) {
            tether.comes_due();
        }
        match tether.next_due_ns() {
            Some(after_ns) => *top = Reverse((begins_ns + after_ns, number)),
            None => drop(PeekMut::pop(top)),
        }
        Some((intended_ns, number as usize))
    }

    fn send_acks(&mut self, now_ns: u64) {
        while let Some(&(_, number)) = self.acks.front().filter(|(due_ns, _)| *due_ns <= now_ns) {
            self.acks.pop_front();
            let tether = &mut self.tethers[number as usize];
            // As a client's links do it, or a gateway would have more acknowledgements of little than it ever gets.
            tether.ack_turns += 1;
            if tether.ack_turns < ACK_TURNS_MAX && tether.connection.as_ref().is_some_and(Connection::owes_little) {
                self.acks.push_back((now_ns + ACK_DELAY_MS * MS_NS, number));
                continue;
            }
            (tether.ack_is_scheduled, tether.ack_turns) = (false, 0);
            if tether.connection.as_ref().is_some_and(Connection::owes_ack) {
                self.send(number as usize, true);
            }
        }
    }

    /// A storm's next connect.
    fn gust(&mut self, intended_ns: u64) {
        self.figures.storm.offered += 1;
        let free = self.storm.iter().position(Option::is_none).unwrap_or(self.storm.len());
        if free >= STORM_CONNECTIONS_MAX {
            return *self.figures.storm.failed.entry("not_tried").or_default() += 1;
        }
        let token = Token(self.tethers.len() + free);
        match Connection::dial(self.gateway, Some(self.offer()), &self.registry, token) {
            Ok(connection) if free == self.storm.len() => self.storm.push(Some(Gust { connection, intended_ns })),
            Ok(connection) => self.storm[free] = Some(Gust { connection, intended_ns }),
            Err(_) => *self.figures.storm.failed.entry("not_tried").or_default() += 1,
        }
    }

    /// Goes on with a connect of a storm; once it is welcomed it ends.
    fn blow(&mut self, at: usize, reading: Reading) {
        let Some(Gust { mut connection, intended_ns }) = self.storm.get_mut(at).and_then(Option::take) else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        let went = connection.advance(&self.options.gateway, &mut buffer, reading, &mut |_| {});
        self.buffer = buffer;
        let storm = &mut self.figures.storm;
        match went {
            Ok(()) if connection.is_open() => {
                storm.welcomed += 1;
                storm.latencies.record(monotonic_ns().saturating_sub(intended_ns));
                connection.close();
                connection.deregister(&self.registry);
            }
            Ok(()) => self.storm[at] = Some(Gust { connection, intended_ns }),
            Err(ended) => {
                *storm.failed.entry(ended.why).or_default() += 1;
                connection.deregister(&self.registry);
            }
        }
    }

    /// Connects of storms that are still under way.
    pub(super) fn gusts(&self) -> u64 {
        self.storm.iter().flatten().count() as u64
    }

    /// Tells the gateway that every tether ends, and reads on until it has hung up, or for a moment: where a socket is
    /// closed over bytes that nobody read the kernel resets the connection, and the goodbye is lost.
    ///
    /// # Errors
    /// Those of the wait.
    pub(super) fn hang_up(&mut self, events: &mut Events) -> Result<(), Error> {
        self.give_up_dialling();
        self.due.clear();
        self.storm.clear();
        for number in 0..self.tethers.len() {
            let tether = &mut self.tethers[number];
            tether.is_paused = false;
            // Who was not welcomed has no tether that could linger.
            tether.connection.take_if(|connection| !connection.is_open());
            tether.connection.iter_mut().for_each(Connection::close);
            self.advance(number, Reading::UntilEmpty);
        }
        let end_ns = monotonic_ns() + GOODBYE_MAX_NS;
        while self.tethers.iter().any(|tether| tether.connection.is_some()) && monotonic_ns() < end_ns {
            self.turn(events, end_ns)?;
        }
        Ok(())
    }

    /// Room for events.
    pub(super) fn events() -> Events {
        Events::with_capacity(EVENTS_MAX)
    }
}
