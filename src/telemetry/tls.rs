//! What a receiver of telemetry proves itself by, and what the node proves to it.
//!
//! Trusted is an authority from a file, or else those of the system. Certificates are checked
//! with the receiver's name; there is no way to leave that out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

/// Files in PEM that were read and understood.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Tls {
    /// Who vouches for the receiver, instead of the system's authorities.
    authority: Option<Vec<u8>>,
    /// The node's own certificate and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Which files there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsFiles {
    pub(crate) authority: Option<PathBuf>,
    /// The certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// A file cannot be used.
#[derive(Debug)]
pub(crate) enum TlsError {
    Authority(String),
    Certificate(String),
    Key(String),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`], which names the path.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let authority = files.authority.as_deref().map(certificates).transpose();
        let identity = files.identity.as_ref().map(|(certificate, key)| {
            let certificate = certificates(certificate).map_err(TlsError::Certificate)?;
            Ok((certificate, private_key(key).map_err(TlsError::Key)?))
        });
        let tls = Self {
            authority: authority.map_err(TlsError::Authority)?,
            identity: identity.transpose()?,
        };
        // The rest that may be wrong: a key of another certificate.
        match tls.needs_nothing() {
            true => Ok(tls),
            false => tls.for_http().map(|_| tls.clone()).map_err(|reason| {
                let blamed = match tls.identity {
                    Some(_) => TlsError::Certificate,
                    None => TlsError::Authority,
                };
                blamed(reason)
            }),
        }
    }

    /// No file was named.
    pub(crate) fn needs_nothing(&self) -> bool {
        self.authority.is_none() && self.identity.is_none()
    }

    /// For requests over HTTP.
    pub(super) fn for_http(&self) -> Result<ClientConfig, String> {
        let builder = builder()?;
        let trusting = match &self.authority {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| error.to_string())?;
                    roots.add(certificate).map_err(|error| error.to_string())?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.with_native_roots().map_err(|error| {
                format!("the system has no authorities to trust ({error}); name a file")
            })?,
        };
        let Some((certificate, key)) = &self.identity else {
            return Ok(trusting.with_no_client_auth());
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string())?;
        let config = trusting.with_client_auth_cert(chain, key);
        config.map_err(|error| error.to_string())
    }

    /// The same for gRPC.
    pub(super) fn for_grpc(&self) -> ClientTlsConfig {
        let config = match &self.authority {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
            None => config,
        }
    }
}

/// The key is not for anybody to see.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// For receivers that are not spoken with in TLS.
pub(super) fn trusting_nobody() -> Result<ClientConfig, String> {
    let builder = builder()?;
    let trusting = builder.with_root_certificates(RootCertStore::empty());
    Ok(trusting.with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path)?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|error| format!("{} is not PEM: {error}", path.display()))?;
        count += 1;
    }
    match count {
        0 => Err(format!("{} has no certificate in PEM", path.display())),
        _ => Ok(pem),
    }
}

fn private_key(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        Err(error) => Err(format!("{} has no key in PEM: {error}", path.display())),
    }
}
