//! Nodes that find each other, and are connected, as processes.

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::peers::{Cluster, until_connected, until_node};

/// The value of the first metric whose name and labels begin so, or 0.
async fn metric(node: &NodeProcess, begins: &str) -> f64 {
    let answer = node.http.get(format!("{}/metrics", node.url)).send().await;
    let text = answer.expect("an answer").text().await.expect("text");
    let line = text.lines().find(|line| line.starts_with(begins));
    line.and_then(|line| line.split_whitespace().next_back())
        .map_or(0.0, |value| value.parse().expect("a number"))
}

async fn until_metric(node: &NodeProcess, begins: &str, at_least: f64) {
    let began = Instant::now();
    while metric(node, begins).await < at_least {
        assert!(
            began.elapsed() < PATIENCE,
            "{begins} stays below {at_least}"
        );
        sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_find_each_other_and_one_that_is_killed_comes_back_as_a_later_life() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    // A name of DNS leads to a node as an address does.
    let mut b = cluster.peer("b", &[]);
    let named = format!("localhost:{}", a.address.port());
    b.set("REGROW_CLUSTER__DNS", &named);
    let c = cluster.peer("c", &[b.address]);
    let (one, two, three) = (a.start().await, b.start().await, c.start().await);
    for (node, others) in [(&one, ["b", "c"]), (&two, ["a", "c"]), (&three, ["a", "b"])] {
        for other in others {
            let seen = until_connected(node, other).await;
            assert!(seen["session"]["since"].is_string(), "{seen}");
        }
        until_metric(node, "regrow_gateway_sessions{state=\"ready\"}", 2.0).await;
    }
    // Each pair has one session: who did not dial was dialled.
    let dialled = |seen: serde_json::Value| seen["session"]["dialled_here"] == true;
    let here = dialled(until_connected(&one, "b").await);
    let there = dialled(until_connected(&two, "a").await);
    assert_ne!(here, there);

    let shown = say(regrow()
        .args(["cluster", "nodes"])
        .env("REGROW_URL", &one.url));
    assert!(
        shown.out.contains("ready") && shown.out.contains("dialled"),
        "{}",
        shown.out
    );

    let before = until_connected(&one, "b").await;
    two.kill().await;
    until_node(&one, "b", |node| {
        node["session"].is_null() || node["session"]["state"] == "failed"
    })
    .await;
    let two = b.start().await;
    let after = until_node(&one, "b", |node| {
        node["session"]["state"] == "ready"
            && node["session"]["since"] != before["session"]["since"]
    });
    after.await;
    until_connected(&two, "c").await;

    // Who is frozen is disconnected, and connected again when it goes on.
    three.signal(Signal::SIGSTOP);
    until_node(&one, "c", |node| node["session"]["state"] != "ready").await;
    three.signal(Signal::SIGCONT);
    until_connected(&one, "c").await;
    until_connected(&three, "a").await;
    for node in [one, two, three] {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_another_secret_are_not_let_in_and_it_is_said() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let mut stranger = cluster.peer("stranger", &[a.address]);
    let other = cluster.path().join("other");
    std::fs::write(&other, "YW5vdGhlciBzZWNyZXQgb2YgMzIgYnl0ZXMgb3Igc28h").expect("written");
    stranger.set("REGROW_CLUSTER__SECRET_FILE", &other.display().to_string());
    let (here, there) = (a.start().await, stranger.start().await);
    let dropped = "regrow_gossip_datagrams_dropped_total{reason=\"unauthentic\"}";
    until_metric(&here, dropped, 1.0).await;
    let (_, seen) = here.get("/v1/cluster/nodes").await;
    assert_eq!(seen["nodes"].as_array().map(Vec::len), Some(1), "{seen}");
    here.kill().await;
    there.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_another_authority_are_turned_away_and_both_sides_say_why() {
    let cluster = Cluster::new();
    cluster.certify("ours", &["a", "b"]);
    cluster.certify("theirs", &["c"]);
    let (ours, theirs) = (cluster.path().join("ours"), cluster.path().join("theirs"));
    let mut a = cluster.peer("a", &[]);
    a.certified(&ours, "a");
    let mut b = cluster.peer("b", &[a.address]);
    b.certified(&ours, "b");
    let mut c = cluster.peer("c", &[a.address]);
    c.certified(&theirs, "c");
    let (one, two, three) = (a.start().await, b.start().await, c.start().await);
    until_connected(&one, "b").await;
    for (node, other) in [(&one, "c"), (&three, "a")] {
        let failed = until_node(node, other, |seen| seen["session"]["state"] == "failed").await;
        let why = failed["session"]["error"].as_str().expect("why");
        assert!(why.contains("TLS") || why.contains("handshake"), "{why}");
        assert_eq!(failed["heard"]["status"], "up", "{failed}");
    }
    let away = "regrow_gateway_turned_away_total{reason=";
    until_metric(&one, away, 1.0).await;
    for node in [one, two, three] {
        node.kill().await;
    }
}

#[test]
fn settings_of_the_cluster_that_cannot_be_used_are_refused_with_the_way_out() {
    let cluster = Cluster::new();
    cluster.certify("certificates", &["a"]);
    let dir = cluster.path().join("certificates");
    let file = |name: &str| dir.join(name).display().to_string();
    let secret = cluster.path().join("secret").display().to_string();
    let check = |name: &str, settings: &[(&str, &str)]| {
        let mut command = regrow();
        command.args(["node", "--check", "--config", "/dev/null", "--name", name]);
        command.env("REGROW_CLUSTER__SECRET_FILE", &secret);
        command.env("REGROW_CLUSTER__LISTEN", "127.0.0.1:7410");
        command.envs(settings.iter().copied());
        say(&mut command)
    };
    let (authority, certificate) = (file("ca.pem"), file("a.pem"));
    let key = file("a.key");
    let all = [
        ("REGROW_CLUSTER__AUTHORITY", &*authority),
        ("REGROW_CLUSTER__CERTIFICATE", &*certificate),
        ("REGROW_CLUSTER__KEY", &*key),
    ];
    let fine = check("a", &all);
    assert_eq!(fine.code, Some(0), "{}", fine.err);
    for (said, expected) in [
        (check("b", &all), "is not for this node, b"),
        (check("a", &all[..2]), "cluster.key: found nothing"),
        (
            check("a", &[("REGROW_CLUSTER__LISTEN", "0.0.0.0:7410")]),
            "cluster.advertise: found nothing",
        ),
    ] {
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(expected), "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_for_other_nodes_stops_the_start() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let taken = std::net::TcpListener::bind(a.address).expect("free a moment ago");
    let mut command = regrow();
    let secret = cluster.path().join("secret");
    command.args(["node", "--http", "127.0.0.1:0", "--data-dir"]);
    command.arg(cluster.path().join("data"));
    command.args([
        "--cluster-listen",
        &a.address.to_string(),
        "--cluster-secret-file",
    ]);
    command.arg(secret);
    let said = say(&mut command);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("cannot listen for other nodes"),
        "{}",
        said.err
    );
    drop(taken);
}
