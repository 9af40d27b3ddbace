//! wireguard-go: a userspace tunnel over UDP, as Debian has it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use wstether::io::netlink::Prefix;
use wstether::lab::world::GATEWAY_DIRECT;
use wstether::lab::{Namespace, Program};

use super::{Role, Running, System};
use crate::site::{Error, Site, ran};

const PORT: &str = "51820";
// The names stand in /run/wireguard, which the namespaces share.
const CLIENT_TUN: &str = "wstb-wgc";
const GATEWAY_TUN: &str = "wstb-wgs";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

#[derive(Debug)]
pub(crate) struct WireguardGo;

impl System for WireguardGo {
    fn name(&self) -> (&'static str, String) {
        ("wireguard-go", "direct udp".to_owned())
    }

    fn version(&self) -> Result<String, Error> {
        super::version_of("wg", &["--version"])?;
        Ok(super::version_of("wireguard-go", &["--version"])?.replace("wireguard-go ", ""))
    }

    fn start(&self, site: &Site) -> Result<Running, Error> {
        let (laptop, gateway) = (&site.world.laptop, &site.world.gateway);
        let (client_key, client_public) = key(site, "client")?;
        let (gateway_key, gateway_public) = key(site, "gateway")?;
        let mut server = device(site, "wireguard-gateway", gateway, GATEWAY_TUN)?;
        let mut client = device(site, "wireguard-client", laptop, CLIENT_TUN)?;
        let everything = "0.0.0.0/0";
        let set = ["set", GATEWAY_TUN, "listen-port", PORT, "private-key", &gateway_key];
        site.run(gateway, "wg", &[&set[..], &["peer", &client_public, "allowed-ips", everything]].concat())?;
        let endpoint = format!("{GATEWAY_DIRECT}:{PORT}");
        let set = ["set", CLIENT_TUN, "private-key", &client_key, "peer", &gateway_public];
        site.run(laptop, "wg", &[&set[..], &["endpoint", &endpoint, "allowed-ips", everything]].concat())?;
        site.tunnel_end(gateway, &mut server, GATEWAY_TUN, Prefix::new(GATEWAY.into(), 30), None)?;
        site.tunnel_end(laptop, &mut client, CLIENT_TUN, Prefix::new(CLIENT.into(), 30), None)?;
        site.gateway_masquerades(GATEWAY_TUN, Prefix::new(GATEWAY.into(), 30))?;
        site.laptop_goes_by(CLIENT_TUN, None)?;
        Ok(Running::of([(Role::Client, client), (Role::Gateway, server)]))
    }
}

/// A fresh key: the file of the private one, and the public one.
fn key(site: &Site, whose: &str) -> Result<(String, String), Error> {
    let file = site.scratch.file(&format!("{whose}.key"));
    fs::write(&file, ran("wg", Command::new("wg").arg("genkey").output())?)?;
    let public = Command::new("wg").arg("pubkey").stdin(fs::File::open(&file)?).output();
    Ok((file.display().to_string(), ran("wg", public)?.trim().to_owned()))
}

fn device(site: &Site, name: &str, namespace: &Namespace, tun: &str) -> Result<Program, Error> {
    let mut program = site.start(name, namespace, "wireguard-go", &["-f", tun])?;
    let socket = format!("/run/wireguard/{tun}.sock");
    site.until("has no socket", &mut program, || Path::new(&socket).exists())?;
    Ok(program)
}
