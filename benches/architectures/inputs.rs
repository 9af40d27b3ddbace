//! The tethers' sockets as an event loop sees them. Every architecture but a thread a tether reads through this, so they
//! all pay the same for input.

use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::request::{REQUEST_BYTES, Request};

/// Requests read before they are handled. Of a fixed cost of 200 µs, a batch is then 3.2 ms.
pub(crate) const BATCH: usize = 16;

/// Sockets told of by one look at the kernel's list.
const EVENTS: usize = 1_024;

/// How long an event loop sleeps at most, so that it sees that it is to stop.
const WAIT_MAX: Duration = Duration::from_millis(20);

const WAKER: Token = Token(usize::MAX);

/// All sockets, with one readiness queue.
#[derive(Debug)]
pub(crate) struct Inputs {
    poll: Poll,
    events: Events,
    sockets: Vec<UdpSocket>,
    /// Sockets that may hold something, each once, in turn: no tether is read twice before the others.
    ready: VecDeque<usize>,
    is_listed: Vec<bool>,
}

impl Inputs {
    /// # Errors
    /// No descriptor or memory left for the readiness queue.
    pub(crate) fn new(sockets: Vec<UdpSocket>) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (tether, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true)?;
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(tether), Interest::READABLE)?;
        }
        let (ready, is_listed) = (VecDeque::with_capacity(sockets.len()), vec![false; sockets.len()]);
        Ok(Self { poll, events: Events::with_capacity(EVENTS), sockets, ready, is_listed })
    }

    /// What ends a wait from another thread.
    pub(crate) fn waker(&self) -> io::Result<Arc<Waker>> {
        Waker::new(self.poll.registry(), WAKER).map(Arc::new)
    }

    /// Whether a socket may hold more.
    pub(crate) fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Notes which sockets became ready; waits for one where none is known, a moment at most.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        let limit = if self.ready.is_empty() { WAIT_MAX } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(limit)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            let Token(tether) = event.token();
            // The kernel tells of each datagram, also of a socket that was not read empty.
            if !std::mem::replace(&mut self.is_listed[tether], true) {
                self.ready.push_back(tether);
            }
        }
        Ok(())
    }

    /// Appends up to `max` requests, one of each ready socket in turn.
    pub(crate) fn read(&mut self, max: usize, requests: &mut Vec<Request>) -> io::Result<()> {
        let mut left = max;
        while left > 0
            && let Some(tether) = self.ready.pop_front()
        {
            let mut bytes = [0; REQUEST_BYTES];
            match self.sockets[tether].recv(&mut bytes) {
                Ok(_) => {
                    requests.push(Request::decode(bytes));
                    self.ready.push_back(tether);
                    left -= 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_listed[tether] = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
