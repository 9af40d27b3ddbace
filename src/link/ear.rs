//! What is heard of a link that has no turn: acknowledgements and pings do not wait behind its own packets.
//!
//! All that is read here stays in the inbox, as it came, for the link's turn: packets, and whatever ends a link, are taken in
//! their order there. See docs/decisions/0004-credit.md.

use std::io;
use std::time::Instant;

use super::inbox::{Inbox, LITTLE_BYTES, TAIL_KEPT_BYTES};
use super::{Link, LinkError, locked};
use crate::budget::Part;
use crate::wire::frame::{Decoder, Step};

/// The most that is read before a link's turn: four of the least turns, so that little of it is moved about, and next to
/// nothing beside what ten thousand links may have in their sockets.
const HEARD_BYTES_MAX: usize = 16_384;

/// What became of listening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Messages that were heard.
    pub messages: usize,
    /// Pings, which wait for their answer to be written.
    pub pings: usize,
    /// Something was read, or the end: the link has to have a turn, since readiness will not tell of it again.
    pub has_read: bool,
}

/// How far the start of an inbox was heard.
#[derive(Debug)]
pub(super) struct Ear {
    /// None once there was something that it does not follow: the rest waits for the turn.
    decoder: Option<Decoder>,
    /// Bytes of the inbox's tail that were decoded here.
    bytes: usize,
    /// Messages and control frames among them.
    steps: usize,
}

impl Ear {
    /// Whether the next message or control frame of a turn was heard.
    pub(super) fn has_heard(&mut self) -> bool {
        let was_heard = self.steps > 0;
        self.steps = self.steps.saturating_sub(1);
        was_heard
    }

    /// What is left of it once so many bytes of the tail are done with.
    pub(super) fn without(self, bytes: usize) -> Option<Self> {
        let left = self.bytes.checked_sub(bytes).filter(|left| *left > 0)?;
        Some(Self { bytes: left, ..self })
    }

    /// Decodes `fresh`, what of the tail it has not heard, and counts the messages and pings of it.
    fn hear(
        &mut self,
        fresh: &mut [u8],
        heard: &mut Heard,
        mut message: impl FnMut(&[u8]) -> bool,
        mut ping: impl FnMut(&[u8]),
    ) {
        let Some(decoder) = &mut self.decoder else { return };
        let mut done = 0;
        let follows = loop {
            done += match decoder.next(&mut fresh[done..]) {
                Ok(Step::Need(consumed)) => {
                    done += consumed;
                    break !decoder.is_amid_message();
                }
                Ok(Step::Message { consumed, payload }) => {
                    if !message(payload) {
                        break false;
                    }
                    heard.messages += 1;
                    consumed
                }
                Ok(Step::Ping { consumed, payload }) => {
                    heard.pings += 1;
                    ping(payload);
                    consumed
                }
                Ok(Step::Pong { consumed, .. }) => consumed,
                // The end, in whatever way, comes when what is in front of it has been taken in.
                Ok(Step::Close { .. }) | Err(_) => break false,
            };
            self.steps += 1;
        };
        self.bytes += done;
        if !follows {
            self.decoder = None;
        }
    }
}

impl Inbox {
    /// Whether it can be heard before its turn: not in the middle of a message in fragments, nor of large ones, which
    /// would be copied for it, nor behind an error.
    fn can_be_heard(&self) -> bool {
        let is_between = self.decoder.as_ref().is_some_and(|decoder| !decoder.is_amid_message());
        is_between
            && !self.is_bulk
            && self.failed.is_none()
            && self.ear.as_ref().is_none_or(|ear| ear.decoder.is_some())
    }
}

impl Link {
    /// Reads what is there, gives each message to `each`, notes answers to pings, and leaves all of it for the link's turn. A
    /// message that `each` denies is not heard, nor is what comes behind it. Where somebody reads the link just now, nothing is
    /// done.
    pub fn listen(&self, now: Instant, buffer: &mut [u8], each: impl FnMut(&[u8]) -> bool) -> Heard {
        let mut heard = Heard::default();
        // One whose reader panicked is heard no more, either.
        let Ok(mut inbox) = self.inbox.try_lock() else { return heard };
        if !inbox.can_be_heard() {
            return heard;
        }
        heard.has_read = self.read_ahead(now, &mut inbox, buffer);
        let Inbox { decoder: Some(decoder), tail, ear, .. } = &mut *inbox else { return heard };
        let ear = ear.get_or_insert_with(|| Ear { decoder: Some(decoder.anew()), bytes: 0, steps: 0 });
        if let Some(fresh) = tail.get(ear.bytes..) {
            buffer[..fresh.len()].copy_from_slice(fresh);
            let answer = |ping: &[u8]| locked(&self.outbox).answer_ping(ping);
            ear.hear(&mut buffer[..fresh.len()], &mut heard, each, answer);
        }
        heard
    }

    /// Reads on into the tail, up to [`HEARD_BYTES_MAX`], where there is memory for that beside what packets need. Tells
    /// whether something was there.
    fn read_ahead(&self, now: Instant, inbox: &mut Inbox, buffer: &mut [u8]) -> bool {
        let Inbox { tail, memory, failed, .. } = inbox;
        let mut draw = |bytes: usize| {
            let held = bytes.saturating_sub(TAIL_KEPT_BYTES) as u64;
            // What is left for messages that are not whole keeps links alive, and this is none of them.
            memory.as_mut().is_none_or(|memory| memory.set_if_free(held, Part::Buffers))
        };
        if tail.len() >= HEARD_BYTES_MAX || !draw(tail.capacity().max(HEARD_BYTES_MAX)) {
            return false;
        }
        let before = tail.len();
        while let room @ 1.. = HEARD_BYTES_MAX.saturating_sub(tail.len()) {
            match self.transport.read(&mut buffer[..room]) {
                Ok(count @ 1..) => {
                    self.note_heard(now);
                    tail.reserve_exact(count);
                    tail.extend_from_slice(&buffer[..count]);
                    if count < LITTLE_BYTES.min(room) && self.transport.ends_reads_short() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                ended => {
                    *failed = Some(ended.map_or_else(LinkError::Socket, |_| LinkError::Ended));
                    break;
                }
            }
        }
        // Less than before is never refused.
        _ = draw(tail.capacity());
        tail.len() > before || failed.is_some()
    }
}

#[cfg(test)]
mod tests;
