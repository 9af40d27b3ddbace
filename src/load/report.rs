//! What a run comes to, as one JSON object.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::{Latencies, Quantiles, Shares, shares};
use super::generator::{Connects, Generator, WINDOW_NS};
use super::mix::Kind;
use super::talk::{COUNTS_MAX, Counts};
use super::tether::Tether;

/// What a run comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How long packets were offered, in seconds.
    pub seconds: f64,
    /// The tethers.
    pub tethers: Tethers,
    /// From the tethers; `None` where nothing was to go that way.
    pub up: Option<Way>,
    /// To the tethers.
    pub down: Option<Way>,
    /// The same, kind by kind.
    pub mixes: BTreeMap<&'static str, Mix>,
    /// What storms' connects came to.
    pub storm: Option<Connecting>,
    /// Half-open connections that the gateway closed.
    pub half_open_closed: u64,
    /// Whether the sink told all that it counted. Where it did not, figures of it are too small.
    pub sink_answered: bool,
    /// Of packets to the tethers, by the while they were meant for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

/// The tethers and their connects.
#[derive(Clone, Debug, Serialize)]
pub struct Tethers {
    /// How many were to be.
    pub asked: u64,
    /// How many of these were welcomed.
    pub welcomed: u64,
    /// How many of those were lost again, by the word for it.
    pub ended: BTreeMap<&'static str, u64>,
    /// How long it took until all were welcomed, in seconds.
    pub connect_seconds: f64,
    /// Connects that were refused or failed, by the word for it. Each was tried again.
    pub refused: BTreeMap<&'static str, u64>,
}

/// One kind of tethers.
#[derive(Clone, Debug, Serialize)]
pub struct Mix {
    /// How many.
    pub tethers: u64,
    /// From them.
    pub up: Option<Way>,
    /// To them.
    pub down: Option<Way>,
}

/// Packets in one direction. What was offered was delivered or lost.
#[derive(Clone, Debug, Serialize)]
pub struct Way {
    /// Packets whose time came.
    pub offered: u64,
    /// Packets that were sent. The others were not let out in time: by credit, a full socket, or a source that is late.
    pub sent: u64,
    /// Packets that arrived.
    pub delivered: u64,
    /// Packets that did not.
    pub lost: u64,
    /// Packets offered a second.
    pub offered_pps: f64,
    /// Packets delivered a second, of those that arrived before the end: what queues still hold then is no throughput.
    pub delivered_pps: f64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
    /// From the time that a packet was to be sent to its arrival.
    pub latency_ms: Option<Quantiles>,
    /// How evenly the delivered packets are shared between the tethers.
    pub shares: Option<Shares>,
    /// Packets delivered, tether by tether.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each: Option<Vec<u64>>,
}

/// Connects.
#[derive(Clone, Debug, Serialize)]
pub struct Connecting {
    /// Connects whose time came.
    pub offered: u64,
    /// Connects that were welcomed.
    pub welcomed: u64,
    /// Connects that were refused or failed, by the word for it.
    pub refused: BTreeMap<&'static str, u64>,
    /// Connects that had no answer at the end.
    pub unanswered: u64,
    /// From the time that a connect was to begin to its welcome.
    pub latency_ms: Option<Quantiles>,
}

/// A while of the run.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    /// When it began, in milliseconds after the start.
    pub at_ms: u64,
    /// Packets that were meant for it and arrived.
    pub delivered: u64,
    /// What the latencies of 99 in 100 of these did not exceed.
    pub p99_ms: Option<f64>,
}

/// What was counted for one tether, one way.
#[derive(Clone, Copy, Default)]
struct Count {
    offered: u64,
    sent: u64,
    delivered: u64,
    in_time: u64,
    reordered: u64,
}

impl Report {
    pub(super) fn new(generator: &Generator<'_>, connect_ns: u64, sink_answered: bool) -> Self {
        let writer = Writer { generator, seconds: generator.options.lasts.as_secs_f64() };
        let kinds: BTreeMap<_, _> = Kind::ALL.into_iter().filter_map(|kind| writer.mix(kind)).collect();
        let all: Vec<Kind> = Kind::ALL.to_vec();
        let has = |kind| generator.tethers.iter().any(|tether| tether.kind == kind);
        Self {
            seconds: writer.seconds,
            tethers: tethers(generator, connect_ns),
            up: writer.up(&all, generator.options.each),
            down: writer.down(&all, generator.options.each),
            mixes: kinds,
            storm: has(Kind::Storm).then(|| connecting(&generator.figures.storm, generator.gusts())),
            half_open_closed: generator.figures.half_open_closed,
            sink_answered,
            windows: if generator.options.windows { windows(generator) } else { Vec::new() },
        }
    }
}

fn tethers(generator: &Generator<'_>, connect_ns: u64) -> Tethers {
    let staying = || generator.tethers.iter().filter(|tether| tether.kind.stays());
    Tethers {
        asked: staying().count() as u64,
        welcomed: staying().filter(|tether| tether.was_welcomed).count() as u64,
        ended: generator.figures.ended.clone(),
        connect_seconds: connect_ns as f64 / 1e9,
        refused: generator.figures.connects.failed.clone(),
    }
}

fn connecting(connects: &Connects, unanswered: u64) -> Connecting {
    Connecting {
        offered: connects.offered,
        welcomed: connects.welcomed,
        refused: connects.failed.clone(),
        unanswered,
        latency_ms: connects.latencies.quantiles(),
    }
}

fn windows(generator: &Generator<'_>) -> Vec<Window> {
    let window = |(at, latencies): (usize, &Latencies)| Window {
        at_ms: at as u64 * WINDOW_NS / 1_000_000,
        delivered: latencies.count(),
        p99_ms: latencies.quantile_ms(0.99),
    };
    generator.figures.windows.iter().enumerate().map(window).collect()
}

struct Writer<'g, 'a> {
    generator: &'g Generator<'a>,
    seconds: f64,
}

impl Writer<'_, '_> {
    fn mix(&self, kind: Kind) -> Option<(&'static str, Mix)> {
        let tethers = self.generator.tethers.iter().filter(|tether| tether.kind == kind).count() as u64;
        let mix = || Mix { tethers, up: self.up(&[kind], false), down: self.down(&[kind], false) };
        (tethers > 0).then(|| (kind.word(), mix()))
    }

    fn up(&self, kinds: &[Kind], each: bool) -> Option<Way> {
        let sends = |tether: &Tether| tether.kind.stays() && tether.up.is_some();
        let counts = self.counts(kinds, sends, |tether, sink| Count {
            offered: tether.offered().into(),
            sent: tether.sent.into(),
            delivered: sink.received.into(),
            in_time: sink.in_time.into(),
            reordered: 0,
        });
        let latencies = merged(kinds, |kind| &self.generator.answers.up[kind as usize].0);
        self.way(&counts, &latencies, each)
    }

    fn down(&self, kinds: &[Kind], each: bool) -> Option<Way> {
        let counts = self.counts(
            kinds,
            |tether| tether.down.is_some(),
            |tether, sink| Count {
                offered: sink.offered.into(),
                sent: sink.offered.saturating_sub(sink.unsent).into(),
                delivered: tether.received.into(),
                in_time: tether.in_time.into(),
                reordered: tether.reordered.into(),
            },
        );
        let latencies = merged(kinds, |kind| &self.generator.figures.down[kind as usize]);
        self.way(&counts, &latencies, each)
    }

    /// What was counted for each tether of these kinds that takes part.
    fn counts(
        &self,
        kinds: &[Kind],
        takes_part: impl Fn(&Tether) -> bool,
        count: impl Fn(&Tether, Counts) -> Count,
    ) -> Vec<Count> {
        let tethers = self.generator.tethers.iter().enumerate();
        let ours = tethers.filter(|(_, tether)| kinds.contains(&tether.kind) && takes_part(tether));
        ours.map(|(number, tether)| count(tether, self.sink(number))).collect()
    }

    fn sink(&self, number: usize) -> Counts {
        let first = number - number % COUNTS_MAX;
        let answer = self.generator.answers.counts.get(&(first as u32));
        answer.and_then(|answer| answer.get(number - first)).copied().unwrap_or_default()
    }

    fn way(&self, counts: &[Count], latencies: &Latencies, each: bool) -> Option<Way> {
        let sum = |field: fn(&Count) -> u64| counts.iter().map(field).sum::<u64>();
        let (offered, delivered) = (sum(|count| count.offered), sum(|count| count.delivered));
        let each_delivered: Vec<u64> = counts.iter().map(|count| count.delivered).collect();
        (!counts.is_empty()).then(|| Way {
            offered,
            sent: sum(|count| count.sent),
            delivered,
            lost: offered.saturating_sub(delivered),
            offered_pps: offered as f64 / self.seconds,
            delivered_pps: sum(|count| count.in_time) as f64 / self.seconds,
            reordered: sum(|count| count.reordered),
            latency_ms: latencies.quantiles(),
            shares: shares(&each_delivered),
            each: each.then_some(each_delivered),
        })
    }
}

fn merged<'l>(kinds: &[Kind], of: impl Fn(Kind) -> &'l Latencies) -> Latencies {
    let mut merged = Latencies::default();
    kinds.iter().for_each(|&kind| merged.merge(of(kind)));
    merged
}
