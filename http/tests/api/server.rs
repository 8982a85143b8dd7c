//! The socket: where it may listen, how much it bears, how it ends.

use std::time::Duration;

use regrow_http::Exposition;
use regrow_http::config::HttpConfig;
use regrow_http::server::{BindError, Server};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::node::{Node, Setup};

#[tokio::test]
async fn an_address_that_others_reach_is_refused_while_there_is_no_token() {
    let everywhere = HttpConfig {
        address: ([0, 0, 0, 0], 0).into(),
        ..HttpConfig::default()
    };
    let proxied = HttpConfig {
        address: ([127, 0, 0, 1], 0).into(),
        public_url: Some("https://regrow.example".parse().expect("an address")),
        ..HttpConfig::default()
    };
    for config in [everywhere, proxied] {
        let refused = Server::bind(config.clone(), false).await.err();
        let refused = refused.expect("it must be refused");
        assert!(matches!(refused, BindError::NoToken { .. }), "{refused}");
        assert!(refused.to_string().contains("regrow token create"));
        let server = Server::bind(config, true).await.expect("bound");
        assert_ne!(server.address().port(), 0);
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = Server::bind(Setup::default().config, false)
        .await
        .expect("bound");
    let second = HttpConfig {
        address: first.address(),
        ..HttpConfig::default()
    };
    let error = Server::bind(second, false).await.err().expect("refused");
    assert!(error.to_string().contains(&first.address().to_string()));
}

#[tokio::test]
async fn shutdown_wakes_those_who_wait_and_lets_requests_finish() {
    let mut node = Node::volatile().await;
    let claim = json!({ "kinds": ["k"], "wait_ms": 60_000 });
    let request = node.post("/v1/leases").json(&claim);
    let waiting = tokio::task::JoinSet::from_iter([Node::ask(request)]);
    Node::until("the claim waits", async || {
        let (_, health) = node.look("/health/deep").await;
        health["checks"]["requests"]["waiting"] == 1
    })
    .await;
    node.begin_stop();
    assert_eq!(node.served().await.cut, 0);
    assert_eq!(waiting.join_all().await, [(200, json!([]))]);
    assert!(node.get("/health").send().await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_client_that_never_finishes_is_cut_after_the_grace() {
    let mut setup = Setup::default();
    setup.config.shutdown_grace = Duration::from_millis(100);
    let mut node = Node::start(setup).await;
    let address = node.url.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.expect("a connection");
    let head = "POST /v1/tasks HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
                content-type: application/json\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut go_on = [0; 8];
    stream.read_exact(&mut go_on).await.expect("an answer");
    assert_eq!(
        &go_on, b"HTTP/1.1",
        "100 Continue: the body is being waited for"
    );
    node.begin_stop();
    assert_eq!(node.served().await.cut, 1);
}

#[tokio::test]
async fn connections_above_the_maximum_wait_their_turn() {
    let mut setup = Setup::default();
    setup.config.connections_max = 1;
    let node = Node::start(setup).await;
    let address = node.url.trim_start_matches("http://").to_owned();
    let mut first = TcpStream::connect(&address).await.expect("a connection");
    let request = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    first.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = [0; 15];
    first.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let second = node.get("/health").send();
    tokio::pin!(second);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(early.is_err(), "there is no place for it yet");
    drop(first);
    assert_eq!(second.await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn an_exposition_is_installed_once_per_process_and_explains_its_names() {
    let node = {
        let installed = Exposition::install();
        assert!(installed.is_ok());
        assert!(Exposition::install().is_err());
        Node::volatile().await
    };
    node.submit("k").await;
    assert_eq!(node.look("/health").await.0, 200);
}
