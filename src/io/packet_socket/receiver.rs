//! The capture.
#![allow(unsafe_code, reason = "recvmmsg has no wrapper in std")]

use std::io::{self, IoSliceMut};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{
    BATCH, ETHERTYPE_IPV4, EgressSettings, Error, HEADER_BYTES_MAX, PACKET_IGNORE_OUTGOING, PACKET_STATISTICS, doing,
    link_header_bytes, packet_socket, set_buffer,
};
use crate::io::netlink::Link;
use crate::io::receive::Slot;
use crate::io::{Received, bpf, sys, virtio};
use crate::offload::Merger;
use crate::packet::{BufPool, Offload, PACKET_BYTES_MAX, Packet, Raw};

/// Packets of a batch, from its first, that stay where they are read if they are large. A system call seldom brings more
/// super-packets, and each of these holds a large buffer of the pool.
const IN_PLACE: usize = 8;

/// What arrives for our addresses and ports.
#[derive(Debug)]
pub struct RawReceiver {
    fd: OwnedFd,
    link_bytes: usize,
    kernel_drops: AtomicU64,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    headers: [[u8; HEADER_BYTES_MAX]; BATCH],
    packets: [Slot; BATCH],
    merger: Merger,
}

/// The lengths that one system call brought; `None` for a packet that was cut off.
struct Lengths {
    count: usize,
    lens: [Option<usize>; BATCH],
}

impl RawReceiver {
    /// Memory of its read areas, which are no pool's.
    pub const AREAS_BYTES: usize = BATCH * (PACKET_BYTES_MAX + HEADER_BYTES_MAX);

    pub(super) fn open(settings: &EgressSettings, link: &Link) -> Result<Self, Error> {
        let link_bytes = link_header_bytes(link);
        let filter = bpf::capture_filter(link_bytes as u32, &settings.addresses, &settings.ports);
        let fd = packet_socket()?;
        // The filter comes before the binding, so that no packet passes unseen by it.
        sys::attach_filter(fd.as_fd(), &filter).map_err(doing("attaching the capture's filter"))?;
        sys::set_option(fd.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)
            .map_err(doing("asking for PACKET_IGNORE_OUTGOING"))?;
        set_buffer(fd.as_fd(), libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, settings.receive_buffer_bytes)?;
        sys::bind_link(fd.as_fd(), link.index, ETHERTYPE_IPV4)
            .map_err(doing("binding the capture to its interface"))?;
        let packets = std::array::from_fn(|at| {
            let slot = Slot::new(PACKET_BYTES_MAX);
            if at < IN_PLACE { slot.for_super_packets() } else { slot }
        });
        let slots = Mutex::new(Slots { headers: [[0; HEADER_BYTES_MAX]; BATCH], packets, merger: Merger::default() });
        Ok(Self { fd, link_bytes, kernel_drops: AtomicU64::new(0), slots })
    }

    /// Appends up to `max` packets to `out`, and never blocks: with an exhausted pool packets are read and lost. What
    /// came of a TCP flow in a row is one super-packet, where the device has not joined it already.
    ///
    /// # Errors
    /// The interface is down or gone (ENETDOWN, ENXIO).
    pub fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let received = self.read_singles(&mut slots, pool, max, out)?;
        slots.merger.merge(out, pool);
        Ok(received)
    }

    fn read_singles(
        &self,
        slots: &mut Slots,
        pool: &BufPool,
        max: usize,
        out: &mut Vec<Packet<Raw>>,
    ) -> io::Result<Received> {
        let mut received = Received::default();
        while received.packets + received.lost < max {
            let wanted = BATCH.min(max - received.packets - received.lost);
            for slot in &mut slots.packets[..wanted] {
                slot.ready(pool);
            }
            let Lengths { count, lens } = self.receive(slots, wanted)?;
            for (at, len) in lens.iter().enumerate().take(count) {
                match len.and_then(|len| self.packet(slots, at, len, pool)) {
                    Some(packet) => {
                        out.push(packet);
                        received.packets += 1;
                    }
                    None => received.lost += 1,
                }
            }
            if count < wanted {
                return Ok(received);
            }
        }
        received.more = true;
        Ok(received)
    }

    /// Packets that the kernel dropped since the start because the socket's buffer was full.
    ///
    /// # Errors
    /// Whatever the kernel says to PACKET_STATISTICS.
    pub fn kernel_drops(&self) -> io::Result<u64> {
        let [_seen, dropped]: [u32; 2] = sys::option(self.fd.as_fd(), libc::SOL_PACKET, PACKET_STATISTICS)?;
        // Reading resets the kernel's counter.
        Ok(self.kernel_drops.fetch_add(u64::from(dropped), Ordering::Relaxed) + u64::from(dropped))
    }

    fn header_bytes(&self) -> usize {
        virtio::HEADER_BYTES + self.link_bytes
    }

    fn receive(&self, slots: &mut Slots, wanted: usize) -> io::Result<Lengths> {
        let header_bytes = self.header_bytes();
        let Slots { headers, packets, .. } = slots;
        let mut pairs = headers.iter_mut().zip(packets.iter_mut());
        let mut areas: [[IoSliceMut<'_>; 3]; BATCH] = std::array::from_fn(|_| match pairs.next() {
            Some((header, slot)) => {
                let [small, overflow] = slot.areas();
                [IoSliceMut::new(&mut header[..header_bytes]), small, overflow]
            }
            None => std::array::from_fn(|_| IoSliceMut::new(&mut [])),
        });
        // SAFETY: all zeroes is a valid mmsghdr: no name, no areas, no control data.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (message, areas) in messages.iter_mut().zip(&mut areas) {
            // IoSliceMut has the layout of iovec.
            message.msg_hdr.msg_iov = areas.as_mut_ptr().cast();
            message.msg_hdr.msg_iovlen = areas.len();
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: the first `wanted` messages point to areas that outlive the call, and nothing else uses them.
        let got = unsafe {
            libc::recvmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), wanted as u32, flags, std::ptr::null_mut())
        };
        let count = match sys::check(got) {
            Ok(count) => count as usize,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        let len = |message: &libc::mmsghdr| {
            let whole = message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            (message.msg_len as usize).checked_sub(header_bytes).filter(|_| whole)
        };
        Ok(Lengths { count, lens: std::array::from_fn(|at| len(&messages[at])) })
    }

    fn packet(&self, slots: &mut Slots, at: usize, len: usize, pool: &BufPool) -> Option<Packet<Raw>> {
        let buf = slots.packets[at].take(len, pool)?;
        let header = slots.headers[at].first_chunk()?;
        let mut packet = Packet::raw(buf, Offload::default());
        strip_padding(&mut packet);
        packet.set_offload(virtio::decode(header, self.link_bytes, packet.bytes())?);
        Some(packet)
    }
}

/// Takes off the bytes behind the IP packet with which Ethernet fills a short frame up to its least length.
fn strip_padding(packet: &mut Packet<Raw>) {
    /// The least payload of an Ethernet frame.
    const FRAME_PAYLOAD_BYTES_MIN: usize = 46;
    let total = packet.bytes().get(2..4).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
    if total > 0 && packet.len() <= FRAME_PAYLOAD_BYTES_MIN {
        packet.buf_mut().truncate(total);
    }
}

impl AsFd for RawReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for RawReceiver {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
