//! A tether: one client's session at the gateway.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::budget::Share;
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
    /// What it holds of the memory budget.
    _memory: Share,
    /// Changes together with the links, or one that comes would meet one that goes.
    service: Mutex<Service>,
}

/// Who serves a tether.
#[derive(Clone, Copy, Debug)]
enum Service {
    /// A link that has this number, which its client chose.
    Linked(u8),
    /// Nobody, since then.
    Unlinked(Instant),
    /// Its user is done: it is to end.
    Finished,
    /// Nobody, for ever.
    Ended,
}

/// Why a link does not come to serve a tether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotJoined {
    /// The tether has ended, or is about to.
    Ended,
    /// A link of another number serves it, and it has one at a time.
    Linked,
}

impl Tether {
    /// A tether with no link yet.
    pub fn new(
        id: TetherId,
        (session, ticket): (SessionId, [u8; TICKET_BYTES]),
        credential: CredentialId,
        links: Arc<TetherLinks>,
        (guard, nat): (Guard, Nat),
        memory: Share,
        now: Instant,
    ) -> Self {
        let (guard, nat) = (Mutex::new(guard), Mutex::new(nat));
        let service = Mutex::new(Service::Unlinked(now));
        Self { id, session, credential, ticket, links, guard, nat, _memory: memory, service }
    }

    /// Its lane in every stage whose lanes are tethers.
    pub fn lane(&self) -> LaneId {
        LaneId(self.id.0)
    }

    /// A link that its client gave `number` serves it, in place of the one of that number, which is returned.
    ///
    /// # Errors
    /// [`NotJoined`]; nothing is changed then.
    pub fn join(&self, link: &Arc<Link>, number: u8) -> Result<Vec<Arc<Link>>, NotJoined> {
        let mut service = self.service();
        match *service {
            Service::Finished | Service::Ended => return Err(NotJoined::Ended),
            Service::Linked(other) if other != number => return Err(NotJoined::Linked),
            Service::Linked(_) | Service::Unlinked(_) => {}
        }
        *service = Service::Linked(number);
        Ok(self.links.replace(Arc::clone(link)))
    }

    /// From now on none of its packets may be larger, either way: what WELCOME says. A client that resumes may say another
    /// MTU than before.
    pub fn set_mtu_bytes(&self, mtu_bytes: u16) {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).set_mtu_bytes(mtu_bytes);
        self.nat.lock().unwrap_or_else(PoisonError::into_inner).set_mtu_bytes(mtu_bytes);
    }

    /// A link serves it no more; tells how many are left.
    pub fn leave(&self, link: &Arc<Link>, now: Instant) -> usize {
        let mut service = self.service();
        let left = self.links.leave(link);
        if left == 0 && matches!(*service, Service::Linked(_)) {
            *service = Service::Unlinked(now);
        }
        left
    }

    /// Whether a link serves it, and its user is not done.
    pub fn is_linked(&self) -> bool {
        matches!(*self.service(), Service::Linked(_))
    }

    /// Since when it has had no link, where it waits for its user to come back.
    pub fn unlinked_since(&self) -> Option<Instant> {
        if let Service::Unlinked(since) = *self.service() { Some(since) } else { None }
    }

    /// Its user is done: it is to end, and nobody resumes it.
    pub fn finish(&self) {
        let mut service = self.service();
        if !matches!(*service, Service::Ended) {
            *service = Service::Finished;
        }
    }

    /// Ends it where its user is done or it has had no link for longer than `linger`; from then on none can join. `true` once.
    pub fn end(&self, now: Instant, linger: Duration) -> bool {
        let mut service = self.service();
        let is_over = match *service {
            Service::Linked(_) | Service::Ended => false,
            Service::Unlinked(since) => now.saturating_duration_since(since) > linger,
            Service::Finished => true,
        };
        if is_over {
            *service = Service::Ended;
        }
        is_over
    }

    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
