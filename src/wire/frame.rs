//! WebSocket frames (RFC 6455, 5) without I/O, over a caller's read buffer.
//!
//! A [`Decoder`] a link yields whole messages, unmasked in place in the buffer they were read into: nothing is copied on
//! the way unless the peer fragmented the message. Encoding is a header in front of a payload that stays where it is.

mod decode;
mod encode;
mod keys;
#[cfg(test)]
mod tests;

pub use decode::{Begun, Decoder, FrameError, Step};
pub use encode::{HEADER_BYTES_MAX, Header, append, append_base64, append_close, header};
pub use keys::Keys;

/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Which end of the WebSocket we are: a client masks what it sends, a server does not (RFC 6455, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We accepted the connection: the peer's frames must be masked.
    Server,
    /// We opened the connection: the peer's frames must not be masked.
    Client,
}

/// What a message looks like inside a WebSocket, agreed at the upgrade (Sec-WebSocket-Protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    /// Binary messages.
    Binary,
    /// Text messages: the same bytes as base64.
    Base64,
}

impl Subprotocol {
    /// All of them, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Binary, Self::Base64];

    /// Its name in `Sec-WebSocket-Protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binary => "wstether.v1",
            Self::Base64 => "wstether.v1.base64",
        }
    }

    /// The subprotocol of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subprotocol| subprotocol.name() == name)
    }

    /// The first of a peer's list (the value of `Sec-WebSocket-Protocol`, comma-separated, in its order of preference)
    /// that we speak.
    pub fn select(offered: &str) -> Option<Self> {
        offered.split(',').find_map(|name| Self::from_name(name.trim()))
    }

    /// The opcode of its messages.
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Binary => Opcode::Binary,
            Self::Base64 => Opcode::Text,
        }
    }

    /// Bytes of frame payload that a message of `message_bytes` takes.
    pub const fn payload_len(self, message_bytes: usize) -> usize {
        match self {
            Self::Binary => message_bytes,
            Self::Base64 => super::base64::encoded_len(message_bytes),
        }
    }
}

/// What a frame is (RFC 6455, 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame of a peer.
    Close = 0x8,
    /// A question for a sign of life.
    Ping = 0x9,
    /// The answer.
    Pong = 0xa,
}

impl Opcode {
    const ALL: [Self; 6] = [Self::Continuation, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong];

    fn from_nibble(nibble: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&opcode| opcode as u8 == nibble)
    }

    const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// Close codes that this protocol uses (RFC 6455, 7.4.1, and IANA's registry).
pub mod close_code {
    /// Done.
    pub const NORMAL: u16 = 1000;
    /// A program stops, a page is left.
    pub const GOING_AWAY: u16 = 1001;
    /// Frames or capsules against the rules.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Text where binary was agreed, or the reverse.
    pub const UNSUPPORTED_DATA: u16 = 1003;
    /// Not UTF-8, or not base64.
    pub const INVALID_PAYLOAD: u16 = 1007;
    /// Refused for a reason that trying again will not change.
    pub const POLICY_VIOLATION: u16 = 1008;
    /// A message above the limit.
    pub const MESSAGE_TOO_BIG: u16 = 1009;
    /// Refused for now.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// Ours (RFC 6455, 7.4.2, leaves 4000 to 4999 to applications): a newer link has this one's place, so whoever dials again by
    /// itself must not, or the two would push each other out for ever.
    pub const REPLACED: u16 = 4000;
}

/// Masks or unmasks `bytes` in place (RFC 6455, 5.3), `offset` bytes into the frame's payload.
pub fn mask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let [a, b, c, d] = std::array::from_fn(|i| key[offset.wrapping_add(i) % 4]);
    // Whole words in a plain loop become vector instructions.
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d].into_iter().cycle()) {
        *byte ^= key;
    }
}
