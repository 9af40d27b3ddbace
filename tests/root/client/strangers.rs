//! What others in the phone's network can do to a client: they reach the page's server, and know no token.

use std::net::TcpStream;

use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};
use wstether::wire::capsule::{AddressRange, Challenge, Refusal, RefusalReason, append_routes};
use wstether::wire::proof::Nonce;

use super::*;

/// Fewer than of one address may be there, with room for the relay, which has the same one here.
const SILENT: usize = 6;

impl World {
    /// A WebSocket to the page's server, as a relay opens it.
    fn stranger(&self) -> WebSocket<TcpStream> {
        let stream = self.gateway.run(|| TcpStream::connect((LAPTOP, PAGE_PORT))).unwrap().unwrap();
        let mut request = format!("ws://{LAPTOP}:{PAGE_PORT}/wstether").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "wstether.v1".parse().unwrap());
        tungstenite::client(request, stream).unwrap().0
    }
}

fn refusal(reason: RefusalReason) -> Vec<u8> {
    let mut message = Vec::new();
    Refusal { reason, retry_after_ms: 0, text: String::new() }.append(&mut message);
    message
}

#[test]
fn a_stranger_neither_ends_a_client_nor_has_it_wait_whatever_he_says_in_the_gateways_place() {
    let world = World::new("strangers");
    let (gateway, client) = world.begin_behind_a_phone();
    let challenge = || {
        let mut message = Vec::new();
        Challenge { nonce: Nonce([1; 32]) }.append(&mut message);
        message
    };
    let mut out_of_order = challenge();
    append_routes(&[AddressRange::ALL_V4], &mut out_of_order);
    // CHALLENGE of a version 2, as docs/protocol.md has it.
    let other_version = vec![0x80, 0x77, 0x73, 0x01, 0x01, 0x02];
    let words = [
        other_version,
        refusal(RefusalReason::BadCredential),
        [challenge(), refusal(RefusalReason::UnsupportedVersion)].concat(),
        out_of_order,
        b"nonsense".to_vec(),
    ];
    let all_of_them = || {
        for message in &words {
            let mut stranger = world.stranger();
            stranger.send(Message::binary(message.clone())).unwrap();
            // Until he is let go.
            while !matches!(stranger.read(), Ok(Message::Close(_)) | Err(_)) {}
        }
    };
    all_of_them();
    assert!(!world.has_tun());
    let _relay = world.relay();
    client.says("connected: ");
    assert_eq!(gateway.next(), Heard::Welcomed { resumed: false });
    all_of_them();
    assert!(world.ping(ANYWHERE));
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn those_who_say_nothing_keep_neither_the_phone_out_nor_the_routes_from_being_put_back() {
    let world = World::new("silent");
    let (_gateway, client) = world.begin_behind_a_phone();
    // One after the other they would take two minutes, far more than what is waited for here.
    let _silent: Vec<_> = (0..SILENT).map(|_| world.stranger()).collect();
    let relay = world.relay();
    client.says("connected: ");
    let address = Prefix::new(LEASE.into(), 32);
    world.laptop.netlink(|netlink| netlink.delete_address("wst0", address)).unwrap();
    client.says("somebody has changed wst0");
    drop(relay);
    client.says("the connection through the phone is gone");
    let _relay = world.relay();
    client.says("connected again: ");
    assert!(world.ping(ANYWHERE));
    assert_eq!(client.stop(), Some(0));
}
