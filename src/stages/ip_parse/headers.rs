//! Validation of an IPv4 packet's headers: the one place where bytes become a proof.

use std::net::Ipv4Addr;

use etherparse::{Ipv4HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};

use super::{FiveTuple, Kind, Parsed, Quoted, Reason, TcpFlags, Transport};
use crate::checksum;
use crate::ipv4;
use crate::offload;
use crate::packet::{Family, Offload, PACKET_BYTES_MAX, Packet, Raw};

/// Bytes of the quoted packet's payload that every ICMP error has (RFC 792).
const QUOTED_PAYLOAD_BYTES_MIN: usize = 8;

/// IP options (RFC 791, 3.1).
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

/// Validates the headers and cuts off what is behind the packet's own length (a link's padding).
pub(crate) fn parse(mut packet: Packet<Raw>) -> Result<Packet<Parsed>, Reason> {
    let (parsed, len) = validate(packet.bytes(), packet.offload())?;
    packet.buf_mut().truncate(len);
    Ok(packet.prove(parsed))
}

fn validate(bytes: &[u8], offload: Offload) -> Result<(Parsed, usize), Reason> {
    match bytes.first().ok_or(Reason::Malformed)? >> 4 {
        4 => {}
        6 => return Err(Reason::Family),
        _ => return Err(Reason::Malformed),
    }
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| Reason::Malformed)?;
    let (transport, len) = (header.slice().len(), usize::from(header.total_len()));
    if len < transport || len > bytes.len() {
        return Err(Reason::Malformed);
    }
    if !checksum::is_valid(header.slice()) {
        return Err(Reason::BadChecksum);
    }
    judge_options(header.options())?;
    if header.source() == header.destination() {
        return Err(Reason::Malformed);
    }
    if header.is_fragmenting_payload() {
        return Err(Reason::Fragment);
    }
    // Padding is behind single packets; a super-packet would weigh less without it than it came in with.
    if offload.segment_bytes > 0 && len < bytes.len() {
        return Err(Reason::BadOffload);
    }
    let (protocol, bytes) = (header.protocol().0, &bytes[..len]);
    let layer = judge_transport(protocol, bytes, &header)?;
    // Segments larger than the MTU are told by ICMP, where the MTU is known.
    offload::check(bytes, offload, PACKET_BYTES_MAX).map_err(|_| Reason::BadOffload)?;
    let five_tuple = FiveTuple {
        protocol,
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        source_port: layer.ports.0,
        destination_port: layer.ports.1,
    };
    Ok((Parsed { family: Family::V4, five_tuple, transport: transport as u16, kind: layer.kind }, len))
}

/// The options must be well formed, and none may route: a source route would walk around the egress policy (RFC 7126,
/// 4.3 and 4.4).
fn judge_options(mut options: &[u8]) -> Result<(), Reason> {
    while let [kind, rest @ ..] = options {
        options = match *kind {
            OPTION_END => return Ok(()),
            OPTION_NOP => rest,
            OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE => return Err(Reason::SourceRoute),
            _ => {
                let len = usize::from(*rest.first().ok_or(Reason::Malformed)?);
                if len < 2 {
                    return Err(Reason::Malformed);
                }
                options.get(len..).ok_or(Reason::Malformed)?
            }
        };
    }
    Ok(())
}

/// What the layer above IP says.
struct Layer {
    kind: Kind,
    ports: (u16, u16),
}

fn judge_transport(protocol: u8, bytes: &[u8], header: &Ipv4HeaderSlice<'_>) -> Result<Layer, Reason> {
    let transport = header.slice().len();
    let payload = &bytes[transport..];
    match protocol {
        ipv4::TCP => {
            let tcp = TcpHeaderSlice::from_slice(payload).map_err(|_| Reason::Malformed)?;
            let ports = (tcp.source_port(), tcp.destination_port());
            let kind = Kind::Tcp(TcpFlags(tcp.slice()[13]));
            Ok(Layer { kind, ports })
        }
        ipv4::UDP => {
            let udp = UdpHeaderSlice::from_slice(payload).map_err(|_| Reason::Malformed)?;
            let len = usize::from(udp.length());
            if len < udp.slice().len() || len > payload.len() {
                return Err(Reason::Malformed);
            }
            let ports = (udp.source_port(), udp.destination_port());
            Ok(Layer { kind: Kind::Udp, ports })
        }
        ipv4::ICMP => judge_icmp(payload, transport, header.destination_addr()),
        _ => Ok(Layer { kind: Kind::Other, ports: (0, 0) }),
    }
}

fn judge_icmp(icmp: &[u8], transport: usize, destination: Ipv4Addr) -> Result<Layer, Reason> {
    if icmp.len() < ipv4::ICMP_HEADER_BYTES {
        return Err(Reason::Malformed);
    }
    if let Some(reply) = query(icmp[0]) {
        let identifier = ipv4::word_at(icmp, ipv4::ICMP_IDENTIFIER).ok_or(Reason::Malformed)?;
        return Ok(Layer { kind: Kind::Query { reply }, ports: (identifier, identifier) });
    }
    if !matches!(icmp[0], ipv4::ICMP_UNREACHABLE | ipv4::ICMP_TIME_EXCEEDED | ipv4::ICMP_PARAMETER_PROBLEM) {
        return Err(Reason::IcmpType);
    }
    if !checksum::is_valid(icmp) {
        return Err(Reason::BadChecksum);
    }
    let quoted = &icmp[ipv4::ICMP_HEADER_BYTES..];
    judge_quoted(quoted, transport + ipv4::ICMP_HEADER_BYTES, destination)
}

/// Whether an ICMP type is a query's request (false) or reply (true); `None` for what is no query.
fn query(kind: u8) -> Option<bool> {
    match kind {
        ipv4::ICMP_ECHO | ipv4::ICMP_TIMESTAMP => Some(false),
        ipv4::ICMP_ECHO_REPLY | ipv4::ICMP_TIMESTAMP_REPLY => Some(true),
        _ => None,
    }
}

/// The packet that an ICMP error quotes, `at` from the error's first byte (RFC 5508 REQ-3). Its transport checksum is not
/// judged, and its end may be missing.
fn judge_quoted(quoted: &[u8], at: usize, destination: Ipv4Addr) -> Result<Layer, Reason> {
    let header = Ipv4HeaderSlice::from_slice(quoted).map_err(|_| Reason::Malformed)?;
    if !checksum::is_valid(header.slice()) {
        return Err(Reason::BadChecksum);
    }
    // An error goes to whom it quotes.
    if header.source_addr() != destination {
        return Err(Reason::Malformed);
    }
    if header.fragments_offset().value() != 0 {
        return Err(Reason::Fragment);
    }
    let payload = &quoted[header.slice().len()..];
    if payload.len() < QUOTED_PAYLOAD_BYTES_MIN {
        return Err(Reason::Malformed);
    }
    let word = |at| ipv4::word_at(payload, at).ok_or(Reason::Malformed);
    let (transport, ports) = match header.protocol().0 {
        ipv4::TCP => (Some(Transport::Tcp), (word(0)?, word(2)?)),
        ipv4::UDP => (Some(Transport::Udp), (word(0)?, word(2)?)),
        ipv4::ICMP => {
            // No error is ever about an error (RFC 1122, 3.2.2).
            query(payload[0]).ok_or(Reason::Malformed)?;
            let identifier = word(ipv4::ICMP_IDENTIFIER)?;
            (Some(Transport::Query), (identifier, identifier))
        }
        _ => (None, (0, 0)),
    };
    let quoted = Quoted { at: at as u16, header_bytes: header.slice().len() as u16, transport };
    Ok(Layer { kind: Kind::Error(quoted), ports: (ports.1, ports.0) })
}
