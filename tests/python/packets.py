"""IPv4 packets, built and judged by hand: ICMP echo (RFC 792) and UDP (RFC 768)."""

import ipaddress
import struct
from typing import NamedTuple

ICMP, UDP = 1, 17
ECHO_REPLY, ECHO_REQUEST = 0, 8
ICMP_ERRORS = {3: "unreachable", 11: "time_exceeded", 12: "parameter_problem"}

IP_HEADER_BYTES, TRANSPORT_HEADER_BYTES = 20, 8
UDP_HEADERS_BYTES = IP_HEADER_BYTES + TRANSPORT_HEADER_BYTES


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


def pseudo_header(addresses, length):
    return addresses + struct.pack("!BBH", 0, UDP, length)


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


def udp(source, source_port, target, target_port, data):
    length = TRANSPORT_HEADER_BYTES + len(data)

    def datagram(sum_):
        return struct.pack("!HHHH", source_port, target_port, length, sum_) + data

    pseudo = pseudo_header(source.packed + target.packed, length)
    return ipv4(UDP, source, target, datagram(checksum(pseudo + datagram(0)) or 0xFFFF))


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
    if length != len(body) or (sum_ and checksum(pseudo_header(addresses, length) + body)):
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
