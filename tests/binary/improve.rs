//! A search for a strategy, as a person asks for it.

use serde_json::Value;

use crate::node::{NodeProcess, regrow, say};

const SEARCH: [&str; 14] = [
    "improve",
    "search",
    "--family",
    "uniform",
    "--items",
    "30",
    "--seed",
    "5",
    "--generations",
    "4",
    "--batch",
    "6",
    "--test",
    "3",
];

#[tokio::test]
async fn a_search_ends_with_a_champion_held_against_what_is_known() {
    let dir = tempfile::tempdir().expect("a folder");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let url = node.url.clone();
    let asked = move |more: &[&str]| say(regrow().args(SEARCH).args(more).env("REGROW_URL", &url));
    let found = tokio::task::spawn_blocking(move || (asked(&["--json"]), asked(&[])));
    let (json, text) = found.await.expect("they ran");
    assert_eq!(
        (json.code, text.code),
        (Some(0), Some(0)),
        "{}{}",
        json.err,
        text.err
    );
    let found: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(found["champion"]["generations"], 4);
    assert_eq!(found["test"]["strategies"][1]["strategy"], "best fit");
    // The same seed, so the same champion.
    let strategy = found["champion"]["strategy"].as_str().expect("a strategy");
    assert!(text.out.contains(strategy), "{}", text.out);
    assert!(text.out.contains("first fit") && text.out.contains("above the bound"));
}

#[test]
fn a_search_without_an_end_or_out_of_bounds_is_refused_before_anything_is_sent() {
    let endless = say(regrow().args(["improve", "search", "--seed", "1"]));
    assert_eq!(endless.code, Some(2));
    assert!(endless.err.contains("--minutes"), "{}", endless.err);
    let wide = say(regrow().args(SEARCH).args(["--parts", "65"]));
    assert_eq!(wide.code, Some(2));
    assert!(
        wide.err.contains("`parts` is 65, not 1 to 64"),
        "{}",
        wide.err
    );
}
