//! Holds the worked examples of docs/protocol.md against the encoder, so that they cannot drift.
//!
//! An example is a fenced block whose info string is `hex NAME` or `text NAME`. Where the format changes on purpose, the
//! test run with `WSTETHER_WRITE_EXAMPLES=1` writes them anew.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::{env, fs};

use super::capsule::*;
use super::proof::{CredentialId, Nonce, Proof};
use super::token::Token;
use super::{base64, frame};
use crate::packet::{Checksum, Offload};

const TOKEN: &str = "wst1_k7m2p9xq_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

/// An ICMP echo request from 10.77.0.2 to 192.0.2.1, TTL 64, identifier 1, sequence number 1, no data.
const ECHO_REQUEST: [u8; 28] =
    [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0x6e, 0x91, 10, 77, 0, 2, 192, 0, 2, 1, 8, 0, 0xf7, 0xfd, 0, 1, 0, 1];

#[test]
fn the_examples_of_the_protocols_document_are_what_the_encoder_writes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let written = fs::read_to_string(&path).expect("the document");
    let mut examples = examples();
    let correct = with_examples(&written, &mut examples);
    assert!(examples.is_empty(), "not in the document: {:?}", examples.keys());
    if env::var_os("WSTETHER_WRITE_EXAMPLES").is_some() {
        fs::write(&path, &correct).expect("written");
        return;
    }
    for (written, correct) in written.lines().zip(correct.lines()) {
        assert_eq!(written, correct, "in docs/protocol.md");
    }
    assert_eq!(written.len(), correct.len());
}

/// The document with each example as the encoder writes it; takes what it uses from `examples`.
fn with_examples(document: &str, examples: &mut BTreeMap<&str, String>) -> String {
    let mut out = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        out += &format!("{line}\n");
        let name = line.strip_prefix("```hex ").or_else(|| line.strip_prefix("```text "));
        if let Some(name) = name {
            out +=
                &examples.remove(name).unwrap_or_else(|| panic!("no example {name:?} is known, or it is there twice"));
            lines.by_ref().find(|line| *line == "```").expect("the end of the example");
            out += "```\n";
        }
    }
    out
}

fn examples() -> BTreeMap<&'static str, String> {
    let token: Token = TOKEN.parse().expect("a token");
    let verifier = token.secret.verifier();
    let stored_and_server_key = verifier.to_hex();
    let (stored_key, server_key) = stored_and_server_key.split_at(64);

    let challenge = Challenge { nonce: Nonce([0x11; 32]) };
    let mut hello = Hello {
        features: Features::SUPER_PACKETS,
        credential: CredentialId::new(*b"k7m2p9xq").expect("an id"),
        nonce: Nonce([0x22; 32]),
        ticket: vec![],
        link: 0,
        mtu: 1_400,
        proof: Proof::default(),
    };
    let hello_message = hello.auth_message(&challenge);
    hello.proof = token.secret.prove(&hello_message);
    let gateway = vec![IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1))];
    let mut welcome = Welcome {
        session: SessionId([0x33; 16]),
        features: Features::SUPER_PACKETS,
        mtu: 1_400,
        dns: gateway.clone(),
        gateway,
        credit_bytes: 1 << 20,
        message_bytes_max: 131_072,
        keep_alive_ms: 15_000,
        ticket_lifetime_ms: 300_000,
        ticket: vec![0x44; 8],
        proof: Proof::default(),
    };
    let welcome_message = welcome.auth_message(&hello_message);
    welcome.proof = verifier.prove(&welcome_message);

    let lease = Prefix::host(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)));
    let any = Prefix::host(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let refusal = Refusal { reason: RefusalReason::Busy, retry_after_ms: 5_000, text: "come back later".into() };
    let ack = made(|out| append_ack(1_400, out));
    let mut text = Vec::new();
    base64::encode(&ack, &mut text);

    let capsules = [
        ("datagram", datagram(&ECHO_REQUEST, Offload::default())),
        ("super-packet", datagram(&super_packet(), super_packet_offload())),
        ("address-assign", made(|out| append_address_assign(&[AssignedAddress { request_id: 0, prefix: lease }], out))),
        ("address-request", made(|out| append_address_request(&[AssignedAddress { request_id: 1, prefix: any }], out))),
        ("route-advertisement", made(|out| append_routes(&[AddressRange::ALL_V4], out))),
        ("challenge", made(|out| challenge.append(out))),
        ("hello", made(|out| hello.append(out))),
        ("welcome", made(|out| welcome.append(out))),
        ("refusal", made(|out| refusal.append(out))),
        ("credit", made(|out| append_credit(1_048_976, out))),
        ("close", made(|out| append_close(CloseReason::Done, "bye", out))),
        ("hello-auth-message", hello_message),
        ("welcome-auth-message", welcome_message),
        ("client-key", token.secret.client_key().to_vec()),
        ("client-proof", hello.proof.0.to_vec()),
        ("server-proof", welcome.proof.0.to_vec()),
        ("ack-frame", made(|out| frame::append(frame::Opcode::Binary, &ack, None, out))),
        (
            "ack-frame-masked",
            made(|out| frame::append(frame::Opcode::Binary, &ack, Some([0x37, 0xfa, 0x21, 0x3d]), out)),
        ),
        ("ack-base64-frame", made(|out| frame::append_base64(&ack, None, out))),
        ("ack", ack),
    ];
    let mut examples: BTreeMap<_, _> = capsules.into_iter().map(|(name, bytes)| (name, hex(&bytes))).collect();
    examples.insert("token", format!("{}\n", token.reveal()));
    examples.insert("stored-key", hex_of_digits(stored_key));
    examples.insert("server-key", hex_of_digits(server_key));
    examples.insert("ack-base64", format!("{}\n", String::from_utf8(text).expect("text")));
    examples
}

fn made(append: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out);
    out
}

fn datagram(packet: &[u8], offload: Offload) -> Vec<u8> {
    [&datagram_header(packet.len(), offload)[..], packet].concat()
}

fn super_packet_offload() -> Offload {
    Offload { checksum: Checksum::Partial { start: 20, offset: 6 }, segment_bytes: 4, header_bytes: 28 }
}

/// UDP from 10.77.0.2 port 5000 to 192.0.2.1 port 5001 with 8 bytes of data, to be cut into 2 datagrams of 4; its
/// checksum field holds the pseudo-header's sum.
fn super_packet() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0x6e, 0x79, 10, 77, 0, 2, 192, 0, 2, 1];
    packet.extend([0x13, 0x88, 0x13, 0x89, 0, 16, 0xcc, 0x71]);
    packet.extend(*b"onlyafew");
    packet
}

/// Sixteen bytes a line.
fn hex(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n";
    bytes.chunks(16).map(line).collect()
}

fn hex_of_digits(digits: &str) -> String {
    let bytes: Vec<u8> =
        (0..digits.len()).step_by(2).filter_map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok()).collect();
    hex(&bytes)
}
