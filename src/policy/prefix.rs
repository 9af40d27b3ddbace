//! An address prefix as configurations write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A set of addresses with the same leading bits (RFC 4632), like `10.0.0.0/8`. A bare address is a prefix of full
/// length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash is no address.
    #[error("`{0}` is not an IP address; write one like 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32")]
    Address(String),
    /// The part behind the slash is no number, or too large for the family.
    #[error("the prefix length `{found}` is not a number from 0 to {max}")]
    Length {
        /// What was written.
        found: String,
        /// The largest length of the family.
        max: u8,
    },
    /// Bits behind the prefix length are set, so that it is unclear which of the two is meant.
    #[error("{address}/{len} has bits set behind its length; write {masked}/{len} or {address}")]
    HostBits {
        /// The address as written.
        address: IpAddr,
        /// The length as written.
        len: u8,
        /// The first address of that prefix.
        masked: IpAddr,
    },
}

impl Prefix {
    /// The prefix of `len` bits that starts at `address`.
    ///
    /// # Errors
    /// Where the length is beyond the family's, or bits of the address behind it are set.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let max = bits_max(address);
        if len > max {
            return Err(PrefixError::Length { found: len.to_string(), max });
        }
        let masked = mask(address, len);
        if masked != address {
            return Err(PrefixError::HostBits { address, len, masked });
        }
        Ok(Self { address, len })
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Number of leading bits that count.
    pub fn bits(&self) -> u8 {
        self.len
    }

    /// Whether `address` is in it. An address of the other family never is.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.len) == self.address
    }
}

fn bits_max(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, len: u8) -> IpAddr {
    let len = u32::from(len);
    match address {
        IpAddr::V4(address) => {
            IpAddr::V4((address.to_bits() & u32::MAX.checked_shl(32 - len.min(32)).unwrap_or(0)).into())
        }
        IpAddr::V6(address) => {
            IpAddr::V6((address.to_bits() & u128::MAX.checked_shl(128 - len.min(128)).unwrap_or(0)).into())
        }
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self { address, len: bits_max(address) }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address(address.to_owned()))?;
        let Some(len) = len else { return Ok(address.into()) };
        let digits = len.bytes().all(|byte| byte.is_ascii_digit());
        match len.parse() {
            Ok(bits) if digits => Self::new(address, bits),
            _ => Err(PrefixError::Length { found: len.to_owned(), max: bits_max(address) }),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect(text)
    }

    #[test]
    fn a_prefix_is_written_as_it_was_read() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("192.0.2.1").to_string(), "192.0.2.1/32");
    }

    #[test]
    fn the_edges_are_inside_and_their_neighbours_are_not() {
        let private = prefix("172.16.0.0/12");
        let inside = |text: &str| private.contains(text.parse().expect(text));
        assert!(inside("172.16.0.0") && inside("172.31.255.255"));
        assert!(!inside("172.15.255.255") && !inside("172.32.0.0"));
        assert!(!prefix("0.0.0.0/0").contains("::1".parse().expect("an address")));
        assert!(prefix("::/0").contains("2001:db8::1".parse().expect("an address")));
    }

    #[test]
    fn what_is_no_prefix_is_told_with_what_is_expected() {
        let told = |text: &str| text.parse::<Prefix>().expect_err(text).to_string();
        assert_eq!(
            told("10.0.0/8"),
            "`10.0.0` is not an IP address; write one like 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32"
        );
        assert_eq!(told("10.0.0.0/33"), "the prefix length `33` is not a number from 0 to 32");
        assert_eq!(told("::/129"), "the prefix length `129` is not a number from 0 to 128");
        assert_eq!(told("10.0.0.0/+8"), "the prefix length `+8` is not a number from 0 to 32");
        assert_eq!(told("10.0.0.1/8"), "10.0.0.1/8 has bits set behind its length; write 10.0.0.0/8 or 10.0.0.1");
    }
}
