use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::packet::{Buf, BufPool};

const LIMIT_BYTES: u64 = 1 << 20;

/// What comes in: who wants how much of what, and who goes.
#[derive(Clone, Debug)]
enum Event {
    Packet { len: usize },
    Share { part: usize, bytes: u64 },
    Resize { which: usize, bytes: u64 },
    PacketGone { which: usize },
    ShareGone { which: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_usize..70_000).prop_map(|len| Event::Packet { len }),
        2 => (0..Part::ALL.len(), 0_u64..200_000).prop_map(|(part, bytes)| Event::Share { part, bytes }),
        2 => (any::<usize>(), 0_u64..200_000).prop_map(|(which, bytes)| Event::Resize { which, bytes }),
        3 => any::<usize>().prop_map(|which| Event::PacketGone { which }),
        1 => any::<usize>().prop_map(|which| Event::ShareGone { which }),
    ]
}

/// Everything that draws on one budget.
#[derive(Debug)]
struct Holders {
    budget: Budget,
    pool: BufPool,
    packets: Vec<Buf>,
    shares: Vec<Share>,
}

impl Holders {
    fn new(budget: Budget) -> Self {
        Self { pool: BufPool::drawing_on(&budget), budget, packets: Vec::new(), shares: Vec::new() }
    }

    fn meet(&mut self, event: &Event) {
        match *event {
            Event::Packet { len } => self.packets.extend(self.pool.take(len)),
            Event::Share { part, bytes } => {
                let mut share = self.budget.share(Part::ALL[part]);
                if share.set(bytes) {
                    self.shares.push(share);
                }
            }
            Event::Resize { which, bytes } if !self.shares.is_empty() => {
                let which = which % self.shares.len();
                let before = self.shares[which].bytes();
                let after = if self.shares[which].set(bytes) { bytes } else { before };
                assert_eq!(self.shares[which].bytes(), after);
            }
            Event::PacketGone { which } if !self.packets.is_empty() => {
                drop(self.packets.swap_remove(which % self.packets.len()));
            }
            Event::ShareGone { which } if !self.shares.is_empty() => {
                drop(self.shares.swap_remove(which % self.shares.len()));
            }
            Event::Resize { .. } | Event::PacketGone { .. } | Event::ShareGone { .. } => {}
        }
    }

    fn in_hand_bytes(&self) -> u64 {
        let packets: usize = self.packets.iter().map(Buf::held_bytes).sum();
        packets as u64 + self.shares.iter().map(Share::bytes).sum::<u64>()
    }
}

proptest! {
    #[test]
    fn whatever_comes_in_the_budget_is_never_passed_and_all_of_it_comes_back(
        events in proptest::collection::vec(event(), 1..400),
    ) {
        let budget = Budget::new(LIMIT_BYTES);
        let mut holders = Holders::new(budget.clone());
        for event in &events {
            holders.meet(event);
            prop_assert!(budget.held_bytes() <= LIMIT_BYTES);
            prop_assert_eq!(budget.needed_bytes(), holders.in_hand_bytes());
            let parts: u64 = Part::ALL.iter().map(|&part| budget.held_by(part)).sum();
            prop_assert_eq!(parts, budget.held_bytes());
        }
        drop(holders);
        prop_assert_eq!(budget.held_bytes(), 0);
    }
}

#[test]
fn several_threads_at_the_limit_never_pass_it() {
    let budget = Budget::new(LIMIT_BYTES);
    let pool = BufPool::drawing_on(&budget);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4_u64)
            .map(|seed| {
                let (budget, pool) = (budget.clone(), pool.clone());
                scope.spawn(move || {
                    let mut holders = Holders { budget, pool, packets: Vec::new(), shares: Vec::new() };
                    let mut state = seed;
                    for _ in 0..5_000 {
                        // Knuth's MMIX constants.
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let drawn = (state >> 33) as usize;
                        holders.meet(&match drawn % 8 {
                            0..=2 => Event::Packet { len: drawn % 70_000 },
                            3 => Event::Share { part: drawn % Part::ALL.len(), bytes: drawn as u64 % 200_000 },
                            4 => Event::Resize { which: drawn, bytes: drawn as u64 % 200_000 },
                            5 | 6 => Event::PacketGone { which: drawn },
                            _ => Event::ShareGone { which: drawn },
                        });
                    }
                })
            })
            .collect();
        let watch = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                assert!(budget.held_bytes() <= LIMIT_BYTES);
            }
        });
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        over.store(true, Ordering::Release);
        watch.join().expect("the limit holds");
    });
    assert_eq!(budget.needed_bytes(), 0);
    drop(pool);
    assert_eq!(budget.held_bytes(), 0);
}

#[test]
fn newcomers_go_without_before_those_who_are_in_do() {
    let budget = Budget::new(1_000);
    let mut full = budget.share(Part::Messages);
    for (held, served) in [
        (599, Part::ALL.as_slice()),
        (799, &Part::ALL[1..]),
        (849, &Part::ALL[2..]),
        (949, &Part::ALL[3..]),
        (999, &Part::ALL[5..]),
    ] {
        assert!(full.set(held));
        for part in Part::ALL {
            assert_eq!(budget.share(part).set(1), served.contains(&part), "{part:?} at {held}");
        }
    }
    assert!(full.set(1_000) && !full.grow(1));
}

#[test]
fn who_is_refused_holds_what_it_held() {
    let budget = Budget::undivided(100);
    let (mut first, mut second) = (budget.share(Part::Links), budget.share(Part::Links));
    assert!(first.set(60) && !second.set(41) && second.bytes() == 0);
    assert_eq!((budget.held_bytes(), budget.refused()), (60, 1));
    assert!(first.set(10) && second.set(90) && !first.grow(1));
    drop(second);
    first.clear();
    assert_eq!((budget.held_bytes(), budget.refused()), (0, 2));
}

#[test]
fn spare_buffers_are_given_back_before_anybody_is_refused() {
    let budget = Budget::undivided(LIMIT_BYTES);
    let pool = BufPool::drawing_on(&budget);
    let held: Vec<Buf> = std::iter::from_fn(|| pool.take(1_000)).collect();
    drop(held);
    assert!(budget.held_bytes() > 0 && budget.needed_bytes() == 0, "spare buffers stay for the next packets");
    let mut share = budget.share(Part::Mappings);
    assert!(share.set(LIMIT_BYTES));
    assert_eq!((budget.held_bytes(), pool.take(1).is_none()), (LIMIT_BYTES, true));
}

#[test]
fn what_is_set_only_if_it_is_free_leaves_the_rest_above_a_lower_ceiling_and_refuses_nobody() {
    let budget = Budget::new(1_000);
    let (mut others, mut optional) = (budget.share(Part::Links), budget.share(Part::Messages));
    assert!(others.set(900) && optional.set_if_free(40, Part::Buffers));
    assert!(!optional.set_if_free(51, Part::Buffers), "buffers may hold 950");
    assert_eq!((optional.bytes(), budget.held_bytes(), budget.refused()), (40, 940, 0));
    assert!(optional.set_if_free(50, Part::Buffers) && optional.set_if_free(50, Part::Buffers));
    assert!(optional.set_if_free(10, Part::Buffers), "less is never refused");
    assert_eq!((optional.bytes(), budget.held_by(Part::Messages), budget.held_bytes()), (10, 10, 910));
}
