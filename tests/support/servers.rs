//! A laptop's and a gateway's servers, as plain as can be: a thread a connection, wstether's own handshake, tungstenite's
//! frames.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tungstenite::WebSocket;
use tungstenite::protocol::{Role, WebSocketConfig};
use wstether::http::upgrade::{PATH, Refusal, Subprotocol, upgrade};
use wstether::http::{Head, Response, Status, not_found, parse_head};
use wstether::relay::page;

/// How long a test waits for the page to come, or for a message: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Socket = WebSocket<TcpStream>;

/// A WebSocket server, and a web server if it has a page.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) sockets: Receiver<(Socket, Subprotocol)>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn gateway(speaks: &[Subprotocol]) -> Self {
        Self::start("127.0.0.1:0", None, speaks)
    }

    /// Serves the page, which is told of this gateway.
    pub(crate) fn laptop(gateway: SocketAddr, base64: bool) -> Self {
        Self::laptop_at("127.0.0.1:0", gateway, base64)
    }

    pub(crate) fn laptop_at(address: &str, gateway: SocketAddr, base64: bool) -> Self {
        let url = format!("ws://{gateway}{PATH}").parse().expect("a URL");
        Self::start(address, Some(page::settings(&url, base64)), &Subprotocol::ALL)
    }

    fn start(address: &str, settings: Option<Vec<u8>>, speaks: &[Subprotocol]) -> Self {
        let listener = TcpListener::bind(address).expect("a listener");
        let address = listener.local_addr().expect("its address");
        let over = Arc::new(AtomicBool::new(false));
        let (sender, sockets) = mpsc::channel();
        let (is_over, speaks) = (Arc::clone(&over), speaks.to_vec());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (sender, settings, speaks) = (sender.clone(), settings.clone(), speaks.clone());
                std::thread::spawn(move || serve(stream.expect("a stream"), settings.as_deref(), &speaks, &sender));
            }
        });
        Self { address, sockets, over, thread: Some(thread) }
    }

    pub(crate) fn accept(&self) -> (Socket, Subprotocol) {
        self.sockets.recv_timeout(PATIENCE).expect("a WebSocket")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.thread.take().expect("its thread").join().expect("no panic");
    }
}

/// One connection: a request, and its answer. A browser also opens connections on which it then asks nothing.
pub(crate) fn serve(
    mut stream: TcpStream,
    settings: Option<&[u8]>,
    speaks: &[Subprotocol],
    sockets: &Sender<(Socket, Subprotocol)>,
) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    let Some((head, tail)) = read_head(&mut stream) else { return };
    if head.path() != PATH {
        drop(stream.write_all(&answer(&head, settings)));
        return;
    }
    // The laptop lets its own page in alone; the gateway takes pages from anywhere.
    let is_welcome = settings.is_none() || (head.is_same_origin() && head.host_address().is_some());
    let judged = if is_welcome { upgrade(&head, PATH, speaks) } else { Err(Refusal::ForeignOrigin) };
    match judged {
        Ok(accepted) => {
            stream.write_all(&accepted.response).expect("the response is written");
            let config = WebSocketConfig::default().accept_unmasked_frames(false);
            let socket = WebSocket::from_partially_read(stream, tail, Role::Server, Some(config));
            drop(sockets.send((socket, accepted.subprotocol)));
        }
        Err(refusal) => drop(stream.write_all(&refusal.response())),
    }
}

fn read_head(stream: &mut TcpStream) -> Option<(Head, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&chunk[..length]);
        if let Some((head, consumed)) = parse_head(&bytes).expect("a browser's request") {
            return Some((head, bytes.split_off(consumed)));
        }
    }
}

fn answer(head: &Head, settings: Option<&[u8]>) -> Vec<u8> {
    let response = match (page::file(head.path()), settings) {
        (Some(file), Some(_)) => Response::new(Status::Ok, file.content_type, file.bytes),
        (None, Some(settings)) if head.path() == page::SETTINGS_PATH => {
            Response::new(Status::Ok, "application/json", settings)
        }
        _ => not_found(head),
    };
    response.to_request(head).encode()
}
