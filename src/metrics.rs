//! Every figure that the gateway keeps about itself, and the catalogue that names them all.
//!
//! The figures are plain atomics, held by whoever counts (a stage holds its [`StageMetrics`]) and updated once a batch.
//! There is no global recorder: two gateways in one process keep two sets. A scrape reads them through
//! [`Metrics::families`], in the order of the [catalogue](INSTRUMENTS); `encode` writes them as Prometheus text.

mod buckets;
mod catalogue;
#[cfg(all(test, feature = "kernel"))]
mod dashboard;
pub mod decisions;
#[cfg(feature = "kernel")]
mod encode;
mod families;
mod figures;
mod handed_over;
mod process;
mod readiness;
mod recent;

use crate::budget::Part;
use crate::config::{self, Role};
use crate::offload::SuperPackets;
use crate::overload::Cause;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use catalogue::{INSTRUMENTS, Instrument, Kind, Unit};
#[cfg(feature = "kernel")]
pub use encode::CONTENT_TYPE;
pub use families::{Family, Sample, Value};
pub use figures::{Buckets, Counter, Gauge, Histogram, Quantity, Snapshot, TimeCounter};
pub use handed_over::HandedOver;
pub use process::Process;
pub use readiness::Readiness;
pub use recent::{LOOK_EVERY, RECENT};

use crate::stages::Reason;
use decisions::Decisions;

/// The labels of a closed set of reasons, in the order of their indices: what [`StageMetrics::new`] wants.
pub fn labels<R: Reason>() -> Vec<&'static str> {
    R::ALL.iter().map(|reason| reason.label()).collect()
}

/// The figures of one stage in one direction. Packets are segments: a super-packet counts as what it is on a wire.
///
/// `packets_in` = `packets_out` + `turned` + all `drops` + `queue_packets` + `held_back_packets`, exactly, whenever no thread
/// is at work in the stage.
#[derive(Debug)]
pub struct StageMetrics {
    /// The stage's name, as in the pipeline's diagram.
    pub name: &'static str,
    /// `uplink` or `downlink`.
    pub direction: &'static str,
    /// The labels of the reasons for a drop, in the order of `drops`.
    pub reasons: Box<[&'static str]>,
    /// Segments that came in.
    pub packets_in: Counter,
    /// Bytes that came in.
    pub bytes_in: Counter,
    /// Segments that went on to the next stage.
    pub packets_out: Counter,
    /// Bytes that went on to the next stage.
    pub bytes_out: Counter,
    /// Segments turned round: sent back the way they came from, changed in place.
    pub turned: Counter,
    /// Segments that the gateway itself made here (ICMP errors, answers).
    pub made: Counter,
    /// Segments dropped, by the reason's index.
    pub drops: Box<[Counter]>,
    /// Segments that went on with a mark of congestion (ECN, RFC 3168) in place of being dropped.
    pub marked: Counter,
    /// Batches handled.
    pub batches: Counter,
    /// Time that threads spent in the stage's handler.
    pub busy_seconds: TimeCounter,
    /// Threads that worked in the handler on average of late, in thousandths: for the status, which has no past.
    pub recent_busy_permille: Gauge,
    /// 99th percentile of the time in the queue of each batch's oldest item, of what was taken before the last look, in
    /// nanoseconds.
    pub recent_sojourn_ns: Gauge,
    /// Time that a source rested, because what it brought found no room.
    pub rest_seconds: TimeCounter,
    /// Segments in the queue.
    pub queue_packets: Gauge,
    /// Memory held by what is in the queue.
    pub queue_bytes: Gauge,
    /// Segments that the queue takes.
    pub queue_capacity_packets: Gauge,
    /// Memory that the queue may hold.
    pub queue_capacity_bytes: Gauge,
    /// Segments that the queue admits at present: its capacity, or less while the stage sheds.
    pub queue_admitted_packets: Gauge,
    /// 1 while the stage admits less than its queue could hold, because what waits in it waits too long.
    pub shedding: Gauge,
    /// The most segments in the queue at once since the start.
    pub queue_packets_max_seen: Gauge,
    /// Segments that were handled and wait for room in the next stage, outside of both queues.
    pub held_back_packets: Gauge,
    /// Lanes that wait for room in this stage's queue.
    pub lanes_parked: Gauge,
    /// Whom the stage turned away while it shed: what the ladder goes by.
    pub losers: Losers,
    /// Threads in the stage's pool.
    pub threads: Gauge,
    /// The most threads in the pool at once since the start.
    pub threads_max_seen: Gauge,
    /// Time in the queue: a sample a batch, of its oldest packet.
    pub sojourn_seconds: Histogram<Duration>,
    /// Time in the handler: a sample a batch.
    pub service_seconds: Histogram<Duration>,
    /// Segments in a batch.
    pub batch_packets: Histogram<u64>,
    /// Batches that were handed to this stage, by [`HandedOver`].
    pub handovers: [Counter; HandedOver::ALL.len()],
    /// The most segments that one batch takes at present.
    pub batch_limit_packets: Gauge,
    /// The controller added a thread.
    pub pool_grow: Counter,
    /// The controller took a thread away.
    pub pool_shrink: Counter,
}

impl StageMetrics {
    /// All figures at zero, each of `reasons` among them.
    pub fn new(name: &'static str, direction: &'static str, reasons: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            name,
            direction,
            reasons: reasons.into(),
            packets_in: Counter::default(),
            bytes_in: Counter::default(),
            packets_out: Counter::default(),
            bytes_out: Counter::default(),
            turned: Counter::default(),
            made: Counter::default(),
            drops: counters(reasons.len()),
            marked: Counter::default(),
            batches: Counter::default(),
            busy_seconds: TimeCounter::default(),
            recent_busy_permille: Gauge::default(),
            recent_sojourn_ns: Gauge::default(),
            rest_seconds: TimeCounter::default(),
            queue_packets: Gauge::default(),
            queue_bytes: Gauge::default(),
            queue_capacity_packets: Gauge::default(),
            queue_capacity_bytes: Gauge::default(),
            queue_admitted_packets: Gauge::default(),
            shedding: Gauge::default(),
            queue_packets_max_seen: Gauge::default(),
            held_back_packets: Gauge::default(),
            lanes_parked: Gauge::default(),
            losers: Losers::default(),
            threads: Gauge::default(),
            threads_max_seen: Gauge::default(),
            sojourn_seconds: Histogram::new(&buckets::SOJOURN),
            service_seconds: Histogram::new(&buckets::SERVICE),
            batch_packets: Histogram::new(&buckets::BATCH),
            handovers: Default::default(),
            batch_limit_packets: Gauge::default(),
            pool_grow: Counter::default(),
            pool_shrink: Counter::default(),
        })
    }

    /// Batches that were handed to the stage and run_on, queued or gathered, for whatever reason.
    pub fn handed_over(&self, decision: &str) -> u64 {
        let of_it = HandedOver::ALL.iter().zip(&self.handovers).filter(|(it, _)| it.decision() == decision);
        of_it.map(|(_, counter)| counter.get()).sum()
    }

    /// Segments dropped for the reason of that label.
    pub fn dropped_for(&self, label: &str) -> u64 {
        self.reasons.iter().position(|reason| *reason == label).map_or(0, |at| self.drops[at].get())
    }

    /// Segments dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }

    /// Segments that came in, wait nowhere and are not known to have left: zero whenever no thread is at work in the stage.
    /// While a batch is in the handler it is the batch.
    pub fn unaccounted(&self) -> i64 {
        let waits = self.queue_packets.get() + self.held_back_packets.get();
        let gone = self.packets_out.get() + self.turned.get() + self.dropped() + waits;
        self.packets_in.get().wrapping_sub(gone) as i64
    }
}

/// Who has lost by shedding since this was asked last.
#[derive(Debug, Default)]
pub struct Losers {
    any: AtomicBool,
    within_share: AtomicBool,
}

impl Losers {
    /// Whether anybody was turned away, or is held back; and whether anybody who had not got far more than others of late.
    pub fn note(&self, any: bool, within_share: bool) {
        self.any.fetch_or(any, Ordering::Relaxed);
        self.within_share.fetch_or(within_share, Ordering::Relaxed);
    }

    /// The same, of all that was noted since.
    pub fn take(&self) -> (bool, bool) {
        (self.any.swap(false, Ordering::Relaxed), self.within_share.swap(false, Ordering::Relaxed))
    }
}

/// One counter for each label of a closed set.
#[derive(Debug)]
pub struct Labelled {
    labels: Box<[&'static str]>,
    counters: Box<[Counter]>,
}

impl Labelled {
    /// All at zero.
    pub fn new(labels: &[&'static str]) -> Self {
        Self { labels: labels.into(), counters: counters(labels.len()) }
    }

    /// The counter of the label with this index.
    pub fn at(&self, index: usize) -> Option<&Counter> {
        self.counters.get(index)
    }

    /// Each label with its count.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        self.labels.iter().copied().zip(self.counters.iter().map(Counter::get)).collect()
    }
}

/// The protocols that NAT figures are told apart by.
#[derive(Debug, Default)]
pub struct ByProtocol<T> {
    /// TCP (protocol 6).
    pub tcp: T,
    /// UDP (protocol 17).
    pub udp: T,
    /// ICMP queries (protocol 1).
    pub icmp: T,
}

impl<T> ByProtocol<T> {
    /// All of them: TCP, UDP, ICMP.
    pub fn each(&self) -> [&T; 3] {
        [&self.tcp, &self.udp, &self.icmp]
    }
}

/// The figures of the gateway as a whole.
#[derive(Debug)]
pub struct GatewayMetrics {
    /// Whether the gateway serves, and why not.
    pub ready: Readiness,
    /// Tethers that are open, with a link or waiting for one.
    pub tethers: Gauge,
    /// Tethers opened since the start.
    pub tethers_opened: Counter,
    /// Tethers that came back with a resume ticket.
    pub tethers_resumed: Counter,
    /// Links (WebSocket connections past their hello) that are open.
    pub links: Gauge,
    /// Those of them whose peer takes and sends no super-packets.
    pub links_plain: Gauge,
    /// Links opened since the start.
    pub links_opened: Counter,
    /// Messages and pings that were heard before their link's turn.
    pub heard_early: Counter,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Connections refused, by the index of the accept stage's reason.
    pub connections_refused: Labelled,
    /// Connections between accept and welcome.
    pub handshakes: Gauge,
    /// The most handshakes at once that are allowed.
    pub handshakes_limit: Gauge,
    /// Time from accept to welcome.
    pub handshake_seconds: Histogram<Duration>,
    /// Uplink bytes of tethers that are inside the gateway.
    pub credit_in_use_bytes: Gauge,
    /// Sum of the downlink windows of links in use.
    pub window_bytes: Gauge,
    /// Downlink bytes sent on links and not acknowledged.
    pub window_in_flight_bytes: Gauge,
    /// NAT mappings.
    pub nat_mappings: ByProtocol<Gauge>,
    /// NAT mappings made since the start.
    pub nat_mappings_made: ByProtocol<Counter>,
    /// External ports and identifiers in use.
    pub nat_ports_in_use: ByProtocol<Gauge>,
    /// External ports and identifiers that there are; 0 where the kernel or nobody translates.
    pub nat_ports_limit: Gauge,
    /// Port blocks handed out to tethers.
    pub nat_blocks_in_use: Gauge,
    /// Port blocks that there are.
    pub nat_blocks_limit: Gauge,
    /// Memory held by packet buffers in use.
    pub buffers_held_bytes: Gauge,
    /// Memory that packet buffers in use may hold.
    pub buffers_limit_bytes: Gauge,
    /// Buffers refused because the pool was at its limit.
    pub buffers_refused: Counter,
    /// Memory on the books of the budget, by [`Part`].
    pub memory_held_bytes: [Gauge; Part::ALL.len()],
    /// Memory of it that could be given back at once.
    pub memory_spare_bytes: Gauge,
    /// The budget.
    pub memory_budget_bytes: Gauge,
    /// How often the budget refused.
    pub memory_refused: Counter,
    /// The rung of the overload ladder.
    pub overload_rung: Gauge,
    /// Steps on it, by the index of their cause.
    pub overload_steps: Labelled,
    /// Packets that the kernel dropped because a packet socket's ring or buffer was full.
    pub packet_socket_drops: Counter,
    /// Errors from the egress' reads.
    pub egress_read_errors: Counter,
    /// What the controllers decided.
    pub decisions: Arc<Decisions>,
    egress: Mutex<Option<Egress>>,
}

/// The way out to the internet, as the metrics tell it. A client's is its device.
#[derive(Clone, Debug)]
pub struct Egress {
    /// `raw` or `tun`.
    pub mode: &'static str,
    /// The interface's name.
    pub interface: String,
    /// Which super-packets it takes. Others are cut before.
    pub super_packets: SuperPackets,
}

impl GatewayMetrics {
    /// All figures at zero; `refusals` are the labels of the accept stage's reasons.
    pub fn new(refusals: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            ready: Readiness::default(),
            tethers: Gauge::default(),
            tethers_opened: Counter::default(),
            tethers_resumed: Counter::default(),
            links: Gauge::default(),
            links_plain: Gauge::default(),
            links_opened: Counter::default(),
            heard_early: Counter::default(),
            connections_accepted: Counter::default(),
            connections_refused: Labelled::new(refusals),
            handshakes: Gauge::default(),
            handshakes_limit: Gauge::default(),
            handshake_seconds: Histogram::new(&buckets::HANDSHAKE),
            credit_in_use_bytes: Gauge::default(),
            window_bytes: Gauge::default(),
            window_in_flight_bytes: Gauge::default(),
            nat_mappings: ByProtocol::default(),
            nat_mappings_made: ByProtocol::default(),
            nat_ports_in_use: ByProtocol::default(),
            nat_ports_limit: Gauge::default(),
            nat_blocks_in_use: Gauge::default(),
            nat_blocks_limit: Gauge::default(),
            buffers_held_bytes: Gauge::default(),
            buffers_limit_bytes: Gauge::default(),
            buffers_refused: Counter::default(),
            memory_held_bytes: Default::default(),
            memory_spare_bytes: Gauge::default(),
            memory_budget_bytes: Gauge::default(),
            memory_refused: Counter::default(),
            overload_rung: Gauge::default(),
            overload_steps: Labelled::new(&Cause::LABELS),
            packet_socket_drops: Counter::default(),
            egress_read_errors: Counter::default(),
            decisions: Arc::default(),
            egress: Mutex::default(),
        })
    }

    /// The way out, once it is known.
    pub fn egress(&self) -> Option<Egress> {
        self.egress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the way out.
    pub fn tell_egress(&self, egress: Egress) {
        *self.egress.lock().unwrap_or_else(PoisonError::into_inner) = Some(egress);
    }
}

/// Copies figures that live elsewhere (a pool's, the kernel's) into their instruments.
type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All figures of one gateway.
pub struct Metrics {
    /// The stages, in the order of the data's way.
    pub stages: Vec<Arc<StageMetrics>>,
    /// The gateway as a whole.
    pub gateway: Arc<GatewayMetrics>,
    /// Whose they are, as the command is called. A client has the same instruments.
    pub role: &'static str,
    refresh: Vec<Refresh>,
    past: recent::Past,
}

impl Metrics {
    /// The figures of `stages`, which are in the order of the data's way, and of the gateway around them.
    pub fn new(stages: Vec<Arc<StageMetrics>>, gateway: Arc<GatewayMetrics>) -> Self {
        Self { stages, gateway, role: config::Gateway::NAME, refresh: Vec::new(), past: Default::default() }
    }

    /// The same, of another role.
    #[must_use]
    pub fn of(self, role: &'static str) -> Self {
        Self { role, ..self }
    }

    /// Runs `refresh` before each reading, to copy figures that are kept elsewhere. It runs on the reader's thread and
    /// must not wait for a lock that is held long.
    #[must_use]
    pub fn refreshed_by(mut self, refresh: impl Fn(&Self) + Send + Sync + 'static) -> Self {
        self.refresh.push(Box::new(refresh));
        self
    }

    /// Brings copied figures up to date.
    pub fn refresh(&self) {
        self.refresh.iter().for_each(|refresh| refresh(self));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("stages", &self.stages.len()).finish_non_exhaustive()
    }
}

fn counters(count: usize) -> Box<[Counter]> {
    (0..count).map(|_| Counter::default()).collect()
}

#[cfg(test)]
mod tests;
