//! `wstether status`: what a gateway is doing now.

use std::io::{self, Write};

use crate::cli;
use crate::status::{FetchError, fetch};

/// Why the status was not shown.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The gateway did not answer.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Asks the gateway at `args` and prints what it says.
///
/// # Errors
/// [`StatusError`].
pub fn run(args: &cli::Status, out: &mut dyn Write) -> Result<(), StatusError> {
    let status = fetch(args.address)?;
    if args.json {
        writeln!(out, "{}", serde_json::json!(status))?;
    } else {
        write!(out, "{status}")?;
    }
    Ok(())
}
