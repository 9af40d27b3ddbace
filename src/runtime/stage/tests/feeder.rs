//! Who feeds a stage of one lane, and works for it meanwhile.

use super::*;
use crate::runtime::lanes::Outcome;

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
