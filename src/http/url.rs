//! WebSocket URLs (RFC 6455 §3).

use std::fmt;
use std::str::FromStr;

/// The longest URL that is read.
const URL_BYTES_MAX: usize = 2048;

/// Where a WebSocket server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WsUrl {
    /// `wss`: over TLS.
    pub tls: bool,
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    /// The TCP port; the scheme's own (80, 443) where the URL has none.
    pub port: u16,
    /// Path and query, `/` at least.
    pub path: String,
}

/// Why a text is not a WebSocket URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Too long, or a character that no URL has.
    #[error("a URL is up to {URL_BYTES_MAX} visible ASCII characters")]
    Characters,
    /// Another scheme than ws and wss.
    #[error("a WebSocket URL starts with ws:// or wss://")]
    Scheme,
    /// No host, or one that is neither a name nor an address.
    #[error("the URL has no host, or one that is neither a name nor an address")]
    Host,
    /// A port that is not 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// User name or password (RFC 3986, 3.2.1).
    #[error("a WebSocket URL has no user name and no password: leave out what stands before the @")]
    UserInfo,
    /// A fragment.
    #[error("a WebSocket URL has no fragment (#)")]
    Fragment,
}

impl WsUrl {
    /// The Host header (RFC 9110 §7.2): the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.tls) { host } else { format!("{host}:{}", self.port) }
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl FromStr for WsUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        if url.len() > URL_BYTES_MAX || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Characters);
        }
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // A password with a slash in it looks like a port and a path.
        let wrong = |error| if rest.contains('@') { UrlError::UserInfo } else { error };
        let (host, port) = split_authority(authority).map_err(wrong)?;
        let port = match port {
            None | Some("") => Some(default_port(tls)),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            Some(_) => None,
        };
        let port = port.filter(|port| *port > 0).ok_or_else(|| wrong(UrlError::Port))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { tls, host: host.to_owned(), port, path })
    }
}

/// Host (without brackets) and port of an authority.
pub(super) fn split_authority(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(UrlError::Host),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(is_name) {
        return Err(UrlError::Host);
    }
    Ok((host, port))
}

impl fmt::Display for WsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "wss" } else { "ws" }, self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(url: &str) -> Result<WsUrl, UrlError> {
        url.parse()
    }

    #[test]
    fn a_url_has_scheme_host_port_and_path() {
        let url = parse("wss://gateway.example:8443/wstether?x=1").expect("a URL");
        assert!(url.tls);
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("gateway.example", 8443, "/wstether?x=1"));
        assert_eq!(url.authority(), "gateway.example:8443");
    }

    #[test]
    fn what_is_left_out_is_the_schemes_own() {
        let url = parse("ws://192.0.2.1").expect("a URL");
        assert_eq!((url.port, url.path.as_str(), url.authority().as_str()), (80, "/", "192.0.2.1"));
        assert_eq!(parse("WSS://[2001:db8::1]?q").expect("a URL").to_string(), "wss://[2001:db8::1]/?q");
    }

    #[test]
    fn what_is_not_a_websocket_url_is_told_apart() {
        assert_eq!(parse("http://a/"), Err(UrlError::Scheme));
        assert_eq!(parse("a.example"), Err(UrlError::Scheme));
        assert_eq!(parse("ws:///x"), Err(UrlError::Host));
        assert_eq!(parse("ws://[::zz]/"), Err(UrlError::Host));
        assert_eq!(parse("ws://a:0/"), Err(UrlError::Port));
        assert_eq!(parse("ws://a:65536/"), Err(UrlError::Port));
        assert_eq!(parse("ws://a:+1/"), Err(UrlError::Port));
        for url in ["ws://me@a/", "ws://me:secret@a/", "ws://me:1@a/", "ws://me:se/cret@a/"] {
            assert_eq!(parse(url), Err(UrlError::UserInfo));
        }
        assert_eq!(parse("ws://a/@").map(|url| url.path), Ok("/@".to_owned()));
        assert_eq!(parse("ws://a/#x"), Err(UrlError::Fragment));
        assert_eq!(parse("ws://a/ b\r\nX: y"), Err(UrlError::Characters));
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic_and_a_url_survives_its_own_display(text in "(wss?://)?[ -~]{0,60}") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }
    }
}
