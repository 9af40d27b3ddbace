//! The tests that need no root: everything is in memory or on the loopback interface.
#![cfg(feature = "kernel")]
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "quick/commands.rs"]
mod commands;

#[path = "quick/dial.rs"]
mod dial;

#[path = "quick/relay.rs"]
mod relay;

#[path = "quick/websockets.rs"]
mod websockets;

#[path = "quick/docs.rs"]
mod docs;

#[path = "quick/bench_support.rs"]
mod bench_support;
