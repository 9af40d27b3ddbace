//! The little HTTP/1.1 that wstether speaks: request heads in, responses out, and the WebSocket handshake on both sides.
//!
//! Pure functions over bytes: whoever owns the socket (the gateway's accept stage, the client's page server, the headless
//! relay, the metrics server) reads, asks here, and writes the answer. A request with a body is never read past its head,
//! so every response but a switch of protocols closes the connection.

use std::borrow::Cow;
use std::net::IpAddr;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod upgrade;
pub mod url;

/// The longest request or response head that is read. A browser's is below 2 KiB; a proxy adds a few hundred bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The most header lines in a head. Browsers send about 15.
pub const HEADERS_MAX: usize = 64;

/// What a page of ours may do in a browser: its own files, and WebSockets to anywhere (the gateway's host is the
/// client's choice).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Why a request head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than [`HEAD_BYTES_MAX`] bytes without an end.
    #[error("the request's head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// More than [`HEADERS_MAX`] header lines.
    #[error("the request has more than {HEADERS_MAX} header lines")]
    TooManyHeaders,
    /// Not HTTP/1.x (RFC 9112).
    #[error("this is not an HTTP/1.1 request")]
    Malformed,
}

impl HeadError {
    /// The label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLong => "head_too_long",
            Self::TooManyHeaders => "too_many_headers",
            Self::Malformed => "malformed_head",
        }
    }

    /// The whole response: 431 (RFC 6585 §5) or 400.
    pub fn response(self) -> Vec<u8> {
        let status = match self {
            Self::TooLong | Self::TooManyHeaders => Status::HeadTooLarge,
            Self::Malformed => Status::BadRequest,
        };
        Response::text(status, self.to_string()).encode()
    }
}

/// The header lines of a head, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Headers(Vec<(String, String)>);

impl Headers {
    /// Values are ASCII or they are not ours to read: a line that is not UTF-8 is kept with its bytes replaced.
    fn from_lines(lines: &[httparse::Header<'_>]) -> Self {
        let line = |h: &httparse::Header<'_>| (h.name.to_owned(), String::from_utf8_lossy(h.value).trim().to_owned());
        Self(lines.iter().map(line).collect())
    }

    fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The value of the one line of this name; several lines count as none.
    fn one<'a>(&'a self, name: &str) -> Option<&'a str> {
        let mut values = self.all(name);
        let first = values.next();
        first.filter(|_| values.next().is_none())
    }

    /// The elements of a comma-separated list, over all lines of this name (RFC 9110 §5.6.1).
    fn list<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.all(name).flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
    }

    fn lists(&self, name: &str, element: &str) -> bool {
        self.list(name).any(|found| found.eq_ignore_ascii_case(element))
    }
}

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    method: String,
    path: String,
    query: Option<String>,
    version_minor: u8,
    headers: Headers,
}

impl Head {
    /// The method, as it came: methods are case-sensitive.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path, without the query, percent-encoded as it came.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What stood behind the question mark.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The header of this name, in any case; `None` also where it stands twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.one(name)
    }

    /// The Host header: with a port where it is not the scheme's own.
    pub fn host(&self) -> Option<&str> {
        self.headers.one("host")
    }

    /// The Host header's address; `None` for a name. A page of any site can have its own name point to a local address
    /// (DNS rebinding) and is then of the same origin: a server on a local address asks for an address here, too.
    pub fn host_address(&self) -> Option<IpAddr> {
        let (host, _) = url::split_authority(self.host()?).ok()?;
        host.parse().ok()
    }

    /// Whether a browser's request comes from a page of this same host (RFC 6454). A request without an Origin does not
    /// come from a page at all, and passes. A server on a local address needs this check: any site's page may try it.
    pub fn is_same_origin(&self) -> bool {
        let mut origins = self.headers.all("origin");
        let Some(origin) = origins.next() else { return true };
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        origins.next().is_none() && authority.is_some() && authority == self.host()
    }
}

/// Parses a request's head (RFC 9112 §2) from the start of what a connection has sent so far.
///
/// `Ok(None)`: not all of it is there yet. `Ok(Some((head, consumed)))`: what comes behind `consumed` bytes belongs to the
/// next protocol. At most [`HEAD_BYTES_MAX`] bytes are looked at.
///
/// # Errors
/// [`HeadError`]; write its [`HeadError::response`] and close.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let Some(consumed) = complete(request.parse(bounded(bytes)), bytes)? else { return Ok(None) };
    let (Some(method), Some(target), Some(version_minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Malformed);
    };
    let (path, query) = split_target(target).ok_or(HeadError::Malformed)?;
    let headers = Headers::from_lines(request.headers);
    // RFC 9112 §3.2: exactly one Host.
    if version_minor == 1 && headers.one("host").is_none() {
        return Err(HeadError::Malformed);
    }
    let head = Head { method: method.to_owned(), path, query, version_minor, headers };
    Ok(Some((head, consumed)))
}

fn bounded(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(HEAD_BYTES_MAX)]
}

/// The head's length, if its end has come.
fn complete(parsed: httparse::Result<usize>, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    match parsed {
        Ok(httparse::Status::Complete(consumed)) => Ok(Some(consumed)),
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => Err(HeadError::TooLong),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooManyHeaders),
        Err(_) => Err(HeadError::Malformed),
    }
}

/// Path and query of a request target in origin-form or absolute-form (RFC 9112 §3.2).
fn split_target(target: &str) -> Option<(String, Option<String>)> {
    let origin_form = match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    };
    let (path, query) = match origin_form.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (origin_form, None),
    };
    path.starts_with('/').then(|| (path.to_owned(), query))
}

/// The statuses that wstether answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of RFC 9110 §15")]
pub enum Status {
    SwitchingProtocols = 101,
    Ok = 200,
    BadRequest = 400,
    Forbidden = 403,
    NotFound = 404,
    MethodNotAllowed = 405,
    UpgradeRequired = 426,
    HeadTooLarge = 431,
    ServiceUnavailable = 503,
}

impl Status {
    fn reason_phrase(self) -> &'static str {
        match self {
            Self::SwitchingProtocols => "Switching Protocols",
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::UpgradeRequired => "Upgrade Required",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::ServiceUnavailable => "Service Unavailable",
        }
    }
}

/// A response, which closes the connection.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    status: Status,
    headers: Vec<(&'static str, String)>,
    body: Cow<'a, [u8]>,
    without_body: bool,
}

impl<'a> Response<'a> {
    /// A short plain text: what is wrong and what would be right.
    pub fn text(status: Status, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self::new(status, "text/plain; charset=utf-8", text.into_bytes())
    }

    /// A response with a body of this type.
    pub fn new(status: Status, content_type: &'static str, body: impl Into<Cow<'a, [u8]>>) -> Self {
        let headers = vec![("Content-Type", content_type.to_owned())];
        Self { status, headers, body: body.into(), without_body: false }
    }

    /// One more header line. The value is the program's own: it holds no line break.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Answers a GET as it is, and a HEAD with the head alone (RFC 9110 §9.3.2); any other method is refused.
    #[must_use]
    pub fn to_request(mut self, head: &Head) -> Self {
        match head.method() {
            "GET" => self,
            "HEAD" => {
                self.without_body = true;
                self
            }
            _ => {
                Self::text(Status::MethodNotAllowed, "Only GET and HEAD are answered here.").with("Allow", "GET, HEAD")
            }
        }
    }

    /// The response as it goes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status as u16, self.status.reason_phrase());
        let mut line = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        for (name, value) in &self.headers {
            line(name, value);
        }
        line("Content-Length", &self.body.len().to_string());
        line("Connection", "close");
        line("Cache-Control", "no-store");
        line("Content-Security-Policy", CONTENT_SECURITY_POLICY);
        line("Referrer-Policy", "no-referrer");
        line("X-Content-Type-Options", "nosniff");
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !self.without_body {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// The answer to a path that is not there.
pub fn not_found(head: &Head) -> Response<'static> {
    Response::text(Status::NotFound, "Nothing is here. The page is at /.").to_request(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: &[u8] = b"GET /status?full=1 HTTP/1.1\r\nHost: gateway.example:8080\r\nAccept: */*\r\n\r\n";

    fn head(request: &str) -> Head {
        parse_head(request.as_bytes()).expect("a head").expect("all of it").0
    }

    #[test]
    fn a_head_ends_where_the_next_protocol_begins() {
        let sent = [REQUEST, b"\x82\x00"].concat();
        let (head, consumed) = parse_head(&sent).expect("a head").expect("all of it");
        assert_eq!((head.method(), head.path(), head.query()), ("GET", "/status", Some("full=1")));
        assert_eq!((head.host(), head.header("accept")), (Some("gateway.example:8080"), Some("*/*")));
        assert_eq!(&sent[consumed..], b"\x82\x00");
    }

    #[test]
    fn a_head_that_is_not_there_yet_is_waited_for_and_an_endless_one_is_refused() {
        for length in 0..REQUEST.len() {
            assert_eq!(parse_head(&REQUEST[..length]), Ok(None), "{length} bytes");
        }
        let endless = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &vec![b'x'; HEAD_BYTES_MAX]].concat();
        assert_eq!(parse_head(&endless), Err(HeadError::TooLong));
        assert!(HeadError::TooLong.response().starts_with(b"HTTP/1.1 431 "));
    }

    #[test]
    fn too_many_header_lines_are_refused() {
        let lines = "X: y\r\n".repeat(HEADERS_MAX);
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(parse_head(request.as_bytes()), Err(HeadError::TooManyHeaders));
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        for request in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        ] {
            assert_eq!(parse_head(request.as_bytes()), Err(HeadError::Malformed), "{request:?}");
        }
        assert!(HeadError::Malformed.response().starts_with(b"HTTP/1.1 400 "));
    }

    #[test]
    fn a_target_in_absolute_form_names_the_same_path() {
        assert_eq!(head("GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n").path(), "/x");
        assert_eq!(head("GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n").path(), "/");
    }

    #[test]
    fn a_page_of_another_site_is_told_from_our_own() {
        let of = |origin: &str| head(&format!("GET / HTTP/1.1\r\nHost: 192.0.2.1:7\r\n{origin}\r\n")).is_same_origin();
        assert!(of(""));
        assert!(of("Origin: http://192.0.2.1:7\r\n"));
        assert!(!of("Origin: http://192.0.2.1\r\n"));
        assert!(!of("Origin: null\r\n"));
        assert!(!of("Origin: http://192.0.2.1:7\r\nOrigin: https://elsewhere.example\r\n"));
    }

    #[test]
    fn a_host_that_is_a_name_is_told_from_an_address() {
        let of = |host: &str| head(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).host_address();
        assert_eq!(of("192.0.2.1:7"), "192.0.2.1".parse().ok());
        assert_eq!(of("[2001:db8::1]"), "2001:db8::1".parse().ok());
        assert_eq!(of("rebound.example:7"), None);
        assert_eq!(of("[2001:db8::1"), None);
    }

    #[test]
    fn get_is_answered_with_the_body_head_without_and_post_not_at_all() {
        let answer = |method: &str| {
            let head = head(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            String::from_utf8(Response::new(Status::Ok, "text/css", b"body".as_slice()).to_request(&head).encode())
                .expect("text")
        };
        let get = answer("GET");
        assert!(
            get.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nContent-Length: 4\r\nConnection: close\r\n")
        );
        for line in ["Cache-Control: no-store", "Referrer-Policy: no-referrer", "X-Content-Type-Options: nosniff"] {
            assert!(get.contains(line), "{line}");
        }
        assert_eq!(answer("HEAD"), get.strip_suffix("body").expect("the body"));
        assert!(answer("POST").starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(answer("POST").contains("Allow: GET, HEAD\r\n"));
    }

    /// Bytes that look like requests more often than chance does.
    fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "(GET|HEAD|POST) [ -~]{0,20} HTTP/1\\.[012]\r\n".prop_map(String::into_bytes),
            8 => "(Host|Upgrade|Origin|[ -~]{0,9}):[ -~]{0,20}\r\n".prop_map(String::into_bytes),
            4 => Just(b"\r\n".to_vec()),
            2 => proptest::collection::vec(any::<u8>(), 0..20),
            1 => (0..HEAD_BYTES_MAX * 2).prop_map(|length| vec![b'x'; length]),
        ];
        proptest::collection::vec(piece, 0..90).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_result_however_they_are_split(
            bytes in nearly_requests(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let whole = parse_head(&bytes);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let early = cuts.into_iter().map(|cut| parse_head(&bytes[..cut])).find(|result| *result != Ok(None));
            if let Some(early) = early {
                prop_assert_eq!(early, whole);
            }
        }
    }
}
