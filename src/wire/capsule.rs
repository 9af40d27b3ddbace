//! Capsules (RFC 9297, 3.2): a message is whole capsules, each a type, a length and a value.
//!
//! DATAGRAM and the address capsules are those of CONNECT-IP (RFC 9484); the others are our own (see [`kind`]). Reading a
//! packet borrows and allocates nothing; control capsules are rare and own what they hold.

mod address;
mod datagram;
mod reader;
mod session;
#[cfg(test)]
mod tests;

pub use address::{
    AddressRange, AssignedAddress, Prefix, append_address_assign, append_address_request, append_routes,
};
pub use datagram::{
    CONTEXT_PACKET, CONTEXT_SUPER_PACKET, DATAGRAM_HEADER_BYTES_MAX, Datagram, DatagramHeader, datagram_header,
};
pub use session::{
    Challenge, CloseReason, Features, Hello, MTU_BYTES_MIN, Refusal, RefusalReason, SessionId, TEXT_BYTES_MAX,
    TICKET_BYTES_MAX, Welcome, append_ack, append_close, append_credit,
};

use super::{VERSION, frame::close_code, varint};
use reader::Reader;

/// The types on the wire. Our own spell `ws` in the middle; IANA has assigned none of them, and none is of the form
/// 0x29 * N + 0x17, which is kept for greasing (RFC 9297, 5.4).
pub mod kind {
    /// An IP packet (RFC 9297, 3.5; RFC 9484, 6).
    pub const DATAGRAM: u64 = 0x00;
    /// Addresses that the receiver may send from (RFC 9484, 4.7.1).
    pub const ADDRESS_ASSIGN: u64 = 0x01;
    /// Addresses that the sender would like (RFC 9484, 4.7.2).
    pub const ADDRESS_REQUEST: u64 = 0x02;
    /// Destinations that the sender carries packets to (RFC 9484, 4.7.3).
    pub const ROUTE_ADVERTISEMENT: u64 = 0x03;
    /// The gateway's first word: prove who you are.
    pub const CHALLENGE: u64 = 0x77_7301;
    /// The client's proof, and what it can do.
    pub const HELLO: u64 = 0x77_7302;
    /// The gateway's proof, and the session's terms.
    pub const WELCOME: u64 = 0x77_7303;
    /// The gateway will not serve.
    pub const REFUSAL: u64 = 0x77_7304;
    /// How much the client may send on this link.
    pub const CREDIT: u64 = 0x77_7305;
    /// How much was received on this link.
    pub const ACK: u64 = 0x77_7306;
    /// The tether ends.
    pub const CLOSE: u64 = 0x77_7307;
}

/// The close code for a message whose capsules are broken.
pub const CLOSE_CODE: u16 = close_code::PROTOCOL_ERROR;

/// What is wrong with a capsule, and with which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// The message ends inside a capsule's type, length or value; bytes behind the last capsule look like this too.
    #[error("the message ends inside a capsule")]
    Truncated,
    /// The value ends before its last field.
    #[error("capsule {kind:#x} ends inside its field {field:?}")]
    Short {
        /// The capsule's type.
        kind: u64,
        /// The field.
        field: &'static str,
    },
    /// The value goes on after its last field.
    #[error("capsule {kind:#x} has bytes behind its last field")]
    Trailing {
        /// The capsule's type.
        kind: u64,
    },
    /// A field's value is not allowed.
    #[error("capsule {kind:#x} has a field {field:?} with a value that is not allowed")]
    BadValue {
        /// The capsule's type.
        kind: u64,
        /// The field.
        field: &'static str,
    },
}

/// One capsule of a message. The large and rare ones are boxed, so that a packet is moved cheaply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capsule<'a> {
    /// A packet, or something in a context that we do not know: dropped, but counted.
    Datagram(Datagram<'a>),
    /// The addresses that the receiver may send from, all of them.
    AddressAssign(Vec<AssignedAddress>),
    /// Addresses that the sender would like.
    AddressRequest(Vec<AssignedAddress>),
    /// The destinations that the sender carries packets to, all of them.
    RouteAdvertisement(Vec<AddressRange>),
    /// The gateway's first word.
    Challenge(Challenge),
    /// The client's answer.
    Hello(Box<Hello>),
    /// A CHALLENGE or HELLO of this other version; its version is all that can be read of it.
    OtherVersion(u64),
    /// The session's terms.
    Welcome(Box<Welcome>),
    /// The gateway will not serve.
    Refusal(Refusal),
    /// The client may send DATAGRAM capsules on this link up to this offset, in bytes since the link began.
    Credit(u64),
    /// The sender has received this many bytes of DATAGRAM capsules on this link.
    Ack(u64),
    /// The tether ends.
    Close {
        /// Why.
        reason: CloseReason,
        /// Why, in words for a person.
        text: String,
    },
}

/// The capsules of a message, in order. Those of unknown type are skipped (RFC 9297, 3.2). Ends after the first error.
#[derive(Clone, Debug)]
pub struct Capsules<'a> {
    rest: &'a [u8],
    agreed: Features,
}

impl<'a> Capsules<'a> {
    /// The capsules of `message`, where no feature was agreed on. An empty message has none.
    pub fn new(message: &'a [u8]) -> Self {
        Self::agreed(Features::default(), message)
    }

    /// The capsules of `message`, where those features were agreed on.
    pub fn agreed(features: Features, message: &'a [u8]) -> Self {
        Self { rest: message, agreed: features }
    }

    /// Whether the message ends behind the capsules that were read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn read(&mut self) -> Result<Option<Capsule<'a>>, CapsuleError> {
        let Split { kind, value, bytes, rest } = split(self.rest).ok_or(CapsuleError::Truncated)?;
        self.rest = rest;
        parse(Reader::new(kind, value), bytes, self.agreed)
    }
}

impl<'a> Iterator for Capsules<'a> {
    type Item = Result<Capsule<'a>, CapsuleError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match self.read() {
                Ok(None) => {}
                Ok(Some(capsule)) => return Some(Ok(capsule)),
                Err(error) => {
                    self.rest = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

struct Split<'a> {
    kind: u64,
    value: &'a [u8],
    /// Length of the whole capsule.
    bytes: usize,
    rest: &'a [u8],
}

/// The first capsule of `message` and what follows it.
fn split(message: &[u8]) -> Option<Split<'_>> {
    let (kind, kind_bytes) = varint::read(message)?;
    let (len, len_bytes) = varint::read(&message[kind_bytes..])?;
    let (value, rest) = message[kind_bytes + len_bytes..].split_at_checked(usize::try_from(len).ok()?)?;
    Some(Split { kind, value, bytes: message.len() - rest.len(), rest })
}

fn parse(mut reader: Reader<'_>, bytes: usize, agreed: Features) -> Result<Option<Capsule<'_>>, CapsuleError> {
    let capsule = match reader.kind {
        kind::DATAGRAM => return Datagram::read(reader, bytes, agreed).map(|read| Some(Capsule::Datagram(read))),
        kind::ADDRESS_ASSIGN => Capsule::AddressAssign(address::read_assigned(&mut reader)?),
        kind::ADDRESS_REQUEST => Capsule::AddressRequest(address::read_requested(&mut reader)?),
        kind::ROUTE_ADVERTISEMENT => Capsule::RouteAdvertisement(address::read_routes(&mut reader)?),
        kind::CHALLENGE | kind::HELLO if reader.clone().own_varint("version")? != VERSION => {
            return Ok(Some(Capsule::OtherVersion(reader.own_varint("version")?)));
        }
        kind::CHALLENGE => Capsule::Challenge(Challenge::read(&mut reader)?),
        kind::HELLO => Capsule::Hello(Box::new(Hello::read(&mut reader)?)),
        kind::WELCOME => Capsule::Welcome(Box::new(Welcome::read(&mut reader)?)),
        kind::REFUSAL => Capsule::Refusal(Refusal::read(&mut reader)?),
        kind::CREDIT => Capsule::Credit(reader.own_varint("offset")?),
        kind::ACK => Capsule::Ack(reader.own_varint("offset")?),
        kind::CLOSE => Capsule::Close {
            reason: CloseReason::from_code(reader.own_varint("reason")?),
            text: reader.text(TEXT_BYTES_MAX, "text")?,
        },
        _ => return Ok(None),
    };
    reader.end()?;
    Ok(Some(capsule))
}

/// Appends a capsule whose value is what `value` appends.
fn append(kind: u64, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    varint::write(kind, out);
    let start = out.len();
    value(out);
    let (len, len_bytes) = varint::encode((out.len() - start) as u64);
    out.splice(start..start, len.into_iter().take(len_bytes));
}
