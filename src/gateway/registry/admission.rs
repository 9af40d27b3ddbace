//! Who is let in, and on what terms.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info};

use super::Registry;
use super::attended::poke;
use crate::budget::{Part, Share};
use crate::link::Link;
use crate::nat::Nat;
use crate::overload::Squeeze;
use crate::runtime::lanes::LaneId;
use crate::stages::Reason as _;
use crate::stages::accept::{self, Doorkeeper, RETRY_AFTER_MS};
use crate::stages::ip_parse::Guard;
use crate::tether::{NotJoined, TICKET_BYTES, Tether};
use crate::tether_id::TetherId;
use crate::tether_links::{TetherLinks, Windows};
use crate::wire::capsule::{
    AddressRange, AssignedAddress, Challenge, CloseReason, Features, Hello, Prefix, Refusal, RefusalReason, SessionId,
    Welcome, append_address_assign, append_routes,
};
use crate::wire::proof::Verifier;

/// What a tether holds of the memory budget while it is idle: itself, its places in the tables and lanes. Its link,
/// mappings and packets are counted apart.
const TETHER_BYTES: u64 = 3_072;

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
        if !welcome.features.contains(Features::SUPER_PACKETS) {
            self.metrics.links_plain.add(1);
            info!(tether = tether.id.0, "the client takes no super-packets: each of its packets is handled by itself");
        }
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

impl Registry {
    /// The tether that `hello` resumes, or a new one; `link` serves it from now on. The link whose number it has, and whose
    /// place it takes, is returned.
    pub(super) fn tether_for(
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

    pub(super) fn new_tether(&self, now: Instant, link: &Arc<Link>, hello: &Hello) -> Result<Arc<Tether>, Refusal> {
        let no_address = || {
            refusal(
                RefusalReason::NoAddress,
                RETRY_AFTER_MS,
                "as many clients as this gateway has room for are connected",
            )
        };
        let busy = |text| refusal(RefusalReason::Busy, self.terms.overload_retry.draw_ms(), text);
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

    fn make_tether(&self, now: Instant, hello: &Hello, id: TetherId, memory: Share) -> Option<Arc<Tether>> {
        let (mut session, mut ticket, mut seed) = ([0; 16], [0; TICKET_BYTES], [0; 8]);
        for bytes in [&mut session[..], &mut ticket[..], &mut seed[..]] {
            getrandom::fill(bytes).ok()?;
        }
        let windows =
            Windows { send_bytes_max: self.terms.window_bytes_max, credit_bytes: Some(self.terms.credit_bytes) };
        let squeeze = Squeeze {
            budget: self.pool.budget().clone(),
            overload: self.overload.clone(),
            trimmed_to_percent: self.terms.trimmed_to_percent,
        };
        let links = TetherLinks::new(LaneId(id.0), windows)
            .with_window(self.terms.window)
            .with_credit(self.terms.credit)
            .squeezed_by(squeeze);
        let links = links.noted_in(Arc::clone(&self.stirred)).watched_in(Arc::clone(&self.half_left));
        let links = Arc::new(links.telling(Arc::clone(&self.metrics.decisions)));
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
    pub(super) fn welcome(
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
}

pub(super) fn refusal(reason: RefusalReason, retry_after_ms: u32, text: &str) -> Refusal {
    Refusal { reason, retry_after_ms, text: text.to_owned() }
}
