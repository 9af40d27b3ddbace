//! One simulated tether: what it sends, what waits, what it got.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::connection::{Connection, Room};
use super::mix::{Flow, Kind};
use super::talk::{HEADERS_BYTES, STAMP_BYTES, Stamp};
use crate::checksum;
use crate::ipv4;
use crate::packet::Offload;
use crate::wire::capsule::datagram_header;

/// Packets that wait in a tether where its credit or its socket lets none out. The oldest is lost for one more: what a
/// laptop's own queue does.
const QUEUE_PACKETS_MAX: u32 = 256;

/// The most that is put into one message: what a client's batch is.
const MESSAGE_BYTES_MAX: usize = 65_536;

/// The port that a tether sends from.
const PORT: u16 = 40_000;

const IPV4_HEADER_BYTES: usize = 20;

/// A tether.
#[derive(Debug)]
pub(super) struct Tether {
    pub(super) kind: Kind,
    pub(super) connection: Option<Connection>,
    /// What it sends, once it is welcomed; a storm, when it connects.
    pub(super) up: Option<Flow>,
    /// What it is sent.
    pub(super) down: Option<Flow>,
    /// The sink knows what it is to send.
    pub(super) is_asked: bool,
    pub(super) was_welcomed: bool,
    /// A slow reader that does not read.
    pub(super) is_paused: bool,
    pub(super) ack_is_scheduled: bool,
    /// How often its delay began anew.
    pub(super) ack_turns: u32,
    headers: [u8; HEADERS_BYTES],
    /// The first packet whose time has not come.
    due: u32,
    /// The first that was neither sent nor lost in the queue.
    next: u32,
    pub(super) sent: u32,
    pub(super) received: u32,
    /// Of these, packets that came before the end.
    pub(super) in_time: u32,
    /// The first number that has not come yet.
    expected: u32,
    pub(super) reordered: u32,
}

impl Tether {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            connection: None,
            up: None,
            down: None,
            is_asked: false,
            was_welcomed: false,
            is_paused: false,
            ack_is_scheduled: false,
            ack_turns: 0,
            headers: [0; HEADERS_BYTES],
            due: 0,
            next: 0,
            sent: 0,
            received: 0,
            in_time: 0,
            expected: 0,
            reordered: 0,
        }
    }

    /// Its packets go from `lease` to `sink`.
    pub(super) fn leased(&mut self, lease: Ipv4Addr, sink: SocketAddrV4) {
        self.headers = headers(lease, sink);
        self.was_welcomed = true;
    }

    /// When its next packet is to be sent, in nanoseconds after the start.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.up.and_then(|flow| flow.schedule.intended_ns(self.due))
    }

    /// The time of its next packet has come.
    pub(super) fn comes_due(&mut self) {
        self.due += 1;
        self.next = self.next.max(self.due.saturating_sub(QUEUE_PACKETS_MAX));
    }

    /// Packets whose time has come.
    pub(super) fn offered(&self) -> u32 {
        self.due
    }

    /// Whether packets wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.next < self.due
    }

    /// Loses all that waits: what has not left by the end of a run cannot have come in time, and would only have the questions
    /// that follow wait behind it.
    pub(super) fn give_up_waiting(&mut self) {
        self.next = self.due;
    }

    /// Appends as many of the waiting packets, as capsules, as there is room for.
    pub(super) fn take_waiting(&mut self, room: Room, run: u32, number: u32, begins_ns: u64, out: &mut Vec<u8>) {
        let Some(flow) = self.up else { return };
        let bytes = capsule_bytes(flow.size_bytes);
        while self.is_waiting() && room.fits(out.len(), bytes) && out.len() + bytes <= MESSAGE_BYTES_MAX {
            let time_ns = begins_ns + flow.schedule.intended_ns(self.next).unwrap_or(0);
            let (word, group) = (super::talk::Word::Data, self.kind as u8);
            let stamp = Stamp { run, word, group, tether: number, sequence: self.next, time_ns };
            let body_bytes = usize::from(flow.size_bytes).saturating_sub(HEADERS_BYTES + STAMP_BYTES);
            self.append(&stamp, body_bytes, |out, len| out.resize(out.len() + len, 0), out);
            self.next += 1;
            self.sent += 1;
        }
    }

    /// Appends a stamp and its body, as a capsule.
    pub(super) fn append_word(&self, stamp: &Stamp, body: &[u8], out: &mut Vec<u8>) {
        self.append(stamp, body.len(), |out, _| out.extend_from_slice(body), out);
    }

    fn append(&self, stamp: &Stamp, body_bytes: usize, body: impl FnOnce(&mut Vec<u8>, usize), out: &mut Vec<u8>) {
        let packet_bytes = HEADERS_BYTES + STAMP_BYTES + body_bytes;
        out.extend_from_slice(&datagram_header(packet_bytes, Offload::default()));
        let start = out.len();
        out.extend_from_slice(&self.headers);
        set_lengths(&mut out[start..], packet_bytes);
        out.extend_from_slice(&stamp.bytes());
        body(out, body_bytes);
        set_checksum(&mut out[start..]);
    }

    /// Counts a packet of its own that came.
    pub(super) fn received(&mut self, sequence: u32) {
        self.received += 1;
        self.reordered += u32::from(sequence < self.expected);
        self.expected = self.expected.max(sequence + 1);
    }
}

/// Bytes that a packet takes as a capsule.
fn capsule_bytes(size_bytes: u16) -> usize {
    let size_bytes = usize::from(size_bytes).max(HEADERS_BYTES + STAMP_BYTES);
    datagram_header(size_bytes, Offload::default()).len() + size_bytes
}

/// IPv4 and UDP headers without their lengths and checksums.
fn headers(source: Ipv4Addr, sink: SocketAddrV4) -> [u8; HEADERS_BYTES] {
    let mut headers = [0; HEADERS_BYTES];
    headers[0] = 0x45;
    headers[6] = 0x40; // Don't Fragment
    headers[8] = 64;
    headers[9] = 17;
    headers[12..16].copy_from_slice(&source.octets());
    headers[16..20].copy_from_slice(&sink.ip().octets());
    headers[20..22].copy_from_slice(&PORT.to_be_bytes());
    headers[22..24].copy_from_slice(&sink.port().to_be_bytes());
    headers
}

fn set_lengths(headers: &mut [u8], packet_bytes: usize) {
    let lengths = [packet_bytes, packet_bytes - IPV4_HEADER_BYTES].map(|len| (len as u16).to_be_bytes());
    headers[2..4].copy_from_slice(&lengths[0]);
    headers[24..26].copy_from_slice(&lengths[1]);
    let sum = checksum::of(&headers[..IPV4_HEADER_BYTES]);
    headers[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Fills in the UDP checksum (RFC 768), which every program's packets have, and which lets them be merged.
fn set_checksum(packet: &mut [u8]) {
    let (addresses, udp) = (&packet[ipv4::SOURCE..IPV4_HEADER_BYTES], &packet[IPV4_HEADER_BYTES..]);
    let pseudo_header = checksum::sum(addresses) + u64::from(ipv4::UDP) + udp.len() as u64;
    let checksum = match !checksum::fold(pseudo_header + checksum::sum(udp)) {
        0 => u16::MAX,
        checksum => checksum,
    };
    ipv4::set_word(packet, IPV4_HEADER_BYTES + ipv4::UDP_CHECKSUM, checksum);
}

/// The payload of a UDP packet from the sink; `None` where it is something else.
pub(super) fn payload_from(sink: SocketAddrV4, packet: &[u8]) -> Option<&[u8]> {
    let (headers, payload) = packet.split_at_checked(HEADERS_BYTES)?;
    let is_udp = headers[0] == 0x45 && headers[9] == 17;
    (is_udp && headers[12..16] == sink.ip().octets() && headers[20..22] == sink.port().to_be_bytes()).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Schedule;
    use super::super::talk::Word;
    use super::*;
    use crate::wire::capsule::{Capsule, Capsules};

    const SINK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 9_000);

    fn tether(size_bytes: u16) -> Tether {
        let schedule = Schedule { rate_pps: 1_000.0, train: 1, phase: 0.0, surge: None, end_ns: u64::MAX };
        let mut tether = Tether::new(Kind::Steady);
        tether.up = Some(Flow { schedule, size_bytes });
        tether.leased(Ipv4Addr::new(100, 64, 0, 2), SINK);
        tether
    }

    fn packets(capsules: &[u8]) -> Vec<Vec<u8>> {
        let packet = |capsule| match capsule {
            Ok(Capsule::Datagram(datagram)) => datagram.payload.to_vec(),
            other => panic!("{other:?}"),
        };
        Capsules::new(capsules).map(packet).collect()
    }

    const ALL: Room = Room { credit_bytes: usize::MAX, message_bytes: usize::MAX };

    #[test]
    fn a_packet_begins_within_the_credit_and_ends_within_the_message() {
        let room = Room { credit_bytes: 100, message_bytes: 200 };
        assert_eq!(
            [(0, 200), (99, 101), (99, 102), (100, 1)].map(|(before, bytes)| room.fits(before, bytes)),
            [true, true, false, false]
        );
    }

    #[test]
    fn what_is_due_goes_out_as_packets_with_the_times_they_were_meant_for() {
        let (mut tether, mut out) = (tether(200), Vec::new());
        (0..3).for_each(|_| tether.comes_due());
        // The second begins within the credit and ends beyond it.
        let room = Room { credit_bytes: capsule_bytes(200) + 1, message_bytes: usize::MAX };
        tether.take_waiting(room, 7, 5, 1_000, &mut out);
        let packets = packets(&out);
        assert_eq!((packets.len(), tether.sent, tether.offered(), tether.is_waiting()), (2, 2, 3, true));
        for (at, packet) in packets.iter().enumerate() {
            assert_eq!(packet.len(), 200);
            assert!(checksum::is_valid(&packet[..20]));
            assert_eq!(packet[24..26], 180_u16.to_be_bytes());
            let pseudo_header = checksum::sum(&packet[12..20]) + 17 + 180;
            assert_eq!(checksum::fold(pseudo_header + checksum::sum(&packet[20..])), u16::MAX);
            let (stamp, _) = Stamp::read(&packet[HEADERS_BYTES..]).expect("a stamp");
            let time_ns = 1_000 + at as u64 * 1_000_000;
            assert_eq!(stamp, Stamp { run: 7, word: Word::Data, group: 0, tether: 5, sequence: at as u32, time_ns });
        }
    }

    #[test]
    fn a_tether_that_may_not_send_loses_its_oldest_packets() {
        let (mut tether, mut out) = (tether(64), Vec::new());
        (0..QUEUE_PACKETS_MAX + 10).for_each(|_| tether.comes_due());
        tether.take_waiting(ALL, 7, 0, 0, &mut out);
        assert_eq!((tether.sent, tether.offered()), (QUEUE_PACKETS_MAX, QUEUE_PACKETS_MAX + 10));
        let (first, _) = Stamp::read(&packets(&out)[0][HEADERS_BYTES..]).expect("a stamp");
        assert_eq!(first.sequence, 10);
    }

    #[test]
    fn a_packet_that_was_overtaken_is_counted() {
        let mut tether = tether(64);
        [0, 2, 1, 3].into_iter().for_each(|sequence| tether.received(sequence));
        assert_eq!((tether.received, tether.reordered), (4, 1));
    }

    #[test]
    fn only_the_sinks_packets_have_a_payload() {
        let mut packet = headers(*SINK.ip(), SINK).to_vec();
        packet[20..22].copy_from_slice(&SINK.port().to_be_bytes());
        packet.extend(b"load");
        assert_eq!(payload_from(SINK, &packet), Some(&b"load"[..]));
        packet[9] = 6;
        assert_eq!(payload_from(SINK, &packet), None);
        assert_eq!(payload_from(SINK, &packet[..20]), None);
    }
}
