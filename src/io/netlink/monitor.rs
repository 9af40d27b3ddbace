//! What changes in links, addresses, routes, rules and neighbours, as it changes.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::neighbours::new_neighbour;
use super::{DATAGRAM_BYTES_MAX, Error, Messages, Neighbour};

/// The groups that this listens to (RTNLGRP_*, linux/rtnetlink.h).
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 27];

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A neighbour's entry is now so.
    Neighbour(Neighbour),
    /// A link, an address, a route or a rule changed: whoever remembers something about them asks again.
    Routing,
    /// Notifications were lost, whatever they were about: whoever remembers neighbours asks again. [`Change::Routing`] comes
    /// with it, for it may have been among them.
    Lost,
}

/// A non-blocking source of changes; its descriptor can be polled.
pub struct Monitor {
    socket: Socket,
    /// What is read to, kept: somebody looks before each batch that is sent.
    datagram: Vec<u8>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Monitor").field(&self.socket.as_raw_fd()).finish()
    }
}

impl Monitor {
    /// Starts to listen in this thread's network namespace.
    ///
    /// # Errors
    /// No descriptor left, or no netlink in this kernel.
    pub fn open() -> Result<Self, Error> {
        let listen = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            GROUPS.iter().try_for_each(|&group| socket.add_membership(group))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        listen()
            .map(|socket| Self { socket, datagram: Vec::with_capacity(DATAGRAM_BYTES_MAX) })
            .map_err(|source| Error::Refused { action: "listening to routing changes".to_owned(), source })
    }

    /// Calls `each` for every change since the last call.
    pub fn drain(&mut self, mut each: impl FnMut(Change)) {
        let Self { socket, datagram } = self;
        loop {
            datagram.clear();
            match socket.recv(datagram, 0) {
                Ok(_) => Messages(datagram).for_each(|message| match message {
                    Ok(message) => change(message).into_iter().for_each(&mut each),
                    // Nobody knows what it was about.
                    Err(_) => LOST.into_iter().for_each(&mut each),
                }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: the kernel had to drop notifications.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => LOST.into_iter().for_each(&mut each),
                Err(_) => return,
            }
        }
    }
}

/// What is told of notifications that were not received.
const LOST: [Change; 2] = [Change::Lost, Change::Routing];

fn change(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Change> {
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    if matches!(message, RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_)) {
        return new_neighbour(message).map(Change::Neighbour);
    }
    Some(Change::Routing)
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
