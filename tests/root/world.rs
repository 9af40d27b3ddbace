//! A journey's world: the four machines, the real programs in them, and what Debian's programs do on the laptop.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wstether::cli::{EgressMode, RelayKind};
use wstether::lab::internet::Internet;
use wstether::lab::tethering::Setting;
use wstether::lab::world::{INTERNET, Layout, World};
use wstether::lab::{Isolation, Namespace, Offloads, Program, Scratch};
use wstether::status::Status;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_wstether");

/// Where the internet's host serves a web page.
pub(crate) const WEB_PORT: u16 = 8000;
pub(crate) const WEB_PAGE: &str = "a page from the internet\n";

/// Bytes of a bulk transfer.
pub(crate) const BULK_BYTES: u64 = 8 << 20;

/// How long something is waited for that will come: far beyond what it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Which journey.
#[derive(Clone, Copy)]
pub(crate) struct Trip<'a> {
    pub(crate) egress: EgressMode,
    pub(crate) relay: RelayKind,
    pub(crate) offloads: Option<Offloads>,
    pub(crate) gateway: &'a [&'a str],
    pub(crate) relay_args: &'a [&'a str],
    pub(crate) client: &'a [&'a str],
    pub(crate) tls: bool,
}

impl Default for Trip<'_> {
    fn default() -> Self {
        let (egress, relay) = (EgressMode::Raw, RelayKind::Headless);
        Self { egress, relay, offloads: None, gateway: &[], relay_args: &[], client: &[], tls: false }
    }
}

/// The machines with everything in them. What runs is killed and what was written goes when it is dropped.
pub(crate) struct Journey {
    pub(crate) gateway: Option<Program>,
    pub(crate) client: Option<Program>,
    pub(crate) relay: Option<Program>,
    pub(crate) resolver: Ipv4Addr,
    pub(crate) internet: Internet,
    pub(crate) bulk: Arc<[u8]>,
    _web: WebServer,
    pub(crate) world: World,
    pub(crate) scratch: Scratch,
    tls: bool,
    _turn: Turn,
}

impl Journey {
    /// The machines, the internet's servers, and nothing else.
    pub(crate) fn prepare(offloads: Option<Offloads>, tls: bool) -> Self {
        let turn = Turn::take();
        let world = World::new(Layout { direct: true, offloads }).unwrap();
        let bulk: Arc<[u8]> = (0..BULK_BYTES / 8).flat_map(|at| (at * 0x9e37_79b9).to_be_bytes()).collect();
        let internet = Internet::start(&world.internet, INTERNET, Arc::clone(&bulk)).unwrap();
        let web = WebServer::start(&world.internet);
        Self {
            gateway: None,
            client: None,
            relay: None,
            resolver: Ipv4Addr::UNSPECIFIED,
            internet,
            bulk,
            _web: web,
            world,
            scratch: Scratch::new().unwrap(),
            tls,
            _turn: turn,
        }
    }

    /// All of it, with the laptop's packets going through the tunnel.
    pub(crate) fn start(trip: Trip<'_>) -> Self {
        let mut journey = Self::prepare(trip.offloads, trip.tls);
        journey.go(trip);
        journey
    }

    pub(crate) fn go(&mut self, trip: Trip<'_>) {
        let token = self.setting().token("laptop").unwrap();
        self.gateway = Some(self.setting().gateway(trip.egress, trip.gateway).unwrap());
        self.client = Some(self.setting().client(trip.relay, &token, trip.client).unwrap());
        self.relay = self.setting().relay(trip.relay, trip.relay_args).unwrap();
        self.connected();
    }

    pub(crate) fn setting(&self) -> Setting<'_> {
        Setting { binary: Path::new(BINARY), world: &self.world, scratch: &self.scratch, tls: self.tls }
    }

    pub(crate) fn connected(&mut self) {
        let mut client = self.client.take().expect("a client runs");
        let connected = self.setting().connected(&mut client);
        self.client = Some(client);
        self.resolver = connected.unwrap();
    }

    /// Runs one of Debian's programs on the laptop to its end.
    pub(crate) fn on_laptop(&self, program: &str, args: &[&str]) -> Output {
        self.command(&self.world.laptop, program, args).output().expect(program)
    }

    /// What the program printed; it must have exited with 0.
    pub(crate) fn says(&self, program: &str, args: &[&str]) -> String {
        let output = self.on_laptop(program, args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {args:?}: {}\n{out}{err}", output.status);
        out.into_owned()
    }

    pub(crate) fn command(&self, namespace: &Namespace, program: &str, args: &[&str]) -> Command {
        let resolv_conf = self.setting().laptop_resolv_conf();
        let isolation = Isolation { resolv_conf: Some(&resolv_conf), dies_with_parent: true };
        let mut command = namespace.command(program, isolation).unwrap();
        command.args(args);
        command
    }

    pub(crate) fn status(&self) -> Status {
        self.setting().status().expect("the gateway tells its status")
    }

    /// The status when nothing moves any more: queues are empty and no count changes.
    pub(crate) fn drained(&self) -> Status {
        let late = Instant::now() + PATIENCE;
        let mut before = self.status();
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.status();
            let counts = |status: &Status| -> Vec<_> {
                status.stages.iter().map(|stage| (stage.packets, stage.packets_out, stage.dropped())).collect()
            };
            if now.stages.iter().all(|stage| stage.queue == 0) && counts(&before) == counts(&now) {
                return now;
            }
            assert!(Instant::now() < late, "the gateway does not come to rest: {now}");
            before = now;
        }
    }

    /// Stops everything with SIGTERM, as a person would; each exits with 0.
    pub(crate) fn end(&mut self) {
        for program in [self.client.take(), self.relay.take(), self.gateway.take()].into_iter().flatten() {
            let (name, log) = (program.name().to_owned(), program.log_path().to_owned());
            let status = program.end().unwrap();
            assert!(status.success(), "{name}: {status}\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for program in [&self.gateway, &self.client, &self.relay].into_iter().flatten() {
                eprintln!("---- log of the {}\n{}", program.name(), program.log());
            }
            if let Some(status) = self.setting().status() {
                eprintln!("---- the gateway\n{status}");
            }
        }
    }
}

/// A web server with one page.
struct WebServer {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    fn start(namespace: &Namespace) -> Self {
        let listener = namespace.run(|| TcpListener::bind((INTERNET, WEB_PORT)).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut lines = BufReader::new(&stream).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
                let response = format!("{head}Content-Length: {}\r\n\r\n{WEB_PAGE}", WEB_PAGE.len());
                // A client that has hung up fails its own test.
                drop((&stream).write_all(response.as_bytes()));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("its thread").join().expect("no panic");
    }
}

/// Journeys at a time: each has five programs on what may be two cores.
const JOURNEYS_MAX: usize = 2;
static UNDER_WAY: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to be under way.
struct Turn;

impl Turn {
    fn take() -> Self {
        let count = UNDER_WAY.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count =
            UNDER_WAY.1.wait_while(count, |count| *count >= JOURNEYS_MAX).unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *UNDER_WAY.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        UNDER_WAY.1.notify_one();
    }
}
