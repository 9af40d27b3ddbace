//! Sections that both roles have.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::schema::settings;
use super::values::choices;

settings! {
    /// The log, on standard error.
    pub struct Log {
        /// How much is told: "error", "warn", "info", "debug" or "trace". Addresses of packets appear from "debug" on.
        level: LogLevel = "info",
        /// "text" has the time in front; "journal" has none, since the journal adds its own.
        format: LogFormat = "text",
    }
}

choices! {
    /// How much the log tells.
    pub enum LogLevel {
        /// What failed.
        Error = "error",
        /// What may fail soon.
        Warn = "warn",
        /// What an operator wants to know.
        Info = "info",
        /// What a developer wants to know.
        Debug = "debug",
        /// Every packet.
        Trace = "trace",
    }
}

choices! {
    /// What a line of the log looks like.
    pub enum LogFormat {
        /// With the time.
        Text = "text",
        /// Without the time.
        Journal = "journal",
    }
}

settings! {
    /// Files and the end of a run.
    pub struct Runtime {
        /// Where the run keeps what the next one adopts after a crash, and its lock. Made if it is not there.
        directory: PathBuf = "/run/wstether",
        /// How long a stop may take to send out what is still queued. Who is late then is named in the log.
        stop_deadline: Duration = "10s" in "100ms"..="5m",
    }
}

/// Whether two sockets cannot listen beside each other: both are at one port, and on one address or one of them on all. IPv6's
/// "all" has IPv4 with it. Port 0 is another one each time.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let has = |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || has(a, b) || has(b, a))
}

settings! {
    /// Figures for a Prometheus server, and what "wstether status" reads.
    pub struct Metrics {
        /// The address of /metrics, /healthz and /readyz. Keep it local: it has no password. Empty: off.
        listen: Option<SocketAddr> = "127.0.0.1:9321",
    }
}
