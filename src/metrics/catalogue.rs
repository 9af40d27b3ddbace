//! The catalogue: every instrument once, with how it is read. docs/metrics.md is made from it.

use super::families::Value;
use super::figures::{Buckets, Counter, Gauge};
use super::{ByProtocol, Egress, GatewayMetrics, Process, StageMetrics, buckets};
use crate::budget::Part;

/// What kind of figure an instrument is, in Prometheus' words.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows; a restart sets it to zero.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Samples in fixed buckets.
    Histogram(&'static Buckets),
}

impl Kind {
    /// The word in the exposition's TYPE line.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// The unit of an instrument's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things, named by the instrument (packets are segments).
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Seconds since 1970-01-01 UTC.
    UnixSeconds,
    /// 1 or 0.
    Truth,
}

impl Unit {
    /// The unit's word in docs/metrics.md.
    pub fn label(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::UnixSeconds => "seconds since 1970",
            Self::Truth => "0 or 1",
        }
    }
}

/// One instrument: a family of series.
#[derive(Clone, Copy, Debug)]
pub struct Instrument {
    /// The family's name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The unit of its value.
    pub unit: Unit,
    /// The names of its labels. Their values are closed sets: a peer cannot make new ones.
    pub labels: &'static [&'static str],
    /// What it tells, in one sentence.
    pub help: &'static str,
    pub(super) read: Read,
}

/// How an instrument's series are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    /// One series a stage.
    Stage(fn(&StageMetrics) -> Value),
    /// One series a stage and value of the last label.
    StageBy(fn(&StageMetrics) -> Vec<(&'static str, u64)>),
    /// One series a stage and case of a hand-over.
    HandOvers,
    /// One series.
    Gateway(fn(&GatewayMetrics) -> Value),
    /// One series a value of the only label.
    GatewayBy(fn(&GatewayMetrics) -> Vec<(&'static str, u64)>),
    /// One series a kind of decision.
    Decisions,
    /// One series of value 1, told by its labels.
    Info(fn(&GatewayMetrics) -> Vec<String>),
    /// One series of the process.
    Process(fn(&Process) -> f64),
    /// One series of the process a value of the only label.
    ProcessBy(fn(&Process) -> Vec<(&'static str, u64)>),
}

const STAGE: &[&str] = &["stage", "direction"];

const fn counter(name: &'static str, unit: Unit, help: &'static str, read: fn(&StageMetrics) -> Value) -> Instrument {
    Instrument { name, kind: Kind::Counter, unit, labels: STAGE, help, read: Read::Stage(read) }
}

const fn gauge(name: &'static str, unit: Unit, help: &'static str, read: fn(&StageMetrics) -> Value) -> Instrument {
    Instrument { name, kind: Kind::Gauge, unit, labels: STAGE, help, read: Read::Stage(read) }
}

const fn histogram(
    name: &'static str,
    unit: Unit,
    buckets: &'static Buckets,
    help: &'static str,
    read: fn(&StageMetrics) -> Value,
) -> Instrument {
    Instrument { name, kind: Kind::Histogram(buckets), unit, labels: STAGE, help, read: Read::Stage(read) }
}

const fn by(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&StageMetrics) -> Vec<(&'static str, u64)>,
) -> Instrument {
    Instrument { name, kind: Kind::Counter, unit: Count, labels, help, read: Read::StageBy(read) }
}

const fn whole(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    read: fn(&GatewayMetrics) -> Value,
) -> Instrument {
    Instrument { name, kind, unit, labels: &[], help, read: Read::Gateway(read) }
}

const fn whole_by(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&GatewayMetrics) -> Vec<(&'static str, u64)>,
) -> Instrument {
    Instrument { name, kind, unit: Count, labels, help, read: Read::GatewayBy(read) }
}

const fn info(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&GatewayMetrics) -> Vec<String>,
) -> Instrument {
    Instrument { name, kind: Kind::Gauge, unit: Truth, labels, help, read: Read::Info(read) }
}

const fn process(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    read: fn(&Process) -> f64,
) -> Instrument {
    Instrument { name, kind, unit, labels: &[], help, read: Read::Process(read) }
}

impl From<&Counter> for Value {
    fn from(counter: &Counter) -> Self {
        Self::Whole(counter.get())
    }
}

impl From<&Gauge> for Value {
    fn from(gauge: &Gauge) -> Self {
        Self::Whole(gauge.get())
    }
}

/// The values of the label `protocol`, in the order of [`ByProtocol::each`].
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "icmp"];

fn protocols<T>(figures: &ByProtocol<T>, get: fn(&T) -> u64) -> Vec<(&'static str, u64)> {
    PROTOCOLS.into_iter().zip(figures.each().map(get)).collect()
}

fn memory(gateway: &GatewayMetrics) -> Vec<(&'static str, u64)> {
    Part::ALL.iter().map(|part| part.label()).zip(gateway.memory_held_bytes.iter().map(Gauge::get)).collect()
}

fn drops(stage: &StageMetrics) -> Vec<(&'static str, u64)> {
    stage.reasons.iter().copied().zip(stage.drops.iter().map(Counter::get)).collect()
}

fn egress(gateway: &GatewayMetrics) -> Vec<String> {
    let unknown = || vec!["unknown".into(); 3];
    let told = |egress: &Egress| vec![egress.mode.into(), egress.interface.clone(), egress.super_packets.to_string()];
    gateway.egress().as_ref().map_or_else(unknown, told)
}

use Kind::{Counter as C, Gauge as G};
use Unit::{Bytes, Count, Seconds, Truth, UnixSeconds};

/// Every instrument, in the order of the exposition: a stage's, the gateway's, the process'.
#[rustfmt::skip]
pub const INSTRUMENTS: &[Instrument] = &[
    // What goes through a stage.
    counter("wstether_stage_packets_in_total", Count, "Segments that came into the stage.", |s| (&s.packets_in).into()),
    counter("wstether_stage_bytes_in_total", Bytes, "Bytes that came into the stage.", |s| (&s.bytes_in).into()),
    counter("wstether_stage_packets_out_total", Count, "Segments that went on to the next stage.", |s| (&s.packets_out).into()),
    counter("wstether_stage_bytes_out_total", Bytes, "Bytes that went on to the next stage.", |s| (&s.bytes_out).into()),
    counter("wstether_stage_turned_total", Count, "Segments turned round in the stage: echo replies of the gateway, hairpinned packets.", |s| (&s.turned).into()),
    counter("wstether_stage_made_total", Count, "Segments that the gateway itself made in the stage (ICMP errors, answers); they are in no other count of this stage.", |s| (&s.made).into()),
    by("wstether_stage_drops_total", &["stage", "direction", "reason"], "Segments dropped in the stage, by reason.", drops),
    counter("wstether_stage_marked_total", Count, "Segments that went on with a mark of congestion (ECN) in place of being dropped.", |s| (&s.marked).into()),
    // Its work.
    counter("wstether_stage_batches_total", Count, "Batches handled.", |s| (&s.batches).into()),
    counter("wstether_stage_busy_seconds_total", Seconds, "Time that threads spent in the stage's handler.", |s| Value::Real(s.busy_seconds.get().as_secs_f64())),
    counter("wstether_stage_rest_seconds_total", Seconds, "Time that a source (raw-recv, tun-read) left what came to the kernel, because the first stage had no room for it.", |s| Value::Real(s.rest_seconds.get().as_secs_f64())),
    histogram("wstether_stage_batch_packets", Count, &buckets::BATCH, "Segments in a batch.", |s| Value::Histogram(s.batch_packets.snapshot())),
    histogram("wstether_stage_service_seconds", Seconds, &buckets::SERVICE, "Time in the handler, a sample a batch.", |s| Value::Histogram(s.service_seconds.snapshot())),
    histogram("wstether_stage_sojourn_seconds", Seconds, &buckets::SOJOURN, "Time in the stage's queue, a sample a batch: its oldest packet.", |s| Value::Histogram(s.sojourn_seconds.snapshot())),
    // Its queue.
    gauge("wstether_stage_queue_packets", Count, "Segments in the stage's queue.", |s| (&s.queue_packets).into()),
    gauge("wstether_stage_queue_bytes", Bytes, "Memory held by what is in the stage's queue.", |s| (&s.queue_bytes).into()),
    gauge("wstether_stage_queue_capacity_packets", Count, "Segments that the stage's queue takes.", |s| (&s.queue_capacity_packets).into()),
    gauge("wstether_stage_queue_capacity_bytes", Bytes, "Memory that the stage's queue may hold.", |s| (&s.queue_capacity_bytes).into()),
    gauge("wstether_stage_queue_admitted_packets", Count, "Segments that the stage's queue admits at present: its capacity, or less while the stage sheds. On the way up, who sends little finds room up to twice that.", |s| (&s.queue_admitted_packets).into()),
    gauge("wstether_stage_shedding", Truth, "1 while the stage admits less than its queue could hold, because what waits in it waits too long.", |s| (&s.shedding).into()),
    gauge("wstether_stage_queue_packets_max_seen", Count, "The most segments in the stage's queue at once since the start.", |s| (&s.queue_packets_max_seen).into()),
    gauge("wstether_stage_held_back_packets", Count, "Segments that the stage has handled and the next one had no room for. They wait outside of both queues, and are bounded by the credit of those who sent them.", |s| (&s.held_back_packets).into()),
    gauge("wstether_stage_lanes_parked", Count, "Lanes that wait for room in the stage's queue.", |s| (&s.lanes_parked).into()),
    // Its controllers.
    gauge("wstether_stage_threads", Count, "Threads in the stage's pool.", |s| (&s.threads).into()),
    gauge("wstether_stage_threads_max_seen", Count, "The most threads in the stage's pool at once since the start.", |s| (&s.threads_max_seen).into()),
    by("wstether_stage_pool_decisions_total", &["stage", "direction", "decision"], "Changes of the pool's size, by decision (grow, shrink).", |s| vec![("grow", s.pool_grow.get()), ("shrink", s.pool_shrink.get())]),
    gauge("wstether_stage_batch_limit_packets", Count, "Segments that one batch of the stage takes at most at present: what is configured, or less where a packet takes long.", |s| (&s.batch_limit_packets).into()),
    Instrument { name: "wstether_stage_handovers_total", kind: C, unit: Count, labels: &["stage", "direction", "decision", "reason"], help: "Batches handed to the stage, by decision: run_on (on the same thread), queued, or gathered (for more to come, before it is served by the same thread), and by reason.", read: Read::HandOvers },

    Instrument { name: "wstether_decisions_total", kind: C, unit: Count, labels: &["controller", "change", "reason"], help: "Decisions of the controllers, over all stages, sources, tethers and links: which one, whether it went up or down, and why. Of hand-over, which decides on each batch, only when a stage comes to do mostly something else; wstether_stage_handovers_total has every batch.", read: Read::Decisions },

    // Who is connected.
    whole("wstether_ready", G, Truth, "1 when the gateway serves, 0 while it starts or stops, or its way out is not usable.", |g| Value::Whole(g.ready.is_ready().into())),
    whole("wstether_tethers", G, Count, "Tethers that are open, with a link or waiting for one.", |g| (&g.tethers).into()),
    whole("wstether_tethers_opened_total", C, Count, "Tethers opened.", |g| (&g.tethers_opened).into()),
    whole("wstether_tethers_resumed_total", C, Count, "Tethers that came back with a resume ticket.", |g| (&g.tethers_resumed).into()),
    whole("wstether_links", G, Count, "Links (WebSocket connections past their hello) that are open.", |g| (&g.links).into()),
    whole("wstether_links_plain", G, Count, "Those of them whose client takes and sends no super-packets: each packet is handled by itself.", |g| (&g.links_plain).into()),
    whole("wstether_links_opened_total", C, Count, "Links opened.", |g| (&g.links_opened).into()),
    whole("wstether_links_heard_early_total", C, Count, "Messages and pings that were heard before their link's turn, which waited for room in a stage: pings and acknowledgements do not wait with the packets.", |g| (&g.heard_early).into()),
    whole("wstether_accept_connections_total", C, Count, "Connections accepted.", |g| (&g.connections_accepted).into()),
    whole_by("wstether_accept_refused_total", C, &["reason"], "Connections refused before they became a link, by reason.", |g| g.connections_refused.counts()),
    whole("wstether_accept_handshakes", G, Count, "Connections between accept and welcome.", |g| (&g.handshakes).into()),
    whole("wstether_accept_handshakes_limit", G, Count, "Connections that may be between accept and welcome at once.", |g| (&g.handshakes_limit).into()),
    whole("wstether_accept_handshake_seconds", Kind::Histogram(&buckets::HANDSHAKE), Seconds, "Time from accept to welcome.", |g| Value::Histogram(g.handshake_seconds.snapshot())),
    // What tethers may send and are sent.
    whole("wstether_credit_in_use_bytes", G, Bytes, "Uplink bytes of tethers that are inside the gateway.", |g| (&g.credit_in_use_bytes).into()),
    whole("wstether_window_bytes", G, Bytes, "Sum of the downlink windows of links in use.", |g| (&g.window_bytes).into()),
    whole("wstether_window_in_flight_bytes", G, Bytes, "Downlink bytes sent on links and not acknowledged.", |g| (&g.window_in_flight_bytes).into()),
    // NAT.
    whole_by("wstether_nat_mappings", G, &["protocol"], "NAT mappings, by protocol.", |g| protocols(&g.nat_mappings, Gauge::get)),
    whole_by("wstether_nat_mappings_made_total", C, &["protocol"], "NAT mappings made, by protocol.", |g| protocols(&g.nat_mappings_made, Counter::get)),
    whole_by("wstether_nat_ports_in_use", G, &["protocol"], "External ports and identifiers in use, by protocol.", |g| protocols(&g.nat_ports_in_use, Gauge::get)),
    whole("wstether_nat_ports_limit", G, Count, "External ports that there are for each protocol; 0 where the kernel or nobody translates.", |g| (&g.nat_ports_limit).into()),
    whole("wstether_nat_blocks_in_use", G, Count, "Port blocks handed out to tethers.", |g| (&g.nat_blocks_in_use).into()),
    whole("wstether_nat_blocks_limit", G, Count, "Port blocks that there are.", |g| (&g.nat_blocks_limit).into()),
    // Memory and the edges to the kernel.
    whole("wstether_buffers_held_bytes", G, Bytes, "Memory held by packet buffers in use.", |g| (&g.buffers_held_bytes).into()),
    whole("wstether_buffers_limit_bytes", G, Bytes, "Memory that packet buffers in use may hold.", |g| (&g.buffers_limit_bytes).into()),
    whole("wstether_buffers_refused_total", C, Count, "Buffers refused because the pool was at its limit.", |g| (&g.buffers_refused).into()),
    Instrument { name: "wstether_memory_held_bytes", kind: G, unit: Bytes, labels: &["part"], help: "Memory on the books of the budget, by what it is held for; that of buffers includes spare ones.", read: Read::GatewayBy(memory) },
    whole("wstether_memory_spare_bytes", G, Bytes, "Memory of spare buffers, which is given back when the budget needs it.", |g| (&g.memory_spare_bytes).into()),
    whole("wstether_memory_budget_bytes", G, Bytes, "The memory budget: what all parts together never pass.", |g| (&g.memory_budget_bytes).into()),
    whole("wstether_memory_refused_total", C, Count, "How often the budget refused memory, to whichever part.", |g| (&g.memory_refused).into()),
    whole("wstether_overload_rung", G, Count, "The rung of the overload ladder: 0 calm, 1 no new tethers, 2 no new mappings, 3 the largest are trimmed.", |g| (&g.overload_rung).into()),
    whole_by("wstether_overload_steps_total", C, &["reason"], "Steps on the overload ladder, by reason: memory and shedding lead up, calm leads down.", |g| g.overload_steps.counts()),
    whole("wstether_packet_socket_drops_total", C, Count, "Packets that the kernel dropped because a packet socket's buffer was full.", |g| (&g.packet_socket_drops).into()),
    whole("wstether_egress_read_errors_total", C, Count, "Errors from reading the packet socket or the TUN device. What could not be written is among the drops of raw-send or tun-write.", |g| (&g.egress_read_errors).into()),
    // What runs.
    info("wstether_egress_info", &["mode", "interface", "super_packets"], "The way out: raw or tun, its interface, and of which protocols it takes super-packets; unknown until it is open.", egress),
    info("wstether_build_info", &["version"], "The version that runs.", |_| vec![env!("CARGO_PKG_VERSION").into()]),
    process("process_cpu_seconds_total", C, Seconds, "Processor time of the process, user and system.", |p| p.cpu_seconds),
    process("process_resident_memory_bytes", G, Bytes, "Resident memory of the process.", |p| p.resident_memory_bytes),
    process("process_virtual_memory_bytes", G, Bytes, "Virtual memory of the process.", |p| p.virtual_memory_bytes),
    process("process_open_fds", G, Count, "Open file descriptors.", |p| p.open_fds),
    process("process_max_fds", G, Count, "File descriptors that may be open.", |p| p.max_fds),
    process("process_threads", G, Count, "Threads of the process.", |p| p.threads),
    Instrument { name: "wstether_process_context_switches_total", kind: C, unit: Count, labels: &["kind"], help: "How often a thread of the process left its core: voluntary, because it waited for something, which is one wake-up each, or involuntary, because another was to run.", read: Read::ProcessBy(|p| vec![("voluntary", p.voluntary_switches), ("involuntary", p.involuntary_switches)]) },
    process("process_start_time_seconds", G, UnixSeconds, "When the process started.", |p| p.start_time_seconds),
];
