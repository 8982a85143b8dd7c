//! Tokens and the record of operators' actions, as a user meets them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::elsewhere::connected;
use crate::node::{NodeProcess, PATIENCE, Said, regrow, say};
use crate::peers::Cluster;
use crate::proxy::Proxy;
use crate::schema::Schema;

/// A verb of the command line that talks to a node.
fn verb(node: &NodeProcess, token: &str, arguments: &[&str]) -> Said {
    say(regrow()
        .args(arguments)
        .env("REGROW_URL", &node.url)
        .env("REGROW_TOKEN", token))
}

/// One that works on the store of a node that is stopped.
fn local(data_dir: &Path, arguments: &[&str]) -> Said {
    let mut command = regrow();
    command.args(arguments).arg("--data-dir").arg(data_dir);
    say(&mut command)
}

/// Makes a token on a stopped node's store.
fn made(data_dir: &Path, name: &str, scopes: &str) -> String {
    let said = local(data_dir, &["token", "create", name, "--scope", scopes]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let secret = said.out.trim().to_owned();
    assert!(
        secret.starts_with("regrow_"),
        "nothing else is printed: {secret}"
    );
    assert!(!said.err.contains(&secret), "{}", said.err);
    secret
}

async fn status(node: &NodeProcess, token: &str, path: &str) -> u16 {
    let call = node.http.get(format!("{}{path}", node.url));
    let answer = call.bearer_auth(token).send().await;
    answer.expect("an answer").status().as_u16()
}

fn everywhere(data_dir: &Path) -> Command {
    let mut command = regrow();
    command
        .args(["node", "--http", "0.0.0.0:0", "--data-dir"])
        .arg(data_dir);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_node_with_a_token_listens_where_others_reach_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let refused = say(&mut everywhere(dir.path()));
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    let way_out = "regrow token create admin --scope admin --local";
    assert!(refused.err.contains(way_out), "{}", refused.err);
    let admin = made(dir.path(), "admin", "admin");

    let mut node = tokio::process::Command::from(everywhere(dir.path()));
    let node = node.stdout(Stdio::null()).stderr(Stdio::null());
    let _running = node.kill_on_drop(true).spawn().expect("it starts");
    let began = Instant::now();
    let client = reqwest::Client::builder().timeout(PATIENCE).build();
    let client = client.expect("a client");
    let url = loop {
        assert!(began.elapsed() < PATIENCE, "it does not listen");
        let said = std::fs::read(dir.path().join("node.json")).unwrap_or_default();
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        let address = said["http"].as_str().unwrap_or_default();
        if address.starts_with("0.0.0.0:") {
            break format!("http://{}", address.replace("0.0.0.0", "127.0.0.1"));
        }
        sleep(Duration::from_millis(10)).await;
    };
    let ask = async |path: &str, token: &str| {
        let call = client.get(format!("{url}{path}")).bearer_auth(token);
        call.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(ask("/health", "").await, 200);
    for path in ["/metrics", "/health/deep", "/v1/tasks"] {
        assert_eq!(ask(path, "").await, 401, "{path}");
        assert_eq!(ask(path, &admin).await, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_makes_uses_and_revokes_tokens_and_checks_the_record() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let admin = made(dir.path(), "admin", "admin");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let in_use = local(dir.path(), &["token", "list"]);
    assert_eq!(in_use.code, Some(1), "{}", in_use.out);
    assert!(in_use.err.contains("leave out --local"), "{}", in_use.err);

    let none = verb(&node, "", &["queue", "stats"]);
    assert_eq!(none.code, Some(1), "{}", none.out);
    assert!(none.err.contains("set REGROW_TOKEN"), "{}", none.err);
    let wrong = verb(&node, "regrow_nonsense", &["queue", "stats"]);
    assert!(wrong.err.contains("look at REGROW_TOKEN"), "{}", wrong.err);
    let create = [
        "token",
        "create",
        "eye",
        "--scope",
        "read",
        "--expires",
        "30d",
        "--json",
    ];
    let told = verb(&node, &admin, &create);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let told: Value = serde_json::from_str(&told.out).expect("JSON");
    assert_eq!(told["state"], "active", "{told}");
    let eye = told["token"].as_str().expect("a secret");
    assert_eq!(verb(&node, eye, &["queue", "stats"]).code, Some(0));
    let refused = verb(&node, eye, &["queue", "pause"]);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(
        refused.err.contains("needs the scope `operate`"),
        "{}",
        refused.err
    );
    assert_eq!(verb(&node, &admin, &["queue", "pause"]).code, Some(0));
    let listed = verb(&node, &admin, &["token", "list"]);
    assert!(
        listed.out.contains("eye") && listed.out.contains("in 29 d"),
        "{}",
        listed.out
    );
    let revoked = verb(&node, &admin, &["token", "revoke", "eye"]);
    assert!(revoked.out.starts_with("revoked eye ("), "{}", revoked.out);
    assert_eq!(verb(&node, eye, &["queue", "stats"]).code, Some(1));

    let sound = verb(&node, &admin, &["audit", "verify"]);
    assert_eq!(sound.code, Some(0), "{}", sound.err);
    let noted = sound
        .out
        .trim()
        .rsplit(' ')
        .next()
        .expect("a hash")
        .to_owned();
    let shown = verb(&node, &admin, &["audit", "show"]);
    for expected in [
        "regrow token create",
        "POST /v1/queue/pause",
        "DELETE /v1/tokens/{id}",
    ] {
        assert!(shown.out.contains(expected), "{expected}: {}", shown.out);
    }
    let exported = verb(&node, &admin, &["audit", "export"]);
    // Two each: the local token, the other one, pausing, revoking; and a refusal.
    assert_eq!(exported.out.lines().count(), 9, "{}", exported.out);
    node.kill().await;

    let check = |text: &str, more: &[&str]| {
        let file = dir.path().join("export.jsonl");
        std::fs::write(&file, text).expect("written");
        let mut command = regrow();
        command
            .args(["audit", "verify", "--file"])
            .arg(file)
            .args(more);
        say(&mut command)
    };
    assert_eq!(check(&exported.out, &["--expect", &noted]).code, Some(0));
    let lines: Vec<&str> = exported.out.lines().collect();
    let joined = |lines: &[&str]| lines.join("\n");
    let changed = exported
        .out
        .replacen("/v1/queue/pause", "/v1/queue/clear", 1);
    let removed = joined(&[&lines[..3], &lines[4..]].concat());
    let mut moved = lines.clone();
    moved.swap(2, 3);
    for tampered in [changed, removed, joined(&moved)] {
        let found = check(&tampered, &[]);
        assert_eq!(found.code, Some(1), "{}", found.out);
        assert!(found.err.contains("is broken"), "{}", found.err);
    }
    let cut = joined(&lines[..6]);
    assert_eq!(
        check(&cut, &[]).code,
        Some(0),
        "an export ends where it ends"
    );
    let found = check(&cut, &["--expect", &noted]);
    assert_eq!(
        found.code,
        Some(1),
        "what was noted knows better: {}",
        found.out
    );

    // The node was killed: its store goes on with the same chain.
    let after = made(dir.path(), "after", "read");
    let sound = local(
        dir.path(),
        &["audit", "verify", "--expect", &noted, "--json"],
    );
    let told: Value = serde_json::from_str(&sound.out).expect("JSON");
    assert_eq!(
        (&told[0]["n"], &told[0]["sound"]),
        (&json!(11), &json!(true))
    );
    assert!(!sound.out.contains(&after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_revokes_another_refuses() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let mut nodes = Vec::new();
    for (dir, name) in dirs.iter().zip(["a", "b"]) {
        let settings = [
            ("REGROW_STORE__DATABASE_URL", url.as_str()),
            ("REGROW_NODE__NAME", name),
        ];
        nodes.push(NodeProcess::start(dir.path(), &settings).await);
    }
    let [a, b] = nodes.as_slice() else {
        unreachable!("two of them")
    };
    for node in [a, b] {
        assert_eq!(
            status(node, "", "/v1/queue").await,
            200,
            "there is no token"
        );
    }
    // Beside both, as when nobody has a token yet.
    let beside = |arguments: &[&str]| {
        let mut command = regrow();
        command.args(arguments).arg("--local");
        say(command.env("REGROW_STORE__DATABASE_URL", &url))
    };
    let admin = beside(&["token", "create", "admin", "--scope", "admin"]);
    assert_eq!(admin.code, Some(0), "{}", admin.err);
    let admin = admin.out.trim().to_owned();
    let until = async |node: &NodeProcess, token: &str, wanted: u16| {
        let began = Instant::now();
        while status(node, token, "/v1/queue").await != wanted {
            assert!(began.elapsed() < PATIENCE, "never {wanted}");
            sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    };
    for node in [a, b] {
        until(node, "", 401).await;
        assert_eq!(status(node, &admin, "/v1/queue").await, 200);
    }
    let mut took = Vec::new();
    for round in 0..5 {
        let name = format!("ci-{round}");
        let create = ["token", "create", &name, "--scope", "read"];
        let ci = verb(a, &admin, &create).out.trim().to_owned();
        assert_eq!(status(a, &ci, "/v1/queue").await, 200, "at once");
        until(b, &ci, 200).await;
        let revoked = verb(a, &admin, &["token", "revoke", &name]);
        assert_eq!(revoked.code, Some(0), "{}", revoked.err);
        assert_eq!(status(a, &ci, "/v1/queue").await, 401, "at once");
        took.push(until(b, &ci, 401).await);
    }
    println!("revoked on another node after {took:?}");

    // Each node wrote its own chain, and so did the command line.
    assert_eq!(verb(b, &admin, &["queue", "pause"]).code, Some(0));
    let sound = beside(&["audit", "verify", "--json"]);
    assert_eq!(sound.code, Some(0), "{}", sound.err);
    let told: Value = serde_json::from_str(&sound.out).expect("JSON");
    let chains = told.as_array().expect("chains");
    assert_eq!(chains.len(), 3, "{told}");
    let named = |name: &str| {
        chains
            .iter()
            .find(|it| it["chain"].to_string().contains(name))
    };
    assert_eq!(named("\"a.").expect("of a")["n"], 20, "{told}");
    assert_eq!(named("\"b.").expect("of b")["n"], 2, "{told}");
    assert_eq!(
        named("local").expect("of the command line")["n"],
        2,
        "{told}"
    );

    schema
        .run(
            "UPDATE document SET body = replace(body, 'queue/pause', 'queue/drain') \
             WHERE space = 'audit'",
        )
        .await;
    let found = verb(a, &admin, &["audit", "verify"]);
    assert_eq!(found.code, Some(1), "{}", found.out);
    assert!(found.err.contains("entry 1 was changed"), "{}", found.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_ask_which_tokens_hold_takes_none_until_it_can() {
    let schema = Schema::create().await;
    let proxy = Proxy::start(schema.server()).await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let url = schema.url_through(&proxy.url());
    let settings = [
        ("REGROW_STORE__DATABASE_URL", url.as_str()),
        // It stays alive: only its tokens are in doubt.
        ("REGROW_STORE__LIFE_TERM", "10m"),
    ];
    let node = NodeProcess::start(dir.path(), &settings).await;
    let create = ["token", "create", "admin", "--scope", "admin"];
    let admin = verb(&node, "", &create).out.trim().to_owned();
    assert_eq!(status(&node, &admin, "/v1/queue").await, 200);
    proxy.block();
    let until = async |wanted: u16| {
        let began = Instant::now();
        while status(&node, &admin, "/v1/queue").await != wanted {
            assert!(began.elapsed() < PATIENCE, "never {wanted}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    until(503).await;
    assert_eq!(status(&node, "", "/health").await, 200);
    proxy.unblock();
    until(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_tokens_of_its_own_believes_another_that_it_asked_for_one() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let b = cluster.peer("b", &[a.address]);
    let nodes = connected(&[&a, &b]).await;
    let [one, two] = nodes.as_slice() else {
        unreachable!("two of them")
    };
    let (_, task) = one.post("/v1/tasks", &json!({ "kind": "nobodys" })).await;
    let id = task["id"].as_str().expect("an id");
    let create = |node: &NodeProcess, name: &str| {
        let create = ["token", "create", name, "--scope", "admin"];
        verb(node, "", &create).out.trim().to_owned()
    };
    let root = create(one, "root");
    let cancel = ["tasks", "cancel", id];
    // A node without tokens is no way past those of its neighbours, not even to look.
    let past = verb(two, "", &["tasks", "show", id]);
    assert_eq!(past.code, Some(1), "{}", past.out);
    assert!(past.err.contains("node a has tokens"), "{}", past.err);
    assert_eq!(verb(two, "", &cancel).code, Some(1), "nor to order");
    let (status, seen) = two.get("/v1/agents?cluster=true").await;
    assert_eq!(status, 200, "{seen}");
    let why = seen["unknown"]["a"].as_str().expect("a reason");
    assert!(why.contains("node a has tokens"), "{seen}");

    let ann = create(two, "ann");
    assert_eq!(verb(one, &ann, &cancel).code, Some(1), "unknown there");
    assert_eq!(verb(two, "", &cancel).code, Some(1), "nobody's");
    let cancelled = verb(two, &ann, &cancel);
    assert_eq!(cancelled.code, Some(0), "{}", cancelled.err);
    let shown = verb(one, &root, &["audit", "show"]);
    let named = "ann, through another node";
    assert!(shown.out.contains(named), "{}", shown.out);
    let shown = verb(two, &ann, &["audit", "show"]);
    assert!(shown.out.contains("/cancel"), "{}", shown.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_the_record_move_to_a_database_with_the_tasks() {
    let schema = Schema::create().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let admin = made(dir.path(), "admin", "admin");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let moved = verb(&node, &admin, &["store", "promote", "--to", &schema.url()]);
    assert_eq!(moved.code, Some(0), "{}", moved.err);
    assert_eq!(status(&node, "", "/v1/queue").await, 401);
    assert_eq!(status(&node, &admin, "/v1/queue").await, 200);
    assert_eq!(verb(&node, &admin, &["queue", "pause"]).code, Some(0));
    let sound = verb(&node, &admin, &["audit", "verify", "--json"]);
    assert_eq!(sound.code, Some(0), "{}", sound.err);
    let told: Value = serde_json::from_str(&sound.out).expect("JSON");
    // The token, the move, the pause; in one chain.
    assert_eq!(
        (&told[0]["n"], told.as_array().map(Vec::len)),
        (&json!(6), Some(1))
    );
    let tasks = "SELECT count(*) FROM document WHERE space = 'token'";
    assert_eq!(schema.number(tasks).await, 1);
}

/// A database's address with its password; a server that asks for none is given one.
fn with_password(url: &str) -> (String, String) {
    let (scheme, rest) = url.split_once("://").expect("an address");
    let (user, place) = rest.split_once('@').expect("it names a user");
    match user.split_once(':') {
        Some((_, password)) => (url.to_owned(), password.to_owned()),
        None => {
            let password = "s3cr3t-pa55w0rd".to_owned();
            (format!("{scheme}://{user}:{password}@{place}"), password)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_a_log_that_tells_everything() {
    let schema = Schema::create().await;
    let (url, password) = with_password(&schema.url());
    let dir = tempfile::tempdir().expect("temporary directory");
    let log = dir.path().join("log");
    let file = std::fs::File::create(&log).expect("created");
    let settings = [
        ("REGROW_LOG__FORMAT", "json"),
        ("REGROW_LOG__FILTER", "debug"),
    ];
    let node = NodeProcess::start_logging(dir.path(), &settings, Stdio::from(file)).await;
    let create = ["token", "create", "admin", "--scope", "admin"];
    let admin = verb(&node, "", &create).out.trim().to_owned();
    assert!(admin.starts_with("regrow_"), "{admin}");
    let call = |method: reqwest::Method, path: &str| {
        node.http.request(method, format!("{}{path}", node.url))
    };
    let post = reqwest::Method::POST;
    let entering = json!({ "token": admin });
    let entered = call(post.clone(), "/session").json(&entering).send().await;
    let entered = entered.expect("an answer");
    let cookie = entered.headers()["set-cookie"].to_str().expect("text");
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let told: Value = entered.json().await.expect("JSON");
    let csrf = told["csrf"].as_str().expect("a secret").to_owned();
    let paused = call(post.clone(), "/v1/queue/pause")
        .header("cookie", &cookie)
        .header("x-csrf-token", &csrf)
        .json(&json!({}));
    assert_eq!(paused.send().await.expect("an answer").status(), 200);
    let last = if admin.ends_with('x') { 'y' } else { 'x' };
    let mistyped = format!("{}{last}", &admin[..admin.len() - 1]);
    assert_eq!(status(&node, &mistyped, "/v1/queue").await, 401);
    let refused = call(post, "/session").json(&json!({ "token": mistyped }));
    assert_eq!(refused.send().await.expect("an answer").status(), 401);
    let moved = verb(&node, &admin, &["store", "promote", "--to", &url]);
    assert_eq!(moved.code, Some(0), "{}", moved.err);
    assert_eq!(status(&node, &admin, "/v1/queue").await, 200);
    node.kill().await;

    let text = std::fs::read_to_string(&log).expect("readable");
    for expected in [
        "request answered",
        "operator's action recorded",
        "wrong token",
    ] {
        assert!(
            text.contains(expected),
            "{expected}: the log tells too little"
        );
    }
    let secret = |text: &str| text[12..40].to_owned();
    let cookie = cookie.split_once('=').expect("a pair").1;
    let secrets = [password, secret(&admin), secret(&csrf), secret(cookie)];
    for secret in secrets {
        let found = text.lines().find(|line| line.contains(&secret));
        assert_eq!(found, None, "a secret is in the log");
    }
}
