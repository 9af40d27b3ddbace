//! Shows the ladder what the gateway holds and what its stages do, and has everybody know the rung.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::ladder::{Ladder, Observation};
use super::registry::Registry;
use crate::metrics::{Metrics, StageMetrics};
use crate::overload::Cause;

/// Who looks after the ladder.
#[derive(Debug, Default)]
pub(super) struct Overseer {
    ladder: Ladder,
}

impl Overseer {
    /// Looks at the gateway, and takes the steps that this leads to.
    pub(super) fn look(&mut self, now: Instant, registry: &Registry, metrics: &Metrics) {
        let budget = registry.pool.budget();
        let seen = Observation {
            memory_bytes: budget.needed_bytes(),
            memory_limit_bytes: budget.limit_bytes(),
            sheds: metrics.stages.iter().any(|stage| stage.shedding.get() > 0),
        };
        while let Some(step) = self.ladder.look(now, seen) {
            if let Some(counter) = registry.metrics.overload_steps.at(step.cause as usize) {
                counter.inc();
            }
            let (from, to, cause) = (step.from.label(), step.to.label(), step.cause.label());
            let Observation { memory_bytes, memory_limit_bytes, .. } = seen;
            let sheds = shedding(&metrics.stages);
            if step.cause == Cause::Calm {
                info!(from, to, cause, memory_bytes, memory_limit_bytes, ?sheds, "overload: a rung down");
            } else {
                warn!(from, to, cause, memory_bytes, memory_limit_bytes, ?sheds, "overload: a rung up");
            }
        }
        let rung = self.ladder.rung();
        registry.metrics.overload_rung.set(rung as u64);
        registry.overload.set(rung, registry.large_bytes());
    }
}

/// The stages that shed.
fn shedding(stages: &[Arc<StageMetrics>]) -> Vec<&'static str> {
    stages.iter().filter(|stage| stage.shedding.get() > 0).map(|stage| stage.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Part;
    use crate::gateway::registry::testing::registry;
    use crate::overload::Rung;

    #[test]
    fn every_step_is_told_to_those_who_act_on_it_and_counted() {
        let registry = registry("overseer", |_| {});
        let metrics = Metrics::new(vec![StageMetrics::new("ip-parse", "uplink", &[])], Arc::clone(&registry.metrics));
        let (mut overseer, start) = (Overseer::default(), Instant::now());
        let mut held = registry.pool.budget().share(Part::Messages);
        assert!(held.set(registry.pool.limit_bytes() * 86 / 100));
        overseer.look(start, &registry, &metrics);
        assert_eq!((registry.overload.rung(), registry.metrics.overload_rung.get()), (Rung::NoNewMappings, 2));
        drop(held);
        metrics.stages[0].shedding.set(1);
        for at in 0..=4 {
            overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
        }
        assert_eq!(registry.overload.rung(), Rung::TrimLargest);
        metrics.stages[0].shedding.set(0);
        for at in 5..40 {
            overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
        }
        assert_eq!((registry.overload.rung(), registry.metrics.overload_rung.get()), (Rung::Calm, 0));
        let steps = [("memory", 2), ("shedding", 1), ("calm", 3)];
        assert_eq!(registry.metrics.overload_steps.counts(), steps);
    }
}
