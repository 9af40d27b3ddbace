//! The log: one line an event on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::shared::{Log, LogFormat, LogLevel};

/// Starts logging as configured. `WSTETHER_LOG` (a tracing filter) has precedence over the level.
pub fn start(config: &Log) {
    let level = match config.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::try_from_env("WSTETHER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(false)
        // It would be told on standard error, which is what is gone, and that panics.
        .log_internal_errors(false);
    // A second start in one process keeps the first log.
    drop(match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Journal => builder.without_time().try_init(),
    });
}
