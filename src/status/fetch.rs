//! Asks a running gateway for its status.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Status;
use crate::config::{Client, Gateway, Role as _};

/// A gateway on a local address answers at once; after this it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than any status takes: about 1 KiB a stage.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answers at the address.
    #[error("no gateway answers at {addr}: {}; does it run, and is --address its metrics.listen?", in_words(source))]
    Unreachable {
        /// Where it was asked.
        addr: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// Somebody answers who is no gateway of this version.
    #[error(
        "what answers at {addr} is not a wstether gateway of this version: {why}; is --address its metrics.listen?"
    )]
    NotAGateway {
        /// Where it was asked.
        addr: SocketAddr,
        /// What is wrong with the answer.
        why: String,
    },
    /// It is a client, which has no status.
    #[error("what answers at {addr} is a wstether client, not a gateway: give --address a gateway's metrics.listen")]
    Client {
        /// Where it was asked.
        addr: SocketAddr,
    },
}

/// The status of the gateway whose metrics are served at `addr`.
///
/// # Errors
/// Nobody answers there, or with something else than a status.
pub fn fetch(addr: SocketAddr) -> Result<Status, FetchError> {
    let answer = ask(addr).map_err(|source| FetchError::Unreachable { addr, source })?;
    let status = read(&answer).map_err(|why| FetchError::NotAGateway { addr, why })?;
    match status.role.as_str() {
        Gateway::NAME => Ok(status),
        Client::NAME => Err(FetchError::Client { addr }),
        _ => Err(FetchError::NotAGateway { addr, why: "its role is another one".to_owned() }),
    }
}

/// A time that is over is "would block" to a socket.
fn in_words(error: &io::Error) -> String {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return format!("nothing came within {} s", PATIENCE.as_secs());
    }
    error.to_string()
}

fn ask(addr: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

fn read(answer: &[u8]) -> Result<Status, String> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer).map_err(|error| error.to_string())?;
    let (httparse::Status::Complete(head_len), Some(code)) = (parsed, response.code) else {
        return Err("the answer ends early".into());
    };
    if code != 200 {
        return Err(format!("HTTP status {code}"));
    }
    serde_json::from_slice(&answer[head_len..]).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{GatewayMetrics, Metrics, StageMetrics};
    use crate::metrics_server::MetricsServer;
    use proptest::prelude::*;
    use std::net::TcpListener;
    use std::sync::Arc;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn a_running_gateway_tells_its_status() {
        let stages = vec![StageMetrics::new("ip-parse", "uplink", &["malformed"])];
        stages[0].packets_in.add(9);
        let metrics = Arc::new(Metrics::new(stages, GatewayMetrics::new(&[])));
        let server = MetricsServer::bind(loopback(), metrics).expect("loopback");
        let status = fetch(server.local_addr()).expect("a status");
        assert_eq!((status.stages[0].packets, status.ready), (9, false));
    }

    #[test]
    fn who_accepts_and_says_nothing_is_told_as_such() {
        let source = io::Error::from(io::ErrorKind::WouldBlock);
        let told = FetchError::Unreachable { addr: ([127, 0, 0, 1], 9321).into(), source }.to_string();
        assert!(
            told.starts_with("no gateway answers at 127.0.0.1:9321: nothing came within 5 s; does it run"),
            "{told}"
        );
    }

    #[test]
    fn a_client_is_told_from_a_gateway() {
        let metrics = Metrics::new(Vec::new(), GatewayMetrics::new(&[])).of("client");
        let server = MetricsServer::bind(loopback(), Arc::new(metrics)).expect("loopback");
        let addr = server.local_addr();
        let told = format!(
            "what answers at {addr} is a wstether client, not a gateway: give --address a gateway's metrics.listen"
        );
        assert_eq!(fetch(addr).expect_err("no gateway").to_string(), told);
    }

    #[test]
    fn what_is_no_gateway_at_all_is_told_with_where_one_answers() {
        let listener = TcpListener::bind(loopback()).expect("loopback");
        let addr = listener.local_addr().expect("its address");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            assert_ne!(stream.read(&mut [0; 1_024]).expect("a request"), 0);
            stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").expect("it reads");
        });
        let told = format!(
            "what answers at {addr} is not a wstether gateway of this version: HTTP status 404; is --address its \
             metrics.listen?"
        );
        assert_eq!(fetch(addr).expect_err("no gateway").to_string(), told);
        server.join().expect("it answered");
    }

    #[test]
    fn where_nobody_listens_the_address_is_named() {
        let addr = TcpListener::bind(loopback()).and_then(|listener| listener.local_addr()).expect("a free port");
        let error = fetch(addr).expect_err("nobody is there");
        assert!(error.to_string().starts_with(&format!("no gateway answers at {addr}: ")), "{error}");
        assert!(error.to_string().ends_with("; does it run, and is --address its metrics.listen?"), "{error}");
    }

    #[test]
    fn an_answer_that_is_no_status_is_told() {
        for (answer, why) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "HTTP status 404"),
            ("HTTP/1.1 200 OK\r\n", "the answer ends early"),
            ("", "the answer ends early"),
        ] {
            assert_eq!(read(answer.as_bytes()).expect_err("no status"), why);
        }
        assert!(read(b"HTTP/1.1 200 OK\r\n\r\n{}").is_err());
        assert!(read(b"SSH-2.0-x\r\n").is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(answer in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&answer).is_err());
        }
    }
}
