//! ocserv, with openconnect as its client, over TLS alone.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData;
use sha2::{Digest, Sha256};
use wstether::io::netlink::Prefix;
use wstether::lab::Program;
use wstether::lab::world::GATEWAY_DIRECT;

use super::{Role, Running, System};
use crate::site::{Error, Site};

const PORT: u16 = 4443;
const CLIENT_TUN: &str = "oc0";
/// ocserv numbers its devices.
const GATEWAY_TUNS: &str = "ocs";
const GATEWAY_TUN: &str = "ocs0";
const POOL: Prefix = Prefix::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 9, 0, 0)), 24);
const USER: &str = "laptop";
const PASSWORD: &str = "bench";
const PASSWORD_TOOL: &str = "ocpasswd";

#[derive(Debug)]
pub(crate) struct Ocserv;

impl System for Ocserv {
    fn name(&self) -> (&'static str, String) {
        ("ocserv", "direct tls, openconnect".to_owned())
    }

    fn version(&self) -> Result<String, Error> {
        let client = super::version_of("openconnect", &["--version"])?;
        // ocserv tells its version on standard error, where the build has no other place for it.
        let server = std::process::Command::new("ocserv").arg("--version").output()?;
        let told = [server.stdout, server.stderr].concat();
        let server = String::from_utf8_lossy(&told).lines().next().unwrap_or_default().replace("ocserv ", "");
        Ok(format!("{}, {}", server.trim(), client.replace("OpenConnect version ", "openconnect ")))
    }

    fn start(&self, site: &Site) -> Result<Running, Error> {
        let pin = configure(site)?;
        let (laptop, gateway) = (&site.world.laptop, &site.world.gateway);
        let configuration = site.scratch.file("ocserv.conf").display().to_string();
        let mut server = site.start("ocserv", gateway, "ocserv", &["--foreground", "--config", &configuration])?;
        site.until("does not listen", &mut server, || site.reaches(laptop, GATEWAY_DIRECT, PORT))?;
        let mut client = connect(site, &pin)?;
        let address = site.scratch.file("address");
        site.until("gets no address", &mut client, || given(&address).is_some())?;
        let (address, mtu) = given(&address).ok_or("the address has gone")?;
        site.tunnel_end(laptop, &mut client, CLIENT_TUN, Prefix::new(address.into(), 32), Some(mtu))?;
        site.gateway_masquerades(GATEWAY_TUN, POOL)?;
        site.laptop_goes_by(CLIENT_TUN, None)?;
        Ok(Running::of([(Role::Client, client), (Role::Gateway, server)]))
    }
}

/// The address and the MTU that the script has noted.
fn given(note: &Path) -> Option<(Ipv4Addr, u32)> {
    let text = fs::read_to_string(note).ok()?;
    let (address, mtu) = text.trim().split_once(' ')?;
    Some((address.parse().ok()?, mtu.parse().ok()?))
}

/// Writes the server's files, and returns the pin by which the client knows its key.
fn configure(site: &Site) -> Result<String, Error> {
    let file = |name: &str| site.scratch.file(name).display().to_string();
    let certified = rcgen::generate_simple_self_signed([GATEWAY_DIRECT.to_string()])?;
    fs::write(file("ocserv.crt"), certified.cert.pem())?;
    fs::write(file("ocserv.key"), certified.signing_key.serialize_pem())?;
    let passwords = file("ocserv.passwd");
    let said = site.scratch.file("password");
    fs::write(&said, format!("{PASSWORD}\n{PASSWORD}\n"))?;
    let mut tool = std::process::Command::new(PASSWORD_TOOL);
    crate::site::ran(PASSWORD_TOOL, tool.args(["--passwd", &passwords, USER]).stdin(fs::File::open(said)?).output())?;
    let configuration = format!(
        "auth = \"plain[passwd={passwords}]\"\ntcp-port = {PORT}\nrun-as-user = root\nrun-as-group = root\n\
         socket-file = {}\nserver-cert = {}\nserver-key = {}\nisolate-workers = false\nmax-clients = 4\n\
         device = {GATEWAY_TUNS}\nipv4-network = {POOL}\nroute = default\ndpd = 90\nuse-occtl = false\n\
         pid-file = {}\ncisco-client-compat = true\n",
        file("ocserv.sock"),
        file("ocserv.crt"),
        file("ocserv.key"),
        file("ocserv.pid"),
    );
    fs::write(file("ocserv.conf"), configuration)?;
    // In place of the script that would change the machine's routes and resolver.
    let script = format!(
        "#!/bin/sh\n[ \"$reason\" = connect ] && echo \"$INTERNAL_IP4_ADDRESS $INTERNAL_IP4_MTU\" > {}\nexit 0\n",
        file("address")
    );
    fs::write(file("script"), script)?;
    fs::set_permissions(file("script"), fs::Permissions::from_mode(0o700))?;
    let key = certified.signing_key.subject_public_key_info();
    Ok(format!("pin-sha256:{}", STANDARD.encode(Sha256::digest(key))))
}

fn connect(site: &Site, pin: &str) -> Result<Program, Error> {
    let to = format!("{GATEWAY_DIRECT}:{PORT}");
    let script = site.scratch.file("script").display().to_string();
    let args = ["--protocol=anyconnect", "--no-dtls", "--interface", CLIENT_TUN, "--user", USER, "--servercert", pin];
    let args = [&args[..], &["--passwd-on-stdin", "--script", &script, &to]].concat();
    // openconnect reads the password from its standard input, which a program of the lab's does not have.
    let password = site.scratch.file("password").display().to_string();
    let shell_args = [&["-c", "exec openconnect \"$@\" < \"$0\"", &password][..], &args].concat();
    site.start("openconnect", &site.world.laptop, "sh", &shell_args)
}
