//! The straight way: a thread that dials the gateway whenever it is asked to.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::slice;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tracing::{error, info};

use super::{Connection, Event};
use crate::dial::{DialError, DialSettings, Dialled, During, TlsClient, TlsClientError, dial};
use crate::http::url::WsUrl;
use crate::stop::Stop;
use crate::transport::TcpOptions;
use crate::wire::frame::{Role, Subprotocol};

/// How long the gateway's name is asked for where an address of it is known. As a rule it is asked through the tunnel, which
/// is down: there will be no answer. Where one can come, it does so within a few round trips.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The thread's handle. The thread ends with it.
#[derive(Debug)]
pub(super) struct Dialler {
    asked: Sender<Duration>,
}

impl Dialler {
    /// A dialler that waits to be asked. `arrived` is given each connection, on this thread, and `events` hears of each dial
    /// that failed, unless `stop` came first.
    ///
    /// # Errors
    /// TLS cannot be set up, or `extra_ca` holds no certificates.
    pub(super) fn start(
        gateway: WsUrl,
        extra_ca: Option<&Path>,
        tcp: TcpOptions,
        stop: Stop,
        events: Sender<Event>,
        arrived: impl Fn(Connection) + Send + 'static,
    ) -> Result<Self, TlsClientError> {
        let tls = TlsClient::new(extra_ca)?;
        let (asked, asks) = channel();
        let work = move || work(&gateway, &tls, &tcp, &stop, &asks, &events, &arrived);
        if let Err(error) = std::thread::Builder::new().name("dial".to_owned()).spawn(work) {
            error!(%error, "the dialling thread cannot be started");
        }
        Ok(Self { asked })
    }

    /// Asks for a connection, to be dialled after `delay`.
    pub(super) fn dial_after(&self, delay: Duration) {
        if self.asked.send(delay).is_err() {
            error!("the dialling thread has ended");
        }
    }
}

fn work(
    gateway: &WsUrl,
    tls: &TlsClient,
    tcp: &TcpOptions,
    stop: &Stop,
    asks: &Receiver<Duration>,
    events: &Sender<Event>,
    arrived: &impl Fn(Connection),
) {
    let mut known = None;
    for delay in asks {
        match stop.wait(delay) {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => error!(%error, "waiting failed"),
        }
        info!("connecting to {gateway}");
        let settings = DialSettings { stop: Some(stop), tcp: Some(tcp), ..DialSettings::default() };
        match dial_again(gateway, tls, settings, known.as_ref()) {
            Ok(Dialled { transport, subprotocol, rest }) => {
                known = Some(transport.peer());
                arrived(Connection { transport, role: Role::Client, subprotocol, rest });
            }
            Err(DialError::Stopped) => return,
            Err(error) => {
                if events.send(Event::NotConnected(error)).is_err() {
                    return;
                }
            }
        }
    }
}

/// Dials where the gateway was last, and then where its name leads.
fn dial_again(
    gateway: &WsUrl,
    tls: &TlsClient,
    settings: DialSettings<'_>,
    known: Option<&SocketAddr>,
) -> Result<Dialled, DialError> {
    let dial = |settings: DialSettings<'_>| dial(gateway, &Subprotocol::ALL, tls, &settings);
    let is_named = gateway.host.parse::<IpAddr>().is_err();
    let Some(known) = known.filter(|_| is_named) else { return dial(settings) };
    let error = match dial(DialSettings { addresses: slice::from_ref(known), ..settings }) {
        Err(error) if !matches!(error, DialError::Stopped | DialError::Busy { .. }) => error,
        dialled => return dialled,
    };
    match dial(DialSettings { resolve_timeout: RESOLVE_TIMEOUT, ..settings }) {
        // That a tunnel which is down brings no answer is no news.
        Err(DialError::Resolve { .. } | DialError::TimedOut { during: During::Resolve }) => Err(error),
        dialled => dialled,
    }
}
