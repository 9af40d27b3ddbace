//! `wstether relay`: what the phone's page does, without a browser.
//!
//! It opens both WebSockets, the laptop's first, and passes each message on, whole and in order. It knows nothing of what
//! the messages hold. What waits in it is bounded: a side that takes no more has the other side left unread.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::dial::{self, DialError, DialSettings, TlsClient, dial};
use crate::http::upgrade::UpgradeError;
use crate::http::url::WsUrl;
use crate::relay::ended::Ended;
use crate::stop::Stop;
use crate::transport::TcpOptions;
use crate::wire::frame::Subprotocol;
use crate::wire::frame::close_code::GOING_AWAY;

mod half;
mod redial;
mod session;

pub use half::PENDING_BYTES_MAX;
use redial::Backoff;
use session::Session;

/// A connection that lived for so long was a good one: what follows is a new trouble, not the old one.
const STEADY: Duration = Duration::from_secs(10);

/// What a relay joins, and how.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// The laptop's WebSocket.
    pub client: WsUrl,
    /// The gateway's WebSocket.
    pub gateway: WsUrl,
    /// Messages are base64 text.
    pub base64: bool,
    /// Ends with the first pair of connections, or where there is none.
    pub once: bool,
    /// Whom to trust.
    pub tls: TlsClient,
    /// How TCP is to send, both ways.
    pub tcp: TcpOptions,
}

/// What was passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the laptop to the gateway.
    pub up: Way,
    /// From the gateway to the laptop.
    pub down: Way,
    /// The most bytes that ever waited for one side; never above [`PENDING_BYTES_MAX`].
    pub pending_bytes_max: usize,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Messages.
    pub messages: u64,
    /// Their bytes, before base64.
    pub bytes: u64,
}

impl Way {
    fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.up.add(other.up);
        self.down.add(other.down);
        self.pending_bytes_max = self.pending_bytes_max.max(other.pending_bytes_max);
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { up, down, .. } = self;
        write!(f, "{} bytes up in {} messages, {} bytes down in {}", up.bytes, up.messages, down.bytes, down.messages)
    }
}

/// The two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The laptop.
    Client,
    /// The gateway.
    Gateway,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Client, Self::Gateway];

    fn other(self) -> Self {
        match self {
            Self::Client => Self::Gateway,
            Self::Gateway => Self::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client",
            Self::Gateway => "the gateway",
        })
    }
}

/// Why a relay could not join its two sides.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// One side cannot be reached.
    #[error("cannot reach {side}: {source}")]
    Dial {
        /// Which.
        side: Side,
        /// Why.
        source: DialError,
    },
    /// A newer link has the place of this one.
    #[error("another page or relay has taken over; one is enough: start this one again to take over from it")]
    Replaced,
    /// The sockets cannot be as was asked.
    #[error("{0}")]
    Sockets(#[source] DialError),
    /// The kernel gives no poll or socket.
    #[error("cannot wait for connections: {0}")]
    Kernel(#[from] io::Error),
}

/// Joins the two sides, again and again, until the word to stop is given; with `once` a single time.
///
/// # Errors
/// [`RelayError`]; only with `once`, or where another relay has taken over, or the kernel gives no descriptor or has no such
/// congestion control.
pub fn run(settings: &RelaySettings, stop: &Stop) -> Result<Traffic, RelayError> {
    // Told at once: another try would end the same way.
    dial::check(&settings.tcp).map_err(RelayError::Sockets)?;
    let mut total = Traffic::default();
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        let ended = join(settings, stop, &mut total);
        if stop.is_triggered() {
            return Ok(total);
        }
        if settings.once {
            return ended.map(|()| total);
        }
        let delay = match ended {
            Ok(()) => {
                if begun.elapsed() > STEADY {
                    backoff = Backoff::default();
                }
                backoff.next(None)
            }
            Err(RelayError::Dial { side, source }) => {
                let delay = backoff.next(source.retry_after());
                tracing::warn!("cannot reach {side}, next attempt in {:.1} s: {source}", delay.as_secs_f32());
                delay
            }
            Err(error) => return Err(error),
        };
        stop.wait(delay)?;
    }
}

/// Dials both sides and passes messages until one ends.
fn join(settings: &RelaySettings, stop: &Stop, total: &mut Traffic) -> Result<(), RelayError> {
    let subprotocol = if settings.base64 { Subprotocol::Base64 } else { Subprotocol::Binary };
    let dial_settings = DialSettings { stop: Some(stop), tcp: Some(&settings.tcp), ..DialSettings::default() };
    let reach = |url, side| {
        dial(url, &[subprotocol], &settings.tls, &dial_settings).map_err(|source| RelayError::Dial { side, source })
    };
    let client = reach(&settings.client, Side::Client)?;
    let gateway = match reach(&settings.gateway, Side::Gateway) {
        Ok(gateway) => gateway,
        Err(error) => {
            session::send_away(client, code(&error), &error.to_string());
            return Err(error);
        }
    };
    tracing::info!("connected: {} to {}", settings.client, settings.gateway);
    let (parted, traffic) = Session::new(client, gateway, stop)?.run();
    total.add(traffic);
    tracing::info!("closed: {parted}; {traffic}");
    if parted.is_replaced() { Err(RelayError::Replaced) } else { Ok(()) }
}

/// What the client's WebSocket is closed with where the gateway cannot be reached.
fn code(error: &RelayError) -> u16 {
    match error {
        RelayError::Dial { source: DialError::Stopped, .. } => GOING_AWAY,
        RelayError::Dial { source: DialError::NotWstether { source: UpgradeError::Subprotocol, .. }, .. } => {
            Ended::Subprotocol.code()
        }
        RelayError::Dial { .. } | RelayError::Replaced | RelayError::Sockets(_) | RelayError::Kernel(_) => {
            Ended::GatewayUnreachable.code()
        }
    }
}
