//! How many connections of one address may be between accept and welcome, so that nobody alone takes all the places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bits of an IPv6 address that name a household: who has one address of it has all others (RFC 6177).
const NETWORK_BITS_V6: u32 = 64;

/// Who is at the door, by address.
#[derive(Debug)]
pub struct Guests {
    max: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection at the door. It leaves when it is dropped.
#[derive(Debug)]
pub struct Guest {
    /// `None` for one that is not counted.
    counted: Option<(Arc<Guests>, IpAddr)>,
}

impl Guests {
    /// Nobody yet; at most `max` of one address.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, by_address: Mutex::default() })
    }

    /// One more from `address`; `None` where as many are here as may be. Loopback is not counted: there, a proxy stands for
    /// everybody.
    pub fn come(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let address = network(address);
        if address.is_loopback() {
            return Some(Guest { counted: None });
        }
        let mut here = self.here();
        let count = here.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Guest { counted: Some((Arc::clone(self), address)) })
    }

    fn leave(&self, address: IpAddr) {
        let mut here = self.here();
        if let Some(count) = here.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                here.remove(&address);
            }
        }
    }

    fn here(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some((guests, address)) = self.counted.take() {
            guests.leave(address);
        }
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK_BITS_V6))).into()
        }
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_does_not_take_the_places_of_others_and_gets_its_own_back() {
        let guests = Guests::new(2);
        let here: Vec<_> = (0..2).map(|_| guests.come(address("192.0.2.1")).expect("a place")).collect();
        assert!(guests.come(address("192.0.2.1")).is_none());
        assert!(guests.come(address("::ffff:192.0.2.1")).is_none(), "the same, as a socket of both families has it");
        drop(guests.come(address("192.0.2.2")).expect("another's place"));
        drop(here);
        assert!(guests.here().is_empty());
        assert!(guests.come(address("192.0.2.1")).is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let guests = Guests::new(1);
        let _here = guests.come(address("2001:db8:0:1::1")).expect("a place");
        assert!(guests.come(address("2001:db8:0:1:ffff::2")).is_none());
        assert!(guests.come(address("2001:db8:0:2::1")).is_some());
    }

    #[test]
    fn a_proxy_on_the_same_host_stands_for_everybody() {
        let guests = Guests::new(1);
        let here: Vec<_> = ["127.0.0.1", "127.0.0.1", "::1", "::1", "::ffff:127.0.0.1", "::ffff:127.0.0.1"]
            .map(|loopback| guests.come(address(loopback)))
            .into_iter()
            .collect();
        assert!(here.iter().all(Option::is_some) && guests.here().is_empty());
    }
}
