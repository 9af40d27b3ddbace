//! Variable-length integers (RFC 9000, 16): the first two bits give the length, 1, 2, 4 or 8 bytes.

/// The largest value.
pub const MAX: u64 = (1 << 62) - 1;

/// The longest encoding, in bytes.
pub const BYTES_MAX: usize = 8;

/// Bytes that `value` takes.
pub const fn len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// The value at the front of `bytes` and its length in bytes; `None` where `bytes` ends too early. Encodings longer than
/// needed are read too, as the RFC asks.
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let rest = bytes.get(1..len)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
    Some((value, len))
}

/// Appends `value` in its shortest form. A value above [`MAX`] has none and is written as [`MAX`].
pub fn write(value: u64, out: &mut Vec<u8>) {
    let (bytes, len) = encode(value);
    out.extend_from_slice(&bytes[..len]);
}

/// The shortest form of `value`, and its length in bytes. A value above [`MAX`] has none and is written as [`MAX`].
pub fn encode(value: u64) -> ([u8; BYTES_MAX], usize) {
    let value = value.min(MAX);
    let len = len(value);
    let tag = (len.trailing_zeros() as u64) << 62;
    let shifted = value << (8 * (BYTES_MAX - len)) | tag;
    (shifted.to_be_bytes(), len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_read_and_written() {
        let examples: [(&[u8], u64); 4] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (bytes, value) in examples {
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!((read(bytes), out.as_slice()), (Some((value, bytes.len())), bytes));
        }
    }

    #[test]
    fn a_longer_form_than_needed_is_read() {
        assert_eq!(read(&[0x40, 0x25]), Some((37, 2)));
    }

    proptest! {
        #[test]
        fn every_value_comes_back_in_its_shortest_form(value in (0..=MAX, 0..62u32).prop_map(|(value, shift)| value >> shift)) {
            let mut out = Vec::new();
            write(value, &mut out);
            prop_assert_eq!(out.len(), len(value));
            prop_assert_eq!(read(&out), Some((value, out.len())));
            prop_assert_eq!(read(&out[..out.len() - 1]), None);
        }
    }
}
