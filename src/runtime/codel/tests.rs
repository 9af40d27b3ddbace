use super::*;

const MS: Duration = Duration::from_millis(1);

/// The RFC's own interval, so that its figures are seen.
const SETTINGS: Settings = Settings { target: Duration::from_millis(20), interval: Duration::from_millis(100) };

/// A queue that stands at `sojourn`, of which one packet leaves each millisecond.
struct Standing {
    codel: Codel,
    settings: Settings,
    start: Instant,
    now: Instant,
}

impl Standing {
    fn new() -> Self {
        let now = Instant::now();
        Self { codel: Codel::default(), settings: SETTINGS, start: now, now }
    }

    fn leave(&mut self, sojourn: Duration, behind_bytes: u64, segments: u32) -> bool {
        let leaving = Leaving { sojourn, behind_bytes, segments };
        let signal = self.codel.must_signal(&self.settings, self.now, leaving);
        self.now += MS;
        signal
    }

    /// When signals came, in milliseconds from the start, while the queue stood at `sojourn` for `time`.
    fn signals(&mut self, sojourn: Duration, time: Duration) -> Vec<u64> {
        let end = self.now + time;
        let mut at = Vec::new();
        while self.now < end {
            let ms = self.now.duration_since(self.start).as_millis() as u64;
            if self.leave(sojourn, 100_000, 1) {
                at.push(ms);
            }
        }
        at
    }
}

#[test]
fn a_queue_that_stands_is_signalled_after_an_interval_and_then_by_the_root_of_the_count() {
    let mut queue = Standing::new();
    let signals = queue.signals(20 * MS, 500 * MS);
    // 100 + 100/√1 + 100/√2 + 100/√3 ..., at the next packet that leaves then.
    let (mut due, mut expected) = (100.0, Vec::new());
    for count in 1.. {
        let next = f64::ceil(due - 1e-3) as u64;
        if next >= 500 {
            break;
        }
        expected.push(next);
        due += 100.0 / f64::from(count).sqrt();
    }
    assert_eq!(signals, expected);
    assert_eq!(signals[..4], [100, 200, 271, 329]);
}

#[test]
fn a_burst_that_is_gone_within_an_interval_is_not_signalled() {
    let mut queue = Standing::new();
    assert!(queue.signals(200 * MS, 99 * MS).is_empty());
    assert!(!queue.leave(4 * MS, 100_000, 1));
    assert!(queue.signals(200 * MS, 99 * MS).is_empty());
}

#[test]
fn one_packet_within_the_target_ends_it() {
    let mut queue = Standing::new();
    assert_eq!(queue.signals(20 * MS, 250 * MS).len(), 2);
    assert!(!queue.leave(4 * MS, 100_000, 1));
    assert!(queue.signals(20 * MS, 99 * MS).is_empty());
}

#[test]
fn a_queue_that_stands_anew_soon_goes_on_near_the_last_rate_and_later_begins_afresh() {
    for (pause, spacing) in [(100 * MS, 16..20), (5_000 * MS, 100..101)] {
        let mut queue = Standing::new();
        let before = queue.signals(20 * MS, 1_100 * MS).len();
        assert!(before > 10, "{before}");
        queue.signals(MS, pause);
        let signals = queue.signals(20 * MS, 300 * MS);
        assert!(spacing.contains(&(signals[1] - signals[0])), "{pause:?}: {signals:?}");
    }
}

#[test]
fn the_last_packet_is_never_signalled_however_long_it_waited() {
    let mut queue = Standing::new();
    for _ in 0..1_000 {
        assert!(!queue.leave(Duration::from_secs(1), MTU_BYTES, 1));
    }
}

#[test]
fn a_super_packet_counts_as_its_segments() {
    let (mut single, mut heavy) = (Standing::new(), Standing::new());
    let singles = single.signals(20 * MS, 1_000 * MS).len();
    let end = heavy.now + 1_000 * MS;
    let mut segments = 0;
    while heavy.now < end {
        segments += if heavy.leave(20 * MS, 100_000, 4) { 4 } else { 0 };
    }
    assert!(segments >= singles && segments < singles + 8, "{segments} for {singles}");
}

#[test]
fn a_way_that_stood_still_does_not_cost_the_queue() {
    let [with, without] = [5, 0].map(|pause| {
        let mut queue = Standing::new();
        assert_eq!(queue.signals(20 * MS, 450 * MS).len(), 6);
        queue.now += Duration::from_secs(pause);
        queue.signals(5_000 * MS, 300 * MS).len()
    });
    assert!(without > 5 && with.abs_diff(without) <= 1, "{with} after a pause, {without} without one");
}

#[test]
fn a_way_that_stood_still_before_anything_was_late_costs_one_packet_an_interval_later() {
    let mut queue = Standing::new();
    assert!(queue.signals(MS, 450 * MS).is_empty());
    queue.now += Duration::from_secs(5);
    assert_eq!(queue.signals(5_000 * MS, 110 * MS).len(), 1);
}
