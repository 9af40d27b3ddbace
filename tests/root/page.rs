//! The relay page in a real browser, between a laptop and a gateway on loopback.

use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message};
use wstether::http::upgrade::{PATH, Subprotocol};

use crate::chromium::{Chromium, PHONE};
use crate::servers::{Server, Socket, serve};

/// What the gateway says first.
const CHALLENGE: &[u8] = b"challenge";

/// Both ends of what the page joins.
struct Joined {
    laptop: Socket,
    gateway: Socket,
    subprotocol: Subprotocol,
}

impl Joined {
    /// Waits until the page has joined both, and the gateway's first message came through.
    fn accept(laptop: &Server, gateway: &Server) -> Self {
        let (laptop, asked_of_laptop) = laptop.accept();
        let (gateway, subprotocol) = gateway.accept();
        assert_eq!(asked_of_laptop, subprotocol, "both sides speak the same");
        let mut joined = Self { laptop, gateway, subprotocol };
        send(&mut joined.gateway, subprotocol, CHALLENGE);
        assert_eq!(receive(&mut joined.laptop, subprotocol), CHALLENGE);
        joined
    }
}

fn send(socket: &mut Socket, subprotocol: Subprotocol, bytes: &[u8]) {
    let message = match subprotocol {
        Subprotocol::Binary => Message::binary(bytes.to_vec()),
        Subprotocol::Base64 => Message::text(STANDARD.encode(bytes)),
    };
    socket.send(message).expect("a message is sent");
}

fn receive(socket: &mut Socket, subprotocol: Subprotocol) -> Vec<u8> {
    match (socket.read().expect("a message"), subprotocol) {
        (Message::Binary(bytes), Subprotocol::Binary) => bytes.to_vec(),
        (Message::Text(text), Subprotocol::Base64) => STANDARD.decode(text.as_str()).expect("base64"),
        (message, _) => panic!("not a message of {subprotocol:?}: {message:?}"),
    }
}

/// The frame with which the other end closed.
fn closing(socket: &mut Socket) -> (u16, String) {
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => {
                let frame = frame.expect("a close code");
                return (frame.code.into(), frame.reason.to_string());
            }
            Ok(_) => (),
            Err(error) => panic!("no close frame: {error}"),
        }
    }
}

fn close(socket: &mut Socket, code: u16, reason: &'static str) {
    socket.close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() })).expect("closing");
    while !matches!(socket.read(), Err(Error::ConnectionClosed | Error::Io(_) | Error::Protocol(_))) {}
}

fn browser(laptop: &Server) -> Chromium {
    let mut chromium = Chromium::launch(|program| Command::new(program));
    chromium.open(&format!("http://{}/", laptop.address));
    chromium
}

/// Wait until the page shows both connections.
fn wait_connected(chromium: &mut Chromium) {
    chromium.wait("#laptop-state", "data-state", "connected");
    chromium.wait("#gateway-state", "data-state", "connected");
}

/// Has the browser say whether the phone has any network, whatever the machine has.
fn phone_is_online(chromium: &mut Chromium, online: bool) {
    chromium.execute(&format!("Object.defineProperty(navigator, 'onLine', {{ value: {online}, configurable: true }})"));
}

/// Message lengths from 1 byte to 256 KiB, the edges of WebSocket's length fields among them.
fn lengths() -> Vec<usize> {
    let edges = [1, 2, 125, 126, 127, 1400, 16_384, 65_535, 65_536, 65_537, 262_144];
    (0..60).map(|i| edges[i % edges.len()].max(i)).collect()
}

/// Bytes that differ with the seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A sum over messages and the borders between them.
#[derive(Default)]
struct Sum(Sha256, u64);

impl Sum {
    fn add(&mut self, message: &[u8]) {
        self.0.update((message.len() as u64).to_be_bytes());
        self.0.update(message);
        self.1 += message.len() as u64;
    }

    fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Sends its own messages and takes the other's, in turn; gives the sums of both.
fn exchange(mut socket: Socket, subprotocol: Subprotocol, seed: u64) -> (Socket, [Sum; 2]) {
    let (mut sent, mut received) = (Sum::default(), Sum::default());
    for (i, length) in lengths().into_iter().enumerate() {
        let message = noise(seed + i as u64, length);
        send(&mut socket, subprotocol, &message);
        sent.add(&message);
        received.add(&receive(&mut socket, subprotocol));
    }
    (socket, [sent, received])
}

fn messages_arrive_as_they_were_sent(base64: bool) {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, base64);
    let mut chromium = browser(&laptop);
    let joined = Joined::accept(&laptop, &gateway);
    let subprotocol = joined.subprotocol;
    assert_eq!(subprotocol, if base64 { Subprotocol::Base64 } else { Subprotocol::Binary });

    let far = std::thread::spawn(move || exchange(joined.gateway, subprotocol, 1000));
    let (_laptop_socket, [up_sent, down_received]) = exchange(joined.laptop, subprotocol, 1);
    let (_gateway_socket, [down_sent, up_received]) = far.join().expect("the gateway's side");

    let on_the_wire = |length: usize| if base64 { length.div_ceil(3) * 4 } else { length };
    let bytes: usize = lengths().into_iter().map(on_the_wire).sum();
    let challenge = on_the_wire(CHALLENGE.len());
    assert_eq!(up_sent.hex(), up_received.hex());
    assert_eq!(down_sent.hex(), down_received.hex());
    chromium.wait("#bytes-up", "data-bytes", bytes.to_string().as_str());
    chromium.wait("#bytes-down", "data-bytes", (bytes + challenge).to_string().as_str());
}

#[test]
fn every_binary_message_arrives_as_it_was_sent_and_in_order() {
    messages_arrive_as_they_were_sent(false);
}

#[test]
fn every_base64_message_arrives_as_it_was_sent_and_in_order() {
    messages_arrive_as_they_were_sent(true);
}

#[test]
fn a_gateway_that_refuses_binary_gets_base64_on_both_sides() {
    let gateway = Server::gateway(&[Subprotocol::Base64]);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);
    let (_gateway_socket, subprotocol) = gateway.accept();
    assert_eq!(subprotocol, Subprotocol::Base64);
    let of_laptop = std::iter::repeat_with(|| laptop.accept().1);
    let refused_by_gateway = of_laptop.take_while(|asked| *asked != Subprotocol::Base64).count();
    assert_ne!(refused_by_gateway, 0, "the laptop was asked for binary first");
    chromium.wait("#gateway-state", "data-state", "connected");
}

#[test]
fn when_the_gateway_closes_the_laptop_is_told_and_the_page_says_so_and_dials_again() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);

    let mut joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
    assert_eq!(chromium.text("#headline"), "Your laptop is online");
    assert_eq!(chromium.attribute("#problem", "hidden").as_deref(), Some("true"));
    send(&mut joined.gateway, Subprotocol::Binary, b"refused");
    close(&mut joined.gateway, 4321, "no room");
    assert_eq!(receive(&mut joined.laptop, Subprotocol::Binary), b"refused", "what came before the end arrives");
    assert_eq!(closing(&mut joined.laptop), (4321, "no room".to_owned()));
    chromium.wait("#problem", "data-failure", "gatewayLost");

    // A code that a page may not send comes mapped.
    let mut joined = Joined::accept(&laptop, &gateway);
    close(&mut joined.gateway, 1001, "");
    assert_eq!(closing(&mut joined.laptop).0, 4901);

    let _joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
    assert_eq!(chromium.attribute("#problem", "hidden").as_deref(), Some("true"));
}

#[test]
fn a_gateway_that_does_not_accept_the_token_is_told_as_that() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);
    for reason in ["bad_credential", "the token was revoked"] {
        let mut joined = Joined::accept(&laptop, &gateway);
        wait_connected(&mut chromium);
        close(&mut joined.gateway, 1008, reason);
        assert_eq!(closing(&mut joined.laptop), (4908, reason.to_owned()));
        chromium.wait("#problem", "data-failure", "gatewayToken");
    }
    assert!(chromium.text("#todo").contains("wstether token new"));
}

#[test]
fn a_page_whose_place_another_has_taken_says_so_and_stays_away_until_start_is_pressed() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);

    let mut joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
    close(&mut joined.gateway, 4000, "a newer link has its place");
    assert_eq!(closing(&mut joined.laptop).0, 4000);
    chromium.wait("#problem", "data-failure", "replaced");
    assert_eq!((chromium.text("#headline").as_str(), chromium.text("#toggle").as_str()), ("Stopped", "Start"));
    let dialled = chromium.attribute("#attempts", "data-count");
    // What makes a page that waits dial at once.
    chromium.execute("dispatchEvent(new Event('online'))");
    assert_eq!(chromium.attribute("#attempts", "data-count"), dialled);

    chromium.click("#toggle");
    let _joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
    assert_eq!(chromium.attribute("#problem", "hidden").as_deref(), Some("true"));
}

#[test]
fn when_the_laptop_goes_the_gateway_is_told_and_the_page_says_so_until_it_is_back() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let address = laptop.address.to_string();
    let mut chromium = browser(&laptop);

    let mut joined = Joined::accept(&laptop, &gateway);
    phone_is_online(&mut chromium, true);
    drop(laptop);
    drop(joined.laptop);
    assert_eq!(closing(&mut joined.gateway).0, 4906, "1006: it ended without a close frame");
    chromium.wait("#problem", "data-failure", "laptopUnreachable");
    chromium.wait("#laptop-state", "data-state", "closed");
    chromium.wait("#gateway-state", "data-state", "closed");
    phone_is_online(&mut chromium, false);
    chromium.wait("#problem", "data-failure", "offline");

    let laptop = Server::laptop_at(&address, gateway.address, false);
    let _joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
}

#[test]
fn a_gateway_that_is_not_there_is_told_apart_from_a_laptop_that_is_not() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let nowhere = gateway.address;
    drop(gateway);
    let laptop = Server::laptop(nowhere, false);
    let mut chromium = browser(&laptop);
    let (mut socket, _) = laptop.accept();
    assert_eq!(closing(&mut socket), (4920, "not reached".to_owned()));
    chromium.wait("#problem", "data-failure", "gatewayUnreachable");
    assert!(chromium.text("#todo").contains(&nowhere.to_string()), "the page names the gateway");
}

#[test]
fn a_page_that_waits_tries_at_once_when_the_network_or_the_person_is_back() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let nowhere = gateway.address;
    drop(gateway);
    let laptop = Server::laptop(nowhere, false);
    let mut chromium = browser(&laptop);
    for event in [
        "window.dispatchEvent(new Event('online'))",
        "window.dispatchEvent(new Event('pageshow'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
    ] {
        let tries = format!(
            "const tries = () => Number(document.querySelector('#attempts').dataset.count);
             if (document.querySelector('#page').dataset.state !== 'waiting') return null;
             const before = tries();
             {event};
             return tries() - before;"
        );
        let tried = std::iter::repeat_with(|| chromium.execute(&tries)).find(|tried| !tried.is_null());
        assert_eq!(tried.and_then(|tried| tried.as_i64()), Some(1), "{event}");
    }
}

#[test]
fn what_the_laptop_sends_early_is_held_in_order_and_too_much_of_it_ends_the_connection() {
    // A listener that accepts no handshake: the gateway is being dialled for as long as we like.
    let slow = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let laptop = Server::laptop(slow.local_addr().expect("its address"), false);
    let _chromium = browser(&laptop);

    let (mut early, subprotocol) = laptop.accept();
    let messages = (1..=64).map(|length| noise(length, length as usize));
    messages.clone().for_each(|message| send(&mut early, subprotocol, &message));
    let (sender, sockets) = mpsc::channel();
    serve(slow.accept().expect("the page").0, None, &Subprotocol::ALL, &sender);
    let (mut gateway, _) = sockets.recv().expect("a WebSocket");
    messages.for_each(|message| assert_eq!(receive(&mut gateway, subprotocol), message));

    close(&mut gateway, 1000, "");
    let (mut early, subprotocol) = laptop.accept();
    let _dialled = slow.accept().expect("the page");
    (0..=64).for_each(|_| send(&mut early, subprotocol, b"early"));
    assert_eq!(closing(&mut early), (4921, "too much before the gateway was there".to_owned()));
}

#[test]
fn a_gateway_that_says_nothing_is_given_up_and_tried_again() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);
    let (mut socket, _) = laptop.accept();
    let _silent = gateway.accept();
    chromium.wait("#gateway-state", "data-state", "connected");
    assert_eq!(chromium.text("#headline"), "Connecting…", "who has heard nothing is not online");
    assert_eq!(closing(&mut socket), (4922, "no first message in time".to_owned()));
    chromium.wait("#problem", "data-failure", "gatewaySilent");
    let _joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
}

#[test]
fn what_a_slow_gateway_does_not_take_waits_in_the_page_and_is_shown_and_nothing_is_lost() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);
    let mut joined = Joined::accept(&laptop, &gateway);
    let message = |seed: usize| vec![seed as u8; 65_536];
    (0..512).for_each(|seed| send(&mut joined.laptop, Subprotocol::Binary, &message(seed)));
    chromium.wait("#waiting", "hidden", None);
    for seed in 0..512 {
        assert!(receive(&mut joined.gateway, Subprotocol::Binary) == message(seed), "message {seed}");
    }
    chromium.wait("#waiting", "hidden", "true");
}

#[test]
fn a_page_of_another_site_gets_no_connection_to_the_laptop() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = Chromium::launch(|program| Command::new(program));
    chromium.open(&format!("http://{}/elsewhere", gateway.address));
    let url = format!("ws://{}{PATH}", laptop.address);
    chromium.execute(&format!(
        "const socket = new WebSocket('{url}', 'wstether.v1');
         socket.onopen = () => document.body.dataset.socket = 'open';
         socket.onclose = () => document.body.dataset.socket = 'refused';"
    ));
    chromium.wait("body", "data-socket", "refused");
    assert!(laptop.sockets.try_recv().is_err());
}

#[test]
fn the_button_stops_and_starts() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);
    let mut joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);

    assert_eq!(chromium.text("#toggle"), "Stop");
    chromium.click("#toggle");
    assert_eq!(closing(&mut joined.laptop), (1000, "stopped on the phone".to_owned()));
    assert_eq!(closing(&mut joined.gateway).0, 1000);
    assert_eq!((chromium.text("#headline").as_str(), chromium.text("#toggle").as_str()), ("Stopped", "Start"));

    chromium.click("#toggle");
    let _joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
}

#[test]
fn the_page_fits_any_phone_in_light_and_dark() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let mut chromium = browser(&laptop);
    let _joined = Joined::accept(&laptop, &gateway);
    wait_connected(&mut chromium);
    let pictures = ["light", "dark"].map(|scheme| {
        chromium.color_scheme(scheme);
        for screen in [(280, 653), (360, 640), (844, 390), PHONE] {
            chromium.screen(screen);
            let wide = chromium.execute("return document.documentElement.scrollWidth - innerWidth").as_i64();
            assert!(wide <= Some(0), "{wide:?} pixels too wide on {screen:?}");
        }
        chromium.screenshot()
    });
    assert!(pictures.iter().all(|picture| picture.starts_with(b"\x89PNG")));
    assert_ne!(pictures[0], pictures[1], "dark looks like light");
    assert_eq!(chromium.complaints(), Vec::<String>::new());
}

/// Prints what the page carries; how fast that is depends on the machine.
#[test]
fn a_large_transfer_each_way_arrives_whole() {
    let gateway = Server::gateway(&Subprotocol::ALL);
    let laptop = Server::laptop(gateway.address, false);
    let _chromium = browser(&laptop);
    let mut joined = Joined::accept(&laptop, &gateway);
    let up = transfer(&mut joined.laptop, &mut joined.gateway);
    let down = transfer(&mut joined.gateway, &mut joined.laptop);
    eprintln!("the page carried 64 MiB each way: up {up:.0} Mbit/s, down {down:.0} Mbit/s");
}

/// Sends 64 MiB with a window of 1 MiB, as laptop and gateway keep one; gives Mbit/s.
fn transfer(from: &mut Socket, to: &mut Socket) -> f64 {
    const MESSAGE_BYTES: usize = 64 * 1024;
    const MESSAGES: u64 = 1024;
    const WINDOW_MESSAGES: usize = 16;
    let (take, give) = mpsc::sync_channel::<()>(WINDOW_MESSAGES);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for seed in 0..MESSAGES {
                take.send(()).expect("the receiver goes on");
                send(from, Subprotocol::Binary, &[seed as u8; MESSAGE_BYTES]);
            }
        });
        for seed in 0..MESSAGES {
            assert!(receive(to, Subprotocol::Binary) == [seed as u8; MESSAGE_BYTES], "message {seed}");
            give.recv().expect("the sender went on");
        }
    });
    (MESSAGES * MESSAGE_BYTES as u64 * 8) as f64 / began.elapsed().as_secs_f64() / 1e6
}
