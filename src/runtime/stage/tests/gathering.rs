//! What gathers in a stage for the thread that brings it.

use super::*;
use crate::metrics::decisions::{Change, Controller};
use crate::runtime::cores::Busy;

/// A sink without threads that has use for gathering, on a machine where no core is free, behind a stage that passes on.
fn gathering(wait_max: Duration) -> (Arc<Pass>, Arc<Stage<Sink>>, [Busy; 2]) {
    that_gathers(|tuning| tuning.gathering.wait_max = wait_max)
}

/// The same, where `change` is made to the figures.
fn that_gathers(change: impl FnOnce(&mut Tuning)) -> (Arc<Pass>, Arc<Stage<Sink>>, [Busy; 2]) {
    let settings = settings(ITEMS, 1_000, Rule::Auto, WhenFull::Drop);
    let mut of_sink = Settings { gathers: true, threads: (0, 0), ..settings };
    change(&mut of_sink.tuning);
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
    assert_eq!(
        ["gathered", "run_on", "queued"].map(|decision| figures.handed_over(decision)),
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
fn that_a_stage_gathers_is_told_once_with_what_it_takes_of_the_machine() {
    let (_first, sink, _busy) = gathering(Duration::ZERO);
    let (decisions, upstream, now) = (Decisions::default(), sink.attach(Weak::<Pass>::new()), Instant::now());
    Arc::clone(&sink).look(now, &decisions);
    for number in 0..100 {
        let offer = Offer { upstream: Some(upstream), behind: Behind::Work, may_run_on: true };
        sink.offer(now, offer, &mut vec![entry(3, 3, number)], &mut Batch::default(), &mut Vec::new());
    }
    Arc::clone(&sink).look(now + Duration::from_secs(1), &decisions);
    let told: Vec<_> =
        decisions.last(now).into_iter().map(|(_, it)| (it.controller, it.change, it.reason, it.inputs)).collect();
    let hand_over = "of 100 batches 0 ran on, 0 queued, 100 gathered".to_owned();
    let gathers = "100 of 100 batches gathered: 47 % of the machine, 0 cores free".to_owned();
    assert!(told.contains(&(Controller::HandOver, Change::Up, "machine_busy", hand_over)), "{told:?}");
    assert!(told.contains(&(Controller::Gathering, Change::Up, "machine_busy", gathers)), "{told:?}");
    Arc::clone(&sink).look(now + Duration::from_secs(2), &decisions);
    assert_eq!(decisions.counted(Controller::Gathering, Change::Down, "machine_calm"), 1);
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

#[test]
fn what_gathers_in_a_stage_and_how_much_of_it_is_enough_is_as_it_was_given() {
    let gathered = |items: u32, change: fn(&mut Tuning)| {
        let (_first, sink, _busy) = that_gathers(change);
        let upstream = sink.attach(Weak::<Pass>::new());
        let mut items = (0..items).map(|number| entry(3, 3, number)).collect();
        let offer = Offer { upstream: Some(upstream), behind: Behind::Work, may_run_on: true };
        sink.offer(Instant::now(), offer, &mut items, &mut Batch::default(), &mut Vec::new());
        (sink.metrics().handed_over("gathered"), lock(&sink.inner).lanes.has_ready())
    };
    assert_eq!(gathered(4, |_| {}), (1, false));
    assert_eq!(gathered(4, |tuning| tuning.gathering.enough_segments = 4), (1, true), "four are enough");
    assert_eq!(
        gathered(4, |tuning| tuning.hand_over.gather_share_min = 0.6),
        (0, false),
        "it takes half of the machine"
    );
}
