//! Acknowledgements of what a link received: at once for much, soon for little, and with packets where there are any.

use std::io;
use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Link, Outbox};
use crate::packet::BufPool;

/// Received bytes that are acknowledged without waiting for a message to ride on or for [`ACK_DELAY_MS`]: more than one
/// super-packet, so that not each of them is answered, and half of the smallest window that can be configured, so that
/// who waits for a window has the other half under way.
pub const ACK_EVERY_BYTES: u64 = 65_536;

/// The shortest time between two such acknowledgements, in microseconds: at 10 Gbit/s each super-packet would be answered,
/// and an answer wakes the peer. A window holds 20 ms, so it does not notice;
pub(super) const ACK_PAUSE_US: u64 = 500;

/// but a credit may be small: when this part of it was used there is no pause.
pub(super) const ACK_CREDIT_PART: u64 = 4;

/// How long an acknowledgement may wait for a message to ride on, in milliseconds. What was sent meanwhile has to be let
/// out ahead of it, so that a longer delay would be a longer queue; a shorter one costs more than 500 acknowledgements a
/// second on a fast link.
pub const ACK_DELAY_MS: u64 = 2;

/// Received bytes below which an acknowledgement waits for [`ACK_TURNS_MAX`] of these delays: alone, in a message, frame
/// and segment of its own, it would be as long as what it is about, and take of what the link has for the other direction.
pub const ACK_SMALL_BYTES: u64 = crate::window::PACKET_BYTES;

/// How often the delay of an acknowledgement of little begins anew: 10 ms in all, which is what a window lets wait anyway.
pub const ACK_TURNS_MAX: u32 = 5;

impl Link {
    /// Received bytes that the peer has not been told of.
    pub fn unacknowledged_bytes(&self) -> u64 {
        self.received_bytes().saturating_sub(self.counts.received_told.load(Ordering::Relaxed))
    }

    /// Whether so much was received, of a credit where there is one, that it is to be acknowledged at once.
    pub fn owes_ack_now(&self, now: Instant, credit: Option<u64>) -> bool {
        let bytes = self.unacknowledged_bytes();
        let has_paused = || self.micros(now) >= self.ack_from_us.load(Ordering::Relaxed);
        let is_much = || credit.is_some_and(|credit| bytes >= credit / ACK_CREDIT_PART);
        bytes >= ACK_EVERY_BYTES && (has_paused() || is_much())
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_micros() as u64
    }

    /// Marks that a later acknowledgement was scheduled; `false` where one was already.
    pub fn schedule_ack(&self) -> bool {
        !self.ack_is_scheduled.swap(true, Ordering::AcqRel)
    }

    /// Whether an acknowledgement is scheduled that goes with the next packets or when its time has come, and not before.
    pub fn ack_waits(&self) -> bool {
        self.ack_is_scheduled.load(Ordering::Acquire) && self.unacknowledged_bytes() < ACK_EVERY_BYTES
    }

    /// The time of the scheduled acknowledgement has come; whether it is to be sent. One of little that is not `urgent`
    /// waits for another turn, and stays scheduled.
    #[must_use]
    pub fn ack_is_due(&self, urgent: bool) -> bool {
        let turns = self.ack_turns.fetch_add(1, Ordering::Relaxed) + 1;
        let is_little = (1..ACK_SMALL_BYTES).contains(&self.unacknowledged_bytes());
        if is_little && !urgent && turns < ACK_TURNS_MAX {
            return false;
        }
        self.ack_turns.store(0, Ordering::Relaxed);
        // A swap and no store: what was received before somebody found it scheduled is seen by who looks after this.
        self.ack_is_scheduled.swap(false, Ordering::AcqRel);
        true
    }

    /// Marks that it is come back to for the credit that it owes; `false` where it is already.
    pub fn puts_off_credit(&self) -> bool {
        !self.credit_is_put_off.swap(true, Ordering::AcqRel)
    }

    /// It has been come back to.
    pub fn takes_up_credit(&self) {
        self.credit_is_put_off.store(false, Ordering::Release);
    }

    /// Has the peer told of the acknowledgement, and of the credit where this end grants any, where they say something new.
    /// They leave with the next flush that finds room in the socket, and need no buffer for it.
    pub fn tell_received(&self, now: Instant, outbox: &mut Outbox, granted: Option<u64>) {
        let received = self.received_bytes();
        self.ack_from_us.store(self.micros(now) + ACK_PAUSE_US, Ordering::Relaxed);
        if self.counts.received_told.swap(received, Ordering::Relaxed) < received {
            outbox.acknowledge(received);
        }
        if let Some(granted) = granted
            && self.counts.credit_told.fetch_max(granted, Ordering::Relaxed) < granted
        {
            outbox.grant(granted);
        }
    }

    /// Does so at once, where nobody else is writing and nothing waits for the socket; `false` where somebody is.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn try_tell_received(&self, now: Instant, granted: Option<u64>, pool: &BufPool) -> io::Result<bool> {
        let mut outbox = match self.outbox.try_lock() {
            Ok(outbox) => outbox,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        if self.is_blocked() || !outbox.is_empty() {
            return Ok(false);
        }
        self.tell_received(now, &mut outbox, granted);
        self.flush(&mut outbox, pool).map(|_blocked| true)
    }
}
