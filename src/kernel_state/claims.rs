//! What one gateway alone may have in a network namespace: its name, which its nftables table bears, and the ports of its
//! external addresses.
//!
//! A claim is a UNIX socket with an abstract name. Such names are a network namespace's own, as its tables and ports are,
//! and vanish with who holds them, however that ends. A lock on a file would not do: two gateways with two directories
//! hold two.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::{Egress, Error, Plan};

/// What every claim's name begins with; the gateway's name follows.
const PREFIX: &str = "wstether/";

/// Every UNIX socket of this thread's network namespace, a line each; of an abstract name the first byte is an `@`.
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// What a gateway claimed, as long as it is held.
#[derive(Debug)]
pub(super) struct Claims {
    _sockets: Vec<UnixDatagram>,
}

/// Ports of an external address.
#[derive(Debug, PartialEq, Eq)]
struct Ports {
    address: IpAddr,
    ports: RangeInclusive<u16>,
}

impl Claims {
    /// Claims what `plan` needs alone, in this thread's network namespace.
    pub(super) fn take(plan: &Plan) -> Result<Self, Error> {
        let name = &plan.instance;
        let mut sockets = vec![claim(name).map_err(|error| {
            let is_taken = error.kind() == io::ErrorKind::AddrInUse;
            if is_taken { Error::AlreadyRunning(name.clone()) } else { Error::Claim(error) }
        })?];
        let ours = Ports::of(&plan.egress);
        for ports in &ours {
            sockets.push(claim(&format!("{name}/{}", ports.claim())).map_err(Error::Claim)?);
        }
        // Looked for once ours stand: of two that start at once, one at least sees the other.
        for (other, theirs) in Ports::claimed().map_err(Error::Claim)? {
            if other != *name && ours.iter().any(|ours| ours.overlap(&theirs)) {
                return Err(Error::PortsTaken { other, ports: theirs.to_string() });
            }
        }
        Ok(Self { _sockets: sockets })
    }
}

impl Ports {
    /// Those by which tethers appear on the internet. What is routed to a TUN is that one's alone.
    fn of(egress: &Egress) -> Vec<Self> {
        match egress {
            Egress::Raw { addresses, ports } => {
                addresses.iter().map(|&address| Self { address: address.into(), ports: ports.clone() }).collect()
            }
            Egress::Tun { routes, .. } => {
                routes.iter().map(|route| Self { address: route.address, ports: 0..=u16::MAX }).collect()
            }
        }
    }

    /// All that gateways claimed, with their names.
    fn claimed() -> io::Result<Vec<(String, Self)>> {
        // Other programs' names need not be text.
        let sockets = fs::read(SOCKETS)?;
        let sockets = String::from_utf8_lossy(&sockets);
        let claimed = |line: &str| {
            let (_, claim) = line.split_once(&format!(" @{PREFIX}"))?;
            let (name, ports) = claim.split_once('/')?;
            Some((name.to_owned(), Self::claimed_as(ports)?))
        };
        Ok(sockets.lines().filter_map(claimed).collect())
    }

    fn claim(&self) -> String {
        format!("{}/{}-{}", self.address, self.ports.start(), self.ports.end())
    }

    fn claimed_as(claim: &str) -> Option<Self> {
        let (address, ports) = claim.split_once('/')?;
        let (first, last) = ports.split_once('-')?;
        Some(Self { address: address.parse().ok()?, ports: first.parse().ok()?..=last.parse().ok()? })
    }

    fn overlap(&self, other: &Self) -> bool {
        self.address == other.address
            && self.ports.start() <= other.ports.end()
            && other.ports.start() <= self.ports.end()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the ports {}-{} of {}", self.ports.start(), self.ports.end(), self.address)
    }
}

fn claim(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("{PREFIX}{name}"))?)
}
