//! A TUN device: opened or adopted by name, read in batches and written without blocking.
//!
//! docs/decisions/0010-tun.md tells what the `tun` crate does here and which two ioctls are our own.
#![allow(
    unsafe_code,
    reason = "readv and writev with a header in front, and a descriptor taken over from the tun crate"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use super::receive::{BATCH_BYTES, Slot};
use super::{Received, sys, virtio};
use crate::offload::{self, SuperPackets};
use crate::packet::{BufPool, PACKET_BYTES_MAX, Packet, Raw};

/// Room for a packet of a device without super-packets, whose MTU may be changed while it runs.
const PLAIN_BYTES_MAX: usize = 16_384 - crate::packet::HEADROOM_BYTES;

// Offloads that the device's reader takes over (linux/if_tun.h).
const TUN_F_CSUM: u64 = 0x01;
const TUN_F_TSO4: u64 = 0x02;
const TUN_F_TSO6: u64 = 0x04;
const TUN_F_TSO_ECN: u64 = 0x08;
const TUN_F_USO4: u64 = 0x20;
const TUN_F_USO6: u64 = 0x40;

/// What the device is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A virtio-net header in front of each packet: super-packets and partial checksums both ways.
    pub vnet_hdr: bool,
    /// The device stays when its descriptor closes, so that the next start adopts it with its address and routes.
    pub persistent: bool,
}

/// An open TUN device. Several threads may write; one reads.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    vnet_hdr: bool,
    offloads: SuperPackets,
    slot: Mutex<Slot>,
}

impl Tun {
    /// Opens the device `name`, and makes it where there is none.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no CAP_NET_ADMIN, a name that is none, or a device that another process holds or that was
    /// made with other features.
    pub fn open(name: &str, features: Features) -> io::Result<Self> {
        let fd = create(name, features.vnet_hdr)
            .map_err(|error| io::Error::new(error.kind(), format!("opening the TUN device {name}: {error}")))?;
        sys::set_nonblocking(fd.as_fd())?;
        sys::value_ioctl(fd.as_fd(), libc::TUNSETPERSIST, features.persistent.into())?;
        let offloads = if features.vnet_hdr { ask_for_offloads(fd.as_fd()) } else { SuperPackets::default() };
        let slot = if features.vnet_hdr {
            Slot::new(PACKET_BYTES_MAX).for_super_packets()
        } else {
            Slot::new(PLAIN_BYTES_MAX)
        };
        Ok(Self { fd, name: name.to_owned(), vnet_hdr: features.vnet_hdr, offloads, slot: Mutex::new(slot) })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which super-packets this kernel agreed to hand out, and takes.
    pub fn offloads(&self) -> SuperPackets {
        self.offloads
    }

    /// Whether a read failed since the device was deleted.
    pub fn is_gone(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EBADFD)
    }

    /// Makes the device vanish when it is closed, or stay.
    ///
    /// # Errors
    /// Whatever the kernel says to TUNSETPERSIST.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        sys::value_ioctl(self.fd.as_fd(), libc::TUNSETPERSIST, persistent.into())
    }

    /// Appends up to `max` packets to `out`, fewer where they are large, and never blocks: with an exhausted pool packets
    /// are read and lost.
    ///
    /// # Errors
    /// The device is down or gone (EBADFD, EIO).
    pub fn read_batch(&self, pool: &BufPool, max: usize, out: &mut Vec<Packet<Raw>>) -> io::Result<Received> {
        let mut slot = self.slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut received, mut bytes) = (Received::default(), 0);
        while received.packets + received.lost < max && bytes < BATCH_BYTES {
            let mut header = [0; virtio::HEADER_BYTES];
            slot.ready(pool);
            let len = match self.read(&mut header, &mut slot) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(received),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match slot.take(len, pool).and_then(|buf| Some((self.offload(&header, buf.bytes())?, buf))) {
                Some((offload, buf)) => {
                    bytes += buf.len();
                    let mut packet = Packet::raw(buf, offload);
                    offload::leave_checksum_open(&mut packet);
                    out.push(packet);
                    received.packets += 1;
                }
                None => received.lost += 1,
            }
        }
        received.more = true;
        Ok(received)
    }

    /// Writes one packet. A partial checksum is completed where the device cannot be told of it.
    ///
    /// # Errors
    /// `WouldBlock` where the device's queue is full, `InvalidInput` for a super-packet on a device without
    /// `vnet_hdr`, and what the kernel says to a packet that it cannot take (EINVAL, EIO when the device is down).
    pub fn write<Proof>(&self, packet: &mut Packet<Proof>) -> io::Result<()> {
        let header = if self.vnet_hdr {
            virtio::encode(packet.offload(), 0, packet.bytes()).ok_or(io::ErrorKind::InvalidInput)?
        } else if packet.offload().segment_bytes > 0 || !offload::complete_checksum(packet) {
            return Err(io::ErrorKind::InvalidInput.into());
        } else {
            [0; virtio::HEADER_BYTES]
        };
        let areas = [IoSlice::new(&header[..self.header_bytes()]), IoSlice::new(packet.bytes())];
        loop {
            // SAFETY: IoSlice has the layout of iovec, and both areas outlive the call.
            match sys::check_len(unsafe {
                libc::writev(self.fd.as_raw_fd(), areas.as_ptr().cast(), areas.len() as i32)
            }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return written.map(drop),
            }
        }
    }

    fn header_bytes(&self) -> usize {
        if self.vnet_hdr { virtio::HEADER_BYTES } else { 0 }
    }

    fn read(&self, header: &mut [u8; virtio::HEADER_BYTES], slot: &mut Slot) -> io::Result<usize> {
        let [small, overflow] = slot.areas();
        let mut areas = [IoSliceMut::new(&mut header[..self.header_bytes()]), small, overflow];
        // SAFETY: IoSliceMut has the layout of iovec, and all areas outlive the call.
        let len = unsafe { libc::readv(self.fd.as_raw_fd(), areas.as_mut_ptr().cast(), areas.len() as i32) };
        Ok(sys::check_len(len)?.saturating_sub(self.header_bytes()))
    }

    fn offload(&self, header: &[u8; virtio::HEADER_BYTES], packet: &[u8]) -> Option<crate::packet::Offload> {
        if self.vnet_hdr { virtio::decode(header, 0, packet) } else { Some(crate::packet::Offload::default()) }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The `tun` crate opens and names the device; addresses and routes come later, by netlink.
fn create(name: &str, vnet_hdr: bool) -> io::Result<OwnedFd> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).platform_config(|platform| {
        platform.ensure_root_privileges(false).vnet_hdr(vnet_hdr);
    });
    let device = tun::create(&configuration)
        .map_err(|error| if let tun::Error::Io(error) = error { error } else { io::Error::other(error) })?;
    // SAFETY: into_raw_fd gives the descriptor away, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) })
}

/// Asks for all super-packets, then for fewer, as older kernels know fewer.
fn ask_for_offloads(fd: BorrowedFd<'_>) -> SuperPackets {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    let wishes =
        [(tcp | TUN_F_USO4 | TUN_F_USO6, SuperPackets::ALL), (tcp, SuperPackets::TCP), (0, SuperPackets::default())];
    let granted = wishes.into_iter().find(|(bits, _)| sys::value_ioctl(fd, libc::TUNSETOFFLOAD, *bits).is_ok());
    granted.map_or_else(SuperPackets::default, |(_, offloads)| offloads)
}
