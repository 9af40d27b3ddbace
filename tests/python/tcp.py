"""One TCP connection (RFC 9293) over the packets of a link, as plain as can be: no options but the MSS, no congestion control."""

import asyncio

import packets
from packets import ACK, FIN, PSH, RST, SYN
from wire import ProtocolError

WINDOW_BYTES = 65535
RETRANSMIT_AFTER_S = 1.0
MSS_OPTION = 2


class Connection:
    """Offsets count from each side's first sequence number: SYN is at 0, the first byte at 1."""

    def __init__(self, link, source, source_port, target, target_port, first):
        self.link, self.ends, self.ports = link, (source, target), (source_port, target_port)
        self.mss = link.terms.mtu - packets.TCP_HEADERS_BYTES
        self.first, self.first_of_peer = first, None
        self.sent = self.acknowledged = 0
        self.window = WINDOW_BYTES
        self.received, self.received_bytes, self.ahead = [], 0, {}
        self.owes_ack = self.has_ended = False
        self.wrong = 0
        link.hears = self.take

    def take(self, packet):
        segment = packets.read_tcp(packet)
        if segment is None or (segment.target_port, segment.source_port) != self.ports:
            # Nothing else is to come: no packet that is whole has a wrong checksum.
            self.wrong += 1
            return
        if segment.flags & RST:
            raise ProtocolError("the connection was reset")
        if segment.flags & SYN:
            self.first_of_peer = segment.sequence
        if segment.flags & ACK:
            self.acknowledged = max(self.acknowledged, signed(segment.acknowledgement - self.first))
            self.window = segment.window
        if segment.data or segment.flags & (SYN | FIN):
            self.owes_ack = True
        if self.first_of_peer is not None:
            self.take_data(signed(segment.sequence - self.first_of_peer), segment)

    def take_data(self, at, segment):
        """Keeps what comes too early, and passes by what is known."""
        if at > self.due():
            self.ahead[at] = segment
        while segment is not None and at <= self.due() and not segment.flags & SYN:
            data = segment.data[self.due() - at :]
            self.received.append(data)
            self.received_bytes += len(data)
            self.has_ended = self.has_ended or bool(segment.flags & FIN)
            at = self.due()
            segment = self.ahead.pop(at, None)

    def due(self):
        return 1 + self.received_bytes + self.has_ended

    async def send(self, flags, at, data=b"", options=b""):
        acknowledgement = 0 if self.first_of_peer is None else (self.first_of_peer + self.due()) & 0xFFFFFFFF
        self.owes_ack = False
        segment = packets.Segment(*self.ports, (self.first + at) & 0xFFFFFFFF, acknowledgement, flags, WINDOW_BYTES,
                                  options, data)
        await self.link.send_packet(packets.tcp(*self.ends, segment))

    async def is_acknowledged(self, offset):
        try:
            async with asyncio.timeout(RETRANSMIT_AFTER_S):
                await self.link.until(lambda: self.acknowledged >= offset)
        except TimeoutError:
            return False
        return True

    async def open(self):
        while not self.acknowledged:
            await self.send(SYN, 0, options=bytes([MSS_OPTION, 4]) + self.mss.to_bytes(2, "big"))
            await self.is_acknowledged(1)
        self.sent = 1
        await self.send(ACK, 1)

    async def send_all(self, data):
        """Sends it and the end of it, as the peer's window allows. What is not acknowledged in time is sent again."""
        end = 1 + len(data)
        while self.acknowledged <= end:
            before = self.acknowledged
            while self.sent < end and self.sent + self.mss <= self.acknowledged + self.window:
                chunk = data[self.sent - 1 : self.sent - 1 + self.mss]
                await self.send(ACK | PSH, self.sent, chunk)
                self.sent += len(chunk)
            if self.sent >= end:
                await self.send(FIN | ACK, end)
            if not await self.is_acknowledged(before + 1):
                self.sent = self.acknowledged

    async def receive_all(self):
        while not self.has_ended:
            await self.link.until(lambda: self.owes_ack)
            await self.send(ACK, self.acknowledged)
        return b"".join(self.received)


def signed(difference):
    """The distance of two sequence numbers, which wrap."""
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)
