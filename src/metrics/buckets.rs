//! The buckets of every histogram, with their reasons.

use super::figures::Buckets;

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// Time in a queue.
pub(super) static SOJOURN: Buckets = Buckets {
    bounds: &[
        10 * US,
        20 * US,
        50 * US,
        100 * US,
        200 * US,
        500 * US,
        MS,
        2 * MS,
        5 * MS,
        10 * MS,
        20 * MS,
        50 * MS,
        100 * MS,
        200 * MS,
        500 * MS,
        S,
    ],
    reason: "a wake-up takes about 10 µs, so less than that is no queueing; the target of a stage, 5 ms, is a bound, so \
             that the share above it is exact; 1 s is beyond anything a queue may do",
};

/// Time in a handler, for a batch.
pub(super) static SERVICE: Buckets = Buckets {
    bounds: &[
        US,
        2 * US,
        5 * US,
        10 * US,
        20 * US,
        50 * US,
        100 * US,
        200 * US,
        500 * US,
        MS,
        2 * MS,
        5 * MS,
        10 * MS,
        100 * MS,
    ],
    reason: "a packet takes from 70 ns (parse) to 7 µs (a system call), a batch has up to some hundred; what a \
             hand-over is worth (60 µs) lies between two bounds; more than 100 ms is a stalled thread",
};

/// Segments in a batch.
pub(super) static BATCH: Buckets = Buckets {
    bounds: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096],
    reason: "powers of two, from one packet to 64 super-packets of about 46 segments",
};

/// Time from accept to welcome.
pub(super) static HANDSHAKE: Buckets = Buckets {
    bounds: &[MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS, S, 2 * S, 5 * S, 10 * S],
    reason: "a TLS handshake costs about 1 ms of work and then two to four round trips, on mobile data 50 ms to 500 ms \
             each; handshakes that last more than some seconds are cut",
};
