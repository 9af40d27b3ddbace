//! Frames out: a header in front of a payload, and helpers for the small ones.

use std::ops::Deref;

use super::{CONTROL_BYTES_MAX, Opcode, mask};
use crate::wire::base64;

/// The longest header, in bytes: two, a 64-bit length, a mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// A frame's header, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
}

impl Header {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The header of an unfragmented frame of `payload_len` bytes. With a `key` (a client's frames) the caller masks the
/// payload with [`mask`].
pub fn header(opcode: Opcode, payload_len: usize, key: Option<[u8; 4]>) -> Header {
    let mut header = Header { bytes: [0; HEADER_BYTES_MAX], len: 0 };
    let masked = if key.is_some() { 0x80 } else { 0 };
    header.push(&[0x80 | opcode as u8]);
    match (u8::try_from(payload_len), u16::try_from(payload_len)) {
        (Ok(len @ 0..=125), _) => header.push(&[masked | len]),
        (_, Ok(len)) => {
            header.push(&[masked | 126]);
            header.push(&len.to_be_bytes());
        }
        (_, Err(_)) => {
            header.push(&[masked | 127]);
            header.push(&(payload_len as u64).to_be_bytes());
        }
    }
    if let Some(key) = key {
        header.push(&key);
    }
    header
}

/// Appends a whole frame. Of a control frame's payload at most 125 bytes are taken.
pub fn append(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let len = if opcode.is_control() { payload.len().min(CONTROL_BYTES_MAX) } else { payload.len() };
    append_with(opcode, len, key, out, |out| out.extend_from_slice(&payload[..len]));
}

/// Appends a message as a text frame of base64.
pub fn append_base64(message: &[u8], key: Option<[u8; 4]>, out: &mut Vec<u8>) {
    append_with(Opcode::Text, base64::encoded_len(message.len()), key, out, |out| base64::encode(message, out));
}

/// Appends a close frame; `reason` is shortened to what fits, at a character's boundary.
pub fn append_close(code: u16, reason: &str, key: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    append_with(Opcode::Close, 2 + reason.len(), key, out, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(reason.as_bytes());
    });
}

fn append_with(
    opcode: Opcode,
    len: usize,
    key: Option<[u8; 4]>,
    out: &mut Vec<u8>,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(&header(opcode, len, key));
    let start = out.len();
    payload(out);
    if let Some(key) = key {
        mask(&mut out[start..], key, 0);
    }
}
