//! wstether by each of its paths: direct, through `wstether relay`, through the page in a headless Chromium.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData;
use sha2::{Digest, Sha256};
use wstether::cli::{EgressMode, RelayKind};
use wstether::lab::tethering::{PAGE_PORT, Setting};
use wstether::lab::world::{GATEWAY, GATEWAY_DIRECT, INTERNET, LAPTOP};

use super::{Alone, Role, Running, SlowLink, System};
use crate::chromium::Chromium;
use crate::measures::cpu;
use crate::site::{Error, Site};

/// What a gateway needs for 200 simulated tethers that come at once, and again for the next load: places and ports.
const SIMULATED: [&str; 10] = [
    "--set",
    "tethers.max=400",
    "--set",
    "listen.links_max=512",
    "--set",
    "listen.handshakes_per_address=256",
    "--set",
    "egress.ports_per_tether=64",
    "--set",
    "tethers.linger=0s",
];
const SINK_PORT: u16 = 9_000;

/// What joins laptop and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Relay,
    Chromium,
}

/// Which wstether, and how its gateway is configured.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) binary: PathBuf,
    /// Settings of the gateway, each `KEY=VALUE`.
    pub(crate) set: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Wstether {
    build: Build,
    way: Way,
    tls: bool,
    egress: EgressMode,
    is_quick: bool,
}

/// Every path that is measured.
pub(crate) fn variants(build: &Build) -> impl Iterator<Item = Wstether> {
    let variant = |(way, tls, egress, is_quick)| Wstether { build: build.clone(), way, tls, egress, is_quick };
    [
        (Way::Direct, false, EgressMode::Raw, true),
        (Way::Direct, false, EgressMode::Tun, true),
        (Way::Direct, true, EgressMode::Raw, true),
        (Way::Direct, true, EgressMode::Tun, false),
        (Way::Relay, false, EgressMode::Raw, true),
        (Way::Relay, false, EgressMode::Tun, false),
        (Way::Relay, true, EgressMode::Raw, false),
        (Way::Relay, true, EgressMode::Tun, false),
        (Way::Chromium, false, EgressMode::Raw, true),
        (Way::Chromium, false, EgressMode::Tun, false),
        (Way::Chromium, true, EgressMode::Raw, false),
        (Way::Chromium, true, EgressMode::Tun, false),
    ]
    .into_iter()
    .map(variant)
}

impl System for Wstether {
    fn name(&self) -> (&'static str, String) {
        let way = match self.way {
            Way::Direct => "direct",
            Way::Relay => "relay",
            Way::Chromium => "chromium",
        };
        ("wstether", format!("{way} {} {}", if self.tls { "wss" } else { "ws" }, self.egress.word()))
    }

    fn version(&self) -> Result<String, Error> {
        if self.way == Way::Chromium {
            super::version_of("chromium", &["--version"])?;
            super::version_of("chromedriver", &["--version"])?;
        }
        Ok(super::version_of(&self.build.binary.display().to_string(), &["--version"])?.replace("wstether ", ""))
    }

    fn start(&self, site: &Site) -> Result<Running, Error> {
        let setting = self.setting(site);
        let trust = if self.tls { Some(Trust::new(site)?) } else { None };
        let args = |of: fn(&Trust) -> Vec<String>| trust.as_ref().map(of).unwrap_or_default();
        let gateway_args = with_set(args(Trust::gateway), &self.build.set);
        let gateway = setting.gateway(self.egress, &words(&gateway_args))?;
        let token = setting.token("laptop")?;
        let relay = if self.way == Way::Direct { RelayKind::Direct } else { RelayKind::Headless };
        let mut client = setting.client(relay, &token, &words(&args(Trust::client)))?;
        let mut running = Running::default();
        match self.way {
            Way::Direct => {}
            Way::Relay => {
                if let Some(program) = setting.relay(relay, &words(&args(Trust::relay)))? {
                    running.keep(Role::Relay, program.id(), program);
                }
            }
            Way::Chromium => {
                let served = || site.reaches(&site.world.phone, LAPTOP, PAGE_PORT);
                site.until("does not serve the page", &mut client, served)?;
                let browser = browse(site, &args(Trust::browser))?;
                running.keep(Role::Relay, cpu::child("chromedriver").ok_or("the browser has gone")?, browser);
            }
        }
        setting.connected(&mut client)?;
        running.add(Role::Client, client);
        running.add(Role::Gateway, gateway);
        Ok(running)
    }

    fn gateway_alone(&self, site: &Site) -> Result<Alone, Error> {
        if self.way != Way::Direct || self.tls {
            return Err("the same gateway as in the row of direct ws".into());
        }
        self.alone(site)
    }

    fn slow_link(&self) -> SlowLink {
        if self.way == Way::Direct { SlowLink::LaptopToGateway } else { SlowLink::PhoneToGateway }
    }

    fn is_quick(&self) -> bool {
        self.is_quick
    }
}

impl Wstether {
    fn setting<'a>(&'a self, site: &'a Site) -> Setting<'a> {
        Setting { binary: &self.build.binary, world: &site.world, scratch: &site.scratch, tls: self.tls }
    }

    fn alone(&self, site: &Site) -> Result<Alone, Error> {
        let setting = self.setting(site);
        let gateway = setting.gateway(self.egress, &words(&with_set(SIMULATED.map(str::to_owned), &self.build.set)))?;
        let (binary, token) = (self.build.binary.display().to_string(), setting.token("load")?.display().to_string());
        let address = format!("{INTERNET}:{SINK_PORT}");
        let mut sink = site.start("sink", &site.world.internet, &binary, &["load", "sink", "--listen", &address])?;
        let log = sink.log_path().to_owned();
        let listens = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("listens"));
        site.until("does not listen", &mut sink, listens)?;
        let url = setting.gateway_url(GATEWAY_DIRECT);
        let load = [&binary, "load", "--json", "--gateway", &url, "--sink", &address, "--token-file", &token];
        Ok(Alone { gateway, _sink: sink, load: load.map(str::to_owned).to_vec() })
    }
}

/// Opens the client's page on the phone. The browser's driver panics where it fails.
fn browse(site: &Site, options: &[String]) -> Result<Chromium, Error> {
    let opened = site.world.phone.run(|| {
        std::panic::catch_unwind(|| {
            let mut chromium = Chromium::launch_with(|program| Command::new(program), options);
            chromium.open(&format!("http://{LAPTOP}:{PAGE_PORT}/"));
            chromium.wait("#gateway-state", "data-state", "connected");
            chromium
        })
    })?;
    opened.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| "the browser does not open the page".to_owned()).into()
    })
}

/// Arguments, and `set` of the configuration.
fn with_set(args: impl IntoIterator<Item = String>, set: &[String]) -> Vec<String> {
    args.into_iter().chain(set.iter().flat_map(|set| ["--set".to_owned(), set.clone()])).collect()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// A certificate of the gateway's own, and who trusts it.
#[derive(Debug)]
struct Trust {
    certificate: PathBuf,
    key: PathBuf,
    /// The hash of its public key, by which a browser knows it.
    pin: String,
}

impl Trust {
    fn new(site: &Site) -> Result<Self, Error> {
        let names = [GATEWAY, GATEWAY_DIRECT].map(|address| address.to_string());
        let certified = rcgen::generate_simple_self_signed(names)?;
        let pin = STANDARD.encode(Sha256::digest(certified.signing_key.subject_public_key_info()));
        let trust = Self { certificate: site.scratch.file("certificate.pem"), key: site.scratch.file("key.pem"), pin };
        std::fs::write(&trust.certificate, certified.cert.pem())?;
        std::fs::write(&trust.key, certified.signing_key.serialize_pem())?;
        Ok(trust)
    }

    fn gateway(&self) -> Vec<String> {
        let set = |key, file: &Path| ["--set".to_owned(), format!("{key}={}", file.display())];
        [set("tls.certificate", &self.certificate), set("tls.key", &self.key)].concat()
    }

    fn client(&self) -> Vec<String> {
        vec!["--set".to_owned(), format!("client.ca={}", self.certificate.display())]
    }

    fn relay(&self) -> Vec<String> {
        vec!["--ca".to_owned(), self.certificate.display().to_string()]
    }

    fn browser(&self) -> Vec<String> {
        vec![format!("--ignore-certificate-errors-spki-list={}", self.pin)]
    }
}
