//! Where a packet is read to, when its length is not known before: a small pooled buffer, with a large overflow area
//! behind it that belongs to the reader. A small packet so pins a small buffer; a large one is copied once into a
//! buffer of its size.

use std::io::IoSliceMut;

use crate::packet::{Buf, BufPool, HEADROOM_BYTES, PACKET_BYTES_MAX};

/// What the smallest class of pooled buffers takes behind its headroom.
const SMALL_BYTES: usize = 2_048 - HEADROOM_BYTES;

/// One packet's place in a reader.
#[derive(Debug)]
pub(crate) struct Slot {
    small: Option<Buf>,
    overflow: Box<[u8]>,
}

impl Slot {
    /// A place for packets of up to `packet_bytes_max` (and never more than IP allows).
    pub(crate) fn new(packet_bytes_max: usize) -> Self {
        let overflow = packet_bytes_max.min(PACKET_BYTES_MAX).saturating_sub(SMALL_BYTES);
        Self { small: None, overflow: vec![0; overflow].into_boxed_slice() }
    }

    /// Makes sure that a small buffer stands ready; `false` when the pool is at its limit.
    pub(crate) fn ready(&mut self, pool: &BufPool) -> bool {
        if self.small.is_none() {
            self.small = pool.take(SMALL_BYTES);
        }
        self.small.is_some()
    }

    /// Where the packet's bytes go, in order. Without a small buffer only the overflow area is there, and what is read
    /// into it is lost.
    pub(crate) fn areas(&mut self) -> [IoSliceMut<'_>; 2] {
        let small = self.small.as_mut().map_or(&mut [] as &mut [u8], |buf| buf.spare_mut());
        [IoSliceMut::new(small), IoSliceMut::new(&mut self.overflow)]
    }

    /// Takes the packet of `len` bytes that was read; `None` when there was no buffer for it.
    pub(crate) fn take(&mut self, len: usize, pool: &BufPool) -> Option<Buf> {
        let small = self.small.as_mut()?;
        let room = small.tailroom();
        if len <= room {
            small.advance(len);
            return self.small.take();
        }
        let mut whole = pool.take(len)?;
        whole.extend(&small.spare_mut()[..room]);
        whole.extend(self.overflow.get(..len - room)?);
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
        let mut slot = Slot::new(PACKET_BYTES_MAX);
        for (len, held) in [(40, 2_048), (SMALL_BYTES, 2_048), (SMALL_BYTES + 1, 16_384), (60_000, 65_664)] {
            assert!(slot.ready(&pool));
            fill(&mut slot, len);
            let buf = slot.take(len, &pool).expect("room");
            assert!(buf.bytes().iter().enumerate().all(|(at, &byte)| byte == at as u8), "for {len} bytes");
            assert_eq!((buf.len(), buf.held_bytes()), (len, held));
        }
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
