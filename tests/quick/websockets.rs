//! WebSocket servers that share no code with wstether: tungstenite's, with or without TLS.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket, accept_hdr};
use wstether::dial::TlsClient;
use wstether::http::url::WsUrl;

/// How long a test waits before it fails: far beyond what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) type Socket = WebSocket<Box<dyn Stream>>;

/// A server that takes one connection after another.
pub(crate) struct Server {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl Server {
    pub(crate) fn plain() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), tls: None }
    }

    fn encrypted(certificate: CertificateDer<'static>, key: &rcgen::KeyPair) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        Self { tls: Some(Arc::new(config)), ..Self::plain() }
    }

    pub(crate) fn url(&self) -> WsUrl {
        let (scheme, host) = if self.tls.is_some() { ("wss", "localhost") } else { ("ws", "127.0.0.1") };
        let port = self.listener.local_addr().unwrap().port();
        format!("{scheme}://{host}:{port}/wstether").parse().unwrap()
    }

    /// A connection before its handshake.
    pub(crate) fn stream(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The server's half of TLS.
    pub(crate) fn tls(&self) -> Option<ServerConnection> {
        self.tls.as_ref().map(|tls| ServerConnection::new(Arc::clone(tls)).unwrap())
    }

    pub(crate) fn accept(&self) -> Socket {
        let stream = self.stream();
        let stream: Box<dyn Stream> = match self.tls() {
            None => Box::new(stream),
            Some(tls) => Box::new(StreamOwned::new(tls, stream)),
        };
        accept_hdr(stream, agree).map_err(|error| error.to_string()).unwrap()
    }
}

/// Takes the first subprotocol that is offered.
#[allow(clippy::result_large_err, clippy::unnecessary_wraps, reason = "the signature is tungstenite's")]
fn agree(request: &Request, mut response: Response) -> Result<Response, tungstenite::handshake::server::ErrorResponse> {
    let offered = request.headers()["sec-websocket-protocol"].to_str().unwrap();
    let first = offered.split(',').next().unwrap().trim().parse().unwrap();
    response.headers_mut().insert("sec-websocket-protocol", first);
    Ok(response)
}

/// A CA of the test's own, in a file that goes with it.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: CertificateDer<'static>,
    file: PathBuf,
}

impl Authority {
    /// `name` tells the tests' files apart.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, rcgen::CertificateParams::new([]).unwrap())
    }

    /// One whose own certificate has more in it, such as the name of a host.
    pub(crate) fn with(name: &str, mut params: rcgen::CertificateParams) -> Self {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = std::env::temp_dir().join(format!("wstether-{name}-{}.pem", std::process::id()));
        std::fs::write(&file, certificate.pem()).unwrap();
        Self { issuer: rcgen::Issuer::new(params, key), certificate: certificate.into(), file }
    }

    pub(crate) fn trusted(&self) -> TlsClient {
        TlsClient::new(Some(&self.file)).unwrap()
    }

    /// A server whose certificate is for this name.
    pub(crate) fn server(&self, name: &str) -> Server {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        Server::encrypted(params.signed_by(&key, &self.issuer).unwrap().into(), &key)
    }

    /// A server that shows the authority's own certificate.
    pub(crate) fn itself(&self) -> Server {
        Server::encrypted(self.certificate.clone(), self.issuer.key())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        std::fs::remove_file(&self.file).unwrap();
    }
}

/// Trusts the web's authorities alone.
pub(crate) fn no_extra_trust() -> TlsClient {
    TlsClient::new(None).unwrap()
}

/// The next message that is not a ping or a pong.
pub(crate) fn receive(socket: &mut Socket) -> Message {
    loop {
        let message = socket.read().unwrap();
        if !message.is_ping() && !message.is_pong() {
            return message;
        }
    }
}

/// The close frame that ends this connection.
pub(crate) fn closed_with(socket: &mut Socket) -> (u16, String) {
    let message = receive(socket);
    let Message::Close(Some(CloseFrame { code, reason })) = message else { panic!("no close frame but {message:?}") };
    // Its answer goes out, and the connection ends.
    while socket.read().is_ok() {}
    (code.into(), reason.to_string())
}
