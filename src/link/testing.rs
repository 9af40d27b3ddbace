//! For tests: a link over loopback, its far end in the test's hand, and a keeper that writes down what it is told.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Link, LinkError};
use crate::packet::BufPool;
use crate::runtime::lanes::LaneId;
use crate::stages::accept::{self, Doorkeeper};
use crate::stages::ws_decode::LinkKeeper;
use crate::tether_links::{TetherLinks, Windows};
use crate::transport::Transport;
use crate::wire::capsule::{Capsule, Capsules, Challenge, CloseReason, Features, Hello, Refusal};
use crate::wire::frame::{self, Decoder, Opcode, Role, Subprotocol, close_code};
use crate::wire::fuzz::Event;

pub(crate) const LINK: LaneId = LaneId(3);
pub(crate) const TETHER: LaneId = LaneId(1);
pub(crate) const MESSAGE_BYTES_MAX: usize = 262_144;

/// Any key will do.
const KEY: [u8; 4] = [1, 2, 3, 4];

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The far end of a link.
pub(crate) struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    unread: Vec<u8>,
    events: VecDeque<Event>,
}

/// A link before its upgrade, and its far end.
pub(crate) fn connected() -> (Arc<Link>, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (near, _) = listener.accept().expect("a connection");
    near.set_nonblocking(true).expect("non-blocking");
    let transport = Transport::new(mio::net::TcpStream::from_std(near), None).expect("a transport");
    let decoder = Decoder::new(Role::Client, Subprotocol::Binary, MESSAGE_BYTES_MAX);
    let peer = Peer { stream, decoder, unread: Vec::new(), events: VecDeque::new() };
    (Arc::new(Link::new(LINK, transport, Role::Server, Instant::now())), peer)
}

/// A link that serves a tether with these windows.
pub(crate) fn open(windows: Windows, features: Features) -> (Arc<Link>, Arc<TetherLinks>, Peer) {
    let (link, peer) = connected();
    let tether = Arc::new(TetherLinks::new(TETHER, windows));
    link.upgraded(Subprotocol::Binary, MESSAGE_BYTES_MAX, &[]);
    link.opened(Arc::clone(&tether), features, MESSAGE_BYTES_MAX, None);
    tether.join(Arc::clone(&link));
    (link, tether, peer)
}

impl Peer {
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the link reads");
    }

    pub(crate) fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut frame = Vec::new();
        frame::append(opcode, payload, Some(KEY), &mut frame);
        self.send_bytes(&frame);
    }

    pub(crate) fn leave(&self) {
        self.stream.shutdown(Shutdown::Both).expect("connected");
    }

    /// Bytes up to `end`, as they come: HTTP.
    pub(crate) fn read_to(&mut self, end: &[u8]) -> String {
        let (mut text, mut byte) = (Vec::new(), [0]);
        while !text.ends_with(end) {
            self.stream.read_exact(&mut byte).expect("more");
            text.extend(byte);
        }
        String::from_utf8(text).expect("text")
    }

    /// The next event of the frames that come. Waits for it.
    pub(crate) fn next(&mut self) -> Event {
        let mut chunk = vec![0; 65_536];
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let count = self.stream.read(&mut chunk).expect("an event");
            assert!(count > 0, "the stream ended before the event");
            let mut unread = std::mem::take(&mut self.unread);
            unread.extend_from_slice(&chunk[..count]);
            let events = frames_of(&mut self.decoder, &mut unread);
            self.unread = unread;
            self.events.extend(events);
        }
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> Vec<u8> {
        let event = self.next();
        let Event::Message(message) = event else { panic!("no message: {event:?}") };
        message
    }

    /// The code of the close frame that comes next, behind messages.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.next() {
                Event::Close(code, _) => return code,
                Event::Message(_) | Event::Ping(_) | Event::Pong(_) => {}
                Event::Error(error) => panic!("{error}"),
            }
        }
    }
}

fn frames_of(decoder: &mut Decoder, unread: &mut Vec<u8>) -> Vec<Event> {
    use frame::Step;
    let mut events = Vec::new();
    loop {
        let (consumed, event) = match decoder.next(unread).expect("frames after the rules") {
            Step::Need(consumed) => (consumed, None),
            Step::Message { consumed, payload } => (consumed, Some(Event::Message(payload.to_vec()))),
            Step::Ping { consumed, payload } => (consumed, Some(Event::Ping(payload.to_vec()))),
            Step::Pong { consumed, payload } => (consumed, Some(Event::Pong(payload.to_vec()))),
            Step::Close { consumed, code, reason } => (consumed, Some(Event::Close(code, reason.to_owned()))),
        };
        unread.drain(..consumed);
        match event {
            Some(event) => events.push(event),
            None => return events,
        }
    }
}

/// The capsules of a message, super-packets among them.
pub(crate) fn capsules(message: &[u8]) -> Vec<Capsule<'_>> {
    Capsules::agreed(Features::SUPER_PACKETS, message)
        .map(|capsule| capsule.expect("a capsule after the rules"))
        .collect()
}

/// Repeats `step`, for readiness takes its time, until `done`.
pub(crate) fn until(mut step: impl FnMut(), mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    loop {
        step();
        if done() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "it did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a stage told the keeper of links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Control(LaneId),
    AckLater,
    Close(u16),
    Closed(Option<CloseReason>),
    Ended,
    Admit(Box<Hello>),
    TurnedAway(accept::Reason),
    Opened,
}

/// Keeps no links, and writes down what it is told.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) pool: BufPool,
    /// What every hello is answered with.
    pub(crate) refusal: Option<Refusal>,
    told: Mutex<Vec<Told>>,
}

impl Keeper {
    pub(crate) fn new() -> Arc<Self> {
        Self::refusing(None)
    }

    pub(crate) fn refusing(refusal: Option<Refusal>) -> Arc<Self> {
        Arc::new(Self { pool: BufPool::new(1 << 24), refusal, told: Mutex::default() })
    }

    fn write_down(&self, told: Told) {
        self.told.lock().expect("no panic").push(told);
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().expect("no panic").clone()
    }

    pub(crate) fn forget(&self) {
        self.told.lock().expect("no panic").clear();
    }
}

impl LinkKeeper for Keeper {
    fn has_control(&self, tether: LaneId) {
        self.write_down(Told::Control(tether));
    }

    fn ack_later(&self, _link: &Arc<Link>) {
        self.write_down(Told::AckLater);
    }

    fn wake_for_acks(&self) {}

    fn close(&self, link: &Arc<Link>, code: u16, reason: &str) {
        link.close(code, reason, &self.pool);
        self.write_down(Told::Close(code));
    }

    fn closed(&self, link: &Arc<Link>, reason: Option<CloseReason>) {
        link.close(close_code::NORMAL, "", &self.pool);
        self.write_down(Told::Closed(reason));
    }

    fn ended(&self, link: &Arc<Link>, _error: &LinkError) {
        link.abandon();
        self.write_down(Told::Ended);
    }
}

impl Doorkeeper for Keeper {
    fn admit(&self, _now: Instant, link: &Arc<Link>, _challenge: &Challenge, hello: &Hello) -> Result<(), Refusal> {
        self.write_down(Told::Admit(Box::new(hello.clone())));
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: None };
        link.opened(Arc::new(TetherLinks::new(TETHER, windows)), hello.features, MESSAGE_BYTES_MAX, None);
        Ok(())
    }

    fn turn_away(&self, link: &Arc<Link>, reason: accept::Reason) {
        link.finish();
        self.write_down(Told::TurnedAway(reason));
    }

    fn opened(&self, _link: &Arc<Link>) {
        self.write_down(Told::Opened);
    }
}
