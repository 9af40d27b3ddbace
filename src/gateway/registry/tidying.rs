//! What is to be done now and then: handshakes that take too long, links that went silent, tethers that are over,
//! mappings whose time is over, places that have rested.
//!
//! Who is silent is not touched: a tidying costs what those make who are not, however many are here.

use std::collections::{BTreeMap, HashSet};

use super::admission::refusal;
use super::*;
use crate::credentials::Version;
use crate::gateway::census::Census;
use crate::io::heap;
use crate::nat::Nat;
use crate::stages::accept::{Doorkeeper as _, RETRY_AFTER_MS};
use crate::wire::capsule::RefusalReason;

/// Tethers that are looked over in one tidying. Where little moves, each is out of the processor's caches, and the first
/// touch is what a look costs: 4 µs and more on a virtual machine (decision 21), so 10 ms.
const LOOKED_OVER_MAX: usize = 2_500;

/// A link is closed that was silent for so many keep-alives: it was asked for a sign of life twice.
const SILENT_KEEP_ALIVES: u32 = 3;

/// Mappings ended in one tidying of a tether, so that its lock is not held for long.
const EXPIRIES_A_TIDYING: usize = 256;

/// The allocator is asked for what it has free where that is so much: it looks at all of its heap, and less is soon in use again.
const RETURNED_BYTES_MIN: u64 = 1 << 20;

/// How long the place of a tether that has ended stays empty, so that a batch which was on its way meets nobody, and not
/// the next owner of lease and ports. No batch is on its way as long.
pub(super) const PLACE_REST: Duration = Duration::from_secs(1);

/// Memory of the look at a link, whether there is one or not.
pub const LOOK_BYTES: usize = size_of::<Option<Instant>>();

/// What waits for the next look. All of it stands close together: in a gateway with thousands of silent links to touch each
/// of them once a second costs more than all else.
#[derive(Debug, Default)]
pub(super) struct Tidying {
    /// At each link's lane, from when on it may be silent for too long, as far as is known.
    looks_at: Vec<Option<Instant>>,
    /// Tethers that lost their last link, or whose users are done.
    may_be_over: HashSet<LaneId>,
    /// Places of tethers that have ended, and since when.
    resting: Vec<(Instant, LaneId)>,
    /// The credentials' file as it was at the last look, and as it was when tethers were last compared with it.
    credentials: (Option<Version>, Option<Version>),
}

/// A round over the tethers that hold anything, some at a time.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Tethers that held something when last looked over, or have been stirred since; and whether they have been.
    pub(super) awake: BTreeMap<LaneId, bool>,
    /// Where it goes on, and what it has found so far.
    next: LaneId,
    census: Census,
}

impl Tidying {
    /// Nothing waits yet; those who come are judged by this version of the credentials.
    pub(super) fn new(credentials: Option<Version>) -> Self {
        Self { credentials: (credentials, credentials), ..Self::default() }
    }

    /// Whether tethers are to be compared with the credentials anew: a version that has stood for one look. A file that is
    /// being replaced may be missing for a moment, and nobody is thrown out for that.
    fn has_new(&mut self, credentials: Option<Version>) -> bool {
        let (seen, compared) = &mut self.credentials;
        let stands = std::mem::replace(seen, credentials) == credentials;
        stands && std::mem::replace(compared, credentials) != credentials
    }

    /// The link at `lane` is to be looked at from `at` on.
    pub(super) fn look_at(&mut self, lane: LaneId, at: Instant) {
        let lane = lane.0 as usize;
        if self.looks_at.len() <= lane {
            self.looks_at.resize(lane + 1, None);
        }
        self.looks_at[lane] = Some(at);
    }

    /// Links that are to be looked at by `now`. Each is told once.
    fn due(&mut self, now: Instant) -> Vec<LaneId> {
        let is_due = |(lane, at): (u32, &mut Option<Instant>)| at.take_if(|at| *at <= now).map(|_| LaneId(lane));
        (0..).zip(&mut self.looks_at).filter_map(is_due).collect()
    }

    /// The tether at `lane` has lost its last link, or its user is done.
    pub(super) fn may_be_over(&mut self, lane: LaneId) {
        self.may_be_over.insert(lane);
    }

    /// The tether at `lane` has ended.
    pub(super) fn rests(&mut self, now: Instant, lane: LaneId) {
        self.resting.push((now, lane));
    }
}

impl Registry {
    // Held for a moment each time: what is done with what was found may find more to do.
    pub(super) fn tidying(&self) -> MutexGuard<'_, Tidying> {
        self.tidying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tidies up. One thread does, once a second.
    pub fn tidy(&self, now: Instant) {
        self.free_places(now);
        self.give_up_handshakes(now);
        self.end_revoked();
        self.end_tethers(now);
        self.look_at_links(now);
        self.look_over_tethers(now);
        if self.pool.trim() >= RETURNED_BYTES_MIN {
            heap::return_to_kernel();
        }
    }

    /// Gives the places of tethers that ended some time ago to others.
    fn free_places(&self, now: Instant) {
        self.tidying().resting.retain(|&(since, lane)| {
            let rests = now.saturating_duration_since(since) < PLACE_REST;
            if !rests {
                self.tethers.release(lane);
            }
            rests
        });
    }

    fn give_up_handshakes(&self, now: Instant) {
        if self.metrics.handshakes.get() == 0 {
            return;
        }
        let is_late =
            |pending: &Pending| now.saturating_duration_since(pending.link().born()) > self.terms.handshake_timeout;
        for pending in self.pending.those(is_late) {
            if pending.give_up() {
                self.refuse_the_slow(pending.link());
            }
        }
    }

    /// A handshake has taken too long.
    fn refuse_the_slow(&self, link: &Arc<Link>) {
        if link.subprotocol().is_some() {
            let refusal = refusal(RefusalReason::BadHandshake, RETRY_AFTER_MS, "the handshake took too long");
            link.outbox().control(|out| refusal.append(out));
            link.close(refusal.reason.close_code(), refusal.reason.label(), &self.pool);
        }
        self.turn_away(link, accept::Reason::TooSlow);
    }

    /// Ends the tethers of credentials that are there no more.
    fn end_revoked(&self) {
        let credentials = self.credentials.version();
        if !self.tidying().has_new(credentials) {
            return;
        }
        let known = self.credentials.known_ids();
        for tether in self.tethers.those(|tether| !known.contains(tether.credential.as_str())) {
            info!(tether = tether.id.0, credential = %tether.credential, "the token was revoked");
            let links = tether.links.all();
            self.finish(&tether);
            links.iter().for_each(|link| self.close_with(link, CloseReason::Revoked, "the token was revoked"));
        }
    }

    /// Ends the tether that has had no link for longest, so that another finds room; of those of one credential, where it
    /// is the one that has as many as it may have.
    pub(super) fn end_longest_unlinked(&self, now: Instant, of: Option<&CredentialId>) -> bool {
        let lanes: Vec<LaneId> = self.tidying().may_be_over.iter().copied().collect();
        let meant = lanes
            .into_iter()
            .filter_map(|lane| self.tethers.get(lane))
            .filter(|tether| of.is_none_or(|credential| tether.credential == *credential));
        let unlinked = meant.filter_map(|tether| tether.unlinked_since().map(|since| (since, tether)));
        let longest = unlinked.min_by_key(|(since, _)| *since).map(|(_, tether)| tether);
        let Some(tether) = longest.filter(|tether| tether.end(now, Duration::ZERO)) else { return false };
        self.forget_tether(now, &tether);
        true
    }

    /// Where every place is taken, ends one tether that has no link. Its place has to rest before whoever asks again finds it;
    /// as long as one does, no other has to end.
    pub(super) fn make_room(&self, now: Instant) {
        if self.tidying().resting.is_empty() {
            self.end_longest_unlinked(now, None);
        }
    }

    /// Ends tethers whose users are done, and those that had no link for too long.
    fn end_tethers(&self, now: Instant) {
        // A copy: who comes meanwhile and finds no room looks for a tether among those that wait.
        let lanes: Vec<LaneId> = self.tidying().may_be_over.iter().copied().collect();
        for lane in lanes {
            let tether = self.tethers.get(lane);
            if let Some(tether) = tether.as_ref().filter(|tether| tether.end(now, self.terms.linger)) {
                self.forget_tether(now, tether);
            } else if tether.is_some_and(|tether| !tether.is_linked()) {
                continue;
            }
            self.wait_no_more(lane);
        }
    }

    /// Nobody waits at `lane` for its user to come back, unless a link has left since that was found.
    fn wait_no_more(&self, lane: LaneId) {
        let mut tidying = self.tidying();
        // Looked at under the lock, which whoever leaves takes afterwards.
        if self.tethers.get(lane).is_none_or(|tether| tether.is_linked()) {
            tidying.may_be_over.remove(&lane);
        }
    }

    /// Asks silent links for a sign of life, and closes those that gave none.
    fn look_at_links(&self, now: Instant) {
        let due = self.tidying().due(now);
        let keep_alive = self.terms.keep_alive;
        for link in due.into_iter().filter_map(|lane| self.links.get(lane)).filter(|link| link.is_open()) {
            let silence = now.saturating_duration_since(link.heard());
            if silence >= SILENT_KEEP_ALIVES * keep_alive {
                self.close_with(&link, CloseReason::TimedOut, "no sign of life");
                continue;
            }
            if silence >= keep_alive {
                link.outbox().ping();
                if let Some(owner) = link.owner() {
                    self.has_control(owner.lane());
                }
            }
            let since = if silence < keep_alive { link.heard() } else { now };
            self.tidying().look_at(link.lane(), since + keep_alive);
        }
    }

    /// Ends what is over of the tethers that are awake, and counts what is left. The figures are published once all of
    /// them were looked over.
    fn look_over_tethers(&self, now: Instant) {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let Round { awake, next, census } = &mut *round;
        awake.extend(self.stirred.drain().map(|lane| (lane, true)));
        let lanes: Vec<LaneId> = awake.range(*next..).map(|(&lane, _)| lane).take(LOOKED_OVER_MAX + 1).collect();
        let mut cut = Vec::new();
        for &lane in lanes.iter().take(LOOKED_OVER_MAX) {
            let tether = self.tethers.get(lane);
            let is_cut = tether.as_ref().is_some_and(|tether| tether.links.is_credit_cut());
            let holds = tether.as_ref().is_some_and(|tether| self.look_over(now, tether, census)) || is_cut;
            // What stirred it may be on its way, and be found at the next look.
            let was_stirred = awake.insert(lane, false).unwrap_or_default();
            if !holds && (tether.is_none() || !was_stirred) {
                awake.remove(&lane);
            }
            cut.extend(is_cut.then_some(lane));
        }
        *next = lanes.get(LOOKED_OVER_MAX).copied().unwrap_or_default();
        if lanes.len() <= LOOKED_OVER_MAX {
            self.held_mean_bytes.store(census.held_mean_bytes(), Ordering::Relaxed);
            std::mem::take(census).publish(&self.metrics);
        }
        cut.into_iter().for_each(|lane| self.has_control(lane));
    }

    /// Tells whether the tether holds mappings or packets.
    fn look_over(&self, now: Instant, tether: &Tether, census: &mut Census) -> bool {
        let mut nat = tether.nat.lock().unwrap_or_else(PoisonError::into_inner);
        nat.expire(now, EXPIRIES_A_TIDYING);
        self.count_made(&mut nat);
        census.add_nat(&nat);
        let has_mappings = nat.mappings() > 0;
        drop(nat);
        census.add_links(&tether.links) || has_mappings
    }

    /// Mappings are counted where they are made, and brought to the figures from there.
    pub(super) fn count_made(&self, nat: &mut Nat) {
        for (counter, made) in self.metrics.nat_mappings_made.each().into_iter().zip(nat.take_made()) {
            counter.add(made);
        }
    }
}
