//! What a link is about to send: control capsules first, then packets, framed into messages and written in place.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::packet::{Buf, BufPool, PACKET_BYTES_MAX};
use crate::transport::Written;
use crate::wire::capsule;
use crate::wire::frame::{self, CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Keys, Opcode, Role, Subprotocol};

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

/// Memory that a link's own framed bytes keep: a pong (131 bytes with a client's mask), a ping (6), and ACK and CREDIT in a
/// message of their own (40, as text 50).
const OWN_KEPT_BYTES: usize = 256;

/// The same for control capsules: ACK and CREDIT, of at most 13 bytes each. Those of the handshake are longer, and said once.
const CONTROL_KEPT_BYTES: usize = 32;

/// What a link is about to send. While something framed waits for the socket nothing more is framed, so that a peer that
/// does not read costs what it costs once, whatever it sends: acknowledgement, credit, ping and pong stay a word of which
/// the newest counts, packets are bounded by the batch and the window, and the handshake and the end are said once.
///
/// What the link says of its own is framed beside the pool: it is little, and one that is out of buffers has to be able to say
/// it, since from acknowledgements the peer knows what it may forget.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Capsules of the handshake and of the end.
    control: Vec<u8>,
    ack: Option<u64>,
    credit: Option<u64>,
    pong: Option<Vec<u8>>,
    ping: bool,
    close: Option<(u16, String)>,
    /// Capsules of messages that are not yet framed.
    unframed: Vec<Buf>,
    /// Framed bytes of the link's own. They go before `framed`.
    own: Vec<u8>,
    /// Framed bytes of packets.
    framed: VecDeque<Buf>,
    /// How far the first of all these is written.
    written: usize,
    keys: Keys,
}

impl Outbox {
    /// Whether nothing waits for the socket.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.framed.is_empty()
    }

    /// Adds control capsules, which go before every packet that waits.
    pub fn control(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.control);
    }

    /// Puts bytes in front that are no frames: the upgrade.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.own.extend_from_slice(bytes);
    }

    /// Adds a whole capsule that holds a packet.
    pub(super) fn push(&mut self, capsule: Buf) {
        self.unframed.push(capsule);
    }

    /// The peer is to know that so much has come.
    pub(super) fn acknowledge(&mut self, offset: u64) {
        self.ack = Some(offset);
    }

    /// The peer is to know that it may send up to there.
    pub(super) fn grant(&mut self, offset: u64) {
        self.credit = Some(offset);
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

    /// Memory of what the link says of its own.
    #[cfg(test)]
    pub(crate) fn own_bytes(&self) -> usize {
        self.control.capacity() + self.own.capacity() + self.pong.as_ref().map_or(0, Vec::capacity)
    }

    /// Makes frames of all that waits, once nothing framed does; `false` where there is nothing to write. A packet that needs a
    /// buffer where the pool has none waits for the next time.
    pub(super) fn frame(&mut self, subprotocol: Subprotocol, role: Role, pool: &BufPool) -> bool {
        debug_assert!(self.framed.is_empty() && self.written == 0, "what is in front would be half written");
        self.frame_control_frames(role);
        self.write_news();
        match subprotocol {
            Subprotocol::Binary => self.frame_binary(role),
            Subprotocol::Base64 => self.frame_text(role, pool),
        }
        self.frame_control(subprotocol, role);
        self.frame_close(role);
        !self.is_empty()
    }

    fn frame_control_frames(&mut self, role: Role) {
        if let Some(payload) = self.pong.take() {
            let key = self.key(role);
            frame::append(Opcode::Pong, &payload, key, &mut self.own);
        }
        if std::mem::take(&mut self.ping) {
            let key = self.key(role);
            frame::append(Opcode::Ping, &[], key, &mut self.own);
        }
    }

    /// Makes capsules of what the peer is to know: now, and not before, or it would be told what is no longer new.
    fn write_news(&mut self) {
        if let Some(offset) = self.ack.take() {
            capsule::append_ack(offset, &mut self.control);
        }
        if let Some(offset) = self.credit.take() {
            capsule::append_credit(offset, &mut self.control);
        }
    }

    /// Fills messages in place: a capsule stays in its buffer, and a small one moves into the one before it, so that a
    /// message of small packets is a few slices and holds a few buffers.
    fn frame_binary(&mut self, role: Role) {
        self.put_control_in_front();
        let Self { unframed, framed, keys, .. } = self;
        let mut message = Message { first: framed.len(), bytes: 0 };
        for capsule in unframed.drain(..) {
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

    /// Has the control capsules share the first packet's message, in the free space in front of it, where they fit there.
    fn put_control_in_front(&mut self) {
        let Some(first) = self.unframed.first_mut().filter(|_| !self.control.is_empty()) else { return };
        let bytes = self.control.len();
        let fits = bytes + HEADER_BYTES_MAX <= first.headroom() && bytes + first.len() <= MESSAGE_BYTES;
        if fits && let Some(room) = first.prepend(bytes) {
            room.copy_from_slice(&self.control);
            self.control.clear();
        }
    }

    fn frame_text(&mut self, role: Role, pool: &BufPool) {
        let mut next = 0;
        while next < self.unframed.len() {
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

    /// The control capsules that no packet took along are a message of their own.
    fn frame_control(&mut self, subprotocol: Subprotocol, role: Role) {
        if self.control.is_empty() {
            return;
        }
        let key = self.key(role);
        match subprotocol {
            Subprotocol::Binary => frame::append(Opcode::Binary, &self.control, key, &mut self.own),
            Subprotocol::Base64 => frame::append_base64(&self.control, key, &mut self.own),
        }
        self.control.clear();
        self.control.shrink_to(CONTROL_KEPT_BYTES);
    }

    /// The close frame, once it is the last: behind packets it is framed when they are written.
    fn frame_close(&mut self, role: Role) {
        let Some((code, reason)) = self.close.take_if(|_| self.framed.is_empty()) else { return };
        let key = self.key(role);
        frame::append_close(code, &reason, key, &mut self.own);
        // A packet for which there was no buffer may not follow.
        self.unframed.clear();
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
        let own = (!self.own.is_empty()).then_some(&self.own[..]);
        for (slice, bytes) in slices.iter_mut().zip(own.into_iter().chain(self.framed.iter().map(Buf::bytes))) {
            let skip = if count == 0 { self.written } else { 0 };
            *slice = IoSlice::new(&bytes[skip..]);
            count += 1;
        }
        let written = write(&slices[..count])?;
        self.take_off(written.bytes);
        Ok(written)
    }

    fn take_off(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written < self.own.len() {
            return;
        }
        self.written -= self.own.len();
        self.own.clear();
        self.own.shrink_to(OWN_KEPT_BYTES);
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
