//! Where a packet is read to, when its length is not known before: a small pooled buffer, with a large area behind it. A
//! small packet so pins a small buffer, and a tiny one a tiny buffer, into which it is copied. A super-packet stays where
//! it was read, in a large pooled buffer, into which its first bytes follow it; what is in between is copied into a
//! buffer of its size.

use std::io::IoSliceMut;

use crate::packet::{Buf, BufPool, COPIED_BYTES_MAX, HEADROOM_BYTES, PACKET_BYTES_MAX, TINY_BYTES_MAX};

/// A batch ends behind the packet with which it holds so many bytes: a super-packet, or as much in small ones. More would have
/// left a core's cache by the time that the last stage looks at it (docs/decisions/0023-caches.md).
pub(crate) const BATCH_BYTES: usize = 65_536;

/// What the class of pooled buffers for packets of an Ethernet's size takes behind its headroom.
const SMALL_BYTES: usize = 2_048 - HEADROOM_BYTES;

/// One packet's place in a reader.
#[derive(Debug)]
pub(crate) struct Slot {
    small: Option<Buf>,
    /// What of a packet does not fit into the small buffer is read behind that buffer's length into this one.
    large: Option<Buf>,
    /// The same where there is no large buffer; it is the reader's own.
    overflow: Box<[u8]>,
    wants_large: bool,
}

impl Slot {
    /// A place for packets of up to `packet_bytes_max` (and never more than IP allows).
    pub(crate) fn new(packet_bytes_max: usize) -> Self {
        let overflow = packet_bytes_max.min(PACKET_BYTES_MAX).saturating_sub(SMALL_BYTES);
        Self { small: None, large: None, overflow: vec![0; overflow].into_boxed_slice(), wants_large: false }
    }

    /// Super-packets are expected here, and stay where they are read.
    #[must_use]
    pub(crate) fn for_super_packets(self) -> Self {
        Self { wants_large: true, ..self }
    }

    /// Makes sure that a small buffer stands ready; `false` when the pool is at its limit.
    pub(crate) fn ready(&mut self, pool: &BufPool) -> bool {
        if self.small.is_none() {
            self.small = pool.take(SMALL_BYTES);
        }
        if self.wants_large && self.large.is_none() {
            self.large = pool.take(PACKET_BYTES_MAX);
        }
        self.small.is_some()
    }

    /// Where the packet's bytes go, in order. Without a small buffer only the overflow area is there, and what is read
    /// into it is lost.
    pub(crate) fn areas(&mut self) -> [IoSliceMut<'_>; 2] {
        let small = self.small.as_mut().map_or(&mut [] as &mut [u8], |buf| buf.spare_mut());
        let rest = match &mut self.large {
            Some(large) => &mut large.spare_mut()[SMALL_BYTES..PACKET_BYTES_MAX],
            None => &mut self.overflow,
        };
        [IoSliceMut::new(small), IoSliceMut::new(rest)]
    }

    /// Takes the packet of `len` bytes that was read; `None` when there was no buffer for it.
    pub(crate) fn take(&mut self, len: usize, pool: &BufPool) -> Option<Buf> {
        let small = self.small.as_mut()?;
        let room = small.tailroom();
        if len <= TINY_BYTES_MAX
            && let Some(tiny) = pool.copy_if_at_hand(&small.spare_mut()[..len])
        {
            return Some(tiny);
        }
        if len <= room {
            small.advance(len);
            return self.small.take();
        }
        let start = &small.spare_mut()[..room];
        if len > COPIED_BYTES_MAX
            && let Some(mut large) = self.large.take()
        {
            large.spare_mut()[..room].copy_from_slice(start);
            large.advance(len);
            return Some(large);
        }
        let rest = match &mut self.large {
            Some(large) => &large.spare_mut()[room..],
            None => &self.overflow,
        };
        let mut whole = pool.take(len)?;
        whole.extend(start);
        whole.extend(rest.get(..len - room)?);
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(slot: &mut Slot, len: usize) {
        let mut next = 0_u32;
        for area in &mut slot.areas() {
            for byte in area.iter_mut().take(len - next as usize) {
                *byte = next as u8;
                next += 1;
            }
        }
    }

    #[test]
    fn a_packet_of_any_length_comes_out_as_it_was_read_in_a_buffer_of_its_size() {
        let pool = BufPool::new(1 << 20);
        let slots = [Slot::new(PACKET_BYTES_MAX), Slot::new(PACKET_BYTES_MAX).for_super_packets()];
        let lens = [
            (40, 256),
            (TINY_BYTES_MAX, 256),
            (TINY_BYTES_MAX + 1, 2_048),
            (SMALL_BYTES, 2_048),
            (SMALL_BYTES + 1, 16_384),
            (COPIED_BYTES_MAX, 16_384),
            (COPIED_BYTES_MAX + 1, 65_664),
            (60_000, 65_664),
            (PACKET_BYTES_MAX, 65_664),
        ];
        for mut slot in slots {
            for (len, held) in lens {
                assert!(slot.ready(&pool));
                fill(&mut slot, len);
                let buf = slot.take(len, &pool).expect("room");
                assert!(buf.bytes().iter().enumerate().all(|(at, &byte)| byte == at as u8), "for {len} bytes");
                assert_eq!((buf.len(), buf.held_bytes(), buf.headroom()), (len, held, HEADROOM_BYTES));
            }
        }
    }

    #[test]
    fn a_tiny_packet_leaves_the_buffer_that_it_was_read_to_in_its_place_unless_there_is_no_other() {
        let pool = BufPool::new(2_048 + 256);
        let mut slot = Slot::new(PACKET_BYTES_MAX);
        assert!(slot.ready(&pool));
        let read_to = slot.areas()[0].as_ptr();
        let mut take = |byte: u8| {
            slot.areas()[0][..40].fill(byte);
            slot.take(40, &pool).expect("room")
        };
        let (first, second) = (take(1), take(2));
        assert_eq!(
            [&first, &second].map(|buf| (buf.held_bytes(), buf.bytes()[0], buf.len())),
            [(256, 1, 40), (2_048, 2, 40)]
        );
        assert_eq!(second.bytes().as_ptr(), read_to);
        assert_eq!((pool.refused(), pool.budget().refused()), (0, 0), "nothing was lost");
    }

    #[test]
    fn a_super_packet_stays_where_it_was_read() {
        let pool = BufPool::new(1 << 20);
        let mut slot = Slot::new(PACKET_BYTES_MAX).for_super_packets();
        assert!(slot.ready(&pool));
        fill(&mut slot, 60_000);
        let read_to = slot.areas()[1].as_ptr();
        let buf = slot.take(60_000, &pool).expect("room");
        assert_eq!(buf.bytes()[SMALL_BYTES..].as_ptr(), read_to);
    }

    #[test]
    fn without_a_large_buffer_a_super_packet_is_read_beside_the_pool() {
        let pool = BufPool::new(2_048 + 65_664);
        let held = pool.take(PACKET_BYTES_MAX);
        let mut slot = Slot::new(PACKET_BYTES_MAX).for_super_packets();
        assert!(slot.ready(&pool));
        fill(&mut slot, 60_000);
        drop(held);
        let buf = slot.take(60_000, &pool).expect("room");
        assert!(buf.bytes().iter().enumerate().all(|(at, &byte)| byte == at as u8));
    }

    #[test]
    fn without_a_buffer_the_packet_is_lost_and_the_slot_serves_again_later() {
        let pool = BufPool::new(2_048);
        let mut slot = Slot::new(9_000);
        let held = pool.take(1);
        assert!(!slot.ready(&pool));
        assert!(slot.take(100, &pool).is_none());
        drop(held);
        assert!(slot.ready(&pool));
        assert!(slot.take(5_000, &pool).is_none(), "the pool has no second buffer for a large packet");
        assert!(slot.take(100, &pool).is_some());
    }
}
