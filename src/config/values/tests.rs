#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use proptest::prelude::*;

use super::*;
use crate::config::document::parse_item;

fn read<T: Value>(toml: &str) -> Option<T> {
    T::from_item(&parse_item(toml).unwrap())
}

#[test]
fn sizes_are_numbers_or_binary_units() {
    let cases =
        [("65536", 65536), ("\"64KiB\"", 65536), ("\"256 MiB\"", 256 << 20), ("\"2GiB\"", 2 << 30), ("\"7\"", 7)];
    for (written, bytes) in cases {
        assert_eq!(read(written), Some(Bytes(bytes)), "{written}");
    }
    for wrong in ["-1", "\"64kb\"", "\"1.5MiB\"", "\"MiB\"", "\"\"", "\"+1KiB\"", "\"99999999999GiB\"", "true", "1.0"] {
        assert_eq!(read::<Bytes>(wrong), None, "{wrong}");
    }
}

#[test]
fn durations_need_a_unit() {
    let cases =
        [("300ms", 300), ("5m", 300_000), ("2h4m", 7_440_000), ("1d", 86_400_000), ("0s", 0), ("1s500ms", 1500)];
    for (written, ms) in cases {
        assert_eq!(read(&format!("\"{written}\"")), Some(Duration::from_millis(ms)), "{written}");
    }
    assert_eq!(read("\"1ms500us\""), Some(Duration::from_micros(1_500)));
    for wrong in
        ["300", "\"300\"", "\"5 m\"", "\"4m2h\"", "\"1m1m\"", "\"m\"", "\"-1s\"", "\"\"", "\"999999999999999999d\""]
    {
        assert_eq!(read::<Duration>(wrong), None, "{wrong}");
    }
}

#[test]
fn a_prefix_has_no_bit_behind_its_length() {
    for right in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8::/32", "2001:db8::1/128"] {
        assert_eq!(right.parse::<Prefix>().unwrap().to_string(), right);
    }
    for (wrong, why) in [
        ("10.0.0.1/8", "10.0.0.1/8 has bits set behind its length; did you mean \"10.0.0.0/8\"?"),
        ("::1/64", "::1/64 has bits set behind its length; did you mean \"::/64\"?"),
        ("::1/0", "::1/0 has bits set behind its length; did you mean \"::/0\"?"),
        ("10.0.0.0", "\"10.0.0.0\" has no length; \"10.0.0.0/32\" is that address alone"),
        ("10.0.0.0/33", "\"33\" is no length from 0 to 32"),
        ("::/129", "\"129\" is no length from 0 to 128"),
        ("10.0.0.0/+8", "\"+8\" is no length from 0 to 32"),
        ("10.0.0.0/", "\"\" is no length from 0 to 32"),
        ("ten/8", "\"ten\" is no IP address"),
    ] {
        assert_eq!(wrong.parse::<Prefix>().unwrap_err().to_string(), why, "{wrong}");
    }
    assert_eq!("::/16".parse::<Prefix4>().unwrap_err().to_string(), "::/16 is of IPv6");
}

#[test]
fn a_prefix_contains_its_own_addresses_alone() {
    let pool: Prefix4 = "100.64.0.0/16".parse().unwrap();
    assert_eq!(pool.addresses(), 65536);
    assert!(pool.contains(Ipv4Addr::new(100, 64, 255, 255)) && !pool.contains(Ipv4Addr::new(100, 65, 0, 0)));
    assert!("0.0.0.0/0".parse::<Prefix4>().unwrap().contains(Ipv4Addr::BROADCAST));
    assert!(!"192.0.2.1/32".parse::<Prefix4>().unwrap().contains(Ipv4Addr::new(192, 0, 2, 0)));
}

#[test]
fn a_range_of_ports_has_the_lower_first() {
    let ports: PortRange = "20480-53247".parse().unwrap();
    assert_eq!((ports.count(), ports.contains(20480), ports.contains(53248)), (32768, true, false));
    assert_eq!("0-65535".parse::<PortRange>().unwrap().count(), 65536);
    for wrong in ["2-1", "1", "1-65536", "-1", "1-", "a-b", "+1-2"] {
        assert_eq!(wrong.parse::<PortRange>(), Err(NotOfThisKind), "{wrong}");
    }
}

#[test]
fn the_kernel_would_take_every_interface_name() {
    for right in ["wst0", "eth0.100", "enp0s31f6", "wlan-5"] {
        assert_eq!(right.parse::<InterfaceName>().unwrap().as_str(), right);
    }
    use InterfaceNameError::{Character, Dots, Length};
    for (wrong, why) in [
        ("", Length(0)),
        (".", Dots),
        ("..", Dots),
        ("a/b", Character('/')),
        ("a b", Character(' ')),
        ("sixteen-letters-", Length(16)),
        ("tun%d", Character('%')),
        ("a:b", Character(':')),
        ("é", Character('é')),
    ] {
        assert_eq!(wrong.parse::<InterfaceName>(), Err(why), "{wrong}");
    }
}

#[test]
fn a_gateways_url_says_how_to_connect() {
    let cases = [
        ("wss://gateway.example/wstether", "wss://gateway.example:443/wstether"),
        ("ws://192.0.2.1:8080", "ws://192.0.2.1:8080/"),
        ("wss://[2001:db8::1]:8443/x", "wss://[2001:db8::1]:8443/x"),
    ];
    for (written, full) in cases {
        assert_eq!(written.parse::<GatewayUrl>().unwrap().to_string(), full);
    }
    use GatewayUrlError::{Host, Path, Port, Scheme, UserInfo};
    for (wrong, why) in [
        ("https://gateway.example", Scheme),
        ("gateway.example", Scheme),
        ("wss://", Host),
        ("wss://a b/", Host),
        ("wss://[::1", Host),
        ("wss://a:0/", Port),
        ("wss://a:65536/", Port),
        ("wss://a/?q", Path),
        ("ws://a@b/", UserInfo),
    ] {
        assert_eq!(wrong.parse::<GatewayUrl>(), Err(why), "{wrong}");
    }
}

#[test]
fn a_url_is_shown_without_what_stands_before_its_last_at_sign() {
    for (url, shown) in [
        ("wss://me:secret@a:1/x", "wss://(hidden)@a:1/x"),
        ("wss://me:se/cr@et@a", "wss://(hidden)@a"),
        ("me:secret@a", "(hidden)@a"),
        ("\"wss://me:secret@a\"", "\"wss://(hidden)@a\""),
        ("wss://a:1/x", "wss://a:1/x"),
    ] {
        assert_eq!(without_userinfo(url), shown);
    }
}

#[test]
fn a_resolver_listens_on_port_53_unless_it_says_so() {
    assert_eq!(read::<Resolver>("\"9.9.9.9\"").unwrap().to_string(), "9.9.9.9:53");
    assert_eq!(read::<Resolver>("\"::1\"").unwrap().to_string(), "[::1]:53");
    assert_eq!(read::<Resolver>("\"127.0.0.1:5353\"").unwrap().to_string(), "127.0.0.1:5353");
    let why = |text: &str| text.parse::<Resolver>().unwrap_err();
    for name in ["dns.example", "dns.example:53", "localhost"] {
        assert_eq!(why(name), ResolverError::Name(name.to_owned()));
    }
    for no_name in ["9.9.9", "9.9.9.9:", "9.9.9.9 1.1.1.1", "::1:x:y", ""] {
        assert_eq!(why(no_name), ResolverError::Address(no_name.to_owned()));
    }
}

#[test]
fn one_value_alone_is_a_list_of_one() {
    assert_eq!(read("\"9.9.9.9\""), Some(vec![IpAddr::from([9, 9, 9, 9])]));
    assert_eq!(read::<Vec<IpAddr>>("[]"), Some(vec![]));
    assert_eq!(read::<Vec<IpAddr>>("[\"9.9.9.9\", 3]"), None);
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "\\PC{0,40}") {
        let item = Item::Text(text);
        let _ = (Bytes::from_item(&item), Duration::from_item(&item), Prefix::from_item(&item), Prefix4::from_item(&item));
        let _ = (PortRange::from_item(&item), InterfaceName::from_item(&item), GatewayUrl::from_item(&item));
        let _ = (UrlPath::from_item(&item), Resolver::from_item(&item), Name::from_item(&item));
    }

    #[test]
    fn a_size_is_read_as_it_is_shown(bytes in any::<u64>(), shift in 0_u32..40) {
        let size = Bytes(bytes >> 24 << shift);
        prop_assert_eq!(Bytes::from_item(&Item::Text(size.to_string())), Some(size));
    }

    #[test]
    fn a_prefix_is_read_as_it_is_shown(bits in any::<u128>(), length in 0_u8..=128, v4 in any::<bool>()) {
        let address = if v4 {
            let length = u32::from(length % 33);
            let bits = (bits as u32).checked_shr(32 - length).unwrap_or(0).checked_shl(32 - length).unwrap_or(0);
            Prefix { address: Ipv4Addr::from_bits(bits).into(), length: length as u8 }
        } else {
            let behind = 128 - u32::from(length);
            let bits = bits.checked_shr(behind).unwrap_or(0).checked_shl(behind).unwrap_or(0);
            Prefix { address: std::net::Ipv6Addr::from_bits(bits).into(), length }
        };
        prop_assert_eq!(address.to_string().parse::<Prefix>(), Ok(address));
    }
}
