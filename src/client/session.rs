//! What stays of a client's tether while links come and go.

use std::net::IpAddr;
use std::sync::Arc;

use super::engine::{Engine, EngineError};
use super::handshake::Terms;
use crate::link::Link;

/// The longest message that is taken, whatever the gateway would like to send: it sets the size of read buffers.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) terms: Terms,
    pub(super) mtu_bytes: u16,
    /// The other end of the newest link's connection.
    pub(super) peer: IpAddr,
    /// This machine's network is as the terms ask for.
    pub(super) is_set_up: bool,
    pub(super) engine: Engine,
}

impl Session {
    /// Has a link whose handshake is done carry packets.
    pub(super) fn join(&self, link: &Arc<Link>) -> Result<(), EngineError> {
        let Self { terms, engine, .. } = self;
        let (features, credit) = (terms.welcome.features, Some(terms.welcome.credit_bytes));
        link.opened(Arc::clone(engine.links.tether()), features, message_bytes_max(terms), credit);
        Ok(engine.links.join(link)?)
    }

    /// Whether new terms leave this machine's network as it is.
    pub(super) fn is_same(&self, terms: &Terms, mtu_bytes: u16) -> bool {
        self.is_set_up
            && self.has_same_device(terms)
            && self.mtu_bytes == mtu_bytes
            && self.terms.lease == terms.lease
            && self.terms.routes == terms.routes
            && self.terms.welcome.dns == terms.welcome.dns
    }

    /// Whether the device and the pipeline can serve new terms.
    pub(super) fn has_same_device(&self, terms: &Terms) -> bool {
        self.terms.welcome.features == terms.welcome.features
            && message_bytes_max(&self.terms) >= message_bytes_max(terms)
    }
}

pub(super) fn message_bytes_max(terms: &Terms) -> usize {
    (terms.welcome.message_bytes_max as usize).min(MESSAGE_BYTES_MAX)
}
