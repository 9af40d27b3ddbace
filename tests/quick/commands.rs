//! The command itself, where what it is given or writes to is not as it should be.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TOKEN: &str = "wst1_k7m2p9xq_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wstether"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Something to write to whose reader is gone.
fn gone() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure_to_tell() {
    for args in [&["check", "--example"][..], &["pipeline"], &["pipeline", "--format", "mermaid"], &["load", "--help"]]
    {
        let output = command(args).stdout(gone()).output().unwrap();
        assert_eq!(said(&output).1, "", "{args:?}");
    }
}

/// Something to write to that has no room.
fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_check_ends_by_what_it_found_where_nobody_reads_it_and_as_failed_where_it_cannot_be_written() {
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/config/client.toml");
    for (role, out, expected) in
        [("client", gone(), 0), ("gateway", gone(), 64), ("client", full(), 1), ("gateway", full(), 64)]
    {
        let output = command(&["check", good, "--role", role]).stdout(out).output().unwrap();
        assert_eq!(said(&output).0, Some(expected), "{role}: {}", said(&output).1);
    }
}

#[test]
fn a_token_that_cannot_be_printed_is_none() {
    let folder = std::env::temp_dir().join(format!("wstether-unprinted-{}", std::process::id()));
    let file = folder.join("credentials.toml");
    for out in [full(), gone()] {
        let output = command(&["token", "--file", file.to_str().unwrap(), "new"]).stdout(out).output().unwrap();
        let (code, text) = said(&output);
        assert!(code == Some(1) && text.contains("so no credential was made"), "{code:?}: {text}");
        assert!(!file.exists());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let url = format!("ws://{}/wstether", nobody());
    let status = command(&["relay", "--client", &url, "--gateway", &url, "--once"]).stderr(gone()).status().unwrap();
    assert_eq!(status.code(), Some(1), "it failed, and did not panic");
    // Whoever connects is turned away, which is logged before the next try.
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/wstether", door.local_addr().unwrap());
    let (told, tries) = std::sync::mpsc::channel();
    std::thread::spawn(move || door.incoming().take(3).for_each(|one| drop(told.send(one.map(drop)))));
    let mut relay = command(&["relay", "--client", &url, "--gateway", &url]).stderr(gone()).spawn().unwrap();
    let still_tries = (0..3).all(|_| tries.recv_timeout(Duration::from_secs(30)).is_ok());
    relay.kill().unwrap();
    relay.wait().unwrap();
    assert!(still_tries, "it has logged that it cannot connect, and tries again");
}

#[test]
fn a_file_of_certificates_that_cannot_be_used_is_told_with_its_option() {
    let (url, own) = ("ws://127.0.0.1:1/", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let output = command(&["relay", "--client", url, "--gateway", url, "--ca", own]).output().unwrap();
    let told = format!("wstether: --ca: there is no certificate in {own}; a PEM file of certificates is needed\n");
    assert_eq!(said(&output), (Some(1), told));
}

#[test]
fn a_load_that_cannot_be_is_wrong_usage() {
    let load = |more: &[&str]| {
        let args = [&["load", "--token", TOKEN, "--sink", "127.0.0.1:9"], more].concat();
        let (code, text) = said(&command(&args).output().unwrap());
        assert_eq!(code, Some(2), "{more:?}: {text}");
        text
    };
    let help = "\n\nFor more information, try '--help'.\n";
    for (gateway, mix, told) in [
        (
            "ws://a/",
            "hog=1",
            "--mix numbers 1 tethers, and --tethers says 10: leave one kind without a number for the rest",
        ),
        (
            "ws://a/",
            "hog=9,idle=2",
            "--mix numbers 11 tethers, and --tethers says 10: raise --tethers, or lower the numbers in --mix",
        ),
        (
            "ws://a/",
            "hogs",
            "invalid value 'hogs' for '--mix <KIND[=NUMBER]>': no kind of tether is called \"hogs\"; there are steady, \
             bursty, small, bulk, hog, slow-reader, storm, half-open, idle",
        ),
        (
            "wss://a/",
            "hog",
            "the load speaks plain WebSockets alone: give a ws:// URL, of the gateway behind whatever does TLS for it",
        ),
    ] {
        assert_eq!(load(&["--gateway", gateway, "--mix", mix]), format!("error: {told}{help}"));
    }
}

#[test]
fn a_load_says_soon_what_it_cannot_reach() {
    // One that refuses, and one that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for (address, why) in [(nobody(), "(connection_refused)"), (silent.local_addr().unwrap(), "no answer within 4s;")] {
        let (begun, url) = (Instant::now(), format!("ws://{address}/wstether"));
        let output = command(&["load", "--gateway", &url, "--token", TOKEN, "--sink", "127.0.0.1:9"]).output().unwrap();
        let (code, text) = said(&output);
        assert!(begun.elapsed() < Duration::from_secs(10) && code == Some(1), "{code:?}: {text}");
        assert!(
            text.starts_with(&format!("wstether: cannot reach {url} ({address}): ")) && text.contains(why),
            "{text}"
        );
    }
}
