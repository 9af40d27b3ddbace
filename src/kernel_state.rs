//! All that a gateway sets up in the kernel, in one place: reserved ports, its nftables table, sysctls, the TUN with its
//! address and routes.
//!
//! A start *adopts* what an earlier run left and repairs it, with no moment without it; a clean stop undoes all. What
//! stood before is remembered in a file, so that a start after a crash can still go back to it.

mod claims;
mod memory;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::io::listeners::{self, Listener};
use crate::io::netlink::{self, Netlink, PROTOCOL_WSTETHER, Prefix, Route};
use crate::io::nft::{self, Rules, Table};
use crate::io::sysctl;
use crate::io::tun::{Features, Tun};
use claims::Claims;
use memory::{Memory, Reserved, TunMemory};

/// Where the memory of what stood before is kept by default: gone after a reboot, like what it remembers.
pub const STATE_DIR: &str = "/run/wstether";

const IP_FORWARD: &str = "net.ipv4.ip_forward";

/// What the gateway needs of the kernel.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tells several gateways on one host apart: letters, digits, `-` and `_`.
    pub instance: String,
    /// Where to remember what stood before ([`STATE_DIR`]).
    pub state_dir: PathBuf,
    /// The way out.
    pub egress: Egress,
}

/// The way out, as far as the kernel has to be told of it.
#[derive(Clone, Debug)]
pub enum Egress {
    /// Packet sockets: ports of ours that the kernel leaves alone.
    Raw {
        /// The external addresses.
        addresses: Vec<Ipv4Addr>,
        /// Our ports.
        ports: RangeInclusive<u16>,
    },
    /// A TUN, and the kernel routes.
    Tun {
        /// Its name.
        name: String,
        /// The gateway's address on it, with the length of its network.
        address: Prefix,
        /// Its MTU in bytes.
        mtu: u32,
        /// What is routed to it beside the network of `address`: external addresses that the gateway translates to.
        routes: Vec<Prefix>,
        /// Source addresses that may come out of it; all others are dropped.
        pool: Prefix,
        /// The interface on which the kernel masquerades the pool; without one it translates nothing.
        masquerade: Option<String>,
        /// Super-packets and partial checksums.
        vnet_hdr: bool,
    },
}

/// Why the kernel could not be set up, or put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The nftables table.
    #[error(transparent)]
    Nft(#[from] nft::Error),
    /// A sysctl.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// The TUN.
    #[error("{0}")]
    Tun(io::Error),
    /// The memory of what stood before.
    #[error("state file {path}: {source}")]
    StateFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The memory of what stood before is not one of ours. What it remembers must not be overwritten.
    #[error(
        "state file {path}: cannot be read ({source}); remove it once \"nft list tables\", \"sysctl net.ipv4.ip_forward \
         net.ipv4.ip_local_reserved_ports\" and \"ip link\" show what they should without a gateway"
    )]
    StateUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another gateway in this network namespace has the name.
    #[error("a gateway named {0:?} runs here already: stop it, or give this one another gateway.name")]
    AlreadyRunning(String),
    /// Another gateway, in another network namespace, remembers in the same file.
    #[error("another gateway holds {}: give this one another gateway.name or runtime.directory", .0.display())]
    StateInUse(PathBuf),
    /// Another gateway in this network namespace translates to the same ports.
    #[error("the gateway {other:?} here has {ports}: give this one other egress.ports or egress.addresses")]
    PortsTaken {
        /// Its name.
        other: String,
        /// What it has of an address.
        ports: String,
    },
    /// What one gateway alone may have could not be asked for.
    #[error("claiming the gateway's name and ports: {0}")]
    Claim(io::Error),
    /// An instance name that could be more than a name.
    #[error("{0:?} is no instance name: letters, digits, - and _ only")]
    BadInstance(String),
}

/// What is set up. Dropping it undoes nothing, like a crash; [`KernelState::undo`] does.
#[derive(Debug)]
pub struct KernelState {
    memory: Memory,
    path: PathBuf,
    tun: Option<Arc<Tun>>,
    listeners: Vec<Listener>,
    /// For the file. The claims are for what is the network namespace's.
    _lock: File,
    _claims: Claims,
}

impl KernelState {
    /// Sets up what `plan` says, over whatever an earlier run of the instance left, in this thread's network namespace.
    /// What fails half-way is undone.
    ///
    /// # Errors
    /// The first thing that could not be done. CAP_NET_ADMIN is needed throughout.
    pub fn adopt(plan: &Plan) -> Result<Self, Error> {
        let path = state_path(plan)?;
        let claims = Claims::take(plan)?;
        let lock = lock(&path)?;
        let memory = Memory::load(&path)?;
        let mut state = Self { memory, path, tun: None, listeners: Vec::new(), _lock: lock, _claims: claims };
        match state.apply(plan) {
            Ok(()) => Ok(state),
            Err(error) => {
                // The first error is the one to tell.
                drop(state.undo());
                Err(error)
            }
        }
    }

    /// The TUN, where there is one.
    pub fn tun(&self) -> Option<&Arc<Tun>> {
        self.tun.as_ref()
    }

    /// Programs that listened in our port range at the start: they will receive nothing, and are to be warned of.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Puts everything back as it stood before the first start, and forgets it. All is tried, whatever fails.
    ///
    /// # Errors
    /// The first thing that could not be undone; the state file then stays for the next start.
    pub fn undo(mut self) -> Result<(), Error> {
        // Forwarding ends before the guards go.
        let undone =
            [self.memory.undo_sysctls(), self.undo_tun(), self.memory.undo_table(), self.memory.undo_reserved()];
        undone.into_iter().collect::<Result<(), Error>>()?;
        Memory::forget(&self.path)
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        let table = table(plan);
        self.memory.table = Some(table.name.clone());
        match &plan.egress {
            Egress::Raw { ports, .. } => {
                self.undo_tun()?;
                self.memory.undo_sysctls()?;
                self.reserve(ports)?;
                table.install()?;
                // Who cannot be asked for is not warned of.
                self.listeners = listeners::within(ports).unwrap_or_default();
            }
            Egress::Tun { name, vnet_hdr, .. } => {
                self.memory.undo_reserved()?;
                self.open_tun(name, *vnet_hdr)?;
                self.memory.remember_sysctl(IP_FORWARD)?;
                self.memory.save(&self.path)?;
                // The guards stand before the first packet can be forwarded.
                table.install()?;
                set_up_tun(&plan.egress)?;
                sysctl::write(IP_FORWARD, "1")?;
            }
        }
        Ok(())
    }

    /// Reserves our ports; a range of an earlier run that was another is given back.
    fn reserve(&mut self, ports: &RangeInclusive<u16>) -> Result<(), Error> {
        if self.memory.reserved.as_ref().is_some_and(|reserved| reserved.ports() != *ports) {
            self.memory.undo_reserved()?;
        }
        let now = sysctl::read(sysctl::RESERVED_PORTS)?;
        if self.memory.reserved.is_none() {
            self.memory.reserved = Some(Reserved::new(now.clone(), ports));
        }
        self.memory.save(&self.path)?;
        let with_ours = sysctl::PortSet::parse(&now).with(ports).to_string();
        if with_ours != now {
            sysctl::write(sysctl::RESERVED_PORTS, &with_ours)?;
        }
        Ok(())
    }

    fn open_tun(&mut self, name: &str, vnet_hdr: bool) -> Result<(), Error> {
        if self.memory.tun.as_ref().is_some_and(|tun| tun.name != name) {
            self.undo_tun()?;
        }
        if self.memory.tun.is_none() {
            // One that somebody else made is used, and left when we go.
            let ours = Netlink::open()?.link(name).is_err();
            self.memory.tun = Some(TunMemory { name: name.to_owned(), ours });
        }
        self.memory.save(&self.path)?;
        let tun = Tun::open(name, Features { vnet_hdr, persistent: true }).map_err(Error::Tun)?;
        self.tun = Some(Arc::new(tun));
        Ok(())
    }

    /// Lets a TUN of ours vanish, with its address and routes, as soon as nobody holds it any more.
    fn undo_tun(&mut self) -> Result<(), Error> {
        let open = self.tun.take();
        let Some(memory) = self.memory.tun.take().filter(|tun| tun.ours) else { return Ok(()) };
        let done = match open {
            Some(tun) => match tun.set_persistent(false) {
                // Somebody has deleted it.
                Err(error) if Tun::is_gone(&error) => Ok(()),
                done => done.map_err(Error::Tun),
            },
            None => Netlink::open().and_then(|mut netlink| netlink.delete_link(&memory.name)).map_err(Error::Netlink),
        };
        match done {
            // It is gone already: that is what was wanted.
            Err(Error::Netlink(netlink::Error::NoInterface { .. })) => Ok(()),
            done => done,
        }
    }
}

fn table(plan: &Plan) -> Table {
    let rules = match &plan.egress {
        Egress::Raw { addresses, ports } => Rules::Raw { addresses: addresses.clone(), ports: ports.clone() },
        Egress::Tun { name, pool, masquerade, .. } => {
            Rules::Tun { tun: name.clone(), pool: *pool, masquerade: masquerade.clone() }
        }
    };
    Table { name: format!("wstether-{}", plan.instance), rules }
}

/// Address, MTU and routes, as the plan has them; routes of an earlier run that it has not go.
fn set_up_tun(egress: &Egress) -> Result<(), Error> {
    let Egress::Tun { name, address, mtu, routes, .. } = egress else { return Ok(()) };
    no_link_local(name)?;
    let mut netlink = Netlink::open()?;
    netlink.set_mtu(name, *mtu)?;
    netlink.replace_addresses(name, &[*address])?;
    netlink.set_up(name, true)?;
    let index = netlink.link(name)?.index;
    let wanted: Vec<Route> = routes.iter().map(|&destination| Route::new(destination, index)).collect();
    for route in &wanted {
        netlink.replace_route(route)?;
    }
    let ours = |route: &Route| route.interface == Some(index) && route.protocol == PROTOCOL_WSTETHER;
    for stale in netlink.routes(true)?.iter().filter(|route| ours(route) && !wanted.contains(route)) {
        netlink.delete_route(stale)?;
    }
    Ok(())
}

/// Without a link-local address the kernel sends no router solicitations out of the TUN.
fn no_link_local(tun: &str) -> Result<(), Error> {
    /// IN6_ADDR_GEN_MODE_NONE (linux/if_link.h).
    const NO_ADDRESS: &str = "1";
    let name = format!("net/ipv6/conf/{tun}/addr_gen_mode");
    // A kernel without IPv6 has nothing to be told.
    if sysctl::read(&name).is_ok() { Ok(sysctl::write(&name, NO_ADDRESS)?) } else { Ok(()) }
}

fn state_path(plan: &Plan) -> Result<PathBuf, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if plan.instance.is_empty() || !plan.instance.bytes().all(plain) {
        return Err(Error::BadInstance(plan.instance.clone()));
    }
    let path = plan.state_dir.join(format!("{}.json", plan.instance));
    std::fs::create_dir_all(&plan.state_dir).map_err(|source| Error::StateFile { path: path.clone(), source })?;
    Ok(path)
}

fn lock(state: &Path) -> Result<File, Error> {
    let path = state.with_extension("lock");
    let failed = |source| Error::StateFile { path: path.clone(), source };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::StateInUse(path)),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}
