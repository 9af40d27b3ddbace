//! A slow link between two namespaces: rate, delay, jitter, loss and a bounded buffer, each way.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::namespace::{Error, Namespace, veth};
use crate::io::ethtool::Offloads;
use crate::io::link_socket::{LinkSocket, Sees};
use crate::random::Random;

/// Larger than any frame of the box's cables.
const FRAME_BYTES_MAX: usize = 9_216;
/// What a way holds at most, buffer and delay line together, whatever its settings: a way without a rate would
/// otherwise hold as much as the sender has.
const HELD_BYTES_MAX: usize = 64 << 20;
/// What the kernel may hold before a thread reads it.
const SOCKET_BUFFER_BYTES: u32 = 8 << 20;
/// The longest that a thread waits before it looks whether it should end.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// One direction of a slow link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Bits a second, link header included; `None` for as fast as it goes.
    pub rate_bit_s: Option<u64>,
    /// Time on the way after the last bit has left.
    pub delay: Duration,
    /// Up to so much is added to the delay, evenly spread. Frames never overtake each other.
    pub jitter: Duration,
    /// The share of frames lost, from 0 to 1.
    pub loss: f64,
    /// Bytes that wait for the link; more are dropped at the tail.
    pub buffer_bytes: usize,
}

impl Way {
    /// No limit but the machine's.
    pub const FAST: Self = Self {
        rate_bit_s: None,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        buffer_bytes: HELD_BYTES_MAX,
    };
}

/// What has happened on one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames passed on.
    pub passed: u64,
    /// Their bytes.
    pub passed_bytes: u64,
    /// Frames lost by chance.
    pub lost: u64,
    /// Frames dropped because the buffer was full.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    passed: AtomicU64,
    passed_bytes: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
}

/// The box: a namespace of its own between two others, with a thread each way. It ends when dropped.
#[derive(Debug)]
pub struct DelayBox {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    counters: [Arc<Counters>; 2],
}

impl DelayBox {
    /// Puts a box between `interface_a` in `a` and `interface_b` in `b`, which it makes. The offloads of both are switched
    /// off, so that frames have the size that they have on a real link.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn between(
        (a, interface_a): (&Namespace, &str),
        (b, interface_b): (&Namespace, &str),
        a_to_b: Way,
        b_to_a: Way,
        seed: u64,
    ) -> Result<Self, Error> {
        let middle = Namespace::new("delay box")?;
        // The box's own kernel says nothing on either side.
        middle.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        veth(a, interface_a, &middle, "a")?;
        veth(b, interface_b, &middle, "b")?;
        for (end, interface) in [(a, interface_a), (b, interface_b)] {
            end.offloads(interface, Offloads::OFF)?;
        }
        let open = |interface| {
            let opened = middle.run(|| LinkSocket::open(interface, Sees::Arriving, SOCKET_BUFFER_BYTES))?;
            opened.map(Arc::new).map_err(|source| middle.io_error(source))
        };
        let (side_a, side_b) = (open("a")?, open("b")?);
        let stop = Arc::new(AtomicBool::new(false));
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        let ways = [(&side_a, &side_b, a_to_b), (&side_b, &side_a, b_to_a)];
        let start = |(at, (from, to, way)): (usize, (&Arc<LinkSocket>, &Arc<LinkSocket>, Way))| {
            let mut line = Line::new(way, seed.wrapping_add(at as u64), Arc::clone(&counters[at]));
            let (from, to, stop) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stop));
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) && line.step(&from, &to).is_ok() {})
        };
        let threads = ways.into_iter().enumerate().map(start).collect();
        Ok(Self { stop, threads, counters })
    }

    /// What has happened from a to b.
    pub fn a_to_b(&self) -> Counts {
        self.counters[0].read()
    }

    /// What has happened from b to a.
    pub fn b_to_a(&self) -> Counts {
        self.counters[1].read()
    }
}

impl Drop for DelayBox {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Counters {
    fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (passed, passed_bytes) = (read(&self.passed), read(&self.passed_bytes));
        Counts { passed, passed_bytes, lost: read(&self.lost), dropped: read(&self.dropped) }
    }
}

/// A frame on its way.
struct Flying {
    frame: Box<[u8]>,
    arrives: Instant,
}

/// One way's state: pure, but for the sockets that `step` is given.
struct Line {
    way: Way,
    random: Random,
    counters: Arc<Counters>,
    flying: VecDeque<Flying>,
    held_bytes: usize,
    link_free: Instant,
    last_arrival: Instant,
    scratch: Box<[u8]>,
}

impl Line {
    fn new(way: Way, seed: u64, counters: Arc<Counters>) -> Self {
        let now = Instant::now();
        Self {
            way,
            random: Random::new(seed),
            counters,
            flying: VecDeque::new(),
            held_bytes: 0,
            link_free: now,
            last_arrival: now,
            scratch: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
        }
    }

    /// Takes in what has come, passes on what is due, and waits for either.
    fn step(&mut self, from: &LinkSocket, to: &LinkSocket) -> io::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(len) = from.receive(&mut scratch)? {
            self.enter(&scratch[..len], Instant::now());
            self.pass_on(to, Instant::now());
        }
        self.scratch = scratch;
        self.pass_on(to, Instant::now());
        let due = self.flying.front().map(|first| first.arrives.saturating_duration_since(Instant::now()));
        from.wait(due.map_or(WAIT_MAX, |due| due.min(WAIT_MAX))).map(drop)
    }

    fn enter(&mut self, frame: &[u8], now: Instant) {
        if self.random.fraction() < self.way.loss {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.waiting_bytes(now) + frame.len() > self.way.buffer_bytes
            || self.held_bytes + frame.len() > HELD_BYTES_MAX
        {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let on_link = self
            .way
            .rate_bit_s
            .map_or(Duration::ZERO, |rate| Duration::from_nanos(frame.len() as u64 * 8 * 1_000_000_000 / rate.max(1)));
        let departs = self.link_free.max(now) + on_link;
        let arrives = departs + self.way.delay + self.way.jitter.mul_f64(self.random.fraction());
        self.link_free = departs;
        self.last_arrival = self.last_arrival.max(arrives);
        self.held_bytes += frame.len();
        self.flying.push_back(Flying { frame: frame.into(), arrives: self.last_arrival });
    }

    /// Bytes that have not left for the link yet. Those on the delay line are behind it, at the front of the queue.
    fn waiting_bytes(&self, now: Instant) -> usize {
        match self.way.rate_bit_s {
            None => 0,
            Some(rate) => {
                let busy = self.link_free.saturating_duration_since(now).as_secs_f64();
                (busy * rate as f64 / 8.0) as usize
            }
        }
    }

    fn pass_on(&mut self, to: &LinkSocket, now: Instant) {
        while self.flying.front().is_some_and(|first| first.arrives <= now) {
            let Some(first) = self.flying.pop_front() else { return };
            self.held_bytes -= first.frame.len();
            match to.send(&first.frame) {
                Ok(()) => {
                    self.counters.passed.fetch_add(1, Ordering::Relaxed);
                    self.counters.passed_bytes.fetch_add(first.frame.len() as u64, Ordering::Relaxed);
                }
                Err(_) => drop(self.counters.dropped.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(way: Way) -> Line {
        Line::new(way, 1, Arc::default())
    }

    #[test]
    fn a_frame_takes_its_time_on_the_link_and_the_delay_after_it() {
        let way = Way { rate_bit_s: Some(8_000_000), delay: Duration::from_millis(20), ..Way::FAST };
        let mut line = line(way);
        let now = line.link_free;
        for _ in 0..2 {
            line.enter(&[0; 1_000], now);
        }
        let arrivals: Vec<_> = line.flying.iter().map(|frame| frame.arrives - now).collect();
        assert_eq!(arrivals, [Duration::from_millis(21), Duration::from_millis(22)]);
    }

    #[test]
    fn a_full_buffer_drops_at_the_tail_and_takes_frames_again_when_the_link_has_moved_on() {
        let mut line = line(Way { rate_bit_s: Some(8_000_000), buffer_bytes: 2_500, ..Way::FAST });
        let now = line.link_free;
        for _ in 0..5 {
            line.enter(&[0; 1_000], now);
        }
        assert_eq!((line.flying.len(), line.counters.read().dropped), (2, 3));
        line.enter(&[0; 1_000], now + Duration::from_millis(1));
        assert_eq!(line.flying.len(), 3);
    }

    #[test]
    fn jitter_never_lets_a_frame_overtake_and_a_seed_repeats_itself() {
        let way = Way { jitter: Duration::from_millis(10), loss: 0.3, ..Way::FAST };
        let (mut one, mut two) = (line(way), line(way));
        let start = one.link_free;
        for at in 0..500_u64 {
            let now = start + Duration::from_micros(at * 10);
            one.enter(&[0; 100], now);
            two.enter(&[0; 100], now);
        }
        assert!(one.flying.iter().is_sorted_by_key(|frame| frame.arrives));
        assert_eq!(one.counters.read(), two.counters.read());
        assert!((100..200).contains(&one.counters.read().lost), "{:?}", one.counters.read());
    }
}
