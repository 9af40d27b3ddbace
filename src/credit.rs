//! How much a tether may have inside the gateway: a credit that follows how long its packets wait there.
//!
//! Credit covers what is on its way to the gateway as well as what waits inside, and of a long and fast path the former
//! alone is some megabytes. Under overload all of it would come to wait inside, for a second. So the credit is halved as
//! long as the tether's packets wait too long, and grows back once they do not. Observations in, a verdict out, time
//! injected. See docs/decisions/0004-credit.md.

use std::time::{Duration, Instant};

/// How long a tether's packets may wait inside: as long as what a window lets wait on a short path
/// ([`window`](crate::window)), since an overloaded gateway is a slow path.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// Between two looks: what the last one did must be seen, and a thread that waited for a core be forgotten.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks in a row at which packets must wait too long before the credit is cut: 100 ms. A thread that the machine held up, or
/// connections that begin all at once, are over by then, and a cut would cost their senders losses.
const LOOKS_TO_CUT: u32 = 5;

/// The least that is granted where more is configured. A packet that begins within the credit may end beyond it, so no
/// packet is too large for it, and what more is granted for then is worth a message.
const BYTES_MIN: u64 = 32_768;

/// The credit of one tether.
#[derive(Debug)]
pub struct Credit {
    bytes_max: u64,
    bytes: u64,
    /// When it was last looked at, and what had left by then.
    looked: Option<(Instant, u64)>,
    looks_over: u32,
}

impl Credit {
    /// All of `bytes_max`, until packets wait too long.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: bytes_max, looked: None, looks_over: 0 }
    }

    /// The credit now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is less than it may be.
    pub fn is_cut(&self) -> bool {
        self.bytes < self.bytes_max
    }

    /// The credit from now on, where `inside_bytes` wait and all in all `left_bytes` have left.
    pub fn look(&mut self, now: Instant, inside_bytes: u64, left_bytes: u64) -> u64 {
        let (then, left_then) = *self.looked.get_or_insert((now, left_bytes));
        let elapsed = now.saturating_duration_since(then);
        if elapsed < LOOK_EVERY {
            return self.bytes;
        }
        self.looked = Some((now, left_bytes));
        // By Little's law what is inside waits as long as it takes so much to leave.
        let leaves_within = |wait: Duration| {
            let left = left_bytes.saturating_sub(left_then) as f64;
            (left * wait.as_secs_f64() / elapsed.as_secs_f64()) as u64
        };
        self.looks_over = if inside_bytes > leaves_within(WAIT_MAX) { self.looks_over + 1 } else { 0 };
        if self.looks_over >= LOOKS_TO_CUT {
            self.bytes = (self.bytes / 2).max(BYTES_MIN.min(self.bytes_max));
        } else if inside_bytes <= leaves_within(WAIT_MAX / 2) {
            self.bytes = (self.bytes * 2).min(self.bytes_max);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A tether that uses all of its credit, and of which so many bytes leave in a look; the credits of so many looks.
    fn busy(credit: &mut Credit, start: Instant, leave_bytes: u64, looks: u32) -> Vec<u64> {
        let look = |at: u32| {
            let inside = credit.bytes();
            credit.look(start + at * LOOK_EVERY, inside, u64::from(at) * leave_bytes)
        };
        (0..looks).map(look).collect()
    }

    #[test]
    fn it_is_halved_while_what_is_inside_would_wait_too_long_and_not_below_some_messages() {
        let mut credit = Credit::new(4 * MIB);
        let credits = busy(&mut credit, Instant::now(), 1_000, 14);
        assert_eq!(credits[..8], [4, 4, 4, 4, 4, 2, 1, 0].map(|mib| if mib == 0 { MIB / 2 } else { mib * MIB }));
        assert_eq!(credits[11..], [BYTES_MIN; 3]);
        assert!(credit.is_cut());
    }

    #[test]
    fn it_comes_to_rest_where_its_packets_wait_a_little() {
        let mut credit = Credit::new(4 * MIB);
        // 600 KiB leave in 20 ms: 1 MiB would wait for longer, and a half of it for less, but for more than half as long.
        let credits = busy(&mut credit, Instant::now(), 600 << 10, 40);
        assert_eq!(credits[8..], [MIB / 2; 32]);
    }

    #[test]
    fn it_grows_back_once_little_waits_whatever_is_on_its_way() {
        let mut credit = Credit::new(4 * MIB);
        let start = Instant::now();
        busy(&mut credit, start, 1_000, 9);
        let grown: Vec<_> = (9..14).map(|at| credit.look(start + at * LOOK_EVERY, 0, 8_000)).collect();
        assert_eq!(grown, [MIB / 2, MIB, 2 * MIB, 4 * MIB, 4 * MIB], "nothing came, and so nothing left");
        assert!(!credit.is_cut());
    }

    #[test]
    fn what_waits_for_a_moment_cuts_nothing() {
        let mut credit = Credit::new(4 * MIB);
        let start = Instant::now();
        let looks = (0..40).map(|at| credit.look(start + at * LOOK_EVERY, if at % 5 == 4 { 0 } else { 4 * MIB }, 0));
        assert_eq!(looks.min(), Some(4 * MIB));
    }

    #[test]
    fn looks_in_between_change_nothing_and_a_credit_that_is_configured_lower_stays() {
        let start = Instant::now();
        let mut credit = Credit::new(4 * MIB);
        assert!((0..100).all(|at| credit.look(start + at * LOOK_EVERY / 101, 4 * MIB, 0) == 4 * MIB));
        let mut small = Credit::new(BYTES_MIN / 2);
        assert_eq!(busy(&mut small, start, 0, 5), [BYTES_MIN / 2; 5]);
    }
}
