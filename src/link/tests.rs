use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::acknowledge::{ACK_CREDIT_PART, ACK_PAUSE_US, ACK_SMALL_BYTES, ACK_TURNS_MAX};
use super::*;
use crate::metrics::decisions::{Change, Controller, Decisions, TOO_SHORT};
use crate::packet::Checksum;
use crate::random::Random;
use crate::tether_links::Windows;
use crate::wire::frame::{self, Opcode, close_code};

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A link of a gateway, upgraded, and its peer.
fn pair() -> (Link, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_nonblocking(true).expect("non-blocking");
    let transport = Transport::new(mio::net::TcpStream::from_std(stream), None).expect("a transport");
    (Link::new(LaneId(0), transport, Role::Server, Instant::now()), peer)
}

/// Reads what is there and gives each message to `each`.
fn receive(
    link: &Link,
    buffer: &mut [u8],
    pool: Option<&BufPool>,
    mut each: impl FnMut(Message<'_>),
) -> Result<Turn, LinkError> {
    let reader = Reader { buffer, pool, budget_bytes: READ_BUDGET_BYTES, messages_max: usize::MAX };
    link.receive::<LinkError>(Instant::now(), reader, |event| {
        if let Event::Message(message) = event {
            each(message);
        }
        Ok(())
    })
}

#[test]
fn a_tail_that_is_larger_than_the_readers_buffer_is_decoded() {
    let (link, _peer) = pair();
    let mut rest = Vec::new();
    for _ in 0..50 {
        frame::append(Opcode::Binary, &[7; 4_000], Some(MASK), &mut rest);
    }
    rest.extend_from_slice(&[0x82, 0xff]);
    link.upgraded(Subprotocol::Binary, 4_096, &rest);
    let (mut messages, mut buffer) = (0, vec![0; read_buffer_bytes(4_096)]);
    assert!(rest.len() > buffer.len());
    let turn = receive(&link, &mut buffer, None, |message| {
        messages += usize::from(message.bytes() == [7; 4_000]);
    });
    assert_eq!((turn.expect("a turn"), messages), (Turn::Drained, 50));
    assert_eq!(locked(&link.inbox).tail, [0x82, 0xff], "the start of a frame");
}

#[test]
fn a_little_is_taken_for_all_that_there_is_until_readiness_has_told_of_the_end_behind_it() {
    for (told, expected) in [(false, Ok(Turn::Drained)), (true, Err("the peer closed the connection"))] {
        let (link, mut peer) = pair();
        link.upgraded(Subprotocol::Binary, 65_536, &[]);
        let mut frame = Vec::new();
        frame::append(Opcode::Binary, b"little", Some(MASK), &mut frame);
        peer.write_all(&frame).expect("room");
        peer.shutdown(std::net::Shutdown::Write).expect("a connection");
        if told {
            link.peer_ends();
        }
        let (messages, mut buffer) = (std::cell::Cell::new(0), vec![0; read_buffer_bytes(65_536)]);
        let mut receive = || receive(&link, &mut buffer, None, |_| messages.set(messages.get() + 1));
        let begun = Instant::now();
        // The end comes behind the message, and both take a moment on their way.
        let turn = loop {
            match receive() {
                Ok(Turn::Drained) if messages.get() == 0 || told => assert!(begun.elapsed() < Duration::from_secs(20)),
                turn => break turn.map_err(|error| error.to_string()),
            }
        };
        assert_eq!((turn, messages.get()), (expected.map_err(str::to_owned), 1));
    }
}

#[test]
fn a_turn_brings_no_more_than_its_budget_and_says_that_more_is_there() {
    const MESSAGES: usize = 100;
    let (link, mut peer) = pair();
    link.upgraded(Subprotocol::Binary, 65_536, &[]);
    let mut frames = Vec::new();
    (0..MESSAGES).for_each(|_| frame::append(Opcode::Binary, &[7; 200], Some(MASK), &mut frames));
    peer.write_all(&frames).expect("room");
    let (mut buffer, mut messages, mut turns) = (vec![0; read_buffer_bytes(65_536)], 0, 0);
    let begun = Instant::now();
    while messages < MESSAGES {
        assert!(begun.elapsed() < Duration::from_secs(20), "{messages} came");
        let before = messages;
        let reader =
            Reader { buffer: &mut buffer, pool: None, budget_bytes: READ_TURN_BYTES_MIN, messages_max: usize::MAX };
        let turn = link.receive::<LinkError>(Instant::now(), reader, |event| {
            messages += usize::from(matches!(event, Event::Message(message) if message.bytes() == [7; 200]));
            Ok(())
        });
        let brought = messages - before;
        assert!(brought * 200 <= READ_TURN_BYTES_MIN, "{brought} in one turn");
        // What fills the budget is no sign that nothing else is there, and readiness does not tell again.
        let is_full = turn.expect("a turn") == Turn::More;
        turns += usize::from(is_full);
        assert!(is_full || brought == 0 || messages == MESSAGES, "{messages} came, and no more was said to be there");
    }
    assert!(turns >= frames.len() / READ_TURN_BYTES_MIN - 1, "{turns} turns");
}

#[test]
fn messages_are_the_same_whatever_pieces_they_come_in_and_large_ones_have_buffers_of_their_own() {
    let seed = getrandom::u64().expect("random numbers");
    let mut random = Random::new(seed);
    let (link, mut peer) = pair();
    peer.set_nodelay(true).expect("a connection");
    link.upgraded(Subprotocol::Binary, 262_144, &[]);
    let sizes = [0, 5, 1_400, 16_000, 40_000, 65_550, 65_600, 200_000];
    let (mut sent, mut stream) = (Vec::new(), Vec::new());
    let mut turn = 0;
    for at in 0..200_u32 {
        // Each size as often as the others, from another one on each time.
        if at % sizes.len() as u32 == 0 {
            turn = random.below(sizes.len() as u32);
        }
        let size = sizes[(at + turn) as usize % sizes.len()];
        let message: Vec<u8> = (0..size).map(|byte| (byte as u32 * 7 + at) as u8).collect();
        frame::append(Opcode::Binary, &message, Some(at.to_be_bytes()), &mut stream);
        frame::append(Opcode::Ping, b"alive?", Some(MASK), &mut stream);
        sent.push(message);
    }
    let writer = std::thread::spawn(move || {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let piece = rest.len().min((1 + random.below(150_000)) as usize);
            peer.write_all(&rest[..piece]).expect("the link reads");
            rest = &rest[piece..];
        }
        peer
    });
    let (pool, mut buffer) = (BufPool::new(1 << 20), vec![0; read_buffer_bytes(262_144)]);
    let (mut came, mut owned_bytes) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while came.len() < sent.len() {
        receive(&link, &mut buffer, Some(&pool), |message| {
            came.push(message.bytes().to_vec());
            if let Message::Owned(buf) = message {
                owned_bytes.push(buf.len());
            }
        })
        .expect("an open link");
        assert!(begun.elapsed() < Duration::from_secs(60), "seed {seed}: it did not come");
    }
    assert!(came == sent, "seed {seed}");
    assert!(
        owned_bytes.len() > 10 && owned_bytes.iter().all(|bytes| (40_000..=65_550).contains(bytes)),
        "seed {seed}: {owned_bytes:?}"
    );
    assert_eq!(pool.held_bytes(), 0);
    drop(writer.join().expect("no panic"));
}

#[test]
fn where_memory_is_short_a_large_message_waits_in_the_memory_of_what_has_come_of_it() {
    for is_short in [false, true] {
        let (link, mut peer) = pair();
        link.upgraded(Subprotocol::Binary, 65_536, &[]);
        let pool = BufPool::new(400_000);
        let held: Vec<_> = (0..if is_short { 4 } else { 0 }).map(|_| pool.take(60_000).expect("a buffer")).collect();
        let held_bytes = pool.held_bytes();
        let (mut stream, mut buffer, mut came) = (Vec::new(), vec![0; read_buffer_bytes(65_536)], Vec::new());
        frame::append(Opcode::Binary, &[7; 60_000], Some(MASK), &mut stream);
        for (part, messages) in [(&stream[..30_000], 0), (&stream[30_000..], 1)] {
            peer.write_all(part).expect("room");
            let begun = Instant::now();
            let has_all = |link: &Link, came: &Vec<Vec<u8>>| {
                let inbox = locked(&link.inbox);
                came.len() == 1 || inbox.tail.len() == 30_000 || inbox.placed_bytes() == 30_000
            };
            while !has_all(&link, &came) || came.len() < messages {
                receive(&link, &mut buffer, Some(&pool), |message| came.push(message.bytes().to_vec())).expect("open");
                assert!(begun.elapsed() < Duration::from_secs(20), "it did not come");
            }
            let waits_beside_the_pool = messages == 0 && is_short;
            assert_eq!(locked(&link.inbox).tail.len(), if waits_beside_the_pool { 30_000 } else { 0 });
            assert_eq!(pool.held_bytes() > held_bytes, messages == 0 && !is_short);
        }
        assert!(came == [vec![7; 60_000]]);
        drop(held);
    }
}

#[test]
fn a_packet_begins_below_the_offset_that_the_peer_told_headers_included_and_all_of_the_credit_is_used() {
    const OFFSET: u64 = 20_000;
    let pool = BufPool::new(1 << 20);
    let partial = Offload { checksum: Checksum::Partial { start: 20, offset: 16 }, ..Offload::default() };
    for (packet_bytes, offload) in [(20, Offload::default()), (40, partial), (1_400, partial), (65_535, partial)] {
        let (link, _peer) = pair();
        let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: None };
        link.opened(Arc::new(TetherLinks::new(LaneId(0), windows)), Features::SUPER_PACKETS, 65_536, Some(OFFSET));
        loop {
            // All has arrived, so that the window is open.
            assert!(link.acked(Instant::now(), link.counts.sent.load(Ordering::Relaxed)));
            // A lane spends what it is allowed in bytes of packets, and its last one may be longer than what is left.
            let mut allowance = link.sendable_bytes();
            if allowance == 0 {
                break;
            }
            while allowance > 0 {
                assert!(link.counts.sent.load(Ordering::Relaxed) < OFFSET, "packets of {packet_bytes} bytes");
                link.push_datagram(&mut link.outbox(), pool.copy(&vec![7; packet_bytes]).expect("room"), offload);
                allowance = allowance.saturating_sub(packet_bytes as u64);
            }
        }
        assert!(link.counts.sent.load(Ordering::Relaxed) >= OFFSET, "packets of {packet_bytes} bytes");
    }
}

#[test]
fn what_a_links_window_changes_is_told_by_its_tether() {
    const ROUND_TRIP: Duration = Duration::from_millis(40);
    let (pool, (link, _peer), decisions) = (BufPool::new(1 << 24), pair(), Arc::<Decisions>::default());
    let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: None };
    let tether = TetherLinks::new(LaneId(0), windows).telling(Arc::clone(&decisions));
    link.opened(Arc::new(tether), Features::SUPER_PACKETS, 65_536, None);
    let mut now = Instant::now();
    for _ in 0..4 {
        // The whole window at once, of which all arrives a round trip later: it is too short, and makes no queue.
        while link.sendable_bytes() > 0 {
            link.push_datagram(&mut link.outbox(), pool.copy(&[7; 1_400]).expect("room"), Offload::default());
            link.note_sent(now);
        }
        now += ROUND_TRIP;
        assert!(link.acked(now, link.counts.sent.load(Ordering::Relaxed)));
    }
    assert!(decisions.counted(Controller::Window, Change::Up, TOO_SHORT) > 0, "{decisions:?}");
}

/// Fills the socket; returns how many bytes were given to the link.
fn block(link: &Link, pool: &BufPool) -> usize {
    let (mut outbox, mut count) = (link.outbox(), 0);
    while !link.is_blocked() {
        outbox.push(pool.copy(&[0; 60_000]).expect("a buffer"));
        link.flush(&mut outbox, pool).expect("a connection");
        count += 1;
    }
    count
}

#[test]
fn a_goodbye_behind_a_full_socket_arrives_though_the_peer_was_not_read() {
    let (pool, (link, mut peer)) = (BufPool::new(64 << 20), pair());
    link.upgraded(Subprotocol::Binary, 65_536, &[]);
    peer.write_all(b"unread").expect("room");
    let messages = block(&link, &pool);
    link.close(close_code::GOING_AWAY, "", &pool);
    link.abandon();
    let (reader, mut scratch) = (
        std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        }),
        [0; 1_024],
    );
    while !link.see_off(&mut scratch, &pool) {
        std::thread::yield_now();
    }
    let all = reader.join().expect("no panic").expect("an end in order");
    assert_eq!(all.len(), messages * 60_004 + 4);
    assert_eq!(all[all.len() - 4..], [0x88, 2, 0x03, 0xe9]);
}

#[test]
fn nothing_is_written_behind_a_close_frame() {
    let (pool, (link, mut peer)) = (BufPool::new(1 << 20), pair());
    link.upgraded(Subprotocol::Binary, 65_536, &[]);
    link.close(close_code::NORMAL, "", &pool);
    link.close(close_code::GOING_AWAY, "", &pool);
    let mut outbox = link.outbox();
    outbox.push(pool.copy(b"late").expect("a buffer"));
    assert!(link.flush(&mut outbox, &pool).is_err());
    let mut all = Vec::new();
    peer.read_to_end(&mut all).expect("an end in order");
    assert_eq!(all, [0x88, 2, 0x03, 0xe8]);
}

/// What the outbox makes of what waits, all of it.
fn framed(outbox: &mut Outbox, pool: &BufPool) -> Vec<u8> {
    let mut framed = Vec::new();
    while outbox.frame(Subprotocol::Base64, Role::Server, pool) {
        let mut write = |slices: &[IoSlice<'_>]| {
            framed.extend_from_slice(&slices[0]);
            Ok(crate::transport::Written { bytes: slices[0].len(), blocked: false })
        };
        while !outbox.is_empty() {
            outbox.write_to(&mut write).expect("written");
        }
    }
    framed
}

#[test]
fn a_base64_message_without_memory_waits_whole_and_control_goes_ahead_of_it() {
    let text = |message: &[u8]| {
        let mut frame = Vec::new();
        frame::append_base64(message, None, &mut frame);
        frame
    };
    // As text it takes two buffers, and the one pool has one.
    for (pool_bytes, expected) in [
        (70_000, vec![text(b"control"), text(&[7; 60_000])]),
        (1 << 20, vec![text(&[b"control".as_slice(), &[7; 60_000]].concat()), vec![]]),
    ] {
        let (mut outbox, room) = (Outbox::default(), BufPool::new(1 << 20));
        outbox.control(|out| out.extend_from_slice(b"control"));
        outbox.push(room.copy(&[7; 60_000]).expect("a buffer"));
        let parts = vec![framed(&mut outbox, &BufPool::new(pool_bytes)), framed(&mut outbox, &room)];
        assert!(parts == expected, "of a pool of {pool_bytes} bytes");
    }
}

#[test]
fn nothing_follows_a_close_frame_though_a_packet_waited_for_memory() {
    let (mut outbox, room) = (Outbox::default(), BufPool::new(1 << 20));
    outbox.push(room.copy(&[7; 60_000]).expect("a buffer"));
    outbox.close(close_code::NORMAL, "");
    assert_eq!(framed(&mut outbox, &BufPool::new(0)), [0x88, 2, 0x03, 0xe8]);
    assert!(framed(&mut outbox, &room).is_empty());
}

#[test]
fn much_is_acknowledged_at_once_but_not_each_super_packet_of_a_fast_link() {
    let (link, _peer) = pair();
    let at_us = |us| link.born() + Duration::from_micros(us);
    let tell = |us| link.tell_received(at_us(us), &mut link.outbox(), None);
    link.count_received(ACK_EVERY_BYTES as usize - 1);
    assert!(!link.owes_ack_now(at_us(10_000), None), "little can wait");
    link.count_received(1);
    assert!(link.owes_ack_now(at_us(10_000), None));
    tell(10_000);
    link.count_received(ACK_EVERY_BYTES as usize);
    assert!(!link.owes_ack_now(at_us(10_000 + ACK_PAUSE_US - 1), None), "the last one was just now");
    assert!(link.owes_ack_now(at_us(10_000 + ACK_PAUSE_US), None));
    let small = ACK_CREDIT_PART * ACK_EVERY_BYTES;
    assert!(link.owes_ack_now(at_us(10_001), Some(small)), "a small credit would run out meanwhile");
    assert!(!link.owes_ack_now(at_us(10_001), Some(small + ACK_CREDIT_PART)));
}

#[test]
fn an_acknowledgement_of_little_is_put_off_a_few_times_and_one_of_a_packet_is_not() {
    let (link, _peer) = pair();
    let turns = |bytes: u64, urgent: bool| {
        link.count_received(bytes as usize);
        assert!(link.schedule_ack());
        let put_off = std::iter::from_fn(|| (!link.ack_is_due(urgent)).then_some(())).count();
        let mut outbox = link.outbox();
        link.tell_received(Instant::now(), &mut outbox, None);
        put_off
    };
    assert_eq!(turns(ACK_SMALL_BYTES - 1, false), ACK_TURNS_MAX as usize - 1);
    assert_eq!(turns(ACK_SMALL_BYTES, false), 0);
    assert_eq!(turns(100, true), 0, "who is out of credit is told soon");
    assert_eq!(turns(100, false), ACK_TURNS_MAX as usize - 1, "each is put off by itself");
    assert_eq!(turns(0, false), 0, "a message has taken it along");
}

#[test]
fn on_a_link_of_which_nothing_is_known_super_packets_are_cut_whatever_held_of_the_one_before() {
    let windows = Windows { send_bytes_max: 1 << 20, credit_bytes: None };
    let tether = Arc::new(TetherLinks::new(LaneId(0), windows));
    assert_eq!(tether.cut_bytes(), u64::MAX);
    for _ in 0..2 {
        let (link, _peer) = pair();
        link.opened(Arc::clone(&tether), Features::SUPER_PACKETS, 65_536, None);
        assert_eq!(tether.cut_bytes(), crate::window::PACKET_BYTES);
        // An acknowledgement has told that the link was fast.
        tether.set_cut_bytes(u64::MAX);
    }
}
