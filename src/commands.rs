//! The commands, each a function of its arguments.

pub mod check;
pub mod client;
pub mod demo;
pub mod gateway;
pub mod load;
pub mod pipeline;
pub mod relay;
pub mod status;
pub mod token;
pub mod token_file;

/// For those that carry packets, before they start a thread.
fn run_as_batch() {
    if let Err(error) = crate::io::scheduling::as_batch() {
        tracing::debug!(%error, "the scheduling policy stays as it is");
    }
}
