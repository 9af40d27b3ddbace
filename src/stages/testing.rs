//! For the stages' tests: a next stage that is the test's own.

use std::sync::Weak;
use std::time::Instant;

use crate::runtime::lanes::{Batch, Entry};
use crate::runtime::port::{Behind, Dropped, Offer, Port, Resume, Upstream};

/// A port where everything offered is the function's, which tells how much of it was dropped. Nothing runs on, and nobody is
/// parked.
pub(super) struct Takes<F>(pub(super) F);

impl<T, F: Fn(Offer, &mut Vec<Entry<T>>) -> Dropped + Send + Sync> Port<T> for Takes<F> {
    fn offer(
        &self,
        _now: Instant,
        offer: Offer,
        items: &mut Vec<Entry<T>>,
        _entered: &mut Batch<T>,
        _refused: &mut Vec<Entry<T>>,
    ) -> Dropped {
        (self.0)(offer, items)
    }

    fn run(&self, _now: Instant, _behind: Behind, _entered: &mut Batch<T>) -> Dropped {
        unreachable!("nothing entered")
    }

    fn attach(&self, _upstream: Weak<dyn Resume>) -> Upstream {
        unreachable!("nothing is parked")
    }
}
