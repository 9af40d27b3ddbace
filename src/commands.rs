//! The commands, each a function of its arguments.

pub mod check;
pub mod gateway;
pub mod status;
pub mod relay;
pub mod token;
