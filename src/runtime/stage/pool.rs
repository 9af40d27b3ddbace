//! The threads of a stage: what they do, how many there are, and what the keeper of the pipeline sees of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Inner, Stage};
use crate::metrics::StageMetrics;
use crate::runtime::controller::{Decision, Observation};
use crate::runtime::sync::{lock, spawn};
use crate::runtime::work::{Handler, In};

/// A stage as its pipeline's keeper sees it: started, looked at, drained, stopped.
pub trait Kept: Send + Sync {
    /// The stage's name.
    fn name(&self) -> &'static str;

    /// Its figures.
    fn metrics(&self) -> &Arc<StageMetrics>;

    /// Starts the least number of threads.
    fn start(self: Arc<Self>);

    /// Lets the pool's controller look once and changes the pool as it decides.
    fn look(self: Arc<Self>, now: Instant);

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
            if inner.lanes.has_ready() {
                let busy = self.cores.occupy();
                let found = self.take_and_process(inner);
                drop(busy);
                debug_assert!(found, "a ready lane gives a batch");
                inner = lock(&self.inner);
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

    /// Has the controller's view of this moment. A lane that was ready at the last look already, and no batch taken
    /// since, has waited at least that long: no sojourn would tell while all threads are held up.
    fn observe(&self, now: Instant, inner: &mut Inner<H::Queue>) -> Observation {
        let is_stuck = inner.takes == inner.takes_looked && inner.lanes.has_ready();
        let held_up = inner.looked.filter(|_| is_stuck).map(|then| now.saturating_duration_since(then));
        inner.looked = Some(now);
        inner.takes_looked = inner.takes;
        Observation {
            lanes_ready: inner.lanes.ready_for_more(inner.threads),
            sojourn_max: std::mem::take(&mut inner.sojourn_max).max(held_up.unwrap_or_default()),
            threads: inner.threads,
            // One that is about to come has nothing to do yet: without it a pool would grow at each look until then.
            threads_idle: inner.threads_idle + inner.threads_starting,
            cores_free: self.cores.free(),
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

    fn look(self: Arc<Self>, now: Instant) {
        let mut resume = Vec::new();
        let seen = {
            let mut inner = lock(&self.inner);
            // Room that was offered to lanes that could make no use of it passes on: else, where all that is queued
            // belongs to lanes that are held up, nothing would be taken and nobody told.
            if inner.takes == inner.takes_looked {
                inner.let_in(&mut resume);
            }
            self.observe(now, &mut inner)
        };
        self.resume_upstream(&mut resume);
        let decision = lock(&self.controller).decide(now, seen);
        match decision {
            Decision::Keep => {}
            Decision::Grow => {
                self.metrics.pool_grow.add(1);
                self.resize(seen.threads + 1);
            }
            Decision::Shrink => {
                self.metrics.pool_shrink.add(1);
                self.resize(seen.threads - 1);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        lock(&self.inner).lanes.is_quiet()
    }

    fn stop(&self) {
        lock(&self.inner).stopping = true;
        self.work_came.notify_all();
    }

    fn has_ended(&self) -> bool {
        lock(&self.inner).threads == 0
    }
}
