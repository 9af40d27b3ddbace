//! Who is here: connections, links, tethers; who comes, and who goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::census;
use crate::budget::Share;
use crate::credentials::CredentialStore;
use crate::lane_set::LaneSet;
use crate::link::{Link, LinkError};
use crate::metrics::GatewayMetrics;
use crate::nat::{self, AddressPlan};
use crate::overload::Overload;
use crate::packet::BufPool;
use crate::runtime::lanes::LaneId;
use crate::stages::Reason as _;
use crate::stages::accept::{self, Guests, Pending, Retry};
use crate::stages::ip_parse;
use crate::stages::ws_decode::{self, LinkKeeper};
use crate::table::Table;
use crate::tether::{TICKET_BYTES, Tether};
use crate::tether_id::TetherId;
use crate::tether_links::TetherLinks;
use crate::wire::capsule::{CloseReason, Features, append_close};
use crate::wire::frame::close_code;
use crate::wire::proof::CredentialId;
use crate::{credit, window};

mod acks;
mod admission;
mod attended;
mod tidying;

use acks::Acks;
pub use attended::Stages;
use attended::{clear, poke};
pub use tidying::LOOK_BYTES;
use tidying::{Round, Tidying};

/// What every client is told, and what holds for all.
#[derive(Debug)]
pub struct Terms {
    /// The largest packet inside the tunnel, in bytes.
    pub mtu_bytes: u16,
    /// The path of the WebSocket.
    pub path: String,
    /// Whether the gateway's egress takes super-packets.
    pub features: Features,
    /// Bytes a tether may have inside the gateway.
    pub credit_bytes: u64,
    /// The most bytes sent to a tether ahead of its acknowledgements.
    pub window_bytes_max: u64,
    /// The largest message.
    pub message_bytes_max: usize,
    /// How often an idle link is asked for a sign of life.
    pub keep_alive: Duration,
    /// How long a tether lives without a link.
    pub linger: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many handshakes may be under way at once.
    pub handshakes_max: usize,
    /// How many of them may be of one address.
    pub handshakes_per_address: usize,
    /// How many tethers there may be.
    pub tethers_max: usize,
    /// How many of them may be of one credential; 0: as many as there may be.
    pub tethers_per_credential_max: usize,
    /// What of its queue ws-encode holds on the highest rung, and what of their credit the largest tethers have, in percent.
    pub trimmed_to_percent: u64,
    /// When who is refused under overload may try again.
    pub overload_retry: Retry,
    /// How much a link's window lets wait.
    pub window: window::Settings,
    /// When a tether's credit is cut.
    pub credit: credit::Settings,
}

/// Who is here.
#[derive(Debug)]
pub struct Registry {
    /// What every client is told.
    pub terms: Terms,
    /// Open links and those that are to be, at their lanes.
    pub links: Arc<Table<Link>>,
    /// Connections before their welcome, at the lanes of their links.
    pub pending: Arc<Table<Pending>>,
    /// Tethers at their lanes.
    pub tethers: Arc<Table<Tether>>,
    /// The same tethers' links, for ws-encode.
    pub tether_links: Arc<Table<TetherLinks>>,
    /// Figures.
    pub metrics: Arc<GatewayMetrics>,
    /// Buffers, and the memory budget.
    pub pool: BufPool,
    /// What the gateway does without at present.
    pub overload: Overload,
    /// Who is at the door.
    pub guests: Arc<Guests>,
    credentials: CredentialStore,
    plan: Arc<AddressPlan>,
    guard_rules: Arc<ip_parse::Rules>,
    nat_rules: Arc<nat::Rules>,
    by_ticket: Mutex<HashMap<[u8; TICKET_BYTES], LaneId>>,
    by_credential: Mutex<HashMap<CredentialId, usize>>,
    /// What the packets of a tether hold on average, of those that hold any, when last looked.
    held_mean_bytes: AtomicU64,
    /// What is there before anybody comes.
    _fixed: Share,
    stages: OnceLock<Stages>,
    acks: Acks,
    /// Links that were closed with a word, until their peers have hung up, and since when.
    leaving: Mutex<Vec<(Instant, Arc<Link>)>>,
    /// Tethers whose packets were here since this was last asked.
    stirred: Arc<LaneSet>,
    /// Tethers that wait for credit, and of whose packets half have left.
    half_left: Arc<LaneSet>,
    tidying: Mutex<Tidying>,
    /// Of who tidies up alone.
    round: Mutex<Round>,
    stopping: AtomicBool,
}

/// What a registry is made of.
#[derive(Debug)]
pub struct Parts {
    /// What every client is told.
    pub terms: Terms,
    /// Links at once, those before their welcome included.
    pub links_max: u32,
    /// Who may come in.
    pub credentials: CredentialStore,
    /// Rules of ip-parse.
    pub guard_rules: Arc<ip_parse::Rules>,
    /// Rules of nat-rewrite.
    pub nat_rules: Arc<nat::Rules>,
    /// Buffers, and the memory budget.
    pub pool: BufPool,
    /// What the gateway does without at present.
    pub overload: Overload,
    /// What is there before anybody comes.
    pub fixed: Share,
    /// Figures.
    pub metrics: Arc<GatewayMetrics>,
}

impl Registry {
    /// Nobody is here yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let plan = Arc::clone(&parts.guard_rules.plan);
        let tethers_max = plan.capacity().min(u32::try_from(parts.terms.tethers_max).unwrap_or(u32::MAX));
        parts.metrics.handshakes_limit.set(parts.terms.handshakes_max as u64);
        census::publish_limits(&plan, &parts.metrics);
        Arc::new(Self {
            guests: Guests::new(parts.terms.handshakes_per_address),
            terms: parts.terms,
            links: Arc::new(Table::new(parts.links_max)),
            pending: Arc::new(Table::new(parts.links_max)),
            tethers: Arc::new(Table::new(tethers_max)),
            tether_links: Arc::new(Table::new(tethers_max)),
            metrics: parts.metrics,
            pool: parts.pool,
            overload: parts.overload,
            tidying: Mutex::new(Tidying::new(parts.credentials.version())),
            credentials: parts.credentials,
            plan,
            guard_rules: parts.guard_rules,
            nat_rules: parts.nat_rules,
            by_ticket: Mutex::default(),
            by_credential: Mutex::default(),
            held_mean_bytes: AtomicU64::new(0),
            _fixed: parts.fixed,
            stages: OnceLock::new(),
            acks: Acks::default(),
            leaving: Mutex::default(),
            stirred: Arc::new(LaneSet::new(tethers_max)),
            half_left: Arc::new(LaneSet::new(tethers_max)),
            round: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// The pipeline stands: from now on its stages are attended to.
    pub fn attend(&self, stages: Stages) {
        self.stages.get_or_init(|| stages);
    }

    /// What all tethers' guards share.
    pub fn guard_rules(&self) -> &ip_parse::Rules {
        &self.guard_rules
    }

    /// Whether the gateway stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Counts a connection that comes to nothing.
    pub fn count_refused(&self, reason: accept::Reason) {
        if let Some(counter) = self.metrics.connections_refused.at(reason.index()) {
            counter.inc();
        }
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<[u8; TICKET_BYTES], LaneId>> {
        self.by_ticket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many port blocks a tether has: one, or none where the gateway does not translate.
    fn blocks_of(&self, tether: TetherId) -> u64 {
        u64::from(self.plan.block(tether).is_some())
    }

    /// One tether more of `credential`; `false` where it has as many as it may have.
    fn count_in(&self, credential: &CredentialId) -> bool {
        let max = self.terms.tethers_per_credential_max;
        let mut counts = self.by_credential.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(*credential).or_default();
        let has_room = max == 0 || *count < max;
        *count += usize::from(has_room);
        has_room
    }

    fn count_out(&self, credential: &CredentialId) {
        let mut counts = self.by_credential.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(credential) {
            *count -= 1;
            if *count == 0 {
                counts.remove(credential);
            }
        }
    }

    /// Takes a link out of everything and frees its place.
    fn detach(&self, link: &Arc<Link>) {
        let lane = link.lane();
        // Several threads may find it at its end, and the place is another's after the first.
        if !self.links.take_this(lane, link) {
            return;
        }
        if self.pending.take(lane).is_some() {
            self.metrics.handshakes.sub(1);
        }
        let now = Instant::now();
        if let Some(stages) = self.stages.get() {
            clear(&stages.accept, lane);
            clear(&stages.ws_decode, lane);
        }
        if let Some(owner) = link.owner() {
            self.metrics.links.sub(1);
            self.metrics.links_plain.sub(u64::from(!link.features().contains(Features::SUPER_PACKETS)));
            // Where it was replaced, the tether may have ended and the place be another's, which has no such link.
            if let Some(tether) = self.tethers.get(owner.lane()) {
                self.leave(&tether, link, now);
                // What waits for a link that has gone is dropped, not kept.
                self.has_control(owner.lane());
            }
            debug!(tether = owner.lane().0, "link closed");
        }
        self.links.release(lane);
    }

    /// The user of `tether` is done, and nobody resumes it.
    fn finish(&self, tether: &Tether) {
        self.tickets().remove(&tether.ticket);
        tether.finish();
        self.tidying().may_be_over(tether.lane());
    }

    /// A link serves `tether` no more.
    fn leave(&self, tether: &Tether, link: &Arc<Link>, now: Instant) {
        if tether.leave(link, now) == 0 {
            self.tidying().may_be_over(tether.lane());
        }
    }

    /// Clears up after a tether that has ended: its lanes, its lease.
    fn forget_tether(&self, now: Instant, tether: &Tether) {
        let lane = tether.lane();
        for link in tether.links.all() {
            self.close_with(&link, CloseReason::Done, "the session has ended");
        }
        self.tethers.take(lane);
        self.tether_links.take(lane);
        self.tickets().remove(&tether.ticket);
        if let Some(stages) = self.stages.get() {
            clear(&stages.ws_encode, lane);
            stages.tethered.iter().for_each(|stage| clear(stage, lane));
        }
        self.count_made(&mut tether.nat.lock().unwrap_or_else(PoisonError::into_inner));
        self.metrics.tethers.sub(1);
        self.overload.set_tethers(self.metrics.tethers.get());
        self.metrics.nat_blocks_in_use.sub(self.blocks_of(tether.id));
        self.count_out(&tether.credential);
        self.tidying().rests(now, lane);
        info!(tether = tether.id.0, "tether ended");
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<(Instant, Arc<Link>)>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A closed link has its descriptor until the peer has hung up, or for a moment.
    fn let_leave(&self, link: &Arc<Link>) {
        let mut leaving = self.leaving();
        if leaving.len() < LEAVING_MAX || self.is_stopping() {
            leaving.push((Instant::now(), Arc::clone(link)));
        }
    }

    /// Looks after the links that leave; tells how many are left.
    pub fn see_off(&self, now: Instant) -> usize {
        let mut leaving = std::mem::take(&mut *self.leaving());
        let mut scratch = [0; SCRATCH_BYTES];
        leaving.retain(|(since, link)| {
            now.saturating_duration_since(*since) < LEAVING_PATIENCE && !link.see_off(&mut scratch, &self.pool)
        });
        let left = leaving.len();
        self.leaving().append(&mut leaving);
        left
    }

    /// A tether whose packets hold this is one of the largest: the average of those that hold any.
    pub fn large_bytes(&self) -> u64 {
        self.held_mean_bytes.load(Ordering::Relaxed)
    }

    /// Less of what waits for links is kept, at the cost of the flows that hold most; or all again.
    pub fn trim_downlink(&self, trims: bool) {
        if let Some(ws_encode) = self.stages.get().and_then(|stages| stages.ws_encode.upgrade()) {
            ws_encode.hold_at_most(if trims { self.terms.trimmed_to_percent } else { 100 });
        }
    }

    fn close_with(&self, link: &Arc<Link>, reason: CloseReason, text: &str) {
        link.outbox().control(|out| append_close(reason, text, out));
        LinkKeeper::close(self, link, reason.close_code(), text);
    }

    /// From now on nobody is let in.
    pub fn stop_accepting(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Has every link read once more, while the gateway stops. One that was left with more to read when nothing was on its way
    /// to its peer may owe an acknowledgement of what has left since, and its socket does not tell that again.
    pub fn read_once_more(&self) {
        if let Some(stages) = self.stages.get().filter(|_| self.is_stopping()) {
            self.links.all().iter().for_each(|link| poke(&stages.ws_decode, link.lane()));
        }
    }

    /// Has those of the links in `lanes` heard, whose turn waits for room in the stages. Leaves none there.
    pub fn listen(&self, lanes: &mut Vec<LaneId>) {
        let Some(ws_decode) = self.stages.get().and_then(|stages| stages.ws_decode.upgrade()) else {
            return lanes.clear();
        };
        ws_decode.held_back(lanes);
        for lane in lanes.drain(..) {
            let Some(link) = self.links.get(lane) else { continue };
            // Of each anew: a round trip is reckoned from it.
            let heard = ws_decode::listen(self, Instant::now(), &link, self.terms.message_bytes_max);
            self.metrics.heard_early.add((heard.messages + heard.pings) as u64);
            // Its turn may have been over before this read what it had left to readiness.
            if heard.has_read {
                ws_decode.poke(lane);
            }
        }
    }

    /// Says goodbye to every link (1001).
    pub fn close_all(&self) {
        for link in self.links.all() {
            self.close_with(&link, CloseReason::ShuttingDown, "the gateway stops");
        }
    }
}

/// How long peers may take to hang up: a round trip on a bad network.
pub const LEAVING_PATIENCE: Duration = Duration::from_secs(1);

/// Links that are waited for after their end, so that who is refused again and again takes no more descriptors.
const LEAVING_MAX: usize = 1_024;

/// What is read from links that leave is thrown away in pieces of this many bytes.
const SCRATCH_BYTES: usize = 16_384;

impl LinkKeeper for Registry {
    fn has_control(&self, tether: LaneId) {
        if let Some(stages) = self.stages.get() {
            poke(&stages.ws_encode, tether);
        }
    }

    fn ack_later(&self, link: &Arc<Link>) {
        self.acks.note(link);
    }

    fn wake_for_acks(&self) {
        self.acks.wake_for_new();
    }

    /// Once the gateway stops, only what is to be acknowledged is a reason to read: what waits for the link's window leaves by
    /// that, and an upload would never let the pipeline come to rest.
    fn reads_on(&self, link: &Link) -> bool {
        !self.is_stopping() || link.in_flight_bytes() > 0
    }

    fn close(&self, link: &Arc<Link>, code: u16, reason: &str) {
        link.close(code, reason, &self.pool);
        self.let_leave(link);
        self.detach(link);
    }

    fn closed(&self, link: &Arc<Link>, reason: Option<CloseReason>) {
        if reason == Some(CloseReason::Done)
            && let Some(tether) = link.owner().and_then(|links| self.tethers.get(links.lane()))
        {
            self.finish(&tether);
        }
        LinkKeeper::close(self, link, close_code::NORMAL, "");
    }

    fn ended(&self, link: &Arc<Link>, error: &LinkError) {
        debug!(%error, "link ended");
        link.abandon();
        self.detach(link);
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
