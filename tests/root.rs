//! Tests that need root, for network namespaces, or a program of Debian's beside wstether.
#![cfg(feature = "kernel")]

#[path = "support/chromium.rs"]
mod chromium;
#[path = "root/dashboards.rs"]
mod dashboards;
#[path = "root/kernel/mod.rs"]
mod kernel;
#[path = "root/page.rs"]
mod page;
#[path = "support/servers.rs"]
mod servers;
