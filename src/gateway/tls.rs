//! Certificate and key from their files.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::StartError;
use crate::config::file;
use crate::config::gateway::Tls;

/// TLS 1.2 and 1.3 with the configured certificate.
pub(super) fn load(config: &Tls) -> Result<Arc<ServerConfig>, StartError> {
    let wrong =
        |file: &Path, what: &dyn std::fmt::Display| StartError::Tls { file: file.to_owned(), what: what.to_string() };
    let read = |path: &Path| file::read_regular(path, file::FILE_BYTES_MAX).map_err(|error| wrong(path, &error));
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&config.certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&config.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&config.key)?).map_err(|error| wrong(&config.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&config.certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| wrong(&config.certificate, &error))?;
    Ok(Arc::new(server))
}
