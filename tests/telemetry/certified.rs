//! Certificates of an authority of one's own, made as users make them, and what serves with them.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::node::{regrow, say};

/// An authority, the certificate of a receiver at `localhost`, and that of a node.
pub(crate) struct Certified {
    dir: tempfile::TempDir,
}

impl Certified {
    pub(crate) fn make() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut command = regrow();
        command.args(["cluster", "cert", "localhost", "sender", "--dir"]);
        let made = say(command.arg(dir.path()));
        assert_eq!(made.code, Some(0), "{}", made.err);
        Self { dir }
    }

    /// Where a file of it lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as a setting.
    pub(crate) fn named(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn pem(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("made")
    }

    /// Takes only those in that the authority knows.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let chain = |name: &str| -> Vec<CertificateDer<'static>> {
            let all = CertificateDer::pem_file_iter(self.path(name)).expect("made");
            all.collect::<Result<_, _>>().expect("PEM")
        };
        let mut roots = RootCertStore::empty();
        for certificate in chain("ca.pem") {
            roots.add(certificate).expect("an authority");
        }
        let provider = Arc::new(ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = PrivateKeyDer::from_pem_file(self.path("localhost.key")).expect("made");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients.build().expect("an authority"))
            .with_single_cert(chain("localhost.pem"), key)
            .expect("a key for it");
        TlsAcceptor::from(Arc::new(config))
    }

    /// The same for a server of gRPC.
    pub(crate) fn server(&self) -> ServerTlsConfig {
        // It takes the process's, of which two are compiled in; whoever comes second finds the first.
        let _ = ring::default_provider().install_default();
        let identity = Identity::from_pem(self.pem("localhost.pem"), self.pem("localhost.key"));
        ServerTlsConfig::new()
            .identity(identity)
            .client_ca_root(Certificate::from_pem(self.pem("ca.pem")))
    }
}
