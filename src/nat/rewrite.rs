//! Writing addresses and ports into a packet, with every checksum that covers them.

use std::net::{IpAddr, Ipv4Addr};

use super::Rewrite;
use crate::checksum::{self, Delta};
use crate::ipv4;
use crate::packet::{Checksum, Packet};
use crate::stages::ip_parse::{FiveTuple, Kind, Parsed, Quoted};

/// TCP options (RFC 9293, 3.1).
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_MSS_BYTES: usize = 4;

/// Bytes of IPv4 and TCP header without options, which the MSS does not count (RFC 6691).
const MSS_HEADERS_BYTES: u16 = 40;

/// The MTU of an Ethernet, which is what the links of the tunnel have at best.
const LINK_MTU_BYTES: u16 = 1_500;

/// What goes around a segment of the inside where it goes alone in a message over IPv6 and TLS: its own header with
/// timestamps (52, of which MSS counts 12 less), capsule, acknowledgement and frame (35), a TLS record (22), the larger
/// IP header (20) and the options of the outside's TCP (12).
const AROUND_BYTES: u16 = 132;

/// Bytes of the TCP header in front of its options.
const TCP_HEADER_BYTES: usize = 20;

/// Writes what `rewrite` says.
pub(crate) fn apply(mut packet: Packet<Parsed>, rewrite: &Rewrite) -> Packet<Parsed> {
    let parsed = *packet.proof();
    if *rewrite == Rewrite::none(&packet) {
        return packet;
    }
    let to = rewrite.five_tuple;
    let is_partial = packet.offload().checksum != Checksum::Complete;
    let addresses = address_delta(parsed.five_tuple(), &to);
    let bytes = packet.bytes_mut();
    set_addresses(bytes, 0, to.source, to.destination);
    ipv4::update(bytes, ipv4::CHECKSUM, addresses);
    let at = parsed.transport_at();
    match parsed.kind() {
        Kind::Tcp(_) => set_ports(bytes, at, at + ipv4::TCP_CHECKSUM, &to, addresses, is_partial),
        Kind::Udp => {
            let checksum = at + ipv4::UDP_CHECKSUM;
            // Zero says that there is none (RFC 768): it stays, and no sum may become zero. A partial one is no sum yet.
            let is_absent = !is_partial && ipv4::word_at(bytes, checksum) == Some(0);
            set_ports(bytes, at, checksum, &to, addresses, is_partial);
            if is_absent {
                ipv4::set_word(bytes, checksum, 0);
            } else if !is_partial && ipv4::word_at(bytes, checksum) == Some(0) {
                ipv4::set_word(bytes, checksum, 0xffff);
            }
        }
        Kind::Query { .. } => {
            let delta = Delta::default().word(parsed.five_tuple().source_port, to.source_port);
            ipv4::set_word(bytes, at + ipv4::ICMP_IDENTIFIER, to.source_port);
            ipv4::update(bytes, at + ipv4::ICMP_CHECKSUM, delta);
        }
        Kind::Error(quoted) => restore_quoted(bytes, at, &quoted, &to, rewrite.quoted_destination),
        Kind::Other => {}
    }
    packet.prove(parsed.readdressed(to))
}

fn address_delta(from: &FiveTuple, to: &FiveTuple) -> Delta {
    Delta::default().address(from.source, to.source).address(from.destination, to.destination)
}

fn set_addresses(bytes: &mut [u8], header: usize, source: IpAddr, destination: IpAddr) {
    for (at, address) in [(ipv4::SOURCE, source), (ipv4::DESTINATION, destination)] {
        if let IpAddr::V4(address) = address {
            ipv4::set_address(bytes, header + at, address);
        }
    }
}

/// Ports and checksum of TCP or UDP. The field of a partial checksum holds the pseudo-header's sum: addresses change it,
/// not inverted, and ports are not in it.
fn set_ports(bytes: &mut [u8], at: usize, checksum: usize, to: &FiveTuple, addresses: Delta, is_partial: bool) {
    let old = |bytes: &[u8], at| ipv4::word_at(bytes, at).unwrap_or_default();
    let delta = addresses.word(old(bytes, at), to.source_port).word(old(bytes, at + 2), to.destination_port);
    ipv4::set_word(bytes, at, to.source_port);
    ipv4::set_word(bytes, at + 2, to.destination_port);
    if is_partial {
        let sum = old(bytes, checksum);
        ipv4::set_word(bytes, checksum, addresses.apply_to_sum(sum));
    } else {
        ipv4::update(bytes, checksum, delta);
    }
}

/// The packet that an error quotes becomes what the error's receiver sent (RFC 5508 REQ-4 and REQ-5). The error itself
/// is small and its checksum was right, so it is summed again.
fn restore_quoted(bytes: &mut [u8], icmp: usize, quoted: &Quoted, error: &FiveTuple, destination: Option<IpAddr>) {
    let (header, at) = (quoted.at(), quoted.transport_at());
    let address = |at| ipv4::address_at(bytes, header + at).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let old = (IpAddr::V4(address(ipv4::SOURCE)), IpAddr::V4(address(ipv4::DESTINATION)));
    let new = (error.destination, destination.unwrap_or(old.1));
    let addresses = Delta::default().address(old.0, new.0).address(old.1, new.1);
    set_addresses(bytes, header, new.0, new.1);
    ipv4::update(bytes, header + ipv4::CHECKSUM, addresses);
    match bytes[header + ipv4::PROTOCOL] {
        ipv4::TCP => set_quoted_ports(bytes, at, ipv4::TCP_CHECKSUM, error, addresses),
        ipv4::UDP => set_quoted_ports(bytes, at, ipv4::UDP_CHECKSUM, error, addresses),
        ipv4::ICMP => {
            let old = ipv4::word_at(bytes, at + ipv4::ICMP_IDENTIFIER).unwrap_or_default();
            ipv4::set_word(bytes, at + ipv4::ICMP_IDENTIFIER, error.destination_port);
            ipv4::update(bytes, at + ipv4::ICMP_CHECKSUM, Delta::default().word(old, error.destination_port));
        }
        _ => {}
    }
    ipv4::set_word(bytes, icmp + ipv4::ICMP_CHECKSUM, 0);
    let checksum = checksum::of(&bytes[icmp..]);
    ipv4::set_word(bytes, icmp + ipv4::ICMP_CHECKSUM, checksum);
}

/// The quoted packet's ports are the error's, turned round; its checksum may be cut off, or absent.
fn set_quoted_ports(bytes: &mut [u8], at: usize, checksum: usize, error: &FiveTuple, addresses: Delta) {
    let old = |at| ipv4::word_at(bytes, at).unwrap_or_default();
    let delta = addresses.word(old(at), error.destination_port).word(old(at + 2), error.source_port);
    ipv4::set_word(bytes, at, error.destination_port);
    ipv4::set_word(bytes, at + 2, error.source_port);
    if ipv4::word_at(bytes, at + checksum).is_some_and(|word| word != 0 || checksum == ipv4::TCP_CHECKSUM) {
        ipv4::update(bytes, at + checksum, delta);
    }
}

/// Lowers the MSS of a SYN to what fits in `mtu_bytes`, so that path MTU discovery is not needed for TCP, and to what fits
/// into as many segments outside as there are inside: a message that is some bytes longer ends in a segment that is
/// headers for the most part, which is 2 % of a slow link, and 10 % where a message has one packet.
pub(crate) fn clamp_mss(packet: &mut Packet<Parsed>, mtu_bytes: u16) {
    let parsed = *packet.proof();
    if !matches!(parsed.kind(), Kind::Tcp(flags) if flags.syn()) {
        return;
    }
    let is_partial = packet.offload().checksum != Checksum::Complete;
    let (tcp, bytes) = (parsed.transport_at(), packet.bytes_mut());
    let end = tcp + usize::from(bytes[tcp + 12] >> 4) * 4;
    let fits_around = mtu_bytes.max(LINK_MTU_BYTES) - MSS_HEADERS_BYTES - AROUND_BYTES;
    let mss_max = mtu_bytes.saturating_sub(MSS_HEADERS_BYTES).min(fits_around);
    let Some(at) = mss_at(&bytes[..end], tcp + TCP_HEADER_BYTES) else { return };
    let Some(mss) = ipv4::word_at(bytes, at).filter(|&mss| mss > mss_max) else { return };
    ipv4::set_word(bytes, at, mss_max);
    if !is_partial {
        // At an odd place its bytes are in two words: the sum has them swapped (RFC 1071, 2 B).
        let (old, new) =
            if (at - tcp).is_multiple_of(2) { (mss, mss_max) } else { (mss.swap_bytes(), mss_max.swap_bytes()) };
        ipv4::update(bytes, tcp + ipv4::TCP_CHECKSUM, Delta::default().word(old, new));
    }
}

/// Where the value of the MSS option is.
fn mss_at(header: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *header.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if kind == OPTION_MSS {
                    return (len == OPTION_MSS_BYTES && at + len <= header.len()).then_some(at + 2);
                }
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
    }
}
