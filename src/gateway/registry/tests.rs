use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Weak;

use super::*;
use crate::budget::Part;
use crate::metrics::labels;
use crate::nat::Translation;
use crate::packet::Offload;
use crate::policy::Policy;
use crate::runtime::attend::Attend;
use crate::stages::accept::{Doorkeeper as _, RETRY_AFTER_MS};
use crate::transport::Transport;
use crate::wire::capsule::{Capsule, Capsules, Hello, RefusalReason};
use crate::wire::frame::{self, Opcode, Role, Subprotocol};
use crate::wire::proof::{CredentialId, Nonce, Proof, Verifier};

mod refusals;

const LINGER: Duration = Duration::from_secs(60);

fn registry() -> Arc<Registry> {
    let addresses = vec![Ipv4Addr::new(198, 51, 100, 1).into()];
    let translation = Translation::Gateway { addresses, ports: 10_000..=19_999, block_ports: 1_000 };
    let plan = AddressPlan::new("100.64.0.0/16".parse().expect("a prefix"), translation).expect("a plan");
    let (plan, pool) = (Arc::new(plan), BufPool::new(1 << 20));
    let fixed = pool.budget().share(Part::Fixed);
    let nowhere = std::env::temp_dir().join(format!("wstether-nobody-{}", std::process::id()));
    Registry::new(Parts {
        terms: Terms {
            mtu_bytes: 1_400,
            path: "/wstether".to_owned(),
            features: Features::SUPER_PACKETS,
            credit_bytes: 1 << 20,
            window_bytes_max: 1 << 20,
            message_bytes_max: 65_536,
            keep_alive: Duration::from_secs(30),
            linger: LINGER,
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 4,
            handshakes_per_address: 4,
            tethers_max: 4,
            tethers_per_credential_max: 0,
            trimmed_to_percent: 50,
            overload_retry: Retry::DEFAULT,
            window: window::Settings::DEFAULT,
            credit: credit::Settings::DEFAULT,
        },
        links_max: 4,
        credentials: CredentialStore::load(&nowhere).expect("no credential is a store too"),
        guard_rules: Arc::new(ip_parse::Rules {
            plan: Arc::clone(&plan),
            policy: Arc::new(Policy::new(vec![], vec![], vec![])),
            mtu_bytes: 1_400.into(),
            pool: pool.clone(),
        }),
        nat_rules: Arc::new(nat::Rules {
            plan,
            timers: nat::Timers::default(),
            filtering: nat::Filtering::default(),
            resolver: None,
            mtu_bytes: 1_400,
            mappings_max: 16,
            mappings_per_second: 100,
            remotes_max: 4,
            pool: pool.clone(),
            overload: Overload::default(),
        }),
        pool,
        overload: Overload::default(),
        fixed,
        metrics: GatewayMetrics::new(&labels::<accept::Reason>()),
    })
}

/// A connection that came in, and its peer.
fn come(registry: &Registry, now: Instant) -> (Arc<Link>, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_nonblocking(true).expect("non-blocking");
    let transport = Transport::new(mio::net::TcpStream::from_std(stream), None).expect("a transport");
    let lane = registry.links.reserve().expect("a place");
    let link = Arc::new(Link::new(lane, transport, Role::Server, now));
    registry.metrics.handshakes.add(1);
    registry.pending.put(lane, Arc::new(Pending::new(Arc::clone(&link))));
    registry.links.put(lane, Arc::clone(&link));
    (link, peer)
}

fn hello(ticket: &[u8]) -> Hello {
    Hello {
        features: Features::SUPER_PACKETS,
        credential: CredentialId::new(*b"k7m2p9xq").expect("an id"),
        nonce: Nonce::random().expect("random"),
        ticket: ticket.to_vec(),
        link: 0,
        mtu: 1_400,
        proof: Proof::default(),
    }
}

#[test]
fn a_link_that_ends_twice_takes_nothing_of_the_one_that_got_its_place() {
    let (registry, now) = (registry(), Instant::now());
    let (first, _peer) = come(&registry, now);
    // The place that was freed longest ago is given first: with all others taken, it is this one.
    let _others = [(); 3].map(|()| come(&registry, now));
    registry.ended(&first, &LinkError::Ended);
    assert_eq!((registry.links.len(), registry.metrics.handshakes.get()), (3, 3));
    let (second, _other) = come(&registry, now);
    assert_eq!(second.lane(), first.lane());
    registry.ended(&first, &LinkError::Ended);
    registry.opened(&first);
    assert!(registry.links.get(second.lane()).is_some_and(|link| Arc::ptr_eq(&link, &second)));
    assert!(registry.pending.get(second.lane()).is_some());
    assert_eq!((registry.links.len(), registry.metrics.handshakes.get()), (4, 4));
}

#[test]
fn a_ticket_brings_back_the_tether_and_the_newest_link_has_its_place() {
    let (registry, now) = (registry(), Instant::now());
    let ((first, _a), (second, _b)) = (come(&registry, now), come(&registry, now));
    let (tether, older) = registry.tether_for(now, &first, &hello(&[])).expect("a tether");
    assert!(older.is_empty());
    let (same, older) = registry.tether_for(now, &second, &hello(&tether.ticket)).expect("the tether");
    assert!(Arc::ptr_eq(&same, &tether) && Arc::ptr_eq(&older[0], &first));
    // The old link leaves only now, and the new one still serves.
    tether.leave(&first, now);
    assert!(!tether.end(now + 2 * LINGER, LINGER));
    assert!(Arc::ptr_eq(&tether.links.all()[0], &second));
}

#[test]
fn who_resumes_is_granted_what_the_packets_of_its_old_link_leave_of_its_credit() {
    let (registry, now) = (registry(), Instant::now());
    let ((first, _a), (second, _b)) = (come(&registry, now), come(&registry, now));
    let (tether, _) = registry.tether_for(now, &first, &hello(&[])).expect("a tether");
    let credit = |link| registry.welcome(now, (&tether, link), &hello(&[]), b"asked", &Verifier::NOBODY).credit_bytes;
    let full = credit(&first);
    assert_eq!(tether.links.credit_bytes(), Some(full), "nothing is inside");
    assert!(full < registry.terms.credit_bytes, "more is granted to who sends more");
    let mut inside = BufPool::new(1 << 20).copy(&[7; 6_000]).expect("a buffer");
    inside.charge(tether.links.account(), 6_004);
    let held_bytes = inside.held_bytes() as u64;
    registry.tether_for(now, &second, &hello(&tether.ticket)).expect("the tether");
    assert_eq!(credit(&second), full - held_bytes);
    assert!(tether.links.owes_credit(&second), "it is told of the rest once that has left");
}

#[test]
fn who_waits_for_credit_is_told_when_something_has_left_and_nobody_looks_for_it_all_the_time() {
    let (registry, now) = (registry(), Instant::now());
    let (link, mut peer) = come(&registry, now);
    let (tether, _) = registry.tether_for(now, &link, &hello(&[])).expect("a tether");
    link.opened(Arc::clone(&tether.links), Features::default(), 65_536, None);
    let mut inside = BufPool::new(1 << 20).copy(&[7; 60_000]).expect("a buffer");
    inside.charge(tether.links.account(), 60_004);
    assert!(tether.links.owes_credit(&link) && link.schedule_ack());
    registry.ack_later(&link);
    registry.send_acks(LINGER, || false);
    assert!(link.schedule_ack(), "what comes meanwhile is acknowledged as ever");
    assert!(!link.puts_off_credit(), "it is come back to");
    // While all is inside it stays so.
    registry.send_acks(LINGER, || false);
    assert!(!link.puts_off_credit());
    assert_eq!(link.credit_told_bytes(), 0);
    drop(inside);
    assert_eq!(
        registry.half_left.drain().collect::<Vec<_>>(),
        [tether.lane()],
        "it is noted, and need not be looked for"
    );
    registry.half_left.insert(tether.lane());
    let begun = Instant::now();
    while !link.puts_off_credit() {
        assert!(begun.elapsed() < LINGER, "there is credit, and nobody has taken it up");
        registry.send_acks(LINGER, || false);
    }
    peer.set_read_timeout(Some(LINGER)).expect("a timeout");
    let mut head = [0; 2];
    peer.read_exact(&mut head).expect("a message");
    let mut message = vec![0; head[1].into()];
    peer.read_exact(&mut message).expect("all of it");
    let told: Vec<_> = Capsules::new(&message).collect::<Result<_, _>>().expect("capsules");
    assert!(matches!(told[..], [Capsule::Credit(offset)] if offset == link.credit_told_bytes()), "{told:?}");
}

#[test]
fn a_tether_has_one_link_and_one_of_another_number_is_refused_while_that_one_lives() {
    let (registry, now) = (registry(), Instant::now());
    let ((first, _a), (second, _b), (third, _c)) = (come(&registry, now), come(&registry, now), come(&registry, now));
    let numbered = |link, ticket: &[u8]| Hello { link, ..hello(ticket) };
    let (tether, _) = registry.tether_for(now, &first, &numbered(7, &[])).expect("a tether");
    let another = Hello { mtu: 1_300, ..numbered(8, &tether.ticket) };
    let refusal = registry.tether_for(now, &second, &another).expect_err("it has a link");
    assert_eq!((refusal.reason, refusal.retry_after_ms), (RefusalReason::AlreadyConnected, RETRY_AFTER_MS));
    assert!(Arc::ptr_eq(&tether.links.all()[0], &first), "the link stays");
    assert_eq!(tether.nat.lock().expect("no panic").mtu_bytes(), 1_400, "and its terms do");
    assert_eq!((registry.metrics.tethers.get(), registry.metrics.tethers_resumed.get()), (1, 0));
    let (_, older) = registry.tether_for(now, &third, &numbered(7, &tether.ticket)).expect("in its place");
    assert!(Arc::ptr_eq(&older[0], &first));
    registry.leave(&tether, &first, now);
    assert!(registry.tether_for(now, &second, &another).is_err(), "the newer one lives");
    registry.leave(&tether, &third, now);
    let (same, older) = registry.tether_for(now, &second, &another).expect("no link is left");
    assert!(Arc::ptr_eq(&same, &tether) && older.is_empty());
}

#[test]
fn a_tether_has_the_mtu_of_its_newest_hello_and_never_more_than_the_gateways() {
    let (registry, now) = (registry(), Instant::now());
    let ((first, _a), (second, _b)) = (come(&registry, now), come(&registry, now));
    let mtu = |mtu, ticket: &[u8]| Hello { mtu, ..hello(ticket) };
    let (tether, _) = registry.tether_for(now, &first, &mtu(1_300, &[])).expect("a tether");
    let takes = |bytes: usize| {
        let sent = crate::packet_builder::udp("100.64.0.2:1", "192.0.2.80:443", &vec![7; bytes - 28]);
        let mut guard = tether.guard.lock().expect("no panic");
        let went = matches!(ip_parse::outgoing(&mut guard, sent.packet(), now), crate::stages::Verdict::Forward(_));
        (went, tether.nat.lock().expect("no panic").mtu_bytes())
    };
    assert_eq!((takes(1_300), takes(1_301)), ((true, 1_300), (false, 1_300)));
    registry.tether_for(now, &second, &mtu(9_000, &tether.ticket)).expect("the tether");
    assert_eq!((takes(1_400), takes(1_401)), ((true, 1_400), (false, 1_400)));
}

#[test]
fn a_tether_that_has_ended_is_not_resumed_though_its_ticket_was_still_found() {
    let (registry, now) = (registry(), Instant::now());
    let ((first, _a), (second, _b)) = (come(&registry, now), come(&registry, now));
    let (tether, _) = registry.tether_for(now, &first, &hello(&[])).expect("a tether");
    tether.leave(&first, now);
    let later = now + 2 * LINGER;
    assert!(!tether.end(now + LINGER, LINGER) && tether.end(later, LINGER) && !tether.end(later, LINGER));
    // It is not yet cleared up, so that the ticket still leads to it.
    let (next, older) = registry.tether_for(later, &second, &hello(&tether.ticket)).expect("a new tether");
    assert!(!Arc::ptr_eq(&next, &tether) && next.session != tether.session && older.is_empty());
    assert!(tether.links.all().is_empty());
}

#[test]
fn a_hello_that_does_not_come_in_time_ends_the_connection_once() {
    let (registry, now) = (registry(), Instant::now());
    let (link, _peer) = come(&registry, now);
    registry.tidy(now + Duration::from_secs(9));
    assert!(!link.is_closed());
    registry.tidy(now + Duration::from_secs(11));
    assert!(link.is_closed());
    registry.tidy(now + Duration::from_secs(12));
    assert_eq!((registry.links.len(), registry.metrics.handshakes.get()), (0, 0));
    let too_slow =
        registry.metrics.connections_refused.at(accept::Reason::TooSlow.index()).map(|counter| counter.get());
    assert_eq!(too_slow, Some(1));
}

#[test]
fn a_silent_link_is_asked_for_a_sign_of_life_and_closed_when_it_gives_none() {
    let (registry, now) = (registry(), Instant::now());
    let (link, mut peer) = come(&registry, now);
    peer.set_nonblocking(true).expect("non-blocking");
    let (tether, _) = registry.tether_for(now, &link, &hello(&[])).expect("a tether");
    link.upgraded(Subprotocol::Binary, 65_536, &[]);
    link.opened(Arc::clone(&tether.links), Features::default(), 65_536, None);
    let keep_alive = registry.terms.keep_alive;
    registry.opened(&link);
    registry.tidying().look_at(link.lane(), now + keep_alive);
    let mut asked = |after| {
        registry.tidy(now + after);
        // Whether it is closed; else what a batch of ws-encode does.
        link.flush(&mut link.outbox(), &registry.pool).map(|_| peer.read(&mut [0; 64]).unwrap_or_default()).ok()
    };
    let (nothing, ping) = (Some(0), Some(2));
    let step = Duration::from_millis(1);
    assert_eq!(asked(keep_alive - step), nothing);
    assert_eq!(asked(keep_alive), ping);
    assert_eq!(asked(keep_alive + step), nothing, "it was asked a moment ago");
    assert_eq!(asked(2 * keep_alive), ping);
    assert_eq!(asked(3 * keep_alive), None, "it is closed");
    assert!(registry.links.is_empty());
}

#[test]
fn a_tether_is_looked_over_while_it_holds_anything_and_again_once_packets_were_here() {
    let (registry, now) = (registry(), Instant::now());
    let (link, _peer) = come(&registry, now);
    let (tether, _) = registry.tether_for(now, &link, &hello(&[])).expect("a tether");
    let awake = |after| {
        registry.tidy(now + after);
        registry.round.lock().expect("no panic").awake.contains_key(&tether.lane())
    };
    let second = Duration::from_secs(1);
    assert!(!awake(second), "nothing was here");
    tether.links.stir();
    assert!(awake(2 * second), "what stirred it may be on its way");
    let question = crate::packet_builder::udp("100.64.0.2:1", "192.0.2.80:443", b"x");
    let parsed = ip_parse::parse(question.packet()).expect("a valid packet");
    drop(crate::stages::nat_rewrite::outgoing(&mut tether.nat.lock().expect("no panic"), parsed, now));
    assert!(awake(3 * second));
    assert_eq!(registry.metrics.nat_mappings.udp.get(), 1);
    let over = nat::Timers::default().udp + second;
    assert!(!awake(over), "the mapping's time is over");
    assert_eq!(registry.metrics.nat_mappings.udp.get(), 0);
    tether.links.stir();
    assert!(awake(over + second) && !awake(over + 2 * second));
}

#[test]
fn a_gateway_that_stops_reads_a_link_while_something_is_to_be_acknowledged_and_no_longer() {
    let (registry, now) = (registry(), Instant::now());
    let (link, _peer) = come(&registry, now);
    assert!(registry.reads_on(&link));
    let packet = registry.pool.copy(&[7; 100]).expect("a buffer");
    link.push_datagram(&mut link.outbox(), packet, Offload::default());
    registry.stop_accepting();
    assert!(registry.reads_on(&link), "what waits behind it needs the acknowledgement");
    assert!(link.acked(now, link.in_flight_bytes()));
    assert!(!registry.reads_on(&link));
}

#[test]
fn what_is_judged_is_not_given_up() {
    let (registry, now) = (registry(), Instant::now());
    let (link, _peer) = come(&registry, now);
    let pending = registry.pending.get(link.lane()).expect("pending");
    assert!(pending.give_up() && !pending.give_up());
}

/// A stage that is told of lanes, and notes which.
#[derive(Default)]
struct Poked(Mutex<Vec<LaneId>>);

impl Attend for Poked {
    fn poke(&self, lane: LaneId) {
        self.0.lock().expect("no panic").push(lane);
    }

    fn clear(&self, _lane: LaneId) {}

    fn hold_at_most(&self, _percent: u64) {}
}

/// Knows how much it was told to hold.
#[derive(Default)]
struct Held(AtomicU64);

impl Attend for Held {
    fn poke(&self, _lane: LaneId) {}

    fn clear(&self, _lane: LaneId) {}

    fn hold_at_most(&self, percent: u64) {
        self.0.store(percent, Ordering::SeqCst);
    }
}

/// A stage where one lane waits for room, and that notes which it is told of.
struct Waits(LaneId, Poked);

impl Attend for Waits {
    fn poke(&self, lane: LaneId) {
        self.1.poke(lane);
    }

    fn clear(&self, _lane: LaneId) {}

    fn held_back(&self, lanes: &mut Vec<LaneId>) {
        lanes.retain(|lane| *lane == self.0);
    }

    fn hold_at_most(&self, _percent: u64) {}
}

#[test]
fn a_link_is_heard_before_its_turn_where_that_waits_for_room_and_nowhere_else() {
    let (registry, now) = (registry(), Instant::now());
    let [(link, mut peer), (other, mut its_peer)] = [(); 2].map(|()| {
        let (link, peer) = come(&registry, now);
        link.upgraded(Subprotocol::Binary, 65_536, &[]);
        let (tether, _) = registry.tether_for(now, &link, &hello(&[])).expect("a tether");
        link.opened(Arc::clone(&tether.links), Features::SUPER_PACKETS, 65_536, None);
        let packet = registry.pool.copy(&[0x45; 20]).expect("a buffer");
        link.push_datagram(&mut link.outbox(), packet, Offload::default());
        (link, peer)
    });
    let waits = Arc::new(Waits(link.lane(), Poked::default()));
    let nothing = Arc::new(Held::default());
    let (ws_decode, none): (Weak<dyn Attend>, Weak<dyn Attend>) =
        (Arc::downgrade(&(Arc::clone(&waits) as _)), Arc::downgrade(&(nothing as _)));
    registry.attend(Stages { accept: none.clone(), ws_decode, ws_encode: none, tethered: vec![] });
    let mut ping = Vec::new();
    frame::append(Opcode::Ping, b"well?", Some([1; 4]), &mut ping);
    for peer in [&mut peer, &mut its_peer] {
        peer.write_all(&ping).expect("room");
    }
    let begun = Instant::now();
    while registry.metrics.heard_early.get() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        let mut told = vec![other.lane(), link.lane(), LaneId(99)];
        registry.listen(&mut told);
        assert_eq!(told, [], "each is told of once");
    }
    assert_eq!([&link, &other].map(|link| link.outbox().owes_pong()), [true, false]);
    assert_eq!(registry.metrics.heard_early.get(), 1);
    // Readiness may tell of nothing more, and what was read is to be taken in.
    assert_eq!(*waits.1.0.lock().expect("no panic"), [link.lane()]);
}

#[test]
fn on_the_last_rung_ws_encode_holds_as_much_as_the_terms_say() {
    let registry = testing::registry(|terms| terms.trimmed_to_percent = 30);
    let ws_encode = Arc::new(Held::default());
    let weak: Weak<dyn Attend> = Arc::downgrade(&(Arc::clone(&ws_encode) as _));
    registry.attend(Stages { accept: weak.clone(), ws_decode: weak.clone(), ws_encode: weak, tethered: vec![] });
    let held = |trims| {
        registry.trim_downlink(trims);
        ws_encode.0.load(Ordering::SeqCst)
    };
    assert_eq!([held(true), held(false)], [30, 100]);
}

#[test]
fn a_tethers_windows_and_credit_go_by_the_terms() {
    let is_cut_within_ten_looks = |cut_after| {
        let registry = testing::registry(|terms| terms.credit.cut_after = cut_after);
        let ((link, _peer), now) = (come(&registry, Instant::now()), Instant::now());
        let (tether, _) = registry.tether_for(now, &link, &hello(&[])).expect("a tether");
        let mut inside = registry.pool.take(1).expect("a buffer");
        inside.charge(tether.links.account(), 1_000);
        (0..10).for_each(|look| _ = tether.links.grant(now + look * Duration::from_millis(20), &link));
        tether.links.is_credit_cut()
    };
    assert_eq!([100, 1_000].map(Duration::from_millis).map(is_cut_within_ten_looks), [true, false]);
    let registry = testing::registry(|terms| terms.window.queue = Duration::from_millis(7));
    let (link, _peer) = come(&registry, Instant::now());
    let (tether, _) = registry.tether_for(Instant::now(), &link, &hello(&[])).expect("a tether");
    let window = format!("{:?}", tether.links.window(Instant::now()));
    assert!(window.contains("queue: 7ms"), "{window}");
}

#[test]
fn a_credit_that_was_cut_is_looked_at_though_its_client_sends_nothing() {
    let (registry, now) = (registry(), Instant::now());
    let (ws_encode, nothing) = (Arc::new(Poked::default()), Arc::new(Poked::default()));
    let (weak, none): (Weak<dyn Attend>, Weak<dyn Attend>) =
        (Arc::downgrade(&(Arc::clone(&ws_encode) as _)), Arc::downgrade(&(nothing as _)));
    registry.attend(Stages { accept: none.clone(), ws_decode: none, ws_encode: weak, tethered: vec![] });
    let (link, _peer) = come(&registry, now);
    let (tether, _) = registry.tether_for(now, &link, &hello(&[])).expect("a tether");
    let (links, poked) = (&tether.links, || std::mem::take(&mut *ws_encode.0.lock().expect("no panic")));
    registry.tidy(now);
    assert_eq!(poked(), [], "all of the credit is granted");
    // What is inside does not leave.
    links.stir();
    let mut inside = registry.pool.take(1).expect("a buffer");
    inside.charge(links.account(), 1_000);
    let full = links.grant(now, &link).expect("a credit");
    let granted = (1..10).map(|look| links.grant(now + look * Duration::from_millis(20), &link)).min().flatten();
    assert!(granted.is_some_and(|granted| granted < full) && links.is_credit_cut());
    registry.tidy(now);
    assert_eq!(poked(), [links.lane()]);
    drop(inside);
    let later = now + Duration::from_secs(1);
    assert!((0..10).all(|look| links.grant(later + look * Duration::from_millis(20), &link).is_some()));
    assert!(!links.is_credit_cut());
    registry.tidy(now);
    assert_eq!(poked(), []);
}

#[test]
fn while_the_gateway_stops_every_link_is_read_once_more_for_what_its_socket_does_not_tell_again() {
    let (registry, now) = (registry(), Instant::now());
    let (ws_decode, nothing) = (Arc::new(Poked::default()), Arc::new(Poked::default()));
    let (weak, none): (Weak<dyn Attend>, Weak<dyn Attend>) =
        (Arc::downgrade(&(Arc::clone(&ws_decode) as _)), Arc::downgrade(&(nothing as _)));
    registry.attend(Stages { accept: none.clone(), ws_decode: weak, ws_encode: none, tethered: vec![] });
    let links = [come(&registry, now), come(&registry, now)];
    let poked = || std::mem::take(&mut *ws_decode.0.lock().expect("no panic"));
    registry.read_once_more();
    assert_eq!(poked(), [], "it does not stop");
    registry.stop_accepting();
    registry.read_once_more();
    assert_eq!(poked(), links.each_ref().map(|(link, _)| link.lane()));
}
