//! Our own capsules: the handshake, credit and acknowledgement, the end.

use std::net::IpAddr;

use super::{CapsuleError, address::write_address, append, kind, reader::Reader};
use crate::wire::frame::close_code;
use crate::wire::proof::{self, CredentialId, Nonce, Proof};
use crate::wire::{VERSION, varint};

/// The longest resume ticket, in bytes. It is opaque to the client.
pub const TICKET_BYTES_MAX: usize = 256;

/// The longest text of a REFUSAL or CLOSE, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;

/// The smallest MTU, in bytes: what IPv6 asks of every link (RFC 8200, 5).
pub const MTU_BYTES_MIN: u16 = 1_280;

/// The most addresses in a list of WELCOME.
const ADDRESSES_MAX: u64 = 16;

/// What an end of the wire can do beyond the least: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Reads DATAGRAM capsules of the context of super-packets.
    pub const SUPER_PACKETS: Self = Self(1 << 0);

    /// All that this code knows.
    pub const KNOWN: Self = Self::SUPER_PACKETS;

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// A tether's session at the gateway, the same on all its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

/// CHALLENGE: the gateway's first capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Fresh for each connection.
    pub nonce: Nonce,
}

impl Challenge {
    /// Appends the capsule.
    pub fn append(&self, out: &mut Vec<u8>) {
        append(kind::CHALLENGE, out, |out| self.write(out));
    }

    fn write(&self, out: &mut Vec<u8>) {
        varint::write(VERSION, out);
        out.extend_from_slice(&self.nonce.0);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CapsuleError> {
        version(reader)?;
        Ok(Self { nonce: Nonce(reader.array("nonce")?) })
    }
}

/// HELLO: who the client is, proven, and what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the client can do.
    pub features: Features,
    /// Which credential the proof is of.
    pub credential: CredentialId,
    /// Fresh for each connection.
    pub nonce: Nonce,
    /// The ticket of the session to resume or to join with a further link; empty for a new session.
    pub ticket: Vec<u8>,
    /// The client's number for this link. A new link with a number in use takes the old one's place.
    pub link: u8,
    /// The largest packet, or segment of a super-packet, that the client takes, in bytes.
    pub mtu: u16,
    /// Of the credential, over [`Hello::auth_message`].
    pub proof: Proof,
}

impl Hello {
    /// Appends the capsule.
    pub fn append(&self, out: &mut Vec<u8>) {
        append(kind::HELLO, out, |out| {
            self.write_unproven(out);
            out.extend_from_slice(&self.proof.0);
        });
    }

    /// What the client's proof covers: a label, the value of the CHALLENGE, and the value of this HELLO up to the proof.
    pub fn auth_message(&self, challenge: &Challenge) -> Vec<u8> {
        let mut message = proof::LABEL.to_vec();
        challenge.write(&mut message);
        self.write_unproven(&mut message);
        message
    }

    fn write_unproven(&self, out: &mut Vec<u8>) {
        varint::write(VERSION, out);
        varint::write(self.features.0, out);
        out.extend_from_slice(self.credential.as_bytes());
        out.extend_from_slice(&self.nonce.0);
        write_ticket(&self.ticket, out);
        varint::write(u64::from(self.link), out);
        varint::write(u64::from(self.mtu), out);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CapsuleError> {
        version(reader)?;
        Ok(Self {
            features: Features(reader.own_varint("features")?),
            credential: CredentialId::new(reader.array("credential")?).ok_or(reader.bad("credential"))?,
            nonce: Nonce(reader.array("nonce")?),
            ticket: reader.counted(TICKET_BYTES_MAX, "ticket")?.to_vec(),
            link: reader.at_most(u64::from(u8::MAX), "link")? as u8,
            mtu: mtu(reader)?,
            proof: Proof(reader.array("proof")?),
        })
    }
}

/// WELCOME: the session's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The session. Another one than before means that the ticket was of no use and all is new.
    pub session: SessionId,
    /// Those of the client's features that the gateway has too; both may use them from now on.
    pub features: Features,
    /// The largest packet, or segment of a super-packet, on this tether, in bytes.
    pub mtu: u16,
    /// The gateway's own addresses inside the tunnel.
    pub gateway: Vec<IpAddr>,
    /// DNS servers for the client.
    pub dns: Vec<IpAddr>,
    /// The credit that this link begins with, in bytes.
    pub credit_bytes: u64,
    /// The longest message either side may send, in bytes before base64.
    pub message_bytes_max: u32,
    /// How often the gateway pings, in milliseconds; silence of three times as long means that the peer is gone.
    pub keep_alive_ms: u32,
    /// How long the ticket can be used once the tether has no link, in milliseconds.
    pub ticket_lifetime_ms: u32,
    /// Resumes this session, as often as needed while it lives. Empty where the gateway has no tickets.
    pub ticket: Vec<u8>,
    /// Of the gateway, over [`Welcome::auth_message`].
    pub proof: Proof,
}

impl Welcome {
    /// Appends the capsule.
    pub fn append(&self, out: &mut Vec<u8>) {
        append(kind::WELCOME, out, |out| {
            self.write_unproven(out);
            out.extend_from_slice(&self.proof.0);
        });
    }

    /// What the gateway's proof covers: `hello`, the client's authenticated message, and the value of this WELCOME up to
    /// the proof.
    pub fn auth_message(&self, hello: &[u8]) -> Vec<u8> {
        let mut message = hello.to_vec();
        self.write_unproven(&mut message);
        message
    }

    fn write_unproven(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0);
        varint::write(self.features.0, out);
        varint::write(u64::from(self.mtu), out);
        write_addresses(&self.gateway, out);
        write_addresses(&self.dns, out);
        varint::write(self.credit_bytes, out);
        varint::write(u64::from(self.message_bytes_max), out);
        varint::write(u64::from(self.keep_alive_ms), out);
        varint::write(u64::from(self.ticket_lifetime_ms), out);
        write_ticket(&self.ticket, out);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CapsuleError> {
        let max = u64::from(u32::MAX);
        Ok(Self {
            session: SessionId(reader.array("session")?),
            features: Features(reader.own_varint("features")?),
            mtu: mtu(reader)?,
            gateway: read_addresses(reader, "gateway addresses")?,
            dns: read_addresses(reader, "DNS servers")?,
            credit_bytes: reader.own_varint("credit")?,
            message_bytes_max: reader.at_most(max, "longest message")? as u32,
            keep_alive_ms: reader.at_most(max, "keep-alive")? as u32,
            ticket_lifetime_ms: reader.at_most(max, "ticket lifetime")? as u32,
            ticket: reader.counted(TICKET_BYTES_MAX, "ticket")?.to_vec(),
            proof: Proof(reader.array("proof")?),
        })
    }
}

/// REFUSAL: the gateway will not serve, and closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// When to try again, in milliseconds from now; 0 for "not by itself".
    pub retry_after_ms: u32,
    /// Why, in words for a person.
    pub text: String,
}

impl Refusal {
    /// Appends the capsule; a text that is too long is shortened.
    pub fn append(&self, out: &mut Vec<u8>) {
        append(kind::REFUSAL, out, |out| {
            varint::write(self.reason.code(), out);
            varint::write(u64::from(self.retry_after_ms), out);
            write_text(&self.text, out);
        });
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CapsuleError> {
        Ok(Self {
            reason: RefusalReason::from_code(reader.own_varint("reason")?),
            retry_after_ms: reader.at_most(u64::from(u32::MAX), "retry after")? as u32,
            text: reader.text(TEXT_BYTES_MAX, "text")?,
        })
    }
}

/// Defines a set of reasons, their codes on the wire and their labels in one place. Unknown codes are kept.
macro_rules! codes {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$doc])* $variant,)+
            /// A code that this version does not know.
            Other(u64),
        }

        impl $name {
            /// Every reason that has a name.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code on the wire.
            pub const fn code(self) -> u64 {
                match self { $(Self::$variant => $code,)+ Self::Other(code) => code }
            }

            /// The reason with that code.
            pub const fn from_code(code: u64) -> Self {
                match code { $($code => Self::$variant,)+ code => Self::Other(code) }
            }

            /// The label in logs and metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ Self::Other(_) => "other" }
            }
        }
    };
}

codes! {
    /// Why a gateway refuses.
    pub enum RefusalReason {
        /// The credential is unknown or revoked, or the proof is wrong: the gateway does not say which.
        BadCredential = 1 "bad_credential",
        /// The client speaks another version.
        UnsupportedVersion = 2 "unsupported_version",
        /// Too much load: try again after the delay.
        Busy = 3 "busy",
        /// The credential has as many tethers or links as it may.
        AlreadyConnected = 4 "already_connected",
        /// The gateway stops.
        ShuttingDown = 5 "shutting_down",
        /// No address is free: try again after the delay.
        NoAddress = 6 "no_address",
        /// The handshake was not as specified, or took too long.
        BadHandshake = 7 "bad_handshake",
    }
}

impl RefusalReason {
    /// The WebSocket close code that follows.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::BadCredential | Self::UnsupportedVersion | Self::AlreadyConnected | Self::Other(_) => {
                close_code::POLICY_VIOLATION
            }
            Self::Busy | Self::NoAddress => close_code::TRY_AGAIN_LATER,
            Self::ShuttingDown => close_code::GOING_AWAY,
            Self::BadHandshake => close_code::PROTOCOL_ERROR,
        }
    }
}

codes! {
    /// Why a tether ends.
    pub enum CloseReason {
        /// Its user is done.
        Done = 0 "done",
        /// A program stops; the session can be resumed where a gateway comes back.
        ShuttingDown = 1 "shutting_down",
        /// The peer broke the protocol.
        ProtocolError = 2 "protocol_error",
        /// The credential was revoked.
        Revoked = 3 "revoked",
        /// A newer link has this one's number: only this link ends.
        Replaced = 4 "replaced",
        /// The peer was silent for too long.
        TimedOut = 5 "timed_out",
        /// The gateway sheds load.
        Overloaded = 6 "overloaded",
    }
}

impl CloseReason {
    /// The WebSocket close code that follows.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Done => close_code::NORMAL,
            Self::Replaced => close_code::REPLACED,
            Self::ShuttingDown | Self::TimedOut => close_code::GOING_AWAY,
            Self::ProtocolError => close_code::PROTOCOL_ERROR,
            Self::Revoked | Self::Other(_) => close_code::POLICY_VIOLATION,
            Self::Overloaded => close_code::TRY_AGAIN_LATER,
        }
    }
}

/// Appends a CREDIT: the client may send DATAGRAM capsules on this link up to `offset_bytes` since the link began.
pub fn append_credit(offset_bytes: u64, out: &mut Vec<u8>) {
    append(kind::CREDIT, out, |out| varint::write(offset_bytes, out));
}

/// Appends an ACK: `offset_bytes` of DATAGRAM capsules were received on this link since it began.
pub fn append_ack(offset_bytes: u64, out: &mut Vec<u8>) {
    append(kind::ACK, out, |out| varint::write(offset_bytes, out));
}

/// Appends a CLOSE; a text that is too long is shortened.
pub fn append_close(reason: CloseReason, text: &str, out: &mut Vec<u8>) {
    append(kind::CLOSE, out, |out| {
        varint::write(reason.code(), out);
        write_text(text, out);
    });
}

fn version(reader: &mut Reader<'_>) -> Result<(), CapsuleError> {
    if reader.own_varint("version")? == VERSION { Ok(()) } else { Err(reader.bad("version")) }
}

fn mtu(reader: &mut Reader<'_>) -> Result<u16, CapsuleError> {
    let mtu = reader.at_most(u64::from(u16::MAX), "MTU")? as u16;
    if mtu >= MTU_BYTES_MIN { Ok(mtu) } else { Err(reader.bad("MTU")) }
}

fn write_ticket(ticket: &[u8], out: &mut Vec<u8>) {
    let ticket = &ticket[..ticket.len().min(TICKET_BYTES_MAX)];
    varint::write(ticket.len() as u64, out);
    out.extend_from_slice(ticket);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(TEXT_BYTES_MAX)]);
}

fn write_addresses(addresses: &[IpAddr], out: &mut Vec<u8>) {
    let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX as usize)];
    varint::write(addresses.len() as u64, out);
    addresses.iter().for_each(|&address| write_address(address, out));
}

fn read_addresses(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<IpAddr>, CapsuleError> {
    let count = reader.at_most(ADDRESSES_MAX, field)?;
    (0..count).map(|_| reader.address(field)).collect()
}
