//! What a queue does without: what waits too long, and what it may not hold at present.

use super::*;
use crate::runtime::work::NOT_ADMITTED;

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
fn a_stage_tells_whether_those_lost_who_had_not_got_far_more_than_others_or_such_a_one_alone() {
    const HOG: u32 = 3;
    let decisions = Decisions::default();
    let (slow, mut inlet) = made_to_shed(WhenFull::Drop, &decisions);
    let mut offer = |lane, count| {
        inlet.push(Instant::now(), true, &mut (0..count).map(|number| entry(lane, lane, number)).collect());
    };
    let serve = || while slow.take_and_process(lock(&slow.inner), 1) {};
    let look = || {
        Arc::clone(&slow).look(Instant::now(), &decisions);
        slow.metrics().losers.take()
    };
    look();
    (0..HOG).for_each(|lane| offer(lane, 200));
    assert_eq!(look(), (true, true));
    serve();
    assert_eq!((look(), slow.metrics().shedding.get()), ((false, false), 1), "nothing came");
    for _ in 0..100 {
        (0..HOG).for_each(|lane| offer(lane, 1));
        offer(HOG, 8);
        serve();
    }
    look();
    offer(HOG, 200);
    assert_eq!(look(), (true, false));
    serve();
    offer(0, 200);
    assert_eq!(look(), (true, false), "of one that loses alone it is not known yet what it takes");
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
