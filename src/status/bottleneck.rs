//! Which stage holds the others back, and what shows it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::StageStatus;
use crate::config::gateway::StageName;

/// Less work than this part of a thread is idleness: keepalives, a ping now and then.
const BUSY_THREADS_MIN: f64 = 0.02;

/// A wait that is worth a word, in milliseconds. Less is the time that a batch takes.
const SOJOURN_MS_MIN: f64 = 0.5;

/// Where threads work less than this while packets wait, packets do not wait for threads; where more, they do.
const LINK_BUSY_MAX: f64 = 0.5;

/// The stage that holds the others back most, and what shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// The stage's name.
    pub stage: String,
    /// `uplink` or `downlink`.
    pub direction: String,
    /// What shows it.
    pub sign: Sign,
    /// The stage's figures.
    pub figures: String,
}

/// What shows that a stage holds others back, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// Lanes wait for room in its queue. Of several such stages it is the last: the others wait for it.
    LanesParked,
    /// It admits less than its queue takes.
    Sheds,
    /// Its packets wait for the tethers' links: it is the phones' network, not the gateway.
    Link,
    /// Of all queues, packets wait longest in its own.
    WaitsLongest,
    /// Nothing waits for long; its threads work most.
    Busiest,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LanesParked => "lanes wait for room in its queue",
            Self::Sheds => "it sheds: packets waited there longer than they may",
            Self::Link => "the link, not the gateway: packets wait for the phones' network",
            Self::WaitsLongest => "packets wait longest in its queue",
            Self::Busiest => "nothing waits for long; it works most",
        })
    }
}

impl Bottleneck {
    /// The bottleneck among a gateway's stages; `None` where nothing is going on.
    pub(super) fn among(stages: &[StageStatus]) -> Option<Self> {
        let (sign, stage) = parked(stages)
            .or_else(|| most(stages, Sign::Sheds, |stage| if stage.shedding { stage.queue as f64 + 1.0 } else { 0.0 }))
            .or_else(|| most(stages, Sign::WaitsLongest, waits_for_threads))
            .or_else(|| most(stages, Sign::Link, waits_for_link))
            .or_else(|| most(stages, Sign::WaitsLongest, waits))
            .or_else(|| most(stages, Sign::Busiest, works))?;
        Some(Self { stage: stage.name.clone(), direction: stage.direction.clone(), sign, figures: figures(stage) })
    }
}

fn parked(stages: &[StageStatus]) -> Option<(Sign, &StageStatus)> {
    stages.iter().rev().find(|stage| stage.lanes_parked > 0).map(|stage| (Sign::LanesParked, stage))
}

fn most(stages: &[StageStatus], sign: Sign, measure: fn(&StageStatus) -> f64) -> Option<(Sign, &StageStatus)> {
    let most = stages.iter().max_by(|a, b| measure(a).total_cmp(&measure(b)))?;
    (measure(most) > 0.0).then_some((sign, most))
}

/// Its threads work, and packets wait for them all the same. What waits for links meanwhile does so on any gateway with a
/// download.
fn waits_for_threads(stage: &StageStatus) -> f64 {
    if stage.busy_threads >= LINK_BUSY_MAX * stage.threads.max(1) as f64 { waits(stage) } else { 0.0 }
}

fn waits_for_link(stage: &StageStatus) -> f64 {
    let is_at_link = stage.name == StageName::WsEncode.word();
    if is_at_link && stage.busy_threads < LINK_BUSY_MAX { stage.queue as f64 } else { 0.0 }
}

fn waits(stage: &StageStatus) -> f64 {
    if stage.sojourn_ms_now >= SOJOURN_MS_MIN { stage.sojourn_ms_now } else { 0.0 }
}

fn works(stage: &StageStatus) -> f64 {
    if stage.busy_threads >= BUSY_THREADS_MIN { stage.busy_threads } else { 0.0 }
}

fn figures(stage: &StageStatus) -> String {
    format!(
        "{:.2} of {} threads busy, {} packets in the queue, p99 of the wait {:.1} ms, {} lanes held back",
        stage.busy_threads, stage.threads, stage.queue, stage.sojourn_ms_now, stage.lanes_parked
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Snapshot, StageMetrics};

    #[test]
    fn the_strongest_sign_names_the_bottleneck_and_an_idle_gateway_has_none() {
        let names = [("ip-parse", "uplink"), ("nat-rewrite", "uplink"), ("ws-encode", "downlink")];
        let stages = names.map(|(name, direction)| StageMetrics::new(name, direction, &[]));
        let [parse, nat, encode] = &stages;
        let named = || {
            let told: Vec<_> = stages.iter().map(|stage| StageStatus::of(stage, &Snapshot::default())).collect();
            Bottleneck::among(&told).map(|it| (it.stage, it.sign))
        };
        parse.busy_seconds.add(std::time::Duration::from_secs(9));
        parse.recent_busy_permille.set(10);
        assert_eq!(named(), None, "what was is over");
        parse.recent_busy_permille.set(700);
        assert_eq!(named(), Some(("ip-parse".into(), Sign::Busiest)));
        nat.recent_sojourn_ns.set(2_000_000);
        assert_eq!(named(), Some(("nat-rewrite".into(), Sign::WaitsLongest)));
        encode.queue_packets.set(5);
        encode.recent_busy_permille.set(100);
        encode.recent_sojourn_ns.set(20_000_000);
        assert_eq!(named(), Some(("ws-encode".into(), Sign::Link)));
        nat.recent_busy_permille.set(900);
        assert_eq!(named(), Some(("nat-rewrite".into(), Sign::WaitsLongest)), "packets wait for its threads, too");
        nat.shedding.set(1);
        assert_eq!(named(), Some(("nat-rewrite".into(), Sign::Sheds)));
        parse.lanes_parked.set(7);
        assert_eq!(named(), Some(("ip-parse".into(), Sign::LanesParked)));
        nat.lanes_parked.set(1);
        assert_eq!(named(), Some(("nat-rewrite".into(), Sign::LanesParked)), "ip-parse waits for it");
    }

    #[test]
    fn a_ws_encode_whose_threads_are_busy_does_not_wait_for_its_links() {
        let encode = StageMetrics::new("ws-encode", "downlink", &[]);
        encode.queue_packets.set(5);
        encode.recent_busy_permille.set(950);
        let it = Bottleneck::among(&[StageStatus::of(&encode, &Snapshot::default())]).expect("it works");
        assert_eq!(it.sign, Sign::Busiest);
        assert_eq!(
            it.figures,
            "0.95 of 0 threads busy, 5 packets in the queue, p99 of the wait 0.0 ms, 0 lanes held back"
        );
    }
}
