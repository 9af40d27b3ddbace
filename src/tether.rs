//! A tether: one client's session at the gateway.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::link::Link;
use crate::nat::Nat;
use crate::runtime::lanes::LaneId;
use crate::stages::ip_parse::Guard;
use crate::tether_id::TetherId;
use crate::tether_links::TetherLinks;
use crate::wire::capsule::SessionId;
use crate::wire::proof::CredentialId;

/// Bytes of a resume ticket: as many as a secret's, so that it cannot be guessed.
pub const TICKET_BYTES: usize = 32;

/// One client's session. What both directions need has a lock of its own, taken once a batch; no other tether waits for
/// it.
#[derive(Debug)]
pub struct Tether {
    /// Its index: lease, port block and lanes follow from it.
    pub id: TetherId,
    /// Its name on the wire.
    pub session: SessionId,
    /// Who it belongs to.
    pub credential: CredentialId,
    /// What resumes it.
    pub ticket: [u8; TICKET_BYTES],
    /// Its links.
    pub links: Arc<TetherLinks>,
    /// Its rules, for what it sends.
    pub guard: Mutex<Guard>,
    /// Its translation.
    pub nat: Mutex<Nat>,
    /// Since when it has had no link.
    unlinked: Mutex<Option<Instant>>,
    /// Its user is done.
    finished: AtomicBool,
}

impl Tether {
    /// A tether with no link yet.
    pub fn new(
        id: TetherId,
        session: SessionId,
        credential: CredentialId,
        ticket: [u8; TICKET_BYTES],
        links: Arc<TetherLinks>,
        guard: Guard,
        nat: Nat,
        now: Instant,
    ) -> Self {
        let (guard, nat) = (Mutex::new(guard), Mutex::new(nat));
        Self {
            id,
            session,
            credential,
            ticket,
            links,
            guard,
            nat,
            unlinked: Mutex::new(Some(now)),
            finished: AtomicBool::new(false),
        }
    }

    /// Its lane in every stage whose lanes are tethers.
    pub fn lane(&self) -> LaneId {
        LaneId(self.id.0)
    }

    /// A link serves it.
    pub fn join(&self, link: Arc<Link>) {
        self.links.join(link);
        *self.unlinked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A link serves it no more.
    pub fn leave(&self, link: &Arc<Link>, now: Instant) {
        if self.links.leave(link) == 0 {
            self.unlinked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
        }
    }

    /// Its user is done: it is to end, and nobody resumes it.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Whether its user is done.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Since when it has had no link; `None` while it has one.
    pub fn unlinked_since(&self) -> Option<Instant> {
        *self.unlinked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
