"""IPv4 packets, built and judged by hand: ICMP echo (RFC 792), UDP (RFC 768) and TCP (RFC 9293)."""

import ipaddress
import struct
from typing import NamedTuple

ICMP, TCP, UDP = 1, 6, 17
ECHO_REPLY, ECHO_REQUEST = 0, 8
ICMP_ERRORS = {3: "unreachable", 11: "time_exceeded", 12: "parameter_problem"}

IP_HEADER_BYTES, TRANSPORT_HEADER_BYTES = 20, 8
UDP_HEADERS_BYTES = IP_HEADER_BYTES + TRANSPORT_HEADER_BYTES
TCP_HEADER_BYTES = 20
TCP_HEADERS_BYTES = IP_HEADER_BYTES + TCP_HEADER_BYTES
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10


class IcmpError(NamedTuple):
    """An ICMP error about a packet of ours."""

    by: str
    reason: str
    code: int
    source: str


class Answer(NamedTuple):
    """A packet that came for us: what it answers, its source, and its data or the error."""

    to: tuple
    source: str
    said: bytes | IcmpError


def checksum(data):
    """The Internet checksum (RFC 1071): 0 over data that has its right one inside."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(addresses, protocol, length):
    return addresses + struct.pack("!BBH", 0, protocol, length)


def transport_checksum(source, target, protocol, without, partial):
    """Of a transport header with its payload, whose own field is 0; a partial one is the pseudo-header's sum."""
    pseudo = pseudo_header(source.packed + target.packed, protocol, len(without))
    return ~checksum(pseudo) & 0xFFFF if partial else checksum(pseudo + without)


def ipv4(protocol, source, target, payload, ttl=64):
    """A packet that must not be fragmented."""

    def header(sum_):
        return struct.pack("!BBHHHBBH4s4s", 0x45, 0, IP_HEADER_BYTES + len(payload), 0, 0x4000, ttl, protocol, sum_,
                           source.packed, target.packed)

    return header(checksum(header(0))) + payload


def echo_request(source, target, identifier, sequence, data, ttl):
    def message(sum_):
        return struct.pack("!BBHHH", ECHO_REQUEST, 0, sum_, identifier, sequence) + data

    return ipv4(ICMP, source, target, message(checksum(message(0))), ttl)


def udp(source, source_port, target, target_port, data, partial=False):
    def datagram(sum_):
        return struct.pack("!HHHH", source_port, target_port, TRANSPORT_HEADER_BYTES + len(data), sum_) + data

    return ipv4(UDP, source, target, datagram(transport_checksum(source, target, UDP, datagram(0), partial) or 0xFFFF))


class Segment(NamedTuple):
    """What a TCP segment says."""

    source_port: int
    target_port: int
    sequence: int
    acknowledgement: int
    flags: int
    window: int
    options: bytes = b""
    data: bytes = b""


def tcp(source, target, segment, partial=False):
    said, header_words = segment, (TCP_HEADER_BYTES + len(segment.options)) // 4

    def encoded(sum_):
        return struct.pack("!HHIIBBHHH", said.source_port, said.target_port, said.sequence, said.acknowledgement,
                           header_words << 4, said.flags, said.window, sum_, 0) + said.options + said.data

    return ipv4(TCP, source, target, encoded(transport_checksum(source, target, TCP, encoded(0), partial)))


def read_tcp(packet):
    """What a whole and sound segment says; None for all others."""
    if len(packet) < TCP_HEADERS_BYTES or packet[0] != 0x45 or checksum(packet[:IP_HEADER_BYTES]) or packet[9] != TCP:
        return None
    body = packet[IP_HEADER_BYTES:]
    if int.from_bytes(packet[2:4], "big") != len(packet) or checksum(pseudo_header(packet[12:20], TCP, len(body)) + body):
        return None
    header_bytes = (body[12] >> 4) * 4
    source, target, sequence, acknowledgement = struct.unpack("!HHII", body[:12])
    flags, window = body[13], int.from_bytes(body[14:16], "big")
    return Segment(source, target, sequence, acknowledgement, flags, window, body[TCP_HEADER_BYTES:header_bytes],
                   body[header_bytes:])


def datagrams(packet, size):
    """The UDP packets that a super-packet of datagrams of `size` bytes stands for; 0: it is one, without its checksum."""
    source, target = (ipaddress.IPv4Address(packet[at : at + 4]) for at in (12, 16))
    source_port, target_port = struct.unpack("!HH", packet[IP_HEADER_BYTES : IP_HEADER_BYTES + 4])
    data = packet[UDP_HEADERS_BYTES:]
    return [udp(source, source_port, target, target_port, data[at : at + (size or len(data))])
            for at in range(0, len(data), size or len(data))]


def read(packet):
    """What a whole and sound packet answers; None for all others."""
    if len(packet) < IP_HEADER_BYTES or packet[0] != 0x45 or checksum(packet[:IP_HEADER_BYTES]):
        return None
    total, protocol = int.from_bytes(packet[2:4], "big"), packet[9]
    source, body = str(ipaddress.ip_address(packet[12:16])), packet[IP_HEADER_BYTES:]
    if total != len(packet) or len(body) < TRANSPORT_HEADER_BYTES:
        return None
    if protocol == ICMP and checksum(body) == 0:
        return read_icmp(source, body)
    if protocol == UDP:
        return read_udp(source, packet[12:20], body)
    return None


def read_udp(source, addresses, body):
    source_port, port, length, sum_ = struct.unpack("!HHHH", body[:8])
    if length != len(body) or (sum_ and checksum(pseudo_header(addresses, UDP, length) + body)):
        return None
    return Answer(("udp", port), f"{source}:{source_port}", body[8:])


def read_icmp(source, body):
    kind, code = body[0], body[1]
    if kind == ECHO_REPLY:
        return Answer(("echo", *struct.unpack("!HH", body[4:8])), source, body[8:])
    ours = body[8:]
    if kind not in ICMP_ERRORS or len(ours) < UDP_HEADERS_BYTES or ours[0] != 0x45 or checksum(ours[:IP_HEADER_BYTES]):
        return None
    first, _, identifier, sequence = struct.unpack("!HHHH", ours[IP_HEADER_BYTES:UDP_HEADERS_BYTES])
    to = ("udp", first) if ours[9] == UDP else ("echo", identifier, sequence)
    return Answer(to, source, IcmpError("ICMP", ICMP_ERRORS[kind], code, source))
