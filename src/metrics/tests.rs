use super::*;

fn metrics() -> Metrics {
    let stages = vec![
        StageMetrics::new("ip-parse", "uplink", &["malformed", "spoofed"]),
        StageMetrics::new("ip-parse", "downlink", &["malformed"]),
    ];
    Metrics::new(stages, GatewayMetrics::new(&["full", "credential"]))
}

#[test]
fn a_stage_at_rest_has_nothing_unaccounted() {
    let stage = StageMetrics::new("ip-parse", "uplink", &["malformed", "spoofed"]);
    stage.packets_in.add(10);
    assert_eq!(stage.unaccounted(), 10);
    stage.packets_out.add(5);
    stage.turned.add(1);
    stage.drops[1].add(2);
    stage.queue_packets.set(1);
    stage.held_back_packets.set(1);
    stage.made.add(7);
    assert_eq!(stage.unaccounted(), 0);
}

#[test]
fn a_label_comes_from_its_reason() {
    crate::reasons! {
        enum Reason {
            Malformed = "malformed",
            /// Longer than it may be,
            /// or wider.
            TooBig = "too_big",
        }
    }
    assert_eq!(labels::<Reason>(), ["malformed", "too_big"]);
    let stage = StageMetrics::new("ip-parse", "uplink", &labels::<Reason>());
    stage.drops[Reason::TooBig.index()].add(3);
    assert_eq!((stage.drops[Reason::Malformed.index()].get(), stage.dropped()), (0, 3));
    assert_eq!(
        Reason::ALL.iter().map(|reason| reason.meaning()).collect::<Vec<_>>(),
        ["", "Longer than it may be, or wider."]
    );
}

#[test]
fn every_name_is_used_once_and_follows_the_conventions() {
    for (place, instrument) in INSTRUMENTS.iter().enumerate() {
        let Instrument { name, kind, unit, help, .. } = *instrument;
        assert!(INSTRUMENTS[..place].iter().all(|other| other.name != name), "{name} twice");
        assert!(name.starts_with("wstether_") || name.starts_with("process_"), "{name}: prefix");
        assert_eq!(name.ends_with("_total"), matches!(kind, Kind::Counter), "{name}: _total is a counter's");
        let stem = name.trim_end_matches("_total");
        let (bytes, seconds) = (stem.contains("bytes"), stem.ends_with("_seconds"));
        assert_eq!(bytes, unit == Unit::Bytes, "{name}: bytes");
        assert_eq!(seconds, matches!(unit, Unit::Seconds | Unit::UnixSeconds), "{name}: seconds");
        assert!(help.ends_with('.') && !help.contains(['\n', '\\']), "{name}: help is one plain sentence");
    }
}

#[test]
fn the_bounds_of_every_histogram_rise() {
    for instrument in INSTRUMENTS {
        if let Kind::Histogram(buckets) = instrument.kind {
            assert!(buckets.bounds.is_sorted_by(|a, b| a < b), "{}", instrument.name);
        }
    }
}

#[test]
fn every_series_is_there_from_the_start_at_zero() {
    let families = metrics().families(&Process::default());
    assert_eq!(families.len(), INSTRUMENTS.len());
    for Family { instrument, samples } in &families {
        assert!(!samples.is_empty(), "{} has no series", instrument.name);
        for sample in samples {
            assert_eq!(sample.labels.len(), instrument.labels.len(), "{}", instrument.name);
            match &sample.value {
                Value::Whole(value) => {
                    assert_eq!(*value, u64::from(instrument.name.ends_with("_info")), "{}", instrument.name)
                }
                Value::Real(value) => assert_eq!(*value, 0.0, "{}", instrument.name),
                Value::Histogram(snapshot) => assert_eq!(snapshot.count(), 0, "{}", instrument.name),
            }
        }
    }
    let drops = families.iter().find(|family| family.instrument.name == "wstether_stage_drops_total").expect("listed");
    let labels: Vec<Vec<&str>> =
        drops.samples.iter().map(|sample| sample.labels.iter().map(String::as_str).collect()).collect();
    assert_eq!(
        labels,
        [["ip-parse", "uplink", "malformed"], ["ip-parse", "uplink", "spoofed"], ["ip-parse", "downlink", "malformed"]]
    );
}

#[test]
fn a_figure_kept_elsewhere_is_copied_before_each_reading() {
    let metrics = metrics().refreshed_by(|metrics| metrics.gateway.buffers_held_bytes.set(4_096));
    let families = metrics.families(&Process::default());
    let held = families.iter().find(|family| family.instrument.name == "wstether_buffers_held_bytes").expect("listed");
    assert_eq!(held.samples[0].value, Value::Whole(4_096));
}

/// docs/metrics.md is this text. `UPDATE=1 cargo test` writes it anew.
#[cfg(feature = "kernel")]
#[test]
fn the_document_lists_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let wanted = document();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &wanted).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == wanted, "docs/metrics.md is not the catalogue's: run UPDATE=1 cargo test metrics");
}

#[cfg(feature = "kernel")]
fn document() -> String {
    let mut text = String::from(include_str!("document.md"));
    for instrument in INSTRUMENTS {
        let labels = instrument.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (kind, unit) = (instrument.kind.label(), instrument.unit.label());
        text += &format!("| `{}` | {kind} | {unit} | {labels} | {} |\n", instrument.name, instrument.help);
    }
    text +=
        "\n## Buckets\n\nUpper bounds, in the unit of the histogram. The reasons are in src/metrics/buckets.rs too.\n";
    for instrument in INSTRUMENTS {
        if let Kind::Histogram(buckets) = instrument.kind {
            let scale = if instrument.unit == Unit::Seconds { 1e9 } else { 1.0 };
            let bounds = buckets.bounds.iter().map(|&bound| format!("{}", bound as f64 / scale)).collect::<Vec<_>>();
            text += &format!("\n`{}`: {}.\nWhy: {}.\n", instrument.name, bounds.join(", "), buckets.reason);
        }
    }
    text + &why::section()
}

/// Why packets are dropped, connections refused, and what controllers decide.
#[cfg(feature = "kernel")]
mod why {
    use super::*;
    use crate::config::gateway::{Translation, Way};
    use crate::pipeline::diagram::{Description, describe};
    use crate::runtime::work::RUNTIME_REASONS;
    use crate::stages::{accept, ip_parse, nat_rewrite, raw_recv, raw_send, tun_read, tun_write, ws_decode, ws_encode};

    /// What a label means.
    type Meaning = (&'static str, &'static str);

    /// Of the reasons that every stage with a queue has.
    const RUNTIME: [Meaning; RUNTIME_REASONS.len()] = [
        ("queue_full", "The stage's queue holds all that it can."),
        ("not_admitted", "Its queue could hold more, and admits less, because what waits in it waits too long."),
        ("no_owner", "The link or tether that it was of has ended."),
        ("panicked", "It was in a batch whose handling panicked, which is a bug."),
        ("codel", "It waited too long in its flow (RFC 8289)."),
        ("overlimit", "Room was needed, and its flow held most of what waited (RFC 8290)."),
    ];

    fn meanings<R: Reason>() -> Vec<Meaning> {
        R::ALL.iter().map(|reason| (reason.label(), reason.meaning())).collect()
    }

    /// Of each stage's own reasons, in the order of the data's way.
    fn of_stages() -> [(&'static str, Vec<Meaning>); 8] {
        [
            ("ws-decode", meanings::<ws_decode::Reason>()),
            ("ip-parse", meanings::<ip_parse::Reason>()),
            ("nat-rewrite", meanings::<nat_rewrite::Reason>()),
            ("raw-send", meanings::<raw_send::Reason>()),
            ("tun-write", meanings::<tun_write::Reason>()),
            ("raw-recv", meanings::<raw_recv::Reason>()),
            ("tun-read", meanings::<tun_read::Reason>()),
            ("ws-encode", meanings::<ws_encode::Reason>()),
        ]
    }

    pub(super) fn section() -> String {
        let mut text =
            "\n## Why packets are dropped\n\nThe label `reason` of `wstether_stage_drops_total`. Those of \"any\" \
                        are of every stage with a queue.\n\n| stage | reason | what it means |\n| --- | --- | --- |\n"
                .to_owned();
        for (stage, meanings) in [("any", RUNTIME.to_vec())].into_iter().chain(of_stages()) {
            meanings.iter().for_each(|(label, meaning)| text += &format!("| {stage} | `{label}` | {meaning} |\n"));
        }
        text += "\n## Why connections are refused\n\nThe label `reason` of `wstether_accept_refused_total`.\n\n\
                 | reason | what it means |\n| --- | --- |\n";
        for (label, meaning) in meanings::<accept::Reason>() {
            text += &format!("| `{label}` | {meaning} |\n");
        }
        text + &of_controllers()
    }

    /// What controllers decide, and why.
    fn of_controllers() -> String {
        let mut text = String::from(include_str!("decisions.md"));
        for ([controller, change, reason], meaning) in decisions::meanings() {
            text += &format!("| `{controller}` | {change} | `{reason}` | {meaning} |\n");
        }
        text += "\n## What becomes of a batch\n\nThe labels of `wstether_stage_handovers_total`.\n\n\
                 | decision | reason | what it means |\n| --- | --- | --- |\n";
        for it in HandedOver::ALL {
            text += &format!("| `{}` | `{}` | {} |\n", it.decision(), it.reason(), it.meaning());
        }
        text
    }

    #[test]
    fn every_reason_of_every_stage_is_listed_with_what_it_means() {
        assert_eq!(RUNTIME.map(|(label, _)| label), RUNTIME_REASONS);
        let name = "wst0".parse().expect("a name");
        let ways = [config::Gateway::default().egress.way, Way::Tun { name, translation: Translation::Kernel }];
        for Description { name, config, reasons, .. } in ways.iter().flat_map(describe) {
            let own = of_stages().into_iter().find(|(stage, _)| *stage == name).map_or(Vec::new(), |(_, own)| own);
            let runtime = if config.is_some() { RUNTIME.to_vec() } else { Vec::new() };
            let listed: Vec<_> = runtime.iter().chain(&own).map(|(label, _)| *label).collect();
            assert_eq!(listed, reasons, "{name}");
            assert!(own.iter().all(|(_, meaning)| meaning.ends_with('.') && !meaning.contains('|')), "{name}: {own:?}");
        }
        assert!(meanings::<accept::Reason>().iter().all(|(_, meaning)| meaning.ends_with('.')));
    }
}

#[cfg(feature = "kernel")]
mod text {
    use super::*;
    use std::collections::BTreeSet;

    /// The families that a text declares, as (name, kind).
    fn declared(text: &str) -> Vec<(&str, &str)> {
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
    }

    /// The names of the series in a text, without a histogram's suffixes.
    fn sampled(text: &str) -> BTreeSet<&str> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| family_of(line.split(['{', ' ']).next().unwrap_or_default())).collect()
    }

    fn family_of(series: &str) -> &str {
        let histogram = |name: &str| INSTRUMENTS.iter().any(|i| i.name == name && matches!(i.kind, Kind::Histogram(_)));
        let stems = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| series.strip_suffix(suffix));
        stems.into_iter().find(|stem| histogram(stem)).unwrap_or(series)
    }

    #[test]
    fn the_text_declares_the_catalogue_and_samples_each_family_and_nothing_else() {
        let text = metrics().encode();
        let catalogue: Vec<(&str, &str)> = INSTRUMENTS.iter().map(|i| (i.name, i.kind.label())).collect();
        assert_eq!(declared(&text), catalogue);
        assert_eq!(sampled(&text), catalogue.iter().map(|&(name, _)| name).collect::<BTreeSet<_>>());
    }

    #[test]
    fn a_counter_is_written_under_its_declared_name_with_its_labels() {
        let metrics = metrics();
        metrics.stages[0].packets_in.add(7);
        metrics.stages[0].drops[1].add(2);
        metrics.stages[0].batch_packets.observe(3);
        metrics.gateway.tell_egress(Egress {
            mode: "raw",
            interface: "e\"th".into(),
            super_packets: SuperPackets::TCP,
        });
        let text = metrics.encode();
        for line in [
            "# TYPE wstether_stage_packets_in_total counter",
            "wstether_stage_packets_in_total{stage=\"ip-parse\",direction=\"uplink\"} 7",
            "wstether_stage_drops_total{stage=\"ip-parse\",direction=\"uplink\",reason=\"spoofed\"} 2",
            "wstether_stage_batch_packets_bucket{le=\"4.0\",stage=\"ip-parse\",direction=\"uplink\"} 1",
            "wstether_stage_batch_packets_count{stage=\"ip-parse\",direction=\"uplink\"} 1",
            "wstether_egress_info{mode=\"raw\",interface=\"e\\\"th\",super_packets=\"tcp\"} 1",
            "wstether_tethers 0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn a_thread_that_waits_is_counted_as_woken() {
        const WAITS: u64 = 50;
        let before = Process::read();
        (0..WAITS).for_each(|_| std::thread::sleep(Duration::from_micros(100)));
        let after = Process::read();
        assert!(after.voluntary_switches >= before.voluntary_switches + WAITS, "{before:?} {after:?}");
        assert!(after.involuntary_switches >= before.involuntary_switches);
        let switches = ["voluntary", "involuntary"]
            .map(|kind| format!("wstether_process_context_switches_total{{kind=\"{kind}\"}} "));
        let text = metrics().encode();
        assert!(switches.iter().all(|series| text.contains(series)), "{text}");
    }

    #[test]
    fn the_process_has_memory_threads_descriptors_and_a_start() {
        let process = Process::read();
        assert!(process.resident_memory_bytes > 1e5 && process.virtual_memory_bytes >= process.resident_memory_bytes);
        assert!(process.threads >= 1.0 && process.open_fds >= 3.0 && process.max_fds >= process.open_fds);
        let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
        assert!(process.start_time_seconds > 1e9 && process.start_time_seconds <= since_1970 + 2.0);
    }
}
