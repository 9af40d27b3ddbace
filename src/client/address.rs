//! Which of the laptop's addresses a phone is likely to reach.

use std::net::IpAddr;

use crate::config::values::{Auto, InterfaceName};

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The interface's name.
    pub(super) interface: String,
    /// The address.
    pub(super) ip: IpAddr,
}

/// The addresses worth showing, the likeliest first: those of the `wanted` interface, or of one that a phone shares.
pub(super) fn for_a_phone(found: Vec<Address>, wanted: &Auto<InterfaceName>) -> Vec<Address> {
    let mut ranked: Vec<(u8, Address)> =
        found.into_iter().filter_map(|address| Some((rank(&address, wanted)?, address))).collect();
    // Stable: the kernel's order among equals.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// The lower the likelier; `None` for an address that no phone reaches.
fn rank(address: &Address, wanted: &Auto<InterfaceName>) -> Option<u8> {
    let name = address.interface.as_str();
    let IpAddr::V4(ip) = address.ip else { return None };
    if ip.is_loopback() || ip.is_link_local() {
        return None;
    }
    if let Auto::Is(wanted) = wanted {
        return (wanted.as_str() == name).then_some(0);
    }
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match () {
        () if begins(&["docker", "veth", "virbr", "tun", "wst", "wg"]) => None,
        // A phone's hotspot; then its cable or Bluetooth; then a network that both may share.
        () if begins(&["wl"]) => Some(0),
        () if begins(&["usb", "enx", "bnep"]) => Some(1),
        () => Some(2),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    fn found() -> Vec<Address> {
        [
            ("lo", "127.0.0.1"),
            ("eth0", "192.0.2.2"),
            ("docker0", "172.17.0.1"),
            ("usb0", "192.168.42.2"),
            ("wlan0", "192.168.43.20"),
            ("wlan0", "fe80::1"),
            ("eth1", "169.254.1.1"),
        ]
        .map(|(interface, ip)| Address { interface: interface.to_owned(), ip: ip.parse().unwrap() })
        .to_vec()
    }

    fn interfaces(wanted: &Auto<InterfaceName>) -> Vec<String> {
        for_a_phone(found(), wanted).into_iter().map(|address| address.interface).collect()
    }

    #[test]
    fn wi_fi_comes_first_then_a_cable_to_the_phone_then_the_rest() {
        assert_eq!(interfaces(&Auto::Auto), ["wlan0", "usb0", "eth0"]);
    }

    #[test]
    fn a_configured_interface_is_the_only_one() {
        assert_eq!(interfaces(&Auto::Is("usb0".parse().unwrap())), ["usb0"]);
    }
}
