//! Exit statuses, and the privileges a role needs.

use std::fmt;
use std::process::ExitCode;

/// How a run of the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It did what it was asked.
    Done,
    /// It failed at run time.
    Failed,
    /// The command line is wrong (clap's own status).
    Usage,
    /// The configuration is wrong, told before any socket opens.
    BadConfiguration,
    /// A privilege is missing.
    NotPermitted,
}

impl Status {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::BadConfiguration => 64,
            Self::NotPermitted => 77,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// A capability that wstether may need (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Ports below 1024.
    NetBindService,
    /// TUN devices, routes, nftables, sysctls of the network.
    NetAdmin,
    /// Packet sockets.
    NetRaw,
    /// Network namespaces, for the demo.
    SysAdmin,
}

impl Capability {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// The kernel's number (linux/capability.h).
    fn bit(self) -> u32 {
        match self {
            Self::NetBindService => 10,
            Self::NetAdmin => 12,
            Self::NetRaw => 13,
            Self::SysAdmin => 21,
        }
    }
}

/// What the gateway needs: routes, rules and TUN device, and packet sockets.
pub const GATEWAY_NEEDS: [Capability; 2] = [Capability::NetAdmin, Capability::NetRaw];

/// What the client needs: routes and TUN device.
pub const CLIENT_NEEDS: [Capability; 1] = [Capability::NetAdmin];

/// What the demo needs beside: namespaces.
pub const DEMO_NEEDS: [Capability; 3] = [Capability::SysAdmin, Capability::NetAdmin, Capability::NetRaw];

/// The capabilities that a process has in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Reads the text of `/proc/PID/status`; `None` where it has no such line.
    pub fn parse(status: &str) -> Option<Self> {
        let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim();
        u64::from_str_radix(bits, 16).ok().map(Self)
    }

    /// True where `capability` is in effect.
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> capability.bit() & 1 == 1
    }

    /// Fails with every one of `needed` that is not in effect.
    pub fn require(self, needed: &[Capability]) -> Result<(), NotPermitted> {
        let missing: Vec<Capability> = needed.iter().copied().filter(|needed| !self.has(*needed)).collect();
        if missing.is_empty() { Ok(()) } else { Err(NotPermitted { missing }) }
    }
}

/// Capabilities are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotPermitted {
    /// At least one.
    pub missing: Vec<Capability>,
}

impl fmt::Display for NotPermitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.missing.iter().map(|capability| capability.name()).collect();
        write!(f, "not permitted: this needs {}; run it as root, or by the systemd unit", names.join(" and "))
    }
}

/// The capabilities of this process; all of them where the kernel does not tell, so that it judges by itself.
pub fn own_capabilities() -> Capabilities {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Capabilities::parse(&status).unwrap_or(Capabilities(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn root_has_all_that_is_needed() {
        let root =
            Capabilities::parse("Name:\twstether\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n").unwrap();
        assert_eq!(root.require(&GATEWAY_NEEDS), Ok(()));
    }

    #[test]
    fn each_missing_capability_is_named() {
        let nobody = Capabilities::parse("CapEff:\t0000000000000000\n").unwrap();
        let error = nobody.require(&GATEWAY_NEEDS).unwrap_err();
        assert_eq!(error.missing, GATEWAY_NEEDS);
        assert!(error.to_string().contains("CAP_NET_ADMIN and CAP_NET_RAW"), "{error}");
    }

    #[test]
    fn what_the_unit_grants_is_enough_for_the_gateway_and_not_for_the_demo() {
        let granted = Capabilities::parse("CapEff:\t0000000000003000").unwrap();
        assert_eq!(granted.require(&GATEWAY_NEEDS), Ok(()));
        assert_eq!(granted.require(&[Capability::SysAdmin]).unwrap_err().missing, [Capability::SysAdmin]);
        assert!(!granted.has(Capability::NetBindService));
    }

    #[test]
    fn the_kernels_own_file_is_understood() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(Capabilities::parse(&status).is_some());
    }

    #[test]
    fn statuses_are_those_of_the_documentation() {
        use Status::*;
        assert_eq!([Done, Failed, Usage, BadConfiguration, NotPermitted].map(Status::code), [0, 1, 2, 64, 77]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
            let _ = Capabilities::parse(&text);
            let _ = Capabilities::parse(&format!("CapEff:{text}"));
        }
    }
}
