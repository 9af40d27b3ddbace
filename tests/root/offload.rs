//! What is done to packets in software, held byte for byte against what the kernel does: cutting and splitting behind a router's
//! TUN device, joining behind its cable, where also what the kernel leaves apart is seen.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use wstether::checksum;
use wstether::io::ethtool::{self, Offloads};
use wstether::io::link_socket::{LinkSocket, Sees};
use wstether::io::netlink::Prefix;
use wstether::io::tun::{Features, Tun};
use wstether::lab::{Namespace, veth};
use wstether::offload::{Merger, SuperPackets, check, segment, split};
use wstether::packet::{BufPool, Checksum, Offload, Packet, Raw};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
/// FIN, PSH, ACK, ECE and CWR: all that may be on one segment only, and one that is on each.
const FLAGS: u8 = 0xd9;
/// A router takes one off the time to live.
const TTL: u8 = 64;
/// No operation twice, then a timestamp (RFC 7323, appendix A).
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
const SEGMENT_BYTES: usize = 1_300;

#[derive(Clone, Debug)]
struct Case {
    is_ipv6: bool,
    protocol: u8,
    flags: u8,
    options: &'static [u8],
    dont_fragment: bool,
    payload: Vec<u8>,
    segment_bytes: usize,
}

impl Case {
    fn new(is_ipv6: bool, protocol: u8, payload_bytes: usize) -> Self {
        let payload = (0..payload_bytes).map(|at| (at * 7 + at / 251) as u8).collect();
        let segment_bytes = SEGMENT_BYTES;
        Self { is_ipv6, protocol, flags: FLAGS, options: &TIMESTAMP, dont_fragment: true, payload, segment_bytes }
    }

    fn transport(&self) -> usize {
        if self.is_ipv6 { 40 } else { 20 }
    }

    fn field(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }

    fn header_bytes(&self) -> usize {
        self.transport() + if self.protocol == TCP { 20 + self.options.len() } else { 8 }
    }

    fn super_packet(&self, ttl: u8, pool: &BufPool) -> Packet<Raw> {
        let (mut bytes, at, field) = (self.ip_header(ttl), self.transport(), self.field());
        bytes.extend(self.transport_header());
        bytes.extend(&self.payload);
        let [source, destination] = addresses(self.is_ipv6);
        let sum = checksum::pseudo_header(source, destination, self.protocol, bytes.len() - at);
        bytes[at + field..at + field + 2].copy_from_slice(&checksum::fold(sum).to_be_bytes());
        let offload = Offload {
            checksum: Checksum::Partial { start: at as u16, offset: field as u16 },
            segment_bytes: self.segment_bytes as u16,
            header_bytes: self.header_bytes() as u16,
        };
        check(&bytes, offload, 1_500).unwrap();
        Packet::raw(pool.copy(&bytes).unwrap(), offload)
    }

    fn ip_header(&self, ttl: u8) -> Vec<u8> {
        let payload_bytes = self.header_bytes() - self.transport() + self.payload.len();
        let [source, destination] = addresses(self.is_ipv6);
        if self.is_ipv6 {
            let [high, low] = (payload_bytes as u16).to_be_bytes();
            let mut header = vec![0x60, 0x2f, 0x12, 0x34, high, low, self.protocol, ttl];
            header.extend(octets(source));
            header.extend(octets(destination));
            return header;
        }
        let [high, low] = (20 + payload_bytes as u16).to_be_bytes();
        let fragment = if self.dont_fragment { 0x40 } else { 0 };
        let mut header = vec![0x45, 0x02, high, low, 0xff, 0xfe, fragment, 0, ttl, self.protocol, 0, 0];
        header.extend(octets(source));
        header.extend(octets(destination));
        let checksum = checksum::of(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn transport_header(&self) -> Vec<u8> {
        let mut header = vec![0x0f, 0xa0, 0x01, 0xbb];
        if self.protocol == UDP {
            header.extend((8 + self.payload.len() as u16).to_be_bytes());
            header.extend([0; 2]);
            return header;
        }
        header.extend(0xffff_f000_u32.to_be_bytes());
        header.extend([0, 0, 0, 2, 0x50 + (self.options.len() / 4 * 16) as u8, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        header.extend(self.options);
        header
    }

    /// Our segments of the packet as it is behind a router.
    fn ours(&self, pool: &BufPool) -> Vec<Vec<u8>> {
        let mut segments = Vec::new();
        segment(self.super_packet(TTL - 1, pool), pool, &mut |segment| segments.push(segment.bytes().to_vec()))
            .unwrap();
        segments
    }

    /// The segments as a host sends them.
    fn complete_segments(&self, pool: &BufPool) -> Vec<Vec<u8>> {
        let mut segments = Vec::new();
        segment(self.super_packet(TTL, pool), pool, &mut |segment| segments.push(segment.bytes().to_vec())).unwrap();
        segments
    }

    fn first_checksum(&self, pool: &BufPool) -> u16 {
        let (first, at) = (&self.ours(pool)[0], self.transport() + self.field());
        u16::from_be_bytes([first[at], first[at + 1]])
    }
}

fn addresses(is_ipv6: bool) -> [IpAddr; 2] {
    match is_ipv6 {
        true => [net(1, 9).1, net(2, 9).1],
        false => [net(1, 9).0, net(2, 9).0],
    }
}

/// Host `host` of network `number`, in both families.
fn net(number: u8, host: u8) -> (IpAddr, IpAddr) {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, host.into());
    (Ipv4Addr::new(198, 18, number, host).into(), v6.into())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A router between two TUN devices: super-packets may enter by the first, and must be cut to leave by the second.
struct Router {
    _namespace: Namespace,
    near: Tun,
    far: Tun,
    pool: BufPool,
}

impl Router {
    fn new() -> Self {
        let namespace = Namespace::new("router").unwrap();
        let open = |name: &str, vnet_hdr| {
            namespace.run(|| Tun::open(name, Features { vnet_hdr, persistent: false }).unwrap()).unwrap()
        };
        let (near, far) = (open("near", true), open("far", false));
        for (number, tun) in [(1, &near), (2, &far)] {
            let (v4, v6) = net(number, 1);
            namespace.address(tun.name(), Prefix::new(v4, 24)).unwrap();
            namespace.address(tun.name(), Prefix::new(v6, 64)).unwrap();
        }
        namespace.sysctl("net.ipv4.ip_forward", "1").unwrap();
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        Self { _namespace: namespace, near, far, pool: BufPool::new(1 << 24) }
    }

    /// The packets that the kernel makes of a super-packet.
    fn kernels(&self, mut packet: Packet<Raw>, case: &Case, count: usize) -> Vec<Vec<u8>> {
        self.near.write(&mut packet).unwrap();
        let (mut found, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        while found.len() < count && Instant::now() < deadline {
            let mut batch = Vec::new();
            self.far.read_batch(&self.pool, 64, &mut batch).unwrap();
            // The kernel announces itself there, too.
            let is_ours = |bytes: &[u8]| match bytes[0] >> 4 {
                4 => bytes[9] == case.protocol,
                _ => bytes[6] == case.protocol,
            };
            found.extend(batch.iter().map(|packet| packet.bytes().to_vec()).filter(|bytes| is_ours(bytes)));
            std::thread::yield_now();
        }
        found
    }

    fn compare(&self, case: &Case) {
        let ours = case.ours(&self.pool);
        let kernels = self.kernels(case.super_packet(TTL, &self.pool), case, ours.len());
        let what = (case.is_ipv6, case.protocol, case.payload.len());
        assert_eq!(kernels.len(), ours.len(), "IPv6, protocol, bytes: {what:?}");
        for (number, (kernels, ours)) in kernels.iter().zip(&ours).enumerate() {
            assert_eq!(kernels, ours, "segment {number} of IPv6, protocol, bytes: {what:?}");
        }
    }
}

fn every_kind() -> impl Iterator<Item = (bool, u8)> {
    [(false, TCP), (true, TCP), (false, UDP), (true, UDP)].into_iter()
}

#[test]
fn super_packets_are_cut_byte_for_byte_as_the_kernel_cuts_them() {
    let router = Router::new();
    for (is_ipv6, protocol) in every_kind() {
        for payload_bytes in [1_301, 2_600, 2_601, 13_005, 60_000] {
            let case = Case::new(is_ipv6, protocol, payload_bytes);
            router.compare(&case);
            router.compare(&Case { flags: ACK, options: &[], dont_fragment: false, ..case });
        }
    }
}

#[test]
fn a_segment_whose_checksum_comes_to_zero_is_written_as_the_kernel_writes_it() {
    let router = Router::new();
    for (is_ipv6, protocol) in every_kind() {
        let mut case = Case::new(is_ipv6, protocol, 4_000);
        case.payload[..2].fill(0);
        // What is missing to a sum of all ones.
        let missing = case.first_checksum(&router.pool);
        case.payload[..2].copy_from_slice(&missing.to_be_bytes());
        assert_eq!(case.first_checksum(&router.pool), if protocol == UDP { 0xffff } else { 0 });
        router.compare(&case);
    }
}

#[test]
fn a_single_packet_is_completed_as_the_kernel_completes_it() {
    let router = Router::new();
    for (is_ipv6, protocol) in every_kind() {
        for payload_bytes in [1, 512, 1_299] {
            let case = Case::new(is_ipv6, protocol, payload_bytes);
            router.compare(&case);
        }
    }
}

#[test]
fn super_packets_are_split_into_smaller_ones_that_are_to_the_kernel_what_the_whole_is() {
    let router = Router::new();
    for (is_ipv6, protocol) in every_kind() {
        let case = Case::new(is_ipv6, protocol, 13_005);
        let singles = router.kernels(case.super_packet(TTL, &router.pool), &case, 11);
        for segments_max in [1, 2, 3, 10] {
            let (mut found, mut pieces) = (Vec::new(), Vec::new());
            split(case.super_packet(TTL, &router.pool), segments_max, &router.pool, &mut |piece| pieces.push(piece))
                .unwrap();
            for piece in pieces {
                let segments = piece.segments() as usize;
                found.extend(router.kernels(piece, &case, segments));
            }
            assert_eq!(found, singles, "IPv6, protocol, by: {:?}", (is_ipv6, protocol, segments_max));
        }
    }
}

/// A router that merges what arrives by a cable and hands it to a TUN device.
struct MergingRouter {
    _namespaces: [Namespace; 2],
    cable: LinkSocket,
    link_header: Vec<u8>,
    far: Tun,
    pool: BufPool,
}

/// How long the kernel may wait for more of a flow: what is one batch to us comes to it over some time.
const KERNEL_WAITS: Duration = Duration::from_millis(20);

/// How often the kernel is asked. It also parts what came in two of its ticks, which says nothing about the packets; that
/// it does so each time with packets that are sent within a tick is as good as impossible.
const TRIES: usize = 100;

/// The kernel's packets and ours of the same packets, each by the numbers that it has of them.
struct Both {
    kernels: Vec<Merged>,
    ours: Vec<Merged>,
}

/// A packet: the numbers of those that it was joined of, its bytes and its offload.
type Merged = (Vec<u16>, Vec<u8>, Offload);

impl MergingRouter {
    fn new() -> Self {
        let (host, router) = (Namespace::new("host").unwrap(), Namespace::new("router").unwrap());
        veth(&host, "eth0", &router, "eth0").unwrap();
        let far = router.run(|| Tun::open("far", Features { vnet_hdr: true, persistent: false }).unwrap()).unwrap();
        for (number, interface) in [(1, "eth0"), (2, "far")] {
            let (v4, v6) = net(number, 1);
            router.address(interface, Prefix::new(v4, 24)).unwrap();
            router.address(interface, Prefix::new(v6, 64)).unwrap();
        }
        router.sysctl("net.ipv4.ip_forward", "1").unwrap();
        router.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        let hold = || {
            ethtool::set_offloads("eth0", Offloads::ON).unwrap();
            ethtool::set_feature("eth0", "rx-udp-gro-forwarding", true).unwrap();
            let waits_ns = KERNEL_WAITS.as_nanos().to_string();
            std::fs::write("/sys/class/net/eth0/gro_flush_timeout", waits_ns).unwrap();
        };
        router.run(hold).unwrap();
        // A veth merges only what comes from a device that could not have sent it whole.
        host.run(|| ethtool::set_offloads("eth0", Offloads::OFF).unwrap()).unwrap();
        let mac = |namespace: &Namespace| namespace.netlink(|netlink| netlink.link("eth0")).unwrap().mac.unwrap();
        let link_header = [mac(&router), mac(&host)].concat();
        let cable = host.run(|| LinkSocket::open("eth0", Sees::Arriving, 1 << 20).unwrap()).unwrap();
        Self { _namespaces: [host, router], cable, link_header, far, pool: BufPool::new(1 << 24) }
    }

    /// Asks the kernel until it joins as `expected` says, and holds its packets and ours against each other.
    fn compare(&self, what: &str, sent: &[Vec<u8>], expected: &Expected) -> Result<(), String> {
        let is_what =
            |found: &[Merged], segments: &[usize]| found.iter().map(|one| one.0.len()).eq(segments.iter().copied());
        let mut seen = BTreeSet::new();
        for _ in 0..TRIES {
            let Both { kernels, ours } = self.both(sent);
            if !is_what(&ours, expected.ours()) {
                return Err(format!("{what}: ours are {:?}, not {expected:?}", numbers(&ours)));
            }
            // What both made of the same packets is the same to the byte, whatever else there is.
            for (ours, kernels) in ours.iter().flat_map(|ours| kernels.iter().map(move |kernels| (ours, kernels))) {
                if !ours.0.is_empty() && ours.0 == kernels.0 && ours != kernels {
                    return Err(format!("{what}: ours is {ours:x?}, the kernel's {kernels:x?}"));
                }
            }
            if expected.kernels().iter().any(|segments| is_what(&kernels, segments)) {
                return Ok(());
            }
            seen.insert(numbers(&kernels));
        }
        Err(format!("{what}: the kernel never joins as {expected:?}, but as {seen:?}"))
    }

    fn both(&self, sent: &[Vec<u8>]) -> Both {
        for packet in sent {
            let ether_type = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
            self.cable.send(&[&self.link_header, &ether_type[..], packet].concat()).unwrap();
        }
        let told = |packets: Vec<Packet<Raw>>| {
            let mut told: Vec<_> = packets.iter().map(merged_of).collect();
            // The kernel lets what it cannot join overtake what waits.
            told.sort_by(|one, other| one.0.cmp(&other.0));
            told
        };
        Both { kernels: told(self.kernels(sent.len())), ours: told(self.merged(sent)) }
    }

    fn kernels(&self, count: usize) -> Vec<Packet<Raw>> {
        let (mut found, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        let segments = |found: &[Packet<Raw>]| found.iter().map(Packet::segments).sum::<u32>() as usize;
        while segments(&found) < count {
            assert!(Instant::now() < deadline, "{} of {count} came: {found:?}", segments(&found));
            self.far.read_batch(&self.pool, 64, &mut found).unwrap();
            // The kernel announces itself there, too.
            found.retain(|packet| [TCP, UDP].contains(&protocol_of(packet.bytes())));
            std::thread::sleep(Duration::from_millis(1));
        }
        found
    }

    /// What we make of the packets, behind a router.
    fn merged(&self, sent: &[Vec<u8>]) -> Vec<Packet<Raw>> {
        let raw = |bytes: &Vec<u8>| Packet::raw(self.pool.copy(bytes).unwrap(), Offload::default());
        let mut packets: Vec<Packet<Raw>> = sent.iter().map(raw).collect();
        Merger::default().merge(&mut packets, SuperPackets::ALL, &self.pool);
        packets.iter_mut().for_each(|packet| route(packet.bytes_mut()));
        packets
    }
}

fn numbers(found: &[Merged]) -> Vec<Vec<u16>> {
    found.iter().map(|(numbers, ..)| numbers.clone()).collect()
}

fn merged_of(packet: &Packet<Raw>) -> Merged {
    let (bytes, offload) = (packet.bytes(), packet.offload());
    let payload = &bytes[payload_of(bytes)..];
    let each = if offload.segment_bytes == 0 { payload.len() } else { offload.segment_bytes.into() };
    let number = |chunk: &[u8]| u16::from_be_bytes([chunk[0], chunk[1]]);
    (payload.chunks(each.max(1)).map(number).collect(), bytes.to_vec(), offload)
}

fn protocol_of(bytes: &[u8]) -> u8 {
    bytes[if bytes[0] >> 4 == 4 { 9 } else { 6 }]
}

fn transport_of(bytes: &[u8]) -> usize {
    if bytes[0] >> 4 == 4 { 20 } else { 40 }
}

fn payload_of(bytes: &[u8]) -> usize {
    let at = transport_of(bytes);
    at + if protocol_of(bytes) == TCP { usize::from(bytes[at + 12] >> 4) * 4 } else { 8 }
}

/// What a router does to a packet.
fn route(bytes: &mut [u8]) {
    if bytes[0] >> 4 == 6 {
        bytes[7] -= 1;
        return;
    }
    bytes[8] -= 1;
    bytes[10..12].fill(0);
    let checksum = checksum::of(&bytes[..20]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Changes a packet and puts its lengths and checksums right.
fn change(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) {
    change(bytes);
    let (at, protocol) = (transport_of(bytes), protocol_of(bytes));
    let is_ipv6 = bytes[0] >> 4 == 6;
    let (len, transport_bytes) = (bytes.len() as u16, (bytes.len() - at) as u16);
    if is_ipv6 {
        bytes[4..6].copy_from_slice(&transport_bytes.to_be_bytes());
    } else {
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[10..12].fill(0);
        let checksum = checksum::of(&bytes[..20]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    if protocol == UDP {
        bytes[at + 4..at + 6].copy_from_slice(&transport_bytes.to_be_bytes());
    }
    let field = at + if protocol == TCP { 16 } else { 6 };
    bytes[field..field + 2].fill(0);
    let [source, destination] = addresses(is_ipv6);
    let pseudo_header = checksum::pseudo_header(source, destination, protocol, transport_bytes.into());
    let checksum = !checksum::fold(pseudo_header + checksum::sum(&bytes[at..]));
    bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Into how many packets each of what is sent is joined, in the order of what is sent.
#[derive(Debug)]
enum Expected {
    /// The kernel joins the same.
    Same(&'static [usize]),
    /// The kernel joins otherwise: in one of these ways, by its version.
    Differs { kernels: &'static [&'static [usize]], ours: &'static [usize] },
}

impl Expected {
    fn ours(&self) -> &[usize] {
        match self {
            Self::Same(segments) | Self::Differs { ours: segments, .. } => segments,
        }
    }

    fn kernels(&self) -> Vec<&[usize]> {
        match self {
            Self::Same(segments) => vec![*segments],
            Self::Differs { kernels, .. } => kernels.to_vec(),
        }
    }
}

/// Six packets of a flow, each with its number at the start of its payload.
fn six(is_ipv6: bool, protocol: u8) -> Vec<Vec<u8>> {
    numbered(Case { flags: ACK, ..Case::new(is_ipv6, protocol, 6 * SEGMENT_BYTES) })
}

fn numbered(mut case: Case) -> Vec<Vec<u8>> {
    let chunks = case.payload.chunks_mut(case.segment_bytes);
    chunks.zip(0_u16..).for_each(|(chunk, number)| chunk[..2].copy_from_slice(&number.to_be_bytes()));
    case.complete_segments(&BufPool::new(1 << 24))
}

/// What is done to the fourth of six packets so that it may not be joined with those before it.
fn flip(at: usize, bit: u8) -> impl Fn(&mut Vec<Vec<u8>>) {
    move |sent| change(&mut sent[3], |bytes| bytes[at] ^= bit)
}

/// What is done to packets before they are sent.
type Change = Box<dyn Fn(&mut Vec<Vec<u8>>)>;

/// A name, what is done to six packets, and what is then joined.
type Row = (&'static str, Change, Expected);

const FOURTH_ALONE: Expected = Expected::Same(&[3, 1, 2]);

fn rows_of_ip(is_ipv6: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![("nothing", Box::new(|_: &mut Vec<Vec<u8>>| ()), Expected::Same(&[6]))];
    if is_ipv6 {
        rows.push(("another traffic class", Box::new(flip(1, 0x40)), FOURTH_ALONE));
        rows.push(("another hop limit", Box::new(flip(7, 0x20)), FOURTH_ALONE));
    } else {
        rows.push(("another type of service", Box::new(flip(1, 0x40)), FOURTH_ALONE));
        rows.push(("another time to live", Box::new(flip(8, 0x20)), FOURTH_ALONE));
        rows.push(("may be fragmented", Box::new(flip(6, 0x40)), FOURTH_ALONE));
        let still = |sent: &mut Vec<Vec<u8>>| {
            sent.iter_mut().for_each(|packet| change(packet, |bytes| bytes[4..6].copy_from_slice(&[0, 7])));
        };
        // A TUN device takes no such super-packet of TCP: on the way there the kernel cuts it again.
        let whole = Expected::Differs { kernels: &[&[6], &[1; 6]], ours: &[6] };
        rows.push(("the identification stands still", Box::new(still), whole));
    }
    rows
}

fn rows_of_tcp(is_ipv6: bool) -> Vec<Row> {
    let at = if is_ipv6 { 40 } else { 20 };
    let mut rows = rows_of_ip(is_ipv6);
    let mut row = |name, change: Change, expected| rows.push((name, change, expected));
    row("one is missing", Box::new(|sent| drop(sent.remove(3))), Expected::Same(&[3, 2]));
    row("one comes twice", Box::new(|sent| sent.insert(3, sent[3].clone())), Expected::Same(&[4, 3]));
    row("two have changed places", Box::new(|sent| sent.swap(2, 3)), Expected::Same(&[2, 1, 1, 2]));
    for (name, byte, bit) in [
        ("another acknowledgement", 11, 1),
        ("another window", 15, 1),
        ("another timestamp", 27, 1),
        ("ECE", 13, 0x40),
        ("SYN", 13, 0x02),
        ("RST", 13, 0x04),
    ] {
        row(name, Box::new(flip(at + byte, bit)), FOURTH_ALONE);
    }
    // To a kernel that knows accurate ECN (Linux 6.15) it is part of a number, and the same on all.
    let cwr = Expected::Differs { kernels: &[&[3, 1, 2], &[3, 3]], ours: &[3, 3] };
    row("CWR", Box::new(flip(at + 13, 0x80)), cwr);
    row("PSH", Box::new(flip(at + 13, 0x08)), Expected::Same(&[4, 2]));
    row("FIN", Box::new(flip(at + 13, 0x01)), Expected::Same(&[4, 2]));
    let first = |sent: &mut Vec<Vec<u8>>| {
        let at = transport_of(&sent[0]);
        change(&mut sent[0], |bytes| bytes[at + 13] |= 0x08);
    };
    row("PSH on the first", Box::new(first), Expected::Same(&[1, 5]));
    row("a shorter one", Box::new(|sent| shorten(&mut sent[3])), Expected::Same(&[4, 2]));
    let bare = |sent: &mut Vec<Vec<u8>>| {
        let (mut bare, payload) = (sent[3].clone(), payload_of(&sent[3]));
        change(&mut bare, |bytes| bytes.truncate(payload));
        sent.insert(3, bare);
    };
    row("a bare acknowledgement between", Box::new(bare), Expected::Same(&[0, 3, 3]));
    row("a wrong checksum", Box::new(|sent| corrupt(&mut sent[3])), FOURTH_ALONE);
    if !is_ipv6 {
        row("the identification leaps", Box::new(flip(5, 0x40)), FOURTH_ALONE);
    }
    rows
}

fn rows_of_udp(is_ipv6: bool) -> Vec<Row> {
    let mut rows = rows_of_ip(is_ipv6);
    let mut row = |name, change: Change, expected| rows.push((name, change, expected));
    row("a shorter one", Box::new(|sent| shorten(&mut sent[3])), Expected::Same(&[4, 2]));
    let shorter_three = |sent: &mut Vec<Vec<u8>>| {
        sent[..3].iter_mut().for_each(shorten);
    };
    row("longer ones behind", Box::new(shorter_three), Expected::Same(&[3, 3]));
    let without_checksum = |sent: &mut Vec<Vec<u8>>| {
        let at = transport_of(&sent[3]);
        sent[3][at + 6..at + 8].fill(0);
    };
    // The kernel lets it overtake the others, where no identification shows that it is missing.
    let overtaken = || match is_ipv6 {
        true => Expected::Differs { kernels: &[&[5, 1]], ours: &[3, 1, 2] },
        false => FOURTH_ALONE,
    };
    if !is_ipv6 {
        row("no checksum", Box::new(without_checksum), overtaken());
        // RFC 6864, 4.1: of a datagram that may not be fragmented it says nothing.
        let leaps = Expected::Differs { kernels: &[&[3, 1, 2]], ours: &[6] };
        row("the identification leaps", Box::new(flip(5, 0x40)), leaps);
    }
    row("a wrong checksum", Box::new(|sent| corrupt(&mut sent[3])), overtaken());
    rows
}

fn shorten(packet: &mut Vec<u8>) {
    change(packet, |bytes| bytes.truncate(500));
}

fn corrupt(packet: &mut [u8]) {
    *packet.last_mut().unwrap() ^= 1;
}

fn compare_rows(protocol: u8, rows: fn(bool) -> Vec<Row>) {
    let (router, mut wrong) = (MergingRouter::new(), Vec::new());
    for is_ipv6 in [false, true] {
        for (name, change, expected) in rows(is_ipv6) {
            let mut sent = six(is_ipv6, protocol);
            change(&mut sent);
            wrong.extend(router.compare(&format!("IPv6 {is_ipv6}, {name}"), &sent, &expected).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn segments_are_joined_byte_for_byte_as_the_kernel_joins_them_and_left_apart_where_it_leaves_them_so() {
    compare_rows(TCP, rows_of_tcp);
}

#[test]
fn datagrams_are_joined_byte_for_byte_as_the_kernel_joins_them_and_left_apart_where_it_leaves_them_so() {
    compare_rows(UDP, rows_of_udp);
}

#[test]
fn a_long_run_of_datagrams_has_up_to_as_many_as_the_kernel_cuts_although_it_joins_fewer() {
    let router = MergingRouter::new();
    for is_ipv6 in [false, true] {
        let sent = numbered(Case { segment_bytes: 300, ..Case::new(is_ipv6, UDP, 100 * 300) });
        router.compare("a hundred", &sent, &Expected::Differs { kernels: &[&[64, 36]], ours: &[100] }).unwrap();
    }
}
