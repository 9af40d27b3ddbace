//! Addresses, ports and names of the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{NotOfThisKind, Value, parse_digits};
use crate::config::document::Item;

/// An IP prefix (RFC 4632), with no bit set behind its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The first address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub length: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// What stands before the slash.
    #[error("\"{0}\" is no IP address")]
    Address(String),
    /// There is no slash.
    #[error("\"{0}\" has no length; \"{0}/{1}\" is that address alone")]
    NoLength(IpAddr, u8),
    /// What stands behind the slash.
    #[error("\"{0}\" is no length from 0 to {1}")]
    Length(String, u8),
    /// It names a host in the prefix.
    #[error("{0} has bits set behind its length; did you mean \"{1}\"?")]
    BitsBehind(Prefix, Prefix),
    /// An IPv6 prefix where there can be none.
    #[error("{0} is of IPv6")]
    V6(Prefix),
}

impl Prefix {
    /// The same without the bits behind its length.
    fn masked(self) -> Self {
        let shift = |bits: u8| u32::from(bits - self.length);
        let address = match self.address {
            IpAddr::V4(v4) => {
                Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(shift(V4_BITS)).unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(shift(V6_BITS)).unwrap_or(0)).into()
            }
        };
        Self { address, ..self }
    }
}

const V4_BITS: u8 = 32;
const V6_BITS: u8 = 128;

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address(address.to_owned()))?;
        let bits = if address.is_ipv4() { V4_BITS } else { V6_BITS };
        let length = length.ok_or(PrefixError::NoLength(address, bits))?;
        let parsed = parse_digits(length).and_then(|length| u8::try_from(length).ok()).filter(|length| *length <= bits);
        let length = parsed.ok_or_else(|| PrefixError::Length(length.to_owned(), bits))?;
        let prefix = Self { address, length };
        let masked = prefix.masked();
        if prefix == masked { Ok(prefix) } else { Err(PrefixError::BitsBehind(prefix, masked)) }
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
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let prefix: Prefix = text.parse()?;
        let IpAddr::V4(address) = prefix.address else { return Err(PrefixError::V6(prefix)) };
        Ok(Self { address, length: prefix.length })
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

/// Why a text is no resolver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolverError {
    /// A name, which would have to be asked of a resolver.
    #[error("\"{0}\" is a name: give the resolver's address, since it is what names are asked of")]
    Name(String),
    /// Anything else.
    #[error("\"{0}\" is no address")]
    Address(String),
}

impl FromStr for Resolver {
    type Err = ResolverError;

    fn from_str(text: &str) -> Result<Self, ResolverError> {
        let without_port = text.parse().map(|address: IpAddr| SocketAddr::new(address, DNS_PORT));
        without_port.or_else(|_| text.parse()).map(Self).map_err(|_| {
            let is_name =
                split_authority(text).is_some_and(|(host, _)| host.contains(|c: char| c.is_ascii_alphabetic()));
            if is_name { ResolverError::Name(text.to_owned()) } else { ResolverError::Address(text.to_owned()) }
        })
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

/// Why a text is no interface's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceNameError {
    /// It is too long, or empty.
    #[error("this has {0}")]
    Length(usize),
    /// A character that the kernel refuses, or with a meaning to the tools around it (%d is a pattern).
    #[error("{0:?} cannot be in one")]
    Character(char),
    /// A folder's name: the kernel has a folder for each interface.
    #[error("\".\" and \"..\" are none")]
    Dots,
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, InterfaceNameError> {
        let is_wrong = |char: &char| !char.is_ascii_graphic() || matches!(char, '/' | ':' | '%' | '"');
        if let Some(wrong) = text.chars().find(is_wrong) {
            return Err(InterfaceNameError::Character(wrong));
        }
        match text {
            "." | ".." => Err(InterfaceNameError::Dots),
            _ if (1..=INTERFACE_NAME_BYTES_MAX).contains(&text.len()) => Ok(Self(text.to_owned())),
            _ => Err(InterfaceNameError::Length(text.len())),
        }
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

/// Why a text is no gateway's URL. No message repeats it: there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayUrlError {
    /// It begins otherwise.
    #[error("this begins otherwise")]
    Scheme,
    /// There is an @ in it.
    #[error("leave out what stands before the @: a gateway takes no user name and no password, but a token")]
    UserInfo,
    /// No host, or one that is neither a name nor an address.
    #[error("its host is neither a name nor an address")]
    Host,
    /// A port that is none.
    #[error("its port is no number from 1 to 65535")]
    Port,
    /// A path with other characters.
    #[error("its path can have letters, digits and -._~/ alone")]
    Path,
}

impl FromStr for GatewayUrl {
    type Err = GatewayUrlError;

    fn from_str(text: &str) -> Result<Self, GatewayUrlError> {
        let (tls, port_default, rest) = match text.split_once("://") {
            Some(("ws", rest)) => (false, 80, rest),
            Some(("wss", rest)) => (true, 443, rest),
            Some(_) | None => return Err(GatewayUrlError::Scheme),
        };
        if rest.contains('@') {
            return Err(GatewayUrlError::UserInfo);
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let (host, port) = split_authority(authority).ok_or(GatewayUrlError::Host)?;
        let port = port.map_or(Some(port_default), |port| {
            parse_digits(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
        });
        let path = path.parse().map_err(|_| GatewayUrlError::Path)?;
        Ok(Self { tls, host: host.to_owned(), port: port.ok_or(GatewayUrlError::Port)?, path })
    }
}

impl Value for GatewayUrl {
    fn allowed() -> String {
        "an address that begins with ws:// or wss://, such as \"wss://gateway.example/wstether\"".to_owned()
    }

    fn from_item(item: &Item) -> Option<Self> {
        if let Item::Text(text) = item { text.parse().ok() } else { None }
    }

    fn reason(item: &Item) -> Option<String> {
        let Item::Text(text) = item else { return None };
        text.parse::<Self>().err().map(|error| error.to_string())
    }

    fn shown(written: &str) -> String {
        without_userinfo(written)
    }
}

/// A URL, or what should have been one, as an error may show it: without user name and password (RFC 3986, 3.2.1). Wherever
/// they end, it is before the last @.
pub fn without_userinfo(url: &str) -> String {
    let Some((before, behind)) = url.rsplit_once('@') else { return url.to_owned() };
    let scheme = before.find("://").map_or("", |colon| &before[..colon + "://".len()]);
    format!("{scheme}(hidden)@{behind}")
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
