//! Where agents go, and why, on real node processes.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::schema::Schema;

async fn node(dir: &TempDir, url: &str, name: &str, more: &[(&str, &str)]) -> NodeProcess {
    let mut settings = vec![
        ("REGROW_STORE__DATABASE_URL", url),
        ("REGROW_STORE__LIFE_TERM", "1s"),
        ("REGROW_NODE__NAME", name),
        ("REGROW_AGENTS__WORKERS", "0"),
        ("REGROW_AGENTS__CRITICS", "0"),
    ];
    settings.extend(more);
    NodeProcess::start(dir.path(), &settings).await
}

/// Asks until every agent is owned, and `wanted` holds of where they are.
async fn settled(
    asked: &NodeProcess,
    wanted: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeMap<String, String> {
    let began = Instant::now();
    loop {
        let (status, answer) = asked.get("/v1/cluster/placement").await;
        assert_eq!(status, 200, "{answer}");
        let placed = answer["placed"].as_array().expect("a list");
        let owned: BTreeMap<String, String> = placed
            .iter()
            .filter(|agent| agent["state"] == "owned")
            .map(|agent| (text(&agent["id"]), text(&agent["node"])))
            .collect();
        if owned.len() == placed.len() && wanted(&owned) {
            return owned;
        }
        assert!(began.elapsed() < PATIENCE, "still {answer}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn per_node(owned: &BTreeMap<String, String>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in owned.values() {
        *counts.entry(node.as_str()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_taints_and_groups_are_kept_to_and_every_choice_is_explained() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("temporary directory"));
    let offers: [&[(&str, &str)]; 3] = [
        &[("REGROW_NODE__LABELS", "zone=a,disk=ssd")],
        &[("REGROW_NODE__LABELS", "zone=a")],
        &[
            ("REGROW_NODE__LABELS", "zone=b"),
            ("REGROW_NODE__TAINTS", "gpu=reserved"),
        ],
    ];
    let a = node(&dirs[0], &url, "a", offers[0]).await;
    let b = node(&dirs[1], &url, "b", offers[1]).await;
    let c = node(&dirs[2], &url, "c", offers[2]).await;

    let start = |asked: &NodeProcess, words: &[&str]| {
        let mut command = regrow();
        command.args(["agents", "start"]).args(words);
        say(command.args(["--role", "worker", "--json", "--url", &asked.url]))
    };
    for words in [
        vec!["in-a", "--require", "zone=a", "--prefer", "disk=ssd"],
        vec!["in-b", "--require", "zone=b", "--tolerate", "gpu=reserved"],
        vec!["apart-1", "--spread", "pair", "--tolerate", "gpu=reserved"],
        vec![
            "apart-2",
            "--spread",
            "pair",
            "--tolerate",
            "gpu=reserved",
            "--policy",
            "scr",
        ],
        vec!["apart-3", "--spread", "pair", "--tolerate", "gpu=reserved"],
    ] {
        let made = start(&b, &words);
        assert_eq!(made.code, Some(0), "{words:?}: {}", made.err);
    }
    let owned = settled(&a, |owned| owned.len() == 5).await;
    assert_eq!((owned["in-a"].as_str(), owned["in-b"].as_str()), ("a", "c"));
    let mut apart: Vec<&String> = (1..=3).map(|n| &owned[&format!("apart-{n}")]).collect();
    apart.sort();
    assert_eq!(apart, ["a", "b", "c"]);

    // Why here, with everything that was weighed; asked of any node.
    let (status, why) = c.get("/v1/cluster/explain/in-a").await;
    assert_eq!(status, 200, "{why}");
    let decision = &why["decision"];
    assert_eq!(decision["outcome"]["node"], "a", "{why}");
    let of = |name: &str| {
        let candidates = decision["candidates"].as_array().expect("a list");
        candidates
            .iter()
            .find(|it| it["node"] == name)
            .expect("weighed")
            .clone()
    };
    assert_eq!(of("c")["excluded"], "lacks the required label zone=a");
    let terms = of("a")["terms"].to_string();
    assert!(terms.contains("preferred"), "{terms}");
    assert!(
        of("b")["age_ms"].is_u64() && decision["seed"].is_u64(),
        "{decision}"
    );
    assert_eq!(why["what_if"]["outcome"]["node"], "b", "{why}");
    let said = say(regrow().args(["cluster", "placement", "in-a", "--url", &a.url]));
    assert!(said.out.contains("b would take it"), "{}", said.out);
    assert!(
        said.out.contains("lacks the required label"),
        "{}",
        said.out
    );

    // Nobody can have it: it waits, and says for what; a node that can then takes it.
    assert_eq!(start(&a, &["in-c", "--require", "zone=c"]).code, Some(0));
    let (_, why) = b.get("/v1/cluster/explain/in-c").await;
    let text = why["why"].as_str().expect("why");
    assert!(
        text.contains("goes nowhere") && text.contains("zone=c"),
        "{text}"
    );
    let late = tempfile::tempdir().expect("temporary directory");
    let d = node(&late, &url, "d", &[("REGROW_NODE__LABELS", "zone=c")]).await;
    let owned = settled(&d, |owned| owned.len() == 6).await;
    assert_eq!(owned["in-c"], "d");

    // Nonsense is refused, in words.
    for (words, expected) in [
        (vec!["x", "--policy", "best"], "policy"),
        (
            vec!["x", "--require", "zone=a", "--prefer", "zone=b"],
            "leave one out",
        ),
        (vec!["x", "--class", "cpu", "--policy", "balanced"], "scr"),
    ] {
        let refused = start(&a, &words);
        assert_ne!(refused.code, Some(0), "{words:?}");
        let said = format!("{}{}", refused.out, refused.err);
        assert!(said.contains(expected), "{words:?}: {said}");
    }
    let (status, refused) = a.get("/v1/cluster/placement?if_lost=nobody").await;
    assert_eq!((status, &refused["code"]), (404, &json!("node_not_found")));
    for node in [a, b, c, d] {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_agents_spread_evenly_and_go_where_it_was_foretold_when_their_node_is_killed() {
    const AGENTS: usize = 100;
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("temporary directory"));
    let a = node(&dirs[0], &url, "a", &[]).await;
    let mut b = node(&dirs[1], &url, "b", &[]).await;
    let c = node(&dirs[2], &url, "c", &[]).await;
    let all_at_once = (0..AGENTS).map(|n| {
        let asked = [&a, &b, &c][n % 3];
        let spec = json!({ "id": format!("agent-{n:03}"), "role": "worker" });
        async move { asked.post("/v1/agents", &spec).await }
    });
    for (status, made) in futures::future::join_all(all_at_once).await {
        assert_eq!(status, 201, "{made}");
    }
    let owned = settled(&a, |owned| owned.len() == AGENTS).await;
    let counts = per_node(&owned);
    assert!(
        counts.values().all(|count| (27..=40).contains(count)),
        "{counts:?}"
    );

    let said = say(regrow().args(["cluster", "rebalance", "--json", "--url", &a.url]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let moved = |owned: &BTreeMap<String, String>| {
        let counts = per_node(owned);
        counts
            .values()
            .max()
            .zip(counts.values().min())
            .is_some_and(|(most, least)| most - least <= 1)
    };
    let owned = settled(&a, moved).await;
    let moves: Value = serde_json::from_str(&said.out).expect("JSON");
    let moves = moves["moves"].as_array().expect("a list").len();
    let needed: usize = counts.values().map(|count| count.saturating_sub(34)).sum();
    assert!(moves <= needed + 1, "{moves} moves from {counts:?}");

    // What would happen if b died; then it does.
    let (status, foretold) = c.get("/v1/cluster/placement?if_lost=b").await;
    assert_eq!(status, 200, "{foretold}");
    let foretold: BTreeMap<String, String> = foretold["agents"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|lost| (text(&lost["agent"]), text(&lost["goes_to"])))
        .collect();
    let on_b = owned.iter().filter(|(_, node)| *node == "b").count();
    assert_eq!(foretold.len(), on_b);
    b.signal(Signal::SIGKILL);
    b.ended().await;
    let after = settled(&a, |owned| owned.values().all(|node| node != "b")).await;
    let right = foretold
        .iter()
        .filter(|(agent, node)| after[*agent] == **node)
        .count();
    println!(
        "{right} of {} agents went where it was foretold",
        foretold.len()
    );
    assert_eq!(
        right,
        foretold.len(),
        "foretold {foretold:?}, done {after:?}"
    );
    assert!(
        owned
            .iter()
            .all(|(agent, node)| node == "b" || after[agent] == *node)
    );
    a.kill().await;
    c.kill().await;
}
