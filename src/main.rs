//! The `wstether` command: it reads the command line and dispatches. What the commands do is in the library.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use wstether::cli::{Cli, Command};
use wstether::commands;
use wstether::exit::Status;
use wstether::gateway;

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let done = match Cli::parse().command {
        Command::Gateway(args) => {
            commands::gateway::run(&args, &mut out).map_err(|error| (error.status(), error.to_string()))
        }
        Command::Token(args) => commands::token::run(&args, gateway::fresh, &mut out).map_err(failed),
        Command::Status(args) => commands::status::run(&args, &mut out).map_err(failed),
        Command::Check(args) => commands::check::run(&args, &mut out).map_err(bad_configuration),
        Command::Relay(args) => commands::relay::run(&args, &mut out).map_err(failed),
        Command::Load(args) => commands::load::run(&args, &mut out).map_err(failed),
        Command::Client(args) => commands::client::run(&args).map_err(|error| (error.status(), error.to_string())),
        Command::Demo(args) => {
            commands::demo::run(&args, &mut out).map_err(|error| (error.status(), error.to_string()))
        }
        Command::Pipeline(args) => {
            commands::pipeline::run(&args, &mut out).map_err(|error| (error.status(), error.to_string()))
        }
    };
    match done {
        Ok(()) => Status::Done.into(),
        Err((status, what)) => {
            // A terminal that is gone cannot be told.
            drop(writeln!(io::stderr(), "wstether: {what}"));
            status.into()
        }
    }
}

fn failed(error: impl Display) -> (Status, String) {
    (Status::Failed, error.to_string())
}

fn bad_configuration(error: impl Display) -> (Status, String) {
    (Status::BadConfiguration, error.to_string())
}
