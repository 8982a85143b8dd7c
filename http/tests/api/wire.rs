//! What travels around requests: HTTP/2, compression, origins, ids, and answers that are known.

use std::time::Duration;

use regrow_runtime::access::scope::Scope;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::node::{Node, PATIENCE, Setup, assert_problem, body, token};

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name);
    value.map(|value| value.to_str().expect("text"))
}

async fn connected(node: &Node) -> TcpStream {
    let address = node.url.strip_prefix("http://").expect("plain HTTP");
    TcpStream::connect(address).await.expect("a connection")
}

/// A client of HTTP/2 that knows beforehand that the server speaks it.
async fn second(
    node: &Node,
) -> (
    h2::client::SendRequest<axum::body::Bytes>,
    tokio::task::JoinSet<()>,
) {
    let (client, connection) = h2::client::handshake(connected(node).await)
        .await
        .expect("HTTP/2");
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(async move {
        // How it ends is the test's affair.
        let _ = connection.await;
    });
    (client.ready().await.expect("ready"), driver)
}

fn ask(node: &Node, path: &str) -> axum::http::Request<()> {
    let uri = format!("{}{path}", node.url);
    axum::http::Request::get(uri).body(()).expect("a request")
}

#[tokio::test]
async fn http2_is_spoken_with_whoever_begins_with_it_many_requests_at_a_time() {
    let mut node = Node::volatile().await;
    let (mut client, mut driver) = second(&node).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        let (answer, _) = client
            .send_request(ask(&node, "/v1/queue"), true)
            .expect("sent");
        answers.push(answer);
        client = client.ready().await.expect("ready");
    }
    for answer in answers {
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        assert!(answer.headers().contains_key("x-request-id"));
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(part) = body.data().await {
            let part = part.expect("whole");
            let _ = body.flow_control().release_capacity(part.len());
            text.extend_from_slice(&part);
        }
        let queue: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(queue["paused"], false);
    }
    assert_eq!(
        node.look("/v1/queue").await.0,
        200,
        "and HTTP/1.1 beside it"
    );
    // An open connection on which nothing is asked does not hold the server up.
    let silent = connected(&node).await;
    node.begin_stop();
    assert_eq!(node.served().await.cut, 0);
    drop((silent, client));
    driver.join_next().await;
}

#[tokio::test]
async fn a_stream_of_http2_ends_with_the_server_and_not_before() {
    let mut node = Node::volatile().await;
    let (mut client, _driver) = second(&node).await;
    let (answer, _) = client
        .send_request(ask(&node, "/v1/events"), true)
        .expect("sent");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    node.submit("k").await;
    let first = body.data().await.expect("an event").expect("whole");
    let _ = body.flow_control().release_capacity(first.len());
    assert!(String::from_utf8_lossy(&first).contains("event: task"));
    node.begin_stop();
    let rest = async { while let Some(Ok(_)) = body.data().await {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("it ends");
    assert_eq!(node.served().await.cut, 0);
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_of_a_preface_is_let_go() {
    let mut setup = Setup::default();
    setup.config.header_timeout = Duration::from_millis(200);
    let node = Node::start(setup).await;
    for beginning in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n",
        b"GET /health HTTP/1.1\r\nhost: x",
    ] {
        let mut socket = connected(&node).await;
        socket.write_all(beginning).await.expect("sent");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{:?}", String::from_utf8_lossy(beginning));
    }
    // One of HTTP/2 on which nothing is asked any more.
    let (client, mut driver) = second(&node).await;
    let ended = tokio::time::timeout(PATIENCE, driver.join_next()).await;
    assert!(ended.is_ok(), "idle");
    drop(client);
}

#[tokio::test]
async fn large_answers_are_compressed_for_whoever_takes_that_and_streams_are_not() {
    let node = Node::volatile().await;
    let asking = |path: &str| node.get(path).header("accept-encoding", "gzip");
    let plain = node.get("/openapi.json").send().await.expect("an answer");
    assert_eq!(header(&plain, "content-encoding"), None);
    let plain = plain.bytes().await.expect("a body");
    let packed = asking("/openapi.json").send().await.expect("an answer");
    assert_eq!(header(&packed, "content-encoding"), Some("gzip"));
    let packed = packed.bytes().await.expect("a body");
    assert!(packed.starts_with(&[0x1f, 0x8b]), "gzip begins so");
    assert!(
        3 * packed.len() < plain.len(),
        "{} of {}",
        packed.len(),
        plain.len()
    );
    let small = asking("/health").send().await.expect("an answer");
    assert_eq!(header(&small, "content-encoding"), None);
    let stream = asking("/v1/events").header("accept", "text/event-stream");
    let stream = stream.send().await.expect("an answer");
    assert_eq!(header(&stream, "content-encoding"), None);
}

#[tokio::test]
async fn pages_of_other_origins_may_call_only_if_they_are_named() {
    let preflight = async |node: &Node, origin: &str| {
        let call = node
            .client
            .request(Method::OPTIONS, format!("{}/v1/tasks", node.url));
        let call = call
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            );
        call.send().await.expect("an answer")
    };
    let post = async |node: &Node, origin: &str| {
        let call = node.post("/v1/tasks").header("origin", origin);
        call.json(&json!({ "kind": "k" }))
            .send()
            .await
            .expect("an answer")
    };
    let desk = "https://desk.example";
    let node = Node::volatile().await;
    let asked = preflight(&node, desk).await;
    assert_eq!(header(&asked, "access-control-allow-origin"), None);
    let refused = post(&node, desk).await;
    assert_eq!(header(&refused, "access-control-allow-origin"), None);
    let refused = (refused.status().as_u16(), body(refused).await);
    assert_problem(&refused, 403, "cross_origin");

    let mut setup = Setup::default();
    setup.config.cors_origins = vec![desk.parse().expect("an origin")];
    let node = Node::start(setup).await;
    let asked = preflight(&node, desk).await;
    assert_eq!(asked.status().as_u16(), 200);
    assert_eq!(header(&asked, "access-control-allow-origin"), Some(desk));
    assert_eq!(header(&asked, "access-control-allow-credentials"), None);
    let taken = post(&node, desk).await;
    assert_eq!(taken.status().as_u16(), 201);
    assert_eq!(header(&taken, "access-control-allow-origin"), Some(desk));
    for other in ["https://evil.example", "http://desk.example", "null"] {
        let asked = preflight(&node, other).await;
        assert_eq!(
            header(&asked, "access-control-allow-origin"),
            None,
            "{other}"
        );
        assert_eq!(post(&node, other).await.status().as_u16(), 403, "{other}");
    }
    // Being named is no token.
    token(&node.access, "ops", &[Scope::Admin]).await;
    assert_eq!(post(&node, desk).await.status().as_u16(), 401);
}

#[tokio::test]
async fn a_request_keeps_its_id_through_answers_and_problems() {
    let node = Node::volatile().await;
    let asked = node.get("/v1/tasks/x").header("x-request-id", "order-66");
    let answer = asked.send().await.expect("an answer");
    assert_eq!(header(&answer, "x-request-id"), Some("order-66"));
    assert_eq!(body(answer).await["request_id"], "order-66");
    let long = "x".repeat(129);
    for odd in ["two words", "a\"b", long.as_str()] {
        let answer = node.get("/nowhere").header("x-request-id", odd);
        let answer = answer.send().await.expect("an answer");
        let given = header(&answer, "x-request-id").expect("an id").to_owned();
        assert_eq!(given.len(), 36, "{given}");
        assert_eq!(body(answer).await["request_id"], given);
    }
}

#[tokio::test]
async fn who_has_the_latest_answer_is_told_so_instead_of_it() {
    let node = Node::volatile().await;
    for path in [
        "/v1/queue",
        "/v1/agents",
        "/v1/cluster/nodes",
        "/openapi.json",
    ] {
        let first = node.get(path).send().await.expect("an answer");
        let tag = header(&first, "etag").expect(path).to_owned();
        let again = node.get(path).header("if-none-match", &tag);
        let again = again.send().await.expect("an answer");
        assert_eq!(again.status().as_u16(), 304, "{path}");
        assert_eq!(header(&again, "etag"), Some(tag.as_str()), "{path}");
        assert!(again.bytes().await.expect("nothing").is_empty(), "{path}");
    }
    let first = node.get("/v1/queue").send().await.expect("an answer");
    let tag = header(&first, "etag").expect("a tag").to_owned();
    node.submit("k").await;
    let changed = node.get("/v1/queue").header("if-none-match", tag);
    assert_eq!(
        changed.send().await.expect("an answer").status().as_u16(),
        200
    );
}

#[tokio::test]
async fn lists_are_read_in_pages() {
    let node = Node::volatile().await;
    let (_, first) = node.look("/v1/agents?limit=1").await;
    assert_eq!(first["agents"][0]["id"], "planner-1", "{first}");
    assert_eq!(first["next_cursor"], "planner-1");
    let (_, second) = node.look("/v1/agents?limit=1&cursor=planner-1").await;
    assert_eq!(second["agents"][0]["id"], "worker-1", "{second}");
    assert_eq!(second["next_cursor"], Value::Null);
    let admin = token(&node.access, "a", &[Scope::Admin]).await;
    token(&node.access, "b", &[Scope::Read]).await;
    let mut path = "/v1/tokens?limit=1".to_owned();
    let mut names = Vec::new();
    for _ in 0..2 {
        let page = node.get(&path).bearer_auth(&admin);
        let page = page.send().await.expect("an answer");
        let next = header(&page, "link").unwrap_or_default().to_owned();
        let page = body(page).await;
        assert_eq!(page.as_array().expect("a list").len(), 1);
        names.push(page[0]["name"].as_str().expect("a name").to_owned());
        let next = next.split(['<', '>']).nth(1).unwrap_or_default();
        path = format!("{next}&limit=1");
    }
    names.sort();
    assert_eq!(
        (names, path),
        (vec!["a".to_owned(), "b".to_owned()], "&limit=1".to_owned())
    );
    let (status, _) = Node::ask(node.get("/v1/tokens?limit=0").bearer_auth(&admin)).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn the_page_of_the_document_is_in_the_binary_and_may_load_nothing_else() {
    let node = Node::volatile().await;
    let page = node.get("/docs").send().await.expect("an answer");
    assert!(page.url().path().ends_with("/docs/"), "led there");
    assert_eq!(page.status().as_u16(), 200);
    let policy = header(&page, "content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains("http"),
        "{policy}"
    );
    let compressed = header(&page, "content-encoding") == Some("gzip");
    assert!(compressed, "it lies in the binary so");
    for file in [
        "swagger-ui-bundle.js",
        "swagger-ui.css",
        "swagger-initializer.js",
    ] {
        let part = node.get(&format!("/docs/{file}")).send().await;
        assert_eq!(part.expect("an answer").status().as_u16(), 200, "{file}");
    }
    let start = node.get("/docs/swagger-initializer.js").send().await;
    let start = start.expect("an answer").text().await.expect("text");
    assert!(start.contains("/openapi.json"), "{start}");
    for climbing in [
        "/docs/..%2f..%2fetc%2fpasswd",
        "/docs/nothing.js",
        "/docs/a/b",
    ] {
        assert_eq!(node.look(climbing).await.0, 404, "{climbing}");
    }
    let (_, document) = node.look("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
}
