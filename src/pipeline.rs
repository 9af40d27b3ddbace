//! The gateway's pipeline: the diagram, as code. Sinks are made first, so the graph has no cycle.
//!
//! ```text
//! uplink    ws-decode → ip-parse → nat-rewrite → raw-send | tun-write
//! downlink  raw-recv | tun-read → ip-parse → nat-rewrite → ws-encode
//! ```

use std::marker::PhantomData;
use std::sync::{Arc, Weak};

use crate::budget::Part;
use crate::config;
use crate::config::gateway::{HandOver, Stage as StageConfig, StageName, Stages};
use crate::gateway::egress::{Egress, Way};
use crate::gateway::registry::{self, Registry};
use crate::metrics::StageMetrics;
use crate::metrics::decisions::Decisions;
use crate::nat::AddressPlan;
use crate::packet::{Packet, Raw};
use crate::runtime::attend::Attend;
use crate::runtime::cores::Cores;
use crate::runtime::fq_codel::FqCodel;
use crate::runtime::hand_over::Rule;
use crate::runtime::inlet::Inlet;
use crate::runtime::keeper::Keeper;
use crate::runtime::lanes::{LaneId, Limits, Quota};
use crate::runtime::port::Port;
use crate::runtime::queue::{Fifo, Signal};
use crate::runtime::stage::{Kept, Settings, Stage};
use crate::runtime::tuning::Tuning;
use crate::runtime::work::Handler;
use crate::stages::accept::Accept;
use crate::stages::ballast::Ballast;
use crate::stages::cut::Cut;
use crate::stages::outward::Outward;
use crate::stages::raw_send::RawSend;
use crate::stages::tethered::{Steered, Tethered};
use crate::stages::tun_write::TunWrite;
use crate::stages::ws_decode::WsDecode;
use crate::stages::ws_encode::WsEncode;
use crate::stages::{ip_parse, nat_rewrite};
use crate::steer;
use crate::table::Table;
use diagram::{Owner, Place};
use experiment::Experiment;

pub mod diagram;
pub mod experiment;

/// A stage's queue holds at most the memory for buffers divided by this, however much its configuration allows: where one
/// that waits for its peers held all of it, nothing would come in by which it could empty.
const QUEUE_PART_OF_BUFFERS: u64 = 2;

/// Lanes of the downlink's first stage beside those of tethers, for flows of which no tether is known. Enough that a few busy ones
/// seldom share one.
pub const FLOW_LANES: u32 = 64;

/// The lane of a packet from the internet, or of none, in a stage that has a lane for each of `tethers` and [`FLOW_LANES`] behind
/// them, for what is for no tether that is there. It is peeked at and not judged: who sends to one tether has that tether's share,
/// however many flows it pretends, and who sends to ports that nobody has shares those of all that do.
pub fn downlink_lane<T>(plan: &AddressPlan, tethers: &Table<T>, bytes: &[u8]) -> LaneId {
    let tether = steer::tether_for(plan, bytes).map(|tether| LaneId(tether.0));
    let by_flow = || LaneId(tethers.capacity() + steer::flow_hash(bytes) % FLOW_LANES);
    tether.filter(|lane| tethers.is_taken(*lane)).unwrap_or_else(by_flow)
}

/// The running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    /// Starts, drains and stops the stages.
    pub keeper: Keeper,
    /// Signals of links before their welcome.
    pub accept: Inlet<Signal>,
    /// Signals of readable links.
    pub ws_decode: Inlet<Signal>,
    /// Where the source from the internet pushes, by tether.
    pub downlink: Inlet<Packet<Raw>>,
    /// Figures of the source from the internet.
    pub source_metrics: Arc<StageMetrics>,
    /// Figures of every stage, in the order of the data's way.
    pub metrics: Vec<Arc<StageMetrics>>,
}

/// Builds the pipeline and makes it known to the registry.
pub fn gateway(
    registry: &Arc<Registry>,
    plan: &Arc<AddressPlan>,
    egress: &Egress,
    config: &config::Gateway,
    cores: usize,
    experiment: Experiment,
) -> Pipeline {
    let mut build = Build {
        config: &config.stages,
        tuning: config.conditioning.tuning(),
        experiment,
        cores_count: cores,
        cores: Cores::new(cores),
        tethers: registry.tethers.capacity(),
        links: registry.links.capacity(),
        buffers_bytes: registry.pool.budget().room_for(Part::Buffers),
        stages: Vec::new(),
        metrics: Vec::new(),
    };
    let tethered = |table: &Arc<_>| Arc::clone(table);

    // The uplink's last stage takes the downlink's errors to the internet, too. It is kept in its place below.
    let out: Sink<nat_rewrite::Translated> = match &egress.way {
        Way::Raw { sender, .. } => {
            build.sink(&diagram::RAW_SEND, RawSend::new(Arc::clone(sender), registry.pool.clone()))
        }
        Way::Tun(tun) => build.sink(&diagram::TUN_WRITE, TunWrite::new(Arc::clone(tun), registry.pool.clone())),
    };

    // downlink, from its end
    let ws_encode = build.stage(
        &diagram::WS_ENCODE,
        WsEncode::<_, FqCodel<Packet<nat_rewrite::Translated>>> {
            tethers: Arc::clone(&registry.tether_links),
            pool: registry.pool.clone(),
            keeper: Arc::clone(registry),
            queue: PhantomData,
        },
        Ends::default(),
    );
    let cut = Cut::new(
        Arc::clone(&ws_encode) as _,
        Arc::clone(&registry.tether_links),
        registry.pool.clone(),
        Arc::clone(ws_encode.metrics()),
    );
    let nat_in = build.stage(
        &diagram::NAT_IN,
        Tethered {
            tethers: tethered(&registry.tethers),
            plan: Arc::clone(plan),
            state: |tether| &tether.nat,
            function: nat_rewrite::incoming,
            ballast: experiment.ballast,
        },
        Ends { next: Some(Arc::new(cut)), turn: Some(Arc::new(Outward::new(Arc::clone(&out.port)))) },
    );
    let parse_in = build.stage(
        &diagram::PARSE_IN,
        Steered { plan: Arc::clone(plan), function: ip_parse::incoming, reasons: PhantomData },
        Ends { next: Some(Arc::clone(&nat_in) as _), turn: Some(Arc::clone(&nat_in) as _) },
    );
    let source_metrics = build.source(egress);

    // uplink, from its end
    build.keep(out.kept, out.metrics);
    let turn: Arc<dyn Port<_>> = nat_in.clone();
    let nat_out = build.stage(
        &diagram::NAT_OUT,
        Tethered {
            tethers: tethered(&registry.tethers),
            plan: Arc::clone(plan),
            state: |tether| &tether.nat,
            function: nat_rewrite::outgoing,
            ballast: experiment.ballast,
        },
        Ends { next: Some(out.port), turn: Some(Arc::clone(&turn)) },
    );
    let parse_out = build.stage(
        &diagram::PARSE_OUT,
        Tethered {
            tethers: tethered(&registry.tethers),
            plan: Arc::clone(plan),
            state: |tether| &tether.guard,
            function: ip_parse::outgoing,
            ballast: Ballast::NONE,
        },
        Ends { next: Some(Arc::clone(&nat_out) as _), turn: Some(turn) },
    );
    let ws_decode = build.stage(
        &diagram::WS_DECODE,
        WsDecode {
            links: Arc::clone(&registry.links),
            pool: registry.pool.clone(),
            message_bytes_max: registry.terms.message_bytes_max,
            keeper: Arc::clone(registry),
        },
        Ends { next: Some(Arc::clone(&parse_out) as _), turn: None },
    );
    let accept = build.stage(
        &diagram::ACCEPT,
        Accept {
            pending: Arc::clone(&registry.pending),
            pool: registry.pool.clone(),
            path: registry.terms.path.clone(),
            door: Arc::clone(registry),
        },
        Ends::default(),
    );

    registry.attend(registry::Stages {
        accept: attended(&accept),
        ws_decode: attended(&ws_decode),
        ws_encode: attended(&ws_encode),
        tethered: vec![attended(&parse_out), attended(&nat_out), Arc::downgrade(&out.attend), attended(&nat_in)],
    });
    let inlet_cores = Arc::clone(&build.cores);
    let (keeper, metrics) = build.finish(Arc::clone(&registry.metrics.decisions));
    Pipeline {
        keeper,
        accept: Inlet::new(accept, Arc::clone(&inlet_cores)),
        ws_decode: Inlet::new(ws_decode, Arc::clone(&inlet_cores)),
        downlink: Inlet::new(parse_in, inlet_cores),
        source_metrics,
        metrics,
    }
}

fn attended<H: Handler>(stage: &Arc<Stage<H>>) -> Weak<dyn Attend> {
    let stage: Weak<Stage<H>> = Arc::downgrade(stage);
    stage
}

/// What follows a stage.
struct Ends<Out, Turned> {
    next: Option<Arc<dyn Port<Out>>>,
    turn: Option<Arc<dyn Port<Turned>>>,
}

impl<Out, Turned> Default for Ends<Out, Turned> {
    fn default() -> Self {
        Self { next: None, turn: None }
    }
}

/// The uplink's last stage, whichever it is.
struct Sink<Proof> {
    port: Arc<dyn Port<Packet<Proof>>>,
    attend: Arc<dyn Attend>,
    kept: Arc<dyn Kept>,
    metrics: Arc<StageMetrics>,
}

struct Build<'a> {
    config: &'a Stages,
    tuning: Tuning,
    experiment: Experiment,
    cores_count: usize,
    cores: Arc<Cores>,
    tethers: u32,
    links: u32,
    /// Memory that packets may hold.
    buffers_bytes: u64,
    /// In the order they are built: each direction from its end.
    stages: Vec<Arc<dyn Kept>>,
    metrics: Vec<Arc<StageMetrics>>,
}

impl Build<'_> {
    fn stage<H: Handler>(&mut self, place: &Place, handler: H, ends: Ends<H::Out, H::Turned>) -> Arc<Stage<H>> {
        let stage = self.make(place, handler, ends);
        self.keep(Arc::clone(&stage) as _, Arc::clone(stage.metrics()));
        stage
    }

    /// The next one of those that are kept, from each direction's end.
    fn keep(&mut self, stage: Arc<dyn Kept>, metrics: Arc<StageMetrics>) {
        self.stages.push(stage);
        self.metrics.push(metrics);
    }

    fn make<H: Handler>(&self, place: &Place, handler: H, ends: Ends<H::Out, H::Turned>) -> Arc<Stage<H>> {
        // The diagram tells the truth, or nothing is built.
        debug_assert_eq!((ends.next.is_some(), ends.turn.is_some()), (place.goes_on, place.turns), "{}", place.name);
        let metrics = StageMetrics::new(place.name.word(), place.direction, &place.all_reasons());
        let (settings, cores) = (self.settings(place), Arc::clone(&self.cores));
        Stage::new(place.name.word(), settings, handler, ends.next, ends.turn, cores, metrics)
    }

    fn sink<H, Proof>(&self, place: &Place, handler: H) -> Sink<Proof>
    where
        H: Handler<Queue = Fifo<Packet<Proof>>>,
        Proof: Send + 'static,
    {
        let stage = self.make(place, handler, Ends::default());
        let metrics = Arc::clone(stage.metrics());
        Sink { port: Arc::clone(&stage) as _, attend: Arc::clone(&stage) as _, kept: stage, metrics }
    }

    fn source(&mut self, egress: &Egress) -> Arc<StageMetrics> {
        let place = match &egress.way {
            Way::Raw { .. } => diagram::RAW_RECV,
            Way::Tun(_) => diagram::TUN_READ,
        };
        let metrics = StageMetrics::new(place.name, diagram::DOWNLINK, &(place.reasons)());
        self.metrics.push(Arc::clone(&metrics));
        metrics
    }

    /// The stages and their figures in the order of the data's way: the uplink, then the downlink.
    fn finish(mut self, decisions: Arc<Decisions>) -> (Keeper, Vec<Arc<StageMetrics>>) {
        self.stages.reverse();
        self.metrics.reverse();
        let keeper = Keeper::new(self.stages, self.cores).looking_every(self.tuning.look_every).noting_in(decisions);
        (keeper, self.metrics)
    }

    fn settings(&self, place: &Place) -> Settings {
        let config: &StageConfig = self.config.get(place.name);
        let threads = config.threads(self.cores_count);
        Settings {
            lanes: match place.lanes {
                Owner::Link => self.links,
                Owner::Tether => self.tethers,
                Owner::Steered => self.tethers + FLOW_LANES,
            },
            // Whatever waits for links that nobody reads, others find a buffer.
            limits: Limits {
                segments: config.queue_packets as u64,
                held_bytes: config.queue_bytes.0.min(self.buffers_bytes / QUEUE_PART_OF_BUFFERS),
            },
            quota: Quota { segments: config.batch as u32, lane_bytes: crate::link::BATCH_BYTES_MAX },
            threads: (*threads.start(), *threads.end()),
            hand_over: match (self.experiment.hand_over, config.hand_over) {
                (Some(live), _) => Rule::Live(live),
                (None, HandOver::Auto) => Rule::Auto,
                (None, HandOver::Always) => Rule::Always,
                (None, HandOver::Never) => Rule::Never,
            },
            when_full: place.when_full,
            // Its lanes wait for their links, which is what its own queue manages.
            sojourn_max: (place.name != StageName::WsEncode).then_some(config.sojourn_max),
            // A message costs as much as some packets. What gathers there does so in place of a wait in queues before it.
            gathers: place.name == StageName::WsEncode && !self.tuning.gathering.wait_max.is_zero(),
            tuning: self.tuning,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::nat::Translation;
    use crate::packet_builder::udp;

    fn settings(text: &str, place: &Place) -> (config::Gateway, Settings) {
        let config = config::parse::<config::Gateway>(text, &[]).expect("a configuration");
        let build = Build {
            config: &config.stages,
            tuning: config.conditioning.tuning(),
            experiment: Experiment::default(),
            cores_count: 1,
            cores: Cores::new(1),
            tethers: 1,
            links: 1,
            buffers_bytes: 1 << 30,
            stages: Vec::new(),
            metrics: Vec::new(),
        };
        let settings = build.settings(place);
        (config, settings)
    }

    #[test]
    fn what_the_configuration_says_of_the_mechanisms_reaches_every_stage() {
        let text = "conditioning.hand_over.worth = \"20us\"\nconditioning.codel.target = \"30ms\"";
        for place in [diagram::PARSE_IN, diagram::WS_ENCODE] {
            let (config, settings) = settings(text, &place);
            assert_eq!(settings.tuning, config.conditioning.tuning());
            assert_ne!(settings.tuning, Tuning::DEFAULT);
        }
    }

    #[test]
    fn what_comes_for_a_tether_has_its_lane_whatever_flow_it_is_of_and_what_is_for_none_has_its_flows() {
        let addresses = vec![Ipv4Addr::new(198, 51, 100, 1).into()];
        let translation = Translation::Gateway { addresses, ports: 10_000..=10_999, block_ports: 100 };
        let plan = AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan");
        let tethers = Table::new(5);
        let mut lanes = std::iter::repeat_with(|| tethers.reserve().expect("free"));
        lanes.by_ref().take(3).for_each(|lane| tethers.put(lane, Arc::new(())));
        let lane = |from: &str, to: &str| downlink_lane(&plan, &tethers, &udp(from, to, b"x").bytes()).0;
        let flows = [("192.0.2.80:443", 10_100), ("192.0.2.80:444", 10_100), ("192.0.2.81:443", 10_199)];
        assert_eq!(flows.map(|(from, port)| lane(from, &format!("198.51.100.1:{port}"))), [1; 3]);
        // Of a tether that is not there, beyond the lanes for tethers, and outside of the ports for them.
        for port in [10_300, 10_500, 9_999] {
            let lanes: Vec<u32> =
                (1..=9).map(|host| lane(&format!("192.0.2.{host}:443"), &format!("198.51.100.1:{port}"))).collect();
            assert!(lanes.iter().all(|lane| (5..5 + FLOW_LANES).contains(lane)), "{lanes:?}");
            assert!(lanes.iter().any(|lane| *lane != lanes[0]), "spread over them: {lanes:?}");
        }
    }

    #[test]
    fn ws_encode_alone_gathers_unless_no_wait_is_configured() {
        let gathers = |text, place| settings(text, &place).1.gathers;
        assert!(gathers("", diagram::WS_ENCODE) && !gathers("", diagram::PARSE_IN));
        assert!(!gathers("conditioning.gathering.wait_max = \"0ms\"", diagram::WS_ENCODE));
    }
}
