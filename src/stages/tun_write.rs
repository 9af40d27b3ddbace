//! tun-write: packets into a TUN device, in the order of their lane.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::io::tun::Tun;
use crate::ipv4;
use crate::offload::{self, Merger};
use crate::packet::{BufPool, Family, PACKET_BYTES_MAX, Packet};
use crate::runtime::queue::Fifo;
use crate::runtime::work::{Handler, WorkOf};
use crate::stages::Reason as _;
use crate::stages::ip_parse::Parsed;

crate::reasons! {
    /// Why tun-write drops a packet.
    pub enum Reason {
        /// The device's queue takes no more.
        KernelFull = "kernel_full",
        /// The kernel does not take such a packet, or the device is down or gone.
        Refused = "refused",
        /// No buffer was free to cut a super-packet that the device does not take.
        NoBuffer = "no_buffer",
        /// It is for another address than the one that packets may be for.
        NotOurs = "not_ours",
        /// What the gateway says about its checksum or segments does not fit it.
        BadOffload = "bad_offload",
    }
}

/// The one address that packets may be for. It changes with the lease while the stage runs.
#[derive(Debug)]
pub struct Destination(AtomicU32);

impl Destination {
    /// Packets may be for `address` alone.
    pub fn new(address: Ipv4Addr) -> Self {
        Self(AtomicU32::new(address.to_bits()))
    }

    /// From now on packets may be for `address` alone.
    pub fn set(&self, address: Ipv4Addr) {
        self.0.store(address.to_bits(), Ordering::Relaxed);
    }

    /// Whether a packet of this family is for the address.
    fn is_of(&self, family: Option<Family>, packet: &[u8]) -> bool {
        let ours = Ipv4Addr::from_bits(self.0.load(Ordering::Relaxed));
        family == Some(Family::V4) && ipv4::address_at(packet, ipv4::DESTINATION) == Some(ours)
    }
}

/// The stage's handler. What a batch has of a flow in a row is written as one super-packet where the device takes them, for
/// a packet costs the kernel 7 µs whatever its length; a super-packet that it does not take is cut.
#[derive(Debug)]
pub struct TunWrite<Proof> {
    tun: Arc<Tun>,
    /// Where a super-packet gets its memory.
    pool: BufPool,
    /// The one address that packets may be for; `None` where an earlier stage has judged them.
    only_to: Option<Arc<Destination>>,
    /// Space for the batch that a thread writes, kept between batches.
    spare: Mutex<Vec<Space<Proof>>>,
}

#[derive(Debug)]
struct Space<Proof> {
    packets: Vec<Packet<Proof>>,
    /// For those that are cut.
    whole: Vec<Packet<Proof>>,
    merger: Merger,
}

impl<Proof> Default for Space<Proof> {
    fn default() -> Self {
        Self { packets: Vec::new(), whole: Vec::new(), merger: Merger::default() }
    }
}

impl<Proof: Copy> TunWrite<Proof> {
    /// Writes every packet to `tun`.
    pub fn new(tun: Arc<Tun>, pool: BufPool) -> Self {
        Self { tun, pool, only_to: None, spare: Mutex::default() }
    }

    /// The same for packets of which nothing is known: those to one address alone, of which nothing untrue is said.
    #[must_use]
    pub fn only_to(self, destination: Arc<Destination>) -> Self {
        Self { only_to: Some(destination), ..self }
    }

    fn judge(&self, packet: &Packet<Proof>) -> Result<(), Reason> {
        self.only_to.as_ref().map_or(Ok(()), |destination| judge(destination, packet))
    }
}

fn judge<Proof>(destination: &Destination, packet: &Packet<Proof>) -> Result<(), Reason> {
    if !destination.is_of(packet.family(), packet.bytes()) {
        return Err(Reason::NotOurs);
    }
    // The device cuts to any size, and its reader is this machine: there is no MTU to be kept.
    offload::check(packet.bytes(), packet.offload(), PACKET_BYTES_MAX).map_err(|_| Reason::BadOffload)
}

fn reason_of(error: io::ErrorKind) -> Reason {
    if error == io::ErrorKind::WouldBlock { Reason::KernelFull } else { Reason::Refused }
}

impl<Proof: Copy + Send + 'static> Handler for TunWrite<Proof> {
    type Queue = Fifo<Packet<Proof>>;
    type Out = Packet<Proof>;
    type Turned = Packet<Parsed>;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = spare().pop().unwrap_or_default();
        for entry in work.batch.items.drain(..) {
            match self.judge(&entry.item) {
                Ok(()) => space.packets.push(entry.item),
                Err(reason) => work.tally.drop(reason.index(), &entry.item),
            }
        }
        let taken = self.tun.offloads();
        if taken.tcp {
            space.merger.merge(&mut space.packets, taken, &self.pool);
        }
        let lost = offload::cut_others(&mut space.packets, &mut space.whole, taken, &self.pool);
        work.tally.drop_segments(Reason::NoBuffer.index(), lost.into(), 0);
        for mut packet in space.packets.drain(..) {
            match self.tun.write(&mut packet) {
                Ok(()) => work.tally.sent.add(&packet),
                Err(error) => work.tally.drop(reason_of(error.kind()).index(), &packet),
            }
        }
        spare().push(space);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Checksum, Offload};
    use crate::packet_builder::{raw, udp};

    const OURS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

    #[test]
    fn a_packet_is_for_us_only_by_its_version_and_its_destination() {
        let destination = Destination::new(OURS);
        let packet = ipv4::header(Ipv4Addr::new(192, 0, 2, 1), OURS, ipv4::UDP, 0, 64);
        assert!(destination.is_of(Some(Family::V4), &packet));
        assert!(!destination.is_of(Some(Family::V6), &packet));
        assert!(!destination.is_of(Some(Family::V4), &packet[..18]), "a header that was cut off");
        let other = ipv4::header(OURS, Ipv4Addr::new(100, 64, 0, 3), ipv4::UDP, 0, 64);
        assert!(!destination.is_of(Some(Family::V4), &other));
    }

    #[test]
    fn what_is_said_of_a_packets_offload_is_judged_by_the_packet() {
        let destination = Destination::new(OURS);
        let honest = udp("192.0.2.1:53", "100.64.0.2:1024", b"an answer").partial();
        assert_eq!(judge(&destination, &honest), Ok(()));
        let offload = honest.offload();
        let beyond = Checksum::Partial { start: 20, offset: 1_000 };
        for lie in [
            Offload { checksum: beyond, ..offload },
            Offload { segment_bytes: 4, ..offload },
            Offload { header_bytes: 28, ..offload },
            Offload { segment_bytes: 4, header_bytes: 28, checksum: Checksum::Complete },
        ] {
            let said = raw(honest.bytes(), lie);
            assert_eq!(judge(&destination, &said), Err(Reason::BadOffload), "{lie:?}");
        }
        let other = udp("192.0.2.1:53", "100.64.0.3:1024", b"an answer").partial();
        assert_eq!(judge(&destination, &other), Err(Reason::NotOurs));
    }

    #[test]
    fn another_lease_is_another_destination() {
        let (destination, next) = (Destination::new(OURS), Ipv4Addr::new(100, 64, 0, 3));
        destination.set(next);
        let packet = |to| ipv4::header(Ipv4Addr::new(192, 0, 2, 1), to, ipv4::UDP, 0, 64);
        assert!(destination.is_of(Some(Family::V4), &packet(next)));
        assert!(!destination.is_of(Some(Family::V4), &packet(OURS)));
    }
}
