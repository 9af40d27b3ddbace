//! The client's configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::Role;
use super::conditioning::ClientConditioning;
use super::document::{Document, Item};
use super::schema::{Reader, settings};
use super::shared::{Log, Runtime, clash};
use super::values::{Auto, Bytes, Congestion, GatewayUrl, InterfaceName, NotOfThisKind, Prefix, Value, choices};

/// A client's configuration that was judged as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// `[client]`
    pub client: Identity,
    /// `[phone]`
    pub phone: Phone,
    /// `[tun]`
    pub tun: Tun,
    /// `[routes]`
    pub routes: Routes,
    /// `[dns]`
    pub dns: Dns,
    /// `[queues]`
    pub queues: Queues,
    /// `[conditioning.*]`
    pub conditioning: ClientConditioning,
    /// `[memory]`
    pub memory: Memory,
    /// `[metrics]`
    pub metrics: ClientMetrics,
    /// `[log]`
    pub log: Log,
    /// `[runtime]`
    pub runtime: Runtime,
}

impl Role for Client {
    const NAME: &'static str = "client";

    fn read(reader: &mut Reader) -> Self {
        let read = Self {
            client: reader.section("client"),
            phone: reader.section("phone"),
            tun: reader.section("tun"),
            routes: reader.section("routes"),
            dns: reader.section("dns"),
            queues: reader.section("queues"),
            conditioning: ClientConditioning::read(reader),
            memory: reader.section("memory"),
            metrics: reader.section("metrics"),
            log: reader.section("log"),
            runtime: reader.section("runtime"),
        };
        if reader.is_clean() {
            read.judge(reader);
        }
        read
    }

    fn remarks(&self) -> Vec<String> {
        let Identity { gateway, token, token_file, .. } = &self.client;
        let no_gateway = gateway.is_none().then(|| {
            "client.gateway is empty: set it, such as to \"wss://gateway.example/wstether\", or start the client with \
             --gateway"
                .to_owned()
        });
        let no_token = (token.is_none() && token_file.is_none()).then(|| {
            "client.token and client.token_file are empty: set one of them, or start the client with --token-file"
                .to_owned()
        });
        [no_gateway, no_token, self.page_is_out_of_reach()].into_iter().flatten().collect()
    }
}

impl Client {
    /// A remark where no phone reaches the page. It may be so on purpose, for something that passes it on.
    pub fn page_is_out_of_reach(&self) -> Option<String> {
        let listen = self.phone.listen;
        let is_out_of_reach = self.client.via == Via::Phone && listen.ip().is_loopback();
        is_out_of_reach.then(|| {
            format!("phone.listen is {listen}, which this machine alone reaches, and no phone; 0.0.0.0 is every address of it")
        })
    }

    /// Judges values that are each right by themselves.
    fn judge(&self, reader: &mut Reader) {
        let Identity { gateway, token, token_file, via, ca: _, congestion: _, unsent_max: _ } = &self.client;
        if *via == Via::Direct && gateway.is_none() {
            reader
                .object(&["client.via"], "\"direct\" needs client.gateway, such as \"wss://gateway.example/wstether\"");
        }
        if token.is_some() && token_file.is_some() {
            reader.object(&["client.token", "client.token_file"], "give client.token or client.token_file, not both");
        }
        if let Some(metrics) = self.metrics.listen.filter(|metrics| clash(*metrics, self.phone.listen)) {
            let phone = self.phone.listen;
            let what = format!("{phone} and metrics.listen = {metrics} cannot both be had: give one another port");
            reader.object(&["phone.listen", "metrics.listen"], what);
        }
        self.queues.judge(&self.memory, reader);
        self.conditioning.judge(reader);
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::read(&mut Reader::new(Document::default()))
    }
}

settings! {
    /// Which gateway, and by which way.
    pub struct Identity {
        /// The gateway, such as "wss://gateway.example/wstether". The page on the phone opens it, or the client itself.
        gateway: Option<GatewayUrl> = "",
        /// The token that "wstether token new" printed at the gateway.
        token: Option<Token> = "",
        /// A file that holds the token, in place of the line above. Keep it readable for its owner alone.
        token_file: Option<PathBuf> = "",
        /// "phone": a page in the phone's browser carries the packets. "direct": the client opens the gateway itself.
        via: Via = "phone",
        /// A file of certificates (PEM) to trust beside the public ones, for a gateway with a certificate of its own: its
        /// CA's, or that certificate itself. It counts for "direct"; through a phone the browser judges.
        ca: Option<PathBuf> = "",
        /// The congestion control of the WebSockets' TCP, such as "cubic". "auto": "bbr" where the path is long (5 ms or
        /// more) and the kernel has it, since it does not fill the network's buffers; else "cubic".
        congestion: Auto<Congestion> = "auto",
        /// How many bytes a socket may hold that TCP has not sent yet (TCP_NOTSENT_LOWAT). What waits there waits in no
        /// order but its own.
        unsent_max: Bytes = "32KiB" in "4KiB"..="16MiB",
    }
}

choices! {
    /// The way to the gateway.
    pub enum Via {
        /// Through the page in the phone's browser.
        Phone = "phone",
        /// Straight.
        Direct = "direct",
    }
}

/// A token. It stays out of logs: its debug form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The text, as it was printed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl FromStr for Token {
    type Err = NotOfThisKind;

    fn from_str(text: &str) -> Result<Self, NotOfThisKind> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.starts_with("wst1_") && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotOfThisKind)
        }
    }
}

impl Value for Token {
    fn allowed() -> String {
        "a token, which begins with \"wst1_\"".to_owned()
    }

    fn from_item(item: &Item) -> Option<Self> {
        if let Item::Text(text) = item { text.parse().ok() } else { None }
    }

    fn shown(_written: &str) -> String {
        "(hidden)".to_owned()
    }
}

settings! {
    /// The page for the phone.
    pub struct Phone {
        /// The address and port of the page and its WebSocket. The phone must reach it, over the laptop's Wi-Fi or a cable.
        listen: SocketAddr = "0.0.0.0:8088",
        /// The interface whose address is shown as a QR code. "auto": the first that a phone is likely to share.
        interface: Auto<InterfaceName> = "auto",
    }
}

settings! {
    /// The tunnel's device.
    pub struct Tun {
        /// Its name.
        name: InterfaceName = "wst0",
        /// The largest packet inside the tunnel, in bytes. "auto": what the gateway says.
        mtu: Auto<u16> = "auto" in 1280..=65535,
        /// Whether it hands out and takes super-packets, up to 64 KiB of a flow in one piece. Without them each packet goes by
        /// itself, several times slower. Off is for finding a fault.
        super_packets: bool = true,
    }
}

settings! {
    /// What goes through the tunnel.
    pub struct Routes {
        /// Everything, as far as it is not excluded. The laptop's local networks stay as they are.
        default: bool = true,
        /// Prefixes that go through the tunnel although the line above is false.
        include: Vec<Prefix> = [],
        /// Prefixes that stay out of the tunnel.
        exclude: Vec<Prefix> = [],
    }
}

settings! {
    /// Names are asked of the gateway while the tunnel is up.
    pub struct Dns {
        /// "auto" and "resolv.conf" write the file below and put it back at the end; "auto" leaves it alone where no
        /// default route goes through the tunnel. "off": nothing is changed.
        manage: DnsManage = "auto",
        /// The file that the laptop's programs read.
        file: PathBuf = "/etc/resolv.conf",
    }
}

choices! {
    /// Who points the laptop's programs at the gateway's DNS.
    pub enum DnsManage {
        /// The client, where the default route goes through the tunnel.
        Auto = "auto",
        /// The client.
        ResolvConf = "resolv.conf",
        /// Nobody.
        Off = "off",
    }
}

settings! {
    /// The queues between the client's threads, one at each hand-over.
    pub struct Queues {
        /// How many packets may wait in one. What waits for the link is kept short by [conditioning.codel]; with fewer than
        /// some thousands a fast TCP connection loses what it sends before it has found its rate.
        packets: u32 = 10240 in 16..=1000000,
        /// How many bytes may wait in one, in memory held: a super-packet takes 64 KiB. Not more than memory.budget.
        bytes: Bytes = "16MiB" in "256KiB"..="16GiB",
        /// The most packets that are taken from one at once. It is never waited for more than are there.
        batch: u32 = 256 in 1..=1024,
    }
}

impl Queues {
    fn judge(&self, memory: &Memory, reader: &mut Reader) {
        if self.batch > self.packets {
            let what = format!("{} is more than queues.packets = {}", self.batch, self.packets);
            reader.object(&["queues.batch", "queues.packets"], what);
        }
        if self.bytes > memory.budget {
            let what =
                format!("{} is more than memory.budget = {}: lower it, or raise that", self.bytes, memory.budget);
            reader.object(&["queues.bytes", "memory.budget"], what);
        }
    }
}

settings! {
    /// The memory for packets.
    pub struct Memory {
        /// They never take more: what comes while it is used up is dropped.
        budget: Bytes = "64MiB" in "16MiB"..="16GiB",
    }
}

settings! {
    /// Figures for a Prometheus server.
    pub struct ClientMetrics {
        /// The address of /metrics, /healthz and /readyz, such as "127.0.0.1:9322". Empty: off.
        listen: Option<SocketAddr> = "",
    }
}
