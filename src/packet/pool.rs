//! The bounded pool that the buffers of packets come from and go back to.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crossbeam::queue::ArrayQueue;

use super::PACKET_BYTES_MAX;
use super::buf::{Buf, HEADROOM_BYTES};
use crate::budget::{Budget, Part, Spare};

/// Capacities of the buffer classes. The smallest takes what interactive traffic and acknowledgements are made of, so
/// that a flood of tiny packets holds a few times its bytes and not thirty times; then an Ethernet-sized packet with its
/// headroom, a jumbo frame or a few merged segments, and any IP packet. Few classes keep the pools warm; a small packet
/// never pins a large buffer.
pub(super) const CLASS_BYTES: [usize; 4] = [256, 2_048, 16_384, PACKET_BYTES_MAX + 1 + 2 * HEADROOM_BYTES];

/// Packets up to this fit into the smallest class: they are copied out of the buffer that any packet may be read to. That is a
/// cache line or three, and the buffer that was read to stays in its place, and in a cache.
pub const TINY_BYTES_MAX: usize = CLASS_BYTES[0] - HEADROOM_BYTES;

/// Packets up to this are copied out of the large buffer that they were read to, into one of their size: shorter ones would
/// pin several times their bytes.
pub const COPIED_BYTES_MAX: usize = CLASS_BYTES[2] - HEADROOM_BYTES;

/// Spare buffers may hold the limit divided by this; the rest goes back to the allocator, for other parts to have.
const SPARE_DIVISOR: u64 = 4;

/// The most spare buffers of a class: the list of them is made at the start. More than are in use at once on a fast
/// machine would never be reached for.
const SPARES_MAX: u64 = 8_192;

/// Spare buffers of the first ring of a class hold so many bytes, and those of each further one [`RING_FACTOR`] times as
/// many. The first that has one is taken from, the first that has room given back to: so hardly more buffers take turns
/// than are in use at once, and a packet is read into memory that a core's cache still holds (docs/decisions/0023-caches.md).
const FIRST_RING_BYTES: usize = 131_072;
const RING_FACTOR: usize = 4;

/// A bounded pool of packet buffers, shared by all threads. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct BufPool(Arc<Pool>);

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("held_bytes", &self.held_bytes())
            .field("limit_bytes", &self.limit_bytes())
            .finish()
    }
}

impl BufPool {
    /// A pool with a budget of its own: its buffers, in use and spare, never hold more than `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self::drawing_on(&Budget::undivided(limit_bytes))
    }

    /// A pool whose buffers are on the books of `budget`, which gets spare ones back when it needs them.
    pub fn drawing_on(budget: &Budget) -> Self {
        let spares = |bytes: usize| {
            let spare = budget.limit_bytes() / SPARE_DIVISOR / CLASS_BYTES.len() as u64 / bytes as u64;
            Spares::new(spare.clamp(1, SPARES_MAX) as usize, bytes)
        };
        let pool = Arc::new(Pool {
            spare: CLASS_BYTES.map(spares),
            in_use_bytes: AtomicU64::new(0),
            allocated_bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            budget: budget.clone(),
        });
        let as_spare: Weak<Pool> = Arc::downgrade(&pool);
        budget.spares_from(as_spare);
        Self(pool)
    }

    /// An empty buffer with [`HEADROOM_BYTES`] in front and room for `len` bytes; `None` when the budget is used up or no
    /// buffer is as large.
    pub fn take(&self, len: usize) -> Option<Buf> {
        let pool = &*self.0;
        let class = class_of(len)?;
        let Some(data) = pool.spare[class].take().or_else(|| pool.allocate(class)) else {
            pool.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(self.hand_out(class, data))
    }

    fn hand_out(&self, class: usize, data: Box<[u8]>) -> Buf {
        self.0.in_use_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        Buf::new(data, class, Self(Arc::clone(&self.0)))
    }

    /// Takes back the memory of a buffer of `class`.
    pub(super) fn take_back(&self, class: usize, data: Box<[u8]>) {
        let pool = &*self.0;
        pool.in_use_bytes.fetch_sub(data.len() as u64, Ordering::Relaxed);
        // A full list of spares means that this one is surplus: it goes back to the allocator.
        if let Err(surplus) = pool.spare[class].put(data) {
            pool.free(surplus);
        }
    }

    /// A copy of `bytes` where memory for it is at hand: who can do without one is not refused, and takes nothing from others.
    pub fn copy_if_at_hand(&self, bytes: &[u8]) -> Option<Buf> {
        let pool = &*self.0;
        let class = class_of(bytes.len())?;
        let data = pool.spare[class].take().or_else(|| pool.allocate_if_at_hand(class))?;
        let mut buf = self.hand_out(class, data);
        buf.extend(bytes);
        Some(buf)
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy(&self, bytes: &[u8]) -> Option<Buf> {
        let mut buf = self.take(bytes.len())?;
        buf.extend(bytes);
        Some(buf)
    }

    /// Gives those spare buffers back to the allocator that were of no use since this was called before, and tells how many
    /// bytes that was. What a burst needed is not kept for the next one.
    pub fn trim(&self) -> u64 {
        let (pool, mut freed_bytes) = (&*self.0, 0);
        for spares in &pool.spare {
            spares.take_useless(&mut |data| {
                freed_bytes += data.len() as u64;
                pool.free(data);
            });
        }
        freed_bytes
    }

    /// Memory held by buffers in use, in bytes.
    pub fn held_bytes(&self) -> u64 {
        self.0.in_use_bytes.load(Ordering::Relaxed)
    }

    /// Memory of the budget, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.0.budget.limit_bytes()
    }

    /// The budget that it draws on.
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// How often a buffer was refused because the budget was used up.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// The class of buffers for so many bytes behind their headroom.
fn class_of(len: usize) -> Option<usize> {
    CLASS_BYTES.iter().position(|&bytes| HEADROOM_BYTES + len <= bytes)
}

struct Pool {
    /// Spare buffers, class by class.
    spare: [Spares; CLASS_BYTES.len()],
    /// Memory of the buffers in use. What the budget has on its books beyond it is spare.
    in_use_bytes: AtomicU64,
    allocated_bytes: AtomicU64,
    refused: AtomicU64,
    budget: Budget,
}

impl Pool {
    fn allocate(&self, class: usize) -> Option<Box<[u8]>> {
        self.budget.draw(Part::Buffers, CLASS_BYTES[class] as u64).then(|| self.allocate_drawn(class))
    }

    fn allocate_if_at_hand(&self, class: usize) -> Option<Box<[u8]>> {
        self.budget.try_draw(Part::Buffers, CLASS_BYTES[class] as u64).then(|| self.allocate_drawn(class))
    }

    fn allocate_drawn(&self, class: usize) -> Box<[u8]> {
        let bytes = CLASS_BYTES[class];
        self.allocated_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        vec![0; bytes].into_boxed_slice()
    }

    fn free(&self, data: Box<[u8]>) {
        let bytes = data.len() as u64;
        // Freed first: what is on the books is never less than what is held.
        drop(data);
        self.allocated_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.give_back(Part::Buffers, bytes);
    }
}

impl Spare for Pool {
    fn spare_bytes(&self) -> u64 {
        let allocated = self.allocated_bytes.load(Ordering::Relaxed);
        allocated.saturating_sub(self.in_use_bytes.load(Ordering::Relaxed))
    }

    fn give_back(&self, bytes: u64) {
        let mut freed_bytes = 0;
        // The largest first, since they bring the most for an allocation lost.
        for spare in self.spare.iter().rev() {
            while freed_bytes < bytes {
                let Some(data) = spare.take_cold() else { break };
                freed_bytes += data.len() as u64;
                self.free(data);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.budget.give_back(Part::Buffers, self.allocated_bytes.load(Ordering::Relaxed));
    }
}

/// The spare buffers of a class: rings, each larger than the one before.
struct Spares(Vec<Ring>);

impl Spares {
    /// Room for `count` buffers of `bytes` each.
    fn new(count: usize, bytes: usize) -> Self {
        let (mut rings, mut left, mut next) = (Vec::new(), count, (FIRST_RING_BYTES / bytes).max(1));
        while left > 0 {
            let ring = next.min(left);
            rings.push(Ring { buffers: ArrayQueue::new(ring), is_of_use: AtomicBool::new(false) });
            (left, next) = (left - ring, next * RING_FACTOR);
        }
        Self(rings)
    }

    fn take(&self) -> Option<Box<[u8]>> {
        self.0.iter().find_map(Ring::take)
    }

    /// Takes those out that were of no use since this was asked before. The first ring stays: it fits into a cache.
    fn take_useless(&self, free: &mut impl FnMut(Box<[u8]>)) {
        for ring in self.0.iter().skip(1).filter(|ring| !ring.is_of_use.swap(false, Ordering::Relaxed)) {
            // No more than there is room for, however many come back meanwhile.
            (0..ring.buffers.capacity()).map_while(|_| ring.buffers.pop()).for_each(&mut *free);
        }
    }

    /// One that was out of use for long.
    fn take_cold(&self) -> Option<Box<[u8]>> {
        self.0.iter().rev().find_map(|ring| ring.buffers.pop())
    }

    /// Gives back what finds no room.
    fn put(&self, mut data: Box<[u8]>) -> Result<(), Box<[u8]>> {
        for ring in &self.0 {
            match ring.buffers.push(data) {
                Ok(()) => return Ok(()),
                Err(back) => data = back,
            }
        }
        Err(data)
    }
}

struct Ring {
    buffers: ArrayQueue<Box<[u8]>>,
    /// One was taken since somebody asked.
    is_of_use: AtomicBool,
}

impl Ring {
    fn take(&self) -> Option<Box<[u8]>> {
        let data = self.buffers.pop()?;
        // Looked at first: a store would take the line from the other cores, packet by packet.
        if !self.is_of_use.load(Ordering::Relaxed) {
            self.is_of_use.store(true, Ordering::Relaxed);
        }
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_at_its_limit_refuses_and_serves_again_after_a_buffer_came_back() {
        let pool = BufPool::new(3 * CLASS_BYTES[1] as u64);
        let held: Vec<Buf> = (0..3).map(|_| pool.take(1_400).expect("within the limit")).collect();
        assert!(pool.take(1_400).is_none());
        assert_eq!((pool.held_bytes(), pool.refused()), (3 * CLASS_BYTES[1] as u64, 1));
        drop(held);
        assert_eq!(pool.held_bytes(), 0);
        assert!(pool.take(1_400).is_some());
    }

    #[test]
    fn those_spare_buffers_take_turns_that_were_in_use_at_once() {
        let pool = BufPool::new(64 << 20);
        // The rings of the largest class have 1, 4 and 16.
        for (at_once, take_turns) in [(1, 1), (5, 5), (20, 21)] {
            drop((0..100).map(|_| pool.take(PACKET_BYTES_MAX).expect("room")).collect::<Vec<_>>());
            let mut seen = std::collections::HashSet::new();
            for _ in 0..1_000 {
                let held: Vec<Buf> = (0..at_once).map(|_| pool.take(PACKET_BYTES_MAX).expect("room")).collect();
                seen.extend(held.iter().map(|buf| buf.bytes().as_ptr()));
            }
            assert_eq!(seen.len(), take_turns, "{at_once} at once");
        }
    }

    #[test]
    fn spare_buffers_that_nobody_needed_since_the_last_time_go_back_to_the_allocator() {
        let pool = BufPool::new(64 << 20);
        let use_at_once = |count: usize| {
            drop((0..count).map(|_| pool.take(PACKET_BYTES_MAX).expect("room")).collect::<Vec<_>>());
        };
        let allocated = || pool.0.allocated_bytes.load(Ordering::Relaxed) / CLASS_BYTES[3] as u64;
        // The rings of the largest class have 1, 4 and 16.
        use_at_once(21);
        use_at_once(21);
        assert_eq!((pool.trim(), allocated()), (0, 21), "all were of use");
        use_at_once(5);
        assert_eq!((pool.trim(), allocated()), (16 * CLASS_BYTES[3] as u64, 5));
        assert_eq!((pool.trim(), allocated()), (4 * CLASS_BYTES[3] as u64, 1), "one is always kept");
        assert_eq!((pool.trim(), allocated(), pool.held_bytes()), (0, 1, 0));
        use_at_once(21);
        assert_eq!(allocated(), 21);
    }

    #[test]
    fn the_class_is_the_smallest_that_takes_headroom_and_packet() {
        let pool = BufPool::new(1 << 24);
        for (len, held) in [
            (1, 0),
            (CLASS_BYTES[0] - HEADROOM_BYTES, 0),
            (CLASS_BYTES[0] - HEADROOM_BYTES + 1, 1),
            (1_500, 1),
            (9_000, 2),
            (PACKET_BYTES_MAX, 3),
        ] {
            assert_eq!(pool.take(len).expect("a class").held_bytes(), CLASS_BYTES[held], "for {len} bytes");
        }
        assert!(pool.take(CLASS_BYTES[3]).is_none());
    }
}
