//! The demo: laptop, phone, gateway and internet in namespaces of their own, data through all of them, and nothing left.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::cli::{EgressMode, RelayKind};
use crate::exit::NotPermitted;
use crate::io::{nft, sysctl};
use crate::lab::internet::{self, Internet};
use crate::lab::probe::{self, Pings, Transfer};
use crate::lab::tethering::{self, Setting, TUN, told};
use crate::lab::world::{self, Layout, World};
use crate::lab::{Error as LabError, Program, Scratch};
use crate::status::{StageStatus, Status};

/// The bytes of each transfer.
pub const BULK_BYTES: u64 = 64 << 20;
/// Echo requests, and the time between them.
const PINGS: u16 = 50;
const PINGS_APART: Duration = Duration::from_millis(10);

/// What the demo is to show.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The `wstether` binary.
    pub binary: &'a Path,
    /// The way out.
    pub egress: EgressMode,
    /// What joins the WebSockets.
    pub relay: RelayKind,
}

/// Why the demo did not show what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A privilege is missing.
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    /// The namespaces.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The programs.
    #[error(transparent)]
    Tethering(#[from] tethering::Error),
    /// Files, processes, random numbers.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ran, and something was wrong.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The median round trip, in milliseconds.
    pub ping_ms_p50: f64,
    /// The 99th percentile.
    pub ping_ms_p99: f64,
    /// Pings without an answer.
    pub pings_lost: usize,
    /// The address that the name looked up has.
    pub dns_address: Ipv4Addr,
    /// Bytes from the laptop to the internet.
    pub upload_bytes: u64,
    /// Their rate in megabits a second.
    pub upload_mbit_s: f64,
    /// Bytes from the internet to the laptop.
    pub download_bytes: u64,
    /// Their rate in megabits a second.
    pub download_mbit_s: f64,
    /// `raw` or `tun`.
    pub egress: String,
    /// `headless`, `base64` or `direct`.
    pub relay: String,
    /// Whether both transfers had the same SHA-256 at both ends.
    pub sha256_ok: bool,
    /// What the gateway's stages did, in the order of the data's way.
    pub stages: Vec<StageStatus>,
}

/// What was shown, and how the gateway saw it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The figures.
    pub report: Report,
    /// The gateway's status at the end.
    pub status: Status,
}

/// Runs the demo. Each step is told as it comes.
///
/// # Errors
/// [`Error`]; all that ran is ended and all files are gone then, too.
pub fn run(settings: &Settings<'_>, scratch: &Scratch, tell: &mut dyn FnMut(&str)) -> Result<Shown, Error> {
    let layout = Layout { direct: settings.relay == RelayKind::Direct, offloads: None };
    tell("laptop, phone, gateway and internet: a network namespace each, joined by cables");
    let world = World::new(layout)?;
    let bulk = random(BULK_BYTES)?;
    let _internet = Internet::start(&world.internet, world::INTERNET, Arc::clone(&bulk))?;
    let setting = Setting { binary: settings.binary, world: &world, scratch, tls: false };

    tell("a token is made for the laptop, and the gateway starts");
    let token = setting.token("laptop")?;
    let mut running = Running { gateway: setting.gateway(settings.egress, &[])?, client: None, relay: None };
    tell(match settings.relay {
        RelayKind::Direct => "the laptop opens its WebSocket straight to the gateway",
        RelayKind::Headless => {
            "the laptop waits for the phone, whose relay opens one WebSocket to it and one to the gateway"
        }
        RelayKind::Base64 => {
            "the same by a phone that carries base64 text: one WebSocket to the laptop, one to the gateway"
        }
    });
    let mut client = setting.client(settings.relay, &token, &[])?;
    running.relay = setting.relay(settings.relay, &[])?;
    let connected = setting.connected(&mut client);
    running.client = Some(client);
    let resolver = connected.map_err(|error| running.with_logs(error))?;
    tell("the laptop's packets go through the tunnel now");

    let measured = measure(&world, resolver, &bulk, tell).map_err(|error| running.with_logs(error))?;
    let status = setting.status().ok_or_else(|| told(&running.gateway, "does not tell its status"))?;

    tell("everything is stopped by SIGTERM");
    let mut wrong = measured.wrong();
    wrong.extend(running.end()?);
    wrong.extend(left_over(&setting)?);
    let report = measured.report(settings, &status);
    if wrong.is_empty() {
        tell("nothing is left: no process, no rule, no route, no device");
        return Ok(Shown { report, status });
    }
    Err(Error::Wrong(wrong))
}

/// The programs.
struct Running {
    gateway: Program,
    client: Option<Program>,
    relay: Option<Program>,
}

impl Running {
    /// Ends the programs, the laptop's first as a person would, and tells who did not exit with 0.
    fn end(self) -> Result<Vec<String>, Error> {
        let mut wrong = Vec::new();
        for program in [self.client, self.relay, Some(self.gateway)].into_iter().flatten() {
            let (name, log) = (program.name().to_owned(), program.log_path().to_owned());
            let status = program.end()?;
            if !status.success() {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                wrong.push(format!("the {name} ended with {status}; its log:\n{log}"));
            }
        }
        Ok(wrong)
    }

    /// An error, and what every program has said.
    fn with_logs(&self, error: impl Into<Error>) -> Error {
        let programs = [Some(&self.gateway), self.client.as_ref(), self.relay.as_ref()].into_iter().flatten();
        let logs = programs.map(|program| format!("log of the {}:\n{}", program.name(), program.log()));
        Error::Wrong([error.into().to_string()].into_iter().chain(logs).collect())
    }
}

/// What the laptop has seen.
struct Measured {
    pings: Pings,
    address: Option<Ipv4Addr>,
    upload: Transfer,
    download: Transfer,
}

fn measure(world: &World, resolver: Ipv4Addr, bulk: &[u8], tell: &mut dyn FnMut(&str)) -> Result<Measured, Error> {
    let laptop = &world.laptop;
    let server = (resolver, internet::DNS_PORT).into();
    let address = probe::look_up(laptop, server, internet::NAME)?;
    tell(&match address {
        Some(address) => format!("the name {} has the address {address}, says {resolver}", internet::NAME),
        None => format!("no address of {} is known at {resolver}", internet::NAME),
    });
    let host = address.unwrap_or(world::INTERNET);
    let pings = probe::ping(laptop, host, PINGS, PINGS_APART)?;
    let (p50, p99) = (pings.quantile_ms(0.5), pings.quantile_ms(0.99));
    tell(&format!(
        "{} of {} pings came back: {} ms (median), {} ms (99th percentile)",
        pings.times.len(),
        pings.sent,
        shown(p50),
        shown(p99)
    ));
    let upload = probe::upload(laptop, host, bulk)?;
    tell(&transferred("uploaded", &upload));
    let download = probe::download(laptop, host, BULK_BYTES)?;
    tell(&transferred("downloaded", &download));
    Ok(Measured { pings, address, upload, download })
}

fn shown(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"))
}

fn transferred(how: &str, transfer: &Transfer) -> String {
    let digest = if transfer.sha256_ok { "the same" } else { "NOT THE SAME" };
    format!(
        "{how} {} MiB at {:.0} Mbit/s; SHA-256 at the other end is {digest}",
        transfer.bytes >> 20,
        transfer.mbit_s()
    )
}

impl Measured {
    fn sha256_ok(&self) -> bool {
        self.upload.sha256_ok && self.download.sha256_ok
    }

    /// What is not as it should be.
    fn wrong(&self) -> Vec<String> {
        let lost = self.pings.sent - self.pings.times.len();
        let checks = [
            (lost > 0, format!("{lost} of {} pings were lost", self.pings.sent)),
            (self.address != Some(world::INTERNET), format!("{} was not found by DNS", internet::NAME)),
            (!self.sha256_ok(), "what was sent is not what came".to_owned()),
        ];
        checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| what).collect()
    }

    fn report(&self, settings: &Settings<'_>, status: &Status) -> Report {
        let Self { pings, address, upload, download } = self;
        Report {
            ping_ms_p50: pings.quantile_ms(0.5).unwrap_or(f64::NAN),
            ping_ms_p99: pings.quantile_ms(0.99).unwrap_or(f64::NAN),
            pings_lost: pings.sent - pings.times.len(),
            dns_address: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            upload_bytes: upload.bytes,
            upload_mbit_s: upload.mbit_s(),
            download_bytes: download.bytes,
            download_mbit_s: download.mbit_s(),
            egress: settings.egress.word().to_owned(),
            relay: settings.relay.word().to_owned(),
            sha256_ok: self.sha256_ok(),
            stages: status.stages.clone(),
        }
    }
}

/// What the programs should have undone, and did not.
fn left_over(setting: &Setting<'_>) -> Result<Vec<String>, Error> {
    let World { laptop, gateway, .. } = setting.world;
    let mut left = Vec::new();
    for (namespace, whose) in [(laptop, "laptop"), (gateway, "gateway")] {
        if namespace.netlink(|netlink| netlink.links())?.iter().any(|link| link.name == TUN) {
            left.push(format!("the {whose} still has the device {TUN}"));
        }
    }
    if setting.leads_through_tunnel() || setting.resolver().is_some() {
        left.push("the laptop's routes or resolver still lead through the tunnel".to_owned());
    }
    let rules = gateway.run(nft::ruleset)?.map_err(io::Error::other)?;
    if !rules.is_empty() {
        left.push(format!("the gateway still has the nftables rules {rules}"));
    }
    let reserved = gateway.run(|| sysctl::read(sysctl::RESERVED_PORTS))?.map_err(io::Error::other)?;
    if !reserved.is_empty() {
        left.push(format!("the gateway still has the ports {reserved} reserved"));
    }
    Ok(left)
}

fn random(bytes: u64) -> Result<Arc<[u8]>, Error> {
    let mut random = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.into())
}
