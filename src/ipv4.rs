//! Fields of an IPv4 header (RFC 791, 3.1) and of what follows it, by offset.
//!
//! The writing functions are for packets whose headers were validated: an offset outside the packet is a bug.

use std::net::Ipv4Addr;

use crate::checksum::{self, Delta};

/// Length of a header without options.
pub(crate) const HEADER_BYTES: usize = 20;
/// Differentiated services and ECN (RFC 2474, RFC 3168).
pub(crate) const TOS: usize = 1;
pub(crate) const TOTAL_LENGTH: usize = 2;
pub(crate) const IDENTIFICATION: usize = 4;
pub(crate) const FRAGMENT: usize = 6;
pub(crate) const TTL: usize = 8;
pub(crate) const PROTOCOL: usize = 9;
pub(crate) const CHECKSUM: usize = 10;
pub(crate) const SOURCE: usize = 12;
pub(crate) const DESTINATION: usize = 16;

/// The time to live of packets that are made here (RFC 1700).
pub(crate) const TTL_DEFAULT: u8 = 64;

/// Don't fragment, in the word at [`FRAGMENT`].
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments and the fragment offset, in the word at [`FRAGMENT`]: not 0 in a fragment.
pub(crate) const FRAGMENTED: u16 = 0x3fff;

/// Protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Where the flags are, from the TCP header's first byte.
pub(crate) const TCP_FLAGS: usize = 13;
/// Congestion window reduced (RFC 3168, 6.1).
pub(crate) const TCP_CWR: u8 = 0x80;
/// Where the checksum is, from the TCP header's first byte.
pub(crate) const TCP_CHECKSUM: usize = 16;
/// Where the checksum is, from the UDP header's first byte.
pub(crate) const UDP_CHECKSUM: usize = 6;
/// Where the checksum is, from the ICMP header's first byte.
pub(crate) const ICMP_CHECKSUM: usize = 2;
/// Where the identifier of a query is, from the ICMP header's first byte.
pub(crate) const ICMP_IDENTIFIER: usize = 4;
/// ICMP types (IANA).
pub(crate) const ICMP_ECHO_REPLY: u8 = 0;
pub(crate) const ICMP_UNREACHABLE: u8 = 3;
pub(crate) const ICMP_ECHO: u8 = 8;
pub(crate) const ICMP_TIME_EXCEEDED: u8 = 11;
pub(crate) const ICMP_PARAMETER_PROBLEM: u8 = 12;
pub(crate) const ICMP_TIMESTAMP: u8 = 13;
pub(crate) const ICMP_TIMESTAMP_REPLY: u8 = 14;
/// Length of an ICMP header.
pub(crate) const ICMP_HEADER_BYTES: usize = 8;

/// Where multicast begins, and behind it what is reserved, the broadcast address included (RFC 5771, 3; RFC 1112, 4).
const MULTICAST: u8 = 224;

/// Whether a host of its own can have this address: none of "this network" and loopback (RFC 6890, 2.2.2), nor multicast and
/// what is reserved.
pub(crate) fn is_a_hosts(address: Ipv4Addr) -> bool {
    (1..MULTICAST).contains(&address.octets()[0]) && !address.is_loopback()
}

/// The big-endian word at `at`; `None` outside the bytes.
pub(crate) fn word_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The address at `at`; `None` outside the bytes.
pub(crate) fn address_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}

/// Writes a big-endian word.
pub(crate) fn set_word(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Writes an address.
pub(crate) fn set_address(bytes: &mut [u8], at: usize, address: Ipv4Addr) {
    bytes[at..at + 4].copy_from_slice(&address.octets());
}

/// Updates the checksum field at `at` by `delta`.
pub(crate) fn update(bytes: &mut [u8], at: usize, delta: Delta) {
    let checksum = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    set_word(bytes, at, delta.apply(checksum));
}

/// Writes a word of the header that starts at `header` and updates the header's checksum.
pub(crate) fn change_word(bytes: &mut [u8], header: usize, at: usize, word: u16) {
    let old = u16::from_be_bytes([bytes[header + at], bytes[header + at + 1]]);
    set_word(bytes, header + at, word);
    update(bytes, header + CHECKSUM, Delta::default().word(old, word));
}

/// Writes the time to live and updates the header's checksum.
pub(crate) fn set_ttl(bytes: &mut [u8], ttl: u8) {
    let word = u16::from_be_bytes([ttl, bytes[PROTOCOL]]);
    change_word(bytes, 0, TTL, word);
}

/// The codepoint "congestion experienced", and the bits that hold codepoints (RFC 3168, 5).
const ECN_CONGESTION_EXPERIENCED: u8 = 0b11;

/// Marks congestion, where the sender understands that (RFC 3168), and updates the header's checksum; returns whether it
/// does.
pub(crate) fn mark_congestion(bytes: &mut [u8]) -> bool {
    let is_capable = bytes[TOS] & ECN_CONGESTION_EXPERIENCED != 0;
    if is_capable {
        let word = u16::from_be_bytes([bytes[0], bytes[TOS] | ECN_CONGESTION_EXPERIENCED]);
        change_word(bytes, 0, 0, word);
    }
    is_capable
}

/// A header without options, checksum filled in.
pub(crate) fn header(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload_bytes: usize,
    ttl: u8,
) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = 0x45;
    set_word(&mut header, TOTAL_LENGTH, u16::try_from(HEADER_BYTES + payload_bytes).unwrap_or(u16::MAX));
    set_word(&mut header, FRAGMENT, DONT_FRAGMENT);
    header[TTL] = ttl;
    header[PROTOCOL] = protocol;
    set_address(&mut header, SOURCE, source);
    set_address(&mut header, DESTINATION, destination);
    let checksum = checksum::of(&header);
    set_word(&mut header, CHECKSUM, checksum);
    header
}
