"""One WebSocket path to a gateway: the handshake, credit and acknowledgements, and packets."""

import asyncio
import base64
import hmac
import os
import time
from collections import Counter
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import packets
import wire
from wire import ProtocolError, Refused, capsule, varint

ACK_AFTER_BYTES = 32768
ACK_AFTER_S = 0.010

# Far above what a gateway may send; the protocol's own limits are checked here, since they are those before base64.
FRAME_BYTES_MAX = 1 << 25


async def open_link(url, credential, *, text, mtu, ticket=b"", features=wire.NO_FEATURES):
    """A link of a new session, or of the one that the ticket names."""
    subprotocol = "wstether.v1.base64" if text else "wstether.v1"
    socket = await connect(url, subprotocols=[subprotocol], compression=None, max_size=FRAME_BYTES_MAX)
    if socket.subprotocol != subprotocol:
        raise ProtocolError(f"the gateway chose the subprotocol {socket.subprotocol}")
    link = Link(socket, text, features)
    await link.open(credential, mtu, ticket)
    return link


@dataclass
class Link:
    """What a link knows. All counts are bytes of DATAGRAM capsules since it began."""

    socket: object
    text: bool
    features: int
    terms: wire.Terms = None
    lease: list = None
    routes: list = None
    credit: int = 0
    sent_bytes: int = 0
    acknowledged_bytes: int = 0
    received_bytes: int = 0
    told_bytes: int = 0
    credit_waits: int = 0
    contexts: Counter = field(default_factory=Counter)
    largest_bytes: int = 0
    waiting: dict = field(default_factory=dict)
    hears: object = None
    ended: Exception = None
    reader: asyncio.Task = None
    ack: asyncio.Task = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def open(self, credential, mtu, ticket):
        try:
            behind_welcome = await self.shake_hands(credential, mtu, ticket)
        except ProtocolError as error:
            await self.break_off(error)
            raise
        self.reader = asyncio.create_task(self.read(behind_welcome))
        await self.until(lambda: self.lease is not None and self.routes is not None)

    async def shake_hands(self, credential, mtu, ticket):
        """Returns the capsules that came in one message with WELCOME."""
        challenge, _ = await self.first(wire.CHALLENGE)
        wire.check_challenge(challenge)
        hello = b"".join([varint(wire.VERSION), varint(self.features), credential.id, os.urandom(32),
                          varint(len(ticket)), ticket, varint(wire.ONLY_LINK), varint(mtu)])
        hello_auth = wire.AUTH_LABEL + challenge + hello
        await self.send(capsule(wire.HELLO, hello + credential.client_proof(hello_auth)))
        welcome, behind_welcome = await self.first(wire.WELCOME)
        self.terms = wire.Terms.read(welcome, self.features, mtu_max=mtu)
        proof = credential.server_proof(hello_auth + welcome[: -wire.PROOF_BYTES])
        if not hmac.compare_digest(proof, self.terms.proof):
            raise ProtocolError("the gateway does not know the credential")
        self.credit = self.terms.credit
        return behind_welcome

    async def first(self, wanted):
        """Waits for one capsule of the handshake: its value, and what came behind it."""
        while True:
            found = list(wire.capsules(await self.message(wire.MESSAGE_BYTES_UNTIL_WELCOME)))
            for place, (kind, value, _) in enumerate(found):
                if kind == wanted:
                    return value, found[place + 1 :]
                if kind == wire.REFUSAL:
                    raise Refused(wire.read_refusal(value))
                if kind in wire.KNOWN:
                    raise ProtocolError(f"capsule {kind:#x} in place of {wanted:#x}")

    async def message(self, bytes_max):
        message = await self.socket.recv()
        if isinstance(message, str) != self.text:
            raise ProtocolError("text where binary was agreed, or the reverse", 1003)
        if self.text:
            message = wire.from_base64(message)
        if len(message) > bytes_max:
            raise ProtocolError("a message above the limit", 1009)
        return message

    async def read(self, found):
        """Takes what comes until the link ends, and keeps the reason."""
        try:
            while True:
                for kind, value, length in found:
                    self.take(kind, value, length)
                await self.tell_received()
                async with self.changed:
                    self.changed.notify_all()
                found = wire.capsules(await self.message(self.terms.message_bytes_max))
        except ProtocolError as error:
            self.ended = error
            await self.break_off(error)
        except (ConnectionClosed, Refused) as error:
            self.ended = error
        async with self.changed:
            self.changed.notify_all()

    def take(self, kind, value, length):
        if kind == wire.DATAGRAM:
            self.received_bytes += length
            self.take_datagram(value)
        elif kind == wire.CREDIT:
            self.credit = max(self.credit, wire.read_offset(value))
        elif kind == wire.ACK:
            offset = wire.read_offset(value)
            if not self.acknowledged_bytes <= offset <= self.sent_bytes:
                raise ProtocolError(f"ACK of {offset}, not within {self.acknowledged_bytes} to {self.sent_bytes}")
            self.acknowledged_bytes = offset
        elif kind == wire.ADDRESS_ASSIGN:
            self.lease = wire.read_addresses(value)
        elif kind == wire.ROUTE_ADVERTISEMENT:
            self.routes = wire.read_routes(value)
        elif kind == wire.CLOSE:
            raise Refused(wire.read_close(value))
        elif kind in wire.KNOWN:
            raise ProtocolError(f"capsule {kind:#x} must not come now")

    def take_datagram(self, value):
        fields = wire.Fields(value)
        context = fields.any_varint()
        self.contexts[context] += 1
        if context == wire.WHOLE_PACKET:
            self.take_packet(fields.rest())
        elif context == wire.SUPER_PACKET and self.features & wire.SUPER_PACKETS:
            offload, packet = wire.Offload.read(fields), fields.rest()
            # Of TCP it asks for nothing.
            if packet[9:10] == bytes([packets.UDP]):
                for datagram in packets.datagrams(packet, offload.segment_bytes):
                    self.take_packet(datagram)

    def take_packet(self, packet):
        self.largest_bytes = max(self.largest_bytes, len(packet))
        if self.hears:
            self.hears(packet)
        answer = packets.read(packet)
        waiter = self.waiting.get(answer.to) if answer else None
        if waiter and not waiter.done():
            waiter.set_result((time.perf_counter(), answer))

    async def tell_received(self):
        """Acknowledges at once where much is owed, else a little later."""
        owed_bytes = self.received_bytes - self.told_bytes
        if owed_bytes >= ACK_AFTER_BYTES:
            await self.send()
        elif owed_bytes and self.ack is None:
            self.ack = asyncio.create_task(self.tell_received_later())

    async def tell_received_later(self):
        await asyncio.sleep(ACK_AFTER_S)
        self.ack = None
        await self.send()

    async def send(self, *parts):
        """Sends capsules as one message, with an ACK in front of them if one is owed."""
        if self.received_bytes > self.told_bytes:
            parts = (capsule(wire.ACK, varint(self.received_bytes)), *parts)
            self.told_bytes = self.received_bytes
        if not parts:
            return
        message = b"".join(parts)
        try:
            await self.socket.send(base64.b64encode(message).decode() if self.text else message)
        except ConnectionClosed:
            pass  # The reader knows why.

    async def send_packet(self, packet, offload=None):
        """Sends a packet as soon as the credit allows it; with an offload it is a super-packet."""
        context = varint(wire.SUPER_PACKET) + offload.encoded() if offload else varint(wire.WHOLE_PACKET)
        datagram = capsule(wire.DATAGRAM, context + packet)
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
        """Sends a packet, and waits for what answers it: the round trip in milliseconds and the answer, or None."""
        waiter = self.waiting[whom] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                sent = time.perf_counter()
                await self.send_packet(packet)
                await self.until(waiter.done)
            came, answer = waiter.result()
            return (came - sent) * 1000, answer
        except TimeoutError:
            return None
        finally:
            del self.waiting[whom]

    async def break_off(self, error):
        """Ends the link because the gateway broke the protocol."""
        await self.send(capsule(wire.CLOSE, varint(wire.BY_PROTOCOL_ERROR) + str(error).encode()))
        await self.socket.close(error.code)

    async def close(self):
        """Ends link and session: the user is done."""
        await self.send(capsule(wire.CLOSE, varint(wire.BY_THE_USER)))
        await self.socket.close(1000)
        await self.reader

    async def drop(self):
        """Loses the link, as a network does: nothing is said any more."""
        self.socket.transport.abort()
        await self.reader
