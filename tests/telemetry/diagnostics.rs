//! `regrow diagnostics` against real nodes, and where none answers.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::node::{NodeProcess, Said, regrow, say};
use crate::schema::Schema;

/// The files of an archive, by their names below its one directory.
fn opened(archive: &Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(archive).expect("an archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("readable");
        let path = entry.path().expect("a path").display().to_string();
        let (_, name) = path.split_once('/').expect("below a directory");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        assert!(
            files.insert(name.to_owned(), text).is_none(),
            "{name} is there twice"
        );
    }
    files
}

async fn diagnosed(url: &str, token: &str, archive: &Path, more: &[&str]) -> Said {
    let mut command = regrow();
    command
        .args(["diagnostics", "--json", "--output"])
        .arg(archive)
        .args(more);
    command.env("REGROW_URL", url).env("REGROW_TOKEN", token);
    tokio::task::spawn_blocking(move || say(&mut command))
        .await
        .expect("it ends")
}

fn token(dir: &Path, name: &str, scope: &str, url: &str) -> String {
    let mut command = regrow();
    command.args([
        "token", "create", name, "--scope", scope, "--local", "--json",
    ]);
    command
        .env("REGROW_NODE__DATA_DIR", dir)
        .env("REGROW_STORE__DATABASE_URL", url);
    let said = say(&mut command);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let told: Value = serde_json::from_str(&said.out).expect("JSON");
    let secret = told["secret"]
        .as_str()
        .or(told["token"].as_str())
        .expect("a secret");
    secret.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_archive_tells_how_a_node_stands_and_no_secret() {
    let schema = Schema::create().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    // A server that asks for no password takes any.
    let plain = schema.url();
    let (before, after) = plain.split_once('@').expect("somebody");
    let (_, who) = before.split_once("://").expect("a scheme");
    let (password, url) = match who.split_once(':') {
        Some((_, password)) => (password.to_owned(), plain.clone()),
        None => (
            "hunter2secret".to_owned(),
            format!("{before}:hunter2secret@{after}"),
        ),
    };
    let admin = token(dir.path(), "boss", "admin", &url);
    let reader = token(dir.path(), "reader", "read", &url);
    let settings = [
        ("REGROW_STORE__DATABASE_URL", &*url),
        ("REGROW_NODE__NAME", "told"),
    ];
    let mut node = NodeProcess::start(dir.path(), &settings).await;
    let mut headers = reqwest::header::HeaderMap::new();
    let bearer = format!("Bearer {admin}").parse().expect("a header");
    headers.insert("authorization", bearer);
    node.http = reqwest::Client::builder()
        .default_headers(headers)
        .build()
        .expect("a client");
    let task =
        json!({ "kind": "k", "payload": { "card": "4111-carried" }, "goal": "carried-goal" });
    let (status, task) = node.post("/v1/tasks", &task).await;
    assert_eq!(status, 201, "{task}");
    let id = task["id"].as_str().expect("an id");
    let asked = json!({ "kinds": ["k"], "max": 1, "wait_ms": 20_000, "lease_ms": 60_000 });
    let (_, leases) = node.post("/v1/leases", &asked).await;
    let step = json!({ "epoch": leases[0]["epoch"], "key": "look", "input": "carried-input", "output": "carried-output" });
    let (status, said) = node.post(&format!("/v1/leases/{id}/steps"), &step).await;
    assert!(status < 300, "{said}");

    let archive = dir.path().join("all.tar.gz");
    let said = diagnosed(&node.url, &admin, &archive, &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let files = opened(&archive);
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
    for part in manifest["parts"].as_array().expect("parts") {
        assert_eq!(part["problem"], Value::Null, "{part}");
        let file = part["file"].as_str().expect("a name");
        assert_eq!(part["bytes"], files[file].len(), "{part}");
    }
    let read = |file: &str| serde_json::from_str::<Value>(&files[file]).expect("JSON");
    assert_eq!(read("configuration.json")["node.name"]["value"], "told");
    assert!(files["configuration.json"].contains("store.database_url"));
    assert!(read("tree.json").to_string().contains("worker-1"));
    assert_eq!(read("queue.json")["states"]["executing"], 1);
    assert_eq!(read("tasks_executing.json")["tasks"][0]["id"], id);
    assert!(files[&format!("journal/{id}.json")].contains("look"));
    assert!(files["metrics.txt"].contains("regrow_leases_given_total"));
    assert!(read("cluster_nodes.json").to_string().contains("told"));
    let carried = [
        "4111-carried",
        "carried-goal",
        "carried-input",
        "carried-output",
    ];
    let secrets = [&*password, &*admin, &*reader];
    for (file, text) in &files {
        for secret in carried.iter().chain(&secrets) {
            assert!(!text.contains(secret), "{file} tells `{secret}`");
        }
    }

    // Who may not see the settings gets the rest, and is told; what is there is not overwritten.
    let less = dir.path().join("less.tar.gz");
    let said = diagnosed(&node.url, &reader, &less, &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let files = opened(&less);
    assert!(!files.contains_key("configuration.json"));
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
    let parts = manifest["parts"].as_array().expect("parts");
    let problems: Vec<&Value> = parts
        .iter()
        .filter(|part| part["problem"] != Value::Null)
        .collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0]["file"], "configuration.json");
    let said = diagnosed(&node.url, &reader, &less, &[]).await;
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert_eq!(opened(&less).len(), files.len());

    node.kill().await;
    let none = dir.path().join("none.tar.gz");
    let said = diagnosed("http://127.0.0.1:1", &reader, &none, &[]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("nothing answered"), "{}", said.err);
    assert_eq!(opened(&none).keys().collect::<Vec<_>>(), ["manifest.json"]);
}

/// Answers for its health, and leaves every other question open.
async fn half_dead(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut asked = vec![0; 16_384];
            let read = stream.read(&mut asked).await.unwrap_or(0);
            if asked[..read].starts_with(b"GET /health/deep ") {
                let body = r#"{"status":"failed","checks":{"queue":{"status":"failed"}}}"#;
                let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json";
                let length = body.len();
                let answer = format!(
                    "{head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            std::future::pending::<()>().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_do_not_answer_are_named_and_hold_the_rest_up_only_so_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let mut serving = JoinSet::new();
    serving.spawn(half_dead(listener));
    let dir = tempfile::tempdir().expect("temporary directory");
    let archive = dir.path().join("half.tar.gz");
    // Long enough for a loaded machine to answer for its health.
    let said = diagnosed(&url, "", &archive, &["--within", "5s"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let files = opened(&archive);
    let names: Vec<&String> = files.keys().collect();
    assert_eq!(names, ["health.json", "manifest.json"]);
    assert!(files["health.json"].contains("failed"));
    let told: Value = serde_json::from_str(&said.out).expect("JSON");
    let parts = told["manifest"]["parts"].as_array().expect("parts");
    assert!(10 < parts.len());
    for part in parts.iter().filter(|part| part["file"] != "health.json") {
        let problem = part["problem"].as_str().expect("a problem");
        assert!(problem.contains("no answer within"), "{part}");
    }
}
