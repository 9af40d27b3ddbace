//! The capture.
#![allow(unsafe_code, reason = "recvmmsg has no wrapper in std")]

use std::io::{self, IoSliceMut};
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    BATCH, ETHERTYPE_IPV4, EgressSettings, Error, HEADER_BYTES_MAX, PACKET_IGNORE_OUTGOING, PACKET_STATISTICS, doing,
    link_header_bytes, packet_socket, set_buffer,
};
use crate::io::netlink::Link;
use crate::io::receive::{BATCH_BYTES, Slot};
use crate::io::{Received, bpf, sys, virtio};
use crate::offload;
use crate::packet::{BufPool, COPIED_BYTES_MAX, Offload, PACKET_BYTES_MAX, Packet, Raw};

/// Packets of a system call, from its first, that stay where they are read if they are large: each of these holds a large
/// buffer of the pool. Where super-packets come, no call asks for more.
const IN_PLACE: usize = 2;

/// Room for the one word that the kernel sends along, in its alignment: a header and a time.
type Control = [u64; 8];

/// What arrives for our addresses and ports.
#[derive(Debug)]
pub struct RawReceiver {
    fd: OwnedFd,
    link_bytes: usize,
    buffer_bytes: u32,
    kernel_drops: AtomicU64,
    /// What of them was told of by [`RawReceiver::dropped_since`].
    drops_seen: AtomicU64,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    headers: [[u8; HEADER_BYTES_MAX]; BATCH],
    packets: [Slot; BATCH],
    /// The last system call that brought anything brought a super-packet.
    is_bulk: bool,
}

/// The lengths that one system call brought; `None` for a packet that was cut off.
struct Lengths {
    count: usize,
    lens: [Option<usize>; BATCH],
    /// When the first came, by the system's clock.
    first_came: Option<Duration>,
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
        sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1)
            .map_err(doing("asking when packets came"))?;
        let buffer_bytes = settings.receive_buffer_bytes;
        set_buffer(fd.as_fd(), libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, buffer_bytes)?;
        sys::bind_link(fd.as_fd(), link.index, ETHERTYPE_IPV4)
            .map_err(doing("binding the capture to its interface"))?;
        let packets = std::array::from_fn(|at| {
            let slot = Slot::new(PACKET_BYTES_MAX);
            if at < IN_PLACE { slot.for_super_packets() } else { slot }
        });
        let slots = Mutex::new(Slots { headers: [[0; HEADER_BYTES_MAX]; BATCH], packets, is_bulk: false });
        Ok(Self { fd, link_bytes, buffer_bytes, kernel_drops: AtomicU64::new(0), drops_seen: AtomicU64::new(0), slots })
    }

    /// Appends up to `max` packets to `out`, fewer where they are large, and never blocks: with an exhausted pool packets
    /// are read and lost.
    ///
    /// # Errors
    /// The interface is down or gone (ENETDOWN, ENXIO).
    pub fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut received, mut bytes) = (Received::default(), 0);
        while received.packets + received.lost < max && bytes < BATCH_BYTES {
            let most = if slots.is_bulk { IN_PLACE } else { BATCH };
            let wanted = most.min(max - received.packets - received.lost);
            for slot in &mut slots.packets[..wanted] {
                slot.ready(pool);
            }
            let Lengths { count, lens, first_came } = self.receive(&mut slots, wanted)?;
            received.waited = received.waited.or(first_came.map(since));
            if count > 0 {
                slots.is_bulk = lens[..count].iter().flatten().any(|len| *len > COPIED_BYTES_MAX);
            }
            bytes += lens[..count].iter().flatten().sum::<usize>();
            for (at, len) in lens.iter().enumerate().take(count) {
                match len.and_then(|len| self.packet(&mut slots, at, len, pool)) {
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

    /// Has the kernel hold no more than so many bytes of its own accounting for now; `None` is what was configured.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn bound(&self, bytes: Option<u32>) -> Result<(), Error> {
        let bytes = bytes.unwrap_or(self.buffer_bytes).min(self.buffer_bytes);
        set_buffer(self.fd.as_fd(), libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)
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

    /// How many packets the kernel has dropped since this was asked last. Where it does not tell, none.
    pub fn dropped_since(&self) -> u64 {
        self.kernel_drops().map_or(0, |drops| drops.saturating_sub(self.drops_seen.swap(drops, Ordering::Relaxed)))
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
        // The first is the oldest: the others' times are of no interest, and are not copied.
        let mut control: Control = [0; 8];
        messages[0].msg_hdr.msg_control = control.as_mut_ptr().cast();
        messages[0].msg_hdr.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: the first `wanted` messages point to areas and a control buffer that outlive the call, and nothing else uses them.
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
        let first_came = if count > 0 { came(&messages[0].msg_hdr) } else { None };
        Ok(Lengths { count, lens: std::array::from_fn(|at| len(&messages[at])), first_came })
    }

    fn packet(&self, slots: &mut Slots, at: usize, len: usize, pool: &BufPool) -> Option<Packet<Raw>> {
        let buf = slots.packets[at].take(len, pool)?;
        let header = slots.headers[at].first_chunk()?;
        let mut packet = Packet::raw(buf, Offload::default());
        strip_padding(&mut packet);
        packet.set_offload(virtio::decode(header, self.link_bytes, packet.bytes())?);
        offload::leave_checksum_open(&mut packet);
        Some(packet)
    }
}

/// When a message came, by the system's clock, as its control data tell.
fn came(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: the kernel has filled in the control data, whose length it tells in the message.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    // SAFETY: computes a length alone.
    let whole = unsafe { libc::CMSG_LEN(size_of::<libc::timespec>() as u32) } as usize;
    let is_time = header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_TIMESTAMPNS;
    if !is_time || (header.cmsg_len as usize) < whole {
        return None;
    }
    // SAFETY: the kernel has put a timespec there, as type and length say.
    let time = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// How long ago that was. The system's clock may be set meanwhile; then it is not long.
fn since(came: Duration) -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH + came).unwrap_or_default()
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
