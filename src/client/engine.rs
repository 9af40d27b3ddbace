//! The client's pipeline, by the same runtime as the gateway's:
//!
//! ```text
//! uplink:   tun-read  → ws-encode
//! downlink: ws-decode → tun-write
//! ```

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use mio::Poll;
use tracing::warn;

use super::Event;
use super::links::{Links, Stages, TETHER};
use crate::config;
use crate::io::tun::Tun;
use crate::link::{BATCH_BYTES_MAX, Link};
use crate::metrics::decisions::Decisions;
use crate::metrics::{StageMetrics, labels};
use crate::packet::{BufPool, Packet, Raw};
use crate::runtime::attend::Attend;
use crate::runtime::cores::Cores;
use crate::runtime::fq_codel::FqCodel;
use crate::runtime::hand_over::Rule;
use crate::runtime::inlet::Inlet;
use crate::runtime::keeper::Keeper;
use crate::runtime::lanes::{Limits, Quota};
use crate::runtime::queue::Signal;
use crate::runtime::stage::{self, Kept as _, Stage, WhenFull};
use crate::runtime::tuning::Tuning;
use crate::runtime::work::RUNTIME_REASONS;
use crate::stages::cut::Cut;
use crate::stages::source::SourceStop;
use crate::stages::tun_read::{self, TunRead};
use crate::stages::tun_write::{self, Destination, TunWrite};
use crate::stages::ws_decode::{self, WsDecode};
use crate::stages::ws_encode::{self, WsEncode};
use crate::table::Table;
use crate::window;

/// Threads a stage. There is one tether, hence one lane: a second thread would find nothing to do.
const THREADS: (usize, usize) = (1, 1);

const TUN_READ: &str = "tun-read";
const WS_ENCODE: &str = "ws-encode";
const WS_DECODE: &str = "ws-decode";
const TUN_WRITE: &str = "tun-write";

/// Why there is no pipeline.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the pipeline: {0}")]
pub struct EngineError(#[from] io::Error);

/// The figures of the stages. They outlive a pipeline.
#[derive(Clone, Debug)]
pub struct StageFigures {
    tun_read: Arc<StageMetrics>,
    ws_encode: Arc<StageMetrics>,
    ws_decode: Arc<StageMetrics>,
    tun_write: Arc<StageMetrics>,
}

impl Default for StageFigures {
    fn default() -> Self {
        let stage = |name, direction, reasons: &[&'static str]| {
            StageMetrics::new(name, direction, &[&RUNTIME_REASONS, reasons].concat())
        };
        Self {
            tun_read: StageMetrics::new(TUN_READ, "uplink", &labels::<tun_read::Reason>()),
            ws_encode: stage(WS_ENCODE, "uplink", &labels::<ws_encode::Reason>()),
            ws_decode: stage(WS_DECODE, "downlink", &labels::<ws_decode::Reason>()),
            tun_write: stage(TUN_WRITE, "downlink", &labels::<tun_write::Reason>()),
        }
    }
}

impl StageFigures {
    /// All of them, in the order of the data's way.
    pub fn all(&self) -> Vec<Arc<StageMetrics>> {
        [&self.tun_read, &self.ws_encode, &self.ws_decode, &self.tun_write].map(Arc::clone).to_vec()
    }
}

/// How much a pipeline may hold, and what its mechanisms go by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Memory for packets. By default a laptop's share: some hundredths of a second at 10 Gbit/s, and far above what its
    /// queues hold.
    pool_bytes: u64,
    /// The most that waits in one stage. By default as many segments as RFC 8290 (5.2.1) gives FQ-CoDel. That keeps the wait
    /// short by itself; a shorter queue (1,024 segments are 1.5 ms at 8 Gbit/s) takes from TCP the rate that it has not
    /// reached yet.
    limits: Limits,
    /// Segments in a batch: at some hundreds the cost of a hand-over vanishes beside that of the packets.
    batch_segments: u32,
    tuning: Tuning,
    window: window::Settings,
}

impl Settings {
    /// What a client's configuration says.
    pub fn new(config: &config::Client) -> Self {
        let config::client::Queues { packets, bytes, batch } = config.queues;
        Self {
            pool_bytes: config.memory.budget.0,
            limits: Limits { segments: packets.into(), held_bytes: bytes.0 },
            batch_segments: batch,
            tuning: config.conditioning.tuning(),
            window: config.conditioning.window.settings(),
        }
    }

    fn of_stage(&self, lanes: u32, when_full: WhenFull) -> stage::Settings {
        stage::Settings {
            lanes,
            limits: self.limits,
            quota: Quota { segments: self.batch_segments, lane_bytes: BATCH_BYTES_MAX },
            threads: THREADS,
            hand_over: Rule::Auto,
            when_full,
            // Its one tether waits for its own link; there is nobody to be fair to.
            sojourn_max: None,
            gathers: false,
            tuning: self.tuning,
        }
    }
}

/// What a pipeline is given.
#[derive(Debug)]
pub struct Surroundings {
    /// How much it may hold, and what its mechanisms go by.
    pub settings: Settings,
    /// Links at their lanes, those in their handshake included.
    pub table: Arc<Table<Link>>,
    /// Where it counts.
    pub figures: StageFigures,
    /// Where it notes what its controllers decide.
    pub decisions: Arc<Decisions>,
    /// Who hears when the last link has gone, or the device.
    pub events: Sender<Event>,
}

/// The running pipeline.
#[derive(Debug)]
pub struct Engine {
    /// Who serves it.
    pub links: Arc<Links>,
    destination: Arc<Destination>,
    keeper: Keeper,
    source: Arc<SourceStop>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Builds and starts the pipeline between `tun` and links that are to come. Messages are at most
    /// `message_bytes_max`, packets from the gateway are for `lease` alone.
    ///
    /// # Errors
    /// No descriptors or threads left.
    pub fn start(
        tun: Tun,
        surroundings: Surroundings,
        lease: Ipv4Addr,
        message_bytes_max: usize,
    ) -> Result<Self, EngineError> {
        let Surroundings { settings, table, figures, decisions, events } = surroundings;
        let (tun, pool) = (Arc::new(tun), BufPool::new(settings.pool_bytes));
        let cores = Cores::new(std::thread::available_parallelism().map_or(1, usize::from));
        let (links, poll) = Links::new(table, pool.clone(), settings.window, Arc::clone(&decisions), events.clone())?;
        let destination = Arc::new(Destination::new(lease));

        // Sinks first: each stage is given the one that it hands on to.
        let ws_encode = WsEncode {
            tethers: Arc::clone(&links.tethers),
            pool: pool.clone(),
            keeper: Arc::clone(&links),
            queue: std::marker::PhantomData::<fn() -> FqCodel<Packet<Raw>>>,
        };
        let of_stage = settings.of_stage(1, WhenFull::Drop);
        let ws_encode = Stage::new(WS_ENCODE, of_stage, ws_encode, None, None, Arc::clone(&cores), figures.ws_encode);

        let tun_write = TunWrite::<Raw>::new(Arc::clone(&tun), pool.clone()).only_to(Arc::clone(&destination));
        let of_stage = settings.of_stage(1, WhenFull::Park);
        let tun_write = Stage::new(TUN_WRITE, of_stage, tun_write, None, None, Arc::clone(&cores), figures.tun_write);

        let ws_decode = WsDecode {
            links: Arc::clone(&links.table),
            pool: pool.clone(),
            message_bytes_max,
            keeper: Arc::clone(&links),
        };
        let of_stage = settings.of_stage(links.table.capacity(), WhenFull::Park);
        let next = Arc::clone(&tun_write);
        let ws_decode =
            Stage::new(WS_DECODE, of_stage, ws_decode, Some(next), None, Arc::clone(&cores), figures.ws_decode);

        let source = TunRead::new(tun, pool.clone(), figures.tun_read)?.noting_in(Arc::clone(&decisions));

        let attended: [Arc<dyn Attend>; 2] = [Arc::clone(&ws_decode) as _, Arc::clone(&ws_encode) as _];
        let [ws_decode_seen, ws_encode_seen] = attended.each_ref().map(Arc::downgrade);
        links.attend(Stages { ws_decode: ws_decode_seen, ws_encode: ws_encode_seen });
        let keeper = Keeper::new(
            vec![Arc::clone(&ws_encode) as _, Arc::clone(&ws_decode) as _, Arc::clone(&tun_write) as _],
            Arc::clone(&cores),
        );
        let keeper = keeper.noting_in(decisions);
        keeper.start()?;
        let mut engine =
            Self { links: Arc::clone(&links), destination, keeper, source: source.stopper(), threads: Vec::new() };
        engine.watch_links(poll, Inlet::new(ws_decode, Arc::clone(&cores)))?;
        let cut =
            Cut::new(Arc::clone(&ws_encode) as _, Arc::clone(&links.tethers), pool, Arc::clone(ws_encode.metrics()));
        engine.read_device(source, Inlet::new(Arc::new(cut), cores), events)?;
        Ok(engine)
    }

    fn watch_links(&mut self, poll: Poll, inlet: Inlet<Signal>) -> io::Result<()> {
        let links = Arc::clone(&self.links);
        let thread = std::thread::Builder::new().name("links".to_owned()).spawn(move || links.watch(poll, inlet))?;
        self.threads.push(thread);
        Ok(())
    }

    fn read_device(&mut self, source: TunRead, inlet: Inlet<Packet<Raw>>, events: Sender<Event>) -> io::Result<()> {
        let failed = move |error: &io::Error| {
            if Tun::is_gone(error) {
                // Nobody listens any more when the client is at its end.
                drop(events.send(Event::DeviceGone));
            } else {
                warn!(%error, "the TUN device cannot be read");
            }
        };
        let read = move || source.run(inlet, |_| TETHER, failed);
        self.threads.push(std::thread::Builder::new().name(TUN_READ.to_owned()).spawn(read)?);
        Ok(())
    }

    /// From now on packets from the gateway are for `lease` alone.
    pub fn set_lease(&self, lease: Ipv4Addr) {
        self.destination.set(lease);
    }

    /// Ends every thread, and with the last one the device.
    pub fn stop(self) {
        self.source.stop();
        self.links.stop();
        let late = self.keeper.stop();
        if !late.is_empty() {
            warn!(?late, "stages whose threads were late");
        }
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a thread of the pipeline had panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_says_of_the_queues_reaches_every_stage() {
        let text = "[memory]\nbudget = \"32MiB\"\n[queues]\npackets = 1000\nbytes = \"1MiB\"\nbatch = 7\n\
                    [conditioning.codel]\ntarget = \"7ms\"\ninterval = \"70ms\"\n\
                    [conditioning.window]\nqueue = \"5ms\"\nwhole_min = \"9ms\"";
        let config = config::parse::<config::Client>(text, &[]).expect("a configuration");
        let settings = Settings::new(&config);
        let of_stage = settings.of_stage(3, WhenFull::Park);
        assert_eq!((settings.pool_bytes, of_stage.quota.segments), (32 << 20, 7));
        assert_eq!(of_stage.limits, Limits { segments: 1_000, held_bytes: 1 << 20 });
        assert_eq!(of_stage.tuning, config.conditioning.tuning());
        let [interval, queue, whole_min] = [70, 5, 9].map(std::time::Duration::from_millis);
        assert_eq!(of_stage.tuning.codel.interval, interval);
        assert_eq!(settings.window, window::Settings { queue, whole_min });
        let (table, (ended, _)) = (Arc::new(Table::new(1)), std::sync::mpsc::channel());
        let (links, _) = Links::new(table, BufPool::new(0), settings.window, Arc::default(), ended).expect("a poll");
        let window = format!("{:?}", links.tether().window(std::time::Instant::now()));
        assert!(window.contains("queue: 5ms"), "{window}");
    }
}
