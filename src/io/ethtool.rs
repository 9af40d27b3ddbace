//! A device's offloads, switched as `ethtool -K` does it, without the program.
#![allow(unsafe_code, reason = "SIOCETHTOOL takes a pointer inside its ifreq")]

use std::io;
use std::os::fd::AsFd;

use super::sys;

/// The offloads of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Transmit checksums, and scatter-gather with them.
    pub checksum: bool,
    /// TCP segmentation by the device.
    pub tso: bool,
    /// Segmentation just before the device.
    pub gso: bool,
    /// Merging of what arrives.
    pub gro: bool,
}

impl Offloads {
    /// All off: each packet crosses the wire as it would cross a real one.
    pub const OFF: Self = Self { checksum: false, tso: false, gso: false, gro: false };
    /// All on.
    pub const ON: Self = Self { checksum: true, tso: true, gso: true, gro: true };
}

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

const SET_TX_CHECKSUM: u32 = 0x17;
const SET_SCATTER_GATHER: u32 = 0x19;
const SET_TSO: u32 = 0x1f;
const SET_GSO: u32 = 0x24;
const SET_GRO: u32 = 0x2c;

/// Switches the offloads of an interface in this thread's network namespace.
///
/// # Errors
/// No such interface, no CAP_NET_ADMIN, or a device that cannot.
pub fn set_offloads(interface: &str, offloads: Offloads) -> io::Result<()> {
    let Offloads { checksum, tso, gso, gro } = offloads;
    // Segmentation needs checksums and scatter-gather: they come first when all goes on.
    for (what, command, on) in [
        ("transmit checksums", SET_TX_CHECKSUM, checksum),
        ("scatter-gather", SET_SCATTER_GATHER, checksum),
        ("TCP segmentation", SET_TSO, tso),
        ("generic segmentation", SET_GSO, gso),
        ("generic receive offload", SET_GRO, gro),
    ] {
        set(interface, command, on).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("switching {what} of {interface} {}: {error}", if on { "on" } else { "off" }),
            )
        })?;
    }
    Ok(())
}

fn set(interface: &str, command: u32, on: bool) -> io::Result<()> {
    // SAFETY: an ethtool_value is what these commands take.
    unsafe { ask(interface, &mut Value { command, data: on.into() }) }
}

/// # Safety
/// `argument` is what its command takes, with room for all that the command fills in.
unsafe fn ask<T>(interface: &str, argument: &mut T) -> io::Result<()> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = sys::interface_request(interface)?;
    let at: *mut T = argument;
    request.ifr_ifru.ifru_data = at.cast();
    // SAFETY: the request points to a live argument, which the caller vouches for.
    unsafe { sys::interface_ioctl(socket.as_fd(), libc::SIOCETHTOOL as libc::c_ulong, &mut request) }
}

const GET_STRINGS: u32 = 0x1b;
const SET_FEATURES: u32 = 0x3b;
/// The set of strings that names the features (`ETH_SS_FEATURES`).
const NAMES_OF_FEATURES: u32 = 4;
/// As many as the kernel's `netdev_features_t` has bits.
const FEATURES_MAX: usize = 64;
const NAME_BYTES: usize = 32;

/// `struct ethtool_gstrings`.
#[repr(C)]
struct Names {
    command: u32,
    set: u32,
    count: u32,
    names: [[u8; NAME_BYTES]; FEATURES_MAX],
}

/// `struct ethtool_sfeatures` with its blocks of 32 features: which are told, and how they should be.
#[repr(C)]
struct Wanted {
    command: u32,
    blocks: u32,
    valid_and_requested: [[u32; 2]; FEATURES_MAX / 32],
}

/// Switches a feature of an interface by its name, as `ethtool -K` has it.
///
/// # Errors
/// No such interface, no CAP_NET_ADMIN, or no such feature.
pub fn set_feature(interface: &str, name: &str, on: bool) -> io::Result<()> {
    let mut names =
        Names { command: GET_STRINGS, set: NAMES_OF_FEATURES, count: 0, names: [[0; NAME_BYTES]; FEATURES_MAX] };
    // SAFETY: the command fills in up to as many names as there are features, and there is room for all.
    unsafe { ask(interface, &mut names) }?;
    let is_called = |found: &[u8; NAME_BYTES]| found.split(|&byte| byte == 0).next() == Some(name.as_bytes());
    let at = names.names.iter().position(is_called).ok_or(io::ErrorKind::Unsupported)?;
    let (blocks, bit) = ((FEATURES_MAX / 32) as u32, 1 << (at % 32));
    let mut wanted = Wanted { command: SET_FEATURES, blocks, valid_and_requested: Default::default() };
    wanted.valid_and_requested[at / 32] = [bit, if on { bit } else { 0 }];
    // SAFETY: the command reads the blocks that are told of.
    unsafe { ask(interface, &mut wanted) }
}
