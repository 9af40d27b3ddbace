//! The locks and threads of the runtime, so that a model checker can take their place (feature `model`).

#[cfg(not(feature = "model"))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(feature = "model")]
pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};

/// Takes a lock. A handler that panicked poisoned nothing that this lock protects: it covers bookkeeping that is whole
/// after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Lets others have this core first, who want it.
pub(super) fn yield_core() {
    #[cfg(not(feature = "model"))]
    std::thread::yield_now();
    #[cfg(feature = "model")]
    shuttle::thread::yield_now();
}

/// Starts a thread of a stage's pool.
#[cfg(not(feature = "model"))]
pub(super) fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

#[cfg(feature = "model")]
pub(super) fn spawn(_name: &'static str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    drop(shuttle::thread::spawn(body));
    Ok(())
}
