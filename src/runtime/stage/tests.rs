#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use super::*;
use crate::metrics::HandedOver;
use crate::metrics::decisions::Decisions;
use crate::runtime::controller::LOOK_EVERY;
use crate::runtime::inlet::Inlet;
use crate::runtime::keeper::Keeper;
use crate::runtime::queue::{Fifo, Signal};
use crate::runtime::testing::{Does, Item, PATIENCE, Seen, Sink, Source, entry, pass, settings, stage};
use crate::runtime::work::{PANICKED, QUEUE_FULL};

mod codel;
mod feeder;
mod gathering;
mod hand_over;
mod leftovers;
mod pool;
mod shedding;

const LANES: u32 = 64;
const ITEMS_A_LANE: u32 = 120;
const ALL: u64 = LANES as u64 * ITEMS_A_LANE as u64;

/// A source, two stages that pass on, and a sink, four threads each.
struct Chain {
    source: Arc<Stage<Source>>,
    sink: Arc<Stage<Sink>>,
    keeper: Keeper,
}

impl Chain {
    fn new(segments: u64, rule: Rule, shut_lane: Option<LaneId>) -> Self {
        let settings = Settings { threads: (4, 4), ..settings(LANES, segments, rule, WhenFull::Park) };
        let sink = stage("sink", settings, Sink::new(shut_lane), None, None);
        let second = stage("second", settings, Does(pass), Some(Arc::clone(&sink) as _), None);
        let first = stage("first", settings, Does(pass), Some(Arc::clone(&second) as _), None);
        let source = Source::new(LANES, ITEMS_A_LANE);
        let source = stage("source", settings, source, Some(Arc::clone(&first) as _), None);
        let stages: Vec<Arc<dyn Kept>> = vec![Arc::clone(&source) as _, first, second, Arc::clone(&sink) as _];
        let keeper = Keeper::new(stages, Cores::new(4));
        Self { source, sink, keeper }
    }

    fn start(&self) {
        self.keeper.start().unwrap();
        let mut signals = (0..LANES)
            .map(|lane| Entry { origin: LaneId(lane), lane: LaneId(lane), item: Signal { since: Instant::now() } })
            .collect();
        Inlet::new(Arc::clone(&self.source) as _, Cores::new(4)).push(Instant::now(), true, &mut signals);
    }

    fn seen(&self) -> &Seen {
        &self.sink.handler().seen
    }

    fn finish(&self) {
        self.seen().wait_for(ALL as usize);
        assert_eq!(self.keeper.drain(Instant::now() + PATIENCE), Vec::<&str>::new());
        assert_eq!(self.keeper.stop(), Vec::<&str>::new());
        assert_eq!(self.seen().disorder(), 0);
        for stage in self.keeper.stages() {
            let figures = stage.metrics();
            let counts = [figures.packets_in.get(), figures.packets_out.get(), figures.bytes_out.get()];
            assert_eq!(counts, [ALL, ALL, 100 * ALL], "{}", stage.name());
            assert_eq!((figures.dropped(), figures.unaccounted()), (0, 0), "{}", stage.name());
            assert_eq!((figures.threads.get(), figures.lanes_parked.get()), (0, 0), "{}", stage.name());
        }
    }
}

#[test]
fn four_threads_a_stage_keep_every_flow_in_order_whatever_the_hand_over() {
    for rule in [Rule::Auto, Rule::Always, Rule::Never] {
        let chain = Chain::new(4_096, rule, None);
        chain.start();
        chain.finish();
    }
}

#[test]
fn tiny_queues_park_all_the_time_and_lose_nothing() {
    for rule in [Rule::Auto, Rule::Never] {
        let chain = Chain::new(8, rule, None);
        chain.start();
        chain.finish();
    }
}

#[test]
fn a_lane_that_is_stalled_leaves_the_others_untouched_and_loses_nothing() {
    let stalled = LaneId(7);
    let chain = Chain::new(256, Rule::Never, Some(stalled));
    chain.start();
    // All of the others, and of the stalled one what came before it was told to wait.
    chain.seen().wait_for((ALL - u64::from(ITEMS_A_LANE)) as usize);
    let sink = chain.sink.handler();
    sink.is_shut.store(false, Ordering::SeqCst);
    chain.sink.poke(stalled);
    chain.finish();
}

#[test]
fn a_port_that_parks_gives_back_exactly_what_does_not_fit() {
    let sink = stage("sink", settings(2, 8, Rule::Never, WhenFull::Park), Sink::new(None), None, None);
    let upstream = sink.attach(Weak::<Stage<Sink>>::new());
    let mut items = (0..10).map(|number| entry(0, 0, number)).collect();
    let (mut entered, mut refused) = (Batch::default(), Vec::new());
    let offer = Offer { upstream: Some(upstream), behind: Behind::Work, may_run_on: true };
    sink.offer(Instant::now(), offer, &mut items, &mut entered, &mut refused);
    assert_eq!(refused.iter().map(|entry| entry.item.number).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
    let figures = sink.metrics();
    assert_eq!([figures.packets_in.get(), figures.queue_packets.get(), figures.dropped()], [4, 4, 0]);
    assert_eq!((figures.lanes_parked.get(), figures.unaccounted()), (1, 0));
}

#[test]
fn a_port_that_drops_counts_exactly_what_does_not_fit() {
    let sink = stage("sink", settings(2, 8, Rule::Never, WhenFull::Drop), Sink::new(None), None, None);
    let mut items = (0..10).map(|number| entry(0, 0, number)).collect();
    Inlet::new(Arc::clone(&sink) as _, Cores::new(1)).push(Instant::now(), true, &mut items);
    let figures = sink.metrics();
    assert_eq!([figures.packets_in.get(), figures.queue_packets.get()], [10, 4]);
    assert_eq!((figures.drops[QUEUE_FULL].get(), figures.unaccounted()), (6, 0));
}

#[test]
fn where_nothing_waits_a_push_runs_through_on_its_own_thread() {
    let sink = stage("sink", settings(2, 8, Rule::Auto, WhenFull::Drop), Sink::new(None), None, None);
    let first =
        stage("first", settings(2, 8, Rule::Auto, WhenFull::Drop), Does(pass), Some(Arc::clone(&sink) as _), None);
    let mut items = (0..10).map(|number| entry(0, 0, number)).collect();
    // No stage has a thread.
    Inlet::new(Arc::clone(&first) as _, Cores::new(1)).push(Instant::now(), false, &mut items);
    assert_eq!(sink.handler().seen.total(), 10);
    let nothing_behind = HandedOver::NothingBehind as usize;
    assert_eq!([&first.metrics(), &sink.metrics()].map(|it| it.handovers[nothing_behind].get()), [1, 1]);
    assert!(first.is_quiet() && sink.is_quiet());
}

#[test]
fn what_turns_round_enters_full_queues_without_a_deadlock_and_all_is_counted() {
    let tiny = |when_full| Settings { threads: (2, 2), ..settings(LANES, 8, Rule::Auto, when_full) };
    let to_tether = stage("ws-encode", tiny(WhenFull::Drop), Sink::new(None), None, None);
    let nat_in = stage("nat-in", tiny(WhenFull::Drop), Does(pass), Some(Arc::clone(&to_tether) as _), None);
    let to_internet = stage("send", tiny(WhenFull::Park), Sink::new(None), None, None);
    let turns_every_other = |work: &mut Work<Item, Item, Item>| {
        for entry in work.batch.items.drain(..) {
            let way = if entry.item.number % 2 == 0 { &mut work.out } else { &mut work.turned };
            way.push(Entry { origin: entry.lane, ..entry });
        }
    };
    let nat_out = stage(
        "nat-out",
        tiny(WhenFull::Park),
        Does(turns_every_other),
        Some(Arc::clone(&to_internet) as _),
        Some(Arc::clone(&nat_in) as _),
    );
    let source = Source::new(LANES, ITEMS_A_LANE);
    let source = stage("source", tiny(WhenFull::Park), source, Some(Arc::clone(&nat_out) as _), None);
    let stages: Vec<Arc<dyn Kept>> = vec![
        Arc::clone(&source) as _,
        Arc::clone(&nat_out) as _,
        Arc::clone(&to_internet) as _,
        Arc::clone(&nat_in) as _,
        Arc::clone(&to_tether) as _,
    ];
    let keeper = Keeper::new(stages, Cores::new(2));
    keeper.start().unwrap();
    let mut signals = (0..LANES)
        .map(|lane| Entry { origin: LaneId(lane), lane: LaneId(lane), item: Signal { since: Instant::now() } })
        .collect();
    Inlet::new(source as _, Cores::new(2)).push(Instant::now(), true, &mut signals);
    let mut downlink = Inlet::new(Arc::clone(&nat_in) as _, Cores::new(2));
    for round in 0..200 {
        let mut storm = (0..LANES).map(|lane| entry(lane, 1_000 + lane, round)).collect();
        downlink.push(Instant::now(), true, &mut storm);
    }
    to_internet.handler().seen.wait_for(ALL as usize / 2);
    assert_eq!(keeper.drain(Instant::now() + PATIENCE), Vec::<&str>::new());
    keeper.stop();
    assert_eq!(nat_out.metrics().turned.get(), ALL / 2);
    assert_eq!(nat_in.metrics().packets_in.get(), ALL / 2 + 200 * u64::from(LANES));
    assert_eq!(nat_in.metrics().packets_out.get(), to_tether.metrics().packets_in.get());
    assert_eq!(to_tether.handler().seen.disorder() + to_internet.handler().seen.disorder(), 0);
    keeper.stages().iter().for_each(|stage| assert_eq!(stage.metrics().unaccounted(), 0, "{}", stage.name()));
}

#[test]
fn a_handler_that_panics_loses_its_batch_and_the_stage_goes_on() {
    let sink = stage("sink", settings(2, 64, Rule::Always, WhenFull::Drop), Sink::new(None), None, None);
    let panics = |work: &mut Work<Item, Item, Item>| {
        assert!(!work.batch.items.iter().any(|entry| entry.item.number == 13), "a handler's mistake");
        pass(work);
    };
    let first =
        stage("first", settings(2, 64, Rule::Always, WhenFull::Drop), Does(panics), Some(Arc::clone(&sink) as _), None);
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(1));
    for numbers in [10..12, 12..16, 16..19] {
        inlet.push(Instant::now(), false, &mut numbers.map(|number| entry(0, 0, number)).collect());
    }
    let figures = first.metrics();
    assert_eq!([figures.packets_in.get(), figures.packets_out.get(), figures.drops[PANICKED].get()], [9, 5, 4]);
    assert_eq!((figures.unaccounted(), sink.handler().seen.total()), (0, 5));
    assert!(first.is_quiet(), "its lane was given back");
}

#[test]
fn a_panic_on_a_stages_own_thread_does_not_cost_it_the_thread() {
    let panics = |work: &mut Work<Item, Item, Item>| {
        let number = work.batch.items[0].item.number;
        assert!(number > 0, "a handler's mistake");
        pass(work);
    };
    let sink = stage("sink", settings(2, 64, Rule::Always, WhenFull::Drop), Sink::new(None), None, None);
    let first =
        stage("first", settings(2, 64, Rule::Never, WhenFull::Drop), Does(panics), Some(Arc::clone(&sink) as _), None);
    Arc::clone(&first).start();
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(1));
    // A quota of 16: the second batch is whole.
    inlet.push(Instant::now(), true, &mut (0..32).map(|number| entry(0, 0, number)).collect());
    sink.handler().seen.wait_for(16);
    assert_eq!((first.metrics().drops[PANICKED].get(), first.metrics().threads.get()), (16, 1));
    first.stop();
}

#[test]
fn clearing_a_lane_makes_room_for_those_who_wait() {
    let sink = stage("sink", settings(2, 8, Rule::Never, WhenFull::Park), Sink::new(None), None, None);
    let first =
        stage("first", settings(2, 8, Rule::Never, WhenFull::Park), Does(pass), Some(Arc::clone(&sink) as _), None);
    Arc::clone(&first).start();
    // The sink has no thread: it fills up, and the first stage's lane is parked.
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(1));
    inlet.push(Instant::now(), true, &mut (0..4).map(|number| entry(0, 0, number)).collect());
    eventually(|| sink.metrics().queue_packets.get() == 4);
    inlet.push(Instant::now(), true, &mut (4..8).map(|number| entry(0, 0, number)).collect());
    eventually(|| sink.metrics().lanes_parked.get() == 1);
    sink.clear(LaneId(0));
    eventually(|| sink.metrics().queue_packets.get() == 4 && first.is_quiet());
    assert_eq!((sink.metrics().drops[NO_OWNER].get(), sink.metrics().unaccounted()), (4, 0));
    first.stop();
}

#[test]
fn a_pool_has_as_many_threads_as_it_was_told_and_they_end_when_it_stops() {
    let sink = stage("sink", settings(2, 8, Rule::Never, WhenFull::Drop), Sink::new(None), None, None);
    for threads in [3, 2, 5, 1] {
        sink.resize(threads);
        // Each thread holds the stage, so this counts those that really are there.
        eventually(|| Arc::strong_count(&sink) == 1 + threads);
        assert_eq!(sink.metrics().threads.get(), threads as u64);
    }
    assert_eq!(sink.metrics().threads_max_seen.get(), 5);
    sink.stop();
    eventually(|| Arc::strong_count(&sink) == 1);
    assert!(sink.has_ended());
    sink.resize(2);
    assert_eq!(sink.metrics().threads.get(), 0, "a stage that has stopped starts no more");
}

#[test]
fn a_pool_whose_threads_are_held_up_grows_though_nothing_is_taken() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let holds = move |work: &mut Work<Item, Item, Item>| {
        work.batch.items.clear();
        held.lock().unwrap().recv().ok();
    };
    let first = stage("first", settings(4, 64, Rule::Never, WhenFull::Drop), Does(holds), None, None);
    Arc::clone(&first).start();
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(1));
    inlet.push(Instant::now(), true, &mut vec![entry(0, 0, 0)]);
    eventually(|| first.metrics().queue_packets.get() == 0);
    inlet.push(Instant::now(), true, &mut vec![entry(1, 1, 0)]);
    let start = Instant::now();
    for look in 0..20 {
        Arc::clone(&first).look(start + look * LOOK_EVERY, &Decisions::default());
    }
    assert_eq!(first.metrics().pool_grow.get(), 1, "one core is free, and one thread then has nothing to do");
    drop(hold);
    eventually(|| first.is_quiet());
    first.stop();
}

/// Waits for what another thread is about to do.
fn eventually(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Passes items on, and notes with others what is done when.
struct Notes {
    name: &'static str,
    notes: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
}

impl Handler for Notes {
    type Queue = Fifo<Item>;
    type Out = Item;
    type Turned = Item;

    fn handle(&self, _now: Instant, work: &mut Work<Item, Item, Item>) {
        lock(&self.notes).push((self.name, "handles"));
        pass(work);
    }

    fn handed_on(&self) {
        lock(&self.notes).push((self.name, "has handed on"));
    }
}

#[test]
fn who_need_not_be_awake_before_is_woken_once_a_batch_has_run_on_to_its_end() {
    let settings = settings(1, 32, Rule::Always, WhenFull::Park);
    let notes = Arc::default();
    let named = |name| Notes { name, notes: Arc::clone(&notes) };
    let sink = stage("sink", settings, Sink::new(None), None, None);
    let second = stage("second", settings, named("second"), Some(Arc::clone(&sink) as _), None);
    let first = stage("first", settings, named("first"), Some(second as _), None);
    Inlet::new(first as _, Cores::new(2)).push(Instant::now(), false, &mut vec![entry(0, 0, 0)]);
    let expected =
        [("first", "handles"), ("second", "handles"), ("second", "has handed on"), ("first", "has handed on")];
    assert_eq!(*lock(&notes), expected);
    assert_eq!(sink.handler().seen.total(), 1, "all of it on the pushing thread");
}
