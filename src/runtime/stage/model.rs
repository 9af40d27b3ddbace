//! The locks and the condition variable of stages under a model checker: random schedules of two chained stages with two
//! threads each and room for next to nothing. A wake-up that is lost shows as a deadlock.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use shuttle::thread::yield_now;

use super::*;
use crate::runtime::inlet::Inlet;
use crate::runtime::lanes::Gathering;
use crate::runtime::queue::Signal;
use crate::runtime::testing::{Does, Sink, Source, entry, pass, settings, stage};

/// Random schedules a test: a few seconds.
const SCHEDULES: usize = 400;
const LANES: u32 = 3;
const ITEMS_A_LANE: u32 = 5;
const ALL: u64 = LANES as u64 * ITEMS_A_LANE as u64;

type Pass =
    Does<fn(&mut Work<crate::runtime::testing::Item, crate::runtime::testing::Item, crate::runtime::testing::Item>)>;

struct Chain {
    source: Arc<Stage<Source>>,
    first: Arc<Stage<Pass>>,
    sink: Arc<Stage<Sink>>,
}

impl Chain {
    fn start(rule: Rule) -> Self {
        let settings = Settings { threads: (2, 3), ..settings(LANES, 3, rule, WhenFull::Park) };
        let sink = stage("sink", settings, Sink::new(None), None, None);
        let first = stage("first", settings, Does(pass as _), Some(Arc::clone(&sink) as _), None);
        let made = Source::new(LANES, ITEMS_A_LANE);
        let source = stage("source", settings, made, Some(Arc::clone(&first) as _), None);
        let chain = Self { source, first, sink };
        chain.stages().into_iter().for_each(Kept::start);
        let mut signals = (0..LANES)
            .map(|lane| Entry { origin: LaneId(lane), lane: LaneId(lane), item: Signal { since: Instant::now() } })
            .collect();
        Inlet::new(Arc::clone(&chain.source) as _, Cores::new(2)).push(Instant::now(), true, &mut signals);
        chain
    }

    fn stages(&self) -> [Arc<dyn Kept>; 3] {
        [Arc::clone(&self.source) as _, Arc::clone(&self.first) as _, Arc::clone(&self.sink) as _]
    }

    /// Drains and stops. Whoever is not told of work that waits never comes to rest.
    fn finish(&self) {
        for stage in self.stages() {
            while !stage.is_quiet() {
                yield_now();
            }
        }
        self.stages().iter().for_each(|stage| stage.stop());
        assert_eq!(self.sink.handler().seen.disorder(), 0);
        self.stages().iter().for_each(|stage| assert_eq!(stage.metrics().unaccounted(), 0, "{}", stage.name()));
    }
}

#[test]
fn in_any_schedule_all_is_delivered_in_order() {
    for rule in [Rule::Auto, Rule::Always, Rule::Never] {
        let run = move || {
            let chain = Chain::start(rule);
            chain.sink.handler().seen.wait_for(ALL as usize);
            chain.finish();
        };
        shuttle::check_random(run, SCHEDULES);
    }
}

#[test]
fn a_pool_that_changes_its_size_while_it_works_forgets_nothing() {
    let run = || {
        let chain = Chain::start(Rule::Never);
        let first = Arc::clone(&chain.first);
        let resizes =
            shuttle::thread::spawn(move || [1, 3, 2, 1].into_iter().for_each(|threads| first.resize(threads)));
        chain.sink.handler().seen.wait_for(ALL as usize);
        resizes.join().unwrap();
        chain.finish();
    };
    shuttle::check_random(run, SCHEDULES);
}

#[test]
fn a_lane_that_is_cleared_while_it_works_holds_up_nobody() {
    let run = || {
        let chain = Chain::start(Rule::Never);
        let (first, sink) = (Arc::clone(&chain.first), Arc::clone(&chain.sink));
        let clears = shuttle::thread::spawn(move || {
            first.clear(LaneId(0));
            sink.clear(LaneId(0));
        });
        clears.join().unwrap();
        chain.finish();
        let dropped = chain.first.metrics().dropped() + chain.sink.metrics().dropped();
        assert_eq!(chain.sink.handler().seen.total() as u64 + dropped, ALL);
    };
    shuttle::check_random(run, SCHEDULES);
}

#[test]
fn what_gathers_is_forgotten_in_no_schedule() {
    let run = || {
        let settings = settings(LANES, 64, Rule::Auto, WhenFull::Park);
        // It is never due: who brings it serves it, when there is nothing else to do, or nobody does.
        let gathering = Gathering { wait_max: Duration::MAX, ..settings.tuning.gathering };
        let tuning = Tuning { gathering, ..settings.tuning };
        let of_sink = Settings { gathers: true, tuning, threads: (1, 1), ..settings };
        let sink = stage("sink", of_sink, Sink::new(None), None, None);
        sink.metrics().recent_busy_permille.set(1_000);
        let _busy = [sink.cores.occupy(), sink.cores.occupy()];
        // What comes runs on from the front through the first, so that a thread brings things two stages further on.
        let passes = Settings { threads: (2, 2), quota: Quota { segments: 2, ..settings.quota }, ..settings };
        let first: Arc<Stage<Pass>> = stage("first", passes, Does(pass as _), Some(Arc::clone(&sink) as _), None);
        let front: Arc<Stage<Pass>> = stage("front", passes, Does(pass as _), Some(Arc::clone(&first) as _), None);
        Arc::clone(&sink).start();
        Arc::clone(&first).start();
        Arc::clone(&front).start();
        let pokes = Arc::clone(&sink);
        let poker = shuttle::thread::spawn(move || pokes.poke(LaneId(1)));
        for number in 0..ITEMS_A_LANE {
            let mut items = (0..LANES).map(|lane| entry(lane, lane, number)).collect();
            let offer = Offer { upstream: None, behind: Behind::Work, may_run_on: false };
            front.offer(Instant::now(), offer, &mut items, &mut Batch::default(), &mut Vec::new());
        }
        sink.handler().seen.wait_for(ALL as usize);
        poker.join().unwrap();
        while !(front.is_quiet() && first.is_quiet() && sink.is_quiet()) {
            yield_now();
        }
        front.stop();
        first.stop();
        sink.stop();
        assert_eq!((sink.handler().seen.disorder(), sink.metrics().unaccounted()), (0, 0));
    };
    shuttle::check_random(run, SCHEDULES);
}

#[test]
fn a_feeder_that_waits_for_its_lane_is_woken_in_any_schedule_and_forgets_nothing() {
    const ITEMS: u32 = 4;
    let run = || {
        let lane = LaneId(0);
        let settings = Settings { threads: (1, 1), ..settings(1, 64, Rule::Auto, WhenFull::Drop) };
        let sink = stage("sink", settings, Sink::new(Some(lane)), None, None);
        Arc::clone(&sink).start();
        // Both ways of being called back: what another brings occupies the lane, and it is poked once it may send again.
        let (opener, feeder) = (Arc::clone(&sink), Arc::clone(&sink));
        let opens = shuttle::thread::spawn(move || {
            opener.handler().is_shut.store(false, Ordering::SeqCst);
            opener.poke(lane);
            let offer = Offer { upstream: None, behind: Behind::Work, may_run_on: false };
            opener.offer(Instant::now(), offer, &mut vec![entry(0, 1, 0)], &mut Batch::default(), &mut Vec::new());
        });
        let feeds = shuttle::thread::spawn(move || {
            let mut inlet = Inlet::new(Arc::clone(&feeder) as _, Cores::new(2));
            for number in 0..ITEMS {
                inlet.push(Instant::now(), true, &mut vec![entry(0, 0, number)]);
                // There is no time in the model: who is not woken waits for ever.
                inlet.serve(Duration::MAX);
            }
        });
        sink.handler().seen.wait_for(ITEMS as usize + 1);
        opens.join().unwrap();
        feeds.join().unwrap();
        while !sink.is_quiet() {
            yield_now();
        }
        sink.stop();
        assert_eq!((sink.handler().seen.disorder(), sink.metrics().unaccounted()), (0, 0));
    };
    shuttle::check_random(run, SCHEDULES);
}
