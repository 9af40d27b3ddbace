//! Shows the ladder what the gateway holds and what its stages do, and has everybody know the rung.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::ladder::{self, Ladder, Observation, Step};
use super::registry::Registry;
use crate::metrics::decisions::{self, Change, Controller, Decision};
use crate::metrics::{Metrics, StageMetrics};
use crate::overload::{Cause, Rung};
use crate::pipeline::diagram;
use crate::stages::{Reason as _, raw_recv};

/// Who looks after the ladder.
#[derive(Debug)]
pub(super) struct Overseer {
    ladder: Ladder,
    /// What was lost in front of the first stage until the last look.
    lost_in_front: u64,
}

impl Overseer {
    pub(super) fn new(ladder: ladder::Settings) -> Self {
        Self { ladder: Ladder::new(ladder), lost_in_front: 0 }
    }

    /// Looks at the gateway, and takes the steps that this leads to.
    pub(super) fn look(&mut self, now: Instant, registry: &Registry, metrics: &Metrics) {
        let budget = registry.pool.budget();
        let seen = Observation {
            memory_bytes: budget.needed_bytes(),
            memory_limit_bytes: budget.limit_bytes(),
            sheds: self.sheds(metrics),
        };
        let before = self.ladder.rung();
        while let Some(step) = self.ladder.look(now, seen) {
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
        // What is above the trimmed limit goes in parts: at each look, as long as it lasts.
        if [before, rung].contains(&Rung::TrimLargest) {
            registry.trim_downlink(rung == Rung::TrimLargest);
        }
        registry.metrics.overload_rung.set(rung as u64);
        registry.overload.set(rung, registry.large_bytes());
    }
}

impl Overseer {
    /// Whether somebody has lost by shedding since the last look who had not got far more than others: something of theirs was
    /// not admitted, or waits for a stage that admits less. One that sends a hundred times as much is refused all the time, and
    /// no reason to close the door to others. A limit that nobody reaches is no overload.
    ///
    /// Or something was lost in the kernel's ring, which is kept short while the stages have more to do than they can. There
    /// nobody knows whose it is: where the stages turned away such a one of the downlink alone, it is put down to that one.
    fn sheds(&mut self, metrics: &Metrics) -> bool {
        metrics.refresh();
        let stages = &metrics.stages;
        let (mut from_internet, mut within_share) = (false, false);
        for stage in stages {
            let (any, within) = stage.losers.take();
            from_internet |= any && stage.direction == diagram::DOWNLINK;
            within_share |= within;
        }
        let late = stages.iter().map(|stage| stage.dropped_for(raw_recv::Reason::WaitedTooLong.label())).sum::<u64>();
        let lost_in_front = late + metrics.gateway.packet_socket_drops.get();
        let has_lost_in_front = std::mem::replace(&mut self.lost_in_front, lost_in_front) < lost_in_front;
        within_share || has_lost_in_front && !from_internet
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
    use std::sync::Weak;

    use super::*;
    use crate::budget::Part;
    use crate::gateway::registry::Stages;
    use crate::gateway::registry::testing::registry;
    use crate::ipv4;
    use crate::link::testing::{TETHER, capsules, open};
    use crate::packet_builder::{Builder, query, udp};
    use crate::runtime::attend::Attend;
    use crate::runtime::cores::Cores;
    use crate::runtime::inlet::Inlet;
    use crate::runtime::keeper::Keeper;
    use crate::runtime::lanes::Entry;
    use crate::runtime::stage::Kept as _;
    use crate::stages::ws_encode::testing::{InStage, stage, to_tether};
    use crate::tether_links::Windows;
    use crate::wire::capsule::{Capsule, Features};

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
        for at in 0..=60 {
            metrics.stages[0].losers.note(true, true);
            overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
        }
        assert_eq!(registry.overload.rung(), Rung::TrimLargest);
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

    #[test]
    fn one_that_sends_far_more_than_others_and_is_refused_closes_no_door_to_them() {
        let registry = registry(|_| {});
        let metrics = Metrics::new(vec![StageMetrics::new("ip-parse", "downlink", &[])], Arc::clone(&registry.metrics));
        let (mut overseer, start) = (Overseer::new(ladder::Settings::DEFAULT), Instant::now());
        let mut rung_after = |from: u32, until: u32, within_share| {
            for at in from..until {
                metrics.stages[0].losers.note(true, within_share);
                // Of the ring's losses nobody knows whose they are.
                metrics.gateway.packet_socket_drops.inc();
                overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
            }
            registry.overload.rung()
        };
        assert_eq!(rung_after(0, 200, false), Rung::Calm);
        assert_eq!(rung_after(200, 300, true), Rung::TrimLargest, "as soon as others lose it is an overload");
        let uplink = Metrics::new(vec![StageMetrics::new("ip-parse", "uplink", &[])], Arc::clone(&registry.metrics));
        let mut overseer = Overseer::new(ladder::Settings::DEFAULT);
        for at in 300..400 {
            uplink.stages[0].losers.note(true, false);
            uplink.gateway.packet_socket_drops.inc();
            overseer.look(start + at * super::super::LOOK_EVERY, &registry, &uplink);
        }
        assert_eq!(registry.overload.rung(), Rung::TrimLargest, "one of the uplink has no part in the ring's losses");
    }

    #[test]
    fn what_is_lost_in_front_of_the_first_stage_for_long_is_an_overload_too() {
        let registry = registry(|_| {});
        let raw_recv = StageMetrics::new("raw-recv", "downlink", &["no_buffer", "waited_too_long"]);
        let metrics = Metrics::new(vec![raw_recv], Arc::clone(&registry.metrics));
        let lose: [fn(&Metrics); 2] =
            [|metrics| metrics.gateway.packet_socket_drops.inc(), |metrics| metrics.stages[0].drops[1].inc()];
        for lose in lose {
            let (mut overseer, start) = (Overseer::new(ladder::Settings::DEFAULT), Instant::now());
            let mut look = |at: u32| {
                overseer.look(start + at * super::super::LOOK_EVERY, &registry, &metrics);
                registry.overload.rung()
            };
            let seconds = |seconds: u32| seconds * 1_000 / super::super::LOOK_EVERY.as_millis() as u32;
            look(0);
            let rungs: Vec<_> = (1..=seconds(6))
                .map(|at| {
                    lose(&metrics);
                    look(at)
                })
                .collect();
            assert_eq!((rungs[0], rungs.last()), (Rung::Calm, Some(&Rung::NoNewTethers)));
            let after: Vec<_> = (1..seconds(3)).map(|at| look(seconds(6) + at)).collect();
            assert_eq!(after.last(), Some(&Rung::Calm));
        }
    }

    /// What ws-encode's queue holds in the test below. A lane that is alone may hold half of it.
    const QUEUE_PACKETS: u64 = 64;

    #[test]
    fn on_the_highest_rung_what_waits_for_a_link_is_halved_at_the_cost_of_the_largest_flow_and_below_it_is_not() {
        let (registry, start) = (registry(|_| {}), Instant::now());
        let metrics = Metrics::new(vec![], Arc::clone(&registry.metrics));
        let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: None };
        let (_link, tether, mut peer) = open(windows, Features::default());
        registry.tether_links.put(TETHER, tether);
        let ws_encode = stage(&registry, &registry.tether_links, &registry.pool, QUEUE_PACKETS);
        let (attended, none): (Weak<dyn Attend>, Weak<dyn Attend>) =
            (Arc::downgrade(&(Arc::clone(&ws_encode) as _)), Weak::<InStage<Registry>>::new());
        registry.attend(Stages { accept: none.clone(), ws_decode: none, ws_encode: attended, tethered: vec![] });
        // Its thread is not started yet, so that what comes waits.
        let mut inlet = Inlet::new(Arc::clone(&ws_encode) as _, Cores::new(1));
        let mut push = |packet: &Builder, count| {
            let entry = || Entry { origin: TETHER, lane: TETHER, item: to_tether(packet) };
            inlet.push(start, false, &mut (0..count).map(|_| entry()).collect());
        };
        let figures = ws_encode.metrics();
        let waits =
            || (figures.queue_packets.get(), figures.dropped_for("overlimit"), figures.dropped_for("queue_full"));
        let client = "100.64.0.2:4000";
        let (bulk, sparse) = (udp("192.0.2.80:443", client, b"bulk"), udp("192.0.2.80:53", client, b"sparse"));
        push(&sparse, 4);
        push(&bulk, 26);
        let mut overseer = Overseer::new(ladder::Settings::DEFAULT);
        let mut held = registry.pool.budget().share(Part::Messages);
        let mut look = |held_percent, after| {
            assert!(held.set(registry.pool.limit_bytes() * held_percent / 100));
            overseer.look(start + after * super::super::LOOK_EVERY, &registry, &metrics);
            (registry.overload.rung(), figures.queue_admitted_packets.get())
        };
        assert_eq!(look(86, 0), (Rung::NoNewMappings, QUEUE_PACKETS));
        push(&query("192.0.2.80", "100.64.0.2", 0, 7), 1);
        assert_eq!(waits(), (31, 0, 0));
        assert_eq!(look(91, 1), (Rung::TrimLargest, QUEUE_PACKETS / 2));
        push(&query("192.0.2.80", "100.64.0.2", 0, 7), 1);
        let (left, trimmed, refused) = waits();
        assert!(left <= QUEUE_PACKETS / 4 && refused == 0, "{left} wait, {refused} were refused");
        assert_eq!(left + trimmed, 32);
        let rungs: Vec<_> = (2..=12).map(|after| look(80, after)).collect();
        assert_eq!(rungs.last(), Some(&(Rung::NoNewMappings, QUEUE_PACKETS)), "{rungs:?}");
        // The others have all that they had.
        let keeper = Keeper::new(vec![Arc::clone(&ws_encode) as _], Cores::new(1));
        keeper.start().expect("a thread");
        let mut sent = [0; 3];
        while sent.iter().sum::<u64>() < left {
            for capsule in capsules(&peer.message()) {
                let Capsule::Datagram(datagram) = capsule else { continue };
                let source_port = ipv4::word_at(datagram.payload, ipv4::HEADER_BYTES);
                let is_ping = datagram.payload[ipv4::PROTOCOL] == ipv4::ICMP;
                let flow = if is_ping { 2 } else { usize::from(source_port == Some(53)) };
                sent[flow] += 1;
            }
        }
        assert_eq!(sent[1..], [4, 2], "and {} of the largest", sent[0]);
        assert_eq!(keeper.stop(), Vec::<&str>::new());
    }
}
