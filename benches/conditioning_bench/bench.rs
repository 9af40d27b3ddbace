//! The figures of load conditioning, each from the real programs in network namespaces. `benches/conditioning` runs it.

mod fixed;
mod hand_over;
mod idle;
#[path = "../support/machine.rs"]
mod machine;
mod part;
mod real;
mod run;
mod site;
mod slow_link;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde_json::{Value, json};
use wstether::cli::{Cli, Command};
use wstether::commands;
use wstether::pipeline::experiment::Experiment;
use wstether::runtime::hand_over::{Live, Rule};
use wstether::stages::ballast::Ballast;

use machine::Machine;
pub(crate) use run::{Figures, Lasts, Outcome, Run};

/// The first argument of the bench where it is to be a gateway itself, one that an experiment is made with.
const GATEWAY: &str = "gateway-of-an-experiment";
/// The same where it is to measure one part, for the bench that started it.
const PART: &str = "one-part";

const REPEATS_FULL: usize = 3;

#[derive(Debug, Parser)]
#[command(name = "benches/conditioning", about = "How the gateway behaves under load")]
struct Args {
    /// Each figure once, within 5 minutes (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The median of 3 of each
    #[arg(long)]
    full: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// A table for docs/benchmarks.md
    #[arg(long)]
    markdown: bool,
    /// Some parts alone
    #[arg(long, value_delimiter = ',', default_value = "fixed,uplink,fairness,hog,real,idle,slow-link,hand-over")]
    only: Vec<String>,
    /// What cargo tells every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the bench.
pub(crate) struct Part {
    name: &'static str,
    measure: fn(&Run) -> Outcome<Figures>,
    /// The figures that it owes.
    keys: &'static [&'static str],
    /// How long the quick setting gives it, in seconds: about twice what it takes alone on 2 cores.
    quick_max_s: u64,
}

/// The longest comes last: where time runs out, no other part is without.
const PARTS: [Part; 8] = [
    Part { name: "fixed", measure: fixed::measure, keys: &fixed::KEYS, quick_max_s: 110 },
    Part { name: "uplink", measure: fixed::uplink, keys: &fixed::UPLINK_KEYS, quick_max_s: 80 },
    Part { name: "fairness", measure: fixed::fairness, keys: &fixed::FAIRNESS_KEYS, quick_max_s: 80 },
    Part { name: "hog", measure: fixed::hog, keys: &fixed::HOG_KEYS, quick_max_s: 80 },
    Part { name: "real", measure: real::measure, keys: &real::KEYS, quick_max_s: 60 },
    Part { name: "idle", measure: idle::measure, keys: &idle::KEYS, quick_max_s: 45 },
    Part { name: "slow-link", measure: slow_link::measure, keys: &slow_link::KEYS, quick_max_s: 90 },
    Part { name: "hand-over", measure: hand_over::measure, keys: &hand_over::KEYS, quick_max_s: 180 },
];

fn main() -> ExitCode {
    let mut typed = std::env::args().skip(1);
    match typed.next().as_deref() {
        Some(GATEWAY) => finish(gateway(typed)),
        Some(PART) => finish(part::serve(typed)),
        Some(_) | None => finish(bench(&Args::parse())),
    }
}

/// All parts, or those that are asked for.
fn bench(args: &Args) -> Outcome<()> {
    let started = Instant::now();
    let repeats = if args.full { REPEATS_FULL } else { 1 };
    let mut report = Figures::new();
    report.insert("mode".into(), if args.full { "full" } else { "quick" }.into());
    report.insert("machine".into(), serde_json::to_value(Machine::here())?);
    let (mut failed, mut took) = (BTreeMap::new(), Figures::new());
    for part in PARTS.iter().filter(|part| args.only.iter().any(|only| only == part.name)) {
        told(&format!("{} …", part.name));
        let (begun, mut runs) = (Instant::now(), Vec::new());
        for _ in 0..repeats {
            // Later runs, and later parts, go by what is known already, such as the ballast.
            let first = runs.iter().find(|run: &&Figures| !run.is_empty()).cloned().unwrap_or_default();
            let known = report.clone().into_iter().chain(first).collect();
            runs.push(part::watched(part, &Run { full: args.full, known }, started).unwrap_or_else(|error| {
                failed.insert(part.name, error.to_string());
                Figures::new()
            }));
        }
        took.insert(part.name.into(), begun.elapsed().as_secs().into());
        report.extend(part.keys.iter().map(|key| ((*key).to_owned(), Value::Null)));
        report.extend(table::medians(&runs));
    }
    report.insert("failed".into(), json!(failed));
    report.insert("part_seconds".into(), Value::Object(took));
    report.insert("took_seconds".into(), started.elapsed().as_secs().into());
    told(&table::text(&report));
    let out = if args.markdown { table::markdown(&report) } else { Value::Object(report).to_string() };
    if args.json || args.markdown { Ok(writeln!(io::stdout(), "{out}")?) } else { Ok(()) }
}

/// The rule of hand-over in such a gateway.
static RULE: Live = Live::new();

/// Runs a gateway with so many rounds of ballast, that is told its rule of hand-over at a socket; the rest of the arguments are
/// those of `wstether`.
fn gateway(mut typed: impl Iterator<Item = String>) -> Outcome<()> {
    let rounds = typed.next().ok_or("no rounds")?.parse()?;
    let socket = UnixDatagram::bind(typed.next().ok_or("no socket")?)?;
    std::thread::spawn(move || follow(&socket));
    let Command::Gateway(args) = Cli::try_parse_from(std::iter::once("wstether".to_owned()).chain(typed))?.command
    else {
        return Err("only a gateway has ballast".into());
    };
    let experiment = Experiment { ballast: Ballast { rounds }, hand_over: Some(&RULE) };
    Ok(commands::gateway::run_with(&args, experiment, &mut io::stdout())?)
}

/// Sets the rule that each datagram names, and answers with its name. Who gets no answer knows that nothing was set.
fn follow(socket: &UnixDatagram) {
    let mut word = [0; 16];
    while let Ok((bytes, from)) = socket.recv_from(&mut word) {
        let rule = match &word[..bytes] {
            b"auto" => Rule::Auto,
            b"always" => Rule::Always,
            b"never" => Rule::Never,
            _ => continue,
        };
        RULE.set(rule);
        if let Err(error) = socket.send_to_addr(&word[..bytes], &from) {
            told(&format!("the rule of hand-over is not confirmed: {error}"));
        }
    }
}

fn finish(done: Outcome<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            told(&format!("conditioning: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells a person, on standard error.
pub(crate) fn told(text: &str) {
    // Who does not look needs no words.
    drop(writeln!(io::stderr(), "{text}"));
}
