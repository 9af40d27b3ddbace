//! What a link is about to send: control capsules first, then packets, framed into messages and written in place.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::packet::{Buf, BufPool, PACKET_BYTES_MAX};
use crate::transport::Written;
use crate::wire::frame::{self, CONTROL_BYTES_MAX, Keys, Opcode, Role, Subprotocol};

/// Slices given to one system call. Linux takes 1,024 (UIO_MAXIOV); beyond a few dozen the call costs nothing a slice.
const SLICES_MAX: usize = 64;

/// Payload bytes after which the message being filled is closed: what a browser relays best.
const MESSAGE_BYTES: usize = 65_536;

/// Capsules up to this length are copied behind the one before them, where its buffer has room: a slice costs the kernel
/// more than such a copy, and a buffer of 2 KiB would be held for each.
const SMALL_BYTES_MAX: usize = 512;

/// A thread's space for a text message and its frame.
#[derive(Default)]
struct Text {
    message: Vec<u8>,
    frame: Vec<u8>,
}

thread_local! {
    static TEXT: RefCell<Text> = RefCell::default();
}

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

    /// Fills messages in place: a capsule stays in its buffer, and a small one moves into the one before it, so that a
    /// message of small packets is a few slices and holds a few buffers.
    fn frame_binary(&mut self, role: Role, pool: &BufPool) {
        let control = self.take_control(pool);
        let Self { unframed, framed, keys, .. } = self;
        let mut message = Message { first: framed.len(), bytes: 0 };
        for capsule in control.into_iter().chain(unframed.drain(..)) {
            if message.bytes > 0 && message.bytes + capsule.len() > MESSAGE_BYTES {
                message.seal(framed, role, keys);
                message = Message { first: framed.len(), bytes: 0 };
            }
            message.add(framed, capsule);
        }
        if message.bytes > 0 {
            message.seal(framed, role, keys);
        }
    }

    /// The control capsules in a buffer; they stay where the pool has none.
    fn take_control(&mut self, pool: &BufPool) -> Option<Buf> {
        if self.control.is_empty() {
            return None;
        }
        let buf = pool.copy(&self.control).filter(|buf| buf.len() == self.control.len());
        if buf.is_some() {
            self.control.clear();
        }
        buf
    }

    fn frame_text(&mut self, role: Role, pool: &BufPool) {
        let mut next = 0;
        while !self.control.is_empty() || next < self.unframed.len() {
            let key = self.key(role);
            let framed = TEXT.with_borrow_mut(|Text { message, frame }| {
                message.clear();
                message.extend_from_slice(&self.control);
                let mut end = next;
                while let Some(capsule) = self.unframed.get(end)
                    && (message.is_empty() || message.len() + capsule.len() <= MESSAGE_BYTES)
                {
                    message.extend_from_slice(capsule.bytes());
                    end += 1;
                }
                frame.clear();
                frame::append_base64(message, key, frame);
                extend_or_leave(&mut self.framed, frame, pool).then_some(end)
            });
            let Some(end) = framed else { break };
            next = end;
            self.control.clear();
        }
        self.unframed.drain(..next);
    }

    fn frame_control_frames(&mut self, role: Role, pool: &BufPool) {
        if self.pong.is_none() && !self.ping {
            return;
        }
        let mut frame = Vec::new();
        if let Some(payload) = self.pong.take() {
            frame::append(Opcode::Pong, &payload, self.key(role), &mut frame);
        }
        if std::mem::take(&mut self.ping) {
            frame::append(Opcode::Ping, &[], self.key(role), &mut frame);
        }
        self.framed.extend(pool.copy(&frame));
    }

    fn key(&mut self, role: Role) -> Option<[u8; 4]> {
        key(role, &mut self.keys)
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

/// A message that is being filled at the end of what is framed.
struct Message {
    /// Where its first buffer is.
    first: usize,
    bytes: usize,
}

impl Message {
    fn add(&mut self, framed: &mut VecDeque<Buf>, capsule: Buf) {
        self.bytes += capsule.len();
        if capsule.len() <= SMALL_BYTES_MAX
            && framed.len() > self.first
            && let Some(last) = framed.back_mut()
            && last.tailroom() >= capsule.len()
        {
            last.extend(capsule.bytes());
        } else {
            framed.push_back(capsule);
        }
    }

    fn seal(&self, framed: &mut VecDeque<Buf>, role: Role, keys: &mut Keys) {
        let key = key(role, keys);
        let header = frame::header(Opcode::Binary, self.bytes, key);
        if let Some(key) = key {
            let mut offset = 0;
            for buf in framed.range_mut(self.first..) {
                let bytes = buf.bytes_mut();
                frame::mask(bytes, key, offset);
                offset += bytes.len();
            }
        }
        if let Some(room) = framed.get_mut(self.first).and_then(|first| first.prepend(header.len())) {
            room.copy_from_slice(&header);
        }
    }
}

fn key(role: Role, keys: &mut Keys) -> Option<[u8; 4]> {
    (role == Role::Client).then(|| keys.next())
}

/// Adds a frame in as many buffers as it takes. All or nothing: half a frame would break the stream.
fn extend_or_leave(framed: &mut VecDeque<Buf>, frame: &[u8], pool: &BufPool) -> bool {
    let before = framed.len();
    for part in frame.chunks(PACKET_BYTES_MAX) {
        let Some(buf) = pool.copy(part) else {
            framed.truncate(before);
            return false;
        };
        framed.push_back(buf);
    }
    true
}
