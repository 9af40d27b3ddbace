//! Dialling: what goes wrong is told apart, and what to do is said.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use wstether::dial::{DialError, DialSettings, Dialled, During, TlsClient, TlsClientError, dial, wait};
use wstether::http::url::WsUrl;
use wstether::stop::Stop;
use wstether::wire::frame::Subprotocol;

use super::websockets::{Authority, PATIENCE, Server, no_extra_trust};

fn reach(url: &WsUrl, tls: &TlsClient) -> Result<Dialled, DialError> {
    dial(url, &Subprotocol::ALL, tls, &DialSettings::default())
}

/// What a dial comes to where the server answers with this.
fn answered(response: &'static str) -> DialError {
    let server = Server::plain();
    let url = server.url();
    let answering = thread::spawn(move || answer(&server, response));
    let error = reach(&url, &no_extra_trust()).unwrap_err();
    answering.join().unwrap();
    error
}

/// Answers and hangs up, not before something was asked: a connection that is closed with bytes unread is reset.
fn answer(server: &Server, response: &str) {
    let mut stream = server.stream();
    let mut request = [0; 4096];
    assert_ne!(stream.read(&mut request).unwrap(), 0);
    stream.write_all(response.as_bytes()).unwrap();
}

#[test]
fn a_websocket_is_open_when_the_dial_returns() {
    let server = Server::plain();
    let url = server.url();
    let accepted = thread::spawn(move || server.accept());
    let dialled = reach(&url, &no_extra_trust()).unwrap();
    let _socket = accepted.join().unwrap();
    assert_eq!((dialled.subprotocol, dialled.transport.peer().port()), (Subprotocol::Binary, url.port));
    let socket = SockRef::from(&dialled.transport);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(20)));
    assert!(socket.tcp_nodelay().unwrap() && socket.nonblocking().unwrap());
    let now = Instant::now();
    assert!(!wait(&dialled.transport, true, false, now).unwrap(), "nothing was sent");
    assert!(wait(&dialled.transport, true, true, now + PATIENCE).unwrap(), "it can be written");
}

#[test]
fn bytes_behind_the_upgrade_are_kept() {
    let server = Server::plain();
    let url = server.url();
    let accepted = thread::spawn(move || {
        let mut socket = server.accept();
        socket.send(tungstenite::Message::binary("hello")).unwrap();
        socket
    });
    let Dialled { transport, mut rest, .. } = reach(&url, &no_extra_trust()).unwrap();
    let _socket = accepted.join().unwrap();
    while rest.len() < 7 && wait(&transport, true, false, Instant::now() + PATIENCE).unwrap() {
        let mut chunk = [0; 64];
        let read = transport.read(&mut chunk).unwrap();
        rest.extend_from_slice(&chunk[..read]);
    }
    assert_eq!(rest, b"\x82\x05hello");
}

#[test]
fn a_certificate_of_a_ca_that_was_named_is_trusted() {
    let authority = Authority::new("dial-trusted");
    let server = authority.server("localhost");
    let url = server.url();
    let accepted = thread::spawn(move || server.accept());
    let dialled = reach(&url, &authority.trusted()).unwrap();
    assert!(dialled.transport.is_encrypted());
    drop(accepted.join().unwrap());
}

/// What is wrong with the certificate of a server.
fn refused(server: Server, trust: &TlsClient) -> DialError {
    let url = server.url();
    let refused = thread::spawn(move || {
        let mut stream = server.stream();
        let mut tls = server.tls().unwrap();
        while matches!(tls.complete_io(&mut stream), Ok((1.., _))) {}
    });
    let error = reach(&url, trust).unwrap_err();
    refused.join().unwrap();
    error
}

#[test]
fn a_certificate_is_refused_where_its_ca_or_its_name_is_another() {
    let authority = Authority::new("dial-refused");
    for (server, trust) in
        [(authority.server("localhost"), no_extra_trust()), (authority.server("another.example"), authority.trusted())]
    {
        let error = refused(server, &trust);
        assert!(matches!(error, DialError::Certificate { .. }), "{error}");
    }
}

/// What `openssl req -x509` makes: it is for a host, and says that it is an authority's.
fn self_signed(file: &str, host: &str, years: [i32; 2]) -> Authority {
    let mut params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
    [params.not_before, params.not_after] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
    Authority::with(file, params)
}

#[test]
fn a_self_signed_certificate_that_was_named_is_trusted_and_its_like_are_not() {
    let own = self_signed("dial-own", "localhost", [2000, 4000]);
    let server = own.itself();
    let url = server.url();
    let accepted = thread::spawn(move || server.accept());
    let dialled = reach(&url, &own.trusted()).unwrap();
    assert!(dialled.transport.is_encrypted());
    drop(accepted.join().unwrap());

    let another_name = self_signed("dial-own-name", "another.example", [2000, 4000]);
    let its_like = self_signed("dial-own-like", "localhost", [2000, 4000]);
    for (server, trust) in [
        (another_name.itself(), another_name.trusted()),
        (own.itself(), its_like.trusted()),
        (own.itself(), no_extra_trust()),
    ] {
        let error = refused(server, &trust);
        assert!(matches!(error, DialError::Certificate { .. }), "{error}");
    }
}

#[test]
fn the_dates_of_a_self_signed_certificate_count() {
    for (file, years, wrong) in [
        ("dial-expired", [2000, 2001], "expired on 2001-01-01T00:00:00Z"),
        ("dial-too-early", [3999, 4000], "is not valid before 3999-01-01T00:00:00Z"),
    ] {
        let own = self_signed(file, "localhost", years);
        let error = refused(own.itself(), &own.trusted());
        assert!(matches!(error, DialError::Dates { .. }), "{error}");
        let told = format!("the certificate of localhost {wrong}; whoever runs the gateway has to renew it");
        assert!(error.to_string().starts_with(&told), "{error}");
    }
}

#[test]
fn a_certificate_for_no_host_is_told_as_that() {
    let own = Authority::new("dial-nameless");
    let error = refused(own.itself(), &own.trusted());
    assert!(matches!(error, DialError::Nameless { .. }), "{error}");
    assert!(error.to_string().starts_with("the certificate of localhost is for no host; whoever runs"), "{error}");
}

#[test]
fn a_refused_connection_is_told() {
    let server = Server::plain();
    let url = server.url();
    drop(server);
    let error = reach(&url, &no_extra_trust()).unwrap_err();
    assert!(matches!(error, DialError::Refused { peer } if peer.port() == url.port), "{error}");
}

#[test]
fn a_name_without_an_address_is_told() {
    let error = reach(&"ws://gateway.invalid/wstether".parse().unwrap(), &no_extra_trust()).unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. } | DialError::TimedOut { during: During::Resolve }), "{error}");
}

#[test]
fn what_is_not_a_gateway_is_told_from_a_busy_one_and_from_a_web_server_in_front() {
    let error = answered("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(error.to_string().contains("try again in 7 s"), "{error}");
    let error = answered("HTTP/1.1 404 Not Found\r\n\r\n");
    assert!(error.to_string().contains("status 404"), "{error}");
    assert!(matches!(error, DialError::NotWstether { .. }));
    let error = answered("HTTP/1.1 426 Upgrade Required\r\n\r\n");
    assert!(error.to_string().contains("does not pass on Upgrade"), "{error}");
    for response in ["HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP/1.1 504 Gateway Timeout\r\n\r\n"] {
        let error = answered(response);
        assert!(error.to_string().contains("is the gateway behind it running?"), "{error}");
    }
    let error = answered("SSH-2.0-OpenSSH\r\n");
    assert!(matches!(error, DialError::NotWstether { .. }), "{error}");
    let error = answered("");
    assert!(matches!(error, DialError::HungUp { .. }), "{error}");
}

#[test]
fn tls_to_a_server_without_tls_is_told() {
    let server = Server::plain();
    let url = WsUrl { tls: true, ..server.url() };
    let answering = thread::spawn(move || answer(&server, "HTTP/1.1 400 Bad Request\r\n\r\n"));
    let error = reach(&url, &no_extra_trust()).unwrap_err();
    answering.join().unwrap();
    assert!(matches!(error, DialError::Tls { .. }), "{error}");
}

#[test]
fn a_server_that_wants_tls_is_told() {
    // An alert: unexpected message.
    let error = answered("\x15\x03\x03\x00\x02\x02\x0a");
    assert!(matches!(error, DialError::SpeaksTls { .. }) && error.to_string().contains("wss://"), "{error}");
}

#[test]
fn a_silent_server_is_given_up() {
    let server = Server::plain();
    let settings = DialSettings { timeout: Duration::from_millis(50), ..DialSettings::default() };
    let error = dial(&server.url(), &Subprotocol::ALL, &no_extra_trust(), &settings).unwrap_err();
    assert!(matches!(error, DialError::TimedOut { during: During::Handshake(_) }), "{error}");
}

#[test]
fn the_word_to_stop_ends_a_dial() {
    let (server, stop) = (Server::plain(), Stop::new().unwrap());
    stop.trigger();
    let settings = DialSettings { timeout: PATIENCE, stop: Some(&stop), ..DialSettings::default() };
    let error = dial(&server.url(), &Subprotocol::ALL, &no_extra_trust(), &settings).unwrap_err();
    assert!(matches!(error, DialError::Stopped), "{error}");
}

#[test]
fn a_socket_is_prepared_before_it_connects() {
    let server = Server::plain();
    let called = AtomicUsize::new(0);
    let before_connect = |socket: &socket2::Socket| {
        called.fetch_add(1, Ordering::SeqCst);
        assert!(socket.peer_addr().is_err(), "it is not connected yet");
        Err(std::io::Error::other("not marked"))
    };
    let settings = DialSettings { before_connect: Some(&before_connect), ..DialSettings::default() };
    let error = dial(&server.url(), &Subprotocol::ALL, &no_extra_trust(), &settings).unwrap_err();
    assert!(error.to_string().contains("not marked"), "{error}");
    assert_eq!(called.load(Ordering::SeqCst), 1);
}

#[test]
fn a_file_without_certificates_is_told() {
    let cargo = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let empty = TlsClient::new(Some(cargo.as_ref())).unwrap_err();
    assert!(matches!(empty, TlsClientError::Empty { .. }), "{empty}");
    let device = TlsClient::new(Some("/dev/zero".as_ref())).unwrap_err();
    assert!(device.to_string().contains("/dev/zero: it is no regular file"), "{device}");
    let missing = TlsClient::new(Some("/nonexistent/ca.pem".as_ref())).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/ca.pem"), "{missing}");
}
