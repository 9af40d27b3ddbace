//! What is heard of a link that has no turn: acknowledgements and pings do not wait behind its own packets.
//!
//! All that is read here stays in the inbox, as it came, for the link's turn: packets, and whatever ends a link, are taken in
//! their order there. See docs/decisions/0004-credit.md.

use std::io;
use std::sync::TryLockError;
use std::time::Instant;

use super::inbox::{Inbox, LITTLE_BYTES, TAIL_KEPT_BYTES};
use super::{Link, locked};
use crate::wire::frame::{Decoder, Step};

/// The most that is read before a link's turn: four of the least turns, so that little of it is moved about, and next to
/// nothing beside what ten thousand links may have in their sockets.
const HEARD_BYTES_MAX: usize = 16_384;

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

    /// Decodes `fresh`, what of the tail it has not heard; tells how many messages and pings it found.
    fn hear(&mut self, fresh: &mut [u8], mut message: impl FnMut(&[u8]) -> bool, mut ping: impl FnMut(&[u8])) -> usize {
        let Some(decoder) = &mut self.decoder else { return 0 };
        let (mut done, mut heard) = (0, 0);
        let follows = loop {
            done += match decoder.next(&mut fresh[done..]) {
                Ok(Step::Need(consumed)) => {
                    done += consumed;
                    break decoder.held_bytes() == 0;
                }
                Ok(Step::Message { consumed, payload }) => {
                    if !message(payload) {
                        break false;
                    }
                    heard += 1;
                    consumed
                }
                Ok(Step::Ping { consumed, payload }) => {
                    heard += 1;
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
        heard
    }
}

impl Inbox {
    /// Whether it can be heard before its turn: not in the middle of a message in fragments, nor of large ones, which
    /// would be copied for it.
    fn can_be_heard(&self) -> bool {
        let is_amid_fragments = self.decoder.as_ref().is_none_or(|decoder| decoder.held_bytes() > 0);
        !self.is_bulk && !is_amid_fragments && self.ear.as_ref().is_none_or(|ear| ear.decoder.is_some())
    }
}

impl Link {
    /// Reads what is there, gives each message to `each`, answers pings, and leaves all of it for the link's turn. A message
    /// that `each` denies is not heard, nor is what comes behind it. Where somebody reads the link just now, nothing is done.
    /// Tells how many messages and pings it heard.
    pub fn listen(&self, now: Instant, buffer: &mut [u8], each: impl FnMut(&[u8]) -> bool) -> usize {
        let mut inbox = match self.inbox.try_lock() {
            Ok(inbox) => inbox,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return 0,
        };
        if !inbox.can_be_heard() {
            return 0;
        }
        self.read_ahead(now, &mut inbox, buffer);
        let Inbox { decoder: Some(decoder), tail, ear, .. } = &mut *inbox else { return 0 };
        let ear = ear.get_or_insert_with(|| Ear { decoder: Some(decoder.anew()), bytes: 0, steps: 0 });
        let fresh = &tail[ear.bytes..];
        buffer[..fresh.len()].copy_from_slice(fresh);
        ear.hear(&mut buffer[..fresh.len()], each, |ping| locked(&self.outbox).answer_ping(ping))
    }

    /// Reads on into the tail, up to [`HEARD_BYTES_MAX`], where there is memory for that.
    fn read_ahead(&self, now: Instant, inbox: &mut Inbox, buffer: &mut [u8]) {
        let Inbox { tail, memory, .. } = inbox;
        let mut draw = |bytes: usize| {
            let held = bytes.saturating_sub(TAIL_KEPT_BYTES) as u64;
            memory.as_mut().is_none_or(|memory| memory.set(held))
        };
        if tail.len() >= HEARD_BYTES_MAX || !draw(tail.capacity().max(HEARD_BYTES_MAX)) {
            return;
        }
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
                // The end is told once, and found again in the turn.
                Ok(_) | Err(_) => {
                    self.peer_ends();
                    break;
                }
            }
        }
        // Less than before is never refused.
        _ = draw(tail.capacity());
    }
}

#[cfg(test)]
mod tests;
