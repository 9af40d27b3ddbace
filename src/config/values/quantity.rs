//! Sizes and durations.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{NotOfThisKind, Value, parse_digits};
use crate::config::document::Item;

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

/// The units of durations, in microseconds; "ms" stands before "m", which is its beginning.
const TIME_UNITS_US: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("ms", 1_000), ("us", 1), ("m", 60_000_000), ("s", 1_000_000)];

impl Value for Duration {
    fn allowed() -> String {
        "a duration such as \"300ms\", \"5m\" or \"2h4m\" (us, ms, s, m, h, d)".to_owned()
    }

    fn from_item(item: &Item) -> Option<Self> {
        if let Item::Text(text) = item { parse_duration(text) } else { None }
    }
}

/// Reads `300ms`, `5m`, `2h4m`: each unit at most once, the longest first.
fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total_us, mut unit_before_us) = (text, 0_u64, u64::MAX);
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count = parse_digits(rest.get(..digits)?)?;
        let tail = rest.get(digits..)?;
        let (unit, unit_us) = TIME_UNITS_US.into_iter().find(|(unit, _)| tail.starts_with(unit))?;
        if unit_us >= unit_before_us {
            return None;
        }
        total_us = total_us.checked_add(count.checked_mul(unit_us)?)?;
        (rest, unit_before_us) = (tail.strip_prefix(unit)?, unit_us);
        if rest.is_empty() {
            return Some(Duration::from_micros(total_us));
        }
    }
}
