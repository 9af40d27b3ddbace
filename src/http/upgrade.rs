//! The WebSocket handshake (RFC 6455 §4), as a server and as a client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tungstenite::handshake::derive_accept_key;

use super::url::WsUrl;
pub use crate::wire::PATH;
pub use crate::wire::frame::Subprotocol;

use super::{HEADERS_MAX, Head, HeadError, Headers, Response, Status, bounded, complete};

/// The version of the WebSocket protocol (RFC 6455 §4.1).
const VERSION: &str = "13";

/// A key is 16 random bytes (RFC 6455 §4.1).
const KEY_BYTES: usize = 16;

/// A request that becomes a WebSocket: write the response, then speak frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The whole 101 response.
    pub response: Vec<u8>,
    /// What was agreed on.
    pub subprotocol: Subprotocol,
}

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another path.
    #[error("Nothing is here. The WebSocket is at {PATH}.")]
    NotFound,
    /// A method other than GET.
    #[error("A WebSocket starts with GET.")]
    Method,
    /// An ordinary request: no `Connection: upgrade` with `Upgrade: websocket`, or not HTTP/1.1.
    #[error("Here is a WebSocket. Upgrade to it (RFC 6455); a proxy in between must pass on Connection and Upgrade.")]
    NoUpgrade,
    /// Another version than 13.
    #[error("WebSocket version {VERSION} is spoken here.")]
    Version,
    /// A Sec-WebSocket-Key that is not 16 bytes in base64.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64 (RFC 6455 section 4.1).")]
    Key,
    /// A request with a body.
    #[error("A WebSocket handshake has no body.")]
    Body,
    /// None of our subprotocols is offered.
    #[error("Offer the subprotocol wstether.v1 or wstether.v1.base64.")]
    Subprotocol,
    /// A page of another site.
    #[error("A page of another site may not open this WebSocket.")]
    ForeignOrigin,
    /// The server takes no new connections now.
    #[error("Too busy for one more connection. Try again in {retry_after_s} s.")]
    Busy {
        /// Retry-After, in seconds.
        retry_after_s: u32,
    },
}

impl Refusal {
    /// The label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Method => "method",
            Self::NoUpgrade => "no_upgrade",
            Self::Version => "version",
            Self::Key => "key",
            Self::Body => "body",
            Self::Subprotocol => "subprotocol",
            Self::ForeignOrigin => "foreign_origin",
            Self::Busy { .. } => "busy",
        }
    }

    /// The response's status.
    pub fn status(self) -> Status {
        match self {
            Self::NotFound => Status::NotFound,
            Self::Method => Status::MethodNotAllowed,
            Self::NoUpgrade | Self::Version => Status::UpgradeRequired,
            Self::Key | Self::Body | Self::Subprotocol => Status::BadRequest,
            Self::ForeignOrigin => Status::Forbidden,
            Self::Busy { .. } => Status::ServiceUnavailable,
        }
    }

    /// The whole response.
    pub fn response(self) -> Vec<u8> {
        let response = Response::text(self.status(), self.to_string());
        match self {
            Self::Method => response.with("Allow", "GET"),
            Self::NoUpgrade => response.with("Upgrade", "websocket"),
            // RFC 6455 §4.4: the versions that would do.
            Self::Version => response.with("Upgrade", "websocket").with("Sec-WebSocket-Version", VERSION),
            Self::Busy { retry_after_s } => response.with("Retry-After", retry_after_s.to_string()),
            Self::NotFound | Self::Key | Self::Body | Self::Subprotocol | Self::ForeignOrigin => response,
        }
        .encode()
    }
}

/// Judges a request for a WebSocket at `path` and answers it (RFC 6455 §4.2). `spoken`: the subprotocols that the
/// server speaks; of these the one that the client names first is agreed on. Who serves a local address asks [`Head::is_same_origin`] first.
///
/// # Errors
/// [`Refusal`]; write its [`Refusal::response`] and close.
pub fn upgrade(head: &Head, path: &str, spoken: &[Subprotocol]) -> Result<Accepted, Refusal> {
    let headers = &head.headers;
    if head.path != path {
        return Err(Refusal::NotFound);
    }
    if head.method != "GET" {
        return Err(Refusal::Method);
    }
    if head.version_minor != 1 || !headers.lists("upgrade", "websocket") || !headers.lists("connection", "upgrade") {
        return Err(Refusal::NoUpgrade);
    }
    if head.header("sec-websocket-version") != Some(VERSION) {
        return Err(Refusal::Version);
    }
    if headers.all("transfer-encoding").next().is_some() || headers.all("content-length").any(|length| length != "0") {
        return Err(Refusal::Body);
    }
    let key = head.header("sec-websocket-key").filter(|key| is_key(key)).ok_or(Refusal::Key)?;
    let subprotocol = headers
        .list("sec-websocket-protocol")
        .find_map(|name| spoken.iter().copied().find(|ours| ours.name() == name))
        .ok_or(Refusal::Subprotocol)?;
    Ok(Accepted { response: switch(key, subprotocol), subprotocol })
}

fn is_key(key: &str) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES)
}

/// The 101 response (RFC 6455 §4.2.2). No extension is ever agreed on.
fn switch(key: &str, subprotocol: Subprotocol) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
        derive_accept_key(key.as_bytes()),
        subprotocol.name()
    )
    .into_bytes()
}

/// What a client must remember from its request to its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    accept: String,
    offered: Vec<Subprotocol>,
}

/// A client's request (RFC 6455 §4.1), and what [`check_upgrade_response`] needs. `nonce` is random.
pub fn upgrade_request(url: &WsUrl, offered: &[Subprotocol], nonce: [u8; KEY_BYTES]) -> (Vec<u8>, Asked) {
    let key = STANDARD.encode(nonce);
    let names: Vec<_> = offered.iter().map(|subprotocol| subprotocol.name()).collect();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: {VERSION}\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
        url.path,
        url.authority(),
        names.join(", ")
    );
    let asked = Asked { accept: derive_accept_key(key.as_bytes()), offered: offered.to_vec() };
    (request.into_bytes(), asked)
}

/// Why a server's answer is not the WebSocket that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Not HTTP, or a head beyond its bounds.
    #[error("the server's answer is not a readable HTTP response")]
    Head(#[from] HeadError),
    /// The server says no.
    #[error("the server answers with HTTP status {status}")]
    Status {
        /// The status code.
        status: u16,
        /// Retry-After in seconds, where the server gives one as a number.
        retry_after_s: Option<u32>,
    },
    /// 101, but not to WebSocket, or not in answer to this request.
    #[error("the server's answer is not a WebSocket handshake (is there a proxy in between?)")]
    NotWebSocket,
    /// No subprotocol, or one that was not offered.
    #[error("the server does not agree on a subprotocol (is this a wstether gateway?)")]
    Subprotocol,
    /// An extension that was not offered.
    #[error("the server wants a WebSocket extension that was not offered")]
    Extension,
}

/// Checks a server's answer (RFC 6455 §4.1) from the start of what it has sent so far.
///
/// `Ok(None)`: not all of it is there yet. Frames may follow behind the consumed bytes.
///
/// # Errors
/// [`UpgradeError`]; close.
pub fn check_upgrade_response(bytes: &[u8], asked: &Asked) -> Result<Option<(Subprotocol, usize)>, UpgradeError> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut lines);
    let Some(consumed) = complete(response.parse(bounded(bytes)), bytes)? else { return Ok(None) };
    let headers = Headers::from_lines(response.headers);
    let status = response.code.unwrap_or(0);
    if status != Status::SwitchingProtocols as u16 {
        let retry_after_s = headers.one("retry-after").and_then(|seconds| seconds.parse().ok());
        return Err(UpgradeError::Status { status, retry_after_s });
    }
    let is_upgrade = headers.lists("upgrade", "websocket") && headers.lists("connection", "upgrade");
    if !is_upgrade || headers.one("sec-websocket-accept") != Some(asked.accept.as_str()) {
        return Err(UpgradeError::NotWebSocket);
    }
    if headers.list("sec-websocket-extensions").next().is_some() {
        return Err(UpgradeError::Extension);
    }
    let agreed = headers.one("sec-websocket-protocol").and_then(Subprotocol::from_name);
    match agreed.filter(|subprotocol| asked.offered.contains(subprotocol)) {
        Some(subprotocol) => Ok(Some((subprotocol, consumed))),
        None => Err(UpgradeError::Subprotocol),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_head;
    use super::*;
    use proptest::prelude::*;

    /// The example of RFC 6455 §1.3, with our path and subprotocols.
    const LINES: [&str; 6] = [
        "Host: server.example.com",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: wstether.v1.base64, wstether.v1",
    ];

    fn judge(request_line: &str, lines: &[&str]) -> Result<Accepted, Refusal> {
        let request = format!("{request_line}\r\n{}\r\n\r\n", lines.join("\r\n"));
        let (head, _) = parse_head(request.as_bytes()).expect("a head").expect("all of it");
        upgrade(&head, PATH, &Subprotocol::ALL)
    }

    /// The example with one line changed; an empty one leaves it out.
    fn with(line: usize, changed: &str) -> Result<Accepted, Refusal> {
        let mut lines = LINES.to_vec();
        lines[line] = changed;
        lines.retain(|line| !line.is_empty());
        judge("GET /wstether HTTP/1.1", &lines)
    }

    #[test]
    fn the_rfcs_example_is_accepted_with_the_clients_preference() {
        let accepted = judge("GET /wstether HTTP/1.1", &LINES).expect("accepted");
        assert_eq!(accepted.subprotocol, Subprotocol::Base64);
        let response = String::from_utf8(accepted.response).expect("text");
        assert!(response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(response.ends_with("Sec-WebSocket-Protocol: wstether.v1.base64\r\n\r\n"));
        let binary = with(5, "Sec-WebSocket-Protocol: later.v9, wstether.v1").expect("accepted");
        assert_eq!(binary.subprotocol, Subprotocol::Binary);
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_own_refusal() {
        assert_eq!(judge("GET / HTTP/1.1", &LINES), Err(Refusal::NotFound));
        assert_eq!(judge("POST /wstether HTTP/1.1", &LINES), Err(Refusal::Method));
        assert_eq!(judge("GET /wstether HTTP/1.0", &LINES), Err(Refusal::NoUpgrade));
        assert_eq!(with(1, ""), Err(Refusal::NoUpgrade));
        assert_eq!(with(1, "Upgrade: h2c"), Err(Refusal::NoUpgrade));
        assert_eq!(with(2, "Connection: close"), Err(Refusal::NoUpgrade));
        assert_eq!(with(3, ""), Err(Refusal::Key));
        assert_eq!(with(3, "Sec-WebSocket-Key: c2hvcnQ="), Err(Refusal::Key));
        assert_eq!(with(4, "Sec-WebSocket-Version: 8"), Err(Refusal::Version));
        assert_eq!(with(5, ""), Err(Refusal::Subprotocol));
        assert_eq!(with(5, "Sec-WebSocket-Protocol: WSTETHER.V1"), Err(Refusal::Subprotocol));
        let with_body = [LINES.as_slice(), &["Content-Length: 3"]].concat();
        assert_eq!(judge("GET /wstether HTTP/1.1", &with_body), Err(Refusal::Body));
    }

    #[test]
    fn a_refusal_says_what_would_be_right() {
        let text = |refusal: Refusal| String::from_utf8(refusal.response()).expect("text");
        assert!(text(Refusal::Version).contains("426 Upgrade Required\r\n"));
        assert!(text(Refusal::Version).contains("Sec-WebSocket-Version: 13\r\n"));
        assert!(text(Refusal::NoUpgrade).contains("Upgrade: websocket\r\n"));
        assert!(text(Refusal::Method).contains("Allow: GET\r\n"));
        let busy = text(Refusal::Busy { retry_after_s: 7 });
        assert!(busy.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && busy.contains("Retry-After: 7\r\n"));
    }

    fn ask(offered: &[Subprotocol]) -> (Vec<u8>, Asked) {
        let url = "ws://server.example.com:81/wstether".parse().expect("a URL");
        upgrade_request(&url, offered, *b"the sample nonce")
    }

    #[test]
    fn a_client_and_a_server_of_ours_agree_and_what_follows_is_left_alone() {
        for subprotocol in Subprotocol::ALL {
            let (request, asked) = ask(&[subprotocol]);
            let (head, consumed) = parse_head(&request).expect("a head").expect("all of it");
            assert_eq!((consumed, head.host()), (request.len(), Some("server.example.com:81")));
            let accepted = upgrade(&head, PATH, &Subprotocol::ALL).expect("accepted");
            let sent = [accepted.response.as_slice(), b"\x81\x00"].concat();
            for cut in 0..accepted.response.len() {
                assert_eq!(check_upgrade_response(&sent[..cut], &asked), Ok(None), "{cut} bytes");
            }
            assert_eq!(check_upgrade_response(&sent, &asked), Ok(Some((subprotocol, accepted.response.len()))));
        }
    }

    #[test]
    fn a_client_believes_no_answer_but_the_right_one() {
        let (_, asked) = ask(&[Subprotocol::Binary]);
        let right = String::from_utf8(switch("dGhlIHNhbXBsZSBub25jZQ==", Subprotocol::Binary)).expect("text");
        let judge = |from: &str, to: &str| check_upgrade_response(right.replace(from, to).as_bytes(), &asked);
        assert_eq!(judge("", ""), Ok(Some((Subprotocol::Binary, right.len()))));
        assert_eq!(judge("s3pP", "S3pP"), Err(UpgradeError::NotWebSocket));
        assert_eq!(judge("Upgrade: websocket\r\n", ""), Err(UpgradeError::NotWebSocket));
        assert_eq!(judge("wstether.v1", "wstether.v1.base64"), Err(UpgradeError::Subprotocol));
        assert_eq!(judge("Sec-WebSocket-Protocol: wstether.v1\r\n", ""), Err(UpgradeError::Subprotocol));
        let extended = "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
        assert_eq!(judge("Upgrade: websocket\r\n", extended), Err(UpgradeError::Extension));
        assert_eq!(judge("HTTP/1.1", "SSH-2.0"), Err(UpgradeError::Head(HeadError::Malformed)));
        let busy = Refusal::Busy { retry_after_s: 7 }.response();
        let status = UpgradeError::Status { status: 503, retry_after_s: Some(7) };
        assert_eq!(check_upgrade_response(&busy, &asked), Err(status));
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; super::super::HEAD_BYTES_MAX]].concat();
        assert_eq!(check_upgrade_response(&endless, &asked), Err(UpgradeError::Head(HeadError::TooLong)));
    }

    proptest! {
        #[test]
        fn any_answer_gives_the_same_result_however_it_is_split(
            start in "(HTTP/1\\.1 [0-9]{3} [ -~]{0,9}\r\n)?",
            lines in "((Upgrade|Retry-After|[a-z]{1,9}): ?[ -~]{0,20}\r\n){0,9}",
            end in proptest::collection::vec(any::<u8>(), 0..40),
            cut in any::<proptest::sample::Index>(),
        ) {
            let (_, asked) = ask(&Subprotocol::ALL);
            let bytes = [start.as_bytes(), lines.as_bytes(), &end].concat();
            let early = check_upgrade_response(&bytes[..cut.index(bytes.len() + 1)], &asked);
            if early != Ok(None) {
                prop_assert_eq!(early, check_upgrade_response(&bytes, &asked));
            }
        }
    }
}
