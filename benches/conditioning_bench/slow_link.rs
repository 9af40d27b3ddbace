//! A phone's link of 10 Mbit/s and 60 ms, with a buffer of 1 MB: how long a ping takes through the tunnel beside a bulk
//! transfer, and how much that transfer gets of what plain TCP gets over the same link.

use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wstether::cli::{EgressMode, RelayKind};
use wstether::io::netlink::Prefix;
use wstether::lab::tethering::Setting;
use wstether::lab::world::{
    self, GATEWAY, GATEWAY_EXTERNAL, INTERNET, INTERNET_INTERFACE, LAPTOP, PHONE, PHONE_MOBILE, World,
};
use wstether::lab::{Counts, DelayBox, Isolation, Namespace, Program, Scratch, Way, probe};

use crate::site::BINARY;
use crate::{Figures, Outcome, Run, told};

pub(crate) const KEYS: [&str; 4] =
    ["slow_link_ping_over_idle_ms", "slow_link_goodput_ratio", "slow_link_plain_bbr_ratio", "slow_link"];

const RATE_BIT_S: u64 = 10_000_000;
/// Half of it each way.
const ROUND_TRIP: Duration = Duration::from_millis(60);
const BUFFER_BYTES: usize = 1_000_000;
/// The way of the bulk transfer, whether that is down, and how the outer connections, over the slow link, are paced.
const CASES: [(&str, bool, &str); 4] =
    [("down", true, "cubic"), ("down", true, "bbr"), ("up", false, "cubic"), ("up", false, "bbr")];
const INNER: &str = "cubic";
/// Plain TCP: its way and how it is paced. By cubic is what the others are compared with. By BBR tells how much of what the
/// tunnel misses with it is BBR's own.
const PLAIN_CASES: [(&str, bool, &str); 4] =
    [("down", true, "cubic"), ("up", false, "cubic"), ("down", true, "bbr"), ("up", false, "bbr")];

/// TCP needs some seconds until it has found the link's rate.
const WARM_UP: Duration = Duration::from_secs(4);
/// A loss and the recovery from it, several times; and two rounds of BBR's ten seconds, each with a pause of its own
/// (ProbeRTT). Fifteen seconds hold one or two of those, and are 0.90 or 0.93 of plain TCP's by chance.
const BULK: Duration = Duration::from_secs(20);
/// By cubic, plain TCP fills the link and its buffer all the time. By BBR it has those pauses, and is measured as long as
/// the tunnel is.
const PLAIN_CUBIC: Duration = Duration::from_secs(5);
const PINGS_IDLE: u16 = 20;
/// As long as the transfer, so that goodput and busy link are told of the same time.
const PINGS_BUSY: u16 = 190;
const PINGS_APART: Duration = Duration::from_millis(100);

/// The machines, with the slow link between phone and gateway.
struct Slow {
    world: World,
    link: DelayBox,
}

/// What a transfer through the tunnel came to.
struct Tunnelled {
    bit_s: f64,
    /// How much longer a ping takes meanwhile.
    ping_over_idle_ms: f64,
    /// The part of the link's rate that was used in the transfer's direction.
    busy_ratio: f64,
    /// Mean bytes of a frame there, headers included; a full one has 1,514.
    frame_bytes: f64,
}

pub(crate) fn measure(run: &Run) -> Outcome<Figures> {
    let (plain, tunnelled) = both(
        run.full,
        || each(run.full, PLAIN_CASES, |(_, down, congestion)| Slow::new()?.plain(congestion, down)),
        || each(run.full, CASES, |(_, down, outer)| Slow::new()?.tunnelled(outer, down)),
    );
    let [plain_down, plain_up, bbr_down, bbr_up] = plain;
    let (plain_down, plain_up) = (plain_down?, plain_up?);
    let mut cases = Figures::new();
    // Unknown as soon as one case is: it may be the worst.
    let (mut worst_ping_ms, mut worst_goodput) = (Some(0.0_f64), Some(f64::INFINITY));
    for ((direction, down, outer), tunnelled) in CASES.into_iter().zip(tunnelled) {
        let name = format!("{direction}_{outer}");
        let Tunnelled { bit_s, ping_over_idle_ms, busy_ratio, frame_bytes } = match tunnelled {
            Ok(tunnelled) => tunnelled,
            Err(why) => {
                // Such as that the kernel does not have it.
                cases.insert(name, why.into());
                (worst_ping_ms, worst_goodput) = (None, None);
                continue;
            }
        };
        let plain = if down { plain_down } else { plain_up };
        let goodput_ratio = bit_s / plain;
        told(&format!(
            "  {direction}, outer {outer}: ping {ping_over_idle_ms:.1} ms over idle, {goodput_ratio:.3} of plain TCP's \
             {:.2} Mbit/s, the link {busy_ratio:.3} busy with frames of {frame_bytes:.0} bytes",
            plain / 1e6
        ));
        worst_ping_ms = worst_ping_ms.map(|worst| worst.max(ping_over_idle_ms));
        worst_goodput = worst_goodput.map(|worst| worst.min(goodput_ratio));
        let case = json!({
            "ping_over_idle_ms": ping_over_idle_ms,
            "goodput_ratio": goodput_ratio,
            "plain_mbit_s": plain / 1e6,
            "link_busy_ratio": busy_ratio,
            "link_frame_bytes": frame_bytes,
        });
        cases.insert(name, case);
    }
    let (mut plain_bbr, mut worst_bbr) = (Figures::new(), f64::INFINITY);
    for (direction, bbr, cubic) in [("down", bbr_down, plain_down), ("up", bbr_up, plain_up)] {
        match bbr {
            Ok(bit_s) => {
                let ratio = bit_s / cubic;
                told(&format!("  {direction}, plain bbr: {ratio:.3} of plain cubic's"));
                worst_bbr = worst_bbr.min(ratio);
                plain_bbr.insert(direction.into(), json!(ratio));
            }
            Err(why) => drop(plain_bbr.insert(direction.into(), why.into())),
        }
    }
    cases.insert("plain_bbr".into(), Value::Object(plain_bbr));
    let mut figures = Figures::new();
    if worst_bbr.is_finite() {
        figures.insert("slow_link_plain_bbr_ratio".into(), json!(worst_bbr));
    }
    figures.insert("slow_link_ping_over_idle_ms".into(), json!(worst_ping_ms));
    figures.insert("slow_link_goodput_ratio".into(), json!(worst_goodput));
    figures.insert("slow_link".into(), Value::Object(cases));
    Ok(figures)
}

/// One after the other in the full setting, at once in the quick one.
fn both<A: Send, B>(full: bool, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    if full {
        return (one(), other());
    }
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        // A panic is this part's end, as everywhere in it.
        (one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    })
}

/// Measures all cases, each in a world of its own: one after the other in the full setting. The quick one has them at
/// once, since links of 10 Mbit/s leave two cores mostly idle.
fn each<C, T, const N: usize>(
    full: bool,
    cases: [C; N],
    measure: impl Fn(C) -> Outcome<T> + Sync,
) -> [Result<T, String>; N]
where
    C: Send,
    T: Send,
{
    let measure = |case| measure(case).map_err(|error| error.to_string());
    if full {
        return cases.map(measure);
    }
    std::thread::scope(|scope| {
        let threads = cases.map(|case| {
            scope.spawn({
                let measure = &measure;
                move || measure(case)
            })
        });
        threads.map(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".to_owned())))
    })
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
        Ok(Self { world, link })
    }

    /// Bits a second of one plain TCP connection over the slow link.
    fn plain(&self, congestion: &str, down: bool) -> Outcome<f64> {
        let _server = Server::start(&self.world.gateway)?;
        let lasts = if congestion == INNER { PLAIN_CUBIC } else { BULK };
        rate(bulk(&self.world.phone, GATEWAY, (congestion, down), lasts)?)
    }

    /// The same through the tunnel, while pings go the same way.
    fn tunnelled(&self, outer: &str, down: bool) -> Outcome<Tunnelled> {
        let scratch = Scratch::new()?;
        let setting = Setting { binary: BINARY.as_ref(), world: &self.world, scratch: &scratch, tls: false };
        let token = setting.token("laptop")?;
        let [listen, client] = ["listen", "client"].map(|section| format!("{section}.congestion={outer}"));
        let _gateway: Program = setting.gateway(EgressMode::Raw, &["--set", &listen])?;
        let mut client = setting.client(RelayKind::Headless, &token, &["--set", &client])?;
        let _relay = setting.relay(RelayKind::Headless, &["--congestion", outer])?;
        setting.connected(&mut client)?;
        let _server = Server::start(&self.world.internet)?;
        let idle_ms = self.ping_ms(PINGS_IDLE)?;
        let bulk = bulk(&self.world.laptop, INTERNET, (INNER, down), BULK)?;
        std::thread::sleep(WARM_UP);
        let (began, before) = (Instant::now(), self.passed(down));
        let busy_ms = self.ping_ms(PINGS_BUSY);
        let (passed, took) = (self.passed(down), began.elapsed());
        let passed_bytes = (passed.passed_bytes - before.passed_bytes) as f64;
        let busy_ratio = 8.0 * passed_bytes / took.as_secs_f64() / RATE_BIT_S as f64;
        let frame_bytes = passed_bytes / (passed.passed - before.passed).max(1) as f64;
        let bit_s = rate(bulk)?;
        Ok(Tunnelled { bit_s, ping_over_idle_ms: busy_ms? - idle_ms, busy_ratio, frame_bytes })
    }

    /// What the slow link carried in a direction.
    fn passed(&self, down: bool) -> Counts {
        if down { self.link.b_to_a() } else { self.link.a_to_b() }
    }

    fn ping_ms(&self, pings: u16) -> Outcome<f64> {
        let pings = probe::ping(&self.world.laptop, INTERNET, pings, PINGS_APART)?;
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

/// Starts a bulk transfer of one TCP connection, by a congestion control, down or up.
fn bulk(from: &Namespace, to: Ipv4Addr, (congestion, down): (&str, bool), lasts: Duration) -> Outcome<Child> {
    let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
    let mut command = from.command("iperf3", isolation)?;
    let (warm_up, lasts) = (WARM_UP.as_secs().to_string(), lasts.as_secs().to_string());
    command.args(["-c", &to.to_string(), "-J", "-C", congestion, "-O", &warm_up, "-t", &lasts]);
    command.args(if down { &["-R"][..] } else { &[] });
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

/// What the transfer's receiver got, in bits a second.
fn rate(bulk: Child) -> Outcome<f64> {
    let told: Value = serde_json::from_slice(&bulk.wait_with_output()?.stdout)?;
    let rate = told.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    rate.ok_or_else(|| format!("iperf3 failed: {}", told["error"]).into())
}
