//! What a link is about to send: control capsules first, then packets, framed into messages and written in place.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::packet::{Buf, BufPool};
use crate::transport::Written;
use crate::wire::frame::{self, CONTROL_BYTES_MAX, Keys, Opcode, Role, Subprotocol};

/// Slices given to one system call. Linux takes 1,024 (UIO_MAXIOV); beyond a few dozen the call costs nothing a slice.
const SLICES_MAX: usize = 64;

/// Payload bytes after which the message being filled is closed: what a browser relays best.
const MESSAGE_BYTES: usize = 65_536;

/// What a link is about to send. Bounded by its users: packets by the batch and the window, control capsules by
/// carrying only the newest state, pongs by answering only the newest ping.
#[derive(Debug, Default)]
pub struct Outbox {
    control: Vec<u8>,
    pong: Option<Vec<u8>>,
    ping: bool,
    close: Option<(u16, String)>,
    /// Capsules of messages that are not yet framed.
    unframed: Vec<Buf>,
    /// Framed bytes, the first of them written up to `written`.
    framed: VecDeque<Buf>,
    written: usize,
    keys: Keys,
}

impl Outbox {
    /// Whether nothing waits for the socket.
    pub fn is_empty(&self) -> bool {
        self.framed.is_empty()
    }

    /// Adds control capsules, which go before every packet that waits.
    pub fn control(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.control);
    }

    /// Puts bytes in front that are no frames: the upgrade.
    pub fn raw(&mut self, bytes: &[u8], pool: &BufPool) {
        self.framed.extend(pool.copy(bytes));
    }

    /// Adds a whole capsule that holds a packet.
    pub(super) fn push(&mut self, capsule: Buf) {
        self.unframed.push(capsule);
    }

    /// The peer wants a pong. Only the newest ping is answered (RFC 6455, 5.5.3).
    pub(super) fn answer_ping(&mut self, payload: &[u8]) {
        self.pong = Some(payload[..payload.len().min(CONTROL_BYTES_MAX)].to_vec());
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self) {
        self.ping = true;
    }

    /// Whether a pong waits.
    pub fn owes_pong(&self) -> bool {
        self.pong.is_some()
    }

    /// The last frame.
    pub(super) fn close(&mut self, code: u16, reason: &str) {
        self.close.get_or_insert_with(|| (code, reason.to_owned()));
    }

    /// Makes frames of all that waits. Where the pool has no buffer, what needs one waits for the next time.
    pub(super) fn frame(&mut self, subprotocol: Subprotocol, role: Role, pool: &BufPool) {
        self.frame_control_frames(role, pool);
        match subprotocol {
            Subprotocol::Binary => self.frame_binary(role, pool),
            Subprotocol::Base64 => self.frame_text(role, pool),
        }
        if let Some((code, reason)) = self.close.take() {
            let mut frame = Vec::new();
            frame::append_close(code, &reason, self.key(role), &mut frame);
            self.framed.extend(pool.copy(&frame));
        }
    }

    fn frame_binary(&mut self, role: Role, pool: &BufPool) {
        let control = std::mem::take(&mut self.control);
        let control = match (control.is_empty(), pool.copy(&control)) {
            (false, Some(buf)) if buf.len() == control.len() => Some(buf),
            (false, _) => {
                self.control = control;
                None
            }
            (true, _) => None,
        };
        let mut capsules = control.into_iter().chain(std::mem::take(&mut self.unframed)).peekable();
        while capsules.peek().is_some() {
            let (mut message, mut len) = (Vec::new(), 0);
            while let Some(capsule) = capsules.next_if(|next| len == 0 || len + next.len() <= MESSAGE_BYTES) {
                len += capsule.len();
                message.push(capsule);
            }
            let key = self.key(role);
            self.frame_in_place(message, len, key);
        }
    }

    fn frame_text(&mut self, role: Role, pool: &BufPool) {
        let mut capsules = std::mem::take(&mut self.unframed).into_iter().peekable();
        while !self.control.is_empty() || capsules.peek().is_some() {
            let (mut bytes, mut message) = (self.control.clone(), Vec::new());
            while let Some(capsule) =
                capsules.next_if(|next| bytes.is_empty() || bytes.len() + next.len() <= MESSAGE_BYTES)
            {
                bytes.extend_from_slice(capsule.bytes());
                message.push(capsule);
            }
            let key = self.key(role);
            let mut frame = Vec::with_capacity(frame::HEADER_BYTES_MAX + Subprotocol::Base64.payload_len(bytes.len()));
            frame::append_base64(&bytes, key, &mut frame);
            let parts = frame.chunks(crate::packet::PACKET_BYTES_MAX).map(|part| pool.copy(part));
            // All or nothing: half a frame would break the stream.
            let Some(parts) = parts.collect::<Option<Vec<Buf>>>() else {
                self.unframed = message.into_iter().chain(capsules).collect();
                return;
            };
            self.framed.extend(parts);
            self.control.clear();
        }
    }

    fn frame_control_frames(&mut self, role: Role, pool: &BufPool) {
        let mut frame = Vec::new();
        if let Some(payload) = self.pong.take() {
            frame::append(Opcode::Pong, &payload, self.key(role), &mut frame);
        }
        if std::mem::take(&mut self.ping) {
            frame::append(Opcode::Ping, &[], self.key(role), &mut frame);
        }
        if !frame.is_empty() {
            self.framed.extend(pool.copy(&frame));
        }
    }

    fn key(&mut self, role: Role) -> Option<[u8; 4]> {
        (role == Role::Client).then(|| self.keys.next())
    }

    fn frame_in_place(&mut self, mut message: Vec<Buf>, len: usize, key: Option<[u8; 4]>) {
        let header = frame::header(Opcode::Binary, len, key);
        if let Some(key) = key {
            let mut offset = 0;
            for buf in &mut message {
                let bytes = buf.bytes_mut();
                frame::mask(bytes, key, offset);
                offset += bytes.len();
            }
        }
        if let Some(room) = message.first_mut().and_then(|first| first.prepend(header.len())) {
            room.copy_from_slice(&header);
        }
        self.framed.extend(message);
    }

    /// Gives as many slices as there are to `write`, and takes off what it took.
    pub(super) fn write_to(
        &mut self,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<Written>,
    ) -> io::Result<Written> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, buf) in slices.iter_mut().zip(&self.framed) {
            let skip = if count == 0 { self.written } else { 0 };
            *slice = IoSlice::new(&buf.bytes()[skip..]);
            count += 1;
        }
        let written = write(&slices[..count])?;
        self.take_off(written.bytes);
        Ok(written)
    }

    fn take_off(&mut self, bytes: usize) {
        self.written += bytes;
        while let Some(first) = self.framed.front() {
            if self.written < first.len() {
                break;
            }
            self.written -= first.len();
            self.framed.pop_front();
        }
    }
}
