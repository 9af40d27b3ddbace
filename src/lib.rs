//! wstether: a laptop's IP packets through a phone's browser, by a staged gateway that does not collapse.
//!
//! Without the default feature `kernel` this is the pure core: codecs, NAT, lanes, controllers and handlers, with time
//! injected and no I/O.

pub mod account;
pub mod bucket;
pub mod budget;
pub mod checksum;
pub mod config;
pub mod credit;
pub mod icmp;
mod ipv4;
pub mod lane_set;
pub mod metrics;
pub mod nat;
pub mod offload;
pub mod overload;
pub mod packet;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code, reason = "the unit tests need more of it"))]
mod packet_builder;
pub mod policy;
pub mod random;
pub mod runtime;
pub mod stages;
pub mod status;
pub mod steer;
pub mod tether_id;
pub mod window;
pub mod wire;

#[cfg(feature = "kernel")]
pub mod certificate;
#[cfg(feature = "kernel")]
pub mod cli;
#[cfg(feature = "kernel")]
pub mod client;
#[cfg(feature = "kernel")]
pub mod commands;
#[cfg(feature = "kernel")]
pub mod credentials;
#[cfg(feature = "kernel")]
pub mod demo;
#[cfg(feature = "kernel")]
pub mod dial;
#[cfg(feature = "kernel")]
pub mod exit;
#[cfg(feature = "kernel")]
pub mod gateway;
#[cfg(feature = "kernel")]
pub mod http;
#[cfg(feature = "kernel")]
pub mod io;
#[cfg(feature = "kernel")]
pub mod kernel_state;
#[cfg(feature = "kernel")]
pub mod lab;
#[cfg(feature = "kernel")]
pub mod link;
#[cfg(feature = "kernel")]
pub mod load;
#[cfg(feature = "kernel")]
pub mod log;
#[cfg(feature = "kernel")]
pub mod metrics_server;
#[cfg(feature = "kernel")]
pub mod pipeline;
#[cfg(feature = "kernel")]
pub mod relay;
#[cfg(feature = "kernel")]
pub mod stop;
#[cfg(feature = "kernel")]
pub mod table;
#[cfg(feature = "kernel")]
pub mod tether;
#[cfg(feature = "kernel")]
pub mod tether_links;
#[cfg(feature = "kernel")]
pub mod transport;
#[cfg(feature = "kernel")]
mod utc;
