//! The wire format: WebSocket frames that carry messages, messages that carry capsules, and the proof of a credential.
//!
//! All of it is pure: bytes in, bytes out. `docs/protocol.md` specifies it for a stranger; its worked examples are
//! checked against this code.
//!
//! From the outside in: [`frame`] finds messages in a WebSocket stream (RFC 6455), [`base64`] serves the text
//! subprotocol, [`capsule`] splits a message (RFC 9297) into packets and control, [`proof`] shows who a client is.

pub mod base64;
pub mod capsule;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod proof;
#[cfg(test)]
mod protocol_doc;
pub mod token;
pub mod varint;

/// The path of a gateway's WebSocket.
pub const PATH: &str = "/wstether";

/// The version of this protocol.
pub const VERSION: u64 = 1;

/// The longest message before WELCOME, in bytes: room for a CHALLENGE, HELLO or REFUSAL, and for nothing that a stranger
/// could fill memory with.
pub const HANDSHAKE_MESSAGE_BYTES_MAX: usize = 4_096;
