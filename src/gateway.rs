//! The gateway: put together, run, and stopped in order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::budget::{Budget, Part, Share};
use crate::config::gateway::{EgressMode, StageName};
use crate::config::values::Bytes;
use crate::config::{self, Misfit};
use crate::credentials::CredentialStore;
use crate::io::packet_socket::RawReceiver;
use crate::link::read_buffer_bytes;
use crate::metrics::{Counter, Egress as EgressInfo, GatewayMetrics, Metrics, labels};
use crate::metrics_server::MetricsServer;
use crate::nat::{self, AddressPlan};
use crate::offload::SuperPackets;
use crate::overload::Overload;
use crate::packet::{BufPool, PACKET_BYTES_MAX, Packet, Raw};
use crate::pipeline::experiment::Experiment;
use crate::pipeline::{self, downlink_lane};
use crate::runtime::inlet::Inlet;
use crate::runtime::keeper::Keeper;
use crate::runtime::lanes::LaneId;
use crate::runtime::queue::place_bytes;
use crate::stages::Reason as _;
use crate::stages::ip_parse::Parsed;
use crate::stages::source::{PacketSource, Source, SourceStop};
use crate::stages::{accept, ip_parse};
use crate::table::PLACE_BYTES;
use crate::tether_id::TetherId;
use crate::transport::TcpOptions;
use crate::wire::HANDSHAKE_MESSAGE_BYTES_MAX;
use crate::wire::capsule::Features;
use crate::wire::token::Token;
use egress::{Egress, EgressError, Surroundings, Way};
use lookout::Lookout;
use overseer::Overseer;
use poller::Poller;
use refusals::Refusals;
use registry::{LEAVING_PATIENCE, Parts, Registry, Terms};

mod census;
pub mod egress;
pub mod ladder;
mod lookout;
mod overseer;
mod poller;
mod refusals;
pub mod registry;
mod resolver;
mod tls;

pub use tls::TlsError;

/// How often the ladder looks at memory and stages.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks after which is tidied up, and the way out looked at: once a second, since all that ends by it has a time of
/// seconds.
const LOOKS_A_TIDYING: u32 = 4;

/// How often it is looked whether the peers of closed links have hung up.
const SEE_OFF_EVERY: Duration = Duration::from_millis(5);

/// What one packet's place in a stage's queue costs beside its buffer. Both directions of ip-parse and nat-rewrite have queues;
/// accept and ws-decode, which are reckoned like them, hold signals alone, and there is one way out of two.
const QUEUE_PLACE_BYTES: usize = place_bytes::<Packet<Parsed>>();

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The way out.
    #[error("{0}")]
    Egress(#[from] EgressError),
    /// Certificate or key.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The memory budget does not hold what is there before anybody comes.
    #[error("memory.budget: {0}")]
    Memory(String),
    /// A socket or a thread.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    registry: Arc<Registry>,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    egress: Egress,
    addresses: Vec<SocketAddr>,
    metrics_server: Option<MetricsServer>,
    source: Option<(Arc<SourceStop>, JoinHandle<()>)>,
    poller: Option<(mio::Waker, JoinHandle<()>)>,
    over: Arc<AtomicBool>,
    housekeepers: Vec<JoinHandle<()>>,
    stop_deadline: Duration,
}

impl Gateway {
    /// Starts a gateway in this thread's network namespace, for who is in `credentials`. When it returns, the gateway
    /// serves.
    ///
    /// # Errors
    /// [`StartError`]; what was set up in the kernel until then is undone.
    pub fn start(config: &config::Gateway, credentials: CredentialStore) -> Result<Self, StartError> {
        Self::start_with(config, credentials, Experiment::default())
    }

    /// The same, with what a bench changes about it.
    ///
    /// # Errors
    /// As above.
    pub fn start_with(
        config: &config::Gateway,
        credentials: CredentialStore,
        experiment: Experiment,
    ) -> Result<Self, StartError> {
        let tls = config.tls.as_ref().map(tls::load).transpose()?;
        let around = Surroundings::look(config)?;
        let plan = Arc::new(egress::address_plan(config, &around)?);
        let mtu_bytes = around.lease_mtu_bytes(&config.lease.mtu)?;
        let budget = Budget::new(config.memory.budget.0);
        let fixed = draw_fixed(config, &budget).map_err(StartError::Memory)?;
        let (pool, overload) = (BufPool::drawing_on(&budget), Overload::default());
        let gateway_metrics = GatewayMetrics::new(&labels::<accept::Reason>());
        let registry = Registry::new(Parts {
            terms: terms(config, mtu_bytes),
            links_max: u32::try_from(config.listen.links_max).unwrap_or(u32::MAX),
            credentials,
            guard_rules: Arc::new(ip_parse::Rules {
                plan: Arc::clone(&plan),
                policy: Arc::new(egress::policy(config, &around, &plan)?),
                mtu_bytes: mtu_bytes.into(),
                pool: pool.clone(),
            }),
            nat_rules: Arc::new(nat_rules(config, &plan, mtu_bytes, (&pool, &overload))),
            pool,
            overload,
            fixed,
            metrics: Arc::clone(&gateway_metrics),
        });
        let mut lookout =
            Lookout::new(&around, config.egress.mode() == EgressMode::Raw, mtu_bytes).map_err(EgressError::from)?;
        let egress = Egress::open(config, &around, &plan, mtu_bytes)?;
        if let (Way::Tun(tun), Some(lease)) = (&egress.way, plan.lease(TetherId(0)))
            && let Err(error) = lookout.watch_tun(tun.name(), lease)
        {
            // The first error is the one to tell.
            drop(egress.kernel.undo());
            return Err(EgressError::from(error).into());
        }
        for listener in egress.kernel.listeners() {
            warn!(%listener, "a program listens on a port of ours, and will receive nothing: end it, or change egress.ports");
        }
        let mode = match &egress.way {
            Way::Raw { .. } => "raw",
            Way::Tun(_) => "tun",
        };
        let super_packets = egress.super_packets();
        let takes = super_packets.to_string();
        if super_packets != SuperPackets::ALL {
            info!(takes, "this kernel does not take all super-packets: others are cut before (Linux 6.2 takes all)");
        }
        gateway_metrics.tell_egress(EgressInfo { mode, interface: around.interface.clone(), super_packets });
        let joined = Self::join(config, registry, &plan, (egress, lookout), tls, experiment);
        match joined {
            Ok(gateway) => {
                gateway_metrics.ready.set_ready();
                let tethers_max = gateway.registry.tethers.capacity();
                info!(egress = mode, interface = around.interface, super_packets = takes, addresses = ?gateway.addresses, tethers_max, "the gateway serves");
                Ok(gateway)
            }
            Err(failed) => {
                let (error, egress) = *failed;
                // The first error is the one to tell.
                drop(egress.kernel.undo());
                Err(error.into())
            }
        }
    }

    /// Builds the pipeline and starts every thread.
    fn join(
        config: &config::Gateway,
        registry: Arc<Registry>,
        plan: &Arc<AddressPlan>,
        (egress, lookout): (Egress, Lookout),
        tls: Option<Arc<rustls::ServerConfig>>,
        experiment: Experiment,
    ) -> Result<Self, Box<(io::Error, Egress)>> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let pipeline = pipeline::gateway(&registry, plan, &egress, config, cores, experiment);
        let metrics = Arc::new(figures(&registry, &egress, pipeline.metrics));
        let started = || -> io::Result<_> {
            pipeline.keeper.start()?;
            let (accept, ws_decode) = (pipeline.accept, pipeline.ws_decode);
            let (listen, registry_of_poller) = (&config.listen, Arc::clone(&registry));
            let tcp = TcpOptions::new(&listen.congestion, listen.unsent_max);
            let poller = Poller::bind(&listen.address, tcp, registry_of_poller, tls, accept, ws_decode)?;
            let server = config.metrics.listen.map(|address| bind_metrics(address, &metrics)).transpose()?;
            let pool = registry.pool.clone();
            // The first stage of what it reads.
            let wait_max = config.stages.get(StageName::IpParse).sojourn_max;
            let inlet = (pipeline.downlink, wait_max);
            let (plan, tethers) = (Arc::clone(plan), Arc::clone(&registry.tethers));
            let lane_of = move |bytes: &[u8]| downlink_lane(&plan, &tethers, bytes);
            let source = match &egress.way {
                Way::Raw { receiver, .. } => {
                    start_source(Arc::clone(receiver), pool, pipeline.source_metrics, inlet, lane_of, &registry)?
                }
                Way::Tun(tun) => {
                    start_source(Arc::clone(tun), pool, pipeline.source_metrics, inlet, lane_of, &registry)?
                }
            };
            Ok((poller, server, source))
        };
        let (poller, metrics_server, source) = match started() {
            Ok(started) => started,
            Err(error) => {
                pipeline.keeper.stop();
                return Err(Box::new((error, egress)));
            }
        };
        let mut gateway = Self {
            registry,
            keeper: pipeline.keeper,
            metrics,
            egress,
            addresses: poller.addresses(),
            metrics_server,
            source: Some(source),
            poller: None,
            over: Arc::default(),
            housekeepers: Vec::new(),
            stop_deadline: config.runtime.stop_deadline,
        };
        match gateway.start_threads(poller, lookout, Overseer::new(ladder_settings(&config.overload))) {
            Ok(()) => Ok(gateway),
            Err(error) => {
                gateway.stop_threads();
                gateway.keeper.stop();
                Err(Box::new((error, gateway.egress)))
            }
        }
    }

    fn start_threads(&mut self, poller: Poller, mut lookout: Lookout, mut overseer: Overseer) -> io::Result<()> {
        let waker = poller.waker()?;
        let over = Arc::clone(&self.over);
        let thread = spawn("poller", move || poller.run(|| over.load(Ordering::Acquire)))?;
        self.poller = Some((waker, thread));
        let (registry, over) = (Arc::clone(&self.registry), Arc::clone(&self.over));
        self.housekeepers.push(spawn("acks", move || {
            while !over.load(Ordering::Acquire) {
                registry.send_acks(LOOK_EVERY, || over.load(Ordering::Acquire));
            }
        })?);
        let (registry, over) = (Arc::clone(&self.registry), Arc::clone(&self.over));
        let (metrics, mut refusals) = (Arc::clone(&self.metrics), Refusals::default());
        self.housekeepers.push(spawn("tidy", move || {
            for look in (0..LOOKS_A_TIDYING).cycle().take_while(|_| !over.load(Ordering::Acquire)) {
                let now = Instant::now();
                overseer.look(now, &registry, &metrics);
                registry.read_once_more();
                if look == 0 {
                    registry.tidy(now);
                    lookout.look(&metrics.gateway.ready, registry.guard_rules());
                    let refused = metrics.gateway.connections_refused.at(accept::Reason::BadCredential.index());
                    refusals.look(now, refused.map_or(0, Counter::get));
                }
                // While links leave they are looked after more often.
                while registry.see_off(Instant::now()) > 0 && now.elapsed() < LOOK_EVERY {
                    std::thread::park_timeout(SEE_OFF_EVERY);
                }
                std::thread::park_timeout(LOOK_EVERY.saturating_sub(now.elapsed()));
            }
        })?);
        Ok(())
    }

    /// Where clients and relays come in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the figures are read, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_server.as_ref().map(MetricsServer::local_addr)
    }

    /// The figures.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Stops in the data's order: accepts nobody, takes in no more from either end, drains, closes every link with 1001, undoes
    /// the kernel's state. Returns who was late.
    ///
    /// # Errors
    /// What could not be undone; the state file stays for the next start.
    pub fn stop(mut self) -> Result<Vec<&'static str>, crate::kernel_state::Error> {
        self.metrics.gateway.ready.end("stopping");
        let deadline = Instant::now() + self.stop_deadline;
        // From now on links are read for acknowledgements alone: the sources of both directions have stopped.
        self.registry.stop_accepting();
        self.stop_source();
        let mut late = self.keeper.drain(deadline);
        self.registry.close_all();
        self.stop_threads();
        self.see_off(deadline);
        late.extend(self.keeper.stop());
        late.sort_unstable();
        late.dedup();
        drop(self.metrics_server.take());
        let Self { egress: Egress { way, kernel }, .. } = self;
        drop(way);
        kernel.undo()?;
        Ok(late)
    }

    /// Waits a moment for the peers to have read why they are closed.
    fn see_off(&self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + LEAVING_PATIENCE);
        while self.registry.see_off(Instant::now()) > 0 && Instant::now() < deadline {
            std::thread::sleep(SEE_OFF_EVERY);
        }
    }

    fn stop_source(&mut self) {
        if let Some((stop, thread)) = self.source.take() {
            stop.stop();
            join(thread);
        }
    }

    fn stop_threads(&mut self) {
        self.stop_source();
        self.registry.stop_accepting();
        self.over.store(true, Ordering::Release);
        self.registry.wake_acks();
        if let Some((waker, thread)) = self.poller.take() {
            if let Err(error) = waker.wake() {
                warn!(%error, "the poller cannot be woken");
            }
            join(thread);
        }
        for thread in self.housekeepers.drain(..) {
            thread.thread().unpark();
            join(thread);
        }
    }
}

fn bind_metrics(address: SocketAddr, metrics: &Arc<Metrics>) -> io::Result<MetricsServer> {
    MetricsServer::bind(address, Arc::clone(metrics))
        .map_err(|error| io::Error::new(error.kind(), format!("listening on {address} (metrics.listen): {error}")))
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        warn!("a thread had panicked");
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

fn start_source<S: PacketSource>(
    source: Arc<S>,
    pool: BufPool,
    metrics: Arc<crate::metrics::StageMetrics>,
    (inlet, wait_max): (Inlet<Packet<Raw>>, Duration),
    lane_of: impl Fn(&[u8]) -> LaneId + Send + 'static,
    registry: &Arc<Registry>,
) -> io::Result<(Arc<SourceStop>, JoinHandle<()>)> {
    let source =
        Source::new(source, pool, metrics)?.noting_in(Arc::clone(&registry.metrics.decisions)).in_front_of(wait_max);
    let (stopper, figures) = (source.stopper(), Arc::clone(&registry.metrics));
    let failed = move |error: &io::Error| {
        figures.egress_read_errors.inc();
        tracing::debug!(%error, "reading from the egress failed");
    };
    let thread = spawn("source", move || source.run(inlet, lane_of, failed))?;
    Ok((stopper, thread))
}

/// A fresh credential and its token.
///
/// # Errors
/// The system has no random numbers.
pub fn fresh() -> Result<crate::credentials::Fresh, getrandom::Error> {
    let token = Token::random()?;
    Ok(crate::credentials::Fresh {
        id: token.id.to_string(),
        token: token.reveal().to_string(),
        verifier: token.secret.verifier().to_hex(),
    })
}

fn terms(config: &config::Gateway, mtu_bytes: u16) -> Terms {
    Terms {
        mtu_bytes,
        path: config.listen.path.as_str().to_owned(),
        features: Features::SUPER_PACKETS,
        credit_bytes: config.tethers.credit_window.0,
        window_bytes_max: config.tethers.downlink_window.0,
        message_bytes_max: config.tethers.message_max.as_len(),
        keep_alive: config.listen.keepalive,
        linger: config.tethers.linger,
        handshake_timeout: config.listen.handshake_timeout,
        handshakes_max: config.listen.handshakes_max,
        handshakes_per_address: config.listen.handshakes_per_address,
        tethers_max: config.tethers.max,
        tethers_per_credential_max: config.tethers.max_per_credential,
        trimmed_to_percent: config.overload.trimmed_to_percent,
        window: config.conditioning.window.settings(),
        credit: config.conditioning.credit.settings(),
        overload_retry: accept::Retry { after: config.overload.retry_after, spread: config.overload.retry_spread },
    }
}

fn ladder_settings(config: &config::gateway::Overload) -> ladder::Settings {
    ladder::Settings {
        climb_after: config.climb_after,
        leave_after: config.leave_after,
        memory_percent: [config.tethers_percent, config.mappings_percent, config.trim_percent],
    }
}

fn nat_rules(
    config: &config::Gateway,
    plan: &Arc<AddressPlan>,
    mtu_bytes: u16,
    (pool, overload): (&BufPool, &Overload),
) -> nat::Rules {
    let nat = &config.nat;
    let resolver = resolver::find(&config.dns.upstream);
    match resolver {
        Some(resolver) => info!(%resolver, "DNS goes to"),
        None => warn!("no resolver that can be reached by translation: name one in dns.upstream; clients get no DNS"),
    }
    nat::Rules {
        plan: Arc::clone(plan),
        timers: nat::Timers {
            udp: nat.udp,
            udp_dns: nat.udp_dns,
            tcp_opening: nat.tcp_opening,
            tcp_established: nat.tcp_established,
            tcp_closing: nat.tcp_closing,
            query: nat.icmp_query,
        },
        filtering: match nat.filtering {
            config::gateway::Filtering::EndpointIndependent => nat::Filtering::EndpointIndependent,
            config::gateway::Filtering::AddressDependent => nat::Filtering::AddressDependent,
            config::gateway::Filtering::AddressAndPortDependent => nat::Filtering::AddressAndPortDependent,
        },
        resolver,
        mtu_bytes,
        mappings_max: nat.mappings_per_tether,
        mappings_per_second: nat.mappings_per_second,
        remotes_max: REMOTES_A_MAPPING,
        pool: pool.clone(),
        overload: overload.clone(),
    }
}

/// What of a configuration that is right by itself this machine cannot run.
pub fn misfit(config: &config::Gateway) -> Option<Misfit> {
    let too_little = draw_fixed(config, &Budget::new(config.memory.budget.0)).err()?;
    Some(("memory.budget", too_little))
}

/// Draws what is there whoever comes, or tells how large the budget must be for that.
fn draw_fixed(config: &config::Gateway, budget: &Budget) -> Result<Share, String> {
    let (mut fixed, bytes) = (budget.share(Part::Fixed), fixed_bytes(config));
    if fixed.set(bytes) {
        return Ok(fixed);
    }
    let least = Bytes(Part::Fixed.limit_for(bytes).next_multiple_of(1 << 20));
    Err(format!(
        "{} is too little: these settings need {least} on this machine, for tables, queues and read buffers; or set \
         listen.links_max, tethers.max, tethers.message_max, stages.*.queue_packets or stages.*.threads_max (and \
         threads_min) lower",
        config.memory.budget
    ))
}

/// Memory that is there, or will be, whoever comes: the tables' places, the stages' queues, the read buffers of threads
/// with as much again for what a decoder gathers in one turn, the packet socket's areas.
fn fixed_bytes(config: &config::Gateway) -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let queues: usize =
        StageName::ALL.iter().map(|&name| config.stages.get(name).queue_packets * QUEUE_PLACE_BYTES).sum();
    // The poller is one as well.
    let readers = *config.stages.get(StageName::WsDecode).threads(cores).end() + 1;
    let message_bytes = config.tethers.message_max.as_len();
    let reading = readers * (read_buffer_bytes(message_bytes) + message_bytes);
    let accepting =
        config.stages.get(StageName::Accept).threads(cores).end() * read_buffer_bytes(HANDSHAKE_MESSAGE_BYTES_MAX);
    let looks = config.listen.links_max * registry::LOOK_BYTES;
    let tables = 2 * (config.listen.links_max + config.tethers.max) * PLACE_BYTES + looks;
    let areas = if config.egress.mode() == EgressMode::Raw { RawReceiver::AREAS_BYTES } else { PACKET_BYTES_MAX };
    (queues + reading + accepting + tables + areas) as u64
}

/// Remotes that a mapping remembers. A browser's socket has one; a peer-to-peer program's some dozens at a time.
const REMOTES_A_MAPPING: usize = 64;

/// All figures, with those that live elsewhere copied in at each reading.
fn figures(registry: &Arc<Registry>, egress: &Egress, stages: Vec<Arc<crate::metrics::StageMetrics>>) -> Metrics {
    let pool = registry.pool.clone();
    let receiver = match &egress.way {
        Way::Raw { receiver, .. } => Some(Arc::clone(receiver)),
        Way::Tun(_) => None,
    };
    Metrics::new(stages, Arc::clone(&registry.metrics)).refreshed_by(move |metrics| {
        let gateway = &metrics.gateway;
        gateway.buffers_held_bytes.set(pool.held_bytes());
        gateway.buffers_limit_bytes.set(pool.limit_bytes());
        gateway.buffers_refused.follow(pool.refused());
        let budget = pool.budget();
        for (gauge, part) in gateway.memory_held_bytes.iter().zip(Part::ALL) {
            gauge.set(budget.held_by(part));
        }
        gateway.memory_spare_bytes.set(budget.held_bytes().saturating_sub(budget.needed_bytes()));
        gateway.memory_budget_bytes.set(budget.limit_bytes());
        gateway.memory_refused.follow(budget.refused());
        if let Some(Ok(drops)) = receiver.as_ref().map(|receiver| receiver.kernel_drops()) {
            gateway.packet_socket_drops.follow(drops);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{credit, window};

    #[test]
    fn what_the_configuration_says_of_overload_reaches_the_ladder_and_the_terms() {
        assert_eq!(ladder_settings(&config::Gateway::default().overload), ladder::Settings::DEFAULT);
        let by_default = terms(&config::Gateway::default(), 1_500);
        assert_eq!((by_default.trimmed_to_percent, by_default.overload_retry), (50, accept::Retry::DEFAULT));
        let text = "[overload]\nclimb_after = \"6s\"\nleave_after = \"3s\"\ntethers_percent = 70\nmappings_percent = 71\n\
                    trim_percent = 72\ntrimmed_to_percent = 60\nretry_after = \"9s\"\nretry_spread = \"1s\"";
        let config = config::parse::<config::Gateway>(text, &[]).expect("a configuration");
        let s = Duration::from_secs;
        let expected = ladder::Settings { climb_after: s(6), leave_after: s(3), memory_percent: [70, 71, 72] };
        assert_eq!(ladder_settings(&config.overload), expected);
        let terms = terms(&config, 1_500);
        let retry = accept::Retry { after: s(9), spread: s(1) };
        assert_eq!((terms.trimmed_to_percent, terms.overload_retry), (60, retry));
    }

    #[test]
    fn what_the_configuration_says_of_window_and_credit_reaches_the_terms() {
        let by_default = terms(&config::Gateway::default(), 1_500);
        assert_eq!((by_default.window, by_default.credit), (window::Settings::DEFAULT, credit::Settings::DEFAULT));
        let text = "[conditioning]\nwindow.queue = \"5ms\"\nwindow.whole_min = \"9ms\"\ncredit.wait_max = \"30ms\"\n\
                    credit.cut_after = \"50ms\"";
        let terms = terms(&config::parse::<config::Gateway>(text, &[]).expect("a configuration"), 1_500);
        let [queue, whole_min, wait_max, cut_after] = [5, 9, 30, 50].map(Duration::from_millis);
        assert_eq!(terms.window, window::Settings { queue, whole_min });
        assert_eq!(terms.credit, credit::Settings { wait_max, cut_after });
    }
}
