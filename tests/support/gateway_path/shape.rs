//! Packets of the shapes that are measured, as whoever sends them makes them.

use std::net::{IpAddr, Ipv4Addr};

use wstether::checksum;
use wstether::packet::{Checksum, Offload};

const SEGMENT_BYTES: usize = 1_400;
const TCP_HEADER_BYTES: usize = 40;
const TCP: u8 = 6;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const UDP: u8 = 17;

/// What kind of packets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// UDP of `bytes` in all.
    Single {
        /// Length of the IP packet.
        bytes: usize,
    },
    /// TCP super-packets of `segments` segments of 1,400 bytes of payload.
    Super {
        /// Segments in each.
        segments: usize,
    },
}

impl Shape {
    /// What is left to be done to such packets.
    pub(crate) fn offload(self) -> Offload {
        match self {
            Self::Single { .. } => Offload::default(),
            Self::Super { .. } => Offload {
                checksum: Checksum::Partial { start: 20, offset: 16 },
                segment_bytes: SEGMENT_BYTES as u16,
                header_bytes: TCP_HEADER_BYTES as u16,
            },
        }
    }

    /// Segments in each.
    pub(crate) fn segments(self) -> u64 {
        match self {
            Self::Single { .. } => 1,
            Self::Super { segments } => segments as u64,
        }
    }

    /// What opens a flow of such packets: only a SYN makes a mapping for TCP.
    pub(super) fn opening(self, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Vec<u8> {
        match self {
            Self::Single { .. } => self.packet(source, destination),
            Self::Super { .. } => Self::Super { segments: 0 }.sealed(source, destination, TCP_SYN),
        }
    }

    /// A packet between two ends, as whoever sends it makes it.
    pub(crate) fn packet(self, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Vec<u8> {
        self.sealed(source, destination, TCP_ACK)
    }

    fn sealed(self, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), tcp_flags: u8) -> Vec<u8> {
        let (protocol, len) = match self {
            Self::Single { bytes } => (UDP, bytes),
            Self::Super { segments } => (TCP, TCP_HEADER_BYTES + segments * SEGMENT_BYTES),
        };
        let mut packet = vec![0; len];
        packet[..12].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8, 0, 7, 0x40, 0, 64, protocol, 0, 0]);
        packet[12..16].copy_from_slice(&source.0.octets());
        packet[16..20].copy_from_slice(&destination.0.octets());
        let sum = checksum::of(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[20..22].copy_from_slice(&source.1.to_be_bytes());
        packet[22..24].copy_from_slice(&destination.1.to_be_bytes());
        let pseudo_header =
            checksum::pseudo_header(IpAddr::V4(source.0), IpAddr::V4(destination.0), protocol, len - 20);
        match self {
            Self::Single { .. } => {
                packet[24..26].copy_from_slice(&((len - 20) as u16).to_be_bytes());
                let sum = !checksum::fold(pseudo_header + checksum::sum(&packet[20..]));
                packet[26..28].copy_from_slice(&sum.to_be_bytes());
            }
            Self::Super { .. } => {
                packet[32..34].copy_from_slice(&[0x50, tcp_flags]);
                packet[36..38].copy_from_slice(&checksum::fold(pseudo_header).to_be_bytes());
            }
        }
        packet
    }
}
