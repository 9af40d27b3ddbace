//! Links that owe an acknowledgement which may wait a moment, or credit which is there only once something has left; and what
//! the thread does that sends them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Registry;
use crate::link::{ACK_DELAY_MS, Link};
use crate::stages::ws_decode::{LinkKeeper as _, tell_received};
use crate::tether_links::TetherLinks;

/// How often tethers are looked for that wait for credit, and of whose packets enough has left.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// How long a link that owes credit, and has none to give, is left alone where nothing is noted of its tether: the longer the
/// more there are. To look at each of a thousand every 2 ms would take a quarter of a core.
const PUT_OFF_A_LINK: Duration = Duration::from_micros(128);
const PUT_OFF_MAX: Duration = Duration::from_millis(128);

impl Registry {
    /// Sends the acknowledgements that waited long enough, and credit to those that may wait for it. Waits up to `limit` for
    /// one to be due, or until `is_over`.
    pub fn send_acks(&self, limit: Duration, is_over: impl Fn() -> bool) {
        let (acks, put_off) = self.acks.wait(limit, is_over);
        let now = Instant::now();
        for link in acks {
            let owner = link.owner().filter(|_| link.is_open());
            let has_credit =
                |owner: &Arc<TetherLinks>| owner.owes_credit(&link) && owner.has_credit_to_tell(now, &link);
            if !link.ack_is_due(owner.is_none_or(has_credit)) {
                self.ack_later(&link);
            } else if let Some(owner) = owner {
                self.tell_or_put_off(now, owner, &link);
            }
        }
        for link in put_off {
            link.takes_up_credit();
            if let Some(owner) = link.owner().filter(|_| link.is_open()) {
                self.tell_or_put_off(now, owner, &link);
            }
        }
        for owner in self.half_left.drain().filter_map(|lane| self.tether_links.get(lane)) {
            if let Some(link) = owner.to_send() {
                self.tell_or_put_off(now, &owner, &link);
            }
        }
    }

    /// Has [`Registry::send_acks`] look whether it is over.
    pub fn wake_acks(&self) {
        self.acks.wake();
    }

    /// Tells the peer what there is to tell. A link that owes credit after that is come back to when half of what its tether has
    /// inside has left, and after a while in any case: short memory holds credit back, too.
    fn tell_or_put_off(&self, now: Instant, owner: &TetherLinks, link: &Arc<Link>) {
        let owes_credit = owner.owes_credit(link);
        if owes_credit {
            owner.account().watch();
        }
        if link.unacknowledged_bytes() > 0 || owes_credit && owner.has_credit_to_tell(now, link) {
            tell_received(self, now, link, owner, &self.pool);
        }
        if owner.owes_credit(link) && link.puts_off_credit() {
            self.acks.put_off(Arc::clone(link));
        }
    }
}

/// Links that owe something.
#[derive(Debug, Default)]
pub(super) struct Acks {
    owing: Mutex<Owing>,
    came: Condvar,
    /// The first ones have come, and nobody was woken for them yet.
    are_new: AtomicBool,
}

#[derive(Debug, Default)]
struct Owing {
    /// An acknowledgement.
    acks: Vec<Arc<Link>>,
    /// Credit, of which there is none.
    credit: Vec<Arc<Link>>,
    /// When those are to be looked at.
    credit_at: Option<Instant>,
    /// How many there were the last time.
    credit_count: u32,
}

impl Acks {
    fn owing(&self) -> MutexGuard<'_, Owing> {
        self.owing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `link` owes an acknowledgement. Nobody is woken before [`Acks::wake_for_new`].
    pub(super) fn note(&self, link: &Arc<Link>) {
        let mut owing = self.owing();
        owing.acks.push(Arc::clone(link));
        if owing.acks.len() == 1 {
            self.are_new.store(true, Ordering::Release);
        }
    }

    /// Notes that `link` owes credit and has none to give. Nobody is woken for it.
    pub(super) fn put_off(&self, link: Arc<Link>) {
        let mut owing = self.owing();
        owing.credit.push(link);
        let put_off = (PUT_OFF_A_LINK * owing.credit_count).clamp(LOOK_EVERY, PUT_OFF_MAX);
        owing.credit_at.get_or_insert_with(|| Instant::now() + put_off);
    }

    /// Wakes who waits, where some were noted that nobody was woken for.
    pub(super) fn wake_for_new(&self) {
        if self.are_new.load(Ordering::Relaxed) && self.are_new.swap(false, Ordering::AcqRel) {
            self.came.notify_one();
        }
    }

    /// Has who waits look whether it is over.
    pub(super) fn wake(&self) {
        // Under the lock, or it could come between the look and the wait.
        let _owing = self.owing();
        self.came.notify_all();
    }

    /// Those that owe an acknowledgement, once they have waited as long as they may, and those that were put off, once their
    /// time has come. Waits up to `limit` for one, or until `is_over`.
    pub(super) fn wait(&self, limit: Duration, is_over: impl Fn() -> bool) -> (Vec<Arc<Link>>, Vec<Arc<Link>>) {
        let owing = self.owing();
        let limit = if owing.credit.is_empty() { limit } else { limit.min(LOOK_EVERY) };
        let waits = |owing: &mut Owing| owing.acks.is_empty() && !is_over();
        let (mut owing, _) = self.came.wait_timeout_while(owing, limit, waits).unwrap_or_else(PoisonError::into_inner);
        if !owing.acks.is_empty() {
            drop(owing);
            std::thread::sleep(Duration::from_millis(ACK_DELAY_MS));
            owing = self.owing();
        }
        let has_come = owing.credit_at.take_if(|at| *at <= Instant::now()).is_some();
        let credit = if has_come { std::mem::take(&mut owing.credit) } else { Vec::new() };
        if has_come {
            owing.credit_count = credit.len() as u32;
        }
        (std::mem::take(&mut owing.acks), credit)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::link::testing::connected;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn who_waits_for_acknowledgements_sleeps_until_it_is_woken_for_all_that_were_noted() {
        let (acks, (link, _peer)) = (Arc::new(Acks::default()), connected());
        acks.note(&link);
        acks.note(&link);
        assert!(acks.are_new.load(Ordering::Relaxed), "they were noted, and nobody was woken");
        let (told, due) = channel();
        let waits = Arc::clone(&acks);
        let thread = std::thread::spawn(move || {
            for _ in 0..2 {
                told.send(waits.wait(PATIENCE, || false).0.len()).expect("a test that waits");
            }
        });
        assert_eq!(due.recv_timeout(PATIENCE), Ok(2), "what is there needs no waking");
        acks.note(&link);
        acks.wake_for_new();
        assert_eq!(due.recv_timeout(PATIENCE), Ok(1));
        thread.join().expect("no panic");
        assert!(!acks.are_new.load(Ordering::Relaxed));
        acks.note(&link);
        acks.note(&link);
        acks.wake_for_new();
        assert!(!acks.are_new.load(Ordering::Relaxed), "woken once for both");
    }

    #[test]
    fn a_link_that_has_no_credit_to_give_is_left_alone_for_a_while_and_then_told_once() {
        let (acks, (link, _peer)) = (Acks::default(), connected());
        let (begun, mut waits) = (Instant::now(), 0);
        acks.put_off(link);
        let told = loop {
            waits += 1;
            let (none, told) = acks.wait(PATIENCE, || false);
            assert!(none.is_empty() && waits <= 2, "nothing but it is waited for");
            if !told.is_empty() {
                break told;
            }
        };
        assert_eq!(told.len(), 1);
        assert!(begun.elapsed() >= LOOK_EVERY);
        assert!(acks.wait(Duration::ZERO, || true).1.is_empty());
    }
}
