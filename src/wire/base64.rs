//! Base64 of whole messages (RFC 4648, 4), for a browser or a proxy that passes text alone.
//!
//! Strict: standard alphabet, padding required, unused bits zero, no white space.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;

/// Characters that are decoded at a time, through a buffer on the stack. A multiple of 4, so that only the last block
/// can hold padding.
const BLOCK_CHARS: usize = 1_024;

/// The text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not base64 (RFC 4648, standard alphabet, padded)")]
pub struct Base64Error;

/// Characters that `bytes_len` bytes become.
pub const fn encoded_len(bytes_len: usize) -> usize {
    bytes_len.div_ceil(3).saturating_mul(4)
}

/// Appends `bytes` as base64 characters.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + encoded_len(bytes.len()), 0);
    // The room was just made; an encoder that wanted more would be wrong, and leaves the rest as it is.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// Decodes `text` in place: the bytes stand at its front, and their number is returned.
///
/// # Errors
/// [`Base64Error`] where the text is not strict base64; `text` is then in no particular state.
pub fn decode_in_place(text: &mut [u8]) -> Result<usize, Base64Error> {
    let mut block = [0; BLOCK_CHARS / 4 * 3];
    let mut written = 0;
    for start in (0..text.len()).step_by(BLOCK_CHARS) {
        let end = text.len().min(start + BLOCK_CHARS);
        let len = STANDARD.decode_slice(&text[start..end], &mut block).map_err(|_| Base64Error)?;
        if end < text.len() && len != block.len() {
            return Err(Base64Error); // padding before the end
        }
        text[written..written + len].copy_from_slice(&block[..len]);
        written += len;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &str) -> Result<Vec<u8>, Base64Error> {
        let mut bytes = text.as_bytes().to_vec();
        let len = decode_in_place(&mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    #[test]
    fn the_examples_of_the_rfc_are_encoded_and_decoded() {
        let examples = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, text) in examples {
            let mut out = Vec::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!((out.as_slice(), decoded(text)), (text.as_bytes(), Ok(plain.as_bytes().to_vec())));
        }
    }

    #[test]
    fn anything_but_strict_base64_is_refused() {
        for text in ["Zg", "Zg=", "Zg==\n", "Zh==", "Zm9_", "Z", "====", "Zg==Zg==", " Zg=="] {
            assert_eq!(decoded(text), Err(Base64Error), "for {text:?}");
        }
        let padded_in_the_middle = ["Zg==", &"AAAA".repeat(BLOCK_CHARS / 4)].concat();
        let padded_at_a_block_end = [&"AAAA".repeat(BLOCK_CHARS / 4 - 1), "Zg==", "AAAA"].concat();
        assert_eq!(decoded(&padded_in_the_middle), Err(Base64Error));
        assert_eq!(decoded(&padded_at_a_block_end), Err(Base64Error));
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back_in_place(bytes in prop::collection::vec(any::<u8>(), 0..5_000), before in 0..4usize) {
            let mut out = vec![b'-'; before];
            encode(&bytes, &mut out);
            prop_assert_eq!(out.len(), before + encoded_len(bytes.len()));
            let len = decode_in_place(&mut out[before..]);
            prop_assert_eq!(len, Ok(bytes.len()));
            prop_assert_eq!(&out[before..before + bytes.len()], &bytes[..]);
        }
    }
}
