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
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut value = Value { command, data: on.into() };
    let mut request = sys::interface_request(interface)?;
    let at: *mut Value = &mut value;
    request.ifr_ifru.ifru_data = at.cast();
    // SAFETY: the request points to a live ethtool_value, which is what these commands take.
    unsafe { sys::interface_ioctl(socket.as_fd(), libc::SIOCETHTOOL as libc::c_ulong, &mut request) }
}
