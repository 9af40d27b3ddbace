//! What lanes left over, and who waits for room.

use super::*;
use crate::runtime::queue::Latch;

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
    assert_eq!((first.leftovers.lanes(), first.metrics().held_back_packets.get()), (0, 0));
}

#[test]
fn a_lane_that_goes_takes_what_it_left_over_with_it_counted() {
    let sink = stage("sink", settings(2, 2, Rule::Never, WhenFull::Park), Sink::new(None), None, None);
    let first =
        stage("first", settings(2, 64, Rule::Always, WhenFull::Park), Does(pass), Some(Arc::clone(&sink) as _), None);
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(1));
    inlet.push(Instant::now(), false, &mut (0..5).map(|number| entry(0, 0, number)).collect());
    assert!(!first.is_quiet());
    let figures = first.metrics();
    assert_eq!((figures.held_back_packets.get(), figures.unaccounted()), (4, 0));
    first.clear(LaneId(0));
    assert_eq!(figures.held_back_packets.get(), 0);
    assert_eq!([figures.packets_in.get(), figures.packets_out.get(), figures.drops[NO_OWNER].get()], [5, 1, 4]);
    assert_eq!(figures.unaccounted(), 0);
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
        let left_over = first.leftovers.of(LaneId(1));
        let gone = narrow.room.min(2 * u64::from(SWARM)) + narrow.room.min(offered as u64);
        assert_eq!(left_over as u64 + gone, 2 * u64::from(SWARM));
        assert_eq!(first.metrics().held_back_packets.get(), left_over as u64);
    }
}

#[test]
fn while_lanes_wait_for_room_those_that_have_something_to_do_are_told_apart_from_those_that_have_nothing() {
    let sink = stage("sink", settings(4, 2, Rule::Never, WhenFull::Park), Sink::new(None), None, None);
    let first =
        stage("first", settings(4, 64, Rule::Never, WhenFull::Park), Does(pass), Some(Arc::clone(&sink) as _), None);
    let held_back = || {
        let mut lanes = (0..5).map(LaneId).collect();
        first.held_back(&mut lanes);
        lanes.iter().map(|lane| lane.0).collect::<Vec<_>>()
    };
    let mut inlet = Inlet::new(Arc::clone(&first) as _, Cores::new(1));
    inlet.push(Instant::now(), false, &mut vec![entry(2, 2, 0)]);
    assert_eq!(held_back(), [0_u32; 0], "it waits for a thread, and for nothing else");
    inlet.push(Instant::now(), false, &mut (0..5).map(|number| entry(1, 1, number)).collect());
    assert!(first.take_and_process(lock(&first.inner), 1));
    assert!(first.metrics().held_back_packets.get() > 0);
    inlet.push(Instant::now(), false, &mut vec![entry(3, 3, 0)]);
    assert_eq!(held_back(), [1, 3], "one that left something over, and one that came behind it");
    first.clear(LaneId(1));
    assert_eq!(held_back(), [0_u32; 0], "nobody waits for room any more");
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
    let waits = || (first.metrics().queue_packets.get(), first.leftovers.lanes(), second.metrics().queue_packets.get());
    assert!(take(&first) && take(&first) && take(&first));
    assert_eq!(waits(), (20, 4, 8), "of the third batch nothing found room");
    assert!(!take(&first));
    assert_eq!(waits(), (20, 4, 8), "the others were not taken up for nothing");
    let mut batches = 0;
    while second.handler().seen.total() < LANES as usize {
        assert!(second.take_and_process(lock(&second.inner), 1));
        while take(&first) {
            batches += 1;
            assert!(first.leftovers.lanes() <= 4, "no more than one batch");
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
    // Fewer places than lanes, or dynamic thresholds would leave some room.
    let second = stage("second", settings(4, 2, Rule::Never, WhenFull::Park), Sink::new(None), None, None);
    let brings = Brings { count: [20, 20, 20, 1], turn: Mutex::default() };
    let next = Arc::clone(&second) as _;
    let first = stage("first", settings(4, 8, Rule::Never, WhenFull::Park), brings, Some(next), None);
    let poke = |lanes: &[u32]| lanes.iter().for_each(|lane| first.poke(LaneId(*lane)));
    let take = || first.take_and_process(lock(&first.inner), 1);
    // Who brings little is known after a while.
    eventually(|| {
        poke(&[0, 1, 2]);
        while take() {}
        assert!(second.take_and_process(lock(&second.inner), 1));
        while take() {}
        poke(&[0, 1, 2]);
        assert!(second.room() == 0 && !take(), "nobody has a turn");
        poke(&[3]);
        take()
    });
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
        (first.metrics().handed_over("run_on"), first.metrics().queue_packets.get(), first.leftovers.lanes())
    };
    // The third finds no room in the second stage, and the fourth is not tried.
    assert_eq!([0, 1, 2, 3].map(&mut push), [(1, 0, 0), (2, 0, 0), (3, 0, 1), (3, 1, 1)]);
    assert_eq!(first.metrics().handovers[HandedOver::NoRoom as usize].get(), 1);
}

#[test]
fn what_runs_on_past_an_empty_queue_lets_in_who_waits_for_room() {
    let settings = Settings { threads: (0, 0), ..settings(8, 2, Rule::Always, WhenFull::Park) };
    let swallow = |work: &mut Work<Item, Item, Item>| work.batch.items.clear();
    let narrow = stage("narrow", settings, Does(swallow), None, None);
    let waiting = || lock(&narrow.inner).waiting.len();
    (1..7).for_each(|lane| lock(&narrow.inner).waiting.add(Upstream(0), LaneId(lane), true));
    for left in [4, 2, 0] {
        let mut items = vec![entry(0, 0, 0)];
        Inlet::new(Arc::clone(&narrow) as _, Cores::new(1)).push(Instant::now(), false, &mut items);
        assert_eq!((waiting(), narrow.metrics().handed_over("run_on")), (left, 3 - left as u64 / 2));
    }
}
