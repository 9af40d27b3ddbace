//! Who answers DNS for the clients: a resolver that packets can be translated to.

use std::net::IpAddr;

use crate::config::values::Resolver;

/// The host's resolvers, the second being the real ones behind systemd-resolved's stub.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The one of `configured`, which was judged with the configuration, or else the first usable of the host's resolvers.
pub(super) fn find(configured: &[Resolver]) -> Option<IpAddr> {
    if let Some(resolver) = configured.first() {
        return Some(resolver.0.ip());
    }
    FILES.iter().filter_map(|file| std::fs::read_to_string(file).ok()).find_map(|text| listed(&text).find(is_usable))
}

/// DNS is translated like any other flow, so a stub on a loopback address cannot answer, and IPv6 is not carried yet.
fn is_usable(address: &IpAddr) -> bool {
    address.is_ipv4() && !address.is_loopback() && !address.is_unspecified()
}

/// The addresses of resolv.conf(5).
fn listed(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_on_loopback_and_ipv6_are_passed_over() {
        let text =
            "# a comment\nnameserver 127.0.0.53\nnameserver 2001:db8::1\n nameserver\t198.51.100.53\nsearch example\n";
        assert_eq!(listed(text).find(is_usable), Some(IpAddr::from([198, 51, 100, 53])));
        assert_eq!(listed("nameserver 127.0.0.1\n").find(is_usable), None);
    }

    #[test]
    fn what_is_configured_comes_before_the_hosts_own() {
        let configured = [Resolver("192.0.2.1:53".parse().expect("an address"))];
        assert_eq!(find(&configured), Some(IpAddr::from([192, 0, 2, 1])));
    }
}
