//! Everything that asks the kernel for something: devices, packet sockets, routes, rules, namespaces.
//!
//! `unsafe` lives here and nowhere else. What can be a pure function stands apart from the calls ([`virtio`], [`bpf`],
//! the ruleset text of [`nft`], the range arithmetic of [`sysctl`]), so that it is tested without root.

pub mod affinity;
pub mod bpf;
pub(crate) mod clock;
pub(crate) mod datagrams;
pub mod ethtool;
pub mod heap;
pub mod link_socket;
pub mod listeners;
pub mod netlink;
pub mod netns;
pub(crate) mod next_hop;
pub mod nft;
pub mod open_files;
pub mod packet_socket;
pub mod process;
pub(crate) mod ready;
pub(crate) mod receive;
pub mod scheduling;
pub(crate) mod sys;
pub mod sysctl;
pub(crate) mod tcp_info;
pub mod tun;
pub mod virtio;

use std::time::Duration;

/// What one call of a `read_batch` brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// How long the first of them had waited in the kernel, where that is known.
    pub waited: Option<Duration>,
    /// Packets appended to the batch.
    pub packets: usize,
    /// Packets read and lost, because the pool had no buffer or the kernel had cut them off.
    pub lost: usize,
    /// Whether the source may hold more: it was left because the batch was full, not because it was empty.
    pub more: bool,
}
