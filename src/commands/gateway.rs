//! `wstether gateway`: the server.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tracing::{info, warn};

use crate::cli;
use crate::config::{self, ConfigError};
use crate::credentials::{CredentialError, CredentialStore};
use crate::exit::{self, NotPermitted, Status};
use crate::gateway::{self, Gateway, StartError};
use crate::log;
use crate::pipeline::experiment::Experiment;
use crate::stop::Stop;

/// How often the figures of systemd's status line are brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A privilege is missing.
    #[error("{0}")]
    NotPermitted(#[from] NotPermitted),
    /// The file of credentials.
    #[error("{0}")]
    Credentials(#[from] CredentialError),
    /// It did not start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// Signals or the output.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It could not undo what it had set up.
    #[error("stopping: {0}; the next start adopts what is left")]
    Undo(#[from] crate::kernel_state::Error),
}

impl GatewayError {
    /// How the command ends.
    pub fn status(&self) -> Status {
        match self {
            Self::Config(_) => Status::BadConfiguration,
            Self::NotPermitted(_) => Status::NotPermitted,
            Self::Credentials(_) | Self::Start(_) | Self::Io(_) | Self::Undo(_) => Status::Failed,
        }
    }
}

/// Runs the gateway until SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// [`GatewayError`].
pub fn run(args: &cli::Gateway, out: &mut dyn Write) -> Result<(), GatewayError> {
    run_with(args, Experiment::default(), out)
}

/// The same, with what a bench changes about it.
///
/// # Errors
/// [`GatewayError`].
pub fn run_with(args: &cli::Gateway, experiment: Experiment, out: &mut dyn Write) -> Result<(), GatewayError> {
    let config: config::Gateway = config::load_for(args.config.as_deref(), &args.overrides(), gateway::misfit)?;
    log::start(&config.log);
    super::run_as_batch();
    exit::own_capabilities().require(&exit::GATEWAY_NEEDS)?;
    let stop = Stop::on_signals()?;
    let credentials = CredentialStore::load(&config.tethers.credentials)?;
    let gateway = Gateway::start_with(&config, credentials, experiment)?;
    if let Err(error) = show_first_token(&config.tethers.credentials, out) {
        // Nobody could come in. The first error is the one to tell.
        drop(gateway.stop());
        return Err(error.into());
    }
    for address in gateway.addresses() {
        // A terminal that has gone away is no reason to end a gateway, and it would not be undone.
        drop(writeln!(out, "Listening on {address}{}", config.listen.path.as_str()));
    }
    drop(out.flush());
    notify(&[sd_notify::NotifyState::Ready]);
    while !stop.wait(STATUS_EVERY)? {
        notify(&[sd_notify::NotifyState::Status(&summary(&gateway))]);
    }
    info!("stopping");
    notify(&[sd_notify::NotifyState::Stopping]);
    let late = gateway.stop()?;
    if late.is_empty() {
        info!("stopped: nothing is queued any more, and what was set up is undone");
    } else {
        warn!(
            stages = late.join(", "),
            "stopped at runtime.stop_deadline: what these stages still had is lost; what was set up is undone"
        );
    }
    Ok(())
}

/// Makes the first credential where there is no file of them, and prints its token. Only once the gateway is up: a start
/// that fails would take along what is shown once. The gateway finds the file when the first client comes.
fn show_first_token(file: &Path, out: &mut dyn Write) -> Result<(), CredentialError> {
    CredentialStore::make_first(file, gateway::fresh, |token| {
        writeln!(out, "There were no credentials. This token is shown once; clients need it:\n\n  {token}\n")?;
        out.flush()
    })
}

fn summary(gateway: &Gateway) -> String {
    let figures = &gateway.metrics().gateway;
    format!("{} tethers, {} links", figures.tethers.get(), figures.links.get())
}

/// Tells systemd, where it listens.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd could not be told");
    }
}
