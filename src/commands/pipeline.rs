//! `wstether pipeline`: the diagram, from the definition that the gateway runs.

use std::io::{self, Write};
use std::num::NonZero;

use crate::cli::{self, PipelineFormat};
use crate::config::gateway::Stages;
use crate::config::{self, ConfigError, Gateway};
use crate::exit::Status;
use crate::pipeline::diagram::{DOWNLINK, Description, UPLINK, describe};
use crate::runtime::stage::WhenFull;

/// Columns of the text that reasons are wrapped to.
const COLUMNS: usize = 100;
const MARGIN: &str = "               ";

/// Why there is no diagram.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl PipelineError {
    /// The exit status.
    pub fn status(&self) -> Status {
        match self {
            Self::Config(_) => Status::BadConfiguration,
            Self::Output(_) => Status::Failed,
        }
    }
}

/// Prints the diagram.
///
/// # Errors
/// [`PipelineError`].
pub fn run(args: &cli::Pipeline, out: &mut dyn Write) -> Result<(), PipelineError> {
    let config: Gateway = config::load(args.config.as_deref(), &[])?;
    let stages = describe(&config.egress.way);
    let diagram = match args.format {
        PipelineFormat::Text => text(&stages, &config.stages),
        PipelineFormat::Mermaid => mermaid(&stages),
    };
    Ok(write!(out, "{diagram}")?)
}

fn text(stages: &[Description], limits: &Stages) -> String {
    let mut text = String::new();
    for direction in [UPLINK, DOWNLINK] {
        let way: Vec<&str> = on_the_way(stages, direction).map(|stage| stage.name).collect();
        push(&mut text, &format!("{direction:<10}{}", way.join(" → ")));
    }
    for direction in [UPLINK, DOWNLINK] {
        push(&mut text, &format!("\n{direction}"));
        for stage in stages.iter().filter(|stage| stage.direction == direction) {
            push(&mut text, &format!("  {:<13}{}", stage.name, place(stage, limits)));
            if let Some((way, turned_to)) = stage.turned_to {
                push(&mut text, &format!("{MARGIN}what turns round goes to {turned_to} of the {way}"));
            }
            push(&mut text, &wrapped("may drop for", &stage.reasons));
        }
    }
    text
}

/// The stages of one direction that packets go through: all but those that hand nothing on and get nothing.
fn on_the_way<'a>(stages: &'a [Description], direction: &'a str) -> impl Iterator<Item = &'a Description> {
    let is_joined = |at: usize, stage: &Description| {
        stage.next.is_some() || at.checked_sub(1).is_some_and(|before| stages[before].next.is_some())
    };
    stages
        .iter()
        .enumerate()
        .filter(move |(at, stage)| stage.direction == direction && is_joined(*at, stage))
        .map(|(_, stage)| stage)
}

fn place(stage: &Description, limits: &Stages) -> String {
    let (Some(name), Some(lanes), Some(when_full)) = (stage.config, stage.lanes, stage.when_full) else {
        return "the source: a thread that reads from the internet, and waits for nobody".to_owned();
    };
    let limits = limits.get(name);
    let threads = limits.threads(std::thread::available_parallelism().map_or(1, NonZero::get));
    format!(
        "a lane a {}; {} to {} threads; queue of {} packets, {} KiB; when full {}",
        lanes.word(),
        threads.start(),
        threads.end(),
        limits.queue_packets,
        limits.queue_bytes.0 >> 10,
        word(when_full)
    )
}

fn word(when_full: WhenFull) -> &'static str {
    match when_full {
        WhenFull::Park => "the lane before it waits",
        WhenFull::Drop => "it drops",
    }
}

fn wrapped(what: &str, words: &[&str]) -> String {
    let mut lines = vec![format!("{MARGIN}{what}")];
    for (at, word) in words.iter().enumerate() {
        let comma = if at + 1 < words.len() { "," } else { "" };
        match lines.last_mut() {
            Some(line) if line.len() + 2 + word.len() < COLUMNS => line.push_str(&format!(" {word}{comma}")),
            _ => lines.push(format!("{MARGIN}  {word}{comma}")),
        }
    }
    lines.join("\n")
}

fn mermaid(stages: &[Description]) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for direction in [UPLINK, DOWNLINK] {
        push(&mut text, &format!("  subgraph {direction}"));
        for stage in stages.iter().filter(|stage| stage.direction == direction) {
            let lanes = stage.lanes.map_or("source", |lanes| lanes.word());
            push(&mut text, &format!("    {}[\"{}<br/>{lanes}\"]", node(direction, stage.name), stage.name));
        }
        push(&mut text, "  end");
    }
    for stage in stages {
        let from = node(stage.direction, stage.name);
        if let Some(next) = stage.next {
            push(&mut text, &format!("  {from} --> {}", node(stage.direction, next)));
        }
        // In one direction what turns round goes where all goes.
        if let Some((way, turned_to)) = stage.turned_to.filter(|(way, _)| *way != stage.direction) {
            push(&mut text, &format!("  {from} -. turned round .-> {}", node(way, turned_to)));
        }
    }
    text
}

/// A node's identifier: mermaid takes no hyphens there.
fn node(direction: &str, name: &str) -> String {
    format!("{direction}_{}", name.replace('-', "_"))
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    fn printed(format: PipelineFormat) -> String {
        let mut out = Vec::new();
        run(&cli::Pipeline { format, config: None }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_text_begins_with_the_two_ways_of_the_data() {
        let text = printed(PipelineFormat::Text);
        let ways: Vec<&str> = text.lines().take(2).collect();
        let [up, down] =
            ["ws-decode → ip-parse → nat-rewrite → raw-send", "raw-recv → ip-parse → nat-rewrite → ws-encode"];
        assert_eq!(ways, [format!("uplink    {up}"), format!("downlink  {down}")]);
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    }

    #[test]
    fn the_way_out_is_the_configurations() {
        let path = std::env::temp_dir().join(format!("wstether-pipeline-{}.toml", std::process::id()));
        std::fs::write(&path, "[egress]\nmode = \"tun\"\n").unwrap();
        let mut out = Vec::new();
        let ran = run(&cli::Pipeline { format: PipelineFormat::Text, config: Some(path.clone()) }, &mut out);
        std::fs::remove_file(path).unwrap();
        ran.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("→ tun-write\n") && text.contains("tun-read →"), "{text}");
    }

    #[test]
    fn the_flowchart_names_no_node_that_it_has_not_declared() {
        let chart = printed(PipelineFormat::Mermaid);
        let declared: Vec<&str> =
            chart.lines().filter_map(|line| line.trim().split_once("[\"")).map(|it| it.0).collect();
        let edges = chart.lines().filter(|line| line.contains("->"));
        let ends = edges.flat_map(|line| [line.split_whitespace().next(), line.split_whitespace().next_back()]);
        assert!(ends.flatten().all(|end| declared.contains(&end)), "{chart}");
        assert_eq!(declared.len(), 9);
    }
}
