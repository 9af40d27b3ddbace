//! Tests that need root, for network namespaces, or a program of Debian's beside wstether.
#![cfg(feature = "kernel")]

#[path = "support/chromium.rs"]
mod chromium;
//! The tests that need root, or a program beside the gateway: each makes network namespaces of its own and leaves
//! nothing behind.
#![cfg(feature = "kernel")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

#[path = "support/chromium.rs"]
mod chromium;
#[path = "support/servers.rs"]
mod servers;

#[path = "root/dashboards.rs"]
mod dashboards;
#[path = "root/kernel/mod.rs"]
mod kernel;
#[path = "root/offload.rs"]
mod offload;
#[path = "root/page.rs"]
mod page;
#[path = "support/servers.rs"]
mod servers;
