"""A stranger's wstether client: written from docs/protocol.md alone, with nothing of the Rust code.

It opens a session at a gateway, sends packets that it builds itself, and prints one JSON object. It exits 0 if all that
was asked for succeeded, else 1. It needs Python 3.11 and the package `websockets`.
"""

import argparse
import asyncio
import hashlib
import ipaddress
import json
import os
import sys

from websockets.exceptions import WebSocketException

import packets
import wire
from link import open_link
from tcp import Connection

DISCARD_PORT = 9
EPHEMERAL_PORTS = range(49152, 65536)


def random_u16():
    return int.from_bytes(os.urandom(2), "big")


def source_of(link):
    """The address that packets must have."""
    return next(network.network_address for network in link.lease if network.version == 4)


def note(out, asked):
    """Keeps what did not come, or came as an ICMP error; gives back all else."""
    if asked is None:
        out["lost"] += 1
    elif isinstance(asked[1].said, packets.IcmpError):
        out["refused"].append(asked[1].said._asdict())
    else:
        return asked
    return None


async def ping(args, link, out):
    """Pings `--count` times, one after the other."""
    identifier = random_u16()
    for sequence in range(1, args.count + 1):
        data = os.urandom(args.size)
        packet = packets.echo_request(source_of(link), args.target, identifier, sequence, data, args.ttl)
        asked = note(out, await link.ask(("echo", identifier, sequence), packet, args.timeout))
        if asked is None:
            continue
        round_trip_ms, answer = asked
        if (answer.source, answer.said) != (str(args.target), data):
            raise wire.ProtocolError("an echo reply that is not what was sent")
        out["rtt_ms"].append(round(round_trip_ms, 3))


async def ask_by_udp(args, link, out):
    """Sends one UDP packet, and tells what came back."""
    (host, _, port), text = args.udp[0].rpartition(":"), args.udp[1]
    source_port = EPHEMERAL_PORTS[random_u16() % len(EPHEMERAL_PORTS)]
    packet = packets.udp(source_of(link), source_port, ipaddress.IPv4Address(host), int(port), text.encode())
    asked = note(out, await link.ask(("udp", source_port), packet, args.timeout))
    if asked:
        out["udp"] = {"from": asked[1].source, "text": asked[1].said.decode(errors="replace")}


async def flood(args, link, out):
    """Sends UDP packets as fast as the credit allows, until `--flood-bytes` of DATAGRAM capsules are acknowledged."""
    data = bytes(link.terms.mtu - packets.UDP_HEADERS_BYTES)
    packet = packets.udp(source_of(link), EPHEMERAL_PORTS[0], args.target, DISCARD_PORT, data)
    sent_before, waits_before = link.sent_bytes, link.credit_waits
    async with asyncio.timeout(args.flood_timeout):
        while link.sent_bytes - sent_before < args.flood_bytes:
            await link.send_packet(packet)
        await link.until(lambda: link.acknowledged_bytes == link.sent_bytes)
    out["flood"] = {
        "sent_bytes": link.sent_bytes - sent_before,
        "acknowledged_bytes": link.acknowledged_bytes - sent_before,
        "credit_at_first_bytes": link.terms.credit,
        "credit_waits": link.credit_waits - waits_before,
    }


async def talk_by_tcp(args, link, out):
    """Sends so many bytes over one connection, and tells what came back until its end, and in what packets."""
    (host, _, port), data = args.tcp[0].rpartition(":"), os.urandom(int(args.tcp[1]))
    first = int.from_bytes(os.urandom(4), "big")
    connection = Connection(link, source_of(link), EPHEMERAL_PORTS[0], ipaddress.IPv4Address(host), int(port), first)
    async with asyncio.timeout(args.flood_timeout):
        await connection.open()
        await connection.send_all(data)
        came = await connection.receive_all()
    out["tcp"] = {
        "sent_sha256": hashlib.sha256(data).hexdigest(),
        "received_sha256": hashlib.sha256(came).hexdigest(),
        "received_bytes": len(came),
        "wrong_packets": connection.wrong,
        "largest_packet_bytes": link.largest_bytes,
        "packets_of_context": {str(context): count for context, count in link.contexts.items()},
    }


async def exchange(args, link, out):
    """All that was asked for, on one link."""
    out |= {
        "lease": [str(network) for network in link.lease],
        "routes": [{"start": str(start), "end": str(end), "protocol": protocol} for start, end, protocol in link.routes],
        "mtu": link.terms.mtu,
        "session": link.terms.session.hex(),
        "gateway": [str(address) for address in link.terms.gateway],
        "dns": [str(address) for address in link.terms.dns],
    }
    await ping(args, link, out)
    if args.udp:
        await ask_by_udp(args, link, out)
    if args.tcp:
        await talk_by_tcp(args, link, out)
    if args.flood_bytes:
        await flood(args, link, out)


async def run(args, credential, out):
    async def connect(ticket=b""):
        async with asyncio.timeout(args.timeout):
            return await open_link(args.url, credential, text=args.base64, mtu=args.mtu, ticket=ticket)

    link = await connect()
    await exchange(args, link, out)
    if args.resume:
        await link.drop()
        first, link = link, await connect(link.terms.ticket)
        out["resumed"] = {
            "same_lease": link.lease == first.lease,
            "same_session": link.terms.session == first.terms.session,
        }
        await exchange(args, link, out)
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
    parser.add_argument("--tcp", nargs=2, metavar=("HOST:PORT", "BYTES"), help="send bytes by TCP, read what comes")
    parser.add_argument("--flood-bytes", type=int, default=0, help="send so many bytes, as the credit allows")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for a handshake, and for each answer")
    parser.add_argument("--flood-timeout", type=float, default=60.0, help="seconds for the flood, and for TCP")
    return parser.parse_args()


def main():
    args, out = arguments(), {"ok": False, "rtt_ms": [], "lost": 0, "refused": []}
    credential = wire.Credential(args.token)
    if args.bad_token:
        credential.secret = os.urandom(32)
    try:
        asyncio.run(run(args, credential, out))
        out["ok"] = not out["lost"] and not out["refused"]
    except wire.Refused as refused:
        out["refused"].append(refused.what)
    except (wire.ProtocolError, WebSocketException, TimeoutError, OSError) as error:
        out["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(out))
    sys.exit(0 if out["ok"] else 1)


if __name__ == "__main__":
    main()
