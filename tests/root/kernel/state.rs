//! The kernel's state: adopted, repaired, undone.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use wstether::io::netlink::{Netlink, Prefix};
use wstether::io::tun::{Features, Tun};
use wstether::io::{nft, sysctl};
use wstether::kernel_state::{Egress, Error, KernelState, Plan};
use wstether::lab::Namespace;

use super::support::{LEFT, RIGHT, pair};

struct Place {
    namespace: Namespace,
    dir: PathBuf,
    _peer: Namespace,
}

impl Place {
    fn new(name: &str) -> Self {
        let (namespace, peer) = pair();
        let dir = std::env::temp_dir().join(format!("wstether-state-{name}-{}", std::process::id()));
        Self { namespace, dir, _peer: peer }
    }

    fn plan(&self, egress: Egress) -> Plan {
        Plan { instance: "test".to_owned(), state_dir: self.dir.clone(), egress }
    }

    fn adopt(&self, egress: Egress) -> KernelState {
        self.namespace.run(|| KernelState::adopt(&self.plan(egress)).unwrap()).unwrap()
    }

    fn undo(&self, state: KernelState) {
        self.namespace.run(|| state.undo().unwrap()).unwrap();
    }

    /// Everything that the gateway may change, as text.
    fn picture(&self) -> String {
        let table = self.namespace.run(|| nft::list("wstether-test").unwrap()).unwrap();
        let values = [sysctl::RESERVED_PORTS, "net.ipv4.ip_forward"];
        let values = self.namespace.run(|| values.map(|name| sysctl::read(name).unwrap())).unwrap();
        let (links, routes) = self
            .namespace
            .netlink(|netlink| {
                let links = netlink.links()?.into_iter().map(|link| (link.name, link.mtu, link.up)).collect::<Vec<_>>();
                let mut routes = netlink.routes(true)?;
                routes.iter_mut().for_each(|route| route.interface = None);
                Ok((links, routes))
            })
            .unwrap();
        format!("{table:#?}\n{values:?}\n{links:?}\n{routes:#?}")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn raw() -> Egress {
    Egress::Raw { addresses: vec![LEFT], ports: 20_000..=29_999 }
}

fn tun() -> Egress {
    Egress::Tun {
        name: "wst0".to_owned(),
        address: "10.64.0.1/10".parse().unwrap(),
        mtu: 1_400,
        routes: vec!["192.0.2.0/28".parse().unwrap()],
        pool: "10.64.0.0/10".parse().unwrap(),
        masquerade: Some("eth0".to_owned()),
        vnet_hdr: false,
    }
}

#[test]
fn a_start_after_a_crash_finds_the_same_state_and_a_clean_stop_leaves_what_was_before() {
    for (name, egress) in [("raw", raw()), ("tun", tun())] {
        let place = Place::new(name);
        place.namespace.run(|| sysctl::write(sysctl::RESERVED_PORTS, "8080,20005").unwrap()).unwrap();
        let before = place.picture();
        let first = place.adopt(egress.clone());
        let during = place.picture();
        assert_ne!(during, before);
        // Dropping closes all descriptors and undoes nothing, which is what kill -9 does.
        drop(first);
        let crashed = place.picture();
        assert_eq!(crashed, during);
        let second = place.adopt(egress);
        assert_eq!(place.picture(), during);
        place.undo(second);
        assert_eq!(place.picture(), before);
        assert!(!place.dir.join("test.json").exists());
    }
}

#[test]
fn what_somebody_damaged_meanwhile_is_repaired() {
    let place = Place::new("damaged");
    let state = place.adopt(tun());
    let during = place.picture();
    drop(state);
    place
        .namespace
        .run(|| {
            nft::remove("wstether-test").unwrap();
            sysctl::write("net.ipv4.ip_forward", "0").unwrap();
            Netlink::open().unwrap().set_mtu("wst0", 1_280).unwrap();
        })
        .unwrap();
    let state = place.adopt(tun());
    assert_eq!(place.picture(), during);
    place.undo(state);
}

#[test]
fn a_start_with_another_way_out_undoes_the_old_one() {
    let place = Place::new("changed");
    let before = place.picture();
    for egress in [raw(), tun(), raw()] {
        drop(place.adopt(egress));
    }
    let only_raw = place.picture();
    let state = place.adopt(raw());
    assert_eq!(place.picture(), only_raw);
    assert!(!only_raw.contains("wst0") && only_raw.contains("20000-29999"), "{only_raw}");
    place.undo(state);
    assert_eq!(place.picture(), before);
}

#[test]
fn a_second_gateway_of_the_same_name_is_refused_and_changes_nothing_whatever_its_directory() {
    let place = Place::new("twice");
    let state = place.adopt(raw());
    let during = place.picture();
    for state_dir in [place.dir.clone(), place.dir.join("other")] {
        let second = Plan { state_dir, ..place.plan(tun()) };
        let second = place.namespace.run(|| KernelState::adopt(&second)).unwrap();
        assert!(matches!(second, Err(Error::AlreadyRunning(_))), "{second:?}");
        assert_eq!(place.picture(), during);
    }
    place.undo(state);
}

#[test]
fn two_gateways_run_side_by_side_with_other_ports_or_addresses_and_a_second_one_is_refused_where_they_overlap() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
    let place = Place::new("ports");
    let first = place.adopt(raw());
    let during = place.picture();
    let second = |egress| {
        let plan = Plan { instance: "second".to_owned(), ..place.plan(egress) };
        place.namespace.run(|| KernelState::adopt(&plan)).unwrap()
    };
    let with = |address, ports| Egress::Raw { addresses: vec![OTHER, address], ports };
    let Egress::Tun { name, address, mtu, pool, vnet_hdr, .. } = tun() else { unreachable!() };
    let routes = vec![Prefix::new(LEFT.into(), 32)];
    let overlapping = [20_000..=29_999, 29_999..=30_000, 19_999..=20_000, 25_000..=25_000, 1_024..=u16::MAX];
    let overlapping = overlapping.map(|ports| with(LEFT, ports)).into_iter();
    for egress in overlapping.chain([Egress::Tun { name, address, mtu, routes, pool, masquerade: None, vnet_hdr }]) {
        let told = second(egress).unwrap_err().to_string();
        let expected = "the gateway \"test\" here has the ports 20000-29999 of 198.51.100.1: \
                        give this one other egress.ports or egress.addresses";
        assert_eq!(told, expected);
        assert_eq!(place.picture(), during);
    }
    for egress in [with(LEFT, 30_000..=39_999), with(RIGHT, 20_000..=29_999), tun()] {
        place.undo(second(egress).unwrap());
        assert_eq!(place.picture(), during);
    }
    place.undo(first);
    place.undo(second(raw()).unwrap());
}

#[test]
fn a_gateway_elsewhere_does_not_share_the_memory_of_one_of_the_same_name() {
    let (place, elsewhere) = (Place::new("shared"), Place::new("elsewhere"));
    let state = place.adopt(raw());
    let second = elsewhere.namespace.run(|| KernelState::adopt(&place.plan(raw()))).unwrap();
    assert!(matches!(second, Err(Error::StateInUse(_))), "{second:?}");
    elsewhere.undo(elsewhere.adopt(raw()));
    place.undo(state);
}

#[test]
fn a_start_that_fails_half_way_leaves_nothing_behind() {
    let place = Place::new("failing");
    let before = place.picture();
    let Egress::Tun { name, address, routes, pool, masquerade, vnet_hdr, .. } = tun() else { unreachable!() };
    // No device takes an MTU of 1 byte.
    let bad = Egress::Tun { name, address, mtu: 1, routes, pool, masquerade, vnet_hdr };
    let failed = place.namespace.run(|| KernelState::adopt(&place.plan(bad))).unwrap();
    assert!(matches!(failed, Err(Error::Netlink(_))), "{failed:?}");
    assert_eq!(place.picture(), before);
}

#[test]
fn a_tun_that_somebody_else_made_is_used_and_left() {
    let place = Place::new("foreign");
    let persistent = Features { vnet_hdr: false, persistent: true };
    place.namespace.run(|| drop(Tun::open("wst0", persistent).unwrap())).unwrap();
    place.undo(place.adopt(tun()));
    place.namespace.netlink(|netlink| netlink.link("wst0")).unwrap();
    place.namespace.netlink(|netlink| netlink.delete_link("wst0")).unwrap();
}

#[test]
fn a_listener_in_our_range_is_told() {
    let place = Place::new("listener");
    let listener = place.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 20_010)).unwrap()).unwrap();
    let state = place.adopt(raw());
    assert_eq!(state.listeners().iter().map(ToString::to_string).collect::<Vec<_>>(), ["tcp port 20010 on 0.0.0.0"]);
    place.undo(state);
    drop(listener);
}
