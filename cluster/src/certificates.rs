//! A private authority, and certificates of nodes: what mutual TLS between nodes needs.
//!
//! The authority exists for one cluster. A node's certificate carries the node's name as its
//! DNS name, and serves both ends of a connection. Keys are ECDSA P-256, files are PEM, and
//! only their owner can read them. Nothing is ever overwritten.
//!
//! Whoever holds the authority's key can make members; keep it off the nodes. Certificates do
//! not expire within anyone's lifetime and cannot be revoked one by one: to lock a stolen one
//! out, make a new authority, and new certificates for all nodes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::member::NodeName;

/// The authority's certificate, in its directory.
pub const AUTHORITY: &str = "ca.pem";

/// The authority's key, in its directory.
pub const AUTHORITY_KEY: &str = "ca.key";

/// The name that every authority has; it tells people what it is for.
const AUTHORITY_NAME: &str = "regrow cluster authority";

/// Why there is no certificate. Files that were named as written stay; no other was changed.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file exists.
    #[error("{} exists and is not overwritten; choose another directory or move it away", .0.display())]
    Exists(PathBuf),
    /// A certificate for that name would not be one for the node.
    #[error(
        "{0} cannot be in a certificate: names are letters, digits, `-`, `_` and `.`, and no \
             address"
    )]
    Name(NodeName),
    /// A file cannot be read or written.
    #[error("cannot {deed} {}", path.display())]
    File {
        /// What was tried.
        deed: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Only one of the authority's two files is there.
    #[error("{} is missing beside the other file of the authority", .0.display())]
    HalfAuthority(PathBuf),
    /// The authority's key is no key, or cannot sign.
    #[error("the certificate cannot be made")]
    Unmade(#[from] rcgen::Error),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// The authority's certificate: every node needs it.
    pub authority: PathBuf,
    /// Whether the authority was made now.
    pub is_new_authority: bool,
    /// A certificate for each name.
    pub nodes: Vec<NodeFiles>,
}

/// A node's files.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NodeFiles {
    /// The node.
    pub name: NodeName,
    /// Its certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes certificates for nodes in `directory`, by the authority there; makes that, too, if
/// there is none.
///
/// # Errors
///
/// [`CertificateError`]. Names and existing files are checked before anything is written.
pub fn write(directory: &Path, nodes: &[NodeName]) -> Result<Written, CertificateError> {
    let files: Vec<NodeFiles> = nodes.iter().map(|name| files_of(directory, name)).collect();
    for node in &files {
        if !is_usable(&node.name) {
            return Err(CertificateError::Name(node.name.clone()));
        }
        for path in [&node.certificate, &node.key] {
            if path.exists() {
                return Err(CertificateError::Exists(path.clone()));
            }
        }
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("create", directory))?;
    let authority = directory.join(AUTHORITY);
    let authority_key = directory.join(AUTHORITY_KEY);
    let is_new_authority = match (authority.exists(), authority_key.exists()) {
        (true, true) => false,
        (false, false) => true,
        (true, false) => return Err(CertificateError::HalfAuthority(authority_key)),
        (false, true) => return Err(CertificateError::HalfAuthority(authority)),
    };
    if is_new_authority {
        let key = KeyPair::generate()?;
        let certificate = authority_params().self_signed(&key)?;
        write_new(&authority_key, &key.serialize_pem())?;
        write_new(&authority, &certificate.pem())?;
    }
    let key = fs::read_to_string(&authority_key).map_err(failed("read", &authority_key))?;
    let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&key)?);
    for node in &files {
        let key = KeyPair::generate()?;
        let certificate = node_params(&node.name)?.signed_by(&key, &issuer)?;
        write_new(&node.key, &key.serialize_pem())?;
        write_new(&node.certificate, &certificate.pem())?;
    }
    Ok(Written {
        authority,
        is_new_authority,
        nodes: files,
    })
}

fn files_of(directory: &Path, name: &NodeName) -> NodeFiles {
    NodeFiles {
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
        name: name.clone(),
    }
}

/// Names that a peer can be checked against, and that are no path nor the authority's.
fn is_usable(name: &NodeName) -> bool {
    let text = name.as_str();
    let is_plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    let server = tokio_rustls::rustls::pki_types::ServerName::try_from(text);
    is_plain && !is_address && text != "ca" && server.is_ok()
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn node_params(name: &NodeName) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name.as_str());
    params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn write_new(path: &Path, pem: &str) -> Result<(), CertificateError> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CertificateError::Exists(path.to_owned()));
        }
        opened => opened.map_err(failed("create", path))?,
    };
    file.write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
}

fn failed(deed: &'static str, path: &Path) -> impl Fn(io::Error) -> CertificateError {
    let path = path.to_owned();
    move |source| CertificateError::File {
        deed,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::transport::{CredentialError, CredentialFiles, Credentials};

    fn credentials(written: &Written, node: usize) -> CredentialFiles {
        CredentialFiles {
            authority: written.authority.clone(),
            certificate: written.nodes[node].certificate.clone(),
            key: written.nodes[node].key.clone(),
        }
    }

    #[test]
    fn a_nodes_files_are_its_own_and_nobody_elses() {
        let dir = tempfile::tempdir().expect("writable");
        let dir = dir.path().join("new");
        let names = ["node-1".into(), "Node_2.example".into()];
        let written = write(&dir, &names).expect("writable");
        assert!(written.is_new_authority);
        for entry in fs::read_dir(&dir).expect("readable") {
            let mode = entry.expect("readable").metadata().expect("readable");
            assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        }
        for (node, name) in names.iter().enumerate() {
            Credentials::load(&credentials(&written, node), name).expect("they fit");
        }
        let others = Credentials::load(&credentials(&written, 1), &names[0]);
        assert!(matches!(others, Err(CredentialError::OtherName(_))));
        let mixed = CredentialFiles {
            key: written.nodes[1].key.clone(),
            ..credentials(&written, 0)
        };
        let mixed = Credentials::load(&mixed, &names[0]);
        assert!(matches!(mixed, Err(CredentialError::Unfit(_))), "{mixed:?}");
    }

    #[test]
    fn nothing_is_overwritten_and_a_second_call_uses_the_same_authority() {
        let dir = tempfile::tempdir().expect("writable");
        let first = write(dir.path(), &["a".into()]).expect("writable");
        let before = fs::read(&first.authority).expect("readable");
        let again = write(dir.path(), &["b".into(), "a".into()]);
        assert!(
            matches!(again, Err(CertificateError::Exists(_))),
            "{again:?}"
        );
        assert!(!dir.path().join("b.pem").exists(), "checked before");
        let second = write(dir.path(), &["b".into()]).expect("writable");
        assert!(!second.is_new_authority);
        assert_eq!(fs::read(&second.authority).expect("readable"), before);
        fs::remove_file(dir.path().join(AUTHORITY_KEY)).expect("ours");
        let half = write(dir.path(), &["c".into()]);
        assert!(matches!(half, Err(CertificateError::HalfAuthority(_))));
    }

    #[test]
    fn names_that_could_not_be_checked_get_no_certificate() {
        let dir = tempfile::tempdir().expect("writable");
        for name in ["10.0.0.1", "../a", "a b", "", "ca"] {
            let refused = write(dir.path(), &[name.into()]);
            assert!(
                matches!(refused, Err(CertificateError::Name(_))),
                "{name:?}"
            );
        }
    }
}
