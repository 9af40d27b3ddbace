//! The threads of a stage: what they do, how many there are, and what the keeper of the pipeline sees of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Feeder, Stage};
use crate::metrics::StageMetrics;
use crate::metrics::decisions::Decisions;
use crate::runtime::port::Gathered;
use crate::runtime::sync::{lock, spawn, yield_core};
use crate::runtime::work::{Handler, In};

/// A stage as its pipeline's keeper sees it: started, looked at, drained, stopped.
pub trait Kept: Send + Sync {
    /// The stage's name.
    fn name(&self) -> &'static str;

    /// Its figures.
    fn metrics(&self) -> &Arc<StageMetrics>;

    /// Starts the least number of threads.
    fn start(self: Arc<Self>);

    /// Lets the controllers look once, does as they decide, and notes it in `decisions`.
    fn look(self: Arc<Self>, now: Instant, decisions: &Decisions);

    /// Whether nothing waits, runs or is parked here.
    fn is_quiet(&self) -> bool;

    /// Ends the threads. What still waits is given up.
    fn stop(&self);

    /// Whether no thread is left.
    fn has_ended(&self) -> bool;
}

impl<H: Handler> Stage<H> {
    fn work_loop(&self) {
        let mut inner = lock(&self.inner);
        inner.threads_starting -= 1;
        loop {
            if inner.stopping || inner.threads > inner.threads_wanted {
                self.add_threads(&mut inner, -1);
                // It may have been woken for a lane, and leaves that to another.
                self.wake(&mut inner);
                return;
            }
            if inner.lanes.has_ready() && inner.feeder != Feeder::Comes {
                let busy = self.cores.occupy();
                let threads = inner.threads;
                // What is ready may be held back, of which nobody knew.
                self.take_and_process(inner, threads);
                drop(busy);
                inner = lock(&self.inner);
            } else if let Some((next, _)) = &self.next
                && next.gathers()
                && !inner.lanes.has_ready()
            {
                drop(inner);
                let _busy = self.cores.occupy();
                // Whoever wants this core may have more to bring.
                yield_core();
                inner = lock(&self.inner);
                if !inner.lanes.has_ready() {
                    drop(inner);
                    next.serve_gathered(Gathered::Oldest);
                    inner = lock(&self.inner);
                }
            } else {
                inner.threads_idle += 1;
                inner = self.work_came.wait(inner).unwrap_or_else(std::sync::PoisonError::into_inner);
                inner.threads_idle -= 1;
                inner.threads_waking = inner.threads_waking.saturating_sub(1);
            }
        }
    }
}

impl<H: Handler> Stage<H>
where
    In<H>: Send + 'static,
{
    pub(super) fn resize(self: &Arc<Self>, threads: usize) {
        let missing = {
            let mut inner = lock(&self.inner);
            if inner.stopping {
                return;
            }
            inner.threads_wanted = threads;
            let missing = threads.saturating_sub(inner.threads);
            self.add_threads(&mut inner, missing as isize);
            inner.threads_starting += missing;
            if inner.threads > threads {
                self.work_came.notify_all();
            }
            missing
        };
        for _ in 0..missing {
            let stage = Arc::clone(self);
            if let Err(error) = spawn(self.name, move || stage.work_loop()) {
                tracing::error!(stage = self.name, %error, "a thread could not be started");
                let mut inner = lock(&self.inner);
                inner.threads_starting -= 1;
                self.add_threads(&mut inner, -1);
            }
        }
    }
}

impl<H: Handler> Kept for Stage<H>
where
    In<H>: Send + 'static,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &Arc<StageMetrics> {
        &self.metrics
    }

    fn start(self: Arc<Self>) {
        if !self.running.swap(true, Ordering::Relaxed) {
            self.resize(self.settings.threads.0.max(1));
        }
    }

    fn look(self: Arc<Self>, now: Instant, decisions: &Decisions) {
        self.condition(now, decisions);
    }

    fn is_quiet(&self) -> bool {
        lock(&self.inner).lanes.is_quiet()
    }

    fn stop(&self) {
        lock(&self.inner).stopping = true;
        self.work_came.notify_all();
        self.lane_came.notify_all();
    }

    fn has_ended(&self) -> bool {
        lock(&self.inner).threads == 0
    }
}
