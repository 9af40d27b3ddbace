//! Whom a dialler trusts: the web's certificate authorities, and perhaps one more, or one certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::WrongDates;
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
    #[error("there is no certificate in {path}; a PEM file of certificates is needed", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// One of its certificates is broken, or TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] Error),
    /// They cannot be trusted.
    #[error("TLS cannot be set up: {0}")]
    Trust(#[from] VerifierBuilderError),
}

impl TlsClient {
    /// Trusts Mozilla's list of certificate authorities and, beside it, the certificates in a PEM file: authorities, and
    /// servers' own.
    ///
    /// # Errors
    /// [`TlsClientError`].
    pub fn new(extra_ca: Option<&Path>) -> Result<Self, TlsClientError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let named = extra_ca.map(certificates).transpose()?.unwrap_or_default();
        for certificate in &named {
            roots.add(certificate.clone())?;
        }
        let authorities =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trust { authorities, named }))
            .with_no_client_auth();
        // WebSockets are HTTP/1.1 (RFC 6455, 1.7): a server that speaks HTTP/2 as well must not choose that.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// Who is trusted: whom an authority vouches for, and whoever shows a certificate that was named itself. For what `openssl
/// req -x509` makes says that it is an authority's, and no server may have such a one by the rules of the web.
#[derive(Debug)]
struct Trust {
    authorities: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The dates of a certificate are judged before who vouches for it, so here they are right.
            Err(Error::InvalidCertificate(error))
                if WrongDates::told_by(&error).is_none() && self.named.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
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
