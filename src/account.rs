//! What a tether has inside the gateway's uplink, from ws-decode until the packet's buffer is given back, however the packet ends.
//! Credit is granted from what was given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lane_set::LaneSet;
use crate::runtime::lanes::LaneId;

/// The account of a tether.
#[derive(Debug)]
pub struct Account {
    entered: AtomicU64,
    left: AtomicU64,
    held: AtomicU64,
    /// Of what has left, how much is to be noted; `u64::MAX` while nobody waits for it.
    noted_at: AtomicU64,
    /// Where that is noted, and for whom; `None` where nobody asks.
    noted_in: Option<(LaneId, Arc<LaneSet>)>,
}

impl Default for Account {
    fn default() -> Self {
        let [entered, left, held] = [0; 3].map(AtomicU64::new);
        Self { entered, left, held, noted_at: AtomicU64::new(u64::MAX), noted_in: None }
    }
}

impl Account {
    /// The account of the tether of `lane`; what [`Account::watch`] waits for is noted in `set`.
    pub fn watched_in(lane: LaneId, set: Arc<LaneSet>) -> Self {
        Self { noted_in: Some((lane, set)), ..Self::default() }
    }

    /// Bytes that have left the gateway since the tether began.
    pub fn left_bytes(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Bytes that are inside now.
    pub fn inside_bytes(&self) -> u64 {
        // What left is read first: read later it could hold what entered in between, and too little would seem inside.
        let left = self.left.load(Ordering::Acquire);
        self.entered.load(Ordering::Relaxed).saturating_sub(left)
    }

    /// Memory that the buffers of what is inside hold: for small packets several times their bytes.
    pub fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// A packet has come, of so many bytes and so much memory.
    pub(crate) fn enter(&self, bytes: u64, held_bytes: u64) {
        self.entered.fetch_add(bytes, Ordering::Relaxed);
        self.held.fetch_add(held_bytes, Ordering::Relaxed);
    }

    /// One has left.
    pub(crate) fn leave(&self, bytes: u64, held_bytes: u64) {
        self.held.fetch_sub(held_bytes, Ordering::Relaxed);
        self.has_left(self.left.fetch_add(bytes, Ordering::SeqCst) + bytes);
    }

    /// Has it noted, once, when half of what is inside now has left. Where nothing is inside there is nothing to wait for. Who
    /// looks for what has left already looks after this, or what leaves in between is noted by nobody.
    pub fn watch(&self) {
        // Read once, or the mark could be beyond all that ever entered.
        let left_bytes = self.left.load(Ordering::SeqCst);
        let inside_bytes = self.entered.load(Ordering::Relaxed).saturating_sub(left_bytes);
        if inside_bytes > 0 {
            self.noted_at.store(left_bytes + inside_bytes.div_ceil(2), Ordering::SeqCst);
            // Who let the last of it leave may not have seen that, but then this sees that it has left.
            self.has_left(self.left.load(Ordering::SeqCst));
        }
    }

    fn has_left(&self, left_bytes: u64) {
        if left_bytes >= self.noted_at.load(Ordering::SeqCst)
            && self.noted_at.swap(u64::MAX, Ordering::SeqCst) != u64::MAX
            && let Some((lane, set)) = &self.noted_in
        {
            set.insert(*lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(7);

    fn watched() -> (Account, Arc<LaneSet>) {
        let set = Arc::new(LaneSet::new(8));
        (Account::watched_in(LANE, Arc::clone(&set)), set)
    }

    #[test]
    fn it_is_noted_once_that_half_of_what_was_inside_has_left() {
        let (account, set) = watched();
        let noted = || set.drain().collect::<Vec<_>>();
        (0..4).for_each(|_| account.enter(100, 256));
        account.leave(100, 256);
        account.watch();
        // What comes later is not waited for.
        account.enter(1_000, 2_048);
        account.leave(100, 256);
        assert_eq!((account.inside_bytes(), account.held_bytes(), noted()), (1_200, 2_560, vec![]));
        account.leave(100, 256);
        assert_eq!(noted(), [LANE], "200 of 300 bytes have left");
        account.leave(100, 256);
        account.leave(1_000, 2_048);
        assert_eq!((account.inside_bytes(), account.left_bytes(), noted()), (0, 1_400, vec![]), "once");
    }

    #[test]
    fn nothing_is_noted_of_who_has_nothing_inside_or_waits_for_nothing() {
        let (account, set) = watched();
        account.watch();
        account.enter(100, 256);
        account.leave(100, 256);
        assert_eq!(set.drain().count(), 0);
    }

    #[test]
    fn what_leaves_while_the_watch_begins_is_noted_all_the_same() {
        for _ in 0..2_000 {
            let (account, set) = watched();
            account.enter(100, 256);
            std::thread::scope(|scope| {
                scope.spawn(|| account.leave(100, 256));
                account.watch();
            });
            // It was noted, or was no longer inside when the watch began.
            let is_noted = set.drain().count() == 1;
            assert!(is_noted || account.noted_at.load(Ordering::SeqCst) == u64::MAX, "a watch that nobody answers");
        }
    }
}
