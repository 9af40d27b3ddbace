//! The status as a table for a terminal.

use std::collections::BTreeMap;
use std::fmt;

use super::{DecisionStatus, StageStatus, Status};
use crate::metrics::RECENT;
use crate::overload::Rung;

/// The columns: heading, whether to the left, and what a stage has there.
type Column = (&'static str, Side, fn(&StageStatus) -> String);

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

const COLUMNS: &[Column] = &[
    ("stage", Side::Left, |s| s.name.clone()),
    ("direction", Side::Left, |s| s.direction.clone()),
    ("packets", Side::Right, |s| grouped(s.packets)),
    ("turned", Side::Right, |s| grouped(s.turned)),
    ("made", Side::Right, |s| grouped(s.made)),
    ("dropped", Side::Right, |s| grouped(s.dropped())),
    ("queue", Side::Right, |s| format!("{}/{}", grouped(s.queue), grouped(s.queue_capacity))),
    ("most", Side::Right, |s| grouped(s.queue_max)),
    ("wait p50", Side::Right, |s| milliseconds(s.sojourn_ms_p50)),
    ("p99", Side::Right, |s| milliseconds(s.sojourn_ms_p99)),
    ("threads", Side::Right, |s| s.threads.to_string()),
    ("most", Side::Right, |s| s.threads_max.to_string()),
    ("busy", Side::Right, |s| format!("{:.1} s", s.busy_seconds)),
];

/// Decisions of each controller in the table: there are ten of them, and a screen has 24 lines. `--json` has all that are
/// remembered.
const DECISIONS_SHOWN: usize = 2;

/// Between two columns.
const GAP: &str = "  ";

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_gateway(f)?;
        writeln!(f, "\nsince the start; waits of the last {} s:", RECENT.as_secs())?;
        write_table(f, &self.stages)?;
        self.write_drops(f)?;
        match &self.bottleneck {
            Some(it) => {
                writeln!(f, "\nbottleneck: {} ({}): {}", it.stage, it.direction, it.sign)?;
                writeln!(f, "  {}", it.figures)?;
            }
            None => writeln!(f, "\nbottleneck: nothing: idle")?,
        }
        self.write_decisions(f)
    }
}

impl Status {
    fn write_gateway(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = match &self.why_not_ready {
            Some(why) => format!("not ready ({why})"),
            None => "ready".into(),
        };
        let Self { version, egress, interface, super_packets, .. } = self;
        writeln!(f, "wstether {version} is {ready}; egress {egress} on {interface}, super-packets: {super_packets}")?;
        let plain = match self.links_plain {
            0 => String::new(),
            some => format!(" ({} without super-packets)", grouped(some)),
        };
        writeln!(
            f,
            "tethers {}, links {}{plain}, NAT mappings {}, ports {} of {}",
            grouped(self.tethers),
            grouped(self.links),
            grouped(self.nat_mappings),
            grouped(self.nat_ports_in_use),
            grouped(self.nat_ports_limit)
        )?;
        writeln!(
            f,
            "packet buffers {} of {} MiB, resident {} MiB, processor {:.1} s",
            mebibytes(self.buffers_held_bytes),
            mebibytes(self.buffers_limit_bytes),
            mebibytes(self.resident_memory_bytes),
            self.cpu_seconds
        )?;
        if let Some(rung @ 1..) = Rung::ALL.iter().position(|rung| rung.label() == self.overload) {
            writeln!(f, "overload: {} (rung {rung} of {})", self.overload, Rung::ALL.len() - 1)?;
        }
        Ok(())
    }

    fn write_decisions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.decisions.is_empty() {
            writeln!(f, "last decisions:")?;
        }
        let mut shown = BTreeMap::<&str, usize>::new();
        for it in &self.decisions {
            let of_controller = shown.entry(&it.controller).or_default();
            *of_controller += 1;
            if *of_controller > DECISIONS_SHOWN {
                continue;
            }
            let DecisionStatus { seconds_ago, controller, subject, change, reason, inputs } = it;
            writeln!(f, "  {seconds_ago:.1} s ago, {controller} of {subject} {change} ({reason}): {inputs}")?;
        }
        Ok(())
    }

    fn write_drops(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in self.stages.iter().filter(|stage| stage.dropped() > 0) {
            let reasons = stage.drops.iter().filter(|&(_, &count)| count > 0);
            let reasons: Vec<String> = reasons.map(|(reason, &count)| format!("{reason} {}", grouped(count))).collect();
            writeln!(f, "dropped in {} ({}): {}", stage.name, stage.direction, reasons.join(", "))?;
        }
        Ok(())
    }
}

fn write_table(f: &mut fmt::Formatter<'_>, stages: &[StageStatus]) -> fmt::Result {
    let head = COLUMNS.iter().map(|&(heading, ..)| heading.to_owned()).collect();
    let body = stages.iter().map(|stage| COLUMNS.iter().map(|&(.., cell)| cell(stage)).collect());
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(COLUMNS).zip(&widths).map(|((cell, &(_, side, _)), &width)| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        writeln!(f, "{}", cells.collect::<Vec<_>>().join(GAP).trim_end())?;
    }
    Ok(())
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |ms| format!("{ms:.2} ms"))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Egress, GatewayMetrics, Metrics, Process, StageMetrics};
    use crate::offload::SuperPackets;
    use std::time::Duration;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_table_lines_up_and_names_drops_and_the_bottleneck() {
        let parse = StageMetrics::new("ip-parse", "uplink", &["malformed", "spoofed"]);
        parse.packets_in.add(1_234_567);
        parse.drops[1].add(3);
        parse.queue_packets.set(12);
        parse.queue_capacity_packets.set(1_024);
        parse.queue_packets_max_seen.raise(700);
        parse.threads.set(1);
        parse.threads_max_seen.raise(2);
        parse.recent_busy_permille.set(850);
        parse.recent_sojourn_ns.set(1_900_000);
        parse.busy_seconds.add(Duration::from_millis(4_200));
        parse.sojourn_seconds.observe_n(Duration::from_millis(2), 100);
        let encode = StageMetrics::new("ws-encode", "downlink", &[]);
        let gateway = GatewayMetrics::new(&[]);
        gateway.ready.set_ready();
        gateway.tell_egress(Egress { mode: "raw", interface: "eth0".into(), super_packets: SuperPackets::ALL });
        let text = Status::of(&Metrics::new(vec![parse, encode], gateway), &Process::default()).to_string();
        let wanted = "\
wstether 0.0.1 is ready; egress raw on eth0, super-packets: tcp and udp
tethers 0, links 0, NAT mappings 0, ports 0 of 0
packet buffers 0.0 of 0.0 MiB, resident 0.0 MiB, processor 0.0 s

since the start; waits of the last 5 s:
stage      direction    packets  turned  made  dropped     queue  most  wait p50      p99  threads  most   busy
ip-parse   uplink     1,234,567       0     0        3  12/1,024   700   1.50 ms  1.99 ms        1     2  4.2 s
ws-encode  downlink           0       0     0        0       0/0     0         -        -        0     0  0.0 s
dropped in ip-parse (uplink): spoofed 3

bottleneck: ip-parse (uplink): packets wait longest in its queue
  0.85 of 1 threads busy, 12 packets in the queue, p99 of the wait 1.9 ms, 0 lanes held back
";
        assert_eq!(text.replace(env!("CARGO_PKG_VERSION"), "0.0.1"), wanted);
    }
}
