//! A gateway, a sink and a load, each a process of its own in a namespace, on cores of their own where there are two.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wstether::cli::EgressMode;
use wstether::lab::tethering::Setting;
use wstether::lab::world::{self, INTERNET, Layout, World};
use wstether::lab::{Isolation, Program, Scratch};
use wstether::pipeline::diagram;
use wstether::stages::ballast::Ballast;
use wstether::status::{StageStatus, Status};

use crate::{GATEWAY, Outcome};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_wstether");

/// Open files that each program may have: 10,000 WebSockets, and some.
const FILES_MAX: u32 = 65_536;

/// What `egress.ports` has by default, and the least and the most of them that a tether is given here: each needs one.
const PORTS: u32 = 32_768;
const PORTS_PER_TETHER: (u32, u32) = (16, 512);

const SINK_PORT: u16 = 9_000;

/// Where a gateway of an experiment is told its rule of hand-over.
const RULE_SOCKET: &str = "rule.sock";
/// And where it answers.
const ANSWERS_SOCKET: &str = "rule.ack";
/// How long it may take to.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The most that a sink or a tether count may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long what is under way at a load's end may take, in seconds: many times what queues of some milliseconds hold.
const DRAIN_S: &str = "0.2";

/// All of it. What runs is killed, and the namespaces go, when it is dropped.
pub(crate) struct Site {
    pub(crate) world: World,
    scratch: Scratch,
    token: PathBuf,
    launcher: PathBuf,
    rules: UnixDatagram,
    _gateway: Program,
    _sink: Program,
}

/// The way of packets through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

impl Way {
    /// As an option of the load.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// How many packets its last stage has passed on.
    fn packets(self, status: &Status) -> u64 {
        let direction = match self {
            Self::Up => diagram::UPLINK,
            Self::Down => diagram::DOWNLINK,
        };
        status.stages.iter().rfind(|stage| stage.direction == direction).map_or(0, |stage| stage.packets_out)
    }
}

/// What a gateway had passed on at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub(crate) at: Instant,
    pub(crate) packets: u64,
    pub(crate) cpu_seconds: f64,
}

/// Who shares a core with whom.
#[derive(Clone, Copy)]
pub(crate) enum Pinned {
    /// The gateway on the second core, sink and load on the first.
    Apart,
    /// As the kernel likes.
    Free,
}

impl Site {
    /// Starts a gateway for so many tethers, and its sink. With ballast, be it none, it is one whose rule can be set.
    pub(crate) fn start(
        tethers: u32,
        ballast: Option<Ballast>,
        pinned: Pinned,
        egress: EgressMode,
        more: &[&str],
    ) -> Outcome<Self> {
        let (world, scratch) = (World::new(Layout { direct: true, offloads: None })?, Scratch::new()?);
        let (gateway_core, load_core) = match pinned {
            Pinned::Apart if std::thread::available_parallelism()?.get() > 1 => ("taskset -c 1 ", "taskset -c 0 "),
            Pinned::Apart | Pinned::Free => ("", ""),
        };
        let bench = std::env::current_exe()?.display().to_string();
        let rule = scratch.file(RULE_SOCKET);
        let program = ballast.map_or_else(
            || BINARY.to_owned(),
            |ballast| format!("{bench} {GATEWAY} {} {}", ballast.rounds, rule.display()),
        );
        let gateway_launcher = launcher(&scratch, "gateway.sh", gateway_core, &program)?;
        let launcher = launcher(&scratch, "load.sh", load_core, BINARY)?;
        let setting = Setting { binary: &gateway_launcher, world: &world, scratch: &scratch, tls: false };
        let token = setting.token("load")?;
        // Room for each tether and for its successor, since a place rests for a second; and for the handshakes of all that
        // come at once. Who leaves a link that is full leaves without a goodbye, and would linger into the next load.
        let places = tethers * 2;
        let sizes = [
            format!("tethers.max={places}"),
            format!("egress.ports_per_tether={}", (PORTS / places).clamp(PORTS_PER_TETHER.0, PORTS_PER_TETHER.1)),
            format!("listen.links_max={}", places + 64),
            "listen.handshakes_max=4096".to_owned(),
            // All of them come from one address.
            "listen.handshakes_per_address=4096".to_owned(),
            "tethers.linger=0s".to_owned(),
        ];
        let sizes: Vec<&str> = sizes.iter().flat_map(|size| ["--set", size]).collect();
        let gateway = setting.gateway(egress, &[&sizes, more].concat())?;
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        let mut sink = world.internet.command(&launcher.display().to_string(), isolation)?;
        sink.args(["load", "sink", "--listen", &format!("{INTERNET}:{SINK_PORT}")]);
        let mut sink = Program::start("sink", sink, scratch.file("sink.log"))?;
        let log = scratch.file("sink.log");
        let listens = || fs::read_to_string(&log).is_ok_and(|log| log.contains("listens"));
        setting.until("does not listen", &mut sink, listens)?;
        let rules = UnixDatagram::bind(scratch.file(ANSWERS_SOCKET))?;
        rules.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { token, launcher, rules, _gateway: gateway, _sink: sink, world, scratch })
    }

    /// Runs a load to its end and returns what it tells. It begins when nothing of an earlier one waits any more.
    pub(crate) fn load(&self, args: &[&str]) -> Outcome<Value> {
        self.loaded(self.begin(args)?)
    }

    /// Begins a load, whose end is [`Self::loaded`]'s to wait for.
    fn begin(&self, args: &[&str]) -> Outcome<Child> {
        let is_at_rest = |stage: &StageStatus| stage.queue == 0 && !stage.shedding;
        let is_empty = |status: &Status| status.tethers == 0 && status.stages.iter().all(is_at_rest);
        self.until("the gateway does not come to rest", is_empty)?;
        Ok(self.command(args)?.args(["--drain", DRAIN_S]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// Waits for the end of a load and returns what it tells.
    fn loaded(&self, load: Child) -> Outcome<Value> {
        let output = load.wait_with_output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }
        let report: Value = serde_json::from_slice(&output.stdout)?;
        if report["sink_answered"] != true {
            return Err(format!("the sink did not tell all that it counted; {}", self.unrest()).into());
        }
        Ok(report)
    }

    /// Runs a load, and something else meanwhile, from when the gateway passes its packets on. The load is to last longer.
    pub(crate) fn meanwhile<T>(&self, args: &[&str], way: Way, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let before = self.passed(way)?.packets;
        let mut load = self.begin(args)?;
        let passes = self.until("nothing passes the gateway", |status| way.packets(status) > before);
        let done = passes.and_then(|()| run());
        let is_over = matches!(load.try_wait(), Ok(Some(_)));
        if done.is_err() {
            // It may have ended by itself.
            drop(load.kill());
        }
        let report = self.loaded(load);
        let done = done?;
        report?;
        if is_over { Err("the load ended too early".into()) } else { Ok(done) }
    }

    /// What the gateway has passed on, one way.
    pub(crate) fn passed(&self, way: Way) -> Outcome<Passed> {
        let asked = Instant::now();
        let status = self.status()?;
        Ok(Passed { at: asked + asked.elapsed() / 2, packets: way.packets(&status), cpu_seconds: status.cpu_seconds })
    }

    /// Sets the rule of hand-over, where the gateway is one with ballast. When it returns, the rule holds.
    pub(crate) fn set_rule(&self, rule: &str) -> Outcome<()> {
        let mut answer = [0; 16];
        self.rules.send_to(rule.as_bytes(), self.scratch.file(RULE_SOCKET))?;
        let bytes = self.rules.recv(&mut answer)?;
        if &answer[..bytes] == rule.as_bytes() { Ok(()) } else { Err("the gateway has another rule".into()) }
    }

    /// Where in the gateway something waits.
    fn unrest(&self) -> String {
        let Ok(status) = self.status() else { return "the gateway does not tell its status".to_owned() };
        let is_busy = |stage: &&StageStatus| stage.queue > 0 || stage.lanes_parked > 0 || stage.shedding;
        let tell = |stage: &StageStatus| {
            let StageStatus { name, direction, queue, lanes_parked, .. } = stage;
            format!("{name} {direction} has {queue} packets, and {lanes_parked} lanes wait for it")
        };
        let busy: Vec<String> = status.stages.iter().filter(is_busy).map(tell).collect();
        format!("gateway: {} tethers; {}", status.tethers, busy.join("; "))
    }

    /// The command of a load.
    pub(crate) fn command(&self, args: &[&str]) -> Outcome<std::process::Command> {
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        let mut command = self.world.laptop.command(&self.launcher.display().to_string(), isolation)?;
        let url = self.setting().gateway_url(world::GATEWAY_DIRECT);
        command.args([
            "load",
            "--json",
            "--gateway",
            &url,
            "--sink",
            &format!("{INTERNET}:{SINK_PORT}"),
            "--token-file",
        ]);
        command.arg(&self.token).args(args);
        Ok(command)
    }

    /// What the gateway says of itself.
    pub(crate) fn status(&self) -> Outcome<Status> {
        self.setting().status().ok_or_else(|| "the gateway does not tell its status".into())
    }

    /// Waits until the gateway has so many tethers.
    pub(crate) fn until_tethers(&self, tethers: u64) -> Outcome<()> {
        self.until(&format!("the gateway does not get {tethers} tethers"), |status| status.tethers >= tethers)
    }

    fn until(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Outcome<()> {
        let late = Instant::now() + PATIENCE;
        while !is_so(&self.status()?) {
            if Instant::now() >= late {
                return Err(what.into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn setting(&self) -> Setting<'_> {
        Setting { binary: &self.launcher, world: &self.world, scratch: &self.scratch, tls: false }
    }
}

/// A script that becomes the program, with its core and its limits.
fn launcher(scratch: &Scratch, name: &str, core: &str, program: &str) -> Outcome<PathBuf> {
    let path: PathBuf = scratch.file(name);
    fs::write(
        &path,
        format!(
            "#!/bin/sh\nulimit -n {FILES_MAX} 2>/dev/null || ulimit -n $(ulimit -H -n)\nexec {core}{program} \"$@\"\n"
        ),
    )?;
    fs::set_permissions(Path::new(&path), fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

/// A number in what a load tells.
pub(crate) fn number(report: &Value, path: &str) -> Outcome<f64> {
    report.pointer(path).and_then(Value::as_f64).ok_or_else(|| format!("the load tells no {path}").into())
}

/// Each tether's figure.
pub(crate) fn each(report: &Value, path: &str) -> Outcome<Vec<f64>> {
    let list = report.pointer(path).and_then(Value::as_array).ok_or_else(|| format!("the load tells no {path}"))?;
    Ok(list.iter().filter_map(Value::as_f64).collect())
}
