//! The kinds of values that settings have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::document::Item;

/// Something a setting can be.
pub trait Value: Sized + 'static {
    /// What is allowed, as it follows "must be".
    fn allowed() -> String;

    /// Reads what TOML wrote; `None` where it is of another kind.
    fn from_item(item: &Item) -> Option<Self>;

    /// Every word allowed, where these are a closed set.
    fn choices() -> &'static [&'static str] {
        &[]
    }

    /// True where errors must not show the value.
    fn is_secret() -> bool {
        false
    }
}

/// A value with an order, so that it can have bounds.
pub trait Ranged: Value {
    /// True between the two, both included.
    fn is_within(&self, min: &Self, max: &Self) -> bool;
}

/// A value written as text that reads itself.
macro_rules! text_values {
    ($($type:ty: $allowed:literal,)+) => { $(
        impl Value for $type {
            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn from_item(item: &Item) -> Option<Self> {
                let Item::Text(text) = item else { return None };
                text.parse().ok()
            }
        }
    )+ };
}

text_values! {
    String: "text",
    SocketAddr: "an address with a port, such as \"0.0.0.0:8080\" or \"[::]:8080\"",
    IpAddr: "an IP address",
    Ipv4Addr: "an IPv4 address",
    Prefix: "a prefix such as \"10.0.0.0/8\", with no bit set behind its length",
    Prefix4: "an IPv4 prefix such as \"100.64.0.0/16\", with no bit set behind its length",
    PortRange: "a range of ports such as \"20480-53247\", the lower first",
    InterfaceName: "the name of a network interface, of 1 to 15 characters",
    UrlPath: "a path that begins with \"/\", of letters, digits and -._~/",
    GatewayUrl: "an address such as \"wss://gateway.example/wstether\"",
}

/// Whole numbers.
macro_rules! number_values {
    ($($type:ty),+) => { $(
        impl Value for $type {
            fn allowed() -> String {
                "a whole number".to_owned()
            }

            fn from_item(item: &Item) -> Option<Self> {
                let Item::Integer(number) = item else { return None };
                Self::try_from(*number).ok()
            }
        }
    )+ };
}
number_values!(u16, u32, u64, usize);

macro_rules! ranged {
    ($($type:ty),+) => { $(
        impl Ranged for $type {
            fn is_within(&self, min: &Self, max: &Self) -> bool {
                min <= self && self <= max
            }
        }
    )+ };
}
ranged!(u16, u32, u64, usize, Duration, Bytes);

impl Value for bool {
    fn allowed() -> String {
        "true or false".to_owned()
    }

    fn from_item(item: &Item) -> Option<Self> {
        if let Item::Flag(flag) = item { Some(*flag) } else { None }
    }
}

impl Value for PathBuf {
    fn allowed() -> String {
        "a path".to_owned()
    }

    fn from_item(item: &Item) -> Option<Self> {
        if let Item::Text(text) = item { (!text.is_empty()).then(|| text.into()) } else { None }
    }
}

/// A list. One value alone is a list of one.
impl<T: Value> Value for Vec<T> {
    fn allowed() -> String {
        format!("a list, each {}", T::allowed())
    }

    fn from_item(item: &Item) -> Option<Self> {
        match item {
            Item::List(items) => items.iter().map(T::from_item).collect(),
            Item::Text(_) | Item::Integer(_) | Item::Flag(_) | Item::Other => Some(vec![T::from_item(item)?]),
        }
    }
}

/// What may be left empty (`""`).
impl<T: Value> Value for Option<T> {
    fn allowed() -> String {
        format!("empty (\"\") or {}", T::allowed())
    }

    fn from_item(item: &Item) -> Option<Self> {
        match item {
            Item::Text(text) if text.is_empty() => Some(None),
            Item::Text(_) | Item::Integer(_) | Item::Flag(_) | Item::List(_) | Item::Other => {
                T::from_item(item).map(Some)
            }
        }
    }

    fn is_secret() -> bool {
        T::is_secret()
    }
}

/// What may be left to wstether (`"auto"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// It finds the value by itself.
    Auto,
    /// This value.
    Is(T),
}

impl<T> Auto<T> {
    /// The value that was given, or what `find` finds.
    pub fn unwrap_or_else(self, find: impl FnOnce() -> T) -> T {
        match self {
            Self::Auto => find(),
            Self::Is(value) => value,
        }
    }
}

impl<T: Value> Value for Auto<T> {
    fn allowed() -> String {
        format!("\"auto\" or {}", T::allowed())
    }

    fn from_item(item: &Item) -> Option<Self> {
        match item {
            Item::Text(text) if text == "auto" => Some(Self::Auto),
            Item::Text(_) | Item::Integer(_) | Item::Flag(_) | Item::List(_) | Item::Other => {
                T::from_item(item).map(Self::Is)
            }
        }
    }
}

impl<T: Ranged> Ranged for Auto<T> {
    fn is_within(&self, min: &Self, max: &Self) -> bool {
        match (self, min, max) {
            (Self::Is(value), Self::Is(min), Self::Is(max)) => value.is_within(min, max),
            (Self::Auto, _, _) | (_, Self::Auto, _) | (_, _, Self::Auto) => true,
        }
    }
}

/// Declares a closed set of words as an enum.
macro_rules! choices {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every choice, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word in files, options and logs.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl $crate::config::values::Value for $name {
            fn allowed() -> String {
                $crate::config::values::alternatives(Self::choices())
            }

            fn from_item(item: &$crate::config::document::Item) -> Option<Self> {
                let $crate::config::document::Item::Text(text) = item else { return None };
                Self::ALL.iter().copied().find(|choice| choice.word() == text)
            }

            fn choices() -> &'static [&'static str] {
                &[$($word,)+]
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}
pub(super) use choices;

/// "a", "b" or "c".
pub(super) fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// A text that is not of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of this kind")]
pub struct NotOfThisKind;

/// A number of bytes: a whole number, or a text with KiB, MiB or GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// As a length in memory; on a machine with narrower addresses, as much as it has.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The units of [`Bytes`], the largest first.
const BYTE_UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl Value for Bytes {
    fn allowed() -> String {
        "a size in bytes such as 65536 or \"256MiB\" (KiB, MiB, GiB)".to_owned()
    }

    fn from_item(item: &Item) -> Option<Self> {
        match item {
            Item::Integer(number) => u64::try_from(*number).ok().map(Self),
            Item::Text(text) => text.parse().ok(),
            Item::Flag(_) | Item::List(_) | Item::Other => None,
        }
    }
}

impl FromStr for Bytes {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let scaled = BYTE_UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim_end(), *bytes)));
        let (count, unit_bytes) = scaled.unwrap_or((text, 1));
        parse_digits(count).and_then(|count| count.checked_mul(unit_bytes)).map(Self).ok_or(NotOfThisKind)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BYTE_UNITS.iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The units of durations; "ms" stands before "m", which is its beginning.
const TIME_UNITS_MS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1000)];

impl Value for Duration {
    fn allowed() -> String {
        "a duration such as \"300ms\", \"5m\" or \"2h4m\" (ms, s, m, h, d)".to_owned()
    }

    fn from_item(item: &Item) -> Option<Self> {
        if let Item::Text(text) = item { parse_duration(text) } else { None }
    }
}

/// Reads `300ms`, `5m`, `2h4m`: each unit at most once, the longest first.
fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total_ms, mut unit_before_ms) = (text, 0_u64, u64::MAX);
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count = parse_digits(rest.get(..digits)?)?;
        let tail = rest.get(digits..)?;
        let (unit, unit_ms) = TIME_UNITS_MS.into_iter().find(|(unit, _)| tail.starts_with(unit))?;
        if unit_ms >= unit_before_ms {
            return None;
        }
        total_ms = total_ms.checked_add(count.checked_mul(unit_ms)?)?;
        (rest, unit_before_ms) = (tail.strip_prefix(unit)?, unit_ms);
        if rest.is_empty() {
            return Some(Duration::from_millis(total_ms));
        }
    }
}

/// A number of digits alone: no sign, no space.
fn parse_digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

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
        host.parse::<std::net::Ipv6Addr>().ok()?;
        if behind.is_empty() { (host, None) } else { (host, Some(behind.strip_prefix(':')?)) }
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        (plain && !host.is_empty()).then_some((host, port))?
    };
    Some((host, port))
}
