//! Frames in: what the unread bytes of a link hold.

use std::ops::Range;

use super::{CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Opcode, Role, Subprotocol, close_code, mask};
use crate::wire::base64;

/// What the front of the unread bytes is. Each carries `consumed`, the bytes that are done with.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Nothing whole is there: read more. The bytes after these are the link's tail.
    Need(usize),
    /// A whole message, unmasked and, in the text subprotocol, decoded.
    Message {
        /// Bytes done with.
        consumed: usize,
        /// The message.
        payload: &'a mut [u8],
    },
    /// The peer wants a pong with this payload.
    Ping {
        /// Bytes done with.
        consumed: usize,
        /// What the pong must carry.
        payload: &'a [u8],
    },
    /// The peer lives.
    Pong {
        /// Bytes done with.
        consumed: usize,
        /// What a ping carried, or anything at all.
        payload: &'a [u8],
    },
    /// The peer closes; what follows is discarded.
    Close {
        /// Bytes done with.
        consumed: usize,
        /// Why, where it says so.
        code: Option<u16>,
        /// Why, in words.
        reason: &'a str,
    },
}

/// A rule of RFC 6455 or of the subprotocol that the peer broke. The connection is closed with
/// [`FrameError::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An extension's bit without an extension (5.2).
    #[error("a reserved bit is set")]
    ReservedBits,
    /// An opcode that is not assigned (5.2).
    #[error("unknown opcode {0:#x}")]
    UnknownOpcode(u8),
    /// A client's frame without a mask (5.1).
    #[error("a client's frame is not masked")]
    NotMasked,
    /// A server's frame with a mask (5.1).
    #[error("a server's frame is masked")]
    Masked,
    /// A control frame in fragments (5.5).
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame of more than 125 bytes (5.5).
    #[error("a control frame is longer than {CONTROL_BYTES_MAX} bytes")]
    LongControl,
    /// A length in more bytes than it needs (5.2).
    #[error("a frame's length is not in its shortest form")]
    LongLength,
    /// A continuation of nothing (5.4).
    #[error("a continuation without a message")]
    StrayContinuation,
    /// A new message before the last one was complete (5.4).
    #[error("a message inside another one's fragments")]
    Interleaved,
    /// Text where binary was agreed, or the reverse.
    #[error("a message of the type that was not agreed")]
    WrongType,
    /// A message above the limit.
    #[error("a message longer than the limit")]
    TooBig,
    /// A close frame with half a code (5.5.1).
    #[error("a close frame of one byte")]
    ShortClose,
    /// A close code that must not be sent (7.4).
    #[error("close code {0} must not be sent")]
    BadCloseCode(u16),
    /// A close reason that is not UTF-8 (5.5.1).
    #[error("a close reason that is not UTF-8")]
    BadCloseReason,
    /// A text message that is not base64.
    #[error("a text message that is not base64")]
    NotBase64,
}

impl FrameError {
    /// The code to close the connection with.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::WrongType => close_code::UNSUPPORTED_DATA,
            Self::TooBig => close_code::MESSAGE_TOO_BIG,
            Self::BadCloseReason | Self::NotBase64 => close_code::INVALID_PAYLOAD,
            Self::ReservedBits
            | Self::UnknownOpcode(_)
            | Self::NotMasked
            | Self::Masked
            | Self::FragmentedControl
            | Self::LongControl
            | Self::LongLength
            | Self::StrayContinuation
            | Self::Interleaved
            | Self::ShortClose
            | Self::BadCloseCode(_) => close_code::PROTOCOL_ERROR,
        }
    }
}

/// Finds the messages of one link. It holds no bytes but those of a fragmented message.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    subprotocol: Subprotocol,
    message_bytes_max: usize,
    fragments: Fragments,
    ended: bool,
}

#[derive(Debug)]
enum Fragments {
    None,
    /// Some have come.
    Open(Vec<u8>),
    /// All have come and were handed out as a message; freed by the next call.
    Done(Vec<u8>),
}

/// What was found, without borrowing it yet. Ranges are those of the input.
enum Found {
    Nothing,
    Message(Range<usize>),
    Assembled,
    Control(Opcode, Range<usize>),
}

/// A message of which only the start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    header_bytes: usize,
    payload_bytes: usize,
    key: Option<[u8; 4]>,
}

impl Begun {
    /// Bytes of its frame's header.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// Bytes of its frame, header and payload.
    pub fn frame_bytes(&self) -> usize {
        self.header_bytes + self.payload_bytes
    }

    /// Makes the payload, once it is whole, the message.
    pub fn unmask(&self, payload: &mut [u8]) {
        if let Some(key) = self.key {
            mask(payload, key, 0);
        }
    }
}

struct FrameHeader {
    fin: bool,
    opcode: Opcode,
    key: Option<[u8; 4]>,
    bytes: usize,
    payload_len: usize,
}

impl Decoder {
    /// A decoder for a new link. `message_bytes_max` bounds a message (decoded, where it is base64) and so the memory
    /// that fragments may take.
    pub fn new(role: Role, subprotocol: Subprotocol, message_bytes_max: usize) -> Self {
        Self { role, subprotocol, message_bytes_max, fragments: Fragments::None, ended: false }
    }

    /// A decoder by the same rules, before anything has come.
    pub fn anew(&self) -> Self {
        Self::new(self.role, self.subprotocol, self.message_bytes_max)
    }

    /// Whether a message in fragments has begun and not ended.
    pub fn is_amid_message(&self) -> bool {
        matches!(self.fragments, Fragments::Open(_))
    }

    /// Changes the limit for messages that begin from now on.
    pub fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// The longest payload of a message, as it is on the wire.
    fn payload_bytes_max(&self) -> usize {
        self.subprotocol.payload_len(self.message_bytes_max)
    }

    /// The longest frame that is not refused, in bytes: the caller's buffer must hold as much.
    pub fn frame_bytes_max(&self) -> usize {
        self.payload_bytes_max().max(CONTROL_BYTES_MAX).saturating_add(HEADER_BYTES_MAX)
    }

    /// Memory held, in bytes.
    pub fn held_bytes(&self) -> usize {
        match &self.fragments {
            Fragments::None => 0,
            Fragments::Open(bytes) | Fragments::Done(bytes) => bytes.capacity(),
        }
    }

    /// Takes the next thing off the front of `input`, the unread bytes of the link. The caller skips what was consumed
    /// and calls again, until it is told to read more. After a close frame or an error everything is discarded.
    ///
    /// # Errors
    /// [`FrameError`] where the peer broke a rule. Bytes of `input` may then have been unmasked.
    pub fn next<'a>(&'a mut self, input: &'a mut [u8]) -> Result<Step<'a>, FrameError> {
        if let Fragments::Done(_) = self.fragments {
            self.fragments = Fragments::None;
        }
        if self.ended {
            return Ok(Step::Need(input.len()));
        }
        let found = self.find(input);
        self.ended = matches!(found, Err(_) | Ok((_, Found::Control(Opcode::Close, _))));
        let (consumed, found) = found?;
        Ok(match (found, &mut self.fragments) {
            (Found::Message(range), _) => Step::Message { consumed, payload: &mut input[range] },
            (Found::Assembled, Fragments::Done(payload)) => Step::Message { consumed, payload },
            (Found::Control(Opcode::Ping, range), _) => Step::Ping { consumed, payload: &input[range] },
            (Found::Control(Opcode::Pong, range), _) => Step::Pong { consumed, payload: &input[range] },
            (Found::Control(_, range), _) => {
                let (code, reason) = close(&input[range])?;
                Step::Close { consumed, code, reason }
            }
            (Found::Nothing | Found::Assembled, _) => Step::Need(consumed),
        })
    }

    /// The message that `input` is the start of, where that is a frame of its own and binary: its rest can be read to where
    /// the caller wants it. `None` where `input` holds all of it, or it is something else that [`Decoder::next`] is for.
    pub fn begun(&self, input: &[u8]) -> Option<Begun> {
        let header = self.header(input).ok().flatten().filter(|_| !self.ended)?;
        let is_message = header.fin && header.opcode == Opcode::Binary;
        let begun = Begun { header_bytes: header.bytes, payload_bytes: header.payload_len, key: header.key };
        (is_message && begun.frame_bytes() > input.len()).then_some(begun)
    }

    fn find(&mut self, input: &mut [u8]) -> Result<(usize, Found), FrameError> {
        let mut consumed = 0;
        while let Some(header) = self.header(&input[consumed..])? {
            let start = consumed + header.bytes;
            let end = start + header.payload_len;
            let Some(payload) = input.get_mut(start..end) else { break };
            if let Some(key) = header.key {
                mask(payload, key, 0);
            }
            consumed = end;
            let found = match header.opcode {
                Opcode::Close | Opcode::Ping | Opcode::Pong => Found::Control(header.opcode, start..end),
                Opcode::Text | Opcode::Binary if header.fin => Found::Message(start..start + self.decode(payload)?),
                Opcode::Text | Opcode::Binary | Opcode::Continuation => self.assemble(header.fin, payload)?,
            };
            if !matches!(found, Found::Nothing) {
                return Ok((consumed, found));
            }
        }
        Ok((consumed, Found::Nothing))
    }

    /// The header at the front of `bytes`, judged; `None` where it is not whole. What the first bytes say is judged
    /// before more is waited for.
    fn header(&self, bytes: &[u8]) -> Result<Option<FrameHeader>, FrameError> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let (fin, opcode) = self.first_byte(first)?;
        let masked = self.second_byte(second, opcode)?;
        let (payload_len, len_bytes) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(&len) => (u64::from(u16::from_be_bytes(len)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(&len) => (u64::from_be_bytes(len), 8),
                None => return Ok(None),
            },
            len => (u64::from(len), 0),
        };
        let shortest = match payload_len {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        if len_bytes != shortest {
            return Err(FrameError::LongLength);
        }
        let payload_len = self.judge_len(opcode, payload_len)?;
        let key = match (masked, rest.get(len_bytes..).and_then(|rest| rest.first_chunk())) {
            (false, _) => None,
            (true, Some(&key)) => Some(key),
            (true, None) => return Ok(None),
        };
        let bytes = 2 + len_bytes + if masked { 4 } else { 0 };
        Ok(Some(FrameHeader { fin, opcode, key, bytes, payload_len }))
    }

    fn first_byte(&self, first: u8) -> Result<(bool, Opcode), FrameError> {
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits);
        }
        let fin = first & 0x80 != 0;
        let opcode = Opcode::from_nibble(first & 0x0f).ok_or(FrameError::UnknownOpcode(first & 0x0f))?;
        let within = matches!(self.fragments, Fragments::Open(_));
        match opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => Err(FrameError::FragmentedControl),
            Opcode::Continuation if !within => Err(FrameError::StrayContinuation),
            Opcode::Text | Opcode::Binary if within => Err(FrameError::Interleaved),
            Opcode::Text | Opcode::Binary if opcode != self.subprotocol.opcode() => Err(FrameError::WrongType),
            Opcode::Continuation | Opcode::Text | Opcode::Binary | Opcode::Close | Opcode::Ping | Opcode::Pong => {
                Ok((fin, opcode))
            }
        }
    }

    fn second_byte(&self, second: u8, opcode: Opcode) -> Result<bool, FrameError> {
        let masked = second & 0x80 != 0;
        match self.role {
            Role::Server if !masked => return Err(FrameError::NotMasked),
            Role::Client if masked => return Err(FrameError::Masked),
            Role::Server | Role::Client => {}
        }
        if opcode.is_control() && usize::from(second & 0x7f) > CONTROL_BYTES_MAX {
            return Err(FrameError::LongControl);
        }
        Ok(masked)
    }

    fn judge_len(&self, opcode: Opcode, payload_len: u64) -> Result<usize, FrameError> {
        let before = match &self.fragments {
            Fragments::Open(bytes) if !opcode.is_control() => bytes.len(),
            Fragments::Open(_) | Fragments::None | Fragments::Done(_) => 0,
        };
        let max = if opcode.is_control() { CONTROL_BYTES_MAX } else { self.payload_bytes_max().saturating_sub(before) };
        usize::try_from(payload_len).ok().filter(|&len| len <= max).ok_or(FrameError::TooBig)
    }

    /// Takes a fragment in; the whole message once the last one has come.
    fn assemble(&mut self, fin: bool, payload: &[u8]) -> Result<Found, FrameError> {
        let mut bytes = match std::mem::replace(&mut self.fragments, Fragments::None) {
            Fragments::Open(bytes) => bytes,
            Fragments::None | Fragments::Done(_) => Vec::new(),
        };
        let len = bytes.len() + payload.len();
        if bytes.capacity() < len {
            // Twice as much, for tiny fragments; never more than the longest message.
            let capacity = len.next_power_of_two().min(self.payload_bytes_max().max(len));
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(payload);
        if !fin {
            self.fragments = Fragments::Open(bytes);
            return Ok(Found::Nothing);
        }
        let len = self.decode(&mut bytes)?;
        bytes.truncate(len);
        self.fragments = Fragments::Done(bytes);
        Ok(Found::Assembled)
    }

    /// Undoes the subprotocol in place, and returns the message's length.
    fn decode(&self, payload: &mut [u8]) -> Result<usize, FrameError> {
        match self.subprotocol {
            Subprotocol::Binary => Ok(payload.len()),
            // The last four characters may stand for one to three bytes: only now the length is known.
            Subprotocol::Base64 => match base64::decode_in_place(payload) {
                Ok(len) if len <= self.message_bytes_max => Ok(len),
                Ok(_) => Err(FrameError::TooBig),
                Err(_) => Err(FrameError::NotBase64),
            },
        }
    }
}

/// The code and reason in a close frame's payload.
fn close(payload: &[u8]) -> Result<(Option<u16>, &str), FrameError> {
    let (code, reason) = match payload {
        [] => return Ok((None, "")),
        [_] => return Err(FrameError::ShortClose),
        &[high, low, ref reason @ ..] => (u16::from_be_bytes([high, low]), reason),
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(FrameError::BadCloseCode(code)),
    }
    Ok((Some(code), std::str::from_utf8(reason).map_err(|_| FrameError::BadCloseReason)?))
}
