#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use clap::{CommandFactory, Parser};

use super::{Cli, Client, Command, Override};
use crate::config::{self, values::Bytes};
use crate::exit::{self, Capability, Status};

#[test]
fn the_definition_has_no_contradiction() {
    Cli::command().debug_assert();
}

fn gateway(arguments: &[&str]) -> Vec<Override> {
    let typed = ["wstether", "gateway"].iter().chain(arguments);
    let Command::Gateway(gateway) = Cli::try_parse_from(typed).unwrap().command else { panic!("{arguments:?}") };
    gateway.overrides()
}

fn client(arguments: &[&str]) -> Vec<Override> {
    let typed = ["wstether", "client"].iter().chain(arguments);
    let Command::Client(client) = Cli::try_parse_from(typed).unwrap().command else { panic!("{arguments:?}") };
    client.overrides()
}

#[test]
fn options_are_laid_over_the_file() {
    let overrides =
        gateway(&["--listen", "127.0.0.1:1", "--listen", "[::1]:2", "--egress", "tun", "--set", "tethers.max=3"]);
    let config: config::Gateway = config::parse("[egress]\nmode = \"raw\"\n[tethers]\nmax = 9", &overrides).unwrap();
    assert_eq!(config.listen.address, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!(config.egress.mode(), config::gateway::EgressMode::Tun);
    assert_eq!(config.tethers.max, 3);
}

#[test]
fn a_wrong_option_is_told_by_its_name_together_with_the_files_errors() {
    let overrides = gateway(&["--log", "loud", "--set", "tethers.max=0"]);
    let problems = config::parse::<config::Gateway>("[nat]\nudp = 3", &overrides).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("line 2: nat.udp = 3: must be"), "{told:?}");
    assert!(told[1].starts_with("--log: log.level = loud: must be"), "{told:?}");
    assert!(told[2].starts_with("--set: tethers.max = 0: must be"), "{told:?}");
}

#[test]
fn direct_sets_gateway_and_way() {
    let overrides = client(&["--direct", "wss://gateway.example/wstether", "--token", "wst1_ab_cd"]);
    let config: config::Client = config::parse("[client]\ntoken_file = \"/etc/token\"", &overrides).unwrap();
    assert_eq!(config.client.via, config::client::Via::Direct);
    assert_eq!(config.client.gateway.unwrap().host, "gateway.example");
    assert_eq!(config.client.token_file, None, "the option replaces the file's token");
}

#[test]
fn a_wrong_url_is_told_with_what_is_wrong_and_a_right_one_and_without_a_password() {
    let relay = |client: &str| {
        let typed = ["wstether", "relay", "--client", client, "--gateway", "ws://a/"];
        Cli::try_parse_from(typed).unwrap_err().to_string()
    };
    for (url, told) in [
        (
            "ws://me:secret@a/",
            "invalid value 'ws://(hidden)@a/' for '--client <URL>': a WebSocket URL has no user name and no password: \
             leave out what stands before the @; a right one is ws://gateway.example:8080/wstether",
        ),
        (
            "ws://a:99999/",
            "invalid value 'ws://a:99999/' for '--client <URL>': the URL's port is not a number from 1 to 65535; a right \
             one is ws://gateway.example:8080/wstether",
        ),
    ] {
        assert!(relay(url).starts_with(&format!("error: {told}\n")), "{}", relay(url));
    }
    assert!(
        relay("a").contains("'a' for '--client <URL>': a WebSocket URL starts with ws:// or wss://; a right one is ")
    );
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in Cli::command().get_subcommands() {
        let help = command.clone().render_long_help().to_string();
        assert!(help.contains("wstether "), "{}: {help}", command.get_name());
    }
}

/// A unit file's lines `key=value`.
fn unit(name: &str) -> Vec<(String, String)> {
    let path = format!("{}/packaging/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn values<'a>(unit: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    unit.iter().filter(|(found, _)| found == key).map(|(_, value)| value.as_str()).collect()
}

/// What a unit starts, as the command line understands it.
fn started(command: &str) -> Command {
    let typed: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(typed[0], "/usr/bin/wstether");
    Cli::try_parse_from(typed).unwrap().command
}

#[test]
fn the_gateways_unit_starts_the_gateway_with_its_two_capabilities_alone() {
    let unit = unit("wstether-gateway.service");
    let [command] = values(&unit, "ExecStart")[..] else { panic!("one ExecStart") };
    let Command::Gateway(gateway) = started(command) else { panic!("{command}") };
    assert_eq!(gateway.config, Some("/etc/wstether/gateway.toml".into()));
    let needed = exit::GATEWAY_NEEDS.map(Capability::name).join(" ");
    assert_eq!(values(&unit, "AmbientCapabilities"), [needed.as_str()]);
    assert_eq!(values(&unit, "CapabilityBoundingSet"), [needed.as_str()]);
    assert_eq!((values(&unit, "Type"), values(&unit, "User")), (vec!["notify"], vec!["wstether"]));
}

#[test]
fn the_clients_unit_starts_the_client_and_undoes_it_after_a_crash() {
    let unit = unit("wstether-client.service");
    let [command] = values(&unit, "ExecStart")[..] else { panic!("one ExecStart") };
    assert!(matches!(started(command), Command::Client(Client { config: Some(_), down: false, .. })), "{command}");
    let [undo] = values(&unit, "ExecStopPost")[..] else { panic!("one ExecStopPost") };
    assert!(matches!(started(undo), Command::Client(Client { config: Some(_), down: true, .. })), "{undo}");
    assert_eq!(values(&unit, "CapabilityBoundingSet"), exit::CLIENT_NEEDS.map(Capability::name));
}

#[test]
fn the_units_fit_the_defaults() {
    let gateway = config::Gateway::default();
    for name in ["wstether-gateway.service", "wstether-client.service"] {
        let unit = unit(name);
        let folder = format!("/run/{}", values(&unit, "RuntimeDirectory")[0]);
        assert_eq!(gateway.runtime.directory, std::path::Path::new(&folder));
        assert_eq!(values(&unit, "RuntimeDirectoryPreserve"), ["yes"], "a start adopts what an earlier run left");
        assert_eq!(values(&unit, "ProtectKernelTunables"), ["no"], "sysctls of the network are written");
        assert_eq!(values(&unit, "DeviceAllow"), ["/dev/net/tun rw"]);
        let final_statuses = [Status::BadConfiguration, Status::NotPermitted].map(|status| status.code().to_string());
        assert_eq!(values(&unit, "RestartPreventExitStatus"), [final_statuses.join(" ")]);
        let stop_s: u64 = values(&unit, "TimeoutStopSec")[0].strip_suffix('s').unwrap().parse().unwrap();
        assert!(stop_s > gateway.runtime.stop_deadline.as_secs());
    }
    let memory =
        values(&unit("wstether-gateway.service"), "MemoryMax")[0].replace('G', "GiB").parse::<Bytes>().unwrap();
    // Beside the budget 64 MiB for each of four cores, and as much at least for sockets.
    assert!(memory.0 >= gateway.memory.budget.0 + 2 * 4 * (64 << 20));
    let state = format!("/var/lib/{}", values(&unit("wstether-gateway.service"), "StateDirectory")[0]);
    assert!(gateway.tethers.credentials.starts_with(state));
    assert_eq!(gateway.tethers.credentials, std::path::Path::new(crate::credentials::DEFAULT_FILE));
}
