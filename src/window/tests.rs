use std::collections::BTreeMap;

use super::*;

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
}

impl Path {
    fn new(rate_bit_s: f64, base: Duration) -> Self {
        let begin = Instant::now();
        Self {
            begin,
            now: Duration::ZERO,
            window: Window::new(8 << 20, begin),
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
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.events.insert((self.now + after, self.count), event);
    }

    fn fill(&mut self) {
        let now = self.begin + self.now;
        loop {
            let free = self.window.bytes().saturating_sub(self.window.in_flight_bytes());
            if free == 0 {
                self.window.full();
                break;
            }
            let burst = free.min(self.window.burst_bytes().unwrap_or(BURST_BYTES_MAX));
            let message = burst.div_ceil(PACKET_BYTES) * PACKET_BYTES;
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

    #[expect(dead_code)]
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

#[test]
fn a_minute_of_bulk_keeps_a_path_busy_and_its_queue_short() {
    for base_ms in [10, 60, 300] {
        for rate_bit_s in [1e6, 10e6, 100e6] {
            let mut path = Path::new(rate_bit_s, Duration::from_millis(base_ms));
            path.run(Duration::from_secs(10));
            path.most = 0;
            let busy = path.busy_share(Duration::from_secs(60));
            let case = format!("{base_ms} ms, {rate_bit_s} bit/s: {busy} busy, {} in flight", path.most);
            assert!(busy > 0.98, "{case}");
            assert!(path.most <= path.bound(), "{case}");
        }
    }
}
