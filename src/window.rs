//! How much a link may have on its way: a window that follows delay.
//!
//! What stands between two ends of a link fills first the path and then somebody's buffer: the kernel's, the relay's, the
//! radio's. The window finds both: the path is the rate at which acknowledgements come times the smallest round trip, and
//! what is beyond it waits. It is kept at the path and a few milliseconds of queue, so that all else waits where flows are
//! told apart. See docs/decisions/0013-window.md.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

mod smallest;

use smallest::{Sample, Smallest};

/// A whole packet with its capsule's header.
pub const PACKET_BYTES: u64 = 1_508;

/// The window of a link of which nothing is known: ten packets, as TCP begins (RFC 6928).
const BEGIN_BYTES: u64 = 10 * PACKET_BYTES;

/// The smallest window. What leaves while one packet is on its way makes two.
const BYTES_MIN: u64 = PACKET_BYTES + 1;

/// How much a window lets wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long what is sent may wait behind the path.
    pub queue: Duration,
    /// A window of so much time is always allowed: where round trips are shorter, their length is that of thread switches.
    pub whole_min: Duration,
}

impl Settings {
    /// 10 ms are enough that the path is not idle between two acknowledgements, which come 2 ms apart or more, and little enough
    /// that a ping hardly feels it.
    pub const DEFAULT: Self = Self { queue: Duration::from_millis(10), whole_min: Duration::from_millis(20) };
}

/// Rates are taken over at least so long, or a batch more or less would change them.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// Rounds whose rates are remembered: fewer than the ten within which a change of the path is to be followed, and more than
/// BBR's pause of 200 ms (ProbeRTT) takes on a path of 30 ms.
const RATES: usize = 8;

/// A full window that brought less than this part of the usual rate had something stand still below it.
const USUAL_PART: f64 = 7.0 / 8.0;

/// A message, and a super-packet, takes about so long to send: more would hold up what comes behind, and a message counts as
/// received only when it is whole.
const BURST_S: f64 = 0.0015;

/// A message of fewer packets than these may take a little longer, since it leaves at once, and what does not fill a segment
/// has one of its own: a packet by itself is sent as two segments, four are sent as five.
const PACKETS: u64 = 4;
const PACKETS_S: f64 = 0.004;

/// The part of the window that has to be free before something is sent, where that is less than a message.
const FREE_PART: u64 = 8;

/// From here on messages are as large as they may be: 64 KiB.
const MESSAGE_BYTES_MAX: u64 = 65_536;

/// The most that is sent at once: some such messages, where the link is fast.
const BURST_BYTES_MAX: u64 = 4 * MESSAGE_BYTES_MAX;

/// Marks remembered. A window has two batches between marks at most.
const MARKS_MAX: usize = 64;

/// The part of the path that a drain leaves filled, in eighths: low enough to find the queue empty although rate and
/// round trip are a little off.
const DRAINED_EIGHTHS: u64 = 7;

/// Bytes that were sent, and when.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Where the bytes begin that it stands for.
    begin_bytes: u64,
    /// The byte that the mark is of: the last one.
    bytes: u64,
    /// What was sent at once with it.
    message_bytes: u64,
    at: Instant,
    is_honest: bool,
}

/// A change is told from such a part of the window on: less is what every round brings.
const TOLD_PART: u64 = 8;

/// Why the window has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was full and made no queue.
    TooShort,
    /// It was full, and the queue is not what it should be: the path has become faster or slower.
    Queue,
    /// The same, behind a step by which it grew.
    Step,
    /// It was not full, and yet packets waited: others are on the path, or it has become slower.
    Others,
    /// The queue is let run dry, so that the path is seen below it.
    Drain,
}

/// A change of the window that is worth a word, and what it came from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resized {
    /// Why.
    pub why: Why,
    /// The window before.
    pub from_bytes: u64,
    /// The window from now on.
    pub to_bytes: u64,
    /// Bytes a second of the last round.
    pub rate: f64,
    /// How long packets waited behind the path.
    pub queue: Duration,
}

impl Resized {
    /// Whether half of the window or more was taken by what was seen of the path: something stands still, or it is by far
    /// another one.
    pub fn is_halved(&self) -> bool {
        let is_by_path = matches!(self.why, Why::Queue | Why::Others);
        is_by_path && self.to_bytes <= self.from_bytes.div_ceil(2)
    }
}

impl fmt::Display for Resized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from_bytes, to_bytes, rate, queue, .. } = self;
        write!(f, "{to_bytes} bytes in place of {from_bytes}: {rate:.0} bytes a second, a queue of {queue:.1?}")
    }
}

/// What was seen since the window was last judged.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    acked_bytes: u64,
    /// What was sent when it began: once this is acknowledged, what the last change did can be seen.
    sent_bytes: u64,
    /// The smallest round trip in it.
    smallest: Option<Sample>,
}

/// The window of one link.
#[derive(Debug)]
pub struct Window {
    settings: Settings,
    bytes_max: u64,
    bytes: u64,
    sent_bytes: u64,
    acked_bytes: u64,
    acked: Instant,
    marks: VecDeque<Mark>,
    smallest: Smallest,
    present: Option<Duration>,
    /// Bytes a second.
    rate: Option<f64>,
    round: Option<Round>,
    /// The window was full in this round.
    was_full: bool,
    /// The socket was full in this round.
    was_blocked: bool,
    /// Rounds in a row in which a full window made no queue.
    short_rounds: u32,
    /// The rates of the last rounds, the newest first.
    rates: [f64; RATES],
    /// The window while the queue is let run dry.
    drain_bytes: Option<u64>,
    /// The smallest round trip when the last drain began, and whether it found one that is clearly shorter.
    drained: (Duration, bool),
    /// Nothing is judged before so much is acknowledged: a drain is seen in what comes before it.
    judged_from_bytes: u64,
    /// What was changed since somebody asked: by a round, and by a drain.
    resized: [Option<Resized>; 2],
}

impl Window {
    /// The window of a link that begins, never above `bytes_max`.
    pub fn new(settings: Settings, bytes_max: u64, now: Instant) -> Self {
        Self {
            settings,
            bytes_max,
            bytes: BEGIN_BYTES.min(bytes_max),
            sent_bytes: 0,
            acked_bytes: 0,
            acked: now,
            marks: VecDeque::new(),
            smallest: Smallest::new(now),
            present: None,
            rate: None,
            round: None,
            was_full: false,
            was_blocked: false,
            short_rounds: 0,
            rates: [0.0; RATES],
            drain_bytes: None,
            drained: (Duration::ZERO, false),
            judged_from_bytes: 0,
            resized: [None; 2],
        }
    }

    /// What was changed since this was asked.
    pub fn take_resized(&mut self) -> [Option<Resized>; 2] {
        std::mem::take(&mut self.resized)
    }

    /// Bytes that may be on their way. A packet that begins within them may end beyond.
    pub fn bytes(&self) -> u64 {
        self.drain_bytes.unwrap_or(self.bytes).min(self.bytes)
    }

    /// The most bytes that a super-packet should have; `None` where that is as many as it may. Of a link whose rate is not
    /// known, a packet alone shows best how long the way is.
    pub fn cut_bytes(&self) -> Option<u64> {
        let bytes = self.sent_within(BURST_S);
        (bytes < MESSAGE_BYTES_MAX).then_some(bytes.max(PACKET_BYTES))
    }

    /// Bytes that may be sent now where `in_flight_bytes` are on their way: what takes a moment, at most. None as long as little of
    /// the window is free, or each acknowledgement would let out a packet by itself.
    pub fn sendable_bytes(&self, in_flight_bytes: u64) -> u64 {
        let free = self.bytes().saturating_sub(in_flight_bytes);
        let few = self.sent_within(PACKETS_S).min(PACKETS * PACKET_BYTES);
        let burst = self.sent_within(BURST_S).clamp(few.max(PACKET_BYTES), BURST_BYTES_MAX);
        // A packet that begins within what is free ends beyond it.
        let least = (burst - PACKET_BYTES).min(self.bytes() / FREE_PART);
        if free <= least { 0 } else { free.min(burst) }
    }

    /// Bytes that the link sends within so many seconds.
    fn sent_within(&self, seconds: f64) -> u64 {
        (self.rate.unwrap_or(0.0) * seconds) as u64
    }

    /// The newest round trip.
    pub fn present(&self) -> Option<Duration> {
        self.present
    }

    /// The smallest round trip of the last ten seconds.
    pub fn smallest(&self) -> Option<Duration> {
        Some(self.smallest.get()?.round_trip)
    }

    /// Bytes on their way.
    pub fn in_flight_bytes(&self) -> u64 {
        self.sent_bytes - self.acked_bytes
    }

    /// The window is full, and more waits.
    pub fn full(&mut self) {
        self.was_full = true;
    }

    /// The socket is full, and more waits.
    pub fn blocked(&mut self) {
        self.was_blocked = true;
    }

    /// All in all `bytes` were sent by now.
    pub fn sent(&mut self, now: Instant, bytes: u64) {
        if bytes <= self.sent_bytes {
            return;
        }
        let in_flight = self.in_flight_bytes();
        if in_flight == 0 && now.saturating_duration_since(self.acked) > ROUND_MIN {
            // Nothing was to be sent for a while, of which the rate says nothing.
            self.begin_anew();
        }
        let is_honest = self.drain_bytes.is_some_and(|drained| in_flight < drained);
        if is_honest {
            self.drain_bytes = None;
            // A sender that does not fill the window would take for ever to send so much.
            self.judged_from_bytes = bytes + self.bytes.min(2 * in_flight);
        }
        let message_bytes = bytes - self.sent_bytes;
        // The newest byte is the one to time: what came before it waited longer for its acknowledgement.
        let (is_crowded, spacing) = (self.marks.len() >= MARKS_MAX, self.bytes / (MARKS_MAX as u64 / 2));
        let melts = |last: &Mark| !last.is_honest && (is_crowded || self.sent_bytes - last.begin_bytes < spacing);
        match self.marks.back_mut().filter(|last| !is_honest && melts(last)) {
            Some(last) => (last.bytes, last.message_bytes, last.at) = (bytes, message_bytes, now),
            None => {
                self.marks.push_back(Mark { begin_bytes: self.sent_bytes, bytes, message_bytes, at: now, is_honest });
            }
        }
        self.sent_bytes = bytes;
    }

    /// All in all `bytes` have arrived.
    pub fn acked(&mut self, now: Instant, bytes: u64) {
        if bytes <= self.acked_bytes || bytes > self.sent_bytes {
            return;
        }
        (self.acked_bytes, self.acked) = (bytes, now);
        if self.smallest.is_old(now) {
            self.smallest.turn(now);
            // While the window grows there is no queue to be drained.
            if (self.was_full || self.was_blocked) && self.short_rounds == 0 {
                self.drain();
            }
        }
        let mut newest = None;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.bytes <= bytes) {
            newest = Some(mark);
        }
        if let Some(mark) = newest {
            self.take(now.saturating_duration_since(mark.at), &mark);
        }
        self.judge(now);
    }

    fn take(&mut self, round_trip: Duration, mark: &Mark) {
        if mark.is_honest {
            self.drained.1 = round_trip < self.drained.0 * 15 / 16;
        }
        let sample = Sample { round_trip, message_bytes: mark.message_bytes, rate: self.rate };
        self.smallest.take(sample);
        self.present = Some(round_trip);
        if let Some(round) = &mut self.round {
            round.smallest = Some(round.smallest.map_or(sample, |least| least.min(sample)));
        }
    }

    /// Lets the queue run dry, so that the path's own round trip is seen below the queue that this window keeps.
    fn drain(&mut self) {
        let (Some(rate), Some(smallest)) = (self.rate, self.smallest()) else { return };
        let path = (rate * smallest.as_secs_f64()) as u64;
        self.drained = (smallest, false);
        let to_bytes = (path * DRAINED_EIGHTHS / 8).saturating_sub(PACKET_BYTES).max(1);
        self.drain_bytes = Some(to_bytes);
        let queue = self.present.map_or(Duration::ZERO, |present| present.saturating_sub(smallest));
        self.resized[1] = Some(Resized { why: Why::Drain, from_bytes: self.bytes, to_bytes, rate, queue });
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        self.round = None;
        (self.was_full, self.was_blocked) = (false, false);
    }

    /// Looks at the round so far, and ends it where it says something.
    fn judge(&mut self, now: Instant) {
        if self.drain_bytes.is_some() || self.acked_bytes < self.judged_from_bytes {
            return;
        }
        let Some(round) = self.round else { return self.begin_round(now) };
        let (Some(of_round), Some(smallest)) = (round.smallest, self.smallest.get()) else { return };
        let took = now.saturating_duration_since(round.began);
        if took < smallest.round_trip.max(ROUND_MIN) {
            return;
        }
        let rate = (self.acked_bytes - round.acked_bytes) as f64 / took.as_secs_f64();
        let path = Path { smallest, message_bytes: of_round.message_bytes, settings: self.settings };
        let queue = of_round.round_trip.saturating_sub(path.smallest_at(rate));
        let has_queue = queue >= path.queue_at(rate) / 3;
        if !has_queue && self.was_full && self.acked_bytes < round.sent_bytes {
            return;
        }
        if self.was_full || self.was_blocked || has_queue {
            self.rate = Some(rate);
        }
        self.resize(rate, path, queue, has_queue);
        if std::mem::take(&mut self.drained.1) && self.short_rounds == 0 {
            // What was taken for the path was a queue in part: there may be more of it.
            return self.drain();
        }
        self.begin_round(now);
    }

    fn resize(&mut self, rate: f64, path: Path, queue: Duration, has_queue: bool) {
        let usual = self.usual_rate();
        self.rates.rotate_right(1);
        self.rates[0] = rate;
        let (bytes, why) = if !self.was_full {
            // What others made wait, or a path that became slower: as long as little is sent, it may be noise.
            let waits = queue >= path.queue_at(rate);
            let found = path.target_bytes(rate).max(self.bytes / 2).max(BEGIN_BYTES);
            (if waits { found.min(self.bytes) } else { self.bytes }, Why::Others)
        } else if has_queue {
            // Behind a step that went too far the way back is as long.
            let least = if self.short_rounds > 1 { 0 } else { self.bytes / 2 };
            let why = if self.short_rounds > 0 { Why::Step } else { Why::Queue };
            if self.short_rounds > 0 {
                // What was before the window grew was the window's rate, not the path's.
                self.rates = [rate.max(usual); RATES];
            }
            self.short_rounds = 0;
            (path.target_bytes(self.usual_rate()).clamp(least, self.bytes * 2), why)
        } else if rate < USUAL_PART * usual {
            // A window that is too short has its usual rate: something stood still.
            (self.bytes, Why::TooShort)
        } else {
            // A full window without a queue is too short: a little, or by far where the path has become another one.
            self.short_rounds += 1;
            let bytes = match self.short_rounds {
                1 => self.bytes + self.bytes / 4 + PACKET_BYTES,
                2 => self.bytes * 2,
                _ => self.bytes * 3,
            };
            (bytes, Why::TooShort)
        };
        let from_bytes = std::mem::replace(&mut self.bytes, bytes.max(BYTES_MIN).min(self.bytes_max));
        if self.bytes.abs_diff(from_bytes) >= from_bytes / TOLD_PART {
            self.resized[0] = Some(Resized { why, from_bytes, to_bytes: self.bytes, rate, queue });
        }
    }

    /// The second highest rate of the last rounds. A round in which the processor or the radio did something else says
    /// little of the path, and a window that believed it would make it true.
    fn usual_rate(&self) -> f64 {
        let mut sorted = self.rates;
        sorted.sort_by(f64::total_cmp);
        sorted[RATES - 2]
    }

    fn begin_round(&mut self, now: Instant) {
        self.begin_anew();
        let (acked_bytes, sent_bytes) = (self.acked_bytes, self.sent_bytes);
        self.round = Some(Round { began: now, acked_bytes, sent_bytes, smallest: None });
    }
}

/// What a round has shown of the path.
#[derive(Clone, Copy, Debug)]
struct Path {
    smallest: Sample,
    /// What was sent at once in the round.
    message_bytes: u64,
    settings: Settings,
}

impl Path {
    /// The round trip without a queue: at a lower rate a message itself takes longer.
    fn smallest_at(&self, rate: f64) -> Duration {
        self.smallest.at(rate, self.message_bytes)
    }

    /// The time that what is sent should wait.
    fn queue_at(&self, rate: f64) -> Duration {
        let two_packets = Duration::from_secs_f64((2 * PACKET_BYTES) as f64 / rate.max(1.0));
        let Settings { queue, whole_min } = self.settings;
        queue.max(whole_min.saturating_sub(self.smallest_at(rate))).max(two_packets)
    }

    /// The window that fills the path and lets a little wait.
    fn target_bytes(&self, rate: f64) -> u64 {
        let whole = rate * (self.smallest_at(rate) + self.queue_at(rate)).as_secs_f64();
        // A packet that begins within the window ends beyond it.
        (whole as u64).saturating_sub(PACKET_BYTES)
    }
}

#[cfg(test)]
mod tests;
