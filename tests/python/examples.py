"""Holds docs/protocol.md (its path is the argument) to itself: all worked examples follow from the rules."""

import ipaddress
import re
import sys

import packets
import wire

TOKEN_SECRET = bytes([7]) * 32


def examples(document):
    blocks = re.findall(r"```(hex|text) (\S+)\n(.*?)```", document, re.DOTALL)
    return {name: bytes.fromhex(body) if kind == "hex" else body.strip() for kind, name, body in blocks}


def check(example):
    def value(name, kind):
        ((found, value_, _),) = wire.capsules(example[name])
        assert found == kind, name
        return value_

    credential = wire.Credential(example["token"])
    assert credential.secret == TOKEN_SECRET

    challenge, hello, welcome = (
        value(name, kind)
        for name, kind in (("challenge", wire.CHALLENGE), ("hello", wire.HELLO), ("welcome", wire.WELCOME))
    )
    wire.check_challenge(challenge)
    hello_auth = wire.AUTH_LABEL + challenge + hello[: -wire.PROOF_BYTES]
    assert hello_auth == example["hello-auth-message"]
    assert credential.client_proof(hello_auth) == example["client-proof"] == hello[-wire.PROOF_BYTES :]
    welcome_auth = hello_auth + welcome[: -wire.PROOF_BYTES]
    assert welcome_auth == example["welcome-auth-message"]
    assert credential.server_proof(welcome_auth) == example["server-proof"] == welcome[-wire.PROOF_BYTES :]

    lease = ipaddress.ip_address("10.77.0.2")
    assert wire.read_addresses(value("address-assign", wire.ADDRESS_ASSIGN)) == [ipaddress.ip_network(lease)]
    ((start, end, protocol),) = wire.read_routes(value("route-advertisement", wire.ROUTE_ADVERTISEMENT))
    assert (str(start), str(end), protocol) == ("0.0.0.0", "255.255.255.255", 0)
    refusal = wire.read_refusal(value("refusal", wire.REFUSAL))
    assert refusal == {"by": "REFUSAL", "reason": "busy", "retry_after_ms": 5000, "text": "come back later"}
    assert wire.read_close(value("close", wire.CLOSE)) == {"by": "CLOSE", "reason": "done", "text": "bye"}
    assert wire.read_offset(value("credit", wire.CREDIT)) == 0x100190
    assert wire.capsule(wire.ACK, wire.varint(wire.read_offset(value("ack", wire.ACK)))) == example["ack"]
    assert wire.from_base64(example["ack-base64"]) == example["ack"]

    echo = packets.echo_request(lease, ipaddress.ip_address("192.0.2.1"), 1, 1, b"", ttl=64)
    assert wire.capsule(wire.DATAGRAM, wire.varint(wire.WHOLE_PACKET) + echo) == example["datagram"]
    few = packets.udp(lease, 5000, ipaddress.ip_address("192.0.2.1"), 5001, b"onlyafew", partial=True)
    offload = wire.Offload(4, packets.UDP_HEADERS_BYTES, packets.IP_HEADER_BYTES, 6)
    said = wire.varint(wire.SUPER_PACKET) + offload.encoded()
    assert wire.capsule(wire.DATAGRAM, said + few) == example["super-packet"]
    assert wire.Offload.read(wire.Fields(offload.encoded())) == offload


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        check(examples(file.read()))
