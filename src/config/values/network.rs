//! Addresses, ports and names of the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{NotOfThisKind, parse_digits};

/// An IP prefix (RFC 4632), with no bit set behind its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The first address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub length: u8,
}

impl FromStr for Prefix {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let (address, length) = text.split_once('/').ok_or(NotOfThisKind)?;
        let address: IpAddr = address.parse().map_err(|_| NotOfThisKind)?;
        let length = parse_digits(length).and_then(|length| u8::try_from(length).ok()).ok_or(NotOfThisKind)?;
        let bits_behind = match address {
            IpAddr::V4(v4) if length <= 32 => v4.to_bits().checked_shl(u32::from(length)).unwrap_or(0).into(),
            IpAddr::V6(v6) if length <= 128 => v6.to_bits().checked_shl(u32::from(length)).unwrap_or(0),
            IpAddr::V4(_) | IpAddr::V6(_) => return Err(NotOfThisKind),
        };
        if bits_behind == 0_u128 { Ok(Self { address, length }) } else { Err(NotOfThisKind) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// An IPv4 prefix (RFC 4632), with no bit set behind its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix4 {
    /// The first address.
    pub address: Ipv4Addr,
    /// How many leading bits count.
    pub length: u8,
}

impl Prefix4 {
    /// How many addresses it has.
    pub fn addresses(self) -> u64 {
        1 << (32 - u32::from(self.length))
    }

    /// True for an address inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let differing = self.address.to_bits() ^ address.to_bits();
        differing.leading_zeros() >= u32::from(self.length)
    }
}

impl FromStr for Prefix4 {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let Prefix { address, length } = text.parse()?;
        if let IpAddr::V4(address) = address { Ok(Self { address, length }) } else { Err(NotOfThisKind) }
    }
}

impl fmt::Display for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// How many ports it has.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// True for a port inside.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let port = |text| parse_digits(text).and_then(|port| u16::try_from(port).ok()).ok_or(NotOfThisKind);
        let (first, last) = text.split_once('-').ok_or(NotOfThisKind)?;
        let (first, last) = (port(first)?, port(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(NotOfThisKind) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A DNS server (RFC 1035), on port 53 where none is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resolver(pub SocketAddr);

/// The port of DNS servers.
const DNS_PORT: u16 = 53;

impl FromStr for Resolver {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let without_port = text.parse().map(|address: IpAddr| SocketAddr::new(address, DNS_PORT));
        without_port.or_else(|_| text.parse()).map(Self).map_err(|_| NotOfThisKind)
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The longest interface name that Linux has (IFNAMSIZ without the closing zero).
const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// A text newtype that can be read as a `&str`.
macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// A name that is part of others': letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);
text_newtype!(Name);

/// A longer name does not fit in a line of a table.
const NAME_CHARS_MAX: usize = 64;

impl FromStr for Name {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let fits = (1..=NAME_CHARS_MAX).contains(&text.chars().count());
        // It names the nftables table and the state file.
        let is_plain = text.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_'));
        if fits && is_plain { Ok(Self(text.to_owned())) } else { Err(NotOfThisKind) }
    }
}

/// The name of a network interface, as the kernel allows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);
text_newtype!(InterfaceName);

impl FromStr for InterfaceName {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let fits = (1..=INTERFACE_NAME_BYTES_MAX).contains(&text.len()) && text != "." && text != "..";
        // The characters the kernel refuses, and those with a meaning to the tools around it (%d is a pattern).
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%' | b'"'));
        if fits && plain { Ok(Self(text.to_owned())) } else { Err(NotOfThisKind) }
    }
}

/// The name of a TCP congestion control, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Congestion(String);
text_newtype!(Congestion);

/// The longest name (TCP_CA_NAME_MAX without the closing zero).
const CONGESTION_BYTES_MAX: usize = 15;

impl FromStr for Congestion {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fits = (1..=CONGESTION_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotOfThisKind) }
    }
}

/// The path of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UrlPath(String);
text_newtype!(UrlPath);

impl FromStr for UrlPath {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
        if text.starts_with('/') && text.bytes().all(plain) { Ok(Self(text.to_owned())) } else { Err(NotOfThisKind) }
    }
}

/// Where a gateway listens: `ws://host[:port][/path]` or `wss://…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayUrl {
    /// True for wss.
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// 80 or 443 where none is written.
    pub port: u16,
    /// `/` where none is written.
    pub path: UrlPath,
}

impl FromStr for GatewayUrl {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let (scheme, rest) = text.split_once("://").ok_or(NotOfThisKind)?;
        let (tls, port_default) = match scheme {
            "ws" => (false, 80),
            "wss" => (true, 443),
            _ => return Err(NotOfThisKind),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let (host, port) = split_authority(authority).ok_or(NotOfThisKind)?;
        let port = port.map_or(Ok(port_default), |port| {
            parse_digits(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).ok_or(NotOfThisKind)
        })?;
        Ok(Self { tls, host: host.to_owned(), port, path: path.parse()? })
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        let Self { host, port, path, .. } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}{path}")
        } else {
            write!(f, "{scheme}://{host}:{port}{path}")
        }
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, behind) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        if behind.is_empty() { (host, None) } else { (host, Some(behind.strip_prefix(':')?)) }
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        (plain && !host.is_empty()).then_some((host, port))?
    };
    Some((host, port))
}
