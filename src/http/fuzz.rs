//! What the fuzz target of HTTP heads runs, and what the unit tests replay its corpus through.

use super::{HEAD_BYTES_MAX, parse_head, upgrade};
use crate::wire::frame::Subprotocol;

/// What a connection sends: a head is found or refused within its bounds, wherever the stream is cut.
pub fn head(data: &[u8]) {
    match parse_head(data) {
        Ok(Some((head, consumed))) => {
            assert!(consumed <= data.len().min(HEAD_BYTES_MAX));
            assert_eq!(parse_head(&data[..consumed]), Ok(Some((head.clone(), consumed))), "the rest changes nothing");
            assert!(consumed == 0 || !matches!(parse_head(&data[..consumed - 1]), Ok(Some(_))), "it ends at its end");
            if let Err(refusal) = upgrade::upgrade(&head, "/wstether", &Subprotocol::ALL) {
                assert!(refusal.response().starts_with(b"HTTP/1.1 "));
            }
        }
        Ok(None) => assert!(data.len() < HEAD_BYTES_MAX, "a head has an end"),
        Err(error) => assert!(error.response().starts_with(b"HTTP/1.1 ")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_committed_input_of_heads_passes() {
        crate::wire::fuzz::replay("head", super::head);
    }
}
