//! Proof of a credential by challenge and response: the secret is never sent, and the gateway stores only what proofs
//! are checked with.
//!
//! After SCRAM (RFC 5802, 3), with SHA-256. Salt and iterations are left out: they slow down guessing a password, and our
//! secret is 256 random bits. The proofs protect no later byte: that is TLS's work.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What every authenticated message begins with, so that no proof serves another purpose.
pub const LABEL: &[u8] = b"wstether v1 auth";

const CLIENT_KEY_LABEL: &[u8] = b"Client Key";
const SERVER_KEY_LABEL: &[u8] = b"Server Key";

/// Length of secrets, keys, nonces and proofs: SHA-256's.
const BYTES: usize = 32;

type Bytes = [u8; BYTES];

/// Names a credential: 8 characters, public.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId([u8; Self::CHARS]);

impl CredentialId {
    /// Its length.
    pub const CHARS: usize = 8;

    /// Lower-case letters and digits without those that look alike (Crockford's base 32): 5 bits each.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// `None` unless all characters are lower-case ASCII letters or digits.
    pub fn new(chars: [u8; Self::CHARS]) -> Option<Self> {
        chars.iter().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit()).then_some(Self(chars))
    }

    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system's, where it has none to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut chars = [0; Self::CHARS];
        getrandom::fill(&mut chars)?;
        Ok(Self(chars.map(|byte| Self::ALPHABET[usize::from(byte % 32)])))
    }

    /// Its characters as bytes.
    pub fn as_bytes(&self) -> &[u8; Self::CHARS] {
        &self.0
    }

    /// Its characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A number used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub Bytes);

impl Nonce {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system's, where it has none to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }
}

/// A proof as it is sent. To be checked with [`Verifier::check_client`] or [`Secret::check_server`], in constant time;
/// equality is for tests and transcripts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof(pub Bytes);

/// The proof does not fit: another secret, or another message than the one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not fit")]
pub struct WrongProof;

/// The secret of a credential, known to the client alone.
#[derive(Clone)]
pub struct Secret(Bytes);

impl Secret {
    /// From its bytes.
    pub fn new(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }

    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system's, where it has none to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// What a gateway stores of it.
    pub fn verifier(&self) -> Verifier {
        Verifier { stored_key: sha256(&self.client_key()), server_key: hmac(&self.0, SERVER_KEY_LABEL) }
    }

    /// The client's proof over `message` ([`Hello::auth_message`](super::capsule::Hello::auth_message)).
    pub fn prove(&self, message: &[u8]) -> Proof {
        let client_key = self.client_key();
        Proof(xor(client_key, hmac(&sha256(&client_key), message)))
    }

    /// Checks the gateway's proof over `message` ([`Welcome::auth_message`](super::capsule::Welcome::auth_message)).
    ///
    /// # Errors
    /// [`WrongProof`]: this is not the gateway that the credential is of, or the message was changed on its way.
    pub fn check_server(&self, message: &[u8], proof: &Proof) -> Result<(), WrongProof> {
        fits(&hmac(&hmac(&self.0, SERVER_KEY_LABEL), message), &proof.0)
    }

    pub(super) fn client_key(&self) -> Bytes {
        hmac(&self.0, CLIENT_KEY_LABEL)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a gateway knows of a credential: enough to check a client's proof and to prove itself, too little to be the
/// client. In a file it is 128 hexadecimal digits.
#[derive(Clone)]
pub struct Verifier {
    stored_key: Bytes,
    server_key: Bytes,
}

impl Verifier {
    /// Fits no secret. An unknown credential is checked against it, so that it takes as long as a wrong proof.
    pub const NOBODY: Self = Self { stored_key: [0; BYTES], server_key: [0; BYTES] };

    /// Checks the client's proof over `message` ([`Hello::auth_message`](super::capsule::Hello::auth_message)).
    ///
    /// # Errors
    /// [`WrongProof`].
    pub fn check_client(&self, message: &[u8], proof: &Proof) -> Result<(), WrongProof> {
        let client_key = xor(proof.0, hmac(&self.stored_key, message));
        fits(&sha256(&client_key), &self.stored_key)
    }

    /// The gateway's proof over `message` ([`Welcome::auth_message`](super::capsule::Welcome::auth_message)).
    pub fn prove(&self, message: &[u8]) -> Proof {
        Proof(hmac(&self.server_key, message))
    }

    /// As it is written to a file: the stored key, then the server key.
    pub fn to_hex(&self) -> String {
        self.stored_key.iter().chain(&self.server_key).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// The text is not a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a verifier is {} hexadecimal digits", 4 * BYTES)]
pub struct VerifierError;

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let (digits, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> =
            digits.iter().map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?)).collect();
        match (bytes.as_deref().map(<[u8]>::as_chunks::<BYTES>), rest) {
            (Some((&[stored_key, server_key], [])), []) => Ok(Self { stored_key, server_key }),
            _ => Err(VerifierError),
        }
    }
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn random() -> Result<Bytes, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> Bytes {
    Sha256::digest(bytes).into()
}

fn hmac(key: &Bytes, message: &[u8]) -> Bytes {
    // A key shorter than the hash's block is padded with zeros (RFC 2104, 2).
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    block[..BYTES].copy_from_slice(key);
    Hmac::<Sha256>::new(&block).chain_update(message).finalize().into_bytes().into()
}

fn xor(mut a: Bytes, b: Bytes) -> Bytes {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
    a
}

fn fits(a: &Bytes, b: &Bytes) -> Result<(), WrongProof> {
    if bool::from(a.ct_eq(b)) { Ok(()) } else { Err(WrongProof) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Test case 2 has a 4-byte key; zeros behind it are the same key (RFC 2104).
        let mut key = [0; BYTES];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac(&key, b"what do ya want for nothing?");
        assert_eq!(mac[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
    }

    #[test]
    fn each_side_accepts_the_other_ones_proof_of_the_same_message_only() {
        let (secret, other) = (Secret::new([7; BYTES]), Secret::new([8; BYTES]));
        let verifier = secret.verifier();
        let proof = secret.prove(b"message");
        assert_eq!(verifier.check_client(b"message", &proof), Ok(()));
        assert_eq!(verifier.check_client(b"another", &proof), Err(WrongProof));
        assert_eq!(other.verifier().check_client(b"message", &proof), Err(WrongProof));
        assert_eq!(Verifier::NOBODY.check_client(b"message", &proof), Err(WrongProof));
        let proof = verifier.prove(b"answer");
        assert_eq!(secret.check_server(b"answer", &proof), Ok(()));
        assert_eq!(secret.check_server(b"another", &proof), Err(WrongProof));
        assert_eq!(other.check_server(b"answer", &proof), Err(WrongProof));
    }

    #[test]
    fn any_changed_bit_spoils_a_proof() {
        let secret = Secret::new([7; BYTES]);
        for bit in 0..8 * BYTES {
            let mut proof = secret.prove(b"message");
            proof.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(secret.verifier().check_client(b"message", &proof), Err(WrongProof), "bit {bit}");
        }
    }

    #[test]
    fn a_verifier_comes_back_from_its_hex_and_nothing_else_is_one() {
        let verifier = Secret::new([7; BYTES]).verifier();
        let hex = verifier.to_hex();
        let read: Verifier = hex.parse().expect("a verifier");
        assert_eq!((read.stored_key, read.server_key), (verifier.stored_key, verifier.server_key));
        for text in
            ["", "00", &hex[1..], &hex[2..], &format!("{hex}0"), &format!("{hex}00"), &hex.replace(&hex[..1], "g")]
        {
            assert_eq!(text.parse::<Verifier>().err(), Some(VerifierError), "for {text:?}");
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let secret = Secret::new([7; BYTES]);
        assert_eq!(format!("{secret:?} {:?}", secret.verifier()), "Secret(..) Verifier(..)");
    }

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (a, b) = (CredentialId::random().expect("random"), CredentialId::random().expect("random"));
        assert_eq!(CredentialId::new(*a.as_bytes()), Some(a));
        assert_ne!(a, b);
    }
}
