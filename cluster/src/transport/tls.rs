//! Mutual TLS between nodes: rustls with ring, TLS 1.3 only, one private authority.
//!
//! A node dials addresses, not names, so that the chain is checked during TLS, and the name
//! right after it: the peer says who it is, and its certificate must be for that name
//! ([`Credentials::is_for`]). No system trust store is consulted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::member::NodeName;

/// Where a node's certificate, its key and the authority's certificate lie, as PEM.
#[derive(Clone, Debug)]
pub struct CredentialFiles {
    /// The authority that every node's certificate is of.
    pub authority: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why there can be no TLS. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file is missing or no PEM.
    #[error("cannot read {path}; `regrow cluster cert` makes such files")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// They do not fit together.
    #[error("certificate, key and authority do not fit together")]
    Unfit(#[from] rustls::Error),
    /// The authority's certificate cannot be one.
    #[error("the authority's certificate cannot be used")]
    Authority(#[source] rustls::server::VerifierBuilderError),
    /// The certificate is for another name than the node's.
    #[error("the certificate is not for this node, {0}; make one for that name")]
    OtherName(NodeName),
}

/// What a node proves its name with, and checks others' names against.
#[derive(Clone)]
pub struct Credentials {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files of a node, and checks that the certificate is for it.
    ///
    /// # Errors
    ///
    /// When files are missing, do not fit together, or are another node's.
    pub fn load(files: &CredentialFiles, name: &NodeName) -> Result<Self, CredentialError> {
        let authority = certificates(&files.authority)?;
        let chain = certificates(&files.certificate)?;
        let is_named = chain.first().is_some_and(|leaf| is_for(leaf, name));
        if !is_named {
            return Err(CredentialError::OtherName(name.clone()));
        }
        let key = || {
            PrivateKeyDer::from_pem_file(&files.key).map_err(|source| CredentialError::Unreadable {
                path: files.key.clone(),
                source,
            })
        };
        let mut roots = RootCertStore::empty();
        for certificate in authority {
            roots.add(certificate)?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(CredentialError::Authority)?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key()?)?;
        let chain_only = Arc::new(ChainOnly {
            roots,
            provider: provider.clone(),
        });
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(chain_only)
            .with_client_auth_cert(chain, key()?)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }

    pub(super) async fn accept(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        Ok(TlsStream::Server(self.acceptor.accept(tcp).await?))
    }

    pub(super) async fn connect(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let address = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
        Ok(TlsStream::Client(
            self.connector.connect(address, tcp).await?,
        ))
    }

    /// The certificate at the other end.
    pub(super) fn leaf(stream: &TlsStream<TcpStream>) -> Option<CertificateDer<'static>> {
        let certificates = match stream {
            TlsStream::Client(stream) => stream.get_ref().1.peer_certificates(),
            TlsStream::Server(stream) => stream.get_ref().1.peer_certificates(),
        };
        let leaf = certificates?.first()?;
        Some(leaf.clone().into_owned())
    }

    /// Whether a certificate is for that name.
    pub(super) fn is_for(leaf: Option<&CertificateDer<'_>>, name: &NodeName) -> bool {
        leaf.is_some_and(|leaf| is_for(leaf, name))
    }
}

fn is_for(leaf: &CertificateDer<'_>, name: &NodeName) -> bool {
    let Ok(name) = ServerName::try_from(name.as_str()) else {
        return false;
    };
    let parsed = ParsedCertificate::try_from(leaf);
    parsed.is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let unreadable = |source| CredentialError::Unreadable {
        path: path.to_owned(),
        source,
    };
    CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)
}

/// Checks all of a server's certificate but its name, which is not known when dialling.
#[derive(Debug)]
struct ChainOnly {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
