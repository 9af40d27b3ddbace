use std::collections::BTreeMap;

use super::*;
use crate::random::Random;

/// As links acknowledge.
const ACK_EVERY_BYTES: u64 = 32_768;
const ACK_DELAY: Duration = Duration::from_millis(2);

enum Event {
    Departed(u64, u64),
    Arrived(u64),
    AckDue,
    Acked(u64),
}

/// A path with an unbounded buffer before its slow link, and a sender that always has more.
struct Path {
    begin: Instant,
    now: Duration,
    window: Window,
    sent: u64,
    /// Bytes a second.
    rate: f64,
    base: Duration,
    waiting: VecDeque<u64>,
    /// The message on the link: when it began or went on, and what of it was left then.
    sending: Option<(Duration, f64, u64)>,
    generation: u64,
    passed: f64,
    events: BTreeMap<(Duration, u64), Event>,
    count: u64,
    received: u64,
    told: u64,
    ack_is_due: bool,
    most: u64,
    /// What the sender itself has on its way at most, as a TCP inside does.
    own_bytes: u64,
    /// What the window told of its changes.
    resized: Vec<Resized>,
}

impl Path {
    fn new(rate_bit_s: f64, base: Duration) -> Self {
        let begin = Instant::now();
        Self {
            begin,
            now: Duration::ZERO,
            window: Window::new(Settings::DEFAULT, 8 << 20, begin),
            sent: 0,
            rate: rate_bit_s / 8.0,
            base,
            waiting: VecDeque::new(),
            sending: None,
            generation: 0,
            passed: 0.0,
            events: BTreeMap::new(),
            count: 0,
            received: 0,
            told: 0,
            ack_is_due: false,
            most: 0,
            own_bytes: u64::MAX,
            resized: Vec::new(),
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.events.insert((self.now + after, self.count), event);
    }

    fn fill(&mut self) {
        let now = self.begin + self.now;
        loop {
            let in_flight = self.window.in_flight_bytes();
            let sendable = self.window.sendable_bytes(in_flight);
            if sendable > 0 && in_flight >= self.own_bytes {
                break;
            }
            if sendable == 0 {
                self.window.full();
                break;
            }
            // A TCP sends as it is acknowledged, and not all at once.
            let message = sendable.min(self.own_bytes / 8).div_ceil(PACKET_BYTES) * PACKET_BYTES;
            self.sent += message;
            self.window.sent(now, self.sent);
            self.waiting.push_back(message);
        }
        self.most = self.most.max(self.window.in_flight_bytes());
        self.serve();
    }

    fn serve(&mut self) {
        if self.sending.is_some() {
            return;
        }
        if let Some(message) = self.waiting.pop_front() {
            self.sending = Some((self.now, message as f64, message));
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        let Some((_, left, message)) = self.sending else { return };
        self.generation += 1;
        if self.rate > 0.0 {
            self.at(Duration::from_secs_f64(left / self.rate), Event::Departed(self.generation, message));
        }
    }

    /// Settles what left so far.
    fn settle(&mut self) {
        if let Some((since, left, _)) = &mut self.sending {
            let gone = ((self.now - *since).as_secs_f64() * self.rate).min(*left);
            self.passed += gone;
            (*since, *left) = (self.now, *left - gone);
        }
    }

    fn set_rate(&mut self, bit_s: f64) {
        self.settle();
        self.rate = bit_s / 8.0;
        self.go_on();
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.fill();
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((now, _), event) = entry.remove_entry();
            self.now = now;
            match event {
                Event::Departed(generation, _) if generation != self.generation => {}
                Event::Departed(_, message) => {
                    self.settle();
                    self.sending = None;
                    self.at(self.base / 2, Event::Arrived(message));
                    self.serve();
                }
                Event::Arrived(message) => {
                    self.received += message;
                    if self.received - self.told >= ACK_EVERY_BYTES {
                        self.tell();
                    } else if !self.ack_is_due {
                        self.ack_is_due = true;
                        self.at(ACK_DELAY, Event::AckDue);
                    }
                }
                Event::AckDue => {
                    self.ack_is_due = false;
                    self.tell();
                }
                Event::Acked(bytes) => {
                    self.window.acked(self.begin + self.now, bytes);
                    self.resized.extend(self.window.take_resized().into_iter().flatten());
                    self.fill();
                }
            }
        }
        self.now = end;
    }

    fn tell(&mut self) {
        if self.received > self.told {
            self.told = self.received;
            self.at(self.base / 2, Event::Acked(self.received));
        }
    }

    fn busy_share(&mut self, time: Duration) -> f64 {
        self.settle();
        let before = self.passed;
        self.run(time);
        self.settle();
        (self.passed - before) / (time.as_secs_f64() * self.rate)
    }

    fn bound(&self) -> u64 {
        let path = self.rate * (self.base + ACK_DELAY).as_secs_f64() + PACKET_BYTES as f64;
        (path + (self.rate * 0.02).max(2.0 * PACKET_BYTES as f64)) as u64
    }
}

/// A number between two, each power of ten as likely as the next.
fn between(random: &mut Random, min: f64, max: f64) -> f64 {
    min * (max / min).powf(random.fraction())
}

/// Runs `check` with the same seeds each time, or with the one that is given to replay a failure or to look further.
fn seeded(check: impl Fn(&mut Random)) {
    let given: Option<u64> = std::env::var("WINDOW_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in given.map_or(0..SEEDS, |seed| seed..seed + 1) {
        eprintln!("WINDOW_SEED={seed}");
        check(&mut Random::new(seed));
    }
}

/// Paths tried in one run of a test.
const SEEDS: u64 = 40;

/// The rates of a mobile link, in bits a second.
const RATE_BIT_S: (f64, f64) = (0.1e6, 100e6);

fn path(random: &mut Random) -> Path {
    let base = Duration::from_secs_f64(between(random, 0.01, 0.3));
    Path::new(between(random, RATE_BIT_S.0, RATE_BIT_S.1), base)
}

impl Path {
    /// What is in flight is never above the bound for `time`, and the link is busy.
    fn is_steady(&mut self, time: Duration) {
        self.most = 0;
        let busy = self.busy_share(time);
        let (most, bound, case) = (self.most, self.bound(), self.case());
        assert!(most <= bound, "{case}: {most} bytes in flight are more than {bound}");
        assert!(busy >= 0.95, "{case}: {busy} busy");
    }

    /// From ten round trips on the link is busy. What stood in the queue when the path changed is not counted as work of
    /// the window: the round trips begin when the path has shown itself, with the first acknowledgement of what was sent
    /// after the change.
    fn is_soon_busy(&mut self) {
        let (change, step) = (self.sent, self.round());
        while self.window.acked_bytes <= change {
            self.run(step);
        }
        self.run(step * 10);
        // A drain has its share of the time that it is made for.
        let busy = self.busy_share((step * 10).max(Duration::from_secs(5)));
        assert!(busy >= 0.95, "{}: {busy} busy", self.case());
    }

    fn round(&self) -> Duration {
        self.base + ACK_DELAY + Duration::from_secs_f64(PACKET_BYTES as f64 / self.rate)
    }

    fn case(&self) -> String {
        let (mbit_s, window, smallest) = (self.rate * 8e-6, self.window.bytes(), self.window.smallest());
        format!("{:?} and {mbit_s:.2} Mbit/s, at {:?}, a window of {window}, {smallest:?}", self.base, self.now)
    }
}

#[test]
fn in_steady_state_no_more_is_on_its_way_than_the_path_holds_and_20_ms_or_two_packets() {
    seeded(|random| {
        let mut path = path(random);
        path.run(Duration::from_secs(15));
        path.is_steady(Duration::from_secs(60));
    });
}

#[test]
fn ten_round_trips_after_a_change_of_rate_the_link_is_busy_again() {
    seeded(|random| {
        let mut path = path(random);
        path.run(Duration::from_secs(5));
        for _ in 0..4 {
            path.set_rate(between(random, RATE_BIT_S.0, RATE_BIT_S.1));
            path.is_soon_busy();
            path.run(Duration::from_secs_f64(between(random, 1.0, 10.0)));
        }
    });
}

#[test]
fn after_a_stall_of_five_seconds_the_link_is_soon_busy_and_its_queue_short_again() {
    seeded(|random| {
        let mut path = path(random);
        path.run(Duration::from_secs(15));
        let rate_bit_s = path.rate * 8.0;
        path.set_rate(0.0);
        path.run(Duration::from_secs(5));
        path.set_rate(rate_bit_s);
        path.is_soon_busy();
        path.run(Duration::from_secs(10));
        path.is_steady(Duration::from_secs(10));
    });
}

/// BBR's pause (ProbeRTT): four segments a round trip, for 200 ms and what it takes to come to that.
const PAUSE_SEGMENTS: f64 = 4.0;
const PAUSE: Duration = Duration::from_millis(200);

#[test]
fn a_pause_of_the_tcp_below_costs_a_round_trip_more_at_most() {
    seeded(|random| {
        let base = Duration::from_secs_f64(between(random, 0.05, 0.2));
        let rate_bit_s = between(random, 2e6, RATE_BIT_S.1);
        let mut path = Path::new(rate_bit_s, base);
        path.run(Duration::from_secs(15));
        for _ in 0..4 {
            path.run(Duration::from_secs_f64(between(random, 1.0, 10.0)));
            path.set_rate(PAUSE_SEGMENTS * 1_448.0 * 8.0 / base.as_secs_f64());
            path.run(PAUSE + base);
            path.set_rate(rate_bit_s);
            let round = path.round();
            let busy = path.busy_share(round * 10);
            assert!(busy >= 0.9, "{}: {busy} busy", path.case());
        }
    });
}

#[test]
fn a_path_that_becomes_slower_gets_a_short_queue_though_its_sender_never_fills_the_window() {
    seeded(|random| {
        let base = Duration::from_secs_f64(between(random, 0.01, 0.1));
        let mut path = Path::new(1e9, base);
        path.run(Duration::from_secs(5));
        let slow_bit_s = between(random, 2e6, 50e6);
        // Half a second of the slow path, and less than the window that the fast one left.
        path.own_bytes = ((slow_bit_s / 8.0 * 0.5) as u64).min(path.window.bytes() / 2);
        // What was under way on the fast one is through.
        path.run(Duration::from_secs(1));
        path.set_rate(slow_bit_s);
        let wait = Duration::from_secs_f64(path.own_bytes as f64 / path.rate);
        path.run((base + wait) * 20);
        path.is_steady(Duration::from_secs(3));
    });
}

#[test]
fn a_path_that_becomes_longer_is_filled_again() {
    seeded(|random| {
        let base = Duration::from_secs_f64(between(random, 0.01, 0.1));
        let mut path = Path::new(between(random, RATE_BIT_S.0, RATE_BIT_S.1), base);
        path.run(Duration::from_secs(8));
        path.base *= 3;
        path.run(Duration::from_secs(40));
        let busy = path.busy_share(Duration::from_secs(20));
        assert!(busy >= 0.95, "{}: {busy} busy", path.case());
    });
}

#[test]
fn what_waits_behind_the_path_is_as_much_as_is_set() {
    let bytes = |base_ms, queue_ms, whole_min_ms| {
        let mut path = Path::new(10e6, Duration::from_millis(base_ms));
        let [queue, whole_min] = [queue_ms, whole_min_ms].map(Duration::from_millis);
        path.window = Window::new(Settings { queue, whole_min }, 8 << 20, path.begin);
        path.run(Duration::from_secs(5));
        path.window.bytes() as f64
    };
    // On a path of 60 ms the queue counts, on one of 5 ms the whole.
    let (less, more) = (bytes(60, 10, 20), bytes(60, 60, 20));
    assert!((1.4..2.0).contains(&(more / less)), "{less} and {more}");
    let (less, more) = (bytes(5, 10, 20), bytes(5, 10, 60));
    assert!(more / less > 2.0, "{less} and {more}");
}

#[test]
fn the_first_packets_show_the_path_each_by_itself() {
    let window = Window::new(Settings::DEFAULT, 1 << 20, Instant::now());
    assert_eq!((window.bytes(), window.sendable_bytes(0)), (BEGIN_BYTES, PACKET_BYTES));
}

#[test]
fn what_is_free_on_a_slow_link_is_sent_a_few_packets_at_a_time() {
    let mut path = Path::new(10e6, Duration::from_millis(60));
    path.run(Duration::from_secs(3));
    let window = &path.window;
    let bytes = window.bytes();
    let of_few = window.sendable_bytes(0);
    assert!(of_few > 2 * PACKET_BYTES && of_few <= PACKETS * PACKET_BYTES, "{of_few}");
    let least = of_few - PACKET_BYTES;
    assert_eq!([least, least + 1].map(|free| window.sendable_bytes(bytes - free)), [0, least + 1]);
}

#[test]
fn a_super_packet_is_cut_to_a_packet_on_a_slow_link_and_stays_whole_on_a_fast_one() {
    let cut = |rate_bit_s| {
        let mut path = Path::new(rate_bit_s, Duration::from_millis(20));
        path.run(Duration::from_secs(3));
        path.window.cut_bytes()
    };
    assert_eq!(cut(1e6), Some(PACKET_BYTES));
    assert!((15_000..=20_000).contains(&cut(100e6).expect("not fast")), "1.5 ms");
    assert_eq!(cut(1e9), None);
}

#[test]
fn with_nothing_on_its_way_there_is_always_room() {
    seeded(|random| {
        let (begin, mut now, mut sent) = (Instant::now(), Duration::ZERO, 0);
        let mut window = Window::new(Settings::DEFAULT, between(random, 2_000.0, 1e7) as u64, begin);
        for _ in 0..2_000 {
            now += Duration::from_secs_f64(between(random, 1e-5, 10.0));
            let room = window.sendable_bytes(window.in_flight_bytes());
            assert!(room > 0 || window.in_flight_bytes() > 0, "{window:?}");
            if room == 0 {
                window.full();
            } else {
                sent += (room as f64 * random.fraction()) as u64 + 1;
                window.sent(begin + now, sent);
            }
            if random.fraction() < 0.6 {
                let acked = sent - (window.in_flight_bytes() as f64 * random.fraction() * random.fraction()) as u64;
                window.acked(begin + now, acked);
            }
        }
    });
}

#[test]
fn who_sends_little_keeps_the_window() {
    let begin = Instant::now();
    let mut window = Window::new(Settings::DEFAULT, 1 << 20, begin);
    for second in 0..60_u64 {
        let at = begin + Duration::from_secs(second);
        window.sent(at, (second + 1) * 100);
        window.acked(at + Duration::from_millis(60 + second % 3), (second + 1) * 100);
    }
    assert_eq!(window.bytes(), BEGIN_BYTES);
    assert_eq!(window.smallest(), Some(Duration::from_millis(60)));
}

#[test]
fn each_change_that_is_worth_a_word_is_told_with_its_reason() {
    let mut path = Path::new(20e6, Duration::from_millis(40));
    let mut whys = |rate_bit_s: f64, seconds: u64| {
        path.set_rate(rate_bit_s);
        path.resized.clear();
        path.run(Duration::from_secs(seconds));
        let told = path.resized.iter().all(|it| it.from_bytes.abs_diff(it.to_bytes) >= it.from_bytes / TOLD_PART);
        assert!(told, "{:?}", path.resized);
        let (drains, rounds): (Vec<&Resized>, Vec<&Resized>) = path.resized.iter().partition(|it| it.why == Why::Drain);
        assert!(drains.iter().all(|it| it.to_bytes < it.from_bytes));
        (rounds.first().map(|it| it.why), rounds.iter().any(|it| it.is_halved()), drains.len())
    };
    assert_eq!(whys(20e6, 3), (Some(Why::TooShort), false, 0), "a window that begins");
    let (_, is_halved, drains) = whys(20e6, 30);
    // Every five seconds, and once more where that found less of a queue than was thought.
    assert!(!is_halved && (4..=9).contains(&drains), "a path that stays as it is: {drains} drains");
    let (_, is_halved, _) = whys(2e6, 5);
    assert!(is_halved, "a path that is ten times slower");
}
