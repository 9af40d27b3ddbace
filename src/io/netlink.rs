//! A small blocking rtnetlink client (RFC 3549): links, addresses, routes and neighbours, for whoever sets up an
//! interface. It works in the network namespace of the thread that opens it.

mod addresses;
mod links;
mod monitor;
mod neighbours;
mod routes;

use std::fmt;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use links::Link;
pub use monitor::{Change, Monitor};
pub use neighbours::Neighbour;
pub use routes::{MAIN_TABLE, NextHop, PROTOCOL_WSTETHER, Route};

/// Larger than any datagram of a dump, which the kernel keeps below 32 KiB.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Why a request failed, with what was tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{action}: {source}{}", hint(source))]
    Refused {
        /// What was tried, such as "adding address 10.0.0.1/24 to wst0".
        action: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("{action}: there is no interface {interface}")]
    NoInterface {
        /// What was tried.
        action: String,
        /// The name or index looked for.
        interface: String,
    },
    /// The kernel's answer could not be read.
    #[error("{action}: unreadable answer of the kernel: {reason}")]
    Malformed {
        /// What was tried.
        action: String,
        /// What was wrong.
        reason: String,
    },
}

impl Error {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::NoInterface { .. } => Some(libc::ENODEV),
            Self::Malformed { .. } => None,
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied { " (CAP_NET_ADMIN is missing)" } else { "" }
}

/// An address with its prefix length, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address, with or without host bits.
    pub address: IpAddr,
    /// The prefix length in bits.
    pub bits: u8,
}

impl Prefix {
    /// A prefix of `bits` bits.
    pub const fn new(address: IpAddr, bits: u8) -> Self {
        Self { address, bits }
    }

    /// The whole of IPv4: a default route's destination.
    pub const ALL_V4: Self = Self { address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), bits: 0 };
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// What is wrong with the text of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a prefix length, such as 10.64.0.0/10")]
pub struct NotAPrefix;

impl std::str::FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let (address, bits) = text.split_once('/').ok_or(NotAPrefix)?;
        let address: IpAddr = address.parse().map_err(|_| NotAPrefix)?;
        let bits = bits.parse().map_err(|_| NotAPrefix)?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, bits }).ok_or(NotAPrefix)
    }
}

/// One conversation with the kernel.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens a conversation in this thread's network namespace.
    ///
    /// # Errors
    /// No descriptor left, or no netlink in this kernel.
    pub fn open() -> Result<Self, Error> {
        let refused = |source| Error::Refused { action: "opening a netlink socket".to_owned(), source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(refused)?;
        socket.bind_auto().map_err(refused)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(refused)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for a change, and waits until the kernel has acknowledged it.
    fn change(&mut self, action: &str, flags: u16, message: RouteNetlinkMessage) -> Result<(), Error> {
        self.converse(action, NLM_F_ACK | flags, message).map(drop)
    }

    /// Asks for everything of a kind.
    fn dump(&mut self, action: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.converse(action, NLM_F_DUMP, message)
    }

    /// Asks for one thing.
    fn get(&mut self, action: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.converse(action, NLM_F_ACK, message)
    }

    fn converse(
        &mut self,
        action: &str,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let refused = |source| Error::Refused { action: action.to_owned(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(refused)?;
        let mut answers = Vec::new();
        loop {
            let datagram = receive(&self.socket).map_err(refused)?;
            for answer in Messages(&datagram) {
                let (header, payload) = answer.map_err(|reason| malformed(action, reason))?.into_parts();
                if header.sequence_number != self.sequence {
                    continue;
                }
                if let NetlinkPayload::InnerMessage(message) = payload {
                    answers.push(message);
                } else if let NetlinkPayload::Error(error) = payload {
                    // The acknowledgement has the form of an error without a code.
                    return if error.code.is_none() { Ok(answers) } else { Err(refused(error.to_io())) };
                } else if let NetlinkPayload::Done(_) = payload {
                    return Ok(answers);
                }
            }
        }
    }
}

fn malformed(action: &str, reason: impl fmt::Display) -> Error {
    Error::Malformed { action: action.to_owned(), reason: reason.to_string() }
}

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES_MAX);
    loop {
        match socket.recv(&mut datagram, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.map(|_| datagram),
        }
    }
}

/// The messages of a datagram, one after the other. It ends after the first that cannot be read.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = Result<NetlinkMessage<RouteNetlinkMessage>, netlink_packet_core::DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        /// Messages start at multiples of this (NLMSG_ALIGNTO).
        const ALIGNMENT: usize = 4;
        let bytes = self.0;
        if bytes.is_empty() {
            return None;
        }
        let len = bytes.first_chunk::<4>().map_or(0, |len| u32::from_ne_bytes(*len) as usize);
        self.0 = if len == 0 { &[] } else { bytes.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default() };
        Some(NetlinkMessage::deserialize(bytes))
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
