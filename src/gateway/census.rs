//! What all tethers together hold, counted where those that hold anything are looked over anyway.

use crate::metrics::{ByProtocol, GatewayMetrics, Gauge};
use crate::nat::{AddressPlan, Count, Nat};
use crate::tether_id::TetherId;
use crate::tether_links::TetherLinks;

/// Sums over tethers.
#[derive(Debug, Default)]
pub(super) struct Census {
    nat: Count,
    credit_in_use_bytes: u64,
    window_bytes: u64,
    in_flight_bytes: u64,
    held_bytes: u64,
    holders: u64,
}

impl Census {
    pub(super) fn add_nat(&mut self, nat: &Nat) {
        let Count { mappings, ports } = nat.count();
        add(&mut self.nat.mappings, mappings);
        add(&mut self.nat.ports, ports);
    }

    /// Tells whether packets are inside or on their way to the tether.
    pub(super) fn add_links(&mut self, links: &TetherLinks) -> bool {
        let inside_bytes = links.account().inside_bytes();
        self.credit_in_use_bytes += inside_bytes;
        let mut in_flight_bytes = 0;
        let held = links.account().held_bytes();
        self.held_bytes += held;
        self.holders += u64::from(held > 0);
        for link in links.all() {
            self.window_bytes += link.window_bytes();
            in_flight_bytes += link.in_flight_bytes();
        }
        self.in_flight_bytes += in_flight_bytes;
        inside_bytes + in_flight_bytes > 0
    }

    /// What the packets of a tether hold on average, of those that hold any.
    pub(super) fn held_mean_bytes(&self) -> u64 {
        self.held_bytes / self.holders.max(1)
    }

    pub(super) fn publish(&self, metrics: &GatewayMetrics) {
        set(&metrics.nat_mappings, self.nat.mappings);
        set(&metrics.nat_ports_in_use, self.nat.ports);
        metrics.credit_in_use_bytes.set(self.credit_in_use_bytes);
        metrics.window_bytes.set(self.window_bytes);
        metrics.window_in_flight_bytes.set(self.in_flight_bytes);
    }
}

/// How many ports and blocks there are; none where the gateway does not translate.
pub(super) fn publish_limits(plan: &AddressPlan, metrics: &GatewayMetrics) {
    if let Some(block) = plan.block(TetherId(0)) {
        let blocks = u64::from(plan.capacity());
        metrics.nat_blocks_limit.set(blocks);
        metrics.nat_ports_limit.set(blocks * u64::from(block.len));
    }
}

fn add(sums: &mut [u64], counts: impl IntoIterator<Item = u64>) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

fn set(gauges: &ByProtocol<Gauge>, levels: impl IntoIterator<Item = u64>) {
    gauges.each().into_iter().zip(levels).for_each(|(gauge, level)| gauge.set(level));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::nat::{Filtering, Rules, Timers, Translation};
    use crate::overload::Overload;
    use crate::packet::BufPool;
    use crate::packet_builder::{Builder, SYN, ip, query, tcp, udp};
    use crate::runtime::lanes::LaneId;
    use crate::stages::{ip_parse, nat_rewrite};
    use crate::tether_links::Windows;

    fn plan(translation: Translation) -> Arc<AddressPlan> {
        Arc::new(AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan"))
    }

    fn translating() -> Arc<AddressPlan> {
        let addresses = vec![ip("198.51.100.1").into()];
        plan(Translation::Gateway { addresses, ports: 10_000..=10_999, block_ports: 100 })
    }

    fn nat(plan: &Arc<AddressPlan>, tether: u32, packets: &[Builder]) -> Nat {
        let rules = Rules {
            plan: Arc::clone(plan),
            timers: Timers::default(),
            filtering: Filtering::default(),
            resolver: None,
            mtu_bytes: 1_500,
            mappings_max: 100,
            mappings_per_second: 100,
            remotes_max: 4,
            pool: BufPool::new(1 << 20),
            overload: Overload::default(),
        };
        let mut nat = Nat::new(TetherId(tether), Arc::new(rules), 1).expect("a lease");
        for packet in packets {
            let parsed = ip_parse::parse(packet.packet()).expect("a valid packet");
            drop(nat_rewrite::outgoing(&mut nat, parsed, Instant::now()));
        }
        nat
    }

    #[test]
    fn mappings_and_ports_are_summed_over_tethers() {
        let (plan, metrics) = (translating(), GatewayMetrics::new(&[]));
        let mut census = Census::default();
        let question = |port: u16| udp(&format!("100.64.0.2:{port}"), "192.0.2.80:443", b"x");
        census.add_nat(&nat(&plan, 0, &[question(1), question(2), tcp("100.64.0.2:1", "192.0.2.80:443", SYN)]));
        census.add_nat(&nat(&plan, 1, &[question(1), query("100.64.0.3", "192.0.2.80", 8, 7)]));
        census.publish(&metrics);
        publish_limits(&plan, &metrics);
        assert_eq!(metrics.nat_mappings.each().map(Gauge::get), [1, 3, 1]);
        assert_eq!(metrics.nat_ports_in_use.each().map(Gauge::get), [1, 3, 1]);
        assert_eq!(metrics.nat_blocks_limit.get(), 10);
        assert_eq!(metrics.nat_ports_limit.get(), 1_000);
        Census::default().publish(&metrics);
        assert_eq!(metrics.nat_mappings.each().map(Gauge::get), [0; 3]);
    }

    #[test]
    fn where_the_gateway_does_not_translate_there_are_no_ports() {
        let (plan, metrics) = (plan(Translation::None), GatewayMetrics::new(&[]));
        let mut census = Census::default();
        census.add_nat(&nat(&plan, 0, &[]));
        census.publish(&metrics);
        publish_limits(&plan, &metrics);
        let figures = [&metrics.nat_blocks_limit, &metrics.nat_ports_limit];
        assert_eq!(figures.map(Gauge::get), [0; 2]);
    }

    #[test]
    fn what_a_tether_has_inside_is_its_credit_in_use() {
        let (pool, metrics) = (BufPool::new(1 << 20), GatewayMetrics::new(&[]));
        let links = TetherLinks::new(LaneId(0), Windows { send_bytes_max: 1_000, credit_bytes: Some(1_000) });
        let mut buf = pool.copy(b"packet").expect("a buffer");
        buf.charge(links.account(), 9);
        let mut census = Census::default();
        census.add_links(&links);
        census.publish(&metrics);
        census.add_links(&TetherLinks::new(LaneId(1), links.windows()));
        assert_eq!(census.held_mean_bytes(), 256, "one holds a buffer, and the other nothing");
        assert_eq!((metrics.credit_in_use_bytes.get(), metrics.window_bytes.get()), (9, 0), "no link, no window");
    }
}
