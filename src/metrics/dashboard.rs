//! The Grafana dashboard's source. dashboards/wstether.json is made from it: `UPDATE=1 cargo test dashboard`.
//!
//! Every panel has a unit and a description. A series that may be missing (a stage that this gateway's graph has not, a
//! histogram without a sample) is drawn as zero, so that an empty panel always means a broken one.

use serde_json::{Value, json};

/// The stages in the order of the data's way, and what the row says of each.
const STAGES: [(&str, &str, &str); 10] = [
    ("ws-decode", "uplink", "reads links, splits capsules into packets"),
    ("ip-parse", "uplink", "judges headers, source, size and policy"),
    ("nat-rewrite", "uplink", "finds or makes the mapping, rewrites"),
    ("raw-send", "uplink", "sends by packet socket; idle where the way out is tun"),
    ("tun-write", "uplink", "writes to the TUN device; idle where the way out is raw"),
    ("raw-recv", "downlink", "reads the packet socket; idle where the way out is tun"),
    ("tun-read", "downlink", "reads the TUN device; idle where the way out is raw"),
    ("ip-parse", "downlink", "judges headers and size"),
    ("nat-rewrite", "downlink", "finds the mapping, rewrites back"),
    ("ws-encode", "downlink", "flow queues, then WebSocket messages on the tether's links"),
];

/// Grafana's grid has 24 columns; heights are in its units.
const COLUMNS: u64 = 24;
const ROW_HEIGHT: u64 = 1;
const STAT_HEIGHT: u64 = 4;
const GRAPH_HEIGHT: u64 = 7;

/// Grafana 10's model.
const SCHEMA_VERSION: u64 = 38;

#[derive(Clone, Copy, PartialEq)]
enum Look {
    /// A figure of now.
    Stat,
    /// A label of the series, as text.
    Name,
    /// Lines over time.
    Graph,
}

struct Panel {
    look: Look,
    title: String,
    unit: &'static str,
    description: String,
    /// Query and legend.
    targets: Vec<(String, String)>,
}

impl Panel {
    fn new(look: Look, title: &str, unit: &'static str, description: &str) -> Self {
        Self { look, title: title.into(), unit, description: description.into(), targets: Vec::new() }
    }

    fn graph(title: &str, unit: &'static str, description: &str) -> Self {
        Self::new(Look::Graph, title, unit, description)
    }

    fn stat(title: &str, unit: &'static str, description: &str) -> Self {
        Self::new(Look::Stat, title, unit, description)
    }

    fn query(mut self, expr: impl Into<String>, legend: &str) -> Self {
        self.targets.push((expr.into(), legend.into()));
        self
    }

    fn json(&self, id: u64, x: u64, y: u64, width: u64) -> Value {
        let height = if self.look == Look::Graph { GRAPH_HEIGHT } else { STAT_HEIGHT };
        let targets: Vec<Value> = ('A'..)
            .zip(&self.targets)
            .map(|(id, (expr, legend))| {
                json!({
                    "refId": id, "datasource": datasource(), "expr": expr, "legendFormat": legend,
                    "instant": self.look != Look::Graph, "range": self.look == Look::Graph,
                })
            })
            .collect();
        json!({
            "id": id, "type": if self.look == Look::Graph { "timeseries" } else { "stat" },
            "title": self.title, "description": self.description, "datasource": datasource(),
            "gridPos": { "x": x, "y": y, "w": width, "h": height },
            "fieldConfig": { "defaults": self.field_defaults(), "overrides": [] },
            "options": self.options(), "targets": targets,
        })
    }

    fn field_defaults(&self) -> Value {
        match self.look {
            Look::Graph => json!({
                "unit": self.unit, "min": 0, "color": { "mode": "palette-classic" },
                "custom": { "drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never" },
            }),
            // Without thresholds of its own, Grafana paints every figure above 80 red.
            Look::Stat | Look::Name => json!({
                "unit": self.unit, "color": { "mode": "thresholds" },
                "thresholds": { "mode": "absolute", "steps": self.colours() },
            }),
        }
    }

    /// A figure is green; one that must be true is red until it is.
    fn colours(&self) -> Value {
        match self.unit {
            "bool_yes_no" => json!([{ "color": "red", "value": null }, { "color": "green", "value": 1 }]),
            _ => json!([{ "color": "green", "value": null }]),
        }
    }

    fn options(&self) -> Value {
        match self.look {
            Look::Graph => json!({
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Look::Stat | Look::Name => json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "textMode": if self.look == Look::Name { "name" } else { "value" },
                "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto",
            }),
        }
    }
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// A selector of the chosen gateways: `labels` beside the instance.
fn select(name: &str, labels: &str) -> String {
    let comma = if labels.is_empty() { "" } else { "," };
    format!("{name}{{instance=~\"$instance\"{comma}{labels}}}")
}

fn sum(name: &str, labels: &str) -> String {
    format!("sum({})", select(name, labels))
}

/// What a counter grows by, a second.
fn rate(name: &str, labels: &str) -> String {
    format!("sum(rate({}[$__rate_interval]))", select(name, labels))
}

/// The same for each value of the label `by`.
fn rate_by(by: &str, name: &str, labels: &str) -> String {
    or_zero_alone(&format!("sum by ({by}) (rate({}[$__rate_interval]))", select(name, labels)))
}

/// Zero where a query without labels finds nothing or divides by zero.
fn or_zero(expr: &str) -> String {
    format!("({expr}) >= 0 or vector(0)")
}

/// Zero where a query with labels finds nothing at all.
fn or_zero_alone(expr: &str) -> String {
    format!("{expr} or (vector(0) unless on() {expr})")
}

fn quantile(q: f64, name: &str, labels: &str) -> String {
    let buckets = format!("sum by (le) (rate({}[$__rate_interval]))", select(&format!("{name}_bucket"), labels));
    or_zero(&format!("histogram_quantile({q}, {buckets})"))
}

fn dashboard() -> Value {
    let mut board = Board::default();
    board.row("Overview", 4, overview_figures());
    board.panels(3, overview_graphs());
    board.row("accept: connection, TLS, upgrade, hello", 4, accept());
    board.panels(4, work("stage=\"accept\""));
    for (stage, direction, what) in STAGES {
        board.row(&format!("{stage} ({direction}): {what}"), 4, stage_panels(stage, direction));
    }
    board.row("NAT and tethers", 3, nat_and_tethers());
    board.row("Process and memory", 4, process());
    json!({
        "uid": "wstether", "title": "wstether gateway", "tags": ["wstether"], "editable": true,
        "description": "A gateway's stages in the order of the data's way. Made from src/metrics/dashboard.rs.",
        "schemaVersion": SCHEMA_VERSION, "version": 1, "refresh": "10s", "graphTooltip": 1,
        "time": { "from": "now-30m", "to": "now" }, "timezone": "browser",
        "annotations": { "list": [] }, "links": [], "templating": { "list": variables() }, "panels": board.panels,
    })
}

fn variables() -> Value {
    json!([
        {
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {},
            "hide": 0, "multi": false, "includeAll": false, "options": [], "refresh": 1, "regex": "",
        },
        {
            "name": "instance", "label": "Gateway", "type": "query", "datasource": datasource(),
            "query": { "query": "label_values(wstether_build_info, instance)", "refId": "instance" },
            "definition": "label_values(wstether_build_info, instance)", "current": {}, "hide": 0, "multi": true,
            "includeAll": true, "allValue": ".*", "options": [], "refresh": 2, "regex": "", "sort": 1,
        },
    ])
}

#[derive(Default)]
struct Board {
    panels: Vec<Value>,
    y: u64,
}

impl Board {
    /// A row's head and its panels, `across` of them side by side.
    fn row(&mut self, title: &str, across: u64, panels: Vec<Panel>) {
        let id = self.next_id();
        self.panels.push(json!({
            "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": self.y, "w": COLUMNS, "h": ROW_HEIGHT },
        }));
        self.y += ROW_HEIGHT;
        self.panels(across, panels);
    }

    fn panels(&mut self, across: u64, panels: Vec<Panel>) {
        let width = COLUMNS / across;
        for line in panels.chunks(across as usize) {
            for (x, panel) in (0..).step_by(width as usize).zip(line) {
                let id = self.next_id();
                self.panels.push(panel.json(id, x, self.y, width));
            }
            let graph = line.iter().any(|panel| panel.look == Look::Graph);
            self.y += if graph { GRAPH_HEIGHT } else { STAT_HEIGHT };
        }
    }

    fn next_id(&self) -> u64 {
        self.panels.len() as u64 + 1
    }
}

fn overview_figures() -> Vec<Panel> {
    let bits = |direction: &str| {
        let labels = format!("stage=\"nat-rewrite\",direction=\"{direction}\"");
        or_zero(&format!("8 * {}", rate("wstether_stage_bytes_out_total", &labels)))
    };
    vec![
        Panel::stat("Ready", "bool_yes_no", "Whether every chosen gateway serves; /readyz says why not.")
            .query(format!("min({})", select("wstether_ready", "")), "ready"),
        Panel::stat("Tethers", "short", "Tethers that are open, with a link or waiting for one.")
            .query(sum("wstether_tethers", ""), "tethers"),
        Panel::stat("Uplink", "bps", "What leaves towards the internet, behind translation.")
            .query(bits("uplink"), "uplink"),
        Panel::stat("Downlink", "bps", "What goes to the tethers, behind translation.")
            .query(bits("downlink"), "downlink"),
        Panel::stat("Links", "short", "WebSocket connections past their hello.")
            .query(sum("wstether_links", ""), "links"),
        Panel::stat(
            "Drops",
            "pps",
            "Segments dropped in all stages for any reason. Some are right: a spoofed source, a scan.",
        )
        .query(or_zero(&rate("wstether_stage_drops_total", "")), "drops"),
        Panel::new(Look::Name, "Version", "none", "The version that runs.")
            .query(format!("sum by (version) ({})", select("wstether_build_info", "")), "{{version}}"),
        Panel::new(Look::Name, "Egress", "none", "The way out and its interface.").query(
            format!("sum by (mode, interface) ({})", select("wstether_egress_info", "")),
            "{{mode}} {{interface}}",
        ),
    ]
}

fn overview_graphs() -> Vec<Panel> {
    const STAGE: &str = "stage, direction";
    const LEGEND: &str = "{{stage}} {{direction}}";
    let by_stage = |name: &str| format!("sum by ({STAGE}) ({})", select(name, ""));
    let busy = format!(
        "{} / clamp_min({}, 1)",
        format_args!("sum by ({STAGE}) (rate({}[$__rate_interval]))", select("wstether_stage_busy_seconds_total", "")),
        by_stage("wstether_stage_threads")
    );
    let fill = format!(
        "{} / clamp_min({}, 1)",
        by_stage("wstether_stage_queue_packets"),
        by_stage("wstether_stage_queue_capacity_packets")
    );
    vec![
        Panel::graph(
            "Utilisation",
            "percentunit",
            "Share of its threads' time that each stage works. The highest line is the stage that limits the gateway.",
        )
        .query(busy, LEGEND),
        Panel::graph(
            "Saturation",
            "percentunit",
            "How full each stage's queue is. A queue that stays full belongs to the bottleneck.",
        )
        .query(fill, LEGEND),
        Panel::graph(
            "Admission",
            "percentunit",
            "The part of its queue that each stage admits. Below 100 % the stage sheds: what waited there waited too long.",
        )
        .query(
            format!(
                "{} / clamp_min({}, 1)",
                by_stage("wstether_stage_queue_admitted_packets"),
                by_stage("wstether_stage_queue_capacity_packets")
            ),
            LEGEND,
        )
        .query(by_stage("wstether_stage_shedding"), "{{stage}} {{direction}} sheds"),
        Panel::graph(
            "Decisions",
            "short",
            "What the controllers decided, and why (docs/metrics.md); `wstether status` tells the last ones with what they saw.",
        )
        .query(
            format!(
                "sum by (controller, change, reason) (increase({}[$__rate_interval]))",
                select("wstether_decisions_total", "")
            ),
            "{{controller}} {{change}}: {{reason}}",
        ),
        Panel::graph("Drops by stage", "pps", "Segments dropped in each stage; its own row tells the reasons.")
            .query(rate_by(STAGE, "wstether_stage_drops_total", ""), LEGEND),
        Panel::graph(
            "Hand-over",
            "ops",
            "What became of the batches that were handed to stages, and why: they run on, queue, or gather.",
        )
        .query(rate_by("decision, reason", "wstether_stage_handovers_total", ""), "{{decision}}: {{reason}}"),
    ]
}

fn accept() -> Vec<Panel> {
    vec![
        Panel::graph("Connections", "cps", "Connections accepted, and links that came of them.")
            .query(or_zero(&rate("wstether_accept_connections_total", "")), "accepted")
            .query(or_zero(&rate("wstether_links_opened_total", "")), "became a link"),
        Panel::graph(
            "Handshakes (saturation)",
            "short",
            "Connections between accept and welcome, and how many there may be.",
        )
        .query(sum("wstether_accept_handshakes", ""), "in progress")
        .query(sum("wstether_accept_handshakes_limit", ""), "limit"),
        Panel::graph(
            "Handshake time",
            "s",
            "Time from accept to welcome; 0 without a sample. Round trips of the phone's network dominate it.",
        )
        .query(quantile(0.5, "wstether_accept_handshake_seconds", ""), "p50")
        .query(quantile(0.99, "wstether_accept_handshake_seconds", ""), "p99"),
        Panel::graph("Refused (errors)", "cps", "Connections refused before they became a link, by reason.")
            .query(rate_by("reason", "wstether_accept_refused_total", ""), "{{reason}}"),
    ]
}

fn stage_panels(stage: &str, direction: &str) -> Vec<Panel> {
    let labels = format!("stage=\"{stage}\",direction=\"{direction}\"");
    traffic(&labels).into_iter().chain(work(&labels)).collect()
}

/// What goes through a stage, what it loses, and what its controllers do.
fn traffic(labels: &str) -> Vec<Panel> {
    let flow = |name: &str| or_zero(&rate(name, labels));
    let level = |name: &str| or_zero(&sum(name, labels));
    let [segments, batches] =
        ["wstether_stage_batch_packets_sum", "wstether_stage_batch_packets_count"].map(|name| rate(name, labels));
    vec![
        Panel::graph("Packets", "pps", "Segments in and out, turned round, and made by the gateway here.")
            .query(flow("wstether_stage_packets_in_total"), "in")
            .query(flow("wstether_stage_packets_out_total"), "out")
            .query(flow("wstether_stage_turned_total"), "turned round")
            .query(flow("wstether_stage_made_total"), "made here"),
        Panel::graph("Bytes", "Bps", "Bytes in and out.")
            .query(flow("wstether_stage_bytes_in_total"), "in")
            .query(flow("wstether_stage_bytes_out_total"), "out"),
        Panel::graph(
            "Drops (errors)",
            "pps",
            "Segments dropped, by reason, and marked in place of it. The stage's file tells what each reason means.",
        )
        .query(rate_by("reason", "wstether_stage_drops_total", labels), "{{reason}}")
        .query(flow("wstether_stage_marked_total"), "marked"),
        Panel::graph(
            "Threads, batch, lanes",
            "short",
            "The controllers' work: the pool, segments in a mean batch and the most that one may have, lanes that wait for room, and segments held back for want of it in the next stage.",
        )
        .query(level("wstether_stage_threads"), "threads")
        .query(or_zero(&format!("{segments} / {batches}")), "mean batch")
        .query(level("wstether_stage_batch_limit_packets"), "batch limit")
        .query(level("wstether_stage_lanes_parked"), "lanes parked")
        .query(level("wstether_stage_held_back_packets"), "held back"),
    ]
}

/// How busy a stage is and what waits for it.
fn work(labels: &str) -> Vec<Panel> {
    let fill = |unit: &str| {
        let [queue, capacity] =
            ["queue", "queue_capacity"].map(|it| sum(&format!("wstether_stage_{it}_{unit}"), labels));
        or_zero(&format!("{queue} / {capacity}"))
    };
    let busy = rate("wstether_stage_busy_seconds_total", labels);
    let threads = sum("wstether_stage_threads", labels);
    vec![
        Panel::graph(
            "Utilisation",
            "percentunit",
            "Share of its threads' time that the stage works, or that a source rests.",
        )
        .query(or_zero(&format!("{busy} / {threads}")), "busy")
        .query(or_zero(&rate("wstether_stage_rest_seconds_total", labels)), "rests"),
        Panel::graph("Queue (saturation)", "percentunit", "How full the queue is, by segments and by memory held.")
            .query(fill("packets"), "packets")
            .query(fill("bytes"), "bytes"),
        Panel::graph(
            "Time in queue (saturation)",
            "s",
            "Time in the queue of each batch's oldest packet; 0 without a sample.",
        )
        .query(quantile(0.5, "wstether_stage_sojourn_seconds", labels), "p50")
        .query(quantile(0.99, "wstether_stage_sojourn_seconds", labels), "p99"),
        Panel::graph("Time in handler", "s", "Time that the handler takes for a batch; 0 without a sample.")
            .query(quantile(0.5, "wstether_stage_service_seconds", labels), "p50")
            .query(quantile(0.99, "wstether_stage_service_seconds", labels), "p99"),
    ]
}

fn nat_and_tethers() -> Vec<Panel> {
    let by_protocol = |name: &str| format!("sum by (protocol) ({})", select(name, ""));
    vec![
        Panel::graph("NAT mappings", "short", "Mappings that are alive, by protocol.")
            .query(by_protocol("wstether_nat_mappings"), "{{protocol}}"),
        Panel::graph("Mappings made", "ops", "New mappings, by protocol. A scan from inside shows here first.")
            .query(rate_by("protocol", "wstether_nat_mappings_made_total", ""), "{{protocol}}"),
        Panel::graph(
            "Ports",
            "short",
            "External ports in use by protocol, and how many there are for each; 0 where the kernel translates.",
        )
        .query(by_protocol("wstether_nat_ports_in_use"), "{{protocol}}")
        .query(sum("wstether_nat_ports_limit", ""), "limit"),
        Panel::graph(
            "Port blocks",
            "short",
            "Port blocks handed out, and how many there are. A tether without one makes no mapping.",
        )
        .query(sum("wstether_nat_blocks_in_use", ""), "in use")
        .query(sum("wstether_nat_blocks_limit", ""), "limit"),
        Panel::graph(
            "Tethers and links",
            "short",
            "Open tethers and links. More tethers than links: some wait for their phone.",
        )
        .query(sum("wstether_tethers", ""), "tethers")
        .query(sum("wstether_links", ""), "links"),
        Panel::graph("Tethers opened", "ops", "New tethers, and those that came back with a resume ticket.")
            .query(or_zero(&rate("wstether_tethers_opened_total", "")), "new")
            .query(or_zero(&rate("wstether_tethers_resumed_total", "")), "resumed"),
        Panel::graph(
            "Uplink credit",
            "bytes",
            "Uplink bytes of tethers that are inside the gateway. What is beyond is dropped as over_credit.",
        )
        .query(sum("wstether_credit_in_use_bytes", ""), "in use"),
        Panel::graph(
            "Downlink windows",
            "bytes",
            "Sum of the links' windows, and the bytes sent on them that are not acknowledged.",
        )
        .query(sum("wstether_window_bytes", ""), "windows")
        .query(sum("wstether_window_in_flight_bytes", ""), "in flight"),
    ]
}

fn process() -> Vec<Panel> {
    vec![
        Panel::graph("Processor", "percentunit", "Cores that the process uses; 100 % is one.")
            .query(or_zero(&rate("process_cpu_seconds_total", "job=\"wstether\"")), "cores"),
        Panel::graph("Memory", "bytes", "Resident memory of the process.")
            .query(sum("process_resident_memory_bytes", "job=\"wstether\""), "resident"),
        Panel::graph("Packet buffers", "bytes", "Memory held by packet buffers in use, and how much they may hold.")
            .query(sum("wstether_buffers_held_bytes", ""), "held")
            .query(sum("wstether_buffers_limit_bytes", ""), "limit"),
        Panel::graph("Buffers refused", "ops", "Buffers that the pool refused because it was at its limit.")
            .query(or_zero(&rate("wstether_buffers_refused_total", "")), "refused"),
        Panel::graph(
            "Memory budget",
            "bytes",
            "What the budget has on its books, by part, and the budget, which is never passed.",
        )
        .query("sum by (part) (wstether_memory_held_bytes{instance=~\"$instance\"})", "{{part}}")
        .query(sum("wstether_memory_spare_bytes", ""), "spare (of buffers)")
        .query(sum("wstether_memory_budget_bytes", ""), "budget"),
        Panel::graph("Memory refused", "ops", "How often the budget refused memory, to whichever part.")
            .query(or_zero(&rate("wstether_memory_refused_total", "")), "refused"),
        Panel::graph(
            "Overload ladder",
            "short",
            "The rung (0 calm, 1 no new tethers, 2 no new mappings, 3 the largest are trimmed), and steps by reason.",
        )
        .query("max(wstether_overload_rung{instance=~\"$instance\"})", "rung")
        .query(
            "sum by (reason) (increase(wstether_overload_steps_total{instance=~\"$instance\"}[$__rate_interval]))",
            "steps: {{reason}}",
        ),
        Panel::graph("Threads", "short", "Threads of the process.")
            .query(sum("process_threads", "job=\"wstether\""), "threads"),
        Panel::graph("Descriptors", "short", "Open file descriptors, and how many there may be.")
            .query(sum("process_open_fds", "job=\"wstether\""), "open")
            .query(sum("process_max_fds", "job=\"wstether\""), "limit"),
        Panel::graph(
            "Kernel drops",
            "pps",
            "Packets that the kernel dropped because a packet socket's buffer was full.",
        )
        .query(or_zero(&rate("wstether_packet_socket_drops_total", "")), "dropped"),
        Panel::graph(
            "Wake-ups",
            "ops",
            "How often threads left their cores: voluntary, because they waited, which is one wake-up each, or involuntary.",
        )
        .query(rate_by("kind", "wstether_process_context_switches_total", ""), "{{kind}}"),
        Panel::graph("Egress errors", "ops", "Errors from reading the packet socket or the TUN device.")
            .query(or_zero(&rate("wstether_egress_read_errors_total", "")), "errors"),
    ]
}

mod tests;
