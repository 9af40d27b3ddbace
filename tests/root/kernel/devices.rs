//! The TUN device.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use wstether::io::Received;
use wstether::io::tun::{Features, Tun};
use wstether::lab::Namespace;
use wstether::offload::Merger;
use wstether::packet::{BufPool, Checksum, Offload, Packet};

use super::support::{flow, in_24, payloads, received, udp};

const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

fn with_tun(features: Features, work: impl FnOnce(&Tun, &Namespace) + Send) {
    let namespace = Namespace::new("tun").unwrap();
    // Router solicitations and the like would stand between the packets of the test.
    namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    let tun = namespace.run(|| Tun::open("wst0", features).unwrap()).unwrap();
    namespace.address("wst0", in_24(HERE)).unwrap();
    namespace.run(|| work(&tun, &namespace)).unwrap();
}

#[test]
fn packets_come_out_of_a_tun_and_go_in_with_and_without_the_virtio_header() {
    for vnet_hdr in [false, true] {
        with_tun(Features { vnet_hdr, persistent: false }, |tun, _| {
            let (pool, mut batch) = (BufPool::new(1 << 20), Vec::new());
            let socket = UdpSocket::bind((HERE, 7)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for _ in 0..5 {
                socket.send_to(&[1; 900], (THERE, 9)).unwrap();
            }
            assert_eq!(
                tun.read_batch(&pool, 3, &mut batch).unwrap(),
                Received { packets: 3, lost: 0, more: true, waited: None }
            );
            assert_eq!(
                tun.read_batch(&pool, 3, &mut batch).unwrap(),
                Received { packets: 2, lost: 0, more: false, waited: None }
            );
            assert!(batch.iter().all(|packet| packet.len() == 928 && packet.segments() == 1));
            let mut packet = Packet::raw(pool.copy(&udp((THERE, 9), (HERE, 7), b"back")).unwrap(), Offload::default());
            tun.write(&mut packet).unwrap();
            let mut buf = [0; 16];
            assert_eq!(socket.recv_from(&mut buf).unwrap(), (4, (THERE, 9).into()));
        });
    }
}

#[test]
fn a_batch_ends_behind_the_packet_with_which_it_holds_as_much_as_a_cache_is_to_hold() {
    with_tun(Features::default(), |tun, _| {
        let (pool, mut batch) = (BufPool::new(1 << 20), Vec::new());
        let socket = UdpSocket::bind((HERE, 7)).unwrap();
        for _ in 0..60 {
            socket.send_to(&[1; 1_200], (THERE, 9)).unwrap();
        }
        // 53 packets of 1,228 bytes are less than 64 KiB, and 54 are more.
        assert_eq!(
            [(); 2].map(|()| tun.read_batch(&pool, 64, &mut batch).unwrap()),
            [(54, true), (6, false)].map(|(packets, more)| Received { packets, lost: 0, more, waited: None })
        );
    });
}

#[test]
fn an_exhausted_pool_loses_packets_and_never_blocks() {
    with_tun(Features::default(), |tun, _| {
        let (pool, mut batch) = (BufPool::new(2 * 2_048), Vec::new());
        let socket = UdpSocket::bind((HERE, 7)).unwrap();
        for _ in 0..5 {
            // Too much for a tiny buffer, of which sixteen would find room.
            socket.send_to(&[1; 200], (THERE, 9)).unwrap();
        }
        assert_eq!(
            tun.read_batch(&pool, 64, &mut batch).unwrap(),
            Received { packets: 2, lost: 3, more: false, waited: None }
        );
    });
}

#[test]
fn a_persistent_tun_is_adopted_with_its_address() {
    let namespace = Namespace::new("tun").unwrap();
    let persistent = Features { persistent: true, vnet_hdr: false };
    namespace.run(|| drop(Tun::open("wst0", persistent).unwrap())).unwrap();
    namespace.address("wst0", in_24(HERE)).unwrap();
    let adopted = namespace.run(|| Tun::open("wst0", persistent).unwrap()).unwrap();
    assert!(namespace.netlink(|netlink| netlink.addresses("wst0")).unwrap().contains(&in_24(HERE)));
    adopted.set_persistent(false).unwrap();
    drop(adopted);
    assert!(namespace.netlink(|netlink| netlink.link("wst0")).is_err());
}

#[test]
fn tcp_super_packets_come_out_whole_and_go_in_whole_and_without_the_virtio_header_there_are_none() {
    for vnet_hdr in [true, false] {
        let largest = bulk_between_two_tuns(vnet_hdr);
        assert_eq!(largest > 1_500, vnet_hdr, "the largest packet had {largest} bytes");
    }
}

#[test]
fn datagrams_that_are_written_as_one_super_packet_reach_their_socket_each_for_itself() {
    with_tun(Features { vnet_hdr: true, persistent: false }, |tun, _| {
        let pool = BufPool::new(1 << 20);
        let socket = UdpSocket::bind((HERE, 7)).unwrap();
        for payload_bytes in [36, 1_200] {
            let sent = payloads(50, payload_bytes);
            let mut packets = flow(&pool, (THERE, 9), (HERE, 7), &sent);
            Merger::default().merge(&mut packets, tun.offloads(), &pool);
            assert_eq!(packets.len(), if tun.offloads().udp { 1 } else { 50 });
            packets.iter_mut().for_each(|packet| tun.write(packet).unwrap());
            assert_eq!(received(&socket, 50), sent);
        }
    });
}

#[test]
fn a_partial_checksum_is_completed_for_a_tun_that_cannot_be_told_of_it() {
    let (left, right) = (Side::new(HERE, true), Side::new(THERE, false));
    let receiver = right.namespace.run(|| UdpSocket::bind((THERE, 9)).unwrap()).unwrap();
    left.namespace.run(|| UdpSocket::bind((HERE, 7)).unwrap().send_to(b"sum me", (THERE, 9)).unwrap()).unwrap();
    let (pool, mut batch) = (BufPool::new(1 << 20), Vec::new());
    left.tun.read_batch(&pool, 8, &mut batch).unwrap();
    assert_eq!(batch[0].offload().checksum, Checksum::Partial { start: 20, offset: 6 });
    right.tun.write(&mut batch[0]).unwrap();
    assert_eq!(batch[0].offload(), Offload::default());
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(receiver.recv(&mut [0; 16]).unwrap(), 6);
}

#[test]
fn a_super_packet_for_a_tun_without_the_virtio_header_is_refused() {
    let pool = BufPool::new(1 << 20);
    let offload =
        Offload { checksum: Checksum::Partial { start: 20, offset: 6 }, segment_bytes: 100, header_bytes: 28 };
    let mut packet = Packet::raw(pool.copy(&udp((THERE, 9), (HERE, 7), &[0; 500])).unwrap(), offload);
    let error = Side::new(HERE, false).tun.write(&mut packet).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

/// A namespace whose only way out is a TUN.
struct Side {
    namespace: Namespace,
    tun: Tun,
}

impl Side {
    fn new(address: Ipv4Addr, vnet_hdr: bool) -> Self {
        let namespace = Namespace::new("side").unwrap();
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        let tun = namespace.run(|| Tun::open("wst0", Features { vnet_hdr, persistent: false }).unwrap()).unwrap();
        namespace.address("wst0", in_24(address)).unwrap();
        Self { namespace, tun }
    }

    /// Passes what has come out on to `other`, and tells the length of the largest packet.
    fn pass_on(&self, other: &Self, pool: &BufPool) -> usize {
        let mut batch = Vec::new();
        assert_eq!(self.tun.read_batch(pool, 64, &mut batch).unwrap().lost, 0);
        for packet in &mut batch {
            other.tun.write(packet).unwrap();
        }
        batch.iter().map(Packet::len).max().unwrap_or_default()
    }
}

/// A TCP stream between two namespaces whose TUNs are joined packet by packet; the length of the largest.
fn bulk_between_two_tuns(vnet_hdr: bool) -> usize {
    const STREAM_BYTES: usize = 4 << 20;
    let (left, right) = (Side::new(HERE, vnet_hdr), Side::new(THERE, vnet_hdr));
    assert_eq!(left.tun.offloads().tcp, vnet_hdr);
    let listener = right.namespace.run(|| TcpListener::bind((THERE, 443)).unwrap()).unwrap();
    let inside = left.namespace.clone();
    let sending = std::thread::spawn(move || {
        let stream: Vec<u8> = (0..STREAM_BYTES).map(|at| (at % 251) as u8).collect();
        inside.run(|| TcpStream::connect((THERE, 443)).unwrap().write_all(&stream).unwrap()).unwrap();
    });
    let receiving = std::thread::spawn(move || {
        let (mut accepted, mut arrived) = (listener.accept().unwrap().0, Vec::new());
        accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        accepted.read_to_end(&mut arrived).unwrap();
        arrived.len() == STREAM_BYTES && arrived.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8)
    });
    let (pool, mut largest) = (BufPool::new(64 << 20), 0);
    while !receiving.is_finished() {
        largest = largest.max(left.pass_on(&right, &pool)).max(right.pass_on(&left, &pool));
        std::thread::sleep(Duration::from_micros(100));
    }
    sending.join().unwrap();
    assert!(receiving.join().unwrap(), "the stream arrived changed");
    largest
}

#[test]
fn a_bad_interface_name_is_an_error_with_the_name() {
    let error = Tun::open("a-name-that-is-far-too-long", Features::default()).unwrap_err();
    assert!(error.to_string().contains("a-name-that-is-far-too-long"), "{error}");
}
