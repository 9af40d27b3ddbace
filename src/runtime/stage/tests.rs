#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use super::*;
use crate::metrics::decisions::Decisions;
use crate::runtime::controller::LOOK_EVERY;
use crate::runtime::cores::Busy;
use crate::runtime::inlet::Inlet;
use crate::runtime::keeper::Keeper;
use crate::runtime::lanes::Outcome;
use crate::runtime::queue::{Fifo, Latch, Signal};
use crate::runtime::testing::{Does, Item, PATIENCE, Seen, Sink, Source, entry, pass, settings, stage};
use crate::runtime::work::{NOT_ADMITTED, PANICKED, QUEUE_FULL};

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
    assert_eq!([first.metrics().handover_run_on.get(), sink.metrics().handover_run_on.get()], [1, 1]);
    assert!(first.is_quiet() && sink.is_quiet());
}

/// A stage of one lane whose handler notes the thread that runs it, and gives no allowance while it is shut.
fn one_lane(rule: Rule, lanes: u32) -> (Arc<Stage<impl Handler<Queue = Fifo<Item>, Out = Item>>>, Arc<OneLane>) {
    let seen = Arc::new(OneLane::default());
    let handler = {
        let seen = Arc::clone(&seen);
        Does(move |work: &mut Work<Item, Item, Item>| {
            let items = work.batch.items.drain(..).count();
            lock(&seen.runs).push((std::thread::current().id(), items));
            let allowance_bytes = seen.is_shut.load(Ordering::SeqCst).then_some(0);
            work.outcomes.push((LaneId(0), Outcome { allowance_bytes, ..Outcome::default() }));
        })
    };
    let settings = Settings { threads: (1, 1), ..settings(lanes, 64, rule, WhenFull::Drop) };
    (stage("stage", settings, handler, None, None), seen)
}

#[derive(Default)]
struct OneLane {
    is_shut: AtomicBool,
    /// Who ran, and how many items.
    runs: Mutex<Vec<(std::thread::ThreadId, usize)>>,
}

/// Puts items into the queue of the stage.
fn queue<H: Handler<Queue = Fifo<Item>>>(stage: &Stage<H>, count: u32) {
    let mut items = (0..count).map(|number| entry(0, 0, number)).collect();
    let offer = Offer { upstream: None, behind: Behind::Work, may_run_on: false };
    stage.offer(Instant::now(), offer, &mut items, &mut Batch::default(), &mut Vec::new());
}

#[test]
fn a_feeder_works_for_a_stage_whose_lane_is_ready_a_batch_a_time() {
    let (stage, seen) = one_lane(Rule::Auto, 1);
    // No thread of its own was started. The quota is 16.
    queue(&stage, 20);
    let feeder = std::thread::current().id();
    stage.serve(PATIENCE);
    assert_eq!(*lock(&seen.runs), [(feeder, 16)]);
    stage.serve(PATIENCE);
    assert_eq!(*lock(&seen.runs), [(feeder, 16), (feeder, 4)]);
    let began = Instant::now();
    stage.serve(PATIENCE);
    assert!(began.elapsed() < PATIENCE, "the lane is free, and there is nothing to wait for");
    assert_eq!(lock(&seen.runs).len(), 2);
    let figures = stage.metrics();
    assert_eq!([figures.packets_in.get(), figures.queue_packets.get(), figures.dropped()], [20, 0, 0]);
}

#[test]
fn a_feeder_that_waits_for_its_lane_is_woken_for_it_and_the_stages_own_thread_is_not() {
    let (stage, seen) = one_lane(Rule::Auto, 1);
    seen.is_shut.store(true, Ordering::SeqCst);
    let until = |what: &dyn Fn(&Inner<_>) -> bool| {
        let late = Instant::now() + PATIENCE;
        while !what(&lock(&stage.inner)) {
            assert!(Instant::now() < late);
            std::thread::yield_now();
        }
    };
    Arc::clone(&stage).start();
    until(&|inner| inner.threads_idle == 1);
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            let mut items = vec![entry(0, 0, 0)];
            let inlet = &mut Inlet::new(Arc::clone(&stage) as _, Cores::new(2));
            inlet.push(Instant::now(), false, &mut items);
            // Poked while it may not send, and then while it may.
            inlet.serve(PATIENCE);
            inlet.serve(PATIENCE);
            std::thread::current().id()
        });
        until(&|inner| inner.feeder == Feeder::Waits);
        stage.poke(LaneId(0));
        until(&|inner| inner.feeder == Feeder::Waits && lock(&seen.runs).len() == 2);
        seen.is_shut.store(false, Ordering::SeqCst);
        stage.poke(LaneId(0));
        let feeder = feeder.join().unwrap();
        assert_eq!(*lock(&seen.runs), [(feeder, 1), (feeder, 0), (feeder, 0)]);
    });
    // With the feeder away, the stage's own thread does it.
    queue(&stage, 1);
    until(&|inner| inner.lanes.is_free(LaneId(0)));
    let runs = lock(&seen.runs).clone();
    assert!(runs.len() == 4 && runs[3].0 != runs[0].0 && runs[3].1 == 1, "{runs:?}");
    stage.stop();
    until(&|inner| inner.threads == 0);
}

#[test]
fn a_feeder_whose_lane_may_not_send_goes_back_after_the_limit() {
    let (stage, seen) = one_lane(Rule::Auto, 1);
    seen.is_shut.store(true, Ordering::SeqCst);
    queue(&stage, 1);
    stage.serve(PATIENCE);
    queue(&stage, 3);
    // Nobody pokes it: to come back is all that it can do.
    stage.serve(Duration::from_millis(1));
    assert_eq!(lock(&seen.runs).len(), 1);
    assert_eq!((stage.metrics().queue_packets.get(), lock(&stage.inner).feeder), (3, Feeder::Away));
}

#[test]
fn a_stage_of_several_lanes_or_one_that_always_queues_is_left_to_its_own_threads() {
    for (rule, lanes) in [(Rule::Auto, 2), (Rule::Never, 1)] {
        let (stage, seen) = one_lane(rule, lanes);
        queue(&stage, 1);
        stage.serve(PATIENCE);
        assert_eq!((lock(&seen.runs).len(), stage.metrics().queue_packets.get()), (0, 1), "{rule:?}");
    }
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
fn a_lane_that_goes_takes_what_it_left_over_with_it_counted() {
    let sink = stage("sink", settings(2, 2, Rule::Never, WhenFull::Park), Sink::new(None), None, None);
    let first =
        stage("first", settings(2, 64, Rule::Always, WhenFull::Park), Does(pass), Some(Arc::clone(&sink) as _), None);
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(1));
    inlet.push(Instant::now(), false, &mut (0..5).map(|number| entry(0, 0, number)).collect());
    assert!(!first.is_quiet());
    first.clear(LaneId(0));
    let figures = first.metrics();
    assert_eq!([figures.packets_in.get(), figures.packets_out.get(), figures.drops[NO_OWNER].get()], [5, 1, 4]);
    assert_eq!(figures.unaccounted(), 0);
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

/// What one item becomes in [`swarm`]: many times a batch, as small packets do that are read at once.
const SWARM: u32 = 1_000;

fn swarm(work: &mut Work<Item, Item, Item>) {
    for Entry { origin, lane, item } in work.batch.items.drain(..) {
        work.out.extend((0..SWARM).map(|number| Entry { origin, lane, item: Item { number, ..item } }));
    }
}

#[test]
fn what_lanes_left_over_goes_on_by_and_by_and_in_their_order() {
    let settings = settings(4, 16, Rule::Auto, WhenFull::Park);
    assert!(settings.quota.segments < SWARM / 2, "it takes several batches");
    let sink = stage("sink", settings, Sink::new(None), None, None);
    let first = stage("first", settings, Does(swarm), Some(Arc::clone(&sink) as _), None);
    let keeper = Keeper::new(vec![Arc::clone(&first) as _, Arc::clone(&sink) as _], Cores::new(2));
    keeper.start().unwrap();
    let mut items = (0..4).map(|lane| entry(lane, lane, 0)).collect();
    Inlet::new(Arc::clone(&first) as _, Cores::new(2)).push(Instant::now(), true, &mut items);
    let seen = &sink.handler().seen;
    seen.wait_for(4 * SWARM as usize);
    assert_eq!(keeper.drain(Instant::now() + PATIENCE), Vec::<&str>::new());
    assert_eq!(keeper.stop(), Vec::<&str>::new());
    assert_eq!((seen.total(), seen.disorder()), (4 * SWARM as usize, 0));
    assert_eq!((first.metrics().packets_out.get(), sink.metrics().packets_in.get()), (4_000, 4_000));
    assert_eq!(lock(&first.leftovers).len(), 0);
}

/// A sink without threads that has use for gathering, on a machine where no core is free, behind a stage that passes on.
fn gathering(gather_max: Duration) -> (Arc<Pass>, Arc<Stage<Sink>>, [Busy; 2]) {
    let settings = settings(ITEMS, 1_000, Rule::Auto, WhenFull::Drop);
    let of_sink = Settings { gather_max: Some(gather_max), threads: (0, 0), ..settings };
    let sink = stage("sink", of_sink, Sink::new(None), None, None);
    sink.metrics().recent_busy_permille.set(1_000);
    let busy = [sink.cores.occupy(), sink.cores.occupy()];
    let of_first = Settings { threads: (1, 1), ..settings };
    (stage("first", of_first, Does(pass as _), Some(Arc::clone(&sink) as _), None), sink, busy)
}

type Pass = Stage<Does<fn(&mut Work<Item, Item, Item>)>>;

/// Items, each in a lane of its own: two batches of 16, and one of 8 with nothing behind.
const ITEMS: u32 = 40;

fn queue_a_lane_each(first: &Pass) {
    let mut items = (0..ITEMS).map(|lane| entry(lane, lane, 0)).collect();
    let offer = Offer { upstream: None, behind: Behind::Work, may_run_on: false };
    first.offer(Instant::now(), offer, &mut items, &mut Batch::default(), &mut Vec::new());
}

/// What has come is counted when its lanes are given back.
fn come_to_rest(sink: &Stage<Sink>, items: u32) {
    sink.handler().seen.wait_for(items as usize);
    let begins = Instant::now();
    while !sink.is_quiet() {
        assert!(begins.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

#[test]
fn what_a_thread_brings_gathers_while_it_has_more_and_is_served_by_it_when_it_has_not() {
    let (first, sink, _busy) = gathering(Duration::from_secs(3_600));
    queue_a_lane_each(&first);
    Arc::clone(&first).start();
    come_to_rest(&sink, ITEMS);
    let figures = sink.metrics();
    assert_eq!(figures.queue_packets_max_seen.get(), u64::from(ITEMS), "all gathered, and then it was served");
    let decisions = [&figures.handover_gathered, &figures.handover_run_on, &figures.handover_queued];
    assert_eq!(
        decisions.map(|counter| counter.get()),
        [3, 0, 0],
        "with gathered things behind it, no batch is the last"
    );
    assert_eq!((figures.dropped(), figures.unaccounted()), (0, 0));
    assert!(!sink.gathers() && sink.is_quiet());
    first.stop();
}

#[test]
fn what_has_gathered_for_long_enough_is_served_before_more_is_brought() {
    let (first, sink, _busy) = gathering(Duration::ZERO);
    queue_a_lane_each(&first);
    Arc::clone(&first).start();
    come_to_rest(&sink, ITEMS);
    assert_eq!(sink.metrics().queue_packets_max_seen.get(), 16, "a batch of those that were brought");
    assert_eq!(sink.metrics().unaccounted(), 0);
    first.stop();
}

#[test]
fn what_gathers_for_a_thread_that_never_comes_back_is_served_by_the_stages_own() {
    let (first, sink, _busy) = gathering(Duration::ZERO);
    let upstream = sink.attach(Weak::<Pass>::new());
    let mut items = vec![entry(3, 3, 0)];
    let offer = Offer { upstream: Some(upstream), behind: Behind::Work, may_run_on: true };
    sink.offer(Instant::now(), offer, &mut items, &mut Batch::default(), &mut Vec::new());
    assert!(sink.gathers() && first.gathers(), "told to whoever brings something through it");
    Arc::clone(&sink).resize(1);
    Arc::clone(&sink).look(Instant::now(), &Decisions::default());
    sink.handler().seen.wait_for(1);
    sink.stop();
}

#[test]
fn items_of_one_lane_that_need_not_wait_for_more_wake_a_thread_of_their_stage() {
    let (_first, sink, _busy) = gathering(Duration::from_secs(3_600));
    let upstream = sink.attach(Weak::<Pass>::new());
    Arc::clone(&sink).resize(1);
    // As many as a lane gathers, in one offer: it is ready when the offer ends, and no lane is left that gathers.
    let mut items = (0..16).map(|number| entry(3, 3, number)).collect();
    let offer = Offer { upstream: Some(upstream), behind: Behind::Work, may_run_on: true };
    sink.offer(Instant::now(), offer, &mut items, &mut Batch::default(), &mut Vec::new());
    sink.serve_gathered(Gathered::Due);
    sink.handler().seen.wait_for(16);
    sink.stop();
}

/// A port with room for a few; notes how much it was offered each time.
struct Narrow {
    room: u64,
    offered: Mutex<Vec<usize>>,
}

impl Port<Item> for Narrow {
    fn offer(
        &self,
        _now: Instant,
        _offer: Offer,
        items: &mut Vec<Entry<Item>>,
        _entered: &mut Batch<Item>,
        refused: &mut Vec<Entry<Item>>,
    ) -> Dropped {
        lock(&self.offered).push(items.len());
        refused.extend(items.drain(..).skip(self.room as usize));
        Dropped::default()
    }

    fn run(&self, _now: Instant, _behind: Behind, _entered: &mut Batch<Item>) -> Dropped {
        Dropped::default()
    }

    fn room(&self) -> u64 {
        self.room
    }

    fn attach(&self, _upstream: Weak<dyn Resume>) -> Upstream {
        Upstream(0)
    }
}

#[test]
fn of_what_was_left_over_as_much_is_offered_as_there_is_room_for_and_a_batch_at_most() {
    let settings = settings(4, 16, Rule::Never, WhenFull::Park);
    for (room, offered) in [(0, 1), (3, 3), (1_000, settings.quota.segments as usize)] {
        let narrow = Arc::new(Narrow { room, offered: Mutex::default() });
        let first = stage("first", settings, Does(swarm), Some(Arc::clone(&narrow) as _), None);
        // More than fits at first, so that something is left over whatever the room.
        let mut items = (0..2).map(|number| entry(1, 1, number)).collect();
        Inlet::new(Arc::clone(&first) as _, Cores::new(2)).push(Instant::now(), true, &mut items);
        assert!(first.take_and_process(lock(&first.inner), 1));
        first.resume(LaneId(1));
        assert!(first.take_and_process(lock(&first.inner), 1));
        assert_eq!(*lock(&narrow.offered), [2 * SWARM as usize, offered], "room for {room}");
        let left_over = lock(&first.leftovers).get(&LaneId(1)).map_or(0, VecDeque::len);
        let gone = narrow.room.min(2 * u64::from(SWARM)) + narrow.room.min(offered as u64);
        assert_eq!(left_over as u64 + gone, 2 * u64::from(SWARM));
    }
}

#[test]
fn while_lanes_wait_for_room_the_others_are_left_where_they_are() {
    const LANES: u32 = 32;
    let narrow = settings(LANES, 8, Rule::Never, WhenFull::Park);
    let narrow = Settings { quota: Quota { segments: 4, ..narrow.quota }, ..narrow };
    let second = stage("second", narrow, Sink::new(None), None, None);
    let first = stage("first", narrow, Does(pass), Some(Arc::clone(&second) as _), None);
    lock(&first.inner).lanes.set_limits(Limits { segments: 1_000, ..narrow.limits });
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(2));
    let mut offer = || inlet.push(Instant::now(), true, &mut (0..LANES).map(|lane| entry(lane, lane, 0)).collect());
    offer();
    let take = |stage: &Arc<Stage<_>>| stage.take_and_process(lock(&stage.inner), 1);
    let waits =
        || (first.metrics().queue_packets.get(), lock(&first.leftovers).len(), second.metrics().queue_packets.get());
    assert!(take(&first) && take(&first) && take(&first));
    assert_eq!(waits(), (20, 4, 8), "of the third batch nothing found room");
    assert!(!take(&first));
    assert_eq!(waits(), (20, 4, 8), "the others were not taken up for nothing");
    let mut batches = 0;
    while second.handler().seen.total() < LANES as usize {
        assert!(second.take_and_process(lock(&second.inner), 1));
        while take(&first) {
            batches += 1;
            assert!(lock(&first.leftovers).len() <= 4, "no more than one batch");
        }
        assert!(batches <= 2 * LANES);
    }
    assert_eq!(waits(), (0, 0, 0));
    assert!(first.is_quiet() && second.is_quiet());
}

/// Brings so many items of each lane in its turn, and notes whose that was.
struct Brings {
    count: [u32; 4],
    turn: Mutex<Vec<LaneId>>,
}

impl Handler for Brings {
    type Queue = Latch;
    type Out = Item;
    type Turned = Item;
    const COUNTS_ITEMS: bool = false;

    fn handle(&self, _now: Instant, work: &mut WorkOf<Self>) {
        work.batch.items.clear();
        lock(&self.turn).clone_from(&work.batch.lanes);
        for lane in &work.batch.lanes {
            work.out.extend((0..self.count[lane.0 as usize]).map(|number| entry(lane.0, lane.0, number)));
        }
    }
}

#[test]
fn a_lane_of_signals_that_brings_little_has_its_turn_while_those_that_bring_much_wait_for_room() {
    let second = stage("second", settings(4, 8, Rule::Never, WhenFull::Park), Sink::new(None), None, None);
    let brings = Brings { count: [20, 20, 20, 1], turn: Mutex::default() };
    let next = Arc::clone(&second) as _;
    let first = stage("first", settings(4, 8, Rule::Never, WhenFull::Park), brings, Some(next), None);
    let poke = |lanes: &[u32]| lanes.iter().for_each(|lane| first.poke(LaneId(*lane)));
    let take = || first.take_and_process(lock(&first.inner), 1);
    for _ in 0..100 {
        poke(&[0, 1, 2]);
        while take() {}
        assert!(second.take_and_process(lock(&second.inner), 1));
    }
    while take() {}
    poke(&[0, 1, 2]);
    assert!(!take(), "there is no room for what these would bring");
    poke(&[3]);
    assert!(take());
    assert_eq!(*lock(&first.handler().turn), [LaneId(3)]);
    assert!(!take());
}

#[test]
fn what_is_pushed_while_lanes_wait_for_room_does_not_run_on() {
    let narrow = settings(8, 2, Rule::Always, WhenFull::Park);
    let second = stage("second", Settings { hand_over: Rule::Never, ..narrow }, Sink::new(None), None, None);
    let first = stage("first", narrow, Does(pass), Some(Arc::clone(&second) as _), None);
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(2));
    let mut push = |lane| {
        inlet.push(Instant::now(), false, &mut vec![entry(lane, lane, 0)]);
        (first.metrics().handover_run_on.get(), first.metrics().queue_packets.get(), lock(&first.leftovers).len())
    };
    // The third finds no room in the second stage, and the fourth is not tried.
    assert_eq!([0, 1, 2, 3].map(&mut push), [(1, 0, 0), (2, 0, 0), (3, 0, 1), (3, 1, 1)]);
}

#[test]
fn what_runs_on_past_an_empty_queue_lets_in_who_waits_for_room() {
    let settings = Settings { threads: (0, 0), ..settings(8, 2, Rule::Always, WhenFull::Park) };
    let swallow = |work: &mut Work<Item, Item, Item>| work.batch.items.clear();
    let narrow = stage("narrow", settings, Does(swallow), None, None);
    let waiting = || lock(&narrow.inner).waiting.len();
    (1..7).for_each(|lane| lock(&narrow.inner).waiting.add(Upstream(0), LaneId(lane)));
    for left in [4, 2, 0] {
        let mut items = vec![entry(0, 0, 0)];
        Inlet::new(Arc::clone(&narrow) as _, Cores::new(1)).push(Instant::now(), false, &mut items);
        assert_eq!((waiting(), narrow.metrics().handover_run_on.get()), (left, 3 - left as u64 / 2));
    }
}

type Slow = Stage<Does<fn(&mut Work<Item, Item, Item>)>>;

/// A stage without threads, made to shed: batches were taken that had waited much longer than the bound.
fn made_to_shed(when_full: WhenFull, decisions: &Decisions) -> (Arc<Slow>, Inlet<Item>) {
    let sojourn_max = Some(Duration::from_millis(5));
    let settings = Settings { sojourn_max, threads: (0, 0), ..settings(4, 1_000, Rule::Never, when_full) };
    let send: fn(&mut Work<Item, Item, Item>) = |work| {
        let items = std::mem::take(&mut work.batch.items);
        items.iter().for_each(|entry| work.tally.sent.add(&entry.item));
    };
    let slow = stage("slow", settings, Does(send), None, None);
    let mut inlet = Inlet::new(Arc::clone(&slow) as _, Cores::new(1));
    let long_ago = Instant::now() - Duration::from_secs(1);
    inlet.push(long_ago, true, &mut (0..100).map(|number| entry(0, 0, number)).collect());
    for look in 0..3 {
        assert!(slow.take_and_process(lock(&slow.inner), 1));
        // What a segment takes would otherwise be the test machine's affair.
        slow.service_ns_a_segment.store(1, Ordering::Relaxed);
        Arc::clone(&slow).look(long_ago + look * LOOK_EVERY, decisions);
    }
    (slow, inlet)
}

#[test]
fn a_queue_that_waits_too_long_admits_less_and_what_it_drops_is_told_apart_from_a_full_one() {
    let decisions = Decisions::default();
    let (slow, mut inlet) = made_to_shed(WhenFull::Drop, &decisions);
    let metrics = slow.metrics();
    let told = decisions.last(Instant::now()).pop().unwrap().1;
    assert_eq!((told.reason, &*told.subject), (crate::metrics::decisions::WAITS_TOO_LONG, "slow uplink"));
    assert!(told.inputs.starts_with("admits 76 of 1000 packets: p99 of the wait 1.0s, 68 waiting"), "{}", told.inputs);
    // What waited still had waited for too long, and went when its turn came: none of it was alone.
    assert_eq!((metrics.drops[NOT_ADMITTED].get(), metrics.queue_packets.get()), (68, 0));
    let admitted = metrics.queue_admitted_packets.get();
    assert!(admitted <= 76 && metrics.shedding.get() == 1, "{admitted}");
    // One lane may hold as much as is free: a half.
    inlet.push(Instant::now(), true, &mut (0..100).map(|number| entry(1, 1, number)).collect());
    assert_eq!(metrics.queue_packets.get(), admitted / 2);
    assert_eq!((metrics.drops[NOT_ADMITTED].get(), metrics.drops[QUEUE_FULL].get()), (168 - admitted / 2, 0));
    while slow.metrics().queue_packets.get() > 0 {
        assert!(slow.take_and_process(lock(&slow.inner), 1));
    }
    // Nothing waits long: after a second it admits all again.
    for look in 0..60 {
        Arc::clone(&slow).look(Instant::now() + look * LOOK_EVERY, &decisions);
        slow.take_and_process(lock(&slow.inner), 1);
    }
    assert_eq!((metrics.queue_admitted_packets.get(), metrics.shedding.get()), (1_000, 0));
    assert_eq!(metrics.unaccounted(), 0);
}

#[test]
fn shedding_ends_where_the_queue_may_hold_no_more_than_it_admits_and_nothing_is_too_old_any_more() {
    let decisions = Decisions::default();
    let (slow, mut inlet) = made_to_shed(WhenFull::Drop, &decisions);
    let (metrics, start) = (Arc::clone(slow.metrics()), Instant::now());
    lock(&slow.inner).threads = 1;
    let mut look = |number: u32, service_us: u64, waited: Duration| {
        let came = Instant::now() - waited;
        inlet.push(came, true, &mut (0..4).map(|number| entry(0, 0, number)).collect());
        while metrics.queue_packets.get() > 0 {
            assert!(slow.take_and_process(lock(&slow.inner), 1));
        }
        slow.service_ns_a_segment.store(1_000 * service_us, Ordering::Relaxed);
        Arc::clone(&slow).look(start + number * LOOK_EVERY, &decisions);
        (metrics.queue_admitted_packets.get(), metrics.shedding.get())
    };
    let last = |looks: std::ops::Range<u32>, look: &mut dyn FnMut(u32) -> (u64, u64)| looks.map(look).last().unwrap();
    assert_eq!(last(0..60, &mut |at| look(at, 10, Duration::ZERO)), (1_000, 0));
    // 100,000 a second, within the bound, less a part.
    assert_eq!(last(60..70, &mut |at| look(at, 10, Duration::from_millis(20))), (300, 1));
    let dropped = metrics.drops[NOT_ADMITTED].get();
    assert_eq!(last(70..90, &mut |at| look(at, 40, Duration::ZERO)), (250, 0), "two bounds of 25,000 a second");
    look(90, 40, Duration::from_millis(20));
    assert_eq!(metrics.drops[NOT_ADMITTED].get(), dropped);
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

#[test]
fn a_stage_that_is_to_hold_half_refuses_the_rest_and_holds_all_again_when_it_may() {
    let settings = Settings { sojourn_max: None, ..settings(1, 32, Rule::Never, WhenFull::Drop) };
    let sink = stage("sink", settings, Sink::new(None), None, None);
    // One busy lane gets half of what the queue may hold. Nobody was started, so what waits goes on waiting.
    let mut waiting = 0;
    for (percent, holds) in [(50, 8), (100, 16)] {
        sink.hold_at_most(percent);
        let dropped = sink.metrics.drops[QUEUE_FULL].get();
        let mut items = (0..20).map(|number| entry(0, 0, number)).collect();
        Inlet::new(Arc::clone(&sink) as _, Cores::new(2)).push(Instant::now(), true, &mut items);
        assert_eq!(sink.metrics.queue_packets.get(), holds, "at {percent} %");
        assert_eq!(sink.metrics.queue_admitted_packets.get(), 32 * percent / 100);
        assert_eq!(sink.metrics.drops[QUEUE_FULL].get() - dropped, 20 - (holds - waiting));
        waiting = holds;
    }
}
