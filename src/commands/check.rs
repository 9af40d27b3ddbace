//! `wstether check`: judges a configuration, and prints an example.

use std::io::{self, Write};
use std::path::Path;

use crate::cli::{Check, RoleName};
use crate::config::{self, Client, ConfigError, Gateway, Role};

/// Why `check` did not say that all is right.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Runs the command.
pub fn run(args: &Check, out: &mut dyn Write) -> Result<(), CheckError> {
    match args.role {
        RoleName::Gateway => run_for::<Gateway>(args.file.as_deref(), out),
        RoleName::Client => run_for::<Client>(args.file.as_deref(), out),
    }
}

/// With no file it prints the example.
fn run_for<R: Role>(file: Option<&Path>, out: &mut dyn Write) -> Result<(), CheckError> {
    let Some(file) = file else {
        return Ok(out.write_all(config::example::<R>().as_bytes())?);
    };
    config::load::<R>(Some(file), &[])?;
    Ok(writeln!(out, "{}: a {} can run with this", file.display(), R::NAME)?)
}
