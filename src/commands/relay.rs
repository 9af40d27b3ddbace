//! `wstether relay`: the phone's page without a browser.

use std::io::{self, Write};

use crate::cli::Relay;
use crate::config::shared::{Log, LogFormat, LogLevel};
use crate::config::values::Auto;
use crate::dial::{TlsClient, TlsClientError};
use crate::log;
use crate::relay::headless::{self, RelayError, RelaySettings};
use crate::stop::Stop;
use crate::transport::TcpOptions;

/// Why the relay ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RelayCommandError {
    /// The file of certificates.
    #[error("--ca: {0}")]
    Tls(#[from] TlsClientError),
    /// The two sides could not be joined.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// Signals cannot be caught, or the output is gone.
    #[error("{0}")]
    Kernel(#[from] io::Error),
}

/// Runs the command until SIGTERM, SIGINT or SIGHUP, and tells what was passed on.
///
/// # Errors
/// [`RelayCommandError`].
pub fn run(args: &Relay, out: &mut dyn Write) -> Result<(), RelayCommandError> {
    log::start(&Log { level: LogLevel::Info, format: LogFormat::Text });
    super::run_as_batch();
    let settings = RelaySettings {
        client: args.client.clone(),
        gateway: args.gateway.clone(),
        base64: args.base64,
        once: args.once,
        tls: TlsClient::new(args.ca.as_deref())?,
        tcp: TcpOptions { congestion: args.congestion.clone().map_or(Auto::Auto, Auto::Is), ..TcpOptions::default() },
    };
    let traffic = headless::run(&settings, &Stop::on_signals()?)?;
    Ok(writeln!(out, "{traffic}")?)
}
