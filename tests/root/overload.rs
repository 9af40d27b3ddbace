//! A gateway with too little: who is refused, how, who is served meanwhile, and that it comes back. And what an idle
//! client costs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{HandshakeError, Message, WebSocket};
use wstether::client::handshake::{self, Handshake, Offer, Step};
use wstether::io::netlink::Prefix;
use wstether::lab::{Isolation, Namespace, Program, Scratch, veth};
use wstether::packet::Offload;
use wstether::wire::capsule::{Capsule, Capsules, CloseReason, Features, RefusalReason, append_close, datagram_header};
use wstether::wire::frame::{self, Opcode};
use wstether::wire::token::Token;

use crate::world::{BINARY, PATIENCE};

const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The gateway's own address in the tunnel: that of the default pool.
const INNER: [u8; 4] = [100, 64, 0, 1];
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const FIGURES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9321);

/// Idle clients, as many as the gateway is to hold on a small machine.
const IDLE: usize = 9_000;

/// What one of them may cost in resident memory.
const IDLE_BYTES_MAX: u64 = 16_384;

/// How often a second the threads of a gateway look that do so whatever happens: the controllers of its stages each 20 ms,
/// acknowledgements and tidying each 250 ms, the figures each second.
const LOOKS_A_SECOND: f64 = 50.0 + 4.0 + 4.0 + 1.0;

/// How much more than by reckoning may be counted on a busy machine, where a wait ends early, or a lock is taken by two at once.
const ROOM: f64 = 3.0;

/// What a ping wakes, by reckoning: the poller, which answers it, and who acknowledges it: when it is noted, and 2 ms later.
const WAKE_UPS_A_PING: f64 = 3.0;

/// Of which it is asked, over HTTP, in a thread of its own.
const WAKE_UPS_A_READING: f64 = 10.0;

/// Uploads that keep a gateway busy on a small machine, and what each sends in a message: packets, and bytes of each.
const UPLOADS: usize = 3;
const UPLOADED_AT_ONCE: usize = 40;
const UPLOADED_BYTES: usize = 1_300;
/// Somebody on the internet, who is not there.
const ANYWHERE: [u8; 4] = [198, 41, 0, 4];
/// An IP protocol without ports.
const GRE: u8 = 47;

/// The smallest budget.
const BUDGET: &str = "memory.budget=16MiB";
const BUDGET_BYTES: u64 = 16 << 20;
/// Clients that begin a message and never end it, and so much of it: together more than nine tenths of it.
const HALVES: usize = 100;
const HALF_BYTES: usize = 131_072;
/// How often the gateway looks at what it holds.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// ICMP types and codes (IANA).
const ECHO_REPLY: u8 = 0;
const PROHIBITED: [u8; 2] = [3, 13];

/// A gateway in a namespace of its own, and who comes from the same host.
struct Gateway {
    namespace: Namespace,
    _beyond: Namespace,
    program: Program,
    token: String,
    _scratch: Scratch,
}

/// A client with a session.
struct Client {
    socket: WebSocket<TcpStream>,
    lease: Ipv4Addr,
}

/// How a client is turned away.
#[derive(Debug)]
enum Away {
    /// By the status of the upgrade, with Retry-After.
    Http(u16, Option<String>),
    /// By a capsule, with the time to try again.
    Refused(RefusalReason, u32),
}

impl Gateway {
    fn start(settings: &[&str]) -> Self {
        let namespace = Namespace::new("overload").unwrap();
        let beyond = Namespace::new("beyond").unwrap();
        veth(&namespace, "eth0", &beyond, "eth0").unwrap();
        namespace.address("lo", Prefix::new(Ipv4Addr::LOCALHOST.into(), 8)).unwrap();
        namespace.address("eth0", Prefix::new(HERE.into(), 24)).unwrap();
        beyond.address("eth0", Prefix::new(BEYOND.into(), 24)).unwrap();
        namespace.route(Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0), BEYOND.into(), "eth0").unwrap();
        let scratch = Scratch::new().unwrap();
        let mut command = namespace.command(BINARY, Isolation { resolv_conf: None, dies_with_parent: true }).unwrap();
        command.args([
            "gateway",
            "--egress",
            "tun",
            "--listen",
            &LISTEN.to_string(),
            "--metrics",
            &FIGURES.to_string(),
        ]);
        command.arg("--credentials").arg(scratch.file("credentials.toml"));
        let directory = format!("runtime.directory={}", scratch.file("run").display());
        for setting in settings.iter().chain(&[directory.as_str(), "egress.translation=none"]) {
            command.args(["--set", setting]);
        }
        command.stdout(Stdio::piped());
        let program = Program::start("gateway", command, scratch.file("log")).unwrap();
        let mut gateway = Self { namespace, _beyond: beyond, program, token: String::new(), _scratch: scratch };
        gateway.token = gateway.shown_token();
        gateway
    }

    /// The token that it shows, once it listens.
    fn shown_token(&mut self) -> String {
        let late = Instant::now() + PATIENCE;
        loop {
            let log = self.program.log();
            let token = log.lines().map(str::trim).find(|line| line.starts_with("wst1_"));
            if let Some(token) = token.filter(|_| log.contains("Listening on ")) {
                return token.to_owned();
            }
            assert!(self.program.ended().unwrap().is_none() && Instant::now() < late, "it does not serve:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = self.namespace.run(|| TcpStream::connect(LISTEN)).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn open(&self) -> Result<Client, Away> {
        Client::open(self.connect(), &self.token)
    }

    fn figure(&self, name: &str) -> u64 {
        self.value(name) as u64
    }

    fn value(&self, name: &str) -> f64 {
        let mut stream = self.namespace.run(|| TcpStream::connect(FIGURES)).unwrap().unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
        let line =
            BufReader::new(stream).lines().map(Result::unwrap).find(|line| line.starts_with(&format!("{name} ")));
        line.expect(name).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// What all parts hold of the memory budget.
    fn held_bytes(&self) -> u64 {
        let held = |part: &str| self.figure(&format!("wstether_memory_held_bytes{{part=\"{part}\"}}"));
        ["fixed", "tethers", "mappings", "buffers", "links", "messages"].map(held).iter().sum()
    }

    /// Waits until a figure is as wanted.
    fn until(&self, name: &str, is_wanted: impl Fn(u64) -> bool) {
        let late = Instant::now() + PATIENCE;
        while !is_wanted(self.figure(name)) {
            assert!(Instant::now() < late, "{name} is {}\n{}", self.figure(name), self.program.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Client {
    fn open(stream: TcpStream, token: &str) -> Result<Self, Away> {
        let mut request = format!("ws://{LISTEN}/wstether").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "wstether.v1".parse().unwrap());
        let small = WebSocketConfig::default().read_buffer_size(1_024).write_buffer_size(0);
        let mut socket = match tungstenite::client::client_with_config(request, stream, Some(small)) {
            Ok((socket, _)) => socket,
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                let retry = response.headers().get("Retry-After").map(|value| value.to_str().unwrap().to_owned());
                return Err(Away::Http(response.status().as_u16(), retry));
            }
            Err(error) => panic!("{error}"),
        };
        let token: Token = token.parse().unwrap();
        let mut handshake =
            Handshake::new(Offer { token, features: Features::default(), mtu_bytes: 1_400, ticket: Vec::new() });
        loop {
            let message = socket.read().unwrap();
            match handshake.take_in(&message.into_data()) {
                Ok(Step::Wait) => {}
                Ok(Step::Answer(bytes)) => socket.send(Message::binary(bytes)).unwrap(),
                Ok(Step::Done(terms)) => return Ok(Self { socket, lease: terms.lease }),
                Err(handshake::HandshakeError::Refused(refusal)) => {
                    return Err(Away::Refused(refusal.reason, refusal.retry_after_ms));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn sends(&mut self, packet: &[u8]) {
        let message = [&datagram_header(packet.len(), Offload::default())[..], packet].concat();
        self.socket.send(Message::binary(message)).unwrap();
    }

    /// Waits for the next packet from the gateway.
    fn gets(&mut self) -> Vec<u8> {
        let late = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < late, "there is none");
            let data = self.socket.read().unwrap().into_data();
            let packet = |capsule| if let Ok(Capsule::Datagram(datagram)) = capsule { Some(datagram) } else { None };
            if let Some(datagram) = Capsules::new(&data).find_map(packet) {
                return datagram.payload.to_vec();
            }
        }
    }

    /// Sends a ping to the gateway's inner address and waits for its answer.
    fn pings(&mut self) {
        let packet = echo_request(self.lease);
        self.sends(&packet);
        assert_eq!(self.gets()[20], ECHO_REPLY);
    }

    /// Begins a message that it never ends, which the gateway keeps until then.
    fn sends_half_a_message(&self) {
        let mut message = Vec::new();
        frame::append(Opcode::Binary, &[0; HALF_BYTES + 1], Some([1, 2, 3, 4]), &mut message);
        self.socket.get_ref().write_all(&message[..HALF_BYTES]).unwrap();
    }

    /// Sends as much as the gateway reads, whatever its credit, until the gateway hangs up; by two threads, one to write and
    /// one to read.
    fn uploads(self) -> [JoinHandle<()>; 2] {
        self.uploads_messages_of(UPLOADED_AT_ONCE)
    }

    /// The same in messages of so many packets.
    fn uploads_messages_of(self, packets: usize) -> [JoinHandle<()>; 2] {
        let packet = packet_out(self.lease);
        let datagram = [&datagram_header(packet.len(), Offload::default())[..], &packet].concat();
        let mut message = Vec::new();
        frame::append(Opcode::Binary, &datagram.repeat(packets), Some([1, 2, 3, 4]), &mut message);
        let (mut to, mut from) = (self.socket.get_ref().try_clone().unwrap(), self.socket);
        // Its end is an error where the gateway hangs up over what is under way.
        let write = std::thread::spawn(move || while to.write_all(&message).is_ok() {});
        let read = std::thread::spawn(move || drop(std::io::copy(from.get_mut(), &mut std::io::sink())));
        [write, read]
    }

    fn leave(mut self) {
        let mut message = Vec::new();
        append_close(CloseReason::Done, "", &mut message);
        self.socket.send(Message::binary(message)).unwrap();
        // Until the gateway has closed too.
        while self.socket.read().is_ok() {}
    }
}

/// A packet to a host on the internet, of a protocol that nobody there speaks.
fn packet_out(from: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0; UPLOADED_BYTES];
    let [high, low] = (UPLOADED_BYTES as u16).to_be_bytes();
    packet[..10].copy_from_slice(&[0x45, 0, high, low, 0, 1, 0, 0, 64, GRE]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&ANYWHERE);
    let sum = wstether::checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The beginning of a question to the gateway's resolver, from that port.
fn dns_query(from: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets().into_iter().chain(INNER));
    packet.extend(port.to_be_bytes().into_iter().chain([0, 53, 0, 20, 0, 0]));
    packet.extend([0; 12]);
    let sum = wstether::checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An ICMP echo request to the gateway's inner address.
fn echo_request(from: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0];
    packet.extend(from.octets().into_iter().chain(INNER));
    packet.extend([8, 0, 0, 0, 0, 7, 0, 1]);
    for (part, field) in [(0..20, 10), (20..28, 22)] {
        let sum: u32 = packet[part].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

#[test]
fn a_gateway_short_of_memory_refuses_new_tethers_serves_those_it_has_and_comes_back() {
    let gateway = Gateway::start(&[
        BUDGET,
        "tethers.max=4096",
        "listen.links_max=8192",
        "stages.default.queue_packets=256",
        "overload.retry_after=7s",
        "overload.retry_spread=1s",
    ]);
    let mut first = gateway.open().expect("the first");
    let mut others = Vec::new();
    let away = loop {
        match gateway.open() {
            Ok(client) => others.push(client),
            Err(away) => break away,
        }
    };
    match &away {
        Away::Refused(RefusalReason::Busy, retry_ms) => assert!((7_000..8_000).contains(retry_ms), "{away:?}"),
        Away::Http(503, Some(retry_s)) => assert!((7..=8).contains(&retry_s.parse().unwrap()), "{away:?}"),
        Away::Refused(..) | Away::Http(..) => panic!("{away:?} after {}", others.len()),
    }
    gateway.until("wstether_overload_rung", |rung| rung >= 1);
    first.pings();
    assert_eq!(gateway.figure("wstether_memory_budget_bytes"), BUDGET_BYTES);
    let held_bytes = gateway.held_bytes();
    assert!(held_bytes <= BUDGET_BYTES, "{held_bytes} of {BUDGET_BYTES}");
    assert!(gateway.program.log().contains("overload: a rung up"));
    others.into_iter().for_each(Client::leave);
    gateway.until("wstether_tethers", |tethers| tethers == 1);
    gateway.until("wstether_overload_rung", |rung| rung == 0);
    assert!(gateway.program.log().contains("overload: a rung down"));
    gateway.open().expect("a new tether").leave();
    first.pings();
}

/// Nothing that waits for a peer may keep all memory for packets: what would let it leave could not come in any more.
#[test]
fn clients_that_read_nothing_leave_the_others_buffers_to_be_served_with() {
    const SILENT: usize = 20;
    const AT_ONCE: usize = 50;
    let gateway = Gateway::start(&["memory.budget=17MiB"]);
    let mut reader = gateway.open().expect("a tether");
    reader.pings();
    let silent: Vec<_> = (0..SILENT).map(|_| gateway.open().expect("a tether")).collect();
    let somebody = gateway.namespace.run(|| UdpSocket::bind((HERE, 0)).unwrap()).unwrap();
    let given_up = "wstether_stage_drops_total{stage=\"ws-encode\",direction=\"downlink\",reason=\"overlimit\"}";
    let late = Instant::now() + PATIENCE;
    while gateway.figure(given_up) == 0 && gateway.figure("wstether_buffers_refused_total") == 0 {
        assert!(Instant::now() < late, "their queues take everything");
        for client in &silent {
            // What the device's own queue does not take comes again.
            (0..AT_ONCE).for_each(|_| drop(somebody.send_to(&[0; 600], (client.lease, 9))));
        }
    }
    reader.pings();
    gateway.open().expect("another tether").pings();
    drop(silent);
}

#[test]
fn a_gateway_nearly_out_of_memory_makes_no_mapping_and_trims_what_waits_and_does_both_again_when_there_is_some() {
    const QUEUE_PACKETS: u64 = 256;
    let queue = format!("stages.default.queue_packets={QUEUE_PACKETS}");
    let resolver = format!("dns.upstream=[\"{BEYOND}\"]");
    let gateway = Gateway::start(&[BUDGET, "tethers.max=512", "listen.links_max=1024", &queue, &resolver]);
    let mut first = gateway.open().expect("the first");
    let others: Vec<_> = (0..HALVES).map(|_| gateway.open().expect("another")).collect();
    let rung = || gateway.figure("wstether_overload_rung");
    let mappings = || gateway.figure("wstether_nat_mappings_made_total{protocol=\"udp\"}");
    let admitted =
        || gateway.figure("wstether_stage_queue_admitted_packets{stage=\"ws-encode\",direction=\"downlink\"}");
    let refused = "wstether_stage_drops_total{stage=\"nat-rewrite\",direction=\"uplink\",reason=\"overload\"}";
    first.sends(&dns_query(first.lease, 1_000));
    gateway.until("wstether_nat_mappings_made_total{protocol=\"udp\"}", |made| made == 1);
    for other in &others {
        if rung() == 3 {
            break;
        }
        let held = gateway.figure("wstether_memory_held_bytes{part=\"messages\"}");
        other.sends_half_a_message();
        gateway.until("wstether_memory_held_bytes{part=\"messages\"}", |now| now > held);
        // From here on the gateway looks before there is more: its packets find no buffer a few halves further on.
        if gateway.held_bytes() * 100 >= 87 * BUDGET_BYTES {
            std::thread::sleep(2 * LOOK_EVERY);
        }
    }
    gateway.until("wstether_overload_rung", |rung| rung == 3);
    assert_eq!(admitted(), QUEUE_PACKETS / 2);
    first.sends(&dns_query(first.lease, 1_001));
    assert_eq!(first.gets()[20..22], PROHIBITED);
    assert_eq!((mappings(), gateway.figure(refused)), (1, 1));
    first.pings();
    drop(others);
    gateway.until("wstether_overload_rung", |rung| rung == 0);
    assert_eq!(admitted(), QUEUE_PACKETS);
    first.sends(&dns_query(first.lease, 1_002));
    gateway.until("wstether_nat_mappings_made_total{protocol=\"udp\"}", |made| made == 2);
    let log = gateway.program.log();
    for pair in ["calm", "no_new_tethers", "no_new_mappings", "trim_largest"].windows(2) {
        for (way, from, to) in [("up", pair[0], pair[1]), ("down", pair[1], pair[0])] {
            let step = [format!("a rung {way}"), format!("from=\"{from}\" to=\"{to}\"")];
            assert!(log.lines().any(|line| step.iter().all(|part| line.contains(part))), "{step:?} in\n{log}");
        }
    }
}

#[test]
fn when_every_place_at_the_door_is_taken_the_next_is_told_503_and_when_to_come() {
    let gateway = Gateway::start(&["listen.handshakes_max=3"]);
    let mut client = gateway.open().expect("a place");
    gateway.until("wstether_accept_handshakes", |handshakes| handshakes == 0);
    let silent: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    gateway.until("wstether_accept_handshakes", |handshakes| handshakes == 3);
    let mut answer = String::new();
    gateway.connect().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    assert_eq!(gateway.figure("wstether_accept_refused_total{reason=\"full\"}"), 1);
    client.pings();
    drop(silent);
    gateway.until("wstether_accept_handshakes", |handshakes| handshakes == 0);
    gateway.open().expect("a place again").leave();
}

#[test]
fn a_gateway_that_stops_under_an_upload_that_never_ends_is_done_long_before_its_deadline_and_nobody_is_late() {
    const DEADLINE_S: u64 = 10;
    let gateway = Gateway::start(&[&format!("runtime.stop_deadline={DEADLINE_S}s")]);
    let uploads: Vec<_> = (0..UPLOADS).map(|_| gateway.open().expect("a tether").uploads()).collect();
    let (name, enough) = ("wstether_stage_packets_in_total{stage=\"ws-decode\",direction=\"uplink\"}", 50_000);
    gateway.until(name, |packets| packets > enough);
    let Gateway { program, .. } = gateway;
    let (log, start) = (program.log_path().to_owned(), Instant::now());
    assert!(program.end().unwrap().success());
    let (took, log) = (start.elapsed(), std::fs::read_to_string(log).unwrap());
    assert!(took < Duration::from_secs(DEADLINE_S / 2), "it took {took:?}\n{log}");
    assert!(log.contains("stopped: nothing is queued any more"), "{log}");
    uploads.into_iter().flatten().for_each(|thread| thread.join().unwrap());
}

#[test]
fn an_idle_tether_costs_at_most_16_kib() {
    let gateway = Gateway::start(&["tethers.max=10000", "listen.links_max=12000"]);
    let warm: Vec<_> = (0..100).map(|_| gateway.open().expect("a tether")).collect();
    let before = gateway.figure("process_resident_memory_bytes");
    let idle: Vec<_> = (0..IDLE).map(|_| gateway.open().expect("a tether")).collect();
    let each = (gateway.figure("process_resident_memory_bytes") - before) / IDLE as u64;
    let held =
        ["tethers", "links"].map(|part| gateway.figure(&format!("wstether_memory_held_bytes{{part=\"{part}\"}}")));
    let counted = held.iter().sum::<u64>() / (IDLE + warm.len()) as u64;
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes each");
    assert!(each <= counted, "the budget counts {counted} of {each} bytes");
    drop(idle);
}

/// Threads that were woken, and when that was asked.
fn wake_ups(gateway: &Gateway) -> (f64, Instant) {
    (gateway.value("wstether_process_context_switches_total{kind=\"voluntary\"}"), Instant::now())
}

/// How many are to be expected while nothing happens but that it is asked for them once.
fn looks(time: Duration) -> f64 {
    LOOKS_A_SECOND * time.as_secs_f64() + WAKE_UPS_A_READING
}

#[test]
fn a_gateway_with_an_idle_tether_wakes_to_look_round_and_for_nothing_else() {
    const IDLE_FOR: Duration = Duration::from_secs(2);
    let gateway = Gateway::start(&[]);
    let mut client = gateway.open().expect("a tether");
    client.pings();
    std::thread::sleep(IDLE_FOR);
    let (before, begun) = wake_ups(&gateway);
    std::thread::sleep(IDLE_FOR);
    let (after, ended) = wake_ups(&gateway);
    let (woken, expected) = (after - before, looks(ended - begun));
    assert!(woken <= ROOM * expected, "{woken} wake-ups in {:?}, of {expected}", ended - begun);
    assert!(woken >= expected / ROOM, "{woken} of {expected}: not all threads are counted");
}

#[test]
fn a_ping_wakes_few_threads() {
    const PINGS: u32 = 200;
    let gateway = Gateway::start(&[]);
    let mut client = gateway.open().expect("a tether");
    client.pings();
    let (before, begun) = wake_ups(&gateway);
    // One after the other, each answered before the next: none finds a thread awake that has something else to do.
    (0..PINGS).for_each(|_| client.pings());
    let (after, ended) = wake_ups(&gateway);
    let (woken, expected) = (after - before, looks(ended - begun) + WAKE_UPS_A_PING * f64::from(PINGS));
    assert!(woken <= ROOM * expected, "{woken} wake-ups for {PINGS} pings in {:?}, of {expected}", ended - begun);
}

#[test]
fn what_is_held_back_for_want_of_room_is_no_more_than_the_credit_of_who_sent_it() {
    const CREDIT_BYTES: u64 = 128 << 10;
    // The packet that crosses the line may be a super-packet, cut to twice its bytes.
    const SLACK_BYTES: u64 = 2 * 65_535;
    // A few places, so that what comes finds no room in the next stage; a turn of reading would bring four times the credit.
    let gateway = Gateway::start(&[
        "tethers.credit_window=128KiB",
        "tethers.message_max=128KiB",
        "stages.ip-parse.queue_packets=16",
        "stages.ip-parse.batch=16",
        "stages.ip-parse.hand_over=never",
    ]);
    let upload = gateway.open().expect("a tether").uploads();
    let name = "wstether_stage_held_back_packets{stage=\"ws-decode\",direction=\"uplink\"}";
    gateway.until(name, |packets| packets > 0);
    let most = (0..100).map(|_| gateway.figure(name)).max().unwrap();
    assert!(most <= (CREDIT_BYTES + SLACK_BYTES) / UPLOADED_BYTES as u64, "{most} packets");
    drop(gateway);
    upload.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn what_a_link_says_beside_its_packets_is_heard_while_these_wait_for_room() {
    let gateway = Gateway::start(&[
        "stages.ip-parse.queue_packets=16",
        "stages.ip-parse.batch=16",
        "stages.ip-parse.hand_over=never",
    ]);
    let uploads = [(); UPLOADS].map(|()| {
        let mut client = gateway.open().expect("a tether");
        // Its answer is acknowledged by nobody.
        client.sends(&echo_request(client.lease));
        client.uploads_messages_of(1)
    });
    gateway.until("wstether_links_heard_early_total", |messages| messages > 1_000);
    // Who is heard comes through, and nothing is lost of it.
    let mut client = gateway.open().expect("a tether");
    client.pings();
    let lost = "wstether_stage_drops_total{stage=\"ws-decode\",direction=\"uplink\",reason=";
    assert_eq!(["no_buffer", "unknown_context"].map(|reason| gateway.figure(&format!("{lost}\"{reason}\"}}"))), [0, 0]);
    drop(gateway);
    uploads.into_iter().flatten().for_each(|thread| thread.join().unwrap());
}
