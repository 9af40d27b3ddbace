//! A stranger's client, in Python and from docs/protocol.md alone, against the real gateway: a lease, pings, UDP, TCP in
//! bulk without super-packets, both subprotocols, resuming, credit, a wrong token, and lies about super-packets; over each
//! way out, with offloads and without.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wstether::io::netlink::Prefix;
use wstether::lab::{Isolation, Namespace, Offloads, veth};
use wstether::status;

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GATEWAY_INSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GATEWAY_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const ECHO_PORT: u16 = 7;
const BULK_PORT: u16 = 5_001;

/// Where the gateway tells its figures, in its own namespace.
const FIGURES: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9_321);

/// The gateway's own address in the tunnel, and the first lease: those of the default pool.
const INNER: &str = "100.64.0.1";
const FIRST_LEASE: &str = "100.64.0.2/32";

/// How long a test waits for a program to start or to end: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at whether it is so far.
const PAUSE: Duration = Duration::from_millis(20);

/// Three times the credit that a link begins with.
const FLOOD_BYTES: u64 = 12 << 20;

/// What a stranger sends and gets by one TCP connection: a hundred super-packets and more.
const BULK_UP_BYTES: usize = 2 << 20;
const BULK_DOWN_BYTES: usize = 8 << 20;

/// Datagrams of an honest super-packet of lies.py.
const HONEST_DATAGRAMS: usize = 3;

/// Fewer than the strangers of a test, one after the other: each has to give its place back when it is done.
const TETHERS_MAX: u32 = 4;

/// More than a stranger opens who breaks the rules: such a session may be resumed, and keeps its place.
const TETHERS_OF_RULE_BREAKERS: u32 = 64;

#[derive(Clone, Copy)]
enum Egress {
    Raw,
    Tun,
}

impl Egress {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Tun => "tun",
        }
    }
}

#[test]
fn the_documents_examples_follow_from_its_rules() {
    let checked = Command::new(python())
        .arg(python_file("examples.py"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md"))
        .output()
        .expect("Python starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn a_stranger_pings_through_raw_egress_without_offloads() {
    a_stranger_does_all(Egress::Raw, Offloads::OFF);
}

#[test]
fn a_stranger_pings_through_raw_egress_with_offloads() {
    a_stranger_does_all(Egress::Raw, Offloads::ON);
}

#[test]
fn a_stranger_pings_through_tun_egress_without_offloads() {
    a_stranger_does_all(Egress::Tun, Offloads::OFF);
}

#[test]
fn a_stranger_pings_through_tun_egress_with_offloads() {
    a_stranger_does_all(Egress::Tun, Offloads::ON);
}

#[test]
fn a_stranger_who_breaks_the_rules_is_answered_as_the_document_says() {
    let world = World::new(Offloads::ON);
    let mut gateway = Gateway::start(&world, Egress::Tun, TETHERS_OF_RULE_BREAKERS);
    let judged = world
        .command(&world.client, &python().display().to_string())
        .arg(python_file("conduct.py"))
        .args([&format!("ws://{}/wstether", gateway.address), &gateway.token])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("Python starts");
    let [found, errors] = [&judged.stdout, &judged.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(judged.status.success(), "{found}{errors}\ngateway:\n{}", gateway.log());
    gateway.stop();
}

/// Nobody has asked for the next hop's hardware address yet, and a super-packet cannot go by the kernel, which asks.
#[test]
fn the_first_packet_of_all_may_be_a_super_packet() {
    let world = World::new(Offloads::ON);
    let mut gateway = Gateway::start(&world, Egress::Raw, TETHERS_MAX);
    is_not_believed_what_is_not_true(&world, &gateway);
    gateway.stop();
}

fn a_stranger_does_all(egress: Egress, offloads: Offloads) {
    let world = World::new(offloads);
    let mut gateway = Gateway::start(&world, egress, TETHERS_MAX);
    gets_a_lease_and_pings(&world, &gateway);
    is_refused_with_another_secret(&world, &gateway);
    talks_base64(&world, &gateway);
    gets_no_larger_mtu_than_it_takes(&world, &gateway);
    is_seen_with_the_gateways_address(&world, &gateway);
    keeps_its_lease_over_a_lost_link(&world, &gateway);
    gets_new_credit_as_its_packets_leave(&world, &gateway);
    hears_of_a_packet_that_ran_out_of_hops(&world, &gateway);
    moves_bulk_without_super_packets(&world, &gateway);
    is_not_believed_what_is_not_true(&world, &gateway);
    gateway.stop();
}

fn gets_a_lease_and_pings(world: &World, gateway: &Gateway) {
    let told = world.stranger(gateway, &["--count", "5"]).succeeded();
    assert_eq!(told["lease"], serde_json::json!([FIRST_LEASE]));
    assert_eq!((&told["gateway"], &told["dns"]), (&serde_json::json!([INNER]), &serde_json::json!([INNER])));
    assert_eq!(told["mtu"], 1_500);
    assert_eq!(told["rtt_ms"].as_array().map(Vec::len), Some(5));
}

fn is_refused_with_another_secret(world: &World, gateway: &Gateway) {
    let told = world.stranger(gateway, &["--bad-token"]).failed();
    assert_eq!(told["refused"][0]["by"], "REFUSAL");
    assert_eq!(told["refused"][0]["reason"], "bad_credential");
    assert_eq!(told["refused"][0]["retry_after_ms"], 0, "a wrong token is wrong for good");
    assert!(told["refused"][0]["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(told["lease"], Value::Null);
}

fn talks_base64(world: &World, gateway: &Gateway) {
    let told = world.stranger(gateway, &["--base64", "--size", "1400"]).succeeded();
    assert_eq!(told["rtt_ms"].as_array().map(Vec::len), Some(3));
}

fn gets_no_larger_mtu_than_it_takes(world: &World, gateway: &Gateway) {
    let told = world.stranger(gateway, &["--mtu", "1280"]).succeeded();
    assert_eq!(told["mtu"], 1_280);
}

fn is_seen_with_the_gateways_address(world: &World, gateway: &Gateway) {
    let echo = world.echo(1);
    let told =
        world.stranger(gateway, &["--count", "0", "--udp", &format!("{SERVER}:{ECHO_PORT}"), "hello"]).succeeded();
    assert_eq!(told["udp"]["from"], format!("{SERVER}:{ECHO_PORT}"));
    assert_eq!(told["udp"]["text"], "hello");
    let seen = echo.join().expect("the echo server");
    assert_eq!(seen.iter().map(SocketAddr::ip).collect::<Vec<_>>(), [IpAddr::from(GATEWAY_OUTSIDE)]);
}

fn keeps_its_lease_over_a_lost_link(world: &World, gateway: &Gateway) {
    let told = world.stranger(gateway, &["--resume"]).succeeded();
    assert_eq!(told["resumed"], serde_json::json!({ "same_lease": true, "same_session": true }));
    assert_eq!(told["rtt_ms"].as_array().map(Vec::len), Some(6), "three on each link");
}

fn gets_new_credit_as_its_packets_leave(world: &World, gateway: &Gateway) {
    let told = world.stranger(gateway, &["--count", "1", "--flood-bytes", &FLOOD_BYTES.to_string()]).succeeded();
    let flood = |key: &str| told["flood"][key].as_u64().expect("a number");
    assert!(flood("credit_at_first_bytes") < FLOOD_BYTES, "else this shows nothing");
    assert!(flood("sent_bytes") >= FLOOD_BYTES);
    assert_eq!(flood("acknowledged_bytes"), flood("sent_bytes"));
}

fn hears_of_a_packet_that_ran_out_of_hops(world: &World, gateway: &Gateway) {
    let told = world.stranger(gateway, &["--count", "1", "--ttl", "1"]).failed();
    assert_eq!(told["refused"][0]["by"], "ICMP");
    assert_eq!(told["refused"][0]["reason"], "time_exceeded");
    assert_eq!(told["refused"][0]["source"], INNER);
}

/// What comes by the cable in super-packets reaches somebody who did not agree to any as single, complete packets.
fn moves_bulk_without_super_packets(world: &World, gateway: &Gateway) {
    let (server, sent) = world.bulk();
    let arguments = ["--count", "0", "--tcp", &format!("{SERVER}:{BULK_PORT}"), &BULK_UP_BYTES.to_string()];
    let told = world.stranger(gateway, &arguments).succeeded();
    let tcp = &told["tcp"];
    assert_eq!(tcp["sent_sha256"], server.join().expect("the server"));
    assert_eq!((&tcp["received_bytes"], &tcp["received_sha256"]), (&BULK_DOWN_BYTES.into(), &hash(&sent).into()));
    assert_eq!(tcp["wrong_packets"], 0);
    assert!(tcp["largest_packet_bytes"].as_u64() <= told["mtu"].as_u64(), "{tcp}");
    let contexts = tcp["packets_of_context"].as_object().expect("an object");
    assert_eq!(contexts.keys().collect::<Vec<_>>(), ["0"], "whole packets alone");
}

/// Somebody who agreed to super-packets lies about some. Each lie is a counted drop; his honest ones pass before and behind.
fn is_not_believed_what_is_not_true(world: &World, gateway: &Gateway) {
    let before = gateway.drops(world);
    let echo = world.echo(2 * HONEST_DATAGRAMS);
    let told = world.python(gateway, "lies.py", &[&format!("{SERVER}:{ECHO_PORT}")]).succeeded();
    let seen = echo.join().expect("the echo server");
    assert_eq!(seen.len(), 2 * HONEST_DATAGRAMS);
    let honest = serde_json::json!([600, 600, 300]);
    assert_eq!((&told["echoed_before"], &told["echoed_behind"]), (&honest, &honest));
    let more = |reason: &str, behind: &Drops| behind.of(reason) - before.of(reason);
    let (lies, above_the_mtu) = (told["lies"].as_u64().expect("a number"), told["above_the_mtu"].as_u64());
    // What is larger than the MTU is told, or a lie as any other.
    let behind = gateway.drops(world);
    assert_eq!(more("bad_offload", &behind) + more("too_big", &behind), lies + above_the_mtu.expect("a number"));
    assert!(more("bad_offload", &behind) >= lies);
    assert_eq!(behind.all() - before.all(), lies + 1, "nothing else is dropped: {behind:?}");
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What packets the gateway has dropped, by reason, of all stages.
#[derive(Debug)]
struct Drops(Vec<(String, u64)>);

impl Drops {
    fn of(&self, reason: &str) -> u64 {
        self.0.iter().filter(|(found, _)| found == reason).map(|(_, count)| count).sum()
    }

    fn all(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

/// A client, a gateway with two interfaces, and a server beyond it.
struct World {
    client: Namespace,
    gateway: Namespace,
    internet: Namespace,
}

impl World {
    fn new(offloads: Offloads) -> Self {
        let [client, gateway, internet] =
            ["client", "gateway", "internet"].map(|name| Namespace::new(name).expect("a namespace (needs root)"));
        veth(&client, "eth0", &gateway, "eth0").expect("a cable");
        veth(&gateway, "eth1", &internet, "eth0").expect("a cable");
        for (namespace, interface, address) in [
            (&client, "eth0", CLIENT),
            (&gateway, "eth0", GATEWAY_INSIDE),
            (&gateway, "eth1", GATEWAY_OUTSIDE),
            (&internet, "eth0", SERVER),
        ] {
            namespace.address(interface, Prefix::new(address.into(), 24)).expect("an address");
            namespace.offloads(interface, offloads).expect("its offloads");
        }
        let everywhere = Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        gateway.route(everywhere, SERVER.into(), "eth1").expect("a default route");
        Self { client, gateway, internet }
    }

    /// Sends back what comes, `count` times; then tells from whom it came.
    fn echo(&self, count: usize) -> JoinHandle<Vec<SocketAddr>> {
        let socket = self.internet.run(|| UdpSocket::bind((SERVER, ECHO_PORT))).expect("inside").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        thread::spawn(move || {
            let mut buf = [0; 2_048];
            let mut answer = || {
                let (len, from) = socket.recv_from(&mut buf).expect("a packet");
                socket.send_to(&buf[..len], from).expect("sent back");
                from
            };
            (0..count).map(|_| answer()).collect()
        })
    }

    /// Takes in all that comes by one connection, then sends something and ends; tells the hash of what came.
    fn bulk(&self) -> (JoinHandle<String>, Vec<u8>) {
        let listener =
            self.internet.run(|| TcpListener::bind((SERVER, BULK_PORT))).expect("inside").expect("a listener");
        let sent: Vec<u8> = (0..BULK_DOWN_BYTES as u64 / 8).flat_map(|at| (at * 0x9e37_79b9).to_be_bytes()).collect();
        let sends = sent.clone();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
            let mut came = Vec::new();
            stream.read_to_end(&mut came).expect("all of it");
            stream.write_all(&sends).expect("it is taken");
            stream.shutdown(Shutdown::Write).expect("its end");
            hash(&came)
        });
        (server, sent)
    }

    /// Runs the Python client with these arguments.
    fn stranger<'a>(&self, gateway: &'a Gateway, arguments: &[&str]) -> Told<'a> {
        self.python(gateway, "client.py", &[&["--target", &SERVER.to_string()], arguments].concat())
    }

    /// Runs one of the Python clients. Where every place is taken, it comes again when it was told to: the place of one that
    /// is done rests for a moment.
    fn python<'a>(&self, gateway: &'a Gateway, file: &str, arguments: &[&str]) -> Told<'a> {
        let late = Instant::now() + PATIENCE;
        loop {
            let told = self.python_once(gateway, file, arguments);
            match told.no_address_for() {
                Some(wait) if Instant::now() < late => thread::sleep(wait),
                Some(_) | None => return told,
            }
        }
    }

    fn python_once<'a>(&self, gateway: &'a Gateway, file: &str, arguments: &[&str]) -> Told<'a> {
        let mut command = self.command(&self.client, &python().display().to_string());
        command
            .arg(python_file(file))
            .args([&format!("ws://{}/wstether", gateway.address), &gateway.token])
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let output = command.output().expect("Python starts");
        Told { arguments: format!("{file} {}", arguments.join(" ")), output, gateway }
    }

    fn command(&self, namespace: &Namespace, program: &str) -> Command {
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        namespace.command(program, isolation).expect("a command")
    }
}

/// What a run of the Python client came to.
struct Told<'a> {
    arguments: String,
    output: std::process::Output,
    gateway: &'a Gateway,
}

impl Told<'_> {
    /// When to come again, where it was refused because every place is taken.
    fn no_address_for(&self) -> Option<Duration> {
        let told: Value = serde_json::from_slice(&self.output.stdout).ok()?;
        let refused = told["refused"].get(0).filter(|refused| refused["reason"] == "no_address")?;
        refused["retry_after_ms"].as_u64().map(Duration::from_millis)
    }

    fn succeeded(self) -> Value {
        self.exited(0)
    }

    fn failed(self) -> Value {
        self.exited(1)
    }

    fn exited(self, code: i32) -> Value {
        let Self { arguments, output, gateway } = self;
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments}\n{printed}{}\ngateway:\n{}",
            String::from_utf8_lossy(&output.stderr),
            gateway.log()
        );
        serde_json::from_str(&printed).expect("one JSON object")
    }
}

/// The real gateway, in its namespace, with its files in a directory of its own.
struct Gateway {
    process: Child,
    directory: PathBuf,
    address: SocketAddr,
    token: String,
}

impl Gateway {
    fn start(world: &World, egress: Egress, tethers_max: u32) -> Self {
        let directory = fresh_directory();
        let mut command = world.command(&world.gateway, env!("CARGO_BIN_EXE_wstether"));
        command
            .args(["gateway", "--egress", egress.name(), "--metrics", &FIGURES.to_string(), "--log", "debug"])
            .args(["--listen", &format!("{GATEWAY_INSIDE}:0")])
            .args(["--set", &format!("tethers.max={tethers_max}")])
            .arg("--credentials")
            .arg(directory.join("credentials.toml"))
            .args(["--set", &format!("runtime.directory={}", directory.join("run").display())])
            .stdout(Stdio::piped())
            .stderr(fs::File::create(directory.join("log")).expect("a file for the log"));
        let mut process = command.spawn().expect("the gateway starts");
        let stdout = process.stdout.take().expect("its output");
        let mut gateway = Self { process, directory, address: (GATEWAY_INSIDE, 0).into(), token: String::new() };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .unwrap_or_else(|_| panic!("the gateway does not listen:\n{}", gateway.log()));
            if line.trim().starts_with("wst1_") {
                line.trim().clone_into(&mut gateway.token);
            }
            if let Some(url) = line.strip_prefix("Listening on ") {
                gateway.address = url.trim_end_matches("/wstether").parse().expect("an address");
                return gateway;
            }
        }
    }

    fn drops(&self, world: &World) -> Drops {
        let status = world.gateway.run(|| status::fetch(FIGURES)).expect("inside").expect("its status");
        // What accept drops is connections.
        let stages = status.stages.into_iter().filter(|stage| stage.name != "accept");
        let all = stages.flat_map(|stage| stage.drops);
        Drops(all.filter(|(_, count)| *count > 0).collect())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Stops it as an operator does, and expects that it ends well.
    fn stop(&mut self) {
        let id = self.process.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill starts");
        assert!(told.success());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("its status") {
                break status;
            }
            assert!(Instant::now() < deadline, "the gateway does not stop:\n{}", self.log());
            thread::sleep(PAUSE);
        };
        assert!(status.success(), "{status}, signal {:?}:\n{}", status.signal(), self.log());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn fresh_directory() -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("wstether-stranger-{}-{number}", std::process::id()));
    fs::create_dir(&directory).expect("a directory of its own");
    directory
}

fn python_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// A Python that has `websockets`: WSTETHER_PYTHON, or a virtual environment, which is made if it is not there.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        if let Some(given) = std::env::var_os("WSTETHER_PYTHON") {
            return given.into();
        }
        let environment = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
        let python = environment.join("bin/python");
        let has_websockets = || Command::new(&python).args(["-c", "import websockets"]).stderr(Stdio::null()).status();
        if !has_websockets().is_ok_and(|status| status.success()) {
            succeeds(Command::new("python3").args(["-m", "venv"]).arg(&environment));
            succeeds(Command::new(&python).args(["-m", "pip", "install", "--quiet", "websockets"]));
        }
        python
    })
}

fn succeeds(command: &mut Command) {
    let done = command.output().expect("a program that starts (Debian: python3-venv)");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
