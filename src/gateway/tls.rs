//! Certificate and key from their files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{Error, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tracing::warn;

use crate::certificate::{WrongDates, is_nameless};
use crate::config::file;
use crate::config::gateway::Tls;

/// What the header of an encrypted key has, in either form of PEM (RFC 5958, RFC 1421).
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The kernel refuses to read it, or it is no regular file.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of it is broken.
    #[error("{}: is broken: {source}; copy it anew from where it was made", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// Where.
        source: pem::Error,
    },
    /// It holds something else.
    #[error("{}: there is no certificate in it; tls.certificate names the PEM file that has the chain", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// It holds something else.
    #[error("{}: there is no private key in it; tls.key names the PEM file that has it", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// A gateway has nobody to ask for a password.
    #[error(
        "{}: the key is encrypted; \"openssl pkey -in {} -out key.pem\" writes one that is not, for tls.key",
        file.display(), file.display()
    )]
    EncryptedKey {
        /// The file.
        file: PathBuf,
    },
    /// The key is that of another certificate.
    #[error(
        "{} is not the key of the first certificate in {}; name the two that were made together, the gateway's own \
         certificate first",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// TLS does not take them.
    #[error("{} and {} cannot be used: {source}", certificate.display(), key.display())]
    Refused {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: Error,
    },
}

/// TLS 1.2 and 1.3 with the configured certificate.
pub(super) fn load(config: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let certificates = certificates(&config.certificate)?;
    if let Some(wrong) = certificates.first().and_then(WrongDates::of) {
        warn!("{}: the certificate {wrong}, so clients refuse it; renew it", config.certificate.display());
    }
    if certificates.first().is_some_and(is_nameless) {
        warn!(
            "{}: the certificate is for no host, so clients refuse it; make one that has the gateway's name \
             (subjectAltName)",
            config.certificate.display()
        );
    }
    let key = key(&config.key)?;
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key));
    server.map(Arc::new).map_err(|source| {
        let (certificate, key) = (config.certificate.clone(), config.key.clone());
        if matches!(source, Error::InconsistentKeys(_)) {
            TlsError::Mismatch { certificate, key }
        } else {
            TlsError::Refused { certificate, key, source }
        }
    })
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    file::read_regular(file, file::FILE_BYTES_MAX)
        .map_err(|source| TlsError::Unreadable { file: file.to_owned(), source })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Broken { file: file.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { file: file.to_owned() });
    }
    Ok(certificates)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(file)?;
    let file = file.to_owned();
    PrivateKeyDer::from_pem_slice(&text).map_err(|source| {
        if text.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED) {
            TlsError::EncryptedKey { file }
        } else if matches!(source, pem::Error::NoItemsFound) {
            TlsError::NoKey { file }
        } else {
            TlsError::Broken { file, source }
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;
    use crate::lab::Scratch;

    struct Files {
        scratch: Scratch,
        own: rcgen::Certificate,
        key: rcgen::KeyPair,
    }

    fn files() -> Files {
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        Files { scratch: Scratch::new().unwrap(), own, key }
    }

    impl Files {
        fn load(&self, certificate: &str, key: &str) -> Result<Arc<ServerConfig>, TlsError> {
            let [certificate, key] = [("certificate.pem", certificate), ("key.pem", key)].map(|(name, text)| {
                let file = self.scratch.file(name);
                std::fs::write(&file, text).unwrap();
                file
            });
            load(&Tls { certificate, key })
        }

        fn refusal(&self, certificate: &str, key: &str) -> String {
            self.load(certificate, key).unwrap_err().to_string()
        }
    }

    #[test]
    fn certificate_and_key_that_belong_together_are_taken() {
        let files = files();
        assert!(files.load(&files.own.pem(), &files.key.serialize_pem()).is_ok());
    }

    #[test]
    fn what_is_wrong_with_the_files_is_told_with_what_to_do() {
        let files = files();
        let (own, key) = (files.own.pem(), files.key.serialize_pem());
        let another = rcgen::KeyPair::generate().unwrap().serialize_pem();

        let told = files.refusal(&own, &another);
        assert!(told.contains("key.pem is not the key of the first certificate in ") && told.contains("made together"));
        let told = files.refusal(&key, &key);
        assert!(told.contains("certificate.pem: there is no certificate in it; tls.certificate names"), "{told}");
        let told = files.refusal(&own, &own);
        assert!(told.contains("key.pem: there is no private key in it; tls.key names"), "{told}");
        let told = files.refusal(&own.replace("-----END", "----END"), &key);
        assert!(told.contains("certificate.pem: is broken"), "{told}");
        for encrypted in [
            key.replace("PRIVATE", "ENCRYPTED PRIVATE"),
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAA==\n-----END RSA \
             PRIVATE KEY-----"
                .to_owned(),
        ] {
            let told = files.refusal(&own, &encrypted);
            assert!(told.contains("key.pem: the key is encrypted; \"openssl pkey -in "), "{told}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_no_certificate() {
        let device = PathBuf::from("/dev/zero");
        let error = load(&Tls { certificate: device.clone(), key: device }).unwrap_err();
        assert!(error.to_string().starts_with("/dev/zero: cannot be read: it is no regular file"), "{error}");
    }
}
