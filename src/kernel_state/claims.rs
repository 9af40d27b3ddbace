//! What one gateway alone may have in a network namespace.
//!
//! A claim is a UNIX socket with an abstract name. Such names are a network namespace's own, as its tables and ports are,
//! and vanish with who holds them, however that ends. A lock on a file would not do: two gateways with two directories
//! hold two.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::{Error, Plan};

/// What every claim's name begins with.
const PREFIX: &str = "wstether/";

/// What a gateway claimed, as long as it is held.
#[derive(Debug)]
pub(super) struct Claims {
    _name: UnixDatagram,
}

impl Claims {
    /// Claims what `plan` needs alone, in this thread's network namespace.
    pub(super) fn take(plan: &Plan) -> Result<Self, Error> {
        let taken = |error: io::Error| {
            let is_taken = error.kind() == io::ErrorKind::AddrInUse;
            if is_taken { Error::AlreadyRunning(plan.instance.clone()) } else { Error::Claim(error) }
        };
        Ok(Self { _name: claim(&plan.instance).map_err(taken)? })
    }
}

fn claim(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("{PREFIX}{name}"))?)
}
