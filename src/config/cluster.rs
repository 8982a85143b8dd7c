//! `[cluster]`: how a node finds the others, and what they prove to each other.

use std::net::SocketAddr;
use std::path::PathBuf;

use regrow_cluster::discovery::Query;
use regrow_cluster::member::NodeName;
use regrow_cluster::secret::ClusterSecret;
use regrow_cluster::transport::{CredentialError, CredentialFiles, Credentials};
use regrow_runtime::causes::chain;

use super::reader::Reader;

/// The port that peers are looked for at unless they name one.
const PORT: u16 = 7410;

/// How a node takes part in gossip, and is connected to the others. A node without it finds
/// others through a shared store only.
#[derive(Clone, Debug)]
pub(crate) struct ClusterSettings {
    /// Where to take datagrams (UDP) and sessions (TCP).
    pub(crate) listen: SocketAddr,
    /// Where others reach that, if not there.
    pub(crate) advertise: Option<SocketAddr>,
    /// Name of the cluster.
    pub(crate) name: String,
    /// What all nodes know and nobody else does.
    pub(crate) secret: ClusterSecret,
    /// What it proves its name with, if sessions are encrypted.
    pub(crate) credentials: Option<Credentials>,
    /// Where to look for the others.
    pub(crate) queries: Vec<Query>,
}

/// The section, if `cluster.listen` says that the node called `node` takes part.
pub(super) fn settings(reader: &mut Reader, node: &str) -> Option<ClusterSettings> {
    let listen = address(reader, "cluster.listen");
    let advertise = address(reader, "cluster.advertise");
    let name = reader.text("cluster.name", "regrow", "1 to 64 bytes", |name| {
        (1..=64).contains(&name.len())
    });
    let secret_file = reader.text("cluster.secret_file", "", "a path", |_| true);
    let credentials = credentials(reader, node);
    let mut queries = Vec::new();
    for key in ["cluster.seeds", "cluster.dns"] {
        queries.extend(places(reader, key));
    }
    let listen = listen?;
    if listen.ip().is_unspecified() && advertise.is_none() {
        let what = format!(
            "found nothing, expected the address at which others reach this node, because it \
             listens on all addresses ({listen})"
        );
        reader.object("cluster.advertise", what);
        return None;
    }
    if secret_file.is_empty() {
        let what = "found nothing, expected a file with at least 32 bytes that all nodes of the \
            cluster share and nobody else knows; make one with `openssl rand -base64 32`";
        reader.object("cluster.secret_file", what.to_owned());
        return None;
    }
    let secret = ClusterSecret::from_file(&PathBuf::from(&secret_file));
    match secret {
        Ok(secret) => Some(ClusterSettings {
            listen,
            advertise,
            name,
            secret,
            credentials,
            queries,
        }),
        Err(error) => {
            reader.object("cluster.secret_file", chain(&error));
            None
        }
    }
}

/// What sessions are encrypted with: three files, or none of them.
fn credentials(reader: &mut Reader, node: &str) -> Option<Credentials> {
    let keys = ["cluster.authority", "cluster.certificate", "cluster.key"];
    let paths = keys.map(|key| reader.text(key, "", "a path to a PEM file, or nothing", |_| true));
    let missing = || keys.iter().zip(&paths).filter(|(_, path)| path.is_empty());
    if missing().count() == keys.len() {
        return None;
    }
    let missing: Vec<&str> = missing().map(|(key, _)| *key).collect();
    for key in &missing {
        let what = "found nothing, expected a file: authority, certificate and key belong \
            together; make them with `regrow cluster cert`";
        reader.object(key, what.to_owned());
    }
    if !missing.is_empty() {
        return None;
    }
    let [authority, certificate, key] = paths.clone().map(PathBuf::from);
    let files = CredentialFiles {
        authority,
        certificate,
        key,
    };
    match Credentials::load(&files, &NodeName::from(node)) {
        Ok(credentials) => Some(credentials),
        Err(error) => {
            let blamed = match &error {
                CredentialError::Unreadable { path, .. } => {
                    let is_it = |one: &String| path.as_os_str() == one.as_str();
                    paths.iter().position(is_it).unwrap_or(1)
                }
                CredentialError::Authority(_) => 0,
                CredentialError::Unfit(_) | CredentialError::OtherName(_) => 1,
            };
            reader.object(keys[blamed], chain(&error));
            None
        }
    }
}

/// An address, or nothing.
fn address(reader: &mut Reader, key: &str) -> Option<SocketAddr> {
    let text = reader.text(
        key,
        "",
        "an address such as \"10.0.0.1:7410\", or nothing",
        |text| text.is_empty() || text.parse::<SocketAddr>().is_ok(),
    );
    text.parse().ok()
}

/// Places to look, separated by commas.
fn places(reader: &mut Reader, key: &str) -> Vec<Query> {
    let read = |text: &str| -> Result<Vec<Query>, String> {
        let places = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        places
            .map(|one| Query::parse(one, PORT).map_err(|error| error.to_string()))
            .collect()
    };
    let text = reader.text(
        key,
        "",
        "places to look for peers, separated by commas",
        |_| true,
    );
    if let Err(problem) = read(&text) {
        reader.object(key, problem);
    }
    read(&text).unwrap_or_default()
}
