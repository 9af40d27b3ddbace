//! Who is here: connections, links, tethers; who comes, and who goes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::census;
use crate::budget::{Part, Share};
use crate::credentials::CredentialStore;
use crate::lane_set::LaneSet;
use crate::link::{Link, LinkError};
use crate::metrics::GatewayMetrics;
use crate::nat::{self, AddressPlan, Nat};
use crate::overload::{Overload, Squeeze};
use crate::packet::BufPool;
use crate::runtime::lanes::LaneId;
use crate::stages::Reason as _;
use crate::stages::accept::{self, Doorkeeper, Guests, Pending, RETRY_AFTER_MS, overload_retry_ms};
use crate::stages::ip_parse::{self, Guard};
use crate::stages::ws_decode::LinkKeeper;
use crate::table::Table;
use crate::tether::{NotJoined, TICKET_BYTES, Tether};
use crate::tether_id::TetherId;
use crate::tether_links::{TetherLinks, Windows};
use crate::wire::capsule::{
    AddressRange, AssignedAddress, Challenge, CloseReason, Features, Hello, Prefix, Refusal, RefusalReason, SessionId,
    Welcome, append_address_assign, append_close, append_routes,
};
use crate::wire::frame::close_code;
use crate::wire::proof::{CredentialId, Verifier};

mod acks;
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

    /// The tether that `hello` resumes, or a new one; `link` serves it from now on. The link whose number it has, and whose
    /// place it takes, is returned.
    fn tether_for(
        &self,
        now: Instant,
        link: &Arc<Link>,
        hello: &Hello,
    ) -> Result<(Arc<Tether>, Vec<Arc<Link>>), Refusal> {
        let found = match self.tether_of_ticket(hello).map(|tether| (tether.join(link, hello.link), tether)) {
            Some((Ok(older), tether)) => {
                self.metrics.tethers_resumed.inc();
                (tether, older)
            }
            Some((Err(NotJoined::Linked), _)) => {
                return Err(refusal(
                    RefusalReason::AlreadyConnected,
                    RETRY_AFTER_MS,
                    "the session has a link of another number, and one is all that it may have",
                ));
            }
            Some((Err(NotJoined::Ended), _)) | None => (self.new_tether(now, link, hello)?, Vec::new()),
        };
        found.0.set_mtu_bytes(self.mtu_bytes(hello));
        Ok(found)
    }

    /// The tether that `hello` has the ticket of, where it is the same credential's.
    fn tether_of_ticket(&self, hello: &Hello) -> Option<Arc<Tether>> {
        let ticket = <[u8; TICKET_BYTES]>::try_from(hello.ticket.as_slice()).ok()?;
        let lane = self.tickets().get(&ticket).copied()?;
        self.tethers.get(lane).filter(|tether| tether.credential == hello.credential)
    }

    /// The MTU that is agreed on with who says `hello`.
    fn mtu_bytes(&self, hello: &Hello) -> u16 {
        self.terms.mtu_bytes.min(hello.mtu)
    }

    fn new_tether(&self, now: Instant, link: &Arc<Link>, hello: &Hello) -> Result<Arc<Tether>, Refusal> {
        let no_address = || {
            refusal(
                RefusalReason::NoAddress,
                RETRY_AFTER_MS,
                "as many clients as this gateway has room for are connected",
            )
        };
        let busy = |text| refusal(RefusalReason::Busy, overload_retry_ms(), text);
        if self.overload.refuses_tethers() {
            return Err(busy("the gateway has too much to do"));
        }
        let mut memory = self.pool.budget().share(Part::Tethers);
        if !memory.set(TETHER_BYTES) {
            return Err(busy("the gateway is short of memory"));
        }
        let may_have_more = self.count_in(&hello.credential)
            || self.end_longest_unlinked(now, Some(&hello.credential)) && self.count_in(&hello.credential);
        if !may_have_more {
            return Err(refusal(
                RefusalReason::AlreadyConnected,
                RETRY_AFTER_MS,
                "as many clients as this token may have are connected",
            ));
        }
        let Some(lane) = self.tethers.reserve() else {
            self.count_out(&hello.credential);
            self.make_room(now);
            return Err(no_address());
        };
        let id = TetherId(lane.0);
        let made = self.make_tether(now, hello, id, memory).filter(|tether| tether.join(link, hello.link).is_ok());
        let Some(tether) = made else {
            self.count_out(&hello.credential);
            self.tethers.release(lane);
            return Err(no_address());
        };
        self.tether_links.put(lane, Arc::clone(&tether.links));
        self.tickets().insert(tether.ticket, lane);
        self.tethers.put(lane, Arc::clone(&tether));
        self.metrics.tethers_opened.inc();
        self.metrics.tethers.add(1);
        self.overload.set_tethers(self.metrics.tethers.get());
        self.metrics.nat_blocks_in_use.add(self.blocks_of(id));
        info!(tether = id.0, credential = %hello.credential, "tether opened");
        Ok(tether)
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

    fn make_tether(&self, now: Instant, hello: &Hello, id: TetherId, memory: Share) -> Option<Arc<Tether>> {
        let (mut session, mut ticket, mut seed) = ([0; 16], [0; TICKET_BYTES], [0; 8]);
        for bytes in [&mut session[..], &mut ticket[..], &mut seed[..]] {
            getrandom::fill(bytes).ok()?;
        }
        let windows =
            Windows { send_bytes_max: self.terms.window_bytes_max, credit_bytes: Some(self.terms.credit_bytes) };
        let squeeze = Squeeze { budget: self.pool.budget().clone(), overload: self.overload.clone() };
        let links = TetherLinks::new(LaneId(id.0), windows).squeezed_by(squeeze);
        let links = links.noted_in(Arc::clone(&self.stirred)).watched_in(Arc::clone(&self.half_left));
        let links = Arc::new(links);
        let guard = Guard::new(id, Arc::clone(&self.guard_rules))?;
        let nat = Nat::new(id, Arc::clone(&self.nat_rules), u64::from_ne_bytes(seed))?;
        let names = (SessionId(session), ticket);
        Some(Arc::new(Tether::new(id, names, hello.credential, links, (guard, nat), memory, now)))
    }

    fn verifier(&self, hello: &Hello) -> Verifier {
        self.credentials
            .find(hello.credential.as_str())
            .and_then(|credential| credential.verifier.parse().ok())
            .unwrap_or(Verifier::NOBODY)
    }

    /// The terms of `link`. Its credit is what of the tether's is free: packets of an older link may still be inside.
    fn welcome(
        &self,
        now: Instant,
        (tether, link): (&Tether, &Link),
        hello: &Hello,
        message: &[u8],
        verifier: &Verifier,
    ) -> Welcome {
        let gateway: Vec<IpAddr> = vec![self.plan.gateway()];
        let dns = if self.nat_rules.resolver.is_some() { gateway.clone() } else { Vec::new() };
        let mut welcome = Welcome {
            session: tether.session,
            features: hello.features.and(self.terms.features),
            mtu: self.mtu_bytes(hello),
            gateway,
            dns,
            credit_bytes: tether.links.grant(now, link).unwrap_or(self.terms.credit_bytes),
            message_bytes_max: self.terms.message_bytes_max as u32,
            keep_alive_ms: self.terms.keep_alive.as_millis() as u32,
            ticket_lifetime_ms: self.terms.linger.as_millis().try_into().unwrap_or(u32::MAX),
            ticket: tether.ticket.to_vec(),
            proof: Default::default(),
        };
        welcome.proof = verifier.prove(&welcome.auth_message(message));
        welcome
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
            ws_encode.hold_at_most(if trims { TRIMMED_PERCENT } else { 100 });
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

/// What of its queue ws-encode holds on the highest rung: half, as the largest tethers have half their credit.
const TRIMMED_PERCENT: u64 = 50;

/// What a tether holds of the memory budget while it is idle: itself, its places in the tables and lanes. Its link,
/// mappings and packets are counted apart.
const TETHER_BYTES: u64 = 3_072;

/// What is read from links that leave is thrown away in pieces of this many bytes.
const SCRATCH_BYTES: usize = 16_384;

fn refusal(reason: RefusalReason, retry_after_ms: u32, text: &str) -> Refusal {
    Refusal { reason, retry_after_ms, text: text.to_owned() }
}

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

impl Doorkeeper for Registry {
    fn admit(&self, now: Instant, link: &Arc<Link>, challenge: &Challenge, hello: &Hello) -> Result<(), Refusal> {
        let verifier = self.verifier(hello);
        let message = hello.auth_message(challenge);
        verifier.check_client(&message, &hello.proof).map_err(|_| {
            refusal(RefusalReason::BadCredential, 0, "the token is unknown, revoked, or not this gateway's")
        })?;
        if self.is_stopping() {
            return Err(refusal(RefusalReason::ShuttingDown, RETRY_AFTER_MS, "the gateway stops"));
        }
        let (tether, older) = self.tether_for(now, link, hello)?;
        for old in older {
            self.close_with(&old, CloseReason::Replaced, "a newer link has its place");
        }
        let welcome = self.welcome(now, (&tether, link), hello, &message, &verifier);
        let Some(lease) = self.guard_rules.plan.lease(tether.id) else {
            self.leave(&tether, link, now);
            return Err(refusal(RefusalReason::NoAddress, 0, "no lease"));
        };
        link.outbox().control(|out| {
            welcome.append(out);
            append_address_assign(&[AssignedAddress { request_id: 0, prefix: Prefix::host(lease) }], out);
            append_routes(&[AddressRange::ALL_V4], out);
        });
        // The terms leave in a message of their own, before any packet can follow. An error shows at the next flush.
        drop(link.flush(&mut link.outbox(), &self.pool));
        // Counted before others can see it, and take it off again.
        self.metrics.links.add(1);
        self.metrics.links_opened.inc();
        link.opened(Arc::clone(&tether.links), welcome.features, self.terms.message_bytes_max, None);
        self.tidying().look_at(link.lane(), now + self.terms.keep_alive);
        self.metrics.handshake_seconds.observe(now.saturating_duration_since(link.born()));
        Ok(())
    }

    fn turn_away(&self, link: &Arc<Link>, reason: accept::Reason) {
        self.count_refused(reason);
        debug!(reason = reason.label(), "connection turned away");
        link.finish();
        self.let_leave(link);
        self.detach(link);
    }

    fn opened(&self, link: &Arc<Link>) {
        // It may have ended since, and another have its place.
        let pending = self.pending.get(link.lane()).filter(|pending| Arc::ptr_eq(pending.link(), link));
        if pending.is_some_and(|pending| self.pending.take_this(link.lane(), &pending)) {
            self.metrics.handshakes.sub(1);
        }
        if let Some(stages) = self.stages.get() {
            poke(&stages.ws_decode, link.lane());
            if let Some(owner) = link.owner() {
                // What waited for a link may go now.
                poke(&stages.ws_encode, owner.lane());
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
