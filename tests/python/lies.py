"""Tells a gateway lies about super-packets, which it has to drop, and sends it honest ones before and behind, which it
has to carry. Arguments: the URL, the token, and a host with a port that echoes UDP. Prints one JSON object: how many lies
were told, and what came back of the honest ones. Each lie is about what would be one segment, so that it is counted once.
"""

import asyncio
import ipaddress
import json
import sys

import packets
import wire
from client import EPHEMERAL_PORTS, source_of
from link import open_link
from wire import Offload

ANSWER_TIMEOUT_S = 10
CLOSED_PORT = 9

TCP_PARTIAL, UDP_PARTIAL = (packets.IP_HEADER_BYTES, 16), (packets.IP_HEADER_BYTES, 6)
TCP_HEADERS, UDP_HEADERS = packets.TCP_HEADERS_BYTES, packets.UDP_HEADERS_BYTES
SIZES = (600, 600, 300)


class Liar:
    def __init__(self, link, target, echo_port):
        self.link, self.target, self.echo_port = link, target, echo_port
        self.source, self.port = source_of(link), EPHEMERAL_PORTS[0]

    def tcp(self, bytes_, flags=packets.ACK):
        segment = packets.Segment(self.port, CLOSED_PORT, 1, 2, flags, 65535, data=bytes(bytes_))
        return packets.tcp(self.source, self.target, segment, partial=True)

    def udp(self, data):
        return packets.udp(self.source, self.port, self.target, self.echo_port, data, partial=True)

    def lies(self):
        """Packets, and what is not true about them."""
        tcp, udp, echo = self.tcp(500), self.udp(bytes(500)), packets.echo_request(self.source, self.target, 1, 1, b"", 64)
        yield tcp, Offload(0, TCP_HEADERS, *TCP_PARTIAL)
        yield self.tcp(1), Offload(1, TCP_HEADERS, *TCP_PARTIAL)
        for wrong in (0, TCP_HEADERS - 4, TCP_HEADERS + 4, 65535):
            yield tcp, Offload(1000, wrong, *TCP_PARTIAL)
        yield udp, Offload(1000, UDP_HEADERS + 4, *UDP_PARTIAL)
        yield tcp, Offload(1000, TCP_HEADERS)
        yield udp, Offload(1000, UDP_HEADERS)
        yield tcp + bytes(100), Offload(1000, TCP_HEADERS, *TCP_PARTIAL)
        for start, offset in ((0, 0), UDP_PARTIAL, (24, 16), (20, 60000)):
            yield tcp, Offload(0, 0, start, offset)
            yield tcp, Offload(1000, TCP_HEADERS, start, offset)
        for flags in (packets.SYN, packets.RST):
            yield self.tcp(500, flags), Offload(1000, TCP_HEADERS, *TCP_PARTIAL)
        yield echo, Offload(0, 0, packets.IP_HEADER_BYTES, 2)
        yield echo, Offload(1000, UDP_HEADERS, packets.IP_HEADER_BYTES, 2)

    async def echoed(self):
        """What comes back of one honest super-packet: the sizes of its datagrams."""
        came = []

        def hear(packet):
            answer = packets.read(packet)
            if answer and answer.to == ("udp", self.port):
                came.append(len(answer.said))

        self.link.hears = hear
        packet = self.udp(bytes(sum(SIZES)))
        await self.link.send_packet(packet, Offload(SIZES[0], UDP_HEADERS, *UDP_PARTIAL))
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await self.link.until(lambda: len(came) == len(SIZES))
        return came

    async def is_told_of_the_mtu(self):
        """Segments above the MTU are a lie, too: whoever sends them may be told so."""
        bytes_ = self.link.terms.mtu - TCP_HEADERS + 1
        await self.link.send_packet(self.tcp(bytes_), Offload(bytes_, TCP_HEADERS, *TCP_PARTIAL))


async def run(url, credential, target, echo_port):
    link = await open_link(url, credential, text=False, mtu=1500, features=wire.SUPER_PACKETS)
    liar, told = Liar(link, target, echo_port), 0
    before = await liar.echoed()
    for packet, offload in liar.lies():
        await link.send_packet(packet, offload)
        told += 1
    await liar.is_told_of_the_mtu()
    behind = await liar.echoed()
    await link.close()
    return {"lies": told, "above_the_mtu": 1, "echoed_before": before, "echoed_behind": behind}


if __name__ == "__main__":
    host, _, port = sys.argv[3].rpartition(":")
    try:
        print(json.dumps(asyncio.run(run(sys.argv[1], wire.Credential(sys.argv[2]), ipaddress.IPv4Address(host), int(port)))))
    except wire.Refused as refused:
        print(json.dumps({"refused": [refused.what]}))
        sys.exit(1)
