//! The raw egress: packets leave and arrive by packet sockets, past the kernel's own IP stack.
//!
//! Both ways PACKET_VNET_HDR is on: a super-packet crosses whole, and a checksum that the device fills in stays partial.
//! Without it the kernel's own TCP arrives as packets of up to 65,226 bytes with checksums not filled in. The option
//! needs SOCK_RAW, so the link header and the next hop are ours.

mod receiver;
pub(super) mod sender;

use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::netlink::{self, Link, Netlink};
use super::{sys, virtio};

pub use receiver::RawReceiver;
pub use sender::{RawSender, Refusal, SendReport};

/// Bytes of an Ethernet header (IEEE 802.3, without a VLAN tag: the kernel takes it off).
pub(super) const ETHERNET_HEADER_BYTES: usize = 14;
/// Room in front of a packet for both headers.
const HEADER_BYTES_MAX: usize = virtio::HEADER_BYTES + ETHERNET_HEADER_BYTES;
/// Packets a system call, either way: at 64 the call's own cost is a few per cent.
const BATCH: usize = 64;
pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;

// Options of packet sockets that libc does not name (linux/if_packet.h).
const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
pub(super) const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Where packets leave and which of those that arrive are ours.
#[derive(Clone, Debug)]
pub struct EgressSettings {
    /// The interface.
    pub interface: String,
    /// The external addresses; at most [`ADDRESSES_MAX`](super::bpf::ADDRESSES_MAX).
    pub addresses: Vec<Ipv4Addr>,
    /// Our ports and query identifiers.
    pub ports: RangeInclusive<u16>,
    /// What the kernel may hold that was not read yet, in bytes of its own accounting.
    pub receive_buffer_bytes: u32,
    /// What the kernel may hold that was not sent yet, in bytes of its own accounting.
    pub send_buffer_bytes: u32,
}

/// Why the raw egress could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's networking refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A socket could not be set up.
    #[error("{action}: {source}{}", hint(source))]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// More external addresses than the filter takes.
    #[error("{0} external addresses are too many for the capture: at most {max}", max = super::bpf::ADDRESSES_MAX)]
    TooManyAddresses(usize),
}

fn hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied { " (CAP_NET_RAW is missing)" } else { "" }
}

fn doing(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Socket { action, source }
}

/// Opens both directions of the raw egress in this thread's network namespace. From then on the receiver holds what
/// arrives.
///
/// # Errors
/// No such interface, too many addresses, or CAP_NET_RAW is missing.
pub fn open(settings: &EgressSettings) -> Result<(RawSender, RawReceiver), Error> {
    if settings.addresses.len() > super::bpf::ADDRESSES_MAX {
        return Err(Error::TooManyAddresses(settings.addresses.len()));
    }
    let link = Netlink::open()?.link(&settings.interface)?;
    Ok((RawSender::open(settings, &link)?, RawReceiver::open(settings, &link)?))
}

fn link_header_bytes(link: &Link) -> usize {
    if link.ethernet { ETHERNET_HEADER_BYTES } else { 0 }
}

fn packet_socket() -> Result<OwnedFd, Error> {
    // Protocol 0: nothing is received until the socket is bound to one.
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map_err(doing("opening a packet socket"))?;
    sys::set_option(fd.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, &1).map_err(doing("asking for PACKET_VNET_HDR"))?;
    Ok(fd)
}

/// Sets a socket's buffer past the system's limit where that is allowed, within it where not.
fn set_buffer(fd: BorrowedFd<'_>, force: i32, plain: i32, bytes: u32) -> Result<(), Error> {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    let forced = sys::set_option(fd, libc::SOL_SOCKET, force, &bytes);
    forced
        .or_else(|_| sys::set_option(fd, libc::SOL_SOCKET, plain, &bytes))
        .map_err(doing("sizing a packet socket's buffer"))
}
