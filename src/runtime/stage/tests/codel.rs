//! The settings of CoDel, on their way into a stage's queue.

use super::*;
use crate::runtime::codel;
use crate::runtime::fq_codel::{FqCodel, OfFlow};

impl OfFlow for Item {
    fn flow(&self, _keys: &std::hash::RandomState) -> u64 {
        self.flow.into()
    }

    fn mark_congestion(&mut self) -> bool {
        false
    }
}

/// Sends what it gets.
struct Link;

impl Handler for Link {
    type Queue = FqCodel<Item>;
    type Out = Item;
    type Turned = Item;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        work.batch.items.drain(..).for_each(|entry| work.tally.sent.add(&entry.item));
    }
}

/// What is dropped of a flow of which all has waited for a second, in one batch.
fn dropped_in_a_batch(codel: codel::Settings) -> u64 {
    let settings = settings(1, 1_000, Rule::Always, WhenFull::Drop);
    let settings = Settings { threads: (0, 0), tuning: Tuning { codel, ..settings.tuning }, ..settings };
    let link = stage("link", settings, Link, None, None);
    let mut items = (0..100).map(|number| entry(0, 0, number)).collect();
    let offer = Offer { upstream: None, behind: Behind::Work, may_run_on: false };
    let long_ago = Instant::now() - Duration::from_secs(1);
    link.offer(long_ago, offer, &mut items, &mut Batch::default(), &mut Vec::new());
    link.serve(Duration::ZERO);
    link.metrics().drops[CODEL].get()
}

#[test]
fn a_stages_queue_drops_by_the_settings_that_it_was_given() {
    let by_default = codel::Settings::DEFAULT;
    assert_eq!(dropped_in_a_batch(by_default), 0, "an interval has not passed");
    assert_ne!(dropped_in_a_batch(codel::Settings { interval: Duration::ZERO, ..by_default }), 0);
    let target = Duration::from_secs(3_600);
    assert_eq!(
        dropped_in_a_batch(codel::Settings { target, interval: Duration::ZERO }),
        0,
        "it has not waited so long"
    );
}
