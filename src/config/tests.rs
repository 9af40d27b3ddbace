#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::gateway::{EgressMode, HandOver, StageName, Translation, Way};
use super::values::{Auto, Bytes};
use super::*;

/// Set to any value, it writes the example files anew instead of comparing them.
const WRITE_EXAMPLES: &str = "WRITE_EXAMPLES";

fn assert_example_is_current<R: Role>() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(format!("{}.toml", R::NAME));
    let expected = example::<R>();
    if std::env::var_os(WRITE_EXAMPLES).is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let path = path.display();
    assert!(found == expected, "{path} is not what the declarations say; run the test with {WRITE_EXAMPLES}=1");
    found
}

fn problems<R: Role>(text: &str) -> Vec<String> {
    match parse::<R>(text, &[]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// Asserts one problem for the gateway that holds each of the texts.
fn assert_objection(text: &str, parts: &[&str]) {
    let told = problems::<Gateway>(text);
    assert_eq!(told.len(), 1, "{text}: {told:#?}");
    for part in parts {
        assert!(told[0].contains(part), "{part:?} is not in {:?}", told[0]);
    }
}

#[test]
fn the_gateways_example_holds_every_key_with_its_default() {
    let text = assert_example_is_current::<Gateway>();
    assert_eq!(parse(&text, &[]), Ok(Gateway::default()));
    assert_eq!(parse(&text.replace("\n#[", "\n["), &[]), Ok(Gateway::default()), "with the stages' own sections");
}

#[test]
fn the_clients_example_holds_every_key_with_its_default() {
    let text = assert_example_is_current::<Client>();
    assert_eq!(parse(&text, &[]), Ok(Client::default()));
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(parse("", &[]), Ok(Gateway::default()));
    assert_eq!(parse("", &[]), Ok(Client::default()));
}

#[test]
fn every_key_in_the_example_has_a_comment() {
    for text in [example::<Gateway>(), example::<Client>()] {
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#')) {
            assert!(pair[0].starts_with("# "), "{} has no comment", pair[1]);
        }
        assert!(lines.iter().all(|line| line.chars().count() <= 120));
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_line_value_and_range() {
    let text = "\
[listen]
adress = \"0.0.0.0:80\"
links_max = 0
handshake_timeout = \"1h\"
[egress]
mode = \"row\"
ports = \"9-1\"
[lease]
mtu = 576
pool = 3
[polcy]
allow = []
[stages.ip-pars]
batch = 1
[stages.ws-decode]
bach = 3
";
    let expected = [
        "line 2: listen.adress: unknown key; did you mean \"address\"?",
        "line 3: listen.links_max = 0: must be a whole number, from 1 to 1000000",
        "line 4: listen.handshake_timeout = \"1h\": must be a duration such as \"300ms\", \"5m\" or \"2h4m\" (us, ms, s, m, h, d), \
         from \"1s\" to \"5m\"",
        "line 6: egress.mode = \"row\": must be \"raw\" or \"tun\"; did you mean \"raw\"?",
        "line 7: egress.ports = \"9-1\": must be a range of ports such as \"20480-53247\", the lower first",
        "line 9: lease.mtu = 576: must be \"auto\" or a whole number, from 1280 to 65535",
        "line 10: lease.pool = 3: must be an IPv4 prefix such as \"100.64.0.0/16\", with no bit set behind its length",
        "line 11: [polcy]: unknown section; did you mean \"policy\"?",
        "line 13: [stages.ip-pars]: unknown section; did you mean \"stages.ip-parse\"?",
        "line 16: stages.ws-decode.bach: unknown key; did you mean \"batch\"?",
    ];
    assert_eq!(problems::<Gateway>(text), expected);
}

#[test]
fn every_syntax_error_has_its_line() {
    let told = problems::<Gateway>("[listen]\npath = \n[tls]\nkey = 'a\n");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("line 2: not TOML: "), "{told:?}");
    assert!(told[1].starts_with("line 4: not TOML: "), "{told:?}");
}

#[test]
fn a_text_without_quotes_is_told_as_that_and_not_repeated() {
    for (line, key) in [
        ("level = info", "level"),
        ("  gateway=wss://me:secret@a/  # ours", "gateway"),
        ("include = 10.0.0.0/8", "include"),
        ("file = /etc/resolv.conf", "file"),
        ("listen = 127.0.0.1:9322", "listen"),
    ] {
        let told = problems::<Client>(&format!("[section]\n{line}"));
        assert_eq!(told, [format!("line 2: not TOML: text needs quotes: {key} = \"…\"")], "{line}");
    }
}

#[test]
fn what_else_is_wrong_with_a_line_is_not_put_down_to_quotes_and_no_line_is_repeated() {
    for line in [
        "links_max = 10 # ours\nlinks_max = 11 # theirs",
        "enabled = True",
        "links_max = 08080",
        "wss://me:secret@a/?b=c",
    ] {
        let told = problems::<Gateway>(&format!("[listen]\n{line}")).concat();
        assert!(told.contains("not TOML: ") && !told.contains("quotes") && !told.contains("secret"), "{line}: {told}");
    }
}

#[test]
fn a_key_in_the_wrong_place_is_told_where_it_belongs() {
    assert_objection("[gateway]\nkeepalive = \"20s\"", &["gateway.keepalive: unknown key; it belongs in [listen]"]);
    assert_objection("name = \"x\"", &["line 1: name: not in a section; it belongs in [gateway]"]);
    assert_objection("[[policy]]\nallow = []", &["line 1: policy: is a section", "below a line [policy], like "]);
    assert_objection(
        "dns = 5",
        &["line 1: dns: is a section, and has no value of its own", "line [dns], like upstream = []"],
    );
    assert_objection("nonsense = 5", &["line 1: nonsense: not in a section"]);
    assert_objection("[listen.path]\na = 1", &["line 1: listen.path: must be a path that begins with", "not a table"]);
    assert_objection("[nonsense.deeper]\na = 1", &["[nonsense]: unknown section"]);
    assert_objection("[stages]\nbatch = 1", &["line 2: stages.batch: not in a section"]);
}

#[test]
fn values_of_another_kind_are_refused() {
    for value in ["1.5", "1979-05-27", "{ a = 1 }", "[1]", "\"64\"", "99999999999999999999", "-1", "true"] {
        let told = problems::<Gateway>(&format!("[tethers]\nmax = {value}"));
        assert_eq!(told.len(), 1, "{value}: {told:?}");
        assert!(told[0].contains("tethers.max"), "{told:?}");
    }
}

#[test]
fn sizes_durations_and_words_are_understood() {
    let text = "[tethers]\nlinger = \"1h\"\n[memory]\nbudget = 33554432\n[stages.default]\nqueue_bytes = \"1MiB\"\nhand_over = \"never\"";
    let config: Gateway = parse(text, &[]).unwrap();
    assert_eq!(config.tethers.linger, Duration::from_secs(3600));
    assert_eq!(config.memory.budget, Bytes(32 << 20));
    assert_eq!(config.stages.get(StageName::WsEncode).hand_over, HandOver::Never);
}

#[test]
fn a_stage_takes_from_the_default_section_what_its_own_does_not_say() {
    let config: Gateway =
        parse("[stages.default]\nbatch = 32\nthreads_max = 2\n[stages.ip-parse]\nbatch = 16", &[]).unwrap();
    let (own, other) = (config.stages.get(StageName::IpParse), config.stages.get(StageName::RawSend));
    assert_eq!((own.batch, own.threads_max), (16, Auto::Is(2)));
    assert_eq!((other.batch, other.threads_max), (32, Auto::Is(2)));
    assert_eq!(own.threads(8), 1..=2);
    assert_eq!(Gateway::default().stages.get(StageName::IpParse).threads(8), 1..=8);
}

#[test]
fn a_wrong_default_for_all_stages_is_told_once() {
    assert_objection("[stages.default]\nbatch = 0", &["line 2: stages.default.batch = 0: must be"]);
    assert_objection("[stages.default]\nbatch = 32\nqueue_packets = 16", &["line 2: stages.default.batch"]);
}

#[test]
fn a_stages_own_value_is_judged_together_with_the_default_sections() {
    assert_objection(
        "[stages.default]\nthreads_max = 2\n[stages.ip-parse]\nthreads_min = 3",
        &["line 4: stages.ip-parse.threads_min", "3 is more than threads_max = 2"],
    );
}

#[test]
fn tls_needs_both_files_or_none() {
    assert_objection("[tls]\nkey = \"key.pem\"", &["line 2: tls.key: needs tls.certificate too"]);
    assert_objection("[tls]\ncertificate = \"c.pem\"", &["line 2: tls.certificate: needs tls.key too"]);
    let config: Gateway = parse("[tls]\ncertificate = \"c.pem\"\nkey = \"key.pem\"", &[]).unwrap();
    assert_eq!(config.tls.unwrap().key, Path::new("key.pem"));
    assert_eq!(Gateway::default().tls, None);
}

#[test]
fn the_way_out_holds_only_what_applies() {
    assert!(matches!(Gateway::default().egress.way, Way::Raw(_)));
    let tun: Gateway = parse("[egress]\nmode = \"tun\"", &[]).unwrap();
    assert!(matches!(&tun.egress.way, Way::Tun { name, translation: Translation::Kernel } if name.as_str() == "wst0"));
    assert_eq!((tun.egress.mode(), tun.egress.port_blocks()), (EgressMode::Tun, None));
    let own: Gateway =
        parse("[egress]\nmode = \"tun\"\ntranslation = \"gateway\"\naddresses = [\"198.51.100.7\"]", &[]).unwrap();
    assert_eq!(own.egress.port_blocks().unwrap().tethers_per_address(), 64);
}

#[test]
fn a_translation_that_does_not_fit_the_way_out_is_refused() {
    assert_objection(
        "[egress]\ntranslation = \"kernel\"",
        &["line 2: egress.translation", "needs egress.mode \"tun\""],
    );
    assert_objection("[egress]\nmode = \"tun\"\ntranslation = \"gateway\"", &["line 3", "needs egress.addresses"]);
}

#[test]
fn tethers_that_do_not_fit_the_ports_are_refused() {
    let parts =
        ["line 2: tethers.max: 500 tethers do not fit", "20480-53247 in blocks of 512 give 64 an address, 64 in all"];
    assert_objection("[tethers]\nmax = 500", &parts);
    assert_objection("[egress]\nports_per_tether = 1024", &["line 2: tethers.max: 64 tethers do not fit", "give 32"]);
    assert_objection("[egress]\nports = \"30000-30010\"", &["line 2", "give 0 an address"]);
    assert_eq!(problems::<Gateway>("[tethers]\nmax = 500\n[egress]\nports_per_tether = 64"), [""; 0]);
    assert_eq!(problems::<Gateway>("[tethers]\nmax = 500\n[egress]\nmode = \"tun\""), [""; 0]);
}

#[test]
fn two_sockets_that_listen_are_apart_by_port_or_address() {
    for (a, b, clash) in [
        ("127.0.0.1:1", "127.0.0.1:1", true),
        ("127.0.0.1:1", "127.0.0.1:2", false),
        ("127.0.0.1:1", "192.0.2.1:1", false),
        ("0.0.0.0:1", "192.0.2.1:1", true),
        ("[::]:1", "192.0.2.1:1", true),
        ("[::]:1", "0.0.0.0:1", true),
        ("[::1]:1", "0.0.0.0:1", false),
        ("0.0.0.0:0", "127.0.0.1:0", false),
    ] {
        let [a, b] = [a, b].map(|text| text.parse().unwrap());
        assert_eq!([shared::clash(a, b), shared::clash(b, a)], [clash; 2], "{a} and {b}");
    }
}

#[test]
fn values_that_do_not_fit_each_other_are_refused() {
    let cases: &[(&str, &[&str])] = &[
        (
            "[listen]\naddress = \"0.0.0.0:443\"\n[egress]\nports = \"1000-33767\"",
            &["line 4: egress.ports: 1000-33767 must not go below 1024"],
        ),
        ("[listen]\naddress = \"0.0.0.0:30000\"", &["line 2: listen.address", "inside egress.ports"]),
        ("[listen]\naddress = []", &["line 2: listen.address: is empty"]),
        ("[listen]\naddress = [\"[::]:1\", \"[::]:1\"]", &["line 2", "[::]:1 is given twice"]),
        ("[listen]\naddress = [\"0.0.0.0:1\", \"127.0.0.1:1\"]", &["127.0.0.1:1 and 0.0.0.0:1 cannot both be had"]),
        (
            "[listen]\naddress = \"[::]:9321\"",
            &["line 2: listen.address: [::]:9321 and metrics.listen = 127.0.0.1:9321 cannot both be had"],
        ),
        (
            "[metrics]\nlisten = \"127.0.0.1:8080\"\n[listen]\naddress = \"127.0.0.1:8080\"",
            &["line 4: listen.address: 127.0.0.1:8080 and metrics.listen = 127.0.0.1:8080 cannot"],
        ),
        ("[listen]\nlinks_max = 10", &["line 2: listen.links_max: 10 links cannot serve tethers.max = 64"]),
        ("[listen]\nlinks_max = 64", &["64 links cannot serve tethers.max = 64: at least one more"]),
        ("[dns]\nupstream = [\"9.9.9.9\", \"1.1.1.1\"]", &["line 2: dns.upstream: names several"]),
        (
            "[dns]\nupstream = [\"dns.google\"]",
            &["; \"dns.google\" is a name: give the resolver's address, since it is what names are asked of"],
        ),
        ("[dns]\nupstream = \"9.9.9.9:5353\"", &["dns.upstream: 9.9.9.9:5353: only port 53"]),
        ("[dns]\nupstream = \"2001:db8::1\"", &["dns.upstream: 2001:db8::1: must be an IPv4 address"]),
        (
            "[dns]\nupstream = \"100.64.3.1\"",
            &["line 2: dns.upstream: 100.64.3.1 is inside lease.pool = 100.64.0.0/16"],
        ),
        ("[dns]\nupstream = \"127.0.0.53\"", &["dns.upstream: 127.0.0.53: must be an IPv4 address"]),
        (
            "[egress]\nmode = \"tun\"\ntranslation = \"gateway\"\naddresses = [\"192.0.2.1\", \"192.0.2.2\"]",
            &["line 4: egress.addresses: names several"],
        ),
        ("[lease]\npool = \"100.64.0.0/26\"", &["line 2: lease.pool", "room for 61 clients, and tethers.max is 64"]),
        ("[lease]\npool = \"127.0.0.0/8\"", &["line 2: lease.pool", "cannot be given to clients"]),
        (
            "[tethers]\nmessage_max = \"8MiB\"\ndownlink_window = \"16MiB\"",
            &["tethers.credit_window", "no room for one message"],
        ),
        (
            "[tethers]\ncredit_window = \"128KiB\"",
            &["line 2: tethers.credit_window: 128KiB has", "tethers.message_max = 256KiB: raise it, or lower that"],
        ),
        (
            "[memory]\nbudget = \"16MiB\"\n[stages.ip-parse]\nqueue_bytes = \"17MiB\"",
            &["line 4: stages.ip-parse.queue_bytes"],
        ),
        ("[egress]\naddresses = [\"100.64.0.9\"]", &["line 2: egress.addresses: 100.64.0.9 is inside lease.pool"]),
        ("[egress]\naddresses = [\"192.0.2.1\", \"192.0.2.1\"]", &["192.0.2.1 is given twice"]),
        ("[egress]\naddresses = [\"127.0.0.1\"]", &["127.0.0.1 is no address to send from"]),
    ];
    for (text, parts) in cases {
        assert_objection(text, parts);
    }
}

#[test]
fn a_gateway_of_another_scheme_is_told_which_schemes_there_are() {
    let told = problems::<Client>("[client]\ngateway = \"http://gateway.example/wstether\"").concat();
    assert!(told.contains("http://gateway.example/wstether") && told.contains("begins with ws:// or wss://"), "{told}");
}

#[test]
fn a_wrong_gateway_is_told_with_what_is_wrong_and_a_right_one_and_without_a_password() {
    let told = |url: &str| problems::<Client>(&format!("[client]\ngateway = \"{url}\""));
    let allowed = "must be empty (\"\") or an address that begins with ws:// or wss://, such as \
                   \"wss://gateway.example/wstether\"";
    assert_eq!(
        told("wss://me:secret@gateway.example/"),
        [format!(
            "line 2: client.gateway = \"wss://(hidden)@gateway.example/\": {allowed}; leave out what stands before the @: \
             a gateway takes no user name and no password, but a token"
        )]
    );
    assert_eq!(
        told("wss://gateway.example:99999/"),
        [format!(
            "line 2: client.gateway = \"wss://gateway.example:99999/\": {allowed}; its port is no number from 1 to 65535"
        )]
    );
}

#[test]
fn a_clients_queues_that_do_not_fit_are_refused() {
    for (text, told) in [
        ("[queues]\npackets = 100", "line 2: queues.batch: 256 is more than queues.packets = 100"),
        (
            "[queues]\nbytes = \"65MiB\"",
            "line 2: queues.bytes: 65MiB is more than memory.budget = 64MiB: lower it, or raise that",
        ),
    ] {
        assert_eq!(problems::<Client>(text), [told]);
    }
}

#[test]
fn a_name_that_no_interface_can_have_is_told_with_what_is_wrong_with_it() {
    let told = |name: &str| problems::<Client>(&format!("[tun]\nname = \"{name}\"")).concat();
    let allowed = "must be the name of a network interface, of 1 to 15 characters";
    assert_eq!(told("laptop-to-gateway"), format!("line 2: tun.name = \"laptop-to-gateway\": {allowed}; this has 17"));
    assert_eq!(told("a/b"), format!("line 2: tun.name = \"a/b\": {allowed}; '/' cannot be in one"));
}

#[test]
fn a_client_that_goes_straight_needs_a_gateway() {
    assert_eq!(
        problems::<Client>("[client]\nvia = \"direct\""),
        ["line 2: client.via: \"direct\" needs client.gateway, such as \"wss://gateway.example/wstether\""]
    );
    let config: Client = parse("[client]\nvia = \"direct\"\ngateway = \"ws://192.0.2.1/\"", &[]).unwrap();
    assert_eq!(config.client.gateway.unwrap().port, 80);
}

#[test]
fn a_token_is_given_once_and_never_shown() {
    let told = problems::<Client>("[client]\ntoken = \"wst1_0_secret\"\ntoken_file = \"/etc/wstether/token\"");
    assert_eq!(told, ["line 2: client.token: give client.token or client.token_file, not both"]);
    let told = problems::<Client>("[client]\ntoken = \"my secret\"");
    assert!(told.len() == 1 && told[0].contains("client.token = (hidden)"), "{told:?}");
    let config: Client = parse("[client]\ntoken = \"wst1_0_secret\"", &[]).unwrap();
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn a_value_of_the_command_line_needs_no_quotes_and_hides_the_files() {
    let set = |path: &str, value: &str| Override { option: "--set".into(), path: path.into(), value: value.into() };
    let overrides =
        [set("egress.mode", "tun"), set("tethers.max", "7"), set("policy.allow", "10.0.0.0/8"), set("tls.key", "")];
    let config: Gateway = parse("[tethers]\nmax = \"wrong\"", &overrides).unwrap();
    assert_eq!((config.tethers.max, config.egress.mode(), config.policy.allow.len()), (7, EgressMode::Tun, 1));
    let told = parse::<Gateway>("", &[set("tethres.max", "7"), set("nonsense", "7")]).unwrap_err();
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.contains(&"--set: [tethres]: unknown section; did you mean \"tethers\"?".to_owned()), "{told:?}");
}

#[test]
fn what_is_wrong_on_the_command_line_is_told_as_it_should_be_typed() {
    let told = |path: &str, value: &str| {
        let set = Override { option: "--set".into(), path: path.into(), value: value.into() };
        let problems = parse::<Gateway>("", &[set]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    };
    for typed in ["10.1.0.0/16,10.2.0.0/16", "[10.1.0.0/16, '10.2.0.0/16']"] {
        let told = told("policy.allow", typed);
        let right = "; write it like --set 'policy.allow=[\"10.1.0.0/16\", \"10.2.0.0/16\"]'";
        assert!(told.starts_with(&format!("--set: policy.allow = {typed}: must be a list, each ")), "{told}");
        assert!(told.ends_with(right), "{told}");
    }
    // Quotes would not make it right.
    let typed = "10.1.0.0/16,10.2.0.1/16";
    assert_eq!(
        told("policy.allow", typed),
        format!(
            "--set: policy.allow = {typed}: must be a list, each a prefix such as \"10.0.0.0/8\", with no bit set behind \
             its length; 10.2.0.1/16 has bits set behind its length; did you mean \"10.2.0.0/16\"?"
        )
    );
    let told = told("tethers", "5");
    assert_eq!(
        told,
        "--set: tethers: is a section, and has no value of its own; its keys are set like --set tethers.max=64"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load::<Gateway>(Some(Path::new("/nonexistent/gateway.toml")), &[]).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/gateway.toml: "), "{error}");
}

#[test]
fn each_error_line_begins_with_the_file() {
    let problems = parse::<Gateway>("[tethers]\nmax = 0\nlinger = 1", &[]).unwrap_err();
    let error = ConfigError::Wrong { path: Some("g.toml".into()), problems, other_role: None };
    assert!(error.to_string().lines().all(|line| line.starts_with("g.toml: line ")), "{error}");
    assert_eq!(error.to_string().lines().count(), 2);
}

#[test]
fn a_file_of_the_other_role_is_known_by_its_sections() {
    for (text, expected) in [
        ("[client]\nvia = \"direct\"\n[log]", Some("client")),
        ("[routes]\n", Some("client")),
        ("[client]\n[listen]", None),
        ("[client]\n[stages.ip-parse]", None),
        ("[dns]\n[log]\n[clint]", None),
        ("[client", None),
    ] {
        assert_eq!(other_role::<Gateway>(text), expected, "{text}");
    }
    assert_eq!(other_role::<Client>("[listen]"), Some("gateway"));
}

proptest! {
    #[test]
    fn any_text_is_judged_without_panic(text in "(\\[?[a-z.-]{1,12}\\]?( = [\"\\[\\]0-9a-z{}.-]{0,8})?\n){0,8}") {
        drop(parse::<Gateway>(&text, &[]));
        drop(parse::<Client>(&text, &[]));
    }

    #[test]
    fn any_number_in_any_key_is_taken_or_told(number in any::<i64>(), pick in any::<prop::sample::Index>()) {
        let text = example::<Gateway>();
        let keys: Vec<usize> = text.lines().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with('#')).map(|(index, _)| index).collect();
        let changed = keys[pick.index(keys.len())];
        let lines: Vec<String> = text.lines().enumerate().map(|(index, line)| match line.split_once(" = ") {
            Some((key, _)) if index == changed => format!("{key} = {number}"),
            Some(_) | None => line.to_owned(),
        }).collect();
        if let Err(problems) = parse::<Gateway>(&lines.join("\n"), &[]) {
            prop_assert!(!problems.is_empty());
        }
    }
}
