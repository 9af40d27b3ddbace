//! The straight way: a thread that dials the gateway whenever it is asked to.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tracing::{error, info};

use super::{Connection, Event};
use crate::dial::{DialError, DialSettings, Dialled, TlsClient, TlsClientError, dial};
use crate::http::url::WsUrl;
use crate::stop::Stop;
use crate::transport::TcpOptions;
use crate::wire::frame::{Role, Subprotocol};

/// The thread's handle. The thread ends with it.
#[derive(Debug)]
pub(super) struct Dialler {
    asked: Sender<Duration>,
}

impl Dialler {
    /// A dialler that waits to be asked. `events` hears of each dial's end, unless `stop` came first.
    ///
    /// # Errors
    /// TLS cannot be set up, or `extra_ca` holds no certificates.
    pub(super) fn start(
        gateway: WsUrl,
        extra_ca: Option<&Path>,
        tcp: TcpOptions,
        stop: Stop,
        events: Sender<Event>,
    ) -> Result<Self, TlsClientError> {
        let tls = TlsClient::new(extra_ca)?;
        let (asked, asks) = channel();
        let work = move || work(&gateway, &tls, &tcp, &stop, &asks, &events);
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
) {
    // The resolver may be asked through the tunnel, which a redial is about to bring back: every other attempt goes to
    // where the gateway was.
    let (mut known, mut uses_known) = (None, false);
    for delay in asks {
        match stop.wait(delay) {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => error!(%error, "waiting failed"),
        }
        info!("connecting to {gateway}");
        let addresses = if uses_known { known.as_slice() } else { &[] };
        let settings = DialSettings { stop: Some(stop), tcp: Some(tcp), addresses, ..DialSettings::default() };
        uses_known = !uses_known;
        let event = match dial(gateway, &Subprotocol::ALL, tls, &settings) {
            Ok(Dialled { transport, subprotocol, rest }) => {
                (known, uses_known) = (Some(transport.peer()), true);
                Event::Connected(Box::new(Connection { transport, role: Role::Client, subprotocol, rest }))
            }
            Err(DialError::Stopped) => return,
            Err(error) => Event::NotConnected(error),
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
