//! A network namespace without a name, and veth cables.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use crate::io::ethtool::{self, Offloads};
use crate::io::netlink::{self, Netlink, Prefix, Route};
use crate::io::netns::{self, Isolation};
use crate::io::sysctl;

/// Why the lab could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// By the kernel's networking.
    #[error("namespace {namespace}: {source}")]
    Netlink {
        /// Whose.
        namespace: String,
        /// Why.
        source: netlink::Error,
    },
    /// By another system call.
    #[error("namespace {namespace}: {source}")]
    Io {
        /// Whose.
        namespace: String,
        /// Why.
        source: io::Error,
    },
}

/// An anonymous network namespace. It is gone when the last clone, and the last process or socket in it, is gone.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    fd: Arc<OwnedFd>,
}

impl Namespace {
    /// A new namespace with its loopback up. The name is for messages only.
    ///
    /// # Errors
    /// CAP_SYS_ADMIN is missing.
    pub fn new(name: &str) -> Result<Self, Error> {
        let fd = netns::create().map_err(|source| Error::Io { namespace: name.to_owned(), source })?;
        let namespace = Self { name: name.into(), fd: Arc::new(fd) };
        namespace.netlink(|netlink| netlink.set_up("lo", true))?;
        Ok(namespace)
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a fresh thread inside; `/sys` and `/proc/sys/net` show this namespace there. Sockets that `work`
    /// returns stay inside; threads and processes that it starts are inside, too. A panic is passed on.
    ///
    /// # Errors
    /// The thread could not enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let ran = std::thread::scope(|scope| scope.spawn(|| netns::enter(self.fd.as_fd()).map(|()| work())).join());
        match ran {
            Ok(ran) => ran.map_err(|source| self.io_error(source)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Talks to the kernel about the interfaces inside.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn netlink<T: Send>(
        &self,
        work: impl FnOnce(&mut Netlink) -> Result<T, netlink::Error> + Send,
    ) -> Result<T, Error> {
        let done = self.run(|| work(&mut Netlink::open()?))?;
        done.map_err(|source| Error::Netlink { namespace: self.name.to_string(), source })
    }

    /// A command whose program will run inside.
    ///
    /// # Errors
    /// A path with a zero byte in `isolation`.
    pub fn command(&self, program: &str, isolation: Isolation<'_>) -> Result<Command, Error> {
        let mut command = Command::new(program);
        netns::enter_before_exec(&mut command, Arc::clone(&self.fd), isolation)
            .map_err(|source| self.io_error(source))?;
        Ok(command)
    }

    /// Gives an interface an address and brings it up.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn address(&self, interface: &str, address: Prefix) -> Result<(), Error> {
        self.netlink(|netlink| {
            netlink.add_address(interface, address)?;
            netlink.set_up(interface, true)
        })
    }

    /// Adds a route by a next hop on `interface`.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn route(&self, destination: Prefix, via: IpAddr, interface: &str) -> Result<(), Error> {
        self.netlink(|netlink| {
            let index = netlink.link(interface)?.index;
            // As an administrator's: what is of wstether's own is told by the protocol.
            netlink.replace_route(&Route { protocol: libc::RTPROT_STATIC, ..Route::new(destination, index).via(via) })
        })
    }

    /// Sets a sysctl of the namespace, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// No such sysctl, or a value that it does not take.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), Error> {
        self.run(|| sysctl::write(name, value))?.map_err(|source| self.io_error(io::Error::other(source)))
    }

    /// Switches the offloads of an interface.
    ///
    /// # Errors
    /// No such interface, or a device that cannot.
    pub fn offloads(&self, interface: &str, offloads: Offloads) -> Result<(), Error> {
        self.run(|| ethtool::set_offloads(interface, offloads))?.map_err(|source| self.io_error(source))
    }

    pub(super) fn io_error(&self, source: io::Error) -> Error {
        Error::Io { namespace: self.name.to_string(), source }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A cable between two namespaces: an interface in each, both up.
///
/// # Errors
/// What the kernel refused.
pub fn veth(a: &Namespace, interface_a: &str, b: &Namespace, interface_b: &str) -> Result<(), Error> {
    a.netlink(|netlink| {
        netlink.add_veth(interface_a, interface_b, b.as_fd())?;
        netlink.set_up(interface_a, true)
    })?;
    b.netlink(|netlink| netlink.set_up(interface_b, true))
}
