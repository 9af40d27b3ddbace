//! Whom a dialler trusts: the web's certificate authorities, and perhaps one more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use crate::config::file;

/// The client's half of TLS. Made once: it remembers sessions, so that a redial takes a round trip less.
#[derive(Clone, Debug)]
pub struct TlsClient(pub(super) Arc<ClientConfig>);

/// Why the certificates of a file are not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TlsClientError {
    /// The file is missing, unreadable, too long, or no regular file.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no PEM.
    #[error("cannot read the certificates in {path}: {source}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The file has no certificate.
    #[error("there is no certificate in {path}", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// One of its certificates is broken, or TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

impl TlsClient {
    /// Trusts Mozilla's list of certificate authorities and, beside it, those in a PEM file.
    ///
    /// # Errors
    /// [`TlsClientError`].
    pub fn new(extra_ca: Option<&Path>) -> Result<Self, TlsClientError> {
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for certificate in extra_ca.map(certificates).transpose()?.unwrap_or_default() {
            roots.add(certificate)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // WebSockets are HTTP/1.1 (RFC 6455, 1.7): a server that speaks HTTP/2 as well must not choose that.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsClientError> {
    let bytes = file::read_regular(path, file::FILE_BYTES_MAX)
        .map_err(|source| TlsClientError::File { path: path.to_owned(), source })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsClientError::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsClientError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}
