//! The figures as families of samples, read through the catalogue.

use super::catalogue::{INSTRUMENTS, Instrument, Read};
use super::{HandedOver, Metrics, Process, Snapshot, StageMetrics};

/// A sample's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
    /// A histogram.
    Histogram(Snapshot),
}

/// One series' value, with the values of its instrument's labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// A value for each of the instrument's labels.
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// An instrument and its series.
#[derive(Clone, Debug)]
pub struct Family {
    /// The instrument.
    pub instrument: &'static Instrument,
    /// A sample a series.
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Every family of the catalogue, as it is now; `process` was read by the caller.
    pub fn families(&self, process: &Process) -> Vec<Family> {
        self.refresh();
        let family = |instrument| Family { instrument, samples: self.samples(instrument, process) };
        INSTRUMENTS.iter().map(family).collect()
    }

    fn samples(&self, instrument: &Instrument, process: &Process) -> Vec<Sample> {
        let one = |labels, value| vec![Sample { labels, value }];
        let counted = |before: &[&str], counts: Vec<(&'static str, u64)>| -> Vec<Sample> {
            let labels = |label: &str| before.iter().copied().chain([label]).map(String::from).collect();
            counts.into_iter().map(|(label, n)| Sample { labels: labels(label), value: Value::Whole(n) }).collect()
        };
        match instrument.read {
            Read::Stage(read) => {
                self.stages.iter().flat_map(|s| one(names(s).map(String::from).into(), read(s))).collect()
            }
            Read::StageBy(read) => self.stages.iter().flat_map(|s| counted(&names(s), read(s))).collect(),
            Read::HandOvers => self.stages.iter().flat_map(|stage| hand_overs(stage)).collect(),
            Read::Gateway(read) => one(Vec::new(), read(&self.gateway)),
            Read::GatewayBy(read) => counted(&[], read(&self.gateway)),
            Read::Decisions => {
                let sample = |(labels, count): ([&'static str; 3], u64)| Sample {
                    labels: labels.map(String::from).into(),
                    value: Value::Whole(count),
                };
                self.gateway.decisions.counts().into_iter().map(sample).collect()
            }
            Read::Info(read) => one(read(&self.gateway), Value::Whole(1)),
            Read::ProcessBy(read) => counted(&[], read(process)),
            Read::Process(read) => one(Vec::new(), Value::Real(read(process))),
        }
    }
}

fn hand_overs(stage: &StageMetrics) -> impl Iterator<Item = Sample> {
    let [name, direction] = names(stage);
    HandedOver::ALL.iter().zip(&stage.handovers).map(move |(it, counter)| Sample {
        labels: [name, direction, it.decision(), it.reason()].map(String::from).into(),
        value: counter.into(),
    })
}

fn names(stage: &StageMetrics) -> [&'static str; 2] {
    [stage.name, stage.direction]
}
