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
    for wrong in ["10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "::1/64", "::/129", "10.0.0.0/+8", "ten/8", "10.0.0.0/"] {
        assert_eq!(wrong.parse::<Prefix>(), Err(NotOfThisKind), "{wrong}");
    }
    assert_eq!("::/16".parse::<Prefix4>(), Err(NotOfThisKind));
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
    for wrong in ["", ".", "..", "a/b", "a b", "sixteen-letters-", "tun%d", "a:b", "é"] {
        assert_eq!(wrong.parse::<InterfaceName>(), Err(NotOfThisKind), "{wrong}");
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
    let wrongs =
        ["https://gateway.example", "wss://", "wss://a b/", "wss://a:0/", "wss://[::1", "wss://a/?q", "ws://a@b/"];
    for wrong in wrongs {
        assert_eq!(wrong.parse::<GatewayUrl>(), Err(NotOfThisKind), "{wrong}");
    }
}

#[test]
fn a_resolver_listens_on_port_53_unless_it_says_so() {
    assert_eq!(read::<Resolver>("\"9.9.9.9\"").unwrap().to_string(), "9.9.9.9:53");
    assert_eq!(read::<Resolver>("\"::1\"").unwrap().to_string(), "[::1]:53");
    assert_eq!(read::<Resolver>("\"127.0.0.1:5353\"").unwrap().to_string(), "127.0.0.1:5353");
    assert_eq!(read::<Resolver>("\"dns.example\""), None);
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
