use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use super::*;
use crate::budget::{Budget, Part};
use crate::io::sys;
use crate::link::testing::connected;
use crate::link::{Event, LinkError, Message, READ_TURN_BYTES_MIN, Reader, Turn, read_buffer_bytes};
use crate::random::Random;
use crate::runtime::lanes::LaneId;
use crate::transport::Transport;
use crate::wire::frame::{self, Opcode, Role, Subprotocol};

const KEY: [u8; 4] = [9, 8, 7, 6];
const MESSAGE_BYTES_MAX: usize = 65_536;
const PATIENCE: Duration = Duration::from_secs(20);

fn frame_of(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::append(opcode, payload, Some(KEY), &mut out);
    out
}

/// A link that is read now and then, and heard in between.
struct World {
    link: std::sync::Arc<Link>,
    peer: crate::link::testing::Peer,
    buffer: Vec<u8>,
    /// What was heard before its turn.
    early: Vec<Vec<u8>>,
    /// What came in turns, and whether it was marked as heard.
    came: Vec<(Vec<u8>, bool)>,
    closed: bool,
}

fn world() -> World {
    let (link, peer) = connected();
    link.upgraded(Subprotocol::Binary, MESSAGE_BYTES_MAX, &[]);
    let buffer = vec![0; read_buffer_bytes(MESSAGE_BYTES_MAX)];
    World { link, peer, buffer, early: Vec::new(), came: Vec::new(), closed: false }
}

impl World {
    fn listen(&mut self) -> Heard {
        self.link.listen(Instant::now(), &mut self.buffer, |message| {
            self.early.push(message.to_vec());
            true
        })
    }

    fn turn(&mut self) -> Result<Turn, LinkError> {
        let reader = Reader {
            buffer: &mut self.buffer,
            pool: None,
            budget_bytes: READ_TURN_BYTES_MIN,
            messages_max: usize::MAX,
        };
        let (came, closed) = (&mut self.came, &mut self.closed);
        self.link.receive(Instant::now(), reader, |event| {
            match event {
                Event::Message(message) => {
                    came.push((message.bytes().to_vec(), matches!(message, Message::Heard(_))));
                }
                Event::Close(_) => *closed = true,
            }
            Ok(())
        })
    }

    /// Listens until so many messages and pings were heard.
    fn listen_until(&mut self, heard: usize) {
        let (begun, mut so_far) = (Instant::now(), 0);
        while so_far < heard {
            assert!(begun.elapsed() < PATIENCE, "{so_far} of {heard} were heard");
            let Heard { messages, pings, .. } = self.listen();
            so_far += messages + pings;
        }
        assert_eq!(so_far, heard);
    }

    /// Gives turns until `is_enough`.
    fn turns_until(&mut self, is_enough: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_enough(self) {
            assert!(begun.elapsed() < PATIENCE, "{} came", self.came.len());
            self.turn().expect("an open link");
        }
    }

    fn tail_bytes(&self) -> usize {
        locked(&self.link.inbox).tail.len()
    }
}

#[test]
fn what_is_heard_early_comes_in_its_turn_as_it_was_sent_and_is_known_there() {
    let mut world = world();
    let messages: [&[u8]; 3] = [b"one", b"two", b"three"];
    messages.iter().for_each(|message| world.peer.send(Opcode::Binary, message));
    world.listen_until(3);
    assert_eq!((&world.early[..], world.came.len()), (&messages.map(<[u8]>::to_vec)[..], 0));
    world.peer.send(Opcode::Binary, b"four");
    world.turns_until(|world| world.came.len() == 4);
    let came: Vec<_> = world.came.iter().map(|(message, was_heard)| (&message[..], *was_heard)).collect();
    assert_eq!(came, [(&b"one"[..], true), (b"two", true), (b"three", true), (b"four", false)]);
    assert_eq!(world.tail_bytes(), 0);
    assert!(locked(&world.link.inbox).ear.is_none(), "nothing is left of it behind the turn");
}

#[test]
fn a_ping_is_answered_when_it_is_heard_and_not_once_more_in_its_turn() {
    let mut world = world();
    world.peer.send(Opcode::Binary, b"packets");
    world.peer.send(Opcode::Ping, b"well?");
    world.peer.send(Opcode::Pong, b"");
    world.listen_until(2);
    assert!(world.link.outbox().owes_pong());
    let pool = crate::packet::BufPool::new(1 << 20);
    world.link.flush(&mut world.link.outbox(), &pool).expect("an open link");
    assert!(!world.link.outbox().owes_pong());
    world.turns_until(|world| world.came.len() == 1 && world.tail_bytes() == 0);
    assert!(!world.link.outbox().owes_pong());
    world.peer.send(Opcode::Ping, b"and now?");
    let begun = Instant::now();
    while !world.link.outbox().owes_pong() {
        assert!(begun.elapsed() < PATIENCE);
        world.turn().expect("an open link");
    }
}

#[test]
fn whatever_is_heard_and_read_in_whatever_pieces_each_message_comes_once_in_order_and_is_heard_early_once_at_most() {
    const IN_SOCKETS_MAX: usize = 65_536;
    let seed = getrandom::u64().expect("random numbers");
    let mut random = Random::new(seed);
    let mut world = world();
    let (mut sent, mut bytes) = (Vec::new(), Vec::new());
    for number in 0..400_u32 {
        // Mostly small ones, now and then one that has a place of its own, one in fragments, or a sign of life.
        let size = [4, 40, 130, 1_400, 20_000][random.below(5) as usize];
        let mut message = vec![number as u8; size];
        message[..4].copy_from_slice(&number.to_be_bytes());
        match random.below(10) {
            0 => bytes.extend(frame_of(Opcode::Ping, b"?")),
            1 => bytes.extend(frame_of(Opcode::Pong, b"")),
            _ => {}
        }
        let mut frame = frame_of(Opcode::Binary, &message);
        if size < 126 && random.below(8) == 0 {
            let (mut first, rest) =
                (frame_of(Opcode::Binary, &message[..2]), frame_of(Opcode::Continuation, &message[2..]));
            first[0] &= 0x7f;
            frame = [first, rest].concat();
        }
        bytes.extend(frame);
        sent.push(message);
    }
    let mut at = 0;
    let begun = Instant::now();
    while world.came.len() < sent.len() {
        assert!(begun.elapsed() < PATIENCE, "seed {seed}: {} came", world.came.len());
        let came_bytes: usize = world.came.iter().map(|(message, _)| message.len()).sum();
        // No more than what the sockets hold.
        if at < came_bytes + IN_SOCKETS_MAX {
            let piece = (random.below(6_000) as usize).min(bytes.len() - at);
            world.peer.send_bytes(&bytes[at..at + piece]);
            at += piece;
        }
        if random.below(3) == 0 {
            assert!(world.turn().is_ok(), "seed {seed}");
        } else {
            world.listen();
        }
    }
    let (came, heard): (Vec<_>, Vec<_>) = world.came.iter().cloned().unzip();
    assert!(came == sent, "seed {seed}: not what was sent, in its order");
    let marked: Vec<_> =
        came.iter().zip(heard).filter_map(|(message, was_heard)| was_heard.then_some(message)).collect();
    assert!(
        marked.iter().copied().eq(&world.early),
        "seed {seed}: {} heard, {} marked",
        world.early.len(),
        marked.len()
    );
    assert!(!marked.is_empty(), "seed {seed}");
}

#[test]
fn a_message_that_is_denied_was_not_heard_nor_what_comes_behind_it() {
    let mut world = world();
    [b"yes", b"no!", b"yes"].iter().for_each(|message| world.peer.send(Opcode::Binary, *message));
    let (begun, mut heard) = (Instant::now(), 0);
    while locked(&world.link.inbox).ear.as_ref().is_none_or(|ear| ear.decoder.is_some()) {
        assert!(begun.elapsed() < PATIENCE);
        heard += world.link.listen(Instant::now(), &mut world.buffer, |message| message == b"yes").messages;
    }
    assert_eq!(heard, 1);
    world.turns_until(|world| world.came.len() == 3);
    assert_eq!(world.came.iter().map(|(_, was_heard)| *was_heard).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn no_more_is_read_before_the_turn_than_some_turns_bring() {
    const MESSAGES: usize = 300;
    let mut world = world();
    (0..MESSAGES).for_each(|_| world.peer.send(Opcode::Binary, &[5; 200]));
    let begun = Instant::now();
    while world.tail_bytes() < HEARD_BYTES_MAX {
        assert!(begun.elapsed() < PATIENCE);
        world.listen();
    }
    assert_eq!(world.tail_bytes(), HEARD_BYTES_MAX);
    assert_eq!(world.listen(), Heard::default(), "not all of them wait for their turn");
    assert_eq!(world.early.len(), HEARD_BYTES_MAX / frame_of(Opcode::Binary, &[5; 200]).len());
    // Each turn brings as much of it as of what is read by it.
    let before = world.came.len();
    assert_eq!(world.turn().expect("an open link"), Turn::More);
    let brought = (world.came.len() - before) * frame_of(Opcode::Binary, &[5; 200]).len();
    assert!((READ_TURN_BYTES_MIN..READ_TURN_BYTES_MIN + 300).contains(&brought), "{brought} bytes in one turn");
    world.turns_until(|world| world.came.len() == MESSAGES);
}

#[test]
fn what_ends_a_link_does_so_in_its_turn_behind_what_came_before_it() {
    let unmasked = {
        let mut out = Vec::new();
        frame::append(Opcode::Binary, b"", None, &mut out);
        out
    };
    for (what, end) in
        [("a broken rule", Some(unmasked)), ("a close", Some(frame_of(Opcode::Close, &[]))), ("no word", None)]
    {
        let mut world = world();
        world.peer.send(Opcode::Binary, b"last");
        world.listen_until(1);
        match &end {
            Some(bytes) => world.peer.send_bytes(bytes),
            None => world.peer.leave(),
        }
        let begun = Instant::now();
        while !world.listen().has_read {
            assert!(begun.elapsed() < PATIENCE, "{what}");
        }
        if end.is_some() {
            world.peer.send(Opcode::Binary, b"behind it");
        }
        assert_eq!(world.listen(), Heard::default(), "{what}: nothing is heard behind it");
        let end = loop {
            match world.turn() {
                Ok(_) if world.closed => break "closed".to_owned(),
                Ok(_) => assert!(begun.elapsed() < PATIENCE, "{what}"),
                Err(error) => break error.to_string(),
            }
        };
        let expected = match what {
            "a broken rule" => "a client's frame is not masked",
            "a close" => "closed",
            _ => "the peer closed the connection",
        };
        assert_eq!((&end[..], &world.came[..]), (expected, &[(b"last".to_vec(), true)][..]), "{what}");
    }
}

#[test]
fn behind_an_error_of_its_turn_a_link_is_not_heard_and_nothing_comes_of_what_is_read() {
    let mut world = world();
    world.peer.send(Opcode::Binary, b"enough");
    world.listen_until(1);
    let reader =
        Reader { buffer: &mut world.buffer, pool: None, budget_bytes: READ_TURN_BYTES_MIN, messages_max: usize::MAX };
    let turn = world.link.receive(Instant::now(), reader, |_| Err::<(), _>(LinkError::NoMemory));
    assert!(matches!(turn, Err(LinkError::NoMemory)));
    world.peer.send_bytes(b"x");
    let link = std::sync::Arc::clone(&world.link);
    let is_there = |limit| sys::wait_readable(link.transport().as_fd(), limit).expect("a socket");
    assert!(is_there(PATIENCE), "it came");
    assert_eq!(world.listen(), Heard::default());
    assert!(is_there(Duration::ZERO), "it is left where it is");
    assert!(world.turn().is_ok());
    assert!(!is_there(Duration::ZERO) && world.came.is_empty(), "it was read, and nothing came of it");
}

#[test]
fn a_large_message_waits_for_its_turn_in_the_memory_that_it_leaves_in() {
    let mut world = world();
    let pool = crate::packet::BufPool::new(1 << 20);
    let frame = frame_of(Opcode::Binary, &[3; 40_000]);
    world.peer.send_bytes(&frame[..20_000]);
    let begun = Instant::now();
    while pool.held_bytes() == 0 {
        assert!(begun.elapsed() < PATIENCE);
        let reader = Reader {
            buffer: &mut world.buffer,
            pool: Some(&pool),
            budget_bytes: READ_TURN_BYTES_MIN,
            messages_max: usize::MAX,
        };
        world.link.receive::<LinkError>(Instant::now(), reader, |_| Ok(())).expect("an open link");
    }
    world.peer.send_bytes(&frame[20_000..]);
    assert_eq!((world.listen(), world.tail_bytes()), (Heard::default(), 0));
}

#[test]
fn who_finds_no_memory_reads_nothing_before_the_turn() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mut peer = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    let (near, _) = listener.accept().expect("a connection");
    near.set_nonblocking(true).expect("non-blocking");
    let transport = Transport::new(mio::net::TcpStream::from_std(near), None).expect("a transport");
    let budget = Budget::undivided(HEARD_BYTES_MAX as u64);
    let mut others = budget.share(Part::Fixed);
    let link = Link::new(LaneId(0), transport, Role::Server, Instant::now())
        .drawing_on(budget.share(Part::Links), budget.share(Part::Messages));
    link.upgraded(Subprotocol::Binary, MESSAGE_BYTES_MAX, &[]);
    peer.write_all(&frame_of(Opcode::Binary, b"news")).expect("room");
    let mut buffer = vec![0; read_buffer_bytes(MESSAGE_BYTES_MAX)];
    assert!(others.set(4_096));
    assert_eq!(link.listen(Instant::now(), &mut buffer, |_| panic!("nothing is heard")), Heard::default());
    assert_eq!(budget.refused(), 0, "who can do without is not refused");
    assert!(others.set(0));
    let (begun, mut heard) = (Instant::now(), 0);
    while heard == 0 {
        assert!(begun.elapsed() < PATIENCE);
        heard = link.listen(Instant::now(), &mut buffer, |message| message == b"news").messages;
    }
    assert_eq!(budget.held_bytes(), 0, "what is kept of an idle link's buffers is counted with the link");
}
