//! The gateway's stages over real links, with a counting sink where the internet would be: what a packet costs the
//! gateway alone.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use wstether::link::{Link, LinkError};
use wstether::metrics::{StageMetrics, labels};
use wstether::nat::{AddressPlan, Translation};
use wstether::offload::{Merger, SuperPackets, cut_others, segment};
use wstether::packet::{BufPool, Packet, Raw};
use wstether::pipeline::{FLOW_LANES, downlink_lane};
use wstether::policy::Prefix;
use wstether::runtime::cores::Cores;
use wstether::runtime::fq_codel::FqCodel;
use wstether::runtime::hand_over::Rule;
use wstether::runtime::inlet::Inlet;
use wstether::runtime::keeper::Keeper;
use wstether::runtime::lanes::{Entry, LaneId, Limits, Quota};
use wstether::runtime::port::Port;
use wstether::runtime::queue::{Fifo, Signal};
use wstether::runtime::stage::{Kept, Settings, Stage, WhenFull};
use wstether::runtime::tuning::Tuning;
use wstether::runtime::work::{Handler, RUNTIME_REASONS, WorkOf};
use wstether::stages::ballast::Ballast;
use wstether::stages::cut::Cut;
use wstether::stages::ip_parse::{self, Parsed};
use wstether::stages::nat_rewrite::{self, Translated};
use wstether::stages::tethered::{Steered, Tethered};
use wstether::stages::ws_decode::{self, LinkKeeper, WsDecode};
use wstether::stages::ws_encode::{self, WsEncode};
use wstether::table::Table;
use wstether::tether::Tether;
use wstether::wire::capsule::CloseReason;

// This file is itself found by its path: without theirs, its rooms would be looked for beside it.
#[path = "gateway_path/client.rs"]
mod client;
#[path = "gateway_path/shape.rs"]
mod shape;

use client::Client;
pub(crate) use shape::Shape;

/// Bytes of a message that the simulated client sends, as a client fills them.
const MESSAGE_BYTES: usize = 65_536;
const MESSAGE_BYTES_MAX: usize = 262_144;
const POOL_BYTES: u64 = 256 << 20;
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A server on the internet.
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const SERVER_PORT: u16 = 443;
const UPLINK: &str = "uplink";
const DOWNLINK: &str = "downlink";
/// How long anything may take before the test says that it does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps the links of the path: pokes ws-encode where there is something to say.
#[derive(Default)]
struct Keeps {
    poke: OnceLock<Box<dyn Fn(LaneId) + Send + Sync>>,
}

impl LinkKeeper for Keeps {
    fn has_control(&self, tether: LaneId) {
        if let Some(poke) = self.poke.get() {
            poke(tether);
        }
    }

    fn ack_later(&self, _link: &Arc<Link>) {}

    fn wake_for_acks(&self) {}

    fn close(&self, _link: &Arc<Link>, code: u16, reason: &str) {
        panic!("a link was closed: {code} {reason}");
    }

    fn closed(&self, _link: &Arc<Link>, reason: Option<CloseReason>) {
        panic!("a link was closed: {reason:?}");
    }

    fn ended(&self, _link: &Arc<Link>, error: &LinkError) {
        panic!("a link ended: {error}");
    }
}

/// What lies at both ends of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// The clients' links are so slow that super-packets above this are cut for them; `u64::MAX` where they are fast.
    pub(crate) cut_bytes: u64,
    /// Which super-packets the way to the internet takes.
    pub(crate) taken: SuperPackets,
    /// The internet's end has single packets: what comes in a row is joined there, both ways, as the packet sockets do it.
    pub(crate) joins: bool,
}

impl Ends {
    /// Nothing is cut, and nothing is joined.
    pub(crate) const WHOLE: Self = Self { cut_bytes: u64::MAX, taken: SuperPackets::ALL, joins: false };
}

/// What a batch is joined and cut in, kept between batches.
#[derive(Default)]
struct Space {
    packets: Vec<Packet<Translated>>,
    whole: Vec<Packet<Translated>>,
    merger: Merger,
}

/// Where the internet would be: joins and cuts as raw-send does, counts, and notes the external ports while it is asked to.
struct Internet {
    ends: Ends,
    pool: BufPool,
    ports: Arc<Mutex<Option<Vec<u16>>>>,
    space: Mutex<Space>,
}

impl Handler for Internet {
    type Queue = Fifo<Packet<Translated>>;
    type Out = Packet<Translated>;
    type Turned = Packet<Parsed>;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        let (mut ports, mut space) = (self.ports.lock().expect("no panic"), self.space.lock().expect("no panic"));
        let Space { packets, whole, merger } = &mut *space;
        packets.extend(work.batch.items.drain(..).map(|entry| entry.item));
        if let Some(ports) = &mut *ports {
            ports.extend(packets.iter().map(|packet| u16::from_be_bytes([packet.bytes()[20], packet.bytes()[21]])));
        }
        if self.ends.joins {
            merger.merge(packets, self.ends.taken, &self.pool);
        }
        let lost = cut_others(packets, whole, self.ends.taken, &self.pool);
        assert_eq!(lost, 0, "there is room for each segment");
        packets.drain(..).for_each(|packet| work.tally.sent.add(&packet));
    }
}

/// The path: both directions, and the clients at its inner end.
pub(crate) struct GatewayPath {
    clients: Vec<Client>,
    uplink: Inlet<Signal>,
    downlink: Inlet<Packet<Raw>>,
    sent_up: Arc<StageMetrics>,
    sent_down: Arc<StageMetrics>,
    all: Vec<Arc<StageMetrics>>,
    keeper: Keeper,
    window_opened: Box<dyn Fn(LaneId)>,
    plan: Arc<AddressPlan>,
    tethers: Arc<Table<Tether>>,
    pool: BufPool,
    ports: Arc<Mutex<Option<Vec<u16>>>>,
    signals: Vec<Entry<Signal>>,
    entries: Vec<Entry<Packet<Raw>>>,
    ends: Ends,
    came: Vec<Packet<Raw>>,
    merger: Merger,
    expected: (u64, u64),
    heard_bytes: u64,
    scratch: Vec<u8>,
}

struct Build {
    rule: Rule,
    cores: Arc<Cores>,
    kept: Vec<Arc<dyn Kept>>,
    metrics: Vec<Arc<StageMetrics>>,
}

impl Build {
    fn stage<H: Handler>(
        &mut self,
        (name, direction): (&'static str, &'static str),
        (reasons, lanes): (Vec<&'static str>, u32),
        handler: H,
        next: Option<Arc<dyn Port<H::Out>>>,
        turn: Option<Arc<dyn Port<H::Turned>>>,
    ) -> Arc<Stage<H>> {
        let metrics = StageMetrics::new(name, direction, &[&RUNTIME_REASONS, &reasons[..]].concat());
        let settings = Settings {
            lanes,
            limits: Limits { segments: 16_384, held_bytes: POOL_BYTES },
            quota: Quota { segments: 256, lane_bytes: MESSAGE_BYTES as u64 },
            threads: (1, 1),
            hand_over: self.rule,
            // The lanes are kept full on purpose.
            sojourn_max: None,
            gathers: false,
            tuning: Tuning::DEFAULT,
            when_full: if direction == UPLINK { WhenFull::Park } else { WhenFull::Drop },
        };
        let stage = Stage::new(name, settings, handler, next, turn, Arc::clone(&self.cores), Arc::clone(&metrics));
        self.kept.push(Arc::clone(&stage) as _);
        self.metrics.push(metrics);
        stage
    }
}

impl GatewayPath {
    /// A path with `clients` clients of `flows` flows each, whose stages hand over by `rule`. Each client's mappings are
    /// made by its first message.
    pub(crate) fn new(clients: u32, flows: u16, shape: Shape, ends: Ends, rule: Rule) -> Self {
        let pool = BufPool::new(POOL_BYTES);
        let plan = Arc::new(plan());
        let (links, tethers, tether_links) =
            (Arc::new(Table::new(clients)), Arc::new(Table::new(clients)), Arc::new(Table::new(clients)));
        let mut build = Build { rule, cores: Cores::new(2), kept: Vec::new(), metrics: Vec::new() };
        let keeps = Arc::new(Keeps::default());

        let ws_encode = WsEncode::<_, FqCodel<Packet<Translated>>> {
            tethers: Arc::clone(&tether_links),
            pool: pool.clone(),
            keeper: Arc::clone(&keeps),
            queue: std::marker::PhantomData,
        };
        let ws_encode =
            build.stage(("ws-encode", DOWNLINK), (labels::<ws_encode::Reason>(), clients), ws_encode, None, None);
        let cut = Cut::new(
            Arc::clone(&ws_encode) as _,
            Arc::clone(&tether_links),
            pool.clone(),
            Arc::clone(ws_encode.metrics()),
        );
        let tethered = Tethered {
            tethers: Arc::clone(&tethers),
            plan: Arc::clone(&plan),
            state: |tether: &Tether| &tether.nat,
            function: nat_rewrite::incoming,
            ballast: Ballast::NONE,
        };
        let nat_in = build.stage(
            ("nat-rewrite", DOWNLINK),
            (labels::<nat_rewrite::Reason>(), clients),
            tethered,
            Some(Arc::new(cut)),
            None,
        );
        let steered =
            Steered { plan: Arc::clone(&plan), function: ip_parse::incoming, reasons: std::marker::PhantomData };
        let parse_in = build.stage(
            ("ip-parse", DOWNLINK),
            (labels::<ip_parse::Reason>(), clients + FLOW_LANES),
            steered,
            Some(Arc::clone(&nat_in) as _),
            Some(Arc::clone(&nat_in) as _),
        );
        let ports = Arc::default();
        let internet = Internet { ends, pool: pool.clone(), ports: Arc::clone(&ports), space: Mutex::default() };
        let out = build.stage(("raw-send", UPLINK), (vec![], clients), internet, None, None);
        let tethered = Tethered {
            tethers: Arc::clone(&tethers),
            plan: Arc::clone(&plan),
            state: |tether: &Tether| &tether.nat,
            function: nat_rewrite::outgoing,
            ballast: Ballast::NONE,
        };
        let turn: Arc<dyn Port<_>> = nat_in;
        let nat_out = build.stage(
            ("nat-rewrite", UPLINK),
            (labels::<nat_rewrite::Reason>(), clients),
            tethered,
            Some(out as _),
            Some(Arc::clone(&turn)),
        );
        let tethered = Tethered {
            tethers: Arc::clone(&tethers),
            plan: Arc::clone(&plan),
            state: |tether: &Tether| &tether.guard,
            function: ip_parse::outgoing,
            ballast: Ballast::NONE,
        };
        let parse_out = build.stage(
            ("ip-parse", UPLINK),
            (labels::<ip_parse::Reason>(), clients),
            tethered,
            Some(nat_out as _),
            Some(turn),
        );
        let ws_decode = WsDecode {
            links: Arc::clone(&links),
            pool: pool.clone(),
            message_bytes_max: MESSAGE_BYTES_MAX,
            keeper: Arc::clone(&keeps),
        };
        let ws_decode = build.stage(
            ("ws-decode", UPLINK),
            (labels::<ws_decode::Reason>(), clients),
            ws_decode,
            Some(parse_out as _),
            None,
        );

        // Without it all runs on the caller's thread: an acknowledgement then rides on the next message.
        let attended = Arc::downgrade(&ws_encode);
        let weak = if matches!(rule, Rule::Always) { Weak::new() } else { Weak::clone(&attended) };
        let poke = move |lane| {
            if let Some(stage) = weak.upgrade() {
                stage.poke(lane)
            }
        };
        let window_opened = move |lane| {
            if let Some(stage) = attended.upgrade() {
                stage.poke(lane)
            }
        };
        assert!(keeps.poke.set(Box::new(poke)).is_ok());
        let cores = Arc::clone(&build.cores);
        let metrics = |name: &str| {
            let mut found = build.metrics.iter().filter(|metrics| metrics.name == name);
            Arc::clone(found.next().expect("a stage of that name"))
        };
        let (sent_up, sent_down) = (metrics("raw-send"), metrics("ws-encode"));
        build.kept.reverse();
        let keeper = Keeper::new(build.kept, Arc::clone(&cores));
        keeper.start().expect("threads");
        let clients = (0..clients)
            .map(|id| Client::new(id, flows, (shape, ends), &plan, &pool, (&links, &tethers, &tether_links)))
            .collect();
        let mut path = Self {
            clients,
            uplink: Inlet::new(ws_decode, Arc::clone(&cores)),
            downlink: Inlet::new(parse_in, cores),
            sent_up,
            sent_down,
            all: build.metrics,
            keeper,
            window_opened: Box::new(window_opened),
            plan,
            tethers,
            pool,
            ports,
            signals: Vec::new(),
            entries: Vec::new(),
            ends,
            came: Vec::new(),
            merger: Merger::default(),
            expected: (0, 0),
            heard_bytes: 0,
            scratch: vec![0; 1 << 20],
        };
        path.make_mappings(flows);
        path
    }

    fn make_mappings(&mut self, flows: u16) {
        for client in 0..self.clients.len() {
            *self.ports.lock().expect("no panic") = Some(Vec::new());
            self.clients[client].write(|client| &client.opening);
            self.expected.0 += u64::from(flows);
            self.drive_up(client);
            let ports = self.ports.lock().expect("no panic").take().expect("put there");
            let client = &mut self.clients[client];
            let ports = ports.into_iter();
            client.incoming = ports.map(|port| client.shape.packet((SERVER, SERVER_PORT), (EXTERNAL, port))).collect();
        }
    }

    /// How many clients there are.
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The client writes one message into its socket; tells how many segments it holds.
    pub(crate) fn send_up(&mut self, client: usize) -> u64 {
        self.clients[client].write(|client| &client.frame);
        let segments = self.clients[client].message_segments;
        self.expected.0 += segments;
        segments
    }

    /// The gateway reads what the client has written, up to the sink.
    pub(crate) fn drive_up(&mut self, client: usize) {
        let lane = self.clients[client].link;
        let end = Instant::now() + PATIENCE;
        loop {
            let now = Instant::now();
            self.signals.push(Entry { origin: lane, lane, item: Signal { since: now } });
            self.uplink.push(now, false, &mut self.signals);
            if self.sent_up.packets_out.get() >= self.expected.0 {
                return;
            }
            assert!(now < end, "packets are missing: {}", self.missing());
        }
    }

    /// A batch of `packets` packets for the client comes from the internet.
    pub(crate) fn prepare_down(&mut self, client: usize, packets: usize) -> u64 {
        let Client { incoming, shape, .. } = &self.clients[client];
        for bytes in incoming.iter().cycle().take(packets) {
            let packet = Packet::raw(self.pool.copy(bytes).expect("room"), shape.offload());
            match self.ends.joins {
                true => segment(packet, &self.pool, &mut |single| self.came.push(single)).expect("room"),
                false => self.came.push(packet),
            }
        }
        if self.ends.joins {
            self.merger.merge(&mut self.came, SuperPackets::TCP, &self.pool);
        }
        for packet in self.came.drain(..) {
            let lane = downlink_lane(&self.plan, &self.tethers, packet.bytes());
            self.entries.push(Entry { origin: lane, lane, item: packet });
        }
        let segments = packets as u64 * shape.segments();
        self.expected.1 += segments;
        segments
    }

    /// The gateway handles what was prepared, up to the client's socket.
    pub(crate) fn drive_down(&mut self, client: usize) {
        self.downlink.push(Instant::now(), false, &mut self.entries);
        let end = Instant::now() + PATIENCE;
        while self.sent_down.packets_out.get() < self.expected.1 {
            assert!(Instant::now() < end, "packets are missing: {}", self.missing());
            self.hear(client);
            (0..self.clients.len()).for_each(|client| self.acknowledge(client));
        }
    }

    fn acknowledge(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.acked_bytes += client.gateway_end.in_flight_bytes();
        assert!(client.gateway_end.acked(Instant::now(), client.acked_bytes));
        if client.gateway_end.owner().is_some_and(|owner| owner.window_opened()) {
            (self.window_opened)(client.link);
        }
    }

    /// The client reads what is there, and tells how much that was since the start.
    pub(crate) fn hear(&mut self, client: usize) -> u64 {
        let stream = &mut self.clients[client].stream;
        loop {
            match stream.read(&mut self.scratch) {
                Ok(0) => panic!("the link ended"),
                Ok(count) => self.heard_bytes += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.heard_bytes,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What came in, went out and was dropped by what reason, of each stage.
    fn missing(&self) -> String {
        let stages = self.all.iter().map(|stage| {
            let drops: Vec<_> = stage.reasons.iter().zip(&stage.drops).filter(|(_, drops)| drops.get() > 0).collect();
            format!(
                "{}: {} in, {} out, {} waiting, {drops:?}\n",
                stage.name,
                stage.packets_in.get(),
                stage.packets_out.get(),
                stage.queue_packets.get()
            )
        });
        let links = self.clients.iter().map(|client| {
            let link = &client.gateway_end;
            let (blocked, sendable, window) = (link.is_blocked(), link.sendable_bytes(), link.window_bytes());
            format!(
                "link: blocked {blocked}, may send {sendable}, window {window}, {} on the way\n",
                link.in_flight_bytes()
            )
        });
        stages.chain(links).collect()
    }

    /// Segments at the sink, and at the clients.
    #[allow(dead_code, reason = "the benches have counters of their own")]
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.sent_up.packets_out.get(), self.sent_down.packets_out.get())
    }

    /// Segments that any stage dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.all.iter().map(|metrics| metrics.dropped()).sum()
    }
}

impl Drop for GatewayPath {
    fn drop(&mut self) {
        self.keeper.stop();
    }
}

fn plan() -> AddressPlan {
    let pool = Prefix::new(IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 16).expect("a prefix");
    let addresses = vec![IpAddr::V4(EXTERNAL)];
    AddressPlan::new(pool, Translation::Gateway { addresses, ports: 1_024..=65_535, block_ports: 512 }).expect("a plan")
}
