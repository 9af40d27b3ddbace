//! The headless relay between a laptop's and a gateway's WebSocket, both tungstenite's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use wstether::config::values::Auto;
use wstether::dial::TlsClient;
use wstether::relay::headless::{self, PENDING_BYTES_MAX, RelayError, RelaySettings, Traffic};
use wstether::stop::Stop;
use wstether::transport::TcpOptions;

use super::websockets::{Authority, Server, Socket, closed_with, no_extra_trust, receive};

/// A relay that runs, and the two servers that it joins.
struct Joined {
    laptop: Server,
    gateway: Server,
    stop: Stop,
    relay: JoinHandle<Result<Traffic, RelayError>>,
}

impl Joined {
    fn new(gateway: Server, tls: TlsClient, base64: bool, once: bool) -> Self {
        let (laptop, stop) = (Server::plain(), Stop::new().unwrap());
        let settings = RelaySettings {
            client: laptop.url(),
            gateway: gateway.url(),
            base64,
            once,
            tls,
            tcp: TcpOptions::default(),
        };
        let relay = thread::spawn({
            let stop = stop.clone();
            move || headless::run(&settings, &stop)
        });
        Self { laptop, gateway, stop, relay }
    }

    fn plain() -> Self {
        Self::new(Server::plain(), no_extra_trust(), false, false)
    }

    /// Both ends; the laptop's opens first, and the gateway has said its first word.
    fn ends(&self) -> (Socket, Socket) {
        let (mut laptop, mut gateway) = (self.laptop.accept(), self.gateway.accept());
        gateway.send(Message::binary("first")).unwrap();
        assert_eq!(receive(&mut laptop), Message::binary("first"));
        (laptop, gateway)
    }

    /// Gives the word to stop, which both ends hear.
    fn stop(self, mut laptop: Socket, mut gateway: Socket) -> Traffic {
        self.stop.trigger();
        assert_eq!(closed_with(&mut laptop), (1001, "the relay stops".to_owned()));
        assert_eq!(closed_with(&mut gateway), (1001, "the relay stops".to_owned()));
        self.relay.join().unwrap().unwrap()
    }
}

/// Messages of 0 bytes to 256 KiB, the same for the same seed.
fn messages(seed: u32) -> impl Iterator<Item = Vec<u8>> {
    let sizes = [1, 125, 126, 65_535, 65_536, 262_144, 0, 1400];
    let mut state = seed;
    let mut random = move || {
        // Xorshift (Marsaglia 2003) is random enough to notice a swapped or lost byte.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..120).map(move |i| {
        let len = sizes.get(i).copied().unwrap_or_else(|| (random() as usize % 262_145) >> (random() % 12));
        (0..len).map(|_| random() as u8).collect()
    })
}

fn as_message(bytes: &[u8], base64: bool) -> Message {
    if base64 { Message::text(STANDARD.encode(bytes)) } else { Message::binary(bytes.to_vec()) }
}

/// Sends its messages and takes the peer's, one by one.
fn exchange(mut socket: Socket, seed: u32, base64: bool) -> JoinHandle<(Vec<u8>, Socket)> {
    thread::spawn(move || {
        let mut hash = Sha256::new();
        for message in messages(seed) {
            socket.send(as_message(&message, base64)).unwrap();
            let message = receive(&mut socket);
            assert_eq!((message.is_text(), message.is_binary()), (base64, !base64));
            let bytes = if base64 {
                STANDARD.decode(message.to_text().unwrap()).unwrap()
            } else {
                message.into_data().to_vec()
            };
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(&bytes);
        }
        (hash.finalize().to_vec(), socket)
    })
}

fn hash_of(seed: u32) -> Vec<u8> {
    let mut hash = Sha256::new();
    for message in messages(seed) {
        hash.update((message.len() as u64).to_be_bytes());
        hash.update(&message);
    }
    hash.finalize().to_vec()
}

fn every_message_arrives_whole_and_in_order(joined: Joined, base64: bool) {
    let (up, down) = (1, 2);
    let laptop = exchange(joined.laptop.accept(), up, base64);
    let gateway = exchange(joined.gateway.accept(), down, base64);
    let ((at_laptop, laptop), (at_gateway, gateway)) = (laptop.join().unwrap(), gateway.join().unwrap());
    assert_eq!((at_laptop, at_gateway), (hash_of(down), hash_of(up)));
    let traffic = joined.stop(laptop, gateway);
    assert_eq!((traffic.up.messages, traffic.down.messages), (120, 120));
    assert_eq!(traffic.up.bytes, messages(up).map(|message| message.len() as u64).sum::<u64>());
    assert!(traffic.pending_bytes_max <= PENDING_BYTES_MAX);
}

#[test]
fn every_binary_message_arrives_whole_and_in_order() {
    every_message_arrives_whole_and_in_order(Joined::plain(), false);
}

#[test]
fn every_base64_message_arrives_whole_and_in_order() {
    let joined = Joined::new(Server::plain(), no_extra_trust(), true, false);
    every_message_arrives_whole_and_in_order(joined, true);
}

#[test]
fn every_message_arrives_whole_and_in_order_where_the_gateway_speaks_tls() {
    let authority = Authority::new("relay");
    let joined = Joined::new(authority.server("localhost"), authority.trusted(), false, false);
    every_message_arrives_whole_and_in_order(joined, false);
}

#[test]
fn a_side_that_does_not_read_holds_the_other_one_back_and_nothing_is_lost() {
    const MESSAGES: usize = 1024;
    let joined = Joined::plain();
    let (mut laptop, mut gateway) = joined.ends();
    let sent = Arc::new(AtomicUsize::new(0));
    let sender = thread::spawn({
        let sent = Arc::clone(&sent);
        move || {
            for i in 0..MESSAGES {
                gateway.send(Message::binary(vec![i as u8; 65_536])).unwrap();
                sent.store(i + 1, Ordering::SeqCst);
            }
            gateway
        }
    });
    wait_until_steady(&sent);
    let held_back = sent.load(Ordering::SeqCst);
    assert!(held_back < MESSAGES, "the sender was not held back");
    for i in 0..MESSAGES {
        assert_eq!(receive(&mut laptop), Message::binary(vec![i as u8; 65_536]), "message {i}");
    }
    let traffic = joined.stop(laptop, sender.join().unwrap());
    assert!(traffic.pending_bytes_max <= PENDING_BYTES_MAX, "{} bytes", traffic.pending_bytes_max);
    assert_eq!(traffic.down.messages, MESSAGES as u64 + 1);
}

/// Waits until a count has begun to grow and grows no more.
fn wait_until_steady(count: &AtomicUsize) {
    let mut before = 0;
    loop {
        thread::sleep(Duration::from_millis(300));
        let now = count.load(Ordering::SeqCst);
        if now == before && now > 0 {
            return;
        }
        before = now;
    }
}

#[test]
fn what_one_side_closes_with_reaches_the_other_as_the_page_would_pass_it_on() {
    for (closed, passed_on) in [(1000, 1000), (1001, 4901), (1013, 4913), (3000, 3000), (4321, 4321)] {
        for by_gateway in [true, false] {
            let joined = Joined::new(Server::plain(), no_extra_trust(), false, true);
            let (laptop, gateway) = joined.ends();
            let (mut closing, mut other) = if by_gateway { (gateway, laptop) } else { (laptop, gateway) };
            let frame = CloseFrame { code: closed.into(), reason: "why".into() };
            closing.close(Some(frame.clone())).unwrap();
            assert_eq!(closed_with(&mut other), (passed_on, "why".to_owned()));
            assert_eq!(closed_with(&mut closing), (closed, "why".to_owned()));
            joined.relay.join().unwrap().unwrap();
        }
    }
}

#[test]
fn messages_before_a_close_arrive_before_it() {
    let joined = Joined::new(Server::plain(), no_extra_trust(), false, true);
    let (mut laptop, mut gateway) = joined.ends();
    for i in 0..40 {
        gateway.send(Message::binary(vec![i; 65_536])).unwrap();
    }
    gateway.close(None).unwrap();
    for i in 0..40 {
        assert_eq!(receive(&mut laptop), Message::binary(vec![i; 65_536]));
    }
    assert_eq!(closed_with(&mut laptop).0, 4905, "there was no code");
}

#[test]
fn a_connection_that_breaks_is_told_apart_from_one_that_was_closed() {
    let joined = Joined::new(Server::plain(), no_extra_trust(), false, true);
    let (mut laptop, gateway) = joined.ends();
    drop(gateway);
    assert_eq!(closed_with(&mut laptop).0, 4906);
}

#[test]
fn a_message_that_is_too_long_ends_both_connections() {
    let joined = Joined::new(Server::plain(), no_extra_trust(), false, true);
    let (mut laptop, mut gateway) = joined.ends();
    drop(laptop.send(Message::binary(vec![0; 2 << 20])));
    assert_eq!(closed_with(&mut gateway).0, 4909);
}

#[test]
fn text_where_binary_was_agreed_ends_both_connections() {
    let joined = Joined::new(Server::plain(), no_extra_trust(), false, true);
    let (mut laptop, mut gateway) = joined.ends();
    laptop.send(Message::text("text")).unwrap();
    assert_eq!(closed_with(&mut laptop).0, 1003);
    assert_eq!(closed_with(&mut gateway).0, 4903);
}

#[test]
fn a_gateway_that_cannot_be_reached_is_told_to_the_laptop() {
    let gateway = Server::plain();
    let url = gateway.url();
    drop(gateway);
    let laptop = Server::plain();
    let settings = RelaySettings {
        client: laptop.url(),
        gateway: url,
        base64: false,
        once: true,
        tls: no_extra_trust(),
        tcp: TcpOptions::default(),
    };
    let relay = thread::spawn(move || headless::run(&settings, &Stop::new().unwrap()));
    let (code, reason) = closed_with(&mut laptop.accept());
    assert_eq!(code, 4920);
    assert!(reason.starts_with("cannot reach the gateway: 127.0.0.1"), "{reason}");
    let error = relay.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("refuses the connection"), "{error}");
}

#[test]
fn a_ping_is_answered_by_the_relay_and_goes_no_further() {
    let joined = Joined::plain();
    let (mut laptop, mut gateway) = joined.ends();
    laptop.send(Message::Ping("are you there?".into())).unwrap();
    assert_eq!(laptop.read().unwrap(), Message::Pong("are you there?".into()));
    laptop.send(Message::binary("after")).unwrap();
    assert_eq!(gateway.read().unwrap(), Message::binary("after"));
    joined.stop(laptop, gateway);
}

#[test]
fn a_connection_that_ended_is_dialled_again() {
    let joined = Joined::plain();
    for _ in 0..2 {
        let (_laptop, gateway) = joined.ends();
        drop(gateway);
    }
    let (laptop, _gateway) = joined.ends();
    drop(laptop);
    let (mut laptop, mut gateway) = joined.ends();
    laptop.send(Message::binary("again")).unwrap();
    assert_eq!(receive(&mut gateway), Message::binary("again"));
    assert_eq!(joined.stop(laptop, gateway).down.messages, 4);
}

#[test]
fn a_relay_whose_place_another_has_taken_ends_and_says_so() {
    for is_by_gateway in [true, false] {
        let joined = Joined::plain();
        let (mut laptop, mut gateway) = joined.ends();
        let (by, other) = if is_by_gateway { (&mut gateway, &mut laptop) } else { (&mut laptop, &mut gateway) };
        let frame = CloseFrame { code: CloseCode::from(4000), reason: "a newer link has its place".into() };
        by.close(Some(frame)).unwrap();
        assert_eq!(closed_with(other), (4000, "a newer link has its place".to_owned()));
        let error = joined.relay.join().unwrap().unwrap_err();
        assert!(matches!(error, RelayError::Replaced), "{error}");
        assert!(error.to_string().contains("another page or relay has taken over"), "{error}");
    }
}

#[test]
fn the_word_to_stop_closes_both_connections_as_going_away() {
    let joined = Joined::plain();
    let (laptop, gateway) = joined.ends();
    assert_eq!(joined.stop(laptop, gateway).down.messages, 1);
}

#[test]
fn the_word_to_stop_ends_a_dial() {
    let (laptop, silent, stop) = (Server::plain(), Server::plain(), Stop::new().unwrap());
    let settings = RelaySettings {
        client: laptop.url(),
        gateway: silent.url(),
        base64: false,
        once: false,
        tls: no_extra_trust(),
        tcp: TcpOptions::default(),
    };
    let relay = thread::spawn({
        let stop = stop.clone();
        move || headless::run(&settings, &stop)
    });
    let mut laptop = laptop.accept();
    let _stream = silent.stream();
    stop.trigger();
    assert_eq!(closed_with(&mut laptop).0, 1001);
    assert_eq!(relay.join().unwrap().unwrap(), Traffic::default());
}

#[test]
fn a_congestion_control_that_the_kernel_does_not_have_ends_the_relay_at_once_with_those_that_it_has() {
    let (laptop, gateway) = (Server::plain(), Server::plain());
    let congestion = Auto::Is("no_such".parse().unwrap());
    let settings = RelaySettings {
        client: laptop.url(),
        gateway: gateway.url(),
        base64: false,
        once: false,
        tls: no_extra_trust(),
        tcp: TcpOptions { congestion, ..TcpOptions::default() },
    };
    let error = headless::run(&settings, &Stop::new().unwrap()).unwrap_err().to_string();
    assert!(error.contains("\"no_such\"") && error.contains("reno"), "{error}");
}

/// In release: `cargo test --release --test quick speed -- --nocapture`
#[test]
fn the_speed_is_shown() {
    show_speed("without TLS", Joined::plain());
    let authority = Authority::new("speed");
    // Not before it is used: a relay that dials waits for ten seconds at most.
    let over_tls = Joined::new(authority.server("localhost"), authority.trusted(), false, false);
    show_speed("with TLS to the gateway", over_tls);
}

fn show_speed(name: &str, joined: Joined) {
    let bytes = if cfg!(debug_assertions) { 4 << 20 } else { 256 << 20 };
    let (mut laptop, mut gateway) = joined.ends();
    for size in [1400, 16_384, 65_536] {
        let up = mbit_s(&mut laptop, &mut gateway, size, bytes / size);
        let down = mbit_s(&mut gateway, &mut laptop, size, bytes / size);
        eprintln!("{name}, messages of {size} bytes: {up:.0} Mbit/s up, {down:.0} Mbit/s down");
    }
    joined.stop(laptop, gateway);
}

fn mbit_s(from: &mut Socket, to: &mut Socket, size: usize, count: usize) -> f64 {
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count {
                from.write(Message::binary(vec![0; size])).unwrap();
            }
            from.flush().unwrap();
        });
        for _ in 0..count {
            assert_eq!(receive(to).len(), size);
        }
    });
    (size * count * 8) as f64 / 1e6 / begun.elapsed().as_secs_f64()
}
