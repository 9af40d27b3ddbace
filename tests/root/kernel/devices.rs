//! The TUN device.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use wstether::io::Received;
use wstether::io::tun::{Features, Tun};
use wstether::lab::Namespace;
use wstether::packet::{BufPool, Offload, Packet};

use super::support::{in_24, udp};

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
            assert_eq!(tun.read_batch(&pool, 3, &mut batch).unwrap(), Received { packets: 3, lost: 0, more: true });
            assert_eq!(tun.read_batch(&pool, 3, &mut batch).unwrap(), Received { packets: 2, lost: 0, more: false });
            assert!(batch.iter().all(|packet| packet.len() == 928 && packet.segments() == 1));
            let mut packet = Packet::raw(pool.copy(&udp((THERE, 9), (HERE, 7), b"back")).unwrap(), Offload::default());
            tun.write(&mut packet).unwrap();
            let mut buf = [0; 16];
            assert_eq!(socket.recv_from(&mut buf).unwrap(), (4, (THERE, 9).into()));
        });
    }
}

#[test]
fn an_exhausted_pool_loses_packets_and_never_blocks() {
    with_tun(Features::default(), |tun, _| {
        let (pool, mut batch) = (BufPool::new(2 * 2_048), Vec::new());
        let socket = UdpSocket::bind((HERE, 7)).unwrap();
        for _ in 0..5 {
            socket.send_to(b"x", (THERE, 9)).unwrap();
        }
        assert_eq!(tun.read_batch(&pool, 64, &mut batch).unwrap(), Received { packets: 2, lost: 3, more: false });
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
fn a_tcp_super_packet_comes_out_whole_and_goes_in_whole() {
    with_tun(Features { vnet_hdr: true, persistent: false }, |tun, _| {
        assert!(tun.offloads().tcp);
    });
}

#[test]
fn a_bad_interface_name_is_an_error_with_the_name() {
    let error = Tun::open("a-name-that-is-far-too-long", Features::default()).unwrap_err();
    assert!(error.to_string().contains("a-name-that-is-far-too-long"), "{error}");
}
