//! The handshake, driven by the bytes of a scripted gateway.

use proptest::prelude::*;

use super::*;
use crate::packet::Offload;
use crate::wire::capsule::{
    Prefix, SessionId, append_address_assign, append_close, append_credit, append_routes, datagram_header,
};
use crate::wire::proof::Verifier;

const LEASE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const CHALLENGE: Challenge = Challenge { nonce: Nonce([1; 32]) };

/// A gateway that knows the client's credential, or thinks so.
struct Gateway {
    verifier: Verifier,
}

impl Gateway {
    fn challenge() -> Vec<u8> {
        let mut message = Vec::new();
        CHALLENGE.append(&mut message);
        message
    }

    /// WELCOME in answer to a HELLO whose proof fits.
    fn welcome(&self, hello: &[u8]) -> Vec<u8> {
        self.welcome_with(hello, Features::SUPER_PACKETS)
    }

    /// The same with features of its own choice.
    fn welcome_with(&self, hello: &[u8], features: Features) -> Vec<u8> {
        let Some(Ok(Capsule::Hello(hello))) = Capsules::new(hello).next() else { panic!("no HELLO") };
        let asked = hello.auth_message(&CHALLENGE);
        let mut welcome = Welcome {
            session: SessionId([3; 16]),
            features,
            mtu: 1_400,
            gateway: vec![[100, 64, 0, 1].into()],
            dns: vec![[100, 64, 0, 1].into()],
            credit_bytes: 1 << 20,
            message_bytes_max: 1 << 18,
            keep_alive_ms: 10_000,
            ticket_lifetime_ms: 60_000,
            ticket: vec![4; 32],
            proof: Default::default(),
        };
        welcome.proof = self.verifier.prove(&welcome.auth_message(&asked));
        let mut message = Vec::new();
        welcome.append(&mut message);
        message
    }

    fn lease() -> Vec<u8> {
        let mut message = Vec::new();
        append_address_assign(&[AssignedAddress { request_id: 0, prefix: Prefix::host(LEASE.into()) }], &mut message);
        message
    }

    fn routes() -> Vec<u8> {
        let mut message = Vec::new();
        append_routes(&[AddressRange::ALL_V4], &mut message);
        message
    }
}

/// A client at the beginning, with a ticket, and the gateway of its token.
fn pair() -> (Handshake, Gateway) {
    let token = Token::random().unwrap();
    let gateway = Gateway { verifier: token.secret.verifier() };
    let offer = Offer { token, features: Features::SUPER_PACKETS, mtu_bytes: 1_500, ticket: vec![9; 32] };
    (Handshake::new(offer), gateway)
}

fn hello_of(handshake: &mut Handshake) -> Vec<u8> {
    let Step::Answer(hello) = handshake.take_in(&Gateway::challenge()).unwrap() else { panic!("no HELLO") };
    hello
}

#[test]
fn a_challenge_is_answered_with_a_proven_hello_that_names_the_ticket() {
    let (mut handshake, gateway) = pair();
    let message = hello_of(&mut handshake);
    let Some(Ok(Capsule::Hello(hello))) = Capsules::new(&message).next() else { panic!("no HELLO") };
    assert_eq!(gateway.verifier.check_client(&hello.auth_message(&CHALLENGE), &hello.proof), Ok(()));
    assert_eq!((hello.ticket, hello.mtu, hello.features), (vec![9; 32], 1_500, Features::SUPER_PACKETS));
}

#[test]
fn the_terms_come_in_one_message_or_in_several() {
    for whole in [true, false] {
        let (mut handshake, gateway) = pair();
        let welcome = gateway.welcome(&hello_of(&mut handshake));
        let messages = [welcome, Gateway::lease(), Gateway::routes()];
        let messages = if whole { vec![messages.concat()] } else { messages.to_vec() };
        let steps: Vec<Step> = messages.iter().map(|message| handshake.take_in(message).unwrap()).collect();
        let (last, before) = steps.split_last().unwrap();
        assert!(before.iter().all(|step| *step == Step::Wait));
        let Step::Done(terms) = last else { panic!("{last:?}") };
        assert_eq!((terms.lease, terms.routes.as_slice()), (LEASE, [AddressRange::ALL_V4].as_slice()));
        assert_eq!((terms.welcome.mtu, terms.datagram_bytes), (1_400, 0));
    }
}

#[test]
fn what_was_not_offered_is_not_agreed_on_whatever_the_gateway_says() {
    for (offered, said, agreed) in [
        (Features::default(), Features::SUPER_PACKETS, Features::default()),
        (Features::SUPER_PACKETS, Features(u64::MAX), Features::SUPER_PACKETS),
    ] {
        let (handshake, gateway) = pair();
        let mut handshake = Handshake::new(Offer { features: offered, ..handshake.offer });
        let welcome = gateway.welcome_with(&hello_of(&mut handshake), said);
        let message = [welcome, Gateway::lease(), Gateway::routes()].concat();
        let Step::Done(terms) = handshake.take_in(&message).unwrap() else { panic!("not done") };
        assert_eq!(terms.welcome.features, agreed);
    }
}

#[test]
fn packets_that_share_the_last_message_count_as_received() {
    let (mut handshake, gateway) = pair();
    let welcome = gateway.welcome(&hello_of(&mut handshake));
    let datagram = [datagram_header(40, Offload::default()).to_vec(), vec![0x45; 40]].concat();
    let message = [welcome, Gateway::lease(), Gateway::routes(), datagram.clone()].concat();
    let Step::Done(terms) = handshake.take_in(&message).unwrap() else { panic!("not done") };
    assert_eq!(terms.datagram_bytes, datagram.len());
}

#[test]
fn credit_that_shares_the_last_message_counts_where_it_is_more_than_the_welcomes() {
    for (credit_bytes, counts) in [(2 << 20, 2 << 20), (1, 1 << 20)] {
        let (mut handshake, gateway) = pair();
        let welcome = gateway.welcome(&hello_of(&mut handshake));
        let mut message = [welcome, Gateway::lease(), Gateway::routes()].concat();
        append_credit(credit_bytes, &mut message);
        let Step::Done(terms) = handshake.take_in(&message).unwrap() else { panic!("not done") };
        assert_eq!(terms.welcome.credit_bytes, counts);
    }
}

#[test]
fn a_gateway_that_does_not_know_the_credential_is_left() {
    let (mut handshake, _) = pair();
    let (_, stranger) = pair();
    let welcome = stranger.welcome(&hello_of(&mut handshake));
    let error = handshake.take_in(&welcome).unwrap_err();
    assert!(error == HandshakeError::WrongGateway && error.is_final(), "{error}");
}

#[test]
fn a_welcome_for_another_hello_is_worth_nothing() {
    let (mut handshake, gateway) = pair();
    let replayed = gateway.welcome(&hello_of(&mut handshake));
    let mut handshake = Handshake::new(handshake.offer);
    hello_of(&mut handshake);
    assert_eq!(handshake.take_in(&replayed), Err(HandshakeError::WrongGateway));
}

#[test]
fn a_refusal_is_told_in_plain_words_and_ends_the_client_only_where_trying_again_is_of_no_use() {
    for (reason, retry_after_ms, is_final, words) in [
        (RefusalReason::BadCredential, 0, true, "wstether token new"),
        (RefusalReason::UnsupportedVersion, 0, true, "update the older"),
        (RefusalReason::Busy, 1_500, false, "too busy"),
        (RefusalReason::NoAddress, 1_000, false, "no free address"),
        (RefusalReason::ShuttingDown, 1_000, false, "stopping"),
        (RefusalReason::AlreadyConnected, 1_000, false, "in use"),
        (RefusalReason::BadHandshake, 1_000, false, "did not understand"),
        (RefusalReason::Other(99), 1_000, false, "refuses"),
        (RefusalReason::Other(99), 0, true, "refuses"),
    ] {
        let (mut handshake, _) = pair();
        hello_of(&mut handshake);
        let mut message = Vec::new();
        Refusal { reason, retry_after_ms, text: "the\u{1b}[2Jreason".to_owned() }.append(&mut message);
        let error = handshake.take_in(&message).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("the[2Jreason"), "no control character gets through: {error}");
        assert_eq!(error.is_final(), is_final);
        let retry_after = (retry_after_ms > 0).then(|| Duration::from_millis(retry_after_ms.into()));
        assert_eq!(error.retry_after(), retry_after);
    }
}

#[test]
fn an_address_that_no_host_can_have_is_refused() {
    for address in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.1.2.3", "240.0.0.1", "255.255.255.255"] {
        let address: Ipv4Addr = address.parse().unwrap();
        let (mut handshake, gateway) = pair();
        let welcome = gateway.welcome(&hello_of(&mut handshake));
        handshake.take_in(&welcome).unwrap();
        let mut message = Vec::new();
        append_address_assign(&[AssignedAddress { request_id: 0, prefix: Prefix::host(address.into()) }], &mut message);
        assert_eq!(handshake.take_in(&message), Err(HandshakeError::BadAddress(address)));
    }
}

#[test]
fn what_has_no_place_in_a_handshake_ends_it() {
    let mut close = Vec::new();
    append_close(crate::wire::capsule::CloseReason::Done, "", &mut close);
    for message in [Gateway::lease(), Gateway::routes(), close] {
        let (mut handshake, _) = pair();
        assert_eq!(handshake.take_in(&message), Err(HandshakeError::OutOfOrder));
    }
    let (mut handshake, _) = pair();
    hello_of(&mut handshake);
    assert_eq!(handshake.take_in(&Gateway::challenge()), Err(HandshakeError::OutOfOrder), "a second challenge");
}

#[test]
fn terms_without_an_ipv4_address_are_of_no_use() {
    let (mut handshake, gateway) = pair();
    let mut message = gateway.welcome(&hello_of(&mut handshake));
    append_address_assign(&[], &mut message);
    assert_eq!(handshake.take_in(&message), Err(HandshakeError::NoAddress));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(before in any::<bool>(), message in prop::collection::vec(any::<u8>(), 0..600)) {
        let (mut handshake, _) = pair();
        if before {
            hello_of(&mut handshake);
        }
        if let Ok(step) = handshake.take_in(&message) {
            prop_assert!(!matches!(step, Step::Done(_)), "no session without a proof");
        }
    }

    #[test]
    fn a_welcome_with_any_bit_changed_opens_no_session(bit in any::<prop::sample::Index>()) {
        let (mut handshake, gateway) = pair();
        let mut message = [gateway.welcome(&hello_of(&mut handshake)), Gateway::lease(), Gateway::routes()].concat();
        let bits = 8 * (message.len() - Gateway::lease().len() - Gateway::routes().len());
        let bit = bit.index(bits);
        message[bit / 8] ^= 1 << (bit % 8);
        let opened = matches!(handshake.take_in(&message), Ok(Step::Done(_)));
        prop_assert!(!opened);
    }
}
