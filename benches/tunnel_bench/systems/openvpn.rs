//! OpenVPN over TCP with AES-256-GCM, its data channel in user space.

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};
use wstether::io::netlink::Prefix;
use wstether::lab::world::GATEWAY_DIRECT;

use super::{Role, Running, System};
use crate::site::{Error, Site};

const PORT: &str = "1194";
const TUN: &str = "ovpn0";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// What it says when the keys are there.
const READY: &str = "Initialization Sequence Completed";

#[derive(Debug)]
pub(crate) struct OpenVpn;

impl System for OpenVpn {
    fn name(&self) -> (&'static str, String) {
        ("OpenVPN", "direct tcp AES-256-GCM".to_owned())
    }

    fn version(&self) -> Result<String, Error> {
        let told = super::version_of("openvpn", &["--version"])?;
        Ok(told.split(' ').nth(1).unwrap_or_default().to_owned())
    }

    fn start(&self, site: &Site) -> Result<Running, Error> {
        let (laptop, gateway) = (&site.world.laptop, &site.world.gateway);
        let (server_identity, client_identity) =
            (Identity::new(site, "ovpn-server")?, Identity::new(site, "ovpn-client")?);
        let server_args = [
            &["--proto", "tcp-server", "--lport", PORT, "--tls-server", "--dh", "none"][..],
            &server_identity.args(&client_identity),
        ];
        let mut server =
            site.start("openvpn-gateway", gateway, "openvpn", &[&common()[..], &server_args.concat()].concat())?;
        let to = GATEWAY_DIRECT.to_string();
        let client_args = [
            &["--proto", "tcp-client", "--remote", &to, PORT, "--nobind", "--tls-client"][..],
            &client_identity.args(&server_identity),
        ];
        let mut client =
            site.start("openvpn-client", laptop, "openvpn", &[&common()[..], &client_args.concat()].concat())?;
        for program in [&mut server, &mut client] {
            let log = program.log_path().to_owned();
            let ready = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(READY));
            site.until("is not ready", program, ready)?;
        }
        site.tunnel_end(gateway, &mut server, TUN, Prefix::new(GATEWAY.into(), 30), None)?;
        site.tunnel_end(laptop, &mut client, TUN, Prefix::new(CLIENT.into(), 30), None)?;
        site.gateway_masquerades(TUN, Prefix::new(GATEWAY.into(), 30))?;
        site.laptop_goes_by(TUN, None)?;
        Ok(Running::of([(Role::Client, client), (Role::Gateway, server)]))
    }
}

/// What both ends have. Addresses and routes are the bench's; the kernel's own data channel, where there is one, is off.
fn common() -> Vec<&'static str> {
    let device = ["--dev", TUN, "--dev-type", "tun", "--ifconfig", "10.9.0.1", "10.9.0.2", "--ifconfig-noexec"];
    let cipher = ["--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM"];
    [&device[..], &cipher, &["--disable-dco", "--script-security", "0", "--verb", "3"]].concat()
}

/// A self-signed certificate, known to the other end by its fingerprint.
#[derive(Debug)]
struct Identity {
    certificate: String,
    key: String,
    fingerprint: String,
}

impl Identity {
    fn new(site: &Site, name: &str) -> Result<Self, Error> {
        let certified = rcgen::generate_simple_self_signed([name.to_owned()])?;
        let file = |end: &str| site.scratch.file(&format!("{name}.{end}")).display().to_string();
        let (certificate, key) = (file("crt"), file("key"));
        std::fs::write(&certificate, certified.cert.pem())?;
        std::fs::write(&key, certified.signing_key.serialize_pem())?;
        let digest = Sha256::digest(certified.cert.der());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        Ok(Self { certificate, key, fingerprint })
    }

    fn args<'a>(&'a self, other: &'a Self) -> [&'a str; 6] {
        ["--cert", &self.certificate, "--key", &self.key, "--peer-fingerprint", &other.fingerprint]
    }
}
