//! The classic BPF filter of the capture: what a packet socket shows the gateway, and what stays with the host.
//!
//! It is compiled by a pure function, which a little interpreter tests over made-up packets. It steers only: ip-parse
//! judges what it lets through.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// One instruction (linux/filter.h), in the kernel's layout.
pub type Instruction = libc::sock_filter;

/// The most addresses that fit: every conditional jump spans at most 255 instructions.
pub const ADDRESSES_MAX: usize = 128;

const ACCEPT: u32 = u32::MAX;
const PROTOCOL_ICMP: u32 = 1;
const PROTOCOL_TCP: u32 = 6;
const PROTOCOL_UDP: u32 = 17;
/// ICMP types (IANA): the replies to queries (echo, timestamp), and the errors that quote a packet.
const ICMP_REPLIES: [u32; 2] = [0, 14];
const ICMP_ERRORS: [u32; 3] = [3, 11, 12];
/// More fragments, or an offset other than zero (RFC 791, 3.1).
const FRAGMENT_BITS: u32 = 0x3fff;
const LATER_FRAGMENT_BITS: u32 = 0x1fff;
const ICMP_HEADER_BYTES: u32 = 8;

// Operations: class, size and mode, or class, operation and operand.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_X: u16 = 0x48;
const LOAD_BYTE_X: u16 = 0x50;
const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const ADD_X: u16 = 0x0c;
const MOVE_TO_X: u16 = 0x07;
const RETURN: u16 = 0x06;

/// Where a jump goes. The numbers are resolved when the program is whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Ours,
    Ports,
    PortsBelow,
    Icmp,
    IcmpReply,
    IcmpError,
    InnerPorts,
    Accept,
    Drop,
}

#[derive(Default)]
struct Assembler {
    code: Vec<(u16, u32, To, To)>,
    labels: Vec<(To, usize)>,
}

impl Assembler {
    fn op(&mut self, code: u16, k: u32) {
        self.code.push((code, k, To::Next, To::Next));
    }

    fn jump(&mut self, code: u16, k: u32, yes: To, no: To) {
        self.code.push((code, k, yes, no));
    }

    fn label(&mut self, label: To) {
        self.labels.push((label, self.code.len()));
    }

    /// Resolves the labels; all jumps lead forward.
    fn finish(self) -> Vec<Instruction> {
        let distance = |from: usize, to: To| {
            let found = self.labels.iter().find(|(label, _)| *label == to);
            found.map_or(0, |(_, at)| (at - from - 1) as u32)
        };
        let one = |(at, &(code, k, yes, no)): (usize, &(u16, u32, To, To))| match code {
            JUMP => Instruction { code, jt: 0, jf: 0, k: distance(at, yes) },
            _ => Instruction { code, jt: distance(at, yes) as u8, jf: distance(at, no) as u8, k },
        };
        self.code.iter().enumerate().map(one).collect()
    }
}

/// A filter for IPv4 packets behind a link header of `link_bytes`: to one of `addresses` (at most [`ADDRESSES_MAX`] are
/// taken), and TCP or UDP to one of `ports`, or an ICMP echo or timestamp reply with such an identifier, or an ICMP error
/// that quotes such a port, or any fragment.
pub fn capture_filter(link_bytes: u32, addresses: &[Ipv4Addr], ports: &RangeInclusive<u16>) -> Vec<Instruction> {
    let mut asm = Assembler::default();
    destination_is_one_of(&mut asm, link_bytes, addresses);
    asm.label(To::Ours);
    asm.op(LOAD_HALF, link_bytes + 6);
    asm.jump(JUMP_ANY_BIT, FRAGMENT_BITS, To::Accept, To::Next);
    asm.op(LOAD_X_HEADER_LENGTH, link_bytes);
    asm.op(LOAD_BYTE, link_bytes + 9);
    asm.jump(JUMP_EQUAL, PROTOCOL_TCP, To::Ports, To::Next);
    asm.jump(JUMP_EQUAL, PROTOCOL_UDP, To::Ports, To::Next);
    asm.jump(JUMP_EQUAL, PROTOCOL_ICMP, To::Icmp, To::Drop);
    asm.label(To::Ports);
    asm.op(LOAD_HALF_X, link_bytes + 2);
    asm.jump(JUMP, 0, To::PortsBelow, To::Next);
    icmp(&mut asm, link_bytes);
    asm.label(To::PortsBelow);
    asm.jump(JUMP_AT_LEAST, u32::from(*ports.start()), To::Next, To::Drop);
    asm.jump(JUMP_GREATER, u32::from(*ports.end()), To::Drop, To::Accept);
    asm.label(To::Accept);
    asm.op(RETURN, ACCEPT);
    asm.label(To::Drop);
    asm.op(RETURN, 0);
    asm.finish()
}

fn destination_is_one_of(asm: &mut Assembler, link_bytes: u32, addresses: &[Ipv4Addr]) {
    asm.op(LOAD_WORD, link_bytes + 16);
    for address in addresses.iter().take(ADDRESSES_MAX) {
        asm.jump(JUMP_EQUAL, address.to_bits(), To::Ours, To::Next);
    }
    asm.jump(JUMP, 0, To::Drop, To::Next);
}

/// Leaves an identifier or a quoted source port in the accumulator, for the comparison with the range below.
fn icmp(asm: &mut Assembler, link_bytes: u32) {
    asm.label(To::Icmp);
    asm.op(LOAD_BYTE_X, link_bytes);
    for error in ICMP_ERRORS {
        asm.jump(JUMP_EQUAL, error, To::IcmpError, To::Next);
    }
    for reply in ICMP_REPLIES {
        asm.jump(JUMP_EQUAL, reply, To::IcmpReply, To::Next);
    }
    asm.jump(JUMP, 0, To::Drop, To::Next);
    asm.label(To::IcmpReply);
    asm.op(LOAD_HALF_X, link_bytes + 4);
    asm.jump(JUMP, 0, To::PortsBelow, To::Next);
    asm.label(To::IcmpError);
    // X becomes the outer header's length plus the inner one's, so that the same offsets reach past both.
    let inner = link_bytes + ICMP_HEADER_BYTES;
    asm.op(LOAD_HALF_X, inner + 6);
    asm.jump(JUMP_ANY_BIT, LATER_FRAGMENT_BITS, To::Drop, To::Next);
    asm.op(LOAD_BYTE_X, inner + 9);
    asm.jump(JUMP_EQUAL, PROTOCOL_ICMP, To::Next, To::InnerPorts);
    inner_transport(asm, inner);
    asm.op(LOAD_HALF_X, inner + 4);
    asm.jump(JUMP, 0, To::PortsBelow, To::Next);
    asm.label(To::InnerPorts);
    inner_transport(asm, inner);
    asm.op(LOAD_HALF_X, inner);
}

fn inner_transport(asm: &mut Assembler, inner: u32) {
    asm.op(LOAD_BYTE_X, inner);
    asm.op(AND, 0x0f);
    asm.op(SHIFT_LEFT, 2);
    asm.op(ADD_X, 0);
    asm.op(MOVE_TO_X, 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const LINK_BYTES: usize = 14;

    /// Runs a program as the kernel would: a load outside the packet drops it.
    fn accepts(program: &[Instruction], packet: &[u8]) -> bool {
        run(program, packet).is_some_and(|kept| kept > 0)
    }

    fn run(program: &[Instruction], packet: &[u8]) -> Option<u32> {
        let load = |at: u32, len: usize| {
            let bytes = packet.get(at as usize..at as usize + len)?;
            Some(bytes.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
        };
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
            match code {
                LOAD_WORD => a = load(k, 4)?,
                LOAD_HALF => a = load(k, 2)?,
                LOAD_BYTE => a = load(k, 1)?,
                LOAD_HALF_X => a = load(x + k, 2)?,
                LOAD_BYTE_X => a = load(x + k, 1)?,
                LOAD_X_HEADER_LENGTH => x = (load(k, 1)? & 0x0f) * 4,
                JUMP => at += k as usize,
                JUMP_EQUAL => jump(a == k),
                JUMP_GREATER => jump(a > k),
                JUMP_AT_LEAST => jump(a >= k),
                JUMP_ANY_BIT => jump(a & k != 0),
                AND => a &= k,
                SHIFT_LEFT => a <<= k,
                ADD_X => a = a.wrapping_add(x),
                MOVE_TO_X => x = a,
                RETURN => return Some(k),
                other => panic!("the compiler made an unknown instruction {other:#x}"),
            }
        }
    }

    fn filter() -> Vec<Instruction> {
        capture_filter(LINK_BYTES as u32, &[Ipv4Addr::new(192, 0, 2, 1), OURS], &(20_000..=29_999))
    }

    /// An IPv4 header of `words` 32-bit words, to `destination`.
    fn ip(words: u8, protocol: u8, fragment: u16, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut header = vec![0; usize::from(words) * 4];
        (header[0], header[9]) = (0x40 | words, protocol);
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[12..16].copy_from_slice(&source.octets());
        header[16..20].copy_from_slice(&destination.octets());
        header
    }

    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        [&[0_u8; LINK_BYTES] as &[u8]].iter().chain(parts).flat_map(|part| part.iter().copied()).collect()
    }

    fn ports(source: u16, destination: u16) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&source.to_be_bytes());
        bytes[2..4].copy_from_slice(&destination.to_be_bytes());
        bytes
    }

    #[test]
    fn tcp_and_udp_to_our_address_and_ports_are_seen_whatever_the_header_length() {
        for (protocol, words) in [(6, 5), (17, 5), (6, 15), (17, 6)] {
            let header = ip(words, protocol, 0, OTHER, OURS);
            for (port, seen) in [(19_999, false), (20_000, true), (29_999, true), (30_000, false)] {
                assert_eq!(accepts(&filter(), &frame(&[&header, &ports(443, port)])), seen, "port {port}");
            }
        }
    }

    #[test]
    fn what_is_for_another_address_or_another_protocol_stays_with_the_host() {
        assert!(!accepts(&filter(), &frame(&[&ip(5, 6, 0, OURS, OTHER), &ports(443, 20_000)])));
        assert!(!accepts(&filter(), &frame(&[&ip(5, 47, 0, OTHER, OURS), &ports(443, 20_000)])));
    }

    #[test]
    fn every_fragment_to_our_address_is_seen() {
        for fragment in [0x2000, 0x2001, 0x0001] {
            assert!(accepts(&filter(), &frame(&[&ip(5, 17, fragment, OTHER, OURS)])));
        }
        assert!(
            !accepts(&filter(), &frame(&[&ip(5, 17, 0x4000, OTHER, OURS), &ports(443, 80)])),
            "don't fragment is no fragment"
        );
    }

    #[test]
    fn replies_to_queries_are_told_apart_by_identifier_and_requests_stay_with_the_host() {
        let query = |kind: u8, identifier: u16| {
            let [high, low] = identifier.to_be_bytes();
            frame(&[&ip(5, 1, 0, OTHER, OURS), &[kind, 0, 0, 0, high, low, 0, 1]])
        };
        for (request, reply) in [(8, 0), (13, 14)] {
            assert!(accepts(&filter(), &query(reply, 20_000)));
            assert!(!accepts(&filter(), &query(reply, 19_999)));
            assert!(!accepts(&filter(), &query(request, 20_000)));
        }
    }

    #[test]
    fn icmp_errors_are_told_apart_by_the_quoted_port_or_identifier() {
        for (kind, words) in [(3, 5), (11, 5), (12, 7)] {
            let error = |protocol: u8, fragment: u16, quoted: [u8; 8]| {
                let inner = ip(words, protocol, fragment, OURS, OTHER);
                frame(&[&ip(6, 1, 0, OTHER, OURS), &[kind, 0, 0, 0, 0, 0, 0, 0], &inner, &quoted])
            };
            let query = |identifier: u16| {
                let [high, low] = identifier.to_be_bytes();
                [8, 0, 0, 0, high, low, 0, 1]
            };
            assert!(accepts(&filter(), &error(6, 0, ports(20_000, 443))));
            assert!(!accepts(&filter(), &error(17, 0, ports(19_999, 443))));
            assert!(accepts(&filter(), &error(1, 0, query(25_000))));
            assert!(!accepts(&filter(), &error(1, 0, query(5))));
            assert!(!accepts(&filter(), &error(17, 1, ports(20_000, 443))), "a later fragment has no ports to quote");
        }
    }

    #[test]
    fn no_jump_of_the_largest_filter_is_too_long() {
        let addresses: Vec<Ipv4Addr> = (0..ADDRESSES_MAX as u32).map(Ipv4Addr::from_bits).collect();
        let program = capture_filter(LINK_BYTES as u32, &addresses, &(1..=u16::MAX));
        for address in [addresses[0], addresses[ADDRESSES_MAX - 1]] {
            assert!(accepts(&program, &frame(&[&ip(5, 6, 0, OTHER, address), &ports(1, 1)])));
        }
        assert!(!accepts(&program, &frame(&[&ip(5, 6, 0, OTHER, OURS), &ports(1, 1)])));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_leaving_the_packet(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            run(&filter(), &bytes);
        }
    }
}
