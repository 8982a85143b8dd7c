//! Nodes of another version. The one before is a build of an earlier commit, which the test command
//! makes (`REGROW_TEST_VERSION_BEFORE`). Parts of a newer one are played: a member that gossips as
//! one would, datagrams of another format, and rows that this version cannot read.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use regrow_cluster::discovery::{self, Discovery, Query};
use regrow_cluster::gossip::{Gossip, Options, facts};
use regrow_cluster::member::{Incarnation, Member};
use regrow_cluster::secret::ClusterSecret;
use regrow_testnet::Host;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use super::cluster::{Authority, Cluster, GOSSIP_PORT, PATIENCE};
use super::run::{Run, seed_and_rounds};

const NEWER: &str = "99.1.0";

/// A member of a newer version, as far as gossip goes.
struct Newer {
    runtime: Option<Runtime>,
    _discovery: Discovery,
    _gossip: Gossip,
}

impl Newer {
    /// On its host: threads that are made there stay there, and so do their sockets.
    fn join(cluster: &Cluster, host: &Host) -> Self {
        let seeds: Vec<Query> = cluster
            .nodes
            .iter()
            .map(|node| SocketAddr::from((node.host.four(), GOSSIP_PORT)))
            .map(Query::Fixed)
            .collect();
        let secret = ClusterSecret::from_file(&cluster.secret()).expect("the cluster's secret");
        let listen = SocketAddr::from((host.four(), GOSSIP_PORT));
        host.run(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let (discovery, gossip) = runtime.block_on(async {
                let discovery = Discovery::start(discovery::Options {
                    queries: seeds,
                    own: vec![listen],
                    ..discovery::Options::default()
                });
                let discovery = discovery.expect("fixed addresses");
                let member = Member {
                    name: "newer".into(),
                    incarnation: Incarnation(1),
                };
                let mut options = Options::new(member, listen);
                options
                    .facts
                    .insert(facts::VERSION.to_owned(), NEWER.to_owned());
                options
                    .facts
                    .insert(facts::LOAD.to_owned(), "{\"cpu\":0.5}".to_owned());
                options
                    .facts
                    .insert("horizon/2".to_owned(), "[1,{\"a\":null}]".to_owned());
                let gossip = Gossip::start(options, secret, discovery.candidates()).await;
                (discovery, gossip.expect("it listens"))
            });
            Self {
                runtime: Some(runtime),
                _discovery: discovery,
                _gossip: gossip,
            }
        })
    }
}

impl Drop for Newer {
    fn drop(&mut self) {
        // It dies without a word, as a machine does.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until each node knows of the newer one, by its version.
async fn until_known(cluster: &Cluster) {
    let began = Instant::now();
    for node in &cluster.nodes {
        let newer = async || {
            node.known(|known| {
                known["heard"]["version"] == NEWER && known["heard"]["status"] == "up"
            })
            .await
        };
        while newer().await.is_empty() {
            assert!(
                began.elapsed() < PATIENCE,
                "{} does not hear the newer one",
                node.name
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) async fn nodes_live_with_what_a_newer_version_says_and_writes(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("mixed versions", seed, authority).await;
    let host = run.cluster.network.host("newer").expect("a host");
    let sql = async |run: &Run, statement: &str| {
        let database = run.cluster.database.as_ref().expect("it has one");
        database.schema.run(statement).await;
    };
    // An agent that this version cannot read is nobody's to take.
    let tomorrow = "INSERT INTO agent (id, revision, epoch, owner, entry, changed_at) VALUES \
        ('of tomorrow', 1, nextval('agent_epoch'), NULL, '{\"plan\": {\"kind\": 2}}', now())";
    sql(&run, tomorrow).await;
    for _ in 0..rounds {
        let newer = Newer::join(&run.cluster, &host);
        until_known(&run.cluster).await;
        let nodes: Vec<_> = run
            .cluster
            .nodes
            .iter()
            .map(|node| node.host.four())
            .collect();
        host.run(move || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
            for (node, version) in nodes
                .into_iter()
                .flat_map(|node| [(node, 2_u8), (node, 255)])
            {
                // One that is down loses it, as any.
                let _ = socket.send_to(&[version; 900], (node, GOSSIP_PORT));
            }
        });
        run.go_on(500..1_500).await;

        // A node that a newer version's database outlived is told to become that version.
        let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
            execution_time) VALUES (9999, 'of tomorrow', true, '', 0)";
        sql(&run, later).await;
        let node = run.any_owner().await;
        node.signal(Signal::SIGKILL);
        node.ended().await;
        run.elsewhere(&node).await;
        node.start();
        let status = node.ended().await;
        assert!(!status.success(), "it started");
        let log = std::fs::read_to_string(node.log()).expect("a log");
        assert!(
            log.contains("made by a newer version (it has migration 9999)"),
            "{log}"
        );
        let back = "DELETE FROM _sqlx_migrations WHERE version = 9999";
        sql(&run, back).await;
        node.start();
        run.recover().await;
        drop(newer);
    }
    let untouched = "SELECT count(*) FROM agent WHERE id = 'of tomorrow' AND revision = 1 \
        AND owner IS NULL";
    let database = run.cluster.database.as_ref().expect("it has one");
    assert_eq!(database.schema.number(untouched).await, 1);
    run.finish().await;
}

/// The program of the version before this one, if there is one here.
pub(crate) fn before() -> Option<PathBuf> {
    std::env::var_os("REGROW_TEST_VERSION_BEFORE").map(PathBuf::from)
}

pub(crate) async fn nodes_of_the_version_before_are_replaced_in_turn(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    for _ in 0..rounds {
        let mut run = Run::start_with("upgrade", seed, authority, before()).await;
        let nodes = run.cluster.nodes.clone();
        for (upgraded, node) in nodes.iter().enumerate() {
            run.go_on(200..600).await;
            node.upgrade();
            // The first two are replaced in order; the last one of the version before is lost.
            if upgraded < 2 {
                node.signal(Signal::SIGTERM);
                let status = node.ended().await;
                let name = &node.name;
                assert!(
                    status.success(),
                    "the orderly stop of {name} ended with {status}"
                );
            } else {
                node.signal(Signal::SIGKILL);
                node.ended().await;
            }
            run.elsewhere(node).await;
            node.start();
            node.until_ready().await;
            run.cluster.until_all_heard().await;
            run.go_on(2_000..4_000).await;
        }
        run.finish().await;
    }
}
