//! Prometheus text (version 0.0.4) from the families.
//!
//! prometheus-client writes OpenMetrics, whose counters are declared without `_total`. Prometheus takes both, other
//! readers of the text format do not; so a counter is declared under its whole name, and its value is written as a
//! gauge's is, which adds no suffix.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Family, Kind, Metrics, Process, Sample, Value};

/// The content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Metrics {
    /// Every series as Prometheus text.
    pub fn encode(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(self.families(&Process::read()))));
        let mut text = String::new();
        // Writing to a string cannot fail, and the labels' values are plain strings.
        match text::encode_registry(&mut text, &registry) {
            Ok(()) => text,
            Err(std::fmt::Error) => String::new(),
        }
    }
}

/// The families of one scrape.
#[derive(Debug)]
struct Scrape(Vec<Family>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|family| encode_family(family, &mut encoder))
    }
}

fn encode_family(family: &Family, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
    let instrument = family.instrument;
    let kind = match instrument.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram(_) => MetricType::Histogram,
    };
    let mut encoder = encoder.encode_descriptor(instrument.name, instrument.help, None, kind)?;
    for Sample { labels, value } in &family.samples {
        let labels: Vec<(&str, &str)> =
            instrument.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
        if labels.is_empty() {
            encode_value(value, &mut encoder)?;
        } else {
            encode_value(value, &mut encoder.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_value(value: &Value, encoder: &mut MetricEncoder<'_>) -> std::fmt::Result {
    match value {
        Value::Whole(whole) => encoder.encode_gauge(whole),
        Value::Real(real) => encoder.encode_gauge(real),
        Value::Histogram(it) => encoder.encode_histogram::<NoLabelSet>(it.sum, it.count(), &it.buckets, None),
    }
}
