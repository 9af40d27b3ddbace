//! A phone's link of 10 Mbit/s and 60 ms, with a buffer of 1 MB: how long a ping takes through the tunnel beside a bulk
//! transfer, and how much that transfer gets of what plain TCP gets over the same link.

use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use wstether::cli::{EgressMode, RelayKind};
use wstether::io::netlink::Prefix;
use wstether::lab::tethering::Setting;
use wstether::lab::world::{
    self, GATEWAY, GATEWAY_EXTERNAL, INTERNET, INTERNET_INTERFACE, LAPTOP, PHONE, PHONE_MOBILE, World,
};
use wstether::lab::{DelayBox, Isolation, Namespace, Program, Scratch, Way, probe};

use crate::site::BINARY;
use crate::{Figures, Outcome, told};

pub(crate) const KEYS: [&str; 3] = ["slow_link_ping_over_idle_ms", "slow_link_goodput_ratio", "slow_link"];

const RATE_BIT_S: u64 = 10_000_000;
/// Half of it each way.
const ROUND_TRIP: Duration = Duration::from_millis(60);
const BUFFER_BYTES: usize = 1_000_000;
/// How the outer connection, over the slow link, is paced.
const OUTER: [&str; 2] = ["cubic", "bbr"];
const INNER: &str = "cubic";

/// TCP needs some seconds until it has found the link's rate.
const WARM_UP: Duration = Duration::from_secs(3);
const BULK: Duration = Duration::from_secs(10);
const PINGS: u16 = 40;
const PINGS_APART: Duration = Duration::from_millis(100);

/// The machines, with the slow link between phone and gateway.
struct Slow {
    world: World,
    _link: DelayBox,
}

pub(crate) fn measure(_: Duration) -> Outcome<Figures> {
    let mut cases = Figures::new();
    let (mut worst_ping_ms, mut worst_goodput) = (0.0_f64, f64::INFINITY);
    for outer in OUTER {
        let slow = Slow::new()?;
        for namespace in [&slow.world.phone, &slow.world.gateway] {
            if namespace.sysctl("net.ipv4.tcp_congestion_control", outer).is_err() {
                cases.insert(outer.to_owned(), "this kernel does not have it".into());
            }
        }
        if cases.contains_key(outer) {
            continue;
        }
        for (direction, down) in [("down", true), ("up", false)] {
            let plain = slow.plain(down)?;
            let (ping_over_idle_ms, goodput) = slow.tunnelled(down)?;
            told(&format!(
                "  {direction}, outer {outer}: ping {ping_over_idle_ms:.1} ms over idle, {:.2} of plain TCP's {:.1} Mbit/s",
                goodput / plain,
                plain / 1e6
            ));
            worst_ping_ms = worst_ping_ms.max(ping_over_idle_ms);
            worst_goodput = worst_goodput.min(goodput / plain);
            let case = json!({
                "ping_over_idle_ms": ping_over_idle_ms,
                "goodput_ratio": goodput / plain,
                "plain_mbit_s": plain / 1e6,
            });
            cases.insert(format!("{direction}_{outer}"), case);
        }
    }
    let mut figures = Figures::new();
    figures.insert("slow_link_ping_over_idle_ms".into(), json!(worst_ping_ms));
    figures.insert("slow_link_goodput_ratio".into(), json!(worst_goodput));
    figures.insert("slow_link".into(), Value::Object(cases));
    Ok(figures)
}

impl Slow {
    fn new() -> Outcome<Self> {
        let [laptop, phone, gateway, internet] = ["laptop", "phone", "gateway", "internet"].map(Namespace::new);
        let world = World { laptop: laptop?, phone: phone?, gateway: gateway?, internet: internet? };
        let World { laptop, phone, gateway, internet } = &world;
        for namespace in [laptop, phone, gateway, internet] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        world::join((laptop, "phone0", LAPTOP), (phone, "laptop0", PHONE), 30, None)?;
        let way = Way { rate_bit_s: Some(RATE_BIT_S), delay: ROUND_TRIP / 2, buffer_bytes: BUFFER_BYTES, ..Way::FAST };
        let link = DelayBox::between((phone, "mobile0"), (gateway, "mobile0"), way, way, 1)?;
        phone.address("mobile0", Prefix::new(PHONE_MOBILE.into(), 30))?;
        gateway.address("mobile0", Prefix::new(GATEWAY.into(), 30))?;
        let internet_end = (internet, INTERNET_INTERFACE, INTERNET);
        world::join((gateway, INTERNET_INTERFACE, GATEWAY_EXTERNAL), internet_end, 24, None)?;
        gateway.route(Prefix::ALL_V4, INTERNET.into(), INTERNET_INTERFACE)?;
        Ok(Self { world, _link: link })
    }

    /// Bits a second of one plain TCP connection over the slow link.
    fn plain(&self, down: bool) -> Outcome<f64> {
        let _server = Server::start(&self.world.gateway)?;
        rate(bulk(&self.world.phone, GATEWAY, down)?)
    }

    /// The same through the tunnel, and how much longer a ping takes meanwhile, in milliseconds.
    fn tunnelled(&self, down: bool) -> Outcome<(f64, f64)> {
        let scratch = Scratch::new()?;
        let setting = Setting { binary: BINARY.as_ref(), world: &self.world, scratch: &scratch, tls: false };
        let token = setting.token("laptop")?;
        let _gateway: Program = setting.gateway(EgressMode::Raw, &[])?;
        let mut client = setting.client(RelayKind::Headless, &token, &[])?;
        let _relay = setting.relay(RelayKind::Headless, &[])?;
        setting.connected(&mut client)?;
        let _server = Server::start(&self.world.internet)?;
        let idle_ms = self.ping_ms()?;
        let bulk = bulk(&self.world.laptop, INTERNET, down)?;
        std::thread::sleep(WARM_UP);
        let busy_ms = self.ping_ms();
        let rate = rate(bulk)?;
        Ok((busy_ms? - idle_ms, rate))
    }

    fn ping_ms(&self) -> Outcome<f64> {
        let pings = probe::ping(&self.world.laptop, INTERNET, PINGS, PINGS_APART)?;
        pings.quantile_ms(0.5).ok_or_else(|| "no ping came back through the tunnel".into())
    }
}

/// Debian's iperf3, as a server. It is killed when dropped.
struct Server(Child);

impl Server {
    fn start(namespace: &Namespace) -> Outcome<Self> {
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        let mut command = namespace.command("iperf3", isolation)?;
        let child = command.arg("-s").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self(child);
        // It listens within milliseconds; who comes too early is told so.
        std::thread::sleep(Duration::from_millis(500));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a bulk transfer of one TCP connection.
fn bulk(from: &Namespace, to: std::net::Ipv4Addr, down: bool) -> Outcome<Child> {
    let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
    let mut command = from.command("iperf3", isolation)?;
    let (warm_up, lasts) = (WARM_UP.as_secs().to_string(), BULK.as_secs().to_string());
    command.args(["-c", &to.to_string(), "-J", "-C", INNER, "-O", &warm_up, "-t", &lasts]);
    command.args(if down { &["-R"][..] } else { &[] });
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

/// What the transfer's receiver got, in bits a second.
fn rate(bulk: Child) -> Outcome<f64> {
    let told: Value = serde_json::from_slice(&bulk.wait_with_output()?.stdout)?;
    let rate = told.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    rate.ok_or_else(|| format!("iperf3 failed: {}", told["error"]).into())
}
