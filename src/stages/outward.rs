//! The way out for what the gateway itself says to the internet: ICMP errors about packets to a tether. They join the
//! uplink in front of its last stage, which drops and counts them where it has no room, so the downlink never waits.

use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::packet::Packet;
use crate::runtime::lanes::{Batch, Entry};
use crate::runtime::port::{Behind, Dropped, Offer, Port, Resume, Upstream};
use crate::stages::ip_parse::Parsed;
use crate::stages::nat_rewrite::{Translated, as_it_is};

/// A port of the downlink that leads to the uplink's last stage.
pub struct Outward(Arc<dyn Port<Packet<Translated>>>);

impl std::fmt::Debug for Outward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outward").finish_non_exhaustive()
    }
}

impl Outward {
    /// In front of `last`.
    pub fn new(last: Arc<dyn Port<Packet<Translated>>>) -> Self {
        Self(last)
    }
}

impl Port<Packet<Parsed>> for Outward {
    fn offer(
        &self,
        now: Instant,
        offer: Offer,
        items: &mut Vec<Entry<Packet<Parsed>>>,
        _entered: &mut Batch<Packet<Parsed>>,
        _refused: &mut Vec<Entry<Packet<Parsed>>>,
    ) -> Dropped {
        // Errors are few, and have a rate: what holds them needs no pool.
        let translated = |Entry { origin, lane, item }| Entry { origin, lane, item: as_it_is(item) };
        let mut items: Vec<_> = items.drain(..).map(translated).collect();
        let offer = Offer { upstream: None, may_run_on: false, ..offer };
        self.0.offer(now, offer, &mut items, &mut Batch::default(), &mut Vec::new())
    }

    fn run(&self, _now: Instant, _behind: Behind, _entered: &mut Batch<Packet<Parsed>>) -> Dropped {
        // Nothing ever runs on.
        Dropped::default()
    }

    fn attach(&self, upstream: Weak<dyn Resume>) -> Upstream {
        self.0.attach(upstream)
    }
}
