//! Where agents go, and why, on real node processes that share no database.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::agreed::{NAMES, founders, post, until};
use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::peers::Cluster;

/// Makes an agent at a node, and asks again while nobody can decide.
fn start(asked: &NodeProcess, words: &[&str]) {
    let began = Instant::now();
    loop {
        let mut command = regrow();
        command.args(["agents", "start"]).args(words);
        let made = say(command.args(["--role", "worker", "--json", "--url", &asked.url]));
        let is_made = made.code == Some(0) || made.err.contains("exists");
        if is_made {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{words:?}: {}", made.err);
    }
}

/// Where all agents are of which it is known.
async fn places(asked: &NodeProcess) -> BTreeMap<String, String> {
    let (status, answer) = asked.get("/v1/cluster/placement").await;
    assert_eq!(status, 200, "{answer}");
    let placed = answer["placed"].as_array().expect("a list");
    let owned = placed.iter().filter(|agent| agent["state"] == "owned");
    let place = |agent: &Value| {
        let words = [&agent["id"], &agent["node"]].map(|it| it.as_str().expect("a text"));
        (words[0].to_owned(), words[1].to_owned())
    };
    owned.map(place).collect()
}

async fn until_placed(
    asked: &NodeProcess,
    wanted: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeMap<String, String> {
    let began = Instant::now();
    loop {
        let places = places(asked).await;
        if wanted(&places) {
            return places;
        }
        assert!(began.elapsed() < PATIENCE, "still {places:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn explain(asked: &NodeProcess, agent: &str) -> Value {
    let (status, why) = asked.get(&format!("/v1/cluster/explain/{agent}")).await;
    assert_eq!(status, 200, "{why}");
    why
}

/// Of all that a decision weighed, what it says of one node.
fn weighed(decision: &Value, node: &str) -> Value {
    let candidates = decision["candidates"].as_array().expect("a list").iter();
    let mut of = candidates.filter(|it| it["node"] == node);
    of.next().expect("weighed").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_taints_reasons_and_what_is_foretold_hold_without_a_database_as_with_one() {
    let cluster = Cluster::new();
    let mut peers = founders(&cluster);
    let offers = [("zone=a", ""), ("zone=b", ""), ("zone=b", "gpu=reserved")];
    for (peer, (labels, taints)) in peers.iter_mut().zip(offers) {
        peer.set("REGROW_NODE__LABELS", labels);
        peer.set("REGROW_NODE__TAINTS", taints);
    }
    let nodes = join_all(peers.iter().map(|peer| peer.start())).await;
    let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
    let up = |nodes: &Vec<Option<NodeProcess>>, not: &str| {
        let mut others = (0..3).filter(|n| NAMES[*n] != not && nodes[*n].is_some());
        others.next().expect("one is up")
    };
    {
        let nodes: Vec<&NodeProcess> = nodes.iter().flatten().collect();
        start(nodes[1], &["in-a", "--require", "zone=a"]);
        start(nodes[2], &["in-b", "--require", "zone=b"]);
        for n in 0..4 {
            let name = format!("either-{n}");
            let words = [&name, "--require", "zone=b", "--tolerate", "gpu=reserved"];
            start(nodes[n % 3], &words);
        }
        let apart = ["--spread", "pair", "--tolerate", "gpu=reserved"];
        for name in ["apart-1", "apart-2", "apart-3"] {
            start(nodes[0], &[&[name], &apart[..]].concat());
        }
        // Nobody can have it yet.
        start(nodes[0], &["in-c", "--require", "zone=c"]);
    }
    let a = nodes[0].as_ref().expect("up");
    let placed = until_placed(a, |placed| placed.len() == 9).await;
    assert_eq!((&*placed["in-a"], &*placed["in-b"]), ("a", "b"));
    let mut apart: Vec<&String> = (1..=3).map(|n| &placed[&format!("apart-{n}")]).collect();
    apart.sort();
    assert_eq!(apart, ["a", "b", "c"]);
    assert!(
        (0..4).all(|n| placed[&format!("either-{n}")] != "a"),
        "{placed:?}"
    );

    // Why, asked of any node; and why nowhere.
    for asked in nodes.iter().flatten() {
        let why = explain(asked, "in-b").await;
        let decision = &why["decision"];
        assert_eq!(decision["outcome"]["node"], "b", "{why}");
        let excluded = ["a", "c"].map(|node| weighed(decision, node)["excluded"].to_string());
        assert!(
            excluded[0].contains("lacks the required label zone=b"),
            "{why}"
        );
        assert!(excluded[1].contains("has the taint gpu=reserved"), "{why}");
        let terms = weighed(decision, "b")["terms"].to_string();
        assert!(
            terms.contains("filled") && decision["seed"].is_u64(),
            "{why}"
        );
        let why = explain(asked, "in-c").await;
        let text = why["why"].as_str().expect("why");
        assert!(
            text.contains("goes nowhere") && text.contains("zone=c"),
            "{text}"
        );
    }
    let said = say(regrow().args(["cluster", "placement", "in-b", "--url", &a.url]));
    assert!(
        said.out.contains("lacks the required label"),
        "{}",
        said.out
    );
    let (status, listed) = a.get("/v1/cluster/nodes").await;
    let listed = listed["nodes"].as_array().expect("a list").iter();
    let zones = listed.map(|node| node["report"]["labels"]["zone"].as_str());
    let zones: Vec<_> = zones.map(Option::unwrap_or_default).collect();
    assert_eq!((status, zones), (200, vec!["a", "b", "b"]));

    // What would happen if a node died; then it does.
    let victim = placed["either-0"].clone();
    let asked = up(&nodes, &victim);
    let asked = nodes[asked].as_ref().expect("up");
    let (status, foretold) = asked
        .get(&format!("/v1/cluster/placement?if_lost={victim}"))
        .await;
    assert_eq!(status, 200, "{foretold}");
    let foretold = foretold["agents"].as_array().expect("a list").clone();
    let theirs = placed.values().filter(|node| **node == victim).count();
    assert_eq!(foretold.len(), theirs, "{foretold:?}");
    let killed = NAMES
        .iter()
        .position(|name| *name == victim)
        .expect("one of them");
    nodes[killed].take().expect("up").kill().await;
    let asked = nodes[up(&nodes, &victim)].as_ref().expect("up");
    for lost in &foretold {
        let id = lost["agent"].as_str().expect("a name");
        match lost["goes_to"].as_str() {
            Some(node) => {
                let there = until(asked, id, |agent| {
                    agent["state"] == "owned" && agent["node"] == node
                });
                let there = there.await;
                assert_eq!(there["placed"]["reason"], "node loss", "{there}");
            }
            None => assert_eq!((id, &*victim), ("in-b", "b"), "{lost}"),
        }
    }

    // It comes back with another label: what waited for that runs there.
    peers[killed].set("REGROW_NODE__LABELS", "zone=c");
    peers[killed].set("REGROW_NODE__TAINTS", "");
    nodes[killed] = Some(peers[killed].start().await);
    let asked = nodes[up(&nodes, &victim)].as_ref().expect("up");
    let there = until(asked, "in-c", |agent| agent["state"] == "owned").await;
    assert_eq!(there["node"], victim, "{there}");

    // A cordoned node gets nothing, and says so; a drained one gives away what fits elsewhere.
    let path = format!("/v1/cluster/nodes/{victim}/drain");
    post(asked, &path, &json!({})).await;
    let waits = until(asked, "in-c", |agent| agent["node"].is_null()).await;
    assert_eq!(
        waits["restarts"].as_array().map_or(0, Vec::len),
        0,
        "{waits}"
    );
    let why = explain(asked, "in-c").await;
    assert!(why["why"].to_string().contains("cordoned"), "{why}");
    let path = format!("/v1/cluster/nodes/{victim}/release");
    post(asked, &path, &json!({})).await;
    until(asked, "in-c", |agent| agent["state"] == "owned").await;
    for node in nodes.into_iter().flatten() {
        node.kill().await;
    }
}
