//! One budget for the memory of a whole gateway, drawn from by everything that grows with what comes in.
//!
//! Who wants memory asks first, and what is held is never more than the limit, not even for a moment between two
//! threads. Each part may grow only while the sum is below its ceiling, so that under pressure newcomers go without
//! before those who are in do.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is there from the start: tables, the stages' queues, the readers' areas.
    Fixed,
    /// Tethers, with what the stages know of each.
    Tethers,
    /// NAT mappings.
    Mappings,
    /// Packet buffers, the spare ones included.
    Buffers,
    /// Links, with their sockets' state.
    Links,
    /// Messages of which only a part has come.
    Messages,
}

impl Part {
    /// Every part, in the order of their indices.
    pub const ALL: [Self; 6] = [Self::Fixed, Self::Tethers, Self::Mappings, Self::Buffers, Self::Links, Self::Messages];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Tethers => "tethers",
            Self::Mappings => "mappings",
            Self::Buffers => "buffers",
            Self::Links => "links",
            Self::Messages => "messages",
        }
    }

    /// Up to which percentage of the limit the sum may rise by this part's growth. Whoever serves those who are in
    /// comes after whoever brings more: a tether resumes where none is opened, a live mapping's packets pass where none
    /// is made, and half a message is finished where packets find no buffer (losing it would end a link).
    const fn ceiling_percent(self) -> u64 {
        match self {
            Self::Fixed => 60,
            Self::Tethers => 80,
            Self::Mappings => 85,
            Self::Buffers | Self::Links => 95,
            Self::Messages => 100,
        }
    }

    /// The least limit of a budget under which this part may hold `bytes`, where no other holds any.
    pub const fn limit_for(self, bytes: u64) -> u64 {
        bytes.saturating_mul(100).div_ceil(self.ceiling_percent())
    }
}

/// Memory that is held but not needed, and can be given back at once.
pub trait Spare: Send + Sync {
    /// How much there is.
    fn spare_bytes(&self) -> u64;

    /// Gives at least `bytes` back, as far as there are as many.
    fn give_back(&self, bytes: u64);
}

/// The budget. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Budget(Arc<Books>);

struct Books {
    limit_bytes: u64,
    /// Whether parts have ceilings of their own.
    has_ceilings: bool,
    held_bytes: AtomicU64,
    held_by_part: [AtomicU64; Part::ALL.len()],
    refused: AtomicU64,
    spare: OnceLock<Weak<dyn Spare>>,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, limit) = (self.held_bytes(), self.limit_bytes());
        f.debug_struct("Budget").field("held_bytes", &held).field("limit_bytes", &limit).finish_non_exhaustive()
    }
}

impl Budget {
    /// A budget of `limit_bytes`, shared out over the parts of a gateway.
    pub fn new(limit_bytes: u64) -> Self {
        Self::of(limit_bytes, true)
    }

    /// A budget of `limit_bytes` all of which any part may hold.
    pub fn undivided(limit_bytes: u64) -> Self {
        Self::of(limit_bytes, false)
    }

    fn of(limit_bytes: u64, has_ceilings: bool) -> Self {
        Self(Arc::new(Books {
            limit_bytes,
            has_ceilings,
            held_bytes: AtomicU64::new(0),
            held_by_part: Default::default(),
            refused: AtomicU64::new(0),
            spare: OnceLock::new(),
        }))
    }

    /// From now on `spare` is asked to give memory back before anybody is refused.
    pub fn spares_from(&self, spare: Weak<dyn Spare>) {
        self.0.spare.get_or_init(|| spare);
    }

    /// The limit.
    pub fn limit_bytes(&self) -> u64 {
        self.0.limit_bytes
    }

    /// What all parts hold together.
    pub fn held_bytes(&self) -> u64 {
        self.0.held_bytes.load(Ordering::Relaxed)
    }

    /// What one part holds.
    pub fn held_by(&self, part: Part) -> u64 {
        self.0.held_by_part[part as usize].load(Ordering::Relaxed)
    }

    /// What is held and could not be given back at once.
    pub fn needed_bytes(&self) -> u64 {
        self.held_bytes().saturating_sub(self.spare().map_or(0, |spare| spare.spare_bytes()))
    }

    /// How much more this part may hold, where no other grows.
    pub fn room_for(&self, part: Part) -> u64 {
        let ceiling = if self.0.has_ceilings { part.ceiling_percent() } else { 100 };
        let most = u128::from(self.limit_bytes()) * u128::from(ceiling) / 100;
        (most as u64).saturating_sub(self.held_bytes())
    }

    /// How often somebody was refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// A share that holds nothing yet.
    pub fn share(&self, part: Part) -> Share {
        Share { budget: self.clone(), part, bytes: 0 }
    }

    /// Draws `bytes` for `part`; `false` where that would pass the part's ceiling, though all spare memory was given back.
    pub(crate) fn draw(&self, part: Part, bytes: u64) -> bool {
        let has_drawn = self.try_draw(part, bytes) || (self.make_room(part, bytes) && self.try_draw(part, bytes));
        if !has_drawn {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        has_drawn
    }

    /// Gives back what was drawn.
    pub(crate) fn give_back(&self, part: Part, bytes: u64) {
        self.0.held_by_part[part as usize].fetch_sub(bytes, Ordering::Relaxed);
        self.0.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The same of what is free: nothing is given back for it, and nobody refused.
    pub(crate) fn try_draw(&self, part: Part, bytes: u64) -> bool {
        let ceiling = self.ceiling_bytes(part);
        // No add that is taken back: two at the limit would refuse each other, and the sum would pass it meanwhile.
        let drawn = self.0.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|&sum| sum <= ceiling)
        });
        if drawn.is_ok() {
            self.0.held_by_part[part as usize].fetch_add(bytes, Ordering::Relaxed);
        }
        drawn.is_ok()
    }

    fn ceiling_bytes(&self, part: Part) -> u64 {
        let percent = if self.0.has_ceilings { part.ceiling_percent() } else { 100 };
        (u128::from(self.0.limit_bytes) * u128::from(percent) / 100) as u64
    }

    /// Has spare memory given back; `false` where there is not enough of it to be of use.
    fn make_room(&self, part: Part, bytes: u64) -> bool {
        let Some(spare) = self.spare() else { return false };
        let lacks = self.held_bytes().saturating_add(bytes).saturating_sub(self.ceiling_bytes(part));
        let helps = spare.spare_bytes() >= lacks;
        if helps {
            spare.give_back(lacks);
        }
        helps
    }

    fn spare(&self) -> Option<Arc<dyn Spare>> {
        self.0.spare.get()?.upgrade()
    }
}

/// What one owner holds of a budget. It is given back when the share is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    part: Part,
    bytes: u64,
}

impl Share {
    /// What it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Brings what it holds to `bytes`; `false` where the budget refuses, and then it holds what it held.
    #[must_use]
    pub fn set(&mut self, bytes: u64) -> bool {
        let allowed = match bytes.checked_sub(self.bytes) {
            Some(0) => true,
            Some(more) => self.budget.draw(self.part, more),
            None => {
                self.budget.give_back(self.part, self.bytes - bytes);
                true
            }
        };
        if allowed {
            self.bytes = bytes;
        }
        allowed
    }

    /// The same where what more it needs is free below the ceiling of `below`: nobody gives anything back for it, and nobody is
    /// refused.
    #[must_use]
    pub fn set_if_free(&mut self, bytes: u64, below: Part) -> bool {
        let Some(more @ 1..) = bytes.checked_sub(self.bytes) else { return self.set(bytes) };
        let is_free = self.budget.room_for(below) >= more && self.budget.try_draw(self.part, more);
        self.bytes += if is_free { more } else { 0 };
        is_free
    }

    /// Holds `bytes` more; `false` where the budget refuses.
    #[must_use]
    pub fn grow(&mut self, bytes: u64) -> bool {
        self.set(self.bytes.saturating_add(bytes))
    }

    /// Holds `bytes` less.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.give_back(self.part, bytes);
    }

    /// Holds nothing any more.
    pub fn clear(&mut self) {
        self.budget.give_back(self.part, std::mem::take(&mut self.bytes));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
