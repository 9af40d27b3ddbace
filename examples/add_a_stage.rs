//! A stage of its own, from its drop reason to a pipeline that runs. CONTRIBUTING.md walks through it.
//!
//! The stage is `quota`: each lane may send so many bytes, and what goes beyond is dropped. `cargo run --example
//! add_a_stage` prints nothing; it ends in an error where a packet was lost or not counted.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wstether::metrics::{StageMetrics, labels};
use wstether::packet::{BufPool, Offload, Packet, Raw};
use wstether::runtime::cores::Cores;
use wstether::runtime::hand_over::Rule;
use wstether::runtime::inlet::Inlet;
use wstether::runtime::keeper::Keeper;
use wstether::runtime::lanes::{Entry, LaneId, Limits, Quota};
use wstether::runtime::queue::Fifo;
use wstether::runtime::stage::{Settings, Stage, WhenFull};
use wstether::runtime::tuning::Tuning;
use wstether::runtime::work::{Handler, RUNTIME_REASONS, WorkOf};
use wstether::stages::ip_parse::Parsed;
use wstether::stages::{Reason as _, Verdict};

wstether::reasons! {
    /// Why quota drops a packet.
    enum Reason {
        /// The lane has sent all that it may.
        OverQuota = "over_quota",
    }
}

/// What a lane may still send, in bytes.
struct Left(usize);

/// The stage: a packet and its lane's state in, a verdict out.
fn spend(left: &mut Left, packet: Packet<Raw>, _now: Instant) -> Verdict<Packet<Raw>, Reason> {
    match left.0.checked_sub(packet.len()) {
        Some(rest) => {
            left.0 = rest;
            Verdict::Forward(packet)
        }
        None => Verdict::Drop(Reason::OverQuota),
    }
}

/// What stands between the runtime and the function: each lane's state, taken once for all that a batch has of the lane.
struct Spend {
    lanes: Vec<Mutex<Left>>,
}

impl Handler for Spend {
    type Queue = Fifo<Packet<Raw>>;
    type Out = Packet<Raw>;
    type Turned = Packet<Parsed>;

    fn handle(&self, now: Instant, work: &mut WorkOf<Self>) {
        let mut items = work.batch.items.drain(..).peekable();
        while let Some(lane) = items.peek().map(|entry| entry.lane) {
            let mut left = self.lanes[lane.0 as usize].lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(entry) = items.next_if(|entry| entry.lane == lane) {
                let (segments, bytes) = (u64::from(entry.item.segments()), entry.item.len() as u64);
                match spend(&mut left, entry.item, now) {
                    Verdict::Forward(item) => work.out.push(Entry { origin: lane, lane, item }),
                    Verdict::Turn(item) => work.turned.push(Entry { origin: lane, lane, item }),
                    Verdict::Reply(reason, item) => {
                        work.tally.drop_segments(reason.index(), segments, bytes);
                        work.made.push(Entry { origin: lane, lane, item });
                    }
                    Verdict::Drop(reason) => work.tally.drop_segments(reason.index(), segments, bytes),
                }
            }
        }
    }
}

/// The end of the way: what comes here has left.
struct Sink;

impl Handler for Sink {
    type Queue = Fifo<Packet<Raw>>;
    type Out = Packet<Raw>;
    type Turned = Packet<Parsed>;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        for entry in work.batch.items.drain(..) {
            work.tally.sent.add(&entry.item);
        }
    }
}

const LANES: u32 = 2;

const SETTINGS: Settings = Settings {
    lanes: LANES,
    limits: Limits { segments: 1_024, held_bytes: 1 << 20 },
    quota: Quota { segments: 64, lane_bytes: 1 << 20 },
    threads: (1, 2),
    hand_over: Rule::Auto,
    when_full: WhenFull::Park,
    sojourn_max: Some(Duration::from_millis(5)),
    gathers: false,
    tuning: Tuning::DEFAULT,
};

const PACKET_BYTES: usize = 100;
const PACKETS_A_LANE: usize = 10;

/// For four packets and a half.
const BYTES_A_LANE: usize = 450;

/// Builds the pipeline, sends packets through it, and tells what the stage counted.
fn run() -> io::Result<Arc<StageMetrics>> {
    // Sinks first: each stage is given the one that it hands on to.
    let cores = Cores::new(2);
    let figures = StageMetrics::new("sink", "uplink", &RUNTIME_REASONS);
    let sink = Stage::new("sink", SETTINGS, Sink, None, None, Arc::clone(&cores), figures);

    let reasons = [RUNTIME_REASONS.as_slice(), &labels::<Reason>()].concat();
    let figures = StageMetrics::new("quota", "uplink", &reasons);
    let handler = Spend { lanes: (0..LANES).map(|_| Mutex::new(Left(BYTES_A_LANE))).collect() };
    let next = Some(Arc::clone(&sink) as _);
    let quota = Stage::new("quota", SETTINGS, handler, next, None, Arc::clone(&cores), Arc::clone(&figures));

    let keeper = Keeper::new(vec![Arc::clone(&quota) as _, sink], Arc::clone(&cores));
    keeper.start()?;
    Inlet::new(quota, cores).push(Instant::now(), false, &mut packets(&BufPool::new(1 << 20)));
    let late = keeper.drain(Instant::now() + Duration::from_secs(10));
    keeper.stop();
    if late.is_empty() { Ok(figures) } else { Err(io::Error::other(format!("stages that were late: {late:?}"))) }
}

/// As many packets for each lane.
fn packets(pool: &BufPool) -> Vec<Entry<Packet<Raw>>> {
    let lanes = (0..LANES).map(LaneId).flat_map(|lane| [lane; PACKETS_A_LANE]);
    let packet = |lane| {
        let item = Packet::raw(pool.copy(&[0; PACKET_BYTES])?, Offload::default());
        Some(Entry { origin: lane, lane, item })
    };
    lanes.filter_map(packet).collect()
}

pub(crate) fn main() -> io::Result<()> {
    let figures = run()?;
    let over_quota = RUNTIME_REASONS.len() + Reason::OverQuota.index();
    assert_eq!(figures.packets_in.get(), 20);
    assert_eq!(figures.packets_out.get(), 8, "four of each lane");
    assert_eq!(figures.drops[over_quota].get(), 12);
    Ok(())
}
