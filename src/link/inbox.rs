//! What has come of a link and is not done with: read in large pieces into a thread's buffer while messages are small, and a
//! large message straight into the pooled buffer that its packet leaves in.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::ear::Ear;
use super::{Link, LinkError, locked};
use crate::budget::Share;
use crate::packet::{Buf, BufPool, COPIED_BYTES_MAX};
use crate::wire::frame::{self, Begun, Decoder, Step, Subprotocol};

/// Bytes that one system call reads of small messages: some hundreds of them.
const READ_BYTES: usize = 65_536;

/// Bytes that are read behind a large message: the next one's header, and some small ones in between. What of the next
/// large one is among them is copied.
const AHEAD_BYTES: usize = 4_096;

/// A read that brings less is of single packets, which are handed on at once: some acknowledgements, a ping.
pub(super) const LITTLE_BYTES: usize = 4_096;

/// Memory that an empty tail keeps: enough for a few small packets, little enough for 10,000 idle links.
pub(super) const TAIL_KEPT_BYTES: usize = 2_048;

/// Up to this part of the budget in use a large message waits for its rest in a pooled buffer, which is as large as it will
/// be; beyond it takes the memory of what has come of it.
const BUDGET_PART_FOR_PLACES: u64 = 2;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) decoder: Option<Decoder>,
    /// The start of a frame whose rest has not come.
    pub(super) tail: Vec<u8>,
    /// The same where the frame is a large message; there is one or the other.
    place: Option<Place>,
    /// How far the tail was heard before its turn.
    pub(super) ear: Option<Ear>,
    /// How reading ended behind the tail, where that was found before its turn.
    pub(super) failed: Option<LinkError>,
    /// The last messages were large.
    pub(super) is_bulk: bool,
    /// What tail and unfinished messages hold of a memory budget, where there is one.
    pub(super) memory: Option<Share>,
}

/// A large message where it is read to, its frame's header in front.
#[derive(Debug)]
struct Place {
    buf: Buf,
    begun: Begun,
}

impl Place {
    fn missing_bytes(&self) -> usize {
        self.begun.frame_bytes().saturating_sub(self.buf.len())
    }

    fn missing_mut(&mut self) -> &mut [u8] {
        let missing_bytes = self.missing_bytes();
        &mut self.buf.spare_mut()[..missing_bytes]
    }

    fn into_message(mut self) -> Buf {
        self.buf.strip(self.begun.header_bytes());
        self.begun.unmask(self.buf.bytes_mut());
        self.buf
    }
}

/// What comes out of a link.
#[derive(Debug)]
pub enum Event<'a> {
    /// A message.
    Message(Message<'a>),
    /// The peer closes.
    Close(Option<u16>),
}

/// A message, and whose its memory is.
#[derive(Debug)]
pub enum Message<'a> {
    /// In the reader's buffer.
    Lent(&'a [u8]),
    /// The same, where [`Link::listen`] has seen it before.
    Heard(&'a [u8]),
    /// A large one in a buffer of its own.
    Owned(Buf),
}

impl Message<'_> {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) | Self::Heard(bytes) => bytes,
            Self::Owned(buf) => buf.bytes(),
        }
    }
}

/// How a turn of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more is there; readiness tells when there is.
    Drained,
    /// The budget is used up and more may be there.
    More,
}

/// Where a turn reads to.
#[derive(Debug)]
pub struct Reader<'a> {
    /// A thread's, of [`read_buffer_bytes`].
    pub buffer: &'a mut [u8],
    /// Where large messages get buffers of their own; none where none are expected.
    pub pool: Option<&'a BufPool>,
    /// The most bytes of this turn.
    pub budget_bytes: usize,
    /// The most messages of this turn.
    pub messages_max: usize,
}

impl Inbox {
    /// Keeps `rest`, the bytes that are not done with, in `tail`'s memory. An empty tail gives its memory back, but for a
    /// little; what is held beyond that, by the decoder too, is drawn from the budget.
    fn keep(&mut self, mut tail: Vec<u8>, rest: &[u8]) -> Result<(), LinkError> {
        tail.clear();
        if rest.is_empty() {
            tail.shrink_to(TAIL_KEPT_BYTES);
        }
        let unfinished = self.decoder.as_ref().map_or(0, Decoder::held_bytes);
        let held = unfinished + tail.capacity().max(rest.len()).saturating_sub(TAIL_KEPT_BYTES);
        if self.memory.as_mut().is_some_and(|memory| !memory.set(held as u64)) {
            return Err(LinkError::NoMemory);
        }
        tail.reserve_exact(rest.len());
        tail.extend_from_slice(rest);
        self.tail = tail;
        Ok(())
    }

    /// Keeps `rest` in a place of its own where it is the start of a large message, and in the tail where it is not.
    fn keep_or_place(&mut self, pool: Option<&BufPool>, tail: Vec<u8>, rest: &[u8]) -> Result<(), LinkError> {
        self.place = self.decoder.as_ref().zip(pool).and_then(|(decoder, pool)| place(decoder, pool, rest));
        self.is_bulk |= self.place.is_some();
        self.keep(tail, if self.place.is_some() { &[] } else { rest })
    }

    /// Bytes of a large message whose rest has not come, its frame's header included.
    #[cfg(test)]
    pub(super) fn placed_bytes(&self) -> usize {
        self.place.as_ref().map_or(0, |place| place.buf.len())
    }

    /// Takes note of `count` more bytes in the place; the message, once it is whole.
    fn fill_place(&mut self, count: usize) -> Option<Buf> {
        self.place.as_mut()?.buf.advance(count);
        self.place.take_if(|place| place.missing_bytes() == 0).map(Place::into_message)
    }

    /// Has a message wait for its rest in no more memory than what has come of it, where memory is short.
    fn wait(&mut self, pool: &BufPool) -> Result<(), LinkError> {
        let is_short = || pool.budget().needed_bytes() > pool.budget().limit_bytes() / BUDGET_PART_FOR_PLACES;
        if let Some(place) = self.place.take_if(|_| is_short()) {
            let tail = std::mem::take(&mut self.tail);
            self.keep(tail, place.buf.bytes())?;
        }
        Ok(())
    }
}

/// A place for the large message that `rest` is the start of; none where it is not, or the pool has none.
fn place(decoder: &Decoder, pool: &BufPool, rest: &[u8]) -> Option<Place> {
    let begun = decoder.begun(rest).filter(|begun| begun.frame_bytes() > COPIED_BYTES_MAX)?;
    let mut buf = pool.take(begun.frame_bytes())?;
    buf.extend(rest);
    Some(Place { buf, begun })
}

impl Link {
    /// Reads what is there and gives each event to `each`. An error of `each` ends the turn and is returned; nothing comes of the
    /// link behind any error.
    ///
    /// # Errors
    /// [`LinkError`] where the link is at its end; what `each` returned otherwise.
    pub fn receive<E: From<LinkError>>(
        &self,
        now: Instant,
        reader: Reader<'_>,
        mut each: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<Turn, E> {
        let (mut inbox, pool) = (locked(&self.inbox), reader.pool);
        let turn = self.read(now, &mut inbox, reader, &mut each);
        let turn = turn.and_then(|turn| pool.map_or(Ok(turn), |pool| Ok(inbox.wait(pool).map(|()| turn)?)));
        if turn.is_err() {
            (inbox.decoder, inbox.ear) = (None, None);
        }
        turn
    }

    fn read<E: From<LinkError>>(
        &self,
        now: Instant,
        inbox: &mut Inbox,
        reader: Reader<'_>,
        each: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<Turn, E> {
        let Reader { buffer, pool, budget_bytes, messages_max: mut messages_left } = reader;
        let mut read_bytes = 0;
        // What an earlier turn left behind is handled before anything is read.
        if !inbox.tail.is_empty() {
            // In place: a handshake that stopped within a large read may have left more than this buffer takes.
            let mut tail = std::mem::take(&mut inbox.tail);
            read_bytes = self.decode(inbox, &mut tail, budget_bytes, &mut messages_left, each)?;
            inbox.ear = inbox.ear.take().and_then(|ear| ear.without(read_bytes));
            let rest = tail.split_off(read_bytes);
            inbox.keep_or_place(pool, tail, &rest)?;
        }
        while read_bytes < budget_bytes && messages_left > 0 {
            if let Some(error) = inbox.failed.take() {
                return Err(error.into());
            }
            let (start, place_bytes) = (inbox.tail.len(), inbox.place.as_ref().map_or(0, Place::missing_bytes));
            buffer[..start].copy_from_slice(&inbox.tail);
            // As much as waits for its rest at least: the tail is copied for each read.
            let asked_bytes = READ_BYTES.min((budget_bytes - read_bytes).max(start));
            let ahead_bytes = if inbox.is_bulk { AHEAD_BYTES } else { asked_bytes };
            let end = buffer.len().min(start + ahead_bytes);
            let place = inbox.place.as_mut().map_or(&mut [][..], Place::missing_mut);
            let count = match self.transport.read_both(place, &mut buffer[start..end]) {
                Ok(0) => return Err(LinkError::Ended.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Drained),
                Err(error) => return Err(LinkError::Socket(error).into()),
            };
            self.note_heard(now);
            read_bytes += count;
            if let Some(message) = inbox.fill_place(count.min(place_bytes)) {
                messages_left -= 1;
                each(Event::Message(Message::Owned(message)))?;
            }
            if count > place_bytes {
                let bytes = &mut buffer[..start + count - place_bytes];
                let done = self.decode(inbox, bytes, usize::MAX, &mut messages_left, each)?;
                let tail = std::mem::take(&mut inbox.tail);
                inbox.is_bulk &= bytes.len() < end;
                inbox.keep_or_place(pool, tail, &bytes[done..])?;
            }
            // To read again would tell no more: readiness is told of what comes after this (epoll(7), question 9). Behind
            // much there is more by now, and it is worth more in one batch.
            let is_short = count < LITTLE_BYTES.min(place_bytes + end - start);
            let is_drained = is_short && self.transport.ends_reads_short();
            if is_drained && messages_left > 0 && !self.peer_ends.load(Ordering::Acquire) {
                return Ok(Turn::Drained);
            }
        }
        Ok(Turn::More)
    }

    /// Decodes `bytes`, up to the message that reaches `bytes_max`; tells how many of them are done with. The rest is not whole,
    /// or too much for this turn.
    fn decode<E: From<LinkError>>(
        &self,
        inbox: &mut Inbox,
        bytes: &mut [u8],
        bytes_max: usize,
        messages_left: &mut usize,
        each: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let Inbox { decoder: Some(decoder), ear, .. } = inbox else { return Ok(bytes.len()) };
        let mut done = 0;
        while *messages_left > 0 && done < bytes_max {
            let step = decoder.next(&mut bytes[done..]).map_err(LinkError::Frame)?;
            let is_whole = !matches!(step, Step::Need(_));
            let was_heard = is_whole && ear.as_mut().is_some_and(Ear::has_heard);
            done += match step {
                Step::Need(consumed) => {
                    done += consumed;
                    break;
                }
                Step::Message { consumed, payload } => {
                    *messages_left -= 1;
                    each(Event::Message(if was_heard { Message::Heard(payload) } else { Message::Lent(payload) }))?;
                    consumed
                }
                Step::Ping { consumed, payload } => {
                    if !was_heard {
                        locked(&self.outbox).answer_ping(payload);
                    }
                    consumed
                }
                Step::Pong { consumed, .. } => consumed,
                Step::Close { consumed, code, .. } => {
                    each(Event::Close(code))?;
                    consumed
                }
            };
        }
        Ok(done)
    }

    /// The peer was heard.
    pub(super) fn note_heard(&self, now: Instant) {
        self.heard_ms.store(now.saturating_duration_since(self.born).as_millis() as u64, Ordering::Relaxed);
    }
}

/// Bytes that a thread's read buffer has for messages of up to `message_bytes_max`: a whole frame and as much again, so
/// that reads stay large while a frame's start waits for its rest.
pub fn read_buffer_bytes(message_bytes_max: usize) -> usize {
    2 * (Subprotocol::Base64.payload_len(message_bytes_max) + frame::HEADER_BYTES_MAX).max(READ_BYTES)
}
