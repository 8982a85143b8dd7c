//! Who gets in by which door, and what the record says of those who did and did not.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use regrow_http::state::{AgentSource, AgentView, Fault, InjectError, Order, OrderError};
use regrow_runtime::access::scope::Scope;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::node::{Node, Setup, assert_problem, token};

/// An agent that does what it is told when the test lets it.
struct Slow {
    ordered: Semaphore,
    let_go: Semaphore,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            ordered: Semaphore::new(0),
            let_go: Semaphore::new(0),
        }
    }
}

impl AgentSource for Slow {
    fn tree(&self) -> Value {
        Value::Null
    }

    fn agents(&self) -> Vec<AgentView> {
        Vec::new()
    }

    fn order<'a>(&'a self, id: &'a str, _: Order) -> BoxFuture<'a, Result<(), OrderError>> {
        async move {
            assert_ne!(id, "buggy", "a bug on purpose");
            self.ordered.add_permits(1);
            self.let_go.acquire().await.expect("open").forget();
            Ok(())
        }
        .boxed()
    }

    fn inject(&self, _: &str, _: Fault) -> Result<(), InjectError> {
        Err(InjectError::Disabled)
    }
}

async fn slow(requests_max: usize) -> (Node, Arc<Slow>) {
    let agents = Arc::new(Slow::default());
    let mut setup = Setup {
        agents: agents.clone(),
        ..Setup::default()
    };
    setup.config.requests_max = requests_max;
    (Node::start(setup).await, agents)
}

/// All entries of the record, read from the store.
async fn entries(node: &Node) -> Vec<Value> {
    let place = node.access.audit.place();
    let page = regrow_runtime::access::audit::page(place, "here.there", 0, 1_000).await;
    let lines = page.expect("readable").unwrap_or_default();
    let entry = |line: &regrow_runtime::access::audit::chain::Line| {
        serde_json::to_value(line.entry().expect("an entry")).expect("JSON")
    };
    lines.iter().map(entry).collect()
}

/// Sends a request and hangs up, once the node is at it.
async fn hang_up(node: &Node, agents: &Slow, id: &str) {
    let address = node.url.strip_prefix("http://").expect("plain HTTP");
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let request = format!(
        "POST /v1/agents/{id}/stop HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    agents.ordered.acquire().await.expect("open").forget();
}

#[tokio::test]
async fn what_was_asked_for_by_somebody_who_hung_up_is_carried_out_and_has_an_outcome() {
    let (mut node, agents) = slow(256).await;
    hang_up(&node, &agents, "a").await;
    // The connection is gone once the server has ended it; the action goes on.
    node.begin_stop();
    agents.let_go.add_permits(1);
    assert_eq!(node.served().await.cut, 0);
    let entries = entries(&node).await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[1]["answers"], 1);
    assert_eq!(entries[1]["outcome"]["status"], 200);
}

#[tokio::test]
async fn a_bug_in_an_action_is_answered_and_is_its_outcome() {
    let (node, _agents) = slow(256).await;
    let bug = node.send("/v1/agents/buggy/stop", json!({})).await;
    assert_problem(&bug, 500, "internal");
    let entries = entries(&node).await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[1]["outcome"]["status"], 500);
}

#[tokio::test]
async fn a_node_that_is_busy_lets_operators_in_and_out() {
    let (node, agents) = slow(1).await;
    let ops = token(&node.access, "ops", &[Scope::Operate]).await;
    let held = node.post("/v1/agents/a/stop").bearer_auth(&ops);
    let held = tokio::task::JoinSet::from_iter([Node::ask(held)]);
    agents.ordered.acquire().await.expect("open").forget();
    let busy = Node::ask(node.get("/v1/queue").bearer_auth(&ops)).await;
    assert_problem(&busy, 503, "overloaded");

    let entering = node.post("/session").json(&json!({ "token": ops }));
    let entered = entering.send().await.expect("an answer");
    assert_eq!(entered.status().as_u16(), 201);
    let cookie = entered.headers()["set-cookie"].to_str().expect("text");
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let look = node.get("/session").header("cookie", cookie);
    assert_eq!(Node::ask(look).await.0, 200);
    agents.let_go.add_permits(1);
    assert_eq!(held.join_all().await[0].0, 200);

    // What opens a session is short.
    let long = json!({ "token": "x".repeat(5_000) });
    assert_problem(&node.send("/session", long).await, 413, "body_too_large");
}

#[tokio::test]
async fn a_proxy_in_front_of_a_node_without_tokens_lets_nobody_in() {
    let node = Node::volatile().await;
    let passed_on = [
        ("forwarded", "for=198.51.100.7"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "127.0.0.1"),
        ("via", "1.1 proxy"),
    ];
    for (name, value) in passed_on {
        for path in ["/v1/tasks", "/v1/tokens", "/metrics", "/health/deep"] {
            let call = node.get(path).header("host", "127.0.0.1");
            let refused = Node::ask(call.header(name, value)).await;
            assert_problem(&refused, 403, "behind_proxy");
        }
        let call = node.get("/health").header(name, value);
        assert_eq!(Node::ask(call).await.0, 200, "{name}");
    }
    let first = json!({ "name": "mine", "scopes": ["admin"] });
    let first = node.post("/v1/tokens").json(&first);
    let refused = Node::ask(first.header("x-forwarded-for", "203.0.113.9")).await;
    assert_problem(&refused, 403, "behind_proxy");
    assert!(node.access.keyring.is_empty(), "nobody made himself admin");
    assert_eq!(node.look("/v1/tasks").await.0, 200, "neighbours are let in");

    let secret = token(&node.access, "ann", &[Scope::Read]).await;
    let shown = |path: &str| node.get(path).header("x-forwarded-for", "198.51.100.7");
    for path in ["/v1/tasks", "/metrics", "/health/deep"] {
        assert_problem(&Node::ask(shown(path)).await, 401, "token_required");
        let call = shown(path).bearer_auth(&secret);
        assert_eq!(Node::ask(call).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn the_record_says_what_was_sent_without_its_secrets() {
    let node = Node::volatile().await;
    let max = node.client.put(format!("{}/v1/queue/max_size", node.url));
    let max = max.json(&json!({ "max_size": 77 }));
    assert_eq!(Node::ask(max).await.0, 200);
    let to = json!({ "to": "postgres://ann:s3cret-word@127.0.0.1:1/x" });
    let (status, _) = node.send("/v1/store/promote", to).await;
    assert!(status < 500, "{status}");
    let entries = entries(&node).await;
    assert_eq!(entries[0]["action"]["body"], json!({ "max_size": 77 }));
    let to = &entries[2]["action"]["body"]["to"];
    assert_eq!(*to, json!("postgres://[hidden]@127.0.0.1:1/x"));
    assert!(
        !format!("{entries:?}").contains("s3cret-word"),
        "{entries:?}"
    );
}

#[tokio::test]
async fn refusals_of_operators_actions_are_on_record_and_cannot_fill_it() {
    let node = Node::volatile().await;
    let ci = token(&node.access, "ci", &[Scope::Read]).await;
    for _ in 0..5 {
        let pause = node.post("/v1/queue/pause").bearer_auth(&ci);
        assert_problem(&Node::ask(pause).await, 403, "missing_scope");
    }
    let look = node.get("/v1/audit").bearer_auth(&ci);
    assert_problem(&Node::ask(look).await, 403, "missing_scope");
    let task = node.post("/v1/tasks").bearer_auth(&ci);
    let task = Node::ask(task.json(&json!({ "kind": "k" }))).await;
    assert_problem(&task, 403, "missing_scope");

    let entries = entries(&node).await;
    let told: Vec<_> = entries
        .iter()
        .map(|it| it["action"]["what"].as_str().expect("text"))
        .collect();
    assert_eq!(told, ["POST /v1/queue/pause", "GET /v1/audit"]);
    assert_eq!(entries[0]["by"]["name"], "ci");
    assert_eq!(entries[0]["answers"], Value::Null);
    assert_eq!(entries[0]["outcome"]["status"], 403);
    assert_eq!(entries[0]["outcome"]["detail"], "missing_scope");
}

#[tokio::test]
async fn who_decided_is_whose_token_it_was_whatever_he_says() {
    let node = Node::volatile().await;
    let asked = json!({ "kind": "k", "requires_approval": true });
    let (_, task) = node.send("/v1/tasks", asked).await;
    let question = task["approval"]["id"].as_str().expect("a question");
    let ops = token(&node.access, "ops", &[Scope::Operate]).await;
    let yes = json!({ "decision": "approve", "by": "the boss", "note": "fine" });
    let yes = node.post(&format!("/v1/approvals/{question}")).json(&yes);
    let (status, decided) = Node::ask(yes.bearer_auth(&ops)).await;
    assert_eq!((status, &decided["by"]), (200, &json!("ops")), "{decided}");
    assert_eq!(decided["note"], "fine (in the name of the boss)");
}

/// What the server says to these bytes, up to its end or to silence.
async fn told(node: &Node, bytes: &[u8]) -> String {
    let address = node.url.strip_prefix("http://").expect("plain HTTP");
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    // The server may have answered and closed before all is sent.
    let _ = socket.write_all(bytes).await;
    let _ = socket.shutdown().await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn paths_that_climb_and_headers_that_smuggle_reach_nothing() {
    let node = Node::volatile().await;
    let secret = token(&node.access, "ops", &[Scope::Admin]).await;
    for path in [
        "/../../etc/passwd",
        "/v1/../../etc/passwd",
        "/v1/tasks/../queue/../../etc/passwd",
        "/v1/tasks/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/agents/..%2f..%2fetc%2fpasswd",
        "/health/%2e%2e/v1/queue",
        "/health/..%2fv1/queue",
        "//v1/queue",
        "/v1/queue/.",
        "/v1/queue%00",
        "/V1/QUEUE",
    ] {
        let bare = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = told(&node, bare.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
        let shown = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\n\
             connection: close\r\n\r\n"
        );
        let answer = told(&node, shown.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
        assert!(!answer.contains("root:"), "{path}: {answer}");
    }
    let smuggled: [&[u8]; 9] = [
        // Two lengths, a length and chunks, a length that is none.
        b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        // Line breaks where none belong, a name with a space, no request at all.
        b"GET /v1/queue HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\nx-regrow-caller: b\r\n\r\n",
        b"GET /v1/queue HTTP/1.1\r\nhost : localhost\r\n\r\n",
        b"GET /v1/queue HTTP/1.1\r\nhost: localhost\r\n folded: x\r\n\r\n",
        b"GET /v1/queue HTTP/9.9\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for bytes in smuggled {
        let answer = told(&node, bytes).await;
        let first = answer.lines().next().unwrap_or_default();
        let refused = first.is_empty() || first.starts_with("HTTP/1.1 4");
        assert!(refused, "{:?}: {answer}", String::from_utf8_lossy(bytes));
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "one request is one answer: {answer}");
    }
    // More headers than anybody needs end the connection, not the server.
    let many = "x-a: 1\r\n".repeat(20_000);
    let many = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{many}\r\n");
    let answer = told(&node, many.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert_eq!(node.look("/health").await.0, 200);
}

#[tokio::test]
async fn whoever_says_two_things_at_once_is_not_taken_at_the_better_one() {
    let node = Node::volatile().await;
    let secret = token(&node.access, "ops", &[Scope::Read]).await;
    let two = format!(
        "GET /v1/queue HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer wrong\r\n\
         authorization: Bearer {secret}\r\nconnection: close\r\n\r\n"
    );
    let answer = told(&node, two.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let hosts = format!(
        "GET /v1/queue HTTP/1.1\r\nhost: evil.example\r\nhost: localhost\r\n\
         authorization: Bearer {secret}\r\nconnection: close\r\n\r\n"
    );
    let answer = told(&node, hosts.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}
