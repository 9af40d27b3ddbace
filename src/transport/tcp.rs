//! What the kernel is told of a WebSocket's TCP: not to hide a second queue below the one that is managed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

use crate::config::values::{Auto, Bytes, Congestion};
use crate::io::tcp_info;

/// What "auto" means on a long path, where the kernel has it: BBR keeps the queue short that it makes in the network, and
/// takes a lost packet for chance where a radio loses some.
const ON_LONG_PATHS: &[u8] = b"bbr";

/// What "auto" means on a short path. BBR paces by a timer for each burst, which at 10 Gbit/s costs a third of the rate
/// (docs/decisions/0019), and a path without length has no queue and no radio that it would help with.
const ON_SHORT_PATHS: &[u8] = b"cubic";

/// A path is long from this round trip on: above what two busy machines need in one building, below any radio's.
const LONG_PATH: Duration = Duration::from_millis(5);

/// What the kernel offers (ip-sysctl, `tcp_available_congestion_control`).
const OFFERED: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Unsent bytes that a socket takes by default: the largest message fills it twice, so that there is always something to
/// send when the kernel may send; at 10 Mbit/s they are 26 ms, and only where the window lets that much be on its way.
const UNSENT_BYTES_MAX: u32 = 32_768;

/// How TCP is to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// The congestion control.
    pub congestion: Auto<Congestion>,
    /// A socket that holds so many bytes that it has not sent takes no more (TCP_NOTSENT_LOWAT).
    pub unsent_bytes_max: u32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { congestion: Auto::Auto, unsent_bytes_max: UNSENT_BYTES_MAX }
    }
}

impl TcpOptions {
    /// As they are configured.
    pub fn new(congestion: &Auto<Congestion>, unsent_max: Bytes) -> Self {
        let unsent_bytes_max = u32::try_from(unsent_max.0).unwrap_or(u32::MAX);
        Self { congestion: congestion.clone(), unsent_bytes_max }
    }

    /// Sets them on a socket. Those that a listener accepts have the listener's.
    ///
    /// # Errors
    /// The kernel has no such congestion control, or does not let this user have it; the text says what it offers.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_notsent_lowat(self.unsent_bytes_max)?;
        match &self.congestion {
            Auto::Is(name) => {
                let set = socket.set_tcp_congestion(name.as_str().as_bytes());
                set.map_err(|error| io::Error::new(error.kind(), not_offered(name, &error)))
            }
            Auto::Auto => {
                // A kernel without it keeps its own default.
                drop(socket.set_tcp_congestion(ON_SHORT_PATHS));
                Ok(())
            }
        }
    }

    /// Chooses by the path for a connected socket what [`TcpOptions::apply`] could not know before. Once it has BBR a socket
    /// goes on to pace whatever else it is given, so it does not begin with it.
    pub fn connected(&self, socket: &impl AsFd) {
        // The handshake has timed the path; where the kernel tells nothing it may be any.
        let is_long = || tcp_info::round_trip(socket.as_fd()).is_none_or(|round_trip| round_trip >= LONG_PATH);
        if self.congestion == Auto::Auto && is_long() {
            drop(SockRef::from(socket).set_tcp_congestion(ON_LONG_PATHS));
        }
    }
}

fn not_offered(name: &Congestion, error: &io::Error) -> String {
    let offered = fs::read_to_string(OFFERED).unwrap_or_default();
    format!("the congestion control \"{name}\" cannot be had ({error}); this kernel offers: {}", offered.trim())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn options(congestion: &str) -> TcpOptions {
        TcpOptions { congestion: Auto::Is(congestion.parse().expect("a name")), unsent_bytes_max: 9_000 }
    }

    #[test]
    fn what_a_listener_accepts_has_the_listeners_options() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        options("reno").apply(&listener).expect("every kernel has reno");
        let _peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (accepted, _) = listener.accept().expect("a connection");
        let socket = SockRef::from(&accepted);
        let congestion = socket.tcp_congestion().expect("a name");
        assert!(congestion.starts_with(b"reno"), "{congestion:?}");
        assert_eq!(socket.tcp_notsent_lowat().expect("a number"), 9_000);
    }

    #[test]
    fn a_congestion_control_that_the_kernel_does_not_have_is_refused_with_those_that_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let error = options("no_such").apply(&listener).expect_err("there is none");
        let text = error.to_string();
        assert!(text.contains("\"no_such\"") && text.contains("reno"), "{text}");
        TcpOptions::default().apply(&listener).expect("auto takes what there is");
    }

    #[test]
    fn on_a_short_path_auto_does_not_pace_and_a_configured_name_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let congestion = |options: &TcpOptions| {
            let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
            options.apply(&socket).expect("offered");
            options.connected(&socket);
            let name = SockRef::from(&socket).tcp_congestion().expect("a name");
            String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
        };
        assert_eq!(congestion(&options("reno")), "reno");
        let offered = fs::read_to_string(OFFERED).expect("procfs");
        let is_offered = offered.split_whitespace().any(|name| name.as_bytes() == ON_SHORT_PATHS);
        assert_eq!(congestion(&TcpOptions::default()) == "cubic", is_offered, "of {offered}");
    }
}
