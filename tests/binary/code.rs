//! Code that is loaded into a real node: vetted by its engine, kept over `kill -9`.

use std::fs;
use std::path::Path;

use regrow_modules::expression::{Columns, Expression};
use regrow_modules::policy::{self, Manifest};
use serde_json::{Value, json};

use crate::node::{NodeProcess, Said, regrow, say};

fn code(node: &NodeProcess, arguments: &[&str]) -> Said {
    say(regrow().args(["code", "--url", &node.url]).args(arguments))
}

/// A component as a toolchain would write one.
fn component() -> Vec<u8> {
    let columns = Columns::new(["item", "left"]).expect("names");
    let expression = Expression::parse("item - left", &columns).expect("an expression");
    let manifest = Manifest {
        name: "fit".to_owned(),
        version: "7.0.0".to_owned(),
        kinds: vec!["item".to_owned()],
    };
    policy::component(&expression, &manifest).expect("a component")
}

fn files(folder: &Path) -> usize {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found
        .filter(|it| it.path().extension().is_some_and(|it| it == "code"))
        .count()
}

#[tokio::test]
async fn expressions_and_components_are_vetted_by_the_engine_and_survive_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = NodeProcess::start(&data, &[]).await;
    let text = dir.path().join("fit.expression");
    fs::write(&text, "if left - item <= 2 then 100 else most(left) - left").expect("writable");
    let text = text.to_str().expect("text").to_owned();
    let load = [
        "load",
        "--agent",
        "packer",
        "--version",
        "1",
        "--code",
        &text,
        "--promote",
    ];
    let columns = ["--columns", "item,left", "--json"];
    let loaded = code(&node, &[&load[..], &columns[..]].concat());
    assert_eq!(loaded.code, Some(0), "{}", loaded.err);
    let told: Value = serde_json::from_str(&loaded.out).expect("JSON");
    assert_eq!(told["module"]["scores"], true, "{told}");
    assert_eq!(
        files(&data.join("artefacts")),
        0,
        "our own are compiled in the node"
    );

    let wasm = dir.path().join("fit.wasm");
    fs::write(&wasm, component()).expect("writable");
    let wasm = wasm.to_str().expect("text").to_owned();
    let stage = [
        "stage",
        "--agent",
        "packer",
        "--version",
        "2",
        "--code",
        &wasm,
        "--json",
    ];
    let staged = code(&node, &stage);
    assert_eq!(staged.code, Some(0), "{}", staged.err);
    let told: Value = serde_json::from_str(&staged.out).expect("JSON");
    assert_eq!(told["module"]["says_version"], "7.0.0", "{told}");
    assert_eq!(
        files(&data.join("artefacts")),
        1,
        "compiled apart, and kept"
    );

    fs::write(&wasm, b"\0asm nonsense").expect("writable");
    let refused = code(
        &node,
        &["stage", "-a", "packer", "--version", "3", "--code", &wasm],
    );
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("`inspect`"), "{}", refused.err);
    fs::write(&text, "left - itm").expect("writable");
    let load = ["stage", "-a", "packer", "--version", "3", "--code", &text];
    let refused = code(&node, &[&load[..], &columns[..2]].concat());
    assert!(
        refused.err.contains("`parse`") && refused.err.contains("itm"),
        "{}",
        refused.err
    );

    node.kill().await;
    let node = NodeProcess::start(&data, &[]).await;
    let shown = code(&node, &["versions", "--agent", "packer", "--json"]);
    let told: Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!(told["active"], "1", "{told}");
    assert_eq!(told["versions"].as_array().map(Vec::len), Some(2), "{told}");
    let checked = code(&node, &["check", "--agent", "packer"]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    let show = ["show", "--agent", "packer", "--version", "2", "--source"];
    let source = regrow()
        .args(["code", "--url", &node.url])
        .args(show)
        .output()
        .expect("the binary runs");
    assert_eq!(source.stdout, component(), "byte for byte");
    let promoted = code(&node, &["promote", "--agent", "packer", "--version", "2"]);
    assert_eq!(promoted.code, Some(0), "{}", promoted.err);
}

#[tokio::test]
async fn a_node_that_is_killed_while_code_is_loaded_keeps_all_of_a_version_or_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..4_u32 {
        let node = NodeProcess::start(&data, &[]).await;
        // Killed after so many answers, while the next ones are on their way.
        let mut loading = tokio::task::JoinSet::new();
        for n in 0..8_u32 {
            let (http, url) = (node.http.clone(), format!("{}/v1/code/packer", node.url));
            let version = format!("{round}.{n}");
            let body = json!({
                "version": version, "promote": n % 2 == 0,
                "source": {
                    "kind": "expression", "columns": ["left"], "text": format!("left + {round} * {n}"),
                },
            });
            loading.spawn(async move {
                let answer = http.post(url).json(&body).send().await;
                let kept = answer.is_ok_and(|it| it.status() == 201);
                kept.then_some(version)
            });
        }
        for _ in 0..=round {
            if let Some(Ok(Some(version))) = loading.join_next().await {
                acknowledged.push(version);
            }
        }
        node.kill().await;
        while let Some(ended) = loading.join_next().await {
            acknowledged.extend(ended.expect("no panic"));
        }
    }
    let node = NodeProcess::start(&data, &[]).await;
    let (_, checked) = node.get("/v1/code/packer/check").await;
    assert_eq!(checked["damaged"], json!({}), "{checked}");
    let (_, ledger) = node.get("/v1/code/packer").await;
    let versions = ledger["versions"].as_array().expect("versions");
    let there: Vec<&str> = versions
        .iter()
        .filter_map(|it| it["version"].as_str())
        .collect();
    assert_eq!(checked["sound"], there.len());
    // Retention keeps some twenty of those that were never active: all of the last two rounds.
    for version in acknowledged
        .iter()
        .filter(|it| it.starts_with('3') || it.starts_with('2'))
    {
        assert!(there.contains(&version.as_str()), "{version} of {there:?}");
    }
    assert!(!acknowledged.is_empty());
}
