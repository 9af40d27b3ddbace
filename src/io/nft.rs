//! The gateway's own nftables table, written by the `nft` program in one atomic transaction.
//!
//! docs/decisions/0011-nft-program.md tells why a program. The table is replaced as a whole: there is no moment without
//! it, and nothing of an earlier run is left in it. Tables of others are never touched.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::process::{Command, Output, Stdio};

use super::netlink::Prefix;

/// Where the program is looked for: by PATH, then where Debian has it (a user's PATH often lacks sbin).
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

/// Why the table could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `nft` program.
    #[error("the nft program is missing; install it, on Debian with: apt install nftables")]
    Missing,
    /// It could not be run.
    #[error("running nft: {0}")]
    Run(#[from] io::Error),
    /// It refused.
    #[error("nft refused while {action}: {message}")]
    Refused {
        /// What was tried.
        action: String,
        /// What it said.
        message: String,
    },
    /// A name that could be more than a name.
    #[error("{0:?} cannot be a name in a ruleset")]
    BadName(String),
}

/// What the table does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The kernel's own stack sees nothing of what comes for our ports, so that it answers with neither RST nor
    /// port-unreachable. A packet socket bound to ETH_P_IP still sees it: the hook is prerouting, not ingress.
    Raw {
        /// Our external addresses.
        addresses: Vec<Ipv4Addr>,
        /// Our ports.
        ports: RangeInclusive<u16>,
    },
    /// The kernel forwards between a TUN and the internet.
    Tun {
        /// The TUN's name.
        tun: String,
        /// The addresses that tethers have; nothing else may come out of the TUN, and one may not reach another.
        pool: Prefix,
        /// The interface to masquerade on; without one the pool's addresses are routed as they are.
        masquerade: Option<String>,
    },
}

/// The gateway's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name; the family is always inet.
    pub name: String,
    /// What it does.
    pub rules: Rules,
}

impl Table {
    /// Puts the table in place, whatever of it was there before, in this thread's network namespace.
    ///
    /// # Errors
    /// No `nft`, no CAP_NET_ADMIN, or a kernel without nftables.
    pub fn install(&self) -> Result<(), Error> {
        run(&["-f", "-"], &self.transaction()?, &format!("replacing table {}", self.name)).map(drop)
    }

    /// The transaction: an empty table is added so that the deletion cannot fail, then the whole is added.
    ///
    /// # Errors
    /// [`Error::BadName`] where a name holds more than letters, digits, `-`, `_` and `.`.
    pub fn transaction(&self) -> Result<String, Error> {
        let name = checked(&self.name)?;
        let chains = match &self.rules {
            Rules::Raw { addresses, ports } => raw_chains(addresses, ports),
            Rules::Tun { tun, pool, masquerade } => {
                tun_chains(checked(tun)?, pool, masquerade.as_deref().map(checked).transpose()?)
            }
        };
        Ok(format!("add table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n{chains}}}\n"))
    }
}

/// Removes a table; nothing happens where there is none.
///
/// # Errors
/// No `nft`, or no CAP_NET_ADMIN.
pub fn remove(name: &str) -> Result<(), Error> {
    let name = checked(name)?;
    let transaction = format!("add table inet {name}\ndelete table inet {name}\n");
    run(&["-f", "-"], &transaction, &format!("removing table {name}")).map(drop)
}

/// The table as the kernel has it, or `None`. For comparing, not for parsing.
///
/// # Errors
/// No `nft`, or no CAP_NET_ADMIN.
pub fn list(name: &str) -> Result<Option<String>, Error> {
    let name = checked(name)?;
    match run(&["list", "table", "inet", name], "", &format!("listing table {name}")) {
        Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(Error::Refused { message, .. }) if message.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every table that there is, in this thread's network namespace; empty where there is none.
///
/// # Errors
/// No `nft`, or no CAP_NET_ADMIN.
pub fn ruleset() -> Result<String, Error> {
    let output = run(&["list", "ruleset"], "", "listing the ruleset")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn raw_chains(addresses: &[Ipv4Addr], ports: &RangeInclusive<u16>) -> String {
    if addresses.is_empty() {
        return String::new();
    }
    let addresses = addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
    let (first, last) = (ports.start(), ports.end());
    // Priority raw: before connection tracking, so that none of it fills the host's table.
    format!(
        "\tchain prerouting {{\n\
         \t\ttype filter hook prerouting priority raw; policy accept;\n\
         \t\tip daddr {{ {addresses} }} meta l4proto {{ tcp, udp }} th dport {first}-{last} counter drop\n\
         \t\tip daddr {{ {addresses} }} icmp type echo-reply icmp id {first}-{last} counter drop\n\
         \t}}\n"
    )
}

fn tun_chains(tun: &str, pool: &Prefix, masquerade: Option<&str>) -> String {
    let mut chains = format!(
        "\tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tiifname \"{tun}\" oifname \"{tun}\" counter drop\n\
         \t\tiifname \"{tun}\" ip saddr != {pool} counter drop\n"
    );
    if let Some(egress) = masquerade {
        // What connection tracking cannot place is not translated either: it would leave with a tether's own address.
        // Behind a masquerade nobody but the tethers opens flows, and nothing leaves where it is not masqueraded.
        let _infallible = write!(
            chains,
            "\t\tiifname \"{tun}\" ct state invalid counter drop\n\
             \t\tiifname \"{tun}\" oifname != \"{egress}\" counter reject with icmpx type no-route\n\
             \t\toifname \"{tun}\" ct state != {{ established, related }} counter drop\n"
        );
    }
    chains.push_str("\t}\n");
    if let Some(egress) = masquerade {
        let _infallible = write!(
            chains,
            "\tchain postrouting {{\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\tip saddr {pool} oifname \"{egress}\" counter masquerade\n\
             \t}}\n"
        );
    }
    chains
}

fn checked(name: &str) -> Result<&str, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let good = !name.is_empty() && name.bytes().all(plain);
    good.then_some(name).ok_or_else(|| Error::BadName(name.to_owned()))
}

fn run(arguments: &[&str], input: &str, action: &str) -> Result<Output, Error> {
    for program in PROGRAMS {
        match run_program(program, arguments, input) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(output) if output.status.success() => return Ok(output),
            Ok(output) => {
                let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::Refused { action: action.to_owned(), message });
            }
        }
    }
    Err(Error::Missing)
}

fn run_program(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // A program that ends before it has read all says why; only if it says nothing the pipe's error counts.
    if output.status.success() {
        written?;
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: Rules) -> Table {
        Table { name: "wstether".to_owned(), rules }
    }

    #[test]
    fn the_table_is_replaced_in_one_transaction() {
        let rules = Rules::Raw { addresses: vec![Ipv4Addr::new(198, 51, 100, 1)], ports: 20_000..=29_999 };
        let text = table(rules).transaction().expect("good names");
        let order = ["add table inet wstether\n", "delete table inet wstether\n", "table inet wstether {\n"];
        let places: Vec<_> = order.iter().map(|line| text.rfind(line)).collect();
        assert!(places.is_sorted() && places[0] == Some(0), "{text}");
        assert!(text.contains("hook prerouting priority raw"));
        assert!(text.contains("ip daddr { 198.51.100.1 } meta l4proto { tcp, udp } th dport 20000-29999 counter drop"));
    }

    #[test]
    fn a_masquerading_table_translates_the_pool_on_the_egress_alone() {
        let pool = "10.64.0.0/10".parse().expect("a prefix");
        let rules = |masquerade| Rules::Tun { tun: "wst0".to_owned(), pool, masquerade };
        let text = table(rules(Some("eth0".to_owned()))).transaction().expect("good names");
        assert!(text.contains("ip saddr 10.64.0.0/10 oifname \"eth0\" counter masquerade"));
        assert!(text.contains("iifname \"wst0\" oifname \"wst0\" counter drop"));
        assert!(text.contains("iifname \"wst0\" ct state invalid counter drop"));
        assert!(text.contains("iifname \"wst0\" oifname != \"eth0\" counter reject with icmpx type no-route"));
        assert!(text.contains("oifname \"wst0\" ct state != { established, related } counter drop"));
        let routed = table(rules(None)).transaction().expect("good names");
        assert!(!routed.contains("masquerade") && !routed.contains("ct state"));
    }

    #[test]
    fn a_name_that_is_more_than_a_name_is_refused() {
        let rules = Rules::Raw { addresses: vec![], ports: 1..=1 };
        let table = Table { name: "x { }; flush ruleset".to_owned(), rules };
        assert!(matches!(table.transaction(), Err(Error::BadName(_))));
    }
}
