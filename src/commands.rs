//! Commands that need no network.

pub mod check;
pub mod gateway;
pub mod status;
pub mod token;
