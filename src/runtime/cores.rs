//! How many of the machine's cores a pipeline keeps busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all stages of one pipeline share: how many of the machine's cores they keep busy.
#[derive(Debug)]
pub struct Cores {
    count: usize,
    busy: AtomicUsize,
}

impl Cores {
    /// `count` cores, none of them busy.
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { count, busy: AtomicUsize::new(0) })
    }

    /// All of them.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Cores that no thread of the pipeline keeps busy.
    pub fn free(&self) -> usize {
        self.count.saturating_sub(self.busy.load(Ordering::Relaxed))
    }

    /// A thread begins to work; it ends when the guard is dropped.
    pub fn occupy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

/// A thread that works, counted until dropped.
#[derive(Debug)]
pub struct Busy(Arc<Cores>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
