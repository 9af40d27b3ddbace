//! A relay as plain as can be: both WebSockets on one thread, looked at in turn.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};
use wstether::http::upgrade::{PATH, Subprotocol};

/// How long one side is listened to before the other has its turn.
const TURN: Duration = Duration::from_millis(2);

pub(crate) struct Relay {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Joins the client's page server and the gateway, from the namespace of the calling thread.
    pub(crate) fn join(client: SocketAddr, gateway: SocketAddr) -> Self {
        let (client, gateway) = (dial(client), dial(gateway));
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || pass(client, gateway, &is_over));
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn dial(address: SocketAddr) -> WebSocket<TcpStream> {
    let mut request = format!("ws://{address}{PATH}").into_client_request().unwrap();
    let subprotocol = HeaderValue::from_static(Subprotocol::Binary.name());
    request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol);
    let stream = TcpStream::connect(address).unwrap();
    let (socket, _) = tungstenite::client(request, stream).unwrap();
    socket.get_ref().set_read_timeout(Some(TURN)).unwrap();
    socket
}

fn pass(mut client: WebSocket<TcpStream>, mut gateway: WebSocket<TcpStream>, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        if !pass_one(&mut client, &mut gateway) || !pass_one(&mut gateway, &mut client) {
            return;
        }
    }
}

/// Passes a message on if there is one; `false` when a side has ended, and the other one was told.
fn pass_one(from: &mut WebSocket<TcpStream>, to: &mut WebSocket<TcpStream>) -> bool {
    match from.read() {
        Ok(Message::Close(frame)) => {
            // What cannot be told any more need not be.
            drop(to.close(frame));
            drop(from.flush());
            false
        }
        Ok(message @ (Message::Binary(_) | Message::Text(_))) => to.send(message).is_ok(),
        Ok(_) => true,
        Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => true,
        Err(_) => {
            drop(to.close(None));
            false
        }
    }
}
