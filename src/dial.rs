//! Opening a WebSocket to a wstether gateway or client: name, TCP, TLS, upgrade, all against one deadline.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::certificate::{WrongDates, tells_of_no_name};
use crate::http::upgrade::{Asked, UpgradeError, check_upgrade_response, upgrade_request};
use crate::http::url::WsUrl;
use crate::io::ready::{self, Watched};
use crate::stop::Stop;
use crate::transport::{TcpOptions, Transport};
use crate::wire::frame::Subprotocol;

mod tls;

pub use tls::{TlsClient, TlsClientError};

/// How long a dial may take where nobody says: what a phone on a bad network needs, and a person endures.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How long what was sent may stay unacknowledged before the connection counts as dead (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Room for a response head and the first frames behind it.
const READ_BYTES: usize = 4096;

/// What a TLS server's answer to something else begins with: the record type of an alert or a handshake (RFC 8446, 5.1).
const TLS_RECORDS: [u8; 2] = [21, 22];

/// Service Unavailable (RFC 9110, 15.6.4).
const BUSY: u16 = 503;
/// Upgrade Required, Bad Gateway and Gateway Timeout (RFC 9110, 15.5.22, 15.6.3, 15.6.5).
const UPGRADE_REQUIRED: u16 = 426;
const BAD_GATEWAY: u16 = 502;
const GATEWAY_TIMEOUT: u16 = 504;

/// What is done to a socket before it connects: a mark, an interface.
pub type BeforeConnect<'a> = &'a dyn Fn(&Socket) -> io::Result<()>;

/// How to dial.
#[derive(Clone, Copy)]
pub struct DialSettings<'a> {
    /// For everything from the name to the upgrade.
    pub timeout: Duration,
    /// For the name alone.
    pub resolve_timeout: Duration,
    /// Called with each socket before it connects.
    pub before_connect: Option<BeforeConnect<'a>>,
    /// How TCP is to send.
    pub tcp: Option<&'a TcpOptions>,
    /// Ends a dial early.
    pub stop: Option<&'a Stop>,
    /// The host's addresses where they are known; the resolver is asked where this is empty.
    pub addresses: &'a [SocketAddr],
}

impl std::fmt::Debug for DialSettings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DialSettings").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Default for DialSettings<'_> {
    fn default() -> Self {
        Self { timeout: TIMEOUT, resolve_timeout: TIMEOUT, before_connect: None, tcp: None, stop: None, addresses: &[] }
    }
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Dialled {
    /// Non-blocking. TLS may hold bytes that are decrypted already: read before waiting for readiness.
    pub transport: Transport,
    /// What was agreed on.
    pub subprotocol: Subprotocol,
    /// Bytes that came behind the upgrade.
    pub rest: Vec<u8>,
}

/// Why there is no WebSocket, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot find the address of {host}: {source}; check the name in the URL and this machine's DNS")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("{peer} refuses the connection; is the program running there, and is the port the right one?")]
    Refused {
        /// The last address that was tried.
        peer: SocketAddr,
    },
    /// No answer in time.
    #[error("no answer in time ({during}); is the address right, and does a firewall let this through?")]
    TimedOut {
        /// What was being done.
        during: During,
    },
    /// Another failure of the socket.
    #[error("cannot connect to {peer}: {source}")]
    Socket {
        /// The address.
        peer: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The socket could not be prepared.
    #[error("cannot prepare the connection's socket: {0}")]
    Prepare(#[source] io::Error),
    /// The server's certificate is not trusted for this name.
    #[error(
        "the certificate of {host} is not trusted ({source}); name its CA's file or its own, or correct the name in the URL"
    )]
    Certificate {
        /// The name that it should have.
        host: String,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The server's certificate, or one of its chain, is too old or too new.
    #[error(
        "the certificate of {host} {wrong}; whoever runs the gateway has to renew it, if the clock of this machine is right"
    )]
    Dates {
        /// The server.
        host: String,
        /// What is wrong with them.
        wrong: WrongDates,
    },
    /// The server's certificate is for no host.
    #[error(
        "the certificate of {host} is for no host; whoever runs the gateway has to make one that has its name \
         (subjectAltName)"
    )]
    Nameless {
        /// The server.
        host: String,
    },
    /// TLS failed for another reason.
    #[error("TLS with {host} fails ({source}); does the server speak TLS at this port (wss), or not (ws)?")]
    Tls {
        /// The server.
        host: String,
        /// Why.
        source: rustls::Error,
    },
    /// It answers in TLS, and was not asked for that.
    #[error("{peer} speaks TLS at this port; begin the URL with wss:// in place of ws://")]
    SpeaksTls {
        /// The server.
        peer: SocketAddr,
    },
    /// It hung up before the upgrade.
    #[error("{peer} hung up before it answered; does it speak TLS at this port (wss), or not (ws)?")]
    HungUp {
        /// The server.
        peer: SocketAddr,
    },
    /// It is there and takes nobody now: HTTP status 503.
    #[error("the server is too busy for one more connection{}", after(*.retry_after_s))]
    Busy {
        /// When to try again, where it says so.
        retry_after_s: Option<u32>,
    },
    /// What answers is no wstether gateway.
    #[error("{url} is not a wstether WebSocket: {source}; check the URL's host, port and path")]
    NotWstether {
        /// What was asked for.
        url: String,
        /// What came instead.
        source: UpgradeError,
    },
    /// A web server stands in front, and does not pass the upgrade on (Upgrade Required, RFC 9110, 15.5.22).
    #[error(
        "the web server in front of {url} does not pass on Upgrade and Connection; the README has the lines that it needs"
    )]
    UpgradeLost {
        /// What was asked for.
        url: String,
    },
    /// A web server stands in front, and gets no answer.
    #[error(
        "the web server in front of {url} gets no answer (HTTP status {status}); is the gateway behind it running?"
    )]
    NobodyBehind {
        /// What was asked for.
        url: String,
        /// What it says.
        status: u16,
    },
    /// The word to stop came first.
    #[error("stopped while connecting")]
    Stopped,
}

impl DialError {
    /// When a server that is too busy wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after_s } => retry_after_s.map(|seconds| Duration::from_secs(seconds.into())),
            Self::Resolve { .. }
            | Self::Refused { .. }
            | Self::TimedOut { .. }
            | Self::Socket { .. }
            | Self::Prepare(_)
            | Self::Certificate { .. }
            | Self::Dates { .. }
            | Self::Nameless { .. }
            | Self::Tls { .. }
            | Self::SpeaksTls { .. }
            | Self::HungUp { .. }
            | Self::NotWstether { .. }
            | Self::UpgradeLost { .. }
            | Self::NobodyBehind { .. }
            | Self::Stopped => None,
        }
    }
}

/// What a dial was doing when the time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// Asking for the name's addresses.
    Resolve,
    /// Connecting to this address.
    Connect(SocketAddr),
    /// TLS and upgrade.
    Handshake(SocketAddr),
}

impl std::fmt::Display for During {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resolve => write!(f, "asking for the name's address"),
            Self::Connect(peer) => write!(f, "connecting to {peer}"),
            Self::Handshake(peer) => write!(f, "waiting for {peer} to answer"),
        }
    }
}

fn after(retry_after_s: Option<u32>) -> String {
    retry_after_s.map_or_else(String::new, |seconds| format!("; it asks to try again in {seconds} s"))
}

/// Opens a WebSocket, offering the subprotocols in this order of preference.
///
/// # Errors
/// [`DialError`].
pub fn dial(
    url: &WsUrl,
    offered: &[Subprotocol],
    tls: &TlsClient,
    settings: &DialSettings<'_>,
) -> Result<Dialled, DialError> {
    let dial = Dial { url, offered, tls, settings, deadline: Instant::now() + settings.timeout };
    let stream = dial.connect()?;
    dial.handshake(stream)
}

/// Tells at once what no dial could be prepared with: a congestion control that this kernel does not offer.
///
/// # Errors
/// [`DialError::Prepare`].
pub fn check(tcp: &TcpOptions) -> Result<(), DialError> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).map_err(DialError::Prepare)?;
    tcp.apply(&socket).map_err(DialError::Prepare)
}

/// Waits until `transport` can be read or written, or was hung up; `false` where `deadline` passed first.
///
/// # Errors
/// Those of poll(2).
pub fn wait(transport: &Transport, readable: bool, writable: bool, deadline: Instant) -> io::Result<bool> {
    let fd = transport.as_fd();
    loop {
        let limit = deadline.saturating_duration_since(Instant::now());
        let [ready] = ready::wait([Watched { fd, readable, writable }], limit)?;
        if ready || limit.is_zero() {
            return Ok(ready);
        }
    }
}

fn not_connected(peer: SocketAddr, source: io::Error) -> DialError {
    if source.kind() == io::ErrorKind::ConnectionRefused {
        DialError::Refused { peer }
    } else if source.kind() == io::ErrorKind::TimedOut {
        DialError::TimedOut { during: During::Connect(peer) }
    } else {
        DialError::Socket { peer, source }
    }
}

/// What is wrong with TLS to `host`.
fn not_encrypted(host: String, source: rustls::Error) -> DialError {
    let rustls::Error::InvalidCertificate(error) = &source else { return DialError::Tls { host, source } };
    match WrongDates::told_by(error) {
        Some(wrong) => DialError::Dates { host, wrong },
        None if tells_of_no_name(error) => DialError::Nameless { host },
        None => DialError::Certificate { host, source },
    }
}

/// One dial.
struct Dial<'a> {
    url: &'a WsUrl,
    offered: &'a [Subprotocol],
    tls: &'a TlsClient,
    settings: &'a DialSettings<'a>,
    deadline: Instant,
}

impl Dial<'_> {
    /// Tries each address in turn; each may use its share of the time that is left.
    fn connect(&self) -> Result<TcpStream, DialError> {
        let addresses = self.resolve()?;
        let mut last = None;
        for (i, &peer) in addresses.iter().enumerate() {
            let now = Instant::now();
            let left = self.deadline.saturating_duration_since(now);
            let share = left / u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
            match self.connect_to(peer, now + share) {
                Err(error @ (DialError::Prepare(_) | DialError::Stopped)) => return Err(error),
                Err(error) => last = Some(error),
                connected => return connected,
            }
        }
        Err(last.unwrap_or_else(|| self.no_address(io::Error::other("it has none"))))
    }

    fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        if !self.settings.addresses.is_empty() {
            return Ok(self.settings.addresses.to_vec());
        }
        let WsUrl { host, port, .. } = self.url;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, *port)]);
        }
        // The resolver knows neither a deadline nor the word to stop, so it gets a thread that may outlive this dial.
        let (answer, answered) = mpsc::channel();
        let asked = (host.clone(), *port);
        let done = Stop::new().map_err(DialError::Prepare)?;
        let ready = done.clone();
        std::thread::spawn(move || {
            let addresses = asked.to_socket_addrs().map(Iterator::collect);
            // Who asked may have given up.
            drop(answer.send(addresses));
            ready.trigger();
        });
        let deadline = self.deadline.min(Instant::now() + self.settings.resolve_timeout);
        if !self.wait(ready::readable(done.as_fd()), deadline).map_err(|error| self.no_address(error))? {
            return Err(self.late(During::Resolve));
        }
        let answer = answered.recv().unwrap_or_else(|_| Err(io::Error::other("the resolver failed")));
        answer.map_err(|error| self.no_address(error))
    }

    fn no_address(&self, source: io::Error) -> DialError {
        DialError::Resolve { host: self.url.host.clone(), source }
    }

    fn connect_to(&self, peer: SocketAddr, deadline: Instant) -> Result<TcpStream, DialError> {
        let socket = self.prepared(peer).map_err(DialError::Prepare)?;
        let failed = |source| not_connected(peer, source);
        match socket.connect(&SockAddr::from(peer)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(failed(error)),
            _ => {}
        }
        let watched = Watched { fd: socket.as_fd(), readable: false, writable: true };
        if !self.wait(watched, deadline).map_err(failed)? {
            return Err(self.late(During::Connect(peer)));
        }
        match socket.take_error() {
            Ok(None) => {
                if let Some(tcp) = self.settings.tcp {
                    tcp.connected(&socket);
                }
                Ok(socket.into())
            }
            Ok(Some(error)) | Err(error) => Err(failed(error)),
        }
    }

    fn prepared(&self, peer: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        if let Some(tcp) = self.settings.tcp {
            tcp.apply(&socket)?;
        }
        if let Some(before_connect) = self.settings.before_connect {
            before_connect(&socket)?;
        }
        Ok(socket)
    }

    /// TLS, where the URL wants it, and the upgrade.
    fn handshake(&self, stream: TcpStream) -> Result<Dialled, DialError> {
        let tls = match self.url.tls {
            true => Some(self.client_connection()?.into()),
            false => None,
        };
        let stream = mio::net::TcpStream::from_std(stream);
        let transport = Transport::new(stream, tls).map_err(DialError::Prepare)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| DialError::Prepare(io::Error::other(error)))?;
        let (request, asked) = upgrade_request(self.url, self.offered, nonce);
        let (subprotocol, rest) = self.exchange(&transport, &request, &asked)?;
        Ok(Dialled { transport, subprotocol, rest })
    }

    fn client_connection(&self) -> Result<ClientConnection, DialError> {
        let tls = |source| DialError::Tls { host: self.url.host.clone(), source };
        let name = ServerName::try_from(self.url.host.clone())
            .map_err(|_| tls(rustls::Error::General("no certificate can have this name".to_owned())))?;
        ClientConnection::new(Arc::clone(&self.tls.0), name).map_err(tls)
    }

    /// Sends the request and reads up to the response's end; returns what came behind it.
    fn exchange(
        &self,
        transport: &Transport,
        request: &[u8],
        asked: &Asked,
    ) -> Result<(Subprotocol, Vec<u8>), DialError> {
        let peer = transport.peer();
        let (mut unsent, mut received) = (request, Vec::new());
        loop {
            let mut blocked = false;
            if !unsent.is_empty() {
                let written = transport.write(&[IoSlice::new(unsent)]).map_err(|error| self.broken(peer, error))?;
                unsent = &unsent[written.bytes..];
                blocked = written.blocked;
            }
            let mut chunk = [0; READ_BYTES];
            match transport.read(&mut chunk) {
                Ok(0) => return Err(DialError::HungUp { peer }),
                Ok(read) => {
                    received.extend_from_slice(&chunk[..read]);
                    if !self.url.tls && received.first().is_some_and(|first| TLS_RECORDS.contains(first)) {
                        return Err(DialError::SpeaksTls { peer });
                    }
                    let checked = check_upgrade_response(&received, asked).map_err(|error| self.refused(error))?;
                    if let Some((subprotocol, consumed)) = checked {
                        return Ok((subprotocol, received.split_off(consumed)));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.broken(peer, error)),
            }
            // A TLS handshake goes on by what is read; the request goes out behind it.
            let writable = !transport.is_handshaking() && (blocked || !unsent.is_empty());
            let watched = Watched { fd: transport.as_fd(), readable: true, writable };
            if !self.wait(watched, self.deadline).map_err(|error| self.broken(peer, error))? {
                return Err(self.late(During::Handshake(peer)));
            }
        }
    }

    fn broken(&self, peer: SocketAddr, error: io::Error) -> DialError {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
        match (tls, error.kind()) {
            (Some(source), _) => not_encrypted(self.url.host.clone(), source),
            (None, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof) => {
                DialError::HungUp { peer }
            }
            (None, io::ErrorKind::TimedOut) => DialError::TimedOut { during: During::Handshake(peer) },
            (None, _) => DialError::Socket { peer, source: error },
        }
    }

    fn refused(&self, source: UpgradeError) -> DialError {
        let url = self.url.to_string();
        if let UpgradeError::Status { status, retry_after_s } = source {
            match status {
                BUSY => return DialError::Busy { retry_after_s },
                UPGRADE_REQUIRED => return DialError::UpgradeLost { url },
                BAD_GATEWAY | GATEWAY_TIMEOUT => return DialError::NobodyBehind { url, status },
                _ => {}
            }
        }
        DialError::NotWstether { url, source }
    }

    /// Waits for a descriptor; `false` where the deadline or the word to stop came first.
    fn wait(&self, watched: Watched<'_>, deadline: Instant) -> io::Result<bool> {
        loop {
            let limit = deadline.saturating_duration_since(Instant::now());
            let ready = match self.settings.stop {
                Some(stop) => ready::wait([watched, ready::readable(stop.as_fd())], limit)?[0],
                None => ready::wait([watched], limit)?[0],
            };
            if ready || limit.is_zero() || self.is_stopped() {
                return Ok(ready);
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.settings.stop.is_some_and(Stop::is_triggered)
    }

    fn late(&self, during: During) -> DialError {
        if self.is_stopped() { DialError::Stopped } else { DialError::TimedOut { during } }
    }
}
