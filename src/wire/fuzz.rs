//! What the fuzz targets run, and what the unit tests replay their corpora through: each function takes any bytes, and
//! panics where a rule of the wire format does not hold.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;

use super::base64;
use super::capsule::{self, Capsule, Capsules, Features, datagram_header};
use super::frame::{Decoder, FrameError, Role, Step, Subprotocol};

/// What a decoder yielded, in a form that outlives its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// The peer closed.
    Close(Option<u16>, String),
    /// The peer broke a rule.
    Error(FrameError),
}

/// All that `decoder` makes of a stream that arrives in these pieces, whose unread tail is kept as a caller would.
pub fn events<'a>(decoder: &mut Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let (mut events, mut unread) = (Vec::new(), Vec::new());
    for piece in pieces {
        unread.extend_from_slice(piece);
        loop {
            let (consumed, event) = match decoder.next(&mut unread) {
                Ok(Step::Need(consumed)) => (consumed, None),
                Ok(Step::Message { consumed, payload }) => (consumed, Some(Event::Message(payload.to_vec()))),
                Ok(Step::Ping { consumed, payload }) => (consumed, Some(Event::Ping(payload.to_vec()))),
                Ok(Step::Pong { consumed, payload }) => (consumed, Some(Event::Pong(payload.to_vec()))),
                Ok(Step::Close { consumed, code, reason }) => (consumed, Some(Event::Close(code, reason.to_owned()))),
                Err(error) => (unread.len(), Some(Event::Error(error))),
            };
            unread.drain(..consumed);
            match event {
                Some(event) => events.push(event),
                None => break,
            }
        }
        assert!(unread.len() < decoder.frame_bytes_max(), "the tail is less than the longest frame");
    }
    events
}

/// A stream of frames. Its first two bytes choose the decoder and the size of the pieces.
pub fn frames(data: &[u8]) {
    let &[choice, piece, ref stream @ ..] = data else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let subprotocol = Subprotocol::ALL[usize::from(choice >> 1 & 1)];
    let message_bytes_max = if choice & 4 == 0 { 256 } else { 100_000 };
    let decoder = || Decoder::new(role, subprotocol, message_bytes_max);

    let whole = events(&mut decoder(), [stream]);
    let mut slow = decoder();
    let pieces = events(&mut slow, stream.chunks(usize::from(piece).max(1)));
    assert_eq!(whole, pieces, "the pieces a stream comes in change nothing");
    assert!(slow.held_bytes() <= subprotocol.payload_len(message_bytes_max), "fragments are bounded");
    for event in whole {
        if let Event::Message(message) = event {
            assert!(message.len() <= message_bytes_max, "messages are bounded");
            capsules(&message);
        }
    }
}

/// A message of capsules. All that can be read comes back the same once it is written again. What breaks a rule where
/// super-packets were agreed on may break none where they were not, and never the other way round.
pub fn capsules(data: &[u8]) {
    let all_can_be_read = |features| Capsules::agreed(features, data).all(|capsule| capsule.is_ok());
    assert!(all_can_be_read(Features::default()) || !all_can_be_read(Features::SUPER_PACKETS));
    let mut datagram_bytes = 0;
    for capsule in Capsules::agreed(Features::SUPER_PACKETS, data) {
        let Ok(capsule) = capsule else { return };
        if let Capsule::Datagram(datagram) = capsule {
            datagram_bytes += datagram.capsule_bytes;
        }
        let Some(written) = write(&capsule) else { continue };
        match (Capsules::agreed(Features::SUPER_PACKETS, &written).next(), capsule) {
            (Some(Ok(Capsule::Datagram(read))), Capsule::Datagram(datagram)) => {
                assert_eq!((read.payload, read.offload), (datagram.payload, datagram.offload));
                assert_eq!(read.capsule_bytes, written.len());
            }
            (read, capsule) => assert_eq!(read, Some(Ok(capsule))),
        }
    }
    assert!(datagram_bytes <= data.len(), "no byte counts twice");
}

/// Text that may be base64.
pub fn base64(data: &[u8]) {
    let mut text = data.to_vec();
    let decoded = base64::decode_in_place(&mut text).ok().map(|len| text[..len].to_vec());
    assert_eq!(decoded, STANDARD.decode(data).ok(), "the base64 crate agrees");
    let mut encoded = Vec::new();
    base64::encode(data, &mut encoded);
    assert_eq!(base64::decode_in_place(&mut encoded), Ok(data.len()));
    assert_eq!(&encoded[..data.len()], data);
}

/// The capsule's bytes; `None` for what nobody writes.
pub(super) fn write(capsule: &Capsule<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match capsule {
        Capsule::Datagram(datagram) => {
            out.extend_from_slice(&datagram_header(datagram.payload.len(), datagram.offload?));
            out.extend_from_slice(datagram.payload);
        }
        Capsule::AddressAssign(addresses) => capsule::append_address_assign(addresses, &mut out),
        Capsule::AddressRequest(addresses) => capsule::append_address_request(addresses, &mut out),
        Capsule::RouteAdvertisement(ranges) => capsule::append_routes(ranges, &mut out),
        Capsule::Challenge(challenge) => challenge.append(&mut out),
        Capsule::Hello(hello) => hello.append(&mut out),
        Capsule::OtherVersion(_) => return None,
        Capsule::Welcome(welcome) => welcome.append(&mut out),
        Capsule::Refusal(refusal) => refusal.append(&mut out),
        Capsule::Credit(offset) => capsule::append_credit(*offset, &mut out),
        Capsule::Ack(offset) => capsule::append_ack(*offset, &mut out),
        Capsule::Close { reason, text } => capsule::append_close(*reason, text, &mut out),
    }
    Some(out)
}

/// Runs a fuzz target's function over its committed corpus.
#[cfg(test)]
pub(crate) fn replay(target: &str, run: fn(&[u8])) {
    use std::{fs, path::Path};

    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let inputs: Vec<_> =
        fs::read_dir(&corpus).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    assert!(inputs.len() >= 8, "{target} has a corpus");
    for input in inputs {
        run(&fs::read(&input).expect("an input"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_input_of_the_fuzz_targets_passes() {
        replay("frames", frames);
        replay("capsules", capsules);
        replay("base64", base64);
    }
}
