//! The gateway's stages ask the allocator for nothing once they are warm: neither a packet nor a batch, on any thread.
//! That is from a client's socket to where packets leave, and from where they come to the client's socket, with the queues
//! that the gateway has: of small packets, of super-packets whole, joined and cut at the internet's end, and cut and joined
//! again for a slow link. The devices' own system calls, TLS, and the client are not in it.
//!
//! A binary of its own, for it has an allocator of its own.
#![cfg(feature = "kernel")]
#![allow(unsafe_code, reason = "an allocator that counts is one that is called as the allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use gateway_path::{Ends, GatewayPath, Shape};
use wstether::offload::SuperPackets;
use wstether::runtime::hand_over::Rule;

#[path = "support/gateway_path.rs"]
mod gateway_path;

/// The system's allocator; it counts what is asked of it while it is told to.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Tests take turns: a count is of all threads.
static TURN: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Where the first request came from, for whoever has to find it.
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

fn count() {
    if IS_COUNTING.load(Ordering::Relaxed) && REQUESTS.fetch_add(1, Ordering::Relaxed) == 0 {
        // Writing it down asks for memory too.
        IS_COUNTING.store(false, Ordering::SeqCst);
        *FIRST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Backtrace::force_capture());
        IS_COUNTING.store(true, Ordering::SeqCst);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the trait's contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; what was allocated came from the system.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above; what was allocated came from the system.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

/// Requests made by any thread while `run` runs, and where the first came from.
fn requests_during(run: impl FnOnce()) -> (u64, Option<Backtrace>) {
    REQUESTS.store(0, Ordering::SeqCst);
    IS_COUNTING.store(true, Ordering::SeqCst);
    run();
    IS_COUNTING.store(false, Ordering::SeqCst);
    let first = FIRST.lock().unwrap_or_else(PoisonError::into_inner).take();
    (REQUESTS.load(Ordering::SeqCst), first)
}

/// What is counted over, and what comes before it: rings, tables and spare buffers have found their size by then.
/// A build without optimisation, some 20 times as slow, drives a tenth.
const SEGMENTS: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
const WARM_UP_SEGMENTS: u64 = SEGMENTS / 10;
const CLIENTS: u32 = 4;
const FLOWS: u16 = 16;

/// Drives whole rounds of all clients until `segments` have gone each way.
fn drive(path: &mut GatewayPath, batch_packets: usize, segments: u64) {
    let (mut up, mut down) = (0, 0);
    while up < segments || down < segments {
        for client in 0..path.clients() {
            if up < segments {
                up += path.send_up(client);
                path.drive_up(client);
            }
            if down < segments {
                down += path.prepare_down(client, batch_packets);
                path.drive_down(client);
            }
            path.hear(client);
        }
    }
}

/// Rounds until one asks for nothing. How long a queue ever gets is its thread's to say, and whether two threads are ever in a
/// stage at once, each with its space; what grows late is warmed by that round. There are fewer stages than rounds, and what
/// is asked for again and again is found in each.
const ROUNDS_MAX: usize = 12;

/// What a round may ask for where something grew. It was a dozen at most, and a round has a hundred batches at least.
const GROWN_MAX: u64 = 64;

/// What the link sends in a moment where it is slow: a segment and a bit.
const SLOW_BYTES: u64 = 1_508;

fn no_request_over_a_million(shape: Shape, batch_packets: usize, ends: Ends, rule: Rule) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut path = GatewayPath::new(CLIENTS, FLOWS, shape, ends, rule);
    drive(&mut path, batch_packets, WARM_UP_SEGMENTS);
    let mut found = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let (up, down) = path.counts();
        let (requests, first) = requests_during(|| drive(&mut path, batch_packets, SEGMENTS));
        let (up_after, down_after) = path.counts();
        assert!(up_after - up >= SEGMENTS && down_after - down >= SEGMENTS);
        assert_eq!(path.dropped(), 0);
        if requests == 0 {
            return;
        }
        assert!(
            requests <= GROWN_MAX,
            "{shape:?}, {ends:?}, {rule:?}: {requests} requests, and first here: {first:#?}"
        );
        found.push((requests, first));
    }
    panic!("{shape:?}, {ends:?}, {rule:?}: each round asked for memory, and first here: {found:#?}");
}

#[test]
fn a_million_small_packets_each_way_run_through_without_an_allocation() {
    no_request_over_a_million(Shape::Single { bytes: 64 }, 64, Ends::WHOLE, Rule::Always);
}

#[test]
fn a_million_small_packets_each_way_from_thread_to_thread_need_no_allocation() {
    no_request_over_a_million(Shape::Single { bytes: 64 }, 64, Ends::WHOLE, Rule::Never);
}

#[test]
fn a_million_segments_in_super_packets_each_way_need_no_allocation() {
    for rule in [Rule::Always, Rule::Never] {
        no_request_over_a_million(Shape::Super { segments: 45 }, 4, Ends::WHOLE, rule);
    }
}

#[test]
fn a_million_segments_that_are_joined_where_they_come_and_leave_need_no_allocation() {
    for rule in [Rule::Always, Rule::Never] {
        no_request_over_a_million(Shape::Super { segments: 45 }, 4, Ends { joins: true, ..Ends::WHOLE }, rule);
    }
    no_request_over_a_million(Shape::Single { bytes: 64 }, 64, Ends { joins: true, ..Ends::WHOLE }, Rule::Always);
}

#[test]
fn a_million_segments_that_the_way_out_takes_only_singly_need_no_allocation() {
    let ends = Ends { taken: SuperPackets::default(), ..Ends::WHOLE };
    for rule in [Rule::Always, Rule::Never] {
        no_request_over_a_million(Shape::Super { segments: 45 }, 4, ends, rule);
    }
}

#[test]
fn a_million_segments_that_are_cut_and_joined_again_for_a_slow_link_need_no_allocation() {
    for rule in [Rule::Always, Rule::Never] {
        no_request_over_a_million(
            Shape::Super { segments: 45 },
            4,
            Ends { cut_bytes: SLOW_BYTES, ..Ends::WHOLE },
            rule,
        );
    }
}
