//! Whom the registry refuses for lack of something.

use super::super::*;
use crate::budget::Part;
use crate::gateway::registry::testing::{TIMEOUT, registry, registry_of};
use crate::link::testing::connected;
use crate::overload::Rung;
use crate::stages::accept::{Doorkeeper as _, RETRY_AFTER_MS};
use crate::wire::capsule::{Challenge, Hello, RefusalReason};
use crate::wire::proof::{CredentialId, Nonce, Proof};
use crate::wire::token::Token;

fn refused(registry: &Registry, reason: accept::Reason) -> u64 {
    registry.metrics.connections_refused.at(reason.index()).expect("a counter").get()
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

#[test]
fn a_handshake_that_takes_too_long_is_turned_away_and_counted() {
    let registry = registry(|_| {});
    let (link, _peer) = connected();
    let lane = std::iter::from_fn(|| registry.links.reserve()).find(|&lane| lane == link.lane()).expect("a place");
    registry.links.put(lane, Arc::clone(&link));
    registry.pending.put(lane, Arc::new(Pending::new(Arc::clone(&link))));
    registry.metrics.handshakes.add(1);
    registry.tidy(link.born() + TIMEOUT);
    assert_eq!((refused(&registry, accept::Reason::TooSlow), registry.metrics.handshakes.get()), (0, 1));
    registry.tidy(link.born() + TIMEOUT + Duration::from_millis(1));
    assert_eq!((refused(&registry, accept::Reason::TooSlow), registry.metrics.handshakes.get()), (1, 0));
    assert!(link.is_closed() && registry.pending.get(lane).is_none());
}

#[test]
fn while_memory_is_short_no_tether_is_opened() {
    let registry = registry(|_| {});
    let now = Instant::now();
    let mut held = registry.pool.budget().share(Part::Messages);
    assert!(held.set(registry.pool.limit_bytes() * 4 / 5));
    let (link, _peer) = connected();
    let refusal = registry.new_tether(now, &link, &hello()).expect_err("no memory");
    assert_eq!((refusal.reason, registry.metrics.tethers.get()), (RefusalReason::Busy, 0));
    drop(held);
    let tether = registry.new_tether(now, &link, &hello()).expect("a tether");
    registry.tidy(now);
    assert_eq!((registry.metrics.tethers.get(), registry.metrics.nat_blocks_in_use.get()), (1, 1));
    registry.finish(&tether);
    registry.leave(&tether, &link, now);
    registry.tidy(now);
    registry.tidy(now);
    assert_eq!((registry.metrics.tethers.get(), registry.metrics.nat_blocks_in_use.get()), (0, 0));
    drop(tether);
    assert_eq!(registry.pool.budget().held_bytes(), 0);
}

#[test]
fn under_overload_nobody_new_is_let_in_and_who_comes_back_is() {
    let (registry, now) = (registry(|_| {}), Instant::now());
    let ((first, _a), (second, _b)) = (connected(), connected());
    let (tether, _) = registry.tether_for(now, &first, &hello()).expect("a tether");
    tether.leave(&first, now);
    registry.overload.set(Rung::NoNewTethers, 0);
    let refusals: Vec<_> =
        (0..64).map(|_| registry.tether_for(now, &second, &hello()).expect_err("nobody new")).collect();
    assert!(refusals.iter().all(|refusal| refusal.reason == RefusalReason::Busy));
    assert!(refusals.iter().all(|refusal| (2_000..6_000).contains(&refusal.retry_after_ms)));
    assert!(refusals.iter().any(|refusal| refusal.retry_after_ms != refusals[0].retry_after_ms), "not all at once");
    let back = Hello { ticket: tether.ticket.to_vec(), ..hello() };
    let (same, _) = registry.tether_for(now, &second, &back).expect("its tether");
    assert!(Arc::ptr_eq(&same, &tether));
    registry.overload.set(Rung::Calm, 0);
    registry.tether_for(now, &first, &hello()).expect("another tether");
}

#[test]
fn who_is_refused_under_overload_may_come_back_when_the_terms_say() {
    let overload_retry = Retry { after: Duration::from_secs(10), spread: Duration::ZERO };
    let registry = registry(|terms| terms.overload_retry = overload_retry);
    let (link, _peer) = connected();
    registry.overload.set(Rung::NoNewTethers, 0);
    let refusal = registry.tether_for(Instant::now(), &link, &hello()).expect_err("nobody new");
    assert_eq!((refusal.reason, refusal.retry_after_ms), (RefusalReason::Busy, 10_000));
}

#[test]
fn the_largest_tethers_keep_as_much_of_their_credit_as_the_terms_say() {
    let registry = registry(|terms| terms.trimmed_to_percent = 25);
    let (link, _peer) = connected();
    let (tether, _) = registry.tether_for(Instant::now(), &link, &hello()).expect("a tether");
    let calm = tether.links.credit_bytes().expect("a credit");
    registry.overload.set(Rung::TrimLargest, 0);
    assert_eq!(tether.links.credit_bytes(), Some(calm), "where nobody holds anything there is no largest");
    registry.overload.set(Rung::TrimLargest, 256);
    assert_eq!(tether.links.credit_bytes(), Some(calm), "it holds nothing");
    let mut inside = registry.pool.copy(&[7; 100]).expect("a buffer");
    inside.charge(tether.links.account(), 100);
    assert_eq!(tether.links.credit_bytes(), Some(calm / 4));
}

#[test]
fn a_credential_has_as_many_tethers_as_it_may() {
    let registry = registry(|terms| terms.tethers_per_credential_max = 2);
    let (now, (link, _peer)) = (Instant::now(), connected());
    let other = Hello { credential: CredentialId::new(*b"efgh5678").expect("its letters"), ..hello() };
    let tethers: Vec<_> = (0..2).map(|_| registry.new_tether(now, &link, &hello()).expect("a tether")).collect();
    let refusal = registry.new_tether(now, &link, &hello()).expect_err("two are enough");
    assert_eq!((refusal.reason, refusal.retry_after_ms), (RefusalReason::AlreadyConnected, RETRY_AFTER_MS));
    registry.new_tether(now, &link, &other).expect("another's tether");
    registry.finish(&tethers[0]);
    registry.tidy(now);
    registry.new_tether(now, &link, &hello()).expect("a tether again");
}

#[test]
fn a_tether_without_a_link_ends_once_it_has_lingered_and_one_that_is_resumed_does_not() {
    let (registry, now) = (registry(|_| {}), Instant::now());
    let ((first, _a), (second, _b)) = (connected(), connected());
    let [goes, comes_back] = [&first, &second].map(|link| registry.new_tether(now, link, &hello()).expect("a tether"));
    registry.leave(&goes, &first, now);
    registry.leave(&comes_back, &second, now);
    registry.tidy(now + TIMEOUT);
    assert_eq!(registry.metrics.tethers.get(), 2, "both linger");
    let resumes = Hello { ticket: comes_back.ticket.to_vec(), ..hello() };
    registry.tether_for(now + TIMEOUT, &first, &resumes).expect("the tether");
    registry.tidy(now + TIMEOUT + Duration::from_millis(1));
    assert_eq!(registry.metrics.tethers.get(), 1);
    assert!(registry.tethers.get(goes.lane()).is_none() && registry.tethers.get(comes_back.lane()).is_some());
    // It is forgotten that it once had none.
    registry.tidy(now + 3 * TIMEOUT);
    assert_eq!(registry.metrics.tethers.get(), 1);
}

#[test]
fn the_place_of_a_tether_rests_before_another_gets_it() {
    let (registry, now) = (registry(|terms| terms.tethers_max = 1), Instant::now());
    let (link, _peer) = connected();
    let tether = registry.new_tether(now, &link, &hello()).expect("a tether");
    registry.finish(&tether);
    registry.tidy(now);
    assert_eq!(registry.metrics.tethers.get(), 0);
    let refusal = registry.new_tether(now, &link, &hello()).expect_err("its place rests");
    assert_eq!(refusal.reason, RefusalReason::NoAddress);
    registry.tidy(now + tidying::PLACE_REST);
    registry.new_tether(now, &link, &hello()).expect("the place");
}

#[test]
fn a_token_with_as_many_tethers_as_it_may_have_gets_one_more_for_the_one_that_has_had_no_link_for_longest() {
    let registry = registry(|terms| terms.tethers_per_credential_max = 2);
    let (now, later) = (Instant::now(), |seconds| Duration::from_secs(seconds));
    let (links, _peers): (Vec<_>, Vec<_>) = (0..4).map(|_| connected()).unzip();
    let come = |link: &Arc<Link>, at| registry.new_tether(at, link, &hello());
    let [first, second] = [0, 1].map(|at| come(&links[at], now).expect("room for two"));
    let refusal = come(&links[2], now).expect_err("both have links");
    assert_eq!((refusal.reason, refusal.retry_after_ms), (RefusalReason::AlreadyConnected, RETRY_AFTER_MS));
    registry.leave(&second, &links[1], now + later(1));
    registry.leave(&first, &links[0], now + later(2));
    come(&links[2], now + later(3)).expect("in place of the second");
    assert!(registry.tethers.get(second.lane()).is_none() && registry.tethers.get(first.lane()).is_some());
    assert!(second.join(&links[1], 0).is_err(), "it has ended");
    come(&links[3], now + later(3)).expect("in place of the first");
    assert_eq!((registry.metrics.tethers.get(), registry.metrics.tethers_opened.get()), (2, 4));
}

#[test]
fn a_full_gateway_ends_the_tether_that_has_had_no_link_for_longest_and_has_room_once_its_place_has_rested() {
    let registry = registry(|_| {});
    let now = Instant::now();
    let (links, _peers): (Vec<_>, Vec<_>) = (0..5).map(|_| connected()).unzip();
    let come = |at: Instant, link: &Arc<Link>| registry.new_tether(at, link, &hello());
    let tethers: Vec<_> = links[..4].iter().map(|link| come(now, link).expect("room for four")).collect();
    assert_eq!(come(now, &links[4]).expect_err("full").reason, RefusalReason::NoAddress);
    assert_eq!(registry.metrics.tethers.get(), 4, "who has a link keeps it");
    registry.leave(&tethers[2], &links[2], now);
    let soon = now + Duration::from_millis(1);
    registry.leave(&tethers[3], &links[3], soon);
    for _ in 0..3 {
        let refusal = come(soon, &links[4]).expect_err("not yet");
        assert_eq!((refusal.reason, refusal.retry_after_ms), (RefusalReason::NoAddress, RETRY_AFTER_MS));
    }
    assert_eq!(registry.metrics.tethers.get(), 3, "one has ended for it, however often it asks");
    registry.tidy(soon + tidying::PLACE_REST);
    let tether = come(soon + tidying::PLACE_REST, &links[4]).expect("its place");
    assert_eq!((tether.lane(), registry.metrics.tethers.get()), (tethers[2].lane(), 4));
}

#[test]
fn who_finds_no_room_while_it_is_tidied_up_still_gets_the_place_of_a_tether_without_a_link() {
    const ROUNDS: u32 = 2_000;
    let registry = registry(|terms| terms.tethers_per_credential_max = 1);
    let (start, (link, _peer)) = (Instant::now(), connected());
    let is_over = AtomicBool::new(false);
    let refusals = std::thread::scope(|scope| {
        // Nobody lingers too long by this clock, so that none ends but to make room.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                registry.tidy(start);
            }
        });
        let refusals: Vec<_> = (0..ROUNDS)
            .filter_map(|round| {
                // Each ends the one before it, whose place has rested by the next.
                let now = start + round * tidying::PLACE_REST;
                registry.tidy(now);
                registry.new_tether(now, &link, &hello()).map(|tether| registry.leave(&tether, &link, now)).err()
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        refusals
    });
    assert_eq!((refusals.len(), refusals.first()), (0, None));
}

#[test]
fn a_revoked_token_ends_its_tethers_once_the_file_has_stood_for_a_look_and_no_others() {
    let file = std::env::temp_dir().join(format!("wstether-revoked-{}.toml", std::process::id()));
    let store = CredentialStore::load(&file).expect("no file yet");
    let make = |name| store.add(name, crate::gateway::fresh, |_token| Ok(())).expect("a credential");
    let [kept, lost] = ["kept", "lost"].map(make);
    let registry = registry_of(CredentialStore::load(&file).expect("two"), |_| {});
    let now = Instant::now();
    let (links, _peers): (Vec<_>, Vec<_>) = (0..2).map(|_| connected()).unzip();
    let tethers: Vec<_> = [&kept, &lost]
        .into_iter()
        .zip(&links)
        .map(|(credential, link)| {
            let credential = CredentialId::new(credential.id.as_bytes().try_into().expect("eight")).expect("an id");
            let tether = registry.new_tether(now, link, &Hello { credential, ..hello() }).expect("room");
            link.opened(Arc::clone(&tether.links), Features::default(), 65_536, None);
            tether
        })
        .collect();
    let are_closed = || [links[0].is_closed(), links[1].is_closed()];
    // Replaced by hand: it is not there for a moment.
    let text = std::fs::read(&file).expect("the file");
    std::fs::remove_file(&file).expect("it is there");
    registry.tidy(now);
    std::fs::write(&file, text).expect("written");
    for _ in 0..3 {
        registry.tidy(now);
    }
    assert_eq!(are_closed(), [false, false]);
    store.revoke(&lost.id).expect("it is there");
    registry.tidy(now);
    assert_eq!(are_closed(), [false, false], "the file may be on its way");
    registry.tidy(now);
    assert_eq!(are_closed(), [false, true]);
    assert!(tethers[1].join(&links[1], 0).is_err(), "nobody resumes it");
    registry.tidy(now);
    assert_eq!(registry.metrics.tethers.get(), 1);
    std::fs::remove_file(&file).expect("it is there");
}

#[test]
fn who_comes_while_the_file_of_credentials_is_being_replaced_is_let_in_and_once_it_stays_away_nobody_is() {
    let file = std::env::temp_dir().join(format!("wstether-replaced-{}.toml", std::process::id()));
    let mut token = None;
    let show = |shown: &str| {
        token = shown.parse::<Token>().ok();
        Ok(())
    };
    let store = CredentialStore::load(&file).expect("no file yet");
    store.add("Ada", crate::gateway::fresh, show).expect("a credential");
    let (token, registry) = (token.expect("a token"), registry_of(store, |_| {}));
    let come = || {
        let ((link, _peer), challenge) = (connected(), Challenge { nonce: Nonce([1; 32]) });
        let mut hello = Hello { credential: token.id, ..hello() };
        hello.proof = token.secret.prove(&hello.auth_message(&challenge));
        registry.admit(Instant::now(), &link, &challenge, &hello).map_err(|refusal| refusal.reason)
    };
    let text = std::fs::read(&file).expect("the file");
    std::fs::remove_file(&file).expect("it is there");
    assert_eq!([come(), come()], [Ok(()); 2]);
    registry.tidy(Instant::now());
    assert_eq!(come(), Ok(()));
    std::fs::write(&file, text).expect("written");
    assert_eq!(come(), Ok(()));
    std::fs::remove_file(&file).expect("it is there");
    (0..2).for_each(|_| registry.tidy(Instant::now()));
    assert_eq!(come(), Err(RefusalReason::BadCredential));
}
