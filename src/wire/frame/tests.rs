//! The decoder and encoder against each other, against the rules, and against tungstenite.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::fuzz::{self, Event, events};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MESSAGE_BYTES_MAX: usize = 1_000;

fn server() -> Decoder {
    Decoder::new(Role::Server, Subprotocol::Binary, MESSAGE_BYTES_MAX)
}

fn client() -> Decoder {
    Decoder::new(Role::Client, Subprotocol::Binary, MESSAGE_BYTES_MAX)
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    append(opcode, payload, Some(KEY), &mut out);
    if !fin {
        out[0] &= 0x7f;
    }
    out
}

fn one_error(decoder: &mut Decoder, stream: &[u8]) -> FrameError {
    match &events(decoder, [stream])[..] {
        &[Event::Error(error)] => error,
        other => panic!("one error expected, not {other:?}"),
    }
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    // RFC 6455, 5.7, with binary in place of text.
    let unmasked = [0x82, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(events(&mut client(), [&unmasked[..]]), [Event::Message(b"Hello".to_vec())]);
    let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(events(&mut server(), [&masked[..]]), [Event::Message(b"Hello".to_vec())]);
    let fragmented = [0x02, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    assert_eq!(events(&mut client(), [&fragmented[..]]), [Event::Message(b"Hello".to_vec())]);
    let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(events(&mut client(), [&ping[..]]), [Event::Ping(b"Hello".to_vec())]);
}

#[test]
fn a_whole_frame_is_unmasked_where_it_lies() {
    let mut input = frame(true, Opcode::Binary, b"where it lies");
    let place = input.as_ptr().wrapping_add(6);
    match server().next(&mut input) {
        Ok(Step::Message { consumed: 19, payload }) => {
            assert_eq!((payload.as_ptr(), &*payload), (place, &b"where it lies"[..]))
        }
        other => panic!("a message expected, not {other:?}"),
    };
}

#[test]
fn memory_is_held_for_fragments_only_and_given_back_after_the_message() {
    let mut decoder = server();
    assert_eq!(events(&mut decoder, [&frame(true, Opcode::Binary, &[1; 900])[..]]).len(), 1);
    assert_eq!(decoder.held_bytes(), 0);
    assert_eq!(events(&mut decoder, [&frame(false, Opcode::Binary, &[1; 900])[..]]), []);
    assert!((900..=MESSAGE_BYTES_MAX).contains(&decoder.held_bytes()));
    let rest = frame(true, Opcode::Continuation, &[2; 100]);
    assert_eq!(events(&mut decoder, [&rest[..]]), [Event::Message([vec![1; 900], vec![2; 100]].concat())]);
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn control_frames_may_stand_between_fragments() {
    let stream = [
        frame(false, Opcode::Binary, b"one "),
        frame(true, Opcode::Ping, b"alive?"),
        frame(false, Opcode::Continuation, b""),
        frame(true, Opcode::Pong, b""),
        frame(true, Opcode::Continuation, b"two"),
    ]
    .concat();
    let expected = [Event::Ping(b"alive?".to_vec()), Event::Pong(vec![]), Event::Message(b"one two".to_vec())];
    assert_eq!(events(&mut server(), [&stream[..]]), expected);
}

#[test]
fn every_broken_rule_has_its_error_and_close_code() {
    let binary = frame(true, Opcode::Binary, b"x");
    let with = |index: usize, byte: u8| {
        let mut frame = binary.clone();
        frame[index] = byte;
        frame
    };
    let close = |payload: &[u8]| frame(true, Opcode::Close, payload);
    let cases: [(Vec<u8>, FrameError, u16); 22] = [
        (with(0, 0xc2), FrameError::ReservedBits, 1002),
        (with(0, 0x92), FrameError::ReservedBits, 1002),
        (with(0, 0x83), FrameError::UnknownOpcode(3), 1002),
        (with(0, 0x8b), FrameError::UnknownOpcode(11), 1002),
        (with(1, 0x01), FrameError::NotMasked, 1002),
        (frame(false, Opcode::Ping, b""), FrameError::FragmentedControl, 1002),
        (vec![0x89, 0xfe], FrameError::LongControl, 1002),
        (vec![0x82, 0xfe, 0, 125], FrameError::LongLength, 1002),
        (vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameError::LongLength, 1002),
        (frame(true, Opcode::Continuation, b""), FrameError::StrayContinuation, 1002),
        (frame(false, Opcode::Binary, b"x").repeat(2), FrameError::Interleaved, 1002),
        (frame(true, Opcode::Text, b"x"), FrameError::WrongType, 1003),
        (vec![0x82, 0xfe, 0x03, 0xe9], FrameError::TooBig, 1009),
        (vec![0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], FrameError::TooBig, 1009),
        ([frame(false, Opcode::Binary, &[0; 999]), vec![0x80, 0x82]].concat(), FrameError::TooBig, 1009),
        (close(b"\x03"), FrameError::ShortClose, 1002),
        (close(&999_u16.to_be_bytes()), FrameError::BadCloseCode(999), 1002),
        (close(&1005_u16.to_be_bytes()), FrameError::BadCloseCode(1005), 1002),
        (close(&1015_u16.to_be_bytes()), FrameError::BadCloseCode(1015), 1002),
        (close(&2999_u16.to_be_bytes()), FrameError::BadCloseCode(2999), 1002),
        (close(&5000_u16.to_be_bytes()), FrameError::BadCloseCode(5000), 1002),
        (close(b"\x03\xe8\xff"), FrameError::BadCloseReason, 1007),
    ];
    for (stream, error, code) in cases {
        assert_eq!(one_error(&mut server(), &stream), error, "for {stream:02x?}");
        assert_eq!(error.close_code(), code, "for {error}");
    }
    assert_eq!(one_error(&mut client(), &binary), FrameError::Masked);
}

#[test]
fn after_a_close_frame_or_an_error_everything_is_discarded() {
    let message = frame(true, Opcode::Binary, b"x");
    let closed = [frame(true, Opcode::Close, b"\x03\xe9bye"), message.clone()].concat();
    assert_eq!(events(&mut server(), [&closed[..]]), [Event::Close(Some(1001), "bye".into())]);
    let broken = [vec![0xff, 0xff], message].concat();
    assert_eq!(
        events(&mut server(), [&broken[..1], &broken[1..2], &broken[2..]]),
        [Event::Error(FrameError::ReservedBits)]
    );
}

#[test]
fn a_close_frame_may_be_empty_and_is_never_too_long() {
    assert_eq!(events(&mut server(), [&frame(true, Opcode::Close, b"")[..]]), [Event::Close(None, String::new())]);
    let mut out = Vec::new();
    append_close(close_code::GOING_AWAY, &"é".repeat(100), None, &mut out);
    assert_eq!(events(&mut client(), [&out[..]]), [Event::Close(Some(1001), "é".repeat(61))]);
}

#[test]
fn base64_messages_are_decoded_in_place_and_binary_ones_refused() {
    let decoder = || Decoder::new(Role::Server, Subprotocol::Base64, 6);
    let mut out = Vec::new();
    append_base64(b"foobar", Some(KEY), &mut out);
    assert_eq!(events(&mut decoder(), [&out[..]]), [Event::Message(b"foobar".to_vec())]);
    let fragments = [frame(false, Opcode::Text, b"Zm9vY"), frame(true, Opcode::Continuation, b"g==")].concat();
    assert_eq!(events(&mut decoder(), [&fragments[..]]), [Event::Message(b"foob".to_vec())]);
    assert_eq!(one_error(&mut decoder(), &frame(true, Opcode::Binary, b"foobar")), FrameError::WrongType);
    assert_eq!(one_error(&mut decoder(), &frame(true, Opcode::Text, b"Zm9vYg")), FrameError::NotBase64);
    assert_eq!(one_error(&mut decoder(), &frame(true, Opcode::Text, b"Zm9vYmFyZm9v")), FrameError::TooBig);
    let mut of_four_bytes = Decoder::new(Role::Server, Subprotocol::Base64, 4);
    assert_eq!(one_error(&mut of_four_bytes, &frame(true, Opcode::Text, b"Zm9vYmFy")), FrameError::TooBig);
    assert_eq!(FrameError::NotBase64.close_code(), 1007);
}

#[test]
fn the_first_subprotocol_of_the_peers_list_that_we_speak_is_chosen() {
    assert_eq!(Subprotocol::select("chat, wstether.v1.base64 ,wstether.v1"), Some(Subprotocol::Base64));
    assert_eq!(Subprotocol::select("wstether.v1"), Some(Subprotocol::Binary));
    assert_eq!(Subprotocol::select("wstether.v2, WSTETHER.V1"), None);
}

#[derive(Clone, Debug)]
enum Sent {
    Message(Vec<Vec<u8>>),
    Ping(Vec<u8>),
}

/// Messages in one or more fragments, with pings between messages and between fragments, and what must come out.
fn traffic() -> impl Strategy<Value = Vec<Sent>> {
    let fragment = prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 120..130), vec(any::<u8>(), 0..300)];
    let message = vec(fragment, 1..4).prop_map(Sent::Message);
    vec(prop_oneof![3 => message, 1 => vec(any::<u8>(), 0..=125).prop_map(Sent::Ping)], 0..8)
}

fn written(sent: &[Sent], subprotocol: Subprotocol, key: Option<[u8; 4]>) -> Vec<u8> {
    let mut stream = Vec::new();
    for sent in sent {
        let fragments = match sent {
            Sent::Ping(payload) => {
                append(Opcode::Ping, payload, key, &mut stream);
                continue;
            }
            Sent::Message(fragments) => fragments,
        };
        // Base64 is of the whole message, so its text is what is cut.
        let fragments = match subprotocol {
            Subprotocol::Binary => fragments.clone(),
            Subprotocol::Base64 => {
                let mut text = Vec::new();
                crate::wire::base64::encode(&fragments.concat(), &mut text);
                if text.is_empty() {
                    vec![text]
                } else {
                    text.chunks(text.len().div_ceil(fragments.len())).map(<[u8]>::to_vec).collect()
                }
            }
        };
        for (index, fragment) in fragments.iter().enumerate() {
            let opcode = if index == 0 { subprotocol.opcode() } else { Opcode::Continuation };
            let start = stream.len();
            append(opcode, fragment, key, &mut stream);
            if index + 1 < fragments.len() {
                stream[start] &= 0x7f;
                append(Opcode::Pong, b"between", key, &mut stream);
            }
        }
    }
    stream
}

fn messages(events: &[Event]) -> Vec<Sent> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Message(message) => Some(Sent::Message(vec![message.clone()])),
            Event::Ping(payload) => Some(Sent::Ping(payload.clone())),
            Event::Pong(payload) => {
                assert_eq!(payload, b"between");
                None
            }
            Event::Close(..) | Event::Error(_) => panic!("nothing wrong was sent: {event:?}"),
        })
        .collect()
}

fn flat(sent: &[Sent]) -> Vec<(bool, Vec<u8>)> {
    let flat = |sent: &Sent| match sent {
        Sent::Message(fragments) => (true, fragments.concat()),
        Sent::Ping(payload) => (false, payload.clone()),
    };
    sent.iter().map(flat).collect()
}

proptest! {
    #[test]
    fn what_was_sent_comes_out_however_the_stream_is_cut(
        sent in traffic(),
        role in prop_oneof![Just(Role::Server), Just(Role::Client)],
        subprotocol in prop_oneof![Just(Subprotocol::Binary), Just(Subprotocol::Base64)],
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream = written(&sent, subprotocol, (role == Role::Server).then_some(KEY));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut decoder = Decoder::new(role, subprotocol, MESSAGE_BYTES_MAX);
        let events = events(&mut decoder, cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]));
        prop_assert_eq!(flat(&messages(&events)), flat(&sent));
        prop_assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_their_pieces_change_nothing(data in vec(any::<u8>(), 0..300)) {
        fuzz::frames(&data);
    }

    #[test]
    fn almost_valid_frames_never_panic(
        sent in traffic(),
        choice in 0..4_u8,
        piece in 1..40_u8,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let subprotocol = Subprotocol::ALL[usize::from(choice >> 1)];
        let mut data = vec![choice, piece];
        data.extend(written(&sent, subprotocol, (choice & 1 == 0).then_some(KEY)));
        for (index, byte) in changes {
            let index = index.index(data.len());
            if index > 1 {
                data[index] = byte;
            }
        }
        fuzz::frames(&data);
    }

    #[test]
    fn masking_is_a_byte_at_a_time_wherever_it_starts(bytes in vec(any::<u8>(), 0..70), key: [u8; 4], offset in 0..9_usize) {
        let expected: Vec<u8> = bytes.iter().enumerate().map(|(i, byte)| byte ^ key[(i + offset) % 4]).collect();
        let mut masked = bytes;
        mask(&mut masked, key, offset);
        prop_assert_eq!(masked, expected);
    }
}

#[test]
fn a_binary_message_that_has_begun_tells_what_is_missing_and_nothing_else_does() {
    let key = Some(KEY);
    let frame = written(&[Sent::Message(vec![vec![7; 70_000]])], Subprotocol::Binary, key);
    let server = || Decoder::new(Role::Server, Subprotocol::Binary, 70_000);
    let begun = server().begun(&frame[..14]).expect("a whole header");
    assert_eq!((begun.header_bytes(), begun.frame_bytes()), (14, 70_014));
    assert_eq!(server().begun(&frame[..70_013]), Some(begun));
    let mut payload = frame[14..].to_vec();
    begun.unmask(&mut payload);
    assert!(payload == [7; 70_000]);
    assert_eq!(server().begun(&frame[..13]), None, "half a header");
    assert_eq!(server().begun(&frame), None, "nothing is missing");
    assert_eq!(client().begun(&frame[..14]), None, "against the rules");
    let text = written(&[Sent::Message(vec![vec![7; 70_000]])], Subprotocol::Base64, key);
    assert_eq!(Decoder::new(Role::Server, Subprotocol::Base64, 100_000).begun(&text[..14]), None);
    let mut fragment = frame[..14].to_vec();
    fragment[0] &= 0x7f;
    assert_eq!(server().begun(&fragment), None, "a message in fragments");
    let mut ended = server();
    assert!(ended.next(&mut [0xff; 2]).is_err());
    assert_eq!(ended.begun(&frame[..14]), None, "behind an error everything is discarded");
}

#[test]
fn a_stream_may_be_cut_at_every_byte() {
    let sent =
        [Sent::Message(vec![vec![1; 130], vec![2; 3]]), Sent::Ping(vec![3; 5]), Sent::Message(vec![vec![4; 300]])];
    let stream = written(&sent, Subprotocol::Binary, Some(KEY));
    for cut in 0..=stream.len() {
        let events = events(&mut server(), [&stream[..cut], &stream[cut..]]);
        assert_eq!(flat(&messages(&events)), flat(&sent), "cut at {cut}");
    }
}

/// tungstenite as the oracle, in both directions.
#[cfg(feature = "kernel")]
mod tungstenite_agrees {
    use std::io::{self, Read, Write};

    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    use tungstenite::protocol::{Role as Side, WebSocket};
    use tungstenite::{Bytes, Message};

    use super::*;

    /// A connection whose bytes are there already, and which keeps what is written to it.
    struct Pipe {
        input: io::Cursor<Vec<u8>>,
        output: Vec<u8>,
    }

    impl Read for Pipe {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.input.read(bytes)
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn socket(input: Vec<u8>, side: Side) -> WebSocket<Pipe> {
        WebSocket::from_raw_socket(Pipe { input: io::Cursor::new(input), output: Vec::new() }, side, None)
    }

    proptest! {
        #[test]
        fn what_it_writes_we_read(sent in traffic(), role in prop_oneof![Just(Role::Server), Just(Role::Client)]) {
            let mut socket = socket(Vec::new(), if role == Role::Server { Side::Client } else { Side::Server });
            for sent in &sent {
                let fragments = match sent {
                    Sent::Ping(payload) => {
                        socket.write(Message::Ping(Bytes::copy_from_slice(payload))).expect("a ping");
                        continue;
                    }
                    Sent::Message(fragments) => fragments,
                };
                for (index, fragment) in fragments.iter().enumerate() {
                    let data = if index == 0 { Data::Binary } else { Data::Continue };
                    let last = index + 1 == fragments.len();
                    let frame = Frame::message(Bytes::copy_from_slice(fragment), OpCode::Data(data), last);
                    socket.write(Message::Frame(frame)).expect("a fragment");
                }
            }
            socket.flush().expect("a flush");
            let mut decoder = Decoder::new(role, Subprotocol::Binary, MESSAGE_BYTES_MAX);
            let events = events(&mut decoder, [&socket.get_ref().output[..]]);
            prop_assert_eq!(flat(&messages(&events)), flat(&sent));
        }

        #[test]
        fn what_we_write_it_reads(sent in traffic(), key in prop::option::of(any::<[u8; 4]>())) {
            let stream = written(&sent, Subprotocol::Binary, key);
            let mut socket = socket(stream, if key.is_some() { Side::Server } else { Side::Client });
            let mut read = Vec::new();
            while let Ok(message) = socket.read() {
                if message.is_binary() || message.is_ping() {
                    read.push((message.is_binary(), message.into_data().to_vec()));
                } else {
                    prop_assert_eq!(message, Message::Pong(Bytes::from_static(b"between")));
                }
            }
            prop_assert_eq!(read, flat(&sent));
        }

        #[test]
        fn close_codes_are_judged_alike(code in 0..5_100_u16) {
            // 1014, bad gateway, is in IANA's registry, and unknown to it.
            prop_assume!(code != 1014);
            let mut stream = Vec::new();
            append_close(code, "reason", Some(KEY), &mut stream);
            let ours = matches!(events(&mut server(), [&stream[..]])[..], [Event::Close(Some(_), _)]);
            let theirs = match socket(stream, Side::Server).read() {
                Ok(Message::Close(Some(frame))) => u16::from(frame.code) == code,
                _ => false,
            };
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn base64_text_is_text_to_it(message in vec(any::<u8>(), 0..200)) {
            let mut stream = Vec::new();
            append_base64(&message, Some(KEY), &mut stream);
            let text = socket(stream, Side::Server).read().expect("a text").into_text().expect("text").to_string();
            let mut bytes = text.into_bytes();
            let len = crate::wire::base64::decode_in_place(&mut bytes).expect("base64");
            prop_assert_eq!(&bytes[..len], &message[..]);
        }
    }
}
