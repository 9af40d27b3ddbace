//! The tests that need root: each makes network namespaces of its own and leaves nothing behind.
#![cfg(feature = "kernel")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

#[path = "root/kernel/mod.rs"]
mod kernel;
//! The tests that need root or a program beside the gateway.
#![cfg(feature = "kernel")]

#[path = "root/dashboards.rs"]
mod dashboards;
//! Tests that need root: for network namespaces, or for a browser as it runs there.
#![cfg(feature = "kernel")]

#[path = "support/chromium.rs"]
mod chromium;

#[path = "support/servers.rs"]
mod servers;

#[path = "root/page.rs"]
mod page;
