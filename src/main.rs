//! The `wstether` command: it reads the command line and dispatches. What the commands do is in the library.

use std::error::Error;
use std::io::{self, StdoutLock, Write};
use std::iter;
use std::process::ExitCode;

use clap::Parser;

use wstether::cli::{Cli, Command};
use wstether::commands;
use wstether::exit::Status;
use wstether::gateway;

fn main() -> ExitCode {
    let mut out = Output { stdout: io::stdout().lock(), is_gone: false };
    let done: Result<(), Failure> = match Cli::parse().command {
        Command::Gateway(args) => {
            commands::gateway::run(&args, &mut out).map_err(|error| (error.status(), error.into()))
        }
        Command::Token(args) => commands::token::run(&args, gateway::fresh, &mut out).map_err(failed),
        Command::Status(args) => commands::status::run(&args, &mut out).map_err(failed),
        Command::Check(args) => commands::check::run(&args, &mut out).map_err(|error| (error.status(), error.into())),
        Command::Relay(args) => commands::relay::run(&args, &mut out).map_err(failed),
        Command::Load(args) => commands::load::run(&args, &mut out).map_err(|error| (error.status(), error.into())),
        Command::Client(args) => commands::client::run(&args, &mut out).map_err(|error| (error.status(), error.into())),
        Command::Demo(args) => commands::demo::run(&args, &mut out).map_err(|error| (error.status(), error.into())),
        Command::Pipeline(args) => {
            commands::pipeline::run(&args, &mut out).map_err(|error| (error.status(), error.into()))
        }
    };
    match done {
        Ok(()) => Status::Done.into(),
        // Who reads no further has had enough (`| head`), and need not be told.
        Err((_, error)) if out.is_gone && is_broken_pipe(&*error) => Status::Failed.into(),
        Err((status, error)) => {
            let told = if status == Status::Usage {
                // In the form of all that clap finds wrong by itself.
                format!("error: {error}\n\nFor more information, try '--help'.")
            } else {
                format!("wstether: {error}")
            };
            // A terminal that is gone cannot be told.
            drop(writeln!(io::stderr(), "{told}"));
            status.into()
        }
    }
}

/// Standard output, and whether its reader is gone.
struct Output {
    stdout: StdoutLock<'static>,
    is_gone: bool,
}

impl Output {
    fn look<T>(&mut self, went: io::Result<T>) -> io::Result<T> {
        self.is_gone |= went.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        went
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let went = self.stdout.write(bytes);
        self.look(went)
    }

    fn flush(&mut self) -> io::Result<()> {
        let went = self.stdout.flush();
        self.look(went)
    }
}

/// How the command ends, and why.
type Failure = (Status, Box<dyn Error>);

fn failed(error: impl Error + 'static) -> Failure {
    (Status::Failed, error.into())
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut causes = iter::successors(Some(error), |&error| error.source());
    causes.any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
