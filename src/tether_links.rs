//! The links of a tether, and what they share: the window and the account. They come and go while the tether stays.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::account::Account;
use crate::credit::{self, Credit, Observation, Verdict};
use crate::lane_set::LaneSet;
use crate::link::{ACK_EVERY_BYTES, Link};
use crate::metrics::decisions::{self, Change, Controller, Decisions};
use crate::overload::Squeeze;
use crate::runtime::lanes::LaneId;
use crate::window::{self, Resized, Why, Window};

/// What a tether may have on its way.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// The most bytes that a link's window lets be sent and not yet acknowledged.
    pub send_bytes_max: u64,
    /// Bytes that the peer may have inside this end; `None` where this end grants no credit.
    pub credit_bytes: Option<u64>,
}

/// The links of one tether.
#[derive(Debug)]
pub struct TetherLinks {
    lane: LaneId,
    windows: Windows,
    window: window::Settings,
    account: Arc<Account>,
    links: Mutex<Vec<Arc<Link>>>,
    waits_for_window: AtomicBool,
    cut_bytes: AtomicU64,
    /// `None` where this end grants none.
    credit: Option<Mutex<Credit>>,
    /// What credit is cut by where memory is short; `None` where this end grants none.
    squeeze: Option<Squeeze>,
    /// Where it is noted that packets of the tether were here; `None` where nobody asks.
    stirred: Option<Arc<LaneSet>>,
    /// Where it is noted what was decided for it; `None` where nobody asks.
    decisions: Option<Arc<Decisions>>,
}

impl TetherLinks {
    /// No links yet, for the tether of lane `lane`.
    pub fn new(lane: LaneId, windows: Windows) -> Self {
        Self {
            lane,
            windows,
            window: window::Settings::DEFAULT,
            account: Arc::default(),
            links: Mutex::default(),
            waits_for_window: AtomicBool::new(false),
            cut_bytes: AtomicU64::new(u64::MAX),
            credit: windows.credit_bytes.map(|bytes| Mutex::new(Credit::new(credit::Settings::DEFAULT, bytes))),
            squeeze: None,
            stirred: None,
            decisions: None,
        }
    }

    /// Has the windows of its links go by `window`.
    #[must_use]
    pub fn with_window(self, window: window::Settings) -> Self {
        Self { window, ..self }
    }

    /// Has its credit, where this end grants any, go by `credit`.
    #[must_use]
    pub fn with_credit(self, credit: credit::Settings) -> Self {
        let credit = self.windows.credit_bytes.map(|bytes| Mutex::new(Credit::new(credit, bytes)));
        Self { credit, ..self }
    }

    /// Grants less credit where `squeeze` says so.
    #[must_use]
    pub fn squeezed_by(self, squeeze: Squeeze) -> Self {
        Self { squeeze: Some(squeeze), ..self }
    }

    /// Has it noted in `stirred` that packets of the tether were here.
    #[must_use]
    pub fn noted_in(self, stirred: Arc<LaneSet>) -> Self {
        Self { stirred: Some(stirred), ..self }
    }

    /// Has it noted in `decisions` what was decided for the tether.
    #[must_use]
    pub fn telling(self, decisions: Arc<Decisions>) -> Self {
        Self { decisions: Some(decisions), ..self }
    }

    /// Has it noted in `left` when what [`Account::watch`] waits for has left. To be said before anybody has its account.
    #[must_use]
    pub fn watched_in(self, left: Arc<LaneSet>) -> Self {
        Self { account: Arc::new(Account::watched_in(self.lane, left)), ..self }
    }

    /// Packets of the tether were here: what it holds is to be looked over.
    pub fn stir(&self) {
        if let Some(stirred) = &self.stirred {
            stirred.insert(self.lane);
        }
    }

    /// The tether's lane.
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// What the tether may have on its way.
    pub fn windows(&self) -> Windows {
        self.windows
    }

    /// The window of a link of it that begins.
    pub fn window(&self, begins: Instant) -> Window {
        Window::new(self.window, self.windows.send_bytes_max, begins)
    }

    /// What of the tether is inside this end.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Adds a link.
    pub fn join(&self, link: Arc<Link>) {
        self.locked().push(link);
    }

    /// Lets a link take the place of all others, which are returned.
    pub fn replace(&self, link: Arc<Link>) -> Vec<Arc<Link>> {
        std::mem::replace(&mut *self.locked(), vec![link])
    }

    /// Takes a link out; tells how many are left.
    pub fn leave(&self, link: &Arc<Link>) -> usize {
        let mut links = self.locked();
        links.retain(|other| !Arc::ptr_eq(other, link));
        links.len()
    }

    /// All links.
    pub fn all(&self) -> Vec<Arc<Link>> {
        self.locked().clone()
    }

    /// The link to send on: the first that is open.
    pub fn to_send(&self) -> Option<Arc<Link>> {
        self.locked().iter().find(|link| link.is_open()).cloned()
    }

    /// A link of the tether was read: see [`Credit::read`].
    pub fn was_read(&self, now: Instant, bytes: u64, signalled: Option<Instant>, leaves_more: bool) {
        if let Some(credit) = &self.credit {
            locked(credit).read(now, bytes, signalled, leaves_more);
        }
    }

    /// Up to where the peer may send on `link`: what it has sent and what is free of its credit.
    pub fn grant(&self, now: Instant, link: &Link) -> Option<u64> {
        // In this order: what is counted as received by now is inside or has left.
        let received = link.received_bytes();
        let inside = self.account.inside_bytes();
        let tethers = self.squeeze.as_ref().map_or(1, |squeeze| squeeze.overload.tethers());
        let round_trip = link.smallest_round_trip().unwrap_or_default();
        let seen = Observation { tethers, inside_bytes: inside, left_bytes: self.account.left_bytes(), round_trip };
        let (credit_bytes, verdict) = {
            let mut credit = locked(self.credit.as_ref()?);
            (credit.look(now, seen), credit.verdict())
        };
        self.tell_credit(now, credit_bytes, verdict);
        // Of bytes and of memory, whichever is more: small packets hold several times their bytes.
        Some(received + self.credit_bytes()?.saturating_sub(inside.max(self.account.held_bytes())))
    }

    fn tell_credit(&self, now: Instant, bytes: u64, verdict: Verdict) {
        let (change, reason, waits) = match verdict {
            Verdict::Keep => return,
            Verdict::Cut(waits) if waits.is_unread() => (Change::Down, decisions::WAITS_UNREAD, waits),
            Verdict::Cut(waits) => (Change::Down, decisions::WAITS_INSIDE, waits),
            Verdict::Raise(waits) => (Change::Up, decisions::WAITS_LITTLE, waits),
        };
        if let Some(decisions) = &self.decisions {
            let words = || (self.subject().into(), format!("{bytes} bytes: {waits}"));
            decisions.sample(now, (Controller::Credit, change, reason), words);
        }
    }

    /// The window of one of its links was changed. What it is halved by is told; it grows and shrinks all the time.
    pub fn tell_window(&self, now: Instant, resized: Resized) {
        let Some(decisions) = &self.decisions else { return };
        let (change, reason) = match resized.why {
            Why::TooShort => (Change::Up, decisions::TOO_SHORT),
            Why::Queue | Why::Step if resized.to_bytes > resized.from_bytes => (Change::Up, decisions::PATH_FASTER),
            Why::Step => (Change::Down, decisions::GREW_TOO_FAR),
            Why::Queue => (Change::Down, decisions::QUEUE_STANDS),
            Why::Others => (Change::Down, decisions::OTHERS_QUEUE),
            Why::Drain => (Change::Down, decisions::MEASURES),
        };
        if resized.is_halved() {
            let words = || (self.subject().into(), resized.to_string());
            decisions.sample(now, (Controller::Window, change, reason), words);
        } else {
            decisions.count(Controller::Window, change, reason);
        }
    }

    /// What the tether is called where its decisions are told.
    fn subject(&self) -> String {
        format!("tether {}", self.lane.0)
    }

    /// Whether the peer was last told of less than half of its credit, so that it may be waiting for more.
    pub fn owes_credit(&self, link: &Link) -> bool {
        let left = link.credit_told_bytes().saturating_sub(link.received_bytes());
        self.credit_bytes().is_some_and(|credit| left < credit / 2)
    }

    /// Whether there is enough new credit for a message of its own: half of it, or as much as is acknowledged at once. Were each
    /// packet that has left told of, the peer would answer each with a message of one packet (silly window syndrome, RFC 1122,
    /// 4.2.3.3).
    pub fn has_credit_to_tell(&self, now: Instant, link: &Link) -> bool {
        let new = self.grant(now, link).map_or(0, |granted| granted.saturating_sub(link.credit_told_bytes()));
        self.credit_bytes().is_some_and(|credit| new >= ACK_EVERY_BYTES.min(credit / 2))
    }

    /// Whether its credit was cut for what waited inside: it is to be looked at now and then though the peer, who may need
    /// more of it for a message, sends nothing.
    pub fn is_credit_cut(&self) -> bool {
        self.credit.as_ref().is_some_and(|credit| locked(credit).is_cut())
    }

    /// Its credit at present.
    pub fn credit_bytes(&self) -> Option<u64> {
        let full = locked(self.credit.as_ref()?).bytes();
        let squeezed = |squeeze: &Squeeze| squeeze.credit_bytes(full, self.account.held_bytes());
        Some(self.squeeze.as_ref().map_or(full, squeezed))
    }

    /// Nothing could be sent because the window was full.
    pub fn wait_for_window(&self) {
        // A swap and no store: where the window opened just before, this thread sees by what.
        self.waits_for_window.swap(true, Ordering::AcqRel);
    }

    /// The window has opened; `true` where somebody waited for it.
    pub fn window_opened(&self) -> bool {
        self.waits_for_window.swap(false, Ordering::AcqRel)
    }

    /// Super-packets above this are cut before they are sent, so that none holds up what comes behind it for long;
    /// `u64::MAX` where the link is fast. Until that is known, they are.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes.load(Ordering::Relaxed)
    }

    /// Whether the link is so slow that super-packets are cut, or may be: there a byte is dearer than its copy.
    pub fn is_slow(&self) -> bool {
        self.cut_bytes() != u64::MAX
    }

    /// Super-packets above `bytes` are cut from now on.
    pub fn set_cut_bytes(&self, bytes: u64) {
        self.cut_bytes.store(bytes, Ordering::Relaxed);
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        locked(&self.links)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link::testing::connected;
    use crate::packet::BufPool;

    #[test]
    fn credit_is_told_of_where_half_of_it_is_new_and_not_of_each_packet_that_leaves() {
        let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: Some(1 << 20) };
        let (tether, (link, _peer), pool) = (TetherLinks::new(LaneId(0), windows), connected(), BufPool::new(1 << 20));
        // Each holds 2,048 bytes of memory, which is more than its bytes, and what counts.
        let mut inside: Vec<_> = std::iter::repeat_with(|| pool.copy(&[7; 1_000]).expect("a buffer")).take(8).collect();
        inside.iter_mut().for_each(|buf| buf.charge(tether.account(), 1_004));
        assert_eq!(tether.credit_bytes(), Some(8 * 2_048), "all of it is used");
        // In one moment, so that nothing waits too long.
        let (now, mut told) = (Instant::now(), Vec::new());
        while inside.pop().is_some() {
            told.push((tether.owes_credit(&link), tether.has_credit_to_tell(now, &link)));
        }
        assert_eq!(told, [[(true, false); 3].as_slice(), &[(true, true); 5]].concat());
    }

    #[test]
    fn a_window_is_counted_by_the_reason_of_its_change_and_told_where_it_is_halved() {
        let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: None };
        let (decisions, now) = (Arc::<Decisions>::default(), Instant::now());
        let tether = TetherLinks::new(LaneId(7), windows).telling(Arc::clone(&decisions));
        for (why, to_bytes, change, reason) in [
            (Why::TooShort, 15_000, Change::Up, decisions::TOO_SHORT),
            (Why::Queue, 15_000, Change::Up, decisions::PATH_FASTER),
            (Why::Queue, 8_000, Change::Down, decisions::QUEUE_STANDS),
            (Why::Queue, 5_000, Change::Down, decisions::QUEUE_STANDS),
            (Why::Step, 15_000, Change::Up, decisions::PATH_FASTER),
            (Why::Step, 1_000, Change::Down, decisions::GREW_TOO_FAR),
            (Why::Others, 8_000, Change::Down, decisions::OTHERS_QUEUE),
            (Why::Drain, 1, Change::Down, decisions::MEASURES),
        ] {
            let counted = || decisions.counted(Controller::Window, change, reason);
            let before = counted();
            let queue = Duration::from_millis(30);
            tether.tell_window(now, Resized { why, from_bytes: 10_000, to_bytes, rate: 1e6, queue });
            assert_eq!(counted(), before + 1, "{why:?}");
        }
        let told: Vec<_> = decisions.last(now).into_iter().map(|(_, it)| it.inputs).collect();
        assert_eq!(told, ["5000 bytes in place of 10000: 1000000 bytes a second, a queue of 30.0ms"]);
    }

    #[test]
    fn a_credit_that_is_cut_and_raised_is_counted_by_its_reason_and_the_first_of_each_is_told() {
        let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: Some(1 << 20) };
        let (decisions, (link, _peer), pool) = (Arc::<Decisions>::default(), connected(), BufPool::new(1 << 20));
        let tether = TetherLinks::new(LaneId(7), windows).telling(Arc::clone(&decisions));
        let mut now = Instant::now();
        let mut looks = |tether: &TetherLinks, unread: Duration| {
            for _ in 0..10 {
                now += Duration::from_millis(20);
                tether.was_read(now, 0, Some(now - unread), false);
                tether.grant(now, &link);
            }
        };
        let mut inside = pool.copy(&[7; 1_000]).expect("a buffer");
        inside.charge(tether.account(), 1_004);
        looks(&tether, Duration::ZERO);
        drop(inside);
        looks(&tether, Duration::ZERO);
        looks(&tether, Duration::from_millis(30));
        let counted = |change, reason| decisions.counted(Controller::Credit, change, reason);
        let cuts = [decisions::WAITS_INSIDE, decisions::WAITS_UNREAD].map(|reason| counted(Change::Down, reason));
        // From 16 KiB to 2 KiB.
        assert_eq!((cuts, counted(Change::Up, decisions::WAITS_LITTLE)), ([3, 3], 3));
        let last = decisions.last(now);
        let told: Vec<_> = last.iter().map(|(_, it)| (&*it.subject, it.reason, &*it.inputs)).collect();
        assert_eq!(
            told[2],
            (
                "tether 7",
                decisions::WAITS_INSIDE,
                "8192 bytes: 1004 bytes inside, 0 leave within 20ms, unread for up to 0.0ns"
            )
        );
        assert_eq!((told.len(), told[1].1, told[0].1), (3, decisions::WAITS_LITTLE, decisions::WAITS_UNREAD));
    }
}
