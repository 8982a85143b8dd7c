//! Nodes of a cluster that share no database, as processes.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE, regrow, say};

/// An address that nobody listens on, over UDP or TCP.
pub(crate) fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = udp.local_addr().expect("bound");
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What the nodes of one cluster have in common.
pub(crate) struct Cluster {
    dir: TempDir,
}

/// How one node is started, again and again.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    data_dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        std::fs::write(dir.path().join("secret"), secret).expect("written");
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A node that looks for others at `seeds`; it has not been started yet.
    pub(crate) fn peer(&self, name: &'static str, seeds: &[SocketAddr]) -> Peer {
        let address = free_address();
        let data_dir = self.path().join(name);
        let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        let mut peer = Peer {
            name,
            address,
            data_dir,
            settings: Vec::new(),
        };
        let secret = self.path().join("secret");
        peer.set("REGROW_NODE__NAME", name);
        peer.set("REGROW_CLUSTER__LISTEN", &address.to_string());
        peer.set("REGROW_CLUSTER__SEEDS", &seeds.join(","));
        peer.set("REGROW_CLUSTER__SECRET_FILE", &secret.display().to_string());
        peer.set("REGROW_REHEARSAL__ENABLED", "true");
        peer
    }

    /// Makes certificates in a directory of this name, with an authority of its own.
    pub(crate) fn certify(&self, dir: &str, names: &[&str]) {
        let mut command = regrow();
        command.args(["cluster", "cert", "--dir"]);
        command.arg(self.path().join(dir)).args(names);
        let made = say(&mut command);
        assert_eq!(made.code, Some(0), "{}", made.err);
    }
}

impl Peer {
    /// The latest value counts.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Lets it use the certificate called `whose` that was made in `dir`.
    pub(crate) fn certified(&mut self, dir: &Path, whose: &str) {
        let path = |file: &str| dir.join(file).display().to_string();
        self.set("REGROW_CLUSTER__AUTHORITY", &path("ca.pem"));
        self.set(
            "REGROW_CLUSTER__CERTIFICATE",
            &path(&format!("{whose}.pem")),
        );
        self.set("REGROW_CLUSTER__KEY", &path(&format!("{whose}.key")));
    }

    pub(crate) async fn start(&self) -> NodeProcess {
        let (settings, log) = (self.settings(), self.opened_log());
        NodeProcess::start_logging(&self.data_dir, &settings, log.into()).await
    }

    /// Waits only until it answers, ready or not.
    pub(crate) async fn start_alive(&self) -> NodeProcess {
        let (settings, log) = (self.settings(), self.opened_log());
        NodeProcess::start_alive(&self.data_dir, &settings, log.into()).await
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        let settings = self.settings.iter();
        settings.map(|(name, value)| (&**name, &**value)).collect()
    }

    fn opened_log(&self) -> std::fs::File {
        std::fs::create_dir_all(&self.data_dir).expect("created");
        let mut options = std::fs::File::options();
        let log = options.create(true).append(true).open(self.log());
        log.expect("writable")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// The lines of its log, if it logs JSON.
    pub(crate) fn logged(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log()).expect("readable");
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    }
}

/// What `asked` says of the node called `name`, once that is as wanted.
pub(crate) async fn until_node(
    asked: &NodeProcess,
    name: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let began = Instant::now();
    loop {
        let (status, answer) = asked.get("/v1/cluster/nodes").await;
        assert_eq!(status, 200, "{answer}");
        let nodes = answer["nodes"].as_array().expect("a list");
        if let Some(node) = nodes
            .iter()
            .find(|node| node["name"] == name && wanted(node))
        {
            return node.clone();
        }
        assert!(began.elapsed() < PATIENCE, "still {answer}");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Waits until `asked` has a session with the node called `name`.
pub(crate) async fn until_connected(asked: &NodeProcess, name: &str) -> Value {
    until_node(asked, name, |node| node["session"]["state"] == "ready").await
}
