//! Values under `/proc/sys`, and the arithmetic of reserved port ranges.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

/// The kernel's list of ports that are never handed out as ephemeral ones.
pub const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// Why a value could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} sysctl {name}: {source}")]
pub struct Error {
    action: &'static str,
    name: String,
    source: io::Error,
}

/// Reads a value, such as that of `net.ipv4.ip_forward`, in this thread's network namespace. A name's parts are
/// separated by dots, or by slashes where one of them has dots in it (an interface's name).
///
/// # Errors
/// There is no such sysctl.
pub fn read(name: &str) -> Result<String, Error> {
    let value = fs::read_to_string(path(name));
    value.map(|value| value.trim().to_owned()).map_err(|source| error("reading", name, source))
}

/// Writes a value.
///
/// # Errors
/// There is no such sysctl, it does not take the value, or the right is missing.
pub fn write(name: &str, value: &str) -> Result<(), Error> {
    // An empty write would change nothing; a newline alone empties a list.
    fs::write(path(name), format!("{value}\n")).map_err(|source| error("writing", name, source))
}

/// The running kernel's version, major and minor; zeros where it does not tell.
pub fn kernel_release() -> (u32, u32) {
    read("kernel.osrelease").ok().and_then(|release| major_and_minor(&release)).unwrap_or_default()
}

fn major_and_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn path(name: &str) -> String {
    let parts = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    format!("/proc/sys/{parts}")
}

fn error(action: &'static str, name: &str, source: io::Error) -> Error {
    Error { action, name: name.to_owned(), source }
}

/// A set of ports, as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// Reads the kernel's form: `8080,9000-9010`. What is no port is left out; the kernel writes none such.
    pub fn parse(text: &str) -> Self {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        };
        Self::from_ranges(text.split(',').filter_map(range))
    }

    fn from_ranges(ranges: impl Iterator<Item = RangeInclusive<u16>>) -> Self {
        let mut sorted: Vec<_> = ranges.filter(|range| !range.is_empty()).collect();
        sorted.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// This set with `ports` in it.
    #[must_use]
    pub fn with(&self, ports: &RangeInclusive<u16>) -> Self {
        Self::from_ranges(self.0.iter().cloned().chain([ports.clone()]))
    }

    /// This set without `ports`, except for those that `kept` has.
    #[must_use]
    pub fn without(&self, ports: &RangeInclusive<u16>, kept: &Self) -> Self {
        let outside = self.0.iter().flat_map(|range| {
            let below = ports.start().checked_sub(1).map(|end| *range.start()..=end.min(*range.end()));
            let above = ports.end().checked_add(1).map(|start| start.max(*range.start())..=*range.end());
            [below, above].into_iter().flatten()
        });
        let inside = kept.0.iter().flat_map(|range| {
            let both = *range.start().max(ports.start())..=*range.end().min(ports.end());
            self.0.iter().map(move |held| *both.start().max(held.start())..=*both.end().min(held.end()))
        });
        Self::from_ranges(outside.chain(inside))
    }

    /// Whether a port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl std::fmt::Display for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_release_is_known_by_its_first_two_numbers() {
        for (release, known) in [("6.18.0", Some((6, 18))), ("6.1.0-28-amd64", Some((6, 1))), ("7.2+", Some((7, 2)))] {
            assert_eq!(major_and_minor(release), known);
        }
        assert_eq!([major_and_minor(""), major_and_minor("next"), major_and_minor("6")], [None; 3]);
        assert!(kernel_release() > (4, 0));
    }

    #[test]
    fn our_range_is_merged_into_what_is_there_and_taken_out_again() {
        for before in ["", "8080", "8080,9000-9010", "19990-20010", "20005,29000-31000", "1-65535"] {
            let before = PortSet::parse(before);
            let ours = 20_000..=29_999;
            let during = before.with(&ours);
            assert!(ours.clone().all(|port| during.contains(port)));
            assert_eq!(during.without(&ours, &before), before, "from {during}");
        }
    }

    #[test]
    fn what_others_reserved_meanwhile_stays() {
        let (before, ours) = (PortSet::parse("8080"), 20_000..=29_999);
        let during = before.with(&ours).with(&(40_000..=40_000));
        assert_eq!(during.without(&ours, &before).to_string(), "8080,40000");
    }

    #[test]
    fn ranges_are_written_as_the_kernel_writes_them() {
        assert_eq!(PortSet::parse("9010,9000-9009, 8080,x,7-3").to_string(), "8080,9000-9010");
    }

    proptest! {
        #[test]
        fn the_set_is_that_of_its_single_ports(
            held in prop::collection::vec((0_u16..300, 0_u16..300), 0..6), ours in (0_u16..300, 0_u16..300),
            kept in prop::collection::vec((0_u16..300, 0_u16..300), 0..6),
        ) {
            let set = |ranges: &[(u16, u16)]| PortSet::from_ranges(ranges.iter().map(|&(first, last)| first..=last));
            let (held, kept, ours) = (set(&held), set(&kept), ours.0..=ours.1);
            let (with, without) = (held.with(&ours), held.without(&ours, &kept));
            for port in 0..300 {
                prop_assert_eq!(with.contains(port), held.contains(port) || ours.contains(&port));
                let stays = held.contains(port) && (!ours.contains(&port) || kept.contains(port));
                prop_assert_eq!(without.contains(port), stays, "port {}", port);
            }
        }
    }
}
