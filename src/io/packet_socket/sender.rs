//! The way out.
#![allow(unsafe_code, reason = "sendmmsg has no wrapper in std")]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{
    BATCH, ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, EgressSettings, Error, HEADER_BYTES_MAX, doing, link_header_bytes,
    packet_socket, set_buffer,
};
use crate::io::netlink::Link;
use crate::io::next_hop::{Hop, NextHops};
use crate::io::{sys, sysctl, virtio};
use crate::offload::{self, SuperPackets};
use crate::packet::{Offload, Packet};
use crate::stages::Reason;

crate::reasons! {
    /// Why a packet was not sent.
    pub enum Refusal {
        /// There is no route, or it leads out of another interface or to the host itself.
        NoRoute = "no_route",
        /// A super-packet whose next hop has no known hardware address yet. Single packets go by the kernel then.
        NoNeighbour = "no_neighbour",
        /// Larger than the interface's MTU.
        TooLarge = "too_large",
        /// The kernel's queue is full.
        KernelFull = "kernel_full",
        /// No buffer was free to cut a super-packet that the kernel does not take.
        NoBuffer = "no_buffer",
        /// The kernel could not make anything of it, or the interface is down.
        Failed = "send_failed",
    }
}

/// The first Linux whose packet sockets take super-packets of UDP, by VIRTIO_NET_HDR_GSO_UDP_L4.
const UDP_SUPER_PACKETS_SINCE: (u32, u32) = (6, 2);

/// What became of a batch, in segments except where the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Packets sent, a super-packet counted once.
    pub sent_packets: u64,
    /// Segments sent.
    pub sent_segments: u64,
    /// Bytes of IP sent, as they were handed to the kernel.
    pub sent_bytes: u64,
    /// Segments not sent, by [`Refusal::index`].
    pub refused: [u64; Refusal::ALL.len()],
}

impl SendReport {
    fn sent<Proof>(&mut self, packet: &Packet<Proof>) {
        self.sent_packets += 1;
        self.sent_segments += u64::from(packet.segments());
        self.sent_bytes += packet.len() as u64;
    }

    fn refuse<Proof>(&mut self, packet: &Packet<Proof>, why: Refusal) {
        self.refused[why.index()] += u64::from(packet.segments());
    }
}

/// Sends packets whose addresses are final. It serves several threads at once.
#[derive(Debug)]
pub struct RawSender {
    fd: OwnedFd,
    /// An IP_HDRINCL socket: the kernel resolves the neighbour. It rewrites the IP length and checksum, and the
    /// identification where it is 0, and never fragments.
    by_kernel: OwnedFd,
    link_bytes: usize,
    hops: NextHops,
    takes: SuperPackets,
}

/// What goes in front of the packets of one system call, and which packets they are.
struct Frames {
    headers: [[u8; HEADER_BYTES_MAX]; BATCH],
    packets: [usize; BATCH],
    count: usize,
}

impl RawSender {
    pub(super) fn open(settings: &EgressSettings, link: &Link) -> Result<Self, Error> {
        let fd = packet_socket()?;
        set_buffer(fd.as_fd(), libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, settings.send_buffer_bytes)?;
        sys::bind_link(fd.as_fd(), link.index, 0).map_err(doing("binding the sender to its interface"))?;
        let by_kernel =
            sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).map_err(doing("opening a raw socket"))?;
        let takes = SuperPackets { tcp: true, udp: sysctl::kernel_release() >= UDP_SUPER_PACKETS_SINCE };
        Ok(Self { fd, by_kernel, link_bytes: link_header_bytes(link), hops: NextHops::open(link)?, takes })
    }

    /// Which super-packets the kernel takes.
    pub fn takes(&self) -> SuperPackets {
        self.takes
    }

    /// Whether the next hop of this packet has a known hardware address.
    pub fn has_neighbour(&self, packet: &[u8]) -> bool {
        destination(packet).is_some_and(|destination| matches!(self.hops.find(destination), Hop::Direct { .. }))
    }

    /// Sends the batch, and never blocks. The packets keep their place; only checksums may be changed.
    pub fn send_batch<Proof>(&self, packets: &mut [Packet<Proof>]) -> SendReport {
        self.hops.refresh();
        let mut report = SendReport::default();
        for chunk in packets.chunks_mut(BATCH) {
            self.send_chunk(chunk, &mut report);
        }
        report
    }

    fn send_chunk<Proof>(&self, chunk: &mut [Packet<Proof>], report: &mut SendReport) {
        let mut frames = Frames { headers: [[0; HEADER_BYTES_MAX]; BATCH], packets: [0; BATCH], count: 0 };
        let (mtu, mut hops) = (self.hops.mtu(), [None; BATCH]);
        self.hops.find_known(chunk.iter().map(|packet| destination(packet.bytes())), &mut hops);
        let mut asked = None;
        for (at, packet) in chunk.iter_mut().enumerate() {
            let Some(destination) = destination(packet.bytes()) else {
                report.refuse(packet, Refusal::Failed);
                continue;
            };
            if segment_len(packet) > mtu {
                report.refuse(packet, Refusal::TooLarge);
                continue;
            }
            let hop = match (hops[at], asked) {
                (Some(hop), _) => hop,
                (None, Some((before, hop))) if before == destination => hop,
                (None, _) => self.hops.find(destination),
            };
            if hops[at].is_none() {
                asked = Some((destination, hop));
            }
            match hop {
                Hop::Direct { header } => match virtio::encode(packet.offload(), self.link_bytes, packet.bytes()) {
                    Some(offload) => frames.push(at, offload, &header),
                    None => report.refuse(packet, Refusal::Failed),
                },
                Hop::Unresolved { neighbour } if packet.offload().segment_bytes > 0 => {
                    self.hops.resolve(neighbour);
                    report.refuse(packet, Refusal::NoNeighbour);
                }
                Hop::Unresolved { .. } => match self.send_by_kernel(packet, destination) {
                    Ok(()) => report.sent(packet),
                    Err(error) => report.refuse(packet, refusal(&error)),
                },
                Hop::None => report.refuse(packet, Refusal::NoRoute),
            }
        }
        self.send_frames(&frames, chunk, report);
    }

    /// Sends the frames, in order. A packet that the kernel refuses is counted and passed over.
    fn send_frames<Proof>(&self, frames: &Frames, chunk: &[Packet<Proof>], report: &mut SendReport) {
        let header_bytes = virtio::HEADER_BYTES + self.link_bytes;
        let mut areas: [[IoSlice<'_>; 2]; BATCH] = std::array::from_fn(|at| {
            let packet = chunk.get(frames.packets[at]).filter(|_| at < frames.count);
            let bytes = packet.map_or(&[] as &[u8], Packet::bytes);
            [IoSlice::new(&frames.headers[at][..header_bytes]), IoSlice::new(bytes)]
        });
        // SAFETY: all zeroes is a valid mmsghdr: no name, no areas, no control data.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (message, areas) in messages.iter_mut().zip(&mut areas) {
            // IoSlice has the layout of iovec.
            message.msg_hdr.msg_iov = areas.as_mut_ptr().cast();
            message.msg_hdr.msg_iovlen = areas.len();
        }
        let mut next = 0;
        while next < frames.count {
            let left = &mut messages[next..frames.count];
            // SAFETY: each message points to two areas that outlive the call; the kernel only reads them.
            let sent = unsafe {
                libc::sendmmsg(self.fd.as_raw_fd(), left.as_mut_ptr(), left.len() as u32, libc::MSG_DONTWAIT)
            };
            match sys::check(sent) {
                Ok(count) => {
                    let count = count as usize;
                    frames.packets[next..next + count].iter().for_each(|&at| report.sent(&chunk[at]));
                    next += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // A full socket buffer (EAGAIN) takes none of the rest; anything else concerns one packet.
                    let full = error.kind() == io::ErrorKind::WouldBlock;
                    let end = if full { frames.count } else { next + 1 };
                    frames.packets[next..end].iter().for_each(|&at| report.refuse(&chunk[at], refusal(&error)));
                    next = end;
                }
            }
        }
    }

    fn send_by_kernel<Proof>(&self, packet: &mut Packet<Proof>, destination: Ipv4Addr) -> io::Result<()> {
        if !offload::complete_checksum(packet) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: all zeroes is a valid sockaddr_in.
        let mut address: libc::sockaddr_in = unsafe { zeroed() };
        address.sin_family = libc::AF_INET as u16;
        address.sin_addr.s_addr = destination.to_bits().to_be();
        let (bytes, address): (_, *const libc::sockaddr_in) = (packet.bytes(), &address);
        let len = size_of::<libc::sockaddr_in>() as u32;
        let fd = self.by_kernel.as_raw_fd();
        // SAFETY: the packet and the address outlive the call, and their lengths are given.
        let sent =
            unsafe { libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT, address.cast(), len) };
        sys::check_len(sent).map(drop)
    }
}

impl Frames {
    fn push(&mut self, packet: usize, offload: [u8; virtio::HEADER_BYTES], link: &[u8; ETHERNET_HEADER_BYTES]) {
        let header = &mut self.headers[self.count];
        header[..virtio::HEADER_BYTES].copy_from_slice(&offload);
        header[virtio::HEADER_BYTES..].copy_from_slice(link);
        self.packets[self.count] = packet;
        self.count += 1;
    }
}

/// The Ethernet header for an IPv4 packet.
pub(crate) fn ethernet_header(to: [u8; 6], from: [u8; 6]) -> [u8; ETHERNET_HEADER_BYTES] {
    let mut header = [0; ETHERNET_HEADER_BYTES];
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&from);
    header[12..].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    header
}

/// The destination, if it is an IPv4 packet.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (packet[0] >> 4 == 4).then_some(Ipv4Addr::from(octets))
}

/// Bytes of the largest IP packet that this one is on the wire.
fn segment_len<Proof>(packet: &Packet<Proof>) -> usize {
    match packet.offload() {
        Offload { segment_bytes: 0, .. } => packet.len(),
        // One segment alone may be shorter than it might be.
        Offload { segment_bytes, header_bytes, .. } => {
            packet.len().min(usize::from(segment_bytes) + usize::from(header_bytes))
        }
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Refusal::KernelFull,
        Some(libc::EMSGSIZE) => Refusal::TooLarge,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => Refusal::NoRoute,
        _ => Refusal::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet_builder::raw;

    #[test]
    fn the_longest_segment_of_a_super_packet_is_no_longer_than_the_packet() {
        let packet = raw(&[0x45; 520], Offload::default());
        assert_eq!(segment_len(&packet), 520);
        for (segment_bytes, bytes) in [(100, 140), (480, 520), (u16::MAX, 520)] {
            let offload = Offload { segment_bytes, header_bytes: 40, ..Offload::default() };
            assert_eq!(segment_len(&raw(&[0x45; 520], offload)), bytes);
        }
    }
}
