//! `wstether demo`: what it prints, and that it needs and leaves nothing.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::world::BINARY;

#[test]
fn the_demo_shows_the_whole_of_it_as_one_json_object_by_both_ways_out() {
    for egress in ["raw", "tun"] {
        let output = Command::new(BINARY).args(["demo", "--json", "--egress", egress]).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&report["sha256_ok"], &report["egress"], &report["relay"]),
            (&true.into(), &egress.into(), &"headless".into())
        );
        for bytes in ["upload_bytes", "download_bytes"] {
            assert!(report[bytes].as_u64().unwrap() >= 64 << 20);
        }
        for figure in ["ping_ms_p50", "ping_ms_p99", "upload_mbit_s", "download_mbit_s"] {
            assert!(report[figure].as_f64().unwrap() > 0.0, "{figure}");
        }
        let stages: Vec<_> =
            report["stages"].as_array().unwrap().iter().map(|stage| stage["name"].as_str().unwrap()).collect();
        let (out_by, in_by) = if egress == "raw" { ("raw-send", "raw-recv") } else { ("tun-write", "tun-read") };
        let names =
            ["accept", "ws-decode", "ip-parse", "nat-rewrite", out_by, in_by, "ip-parse", "nat-rewrite", "ws-encode"];
        assert_eq!(stages, names);
        let figures = ["packets", "bytes", "drops", "threads_max", "queue_max"];
        assert!(report["stages"].as_array().unwrap().iter().all(|stage| figures.iter().all(|it| !stage[it].is_null())));
    }
}

#[test]
fn two_demos_at_once_do_not_touch_each_other_and_leave_no_file() {
    let demos = ["raw", "tun"].map(|egress| {
        let mut command = Command::new(BINARY);
        command
            .args(["demo", "--json", "--relay", "direct", "--egress", egress])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    for demo in demos {
        let process = demo.id();
        let output = demo.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let left = scratch_directories();
        let mark = format!("wstether-{process}-");
        assert!(left.iter().all(|name| !name.starts_with(&mark)), "{left:?}");
    }
}

fn scratch_directories() -> BTreeSet<String> {
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_demo_without_the_privileges_names_them_and_exits_with_77() {
    let output = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", BINARY, "demo"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"].iter().all(|name| said.contains(name)), "{said}");
}
