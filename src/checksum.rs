//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// The sum of `bytes` as big-endian 16-bit words, an odd last byte padded with zero; not inverted. Sums of parts with
/// even lengths add up, to be folded.
pub fn sum(bytes: &[u8]) -> u64 {
    // The sum does not depend on the byte order but for its own (RFC 1071, 2 B), so that whole registers are added as
    // they lie in memory. Halves of 32 bits cannot overflow within any slice that there is, and a compiler makes vectors
    // of it.
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let native: u64 = chunks.iter().chain([&tail]).map(|chunk| halves(u64::from_ne_bytes(*chunk))).sum();
    u64::from(u16::from_be(fold(native)))
}

fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Folds a sum to 16 bits with end-around carry.
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum of `bytes`, whose own checksum field is zero.
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Whether `bytes`, checksum field included, sum up to a valid checksum.
pub fn is_valid(bytes: &[u8]) -> bool {
    fold(sum(bytes)) == 0xffff
}

/// The sum of a pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1), not folded. `len` is that of transport header and payload.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    address(source) + address(destination) + u64::from(protocol) + len as u64
}

fn address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    }
}

/// What a change of fields does to a checksum over them (RFC 1624, equation 3).
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// Adds the change of an aligned 16-bit word.
    pub fn word(mut self, old: u16, new: u16) -> Self {
        self.0 += u64::from(!old) + u64::from(new);
        self
    }

    /// Adds the change of an address. Both are of one family.
    pub fn address(mut self, old: IpAddr, new: IpAddr) -> Self {
        self.0 += u64::from(!fold(address(old))) + address(new);
        self
    }

    /// The checksum after the change.
    pub fn apply(self, checksum: u16) -> u16 {
        !self.apply_to_sum(!checksum)
    }

    /// The same for a field that holds a sum which is not inverted, like the pseudo-header's in a packet whose checksum
    /// is partial.
    pub fn apply_to_sum(self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_sum_is_that_of_rfc_1071_section_3() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn the_update_is_that_of_rfc_1624_section_4() {
        assert_eq!(Delta::default().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn an_odd_last_byte_counts_as_the_high_half_of_a_word() {
        assert_eq!(fold(sum(&[0x12, 0x34, 0x56])), 0x1234 + 0x5600);
    }

    fn plain(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
        let mut sum = 0;
        for word in words {
            sum += word;
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert_eq!(fold(sum(&bytes)), plain(&bytes));
        }

        #[test]
        fn an_incremental_update_equals_a_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 2..200), at in any::<proptest::sample::Index>(), new in any::<u16>(),
        ) {
            // A checksum over nothing but zeros has two forms; a packet is never that.
            bytes[0] |= 0x40;
            let at = 2 * at.index(bytes.len() / 2);
            prop_assume!(at != 0);
            let before = of(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(Delta::default().word(old, new).apply(before), of(&bytes));
        }
    }
}
