//! Simulated tethers against a gateway, for load and overload tests: real WebSockets, credentials and capsules, in an open
//! loop. Packets go through the gateway to a sink, which counts what arrives and is the source of what comes back.
//!
//! ```text
//! load ⇄ WebSockets ⇄ gateway ⇄ UDP ⇄ sink
//! ```
//!
//! Every packet carries the time that it was to be sent. Load and sink have one clock, as two programs of one machine do;
//! on two machines latencies mean nothing, and counts still do.

mod connection;
pub mod figures;
mod generator;
pub mod mix;
mod phases;
mod report;
pub mod schedule;
pub mod sink;
mod talk;
mod tether;

use std::io;
use std::net::{SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::time::Duration;

use crate::client::handshake::HandshakeError;
use crate::http::url::WsUrl;
use crate::stop::Stop;
use crate::wire::token::Token;
use generator::Generator;
use mix::{Mix, MixError};
use phases::Run;
use schedule::Surge;

pub use report::{Connecting, Report, Tethers, Way, Window};

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the tethers.
    Up,
    /// To the tethers.
    Down,
    /// Both.
    Both,
}

/// What is asked of a load.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's WebSocket.
    pub gateway: WsUrl,
    /// The credential of every tether.
    pub token: Token,
    /// How many there are.
    pub tethers: u32,
    /// Of which kinds.
    pub mix: Mix,
    /// Which way packets go.
    pub direction: Direction,
    /// Packets a second, of each tether.
    pub rate_pps: f64,
    /// Length of a packet, from the IP header on, in bytes.
    pub size_bytes: u16,
    /// The same for bulk flows.
    pub bulk_bytes: u16,
    /// How many times the rate a hog has.
    pub hog_factor: f64,
    /// More load for a while.
    pub surge: Option<Surge>,
    /// How long packets are offered.
    pub lasts: Duration,
    /// How long what is under way then may take to arrive.
    pub drain: Duration,
    /// How long the tethers may take to be welcomed.
    pub connect_max: Duration,
    /// The sink, as the internet sees it.
    pub sink: SocketAddrV4,
    /// Whether the report has each tether's own figure.
    pub each: bool,
    /// Whether the report has the course over time.
    pub windows: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mix and the number of tethers.
    #[error("{0}")]
    Mix(#[from] MixError),
    /// The URL is one of TLS.
    #[error("the load speaks plain WebSockets alone: give a ws:// URL, of the gateway behind whatever does TLS for it")]
    Tls,
    /// The gateway's name has no address.
    #[error("{host} has no address: check the name in --gateway, and this machine's DNS")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// Nothing came from the gateway, to any tether.
    #[error("cannot reach {gateway} ({address}): {why}; does the gateway run there, and is --gateway right?")]
    Unreachable {
        /// As it was given.
        gateway: WsUrl,
        /// What was dialled.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// The gateway lets nobody in, now and later.
    #[error("{0}")]
    Refused(HandshakeError),
    /// Not one tether got in.
    #[error("the gateway welcomed nobody ({why}); check --gateway and --token, and the gateway's log")]
    NobodyWelcomed {
        /// The words for what happened.
        why: String,
    },
    /// Those that got in are all lost again.
    #[error("every tether was lost while the load ran ({why}); does the gateway still run? Its log says why")]
    AllLost {
        /// The words for what happened.
        why: String,
    },
    /// The sink does not answer.
    #[error(
        "no answer from the sink at {sink} through the gateway; does \"wstether load sink\" run there, and may clients \
         reach it (policy.allow)?"
    )]
    NoSink {
        /// Where it should be.
        sink: SocketAddrV4,
    },
    /// The word to stop came.
    #[error("stopped before the end")]
    Stopped,
    /// Sockets.
    #[error("{0}; does \"ulimit -n\" allow a file for each tether, and some more?")]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether what was typed can be no load.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Mix(_) | Self::Tls)
    }
}

/// Runs a load to its end.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options, stop: &Stop) -> Result<Report, Error> {
    let kinds = options.mix.kinds(options.tethers)?;
    if options.gateway.tls {
        return Err(Error::Tls);
    }
    let gateway = resolve(&options.gateway)?;
    let run = getrandom::u32().map_err(io::Error::other)?;
    Run::new(Generator::new(options, gateway, &kinds, run)?, options, stop).go()
}

fn resolve(url: &WsUrl) -> Result<SocketAddr, Error> {
    let addresses = (url.host.as_str(), url.port).to_socket_addrs();
    let address = addresses.ok().and_then(|mut addresses| addresses.next());
    address.ok_or_else(|| Error::NoAddress { host: url.host.clone() })
}
