//! The lab's slow link.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use wstether::lab::{DelayBox, Namespace, Way};

use super::support::{LEFT, RIGHT, in_24};

#[test]
fn a_slow_link_delays_and_counts_each_way_and_vanishes() {
    let (left, right) = (Namespace::new("left").unwrap(), Namespace::new("right").unwrap());
    let slow = Way { delay: Duration::from_millis(30), ..Way::FAST };
    let link = DelayBox::between((&left, "eth0"), (&right, "eth0"), slow, Way::FAST, 1).unwrap();
    left.address("eth0", in_24(LEFT)).unwrap();
    right.address("eth0", in_24(RIGHT)).unwrap();
    let receiver = right.run(|| UdpSocket::bind((RIGHT, 7)).unwrap()).unwrap();
    let sender = left.run(|| UdpSocket::bind((LEFT, 0)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    sender.send_to(b"resolve the neighbour", (RIGHT, 7)).unwrap();
    receiver.recv(&mut [0; 64]).unwrap();
    let start = Instant::now();
    sender.send_to(b"hello", (RIGHT, 7)).unwrap();
    assert_eq!(receiver.recv(&mut [0; 64]).unwrap(), 5);
    // The least time holds on any machine, however loaded.
    assert!(start.elapsed() >= Duration::from_millis(30), "{:?}", start.elapsed());
    assert!(link.a_to_b().passed >= 3 && link.b_to_a().passed >= 1, "{link:?}");
    drop(link);
    assert!(
        left.netlink(|netlink| netlink.link("eth0")).is_err() || {
            // A namespace goes in the background, and its cables with it.
            std::thread::sleep(Duration::from_secs(1));
            left.netlink(|netlink| netlink.link("eth0")).is_err()
        }
    );
}
