//! Somebody who listens: counts the frames of an interface that match.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::namespace::{Error, Namespace};
use crate::io::link_socket::{LinkSocket, Sees};

/// Larger than any frame, super-packets included.
const FRAME_BYTES_MAX: usize = 65_536 + 64;
const SOCKET_BUFFER_BYTES: u32 = 32 << 20;
const WAIT_MAX: Duration = Duration::from_millis(20);

/// A running count. It ends when dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: AtomicU64,
    matched: AtomicU64,
}

impl Capture {
    /// Counts the frames on `interface`, of both directions, for which `matches` holds; it is given the frame from its
    /// link header on. Everything from now on is seen.
    ///
    /// # Errors
    /// No such interface.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        matches: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Result<Self, Error> {
        let opened = namespace.run(|| LinkSocket::open(interface, Sees::Both, SOCKET_BUFFER_BYTES))?;
        let socket = opened.map_err(|source| namespace.io_error(source))?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || theirs.listen(&socket, matches));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Stops, after all that came before was looked at, and tells how many frames matched and how many were seen.
    pub fn finish(mut self) -> (u64, u64) {
        self.stop();
        (self.shared.matched.load(Ordering::Relaxed), self.shared.seen.load(Ordering::Relaxed))
    }

    /// Frames that matched until now.
    pub fn matched(&self) -> u64 {
        self.shared.matched.load(Ordering::Relaxed)
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn listen(&self, socket: &LinkSocket, matches: impl Fn(&[u8]) -> bool) {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        loop {
            // Read before draining, so that what came before the order to stop is counted.
            let last = self.stop.load(Ordering::Acquire);
            while let Ok(Some(len)) = socket.receive(&mut frame) {
                self.seen.fetch_add(1, Ordering::Relaxed);
                self.matched.fetch_add(matches(&frame[..len]).into(), Ordering::Relaxed);
            }
            if last || socket.wait(WAIT_MAX).is_err() {
                return;
            }
        }
    }
}
