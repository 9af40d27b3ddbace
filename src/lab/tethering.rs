//! The programs in their world: a gateway, a client and what joins them, each the real command in its own namespace.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::namespace::{Error as LabError, Namespace};
use super::program::Program;
use super::scratch::Scratch;
use super::world::{self, World};
use crate::cli::{EgressMode, RelayKind};
use crate::credentials::{CredentialError, CredentialStore};
use crate::http::upgrade::PATH;
use crate::io::netlink::Netlink;
use crate::io::netns::Isolation;
use crate::status::{self, Status};

/// Where the gateway accepts WebSockets.
pub const GATEWAY_PORT: u16 = 8080;
/// Where the client serves the phone's page.
pub const PAGE_PORT: u16 = 8088;
/// Where the gateway's figures are, in its namespace.
pub const FIGURES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9321);
/// The TUN device of the gateway, and of the client.
pub const TUN: &str = "wst0";

/// How long a program may take until it serves.
const START_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How much of a log is shown where something went wrong.
const SHOWN_LINES: usize = 20;

/// Why the programs do not do what they should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespaces.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Files and processes.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No credential for the client.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// One ended, or does not come up. The end of its log is there.
    #[error("the {program} {what}; the end of its log:\n{log}")]
    Program {
        /// Which.
        program: String,
        /// What happened.
        what: String,
        /// What it said last.
        log: String,
    },
}

/// What is started where.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The `wstether` binary.
    pub binary: &'a Path,
    /// The machines.
    pub world: &'a World,
    /// Where files go.
    pub scratch: &'a Scratch,
    /// Whether the gateway's WebSockets are encrypted (wss); certificate and trust are up to the arguments.
    pub tls: bool,
}

impl Setting<'_> {
    /// Starts a gateway, which serves when this returns. `more` are arguments beside those that the world needs.
    ///
    /// # Errors
    /// It does not start.
    pub fn gateway(&self, egress: EgressMode, more: &[&str]) -> Result<Program, Error> {
        let resolv_conf = self.scratch.file("gateway.resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {}\n", world::INTERNET))?;
        let (listen, figures) = (format!("0.0.0.0:{GATEWAY_PORT}"), FIGURES.to_string());
        let (directory, credentials) = (self.directory("gateway"), text(&self.credentials()));
        let args = [
            "gateway",
            "--listen",
            &listen,
            "--egress",
            egress.word(),
            "--metrics",
            &figures,
            "--credentials",
            &credentials,
        ];
        let isolation = Isolation { resolv_conf: Some(&resolv_conf), dies_with_parent: true };
        let args = [&args[..], &["--set", &directory], more].concat();
        let mut program = self.start("gateway", &self.world.gateway, isolation, &args)?;
        self.until("does not serve", &mut program, || self.status().is_some_and(|status| status.ready))?;
        Ok(program)
    }

    /// What the gateway says it is doing.
    pub fn status(&self) -> Option<Status> {
        self.world.gateway.run(|| status::fetch(FIGURES)).ok()?.ok()
    }

    /// Makes a credential and returns the file of its token.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn token(&self, name: &str) -> Result<PathBuf, Error> {
        let file = self.scratch.file(&format!("{name}.token"));
        let store = CredentialStore::load(&self.credentials())?;
        store.add(name, crate::gateway::fresh, |token| fs::write(&file, token))?;
        Ok(file)
    }

    /// Starts a client on the laptop. `more` are arguments beside those that the world needs.
    ///
    /// # Errors
    /// It does not start. Whether it gets anywhere is [`Self::connected`]'s to tell.
    pub fn client(&self, relay: RelayKind, token: &Path, more: &[&str]) -> Result<Program, Error> {
        let resolv_conf = self.laptop_resolv_conf();
        fs::write(&resolv_conf, "")?;
        let (directory, token) = (self.directory("client"), text(token));
        let dns = format!("dns.file={}", resolv_conf.display());
        let listen = format!("{}:{PAGE_PORT}", world::LAPTOP);
        let (direct, through_phone) = (self.gateway_url(world::GATEWAY_DIRECT), self.gateway_url(world::GATEWAY));
        let way = match relay {
            RelayKind::Direct => vec!["--direct", &direct],
            RelayKind::Headless | RelayKind::Base64 => vec!["--gateway", &through_phone, "--listen", &listen],
        };
        let args = ["client", "--token-file", &token, "--set", &directory, "--set", &dns];
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        self.start("client", &self.world.laptop, isolation, &[&args[..], &way, more].concat())
    }

    /// Starts the headless relay on the phone; `None` where the client needs none.
    ///
    /// # Errors
    /// It does not start.
    pub fn relay(&self, relay: RelayKind, more: &[&str]) -> Result<Option<Program>, Error> {
        let client = format!("ws://{}:{PAGE_PORT}{PATH}", world::LAPTOP);
        let gateway = self.gateway_url(world::GATEWAY);
        let mut args = vec!["relay", "--client", &client, "--gateway", &gateway];
        match relay {
            RelayKind::Direct => return Ok(None),
            RelayKind::Headless => {}
            RelayKind::Base64 => args.push("--base64"),
        }
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        self.start("relay", &self.world.phone, isolation, &[&args[..], more].concat()).map(Some)
    }

    /// Waits until the laptop's default route leads through the tunnel and its resolver is known.
    ///
    /// # Errors
    /// The client ended, or does not get there.
    pub fn connected(&self, client: &mut Program) -> Result<Ipv4Addr, Error> {
        self.until("does not connect", client, || self.leads_through_tunnel() && self.resolver().is_some())?;
        Ok(self.resolver().unwrap_or(Ipv4Addr::UNSPECIFIED))
    }

    /// Whether the internet is reached through the laptop's tunnel.
    pub fn leads_through_tunnel(&self) -> bool {
        let interface = self.world.laptop.netlink(|netlink: &mut Netlink| {
            let hop = netlink.next_hop(world::INTERNET.into())?;
            netlink.link_by_index(hop.interface)
        });
        interface.is_ok_and(|link| link.name == TUN)
    }

    /// The resolver that the laptop's programs ask.
    pub fn resolver(&self) -> Option<Ipv4Addr> {
        let text = fs::read_to_string(self.laptop_resolv_conf()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok())
    }

    /// The file that the laptop's programs read in place of `/etc/resolv.conf`.
    pub fn laptop_resolv_conf(&self) -> PathBuf {
        self.scratch.file("laptop.resolv.conf")
    }

    /// The gateway's WebSocket at one of its addresses.
    pub fn gateway_url(&self, address: Ipv4Addr) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{address}:{GATEWAY_PORT}{PATH}")
    }

    fn credentials(&self) -> PathBuf {
        self.scratch.file("credentials.toml")
    }

    fn directory(&self, role: &str) -> String {
        format!("runtime.directory={}", self.scratch.file(role).display())
    }

    fn start(
        &self,
        name: &str,
        namespace: &Namespace,
        isolation: Isolation<'_>,
        args: &[&str],
    ) -> Result<Program, Error> {
        let mut command = namespace.command(&text(self.binary), isolation)?;
        command.args(args);
        Ok(Program::start(name, command, self.scratch.file(&format!("{name}.log")))?)
    }

    /// Waits until `done`, as long as the program runs.
    ///
    /// # Errors
    /// It ended, or it took too long.
    pub fn until(&self, late: &str, program: &mut Program, done: impl Fn() -> bool) -> Result<(), Error> {
        let end = Instant::now() + START_MAX;
        while !done() {
            if let Some(status) = program.ended()? {
                return Err(told(program, &format!("ended with {status}")));
            }
            if Instant::now() >= end {
                return Err(told(program, &format!("{late} within {} s", START_MAX.as_secs())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Something that went wrong with a program, with the end of its log.
pub fn told(program: &Program, what: &str) -> Error {
    Error::Program { program: program.name().to_owned(), what: what.to_owned(), log: last_lines(&program.log()) }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
