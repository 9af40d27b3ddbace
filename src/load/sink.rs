//! The far end: it counts what really arrived, tether by tether, and is the source of what goes to the tethers, in an
//! open loop of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::figures::Latencies;
use super::mix::{Flow, Kind};
use super::talk::{self, Counts, HEADERS_BYTES, STAMP_BYTES, Stamp, Word};
use crate::io::clock::monotonic_ns;
use crate::io::datagrams::{self, BATCH, Receiver};
use crate::io::sys;
use crate::stop::Stop;

/// The most tethers that are counted.
pub const TETHERS_MAX: u32 = 1 << 17;

/// The longest payload that is sent: a packet of Ethernet's size.
const PAYLOAD_BYTES_MAX: usize = 1_500 - HEADERS_BYTES;

/// How long a packet's time may have passed until it is not sent any more. A source that cannot keep up must not go on
/// for long after the end.
const LATE_MAX_NS: u64 = 1_000_000_000;

/// Batches that are sent before the next one is received.
const TURN_BATCHES: usize = 8;

/// How long it sleeps where nothing is to be sent.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// What the kernel may hold of datagrams that were not read yet.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;

/// What a sink did, over all its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Runs that it served.
    pub runs: u64,
    /// Packets that arrived.
    pub received: u64,
    /// Packets that were sent.
    pub sent: u64,
}

/// A running sink.
#[derive(Debug)]
pub struct Sink {
    socket: UdpSocket,
    receiver: Receiver,
    run: Run,
    totals: Totals,
}

/// What belongs to one run of a load.
#[derive(Debug, Default)]
struct Run {
    id: u32,
    begins_ns: Option<u64>,
    ends_ns: u64,
    flows: Vec<State>,
    latencies: [Latencies; Kind::ALL.len()],
    /// When each flow's next packet is due. The earliest is on top.
    due: BinaryHeap<Reverse<(u64, u32)>>,
}

/// One tether.
#[derive(Clone, Debug, Default)]
struct State {
    address: Option<SocketAddrV4>,
    flow: Option<Flow>,
    group: u8,
    next: u32,
    counts: Counts,
}

impl Sink {
    /// A sink at `address`, in this thread's network namespace.
    ///
    /// # Errors
    /// The address is not the host's, or is in use.
    pub fn bind(address: SocketAddrV4) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        set_receive_buffer(&socket)?;
        socket.bind(&address.into())?;
        let (receiver, run) = (Receiver::new(), Run::default());
        Ok(Self { socket: socket.into(), receiver, run, totals: Totals::default() })
    }

    /// Where it is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until the word to stop.
    ///
    /// # Errors
    /// The socket failed.
    pub fn serve(mut self, stop: &Stop) -> io::Result<Totals> {
        let mut payloads = vec![[0; PAYLOAD_BYTES_MAX]; BATCH];
        while !stop.is_triggered() {
            let mut sent = 0;
            for _ in 0..TURN_BATCHES {
                let batch = self.send_due(&mut payloads);
                sent += batch;
                if batch < BATCH {
                    break;
                }
            }
            let received = self.receive()?;
            if sent == 0 && received == 0 {
                sys::wait_readable(self.socket.as_fd(), self.until_due())?;
            }
        }
        Ok(self.totals)
    }

    fn until_due(&self) -> Duration {
        let due = self.run.due.peek().map(|Reverse((due_ns, _))| due_ns.saturating_sub(monotonic_ns()));
        due.map_or(IDLE_WAIT, |ns| Duration::from_nanos(ns).min(IDLE_WAIT))
    }

    /// Sends a batch of what is due; tells how many packets' time had come.
    fn send_due(&mut self, payloads: &mut [[u8; PAYLOAD_BYTES_MAX]]) -> usize {
        let now_ns = monotonic_ns();
        let (mut due, mut batch, mut owners) = (0, Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        for payload in payloads {
            let Some((tether, stamp)) = self.run.take_due(now_ns) else { break };
            due += 1;
            let state = &mut self.run.flows[tether as usize];
            let (Some(to), Some(flow)) = (state.address, state.flow) else { continue };
            if stamp.time_ns + LATE_MAX_NS < now_ns {
                state.counts.unsent += 1;
                continue;
            }
            payload[..STAMP_BYTES].copy_from_slice(&stamp.bytes());
            batch.push((to, &payload[..payload_bytes(&flow)]));
            owners.push(tether);
        }
        let mut next = 0;
        while next < batch.len() {
            match datagrams::send(self.socket.as_fd(), &batch[next..]) {
                Ok(count) => {
                    self.totals.sent += count as u64;
                    next += count;
                }
                // A full queue, or an ICMP error of an earlier packet that is told here: this one is not sent.
                Err(_) => {
                    self.run.flows[owners[next] as usize].counts.unsent += 1;
                    next += 1;
                }
            }
        }
        due
    }

    fn receive(&mut self) -> io::Result<usize> {
        let (run, totals) = (&mut self.run, &mut self.totals);
        let mut answers = Vec::new();
        let now_ns = monotonic_ns();
        let received = self.receiver.receive(self.socket.as_fd(), |from, payload| {
            let Some((stamp, body)) = Stamp::read(payload) else { return };
            if stamp.tether >= TETHERS_MAX || usize::from(stamp.group) >= Kind::ALL.len() {
                return;
            }
            if stamp.run != run.id && matches!(stamp.word, Word::Ask | Word::Start) {
                *run = Run { id: stamp.run, ..Run::default() };
                totals.runs += 1;
            }
            if stamp.run == run.id {
                totals.received += u64::from(stamp.word == Word::Data);
                answers.extend(run.take_in(from, &stamp, body, now_ns).map(|answer| (from, answer)));
            }
        });
        // A socket tells here that somebody has gone; the next packet comes all the same.
        let received = received.unwrap_or(0);
        for (to, answer) in answers {
            // Who gets no answer asks again.
            drop(self.socket.send_to(&answer, to));
        }
        Ok(received)
    }
}

impl Run {
    /// The next packet whose time has come.
    fn take_due(&mut self, now_ns: u64) -> Option<(u32, Stamp)> {
        let begins_ns = self.begins_ns?;
        let mut top = self.due.peek_mut().filter(|top| top.0.0 <= now_ns)?;
        let Reverse((time_ns, tether)) = *top;
        let state = &mut self.flows[tether as usize];
        let stamp = Stamp { run: self.id, word: Word::Data, group: state.group, tether, sequence: state.next, time_ns };
        state.next += 1;
        state.counts.offered += 1;
        match state.flow.and_then(|flow| flow.schedule.intended_ns(state.next)) {
            Some(after_ns) => *top = Reverse((begins_ns + after_ns, tether)),
            None => drop(PeekMut::pop(top)),
        }
        Some((tether, stamp))
    }

    /// Takes a datagram in; returns the answer, where there is one.
    fn take_in(&mut self, from: SocketAddrV4, stamp: &Stamp, body: &[u8], now_ns: u64) -> Option<Vec<u8>> {
        let answer = |word, time_ns, body: &[u8]| [&Stamp { word, time_ns, ..*stamp }.bytes()[..], body].concat();
        match stamp.word {
            Word::Data => {
                let is_in_time = now_ns < self.ends_ns;
                let state = self.state(stamp.tether);
                state.address = Some(from);
                state.counts.received += 1;
                state.counts.in_time += u32::from(is_in_time);
                self.latencies[usize::from(stamp.group)].record(now_ns.saturating_sub(stamp.time_ns));
                None
            }
            Word::Ask => {
                let flow = talk::read_flow(body)?;
                let state = self.state(stamp.tether);
                // Asked again, its answer was lost; what it has counted stays.
                if state.flow.is_none() {
                    *state = State { address: Some(from), flow: Some(flow), group: stamp.group, ..State::default() };
                }
                Some(answer(Word::Asked, 0, &[]))
            }
            Word::Start => {
                self.begin(stamp.time_ns, u64::from(stamp.sequence) * 1_000_000);
                Some(answer(Word::Started, 0, &[]))
            }
            Word::CountsOf => {
                let counts = self.flows.iter().skip(stamp.sequence as usize).map(|state| state.counts);
                Some(answer(Word::Counts, 0, &talk::write_counts(counts)))
            }
            Word::LatenciesOf => {
                let latencies = &self.latencies[usize::from(stamp.group)];
                let (body, next) = talk::write_latencies(latencies, stamp.sequence as usize);
                Some(answer(Word::Latencies, next, &body))
            }
            Word::Asked | Word::Started | Word::Counts | Word::Latencies => None,
        }
    }

    /// The first word to start counts: it is said again until it is answered.
    fn begin(&mut self, begins_ns: u64, lasts_ns: u64) {
        if self.begins_ns.is_some() {
            return;
        }
        self.begins_ns = Some(begins_ns);
        self.ends_ns = begins_ns.saturating_add(lasts_ns);
        for (tether, state) in self.flows.iter().enumerate() {
            let first = state.flow.and_then(|flow| flow.schedule.intended_ns(0));
            self.due.extend(first.map(|after_ns| Reverse((begins_ns + after_ns, tether as u32))));
        }
    }

    fn state(&mut self, tether: u32) -> &mut State {
        let at = tether as usize;
        if self.flows.len() <= at {
            self.flows.resize(at + 1, State::default());
        }
        &mut self.flows[at]
    }
}

fn payload_bytes(flow: &Flow) -> usize {
    usize::from(flow.size_bytes).saturating_sub(HEADERS_BYTES).clamp(STAMP_BYTES, PAYLOAD_BYTES_MAX)
}

/// As large as the kernel lets: without CAP_NET_ADMIN that is `net.core.rmem_max`.
fn set_receive_buffer(socket: &Socket) -> io::Result<()> {
    let bytes = libc::c_int::try_from(RECEIVE_BUFFER_BYTES).unwrap_or(libc::c_int::MAX);
    match sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes) {
        Err(_) => socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES),
        done => done,
    }
}
