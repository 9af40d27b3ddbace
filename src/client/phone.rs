//! The way through a phone: the relay page and its WebSocket, served on a local address.
//!
//! A thread a connection, and few of them: one phone has a handful, and a WebSocket leaves its thread as soon as its
//! handshake is done.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::address::{self, Address};
use super::{Connection, qr};
use crate::config::client::{Client as Config, Phone};
use crate::config::values::Auto;
use crate::http::upgrade::{Accepted, Refusal, upgrade};
use crate::http::url::WsUrl;
use crate::http::{Head, HeadError, Response, Status, not_found, parse_head};
use crate::io::netlink::{self, Netlink};
use crate::relay::page;
use crate::stages::accept::Guests;
use crate::transport::{TcpOptions, Transport};
use crate::wire::PATH;
use crate::wire::frame::{Role, Subprotocol};

/// Connections at once. A browser opens six; nobody else has business here.
const CONNECTIONS_MAX: usize = 32;

/// Connections of one address at once, of which a browser needs six and a WebSocket. Nobody alone keeps the phone out.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 12;

/// How long a request, and the taking of its answer, may last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that the thread does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// When to come again where all connections are in use.
const RETRY_AFTER_S: u32 = 1;

/// What follows where there is no address to show.
const SHOWN_LATER: &str = "The page's address will be shown here as soon as there is one.";

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
    /// The laptop's addresses cannot be listed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Standard output is gone.
    #[error("cannot show the page's address: {0}")]
    Output(io::Error),
}

/// The server. It ends with the process.
#[derive(Debug)]
pub struct PageServer {
    local: SocketAddr,
    announced: String,
}

/// What each connection's thread needs.
struct Shared {
    settings: Vec<u8>,
    tcp: TcpOptions,
    arrived: Box<dyn Fn(Connection) + Send + Sync>,
    connections: AtomicUsize,
    guests: Arc<Guests>,
}

impl PageServer {
    /// Serves the page; `arrived` is given each relay that comes, on a thread of the connection's own, and counts as one of the
    /// connections for as long as it takes.
    ///
    /// # Errors
    /// [`PhoneError::Listen`].
    pub fn start(
        config: &Phone,
        tcp: TcpOptions,
        gateway: &WsUrl,
        arrived: impl Fn(Connection) + Send + Sync + 'static,
    ) -> Result<Self, PhoneError> {
        let failed = |source| PhoneError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).map_err(failed)?;
        tcp.apply(&listener).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let settings = page::settings(gateway, false);
        let (connections, guests) = (AtomicUsize::new(0), Guests::new(CONNECTIONS_PER_ADDRESS_MAX));
        let shared = Arc::new(Shared { settings, tcp, arrived: Box::new(arrived), connections, guests });
        let accept = move || accept_all(&listener, &shared);
        std::thread::Builder::new().name("page".to_owned()).spawn(accept).map_err(failed)?;
        Ok(Self { local, announced: String::new() })
    }

    /// The address that is served.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Shows the page's addresses, the likeliest as a QR code where `out` is a terminal, or why there is none. Nothing where
    /// that is as it was shown last.
    ///
    /// # Errors
    /// The laptop's addresses cannot be listed; `out` is gone.
    pub fn announce(&mut self, config: &Config, out: &mut (impl Write + io::IsTerminal)) -> Result<(), PhoneError> {
        let text = self.announcement(config, out.is_terminal())?;
        if text != self.announced {
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(PhoneError::Output)?;
            self.announced = text;
        }
        Ok(())
    }

    fn announcement(&self, config: &Config, is_terminal: bool) -> Result<String, PhoneError> {
        if !self.local.ip().is_unspecified() {
            let address = Address { interface: String::new(), ip: self.local.ip() };
            return Ok(self.text(&address, &[], is_terminal));
        }
        let (mut netlink, mut found) = (Netlink::open()?, Vec::new());
        let links = netlink.links()?;
        for link in links.iter().filter(|link| link.up && link.name != config.tun.name.as_str()) {
            let addresses = netlink.addresses(&link.name)?;
            found.extend(addresses.iter().map(|prefix| Address { interface: link.name.clone(), ip: prefix.address }));
        }
        let wanted = &config.phone.interface;
        Ok(match (address::for_a_phone(found, wanted).as_slice(), wanted) {
            ([likeliest, others @ ..], _) => self.text(likeliest, others, is_terminal),
            ([], Auto::Is(wanted)) if !links.iter().any(|link| link.name == wanted.as_str()) => {
                format!("There is no interface {wanted} (phone.interface). {SHOWN_LATER}\n")
            }
            ([], Auto::Is(wanted)) => format!("{wanted} (phone.interface) has no IPv4 address. {SHOWN_LATER}\n"),
            ([], Auto::Auto) => {
                format!(
                    "No network that a phone could share: connect to the phone's Wi-Fi, or by a cable. {SHOWN_LATER}\n"
                )
            }
        })
    }

    fn text(&self, likeliest: &Address, others: &[Address], is_terminal: bool) -> String {
        let url = |address: &Address| format!("http://{}/", SocketAddr::new(address.ip, self.local.port()));
        let mut text = format!("Open this page on the phone: {}\n", url(likeliest));
        if is_terminal {
            text += &format!("{}\n", qr::half_blocks(&url(likeliest)));
        }
        for other in others {
            text += &format!("or, if the phone is reached by {}: {}\n", other.interface, url(other));
        }
        text
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                shared.tcp.connected(&stream);
                begin(stream, peer, shared);
            }
            Err(error) => {
                warn!(%error, "the page's server cannot accept");
                std::thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

/// Gives a connection its thread, while there are few.
fn begin(mut stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    let guest = shared.guests.come(peer.ip());
    if shared.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX || guest.is_none() {
        shared.connections.fetch_sub(1, Ordering::Relaxed);
        // What fits into an empty socket's buffer; who does not take it goes without.
        drop(stream.write(&Refusal::Busy { retry_after_s: RETRY_AFTER_S }.response()));
        return;
    }
    let counted = Arc::clone(shared);
    let serve = move || {
        if let Err(error) = converse(stream, &counted) {
            debug!(%error, "a connection to the page ended early");
        }
        counted.connections.fetch_sub(1, Ordering::Relaxed);
        drop(guest);
    };
    if let Err(error) = std::thread::Builder::new().name("page".to_owned()).spawn(serve) {
        shared.connections.fetch_sub(1, Ordering::Relaxed);
        warn!(%error, "no thread for a connection to the page");
    }
}

/// What a request comes to.
#[derive(Debug)]
enum Answer {
    /// An answer, and the end of the connection.
    Http(Vec<u8>),
    /// The connection becomes the page's WebSocket.
    WebSocket(Accepted),
}

fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let (answer, rest) = match read_head(&mut stream)? {
        Ok((head, rest)) => (answer(&head, &shared.settings), rest),
        Err(error) => (Answer::Http(error.response()), Vec::new()),
    };
    let Accepted { response, subprotocol } = match answer {
        Answer::Http(response) => return stream.write_all(&response),
        Answer::WebSocket(accepted) => accepted,
    };
    stream.write_all(&response)?;
    stream.set_nonblocking(true)?;
    let transport = Transport::new(mio::net::TcpStream::from_std(stream), None)?;
    (shared.arrived)(Connection { transport, role: Role::Server, subprotocol, rest });
    Ok(())
}

/// Reads a request's head within its time, and what came behind it.
fn read_head(stream: &mut TcpStream) -> io::Result<Result<(Head, Vec<u8>), HeadError>> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let (mut received, mut chunk) = (Vec::new(), [0; 2_048]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&chunk[..count]);
        match parse_head(&received) {
            Ok(None) => {}
            Ok(Some((head, consumed))) => return Ok(Ok((head, received.split_off(consumed)))),
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn answer(head: &Head, settings: &[u8]) -> Answer {
    if head.path() == PATH {
        return match judge_origin(head).and_then(|()| upgrade(head, PATH, &Subprotocol::ALL)) {
            Ok(accepted) => Answer::WebSocket(accepted),
            Err(refusal) => Answer::Http(refusal.response()),
        };
    }
    let response = if head.path() == page::SETTINGS_PATH {
        Response::new(Status::Ok, "application/json", settings).to_request(head)
    } else if let Some(file) = page::file(head.path()) {
        Response::new(Status::Ok, file.content_type, file.bytes).to_request(head)
    } else {
        not_found(head)
    };
    Answer::Http(response.encode())
}

/// Any site's page may try this address from the phone's or the laptop's browser. Ours alone is of this origin and asks
/// for an address; a name could be a stranger's that points here (DNS rebinding). Who sends no Origin is no page.
fn judge_origin(head: &Head) -> Result<(), Refusal> {
    let is_a_page = head.header("origin").is_some();
    let is_ours = head.is_same_origin() && (!is_a_page || head.host_address().is_some());
    is_ours.then_some(()).ok_or(Refusal::ForeignOrigin)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn server() -> (PageServer, Receiver<Connection>) {
        let config = Phone { listen: "127.0.0.1:0".parse().unwrap(), interface: Auto::Auto };
        let (sender, arrived) = channel();
        let gateway = "wss://gateway.example/wstether".parse().unwrap();
        let arrives = move |connection| sender.send(connection).unwrap();
        (PageServer::start(&config, TcpOptions::default(), &gateway, arrives).unwrap(), arrived)
    }

    fn ask(server: &PageServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut chunk = [0; 4_096];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            answer.extend_from_slice(&chunk[..count]);
            if answer.starts_with(b"HTTP/1.1 101") {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(server: &PageServer, path: &str) -> String {
        ask(server, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
    }

    /// A request for the WebSocket, by whoever asks like this.
    fn upgrade_as(server: &PageServer, host: &str, origin: Option<&str>) -> String {
        let origin = origin.map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
        ask(
            server,
            &format!(
                "GET {PATH} HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: wstether.v1\r\n\r\n"
            ),
        )
    }

    #[test]
    fn the_page_and_its_settings_are_served_and_nothing_else() {
        let (server, _arrived) = server();
        assert!(get(&server, "/").starts_with("HTTP/1.1 200 OK"));
        assert!(get(&server, "/relay.js").contains("text/javascript"));
        assert!(get(&server, page::SETTINGS_PATH).contains("wss://gateway.example/wstether"));
        assert!(get(&server, "/etc/passwd").starts_with("HTTP/1.1 404"));
        assert!(ask(&server, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn the_pages_websocket_becomes_a_connection() {
        let (server, arrived) = server();
        let host = server.local_addr().to_string();
        assert!(upgrade_as(&server, &host, Some(&format!("http://{host}"))).starts_with("HTTP/1.1 101"));
        let connection = arrived.recv_timeout(PATIENCE).unwrap();
        assert_eq!((connection.role, connection.subprotocol), (Role::Server, Subprotocol::Binary));
    }

    #[test]
    fn a_relay_that_is_no_page_sends_no_origin_and_is_let_in() {
        let (server, arrived) = server();
        assert!(upgrade_as(&server, "laptop.example", None).starts_with("HTTP/1.1 101"));
        arrived.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn a_page_of_another_site_and_a_rebound_name_are_turned_away() {
        let (server, arrived) = server();
        let host = server.local_addr().to_string();
        for (host, origin) in
            [(host.as_str(), "https://elsewhere.example"), ("rebound.example", "http://rebound.example")]
        {
            assert!(upgrade_as(&server, host, Some(origin)).starts_with("HTTP/1.1 403"), "{host} {origin}");
        }
        assert!(arrived.try_recv().is_err());
    }
}
