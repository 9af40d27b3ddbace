//! The gateway's configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Role;
use super::conditioning::Conditioning;
use super::schema::{Reader, settings};
use super::shared::{Log, Metrics, Runtime};
use super::values::{
    Auto, Bytes, Congestion, InterfaceName, Name, PortRange, Prefix, Prefix4, Resolver, UrlPath, choices,
};

mod checks;
mod overload;
mod stages;

pub use overload::Overload;
pub use stages::{HandOver, Stage, StageName, Stages};

/// A gateway's configuration that was judged as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// `[gateway]`
    pub gateway: Identity,
    /// `[listen]`
    pub listen: Listen,
    /// `[tls]`; none: plain ws.
    pub tls: Option<Tls>,
    /// `[tethers]`
    pub tethers: Tethers,
    /// `[lease]`
    pub lease: Lease,
    /// `[egress]`
    pub egress: Egress,
    /// `[nat]`
    pub nat: Nat,
    /// `[policy]`
    pub policy: Policy,
    /// `[dns]`
    pub dns: Dns,
    /// `[stages.*]`
    pub stages: Stages,
    /// `[conditioning.*]`
    pub conditioning: Conditioning,
    /// `[overload]`
    pub overload: Overload,
    /// `[memory]`
    pub memory: Memory,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[log]`
    pub log: Log,
    /// `[runtime]`
    pub runtime: Runtime,
}

impl Role for Gateway {
    const NAME: &'static str = "gateway";

    fn read(reader: &mut Reader) -> Self {
        let gateway = reader.section("gateway");
        let listen = reader.section("listen");
        let tls = reader.section::<TlsKeys>("tls");
        let tethers = reader.section("tethers");
        let lease = reader.section("lease");
        let egress = reader.section::<EgressKeys>("egress");
        let nat = reader.section("nat");
        let policy = reader.section("policy");
        let dns = reader.section("dns");
        let stages = Stages::read(reader);
        let conditioning = Conditioning::read(reader);
        let overload = reader.section("overload");
        let memory = reader.section("memory");
        let metrics = reader.section("metrics");
        let log = reader.section("log");
        let runtime = reader.section("runtime");
        let tls = tls.judged(reader);
        let egress = egress.judged(reader);
        let judged = Self {
            gateway,
            listen,
            tls,
            tethers,
            lease,
            egress,
            nat,
            policy,
            dns,
            stages,
            conditioning,
            overload,
            memory,
            metrics,
            log,
            runtime,
        };
        if reader.is_clean() {
            checks::judge(&judged, reader);
        }
        judged
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self::read(&mut Reader::new(super::document::Document::default()))
    }
}

settings! {
    /// Who this gateway is.
    pub struct Identity {
        /// Its name, which its nftables table and its state file bear: several on one host need several names.
        name: Name = "wstether",
    }
}

settings! {
    /// Where clients and relays come in.
    pub struct Listen {
        /// The addresses and ports where WebSockets are accepted.
        address: Vec<SocketAddr> = ["0.0.0.0:8080"],
        /// The path of the WebSocket. Any other path is answered with 404.
        path: UrlPath = "/wstether",
        /// How long a connection may take from accept to a proven credential. Then it is closed.
        handshake_timeout: Duration = "10s" in "1s"..="5m",
        /// How many connections may be in that state at once. Further ones are refused with 503.
        handshakes_max: usize = 256 in 1..=65536,
        /// How many of these may come from one address (IPv6: one /64). Clients behind one carrier's translation share an
        /// address, but are in that state for a moment only. Connections from the host itself, as from a proxy on it, are
        /// not counted.
        handshakes_per_address: usize = 32 in 1..=65536,
        /// How many WebSockets may be open at once, with those that are in that state. Further ones are refused with 503.
        links_max: usize = 1024 in 1..=1000000,
        /// How often an idle link is asked whether it still lives. One that is silent three times as long is closed.
        keepalive: Duration = "20s" in "1s"..="10m",
        /// The congestion control of the WebSockets' TCP, such as "cubic". "auto": "bbr" where the path is long (5 ms or
        /// more) and the kernel has it, since it does not fill the network's buffers; else "cubic".
        congestion: Auto<Congestion> = "auto",
        /// How many bytes a socket may hold that TCP has not sent yet (TCP_NOTSENT_LOWAT). What waits there waits in no
        /// order but its own.
        unsent_max: Bytes = "32KiB" in "4KiB"..="16MiB",
    }
}

settings! {
    /// Encryption of the WebSockets (wss). Leave both empty for plain ws, behind a proxy that does TLS.
    /// Even then nobody without the credential gets in.
    pub struct TlsKeys {
        /// The file with the certificate chain (PEM), the gateway's own certificate first.
        /// Both files are read at the start: restart the gateway once the certificate is renewed.
        certificate: Option<PathBuf> = "",
        /// The file with its private key (PEM).
        key: Option<PathBuf> = "",
    }
}

/// The files for wss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain (PEM).
    pub certificate: PathBuf,
    /// The private key (PEM).
    pub key: PathBuf,
}

settings! {
    /// The clients' sessions.
    pub struct Tethers {
        /// How many there may be at once. Further ones are refused, with a time to try again.
        max: usize = 64 in 1..=100000,
        /// How many of them one credential may have. 0: as many as there may be.
        max_per_credential: usize = 0 in 0..=100000,
        /// How long a tether whose last link broke keeps its address and its connections.
        linger: Duration = "5m" in "0s"..="1d",
        /// How many bytes a client may send ahead of what the gateway has passed on, at most: twice of what it sent in the
        /// last 0.3 s, and fewer while they wait there for long. Not less than message_max.
        credit_window: Bytes = "4MiB" in "128KiB"..="64MiB",
        /// How many bytes the gateway sends ahead of what the client has acknowledged, at most. It follows the link: what
        /// the path holds, and a few milliseconds of queue. Not less than message_max.
        downlink_window: Bytes = "8MiB" in "128KiB"..="64MiB",
        /// The largest WebSocket message taken, for which both windows above must have room. A larger one closes the link
        /// with 1009. A super-packet of 64 KiB fits in any.
        message_max: Bytes = "256KiB" in "128KiB"..="16MiB",
        /// The file of credentials, which "wstether token" writes. Where it is not there, the gateway makes it with one
        /// fresh token, which is printed once.
        credentials: PathBuf = "/var/lib/wstether/credentials.toml",
    }
}

settings! {
    /// What a client gets.
    pub struct Lease {
        /// The addresses for clients. The first one is the gateway's own inner address, which also answers DNS.
        pool: Prefix4 = "100.64.0.0/16",
        /// The largest packet inside the tunnel, in bytes. "auto" takes that of the interface the packets leave by, and no
        /// more than that is allowed.
        mtu: Auto<u16> = "auto" in 1280..=65535,
    }
}

settings! {
    /// How packets leave for the internet.
    pub struct EgressKeys {
        /// "raw": through packet sockets, with the gateway's own translation. "tun": through a TUN device, and the kernel
        /// routes them.
        mode: EgressMode = "raw",
        /// The interface to the internet. "auto": that of the default route.
        interface: Auto<InterfaceName> = "auto",
        /// The external IPv4 addresses. Empty: the interface's own. For "tun" with translation "gateway" they must be
        /// given, and must be routed to this host without being its own.
        addresses: Vec<Ipv4Addr> = [],
        /// Who translates addresses: "gateway", "kernel" (masquerade in the gateway's own nftables table) or "none" (the
        /// pool is routed here). "auto": the gateway for "raw", the kernel for "tun". "raw" knows only "gateway".
        translation: Auto<Translator> = "auto",
        /// The external ports of the gateway's own translation, none below 1024. They are reserved in the kernel, so nothing
        /// else may listen there. Several gateways on one host need ports that do not overlap, or several addresses.
        ports: PortRange = "20480-53247",
        /// How many of these each tether gets, as one block. They bound how many tethers fit on one address.
        ports_per_tether: u16 = 512 in 16..=32768,
        /// The name of the TUN device.
        tun_name: InterfaceName = "wst0",
    }
}

choices! {
    /// The two ways out.
    pub enum EgressMode {
        /// Packet sockets.
        Raw = "raw",
        /// A TUN device.
        Tun = "tun",
    }
}

choices! {
    /// Who translates addresses.
    pub enum Translator {
        /// The stage nat-rewrite.
        Gateway = "gateway",
        /// A masquerade rule.
        Kernel = "kernel",
        /// Nobody: the pool is routed.
        None = "none",
    }
}

/// How packets leave, with nothing in it that does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The interface to the internet.
    pub interface: Auto<InterfaceName>,
    /// The way out, and who translates there.
    pub way: Way,
}

/// The way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Packet sockets; the gateway translates.
    Raw(PortBlocks),
    /// A TUN device.
    Tun {
        /// Its name.
        name: InterfaceName,
        /// Who translates.
        translation: Translation,
    },
}

/// Who translates, with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    /// The stage nat-rewrite, to these addresses and ports.
    Gateway(PortBlocks),
    /// A masquerade rule.
    Kernel,
    /// Nobody.
    None,
}

/// The external addresses and ports, in blocks (RFC 7422).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortBlocks {
    /// Empty: the interface's own.
    pub addresses: Vec<Ipv4Addr>,
    /// The ports of each address.
    pub ports: PortRange,
    /// The length of a block.
    pub ports_per_tether: u16,
}

impl PortBlocks {
    /// How many tethers fit on one address.
    pub fn tethers_per_address(&self) -> usize {
        usize::try_from(self.ports.count() / u32::from(self.ports_per_tether)).unwrap_or(usize::MAX)
    }
}

impl Egress {
    /// Which of the two ways out.
    pub fn mode(&self) -> EgressMode {
        match self.way {
            Way::Raw(_) => EgressMode::Raw,
            Way::Tun { .. } => EgressMode::Tun,
        }
    }

    /// The blocks of ports, where the gateway itself translates.
    pub fn port_blocks(&self) -> Option<&PortBlocks> {
        match &self.way {
            Way::Raw(blocks) | Way::Tun { translation: Translation::Gateway(blocks), .. } => Some(blocks),
            Way::Tun { translation: Translation::Kernel | Translation::None, .. } => None,
        }
    }
}

settings! {
    /// The gateway's own translation (NAT). The timers are those of RFC 4787, 5382, 5508 and 7857.
    pub struct Nat {
        /// Who may send to a mapped port: "endpoint-independent" (anybody, best for games and calls),
        /// "address-dependent" (addresses that were sent to) or "address-and-port-dependent".
        filtering: Filtering = "address-dependent",
        /// A UDP mapping ends after this long without outgoing packets (RFC 4787: at least 2 minutes).
        udp: Duration = "5m" in "1s"..="1d",
        /// The same for DNS (port 53).
        udp_dns: Duration = "30s" in "1s"..="1d",
        /// An established TCP connection may be idle this long (RFC 5382: at least 2 hours 4 minutes).
        tcp_established: Duration = "2h4m" in "1s"..="30d",
        /// A TCP connection that is being opened (RFC 5382: at least 4 minutes).
        tcp_opening: Duration = "4m" in "1s"..="1d",
        /// A TCP connection that is being closed or was reset (RFC 5382: at least 4 minutes).
        tcp_closing: Duration = "4m" in "1s"..="1d",
        /// A ping's mapping (RFC 5508: at least 60 seconds).
        icmp_query: Duration = "1m" in "1s"..="1d",
        /// How many mappings a tether may have. At the limit new ones are refused, and live ones stay.
        mappings_per_tether: usize = 1536 in 16..=196608,
        /// How many new mappings a tether may make in a second, in the long run; as many may come at once.
        mappings_per_second: u32 = 500 in 1..=100000,
    }
}

choices! {
    /// Who may send to a mapped port (RFC 4787, section 5).
    pub enum Filtering {
        /// Anybody.
        EndpointIndependent = "endpoint-independent",
        /// Addresses that were sent to.
        AddressDependent = "address-dependent",
        /// Addresses and ports that were sent to.
        AddressAndPortDependent = "address-and-port-dependent",
    }
}

settings! {
    /// What clients may reach. Private, loopback, link-local, multicast and metadata addresses, the gateway's own, and
    /// other clients' leases are shut unless allowed here.
    pub struct Policy {
        /// Prefixes that are open although they are shut by default.
        allow: Vec<Prefix> = [],
        /// Prefixes that are shut although they are open by default. Where both name an address, this one holds.
        deny: Vec<Prefix> = [],
    }
}

settings! {
    /// The gateway answers DNS on its inner address: such packets are translated to a resolver, and its answers back.
    pub struct Dns {
        /// The resolver: one IPv4 address, such as "9.9.9.9", at port 53. Empty: the first of the host (/etc/resolv.conf)
        /// that is not on the host itself.
        upstream: Vec<Resolver> = [],
    }
}

settings! {
    /// The memory for packets, queues, clients and translation state, all together.
    pub struct Memory {
        /// They never take more. Near it newcomers are refused (overload.tethers_percent), and at 95 % of it packets are dropped.
        /// The process holds some 64 MiB a core beside it, and the kernel what is in its sockets: docs/configuration.md.
        budget: Bytes = "256MiB" in "16MiB"..="1024GiB",
    }
}
