//! The gateway's figures over HTTP on a local address: `/metrics`, `/healthz`, `/readyz` and `/status`.
//!
//! Each connection has a thread of its own and is answered within a deadline, so that who connects and says nothing keeps
//! nobody waiting. There are only so many threads: beyond that the listener's own thread answers, one after the other.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use crate::metrics::{CONTENT_TYPE, LOOK_EVERY, Metrics, Process};
use crate::status::Status;

/// The longest request head. Prometheus sends about 300 bytes.
const HEAD_BYTES_MAX: usize = 8 * 1_024;

/// The most header fields in a request.
const HEADERS_MAX: usize = 64;

/// A request is read, and its answer written, within this time each: whoever is slower must not keep others waiting.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections with a thread of their own. Prometheus and a person's tools have a few.
const THREADS_MAX: usize = 32;

/// Pause after a failed accept (no descriptors left), so that the thread does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);

/// A running server. It stops when it is dropped.
#[derive(Debug)]
pub struct MetricsServer {
    local_addr: SocketAddr,
    stop: Waker,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Serves `metrics` on `addr`; port 0 takes any free one.
    ///
    /// # Errors
    /// The address is taken or not here, or a thread cannot be started.
    pub fn bind(addr: SocketAddr, metrics: Arc<Metrics>) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let local_addr = listener.local_addr()?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let stop = Waker::new(poll.registry(), STOP)?;
        let serve = move || serve(poll, &listener, &metrics, &Arc::default());
        let thread = thread::Builder::new().name("metrics".into()).spawn(serve)?;
        Ok(Self { local_addr, stop, thread: Some(thread) })
    }

    /// The address that is served.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        // A waker that fails leaves the thread waiting: then it is left to end with the process.
        if let (Ok(()), Some(thread)) = (self.stop.wake(), self.thread.take()) {
            drop(thread.join());
        }
    }
}

/// A place among the threads: each holds one.
type Place = Arc<()>;

fn serve(mut poll: Poll, listener: &mio::net::TcpListener, metrics: &Arc<Metrics>, places: &Place) {
    let mut events = Events::with_capacity(2);
    loop {
        // The status tells the last seconds apart.
        metrics.look(Instant::now());
        match poll.poll(&mut events, Some(LOOK_EVERY)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                tracing::error!(%error, "the metrics server ends: its readiness wait failed");
                return;
            }
            _ if events.iter().any(|event| event.token() == STOP) => return,
            Ok(()) | Err(_) => accept_all(listener, metrics, places),
        }
    }
}

/// Serves every connection that waits: readiness is told once, when the first one comes.
fn accept_all(listener: &mio::net::TcpListener, metrics: &Arc<Metrics>, places: &Place) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => receive(stream.into(), metrics, places),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::warn!(%error, "the metrics server cannot accept");
                thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

/// Answers a connection in a thread of its own, or here where there are enough of them.
fn receive(stream: TcpStream, metrics: &Arc<Metrics>, places: &Place) {
    let (metrics, place) = (Arc::clone(metrics), Arc::clone(places));
    let has_room = Arc::strong_count(places) - 1 <= THREADS_MAX;
    let answer = move || {
        if let Err(error) = converse(stream, &metrics) {
            tracing::debug!(%error, "a metrics connection ended early");
        }
        drop(place);
    };
    if !has_room {
        return answer();
    }
    if let Err(error) = thread::Builder::new().name("metrics-answer".into()).spawn(answer) {
        tracing::warn!(%error, "no thread for a metrics connection, which is closed");
    }
}

fn converse(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let answer = match read_head(&mut stream)? {
        Ok(head) => answer(&head, metrics),
        Err(refusal) => refusal,
    };
    write_all(&mut stream, answer.to_string().as_bytes())
}

/// Writes all of `bytes`, or fails when the reader does not take them in time.
fn write_all(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until the head's end. The answer where there is no whole head within bounds.
fn read_head(stream: &mut TcpStream) -> io::Result<Result<Vec<u8>, Answer>> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut len = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Err(Answer::plain(408, "Request Timeout", "no request within a second")));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut head[len..]) {
            Ok(0) if len == HEAD_BYTES_MAX => {
                return Ok(Err(Answer::plain(
                    431,
                    "Request Header Fields Too Large",
                    "the request's head is too long",
                )));
            }
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => len += more,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error),
        }
        if head[..len].windows(4).any(|end| end == b"\r\n\r\n") {
            head.truncate(len);
            return Ok(Ok(head));
        }
    }
}

/// A response: head and body.
#[derive(Debug)]
struct Answer {
    status: u16,
    reason: &'static str,
    content_type: &'static str,
    body: String,
    head_only: bool,
}

impl Answer {
    fn ok(content_type: &'static str, body: String) -> Self {
        Self { status: 200, reason: "OK", content_type, body, head_only: false }
    }

    fn plain(status: u16, reason: &'static str, text: &str) -> Self {
        Self { status, reason, content_type: "text/plain; charset=utf-8", body: format!("{text}\n"), head_only: false }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, reason, content_type, body, head_only } = self;
        write!(f, "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n", body.len())?;
        write!(f, "Cache-Control: no-store\r\nConnection: close\r\n\r\n")?;
        if *head_only { Ok(()) } else { f.write_str(body) }
    }
}

fn answer(head: &[u8], metrics: &Metrics) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let (Ok(_), Some(method), Some(path)) = (request.parse(head), request.method, request.path) else {
        return Answer::plain(400, "Bad Request", "this is no HTTP/1.1 request");
    };
    let head_only = method == "HEAD";
    if method != "GET" && !head_only {
        return Answer::plain(405, "Method Not Allowed", "GET and HEAD are served here");
    }
    let path = path.split('?').next().unwrap_or_default();
    Answer { head_only, ..page(path, metrics) }
}

fn page(path: &str, metrics: &Metrics) -> Answer {
    match path {
        "/metrics" => Answer::ok(CONTENT_TYPE, metrics.encode()),
        "/healthz" => Answer::plain(200, "OK", "alive"),
        "/readyz" => match metrics.gateway.ready.why_not() {
            None => Answer::plain(200, "OK", "ready"),
            Some(why) => Answer::plain(503, "Service Unavailable", &format!("not ready: {why}")),
        },
        "/status" => match serde_json::to_string(&Status::of(metrics, &Process::read())) {
            Ok(json) => Answer::ok("application/json", json),
            Err(error) => Answer::plain(500, "Internal Server Error", &error.to_string()),
        },
        _ => Answer::plain(404, "Not Found", "served here: /metrics, /healthz, /readyz, /status"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{GatewayMetrics, StageMetrics};

    fn server() -> (MetricsServer, Arc<Metrics>) {
        let stages = vec![StageMetrics::new("ip-parse", "uplink", &["malformed"])];
        let metrics = Arc::new(Metrics::new(stages, GatewayMetrics::new(&["full"])));
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        (MetricsServer::bind(addr, Arc::clone(&metrics)).expect("loopback"), metrics)
    }

    fn send(server: &MetricsServer, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(server.local_addr()).expect("it listens");
        stream.write_all(bytes).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and closes");
        answer
    }

    fn get(server: &MetricsServer, path: &str) -> String {
        send(server, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }

    #[test]
    fn metrics_are_prometheus_text() {
        let (server, metrics) = server();
        metrics.stages[0].packets_in.add(5);
        let answer = get(&server, "/metrics?name=x");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(answer.contains("\nwstether_stage_packets_in_total{stage=\"ip-parse\",direction=\"uplink\"} 5\n"));
    }

    #[test]
    fn alive_is_not_yet_ready_and_readiness_says_why_not() {
        let (server, metrics) = server();
        assert!(get(&server, "/healthz").ends_with("\r\n\r\nalive\n"));
        let answer = get(&server, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nnot ready: starting\n"), "{answer}");
        metrics.gateway.ready.set_ready();
        assert!(get(&server, "/readyz").starts_with("HTTP/1.1 200 "));
        metrics.gateway.ready.set_not_ready("stopping: draining");
        assert!(get(&server, "/readyz").ends_with("not ready: stopping: draining\n"));
    }

    #[test]
    fn the_status_is_json_that_reads_back() {
        let (server, metrics) = server();
        metrics.stages[0].packets_in.add(5);
        let answer = get(&server, "/status");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("Content-Type: application/json"));
        let status: Status = serde_json::from_str(body).expect("the model");
        assert_eq!(status.stages[0].packets, 5);
    }

    #[test]
    fn a_head_request_gets_the_head_alone() {
        let (server, _) = server();
        let answer = send(&server, b"HEAD /healthz HTTP/1.1\r\n\r\n");
        assert!(answer.contains("Content-Length: 6\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn what_is_not_served_is_refused_with_its_status() {
        let (server, _) = server();
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat();
        for (request, status) in [
            (b"GET /other HTTP/1.1\r\n\r\n".as_slice(), "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\x16\x03\x01\r\n\r\n", "400"),
            (&long[..HEAD_BYTES_MAX], "431"),
        ] {
            let answer = send(&server, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }

    #[test]
    fn who_sends_nothing_is_cut_and_others_are_served() {
        let (server, _) = server();
        let mut silent = TcpStream::connect(server.local_addr()).expect("it listens");
        assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200 "));
        let mut answer = String::new();
        silent.read_to_string(&mut answer).expect("it answers and closes");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }

    #[test]
    fn more_silent_connections_than_threads_do_not_shut_others_out() {
        let (server, _) = server();
        let connect = || TcpStream::connect(server.local_addr()).expect("it listens");
        let mut silent: Vec<_> = (0..THREADS_MAX + 2).map(|_| connect()).collect();
        assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200 "));
        for silent in &mut silent {
            let mut answer = String::new();
            silent.read_to_string(&mut answer).expect("it answers and closes");
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        }
    }

    #[test]
    fn a_dropped_server_no_longer_listens() {
        let (server, _) = server();
        let addr = server.local_addr();
        drop(server);
        assert!(TcpStream::connect(addr).is_err());
    }
}
