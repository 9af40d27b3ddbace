//! FQ-CoDel in front of a slow link, with senders that behave as TCP's.

use super::*;

/// A sender's window, in packets: it grows by one a round trip and goes to 7/10 after a loss (RFC 9438, 4.6).
struct Sender {
    window: f64,
    is_starting: bool,
    in_flight: u32,
    sent: u32,
    /// A second loss in one round trip counts for nothing.
    cut_until: Instant,
}

impl Sender {
    fn hears(&mut self, now: Instant, is_lost: bool, round_trip: Duration) {
        self.in_flight -= 1;
        if !is_lost {
            self.window += if self.is_starting { 1.0 } else { 1.0 / self.window };
        } else if now >= self.cut_until {
            self.window = (self.window * 0.7).max(2.0);
            self.is_starting = false;
            self.cut_until = now + 2 * round_trip;
        }
    }
}

/// What the second half of the time saw.
#[derive(Debug, Default)]
struct Seen {
    ping_sojourn_max: Duration,
    bulk_sojourns: Vec<Duration>,
    used: f64,
    dropped: usize,
}

const PING: u64 = 99;
const PING_BYTES: usize = 84;
const BULK_BYTES: usize = 1_400;
const ROUND_TRIP: Duration = Duration::from_millis(60);

/// The rate, the number of bulk flows, a stall from one second to another.
struct Link {
    rate_bits: f64,
    flows: usize,
    stall: Option<(f64, f64)>,
}

/// A link that serves 20 s beside a ping each 50 ms. The queue's bound is far away: CoDel alone holds it.
fn run(link: &Link) -> Seen {
    let mut bench = Bench::new();
    let start = bench.now;
    let sender = || Sender { window: 10.0, is_starting: true, in_flight: 0, sent: 0, cut_until: start };
    let mut senders: Vec<_> = (0..link.flows).map(|_| sender()).collect();
    let (mut echoes, mut pings, mut bytes, mut seen) = (VecDeque::new(), 0, 0, Seen::default());
    while bench.now < start + Duration::from_secs(20) {
        while let Some((_, flow, is_lost)) = echoes.pop_front_if(|(at, ..): &mut (Instant, u64, bool)| *at <= bench.now)
        {
            senders[flow as usize].hears(bench.now, is_lost, ROUND_TRIP);
        }
        for (flow, sender) in senders.iter_mut().enumerate() {
            while f64::from(sender.in_flight) < sender.window {
                bench.push(item(flow as u64, sender.sent, BULK_BYTES));
                (sender.in_flight, sender.sent) = (sender.in_flight + 1, sender.sent + 1);
            }
        }
        while bench.now >= start + pings * 50 * MS {
            bench.push(item(PING, pings, PING_BYTES));
            pings += 1;
        }
        let at = bench.now.duration_since(start).as_secs_f64();
        let is_stalled = link.stall.is_some_and(|(from, to)| (from..to).contains(&at));
        let popped = if is_stalled { None } else { bench.queue.pop(&mut bench.shared, bench.now, &mut bench.shed) };
        for (_, lost) in bench.shed.dropped.drain(..) {
            seen.dropped += 1;
            echoes.push_back((bench.now + ROUND_TRIP, lost.flow, true));
        }
        let Some((came, item)) = popped else {
            bench.pass(MS / 10);
            continue;
        };
        let sojourn = bench.now.duration_since(came);
        bench.pass(Duration::from_secs_f64(item.bytes as f64 * 8.0 / link.rate_bits));
        if item.flow != PING {
            echoes.push_back((bench.now + ROUND_TRIP, item.flow, false));
        }
        if at >= 10.0 {
            bytes += item.bytes;
            match item.flow {
                PING => seen.ping_sojourn_max = seen.ping_sojourn_max.max(sojourn),
                _ => seen.bulk_sojourns.push(sojourn),
            }
        }
    }
    seen.used = bytes as f64 * 8.0 / (10.0 * link.rate_bits);
    seen.bulk_sojourns.sort_unstable();
    seen
}

#[test]
fn bulk_flows_fill_the_link_with_a_short_queue_and_a_ping_passes_them() {
    for rate_mbits in [1, 10, 100] {
        for flows in [1, 4, 16] {
            let link = Link { rate_bits: f64::from(rate_mbits) * 1e6, flows, stall: None };
            let seen = run(&link);
            let packet = Duration::from_secs_f64(BULK_BYTES as f64 * 8.0 / link.rate_bits);
            let round = packet * flows as u32;
            // Where a round takes longer than the time between pings they are no sparse flow, and wait for their turn: in
            // a round each flow sends a packet, or two where its last turns left it enough.
            let ping_max = if round < 40 * MS { 2 * packet } else { 2 * round };
            let median = seen.bulk_sojourns[seen.bulk_sojourns.len() / 2];
            let what =
                format!("{rate_mbits} Mbit/s, {flows} flows: {median:?}, {}, {:?}", seen.used, seen.ping_sojourn_max);
            eprintln!("{what}, {} dropped", seen.dropped);
            assert!(seen.ping_sojourn_max <= ping_max && seen.used > 0.9, "{what}");
            // Each flow may keep a packet behind the one that leaves. Windows this small lose so much that some have two.
            assert!(median <= (3 * round + packet).max(25 * MS), "{what}");
        }
    }
}

#[test]
fn after_a_stall_of_five_seconds_the_queue_is_kept_and_the_link_full_again() {
    let link = Link { rate_bits: 10e6, flows: 4, stall: None };
    let (calm, stalled) = (run(&link), run(&Link { stall: Some((9.5, 14.5)), ..link }));
    assert!(stalled.dropped <= calm.dropped, "{} dropped, {} without a stall", stalled.dropped, calm.dropped);
    assert!(stalled.used > 0.54, "of the 5.5 s that were left it used all but a packet or so: {}", stalled.used);
}
