//! Commands that need no network.

pub mod check;
pub mod token;
