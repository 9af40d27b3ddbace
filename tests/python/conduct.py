"""Breaks docs/protocol.md on purpose, rule by rule, and holds the gateway's answers to the document.

Arguments: the URL and the token. Prints what differed; exits 0 if nothing did.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import wire
from link import open_link
from wire import capsule, varint

ANSWER_TIMEOUT_S = 10

TOO_LONG = bytes(1 << 20)
UNKNOWN = capsule(0x99, b"skip me")

# What is sent in place of HELLO, and what comes: (REFUSAL's reason, close code).
BEFORE_WELCOME = {
    "a packet": (capsule(wire.DATAGRAM, b"\0E"), ("bad_handshake", 1002)),
    "half a capsule": (b"\0\x40", ("bad_handshake", 1002)),
    "a long message": (bytes(wire.MESSAGE_BYTES_UNTIL_WELCOME + 1), (None, 1009)),
    "text": ("text", (None, 1003)),
    "HELLO of version 2": (capsule(wire.HELLO, varint(2) + b"whatever"), ("unsupported_version", 1008)),
    "nothing, the unknown, a packet": (b"|" + UNKNOWN + b"|" + capsule(wire.DATAGRAM, b"\0E"), ("bad_handshake", 1002)),
}

# What is sent on an open link, and what comes: (CLOSE's reason, close code), or None where the link goes on.
AFTER_WELCOME = {
    "half a capsule": (b"\0\x40", ("protocol_error", 1002)),
    "HELLO again": (capsule(wire.HELLO, bytes(80)), ("protocol_error", 1002)),
    "CREDIT": (capsule(wire.CREDIT, b"\1"), ("protocol_error", 1002)),
    "ADDRESS_ASSIGN": (capsule(wire.ADDRESS_ASSIGN, b""), ("protocol_error", 1002)),
    "ACK of what was not sent": (capsule(wire.ACK, varint(1 << 20)), ("protocol_error", 1002)),
    "ACK in a long form": (capsule(wire.ACK, b"\x40\0"), ("protocol_error", 1002)),
    "text": ("text", (None, 1003)),
    "a long message": (TOO_LONG, (None, 1009)),
    "ACK again": (capsule(wire.ACK, b"\0"), None),
    "the unknown": (UNKNOWN, None),
    "nothing": (b"", None),
    "CLOSE": (capsule(wire.CLOSE, varint(wire.BY_THE_USER)), (None, 1000)),
}


async def before_welcome(url, sent):
    """Sends messages (split at `|`) in place of HELLO; returns REFUSAL's reason and the close code."""
    socket, reason = await connect(url, subprotocols=["wstether.v1"], compression=None), None
    await socket.recv()
    for message in sent.split(b"|") if isinstance(sent, bytes) and b"|" in sent else [sent]:
        await socket.send(message)
    try:
        while True:
            for kind, value, _ in wire.capsules(await asyncio.wait_for(socket.recv(), ANSWER_TIMEOUT_S)):
                reason = wire.read_refusal(value)["reason"] if kind == wire.REFUSAL else reason
    except ConnectionClosed:
        return reason, socket.close_code


async def after_welcome(url, credential, sent):
    """Sends one message on an open link; returns CLOSE's reason and the close code, or None."""
    link = await open_link(url, credential, text=False, mtu=1500)
    try:
        await link.socket.send(sent)
        # What is sent is judged in order: a pong means that the link goes on.
        pong = asyncio.ensure_future(await link.socket.ping())
        await asyncio.wait([link.reader, pong], timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if pong.done() and not pong.exception():
            await link.close()
            return None
    except (ConnectionClosed, AttributeError):
        pass  # Closed in the middle of what is too long; Python 3.11 trips when websockets then aborts what has ended.
    await asyncio.wait_for(link.reader, ANSWER_TIMEOUT_S)
    await asyncio.wait_for(link.socket.wait_closed(), ANSWER_TIMEOUT_S)
    reason = link.ended.what["reason"] if isinstance(link.ended, wire.Refused) else None
    return reason, link.socket.close_code


async def run(url, credential):
    wrong = []
    for name, (sent, due) in BEFORE_WELCOME.items():
        if (came := await before_welcome(url, sent)) != due:
            wrong.append(f"before WELCOME, {name}: {came}, not {due}")
    for name, (sent, due) in AFTER_WELCOME.items():
        if (came := await after_welcome(url, credential, sent)) != due:
            wrong.append(f"after WELCOME, {name}: {came}, not {due}")
    return wrong


if __name__ == "__main__":
    faults = asyncio.run(run(sys.argv[1], wire.Credential(sys.argv[2])))
    print(os.linesep.join(faults))
    sys.exit(1 if faults else 0)
