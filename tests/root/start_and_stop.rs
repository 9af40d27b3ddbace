//! How a gateway starts where it cannot, and how it stops: with a word to everybody, drained, and nothing left behind.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Instant;

use wstether::cli::{EgressMode, RelayKind};
use wstether::lab::tethering::TUN;
use wstether::lab::world::{self, INTERNET};
use wstether::lab::{Capture, Isolation, Namespace, Scratch};
use wstether::status::Status;

use crate::journey::{iperf3, kernel_state};
use crate::world::{BINARY, Journey, PATIENCE, Trip};

#[test]
fn a_start_that_fails_makes_no_credentials_and_shows_no_token() {
    let (nowhere, scratch) = (Namespace::new("nowhere").unwrap(), Scratch::new().unwrap());
    let credentials = scratch.file("credentials.toml");
    let isolation = Isolation { resolv_conf: None, dies_with_parent: true };
    let mut command = nowhere.command(BINARY, isolation).unwrap();
    let output = command.args(["gateway", "--credentials"]).arg(&credentials).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("there is no default route"), "{err}");
    assert!(out.is_empty() && !credentials.exists(), "{out}");
}

#[test]
fn a_gateway_that_stops_closes_its_websockets_with_1001_and_leaves_nothing() {
    for egress in [EgressMode::Raw, EgressMode::Tun] {
        let mut journey = Journey::start(Trip { egress, relay: RelayKind::Direct, ..Trip::default() });
        let (rules, reserved) = kernel_state(&journey.world.gateway);
        assert!(!rules.is_empty() && (egress == EgressMode::Tun || !reserved.is_empty()));
        let watched = journey.world.laptop.clone();
        let closes = Capture::start(&watched, "net0", is_going_away).unwrap();
        assert!(journey.gateway.take().expect("it runs").end().unwrap().success());
        let (goodbyes, _) = closes.finish();
        assert_eq!(goodbyes, 1);
        assert_eq!(kernel_state(&journey.world.gateway), (String::new(), String::new()));
        let links = journey.world.gateway.netlink(|netlink| netlink.links()).unwrap();
        assert!(links.iter().all(|link| link.name != TUN));
    }
}

#[test]
fn a_gateway_that_stops_while_an_upload_runs_drains_and_nobody_is_late() {
    let mut journey = Journey::start(Trip::default());
    let address = INTERNET.to_string();
    let quiet = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("iperf3");
    let mut server = quiet(journey.command(&journey.world.internet, "iperf3", &["-s", "-B", &address]));
    iperf3(&journey, &["-c", &address, "-t", "1", "-C", "cubic", "-J"]);
    let before = journey.status();
    let mut upload =
        quiet(journey.command(&journey.world.laptop, "iperf3", &["-c", &address, "-t", "60", "-C", "cubic"]));
    let came = |status: &Status| status.stages.iter().find(|stage| stage.name == "ws-decode").unwrap().packets;
    let late = Instant::now() + PATIENCE;
    while came(&journey.status()) < came(&before) + 1_000 {
        assert!(Instant::now() < late, "no upload runs");
    }
    let gateway = journey.gateway.take().expect("a gateway runs");
    let log = gateway.log_path().to_owned();
    let status = gateway.end().unwrap();
    let said = std::fs::read_to_string(log).unwrap();
    assert!(status.success() && said.contains("stopped: nothing is queued any more"), "{status}\n{said}");
    for child in [&mut upload, &mut server] {
        child.kill().expect("iperf3 was there");
        child.wait().expect("iperf3 was there");
    }
}

/// Whether an Ethernet frame from the gateway ends with a WebSocket's Close frame, unmasked, of 1001 (RFC 6455, 5.5.1).
fn is_going_away(frame: &[u8]) -> bool {
    let Some(payload) = tcp_payload_from(frame, world::GATEWAY_DIRECT) else { return false };
    payload.windows(4).any(|bytes| bytes[0] == 0x88 && bytes[1] >= 2 && bytes[2..] == 1001_u16.to_be_bytes())
}

fn tcp_payload_from(frame: &[u8], source: Ipv4Addr) -> Option<&[u8]> {
    let packet = frame.get(14..).filter(|packet| packet.len() >= 20 && packet[12..16] == source.octets())?;
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let segment = packet.get(usize::from(packet[0] & 0xf) * 4..length)?;
    segment.get(usize::from(segment.get(12)? >> 4) * 4..)
}
