//! `wstether client`: the laptop.

use std::io::{self, Write};

use super::token_file::{self, TokenFileError};
use crate::cli;
use crate::client::network::{Network, NetworkError};
use crate::client::state::{State, StateError};
use crate::client::{self, ClientError, Identity};
use crate::config::client::Client as Config;
use crate::config::{self, ConfigError, Misfit};
use crate::exit::{CLIENT_NEEDS, NotPermitted, Status, own_capabilities};
use crate::log;
use crate::stop::Stop;
use crate::wire::token::{Token, TokenError};

/// Why the client did not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ClientCommandError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no gateway in the configuration.
    #[error("which gateway? Give --gateway wss://gateway.example/wstether, or client.gateway in the configuration")]
    NoGateway,
    /// There is no token in the configuration.
    #[error(
        "no token; \"wstether token new\" at the gateway prints one: give it with --token-file, or as client.token"
    )]
    NoToken,
    /// The token is none.
    #[error("the token is wrong: {0}")]
    Token(#[from] TokenError),
    /// The file that holds the token.
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    /// A capability is missing.
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    /// What is changed on the machine cannot be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// What an earlier run left cannot be undone.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    /// The client ended.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ClientCommandError {
    /// The exit status.
    pub fn status(&self) -> Status {
        match self {
            Self::Config(_) | Self::NoGateway | Self::NoToken | Self::Token(_) | Self::TokenFile(_) => {
                Status::BadConfiguration
            }
            Self::NotPermitted(_) => Status::NotPermitted,
            Self::State(_) | Self::Network(_) | Self::Signals(_) | Self::Client(_) => Status::Failed,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// [`ClientCommandError`], with the status to exit with.
pub fn run(args: &cli::Client, out: &mut dyn Write) -> Result<(), ClientCommandError> {
    let config: Config = config::load(args.config.as_deref(), &args.overrides())?;
    if args.down {
        own_capabilities().require(&CLIENT_NEEDS)?;
        return down(&config, out);
    }
    let identity = identity(&config)?;
    own_capabilities().require(&CLIENT_NEEDS)?;
    // On standard error: standard output is for the phone's address.
    log::start(&config.log);
    super::run_as_batch();
    let stop = Stop::on_signals().map_err(ClientCommandError::Signals)?;
    let mut network = Network::new(State::open(&config.runtime.directory, &config.dns.file)?)?;
    Ok(client::run(&config, &identity, &mut network, &stop)?)
}

/// What of a configuration that is right by itself no client can run with.
pub(super) fn misfit(config: &Config) -> Option<Misfit> {
    let token = config.client.token.as_ref()?;
    let error = token.as_str().parse::<Token>().err()?;
    Some(("client.token", error.to_string()))
}

/// Undoes what an earlier run left, and says what.
fn down(config: &Config, out: &mut dyn Write) -> Result<(), ClientCommandError> {
    let (directory, dns_file) = (&config.runtime.directory, &config.dns.file);
    let state = State::open(directory, dns_file)?;
    let undone = state.undone();
    // Taking it over is undoing it.
    Network::new(state)?;
    let line = match undone {
        Some(undone) => format!("undone: {undone}"),
        None => format!("nothing to undo in {} and {}", directory.display(), dns_file.display()),
    };
    // A terminal that has gone away changes nothing of what was done.
    drop(writeln!(out, "{line}"));
    Ok(())
}

fn identity(config: &Config) -> Result<Identity, ClientCommandError> {
    let gateway = config.client.gateway.as_ref().ok_or(ClientCommandError::NoGateway)?;
    // What the configuration takes as a URL is one.
    let gateway = gateway.to_string().parse().map_err(|_| ClientCommandError::NoGateway)?;
    let token = match (&config.client.token, &config.client.token_file) {
        (Some(token), _) => token.as_str().parse::<Token>()?,
        (None, Some(path)) => token_file::read(path)?,
        (None, None) => return Err(ClientCommandError::NoToken),
    };
    Ok(Identity { token, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(args: cli::Client) -> ClientCommandError {
        run(&args, &mut Vec::new()).expect_err("no client can run with this")
    }

    #[test]
    fn what_is_missing_is_told_with_what_would_do() {
        let error = run_with(cli::Client::default());
        assert!(
            matches!(error, ClientCommandError::NoGateway) && error.status() == Status::BadConfiguration,
            "{error}"
        );
        let gateway = Some("ws://192.0.2.1/wstether".to_owned());
        let error = run_with(cli::Client { direct: gateway.clone(), ..cli::Client::default() });
        assert!(matches!(error, ClientCommandError::NoToken) && error.status() == Status::BadConfiguration, "{error}");
        let token = Some("wst1_short".to_owned());
        let error = run_with(cli::Client { direct: gateway, token, ..cli::Client::default() });
        assert!(matches!(error, ClientCommandError::Token(_)) && error.status() == Status::BadConfiguration, "{error}");
    }

    #[test]
    fn a_token_file_that_is_not_there_is_named() {
        let error = run_with(cli::Client {
            direct: Some("ws://192.0.2.1/wstether".to_owned()),
            token_file: Some("/nonexistent/token".to_owned()),
            ..cli::Client::default()
        });
        assert!(error.to_string().contains("/nonexistent/token"), "{error}");
        assert_eq!(error.status(), Status::BadConfiguration);
    }
}
