//! The word to stop: given once, by a signal or by a test, and seen by everybody who waits.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::io::ready;

/// Whether to stop. Clones are the same word.
///
/// Its descriptor becomes readable when the word is given and stays so, since nobody reads it: any number of polls can watch it,
/// whether level- or edge-triggered.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    triggered: Arc<AtomicBool>,
    seen: UnixStream,
    told: UnixStream,
}

impl Stop {
    /// A word that was not given yet.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let (seen, told) = UnixStream::pair()?;
        told.set_nonblocking(true)?;
        Ok(Self(Arc::new(Inner { triggered: Arc::default(), seen, told })))
    }

    /// A word that SIGTERM and SIGINT give.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::new()?;
        for signal in [SIGTERM, SIGINT] {
            // In this order: who is woken finds the flag set.
            flag::register(signal, Arc::clone(&stop.0.triggered))?;
            low_level::pipe::register(signal, stop.0.told.try_clone()?)?;
        }
        Ok(stop)
    }

    /// Gives the word. A second time changes nothing.
    pub fn trigger(&self) {
        if !self.0.triggered.swap(true, Ordering::SeqCst) {
            // One byte into an empty socket always fits.
            drop((&self.0.told).write(&[0]));
        }
    }

    /// Whether the word was given.
    pub fn is_triggered(&self) -> bool {
        self.0.triggered.load(Ordering::SeqCst)
    }

    /// Sleeps for `limit`, or until the word is given; tells whether it was.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        ready::wait([ready::readable(self.as_fd())], limit)?;
        Ok(self.is_triggered())
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.seen.as_fd()
    }
}

impl AsRawFd for Stop {
    fn as_raw_fd(&self) -> RawFd {
        self.0.seen.as_raw_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn everybody_who_waits_sees_the_word() {
        let stop = Stop::new().unwrap();
        assert!(!stop.wait(Duration::ZERO).unwrap());
        let waiting: Vec<_> =
            (0..3).map(|_| stop.clone()).map(|stop| std::thread::spawn(move || stop.wait(LONG))).collect();
        stop.trigger();
        stop.trigger();
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap().unwrap()));
        assert!(stop.wait(LONG).unwrap() && stop.is_triggered());
    }

    #[test]
    fn a_signal_gives_the_word() {
        let stop = Stop::on_signals().unwrap();
        low_level::raise(SIGTERM).unwrap();
        assert!(stop.wait(LONG).unwrap());
    }
}
