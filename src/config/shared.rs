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

settings! {
    /// Figures for a Prometheus server, and what "wstether status" reads.
    pub struct Metrics {
        /// The address of /metrics, /healthz and /readyz. Keep it local: it has no password. Empty: off.
        listen: Option<SocketAddr> = "127.0.0.1:9321",
    }
}
