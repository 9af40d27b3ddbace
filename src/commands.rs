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
