//! The kernel's own forwarding with NAT: no tunnel at all, and so the limit of every one.

use wstether::io::netlink::Prefix;
use wstether::lab::world::{GATEWAY_DIRECT, LAPTOP_DIRECT};

use super::{Running, System};
use crate::site::{Error, Site};

#[derive(Debug)]
pub(crate) struct Kernel;

impl System for Kernel {
    fn name(&self) -> (&'static str, String) {
        ("kernel", "forwarding + NAT".to_owned())
    }

    fn version(&self) -> Result<String, Error> {
        Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
    }

    fn start(&self, site: &Site) -> Result<Running, Error> {
        site.gateway_masquerades("laptop0", Prefix::new(LAPTOP_DIRECT.into(), 30))?;
        site.laptop_goes_by("net0", Some(GATEWAY_DIRECT))?;
        Ok(Running::default())
    }
}
