//! Links that owe an acknowledgement which may wait a moment, and the wait of the thread that sends them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::link::{ACK_DELAY_MS, Link};

/// Links that owe an acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Acks {
    due: Mutex<Vec<Arc<Link>>>,
    came: Condvar,
    /// The first ones have come, and nobody was woken for them yet.
    are_new: AtomicBool,
}

impl Acks {
    fn due(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `link` owes one. Nobody is woken before [`Acks::wake_for_new`].
    pub(super) fn note(&self, link: &Arc<Link>) {
        let mut due = self.due();
        due.push(Arc::clone(link));
        if due.len() == 1 {
            self.are_new.store(true, Ordering::Release);
        }
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
        let _due = self.due();
        self.came.notify_all();
    }

    /// Those that are due, once they have waited as long as they may. Waits up to `limit` for one, or until `is_over`.
    pub(super) fn wait(&self, limit: Duration, is_over: impl Fn() -> bool) -> Vec<Arc<Link>> {
        let waits = |due: &mut Vec<_>| due.is_empty() && !is_over();
        let (due, _) = self.came.wait_timeout_while(self.due(), limit, waits).unwrap_or_else(PoisonError::into_inner);
        if due.is_empty() {
            return Vec::new();
        }
        drop(due);
        std::thread::sleep(Duration::from_millis(ACK_DELAY_MS));
        std::mem::take(&mut *self.due())
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
                told.send(waits.wait(PATIENCE, || false).len()).expect("a test that waits");
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
}
