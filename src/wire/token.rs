//! A credential as a person copies it: `wst1_<id>_<secret>`.

use std::fmt;
use std::str::FromStr;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::proof::{CredentialId, Secret};

pub(crate) const PREFIX: &str = "wst1_";

/// Characters of 32 bytes in base64 without padding.
const SECRET_CHARS: usize = 43;

/// Characters of a whole token.
const TOKEN_CHARS: usize = PREFIX.len() + CredentialId::CHARS + 1 + SECRET_CHARS;

/// A credential's name and secret.
#[derive(Clone, Debug)]
pub struct Token {
    /// Which credential.
    pub id: CredentialId,
    /// Its secret.
    pub secret: Secret,
}

impl Token {
    /// A new credential, from the system's random numbers.
    ///
    /// # Errors
    /// The system's, where it has none to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        Ok(Self { id: CredentialId::random()?, secret: Secret::random()? })
    }

    /// The text that a person copies. It is the secret itself: it belongs on a terminal and in a file that only its owner
    /// reads, and in no log.
    pub fn reveal(&self) -> impl fmt::Display {
        format!("{PREFIX}{}_{}", self.id, URL_SAFE_NO_PAD.encode(self.secret.bytes()))
    }
}

/// Why a text is not a token. No message repeats the text: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It starts with something else.
    #[error("a token starts with \"{PREFIX}\"")]
    Prefix,
    /// It is too short or too long.
    #[error("a token has {TOKEN_CHARS} characters, this has {0}: was all of it copied, and nothing else?")]
    Length(usize),
    /// The id is followed by no underscore or has other characters.
    #[error("a token's id is {} lower-case letters or digits and ends at an underscore", CredentialId::CHARS)]
    Id,
    /// The secret has other characters, or cannot be that of any token.
    #[error("a token's secret is base64url (letters, digits, \"-\" and \"_\"); a character in it is wrong")]
    Secret,
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?.as_bytes();
        if text.len() != TOKEN_CHARS {
            return Err(TokenError::Length(text.chars().count()));
        }
        let (&id, rest) = rest.split_first_chunk().ok_or(TokenError::Id)?;
        let id = CredentialId::new(id).ok_or(TokenError::Id)?;
        let secret = rest.strip_prefix(b"_").ok_or(TokenError::Id)?;
        let mut bytes = [0; 32];
        match URL_SAFE_NO_PAD.decode_slice(secret, &mut bytes) {
            Ok(len) if len == bytes.len() => Ok(Self { id, secret: Secret::new(bytes) }),
            Ok(_) | Err(_) => Err(TokenError::Secret),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "wst1_k7m2p9xq_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

    #[test]
    fn a_token_comes_back_as_it_was_copied() {
        let token: Token = TOKEN.parse().expect("a token");
        assert_eq!((token.id.as_str(), token.secret.bytes()), ("k7m2p9xq", &[7; 32]));
        assert_eq!(token.reveal().to_string(), TOKEN);
        let token = Token::random().expect("random");
        let copied: Token = format!(" {}\n", token.reveal()).parse().expect("a token");
        assert_eq!((copied.id, copied.secret.bytes()), (token.id, token.secret.bytes()));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_told_without_repeating_it() {
        let cases = [
            ("", TokenError::Prefix),
            ("wst2_k7m2p9xq", TokenError::Prefix),
            (&TOKEN[..TOKEN.len() - 1], TokenError::Length(56)),
            (&TOKEN.replace("k7m2", "K7m2"), TokenError::Id),
            (&TOKEN.replace("xq_", "xq-"), TokenError::Id),
            (&TOKEN.replace("Bwc", "Bw*"), TokenError::Secret),
            (&TOKEN.replace("Bwc", "Bwé").replacen('B', "", 1), TokenError::Length(56)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Token>().err(), Some(error), "for {text:?}");
        }
    }

    #[test]
    fn a_token_does_not_show_its_secret_in_debug_output() {
        let token: Token = TOKEN.parse().expect("a token");
        assert_eq!(format!("{token:?}"), "Token { id: k7m2p9xq, secret: Secret(..) }");
    }
}
