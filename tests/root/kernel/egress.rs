//! The raw egress: capture, sender, next hops, and the rule that keeps the kernel's own stack quiet.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use wstether::io::nft::{Rules, Table};
use wstether::io::packet_socket::{self, EgressSettings, RawReceiver, RawSender, Refusal, SendReport};
use wstether::io::tun::{Features, Tun};
use wstether::lab::{Capture, Namespace, Offloads};
use wstether::offload::{Merger, SuperPackets};
use wstether::packet::{BufPool, Checksum, Offload, Packet, Raw};
use wstether::stages::Reason as _;

use super::support::{LEFT, RIGHT, flow, in_24, overflow_monitors, pair, payloads, received, udp};

const PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

fn settings() -> EgressSettings {
    EgressSettings {
        interface: "eth0".to_owned(),
        addresses: vec![LEFT],
        ports: PORTS,
        receive_buffer_bytes: 4 << 20,
        send_buffer_bytes: 4 << 20,
    }
}

fn open(namespace: &Namespace) -> (RawSender, RawReceiver) {
    namespace.run(|| packet_socket::open(&settings()).unwrap()).unwrap()
}

fn packet(pool: &BufPool, bytes: &[u8]) -> Packet<Raw> {
    Packet::raw(pool.copy(bytes).unwrap(), Offload::default())
}

/// Reads until `count` packets are there.
fn read(receiver: &RawReceiver, pool: &BufPool, count: usize) -> Vec<Packet<Raw>> {
    let (mut batch, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(5));
    while batch.len() < count && Instant::now() < deadline {
        assert_eq!(receiver.read_batch(pool, 256, &mut batch).unwrap().lost, 0);
        std::thread::sleep(Duration::from_millis(1));
    }
    batch
}

fn refused(report: SendReport, why: Refusal) -> u64 {
    report.refused[why.index()]
}

#[test]
fn the_capture_sees_our_ports_and_no_others_and_the_hosts_sockets_are_untouched() {
    let (left, right) = pair();
    let (_sender, receiver) = open(&left);
    let pool = BufPool::new(1 << 20);
    let host = left.run(|| UdpSocket::bind((LEFT, 7)).unwrap()).unwrap();
    let socket = right.run(|| UdpSocket::bind((RIGHT, 9)).unwrap()).unwrap();
    socket.send_to(b"for the host", (LEFT, 7)).unwrap();
    for port in [19_999, 20_000, 29_999, 30_000] {
        socket.send_to(b"x", (LEFT, port)).unwrap();
    }
    let seen = read(&receiver, &pool, 2);
    let ports: Vec<u16> =
        seen.iter().map(|packet| u16::from_be_bytes([packet.bytes()[22], packet.bytes()[23]])).collect();
    assert_eq!(ports, [20_000, 29_999]);
    assert!(seen.iter().all(|packet| packet.len() == 29), "padding of short frames is taken off");
    host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(host.recv(&mut [0; 32]).unwrap(), 12);
    assert_eq!(receiver.kernel_drops().unwrap(), 0);
}

#[test]
fn the_first_packet_goes_by_the_kernel_and_later_ones_past_it() {
    let (left, right) = pair();
    let (sender, _receiver) = open(&left);
    let pool = BufPool::new(1 << 20);
    let socket = right.run(|| UdpSocket::bind((RIGHT, 9)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let bytes = udp((LEFT, 20_000), (RIGHT, 9), b"payload");
    let super_packet = |payload: usize| {
        let mut packet = packet(&pool, &udp((LEFT, 20_000), (RIGHT, 9), &vec![7; payload]));
        let checksum = Checksum::Partial { start: 20, offset: 6 };
        packet.set_offload(Offload { checksum, segment_bytes: 1_000, header_bytes: 28 });
        packet
    };
    // Nobody is known yet: a super-packet cannot go, and asks for the neighbour.
    let report = sender.send_batch(&mut [super_packet(3_000)]);
    assert_eq!((report.sent_packets, refused(report, Refusal::NoNeighbour)), (0, 3));
    let mut batch = [packet(&pool, &bytes), packet(&pool, &bytes)];
    assert_eq!(sender.send_batch(&mut batch).sent_packets, 2);
    let mut buf = [0; 4_096];
    for _ in 0..2 {
        assert_eq!(socket.recv_from(&mut buf).unwrap(), (7, (LEFT, 20_000).into()));
    }
    let report = sender.send_batch(&mut [packet(&pool, &bytes), super_packet(3_000)]);
    assert_eq!(
        report,
        SendReport { sent_packets: 2, sent_segments: 4, sent_bytes: 35 + 3_028, ..SendReport::default() }
    );
    assert_eq!(socket.recv(&mut buf).unwrap(), 7);
}

#[test]
fn datagrams_that_are_sent_as_one_super_packet_arrive_each_for_itself_with_offloads_on_and_off() {
    for offloads in [Offloads::ON, Offloads::OFF] {
        let (left, right) = pair();
        left.offloads("eth0", offloads).unwrap();
        right.offloads("eth0", offloads).unwrap();
        let (pool, (sender, _receiver)) = (BufPool::new(1 << 20), open(&left));
        let socket = right.run(|| UdpSocket::bind((RIGHT, 9)).unwrap()).unwrap();
        // The first goes by the kernel, which asks for the neighbour.
        assert_eq!(sender.send_batch(&mut flow(&pool, (LEFT, 20_000), (RIGHT, 9), &payloads(1, 36))).sent_packets, 1);
        assert_eq!(received(&socket, 1), payloads(1, 36));
        for payload_bytes in [36, 1_200] {
            let sent = payloads(50, payload_bytes);
            let mut packets = flow(&pool, (LEFT, 20_000), (RIGHT, 9), &sent);
            Merger::default().merge(&mut packets, sender.takes(), &pool);
            assert_eq!(packets.len(), if sender.takes().udp { 1 } else { 50 });
            let report = sender.send_batch(&mut packets);
            assert_eq!((report.sent_packets, report.sent_segments), (packets.len() as u64, 50), "{offloads:?}");
            assert_eq!(received(&socket, 50), sent);
        }
    }
}

#[test]
fn what_cannot_be_sent_is_counted_by_its_reason() {
    let (left, _right) = pair();
    let (sender, _receiver) = open(&left);
    let pool = BufPool::new(1 << 20);
    let to = |address: Ipv4Addr, len: usize| packet(&pool, &udp((LEFT, 20_000), (address, 9), &vec![0; len]));
    let nowhere = Ipv4Addr::new(203, 0, 113, 1);
    let mut batch = [to(nowhere, 10), to(LEFT, 10), to(RIGHT, 1_500), packet(&pool, &[0x60; 40])];
    let report = sender.send_batch(&mut batch);
    assert_eq!(report.sent_packets, 0);
    assert_eq!([Refusal::NoRoute, Refusal::TooLarge, Refusal::Failed].map(|why| refused(report, why)), [2, 1, 1]);
}

#[test]
fn a_new_route_is_used_at_once() {
    let (left, right) = pair();
    let (sender, _receiver) = open(&left);
    let pool = BufPool::new(1 << 20);
    let far = Ipv4Addr::new(203, 0, 113, 1);
    right.address("lo", wstether::io::netlink::Prefix::new(far.into(), 32)).unwrap();
    let mut batch = [packet(&pool, &udp((LEFT, 20_000), (far, 9), b"far"))];
    assert_eq!(refused(sender.send_batch(&mut batch), Refusal::NoRoute), 1);
    let socket = right.run(|| UdpSocket::bind((far, 9)).unwrap()).unwrap();
    left.route(wstether::io::netlink::Prefix::ALL_V4, RIGHT.into(), "eth0").unwrap();
    assert_eq!(sender.send_batch(&mut batch).sent_packets, 1);
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 3);
}

#[test]
fn a_neighbour_whose_change_was_not_told_is_listed_anew() {
    let (left, right) = pair();
    let (sender, _receiver) = open(&left);
    let (pool, bytes) = (BufPool::new(1 << 20), udp((LEFT, 20_000), (RIGHT, 9), b"x"));
    let socket = right.run(|| UdpSocket::bind((RIGHT, 9)).unwrap()).unwrap();
    // The first goes by the kernel, which asks for the neighbour.
    assert_eq!(sender.send_batch(&mut [packet(&pool, &bytes)]).sent_packets, 1);
    received(&socket, 1);
    sender.send_batch::<Raw>(&mut []);
    assert!(sender.has_neighbour(&bytes));
    left.run(overflow_monitors).unwrap();
    // A link that goes down forgets its neighbours.
    for up in [false, true] {
        left.netlink(|netlink| netlink.set_up("eth0", up)).unwrap();
    }
    sender.send_batch::<Raw>(&mut []);
    assert!(!sender.has_neighbour(&bytes));
}

#[test]
fn a_stale_neighbour_is_used_on_and_confirmed() {
    let (left, right) = pair();
    // Whoever asks for our hardware address tells us theirs, and the kernel notes it as stale.
    let heard = left.run(|| UdpSocket::bind((LEFT, 7)).unwrap()).unwrap();
    right.run(|| UdpSocket::bind((RIGHT, 9)).unwrap().send_to(b"x", (LEFT, 7)).unwrap()).unwrap();
    heard.recv(&mut [0; 8]).unwrap();
    let (sender, _receiver) = open(&left);
    let pool = BufPool::new(1 << 20);
    let mut batch = [packet(&pool, &udp((LEFT, 20_000), (RIGHT, 9), b"x"))];
    let stale = |wanted: bool, deadline: Instant| loop {
        let index = left.netlink(|netlink| Ok(netlink.link("eth0")?.index)).unwrap();
        let known = left.netlink(|netlink| netlink.neighbours(index)).unwrap();
        if known.iter().any(|found| found.mac.is_some() && found.stale == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{known:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    stale(true, Instant::now() + Duration::from_secs(5));
    let capture = Capture::start(&right, "eth0", |frame| frame.get(12..14) == Some(&[8, 0][..])).unwrap();
    assert_eq!(sender.send_batch(&mut batch).sent_packets, 1);
    stale(false, Instant::now() + Duration::from_secs(5));
    assert!(capture.finish().0 >= 1, "the packet did not wait for the confirmation");
}

#[test]
fn an_interface_without_link_headers_needs_no_neighbour() {
    let namespace = Namespace::new("point to point").unwrap();
    namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    let features = Features { vnet_hdr: true, persistent: false };
    let tun = namespace.run(|| Tun::open("eth0", features).unwrap()).unwrap();
    namespace.address("eth0", in_24(LEFT)).unwrap();
    let (sender, receiver) = open(&namespace);
    let pool = BufPool::new(1 << 20);
    let (out, back) = (udp((LEFT, 20_000), (RIGHT, 9), b"out"), udp((RIGHT, 9), (LEFT, 20_000), b"back"));
    assert_eq!(sender.send_batch(&mut [packet(&pool, &out)]).sent_packets, 1);
    let mut left = Vec::new();
    tun.read_batch(&pool, 8, &mut left).unwrap();
    assert_eq!(left[0].bytes(), out);
    tun.write(&mut packet(&pool, &back)).unwrap();
    assert_eq!(read(&receiver, &pool, 1)[0].bytes(), back);
}

#[test]
fn the_kernel_answers_for_our_ports_until_the_rule_stands_and_the_capture_sees_them_either_way() {
    let (left, right) = pair();
    let (_sender, receiver) = open(&left);
    let pool = BufPool::new(1 << 20);
    let socket = right.run(|| UdpSocket::bind((RIGHT, 9)).unwrap()).unwrap();
    let answers = |table: bool| {
        if table {
            let rules = Rules::Raw { addresses: vec![LEFT], ports: PORTS };
            left.run(|| Table { name: "wstether-test".to_owned(), rules: rules.clone() }.install().unwrap()).unwrap();
        }
        let capture = Capture::start(&right, "eth0", |frame| is_reset_or_unreachable(frame, LEFT)).unwrap();
        socket.send_to(b"x", (LEFT, 20_001)).unwrap();
        let refused =
            right.run(|| std::net::TcpStream::connect_timeout(&(LEFT, 20_002).into(), Duration::from_millis(300)));
        assert!(refused.unwrap().is_err());
        assert!(read(&receiver, &pool, 2).len() >= 2);
        capture.finish().0
    };
    assert_eq!(answers(false), 2, "one reset and one port-unreachable");
    assert_eq!(answers(true), 0);
}

fn is_reset_or_unreachable(frame: &[u8], source: Ipv4Addr) -> bool {
    const RST: u8 = 0x04;
    let from_us = frame.get(26..30) == Some(&source.octets()[..]) && frame.get(12..14) == Some(&[8, 0][..]);
    let [protocol, flags, icmp] = [23, 47, 34].map(|at| frame.get(at).copied().unwrap_or_default());
    from_us && (protocol == 6 && flags & RST != 0 || protocol == 1 && icmp == 3)
}

/// Bulk TCP from a host's own stack, forwarded packet for packet by the capture and the sender of a machine between.
#[test]
fn super_packets_cross_capture_and_sender_whole_and_intact_with_offloads_on_and_off() {
    for offloads in [Offloads::ON, Offloads::OFF] {
        let largest = bulk_through_the_raw_egress(offloads);
        // With offloads off they come packet by packet, and what one read brings is joined, as a source does it.
        assert!(largest > 1_500, "{offloads:?}: the largest packet had {largest} bytes");
    }
}

/// Sends a stream from left to right, where left's stack writes into the capture and the sender puts it on the wire: the
/// middle has one interface to each, and no forwarding of its own.
fn bulk_through_the_raw_egress(offloads: Offloads) -> usize {
    const STREAM_BYTES: usize = 4 << 20;
    let client = Ipv4Addr::new(198, 51, 100, 1);
    let server = Ipv4Addr::new(203, 0, 113, 2);
    let (left, middle, right) =
        (Namespace::new("left").unwrap(), Namespace::new("middle").unwrap(), Namespace::new("right").unwrap());
    let prefix = |a, b, c, d| wstether::io::netlink::Prefix::new(Ipv4Addr::new(a, b, c, d).into(), 24);
    for (end, inner, address, gateway) in [
        (&left, "l", prefix(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 254)),
        (&right, "r", prefix(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 254)),
    ] {
        wstether::lab::veth(end, "eth0", &middle, inner).unwrap();
        end.address("eth0", address).unwrap();
        middle.address(inner, wstether::io::netlink::Prefix::new(gateway.into(), 24)).unwrap();
        end.offloads("eth0", offloads).unwrap();
        middle.offloads(inner, offloads).unwrap();
        end.route(wstether::io::netlink::Prefix::ALL_V4, gateway.into(), "eth0").unwrap();
    }
    let side = |interface: &str, ours: Ipv4Addr| {
        let settings = EgressSettings {
            interface: interface.to_owned(),
            addresses: vec![ours],
            ports: 1..=u16::MAX,
            ..settings()
        };
        middle.run(|| packet_socket::open(&settings).unwrap()).unwrap()
    };
    // What arrives on l for the server leaves by r, and the other way round.
    let (to_left, from_left) = side("l", server);
    let (to_right, from_right) = side("r", client);
    let listener = right.run(|| TcpListener::bind((server, 443)).unwrap()).unwrap();
    let (done, stop) = mpsc::channel::<()>();
    let middle_of_the_way = std::thread::spawn(move || {
        let (pool, mut batch, mut largest) = (BufPool::new(64 << 20), Vec::new(), 0);
        let mut merger = Merger::default();
        while stop.try_recv() == Err(mpsc::TryRecvError::Empty) {
            for (from, to) in [(&from_left, &to_right), (&from_right, &to_left)] {
                from.read_batch(&pool, 64, &mut batch).unwrap();
                merger.merge(&mut batch, SuperPackets::ALL, &pool);
                largest = batch.iter().map(Packet::len).fold(largest, usize::max);
                to.send_batch(&mut batch);
                batch.clear();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        assert!(from_left.as_fd().try_clone_to_owned().is_ok());
        largest
    });
    let sending = std::thread::spawn(move || {
        let stream: Vec<u8> = (0..STREAM_BYTES).map(|at| (at % 251) as u8).collect();
        left.run(|| {
            std::io::Write::write_all(&mut std::net::TcpStream::connect((server, 443)).unwrap(), &stream).unwrap()
        })
        .unwrap();
        left
    });
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut arrived = Vec::new();
    accepted.read_to_end(&mut arrived).unwrap();
    // Its interface goes with it, and with that the other end of the cable is down.
    let _left = sending.join().unwrap();
    done.send(()).unwrap();
    assert!(arrived.len() == STREAM_BYTES && arrived.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
    middle_of_the_way.join().unwrap()
}
