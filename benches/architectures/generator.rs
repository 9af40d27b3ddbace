//! The generator: open loop, on a core of its own. It sends when a request is due, whatever became of those before it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;
use wstether::random::Random;

use super::record::Run;
use super::request::{REQUEST_BYTES, Request};

/// What a tether's socket may hold of the kernel's memory. The kernel doubles it, and a small datagram holds 768 bytes:
/// eight wait in front of the server, and what comes on top is lost there.
const RECEIVE_BUFFER_BYTES: usize = 3_072;

/// The generator's end: one socket that sends to every tether's, so that a machine which allows 20,000 open files has
/// room for 10,000 tethers.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: UdpSocket,
    tethers: Vec<SocketAddr>,
}

/// The generator's end, and the server's sockets, one a tether.
///
/// # Errors
/// No descriptors or ports left.
pub(crate) fn sockets(tethers: u32) -> io::Result<(Sender, Vec<UdpSocket>)> {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let tether = |_| {
        let socket = bind()?;
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        Ok(socket)
    };
    let theirs: Vec<UdpSocket> = (0..tethers).map(tether).collect::<io::Result<_>>()?;
    let tethers = theirs.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
    Ok((Sender { socket: bind()?, tethers }, theirs))
}

impl Sender {
    fn send(&self, request: Request) -> io::Result<()> {
        self.socket.send_to(&request.encode(), self.tethers[request.tether as usize])?;
        Ok(())
    }
}

/// What was offered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offered {
    /// In the counted part of the run.
    pub(crate) counted: u64,
    /// In the whole of it.
    pub(crate) ever: u64,
}

/// The order and the gaps are the same in each run.
const SEED: u64 = 0x5eda;

fn shuffle(random: &mut Random, items: &mut [u32]) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u32 + 1) as usize);
    }
}

/// Whose turn it is: each tether once a round, in an order of chance.
struct Turns {
    order: Vec<u32>,
    at: usize,
    random: Random,
}

impl Turns {
    fn new(tethers: usize) -> Self {
        let (mut order, mut random) = ((0..tethers as u32).collect::<Vec<_>>(), Random::new(SEED));
        shuffle(&mut random, &mut order);
        Self { order, at: 0, random }
    }

    fn next(&mut self) -> u32 {
        if self.at == self.order.len() {
            self.at = 0;
            shuffle(&mut self.random, &mut self.order);
        }
        self.at += 1;
        self.order[self.at - 1]
    }
}

/// Offers `rate_per_s` until the run's end, and waits by spinning: a sleep would be late by more than a gap.
pub(crate) fn open_loop(sender: &Sender, run: &Run, rate_per_s: f64) -> io::Result<Offered> {
    let (mut turns, mut offered) = (Turns::new(sender.tethers.len()), Offered::default());
    let (mean_ns, mut due_ns) = (1e9 / rate_per_s, 0.0);
    loop {
        due_ns += turns.random.exponential(mean_ns);
        let mut now_ns = run.now_ns();
        // A generator that cannot keep up ends in time, and shows what it did offer.
        if due_ns as u64 >= run.end_ns() || now_ns >= run.end_ns() {
            return Ok(offered);
        }
        while now_ns < due_ns as u64 {
            std::hint::spin_loop();
            now_ns = run.now_ns();
        }
        sender.send(Request { intended_ns: due_ns as u64, tether: turns.next() })?;
        offered.ever += 1;
        offered.counted += u64::from(run.is_counted(now_ns));
    }
}

/// How long nothing may come back before what is out counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(50);

/// Keeps `window` requests out until the run's end: the most that a server does when it is never idle and never swamped.
pub(crate) fn closed_loop(sender: &Sender, run: &Run, window: u64) -> io::Result<()> {
    let (mut turns, mut out_from, mut sent) = (Turns::new(sender.tethers.len()), 0, 0);
    let (mut served, mut served_at) = (0, Instant::now());
    while run.now_ns() < run.end_ns() {
        if run.served_ever() != served {
            (served, served_at) = (run.served_ever(), Instant::now());
        } else if served_at.elapsed() > LOST_AFTER {
            (out_from, sent, served_at) = (served, 0, Instant::now());
        }
        if out_from + sent < served + window {
            sender.send(Request { intended_ns: run.now_ns(), tether: turns.next() })?;
            sent += 1;
        } else {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

/// How many requests a second this generator can send, each of them to a socket that has room.
pub(crate) fn own_rate_per_s(sender: &Sender, theirs: &[UdpSocket]) -> io::Result<f64> {
    let mut turns = Turns::new(theirs.len());
    let (mut spent, mut sent) = (Duration::ZERO, 0_u32);
    let mut bytes = [0; REQUEST_BYTES];
    for _ in 0..OWN_RATE_ROUNDS {
        let started = Instant::now();
        for _ in 0..theirs.len() {
            sender.send(Request { intended_ns: started.elapsed().as_nanos() as u64, tether: turns.next() })?;
        }
        spent += started.elapsed();
        sent += theirs.len() as u32;
        // Emptied off the clock, so that each send is one that arrives.
        for socket in theirs {
            socket.recv(&mut bytes)?;
        }
    }
    Ok(f64::from(sent) / spent.as_secs_f64())
}

const OWN_RATE_ROUNDS: u32 = 20;
