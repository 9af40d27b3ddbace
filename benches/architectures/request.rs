//! A request, and the work that each costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use wstether::runtime::queue::Weigh;

/// Handlers that a request goes through.
pub(crate) const HANDLERS: u32 = 4;

/// The handler that an event loop with helpers gives to a helper: in the lecture, the one that reads the disk.
pub(crate) const HELPED_HANDLER: u32 = 2;

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// When it was meant to be sent, in nanoseconds of the run's clock: a generator that is late hides nothing.
    pub(crate) intended_ns: u64,
    /// Whose it is.
    pub(crate) tether: u32,
}

/// Bytes of a request in a socket.
pub(crate) const REQUEST_BYTES: usize = 12;

impl Request {
    pub(crate) fn encode(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..8].copy_from_slice(&self.intended_ns.to_le_bytes());
        bytes[8..].copy_from_slice(&self.tether.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: [u8; REQUEST_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, tether @ ..] = bytes;
        Self { intended_ns: u64::from_le_bytes([a, b, c, d, e, f, g, h]), tether: u32::from_le_bytes(tether) }
    }
}

impl Weigh for Request {
    fn segments(&self) -> u32 {
        1
    }

    fn bytes(&self) -> usize {
        REQUEST_BYTES
    }

    fn held_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// What a handler does: a fixed number of turns of a loop in registers. Work of the processor, not time on the clock: a
/// thread that is put aside has still all of it to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    turns_a_handler: u64,
}

/// Turns of one look at the loop's speed, and how many looks: the fastest is the one that nothing disturbed.
const CALIBRATION_TURNS: u64 = 2_000_000;
const CALIBRATION_LOOKS: usize = 7;

impl Cost {
    /// The work that takes `a_request` in all handlers on an undisturbed core like this one.
    pub(crate) fn calibrate(a_request: Duration) -> Self {
        let look = |_| {
            let started = Instant::now();
            turn(CALIBRATION_TURNS);
            started.elapsed()
        };
        let fastest = (0..CALIBRATION_LOOKS).map(look).min().unwrap_or_default();
        let a_handler = a_request / HANDLERS;
        let turns = CALIBRATION_TURNS as f64 * a_handler.as_secs_f64() / fastest.as_secs_f64().max(f64::MIN_POSITIVE);
        Self { turns_a_handler: turns as u64 }
    }

    pub(crate) fn turns_a_handler(self) -> u64 {
        self.turns_a_handler
    }

    /// One handler.
    pub(crate) fn handle(self) {
        turn(self.turns_a_handler);
    }

    /// All handlers, one after the other.
    pub(crate) fn handle_all(self) {
        for _ in 0..HANDLERS {
            self.handle();
        }
    }
}

/// Each turn needs the result of the one before it, so no processor can hurry them.
fn turn(turns: u64) {
    let mut state = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..turns {
        state = state.rotate_left(5).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }
    black_box(state);
}
