//! Where one system is measured: the namespaces, a directory for its files, and the programs of the measurement.

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use wstether::io::netlink::{Prefix, Route};
use wstether::io::nft::{Rules, Table};
use wstether::lab::probe;
use wstether::lab::world::{INTERNET, INTERNET_INTERFACE, Layout, World};
use wstether::lab::{Isolation, Namespace, Program, Scratch};

/// Whatever went wrong: it becomes the reason in the table.
pub(crate) type Error = Box<dyn StdError + Send + Sync>;

/// How long anything may take to start.
const START_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long what was measured before may have its effects: more than it takes a gateway to leave its ladder.
const SETTLED_MAX: Duration = Duration::from_secs(15);
/// How much of a program's log goes into a reason.
const SHOWN_LINES: usize = 3;
/// The size of the packets on the cables' tunnels that have no say of their own: an Ethernet's.
pub(crate) const TUN_MTU: u32 = 1500;

/// When nothing new is begun any more.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Set by a signal.
    pub(crate) over: Arc<AtomicBool>,
    /// When time has run out: what is left out then has that as its reason.
    pub(crate) late: Option<Instant>,
}

impl End {
    /// Whether the run was stopped by a signal.
    pub(crate) fn stopped(&self) -> Result<(), Error> {
        if self.over.load(Ordering::Relaxed) { Err("stopped by a signal".into()) } else { Ok(()) }
    }

    /// The same, or whether time has run out.
    pub(crate) fn go_on(&self) -> Result<(), Error> {
        self.stopped()?;
        match self.late {
            Some(late) if Instant::now() >= late => Err("no time was left for it".into()),
            Some(_) | None => Ok(()),
        }
    }

    /// So long, or as long as there is time.
    fn at_most(&self, limit: Duration) -> Duration {
        self.late.map_or(limit, |late| late.saturating_duration_since(Instant::now()).min(limit))
    }
}

/// The world of one system.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) scratch: Scratch,
    /// The congestion control of sockets that choose none, as the namespaces have it.
    pub(crate) congestion: String,
    end: End,
}

impl Site {
    /// Makes the namespaces.
    pub(crate) fn new(end: &End) -> Result<Self, Error> {
        let world = World::new(Layout { direct: true, offloads: None })?;
        let congestion = level_congestion(&world)?;
        Ok(Self { world, scratch: Scratch::new()?, congestion, end: end.clone() })
    }

    /// An error where nothing new is to be begun.
    pub(crate) fn go_on(&self) -> Result<(), Error> {
        self.end.go_on()
    }

    /// A command in a namespace that ends with this program.
    pub(crate) fn command(&self, namespace: &Namespace, program: &str, args: &[&str]) -> Result<Command, Error> {
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        let mut command = namespace.command(program, isolation)?;
        command.args(args).env("LC_ALL", "C");
        Ok(command)
    }

    /// Starts a program in a namespace; what it says goes to a file of that name.
    pub(crate) fn start(
        &self,
        name: &str,
        namespace: &Namespace,
        program: &str,
        args: &[&str],
    ) -> Result<Program, Error> {
        self.go_on()?;
        let command = self.command(namespace, program, args)?;
        Ok(Program::start(name, command, self.scratch.file(&format!("{name}.log")))?)
    }

    /// Runs a short program in a namespace to its end.
    pub(crate) fn run(&self, namespace: &Namespace, program: &str, args: &[&str]) -> Result<String, Error> {
        self.go_on()?;
        ran(program, self.command(namespace, program, args)?.output())
    }

    /// Waits until `done`, as long as the program runs.
    pub(crate) fn until(&self, what: &str, program: &mut Program, done: impl Fn() -> bool) -> Result<(), Error> {
        let late = Instant::now() + START_MAX;
        while !done() {
            self.go_on()?;
            if let Some(status) = program.ended()? {
                return Err(format!("{} ended with {status}: {}", program.name(), last_lines(&program.log())).into());
            }
            if Instant::now() >= late {
                let log = last_lines(&program.log());
                return Err(format!("{} {what} after {} s: {log}", program.name(), START_MAX.as_secs()).into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits for an interface of the program's, gives it the address of a point-to-point tunnel, and brings it up.
    pub(crate) fn tunnel_end(
        &self,
        namespace: &Namespace,
        program: &mut Program,
        interface: &str,
        address: Prefix,
        mtu: Option<u32>,
    ) -> Result<(), Error> {
        let is_there = || namespace.netlink(|netlink| netlink.link(interface)).is_ok();
        self.until(&format!("has no interface {interface}"), program, is_there)?;
        if let Some(mtu) = mtu {
            namespace.netlink(|netlink| netlink.set_mtu(interface, mtu))?;
        }
        Ok(namespace.address(interface, address)?)
    }

    /// The laptop reaches the internet by this next hop or interface.
    pub(crate) fn laptop_goes_by(&self, interface: &str, via: Option<Ipv4Addr>) -> Result<(), Error> {
        Ok(self.world.laptop.netlink(|netlink| {
            let index = netlink.link(interface)?.index;
            let route = Route::new(Prefix::new(INTERNET.into(), 32), index);
            netlink.replace_route(&via.map_or(route.clone(), |via| route.via(IpAddr::V4(via))))
        })?)
    }

    /// The gateway's kernel forwards what comes from `interface` with addresses of `pool`, and masquerades.
    pub(crate) fn gateway_masquerades(&self, interface: &str, pool: Prefix) -> Result<(), Error> {
        let rules = Rules::Tun { tun: interface.to_owned(), pool, masquerade: Some(INTERNET_INTERFACE.to_owned()) };
        let gateway = &self.world.gateway;
        gateway.sysctl("net.ipv4.ip_forward", "1")?;
        gateway.run(|| Table { name: "bench".to_owned(), rules }.install())??;
        Ok(())
    }

    /// Whether somebody listens there.
    pub(crate) fn reaches(&self, from: &Namespace, address: Ipv4Addr, port: u16) -> bool {
        from.run(|| TcpStream::connect((address, port))).is_ok_and(|connected| connected.is_ok())
    }

    /// Waits for an answer to a ping. A gateway that had more than it can carry makes no new translations for a few
    /// seconds, which is not what is measured next.
    fn settle(&self) -> Result<(), Error> {
        let late = Instant::now() + SETTLED_MAX;
        loop {
            self.go_on()?;
            let pinged = probe::ping(&self.world.laptop, INTERNET, 1, Duration::ZERO);
            if Instant::now() >= late || pinged.is_ok_and(|pings| !pings.times.is_empty()) {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// iperf3 from the laptop to the internet's host. Its server takes one test, so that one that failed cannot stand in
    /// the way of the next.
    pub(crate) fn iperf3(&self, args: &[&str], limit: Duration) -> Result<Value, Error> {
        let running = self.iperf3_start(args)?;
        running.finish(self, limit)
    }

    /// The same, in the background.
    pub(crate) fn iperf3_start(&self, args: &[&str]) -> Result<Iperf3, Error> {
        self.settle()?;
        let host = INTERNET.to_string();
        let log = self.scratch.file("iperf3-server.log");
        forget(&log)?;
        let server_args = ["--server", "--one-off", "--bind", &host, "--forceflush"];
        let mut server = self.start("iperf3-server", &self.world.internet, "iperf3", &server_args)?;
        let listens = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("Server listening"));
        self.until("does not listen", &mut server, listens)?;
        forget(&self.scratch.file("iperf3.log"))?;
        let common = ["--client", &host, "--json", "--connect-timeout", "5000"];
        let client = self.start("iperf3", &self.world.laptop, "iperf3", &[&common[..], args].concat())?;
        Ok(Iperf3 { client, _server: server })
    }
}

/// A running iperf3, client and server. Both end with it.
#[derive(Debug)]
pub(crate) struct Iperf3 {
    client: Program,
    _server: Program,
}

impl Iperf3 {
    /// What it has measured.
    pub(crate) fn finish(mut self, site: &Site, limit: Duration) -> Result<Value, Error> {
        let ended = self.client.wait(site.end.at_most(limit))?;
        site.go_on()?;
        let log = self.client.log();
        let Some(_) = ended else {
            return Err(format!("iperf3 stalled: not done after {} s", limit.as_secs()).into());
        };
        let told: Value = serde_json::from_str(&log).map_err(|_| format!("iperf3: {}", last_lines(&log)))?;
        match told["error"].as_str() {
            Some(error) => Err(format!("iperf3: {error}").into()),
            None => Ok(told),
        }
    }
}

/// What a program that has ended said.
pub(crate) fn ran(program: &str, ended: std::io::Result<Output>) -> Result<String, Error> {
    let Output { status, stdout, stderr } = ended.map_err(|error| format!("{program}: {error}"))?;
    let (out, err) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr));
    if status.success() { Ok(out) } else { Err(format!("{program}: {status}: {}", last_lines(&err)).into()) }
}

/// Every system's own sockets use the same congestion control: Debian's default where the host lets a namespace choose
/// it, else Reno, which a namespace may always choose and which fills a buffer in the same way.
fn level_congestion(world: &World) -> Result<String, Error> {
    let machines = [&world.laptop, &world.phone, &world.gateway, &world.internet];
    for name in ["cubic", "reno"] {
        let chosen = machines.iter().try_for_each(|one| one.sysctl("net.ipv4.tcp_congestion_control", name));
        if chosen.is_ok() {
            return Ok(name.to_owned());
        }
    }
    Err("no congestion control can be chosen for the namespaces".into())
}

fn forget(file: &Path) -> Result<(), Error> {
    if file.exists() { Ok(std::fs::remove_file(file)?) } else { Ok(()) }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("; ")
}
