//! The six architectures: the same handlers behind the same sockets.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};

use serde::{Deserialize, Serialize};

use super::record::Run;

mod event_loop;
mod helpers;
mod staged;
mod threads;

/// How requests get to the handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Architecture {
    /// A thread a tether, which blocks in its socket.
    Threads,
    /// One event loop that runs every handler (SPED).
    EventLoop,
    /// An event loop with helper threads for one of the handlers (AMPED).
    Helpers,
    /// A stage a handler, each with a pool of fixed size and a queue.
    FixedPools,
    /// A stage a handler, with the gateway's own controllers.
    Controllers,
    /// A stage a handler, each batch run on through all of them.
    HandOver,
}

impl Architecture {
    pub(crate) const ALL: [Self; 6] =
        [Self::Threads, Self::EventLoop, Self::Helpers, Self::FixedPools, Self::Controllers, Self::HandOver];

    /// As plots and tables show it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Threads => "thread a tether",
            Self::EventLoop => "event loop",
            Self::Helpers => "loop + helpers",
            Self::FixedPools => "stages, fixed pools",
            Self::Controllers => "stages, controllers",
            Self::HandOver => "stages, hand-over",
        }
    }

    /// Starts a server of that many cores behind `sockets`, one a tether. Its threads run where the caller's does.
    ///
    /// # Errors
    /// The machine refuses threads or descriptors.
    pub(crate) fn start(self, sockets: Vec<UdpSocket>, run: &Arc<Run>, cores: usize) -> io::Result<Server> {
        let run = Arc::clone(run);
        match self {
            Self::Threads => threads::start(sockets, run),
            Self::EventLoop => event_loop::start(sockets, run),
            Self::Helpers => helpers::start(sockets, run, cores),
            Self::FixedPools => staged::start(sockets, run, cores, staged::Kind::FixedPools),
            Self::Controllers => staged::start(sockets, run, cores, staged::Kind::Controllers),
            Self::HandOver => staged::start(sockets, run, cores, staged::Kind::HandOver),
        }
    }
}

/// A running server.
pub(crate) struct Server {
    run: Arc<Run>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Ends waits, so that threads see that they are to stop.
    wake: Box<dyn Fn()>,
    stages: Option<staged::Stages>,
}

/// Requests that a server read and did not serve, by the reason.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Dropped {
    /// The queue was full.
    pub(crate) queue_full: u64,
    /// The queue admitted less than it holds, to keep the wait short.
    pub(crate) not_admitted: u64,
}

impl Server {
    /// Requests that its queues refused or shed so far.
    pub(crate) fn dropped(&self) -> Dropped {
        self.stages.as_ref().map(staged::Stages::dropped).unwrap_or_default()
    }

    /// Ends every thread. What still waits is given up.
    pub(crate) fn stop(self) -> io::Result<()> {
        self.run.stopping.store(true, Ordering::Relaxed);
        (self.wake)();
        let ended = self
            .threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the server panicked"))));
        // Each is joined, whatever the others say.
        let ended: Vec<io::Result<()>> = ended.collect();
        if let Some(stages) = self.stages {
            stages.stop()?;
        }
        ended.into_iter().collect()
    }
}

fn spawn(name: &str, body: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<io::Result<()>>> {
    Builder::new().name(name.to_owned()).spawn(body)
}
