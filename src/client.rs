//! The client: a laptop's end of a tether. It reaches the gateway through a phone's page or straight, sets up the TUN
//! device, routes and DNS once the gateway answers, keeps them while links come and go, and undoes all of it.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::config::Role as _;
use crate::config::client::{Client as Config, Via};
use crate::config::values::Auto;
use crate::dial::{self, DialError, TlsClientError};
use crate::http::url::WsUrl;
use crate::io::tun::Tun;
use crate::link::Link;
use crate::metrics::{Egress, GatewayMetrics, Metrics};
use crate::metrics_server::MetricsServer;
use crate::offload::SuperPackets;
use crate::stop::Stop;
use crate::table::Table;
use crate::transport::{TcpOptions, Transport};
use crate::wire::capsule::Features;
use crate::wire::frame::{Role, Subprotocol};
use crate::wire::token::Token;

mod address;
mod backoff;
mod direct;
pub mod dns;
pub mod engine;
pub mod handshake;
mod linger;
pub mod links;
pub mod network;
mod opening;
pub mod phone;
mod qr;
pub mod routes;
mod session;
mod stall;
pub mod state;

use backoff::Backoff;
use direct::Dialler;
use engine::{Engine, EngineError, StageFigures, Surroundings};
use handshake::{Offer, Terms};
use links::LINKS_MAX;
use network::{Network, NetworkError};
use opening::{Opened, Opener, OpeningError};
use phone::{PageServer, PhoneError};
use session::{Session, message_bytes_max};
use stall::{STALLED, Stall, Turn};

/// How often the client looks after what sends it no event: silence, this machine's network, and the word to stop.
const TICK: Duration = Duration::from_millis(100);

/// How soon again the device gets back what it has lost: where another program takes it away each time, the two would go on
/// ten times a second.
const MEND_EVERY: Duration = Duration::from_secs(1);

/// What a client is made of, beside its configuration.
#[derive(Debug)]
pub struct Identity {
    /// Whose it is.
    pub token: Token,
    /// The gateway.
    pub gateway: WsUrl,
}

/// Why a client ends other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No session, and none to be had by trying again.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// This machine's network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The pipeline.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The page for the phone.
    #[error(transparent)]
    Phone(#[from] PhoneError),
    /// The sockets cannot be as they are configured.
    #[error("{0}; see client.congestion and client.unsent_max")]
    Sockets(#[source] DialError),
    /// TLS, which only certificates of one's own keep from being set up.
    #[error("client.ca: {0}")]
    Tls(#[from] TlsClientError),
    /// The figures' server.
    #[error("cannot serve the figures on {address}: {source}; choose another metrics.listen")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Every place for a link is taken by one that is ending.
#[derive(Debug, thiserror::Error)]
#[error("too many connections at once; the newest is given up")]
struct TooManyLinks;

/// What happens to a client.
#[derive(Debug)]
pub enum Event {
    /// A session is open on a link.
    Opened(Box<Opened>),
    /// A connection came to nothing.
    NotOpened(OpeningError),
    /// There is no connection.
    NotConnected(DialError),
    /// The last link has gone, and why.
    Ended(String),
    /// Somebody has deleted the TUN device.
    DeviceGone,
}

/// A WebSocket that leads to the gateway.
#[derive(Debug)]
pub struct Connection {
    /// The bytes below.
    pub transport: Transport,
    /// Which end of it the client is.
    pub role: Role,
    /// What was agreed on.
    pub subprotocol: Subprotocol,
    /// Bytes that came behind the upgrade.
    pub rest: Vec<u8>,
}

/// The way to the gateway.
#[derive(Debug)]
enum Way {
    Direct(Dialler),
    /// The page's server tells of each relay that comes.
    Phone(PageServer),
}

impl Way {
    /// Has another connection come after `delay`; the phone's comes by itself.
    fn again(&self, delay: Duration) {
        match self {
            Self::Direct(dialler) => dialler.dial_after(delay),
            Self::Phone(_) => {}
        }
    }

    /// In words.
    fn through(&self, peer: SocketAddr) -> String {
        match self {
            Self::Direct(_) => format!("straight to the gateway ({peer})"),
            Self::Phone(_) => format!("through the phone ({})", network::plain(peer.ip())),
        }
    }
}

/// A client at work.
#[derive(Debug)]
struct Client<'a> {
    config: &'a Config,
    network: &'a mut Network,
    way: Way,
    opener: Arc<Opener>,
    backoff: Backoff,
    /// When the newest link came.
    linked: Option<Instant>,
    /// Links at their lanes.
    table: Arc<Table<Link>>,
    figures: Figures,
    session: Option<Session>,
    has_told_of_ipv6: bool,
    stall: Stall,
    /// This machine's network may not be as the session needs it.
    network_is_stale: bool,
    /// When the device last got back what it had lost, or should have.
    mended: Option<Instant>,
    events: (Sender<Event>, Receiver<Event>),
}

/// What the client counts.
#[derive(Debug)]
struct Figures {
    stages: StageFigures,
    gateway: Arc<GatewayMetrics>,
}

impl Default for Figures {
    fn default() -> Self {
        Self { stages: StageFigures::default(), gateway: GatewayMetrics::new(&[]) }
    }
}

impl Figures {
    fn serve(&self, address: SocketAddr) -> Result<MetricsServer, ClientError> {
        let metrics = Arc::new(Metrics::new(self.stages.all(), Arc::clone(&self.gateway)).of(Config::NAME));
        MetricsServer::bind(address, metrics).map_err(|source| ClientError::Metrics { address, source })
    }
}

/// Runs a client until `stop`, and undoes all that it set up.
///
/// # Errors
/// [`ClientError`].
pub fn run(config: &Config, identity: &Identity, network: &mut Network, stop: &Stop) -> Result<(), ClientError> {
    let events = channel();
    let tcp = TcpOptions::new(&config.client.congestion, config.client.unsent_max);
    // A dial that fails is tried again for ever, but the kernel will not learn another congestion control.
    dial::check(&tcp).map_err(ClientError::Sockets)?;
    let offer = Offer {
        token: identity.token.clone(),
        features: features(config),
        mtu_bytes: configured_mtu_bytes(config).unwrap_or(u16::MAX),
        ticket: Vec::new(),
    };
    let opener = Arc::new(Opener::new(offer, stop.clone()));
    let arrived = arrivals(Arc::clone(&opener), events.0.clone());
    let way = match config.client.via {
        Via::Direct => Way::Direct(Dialler::start(
            identity.gateway.clone(),
            config.client.ca.as_deref(),
            tcp,
            stop.clone(),
            events.0.clone(),
            arrived,
        )?),
        Via::Phone => {
            let mut server = PageServer::start(&config.phone, tcp.clone(), &identity.gateway, arrived)?;
            server.announce(config, &mut io::stdout())?;
            info!("waiting for the phone's page on {}", server.local_addr());
            if let Some(remark) = config.page_is_out_of_reach() {
                warn!("{remark}");
            }
            Way::Phone(server)
        }
    };
    let table = Arc::new(Table::new(LINKS_MAX));
    let backoff = Backoff::default();
    let figures = Figures::default();
    let _server = config.metrics.listen.map(|address| figures.serve(address)).transpose()?;
    let session = None;
    let mut client = Client {
        config,
        network,
        way,
        opener,
        backoff,
        linked: None,
        table,
        figures,
        session,
        has_told_of_ipv6: false,
        stall: Stall::default(),
        network_is_stale: false,
        mended: None,
        events,
    };
    let served = client.serve(stop);
    client.shut_down();
    served
}

/// What is done with each connection, on the thread that brings it.
fn arrivals(opener: Arc<Opener>, events: Sender<Event>) -> impl Fn(Connection) + Send + Sync + 'static {
    move |connection| {
        let event = match opener.open(connection) {
            Ok(opened) => Event::Opened(Box::new(opened)),
            Err(OpeningError::Stopped) => return,
            Err(error) => Event::NotOpened(error),
        };
        // Nobody listens any more when the client is at its end.
        drop(events.send(event));
    }
}

impl Client<'_> {
    fn serve(&mut self, stop: &Stop) -> Result<(), ClientError> {
        self.way.again(Duration::ZERO);
        while !stop.is_triggered() {
            match self.events.1.recv_timeout(TICK) {
                Ok(Event::Opened(opened)) => self.carry(*opened)?,
                Ok(Event::NotOpened(error)) => self.not_opened(error)?,
                Ok(Event::NotConnected(error)) => self.retry(&error, error.retry_after()),
                Ok(Event::Ended(why)) => self.ended(&why),
                Ok(Event::DeviceGone) => return Err(NetworkError::DeviceGone { name: self.device().to_owned() }.into()),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.tidy();
            self.network_is_stale |= self.network.has_changed();
            if self.network_is_stale && self.mended.is_none_or(|at| at.elapsed() >= MEND_EVERY) {
                self.network_is_stale = false;
                self.network_changed()?;
            }
        }
        Ok(())
    }

    fn device(&self) -> &str {
        self.config.tun.name.as_str()
    }

    /// A connection came to nothing. Only what was dialled by the person's own URL ends the client: whoever is in the same
    /// network can connect to the page's server, and say anything until it has to prove who it is.
    fn not_opened(&mut self, error: OpeningError) -> Result<(), ClientError> {
        match &self.way {
            Way::Direct(_) if error.is_final() => return Err(error.into()),
            // The phone's connection stands, so this was somebody else's.
            Way::Phone(_) if self.is_linked() => debug!(%error, "one more connection to the page came to nothing"),
            Way::Direct(_) | Way::Phone(_) => self.retry(&error, error.retry_after()),
        }
        Ok(())
    }

    fn is_linked(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.engine.links.is_linked())
    }

    /// Has the opened link carry packets, on the network that the session's terms ask for.
    fn carry(&mut self, opened: Opened) -> Result<(), ClientError> {
        let Opened { link, terms, peer } = opened;
        let Some(lane) = self.table.reserve() else {
            self.retry(&TooManyLinks, None);
            return Ok(());
        };
        let (link, has_session) = (Arc::new(link.at(lane)), self.session.is_some());
        let set_up = self.set_up(&link, terms, peer);
        if set_up.is_err() {
            self.table.release(lane);
        }
        match set_up {
            // The network changes at this moment, as it may where a connection has just come back.
            Err(ClientError::Network(error @ NetworkError::Netlink(_))) if has_session => {
                self.retry(&error, None);
                Ok(())
            }
            set_up => set_up,
        }
    }

    fn set_up(&mut self, link: &Arc<Link>, terms: Terms, peer: SocketAddr) -> Result<(), ClientError> {
        let mtu_bytes = network::mtu_bytes(configured_mtu_bytes(self.config), terms.welcome.mtu);
        let is_resumed = self.session.as_ref().is_some_and(|session| session.is_same(&terms, mtu_bytes));
        let plain_peer = network::plain(peer.ip());
        if is_resumed {
            self.network.keep_past(self.config, plain_peer)?;
        } else {
            self.replace_session(terms.clone(), mtu_bytes, plain_peer)?;
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        (session.terms, session.peer) = (terms, plain_peer);
        session.join(link)?;
        self.opener.goes_on_with(&session.terms.welcome.ticket);
        self.linked = Some(Instant::now());
        self.figures.gateway.ready.set_ready();
        let how = if is_resumed { "connected again" } else { "connected" };
        tell(&format!("{how}: {}, MTU {mtu_bytes}, {}", session.terms.lease, self.way.through(peer)));
        self.tell_of_ipv6();
        Ok(())
    }

    /// Says once that IPv6 goes past the tunnel, where it does and everything was meant to go through.
    fn tell_of_ipv6(&mut self) {
        if self.has_told_of_ipv6 || !self.config.routes.default {
            return;
        }
        // An interface that cannot be looked up goes at this moment, and what comes in its place will be looked at, too.
        if let Ok(Some(interface)) = self.network.ipv6_way_out() {
            self.has_told_of_ipv6 = true;
            warn!(
                "IPv6 goes past the tunnel: what programs send by it leaves by {interface} as before; to have everything go \
                 through, switch IPv6 off there (sysctl -w net/ipv6/conf/{interface}/disable_ipv6=1)"
            );
        }
    }

    /// Sets up device, routes and DNS anew; a device that can stay stays.
    fn replace_session(&mut self, terms: Terms, mtu_bytes: u16, peer: IpAddr) -> Result<(), ClientError> {
        if let Some(session) = self.session.take_if(|session| !session.has_same_device(&terms)) {
            session.engine.links.close_all();
            session.engine.stop();
        }
        let session = match self.session.take() {
            Some(session) => session,
            None => self.new_session(&terms, mtu_bytes, peer)?,
        };
        session.engine.set_lease(terms.lease);
        let set_up = self.network.set_up(self.config, &terms, mtu_bytes, peer);
        self.session = Some(Session { terms, mtu_bytes, peer, is_set_up: set_up.is_ok(), ..session });
        Ok(set_up?)
    }

    fn new_session(&self, terms: &Terms, mtu_bytes: u16, peer: IpAddr) -> Result<Session, ClientError> {
        let agreed = terms.welcome.features.contains(Features::SUPER_PACKETS);
        let tun = network::open_tun(self.config, agreed)?;
        self.tell_of_super_packets(agreed, &tun);
        let surroundings = Surroundings {
            settings: engine::Settings::new(self.config),
            table: Arc::clone(&self.table),
            figures: StageFigures::clone(&self.figures.stages),
            decisions: Arc::clone(&self.figures.gateway.decisions),
            events: self.events.0.clone(),
        };
        let engine = Engine::start(tun, surroundings, terms.lease, message_bytes_max(terms))?;
        Ok(Session { terms: terms.clone(), mtu_bytes, peer, is_set_up: false, engine })
    }

    /// Tells what the tunnel does without, and why.
    fn tell_of_super_packets(&self, agreed: bool, tun: &Tun) {
        let super_packets = tun.offloads();
        let interface = tun.name().to_owned();
        self.figures.gateway.tell_egress(Egress { mode: "tun", interface, super_packets });
        match (self.config.tun.super_packets, agreed) {
            (true, true) if super_packets == SuperPackets::ALL => {}
            (true, true) => {
                info!(
                    takes = super_packets.to_string(),
                    "this kernel does not take all super-packets: others are cut (Linux 6.2 takes all)"
                );
            }
            (true, false) => info!("the gateway takes no super-packets: each packet goes by itself"),
            (false, _) => info!("tun.super_packets is false: each packet goes by itself"),
        }
    }

    fn retry(&mut self, error: &dyn std::error::Error, retry_after: Option<Duration>) {
        let delay = self.backoff.next(retry_after);
        match &self.way {
            // In front, since an error may end in a question.
            Way::Direct(_) => warn!("not connected, next attempt in {:.1} s: {error}", delay.as_secs_f32()),
            Way::Phone(_) => warn!("not connected, waiting for the phone's page to try again: {error}"),
        }
        self.way.again(delay);
    }

    fn ended(&mut self, why: &str) {
        if self.is_linked() {
            return;
        }
        if let Some(linked) = self.linked.take() {
            self.backoff.stood(linked.elapsed());
        }
        match &self.way {
            Way::Direct(_) => warn!("the connection is gone ({why}); connecting again"),
            Way::Phone(_) => {
                warn!("the connection through the phone is gone ({why}); waiting for its page to come back");
            }
        }
        self.figures.gateway.ready.set_not_ready("no connection to the gateway");
        // The laptop may be in another network by now.
        if let Some(session) = &self.session
            && let Err(error) = self.network.keep_past(self.config, session.peer)
        {
            warn!(%error, "the routes past the tunnel could not be renewed");
        }
        self.announce();
        self.way.again(self.backoff.next(None));
    }

    /// Shows where the page is, while it is wanted and that has changed.
    fn announce(&mut self) {
        let is_linked = self.is_linked();
        if let Way::Phone(server) = &mut self.way
            && !is_linked
            && let Err(error) = server.announce(self.config, &mut io::stdout())
        {
            // An interface that went meanwhile, which will be told, or a terminal that has gone away.
            debug!(%error, "the page's address cannot be shown");
        }
    }

    /// Puts back what the device has lost: without its routes everything would leave outside the tunnel. Where that fails it is
    /// since the network changes at this moment, which will be told, too.
    fn network_changed(&mut self) -> Result<(), ClientError> {
        self.announce();
        let Some(session) = &self.session else { return Ok(()) };
        let led = self.network.lead_through(self.config, &session.terms, session.mtu_bytes, session.peer);
        if !matches!(led, Ok(false)) {
            self.mended = Some(Instant::now());
        }
        match led {
            Ok(false) => {}
            Ok(true) => warn!("somebody has changed {}; it has its address and its routes again", self.device()),
            Err(error @ NetworkError::DeviceGone { .. }) => return Err(error.into()),
            Err(error) => warn!(%error, "the tunnel's routes cannot be put back"),
        }
        self.tell_of_ipv6();
        Ok(())
    }

    fn tidy(&mut self) {
        let Some(session) = &self.session else { return };
        let (now, keep_alive) = (Instant::now(), Duration::from_millis(session.terms.welcome.keep_alive_ms.into()));
        if !keep_alive.is_zero() {
            session.engine.links.tidy(now, keep_alive);
        }
        let link = session.engine.links.tether().to_send();
        let stalled = link.filter(|link| link.in_flight_bytes() > 0).map(|link| link.acked_bytes());
        self.look_at_stall(now, stalled);
    }

    /// Tells that nothing that was sent arrives, and that it does again. `acked_bytes` arrived, where more is on its way.
    fn look_at_stall(&mut self, now: Instant, acked_bytes: Option<u64>) {
        let seconds = STALLED.as_secs();
        match (self.stall.look(now, acked_bytes), &self.way) {
            (Some(Turn::Stalls), Way::Direct(_)) => {
                warn!("nothing that was sent to the gateway has arrived for {seconds} s");
            }
            (Some(Turn::Stalls), Way::Phone(_)) => warn!(
                "nothing that was sent through the phone has arrived for {seconds} s; is its screen on, and wstether's page in \
                 front?"
            ),
            (Some(Turn::GoesOn), _) if self.is_linked() => info!("what is sent arrives again"),
            (Some(Turn::GoesOn) | None, _) => {}
        }
    }

    /// Says goodbye, ends the pipeline, and undoes what was set up.
    fn shut_down(&mut self) {
        if let Some(session) = self.session.take() {
            let links = session.engine.links.close_all();
            linger::until_closed(&links);
            session.engine.stop();
        }
        match self.network.undo() {
            Ok(()) => tell("stopped: the client's routes and DNS are undone"),
            Err(error) => warn!(%error, "not all could be undone; \"wstether client --down\" tries again"),
        }
    }
}

/// What the client offers.
fn features(config: &Config) -> Features {
    if config.tun.super_packets { Features::SUPER_PACKETS } else { Features::default() }
}

fn configured_mtu_bytes(config: &Config) -> Option<u16> {
    match config.tun.mtu {
        Auto::Auto => None,
        Auto::Is(mtu) => Some(mtu),
    }
}

/// A line of state for the person at the terminal. The rest is the log's.
fn tell(line: &str) {
    // A terminal that has gone away is no reason to end a tunnel.
    drop(writeln!(io::stdout(), "{line}"));
}
