//! `wstether load` against a real gateway, with a real sink behind it: each kind of tether, and every packet accounted for.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wstether::cli::EgressMode;
use wstether::lab::tethering::Setting;
use wstether::lab::world::{self, INTERNET, Layout, World};
use wstether::lab::{Isolation, Program, Scratch};
use wstether::status::Status;

use super::world::{BINARY, PATIENCE};

const SINK_PORT: u16 = 9_000;

/// A gateway, and a sink behind it. What runs is killed and what was written goes when it is dropped.
struct Bench {
    token: PathBuf,
    gateway: Program,
    _sink: Program,
    world: World,
    scratch: Scratch,
}

impl Bench {
    fn start(gateway: &[&str]) -> Self {
        Self::start_with(gateway, |setting| setting.token("load").unwrap())
    }

    /// The same with the token in a file that `token` makes.
    fn start_with(gateway: &[&str], token: impl FnOnce(&Setting<'_>) -> PathBuf) -> Self {
        let (world, scratch) = (World::new(Layout { direct: true, offloads: None }).unwrap(), Scratch::new().unwrap());
        let setting = Setting { binary: BINARY.as_ref(), world: &world, scratch: &scratch, tls: false };
        let token = token(&setting);
        let gateway = setting.gateway(EgressMode::Raw, gateway).unwrap();
        let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
        let mut sink = world.internet.command(BINARY, isolation).unwrap();
        sink.args(["load", "sink", "--listen", &format!("{INTERNET}:{SINK_PORT}")]);
        let mut sink = Program::start("sink", sink, scratch.file("sink.log")).unwrap();
        setting
            .until("does not listen", &mut sink, || {
                std::fs::read_to_string(scratch.file("sink.log")).is_ok_and(|log| log.contains("listens"))
            })
            .unwrap();
        Self { token, gateway, _sink: sink, world, scratch }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.laptop.command(BINARY, Isolation::default()).unwrap();
        let setting = Setting { binary: BINARY.as_ref(), world: &self.world, scratch: &self.scratch, tls: false };
        command.args(["load", "--gateway", &setting.gateway_url(world::GATEWAY_DIRECT), "--token-file"]);
        command.arg(&self.token).args(["--sink", &format!("{INTERNET}:{SINK_PORT}")]).args(args);
        command
    }

    /// What a load tells in JSON.
    fn load(&self, args: &[&str]) -> Value {
        let output = self.command(args).arg("--json").stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["sink_answered"], true, "{report:#}");
        for way in ["up", "down"].map(|way| &report[way]).into_iter().filter(|way| !way.is_null()) {
            let [offered, sent, delivered, lost] = ["offered", "sent", "delivered", "lost"].map(|key| count(&way[key]));
            assert_eq!(delivered + lost, offered, "{report:#}");
            assert!(delivered <= sent && sent <= offered, "{report:#}");
            assert_eq!(way["reordered"], 0, "{report:#}");
        }
        report
    }
}

/// What the gateway may hold beside its memory budget, for each core (docs/configuration.md).
const BESIDE_THE_BUDGET_BYTES: usize = 64 << 20;

/// As the kernel writes it (sched(7)).
const SCHED_BATCH: &str = "3";

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

#[test]
fn a_light_load_arrives_whole_both_ways_and_is_shared_evenly() {
    let bench = Bench::start(&[]);
    let report = bench.load(&["--tethers", "20", "--rate", "20", "--seconds", "1", "--each", "--windows"]);
    for way in ["up", "down"] {
        let way = &report[way];
        assert_eq!([&way["offered"], &way["delivered"]].map(count), [400, 400], "{report:#}");
        assert_eq!(way["shares"]["jain"], 1.0, "{report:#}");
        assert_eq!(way["each"].as_array().unwrap(), &vec![Value::from(20); 20], "{report:#}");
        assert!(way["latency_ms"]["p50"].as_f64().unwrap() > 0.0, "{report:#}");
    }
    assert_eq!(report["tethers"]["welcomed"], 20);
    let windows = report["windows"].as_array().unwrap();
    assert_eq!(windows.iter().map(|window| count(&window["delivered"])).sum::<u64>(), 400, "{report:#}");
}

#[test]
fn every_kind_of_tether_does_what_it_is_named_for() {
    let bench = Bench::start(&["--set", "listen.handshake_timeout=1s"]);
    let mix = "steady=4,bursty=2,small=2,bulk=2,hog=1,slow-reader=2,storm=1,half-open=2,idle=2";
    let report = bench.load(&["--tethers", "18", "--rate", "10", "--mix", mix, "--seconds", "3", "--size", "640"]);
    let of = |kind: &str, way: &str, key: &str| count(&report["mixes"][kind][way][key]);
    assert_eq!(report["mixes"].as_object().unwrap().len(), 9, "{report:#}");
    assert_eq!(report["tethers"]["welcomed"], 15, "{report:#}");
    for way in ["up", "down"] {
        assert_eq!(of("steady", way, "offered"), 4 * 30);
        assert_eq!(of("small", way, "offered"), 2 * 30 * 640 / 64);
        assert_eq!(of("hog", way, "offered"), 30 * 100);
        assert!([of("bursty", way, "offered") % 32, of("bulk", way, "offered") % 44] == [0, 0], "{report:#}");
        assert!(report["mixes"]["idle"][way].is_null(), "{report:#}");
    }
    // What a slow reader is sent it reads after the end alone: the half of it that came first waited for half of the time.
    let waited_ms = |kind: &str| report["mixes"][kind]["down"]["latency_ms"]["p50"].as_f64().unwrap();
    assert!(waited_ms("slow-reader") >= 1_500.0, "{report:#}");
    assert!(waited_ms("steady") < 500.0, "{report:#}");
    assert_eq!(report["storm"]["offered"], 30, "{report:#}");
    assert!(count(&report["storm"]["welcomed"]) > 0, "{report:#}");
    assert!(count(&report["half_open_closed"]) > 0, "{report:#}");
}

#[test]
fn a_gateway_whose_memory_budget_is_full_holds_what_is_documented_beside_it() {
    let cores = std::thread::available_parallelism().unwrap().get();
    // Little more than the fixed part, of which there is a buffer a thread: what slow readers leave fills it however little
    // of the machine this test has.
    let budget_mib = 12 + 4 * cores;
    let bench = Bench::start(&["--set", &format!("memory.budget={budget_mib}MiB")]);
    let mix = "bulk=15,slow-reader=20,hog=5,small=10,steady=10";
    bench.load(&["--tethers", "60", "--rate", "2000", "--mix", mix, "--seconds", "4", "--size", "1000"]);
    assert!(bench.gateway.log().contains("cause=\"memory\""), "{}", bench.gateway.log());
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.gateway.id())).unwrap();
    let peak_kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    let peak_bytes = peak_kib.trim().parse::<usize>().unwrap() << 10;
    assert!(peak_bytes <= (budget_mib << 20) + cores * BESIDE_THE_BUDGET_BYTES, "{peak_bytes} bytes");
}

#[test]
fn every_thread_of_a_gateway_runs_as_a_batch() {
    let bench = Bench::start(&[]);
    let policies: Vec<(String, String)> = std::fs::read_dir(format!("/proc/{}/task", bench.gateway.id()))
        .unwrap()
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap())
        .map(|stat| {
            // proc_pid_stat(5): the second field is the name, in parentheses; the 41st is the policy.
            let (name, rest) = stat.rsplit_once(')').unwrap();
            (name.to_owned(), rest.split_whitespace().nth(41 - 3).unwrap().to_owned())
        })
        .collect();
    assert!(policies.len() > 5, "{policies:?}");
    assert!(policies.iter().all(|(_, policy)| *policy == SCHED_BATCH), "{policies:?}");
}

#[test]
fn tethers_beyond_the_gateways_limit_are_refused_and_the_others_go_on() {
    let bench = Bench::start(&["--set", "tethers.max=5"]);
    let report = bench.load(&["--tethers", "8", "--direction", "up", "--connect-max", "1", "--seconds", "1"]);
    assert_eq!((&report["tethers"]["asked"], &report["tethers"]["welcomed"]), (&8.into(), &5.into()), "{report:#}");
    let refused: u64 = report["tethers"]["refused"].as_object().unwrap().values().map(count).sum();
    assert!(refused >= 3, "{report:#}");
    assert_eq!((count(&report["up"]["offered"]), &report["down"]), (50, &Value::Null), "{report:#}");
}

#[test]
fn a_load_without_a_sink_says_what_is_missing() {
    let mut bench = Bench::start(&[]);
    bench._sink = Program::start("nothing", Command::new("true"), bench.scratch.file("nothing.log")).unwrap();
    let output = bench.command(&["--tethers", "1", "--json"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("load sink"), "{told}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_load_that_is_stopped_leaves_no_tether_at_the_gateway() {
    let bench = Bench::start(&[]);
    let args = ["--tethers", "20", "--mix", "steady,slow-reader=2,half-open=2", "--rate", "200", "--seconds", "60"];
    let mut load = bench.command(&args).stderr(Stdio::null()).spawn().unwrap();
    let setting = Setting { binary: BINARY.as_ref(), world: &bench.world, scratch: &bench.scratch, tls: false };
    let until = |what: &dyn Fn(&Status) -> bool| {
        let late = Instant::now() + PATIENCE;
        while !setting.status().is_some_and(|status| what(&status)) {
            assert!(Instant::now() < late, "{}", setting.status().unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    until(&|status| status.tethers == 18 && status.stages.last().is_some_and(|last| last.packets > 1_000));
    let killed = Command::new("kill").args(["-s", "TERM", &load.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(load.wait().unwrap().code(), Some(1), "it did not come to its end");
    // One that was not told would wait for its client for tethers.linger, five minutes.
    until(&|status| status.tethers == 0);
}

#[test]
fn a_load_whose_token_the_gateway_does_not_know_ends_at_once_and_the_gateway_tells_it_once() {
    let mut bench = Bench::start(&[]);
    bench.token = bench.scratch.file("another's");
    std::fs::write(&bench.token, "wst1_k7m2p9xq_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc").unwrap();
    let begun = Instant::now();
    let output = bench.command(&["--tethers", "20"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "wstether: the gateway does not accept this token; make a new one there with \"wstether token new\" (it says: the \
         token is unknown, revoked, or not this gateway's)\n"
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "not after --connect-max, a minute");
    let late = Instant::now() + PATIENCE;
    let told = || bench.gateway.log().matches("token refused: it is unknown, revoked, or another gateway's").count();
    while told() == 0 {
        assert!(Instant::now() < late, "{}", bench.gateway.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(told(), 1, "{}", bench.gateway.log());
    assert!(!bench.gateway.log().contains("k7m2p9xq"), "{}", bench.gateway.log());
}

#[test]
fn a_token_that_the_command_made_before_the_gateways_first_start_lets_tethers_in() {
    let bench = Bench::start_with(&[], |setting| {
        let file = setting.scratch.file("credentials.toml");
        let mut command = Command::new(BINARY);
        let output = command.args(["token", "--file"]).arg(&file).args(["new", "--name", "Ada"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let token = setting.scratch.file("printed");
        std::fs::write(&token, output.stdout).unwrap();
        token
    });
    let report = bench.load(&["--tethers", "3", "--direction", "up", "--seconds", "0.5"]);
    assert_eq!(report["tethers"]["welcomed"], 3, "{report:#}");
}

#[test]
fn a_load_whose_gateway_goes_away_fails_at_once_and_says_so() {
    const SECONDS: u64 = 60;
    let bench = Bench::start(&[]);
    let mut command = bench.command(&["--tethers", "5", "--rate", "50", "--seconds", &SECONDS.to_string()]);
    let started = Instant::now();
    let load = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let setting = Setting { binary: BINARY.as_ref(), world: &bench.world, scratch: &bench.scratch, tls: false };
    let late = Instant::now() + PATIENCE;
    // More than all that is said before the load begins: a question a tether each 0.1 s, for 5 s at most.
    let loads = |status: Status| status.stages.iter().any(|stage| stage.name == "ws-decode" && stage.packets >= 500);
    while !setting.status().is_some_and(loads) {
        assert!(Instant::now() < late, "no load runs");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").arg(bench.gateway.id().to_string()).status().unwrap().success());
    let output = load.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let why = "every tether was lost while the load ran (shutting_down); does the gateway still run?";
    assert!(told.contains(why) && started.elapsed() < Duration::from_secs(SECONDS), "{told}");
}
