//! Shows the ladder what the gateway holds and what its stages do, and has everybody know the rung.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::ladder::{self, Ladder, Observation, Step};
use super::registry::Registry;
use crate::metrics::decisions::{self, Change, Controller, Decision};
use crate::metrics::{Metrics, StageMetrics};
use crate::overload::{Cause, Rung};
use crate::runtime::work::{NOT_ADMITTED, RUNTIME_REASONS};

/// Who looks after the ladder.
#[derive(Debug)]
pub(super) struct Overseer {
    ladder: Ladder,
    /// What the stages had not admitted at the last look.
    refused: u64,
}

impl Overseer {
    pub(super) fn new(ladder: ladder::Settings) -> Self {
        Self { ladder: Ladder::new(ladder), refused: 0 }
    }

    /// Looks at the gateway, and takes the steps that this leads to.
    pub(super) fn look(&mut self, now: Instant, registry: &Registry, metrics: &Metrics) {
        let budget = registry.pool.budget();
        let seen = Observation {
            memory_bytes: budget.needed_bytes(),
            memory_limit_bytes: budget.limit_bytes(),
            sheds: self.sheds(&metrics.stages),
        };
        while let Some(step) = self.ladder.look(now, seen) {
            registry.trim_downlink(step.to == Rung::TrimLargest);
            if let Some(counter) = registry.metrics.overload_steps.at(step.cause as usize) {
                counter.inc();
            }
            let (from, to, cause) = (step.from.label(), step.to.label(), step.cause.label());
            let Observation { memory_bytes, memory_limit_bytes, .. } = seen;
            let sheds = shedding(&metrics.stages);
            registry.metrics.decisions.note(now, decision(step, seen, &sheds));
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

impl Overseer {
    /// Whether somebody has lost by a stage's shedding since the last look: something was not admitted, or waits for a
    /// stage that admits less. A limit that nobody reaches is no overload.
    fn sheds(&mut self, stages: &[Arc<StageMetrics>]) -> bool {
        let refused = stages.iter().map(|stage| stage.dropped_for(RUNTIME_REASONS[NOT_ADMITTED])).sum();
        let has_refused = std::mem::replace(&mut self.refused, refused) < refused;
        has_refused || stages.iter().any(|stage| stage.shedding.get() > 0 && stage.lanes_parked.get() > 0)
    }
}

/// A step, as it is told with the decisions of the other controllers.
fn decision(step: Step, seen: Observation, sheds: &[&str]) -> Decision {
    let (change, reason) = match step.cause {
        Cause::Memory => (Change::Up, decisions::MEMORY_SHORT),
        Cause::Shedding => (Change::Up, decisions::OVERLOAD_LASTS),
        Cause::Calm => (Change::Down, decisions::OVERLOAD_OVER),
    };
    let percent = 100 * seen.memory_bytes / seen.memory_limit_bytes.max(1);
    let sheds = if sheds.is_empty() { "no stage sheds".to_owned() } else { format!("shedding: {}", sheds.join(", ")) };
    let inputs =
        format!("from {} to {}: {percent} % of the memory in use, {sheds}", step.from.label(), step.to.label());
    Decision { controller: Controller::Ladder, subject: "gateway".into(), change, reason, inputs }
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

    #[test]
    fn every_step_is_told_to_those_who_act_on_it_and_counted() {
        let registry = registry(|_| {});
        let metrics = Metrics::new(vec![StageMetrics::new("ip-parse", "uplink", &[])], Arc::clone(&registry.metrics));
        let (mut overseer, start) = (Overseer::new(ladder::Settings::DEFAULT), Instant::now());
        let mut held = registry.pool.budget().share(Part::Messages);
        assert!(held.set(registry.pool.limit_bytes() * 86 / 100));
        overseer.look(start, &registry, &metrics);
        assert_eq!((registry.overload.rung(), registry.metrics.overload_rung.get()), (Rung::NoNewMappings, 2));
        drop(held);
        // A limit that nobody reaches is no overload.
        metrics.stages[0].shedding.set(1);
        for at in 0..=20 {
            overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
        }
        assert_eq!(registry.overload.rung(), Rung::Calm, "memory is there again");
        let start = start + 21 * super::super::LOOK_EVERY;
        metrics.stages[0].lanes_parked.set(1);
        for at in 0..=60 {
            overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
        }
        assert_eq!(registry.overload.rung(), Rung::TrimLargest);
        metrics.stages[0].lanes_parked.set(0);
        metrics.stages[0].shedding.set(0);
        for at in 61..100 {
            overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
        }
        assert_eq!((registry.overload.rung(), registry.metrics.overload_rung.get()), (Rung::Calm, 0));
        let steps = [("memory", 2), ("shedding", 3), ("calm", 5)];
        assert_eq!(registry.metrics.overload_steps.counts(), steps);
        let told = registry.metrics.decisions.last(start);
        assert_eq!(told.len(), 10);
        assert_eq!((told[0].1.reason, told[0].1.change), (decisions::OVERLOAD_OVER, Change::Down));
        assert!(told[9].1.inputs.starts_with("from calm to no_new_tethers: 85 % of the memory"), "{:?}", told[9]);
    }
}
