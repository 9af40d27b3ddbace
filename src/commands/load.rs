//! `wstether load`: simulated tethers, and the sink at the far end.

use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::token_file::{self, TokenFileError};
use crate::cli::{self, LoadDirection, LoadEnd};
use crate::exit::Status;
use crate::load::sink::Sink;
use crate::load::{self, Direction, Options, Report, Way};
use crate::stop::Stop;
use crate::wire::token::{Token, TokenError};

/// Why there was no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadCommandError {
    /// The token is none.
    #[error("the token is wrong: {0}")]
    Token(#[from] TokenError),
    /// The file that holds the token.
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    /// The load.
    #[error("{0}")]
    Load(#[from] load::Error),
    /// The sink's address.
    #[error("{address}: {source}; --listen must be an address of this host, at a port that is free")]
    Sink {
        /// Where it should be.
        address: SocketAddrV4,
        /// Why it is not.
        source: io::Error,
    },
    /// The output is gone, or signals cannot be caught.
    #[error("{0}")]
    Kernel(#[from] io::Error),
}

impl LoadCommandError {
    /// How the command ends.
    pub fn status(&self) -> Status {
        match self {
            Self::Load(error) if error.is_usage() => Status::Usage,
            Self::Token(_) | Self::TokenFile(_) => Status::BadConfiguration,
            Self::Load(_) | Self::Sink { .. } | Self::Kernel(_) => Status::Failed,
        }
    }
}

/// Runs the load, or its sink until a signal, and prints what it came to.
///
/// # Errors
/// [`LoadCommandError`].
pub fn run(args: &cli::Load, out: &mut dyn Write) -> Result<(), LoadCommandError> {
    let stop = Stop::on_signals()?;
    if let Some(LoadEnd::Sink { listen }) = args.end {
        let sink = Sink::bind(listen).map_err(|source| LoadCommandError::Sink { address: listen, source })?;
        writeln!(out, "{}", serde_json::json!({ "listens": sink.address()? }))?;
        out.flush()?;
        return Ok(writeln!(out, "{}", serde_json::json!(sink.serve(&stop)?))?);
    }
    let report = load::run(&options(args)?, &stop)?;
    if args.json {
        writeln!(out, "{}", serde_json::json!(report))?;
    } else {
        print(&report, out)?;
    }
    Ok(())
}

fn options(args: &cli::Load) -> Result<Options, LoadCommandError> {
    // clap has seen to it that these are there.
    let missing = || io::Error::from(io::ErrorKind::InvalidInput);
    let seconds = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    Ok(Options {
        gateway: args.gateway.clone().ok_or_else(missing)?,
        token: token(args)?,
        tethers: args.tethers,
        mix: args.mix.clone(),
        direction: match args.direction {
            LoadDirection::Up => Direction::Up,
            LoadDirection::Down => Direction::Down,
            LoadDirection::Both => Direction::Both,
        },
        rate_pps: args.rate,
        size_bytes: args.size,
        bulk_bytes: args.bulk_size,
        hog_factor: args.hog_factor,
        surge: args.surge,
        lasts: seconds(args.seconds),
        drain: seconds(args.drain),
        connect_max: seconds(args.connect_max),
        sink: args.sink.ok_or_else(missing)?,
        each: args.each,
        windows: args.windows,
    })
}

fn token(args: &cli::Load) -> Result<Token, LoadCommandError> {
    match &args.token_file {
        Some(path) => Ok(token_file::read(path)?),
        None => Ok(args.token.as_deref().unwrap_or_default().parse()?),
    }
}

/// What to do about a refusal, by the word for it, where it is a setting of the gateway's that a load from one machine meets.
fn advice(word: &str) -> Option<&'static str> {
    match word {
        "http_503" => {
            Some("listen.handshakes_max, listen.handshakes_per_address and listen.links_max bound these at the gateway")
        }
        "no_address" => Some("tethers.max and lease.pool bound these at the gateway"),
        "already_connected" => Some("tethers.max_per_credential bounds these at the gateway"),
        _ => None,
    }
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let tethers = &report.tethers;
    writeln!(
        out,
        "tethers: {} of {} welcomed within {:.1} s",
        tethers.welcomed, tethers.asked, tethers.connect_seconds
    )?;
    for (what, counted) in [("refused", &tethers.refused), ("lost again", &tethers.ended)] {
        for (word, count) in counted {
            let advice = advice(word).map_or(String::new(), |advice| format!(": {advice}"));
            writeln!(out, "  {what}: {count} ({word}{advice})")?;
        }
    }
    writeln!(
        out,
        "\n{:<20}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8}",
        "packets", "offered/s", "delivered/s", "lost", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "Jain", "worst"
    )?;
    let all = std::iter::once(("all", &report.up, &report.down));
    let mixes = report.mixes.iter().map(|(kind, mix)| (*kind, &mix.up, &mix.down));
    for (name, up, down) in all.chain(mixes) {
        for (direction, way) in [("up", up), ("down", down)] {
            way.as_ref().map_or(Ok(()), |way| print_way(&format!("{name} {direction}"), way, out))?;
        }
    }
    if let Some(storm) = &report.storm {
        let told = storm.latency_ms.map_or(String::new(), |took| format!(", p99 {:.1} ms", took.p99));
        writeln!(out, "\nstorm: {} of {} connects welcomed{told}", storm.welcomed, storm.offered)?;
        storm.refused.iter().try_for_each(|(word, count)| writeln!(out, "  refused: {count} ({word})"))?;
    }
    if !report.sink_answered {
        writeln!(out, "\nThe sink did not tell all that it counted: figures of it are too small.")?;
    }
    Ok(())
}

fn print_way(name: &str, way: &Way, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{name:<20}{:>12.0}{:>12.0}{:>12}", way.offered_pps, way.delivered_pps, way.lost)?;
    let times = way.latency_ms.map(|took| [took.p50, took.p90, took.p99, took.p99_9]);
    for time in times.map_or([None; 4], |times| times.map(Some)) {
        write!(out, "{:>10}", time.map_or("-".to_owned(), |ms| format!("{ms:.2}")))?;
    }
    let shares = way.shares.map(|shares| [shares.jain, shares.worst]);
    for share in shares.map_or([None; 2], |shares| shares.map(Some)) {
        write!(out, "{:>8}", share.map_or("-".to_owned(), |share| format!("{share:.3}")))?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advised_about_a_refusal_names_keys_that_a_gateway_has() {
        let example = include_str!("../../config/gateway.toml");
        for word in ["http_503", "no_address", "already_connected"] {
            let advice = advice(word).unwrap_or_default();
            let keys: Vec<_> = advice.split([' ', ',']).filter_map(|word| word.split_once('.')).collect();
            assert!(!keys.is_empty(), "{word}");
            for (section, key) in keys {
                let in_section = example.split(&format!("\n[{section}]\n")).nth(1).unwrap_or_default();
                let in_section = in_section.split("\n[").next().unwrap_or_default();
                assert!(in_section.contains(&format!("\n{key} = ")), "{section}.{key}");
            }
        }
        assert_eq!(advice("connection_refused"), None);
    }
}
