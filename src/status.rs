//! What the gateway is doing: the model behind `wstether status` and `/status`, made from the metrics.

mod bottleneck;
#[cfg(feature = "kernel")]
mod fetch;
mod table;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use bottleneck::{Bottleneck, Sign};
#[cfg(feature = "kernel")]
pub use fetch::{FetchError, fetch};

use crate::metrics::decisions::Decision;
use crate::metrics::{Egress, Gauge, Metrics, Process, Snapshot, StageMetrics};
use crate::overload::Rung;

/// A gateway at one moment. Counts are since its start, the quantiles of waits are of the
/// last seconds ([`crate::metrics::RECENT`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Whose it is: `gateway`, or `client`, which serves the same figures.
    pub role: String,
    /// The version that runs.
    pub version: String,
    /// Whether it serves.
    pub ready: bool,
    /// Why it does not serve.
    pub why_not_ready: Option<String>,
    /// `raw`, `tun`, or `unknown` until the way out is open.
    pub egress: String,
    /// The interface of the way out.
    pub interface: String,
    /// Of which protocols the way out takes super-packets: `tcp and udp`, `tcp`, `none`, or `unknown` until it is open.
    pub super_packets: String,
    /// When the process started, in seconds since 1970-01-01 UTC.
    pub started_unix_seconds: f64,
    /// Processor time of the process.
    pub cpu_seconds: f64,
    /// Resident memory of the process.
    pub resident_memory_bytes: u64,
    /// Tethers that are open.
    pub tethers: u64,
    /// Links that are open.
    pub links: u64,
    /// Those of them whose client takes and sends no super-packets.
    pub links_plain: u64,
    /// NAT mappings of all protocols.
    pub nat_mappings: u64,
    /// External ports in use, of the protocol that uses most.
    pub nat_ports_in_use: u64,
    /// External ports that there are for each protocol.
    pub nat_ports_limit: u64,
    /// Memory held by packet buffers.
    pub buffers_held_bytes: u64,
    /// Memory that packet buffers may hold.
    pub buffers_limit_bytes: u64,
    /// The rung of the overload ladder: `calm`, or what the gateway does without.
    pub overload: String,
    /// The stage that holds the others back most.
    pub bottleneck: Option<Bottleneck>,
    /// The stages, in the order of the data's way.
    pub stages: Vec<StageStatus>,
    /// The last decisions of each controller, the newest first.
    pub decisions: Vec<DecisionStatus>,
}

/// One decision of a controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionStatus {
    /// How long ago it was.
    pub seconds_ago: f64,
    /// Who decided, as in the metric's label.
    pub controller: String,
    /// About what: a stage or a source with its direction, a tether, or the gateway.
    pub subject: String,
    /// `up` or `down`.
    pub change: String,
    /// Why, as in the metric's label.
    pub reason: String,
    /// What came of it, and what the controller saw.
    pub inputs: String,
}

/// One stage in one direction. Packets are segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// The stage's name.
    pub name: String,
    /// `uplink` or `downlink`.
    pub direction: String,
    /// Packets that came in.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that went on.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets turned round.
    pub turned: u64,
    /// Packets that the gateway made here.
    pub made: u64,
    /// Packets dropped, by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// Packets in the queue.
    pub queue: u64,
    /// The most packets in the queue at once.
    pub queue_max: u64,
    /// Packets that the queue takes.
    pub queue_capacity: u64,
    /// Packets that the queue admits at present.
    pub queue_admitted: u64,
    /// Whether that is less than it takes, because packets waited too long.
    pub shedding: bool,
    /// Packets that were handled and wait for room in the next stage, outside of both queues.
    pub held_back: u64,
    /// Lanes that wait for room in the queue.
    pub lanes_parked: u64,
    /// Threads in the pool.
    pub threads: u64,
    /// The most threads in the pool at once.
    pub threads_max: u64,
    /// Time that threads spent in the handler.
    pub busy_seconds: f64,
    /// Threads that worked in the handler on average of late.
    pub busy_threads: f64,
    /// 99th percentile of the time in the queue of each batch's oldest packet in the last moment, in milliseconds; 0 when
    /// nothing waited.
    pub sojourn_ms_now: f64,
    /// Median of the same in the last seconds, in milliseconds; absent where nothing was queued.
    pub sojourn_ms_p50: Option<f64>,
    /// 99th percentile of the same.
    pub sojourn_ms_p99: Option<f64>,
}

impl Status {
    /// The status of the gateway whose figures are `metrics`.
    pub fn of(metrics: &Metrics, process: &Process) -> Self {
        metrics.refresh();
        let now = Instant::now();
        let gateway = &*metrics.gateway;
        let egress = gateway.egress();
        let told = |what: fn(&Egress) -> String| egress.as_ref().map_or_else(|| "unknown".to_owned(), what);
        let waits = metrics.recent_sojourns(now);
        let stages: Vec<_> =
            metrics.stages.iter().zip(&waits).map(|(stage, waits)| StageStatus::of(stage, waits)).collect();
        let why_not = gateway.ready.why_not();
        let rung = Rung::ALL.get(gateway.overload_rung.get() as usize).copied().unwrap_or(Rung::TrimLargest);
        let (mappings, ports) = (&gateway.nat_mappings, &gateway.nat_ports_in_use);
        Self {
            role: metrics.role.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ready: why_not.is_none(),
            why_not_ready: why_not.map(Into::into),
            egress: told(|egress| egress.mode.into()),
            interface: told(|egress| egress.interface.clone()),
            super_packets: told(|egress| egress.super_packets.to_string()),
            started_unix_seconds: process.start_time_seconds,
            cpu_seconds: process.cpu_seconds,
            resident_memory_bytes: process.resident_memory_bytes as u64,
            tethers: gateway.tethers.get(),
            links: gateway.links.get(),
            links_plain: gateway.links_plain.get(),
            nat_mappings: mappings.each().map(Gauge::get).iter().sum(),
            nat_ports_in_use: ports.each().map(Gauge::get).into_iter().max().unwrap_or(0),
            nat_ports_limit: gateway.nat_ports_limit.get(),
            buffers_held_bytes: gateway.buffers_held_bytes.get(),
            buffers_limit_bytes: gateway.buffers_limit_bytes.get(),
            overload: rung.label().into(),
            bottleneck: Bottleneck::among(&stages),
            stages,
            decisions: decisions(&gateway.decisions.last(now)),
        }
    }
}

impl StageStatus {
    /// The status of one stage, in whose queue packets waited as `sojourns` has it.
    pub fn of(stage: &StageMetrics, sojourns: &Snapshot) -> Self {
        let sojourn_ms = |quantile| sojourns.quantile(quantile).map(|seconds| seconds * 1e3);
        Self {
            name: stage.name.into(),
            direction: stage.direction.into(),
            packets: stage.packets_in.get(),
            bytes: stage.bytes_in.get(),
            packets_out: stage.packets_out.get(),
            bytes_out: stage.bytes_out.get(),
            turned: stage.turned.get(),
            made: stage.made.get(),
            drops: stage.reasons.iter().map(|&reason| reason.into()).zip(stage.drops.iter().map(|d| d.get())).collect(),
            queue: stage.queue_packets.get(),
            queue_max: stage.queue_packets_max_seen.get(),
            queue_capacity: stage.queue_capacity_packets.get(),
            queue_admitted: stage.queue_admitted_packets.get(),
            shedding: stage.shedding.get() > 0,
            held_back: stage.held_back_packets.get(),
            lanes_parked: stage.lanes_parked.get(),
            threads: stage.threads.get(),
            threads_max: stage.threads_max_seen.get(),
            busy_seconds: stage.busy_seconds.get().as_secs_f64(),
            busy_threads: stage.recent_busy_permille.get() as f64 / 1e3,
            sojourn_ms_now: stage.recent_sojourn_ns.get() as f64 / 1e6,
            sojourn_ms_p50: sojourn_ms(0.5),
            sojourn_ms_p99: sojourn_ms(0.99),
        }
    }

    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    /// How full the queue is, from 0 to 1.
    pub fn queue_fill(&self) -> f64 {
        if self.queue_capacity == 0 { 0.0 } else { self.queue as f64 / self.queue_capacity as f64 }
    }
}

fn decisions(last: &[(Duration, Decision)]) -> Vec<DecisionStatus> {
    let told = |(age, decision): &(Duration, Decision)| DecisionStatus {
        seconds_ago: age.as_secs_f64(),
        controller: decision.controller.label().into(),
        subject: decision.subject.clone().into(),
        change: decision.change.label().into(),
        reason: decision.reason.into(),
        inputs: decision.inputs.clone(),
    };
    last.iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{GatewayMetrics, decisions};
    use crate::offload::SuperPackets;

    fn metrics() -> Metrics {
        let stages = vec![
            StageMetrics::new("ip-parse", "uplink", &["malformed", "spoofed"]),
            StageMetrics::new("nat-rewrite", "uplink", &["port_limit"]),
        ];
        for stage in &stages {
            stage.queue_capacity_packets.set(100);
        }
        Metrics::new(stages, GatewayMetrics::new(&[]))
    }

    #[test]
    fn the_figures_are_those_of_the_metrics() {
        let metrics = metrics();
        let parse = &metrics.stages[0];
        parse.packets_in.add(12);
        parse.packets_out.add(9);
        parse.drops[1].add(3);
        parse.threads_max_seen.raise(2);
        parse.queue_packets_max_seen.raise(40);
        parse.held_back_packets.set(17);
        parse.sojourn_seconds.observe_n(Duration::from_millis(2), 100);
        metrics.gateway.nat_ports_in_use.udp.set(7);
        metrics.gateway.nat_ports_in_use.tcp.set(4);
        metrics.gateway.nat_mappings.icmp.set(2);
        metrics.gateway.tell_egress(Egress { mode: "tun", interface: "wst0".into(), super_packets: SuperPackets::TCP });
        metrics.gateway.links.set(3);
        metrics.gateway.links_plain.set(1);
        metrics.gateway.ready.set_ready();

        let status = Status::of(&metrics, &Process::default());
        let stage = &status.stages[0];
        assert_eq!((stage.packets, stage.packets_out, stage.dropped(), stage.held_back), (12, 9, 3, 17));
        assert_eq!(stage.drops, BTreeMap::from([("malformed".into(), 0), ("spoofed".into(), 3)]));
        assert_eq!((stage.threads_max, stage.queue_max, stage.sojourn_ms_p99.map(f64::ceil)), (2, 40, Some(2.0)));
        assert_eq!((status.nat_ports_in_use, status.nat_mappings), (7, 2));
        assert_eq!(status.decisions, []);
        assert_eq!((status.ready, &*status.egress, &*status.interface), (true, "tun", "wst0"));
        assert_eq!((&*status.super_packets, status.links, status.links_plain), ("tcp", 3, 1));
        let text = status.to_string();
        assert!(text.contains("egress tun on wst0, super-packets: tcp\n"), "{text}");
        assert!(text.contains("links 3 (1 without super-packets), "), "{text}");
    }

    #[test]
    fn a_gateway_that_is_not_ready_says_why() {
        let metrics = metrics();
        metrics.gateway.ready.set_not_ready("egress: no default route");
        let status = Status::of(&metrics, &Process::default());
        assert_eq!((status.ready, status.why_not_ready.as_deref()), (false, Some("egress: no default route")));
        assert!(status.to_string().contains(" is not ready (egress: no default route)"));
    }

    #[test]
    fn the_rung_of_the_ladder_is_told_while_something_is_done_without() {
        let metrics = metrics();
        let told = || Status::of(&metrics, &Process::default());
        assert_eq!((&*told().overload, told().to_string().contains("overload")), ("calm", false));
        metrics.gateway.overload_rung.set(Rung::NoNewMappings as u64);
        let status = told();
        assert_eq!(status.overload, "no_new_mappings");
        assert!(status.to_string().contains("\noverload: no_new_mappings (rung 2 of 3)\n"), "{status}");
    }

    #[test]
    fn the_last_decisions_are_told_with_what_was_seen() {
        let metrics = metrics();
        let decision = Decision {
            controller: decisions::Controller::Pool,
            subject: "ip-parse uplink".into(),
            change: decisions::Change::Up,
            reason: decisions::WORK_WAITS,
            inputs: "2 threads: 3 lanes ready".into(),
        };
        metrics.gateway.decisions.note(Instant::now(), decision);
        let status = Status::of(&metrics, &Process::default());
        let told = &status.decisions[0];
        assert_eq!((&*told.controller, &*told.change, &*told.reason), ("pool", "up", "work_waits"));
        assert!(
            status.to_string().contains(" ago, pool of ip-parse uplink up (work_waits): 2 threads: 3 lanes ready\n")
        );
    }

    #[test]
    fn of_each_controller_the_newest_decisions_are_shown_however_often_others_decide() {
        let (metrics, now) = (metrics(), Instant::now());
        for (controller, change, reason, count) in [
            (decisions::Controller::Ladder, decisions::Change::Up, decisions::MEMORY_SHORT, 1),
            (decisions::Controller::Batch, decisions::Change::Up, decisions::QUICK_SERVICE, 99),
        ] {
            let decision = Decision { controller, subject: "gateway".into(), change, reason, inputs: "as seen".into() };
            (0..count).for_each(|_| metrics.gateway.decisions.note(now, decision.clone()));
        }
        let text = Status::of(&metrics, &Process::default()).to_string();
        let shown = |controller: &str| text.matches(&format!(" ago, {controller} of gateway up")).count();
        assert_eq!((shown("ladder"), shown("batch")), (1, 2), "{text}");
    }
}
