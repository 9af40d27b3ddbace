//! The figures of load conditioning, each from the real programs in network namespaces. `benches/conditioning` runs it.

mod fixed;
mod idle;
mod real;
mod site;
mod slow_link;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Map, Value, json};
use wstether::cli::{Cli, Command};
use wstether::commands;
use wstether::stages::ballast::Ballast;

/// What a part comes to, or why it does not.
pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Figures by name.
pub(crate) type Figures = Map<String, Value>;

/// The first argument of the bench where it is to be a gateway itself, one with a fixed cost a packet.
const GATEWAY: &str = "gateway-with-ballast";

/// How long each measurement lasts.
const QUICK: Duration = Duration::from_secs(3);
const FULL: Duration = Duration::from_secs(8);

const REPEATS_FULL: usize = 3;

#[derive(Debug, Parser)]
#[command(name = "benches/conditioning", about = "How the gateway behaves under load")]
struct Args {
    /// Each figure once, some minutes (the default)
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
    #[arg(long, value_delimiter = ',', default_value = "fixed,uplink,fairness,hog,real,idle,slow-link")]
    only: Vec<String>,
    /// What cargo tells every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the bench, and the figures that it owes.
type Part = (&'static str, fn(Duration) -> Outcome<Figures>, &'static [&'static str]);

const PARTS: [Part; 7] = [
    ("fixed", fixed::measure, &fixed::KEYS),
    ("uplink", fixed::uplink, &fixed::UPLINK_KEYS),
    ("fairness", fixed::fairness, &fixed::FAIRNESS_KEYS),
    ("hog", fixed::hog, &fixed::HOG_KEYS),
    ("real", real::measure, &real::KEYS),
    ("idle", idle::measure, &idle::KEYS),
    ("slow-link", slow_link::measure, &slow_link::KEYS),
];

fn main() -> ExitCode {
    let mut typed = std::env::args();
    if typed.nth(1).as_deref() == Some(GATEWAY) {
        return finish(gateway(typed));
    }
    let args = Args::parse();
    let started = std::time::Instant::now();
    let repeats = if args.full && !args.quick { REPEATS_FULL } else { 1 };
    let lasts = if args.full { FULL } else { QUICK };
    let mut report = Figures::new();
    report.insert("mode".into(), if args.full { "full" } else { "quick" }.into());
    report.insert("cores".into(), std::thread::available_parallelism().map_or(1, usize::from).into());
    let mut failed = BTreeMap::new();
    for (name, measure, keys) in PARTS.iter().filter(|(name, ..)| args.only.iter().any(|only| only == name)) {
        told(&format!("{name} …"));
        let mut runs = Vec::new();
        for _ in 0..repeats {
            match measure(lasts) {
                Ok(figures) => runs.push(figures),
                Err(error) => drop(failed.insert(*name, error.to_string())),
            }
        }
        report.extend(keys.iter().map(|key| ((*key).to_owned(), Value::Null)));
        report.extend(table::medians(&runs));
    }
    report.insert("failed".into(), json!(failed));
    report.insert("took_seconds".into(), started.elapsed().as_secs().into());
    told(&table::text(&report));
    let out = if args.markdown { table::markdown(&report) } else { Value::Object(report).to_string() };
    finish(if args.json || args.markdown { writeln!(io::stdout(), "{out}").map_err(Into::into) } else { Ok(()) })
}

/// Runs a gateway with so many rounds of ballast; the rest of the arguments are those of `wstether`.
fn gateway(mut typed: impl Iterator<Item = String>) -> Outcome<()> {
    let rounds = typed.next().ok_or("no rounds")?.parse()?;
    let Command::Gateway(args) = Cli::try_parse_from(std::iter::once("wstether".to_owned()).chain(typed))?.command
    else {
        return Err("only a gateway has ballast".into());
    };
    Ok(commands::gateway::run_with(&args, Ballast { rounds }, &mut io::stdout())?)
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
