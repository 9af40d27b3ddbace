"""A stranger's wstether client: written from docs/protocol.md alone, with nothing of the Rust code.

It opens a session at a gateway, sends packets that it builds itself, and prints one JSON object. It exits 0 if all that
was asked for succeeded, else 1. It needs Python 3.11 and the package `websockets`.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import os
import re
import struct
import sys
import time
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

VERSION = 1
BINARY, TEXT = "wstether.v1", "wstether.v1.base64"

DATAGRAM, ADDRESS_ASSIGN, ROUTE_ADVERTISEMENT = 0x00, 0x01, 0x03
CHALLENGE, HELLO, WELCOME, REFUSAL = 0x777301, 0x777302, 0x777303, 0x777304
CREDIT, ACK, CLOSE = 0x777305, 0x777306, 0x777307
FROM_GATEWAY = {CREDIT, ACK, CLOSE, DATAGRAM, ADDRESS_ASSIGN, ROUTE_ADVERTISEMENT}
NEVER_FROM_GATEWAY = {0x02, HELLO}

REFUSALS = {1: "bad_credential", 2: "unsupported_version", 3: "busy", 4: "already_connected", 5: "shutting_down",
            6: "no_address", 7: "bad_handshake"}
CLOSES = {0: "done", 1: "shutting_down", 2: "protocol_error", 3: "revoked", 4: "replaced", 5: "timed_out", 6: "overloaded"}

MESSAGE_BYTES_UNTIL_WELCOME = 4096
TICKET_BYTES_MAX = 256
TEXT_BYTES_MAX = 512
ACK_AFTER_BYTES = 32768
ACK_AFTER_S = 0.010
PROOF_BYTES = 32

ICMP, UDP = 1, 17
ECHO_REPLY, ECHO_REQUEST = 0, 8
ICMP_ERRORS = {3, 11, 12}


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
    def read(cls, value, mtu_max):
        fields, below_2_32 = Fields(value), (1 << 32) - 1
        terms = cls(
            session=fields.take(16),
            features=fields.varint(high=0),  # none was offered
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


# Packets


def checksum(data):
    """The Internet checksum (RFC 1071): 0 over what has a right one in it."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol, source, target, payload, ttl=64):
    def header(sum_):
        return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0x4000, ttl, protocol, sum_,
                           source.packed, target.packed)

    return header(checksum(header(0))) + payload


def echo_request(source, target, identifier, sequence, data, ttl):
    def icmp(sum_):
        return struct.pack("!BBHHH", ECHO_REQUEST, 0, sum_, identifier, sequence) + data

    return ipv4(ICMP, source, target, icmp(checksum(icmp(0))), ttl)


def pseudo_header(packet, size):
    return packet[12:20] + struct.pack("!BBH", 0, UDP, size)


def udp(source, source_port, target, target_port, data):
    size = 8 + len(data)

    def datagram(sum_):
        return struct.pack("!HHHH", source_port, target_port, size, sum_) + data

    pseudo = source.packed + target.packed + struct.pack("!BBH", 0, UDP, size)
    return ipv4(UDP, source, target, datagram(checksum(pseudo + datagram(0)) or 0xFFFF))


@dataclass
class Answer:
    """A packet that came for us: whom it answers, its source, and what it says."""

    to: tuple
    source: str
    said: object


def read_packet(packet):
    """What a whole and sound IPv4 packet answers; None for all others."""
    if len(packet) < 28 or packet[0] >> 4 != 4:
        return None
    header_bytes, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    if header_bytes < 20 or total != len(packet) or checksum(packet[:header_bytes]):
        return None
    source, body = str(ipaddress.ip_address(packet[12:16])), packet[header_bytes:]
    if len(body) < 8:
        return None
    if packet[9] == ICMP and checksum(body) == 0:
        return read_icmp(source, body)
    if packet[9] == UDP:
        sent = body[6:8] != b"\0\0"
        if sent and checksum(pseudo_header(packet, len(body)) + body):
            return None
        source_port, port = struct.unpack("!HH", body[:4])
        return Answer(("udp", port), f"{source}:{source_port}", body[8:])
    return None


def read_icmp(source, body):
    kind, code = body[0], body[1]
    if kind == ECHO_REPLY:
        return Answer(("echo", *struct.unpack("!HH", body[4:8])), source, body[8:])
    inner = body[8:]
    if kind in ICMP_ERRORS and len(inner) >= 28:
        at = (inner[0] & 15) * 4
        whom = ("udp", int.from_bytes(inner[at : at + 2], "big")) if inner[9] == UDP \
            else ("echo", *struct.unpack("!HH", inner[at + 4 : at + 8].rjust(4, b"\0")))
        return Answer(whom, source, {"by": "ICMP", "type": kind, "code": code, "from": source})
    return None


# A link


@dataclass
class Link:
    """One WebSocket of a session, from HELLO on."""

    socket: object
    text: bool
    terms: Terms = None
    lease: list = field(default_factory=list)
    routes: list = None
    sent_bytes: int = 0
    acked_bytes: int = 0
    received_bytes: int = 0
    told_bytes: int = 0
    credit: int = 0
    credit_waits: int = 0
    waiting: dict = field(default_factory=dict)
    ended: Exception = None

    async def open(self, credential, mtu, ticket):
        self.changed = asyncio.Condition()
        try:
            rest = await self.shake_hands(credential, mtu, ticket)
            self.reader = asyncio.create_task(self.read(rest))
            await self.until(lambda: self.lease and self.routes is not None)
        except ProtocolError as error:
            await self.break_off(error)
            raise

    async def shake_hands(self, credential, mtu, ticket):
        """Returns the capsules that came in one message with WELCOME."""
        challenge, _ = await self.first(CHALLENGE)
        fields = Fields(challenge)
        if fields.any_varint() != VERSION:
            raise ProtocolError("a CHALLENGE of another version")
        fields.take(32)
        fields.end()
        hello = (varint(VERSION) + varint(0) + credential.id + os.urandom(32) + varint(len(ticket)) + ticket + varint(0)
                 + varint(mtu))
        hello_auth = b"wstether v1 auth" + challenge + hello
        await self.send(capsule(HELLO, hello + credential.client_proof(hello_auth)))
        welcome, rest = await self.first(WELCOME)
        self.terms = Terms.read(welcome, mtu)
        proof = credential.server_proof(hello_auth + welcome[:-PROOF_BYTES])
        if not hmac.compare_digest(proof, self.terms.proof):
            raise ProtocolError("the gateway does not know the credential")
        self.credit = self.terms.credit
        return rest

    async def first(self, wanted):
        """Waits for one capsule of the handshake: its value, and what came behind it."""
        while True:
            found = list(capsules(await self.message(MESSAGE_BYTES_UNTIL_WELCOME)))
            for place, (kind, value, _) in enumerate(found):
                if kind == wanted:
                    return value, found[place + 1 :]
                if kind == REFUSAL:
                    raise Refused(read_refusal(value))
                if kind in FROM_GATEWAY | NEVER_FROM_GATEWAY | {CHALLENGE, WELCOME}:
                    raise ProtocolError(f"capsule {kind:#x} before {wanted:#x}")

    async def message(self, bytes_max):
        message = await self.socket.recv()
        if isinstance(message, str) != self.text:
            raise ProtocolError("text where binary was agreed, or the reverse", 1003)
        if self.text:
            message = from_base64(message)
        if len(message) > bytes_max:
            raise ProtocolError("a message above the limit", 1009)
        return message

    async def read(self, first):
        """Takes what comes until the link ends, and keeps the reason."""
        try:
            await self.take(first)
            while True:
                await self.take(capsules(await self.message(self.terms.message_bytes_max)))
        except ProtocolError as error:
            self.ended = error
            await self.break_off(error)
        except (ConnectionClosed, Refused) as error:
            self.ended = error
        async with self.changed:
            self.changed.notify_all()

    async def take(self, found):
        for kind, value, length in found:
            self.take_capsule(kind, value, length)
        if self.received_bytes - self.told_bytes >= ACK_AFTER_BYTES:
            await self.send()
        elif self.received_bytes > self.told_bytes:
            asyncio.get_running_loop().call_later(ACK_AFTER_S, lambda: asyncio.ensure_future(self.send()))
        async with self.changed:
            self.changed.notify_all()

    def take_capsule(self, kind, value, length):
        if kind == DATAGRAM:
            self.received_bytes += length
            self.take_datagram(value)
        elif kind == CREDIT:
            self.credit = max(self.credit, one_varint(value))
        elif kind == ACK:
            offset = one_varint(value)
            if not self.acked_bytes <= offset <= self.sent_bytes:
                raise ProtocolError(f"ACK of {offset}, {self.acked_bytes} were acknowledged and {self.sent_bytes} sent")
            self.acked_bytes = offset
        elif kind == ADDRESS_ASSIGN:
            self.lease = read_addresses(value)
        elif kind == ROUTE_ADVERTISEMENT:
            self.routes = read_routes(value)
        elif kind == CLOSE:
            raise Refused(read_close(value))
        elif kind in NEVER_FROM_GATEWAY | {CHALLENGE, WELCOME, REFUSAL}:
            raise ProtocolError(f"capsule {kind:#x} must not come now")

    def take_datagram(self, value):
        fields = Fields(value)
        if fields.any_varint() != 0:
            return
        answer = read_packet(fields.rest())
        waiter = self.waiting.get(answer.to) if answer else None
        if waiter and not waiter.done():
            waiter.set_result((time.perf_counter(), answer))

    async def send(self, *parts):
        """Sends capsules as one message, with an ACK in front of them if there is something to acknowledge."""
        if self.received_bytes > self.told_bytes:
            parts = (capsule(ACK, varint(self.received_bytes)), *parts)
            self.told_bytes = self.received_bytes
        if not parts:
            return
        message = b"".join(parts)
        try:
            await self.socket.send(base64.b64encode(message).decode() if self.text else message)
        except ConnectionClosed:
            pass  # The reader knows why.

    async def send_packet(self, packet):
        """Sends a packet as soon as the credit allows it."""
        datagram = capsule(DATAGRAM, varint(0) + packet)
        if self.sent_bytes + len(datagram) > self.credit:
            self.credit_waits += 1
            await self.until(lambda: self.sent_bytes + len(datagram) <= self.credit)
        self.sent_bytes += len(datagram)
        await self.send(datagram)

    async def until(self, true):
        """Waits until it is so, or the link ends."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.ended or true())
        if self.ended:
            raise self.ended

    async def ask(self, whom, packet, timeout_s):
        """Sends a packet and waits for what answers it: its round trip in milliseconds and the answer, or None."""
        waiter = self.waiting[whom] = asyncio.get_running_loop().create_future()
        try:
            sent = time.perf_counter()
            await self.send_packet(packet)
            await self.until_answered(waiter, timeout_s)
            came, answer = waiter.result()
            return (came - sent) * 1000, answer
        except TimeoutError:
            return None
        finally:
            del self.waiting[whom]

    async def until_answered(self, waiter, timeout_s):
        async with asyncio.timeout(timeout_s):
            await self.until(waiter.done)

    async def break_off(self, error):
        """Ends the link because the gateway broke the protocol."""
        await self.send(capsule(CLOSE, varint(2) + str(error).encode()))
        await self.socket.close(error.code)

    async def close(self):
        """Ends link and session: the user is done."""
        await self.send(capsule(CLOSE, varint(0)))
        await self.socket.close(1000)
        await self.reader

    async def drop(self):
        """Loses the link, as a network does: nothing is said any more."""
        self.socket.transport.abort()
        await self.reader


def one_varint(value):
    fields = Fields(value)
    number = fields.varint()
    fields.end()
    return number


def from_base64(text):
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProtocolError("text that is not base64", 1007) from error
    if base64.b64encode(decoded).decode() != text:
        raise ProtocolError("base64 with unused bits that are not zero", 1007)
    return decoded


# What can be asked for


async def open_link(args, credential, ticket=b""):
    subprotocol = TEXT if args.base64 else BINARY
    # The limit of messages is checked here, before base64; the library's own only has to be larger.
    socket = await connect(args.url, subprotocols=[subprotocol], compression=None, max_size=1 << 25)
    if socket.subprotocol != subprotocol:
        raise ProtocolError(f"the gateway chose the subprotocol {socket.subprotocol}")
    link = Link(socket, args.base64)
    async with asyncio.timeout(args.timeout):
        await link.open(credential, args.mtu, ticket)
    return link


def source_of(link):
    return next(network.network_address for network in link.lease if network.version == 4)


async def ping(args, link, out):
    """Pings `--count` times, one after the other."""
    identifier = int.from_bytes(os.urandom(2), "big")
    for sequence in range(1, args.count + 1):
        data = os.urandom(args.size)
        packet = echo_request(source_of(link), args.target, identifier, sequence, data, args.ttl)
        asked = await link.ask(("echo", identifier, sequence), packet, args.timeout)
        if asked is None:
            out["lost"] += 1
        elif isinstance(asked[1].said, dict):
            out["refused"].append(asked[1].said)
        elif asked[1].said == data and asked[1].source == str(args.target):
            out["rtt_ms"].append(round(asked[0], 3))
        else:
            raise ProtocolError("an echo reply that is not what was sent")


async def ask_by_udp(args, link, out):
    """Sends one UDP packet, and tells what came back."""
    (host, _, port), text = args.udp[0].rpartition(":"), args.udp[1]
    source_port = 49152 + int.from_bytes(os.urandom(2), "big") % 16384
    packet = udp(source_of(link), source_port, ipaddress.IPv4Address(host), int(port), text.encode())
    asked = await link.ask(("udp", source_port), packet, args.timeout)
    if asked is None:
        out["lost"] += 1
    elif isinstance(asked[1].said, dict):
        out["refused"].append(asked[1].said)
    else:
        out["udp"] = {"from": asked[1].source, "text": asked[1].said.decode(errors="replace")}


async def flood(args, link, out):
    """Sends UDP packets to the target's port 9 as fast as credit allows, until so many bytes of DATAGRAM capsules are
    acknowledged. Their answers, if any, are of no interest."""
    packet = udp(source_of(link), 40000, args.target, 9, bytes(link.terms.mtu - 28))
    begin, waits = link.sent_bytes, link.credit_waits
    async with asyncio.timeout(args.flood_timeout):
        while link.sent_bytes - begin < args.flood_bytes:
            await link.send_packet(packet)
        await link.until(lambda: link.acked_bytes == link.sent_bytes)
    out["flood"] = {"sent_bytes": link.sent_bytes - begin, "acked_bytes": link.acked_bytes - begin,
                    "credit_waits": link.credit_waits - waits, "credit_at_first": link.terms.credit}


async def do_all(args, link, out):
    await ping(args, link, out)
    if args.udp:
        await ask_by_udp(args, link, out)
    if args.flood_bytes:
        await flood(args, link, out)


def describe(link):
    terms = link.terms
    return {
        "lease": [str(network) for network in link.lease],
        "routes": [[str(start), str(end), protocol] for start, end, protocol in link.routes],
        "mtu": terms.mtu,
        "session": terms.session.hex(),
        "gateway": [str(address) for address in terms.gateway],
        "dns": [str(address) for address in terms.dns],
        "keep_alive_ms": terms.keep_alive_ms,
        "ticket_lifetime_ms": terms.ticket_lifetime_ms,
    }


async def session(args, credential, out):
    link = await open_link(args, credential)
    out |= describe(link)
    await do_all(args, link, out)
    if args.resume:
        await link.drop()
        ticket, before = link.terms.ticket, (link.lease, link.terms.session)
        link = await open_link(args, credential, ticket)
        out["resumed"] = {"same_lease": link.lease == before[0], "same_session": link.terms.session == before[1]}
        out |= describe(link)
        await do_all(args, link, out)
    await link.close()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="ws://HOST:PORT/wstether")
    parser.add_argument("token", help="wst1_...")
    parser.add_argument("--target", type=ipaddress.IPv4Address, required=True, help="whom to ping")
    parser.add_argument("--count", type=int, default=3, help="how many pings")
    parser.add_argument("--size", type=int, default=56, help="bytes of data in a ping")
    parser.add_argument("--ttl", type=int, default=64, help="of the pings")
    parser.add_argument("--mtu", type=int, default=1500, help="the largest packet this client takes, in bytes")
    parser.add_argument("--base64", action="store_true", help="the subprotocol with text messages")
    parser.add_argument("--bad-token", action="store_true", help="have the right id, but another secret")
    parser.add_argument("--resume", action="store_true", help="lose the link, come back by the ticket, do all again")
    parser.add_argument("--udp", nargs=2, metavar=("HOST:PORT", "TEXT"), help="send a UDP packet, print the answer")
    parser.add_argument("--flood-bytes", type=int, default=0, help="send so many bytes, as credit allows")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for the handshake, and for each answer")
    parser.add_argument("--flood-timeout", type=float, default=60.0, help="seconds for the flood")
    return parser.parse_args()


def main():
    args, out = arguments(), {"ok": False, "rtt_ms": [], "lost": 0, "refused": []}
    credential = Credential(args.token)
    if args.bad_token:
        credential.secret = os.urandom(32)
    try:
        asyncio.run(session(args, credential, out))
        out["ok"] = not out["lost"] and not out["refused"]
    except Refused as refused:
        out["refused"].append(refused.what)
    except (ProtocolError, WebSocketException, TimeoutError, OSError) as error:
        out["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(out))
    sys.exit(0 if out["ok"] else 1)


if __name__ == "__main__":
    main()
