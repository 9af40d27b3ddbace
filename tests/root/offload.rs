//! What is done to packets in software, held byte for byte against what the kernel does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use wstether::checksum;
use wstether::io::ethtool::{self, Offloads};
use wstether::io::link_socket::{LinkSocket, Sees};
use wstether::io::netlink::Prefix;
use wstether::io::tun::{Features, Tun};
use wstether::lab::{Namespace, veth};
use wstether::offload::{Merger, SuperPackets, check, segment};
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
}

impl Case {
    fn new(is_ipv6: bool, protocol: u8, payload_bytes: usize) -> Self {
        let payload = (0..payload_bytes).map(|at| (at * 7 + at / 251) as u8).collect();
        Self { is_ipv6, protocol, flags: FLAGS, options: &TIMESTAMP, dont_fragment: true, payload }
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
            segment_bytes: SEGMENT_BYTES as u16,
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
    fn kernels(&self, case: &Case, count: usize) -> Vec<Vec<u8>> {
        self.near.write(&mut case.super_packet(TTL, &self.pool)).unwrap();
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
        let kernels = self.kernels(case, ours.len());
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

/// A router that merges what arrives by a cable and hands it to a TUN device.
struct MergingRouter {
    _namespaces: [Namespace; 2],
    cable: LinkSocket,
    link_header: Vec<u8>,
    far: Tun,
    pool: BufPool,
}

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
            // What is one batch to us comes to the kernel over some time: it waits as long, in nanoseconds.
            std::fs::write("/sys/class/net/eth0/gro_flush_timeout", "200000000").unwrap();
        };
        router.run(hold).unwrap();
        // A veth merges only what comes from a device that could not have sent it whole.
        host.run(|| ethtool::set_offloads("eth0", Offloads::OFF).unwrap()).unwrap();
        let mac = |namespace: &Namespace| namespace.netlink(|netlink| netlink.link("eth0")).unwrap().mac.unwrap();
        let link_header = [mac(&router), mac(&host)].concat();
        let cable = host.run(|| LinkSocket::open("eth0", Sees::Arriving, 1 << 20).unwrap()).unwrap();
        Self { _namespaces: [host, router], cable, link_header, far, pool: BufPool::new(1 << 24) }
    }

    /// Holds what the kernel makes of the packets against what we do, and returns how many it merged. It may wait for
    /// less than all of them, so that each of its packets is held against ours of the same segments.
    fn compare(&self, sent: &[Vec<u8>]) -> u32 {
        for packet in sent {
            let ether_type = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
            self.cable.send(&[&self.link_header, &ether_type[..], packet].concat()).unwrap();
        }
        let kernels = self.kernels(sent.len() as u32);
        assert_eq!(kernels.iter().map(Packet::segments).sum::<u32>(), sent.len() as u32);
        let mut rest = sent;
        for kernels in &kernels {
            let (segments, behind) = rest.split_at(kernels.segments() as usize);
            let [ours] = &self.merged(segments)[..] else { panic!("{segments:?} are one to the kernel") };
            assert_eq!((ours.bytes(), ours.offload()), (kernels.bytes(), kernels.offload()));
            rest = behind;
        }
        kernels.iter().map(|packet| packet.segments() - 1).sum()
    }

    fn kernels(&self, segments: u32) -> Vec<Packet<Raw>> {
        let (mut found, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        while found.iter().map(Packet::segments).sum::<u32>() < segments && Instant::now() < deadline {
            self.far.read_batch(&self.pool, 64, &mut found).unwrap();
            // The kernel announces itself there, too.
            found.retain(|packet| packet.bytes()[if packet.bytes()[0] >> 4 == 4 { 9 } else { 6 }] == TCP);
            std::thread::sleep(Duration::from_millis(1));
        }
        found
    }

    /// What we make of the packets, behind a router.
    fn merged(&self, sent: &[Vec<u8>]) -> Vec<Packet<Raw>> {
        let raw = |bytes: &Vec<u8>| Packet::raw(self.pool.copy(bytes).unwrap(), Offload::default());
        let mut packets: Vec<Packet<Raw>> = sent.iter().map(raw).collect();
        Merger::default().merge(&mut packets, SuperPackets::TCP, &self.pool);
        packets.iter_mut().for_each(|packet| route(packet.bytes_mut()));
        packets
    }
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

#[test]
fn packets_are_merged_byte_for_byte_as_the_kernel_merges_them() {
    let (router, mut merged) = (MergingRouter::new(), 0);
    for is_ipv6 in [false, true] {
        for flags in [ACK, ACK | 0x08, ACK | 0x09] {
            let case = Case { flags, ..Case::new(is_ipv6, TCP, 13_005) };
            let mut sent = case.complete_segments(&router.pool);
            merged += router.compare(&sent);
            sent.remove(4);
            merged += router.compare(&sent);
        }
    }
    assert!(merged > 0, "the kernel merged nothing");
}
