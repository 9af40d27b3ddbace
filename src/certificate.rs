//! The dates of a certificate, judged and told.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::utc::rfc3339;

/// Why a certificate does not count today, with the day of its change where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongDates {
    /// It is too old.
    Expired(Option<SystemTime>),
    /// It will count later.
    NotValidYet(Option<SystemTime>),
}

impl WrongDates {
    /// What a verifier says of the dates; `None` where it objects to something else.
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not about dates is many kinds, and more to come")]
    pub fn told_by(error: &CertificateError) -> Option<Self> {
        let date = |time: &UnixTime| Some(UNIX_EPOCH + Duration::from_secs(time.as_secs()));
        match error {
            CertificateError::Expired => Some(Self::Expired(None)),
            CertificateError::ExpiredContext { not_after, .. } => Some(Self::Expired(date(not_after))),
            CertificateError::NotValidYet => Some(Self::NotValidYet(None)),
            CertificateError::NotValidYetContext { not_before, .. } => Some(Self::NotValidYet(date(not_before))),
            _ => None,
        }
    }

    /// What every client will say today of a server's certificate. A verifier judges dates first, so it does not matter
    /// here whom it trusts and for which name it asks.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let anybody = ServerName::try_from("localhost").ok()?;
        match verifier.verify_server_cert(certificate, &[], &anybody, &[], UnixTime::now()) {
            Err(Error::InvalidCertificate(error)) => Self::told_by(&error),
            Ok(_) | Err(_) => None,
        }
    }
}

/// Whether a certificate is for no host at all: it has no subjectAltName, where alone clients look (RFC 9525, 6.3).
pub fn is_nameless(certificate: &CertificateDer<'_>) -> bool {
    let (Ok(parsed), Ok(anybody)) = (ParsedCertificate::try_from(certificate), ServerName::try_from("localhost"))
    else {
        return false;
    };
    matches!(verify_server_name(&parsed, &anybody), Err(Error::InvalidCertificate(error)) if tells_of_no_name(&error))
}

/// Whether this is what a verifier says of such a certificate.
pub fn tells_of_no_name(error: &CertificateError) -> bool {
    matches!(error, CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty())
}

impl fmt::Display for WrongDates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(None) => write!(f, "has expired"),
            Self::Expired(Some(date)) => write!(f, "expired on {}", rfc3339(*date)),
            Self::NotValidYet(None) => write!(f, "is not valid yet"),
            Self::NotValidYet(Some(date)) => write!(f, "is not valid before {}", rfc3339(*date)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_for_no_host_is_known() {
        let key = rcgen::KeyPair::generate().unwrap();
        let is_nameless = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            is_nameless(rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap().der())
        };
        assert!(is_nameless(&[]));
        assert!(!["gateway.example", "localhost", "192.0.2.1"].iter().any(|&name| is_nameless(&[name])));
    }

    #[test]
    fn a_certificate_whose_time_is_over_or_has_not_come_is_known_with_the_day() {
        let key = rcgen::KeyPair::generate().unwrap();
        let of_years = |years: [i32; 2]| {
            let mut params = rcgen::CertificateParams::new([]).unwrap();
            [params.not_before, params.not_after] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
            let certificate = params.self_signed(&key).unwrap();
            WrongDates::of(certificate.der()).map(|wrong| wrong.to_string())
        };
        assert_eq!(of_years([2000, 4000]), None);
        assert_eq!(of_years([2000, 2001]), Some("expired on 2001-01-01T00:00:00Z".to_owned()));
        assert_eq!(of_years([3999, 4000]), Some("is not valid before 3999-01-01T00:00:00Z".to_owned()));
    }
}
