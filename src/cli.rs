//! The command line: what can be typed, and no more.

use std::ffi::OsStr;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};

use crate::config::Override;
use crate::config::values::{Congestion, Value, without_userinfo};
use crate::http::url::WsUrl;
use crate::load::mix::Mix;
use crate::load::schedule::Surge;

/// IP over WebSockets: a phone's mobile data for a laptop, by a page in the phone's browser.
#[derive(Debug, Parser)]
#[command(name = "wstether", version, propagate_version = true, arg_required_else_help = true, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 failed at run time; 2 wrong usage; 64 bad configuration, told before any socket opens; \
77 not permitted (the missing capability is named).

Examples:
  See the whole thing work on this machine, as root:
    wstether demo
  On a server (prints a token the first time):
    wstether gateway
  On the laptop (then scan the QR code with the phone):
    wstether client --gateway wss://gateway.example/wstether --token-file token";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole thing on this machine, in throw-away network namespaces
    Demo(Demo),
    /// Run the gateway, on a server
    Gateway(Gateway),
    /// Run the client, on the laptop
    Client(Client),
    /// Do what the phone's page does, without a browser
    Relay(Relay),
    /// Simulate tethers against a gateway, for load and overload tests
    Load(Box<Load>),
    /// Make, list and revoke credentials
    Token(Token),
    /// Show what a gateway is doing now
    Status(Status),
    /// Print the pipeline's diagram from the running definition
    Pipeline(Pipeline),
    /// Judge a configuration: every error at once
    Check(Check),
}

/// `wstether demo`
#[derive(Args, Debug)]
#[command(after_help = "\
Laptop, phone, gateway and internet each get a namespace of their own. Data goes through all four in both directions, \
is compared by SHA-256, and nothing is left behind. Needs root.

Examples:
  wstether demo
  wstether demo --egress tun --json")]
pub struct Demo {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// The way out to the internet
    #[arg(long, value_enum, default_value_t = EgressMode::Raw)]
    pub egress: EgressMode,
    /// What joins the two WebSockets
    #[arg(long, value_enum, default_value_t = RelayKind::Headless)]
    pub relay: RelayKind,
}

/// The two ways out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EgressMode {
    /// Packet sockets, with the gateway's own translation
    Raw,
    /// A TUN device; the kernel routes
    Tun,
}

impl EgressMode {
    /// The word for it, on the command line and in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Tun => "tun",
        }
    }
}

/// What joins the two WebSockets of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RelayKind {
    /// "wstether relay", with binary messages
    Headless,
    /// "wstether relay --base64"
    Base64,
    /// None: the client opens the gateway itself
    Direct,
}

impl RelayKind {
    /// The word for it, on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Headless => "headless",
            Self::Base64 => "base64",
            Self::Direct => "direct",
        }
    }
}

/// `wstether gateway`
#[derive(Args, Debug, Default)]
#[command(after_help = "\
With no file the defaults hold, and where there are no credentials yet a fresh token is printed once. \
Needs CAP_NET_ADMIN and CAP_NET_RAW. SIGTERM, SIGINT (Ctrl-C) or SIGHUP (its terminal closes) \
stops it: it drains, undoes what it set up, and exits 0.

Examples:
  wstether gateway
  wstether gateway --config /etc/wstether/gateway.toml
  wstether gateway --listen 127.0.0.1:8080 --egress tun --set tethers.max=16")]
pub struct Gateway {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to accept on, in place of listen.address; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// The way out to the internet (egress.mode)
    #[arg(long, value_enum)]
    pub egress: Option<EgressMode>,
    /// The interface to the internet (egress.interface)
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The file of credentials (tethers.credentials)
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<String>,
    /// Address and port of /metrics, or "" for none (metrics.listen)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<String>,
    /// How much the log tells (log.level)
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Any setting of the file; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    pub set: Vec<Override>,
}

/// `wstether client`
#[derive(Args, Debug, Default)]
#[command(after_help = "\
Serves a page for the phone, with its address as a QR code, and sets the TUN device, routes and DNS once the gateway \
answers. All of it is undone at the end, which comes with SIGTERM, SIGINT (Ctrl-C) or SIGHUP (its terminal closes), and by \
--down after a crash. Needs CAP_NET_ADMIN.

Examples:
  wstether client --gateway wss://gateway.example/wstether --token-file /etc/wstether/token
  wstether client --direct wss://gateway.example/wstether --token-file /etc/wstether/token
  wstether client --down")]
pub struct Client {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The gateway that the phone's page opens (client.gateway)
    #[arg(long, value_name = "URL", conflicts_with = "direct")]
    pub gateway: Option<String>,
    /// Open this gateway straight, with no phone between
    #[arg(long, value_name = "URL")]
    pub direct: Option<String>,
    /// The token (client.token). Other users can see it in the list of processes; --token-file hides it
    #[arg(long, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// The file that holds the token (client.token_file)
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// Address and port of the page for the phone (phone.listen)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// How much the log tells (log.level)
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Any setting of the file; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    pub set: Vec<Override>,
    /// Undo what a killed client left, and exit
    #[arg(long)]
    pub down: bool,
}

/// `wstether relay`
#[derive(Args, Debug)]
#[command(after_help = "\
For a phone with a terminal, a second laptop, or a test. It opens both WebSockets, passes messages on, dials again when \
one ends, and needs no privilege.

Example:
  wstether relay --client ws://192.168.43.20:8088/wstether --gateway wss://gateway.example/wstether")]
pub struct Relay {
    /// The client's WebSocket, as its page would open it
    #[arg(long, value_name = "URL", value_parser = Url)]
    pub client: WsUrl,
    /// The gateway's WebSocket
    #[arg(long, value_name = "URL", value_parser = Url)]
    pub gateway: WsUrl,
    /// Carry base64 text, where something between passes text alone
    #[arg(long)]
    pub base64: bool,
    /// End with the first connection, instead of dialling again
    #[arg(long)]
    pub once: bool,
    /// Trust the certificates in this PEM file as well: authorities' and gateways' own
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The congestion control of both connections [default: bbr on long paths, else cubic]
    #[arg(long, value_name = "NAME", value_parser = congestion)]
    pub congestion: Option<Congestion>,
}

fn congestion(text: &str) -> Result<Congestion, String> {
    text.parse().map_err(|_| format!("must be {}", <Congestion as Value>::allowed()))
}

/// `wstether load`
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Packets are sent when their time comes, whatever became of those before (an open loop), and their latency is measured from \
that time. They go through the gateway to a sink, \"wstether load sink\", which counts what arrives and is the source of \
what comes back. Load and sink on one machine, in two network namespaces, have one clock; on two machines only the counts \
mean something. No privilege is needed. docs/benchmarks.md tells what the figures mean.

Kinds of tethers for --mix, each with =NUMBER where it shall not share the tethers with the others:
  steady       packets evenly apart
  bursty       as many, in bursts of 32
  small        as many bytes, in packets of 64
  bulk         as many packets of --bulk-size, in trains of 44
  hog          --hog-factor times the packets
  slow-reader  is sent packets, and does not read them
  storm        connects --rate times a second, and hangs up once it is welcomed
  half-open    never says who it is
  idle         is welcomed and stays silent

Examples:
  wstether load sink --listen 198.18.0.2:9000
  wstether load --gateway ws://198.51.100.1:8080/wstether --token-file token --sink 198.18.0.2:9000 --tethers 100 --json
  wstether load --gateway ws://198.51.100.1:8080/wstether --token-file token --sink 198.18.0.2:9000 --tethers 101 \
      --mix steady,hog=1 --rate 50 --direction down"
)]
pub struct Load {
    /// The far end, in place of the load.
    #[command(subcommand)]
    pub end: Option<LoadEnd>,
    /// The gateway's WebSocket (ws://)
    #[arg(long, value_name = "URL", value_parser = Url, required = true)]
    pub gateway: Option<WsUrl>,
    /// The token. Other users can see it in the list of processes; --token-file hides it
    #[arg(long, conflicts_with = "token_file", required_unless_present = "token_file")]
    pub token: Option<String>,
    /// The file that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The sink, as the internet sees it
    #[arg(long, value_name = "ADDRESS:PORT", required = true)]
    pub sink: Option<SocketAddrV4>,
    /// How many tethers; the gateway's tethers.max and listen.links_max must allow them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub tethers: u32,
    /// Kinds of tethers, with commas between them
    #[arg(long, default_value = "steady", value_name = "KIND[=NUMBER]")]
    pub mix: Mix,
    /// Which way packets go
    #[arg(long, value_enum, default_value_t = LoadDirection::Both)]
    pub direction: LoadDirection,
    /// Packets a second, of each tether and direction
    #[arg(long, default_value_t = 10.0, value_name = "PACKETS", value_parser = positive)]
    pub rate: f64,
    /// Length of a packet, from the IP header on, in bytes
    #[arg(long, default_value_t = 1_000, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(64..=1500))]
    pub size: u16,
    /// The same for bulk tethers: as much as the tunnel takes
    #[arg(long, default_value_t = 1_400, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(64..=1500))]
    pub bulk_size: u16,
    /// How many times the rate a hog has
    #[arg(long, default_value_t = 100.0, value_name = "TIMES", value_parser = positive)]
    pub hog_factor: f64,
    /// How long packets are offered, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = positive)]
    pub seconds: f64,
    /// So many times the load for a while: TIMES:FROM:UNTIL, in seconds after the start
    #[arg(long, value_name = "TIMES:FROM:UNTIL", value_parser = surge)]
    pub surge: Option<Surge>,
    /// How long what is under way at the end may take, in seconds
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = positive)]
    pub drain: f64,
    /// How long the tethers may take to be welcomed, in seconds; the load then begins with those that were
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = positive)]
    pub connect_max: f64,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Tell every tether's share, too (needs --json)
    #[arg(long, requires = "json")]
    pub each: bool,
    /// Tell the course over time, too, in windows of 100 ms (needs --json)
    #[arg(long, requires = "json")]
    pub windows: bool,
}

/// The far end of a load.
#[derive(Debug, Subcommand)]
pub enum LoadEnd {
    /// Count what arrives, and send what is asked for, until SIGTERM, SIGINT or SIGHUP
    #[command(after_help = "Example:\n  wstether load sink --listen 198.18.0.2:9000")]
    Sink {
        /// Where it is
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: SocketAddrV4,
    },
}

/// Which way a load's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadDirection {
    /// From the tethers
    Up,
    /// To the tethers
    Down,
    /// Both
    Both,
}

/// `wstether token`
#[derive(Args, Debug)]
#[command(after_help = "\
The file holds hashes only, so a token can be shown no second time. A running gateway takes changes up at the next \
connection.

Examples:
  wstether token new --name \"Ada's laptop\"
  wstether token list
  wstether token revoke 7f3a9c21")]
pub struct Token {
    /// The file of credentials
    #[arg(long, global = true, value_name = "FILE", default_value = crate::credentials::DEFAULT_FILE)]
    pub file: PathBuf,
    /// What to do with it.
    #[command(subcommand)]
    pub action: TokenAction,
}

/// The actions of `wstether token`.
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Make a credential and print its token, once
    New {
        /// Whose it is, for "token list"
        #[arg(long, default_value = "")]
        name: String,
    },
    /// List the credentials
    List {
        /// Print one JSON array instead of text
        #[arg(long)]
        json: bool,
    },
    /// Take a credential away; its tethers end within seconds
    Revoke {
        /// The credential's id, as "token list" shows it, or its whole token
        id: String,
    },
}

/// `wstether status`
#[derive(Args, Debug)]
#[command(after_help = "\
Counts are since the gateway's start, waits are of the last 5 seconds. Of each controller the last decisions are shown; \
--json has more of them.

Example:
  wstether status --address 127.0.0.1:9321")]
pub struct Status {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Where the gateway's figures are (metrics.listen)
    #[arg(long, default_value = "127.0.0.1:9321", value_name = "ADDRESS:PORT")]
    pub address: SocketAddr,
}

/// `wstether pipeline`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  wstether pipeline --format mermaid --config /etc/wstether/gateway.toml")]
pub struct Pipeline {
    /// The form of the diagram
    #[arg(long, value_enum, default_value_t = PipelineFormat::Text)]
    pub format: PipelineFormat,
    /// The configuration file, for the way out and the stages' limits
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The forms of the diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PipelineFormat {
    /// Lines of text
    Text,
    /// A mermaid flowchart
    Mermaid,
}

/// `wstether check`
#[derive(Args, Debug)]
#[command(after_help = "\
Opens no socket. Exit status 0 where nothing is wrong, 64 with every error otherwise; 1 where that cannot be written.

Examples:
  wstether check /etc/wstether/gateway.toml
  wstether check --role client laptop.toml
  wstether check --role gateway --example > gateway.toml")]
pub struct Check {
    /// The configuration file
    #[arg(value_name = "FILE", required_unless_present = "example")]
    pub file: Option<PathBuf>,
    /// Whose configuration it is
    #[arg(long, value_enum, default_value_t = RoleName::Gateway)]
    pub role: RoleName,
    /// Print an example with every key, its effect and its default instead
    #[arg(long, conflicts_with = "file")]
    pub example: bool,
}

/// The roles with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// The server
    Gateway,
    /// The laptop
    Client,
}

impl Gateway {
    /// The options as values laid over the file's. `--set` is laid last.
    pub fn overrides(&self) -> Vec<Override> {
        let mut overrides = Vec::new();
        if !self.listen.is_empty() {
            let addresses: Vec<String> = self.listen.iter().map(|address| format!("\"{address}\"")).collect();
            overrides.push(over("--listen", "listen.address", format!("[{}]", addresses.join(", "))));
        }
        let egress = self.egress.map(|mode| mode.word().to_owned());
        let texts = [
            ("--egress", "egress.mode", &egress),
            ("--interface", "egress.interface", &self.interface),
            ("--credentials", "tethers.credentials", &self.credentials),
            ("--metrics", "metrics.listen", &self.metrics),
            ("--log", "log.level", &self.log),
        ];
        overrides.extend(given(&texts));
        overrides.extend(self.set.iter().cloned());
        overrides
    }
}

impl Client {
    /// The options as values laid over the file's. `--set` is laid last.
    pub fn overrides(&self) -> Vec<Override> {
        let listen = self.listen.map(|address| address.to_string());
        let via = self.direct.is_some().then(|| "direct".to_owned());
        // A token of one kind replaces one of the other kind in the file.
        let no_token = self.token_file.is_some().then(String::new);
        let no_token_file = self.token.is_some().then(String::new);
        let texts = [
            ("--gateway", "client.gateway", &self.gateway),
            ("--direct", "client.gateway", &self.direct),
            ("--direct", "client.via", &via),
            ("--token-file", "client.token", &no_token),
            ("--token", "client.token_file", &no_token_file),
            ("--token", "client.token", &self.token),
            ("--token-file", "client.token_file", &self.token_file),
            ("--listen", "phone.listen", &listen),
            ("--log", "log.level", &self.log),
        ];
        let mut overrides: Vec<Override> = given(&texts).collect();
        overrides.extend(self.set.iter().cloned());
        overrides
    }
}

fn given<'a>(texts: &'a [(&'a str, &'a str, &'a Option<String>)]) -> impl Iterator<Item = Override> + 'a {
    texts.iter().filter_map(|(option, path, value)| Some(over(option, path, Option::clone(value)?)))
}

fn over(option: &str, path: &str, value: String) -> Override {
    Override { option: option.to_owned(), path: path.to_owned(), value }
}

/// Reads a WebSocket's URL. What is wrong with one is told without the password that may stand in it.
#[derive(Clone, Debug)]
struct Url;

/// As a URL can be.
const URL_EXAMPLE: &str = "ws://gateway.example:8080/wstether";

impl TypedValueParser for Url {
    type Value = WsUrl;

    fn parse_ref(&self, cmd: &clap::Command, arg: Option<&Arg>, value: &OsStr) -> Result<WsUrl, clap::Error> {
        let read = |url: &str| url.parse().map_err(|error| format!("{error}; a right one is {URL_EXAMPLE}"));
        let read: Result<WsUrl, clap::Error> = TypedValueParser::parse_ref(&read, cmd, arg, value);
        read.map_err(|mut error| {
            let shown = without_userinfo(&value.to_string_lossy());
            error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
            error
        })
    }
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err("it must be more than 0".to_owned()) }
}

/// Splits `times:from:until`.
fn surge(text: &str) -> Result<Surge, String> {
    let numbers: Vec<f64> = text.split(':').filter_map(|part| part.parse().ok()).collect();
    let [factor, from_s, until_s] = numbers[..] else {
        return Err("write it as 20:2:5, 20 times the load from second 2 to second 5".to_owned());
    };
    if factor <= 0.0 || from_s < 0.0 || until_s <= from_s || !until_s.is_finite() || !factor.is_finite() {
        return Err("the first number must be more than 0, and the third more than the second".to_owned());
    }
    let [from_ns, until_ns] = [from_s, until_s].map(|seconds| (seconds * 1e9) as u64);
    Ok(Surge { factor, from_ns, until_ns })
}

/// Splits `section.key=value`.
fn setting(text: &str) -> Result<Override, String> {
    let (path, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    Ok(over("--set", path.trim(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests;
