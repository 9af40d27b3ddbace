//! The word to stop: given once, by a signal or by a test, and seen by everybody who waits.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::io::ready;

/// What gives the word. A terminal that closes says SIGHUP, and what was set up by hand from it is to be undone, too.
const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

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

    /// A word that SIGTERM, SIGINT and SIGHUP give; SIGHUP not where it was ignored at the start, as nohup(1) has it.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::new()?;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for signal in SIGNALS.into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(&status, signal)) {
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

/// Whether a process ignores `signal`, by the text of its `/proc/PID/status` (proc(5)): bit 0 of the mask is signal 1.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let bits = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> (signal - 1) & 1 == 1)
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
    fn each_signal_of_a_person_a_service_manager_or_a_closing_terminal_gives_the_word() {
        // Where the tests run under nohup(1), SIGHUP gives none.
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        for signal in SIGNALS.into_iter().filter(|&signal| !is_ignored(&status, signal)) {
            let stop = Stop::on_signals().unwrap();
            low_level::raise(signal).unwrap();
            assert!(stop.wait(LONG).unwrap());
        }
    }

    #[test]
    fn a_signal_that_was_ignored_at_the_start_is_known_by_the_kernels_mask() {
        let under_nohup = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert_eq!([SIGHUP, SIGINT, SIGTERM].map(|signal| is_ignored(under_nohup, signal)), [true, false, false]);
        assert!(!is_ignored("SigIgn:\tnot hexadecimal\n", SIGHUP) && !is_ignored("", SIGHUP));
    }
}
