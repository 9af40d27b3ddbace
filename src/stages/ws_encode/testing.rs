//! The stage as the gateway has it, with a queue a flow, and packets for it.

use std::marker::PhantomData;
use std::sync::Arc;

use super::{Reason, WsEncode};
use crate::metrics::{StageMetrics, labels};
use crate::packet::{BufPool, Packet};
use crate::packet_builder::Builder;
use crate::runtime::cores::Cores;
use crate::runtime::fq_codel::FqCodel;
use crate::runtime::hand_over::Rule;
use crate::runtime::lanes::{Limits, Quota};
use crate::runtime::stage::{Settings, Stage, WhenFull};
use crate::runtime::tuning::Tuning;
use crate::runtime::work::RUNTIME_REASONS;
use crate::stages::ip_parse;
use crate::stages::nat_rewrite::{Translated, as_it_is};
use crate::stages::ws_decode::LinkKeeper;
use crate::table::Table;
use crate::tether_links::TetherLinks;

pub(crate) type InStage<K> = Stage<WsEncode<K, FqCodel<Packet<Translated>>>>;

/// A stage with a thread, once it is started, and room for so many packets of these tethers.
pub(crate) fn stage<K: LinkKeeper>(
    keeper: &Arc<K>,
    tethers: &Arc<Table<TetherLinks>>,
    pool: &BufPool,
    queue_packets: u64,
) -> Arc<InStage<K>> {
    let settings = Settings {
        lanes: tethers.capacity(),
        limits: Limits { segments: queue_packets, held_bytes: 1 << 30 },
        quota: Quota { segments: 32, lane_bytes: crate::link::BATCH_BYTES_MAX },
        threads: (1, 1),
        hand_over: Rule::Never,
        when_full: WhenFull::Drop,
        sojourn_max: None,
        gathers: false,
        tuning: Tuning::DEFAULT,
    };
    let (tethers, pool, keeper) = (Arc::clone(tethers), pool.clone(), Arc::clone(keeper));
    let handler = WsEncode { tethers, pool, keeper, queue: PhantomData };
    let reasons: Vec<_> = RUNTIME_REASONS.into_iter().chain(labels::<Reason>()).collect();
    let metrics = StageMetrics::new("ws-encode", "downlink", &reasons);
    Stage::new("ws-encode", settings, handler, None, None, Cores::new(1), metrics)
}

/// A packet to a tether whose gateway leaves addresses as they are.
pub(crate) fn to_tether(packet: &Builder) -> Packet<Translated> {
    as_it_is(ip_parse::parse(packet.packet()).expect("a valid packet"))
}
