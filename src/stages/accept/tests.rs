use super::*;
use crate::link::testing::*;
use crate::wire::capsule::{Features, append_ack};
use crate::wire::frame::{self, Opcode};
use crate::wire::proof::{CredentialId, Proof};

const REQUEST: &str = "GET /wstether HTTP/1.1\r\nHost: gateway.example\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: wstether.v1\r\n\r\n";

struct World {
    accept: Accept<Keeper>,
    keeper: Arc<Keeper>,
    link: Arc<Link>,
    peer: Peer,
}

fn world_with(refusal: Option<Refusal>) -> World {
    let (link, peer) = connected();
    let (pending, keeper) = (Arc::new(Table::new(8)), Keeper::refusing(refusal));
    pending.put(LINK, Arc::new(Pending::new(Arc::clone(&link))));
    let accept = Accept { pending, pool: BufPool::new(1 << 20), path: "/wstether".into(), door: Arc::clone(&keeper) };
    World { accept, keeper, link, peer }
}

fn world() -> World {
    world_with(None)
}

impl World {
    fn handle(&self) {
        let mut work = WorkOf::<Accept<Keeper>>::default();
        work.batch.lanes = vec![LINK];
        self.accept.handle(Instant::now(), &mut work);
        assert!(work.out.is_empty() && work.outcomes.is_empty());
        assert_eq!(work.tally.received.segments, 0, "a connection is no packet");
    }

    fn until_told(&self) -> Vec<Told> {
        until(|| self.handle(), || !self.keeper.told().is_empty());
        self.keeper.told()
    }

    /// Sends the request, and reads the answer to its end.
    fn upgrade(&mut self) -> String {
        self.peer.send_bytes(REQUEST.as_bytes());
        until(|| self.handle(), || self.link.subprotocol().is_some());
        self.peer.read_to(b"\r\n\r\n")
    }

    /// What a connection comes to that was upgraded and then sent this.
    fn after_upgrade(&mut self, opcode: Opcode, payload: &[u8]) -> Vec<Told> {
        self.upgrade();
        self.peer.send(opcode, payload);
        self.until_told()
    }
}

fn hello() -> Hello {
    Hello {
        features: Features::default(),
        credential: CredentialId::new(*b"abcd1234").expect("its letters"),
        nonce: Nonce([2; 32]),
        ticket: Vec::new(),
        link: 0,
        mtu: 1_500,
        proof: Proof([3; 32]),
    }
}

fn hello_bytes() -> Vec<u8> {
    let mut out = Vec::new();
    hello().append(&mut out);
    out
}

#[test]
fn a_connection_is_upgraded_challenged_and_let_in() {
    let mut world = world();
    let answer = world.upgrade();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    let challenge = world.peer.message();
    assert!(matches!(capsules(&challenge)[..], [Capsule::Challenge(_)]));
    assert_eq!(world.keeper.told(), []);
    world.peer.send(Opcode::Binary, &hello_bytes());
    assert_eq!(world.until_told(), [Told::Admit(Box::new(hello())), Told::Opened]);
    world.keeper.forget();
    world.handle();
    assert_eq!(world.keeper.told(), [Told::Opened], "from now on it is ws-decode's");
}

#[test]
fn who_pings_and_does_not_read_before_its_hello_costs_the_same_memory_however_often() {
    let mut world = world();
    world.upgrade();
    // More than any socket takes.
    world.link.outbox().raw(&vec![0; 64 << 20]);
    let World { accept, link, peer, .. } = &mut world;
    let mut work = WorkOf::<Accept<Keeper>>::default();
    let mut ping = || {
        peer.send(Opcode::Ping, &[7; 125]);
        work.batch.lanes = vec![LINK];
        accept.handle(Instant::now(), &mut work);
    };
    let held_bytes = || (accept.pool.held_bytes(), link.outbox().own_bytes());
    until(&mut ping, || link.outbox().owes_pong());
    let before = held_bytes();
    for pings in 1..2_000 {
        ping();
        assert_eq!(held_bytes(), before, "after {pings} pings");
    }
    assert!(world.link.is_blocked());
}

#[test]
fn a_request_may_come_in_pieces_and_the_hello_right_behind_it() {
    let mut world = world();
    let mut bytes = REQUEST.as_bytes().to_vec();
    frame::append(Opcode::Binary, &hello_bytes(), Some([5; 4]), &mut bytes);
    for piece in bytes.chunks(50) {
        world.peer.send_bytes(piece);
        world.handle();
    }
    assert_eq!(world.until_told()[0], Told::Admit(Box::new(hello())));
}

#[test]
fn what_is_no_request_of_ours_is_answered_in_http_and_is_a_bad_request() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: gateway.example\r\n\r\n".to_owned(), "404"),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n".to_owned(), "400"),
        (format!("GET /wstether HTTP/1.1\r\nCookie: {}", "x".repeat(HEAD_BYTES_MAX)), "431"),
        (REQUEST.replace("wstether.v1", "chat"), "400"),
        (REQUEST.replace("Version: 13", "Version: 8"), "426"),
    ];
    for (request, status) in cases {
        let mut world = world();
        world.peer.send_bytes(request.as_bytes());
        assert_eq!(world.until_told(), [Told::TurnedAway(Reason::BadRequest)], "{status}");
        let answer = world.peer.read_to(b"\r\n\r\n");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
}

#[test]
fn frames_against_the_rules_are_a_bad_handshake_and_closed_with_their_code() {
    for (opcode, len, code) in [(Opcode::Text, 4, 1003), (Opcode::Binary, HANDSHAKE_MESSAGE_BYTES_MAX + 1, 1009)] {
        let mut world = world();
        let told = world.after_upgrade(opcode, &vec![b'A'; len]);
        assert_eq!(told, [Told::TurnedAway(Reason::BadHandshake)]);
        assert_eq!(world.peer.close_code(), Some(code));
    }
}

#[test]
fn what_is_no_hello_is_refused_as_a_bad_handshake() {
    let mut ack = Vec::new();
    append_ack(1, &mut ack);
    // HELLO of version 2: type, length, version.
    let other_version = [0x80, 0x77, 0x73, 0x02, 1, 2];
    for (first, reason) in [
        (&ack[..], RefusalReason::BadHandshake),
        (&[0x00, 60, 0], RefusalReason::BadHandshake),
        (&other_version, RefusalReason::UnsupportedVersion),
    ] {
        let mut world = world();
        assert_eq!(world.after_upgrade(Opcode::Binary, first), [Told::TurnedAway(Reason::BadHandshake)]);
        assert_refused(&mut world, reason);
    }
}

/// The refusal follows the challenge, in its message or in one of its own, and the close frame follows it.
fn assert_refused(world: &mut World, reason: RefusalReason) {
    let told = loop {
        let message = world.peer.message();
        if let Some(Capsule::Refusal(refusal)) = capsules(&message).pop() {
            break refusal.reason;
        }
    };
    assert_eq!(told, reason);
    assert_eq!(world.peer.close_code(), Some(reason.close_code()));
}

#[test]
fn whom_the_door_refuses_is_told_why_and_counted_by_it() {
    for (refused, reason) in [
        (RefusalReason::BadCredential, Reason::BadCredential),
        (RefusalReason::NoAddress, Reason::NoAddress),
        (RefusalReason::Busy, Reason::Overload),
        (RefusalReason::AlreadyConnected, Reason::AlreadyConnected),
        (RefusalReason::ShuttingDown, Reason::BadHandshake),
    ] {
        let refusal = Refusal { reason: refused, retry_after_ms: 7, text: "no".into() };
        let mut world = world_with(Some(refusal));
        let told = world.after_upgrade(Opcode::Binary, &hello_bytes());
        assert_eq!(told, [Told::Admit(Box::new(hello())), Told::TurnedAway(reason)]);
        assert_refused(&mut world, refused);
    }
}

#[test]
fn who_leaves_before_or_after_the_upgrade_is_counted_as_gone() {
    let world = world();
    world.peer.leave();
    assert_eq!(world.until_told(), [Told::TurnedAway(Reason::PeerLeft)]);
    let mut world = self::world();
    assert_eq!(world.after_upgrade(Opcode::Close, &[]), [Told::TurnedAway(Reason::PeerLeft)]);
}

#[test]
fn a_handshake_that_was_given_up_is_not_turned_away_again_by_a_signal_that_was_on_its_way() {
    for was_upgraded in [false, true] {
        let mut world = world();
        if was_upgraded {
            world.upgrade();
        }
        // What tidying does with one that takes too long, but for taking it out of the table.
        assert!(world.accept.pending.get(LINK).is_some_and(|pending| pending.give_up()));
        world.link.close(close_code::NORMAL, "", &world.accept.pool);
        world.handle();
        assert_eq!(world.keeper.told(), [], "upgraded: {was_upgraded}");
    }
}
