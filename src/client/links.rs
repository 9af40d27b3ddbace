//! The client's links: who is there, and who tells the stages that one has something to do.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use tracing::{debug, error};

use super::Event;
use crate::link::{ACK_DELAY_MS, Link, LinkError};
use crate::metrics::decisions::Decisions;
use crate::packet::BufPool;
use crate::runtime::attend::Attend;
use crate::runtime::inlet::Inlet;
use crate::runtime::lanes::{Entry, LaneId};
use crate::runtime::queue::Signal;
use crate::stages::ws_decode::{LinkKeeper, tell_received};
use crate::table::Table;
use crate::tether_links::{TetherLinks, Windows};
use crate::window;
use crate::wire::capsule::{CloseReason, append_close};
use crate::wire::frame::close_code;

/// The lane of the one tether.
pub const TETHER: LaneId = LaneId(0);

/// Links at once: the one in use, one that takes over, and one that is ending.
pub const LINKS_MAX: u32 = 4;

/// The most bytes on the way to the gateway: what 300 ms of 1 Gbit/s hold, and more than any credit that is configured.
const WINDOW_BYTES_MAX: u64 = 64 << 20;

/// Keep-alive intervals of silence after which a link counts as dead (docs/protocol.md).
const SILENT_KEEP_ALIVES: u32 = 3;

/// Readiness events taken at once.
const EVENTS_MAX: usize = 8;

const WAKE: Token = Token(usize::MAX);

/// The stages that have links or the tether as their lanes. They hold the links, so the links do not hold them.
pub struct Stages {
    /// ws-decode, its lanes being links.
    pub ws_decode: Weak<dyn Attend>,
    /// ws-encode, its lane being the tether.
    pub ws_encode: Weak<dyn Attend>,
}

impl std::fmt::Debug for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stages").finish_non_exhaustive()
    }
}

/// The links of the tether.
#[derive(Debug)]
pub struct Links {
    /// At their lanes.
    pub table: Arc<Table<Link>>,
    /// The tether at its lane.
    pub tethers: Arc<Table<TetherLinks>>,
    tether: Arc<TetherLinks>,
    pool: BufPool,
    stages: OnceLock<Stages>,
    registry: Registry,
    waker: Waker,
    /// When the acknowledgements that wait are to be sent.
    ack_due: Mutex<Option<Instant>>,
    /// The thread of [`Links::watch`] waits for links, and for no longer than acknowledgements do that it knows of.
    waits: AtomicBool,
    /// Acknowledgements were noted, and that thread was not told yet.
    acks_are_new: AtomicBool,
    ended: Sender<Event>,
    stopping: AtomicBool,
}

impl Links {
    /// No links yet; their windows go by `window`, and `ended` is told when the last one has gone. What comes back with it waits
    /// for the readiness of links.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(
        table: Arc<Table<Link>>,
        pool: BufPool,
        window: window::Settings,
        decisions: Arc<Decisions>,
        ended: Sender<Event>,
    ) -> io::Result<(Arc<Self>, Poll)> {
        let poll = Poll::new()?;
        // The client grants no credit: what comes is written to the device at once. What it may send the gateway bounds by
        // credit.
        let windows = Windows { send_bytes_max: WINDOW_BYTES_MAX, credit_bytes: None };
        let tether = Arc::new(TetherLinks::new(TETHER, windows).with_window(window).telling(decisions));
        let tethers = Arc::new(Table::new(1));
        tethers.put(TETHER, Arc::clone(&tether));
        let links = Self {
            table,
            tethers,
            tether,
            pool,
            stages: OnceLock::new(),
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKE)?,
            ack_due: Mutex::new(None),
            waits: AtomicBool::new(false),
            acks_are_new: AtomicBool::new(false),
            ended,
            stopping: AtomicBool::new(false),
        };
        Ok((Arc::new(links), poll))
    }

    /// The pipeline stands: from now on its stages are attended to.
    pub fn attend(&self, stages: Stages) {
        self.stages.get_or_init(|| stages);
    }

    /// The tether that links serve.
    pub fn tether(&self) -> &Arc<TetherLinks> {
        &self.tether
    }

    /// An opened link carries packets from now on, in place of those before.
    ///
    /// # Errors
    /// Its readiness cannot be watched.
    pub fn join(&self, link: &Arc<Link>) -> io::Result<()> {
        let older = self.tether.all();
        self.table.put(link.lane(), Arc::clone(link));
        self.tether.join(Arc::clone(link));
        for link in older {
            self.end(&link, CloseReason::Replaced, "a newer link has its place");
        }
        let fd = link.transport().as_fd().as_raw_fd();
        let token = Token(link.lane().0 as usize);
        self.registry.register(&mut SourceFd(&fd), token, Interest::READABLE | Interest::WRITABLE)?;
        // What came with the handshake is in the link already, and says nothing more to the poll.
        if let Some(ws_decode) = self.ws_decode() {
            ws_decode.poke(link.lane());
        }
        self.has_control(TETHER);
        Ok(())
    }

    /// Whether a link carries packets.
    pub fn is_linked(&self) -> bool {
        self.tether.to_send().is_some()
    }

    /// Asks links that have been silent for `keep_alive` for a sign of life, ends those that gave none for long, and looks
    /// after those that wait to write. A relay answers for its half of the path, and passes no pings on.
    pub fn tidy(&self, now: Instant, keep_alive: Duration) {
        for link in self.tether.all() {
            let silence = now.saturating_duration_since(link.heard());
            if silence > SILENT_KEEP_ALIVES * keep_alive {
                self.end(&link, CloseReason::TimedOut, "no sign of life");
                continue;
            }
            let asks = silence > keep_alive && link.ping_is_due(now, keep_alive);
            if asks {
                link.outbox().ping();
            }
            // A socket may have become writable in the moment between a short write and its being marked.
            if asks || link.is_blocked() {
                self.has_control(TETHER);
            }
        }
    }

    /// Says goodbye on every link; returns them for the peers' last words to be waited for.
    pub fn close_all(&self) -> Vec<Arc<Link>> {
        let links = self.tether.all();
        links.iter().for_each(|link| self.end(link, CloseReason::Done, "done"));
        links
    }

    fn end(&self, link: &Arc<Link>, reason: CloseReason, text: &str) {
        link.outbox().control(|out| append_close(reason, text, out));
        LinkKeeper::close(self, link, reason.close_code(), text);
    }

    fn detach(&self, link: &Arc<Link>, why: &str) {
        if !self.table.take_this(link.lane(), link) {
            return;
        }
        let fd = link.transport().as_fd().as_raw_fd();
        // A link that was never watched is not there to be taken out.
        drop(self.registry.deregister(&mut SourceFd(&fd)));
        if let Some(ws_decode) = self.ws_decode() {
            ws_decode.clear(link.lane());
        }
        let left = self.tether.leave(link);
        self.table.release(link.lane());
        if left == 0 {
            // Nobody listens any more when the client is at its end.
            drop(self.ended.send(Event::Ended(why.to_owned())));
        }
    }

    /// Ends the thread of [`Links::watch`].
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    fn ws_decode(&self) -> Option<Arc<dyn Attend>> {
        self.stages.get()?.ws_decode.upgrade()
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            error!(%error, "the links' thread cannot be woken");
        }
    }

    fn ack_due(&self) -> MutexGuard<'_, Option<Instant>> {
        self.ack_due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for links to be readable or writable, and for acknowledgements to be due; returns when stopped.
    pub fn watch(&self, mut poll: Poll, mut readable: Inlet<Signal>) {
        let (mut events, mut signals) = (Events::with_capacity(EVENTS_MAX), Vec::new());
        while !self.stopping.load(Ordering::Acquire) {
            // Said first: who notes an acknowledgement after this look at what is due finds that nobody has seen it.
            self.waits.store(true, Ordering::SeqCst);
            let limit = (*self.ack_due()).map(|due| due.saturating_duration_since(Instant::now()));
            let polled = poll.poll(&mut events, limit);
            self.waits.store(false, Ordering::SeqCst);
            if let Err(error) = polled
                && error.kind() != io::ErrorKind::Interrupted
            {
                error!(%error, "the links' readiness wait failed");
                return;
            }
            let since = Instant::now();
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let lane = LaneId(u32::try_from(event.token().0).unwrap_or(u32::MAX));
                if event.is_read_closed() || event.is_error() {
                    self.table.get(lane).inspect(|link| link.peer_ends());
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    signals.push(Entry { origin: lane, lane, item: Signal { since } });
                }
                if event.is_writable() && self.table.get(lane).is_some_and(|link| link.is_blocked()) {
                    self.has_control(TETHER);
                }
            }
            readable.push(since, false, &mut signals);
            self.send_due_acks();
        }
    }

    fn send_due_acks(&self) {
        let now = Instant::now();
        if self.ack_due().take_if(|due| *due <= now).is_none() {
            return;
        }
        for link in self.tether.all() {
            if !link.ack_is_due(false) {
                self.ack_due().get_or_insert(now + Duration::from_millis(ACK_DELAY_MS));
            } else if link.unacknowledged_bytes() > 0 {
                tell_received(self, now, &link, &self.tether, &self.pool);
            }
        }
    }
}

impl LinkKeeper for Links {
    fn has_control(&self, tether: LaneId) {
        if let Some(ws_encode) = self.stages.get().and_then(|stages| stages.ws_encode.upgrade()) {
            ws_encode.poke(tether);
        }
    }

    fn ack_later(&self, _link: &Arc<Link>) {
        let mut due = self.ack_due();
        if due.is_none() {
            *due = Some(Instant::now() + Duration::from_millis(ACK_DELAY_MS));
            self.acks_are_new.store(true, Ordering::SeqCst);
        }
    }

    fn wake_for_acks(&self) {
        let is_new = self.acks_are_new.load(Ordering::Relaxed) && self.acks_are_new.swap(false, Ordering::SeqCst);
        // Where that thread is the one that noted them, it looks before it waits again.
        if is_new && self.waits.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn close(&self, link: &Arc<Link>, code: u16, reason: &str) {
        debug!(code, reason, "a link is closed");
        link.close(code, reason, &self.pool);
        self.detach(link, reason);
    }

    fn closed(&self, link: &Arc<Link>, reason: Option<CloseReason>) {
        link.close(close_code::NORMAL, "", &self.pool);
        self.detach(link, reason.map_or("closed by the other end", told));
    }

    fn ended(&self, link: &Arc<Link>, error: &LinkError) {
        link.abandon();
        self.detach(link, &error.to_string());
    }
}

/// Why the gateway has closed a link, in words.
fn told(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Done => "the gateway has closed it",
        CloseReason::Revoked => "the token was revoked",
        CloseReason::Replaced => "a newer one took its place",
        CloseReason::ShuttingDown => "the gateway is stopping",
        CloseReason::TimedOut => "the gateway heard nothing for too long",
        CloseReason::ProtocolError => "the gateway did not understand this client",
        CloseReason::Overloaded => "the gateway has too much to do",
        CloseReason::Other(_) => "the gateway has closed it, for a reason that this client does not know",
    }
}
