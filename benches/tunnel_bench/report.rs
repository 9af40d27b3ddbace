//! The rows for a person: ratios, and a table in Markdown.

use crate::row::{KEYS, Key, Row, Table};

/// The speeds that ratios are made of.
const SPEEDS: [&str; 2] = ["tcp1_up_gbit_s", "tcp1_down_gbit_s"];
const PEERS: [&str; 3] = ["wireguard-go", "OpenVPN", "ocserv"];

/// Puts the ratios into every row: one TCP stream, the lower of the two directions' ratios. The best peer is the best of
/// each direction.
pub(crate) fn compare(rows: &mut [Row]) {
    let best = |is_this: &dyn Fn(&Row) -> bool, key: &str| {
        rows.iter().filter(|row| is_this(row)).filter_map(|row| row.get(key)).reduce(f64::max)
    };
    let limits = |is_this: &dyn Fn(&Row) -> bool| SPEEDS.map(|key| best(is_this, key));
    let against = [
        ("of_roofline", limits(&|row| row.system == "roofline")),
        ("of_kernel", limits(&|row| row.system == "kernel")),
        ("of_best_peer", limits(&|row| PEERS.contains(&row.system))),
    ];
    for row in rows {
        for (key, limits) in against {
            let ratio = |(speed, limit): (&str, Option<f64>)| Some(row.get(speed)? / limit?);
            let ratios: Option<Vec<f64>> = SPEEDS.into_iter().zip(limits).map(ratio).collect();
            match ratios.and_then(|ratios| ratios.into_iter().reduce(f64::min)) {
                Some(lower) => row.set(key, lower),
                None => row.lacks(key, "one of the two was not measured"),
            }
        }
    }
}

/// The tables, and below them what is to be said of single values.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let tables = [
        ("TCP streams, Gbit/s, and the ratios of one stream (the lower of both directions)", Table::Speed),
        ("What a gigabyte costs with one stream (CPU seconds of the tunnel's programs), and peak memory", Table::Cost),
        (
            "Round trips in ms, idle and while a download fills a link of 10 Mbit/s; datagrams of 64 bytes",
            Table::Latency,
        ),
        ("Round trips in ms while an upload fills that link", Table::Upload),
    ];
    let is_shown = |(_, table): &&(&str, Table)| is_measured(*table, rows);
    let tables: Vec<String> = tables.iter().filter(is_shown).map(|(title, table)| one(title, *table, rows)).collect();
    tables.join("\n") + &notes(rows)
}

/// Whether any row has something of a table.
fn is_measured(table: Table, rows: &[Row]) -> bool {
    KEYS.iter().filter(|key| key.table == table).any(|key| rows.iter().any(|row| row.get(key.name).is_some()))
}

fn one(title: &str, table: Table, rows: &[Row]) -> String {
    let columns: Vec<_> = KEYS.iter().filter(|key| key.table == table).collect();
    let mut text = format!("{title}:\n\n| system | path |");
    columns.iter().for_each(|column| text.extend([" ", column.head, " |"]));
    text.extend(["\n| --- | --- |", &" ---: |".repeat(columns.len()), "\n"]);
    for row in rows {
        let version = row.version.as_deref().filter(|_| table == Table::Speed).unwrap_or_default();
        text += &format!("| {} | {} |", format!("{} {version}", row.system).trim_end(), row.path);
        for column in &columns {
            let value = row.get(column.name).map_or("-".to_owned(), |value| format!("{value:.*}", column.decimals));
            text.extend([" ", &value, " |"]);
        }
        text.push('\n');
    }
    text
}

/// The reasons that columns of the table have, each once a row.
fn notes(rows: &[Row]) -> String {
    let mut text = String::new();
    // A ratio that lacks one of its two says nothing that the table does not.
    let is_told = |key: &&Key| key.table != Table::None && (key.table != Table::Upload || is_measured(key.table, rows));
    let told = |name: &str| !name.starts_with("of_") && KEYS.iter().filter(is_told).any(|key| key.name == name);
    for row in rows {
        let mut said: Vec<(&str, Vec<&str>)> = Vec::new();
        for (key, why) in row.reasons().filter(|(key, _)| told(key)) {
            match said.iter_mut().find(|(known, _)| *known == why) {
                Some((_, keys)) => keys.push(key),
                None => said.push((why, vec![key])),
            }
        }
        for (why, keys) in said {
            let of = if keys.len() > 6 { "all".to_owned() } else { keys.join(", ") };
            text += &format!("- {} {} ({of}): {why}\n", row.system, row.path);
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}
