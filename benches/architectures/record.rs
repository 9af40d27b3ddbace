//! What the servers share: the clock, the work, and the book of what was served.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::histogram::{Histogram, jain};
use super::request::{Cost, Request};

/// What a cell's server and generator share.
#[derive(Debug)]
pub(crate) struct Run {
    /// Set once, when the server stands and the generator is on its core.
    started: OnceLock<Instant>,
    pub(crate) cost: Cost,
    /// What is served in this part of the run is counted, in nanoseconds of its clock.
    window_ns: (u64, u64),
    /// Set when the server is to end.
    pub(crate) stopping: AtomicBool,
    served_ever: AtomicU64,
    served: Vec<AtomicU32>,
    response: Histogram,
}

impl Run {
    /// A run of that many tethers, counted from `warm_up` on for as long as `measured`.
    pub(crate) fn new(cost: Cost, tethers: u32, warm_up: Duration, measured: Duration) -> Self {
        Self {
            started: OnceLock::new(),
            cost,
            window_ns: (warm_up.as_nanos() as u64, (warm_up + measured).as_nanos() as u64),
            stopping: AtomicBool::new(false),
            served_ever: AtomicU64::new(0),
            served: (0..tethers).map(|_| AtomicU32::new(0)).collect(),
            response: Histogram::default(),
        }
    }

    /// Puts the clock at zero.
    pub(crate) fn start_clock(&self) {
        self.started.get_or_init(Instant::now);
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.started.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    pub(crate) fn end_ns(&self) -> u64 {
        self.window_ns.1
    }

    pub(crate) fn is_counted(&self, at_ns: u64) -> bool {
        (self.window_ns.0..self.window_ns.1).contains(&at_ns)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A request has been served.
    pub(crate) fn served(&self, request: Request) {
        self.served_ever.fetch_add(1, Ordering::Relaxed);
        let now_ns = self.now_ns();
        if !self.is_counted(now_ns) {
            return;
        }
        self.response.observe(Duration::from_nanos(now_ns.saturating_sub(request.intended_ns)));
        if let Some(served) = self.served.get(request.tether as usize) {
            served.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests served so far, counted or not.
    pub(crate) fn served_ever(&self) -> u64 {
        self.served_ever.load(Ordering::Relaxed)
    }

    pub(crate) fn response(&self) -> &Histogram {
        &self.response
    }

    /// Requests served in the window, and how fairly: Jain's index and the worst tether's part of the mean.
    pub(crate) fn shares(&self) -> Shares {
        let served: Vec<u32> = self.served.iter().map(|served| served.load(Ordering::Relaxed)).collect();
        let total = served.iter().map(|served| u64::from(*served)).sum();
        let mean = total as f64 / served.len() as f64;
        let worst = f64::from(served.iter().copied().min().unwrap_or_default());
        Shares { total, jain: jain(&served), worst: (total > 0).then(|| worst / mean) }
    }
}

/// Who got how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    pub(crate) total: u64,
    pub(crate) jain: Option<f64>,
    pub(crate) worst: Option<f64>,
}
