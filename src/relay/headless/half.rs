//! One of the two WebSockets: what was read and is not yet a message, and what waits to be written.

use std::io::{self, IoSlice};
use std::time::Instant;

use crate::dial::{Dialled, wait};
use crate::transport::Transport;
use crate::wire::frame::{self, Decoder, FrameError, HEADER_BYTES_MAX, Keys, Opcode, Role, Step, Subprotocol};

/// The longest message that is passed on, in bytes before base64: four times what a gateway takes by default.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Waiting bytes from which on no further message is taken for a half: the other half is then left unread, and TCP
/// holds its sender back. Above what the window of acknowledgements lets come, so that acknowledgements and pings get
/// through.
const FULL_BYTES: usize = 1 << 20;

/// The most that ever waits for a half: one message above what makes it full, and a few control frames.
pub const PENDING_BYTES_MAX: usize =
    FULL_BYTES + HEADER_BYTES_MAX + Subprotocol::Base64.payload_len(MESSAGE_BYTES_MAX) + 4 * CONTROL_FRAME_BYTES_MAX;

/// A control frame.
const CONTROL_FRAME_BYTES_MAX: usize = HEADER_BYTES_MAX + frame::CONTROL_BYTES_MAX;

/// The read buffer. Larger reads cost cache misses, smaller ones system calls. It grows for a message that needs more.
const READ_BYTES: usize = 256 * 1024;

/// From here on a message is written from where it was read. A shorter one is copied to those that wait, so that they
/// share a system call.
const IN_PLACE_BYTES_MIN: usize = 16 * 1024;

/// Room below which what is left is first moved to the buffer's front.
const READ_BYTES_MIN: usize = 64 * 1024;

/// One WebSocket, of which we are the client.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) transport: Transport,
    subprotocol: Subprotocol,
    decoder: Decoder,
    /// What was read: `input[start..end]` is not yet decoded.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Whole frames, written up to `written`.
    output: Vec<u8>,
    written: usize,
    /// The answer to the peer's newest ping: older ones need none (RFC 6455, 5.5.3).
    pong: Option<Vec<u8>>,
    keys: Keys,
    readable: bool,
    writable: bool,
    /// TLS holds bytes that the socket has not taken.
    is_behind: bool,
    /// The peer has said its last word.
    is_closed: bool,
    /// We have said ours.
    is_finished: bool,
    /// When the peer last sent anything.
    pub(super) heard: Instant,
    /// When it was last asked for a sign of life.
    pub(super) asked: Instant,
    /// The most that ever waited.
    pub(super) pending_bytes_max: usize,
}

/// What the front of the unread bytes was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// A message of so many bytes.
    Message(usize),
    /// A ping or a pong.
    Control,
    /// Nothing whole.
    Nothing,
    /// The peer's last frame.
    Close(Option<u16>, String),
}

impl Half {
    pub(super) fn new(dialled: Dialled, now: Instant) -> Self {
        let Dialled { transport, subprotocol, rest } = dialled;
        let mut input = vec![0; READ_BYTES.max(rest.len())];
        input[..rest.len()].copy_from_slice(&rest);
        Self {
            transport,
            subprotocol,
            decoder: Decoder::new(Role::Client, subprotocol, MESSAGE_BYTES_MAX),
            input,
            start: 0,
            end: rest.len(),
            output: Vec::new(),
            written: 0,
            pong: None,
            keys: Keys::default(),
            // TLS may hold decrypted bytes of which no event tells.
            readable: true,
            writable: true,
            is_behind: false,
            is_closed: false,
            is_finished: false,
            heard: now,
            asked: now,
            pending_bytes_max: 0,
        }
    }

    /// Takes in what an event tells.
    pub(super) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Whether another message may be put in.
    pub(super) fn has_room(&self) -> bool {
        self.pending_bytes() < FULL_BYTES
    }

    fn pending_bytes(&self) -> usize {
        self.output.len() - self.written
    }

    /// Passes the next message on to the other half.
    ///
    /// # Errors
    /// The rule that the peer broke.
    pub(super) fn pass_on(&mut self, to: &mut Self) -> Result<Passed, FrameError> {
        let (consumed, passed) = match self.decoder.next(&mut self.input[self.start..self.end])? {
            Step::Need(consumed) => (consumed, Passed::Nothing),
            Step::Message { consumed, payload } => {
                to.send(payload);
                (consumed, Passed::Message(payload.len()))
            }
            Step::Ping { consumed, payload } => {
                self.pong = Some(payload.to_vec());
                (consumed, Passed::Control)
            }
            Step::Pong { consumed, .. } => (consumed, Passed::Control),
            Step::Close { consumed, code, reason } => {
                self.is_closed = true;
                (consumed, Passed::Close(code, reason.to_owned()))
            }
        };
        self.start += consumed;
        Ok(passed)
    }

    fn send(&mut self, message: &mut [u8]) {
        let key = self.keys.next();
        match self.subprotocol {
            Subprotocol::Binary if message.len() >= IN_PLACE_BYTES_MIN && self.writable && !self.is_behind => {
                self.send_in_place(message, key);
            }
            Subprotocol::Binary => frame::append(Opcode::Binary, message, Some(key), &mut self.output),
            Subprotocol::Base64 => frame::append_base64(message, Some(key), &mut self.output),
        }
        self.pending_bytes_max = self.pending_bytes_max.max(self.pending_bytes());
    }

    /// Masks a message where it was read, and writes it from there behind what waits. Only what the socket does not take
    /// is copied.
    fn send_in_place(&mut self, message: &mut [u8], key: [u8; 4]) {
        let header = frame::header(Opcode::Binary, message.len(), Some(key));
        frame::mask(message, key, 0);
        let waiting = &self.output[self.written..];
        let slices = [IoSlice::new(waiting), IoSlice::new(&header), IoSlice::new(message)];
        let waiting_bytes = waiting.len();
        // An error is found again by the flush that follows.
        let mut taken = self.transport.write(&slices).map_or(0, |written| {
            self.writable = !written.blocked;
            self.is_behind = written.blocked;
            written.bytes
        });
        for part in [&header[..], message] {
            let skip = taken.saturating_sub(waiting_bytes).min(part.len());
            self.output.extend_from_slice(&part[skip..]);
            taken -= skip;
        }
        self.written += taken;
    }

    /// Asks the peer for a sign of life.
    pub(super) fn ping(&mut self, now: Instant) {
        self.asked = now;
        if self.has_room() {
            frame::append(Opcode::Ping, &[], Some(self.keys.next()), &mut self.output);
        }
    }

    /// Puts the last frame behind all that waits.
    pub(super) fn close(&mut self, code: u16, reason: &str) {
        frame::append_close(code, reason, Some(self.keys.next()), &mut self.output);
    }

    /// Reads what there is room for, and tells how much that was.
    ///
    /// # Errors
    /// Those of the socket; `UnexpectedEof` at its end.
    pub(super) fn read(&mut self, now: Instant) -> io::Result<usize> {
        self.make_room();
        let before = self.end;
        while self.readable && self.end < self.input.len() {
            match self.transport.read(&mut self.input[self.end..]) {
                Ok(0) if self.end == before => return Err(io::ErrorKind::UnexpectedEof.into()),
                // The end is told again once what came before it is passed on.
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error),
            }
        }
        if self.end > before {
            self.heard = now;
        }
        Ok(self.end - before)
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.input.len() - self.end < READ_BYTES_MIN {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        } else if self.end == self.input.len() {
            // One frame fills it. The decoder has judged its length, so this ends at the longest frame.
            self.input.resize(self.input.len() * 2, 0);
        }
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.has_room()
            && let Some(payload) = self.pong.take()
        {
            frame::append(Opcode::Pong, &payload, Some(self.keys.next()), &mut self.output);
        }
        while self.writable && (self.pending_bytes() > 0 || self.is_behind) {
            let written = self.transport.write(&[IoSlice::new(&self.output[self.written..])])?;
            self.written += written.bytes;
            self.writable = !written.blocked;
            self.is_behind = written.blocked;
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        } else if self.written > self.output.len() / 2 {
            self.output.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// After [`Half::close`]: writes what waits, until the peer has said its last word, too. To hang up with something
    /// unread would reset the connection, and the last frames would be lost.
    pub(super) fn linger(&mut self, deadline: Instant) {
        while self.flush().is_ok() {
            let is_written = self.pending_bytes() == 0 && !self.is_behind;
            if is_written && !self.is_finished {
                self.transport.finish();
                self.is_finished = true;
            }
            let is_over = self.discard() && is_written;
            if is_over || !matches!(wait(&self.transport, !self.is_closed, !is_written, deadline), Ok(true)) {
                return;
            }
            self.ready(true, true);
        }
    }

    /// Reads and discards what the peer still sends; tells whether nothing more comes.
    fn discard(&mut self) -> bool {
        while !self.is_closed {
            match self.decoder.next(&mut self.input[self.start..self.end]) {
                Ok(Step::Close { .. }) | Err(_) => self.is_closed = true,
                Ok(Step::Message { consumed, .. } | Step::Ping { consumed, .. } | Step::Pong { consumed, .. }) => {
                    self.start += consumed;
                }
                Ok(Step::Need(consumed)) => {
                    self.start += consumed;
                    match self.read(Instant::now()) {
                        Ok(1..) => {}
                        Ok(0) => return false,
                        Err(_) => self.is_closed = true,
                    }
                }
            }
        }
        true
    }
}
