//! The client's side of the handshake (docs/protocol.md): messages in, HELLO out, and in the end the session's terms.
//!
//! Pure: whoever owns the link reads, asks here, and writes the answer.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::ipv4;
use crate::wire::capsule::{
    AddressRange, AssignedAddress, Capsule, CapsuleError, Capsules, Challenge, Features, Hello, Refusal, RefusalReason,
    Welcome,
};
use crate::wire::proof::Nonce;
use crate::wire::token::Token;

/// What the client tells of itself.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Whose client this is.
    pub token: Token,
    /// What it can do.
    pub features: Features,
    /// The largest packet that it takes, in bytes.
    pub mtu_bytes: u16,
    /// The ticket of the session to go on with; empty for a new one.
    pub ticket: Vec<u8>,
}

/// What the gateway granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The session's terms, proven.
    pub welcome: Welcome,
    /// The address that this client has inside the tunnel.
    pub lease: Ipv4Addr,
    /// The destinations that the gateway carries packets to.
    pub routes: Vec<AddressRange>,
    /// Bytes of DATAGRAM capsules that came along already. They were dropped, but count as received.
    pub datagram_bytes: usize,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The gateway will not serve.
    #[error("{}", told(.0))]
    Refused(Refusal),
    /// The gateway does not know this client's credential.
    #[error("this is not the gateway that the token is of: its proof is wrong; check the URL and the token")]
    WrongGateway,
    /// The gateway speaks another version of the protocol.
    #[error("the gateway speaks version {0} of the protocol, this client version 1; update the older of the two")]
    OtherVersion(u64),
    /// A capsule cannot be read.
    #[error("the gateway's handshake is broken: {0}")]
    Capsule(#[from] CapsuleError),
    /// A capsule that has no place in a handshake, or is not in its order.
    #[error("the gateway's handshake is out of order")]
    OutOfOrder,
    /// No IPv4 address was assigned.
    #[error("the gateway assigned no IPv4 address")]
    NoAddress,
    /// What was assigned is no address of a host.
    #[error("the gateway assigned {0}, which no laptop can have; whoever runs it has to correct its addresses")]
    BadAddress(Ipv4Addr),
    /// The system has no random numbers.
    #[error("no random numbers: {0}")]
    NoRandom(getrandom::Error),
}

impl HandshakeError {
    /// Whether another attempt would end the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                let is_known =
                    matches!(refusal.reason, RefusalReason::BadCredential | RefusalReason::UnsupportedVersion);
                // Of a reason that is not known the time alone says it: 0 is "not without a person".
                is_known || matches!(refusal.reason, RefusalReason::Other(_)) && refusal.retry_after_ms == 0
            }
            Self::WrongGateway | Self::OtherVersion(_) => true,
            Self::Capsule(_) | Self::OutOfOrder | Self::NoAddress | Self::BadAddress(_) | Self::NoRandom(_) => false,
        }
    }

    /// When the gateway would like to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Refused(refusal) = self else { return None };
        (refusal.retry_after_ms > 0).then(|| Duration::from_millis(refusal.retry_after_ms.into()))
    }
}

/// A refusal in plain words, with what to do about it.
fn told(refusal: &Refusal) -> String {
    let advice = match refusal.reason {
        RefusalReason::BadCredential => {
            "the gateway does not accept this token; make a new one there with \"wstether token new\""
        }
        RefusalReason::UnsupportedVersion => "the gateway speaks another version; update the older of the two",
        RefusalReason::Busy => "the gateway is too busy for one more client",
        RefusalReason::AlreadyConnected => "this token is in use by as many clients as it may be",
        RefusalReason::ShuttingDown => "the gateway is stopping",
        RefusalReason::NoAddress => "the gateway has no free address",
        RefusalReason::BadHandshake => "the gateway did not understand this client",
        RefusalReason::Other(_) => "the gateway refuses",
    };
    // The text is a stranger's until it is proven: no control character of it reaches a terminal.
    let text: String = refusal.text.chars().filter(|char| !char.is_control()).collect();
    if text.is_empty() { advice.to_owned() } else { format!("{advice} (it says: {text})") }
}

/// What is to be done after a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for the next message.
    Wait,
    /// Send this.
    Answer(Vec<u8>),
    /// The session is open.
    Done(Box<Terms>),
}

/// A handshake under way.
#[derive(Debug)]
pub struct Handshake {
    offer: Offer,
    state: State,
    datagram_bytes: usize,
    credit_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// The gateway speaks first.
    Challenge,
    /// HELLO was sent; `asked` is what its proof covered.
    Welcome {
        asked: Vec<u8>,
    },
    Address(Box<Welcome>),
    Routes(Box<Welcome>, Ipv4Addr),
}

impl Handshake {
    /// Nothing was said yet.
    pub fn new(offer: Offer) -> Self {
        Self { offer, state: State::Challenge, datagram_bytes: 0, credit_bytes: 0 }
    }

    /// Takes a message in.
    ///
    /// # Errors
    /// [`HandshakeError`]; close the link.
    pub fn take_in(&mut self, message: &[u8]) -> Result<Step, HandshakeError> {
        let mut done = Step::Wait;
        for capsule in Capsules::new(message) {
            let step = self.advance(capsule?)?;
            if step != Step::Wait {
                done = step;
            }
        }
        if let Step::Done(terms) = &mut done {
            terms.datagram_bytes = self.datagram_bytes;
            terms.welcome.credit_bytes = terms.welcome.credit_bytes.max(self.credit_bytes);
        }
        Ok(done)
    }

    fn advance(&mut self, capsule: Capsule<'_>) -> Result<Step, HandshakeError> {
        match (std::mem::replace(&mut self.state, State::Challenge), capsule) {
            (_, Capsule::Refusal(refusal)) => Err(HandshakeError::Refused(refusal)),
            (_, Capsule::OtherVersion(version)) => Err(HandshakeError::OtherVersion(version)),
            (State::Challenge, Capsule::Challenge(challenge)) => self.hello(&challenge),
            (State::Welcome { asked }, Capsule::Welcome(welcome)) => self.welcomed(*welcome, &asked),
            (State::Address(welcome), Capsule::AddressAssign(assigned)) => {
                self.state = State::Routes(welcome, lease_of(&assigned)?);
                Ok(Step::Wait)
            }
            (State::Routes(welcome, lease), Capsule::RouteAdvertisement(routes)) => {
                self.state = State::Routes(welcome.clone(), lease);
                Ok(Step::Done(Box::new(Terms { welcome: *welcome, lease, routes, datagram_bytes: 0 })))
            }
            // Once it has sent its terms, the gateway may send packets: the first may share their message.
            (state @ State::Routes(..), Capsule::Datagram(datagram)) => {
                self.datagram_bytes += datagram.capsule_bytes;
                self.state = state;
                Ok(Step::Wait)
            }
            // Of a session that is gone on with WELCOME may grant nothing, and this is what lets the client send.
            (state @ State::Routes(..), Capsule::Credit(offset_bytes)) => {
                self.credit_bytes = self.credit_bytes.max(offset_bytes);
                self.state = state;
                Ok(Step::Wait)
            }
            (state @ State::Routes(..), Capsule::Ack(_)) => {
                self.state = state;
                Ok(Step::Wait)
            }
            _ => Err(HandshakeError::OutOfOrder),
        }
    }

    fn hello(&mut self, challenge: &Challenge) -> Result<Step, HandshakeError> {
        let nonce = Nonce::random().map_err(HandshakeError::NoRandom)?;
        let Offer { token, features, mtu_bytes, ticket } = &self.offer;
        let mut hello = Hello {
            features: *features,
            credential: token.id,
            nonce,
            ticket: ticket.clone(),
            link: 0,
            mtu: *mtu_bytes,
            proof: Default::default(),
        };
        let asked = hello.auth_message(challenge);
        hello.proof = token.secret.prove(&asked);
        let mut message = Vec::new();
        hello.append(&mut message);
        self.state = State::Welcome { asked };
        Ok(Step::Answer(message))
    }

    fn welcomed(&mut self, welcome: Welcome, asked: &[u8]) -> Result<Step, HandshakeError> {
        let proven = self.offer.token.secret.check_server(&welcome.auth_message(asked), &welcome.proof);
        proven.map_err(|_| HandshakeError::WrongGateway)?;
        // What was not offered is not agreed on, whatever a gateway says.
        let features = welcome.features.and(self.offer.features);
        self.state = State::Address(Box::new(Welcome { features, ..welcome }));
        Ok(Step::Wait)
    }
}

/// The one IPv4 address among those assigned.
fn lease_of(assigned: &[AssignedAddress]) -> Result<Ipv4Addr, HandshakeError> {
    let address = assigned.iter().find_map(|assigned| match assigned.prefix.address() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let address = address.ok_or(HandshakeError::NoAddress)?;
    ipv4::is_a_hosts(address).then_some(address).ok_or(HandshakeError::BadAddress(address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests;
