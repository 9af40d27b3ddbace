#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::sync::Mutex;

use super::*;
use crate::metrics::labels;
use crate::packet::{Checksum, Offload, Raw};
use crate::packet_builder::{ACK, raw, tcp_with, udp};
use crate::stages::testing::Takes;
use crate::tether_links::Windows;

const TETHER: LaneId = LaneId(3);

struct World {
    cut: Cut<Raw>,
    tether: Arc<TetherLinks>,
    /// What was offered behind the cut.
    offered: Arc<Mutex<Vec<Entry<Packet<Raw>>>>>,
    metrics: Arc<StageMetrics>,
}

fn world(pool: BufPool) -> World {
    let (offered, tethers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Table::new(8)));
    let tether = Arc::new(TetherLinks::new(TETHER, Windows { send_bytes_max: 1, credit_bytes: None }));
    tethers.put(TETHER, Arc::clone(&tether));
    let metrics = StageMetrics::new("ws-encode", "downlink", &[&RUNTIME_REASONS[..], &labels::<Reason>()].concat());
    let behind = Arc::clone(&offered);
    let next = Arc::new(Takes(move |_, items: &mut Vec<Entry<Packet<Raw>>>| {
        behind.lock().unwrap().append(items);
        Dropped::default()
    }));
    World { cut: Cut::new(next, tethers, pool, Arc::clone(&metrics)), tether, offered, metrics }
}

/// Eight segments of 1,000 bytes and one of 500.
fn super_packet() -> Packet<Raw> {
    let builder = tcp_with("192.0.2.80:443", "100.64.0.2:4000", ACK, &[], &[7; 8_500]);
    let checksum = Checksum::Partial { start: 20, offset: 16 };
    raw(builder.partial().bytes(), Offload { checksum, segment_bytes: 1_000, header_bytes: 40 })
}

fn small(payload: &[u8]) -> Packet<Raw> {
    udp("192.0.2.80:443", "100.64.0.2:4000", payload).packet()
}

impl World {
    /// Lengths and segments of what comes out for `packets`.
    fn offer(&self, lane: LaneId, packets: Vec<Packet<Raw>>) -> Vec<(usize, u32)> {
        let offer = Offer { upstream: None, behind: Behind::Nothing, may_run_on: true };
        let mut items = packets.into_iter().map(|item| Entry { origin: LaneId(9), lane, item }).collect();
        self.cut.offer(Instant::now(), offer, &mut items, &mut Batch::default(), &mut Vec::new());
        let out = std::mem::take(&mut *self.offered.lock().unwrap());
        assert!(out.iter().all(|entry| (entry.origin, entry.lane) == (LaneId(9), lane)));
        out.iter().map(|entry| (entry.item.len(), entry.item.segments())).collect()
    }

    fn lost(&self) -> u64 {
        assert_eq!(self.metrics.unaccounted(), 0);
        self.metrics.dropped()
    }
}

#[test]
fn a_super_packet_is_cut_to_the_bytes_of_its_tether_and_what_is_around_it_stays_in_place() {
    let world = world(BufPool::new(1 << 24));
    assert_eq!(world.offer(TETHER, vec![super_packet()]), [(8_540, 9)], "nothing is known of the link yet");
    world.tether.set_cut_bytes(3_500);
    let out = world.offer(TETHER, vec![small(b"a"), super_packet(), small(b"bc")]);
    assert_eq!(out, [(29, 1), (3_040, 3), (3_040, 3), (2_540, 3), (30, 1)]);
    assert_eq!(world.lost(), 0);
}

#[test]
fn a_piece_has_one_segment_at_least() {
    let world = world(BufPool::new(1 << 24));
    for cut_bytes in [0, 1, 1_039, 1_040, 2_039] {
        world.tether.set_cut_bytes(cut_bytes);
        let out = world.offer(TETHER, vec![super_packet()]);
        assert_eq!(out, [&[(1_040, 1); 8][..], &[(540, 1)]].concat(), "{cut_bytes}");
    }
}

#[test]
fn where_there_is_no_tether_nothing_is_cut() {
    let world = world(BufPool::new(1 << 24));
    assert_eq!(world.offer(LaneId(1), vec![super_packet()]), [(8_540, 9)]);
}

#[test]
fn segments_that_find_no_buffer_are_counted_at_the_next_stage() {
    // Two small buffers beside the packet's own, which takes the third piece.
    let world = world(BufPool::new(2 * 2_048));
    world.tether.set_cut_bytes(1_100);
    assert_eq!(world.offer(TETHER, vec![super_packet()]), [(1_040, 1); 3]);
    assert_eq!((world.lost(), world.metrics.packets_in.get()), (6, 6));
}
