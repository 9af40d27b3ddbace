//! Two joined WebSockets, from the moment both are open to the end of one.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::half::{Half, Passed};
use super::{Side, Traffic};
use crate::dial::Dialled;
use crate::relay::ended::Ended;
use crate::stop::Stop;
use crate::wire::frame::{FrameError, close_code};

/// The gateway speaks first; a proxy that swallows its messages shows here. The page has the same limit.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// A half that was silent for so long is pinged: as often as a gateway pings by default.
const PING_AFTER: Duration = Duration::from_secs(15);

/// A half that was silent for so long is gone: three pings went unanswered.
const GONE_AFTER: Duration = Duration::from_secs(45);

/// How long the peers have to take the last frames.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes after which the other direction has its turn.
const TURN_BYTES: usize = 1 << 20;

/// More than the sources that there are.
const EVENTS: usize = 8;

const STOP: Token = Token(2);

/// Why two joined WebSockets were parted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Parted {
    #[error("stopped")]
    Stopped,
    #[error("cannot wait for the connections: {0}")]
    Kernel(io::Error),
    #[error("{0} closed with code {code}: {2}", code = .1.unwrap_or(NO_CODE))]
    Closed(Side, Option<u16>, String),
    #[error("the connection to {0} broke: {1}")]
    Broken(Side, io::Error),
    #[error("{0} broke a rule of WebSockets: {1}")]
    Frame(Side, FrameError),
    #[error("{0} is silent for {s} s", s = GONE_AFTER.as_secs())]
    Gone(Side),
    #[error("the gateway was reached and says nothing")]
    Silent,
}

/// What RFC 6455, 7.1.5, names a close without a code.
const NO_CODE: u16 = 1005;

/// What it names an end without a close.
const NO_CLOSE: u16 = 1006;

impl Parted {
    /// Whether client or gateway gave this one's place to a newer link.
    pub(super) fn is_replaced(&self) -> bool {
        matches!(self, Self::Closed(_, Some(close_code::REPLACED), _))
    }

    /// Code and reason to close this side with.
    fn close(&self, side: Side) -> (u16, String) {
        let at_fault = |faulty: &Side, code: u16, passed_on: u16| {
            if *faulty == side { code } else { Ended::OtherSide(passed_on).code() }
        };
        match self {
            Self::Stopped => (close_code::GOING_AWAY, "the relay stops".to_owned()),
            Self::Kernel(_) => (close_code::GOING_AWAY, self.to_string()),
            Self::Closed(by, code, reason) => {
                (at_fault(by, code.unwrap_or(close_code::NORMAL), code.unwrap_or(NO_CODE)), reason.clone())
            }
            Self::Broken(by, _) | Self::Gone(by) => (at_fault(by, close_code::GOING_AWAY, NO_CLOSE), self.to_string()),
            Self::Frame(by, error) => (at_fault(by, error.close_code(), error.close_code()), error.to_string()),
            Self::Silent => (Ended::GatewaySilent.code(), self.to_string()),
        }
    }
}

/// Both WebSockets.
pub(super) struct Session<'a> {
    poll: Poll,
    halves: [Half; 2],
    stop: &'a Stop,
    opened: Instant,
    traffic: Traffic,
}

impl<'a> Session<'a> {
    pub(super) fn new(client: Dialled, gateway: Dialled, stop: &'a Stop) -> io::Result<Self> {
        let (poll, opened) = (Poll::new()?, Instant::now());
        let mut halves = [Half::new(client, opened), Half::new(gateway, opened)];
        let both = Interest::READABLE | Interest::WRITABLE;
        for (half, side) in halves.iter_mut().zip(Side::BOTH) {
            poll.registry().register(half.transport.source(), Token(side as usize), both)?;
        }
        poll.registry().register(&mut SourceFd(&stop.as_raw_fd()), STOP, Interest::READABLE)?;
        Ok(Self { poll, halves, stop, opened, traffic: Traffic::default() })
    }

    /// Passes messages until one side ends, and closes both.
    pub(super) fn run(mut self) -> (Parted, Traffic) {
        let parted = self.relay();
        self.close(&parted);
        self.traffic.pending_bytes_max = self.halves.iter().map(|half| half.pending_bytes_max).max().unwrap_or(0);
        (parted, self.traffic)
    }

    fn relay(&mut self) -> Parted {
        loop {
            match self.turn() {
                Ok(wait) => {
                    if let Err(error) = self.wait(wait) {
                        return Parted::Kernel(error);
                    }
                }
                Err(parted) => return parted,
            }
        }
    }

    /// Does all that can be done without waiting, and tells how long to wait.
    fn turn(&mut self) -> Result<Duration, Parted> {
        if self.stop.is_triggered() {
            return Err(Parted::Stopped);
        }
        let now = Instant::now();
        let mut is_drained = true;
        for from in Side::BOTH {
            is_drained &= self.pass(from, now)?;
        }
        let due = self.keep_alive(now)?;
        for side in Side::BOTH {
            self.halves[side as usize].flush().map_err(|error| Parted::Broken(side, error))?;
        }
        Ok(if is_drained { due.saturating_duration_since(now) } else { Duration::ZERO })
    }

    /// Passes messages on from this side; tells whether nothing is left to do until an event comes.
    fn pass(&mut self, from: Side, now: Instant) -> Result<bool, Parted> {
        let [client, gateway] = &mut self.halves;
        let (source, sink, way) = match from {
            Side::Client => (client, gateway, &mut self.traffic.up),
            Side::Gateway => (gateway, client, &mut self.traffic.down),
        };
        let mut turn_bytes = 0;
        loop {
            let mut holds_messages = true;
            while holds_messages && sink.has_room() {
                match source.pass_on(sink).map_err(|error| Parted::Frame(from, error))? {
                    Passed::Message(bytes) => way.count(bytes),
                    Passed::Control => {}
                    Passed::Nothing => holds_messages = false,
                    Passed::Close(code, reason) => return Err(Parted::Closed(from, code, reason)),
                }
            }
            sink.flush().map_err(|error| Parted::Broken(from.other(), error))?;
            if !sink.has_room() {
                return Ok(true);
            }
            if holds_messages {
                // They were read already, and what was written has made room: no event would tell of either.
                continue;
            }
            match source.read(now).map_err(|error| Parted::Broken(from, error))? {
                0 => return Ok(true),
                bytes => turn_bytes += bytes,
            }
            if turn_bytes > TURN_BYTES {
                return Ok(false);
            }
        }
    }

    /// Pings who is silent, gives up who stays so, and tells when to look again.
    fn keep_alive(&mut self, now: Instant) -> Result<Instant, Parted> {
        let mut due = now + PING_AFTER;
        if self.traffic.down.messages == 0 {
            due = due.min(self.opened + FIRST_MESSAGE);
            if due <= now {
                return Err(Parted::Silent);
            }
        }
        for (half, side) in self.halves.iter_mut().zip(Side::BOTH) {
            if now >= half.heard + GONE_AFTER {
                return Err(Parted::Gone(side));
            }
            if now >= half.heard.max(half.asked) + PING_AFTER {
                half.ping(now);
            }
            due = due.min(half.heard.max(half.asked) + PING_AFTER);
        }
        Ok(due)
    }

    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        match self.poll.poll(&mut events, Some(limit)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if let Some(half) = self.halves.get_mut(event.token().0) {
                half.ready(event.is_readable() || event.is_read_closed(), event.is_writable());
            }
        }
        Ok(())
    }

    /// Both get what waits for them and a last frame, before the first one is waited for.
    fn close(&mut self, parted: &Parted) {
        for (half, side) in self.halves.iter_mut().zip(Side::BOTH) {
            let (code, reason) = parted.close(side);
            half.close(code, &reason);
            // A side that is broken has nothing to hear.
            drop(half.flush());
        }
        for half in &mut self.halves {
            half.linger(Instant::now() + LINGER);
        }
    }
}

/// Closes the client's WebSocket where there is no gateway to join it to.
pub(super) fn send_away(client: Dialled, code: u16, reason: &str) {
    let now = Instant::now();
    let mut half = Half::new(client, now);
    half.close(code, reason);
    half.linger(now + LINGER);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::transport::Transport;
    use crate::wire::frame::{self, Opcode, Subprotocol};

    /// Less than the time after which a ping would set a relay going again that has forgotten something.
    const PATIENCE: Duration = Duration::from_secs(8);

    /// Several times what makes a half full, and in messages that are too short to be written from where they were read.
    const MESSAGES: usize = 4_000;
    const MESSAGE: [u8; 1_000] = [7; 1_000];

    /// A connection that was upgraded, with `rest` read behind that, and its far end.
    fn dialled(rest: Vec<u8>) -> (Dialled, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (near, far) = (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap().0);
        widen(&near, &far);
        near.set_nonblocking(true).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let transport = Transport::new(mio::net::TcpStream::from_std(near), None).unwrap();
        (Dialled { transport, subprotocol: Subprotocol::Binary, rest }, far)
    }

    /// Has the kernel's send buffer grow, as a transfer does, until it takes at once all that makes a half full.
    fn widen(mut near: &TcpStream, mut far: &TcpStream) {
        let sent = vec![0; 32 << 20];
        thread::scope(|scope| {
            scope.spawn(|| near.write_all(&sent).unwrap());
            far.read_exact(&mut vec![0; sent.len()]).unwrap();
        });
    }

    #[test]
    fn what_was_read_already_is_passed_on_when_there_is_room_though_nothing_more_comes() {
        let mut rest = Vec::new();
        (0..MESSAGES).for_each(|_| frame::append(Opcode::Binary, &MESSAGE, None, &mut rest));
        let (client, mut laptop) = dialled(Vec::new());
        let (gateway, far_gateway) = dialled(rest);
        let stop = Stop::new().unwrap();
        let session = Session::new(client, gateway, &stop).unwrap();
        thread::scope(|scope| {
            let run = scope.spawn(|| session.run());
            let header_bytes = frame::header(Opcode::Binary, MESSAGE.len(), Some([0; 4])).len();
            let mut came = vec![0; MESSAGES * (header_bytes + MESSAGE.len())];
            let read = laptop.read_exact(&mut came);
            stop.trigger();
            // The relay has heard the word once its close frame begins. It would wait for their last words.
            let has_heard = laptop.read_exact(&mut [0]);
            drop((laptop, far_gateway));
            let (parted, traffic) = run.join().unwrap();
            assert!(read.is_ok() && has_heard.is_ok(), "{read:?}, {has_heard:?}: {traffic}");
            assert!(matches!(parted, Parted::Stopped), "{parted}");
            assert_eq!((traffic.down.messages, traffic.up.messages), (MESSAGES as u64, 0));
        });
    }
}
