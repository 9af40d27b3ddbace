//! What is told of a source's overload: when it begins and ends, and what was decided meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::metrics::StageMetrics;
use crate::metrics::decisions::{self, Change, Controller, Decision, Decisions};
use crate::runtime::{rest, ring};

/// Who tells of one source. Begin and end are remembered and logged, once each: an overload is over 200 ms after its last sign
/// at the earliest. What comes between is counted.
pub(super) struct Overload {
    /// The source with its direction.
    subject: String,
    decisions: Arc<Decisions>,
    /// Since when it has rested now and then, and for how long all in all; `None` where it does not.
    rested: Option<(Instant, Duration)>,
}

impl Overload {
    pub(super) fn new(metrics: &StageMetrics, decisions: Arc<Decisions>) -> Self {
        Self { subject: format!("{} {}", metrics.name, metrics.direction), decisions, rested: None }
    }

    /// The kernel may hold so many bytes from now on; `None` is what was configured.
    pub(super) fn tell_bound(
        &mut self,
        now: Instant,
        bytes: Option<u32>,
        why: Option<ring::Why>,
        seen: &ring::Observation,
    ) {
        let (change, reason) = match why {
            Some(ring::Why::InVain) => (Change::Down, decisions::READ_IN_VAIN),
            Some(ring::Why::Stands) => (Change::Down, decisions::QUEUE_STANDS),
            Some(ring::Why::Over) => (Change::Up, decisions::OVERLOAD_OVER),
            Some(ring::Why::TooMuch) => {
                self.decisions.count(Controller::Ring, Change::Down, decisions::HOLDS_TOO_MUCH);
                return;
            }
            Some(ring::Why::TooLittle) => {
                self.decisions.count(Controller::Ring, Change::Up, decisions::HOLDS_TOO_LITTLE);
                return;
            }
            None => return,
        };
        let bound = bytes.map_or("as configured".to_owned(), |bytes| format!("{bytes} bytes"));
        self.note(now, Controller::Ring, (change, reason), format!("holds {bound}: {seen}"));
        if let Some((since, rested)) = self.rested.filter(|_| bytes.is_none()) {
            self.rested = None;
            let of = now.saturating_duration_since(since);
            let inputs = format!("rested for {rested:.1?} of {of:.1?}: {seen}");
            self.note(now, Controller::Rest, (Change::Up, decisions::OVERLOAD_OVER), inputs);
        }
    }

    /// The source rests for so long now.
    pub(super) fn tell_rest(
        &mut self,
        now: Instant,
        rests: Duration,
        why: Option<rest::Why>,
        seen: &ring::Observation,
    ) {
        let reason = match why {
            Some(rest::Why::InVain) => decisions::READ_IN_VAIN,
            Some(rest::Why::Refused) => decisions::REFUSED,
            Some(rest::Why::Dry) => decisions::NOTHING_LEFT,
            None => return,
        };
        if let Some((_, rested)) = &mut self.rested {
            *rested += rests;
            self.decisions.count(Controller::Rest, Change::Down, reason);
        } else {
            self.rested = Some((now, rests));
            self.note(now, Controller::Rest, (Change::Down, reason), format!("rests for {rests:.1?}: {seen}"));
        }
    }

    fn note(&self, now: Instant, controller: Controller, (change, reason): (Change, &'static str), inputs: String) {
        let subject = self.subject.clone();
        debug!(subject, controller = controller.label(), change = change.label(), reason, inputs, "decided");
        self.decisions.note(now, Decision { controller, subject: subject.into(), change, reason, inputs });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: ring::Observation = ring::Observation {
        waited: None,
        dropped: 0,
        read: 64,
        taken_in: 10,
        has_more: true,
        is_in_vain: true,
        rests: true,
    };

    #[test]
    fn an_overload_is_told_when_it_begins_and_when_it_ends_and_counted_meanwhile() {
        let decisions = Arc::<Decisions>::default();
        let mut overload = Overload::new(&StageMetrics::new("raw-recv", "downlink", &[]), Arc::clone(&decisions));
        let (start, ms) = (Instant::now(), Duration::from_millis(1));
        overload.tell_bound(start, Some(1 << 20), Some(ring::Why::InVain), &SEEN);
        overload.tell_rest(start, ms, Some(rest::Why::InVain), &SEEN);
        for (at, why) in [(1, Some(rest::Why::Refused)), (2, None), (3, Some(rest::Why::Dry))] {
            overload.tell_rest(start + at * ms, ms, why, &SEEN);
        }
        overload.tell_bound(start + 5 * ms, Some(1 << 19), Some(ring::Why::TooMuch), &SEEN);
        overload.tell_bound(start + 10 * ms, Some(1 << 20), Some(ring::Why::TooLittle), &SEEN);
        overload.tell_bound(start + 300 * ms, None, Some(ring::Why::Over), &SEEN);
        let seen = "64 packets read, 10 of them taken in, more behind them";
        let last = decisions.last(start + 300 * ms);
        let told: Vec<_> =
            last.iter().map(|(_, it)| (it.controller, it.change, it.reason, it.inputs.clone())).collect();
        assert_eq!(
            told,
            [
                (Controller::Ring, Change::Up, decisions::OVERLOAD_OVER, format!("holds as configured: {seen}")),
                (
                    Controller::Rest,
                    Change::Up,
                    decisions::OVERLOAD_OVER,
                    format!("rested for 3.0ms of 300.0ms: {seen}")
                ),
                (Controller::Ring, Change::Down, decisions::READ_IN_VAIN, format!("holds 1048576 bytes: {seen}")),
                (Controller::Rest, Change::Down, decisions::READ_IN_VAIN, format!("rests for 1.0ms: {seen}")),
            ]
        );
        assert!(last.iter().all(|(_, it)| it.subject == "raw-recv downlink"));
        for (controller, change, reason, count) in [
            (Controller::Ring, Change::Down, decisions::HOLDS_TOO_MUCH, 1),
            (Controller::Ring, Change::Up, decisions::HOLDS_TOO_LITTLE, 1),
            (Controller::Ring, Change::Down, decisions::READ_IN_VAIN, 1),
            (Controller::Rest, Change::Down, decisions::READ_IN_VAIN, 1),
            (Controller::Rest, Change::Down, decisions::REFUSED, 1),
            (Controller::Rest, Change::Down, decisions::NOTHING_LEFT, 1),
        ] {
            assert_eq!(decisions.counted(controller, change, reason), count, "{controller:?} {change:?} {reason}");
        }
        // Another one, in which it does not rest.
        overload.tell_bound(start + 400 * ms, Some(1 << 20), Some(ring::Why::Stands), &SEEN);
        overload.tell_bound(start + 600 * ms, None, Some(ring::Why::Over), &SEEN);
        assert_eq!(decisions.counted(Controller::Rest, Change::Up, decisions::OVERLOAD_OVER), 1);
    }
}
