//! The dashboard and the rules against a real Prometheus (Debian: prometheus): no panel is empty, no rule fails.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use wstether::metrics::{CONTENT_TYPE, Egress, GatewayMetrics, INSTRUMENTS, Metrics, StageMetrics};
use wstether::metrics_server::MetricsServer;
use wstether::offload::SuperPackets;

/// Where the committed configuration scrapes: the default of `listen` in the gateway's `[metrics]`.
const GATEWAY_DEFAULT: &str = "127.0.0.1:9321";

/// How long Prometheus may take to start and to scrape, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at whether it is so far.
const PAUSE: Duration = Duration::from_millis(200);

/// Scrapes before the queries are run: a rate needs two, and one more shows that they go on.
const SCRAPES: f64 = 3.0;

/// What Grafana puts for `$__rate_interval` at this scrape interval, rounded up.
const RATE_INTERVAL: &str = "1m";

/// Starts a Prometheus that scrapes `metrics_addr`, runs every query of the dashboard, and panics with a list of those
/// that return nothing (or no number), and of rules that cannot be evaluated.
///
/// `command` makes the command that runs a program where `metrics_addr` is reached. The calling thread must reach
/// addresses there too: with network namespaces, call this on a thread that has entered the namespace.
pub(crate) fn every_panel_has_data(metrics_addr: SocketAddr, command: impl Fn(&str) -> Command) {
    let prometheus = Prometheus::start(metrics_addr, command);
    prometheus.wait_for_scrapes();
    let mut empty: Vec<String> = Vec::new();
    for (title, query) in dashboard_queries() {
        if !prometheus.has_data(&query) {
            empty.push(format!("{title}: {query}"));
        }
    }
    assert!(empty.is_empty(), "{} queries of the dashboard are empty:\n{}", empty.len(), empty.join("\n"));
    assert!(prometheus.instances_are_listed(), "the variable $instance has no value");
    assert_eq!(prometheus.broken_rules(), Vec::<String>::new());
}

/// Panics unless every drop reason that the rules count is one that the server at `metrics_addr` has: a rule that names
/// another would never fire.
pub(crate) fn every_reason_of_the_rules_exists(metrics_addr: SocketAddr) {
    let rules = fs::read_to_string(dashboards().join("prometheus").join("rules.yml")).expect("the rules");
    let (_, series) = http_get(metrics_addr, "/metrics").expect("the server answers");
    let named: Vec<&str> = quoted_after(&rules, "reason=~").flat_map(|names| names.split('|')).collect();
    assert!(!named.is_empty(), "no rule goes by reason");
    let unknown: Vec<&&str> =
        named.iter().filter(|name| !quoted_after(&series, "reason=").any(|it| it == **name)).collect();
    assert!(unknown.is_empty(), "no stage drops for {unknown:?}");
}

/// Each text in double quotes that follows `key`.
fn quoted_after<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(key).skip(1).filter_map(|rest| rest.strip_prefix('"')?.split('"').next())
}

/// Every query of the dashboard with its panel's title, its variables filled in.
fn dashboard_queries() -> Vec<(String, String)> {
    let text = fs::read_to_string(dashboards().join("wstether.json")).expect("the dashboard");
    let board: Value = serde_json::from_str(&text).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let query = |target: &Value| {
        let query = target["expr"].as_str().expect("a query");
        query.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*")
    };
    let row = panels.iter().scan(String::new(), |row, panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        if panel["type"] == "row" {
            *row = title.to_owned();
        }
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        Some(targets.iter().map(|target| (format!("{row} / {title}"), query(target))).collect::<Vec<_>>())
    });
    row.flatten().collect()
}

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

/// A running Prometheus with its data in a folder of its own; both go when it is dropped.
struct Prometheus {
    child: Child,
    addr: SocketAddr,
    folder: PathBuf,
}

impl Prometheus {
    fn start(target: SocketAddr, command: impl Fn(&str) -> Command) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wstether-prometheus-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for its data");
        configure(&folder, target);
        let mut child = command("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus (Debian: prometheus) runs");
        let log = child.stderr.take().expect("piped");
        Self { addr: listen_address(log), child, folder }
    }

    /// Waits until Prometheus answers queries and has scraped its target some times.
    fn wait_for_scrapes(&self) {
        let deadline = Instant::now() + PATIENCE;
        let answers = || matches!(http_get(self.addr, "/-/ready"), Ok((head, _)) if head.contains(" 200 "));
        let scraped = || self.numbers("sum_over_time(up{job=\"wstether\"}[5m])").iter().any(|&n| n >= SCRAPES);
        while !(answers() && scraped()) {
            assert!(Instant::now() < deadline, "no scrape succeeds: {}", self.get("/api/v1/targets"));
            thread::sleep(PAUSE);
        }
    }

    /// Whether `query` returns at least one series with a number.
    fn has_data(&self, query: &str) -> bool {
        self.numbers(query).iter().any(|number| !number.is_nan())
    }

    fn numbers(&self, query: &str) -> Vec<f64> {
        let answer = self.get(&format!("/api/v1/query?query={}", percent_encoded(query)));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        series.iter().filter_map(|series| series["value"][1].as_str()?.parse().ok()).collect()
    }

    /// The values of the dashboard's variable, as Grafana asks for them.
    fn instances_are_listed(&self) -> bool {
        let answer = self.get("/api/v1/label/instance/values?match[]=wstether_build_info");
        answer["data"].as_array().is_some_and(|values| !values.is_empty())
    }

    /// Every rule, once each was evaluated, that is not healthy.
    fn broken_rules(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rules = self.rules();
            assert!(!rules.is_empty(), "no rules are loaded");
            if rules.iter().all(|rule| rule["health"] != "unknown") || Instant::now() > deadline {
                return rules.iter().filter(|rule| rule["health"] != "ok").map(Value::to_string).collect();
            }
            thread::sleep(PAUSE);
        }
    }

    fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules");
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().filter_map(|group| group["rules"].as_array().cloned()).flatten().collect()
    }

    fn get(&self, path: &str) -> Value {
        let (_, body) = http_get(self.addr, path).expect("Prometheus answers");
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Nothing better can be done in a drop: what is already gone is gone.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Puts the committed configuration and rules into `folder`, with `target` scraped and rules evaluated each second.
fn configure(folder: &Path, target: SocketAddr) {
    for file in ["prometheus.yml", "rules.yml"] {
        let committed = fs::read_to_string(dashboards().join("prometheus").join(file)).expect("it is committed");
        let quick = committed.replace("interval: 15s", "interval: 1s").replace(GATEWAY_DEFAULT, &target.to_string());
        fs::write(folder.join(file), quick).expect("a file in its folder");
    }
}

/// The address from Prometheus' log, which is read until it ends, so that the pipe never fills.
fn listen_address(log: impl Read + Send + 'static) -> SocketAddr {
    let (lines, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            // Nobody listens any more once the address is known.
            drop(lines.send(line));
        }
    });
    let mut log = Vec::new();
    while let Ok(line) = told.recv_timeout(PATIENCE) {
        if line.contains("Listening on") {
            let address = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("address="));
            return address.and_then(|address| address.parse().ok()).expect("an address");
        }
        log.push(line);
    }
    panic!("Prometheus does not listen:\n{}", log.join("\n"));
}

/// Status line and body of an answer. HTTP/1.0, so that the body is not chunked.
pub(crate) fn http_get(addr: SocketAddr, path: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.to_owned(), body.to_owned()))
}

fn percent_encoded(query: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    query.bytes().map(encode).collect()
}

/// The drop reasons of the live gateway's stages.
const REASONS: &[&str] = &[
    "queue_full",
    "not_admitted",
    "panicked",
    "kernel_full",
    "no_buffer",
    "cannot_cut",
    "port_limit",
    "memory_limit",
    "overload",
    "malformed",
];

/// A metrics server whose figures move, as a gateway's do whose way out is raw.
struct LiveGateway {
    server: MetricsServer,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
    traffic: Option<JoinHandle<()>>,
}

impl LiveGateway {
    fn start() -> Self {
        let stage = |name, direction| StageMetrics::new(name, direction, REASONS);
        let uplink = ["ws-decode", "ip-parse", "nat-rewrite", "raw-send"].map(|name| stage(name, "uplink"));
        let downlink = ["raw-recv", "ip-parse", "nat-rewrite", "ws-encode"].map(|name| stage(name, "downlink"));
        let stages = uplink.into_iter().chain(downlink).collect();
        let metrics = Arc::new(Metrics::new(stages, GatewayMetrics::new(&["full", "credential"])));
        metrics.gateway.ready.set_ready();
        metrics.gateway.tell_egress(Egress { mode: "raw", interface: "eth0".into(), super_packets: SuperPackets::ALL });
        let stop = Arc::new(AtomicBool::new(false));
        let server =
            MetricsServer::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::clone(&metrics)).expect("loopback");
        let traffic = thread::spawn({
            let (metrics, stop) = (Arc::clone(&metrics), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    metrics.stages.iter().for_each(|stage| pass_a_batch(stage));
                    metrics.gateway.handshake_seconds.observe(Duration::from_millis(80));
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        Self { server, metrics, stop, traffic: Some(traffic) }
    }
}

impl Drop for LiveGateway {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.traffic.take().map(JoinHandle::join));
    }
}

fn pass_a_batch(stage: &StageMetrics) {
    stage.packets_in.add(32);
    stage.bytes_in.add(32 * 1_400);
    stage.packets_out.add(31);
    stage.bytes_out.add(31 * 1_400);
    stage.drops[0].inc();
    stage.batches.inc();
    stage.threads.set(1);
    stage.queue_capacity_packets.set(1_024);
    stage.queue_capacity_bytes.set(1 << 20);
    stage.busy_seconds.add(Duration::from_micros(200));
    stage.batch_packets.observe(32);
    stage.service_seconds.observe(Duration::from_micros(200));
    stage.sojourn_seconds.observe(Duration::from_micros(30));
}

#[test]
fn every_panel_has_data_with_a_live_gateway_whatever_its_graph() {
    let gateway = LiveGateway::start();
    every_panel_has_data(gateway.server.local_addr(), |program| Command::new(program));
    assert!(gateway.metrics.stages.iter().all(|stage| stage.unaccounted() <= 32));
}

#[test]
fn every_reason_of_the_rules_is_one_that_a_stage_has() {
    every_reason_of_the_rules_exists(LiveGateway::start().server.local_addr());
}

#[test]
fn every_panel_has_data_with_a_gateway_that_has_done_nothing() {
    let gateway = GatewayMetrics::new(&["full"]);
    let metrics = Arc::new(Metrics::new(vec![StageMetrics::new("ip-parse", "uplink", &["malformed"])], gateway));
    let server = MetricsServer::bind(SocketAddr::from(([127, 0, 0, 1], 0)), metrics).expect("loopback");
    every_panel_has_data(server.local_addr(), |program| Command::new(program));
}

#[test]
fn a_query_without_a_series_or_without_a_number_is_empty() {
    let gateway = LiveGateway::start();
    let prometheus = Prometheus::start(gateway.server.local_addr(), |program| Command::new(program));
    prometheus.wait_for_scrapes();
    assert!(prometheus.has_data("wstether_ready"));
    assert!(!prometheus.has_data("wstether_unheard_of"));
    assert!(!prometheus.has_data("wstether_tethers / 0"));
}

#[test]
fn prometheus_knows_every_family_of_the_catalogue_with_its_type_and_help() {
    let gateway = LiveGateway::start();
    let prometheus = Prometheus::start(gateway.server.local_addr(), |program| Command::new(program));
    prometheus.wait_for_scrapes();
    let metadata = prometheus.get("/api/v1/metadata");
    for instrument in INSTRUMENTS {
        let known = &metadata["data"][instrument.name][0];
        assert_eq!(known["type"], instrument.kind.label(), "{}", instrument.name);
        assert_eq!(known["help"], instrument.help, "{}", instrument.name);
    }
}

fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool")
        .args(arguments)
        .current_dir(dashboards().join("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian: prometheus) runs");
    promtool.stdin.take().expect("piped").write_all(input.as_bytes()).expect("promtool reads");
    let said = promtool.wait_with_output().expect("promtool ends");
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success(), "promtool {}:\n{text}", arguments.join(" "));
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules() {
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["check", "rules", "rules.yml"], "");
}

#[test]
fn each_alert_fires_for_its_cause_and_a_healthy_gateway_has_none() {
    promtool(&["test", "rules", "rules_test.yml"], "");
}

#[test]
fn promtool_accepts_what_the_server_says() {
    let gateway = LiveGateway::start();
    let (head, body) = http_get(gateway.server.local_addr(), "/metrics").expect("it answers");
    assert!(head.contains(&format!("Content-Type: {CONTENT_TYPE}")), "{head}");
    promtool(&["check", "metrics"], &body);
}
