//! A packet's whole journey: laptop, phone, gateway and internet, with the real programs, and Debian's on the laptop.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use wstether::cli::{EgressMode, RelayKind};
use wstether::config;
use wstether::io::netlink::Prefix;
use wstether::io::{nft, sysctl};
use wstether::lab::internet::{ECHO_PORT, NAME};
use wstether::lab::tethering::{self, Setting, TUN};
use wstether::lab::world::{self, GATEWAY_EXTERNAL, INTERNET, INTERNET_INTERFACE, World};
use wstether::lab::{Capture, Namespace, Offloads, Program, Scratch, probe};
use wstether::metrics::INSTRUMENTS;
use wstether::pipeline::diagram::describe;
use wstether::status::Status;

use crate::dashboards::{every_panel_has_data, every_reason_of_the_rules_exists, http_get};
use crate::world::{BINARY, BULK_BYTES, Journey, PATIENCE, Trip, WEB_PAGE, WEB_PORT};

/// Why the downlink drops what a loss-based congestion control sent too much of, by design: it sends until something stands
/// or is full. A machine that runs other tests beside it makes that any stage, or the kernel's ring in front of the first.
const CONGESTION: [&str; 5] = ["queue_full", "not_admitted", "waited_too_long", "codel", "overlimit"];

/// External ports of the gateway's translation, and how many a tether has, as they are by default.
const PORTS: std::ops::RangeInclusive<u16> = 20_480..=53_247;
const PORTS_A_TETHER: u16 = 512;

/// curl by name, ping by name, iperf3 both ways, our own transfers with SHA-256, and then a clean end.
fn travels(trip: Trip<'_>) {
    let mut journey = Journey::start(trip);
    journey.says("ping", &["-c", "5", "-i", "0.1", "-W", "5", NAME]);
    let page = journey.says("curl", &["-sS", "--max-time", "20", &format!("http://{NAME}:{WEB_PORT}/")]);
    assert_eq!(page, WEB_PAGE);
    iperf3_runs_both_ways(&journey);
    bulk_arrives_whole(&journey);
    let status = journey.drained();
    nothing_is_lost_uncounted(&status);
    nothing_is_dropped_but_by_congestion(&status);
    journey.end();
    nothing_is_left(&journey);
}

fn iperf3_runs_both_ways(journey: &Journey) {
    let mut serve = journey.command(&journey.world.internet, "iperf3", &["-s", "-B", &INTERNET.to_string()]);
    let mut server = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("iperf3");
    let address = INTERNET.to_string();
    for direction in [&[][..], &["-R"]] {
        let args = [&["-c", &address, "-t", "2", "-C", "cubic", "-J", "--connect-timeout", "5000"][..], direction];
        let said = iperf3(journey, &args.concat());
        let bits = said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_default();
        assert!(bits > 1e6, "{direction:?}: {said:#}");
    }
    server.kill().expect("iperf3 was there");
    server.wait().expect("iperf3 was there");
}

/// Tries until the server listens.
pub(crate) fn iperf3(journey: &Journey, args: &[&str]) -> serde_json::Value {
    let late = Instant::now() + PATIENCE;
    loop {
        let output = journey.on_laptop("iperf3", args);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        // With -J it may exit with 0 although nobody listened.
        let ran = output.status.success() && said["error"].is_null();
        if ran || Instant::now() >= late {
            assert!(ran, "{said:#}");
            return said;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn bulk_arrives_whole(journey: &Journey) {
    let laptop = &journey.world.laptop;
    assert!(probe::upload(laptop, INTERNET, &journey.bulk).unwrap().sha256_ok);
    assert!(probe::download(laptop, INTERNET, BULK_BYTES).unwrap().sha256_ok);
}

/// Conservation: in = out + turned round + dropped, at each stage, in segments.
fn nothing_is_lost_uncounted(status: &Status) {
    for stage in status.stages.iter().filter(|stage| stage.name != "accept") {
        let out = stage.packets_out + stage.turned + stage.dropped();
        assert_eq!(stage.packets, out, "{} ({}) loses or makes packets:\n{status}", stage.name, stage.direction);
        assert!(stage.packets > 0, "nothing came through {} ({})", stage.name, stage.direction);
    }
}

fn nothing_is_dropped_but_by_congestion(status: &Status) {
    for stage in &status.stages {
        for (reason, &count) in &stage.drops {
            let is_congestion = stage.direction == "downlink" && CONGESTION.contains(&reason.as_str());
            assert!(count == 0 || is_congestion, "{} ({}) dropped {count}: {reason}", stage.name, stage.direction);
        }
    }
}

fn nothing_is_left(journey: &Journey) {
    let World { laptop, gateway, .. } = &journey.world;
    for namespace in [laptop, gateway] {
        let links = namespace.netlink(|netlink| netlink.links()).unwrap();
        assert!(links.iter().all(|link| link.name != TUN), "{links:?}");
    }
    assert!(!journey.setting().leads_through_tunnel() && journey.setting().resolver().is_none());
    let (rules, reserved) = kernel_state(gateway);
    assert_eq!((rules.as_str(), reserved.as_str()), ("", ""));
}

/// The rules of a gateway's kernel, and the ports that it has reserved.
pub(crate) fn kernel_state(gateway: &Namespace) -> (String, String) {
    gateway.run(|| (nft::ruleset().unwrap(), sysctl::read(sysctl::RESERVED_PORTS).unwrap())).unwrap()
}

#[test]
fn a_laptop_reaches_the_internet_through_the_headless_relay_by_raw_egress() {
    travels(Trip::default());
}

#[test]
fn a_laptop_reaches_the_internet_through_the_headless_relay_by_tun_egress() {
    travels(Trip { egress: EgressMode::Tun, ..Trip::default() });
}

#[test]
fn a_laptop_reaches_the_internet_through_a_relay_that_passes_text_alone() {
    travels(Trip { relay: RelayKind::Base64, ..Trip::default() });
}

#[test]
fn a_laptop_reaches_the_internet_with_no_phone_between_by_raw_egress() {
    travels(Trip { relay: RelayKind::Direct, ..Trip::default() });
}

#[test]
fn a_laptop_reaches_the_internet_with_no_phone_between_by_tun_egress() {
    travels(Trip { relay: RelayKind::Direct, egress: EgressMode::Tun, ..Trip::default() });
}

#[test]
fn with_every_offload_off_raw_egress_carries_the_same() {
    travels(Trip { offloads: Some(Offloads::OFF), ..Trip::default() });
}

#[test]
fn with_every_offload_off_tun_egress_carries_the_same() {
    travels(Trip { offloads: Some(Offloads::OFF), egress: EgressMode::Tun, ..Trip::default() });
}

#[test]
fn with_every_offload_on_raw_egress_carries_the_same() {
    travels(Trip { offloads: Some(Offloads::ON), ..Trip::default() });
}

#[test]
fn with_every_offload_on_tun_egress_carries_the_same() {
    travels(Trip { offloads: Some(Offloads::ON), egress: EgressMode::Tun, ..Trip::default() });
}

#[test]
fn a_laptop_reaches_the_internet_through_wss_whose_certificate_the_relay_trusts() {
    travels_encrypted(RelayKind::Headless);
}

#[test]
fn a_laptop_reaches_the_internet_with_no_phone_between_through_wss_whose_certificate_it_trusts() {
    travels_encrypted(RelayKind::Direct);
}

#[test]
fn the_super_packets_of_a_flow_cross_whole_both_ways_by_either_egress() {
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let mut journey = Journey::start(Trip { egress, ..Trip::default() });
        let seen = status_and_log(&journey);
        assert_eq!((&*seen.0.super_packets, seen.0.links, seen.0.links_plain), ("tcp and udp", 1, 0));
        assert!(seen.1.contains("super_packets=\"tcp and udp\""), "{}", seen.1);
        let captures = Large::look(&journey);
        bulk_arrives_whole(&journey);
        let [up, down] = captures.count();
        // TCP makes them of up to 44 segments, and begins with few. By itself each segment would be 1,448 bytes.
        let segments = BULK_BYTES / 1_448;
        assert!(up > 0 && up < segments / 4, "{egress:?}: {up} super-packets left for the internet");
        assert!(down > 0 && down < segments / 4, "{egress:?}: {down} super-packets came to the laptop");
        journey.end();
    }
}

#[test]
fn a_client_without_super_packets_moves_the_same_bytes_packet_by_packet_and_everybody_is_told() {
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let client = ["--set", "tun.super_packets=false"];
        let mut journey = Journey::start(Trip { egress, client: &client, ..Trip::default() });
        let (status, log) = status_and_log(&journey);
        assert_eq!((status.links, status.links_plain), (1, 1));
        assert!(log.contains("the client takes no super-packets"), "{log}");
        let log = journey.client.as_ref().expect("it runs").log();
        assert!(log.contains("tun.super_packets is false: each packet goes by itself"), "{log}");
        let captures = Large::look(&journey);
        bulk_arrives_whole(&journey);
        assert_eq!(captures.count()[1], 0, "none comes to the laptop");
        nothing_is_lost_uncounted(&journey.drained());
        journey.client.take().expect("it runs").end().unwrap();
        let late = Instant::now() + PATIENCE;
        while journey.status().links > 0 {
            assert!(Instant::now() < late, "the link stays");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(journey.status().links_plain, 0);
        journey.end();
    }
}

fn status_and_log(journey: &Journey) -> (Status, String) {
    (journey.status(), journey.gateway.as_ref().expect("it runs").log())
}

/// Counts packets larger than any link's MTU: up, as the gateway sends them to the internet; down, as the laptop gets them.
struct Large([Capture; 2]);

impl Large {
    fn look(journey: &Journey) -> Self {
        const MTU_BYTES: usize = 1_500;
        const ETHERNET_BYTES: usize = 14;
        let World { gateway, laptop, .. } = &journey.world;
        let ours = lease(laptop).octets();
        let is_from = |packet: &[u8], source: [u8; 4]| packet.get(12..16) == Some(&source);
        let up = move |frame: &[u8]| {
            frame.len() > MTU_BYTES + ETHERNET_BYTES && is_from(&frame[ETHERNET_BYTES..], GATEWAY_EXTERNAL.octets())
        };
        let down = move |packet: &[u8]| packet.len() > MTU_BYTES && packet.get(16..20) == Some(&ours);
        Self([Capture::start(gateway, INTERNET_INTERFACE, up).unwrap(), Capture::start(laptop, TUN, down).unwrap()])
    }

    fn count(self) -> [u64; 2] {
        self.0.map(|capture| capture.finish().0)
    }
}

fn travels_encrypted(relay: RelayKind) {
    let mut journey = Journey::prepare(None, true);
    let names = [world::GATEWAY, world::GATEWAY_DIRECT].map(|address| address.to_string());
    let certified = rcgen::generate_simple_self_signed(names).unwrap();
    let (certificate, key) = (journey.scratch.file("certificate.pem"), journey.scratch.file("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let set =
        [("tls.certificate", &certificate), ("tls.key", &key)].map(|(key, file)| format!("{key}={}", file.display()));
    let ca = certificate.display().to_string();
    let client_ca = format!("client.ca={ca}");
    let (gateway, relay_args, client) = (["--set", &set[0], "--set", &set[1]], ["--ca", &ca], ["--set", &client_ca]);
    journey.go(Trip {
        gateway: &gateway,
        relay,
        relay_args: &relay_args,
        client: &client,
        tls: true,
        ..Trip::default()
    });
    bulk_arrives_whole(&journey);
    journey.end();
}

#[test]
fn not_one_reset_or_port_unreachable_comes_from_the_gateways_own_kernel() {
    let journey = Journey::start(Trip::default());
    let capture = Capture::start(&journey.world.gateway, INTERNET_INTERFACE, is_refusal_of_the_gateway).unwrap();
    bulk_arrives_whole(&journey);
    echoed(&journey, 20);
    let pings = probe::ping(&journey.world.laptop, INTERNET, 20, Duration::from_millis(5)).unwrap();
    assert_eq!(pings.times.len(), 20);
    let refused = capture.matched();
    let rules = "wstether-wstether";
    journey.world.gateway.run(|| nft::remove(rules).unwrap()).unwrap();
    // Without the rules the kernel answers for the ports: the capture would have seen it.
    assert!(probe::upload(&journey.world.laptop, INTERNET, &journey.bulk).is_err());
    let (refused_without_rules, seen) = capture.finish();
    assert!(refused_without_rules > 0 && seen > 100, "the capture sees resets, and the traffic");
    assert_eq!(refused, 0);
}

/// Whether an Ethernet frame is a TCP reset, or an ICMP port-unreachable, from the gateway's external address.
fn is_refusal_of_the_gateway(frame: &[u8]) -> bool {
    let Some(packet) = frame.get(14..) else { return false };
    if packet.len() < 20 || packet[0] >> 4 != 4 || packet[12..16] != GATEWAY_EXTERNAL.octets() {
        return false;
    }
    let inner = &packet[usize::from(packet[0] & 0xf) * 4..];
    match packet[9] {
        1 => inner.starts_with(&[3, 3]),
        6 => inner.get(13).is_some_and(|flags| flags & 0x04 != 0),
        _ => false,
    }
}

/// Type 13 of RFC 792, which Linux answers. It is a query like ping's.
#[test]
fn a_timestamp_request_from_the_laptop_is_answered() {
    /// Type, code, checksum, identifier 7, sequence number 1, and three times that the request may leave at 0.
    const REQUEST: [u8; 20] = [13, 0, 0xf2, 0xf7, 0, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let mut journey = Journey::start(Trip { egress, relay: RelayKind::Direct, ..Trip::default() });
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        let mut socket = journey.world.laptop.run(open).unwrap();
        socket.connect(&SocketAddrV4::new(INTERNET, 0).into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(&REQUEST).unwrap();
        let mut reply = [0; 64];
        assert_eq!(socket.read(&mut reply).unwrap(), 40, "behind a header of 20 bytes");
        assert_eq!((reply[20], &reply[24..28]), (14, &[0, 7, 0, 1][..]));
        journey.end();
    }
}

/// Sends datagrams from the laptop to the echo service and waits for each.
fn echoed(journey: &Journey, count: u8) {
    let socket = journey.world.laptop.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for at in 0..count {
        socket.send_to(&[at; 100], (INTERNET, ECHO_PORT)).unwrap();
        let mut back = [0; 200];
        let (length, from) = socket.recv_from(&mut back).unwrap();
        assert_eq!((&back[..length], from), (&[at; 100][..], (INTERNET, ECHO_PORT).into()));
    }
}

#[test]
fn a_server_sees_the_gateways_address_and_ports_of_one_block() {
    let journey = Journey::start(Trip::default());
    for _ in 0..5 {
        echoed(&journey, 2);
    }
    let seen = journey.internet.echoed_to();
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|from| from.ip() == GATEWAY_EXTERNAL && PORTS.contains(&from.port())), "{seen:?}");
    let blocks: BTreeSet<_> = seen.iter().map(|from| (from.port() - PORTS.start()) / PORTS_A_TETHER).collect();
    assert_eq!(blocks.len(), 1, "{seen:?}");
}

#[test]
fn private_networks_and_the_gateways_own_addresses_are_refused_with_a_word() {
    let journey = Journey::start(Trip::default());
    let (external, mobile) = (GATEWAY_EXTERNAL.to_string(), world::GATEWAY.to_string());
    for address in ["10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", &external, &mobile] {
        is_filtered(&journey, address);
    }
}

/// ICMP 3/13, communication administratively prohibited (RFC 1812, 5.2.7.1), which ping(8) calls filtered.
fn is_filtered(journey: &Journey, address: &str) {
    let output = journey.on_laptop("ping", &["-c", "1", "-W", "5", address]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("Packet filtered"), "{address}: {said}");
}

#[test]
fn two_tethers_at_once_cannot_reach_each_others_lease() {
    let journey = Journey::start(Trip { relay: RelayKind::Direct, ..Trip::default() });
    let second = Second::join(&journey);
    let leases = [&journey.world.laptop, &second.world.laptop].map(lease);
    assert_ne!(leases[0], leases[1]);
    is_filtered(&journey, &leases[1].to_string());
    for laptop in [&journey.world.laptop, &second.world.laptop] {
        let pings = probe::ping(laptop, INTERNET, 5, Duration::from_millis(10)).unwrap();
        assert_eq!(pings.times.len(), 5, "both reach the internet");
    }
    assert_eq!(journey.status().tethers, 2);
}

fn lease(laptop: &Namespace) -> Ipv4Addr {
    let addresses = laptop.netlink(|netlink| netlink.addresses(TUN)).unwrap();
    addresses.iter().find_map(|prefix| prefix.address.to_string().parse().ok()).expect("a lease")
}

/// Another laptop with a client of its own, straight at the gateway.
struct Second {
    world: World,
    _client: Program,
    _scratch: Scratch,
}

impl Second {
    fn join(journey: &Journey) -> Self {
        let token = journey.setting().token("second").unwrap();
        let laptop = Namespace::new("second laptop").unwrap();
        let (here, there) = (Ipv4Addr::new(203, 0, 113, 6), Ipv4Addr::new(203, 0, 113, 5));
        let gateway = (&journey.world.gateway, "laptop1", there);
        world::join((&laptop, "net0", here), gateway, 30, None).unwrap();
        laptop.route(Prefix::new(world::GATEWAY_DIRECT.into(), 32), there.into(), "net0").unwrap();
        let (world, scratch) = (World { laptop, ..journey.world.clone() }, Scratch::new().unwrap());
        let setting = Setting { binary: BINARY.as_ref(), world: &world, scratch: &scratch, tls: false };
        let mut client = setting.client(RelayKind::Direct, &token, &[]).unwrap();
        setting.connected(&mut client).unwrap();
        Self { world, _client: client, _scratch: scratch }
    }
}

#[test]
fn a_gateway_that_was_killed_is_adopted_by_the_next_and_a_running_ping_goes_on() {
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let trip = Trip { egress, ..Trip::default() };
        let mut journey = Journey::start(trip);
        let before = kernel_state(&journey.world.gateway);
        let address = INTERNET.to_string();
        let ping = journey
            .command(&journey.world.laptop, "ping", &["-i", "0.1", "-w", "60", &address])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        journey.gateway.take().expect("it runs").kill().unwrap();
        assert_eq!(kernel_state(&journey.world.gateway).1, before.1, "a killed gateway undoes nothing");
        journey.gateway = Some(journey.setting().gateway(egress, &[]).unwrap());
        assert_eq!(without_counters(&kernel_state(&journey.world.gateway).0), without_counters(&before.0));
        let answered =
            || probe::ping(&journey.world.laptop, INTERNET, 1, Duration::ZERO).is_ok_and(|it| it.times.len() == 1);
        let late = Instant::now() + PATIENCE;
        while !answered() {
            assert!(Instant::now() < late, "the tether does not come back");
        }
        std::thread::sleep(Duration::from_secs(1));
        let said = interrupted(ping);
        let last = said.lines().rfind(|line| line.contains("icmp_seq=")).expect("answers");
        let sent: u32 =
            said.split(" packets transmitted").next().and_then(|it| it.rsplit('\n').next()).unwrap().parse().unwrap();
        let last: u32 = last.split("icmp_seq=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(sent - last < 3, "the last answer was {last} of {sent}");
        journey.end();
        nothing_is_left(&journey);
    }
}

/// Ends ping(8) by SIGINT, as a person does, and returns what it said.
fn interrupted(ping: std::process::Child) -> String {
    let done = Command::new("kill").args(["-INT", &ping.id().to_string()]).status().unwrap();
    assert!(done.success());
    String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap()
}

/// The rules without what they have counted.
fn without_counters(rules: &str) -> String {
    let words: Vec<&str> = rules.split_whitespace().collect();
    let is_count = |at: usize| at > 0 && ["packets", "bytes"].contains(&words[at - 1]);
    words.iter().enumerate().filter(|(at, _)| !is_count(*at)).map(|(_, word)| format!("{word} ")).collect()
}

#[test]
fn a_real_prometheus_that_scrapes_the_running_gateway_finds_no_panel_empty_and_the_whole_catalogue() {
    let journey = Journey::start(Trip::default());
    bulk_arrives_whole(&journey);
    let figures = || {
        every_panel_has_data(tethering::FIGURES, |program| Command::new(program));
        every_reason_of_the_rules_exists(tethering::FIGURES);
        http_get(tethering::FIGURES, "/metrics").expect("the gateway answers").1
    };
    let text = journey.world.gateway.run(figures).unwrap();
    let told: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let listed: BTreeSet<&str> = INSTRUMENTS.iter().map(|instrument| instrument.name).collect();
    assert_eq!(told, listed, "the running gateway and the catalogue differ");
    assert!(text.contains("\nwstether_packet_socket_drops_total 0\n"), "the packet socket dropped:\n{text}");
}

#[test]
fn the_printed_diagram_is_that_of_the_running_gateway() {
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let mut journey = Journey::prepare(None, false);
        journey.gateway = Some(journey.setting().gateway(egress, &[]).unwrap());
        let set = config::Override {
            option: "--egress".to_owned(),
            path: "egress.mode".to_owned(),
            value: egress.word().to_owned(),
        };
        let config: config::Gateway = config::load(None, &[set]).unwrap();
        let printed = describe(&config.egress.way).into_iter().map(|mut stage| {
            stage.reasons.sort_unstable();
            (stage.name.to_owned(), stage.direction.to_owned(), stage.reasons.join(" "))
        });
        let running = journey.status().stages.into_iter().map(|stage| {
            let reasons: Vec<String> = stage.drops.into_keys().collect();
            (stage.name, stage.direction, reasons.join(" "))
        });
        assert!(printed.eq(running));
    }
}
