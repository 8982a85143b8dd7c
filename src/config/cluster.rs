//! `[cluster]`: how a node finds the others, and what they prove to each other.

use std::net::SocketAddr;
use std::path::PathBuf;

use regrow_cluster::discovery::Query;
use regrow_cluster::secret::ClusterSecret;

use super::reader::Reader;

/// The port that peers are looked for at unless they name one.
const PORT: u16 = 7410;

/// How a node takes part in gossip. A node without it finds others through a shared store only.
#[derive(Clone, Debug)]
pub(crate) struct ClusterSettings {
    /// Where to take datagrams.
    pub(crate) listen: SocketAddr,
    /// Where others reach that, if not there.
    pub(crate) advertise: Option<SocketAddr>,
    /// Name of the cluster.
    pub(crate) name: String,
    /// What all nodes know and nobody else does.
    pub(crate) secret: ClusterSecret,
    /// Where to look for the others.
    pub(crate) queries: Vec<Query>,
}

/// The section, if `cluster.listen` says that the node takes part.
pub(super) fn settings(reader: &mut Reader) -> Option<ClusterSettings> {
    let listen = address(reader, "cluster.listen");
    let advertise = address(reader, "cluster.advertise");
    let name = reader.text("cluster.name", "regrow", "1 to 64 bytes", |name| {
        (1..=64).contains(&name.len())
    });
    let secret_file = reader.text("cluster.secret_file", "", "a path", |_| true);
    let mut queries = Vec::new();
    for key in ["cluster.seeds", "cluster.dns"] {
        queries.extend(places(reader, key));
    }
    let listen = listen?;
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
            queries,
        }),
        Err(error) => {
            let what = regrow_runtime::causes::chain(&error);
            reader.object("cluster.secret_file", what);
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
