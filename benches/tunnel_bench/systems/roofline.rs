//! `benches/roofline.c`: super-packets over one TCP connection, and nothing else.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use wstether::io::netlink::Prefix;
use wstether::lab::world::GATEWAY_DIRECT;

use super::{Role, Running, System};
use crate::site::{Error, Site, TUN_MTU, ran};

const PORT: &str = "7000";
const TUN: &str = "roof0";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

#[derive(Debug)]
pub(crate) struct Roofline {
    /// A packet a frame, without super-packets.
    pub(crate) plain: bool,
}

impl System for Roofline {
    fn name(&self) -> (&'static str, String) {
        ("roofline", if self.plain { "a packet a frame" } else { "super-packets" }.to_owned())
    }

    fn version(&self) -> Result<String, Error> {
        let told = super::version_of("cc", &["--version"]).map_err(|error| format!("no C compiler: {error}"))?;
        Ok(format!("cc {}", told.rsplit(' ').next().unwrap_or_default()))
    }

    fn start(&self, site: &Site) -> Result<Running, Error> {
        let binary = site.scratch.file("roofline");
        let binary = binary.display().to_string();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/roofline.c");
        ran("cc", Command::new("cc").args(["-O2", "-pthread", "-o", &binary]).arg(source).output())?;
        let plain: &[&str] = if self.plain { &["plain"] } else { &[] };
        let (laptop, gateway) = (&site.world.laptop, &site.world.gateway);
        let listen = [&[TUN, "listen", PORT], plain].concat();
        let mut server = site.start("roofline-gateway", gateway, &binary, &listen)?;
        let log = server.log_path().to_owned();
        site.until("does not listen", &mut server, || {
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains("listening"))
        })?;
        let to = GATEWAY_DIRECT.to_string();
        let connect = [&[TUN, "connect", &to, PORT], plain].concat();
        let mut client = site.start("roofline-client", laptop, &binary, &connect)?;
        site.tunnel_end(gateway, &mut server, TUN, Prefix::new(GATEWAY.into(), 30), Some(TUN_MTU))?;
        site.tunnel_end(laptop, &mut client, TUN, Prefix::new(CLIENT.into(), 30), Some(TUN_MTU))?;
        site.gateway_masquerades(TUN, Prefix::new(GATEWAY.into(), 30))?;
        site.laptop_goes_by(TUN, None)?;
        Ok(Running::of([(Role::Client, client), (Role::Gateway, server)]))
    }

    fn is_quick(&self) -> bool {
        !self.plain
    }
}
