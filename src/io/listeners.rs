//! Who on this host listens in a range of ports. The kernel lets a program bind a reserved port that it names itself; its
//! packets would then be taken from it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// A socket that waits for packets on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// "tcp" or "udp".
    pub protocol: &'static str,
    /// The address it is bound to; unspecified for all.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {} on {}", self.protocol, self.port, self.address)
    }
}

/// The kernel's tables, with the state in which a socket waits (linux/tcp_states.h: LISTEN for TCP, CLOSE for UDP).
const TABLES: [(&str, &str, &str); 4] =
    [("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07")];

/// Everybody who listens on one of `ports` in this thread's network namespace.
///
/// # Errors
/// No `/proc/net`. A missing table (no IPv6) is an empty one.
pub fn within(ports: &RangeInclusive<u16>) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for (table, protocol, state) in TABLES {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Ok(text) => found.extend(text.lines().filter_map(|line| listener(line, protocol, state))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.retain(|listener| ports.contains(&listener.port));
    Ok(found)
}

fn listener(line: &str, protocol: &'static str, state: &str) -> Option<Listener> {
    let mut words = line.split_whitespace().skip(1);
    let (local, _remote, actual) = (words.next()?, words.next()?, words.next()?);
    let (address, port) = local.split_once(':')?;
    let (address, port) = (hex_address(address)?, u16::from_str_radix(port, 16).ok()?);
    (actual == state).then_some(Listener { protocol, address, port })
}

/// Words of 32 bits in hexadecimal, each in the host's byte order.
fn hex_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    if text.len() == 8 {
        return Some(IpAddr::V4(Ipv4Addr::from(word(0)?)));
    }
    let words = [word(0)?, word(1)?, word(2)?, word(3)?];
    let octets: [u8; 16] = words.concat().try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_kernels_table_names_address_and_port() {
        let line = "   0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        let expected = Listener { protocol: "tcp", address: Ipv4Addr::LOCALHOST.into(), port: 20_000 };
        assert_eq!(listener(line, "tcp", "0A"), Some(expected));
        assert_eq!(listener(line, "udp", "07"), None);
        assert_eq!(hex_address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(listener("  sl  local_address rem_address   st", "tcp", "0A"), None);
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        let found = within(&(port..=port)).expect("/proc");
        assert!(found.iter().any(|found| found.protocol == "tcp" && found.address == Ipv4Addr::LOCALHOST));
    }
}
