//! A gateway as plain as can be: blocking, one thread a connection, wstether's own codec. It answers pings.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};
use wstether::http::parse_head;
use wstether::http::upgrade::{PATH, upgrade};
use wstether::packet::Offload;
use wstether::wire::capsule::{
    AddressRange, AssignedAddress, Capsule, Capsules, Challenge, Features, Hello, Prefix, Refusal, RefusalReason,
    SessionId, Welcome, append_ack, append_address_assign, append_routes, datagram_header,
};
use wstether::wire::frame::Subprotocol;
use wstether::wire::proof::{Nonce, Verifier};
use wstether::wire::token::Token;

pub(crate) const INNER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
pub(crate) const LEASE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
pub(crate) const MTU_BYTES: u16 = 1_400;

/// What a test hears from the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A client came in: with a ticket that is known, or without.
    Welcomed { resumed: bool },
    /// The client closed with this code, or without.
    Closed(Option<u16>),
}

/// How the gateway behaves.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) verifier: Verifier,
    pub(crate) features: Features,
}

pub(crate) struct Gateway {
    pub(crate) heard: Receiver<Heard>,
    carries: Arc<Mutex<Vec<AddressRange>>>,
    links: Arc<Mutex<HashMap<u64, TcpStream>>>,
    is_away: Arc<AtomicBool>,
}

impl Gateway {
    /// Serves on `address` in the namespace of the calling thread.
    pub(crate) fn serve(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let (sender, heard) = channel();
        let links: Arc<Mutex<HashMap<u64, TcpStream>>> = Arc::default();
        let open = Arc::clone(&links);
        let carries = Arc::new(Mutex::new(vec![AddressRange::ALL_V4]));
        let carries_now = Arc::clone(&carries);
        let is_away = Arc::<AtomicBool>::default();
        let is_away_now = Arc::clone(&is_away);
        std::thread::spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming()) {
                let (stream, script, sender) = (stream.unwrap(), script.clone(), sender.clone());
                if is_away_now.load(Ordering::SeqCst) {
                    continue;
                }
                open.lock().unwrap().insert(number, stream.try_clone().unwrap());
                let carries = carries_now.lock().unwrap().clone();
                std::thread::spawn(move || converse(stream, &script, &carries, &sender));
            }
        });
        Self { heard, carries, links, is_away }
    }

    /// From the next connection on it carries packets to these.
    pub(crate) fn set_carries(&self, ranges: &[AddressRange]) {
        *self.carries.lock().unwrap() = ranges.to_vec();
    }

    /// From now on it hangs up on whoever comes, or no longer.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// The next thing that happens.
    pub(crate) fn next(&self) -> Heard {
        self.heard.recv_timeout(Duration::from_secs(30)).expect("something happens at the gateway")
    }

    /// Breaks every connection.
    pub(crate) fn break_links(&self) {
        for (_, link) in self.links.lock().unwrap().drain() {
            // One that is gone already is broken.
            drop(link.shutdown(std::net::Shutdown::Both));
        }
    }
}

/// One connection's life.
fn converse(mut stream: TcpStream, script: &Script, carries: &[AddressRange], heard: &Sender<Heard>) {
    let mut request = Vec::new();
    let accepted = loop {
        let mut chunk = [0; 4_096];
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "a request");
        request.extend_from_slice(&chunk[..count]);
        if let Some((head, _)) = parse_head(&request).unwrap() {
            break upgrade(&head, PATH, &[Subprotocol::Binary]).unwrap();
        }
    };
    stream.write_all(&accepted.response).unwrap();
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(WebSocketConfig::default()));
    // A test that is over does not listen any more.
    drop(heard.send(Heard::Closed(serve(&mut socket, script, carries, heard))));
}

/// The handshake and all that follows; returns the code that the client closed with.
fn serve(
    socket: &mut WebSocket<TcpStream>,
    script: &Script,
    carries: &[AddressRange],
    heard: &Sender<Heard>,
) -> Option<u16> {
    let challenge = Challenge { nonce: Nonce::random().unwrap() };
    let mut bytes = Vec::new();
    challenge.append(&mut bytes);
    socket.send(Message::binary(bytes)).unwrap();
    let Ok(Message::Binary(message)) = socket.read() else { panic!("no HELLO") };
    let Some(Ok(Capsule::Hello(hello))) = Capsules::new(&message).next() else { panic!("no HELLO") };
    socket.send(Message::binary(answer(script, carries, &challenge, &hello, heard))).unwrap();
    let mut received = 0;
    loop {
        match socket.read() {
            Ok(Message::Binary(message)) => {
                let mut out = Vec::new();
                for capsule in Capsules::new(&message) {
                    if let Capsule::Datagram(datagram) = capsule.unwrap() {
                        received += datagram.capsule_bytes as u64;
                        append_ack(received, &mut out);
                        echo(datagram.payload, &mut out);
                    }
                }
                if !out.is_empty() && socket.send(Message::binary(out)).is_err() {
                    return None;
                }
            }
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) | Error::Protocol(_)) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// WELCOME and what follows it, or REFUSAL.
fn answer(
    script: &Script,
    carries: &[AddressRange],
    challenge: &Challenge,
    hello: &Hello,
    heard: &Sender<Heard>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let asked = hello.auth_message(challenge);
    if script.verifier.check_client(&asked, &hello.proof).is_err() {
        let text = "no such credential".to_owned();
        Refusal { reason: RefusalReason::BadCredential, retry_after_ms: 0, text }.append(&mut out);
        return out;
    }
    let mut welcome = Welcome {
        session: SessionId([1; 16]),
        features: hello.features.and(script.features),
        mtu: MTU_BYTES,
        gateway: vec![INNER.into()],
        dns: vec![INNER.into()],
        credit_bytes: 1 << 40,
        message_bytes_max: 256 << 10,
        keep_alive_ms: 10_000,
        ticket_lifetime_ms: 60_000,
        ticket: b"ticket".to_vec(),
        proof: Default::default(),
    };
    welcome.proof = script.verifier.prove(&welcome.auth_message(&asked));
    welcome.append(&mut out);
    append_address_assign(&[AssignedAddress { request_id: 0, prefix: Prefix::host(LEASE.into()) }], &mut out);
    append_routes(carries, &mut out);
    drop(heard.send(Heard::Welcomed { resumed: hello.ticket == b"ticket" }));
    out
}

/// Answers an ICMP echo request: addresses swapped, type 0. The IP checksum stays right, the ICMP one grows by the type.
fn echo(packet: &[u8], out: &mut Vec<u8>) {
    let is_echo = packet.first() == Some(&0x45) && packet.get(9) == Some(&1) && packet.get(20) == Some(&8);
    if !is_echo {
        return;
    }
    let mut reply = packet.to_vec();
    let (source, destination) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    reply[12..16].copy_from_slice(&destination);
    reply[16..20].copy_from_slice(&source);
    reply[20] = 0;
    let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + 0x0800;
    let sum = (sum & 0xffff) + (sum >> 16);
    reply[22..24].copy_from_slice(&(sum as u16).to_be_bytes());
    out.extend_from_slice(&datagram_header(reply.len(), Offload::default()));
    out.extend_from_slice(&reply);
}

/// A token and what a gateway knows of it.
pub(crate) fn credential() -> (Token, Verifier) {
    let token = Token::random().unwrap();
    let verifier = token.secret.verifier();
    (token, verifier)
}
