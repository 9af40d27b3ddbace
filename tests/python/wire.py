"""The bytes of docs/protocol.md: numbers, capsules, proofs, and what a gateway says. No socket and no clock."""

import base64
import hashlib
import hmac
import ipaddress
import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

VERSION = 1
AUTH_LABEL = b"wstether v1 auth"
NO_FEATURES, SUPER_PACKETS = 0, 1
ONLY_LINK = 0
WHOLE_PACKET, SUPER_PACKET = 0, 2

DATAGRAM, ADDRESS_ASSIGN, ADDRESS_REQUEST, ROUTE_ADVERTISEMENT = 0x00, 0x01, 0x02, 0x03
CHALLENGE, HELLO, WELCOME, REFUSAL = 0x777301, 0x777302, 0x777303, 0x777304
CREDIT, ACK, CLOSE = 0x777305, 0x777306, 0x777307
KNOWN = {DATAGRAM, ADDRESS_ASSIGN, ADDRESS_REQUEST, ROUTE_ADVERTISEMENT, CHALLENGE, HELLO, WELCOME, REFUSAL, CREDIT,
         ACK, CLOSE}

REFUSALS = {1: "bad_credential", 2: "unsupported_version", 3: "busy", 4: "already_connected", 5: "shutting_down",
            6: "no_address", 7: "bad_handshake"}
CLOSES = {0: "done", 1: "shutting_down", 2: "protocol_error", 3: "revoked", 4: "replaced", 5: "timed_out",
          6: "overloaded"}
BY_THE_USER, BY_PROTOCOL_ERROR = 0, 2

MESSAGE_BYTES_UNTIL_WELCOME = 4096
TICKET_BYTES_MAX = 256
TEXT_BYTES_MAX = 512
NONCE_BYTES = PROOF_BYTES = 32


class ProtocolError(Exception):
    """The gateway broke the protocol. `code` is what the WebSocket is closed with."""

    def __init__(self, what, code=1002):
        super().__init__(what)
        self.code = code


class Refused(Exception):
    """The gateway sent REFUSAL or CLOSE."""

    def __init__(self, what):
        super().__init__(str(what))
        self.what = what


# Numbers and capsules


def varint(number):
    """The shortest form (RFC 9000, 16)."""
    for bits, mark in ((6, 0x00), (14, 0x40), (30, 0x80), (62, 0xC0)):
        if number < 1 << bits:
            size = (bits + 2) // 8
            encoded = bytearray(number.to_bytes(size, "big"))
            encoded[0] |= mark
            return bytes(encoded)
    raise ValueError(number)


def capsule(kind, value):
    return varint(kind) + varint(len(value)) + value


class Fields:
    """Reads the fields of a value, or the capsules of a message, from first to last."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        taken = self.data[self.at : self.at + count]
        if len(taken) < count:
            raise ProtocolError("a value is shorter than its fields")
        self.at += count
        return taken

    def rest(self):
        return self.take(len(self.data) - self.at)

    def byte(self):
        return self.take(1)[0]

    def any_varint(self):
        first = self.byte()
        return int.from_bytes(bytes([first & 0x3F]) + self.take((1 << (first >> 6)) - 1), "big")

    def varint(self, low=0, high=(1 << 62) - 1):
        start = self.at
        number = self.any_varint()
        if self.data[start : self.at] != varint(number) or not low <= number <= high:
            raise ProtocolError(f"{number} is not in its shortest form, or not within {low} to {high}")
        return number

    def address(self):
        version = self.byte()
        if version not in (4, 6):
            raise ProtocolError(f"IP version {version}")
        return ipaddress.ip_address(self.take(4 if version == 4 else 16))

    def addresses(self):
        return [self.address() for _ in range(self.varint(high=16))]

    def text(self):
        text = self.rest()
        if len(text) > TEXT_BYTES_MAX:
            raise ProtocolError("a text above 512 bytes")
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("a text that is not UTF-8") from error

    def more(self):
        return self.at < len(self.data)

    def end(self):
        if self.more():
            raise ProtocolError("a value is longer than its fields")


def capsules(message):
    """Yields type, value, and length on the wire of each capsule."""
    fields = Fields(message)
    while fields.more():
        start = fields.at
        kind = fields.any_varint()
        value = fields.take(fields.any_varint())
        yield kind, value, fields.at - start


class Offload(NamedTuple):
    """What stands in front of a super-packet. The checksum is complete where `start` is None."""

    segment_bytes: int
    header_bytes: int
    start: int | None = None
    offset: int | None = None

    def encoded(self):
        state = b"\0" if self.start is None else struct.pack("!BHH", 1, self.start, self.offset)
        return struct.pack("!HH", self.segment_bytes, self.header_bytes) + state

    @classmethod
    def read(cls, fields):
        sizes = struct.unpack("!HH", fields.take(4))
        if (state := fields.byte()) not in (0, 1):
            raise ProtocolError(f"checksum state {state}")
        return cls(*sizes, *(struct.unpack("!HH", fields.take(4)) if state else ()))


# The credential and its proofs


def mac(key, message):
    return hmac.digest(key, message, "sha256")


class Credential:
    def __init__(self, token):
        match = re.fullmatch(r"wst1_([a-z0-9]{8})_([A-Za-z0-9_-]{43})", token)
        if not match:
            raise ValueError("not a token")
        self.id = match[1].encode()
        self.secret = base64.urlsafe_b64decode(match[2] + "=")

    def client_proof(self, hello_auth):
        client_key = mac(self.secret, b"Client Key")
        signature = mac(hashlib.sha256(client_key).digest(), hello_auth)
        return bytes(a ^ b for a, b in zip(client_key, signature))

    def server_proof(self, welcome_auth):
        return mac(mac(self.secret, b"Server Key"), welcome_auth)


# What the gateway says


def check_challenge(value):
    fields = Fields(value)
    if fields.any_varint() != VERSION:
        raise ProtocolError("a CHALLENGE of another version")
    fields.take(NONCE_BYTES)
    fields.end()


@dataclass
class Terms:
    session: bytes
    features: int
    mtu: int
    gateway: list
    dns: list
    credit: int
    message_bytes_max: int
    keep_alive_ms: int
    ticket_lifetime_ms: int
    ticket: bytes
    proof: bytes

    @classmethod
    def read(cls, value, features, mtu_max):
        fields, below_2_32 = Fields(value), (1 << 32) - 1
        terms = cls(
            session=fields.take(16),
            features=fields.varint(high=features),
            mtu=fields.varint(1280, mtu_max),
            gateway=fields.addresses(),
            dns=fields.addresses(),
            credit=fields.varint(),
            message_bytes_max=fields.varint(high=below_2_32),
            keep_alive_ms=fields.varint(high=below_2_32),
            ticket_lifetime_ms=fields.varint(high=below_2_32),
            ticket=fields.take(fields.varint(high=TICKET_BYTES_MAX)),
            proof=fields.take(PROOF_BYTES),
        )
        fields.end()
        return terms


def read_addresses(value):
    fields, addresses = Fields(value), []
    while fields.more():
        fields.any_varint()  # which request this answers
        address, bits = fields.address(), fields.byte()
        try:
            addresses.append(ipaddress.ip_network((address, bits)))
        except ValueError as error:
            raise ProtocolError(f"an address that is none: {error}") from error
    return addresses


def read_routes(value):
    fields, routes = Fields(value), []
    while fields.more():
        start = fields.address()
        end = ipaddress.ip_address(fields.take(len(start.packed)))
        protocol = fields.byte()
        if end < start:
            raise ProtocolError("a route that ends before it starts")
        order = (start.version, protocol, start)
        if routes and order <= (routes[-1][0].version, routes[-1][2], routes[-1][1]):
            raise ProtocolError("routes that are not sorted, or overlap")
        routes.append((start, end, protocol))
    return routes


def read_refusal(value):
    fields = Fields(value)
    reason, retry_after_ms = fields.varint(), fields.varint(high=(1 << 32) - 1)
    return {"by": "REFUSAL", "reason": REFUSALS.get(reason, reason), "retry_after_ms": retry_after_ms,
            "text": fields.text()}


def read_close(value):
    fields = Fields(value)
    reason = fields.varint()
    return {"by": "CLOSE", "reason": CLOSES.get(reason, reason), "text": fields.text()}


def read_offset(value):
    """What CREDIT and ACK hold."""
    fields = Fields(value)
    offset = fields.varint()
    fields.end()
    return offset


def from_base64(text):
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProtocolError("text that is not base64", 1007) from error
    if base64.b64encode(decoded).decode() != text:
        raise ProtocolError("base64 with unused bits that are not zero", 1007)
    return decoded
