//! GRO in software: consecutive segments or datagrams of a flow become one super-packet, by the kernel's rules.

use super::SuperPackets;
use super::check::{
    IPV6_PAYLOAD_LENGTH, Layout, Lie, Protocol, TCP_DATA_OFFSET, TCP_HEADER_BYTES, TCP_SEQUENCE, UDP_LENGTH,
};
use super::segment::{TCP_FIN, TCP_PSH};
use crate::checksum;
use crate::ipv4;
use crate::packet::{
    Buf, BufPool, Checksum, Family, Offload, PACKET_BYTES_MAX, Packet, TCP_SEGMENT_BYTES_MIN, UDP_SEGMENTS_MAX,
};

/// Runs that are looked through for a packet's flow, newest first: as many as the kernel holds in a bucket
/// (MAX_GRO_SKBS).
const RUNS_SEEN_MAX: usize = 8;

/// SYN, RST and URG: what is said of one segment alone.
const TCP_ALONE: u8 = 0x02 | 0x04 | 0x20;
const TCP_ACKNOWLEDGEMENT: usize = 8;
const TCP_WINDOW: usize = 14;
const TCP_URGENT: usize = 18;

/// Where the hop limit is in an IPv6 header, behind the next header's number.
const IPV6_HOP_LIMIT: usize = 7;

/// Joins the packets of a batch. It keeps its memory from batch to batch, and nothing else: no packet waits in it.
#[derive(Debug, Default)]
pub struct Merger {
    runs: Vec<Run>,
    /// For each packet the next one of its run.
    next: Vec<Option<usize>>,
    /// For each packet whether it went into another.
    joined: Vec<bool>,
}

/// Packets of one flow that follow each other.
#[derive(Debug)]
struct Run {
    layout: Layout,
    head: usize,
    last: usize,
    /// Payload bytes of each segment, but for the last.
    segment_bytes: usize,
    payload_bytes: usize,
    segments: u32,
    /// All have the same IPv4 identification, as packets that are never fragmented may (RFC 6864, 4.1).
    has_fixed_id: bool,
    /// Whether more may follow.
    is_open: bool,
}

impl Merger {
    /// Joins what can be joined, in place: a super-packet stands where its first packet stood, so that no packet is
    /// overtaken by a later one of its flow. Only such are made as are `wanted`. Its checksum is partial. A packet with a wrong checksum is never joined, for
    /// its receiver has to see that. Where the pool refuses a buffer, the packets stay single.
    ///
    /// The proof is the first packet's; offsets, addresses and ports are those of all.
    pub fn merge<P: Copy>(&mut self, packets: &mut Vec<Packet<P>>, wanted: SuperPackets, pool: &BufPool) {
        self.runs.clear();
        self.next.clear();
        self.next.resize(packets.len(), None);
        for at in 0..packets.len() {
            self.place(packets, wanted, at);
        }
        self.joined.clear();
        self.joined.resize(packets.len(), false);
        for run in self.runs.iter().filter(|run| run.last != run.head) {
            let Some(joined) = run.join(packets, &self.next, pool) else { continue };
            packets[run.head] = joined;
            let mut at = run.head;
            while let Some(next) = self.next[at] {
                self.joined[next] = true;
                at = next;
            }
        }
        let mut joined = self.joined.iter();
        packets.retain(|_| joined.next() != Some(&true));
    }

    /// Adds a packet to the newest run of its flow, or ends that one and starts another.
    fn place<P>(&mut self, packets: &[Packet<P>], wanted: SuperPackets, at: usize) {
        let packet = &packets[at];
        let layout = match Layout::read(packet.bytes()) {
            Ok(layout) if wanted.include(layout.protocol) => layout,
            // It may be of any flow, and must not be overtaken.
            Err(Lie::Length) => return self.runs.iter_mut().for_each(|run| run.is_open = false),
            Ok(_) | Err(_) => return,
        };
        let mut seen = self.runs.iter_mut().rev().take(RUNS_SEEN_MAX);
        let run = seen.find(|run| run.is_flow_of(&packets[run.head], &layout, packet.bytes()));
        let alone = Run::new(packet, layout, at);
        if let Some(run) = run {
            if let Some(alone) = &alone
                && run.takes(&packets[run.head], packet, alone)
            {
                self.next[run.last] = Some(at);
                run.append(alone, is_fixed(&layout, packets[run.head].bytes(), packet.bytes()));
                return;
            }
            run.is_open = false;
        }
        self.runs.extend(alone);
    }
}

impl Run {
    /// The run of one packet; `None` for one that is never joined.
    fn new<P>(packet: &Packet<P>, layout: Layout, at: usize) -> Option<Self> {
        let (bytes, offload) = (packet.bytes(), packet.offload());
        let payload_bytes = bytes.len() - layout.payload;
        let segment_bytes = match offload.segment_bytes {
            0 => payload_bytes,
            _ if usize::from(offload.header_bytes) != layout.payload => return None,
            segment_bytes => segment_bytes.into(),
        };
        let has_options = layout.family == Family::V4 && layout.transport != ipv4::HEADER_BYTES;
        let (is_alone, may_go_on) = match layout.protocol {
            Protocol::Tcp => {
                let flags = bytes[layout.transport + ipv4::TCP_FLAGS];
                let may_go_on = segment_bytes >= usize::from(TCP_SEGMENT_BYTES_MIN) && flags & (TCP_FIN | TCP_PSH) == 0;
                (flags & TCP_ALONE != 0, may_go_on)
            }
            // One that has no checksum must not get one.
            Protocol::Udp => (ipv4::word_at(bytes, layout.transport + ipv4::UDP_CHECKSUM) == Some(0), true),
        };
        if payload_bytes == 0 || has_options || is_alone {
            return None;
        }
        Some(Self {
            layout,
            head: at,
            last: at,
            segment_bytes,
            payload_bytes,
            segments: packet.segments(),
            has_fixed_id: false,
            is_open: payload_bytes.is_multiple_of(segment_bytes) && may_go_on,
        })
    }

    fn is_flow_of<P>(&self, head: &Packet<P>, layout: &Layout, bytes: &[u8]) -> bool {
        let ports = |layout: &Layout, bytes: &[u8]| -> Option<[u8; 4]> {
            bytes.get(layout.transport..)?.first_chunk().copied()
        };
        (self.layout.family, self.layout.protocol) == (layout.family, layout.protocol)
            && ports(&self.layout, head.bytes()) == ports(layout, bytes)
            && self.layout.addresses(head.bytes()) == layout.addresses(bytes)
    }

    /// Whether a packet, which is `alone`, may follow.
    fn takes<P>(&self, head: &Packet<P>, packet: &Packet<P>, alone: &Self) -> bool {
        let fits = self.is_open
            && self.layout == alone.layout
            && self.layout.payload + self.payload_bytes + alone.payload_bytes <= PACKET_BYTES_MAX
            && match packet.offload().segment_bytes {
                0 => alone.payload_bytes <= self.segment_bytes,
                _ => alone.segment_bytes == self.segment_bytes,
            };
        fits && self.takes_ip(head.bytes(), packet.bytes())
            && self.takes_transport(
                &head.bytes()[self.layout.transport..],
                &packet.bytes()[self.layout.transport..],
                alone,
            )
            && self.layout.is_true(packet)
            && (self.last != self.head || self.layout.is_true(head))
    }

    /// Fields of the IP header that a cut super-packet has in each segment; of the identification see the kernel's
    /// inet_gro_flush.
    fn takes_ip(&self, head: &[u8], bytes: &[u8]) -> bool {
        match self.layout.family {
            Family::V4 => {
                let same = [ipv4::TOS, ipv4::FRAGMENT, ipv4::FRAGMENT + 1, ipv4::TTL];
                same.into_iter().all(|at| head[at] == bytes[at]) && self.takes_id(head, bytes)
            }
            Family::V6 => {
                head[..IPV6_PAYLOAD_LENGTH] == bytes[..IPV6_PAYLOAD_LENGTH]
                    && head[IPV6_HOP_LIMIT] == bytes[IPV6_HOP_LIMIT]
            }
        }
    }

    fn takes_id(&self, head: &[u8], bytes: &[u8]) -> bool {
        if self.layout.protocol == Protocol::Udp && may_not_be_fragmented(bytes) {
            // Of an atomic datagram it says nothing (RFC 6864, 4.1), and one translation counts for all flows.
            return true;
        }
        let ahead = identification(bytes).wrapping_sub(identification(head));
        if self.has_fixed_id || (self.segments == 1 && is_fixed(&self.layout, head, bytes)) {
            return ahead == 0;
        }
        u32::from(ahead) == self.segments
    }

    fn takes_transport(&self, head: &[u8], header: &[u8], alone: &Self) -> bool {
        match self.layout.protocol {
            Protocol::Tcp => self.takes_tcp(head, header),
            Protocol::Udp => (self.segments + alone.segments) as usize <= UDP_SEGMENTS_MAX,
        }
    }

    fn takes_tcp(&self, head: &[u8], tcp: &[u8]) -> bool {
        let ends = TCP_FIN | TCP_PSH;
        let sequence = |tcp: &[u8]| tcp[TCP_SEQUENCE..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let header_bytes = self.layout.payload - self.layout.transport;
        sequence(tcp) == sequence(head).wrapping_add(self.payload_bytes as u32)
            // Only a first segment may have CWR, for cutting takes it from the others.
            && (head[ipv4::TCP_FLAGS] & !ipv4::TCP_CWR) == (tcp[ipv4::TCP_FLAGS] & !ends)
            && head[TCP_ACKNOWLEDGEMENT..=TCP_DATA_OFFSET] == tcp[TCP_ACKNOWLEDGEMENT..=TCP_DATA_OFFSET]
            && head[TCP_WINDOW..ipv4::TCP_CHECKSUM] == tcp[TCP_WINDOW..ipv4::TCP_CHECKSUM]
            && head[TCP_URGENT..TCP_HEADER_BYTES] == tcp[TCP_URGENT..TCP_HEADER_BYTES]
            && head[TCP_HEADER_BYTES..header_bytes] == tcp[TCP_HEADER_BYTES..header_bytes]
    }

    fn append(&mut self, alone: &Self, is_fixed: bool) {
        self.has_fixed_id |= self.segments == 1 && is_fixed;
        self.last = alone.head;
        self.payload_bytes += alone.payload_bytes;
        self.segments += alone.segments;
        self.is_open = alone.is_open && alone.payload_bytes.is_multiple_of(self.segment_bytes);
    }

    /// One packet of all; `None` without a buffer.
    fn join<P: Copy>(&self, packets: &[Packet<P>], next: &[Option<usize>], pool: &BufPool) -> Option<Packet<P>> {
        let header_bytes = self.layout.payload;
        let mut buf = pool.take(header_bytes + self.payload_bytes)?;
        buf.extend(packets[self.head].bytes());
        let mut at = self.head;
        while let Some(following) = next[at] {
            buf.extend(&packets[following].bytes()[header_bytes..]);
            at = following;
        }
        match self.layout.protocol {
            Protocol::Tcp => {
                let at = self.layout.transport + ipv4::TCP_FLAGS;
                buf.bytes_mut()[at] |= packets[self.last].bytes()[at] & (TCP_FIN | TCP_PSH);
            }
            Protocol::Udp => {
                let datagram_bytes = buf.len() - self.layout.transport;
                ipv4::set_word(buf.bytes_mut(), self.layout.transport + UDP_LENGTH, datagram_bytes as u16);
            }
        }
        self.seal(&mut buf);
        let offload = Offload {
            checksum: self.layout.partial(),
            segment_bytes: self.segment_bytes as u16,
            header_bytes: header_bytes as u16,
        };
        Some(Packet::raw(buf, offload).prove(*packets[self.head].proof()))
    }

    fn seal(&self, buf: &mut Buf) {
        let Layout { transport, protocol, .. } = self.layout;
        let bytes = buf.bytes_mut();
        self.layout.set_length(bytes);
        let seed = checksum::fold(self.layout.pseudo_header(bytes));
        ipv4::set_word(bytes, transport + protocol.checksum(), seed);
    }
}

fn may_not_be_fragmented(ipv4: &[u8]) -> bool {
    ipv4::word_at(ipv4, ipv4::FRAGMENT).is_some_and(|word| word & ipv4::DONT_FRAGMENT != 0)
}

fn identification(bytes: &[u8]) -> u16 {
    ipv4::word_at(bytes, ipv4::IDENTIFICATION).unwrap_or_default()
}

/// Whether two packets say that their flow's identification does not count on.
fn is_fixed(layout: &Layout, head: &[u8], bytes: &[u8]) -> bool {
    layout.family == Family::V4 && may_not_be_fragmented(head) && identification(head) == identification(bytes)
}

impl Layout {
    /// Whether the checksums are right, or were never on a wire.
    fn is_true<P>(&self, packet: &Packet<P>) -> bool {
        let bytes = packet.bytes();
        let is_header_true = self.family == Family::V6 || checksum::is_valid(&bytes[..self.transport]);
        is_header_true
            && match packet.offload().checksum {
                Checksum::Complete if packet.offload().segment_bytes != 0 => false,
                Checksum::Complete => {
                    checksum::fold(self.pseudo_header(bytes) + checksum::sum(&bytes[self.transport..])) == 0xffff
                }
                partial @ Checksum::Partial { .. } => partial == self.partial(),
            }
    }
}
