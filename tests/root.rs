//! Tests that need root, for network namespaces, or a program of Debian's beside wstether. Each makes what it needs and
//! leaves nothing behind.
#![cfg(feature = "kernel")]
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "root/browser.rs"]
mod browser;
#[path = "support/chromium.rs"]
mod chromium;
#[path = "root/client/mod.rs"]
mod client;
#[path = "root/dashboards.rs"]
mod dashboards;
#[path = "root/demo.rs"]
mod demo;
#[path = "root/journey.rs"]
mod journey;
#[path = "root/kernel/mod.rs"]
mod kernel;
#[path = "root/load.rs"]
mod load;
#[path = "root/offload.rs"]
mod offload;
#[path = "root/overload.rs"]
mod overload;
#[path = "root/page.rs"]
mod page;
#[path = "root/path_mtu.rs"]
mod path_mtu;
#[path = "support/servers.rs"]
mod servers;
#[path = "root/slow_link.rs"]
mod slow_link;
#[path = "root/start_and_stop.rs"]
mod start_and_stop;
#[path = "root/stranger.rs"]
mod stranger;
#[path = "root/way_out.rs"]
mod way_out;
#[path = "root/world.rs"]
mod world;
