//! How the gateway's values fit together.

use std::net::IpAddr;

use super::stages::{DEFAULT_SECTION, section_of};
use super::{
    Egress, EgressKeys, EgressMode, Gateway, PortBlocks, StageName, Tls, TlsKeys, Translation, Translator, Way,
};
use crate::config::schema::Reader;
use crate::config::shared::clash;
use crate::config::values::Auto;
use crate::stages::ip_parse::DNS_PORT;

/// The ports below are for services with a privilege (RFC 6335: system ports).
const PORT_UNPRIVILEGED_MIN: u16 = 1024;

/// Addresses of the pool that are no client's: the network's, the gateway's and the broadcast address.
const POOL_ADDRESSES_TAKEN: u64 = 3;

impl TlsKeys {
    /// Both files or none.
    pub(super) fn judged(self, reader: &mut Reader) -> Option<Tls> {
        match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some(Tls { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                reader.object(&["tls.certificate"], "needs tls.key too: both files or none");
                None
            }
            (None, Some(_)) => {
                reader.object(&["tls.key"], "needs tls.certificate too: both files or none");
                None
            }
        }
    }
}

impl EgressKeys {
    /// Only what applies to the chosen way.
    pub(super) fn judged(self, reader: &mut Reader) -> Egress {
        let blocks =
            PortBlocks { addresses: self.addresses, ports: self.ports, ports_per_tether: self.ports_per_tether };
        let way = match (self.mode, self.translation) {
            (EgressMode::Raw, Auto::Auto | Auto::Is(Translator::Gateway)) => Way::Raw(blocks),
            (EgressMode::Raw, Auto::Is(other @ (Translator::Kernel | Translator::None))) => {
                let what = format!("\"{other}\" needs egress.mode \"tun\"; with \"raw\" the gateway translates");
                reader.object(&["egress.translation"], what);
                Way::Raw(blocks)
            }
            (EgressMode::Tun, Auto::Is(Translator::Gateway)) => {
                if blocks.addresses.is_empty() {
                    let what = "\"gateway\" with egress.mode \"tun\" needs egress.addresses: addresses that are routed to \
                                this host without being its own";
                    reader.object(&["egress.translation"], what);
                }
                if blocks.addresses.len() > 1 {
                    reader.object(&["egress.addresses"], "names several: one address is routed to a TUN device");
                }
                Way::Tun { name: self.tun_name, translation: Translation::Gateway(blocks) }
            }
            (EgressMode::Tun, Auto::Auto | Auto::Is(Translator::Kernel)) => {
                Way::Tun { name: self.tun_name, translation: Translation::Kernel }
            }
            (EgressMode::Tun, Auto::Is(Translator::None)) => {
                Way::Tun { name: self.tun_name, translation: Translation::None }
            }
        };
        Egress { interface: self.interface, way }
    }
}

/// Judges values that are each right by themselves.
pub(super) fn judge(config: &Gateway, reader: &mut Reader) {
    judge_listening(config, reader);
    judge_tethers(config, reader);
    if let Some(blocks) = config.egress.port_blocks() {
        judge_ports(config, blocks, reader);
    }
    judge_dns(config, reader);
    for name in StageName::ALL {
        judge_stage(config, *name, reader);
    }
    config.conditioning.judge(reader);
    config.overload.judge(reader);
}

fn judge_listening(config: &Gateway, reader: &mut Reader) {
    let listen = &config.listen;
    if listen.address.is_empty() {
        reader.object(&["listen.address"], "is empty: give at least one address");
    }
    for (index, address) in listen.address.iter().enumerate() {
        if let Some(other) = listen.address[..index].iter().find(|other| clash(**other, *address)) {
            let twice = format!("{address} is given twice");
            let what =
                if other == address { twice } else { format!("{address} and {other} cannot both be had at one port") };
            reader.object(&["listen.address"], what);
        }
        if let Some(metrics) = config.metrics.listen.filter(|metrics| clash(*metrics, *address)) {
            let what = format!("{address} and metrics.listen = {metrics} cannot both be had: give one another port");
            reader.object(&["listen.address", "metrics.listen"], what);
        }
    }
    // A client that comes back needs a place while its old link still has one.
    if listen.links_max <= config.tethers.max {
        let what = format!(
            "{} links cannot serve tethers.max = {}: at least one more than tethers is needed",
            listen.links_max, config.tethers.max
        );
        reader.object(&["listen.links_max", "tethers.max"], what);
    }
}

fn judge_tethers(config: &Gateway, reader: &mut Reader) {
    let tethers = &config.tethers;
    for (path, window) in
        [("tethers.credit_window", tethers.credit_window), ("tethers.downlink_window", tethers.downlink_window)]
    {
        if window < tethers.message_max {
            let what = format!(
                "{window} has no room for one message of tethers.message_max = {}: raise it, or lower that",
                tethers.message_max
            );
            reader.object(&[path, "tethers.message_max"], what);
        }
        if window > config.memory.budget {
            let what = format!("{window} is more than memory.budget = {}", config.memory.budget);
            reader.object(&[path, "memory.budget"], what);
        }
    }
    let pool = config.lease.pool;
    if pool.address.is_unspecified() || pool.address.is_loopback() || pool.address.is_multicast() {
        reader.object(&["lease.pool"], format!("{pool} cannot be given to clients"));
    }
    let leases = pool.addresses().saturating_sub(POOL_ADDRESSES_TAKEN);
    if leases < tethers.max as u64 {
        let what = format!("{pool} has room for {leases} clients, and tethers.max is {}", tethers.max);
        reader.object(&["lease.pool", "tethers.max"], what);
    }
}

fn judge_ports(config: &Gateway, blocks: &PortBlocks, reader: &mut Reader) {
    let PortBlocks { addresses, ports, ports_per_tether } = blocks;
    if ports.first < PORT_UNPRIVILEGED_MIN {
        reader.object(&["egress.ports"], format!("{ports} must not go below {PORT_UNPRIVILEGED_MIN}"));
    }
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            reader.object(&["egress.addresses"], format!("{address} is given twice"));
        }
        if config.lease.pool.contains(*address) {
            let what = format!("{address} is inside lease.pool = {}", config.lease.pool);
            reader.object(&["egress.addresses", "lease.pool"], what);
        }
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast() {
            reader.object(&["egress.addresses"], format!("{address} is no address to send from"));
        }
    }
    let listening = config.listen.address.iter().map(|address| ("listen.address", address));
    for (path, address) in listening.chain(config.metrics.listen.iter().map(|address| ("metrics.listen", address))) {
        if ports.contains(address.port()) && !address.ip().is_loopback() {
            let what = format!("{address} is inside egress.ports = {ports}, which the kernel must not answer for");
            reader.object(&[path, "egress.ports"], what);
        }
    }
    let (per_address, wanted) = (blocks.tethers_per_address(), config.tethers.max);
    let room = per_address.saturating_mul(addresses.len().max(1));
    if room < wanted {
        let keys = ["tethers.max", "egress.ports_per_tether", "egress.ports", "egress.addresses"];
        let what = format!(
            "{wanted} tethers do not fit: egress.ports {ports} in blocks of {ports_per_tether} give {per_address} an \
             address, {room} in all"
        );
        reader.object(&keys, what);
    }
}

/// DNS is translated like any other flow: to one address, at the port that the client asked.
fn judge_dns(config: &Gateway, reader: &mut Reader) {
    let path = "dns.upstream";
    if let [_, _, ..] = &config.dns.upstream[..] {
        reader.object(&[path], "names several: give the one resolver that packets are translated to");
    }
    for resolver in &config.dns.upstream {
        let address = resolver.0;
        if address.port() != DNS_PORT {
            reader.object(&[path], format!("{address}: only port {DNS_PORT} is reached by translation"));
        } else if !address.is_ipv4() || address.ip().is_unspecified() || address.ip().is_loopback() {
            let what = format!("{}: must be an IPv4 address that is not on this host's loopback", address.ip());
            reader.object(&[path], what);
        } else if matches!(address.ip(), IpAddr::V4(address) if config.lease.pool.contains(address)) {
            let what =
                format!("{} is inside lease.pool = {}, where nobody but clients is", address.ip(), config.lease.pool);
            reader.object(&[path, "lease.pool"], what);
        }
    }
}

fn judge_stage(config: &Gateway, name: StageName, reader: &mut Reader) {
    let (section, stage) = (section_of(name), config.stages.get(name));
    // The section that says it: the stage's own, or the one for all stages (then it is told once).
    let mut object = |keys: &[&str], what: String| {
        let in_section = |section: &str| keys.iter().map(|key| format!("{section}.{key}")).collect::<Vec<_>>();
        let own = in_section(&section);
        let said_there = own.iter().any(|path| reader.is_written(path));
        if said_there { reader.object(&own, what) } else { reader.object(&in_section(DEFAULT_SECTION), what) }
    };
    if let Auto::Is(max) = stage.threads_max
        && max < stage.threads_min
    {
        object(&["threads_min", "threads_max"], format!("{} is more than threads_max = {max}", stage.threads_min));
    }
    if stage.batch > stage.queue_packets {
        object(
            &["batch", "queue_packets"],
            format!("{} is more than queue_packets = {}", stage.batch, stage.queue_packets),
        );
    }
    if stage.queue_bytes > config.memory.budget {
        let what = format!("{} is more than memory.budget = {}", stage.queue_bytes, config.memory.budget);
        object(&["queue_bytes"], what);
    }
}
