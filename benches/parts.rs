//! What the parts of a packet's way cost: `cargo bench --bench parts`, or with a part's name behind it.
#![allow(missing_docs, reason = "a program, and no library")]

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use wstether::nat::{self, AddressPlan, Filtering, Nat, Timers, Translation};
use wstether::offload::{Merger, SuperPackets, segment};
use wstether::overload::Overload;
use wstether::packet::{BufPool, Packet, Raw};
use wstether::policy::{Policy, Prefix};
use wstether::runtime::hand_over::Rule;
use wstether::runtime::lanes::{Batch, Entry, HandOver, LaneId, Lanes, Limits, Outcome, Quota};
use wstether::runtime::queue::{Fifo, Shed};
use wstether::stages::ip_parse::{self, Guard, Parsed};
use wstether::stages::{Verdict, nat_rewrite};
use wstether::tether_id::TetherId;
use wstether::transport::Transport;
use wstether::wire::capsule::{Capsules, datagram_header};
use wstether::wire::frame::{self, Decoder, Opcode, Role, Subprotocol};

use gateway_path::{Ends, GatewayPath, Shape};

#[path = "../tests/support/gateway_path.rs"]
mod gateway_path;

/// Packets a batch: what a source reads at once.
const BATCH: usize = 64;
const MESSAGE_BYTES: usize = 65_536;
const SMALL: Shape = Shape::Single { bytes: 64 };
const SUPER: Shape = Shape::Super { segments: 45 };
const LEASE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

fn main() {
    divan::main();
}

fn pool() -> BufPool {
    BufPool::new(256 << 20)
}

fn packets(pool: &BufPool, shape: Shape, count: usize) -> Vec<Packet<Raw>> {
    let packet = |at: usize| {
        let bytes = shape.packet((LEASE, 10_000 + at as u16 % 16), (SERVER, 443));
        Packet::raw(pool.copy(&bytes).expect("room"), shape.offload())
    };
    (0..count).map(packet).collect()
}

/// A message of DATAGRAM capsules.
fn message(shape: Shape) -> (Vec<u8>, usize) {
    let packet = shape.packet((LEASE, 10_000), (SERVER, 443));
    let (mut message, mut count) = (Vec::new(), 0);
    let header = datagram_header(packet.len(), shape.offload());
    while message.len() + header.len() + packet.len() <= MESSAGE_BYTES {
        message.extend_from_slice(&header);
        message.extend_from_slice(&packet);
        count += 1;
    }
    (message, count)
}

#[divan::bench(args = [SMALL, SUPER])]
fn capsule_decode(bencher: Bencher<'_, '_>, shape: Shape) {
    let (message, count) = message(shape);
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| Capsules::new(black_box(&message)).filter(|capsule| capsule.is_ok()).count());
}

#[divan::bench(args = [SMALL, SUPER])]
fn capsule_encode(bencher: Bencher<'_, '_>, shape: Shape) {
    let len = shape.packet((LEASE, 1), (SERVER, 1)).len();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| datagram_header(black_box(len), shape.offload()));
}

#[divan::bench(args = [125, 1_400, MESSAGE_BYTES])]
fn websocket_decode(bencher: Bencher<'_, '_>, bytes: usize) {
    let mut framed = Vec::new();
    frame::append(Opcode::Binary, &vec![7; bytes], Some([1, 2, 3, 4]), &mut framed);
    let mut decoder = Decoder::new(Role::Server, Subprotocol::Binary, 2 * MESSAGE_BYTES);
    // Unmasked in place; the next turn unmasks other bytes, which costs the same.
    bencher.counter(BytesCount::new(bytes)).bench_local(|| decoder.next(black_box(&mut framed)).is_ok());
}

#[divan::bench(args = [125, 1_400, MESSAGE_BYTES])]
fn websocket_encode_masked(bencher: Bencher<'_, '_>, bytes: usize) {
    let mut payload = vec![7; bytes];
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let key = [1, 2, 3, 4];
        frame::mask(black_box(&mut payload), key, 0);
        frame::header(Opcode::Binary, payload.len(), Some(key))
    });
}

#[divan::bench(args = [20, 1_400, MESSAGE_BYTES])]
fn checksum(bencher: Bencher<'_, '_>, bytes: usize) {
    let bytes = vec![7; bytes];
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| wstether::checksum::of(black_box(&bytes)));
}

fn plan() -> Arc<AddressPlan> {
    let pool = Prefix::new(IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 16).expect("a prefix");
    let addresses = vec![IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1))];
    let translation = Translation::Gateway { addresses, ports: 1_024..=65_535, block_ports: 512 };
    Arc::new(AddressPlan::new(pool, translation).expect("a plan"))
}

fn guard(pool: &BufPool) -> Guard {
    let rules = ip_parse::Rules {
        plan: plan(),
        policy: Arc::new(Policy::new(vec![], vec![], vec![])),
        mtu_bytes: 1_500.into(),
        pool: pool.clone(),
    };
    Guard::new(TetherId(0), Arc::new(rules)).expect("a lease")
}

fn nat(pool: &BufPool) -> Nat {
    let rules = nat::Rules {
        plan: plan(),
        timers: Timers::default(),
        filtering: Filtering::default(),
        resolver: None,
        mtu_bytes: 1_500,
        mappings_max: 1_024,
        mappings_per_second: 1_024,
        remotes_max: 16,
        overload: Overload::default(),
        pool: pool.clone(),
    };
    Nat::new(TetherId(0), Arc::new(rules), 1).expect("a lease")
}

fn parsed(guard: &mut Guard, packet: Packet<Raw>) -> Packet<Parsed> {
    match ip_parse::outgoing(guard, packet, Instant::now()) {
        Verdict::Forward(packet) => packet,
        other @ (Verdict::Turn(_) | Verdict::Reply(..) | Verdict::Drop(_)) => panic!("not passed on: {other:?}"),
    }
}

#[divan::bench(args = [SMALL, SUPER])]
fn parse(bencher: Bencher<'_, '_>, shape: Shape) {
    let (pool, now) = (pool(), Instant::now());
    let mut guard = guard(&pool);
    bencher.counter(ItemsCount::new(BATCH)).with_inputs(|| packets(&pool, shape, BATCH)).bench_local_values(
        |packets| {
            packets.into_iter().map(|packet| ip_parse::outgoing(&mut guard, packet, now)).filter(is_passed_on).count()
        },
    );
}

#[divan::bench]
fn rewrite(bencher: Bencher<'_, '_>) {
    let (pool, now) = (pool(), Instant::now());
    let (mut guard, mut nat) = (guard(&pool), nat(&pool));
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| -> Vec<_> {
            packets(&pool, SMALL, BATCH).into_iter().map(|packet| parsed(&mut guard, packet)).collect()
        })
        .bench_local_values(|packets| {
            packets.into_iter().map(|packet| nat_rewrite::outgoing(&mut nat, packet, now)).filter(is_passed_on).count()
        });
}

fn is_passed_on<Out, Reason>(verdict: &Verdict<Out, Reason>) -> bool {
    matches!(verdict, Verdict::Forward(_))
}

/// A batch into the lanes of a stage and out again, as one thread hands it to another, without the wake-up.
#[divan::bench(args = [1, 16])]
fn queue_hop(bencher: Bencher<'_, '_>, lanes_busy: u32) {
    let (pool, now) = (pool(), Instant::now());
    let limits = Limits { segments: 4_096, held_bytes: 64 << 20 };
    let quota = Quota { segments: BATCH as u32, lane_bytes: MESSAGE_BYTES as u64 };
    let mut lanes: Lanes<Fifo<Packet<Raw>>> = Lanes::new(64, limits);
    let entry = |(at, item)| {
        let lane = LaneId(at as u32 % lanes_busy);
        Entry { origin: lane, lane, item }
    };
    let mut items: Vec<_> = packets(&pool, SMALL, BATCH).into_iter().enumerate().map(entry).collect();
    let (mut batch, mut entered, mut refused, mut shed) =
        (Batch::default(), Batch::default(), Vec::new(), Shed::default());
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        lanes.offer(now, HandOver::Queue, &mut items, &mut entered, &mut refused, &mut shed);
        while lanes.take(now, quota, 1, &mut batch, &mut shed).is_some() {
            for lane in batch.lanes.drain(..) {
                lanes.done(lane, Outcome::default());
            }
            items.append(&mut batch.items);
        }
    });
    assert!(items.len() == BATCH && refused.is_empty() && shed.dropped.is_empty());
}

/// Segments of one super-packet, as a peer without offload sends them.
fn segments(pool: &BufPool, shape: Shape) -> Vec<Packet<Raw>> {
    let mut segments = Vec::new();
    for packet in packets(pool, shape, 1) {
        segment(packet, pool, &mut |segment| segments.push(segment)).expect("room");
    }
    segments
}

#[divan::bench]
fn gso(bencher: Bencher<'_, '_>) {
    let pool = pool();
    bencher.counter(ItemsCount::new(45_usize)).with_inputs(|| packets(&pool, SUPER, 1)).bench_local_values(|packets| {
        let mut count = 0;
        for packet in packets {
            segment(packet, &pool, &mut |_| count += 1).expect("room");
        }
        count
    });
}

#[divan::bench(args = [2, 16, 45])]
fn gro(bencher: Bencher<'_, '_>, in_a_row: usize) {
    let pool = pool();
    let mut merger = Merger::default();
    bencher
        .counter(ItemsCount::new(in_a_row))
        .with_inputs(|| segments(&pool, Shape::Super { segments: in_a_row }))
        .bench_local_refs(|packets| merger.merge(packets, SuperPackets::ALL, &pool));
}

/// What a look costs where nothing can be merged: datagrams of as many flows in turn as are never looked through.
#[divan::bench]
fn gro_in_vain(bencher: Bencher<'_, '_>) {
    let pool = pool();
    let (mut merger, mut packets) = (Merger::default(), packets(&pool, SMALL, BATCH));
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| merger.merge(&mut packets, SuperPackets::ALL, &pool));
}

const CLIENTS: u32 = 4;
const FLOWS: u16 = 64;

/// The gateway alone: from a link's socket to the sink, on one thread.
#[divan::bench(args = [SMALL, SUPER], sample_size = 1, sample_count = 2_000)]
fn gateway_uplink(bencher: Bencher<'_, '_>, shape: Shape) {
    let mut path = GatewayPath::new(CLIENTS, FLOWS, shape, Ends::WHOLE, Rule::Always);
    let (mut client, segments) = (0, path.send_up(0));
    path.drive_up(0);
    let path = std::cell::RefCell::new(path);
    bencher
        .counter(ItemsCount::new(segments))
        .with_inputs(|| {
            let mut path = path.borrow_mut();
            client = (client + 1) % path.clients();
            path.hear(client);
            path.send_up(client);
            client
        })
        .bench_local_values(|client| path.borrow_mut().drive_up(client));
    assert_eq!(path.borrow().dropped(), 0);
}

/// The same from a batch as the packet socket brings it, to a link's socket.
#[divan::bench(args = [(SMALL, 64), (SUPER, 4)], sample_size = 1, sample_count = 2_000)]
fn gateway_downlink(bencher: Bencher<'_, '_>, (shape, batch): (Shape, usize)) {
    let path = GatewayPath::new(CLIENTS, FLOWS, shape, Ends::WHOLE, Rule::Always);
    let (mut client, segments) = (0, batch as u64 * shape.segments());
    let path = std::cell::RefCell::new(path);
    bencher
        .counter(ItemsCount::new(segments))
        .with_inputs(|| {
            let mut path = path.borrow_mut();
            path.hear(client);
            client = (client + 1) % path.clients();
            path.prepare_down(client, batch);
            client
        })
        .bench_local_values(|client| path.borrow_mut().drive_down(client));
    assert_eq!(path.borrow().dropped(), 0);
}

fn transports(is_encrypted: bool) -> (Transport, Transport) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (far, _) = listener.accept().expect("a connection");
    let [near, far] = [near, far].map(|stream| {
        stream.set_nonblocking(true).expect("non-blocking");
        mio::net::TcpStream::from_std(stream)
    });
    if !is_encrypted {
        return (Transport::new(near, None).expect("plain"), Transport::new(far, None).expect("plain"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certified = rcgen::generate_simple_self_signed(["gateway".to_owned()]).expect("a certificate");
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).expect("a certificate");
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key))
        .expect("a server");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "gateway".try_into().expect("a name");
    let client = rustls::ClientConnection::new(Arc::new(client), name).expect("a client");
    let server = rustls::ServerConnection::new(Arc::new(server)).expect("a server");
    let near = Transport::new(near, Some(client.into())).expect("TLS");
    let far = Transport::new(far, Some(server.into())).expect("TLS");
    let mut scratch = [0; 4_096];
    while near.is_handshaking() || far.is_handshaking() {
        for end in [&near, &far] {
            end.flush().expect("open");
            // Nothing but the handshake is there to be read.
            assert!(end.read(&mut scratch).is_err());
        }
    }
    (near, far)
}

/// Bytes from one end of a connection to the other, both ends on this thread: in slices as a link's messages are.
#[divan::bench(args = [(false, 1_448), (true, 1_448), (false, MESSAGE_BYTES), (true, MESSAGE_BYTES)], sample_size = 1, sample_count = 500)]
fn transport(bencher: Bencher<'_, '_>, (is_encrypted, slice_bytes): (bool, usize)) {
    const BYTES: usize = 1 << 20;
    const SLICES: usize = 46;
    let (near, far) = transports(is_encrypted);
    let (payload, mut into) = (vec![7; slice_bytes], vec![0; 4 * MESSAGE_BYTES]);
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
        let (mut sent, mut received) = (0, 0);
        while received < BYTES {
            if sent < BYTES {
                let slices: [_; SLICES] = std::array::from_fn(|_| std::io::IoSlice::new(&payload));
                let count = SLICES.min((BYTES - sent) / slice_bytes).min(MESSAGE_BYTES / slice_bytes);
                let last = &payload[..slice_bytes.min(BYTES - sent)];
                let written = match count {
                    0 => near.write(&[std::io::IoSlice::new(last)]),
                    _ => near.write(&slices[..count]),
                };
                sent += written.expect("open").bytes;
            } else {
                near.flush().expect("open");
            }
            received += far.read(&mut into).unwrap_or(0);
        }
    });
}
