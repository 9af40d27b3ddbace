//! The kinds of values that settings have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::document::Item;

mod network;
mod quantity;

pub use network::{
    Congestion, GatewayUrl, GatewayUrlError, InterfaceName, InterfaceNameError, Name, PortRange, Prefix, Prefix4,
    PrefixError, Resolver, ResolverError, UrlPath, without_userinfo,
};
pub use quantity::Bytes;

/// Something a setting can be.
pub trait Value: Sized + 'static {
    /// What is allowed, as it follows "must be".
    fn allowed() -> String;

    /// Reads what TOML wrote; `None` where it is of another kind.
    fn from_item(item: &Item) -> Option<Self>;

    /// Every word allowed, where these are a closed set.
    fn choices() -> Vec<&'static str> {
        Vec::new()
    }

    /// True where there may be several.
    fn is_list() -> bool {
        false
    }

    /// What is wrong with a value that is none, where that can be told apart.
    fn reason(_item: &Item) -> Option<String> {
        None
    }

    /// What was written as errors show it: without what is secret in it.
    fn shown(written: &str) -> String {
        written.to_owned()
    }
}

/// A value with an order, so that it can have bounds.
pub trait Ranged: Value {
    /// True between the two, both included.
    fn is_within(&self, min: &Self, max: &Self) -> bool;

    /// What lies between two bounds as they are written.
    fn between(min: &str, max: &str) -> String {
        format!("{min} to {max}")
    }
}

/// A value written as text that reads itself, and perhaps tells why it cannot.
macro_rules! text_values {
    ($($type:ty: $allowed:literal $(told by $error:ty)?,)+) => { $(
        impl Value for $type {
            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn from_item(item: &Item) -> Option<Self> {
                let Item::Text(text) = item else { return None };
                text.parse().ok()
            }

            $(fn reason(item: &Item) -> Option<String> {
                let Item::Text(text) = item else { return None };
                text.parse::<Self>().err().map(|error: $error| error.to_string())
            })?
        }
    )+ };
}

text_values! {
    Name: "a name of 1 to 64 letters, digits, - and _",
    SocketAddr: "an address with a port, such as \"0.0.0.0:8080\" or \"[::]:8080\"",
    IpAddr: "an IP address",
    Resolver: "an IP address such as \"9.9.9.9\", or one with a port such as \"127.0.0.1:5353\"" told by ResolverError,
    Ipv4Addr: "an IPv4 address",
    Prefix: "a prefix such as \"10.0.0.0/8\", with no bit set behind its length" told by PrefixError,
    Prefix4: "an IPv4 prefix such as \"100.64.0.0/16\", with no bit set behind its length" told by PrefixError,
    PortRange: "a range of ports such as \"20480-53247\", the lower first",
    InterfaceName: "the name of a network interface, of 1 to 15 characters" told by InterfaceNameError,
    Congestion: "the name of a TCP congestion control, such as \"bbr\" or \"cubic\"",
    UrlPath: "a path that begins with \"/\", of letters, digits and -._~/",
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
        "a path, not empty".to_owned()
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

    fn is_list() -> bool {
        true
    }

    /// That of the first that is wrong, in text that a shell took the quotes of, too.
    fn reason(item: &Item) -> Option<String> {
        match item {
            Item::List(items) => items.iter().find_map(T::reason),
            Item::Text(text) => listed(text).find_map(|part| T::reason(&Item::Text(part.to_owned()))),
            Item::Integer(_) | Item::Flag(_) | Item::Other => T::reason(item),
        }
    }
}

/// The parts of a list whose texts stand bare.
pub(super) fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.trim_matches(['[', ']']).split(',').map(|part| part.trim().trim_matches(['"', '\'']))
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

    fn reason(item: &Item) -> Option<String> {
        T::reason(item)
    }

    fn shown(written: &str) -> String {
        T::shown(written)
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
        if T::choices().is_empty() { format!("\"auto\" or {}", T::allowed()) } else { alternatives(&Self::choices()) }
    }

    fn choices() -> Vec<&'static str> {
        let words = T::choices();
        if words.is_empty() { words } else { [vec!["auto"], words].concat() }
    }

    fn from_item(item: &Item) -> Option<Self> {
        match item {
            Item::Text(text) if text == "auto" => Some(Self::Auto),
            Item::Text(_) | Item::Integer(_) | Item::Flag(_) | Item::List(_) | Item::Other => {
                T::from_item(item).map(Self::Is)
            }
        }
    }

    fn reason(item: &Item) -> Option<String> {
        T::reason(item)
    }
}

impl<T: Ranged> Ranged for Auto<T> {
    fn is_within(&self, min: &Self, max: &Self) -> bool {
        match (self, min, max) {
            (Self::Is(value), Self::Is(min), Self::Is(max)) => value.is_within(min, max),
            (Self::Auto, _, _) | (_, Self::Auto, _) | (_, _, Self::Auto) => true,
        }
    }

    fn between(min: &str, max: &str) -> String {
        format!("\"auto\", or {}", T::between(min, max))
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
                $crate::config::values::alternatives(&Self::choices())
            }

            fn from_item(item: &$crate::config::document::Item) -> Option<Self> {
                let $crate::config::document::Item::Text(text) = item else { return None };
                Self::ALL.iter().copied().find(|choice| choice.word() == text)
            }

            fn choices() -> Vec<&'static str> {
                vec![$($word,)+]
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

/// A number of digits alone: no sign, no space.
fn parse_digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
