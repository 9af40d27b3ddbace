//! The commands, each a function of its arguments.

pub mod check;
pub mod gateway;
pub mod status;
pub mod relay;
//! The commands: what `wstether` does for each of them.

pub mod check;
pub mod client;
pub mod token;
