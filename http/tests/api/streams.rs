//! Server-sent events: of one task, resumable; and of the bus.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, Setup, assert_problem};

/// A stream as a client reads it.
struct Stream {
    response: Response,
    text: String,
}

#[derive(Debug)]
struct Frame {
    id: Option<u64>,
    event: String,
    data: Value,
}

impl Stream {
    async fn open(request: RequestBuilder) -> Self {
        let response = request.header("accept", "text/event-stream").send().await;
        let response = response.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next frame; `None` when the server ended the stream.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                let line = |name: &str| {
                    let lines = frame.lines().filter_map(|line| line.split_once(": "));
                    let mut values = lines.filter(|(key, _)| *key == name);
                    values.next().map(|(_, value)| value.to_owned())
                };
                let Some(event) = line("event") else { continue };
                return Some(Frame {
                    id: line("id").and_then(|id| id.parse().ok()),
                    event,
                    data: serde_json::from_str(&line("data")?).expect("JSON"),
                });
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("in time").expect("a chunk")?;
            self.text
                .push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    async fn rest(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

async fn complete(node: &Node) {
    let lease = node.lease("k").await;
    let id = lease["task"]["id"].as_str().expect("an id");
    let done = json!({ "epoch": lease["epoch"], "result": 1 });
    let (status, _) = node.send(&format!("/v1/leases/{id}/complete"), done).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_log_is_a_list_for_those_who_do_not_ask_for_a_stream() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        complete(&node).await;
        let (status, log) = node.look(&format!("/v1/tasks/{id}/events")).await;
        assert_eq!(status, 200);
        let events = log["events"].as_array().expect("events");
        let kinds: Vec<&str> = events.iter().filter_map(|it| it["kind"].as_str()).collect();
        assert_eq!(kinds, ["submitted", "leased", "completed"]);
        assert_eq!(events[0]["n"], 1);
        assert!(events[1]["epoch"].is_u64());
        let (_, page) = node
            .look(&format!("/v1/tasks/{id}/events?after=1&limit=1"))
            .await;
        assert_eq!(page["events"], json!([events[1]]));
    }
}

#[tokio::test]
async fn a_stream_follows_a_task_until_it_ended() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let mut stream = Stream::open(node.get(&format!("/v1/tasks/{id}/events"))).await;
        assert_eq!(
            stream.next().await.map(|it| it.event).as_deref(),
            Some("submitted")
        );
        let lease = node.lease("k").await;
        let leased = stream.next().await.expect("a frame");
        assert_eq!(leased.event, "leased");
        assert_eq!(leased.data["epoch"], lease["epoch"]);
        let done = json!({ "epoch": lease["epoch"] });
        node.send(&format!("/v1/leases/{id}/complete"), done).await;
        let rest = stream.rest().await;
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!((rest[0].id, rest[0].event.as_str()), (Some(3), "completed"));
    }
}

#[tokio::test]
async fn a_stream_is_resumed_behind_the_last_event_that_was_seen() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let path = format!("/v1/tasks/{id}/events");
        let mut first = Stream::open(node.get(&path)).await;
        let seen = first.next().await.expect("a frame").id.expect("an id");
        drop(first);
        complete(&node).await;
        let resumed = node.get(&path).header("last-event-id", seen);
        let rest = Stream::open(resumed).await.rest().await;
        let ids: Vec<Option<u64>> = rest.iter().map(|frame| frame.id).collect();
        assert_eq!(ids, [Some(2), Some(3)]);
        let over = node.get(&path).header("last-event-id", 3);
        let over = over.header("accept", "text/event-stream").send().await;
        assert_eq!(over.expect("an answer").status(), 204);
        let odd = node.get(&path).header("last-event-id", "x");
        let odd = Node::ask(odd.header("accept", "text/event-stream")).await;
        assert_problem(&odd, 400, "invalid_parameter");
    }
}

#[tokio::test]
async fn a_task_can_be_waited_for() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let path = format!("/v1/tasks/{id}?wait_ms=20");
        assert_eq!(node.look(&path).await.1["state"], "available");
        let path = format!("/v1/tasks/{id}?wait_ms=15000");
        let (ended, ()) = tokio::join!(node.look(&path), complete(&node));
        assert_eq!(ended.1["state"], "completed");
    }
}

#[tokio::test]
async fn the_bus_shows_what_happens_and_can_be_filtered() {
    let node = Node::volatile().await;
    let mut all = Stream::open(node.get("/v1/events")).await;
    let mut ends = Stream::open(node.get("/v1/events?kind=completed")).await;
    let id = node.submit("k").await;
    complete(&node).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let frame = all.next().await.expect("a frame");
        assert_eq!(
            (frame.event.as_str(), &frame.data["task"]),
            ("task", &json!(id))
        );
        seen.push(frame.data["kind"].clone());
    }
    assert_eq!(seen, ["submitted", "leased", "completed"]);
    assert_eq!(
        ends.next().await.expect("a frame").data["kind"],
        "completed"
    );
    let wrong = node.look("/v1/events?kind=nothing").await;
    assert_problem(&wrong, 400, "invalid_parameter");
}

#[tokio::test]
async fn whoever_resumes_the_bus_after_another_life_is_told_so_and_sees_what_is_known() {
    let node = Node::volatile().await;
    let mut first = Stream::open(node.get("/v1/events")).await;
    let id = node.submit("k").await;
    first.next().await.expect("a frame");
    let resumed = node.get("/v1/events").header("last-event-id", "other-1:7");
    let mut resumed = Stream::open(resumed).await;
    let gap = resumed.next().await.expect("a frame");
    assert_eq!(
        (gap.event.as_str(), &gap.data),
        ("gap", &json!({ "missed": null }))
    );
    let seen = resumed.next().await.expect("a frame");
    assert_eq!(seen.data["task"], json!(id));
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() {
    let mut setup = Setup::default();
    setup.config.streams_max = 2;
    let mut node = Node::start(setup).await;
    let id = node.submit("k").await;
    let one = Stream::open(node.get("/v1/events")).await;
    let mut two = Stream::open(node.get(&format!("/v1/tasks/{id}/events"))).await;
    two.next().await.expect("a frame");
    let refused = Node::ask(node.get("/v1/events")).await;
    assert_problem(&refused, 503, "overloaded");
    drop(one);
    Node::until("a place is free", async || {
        let (_, health) = node.look("/health/deep").await;
        health["checks"]["requests"]["streams"] == 1
    })
    .await;
    let three = Stream::open(node.get("/v1/events")).await;
    node.begin_stop();
    let served = tokio::time::timeout(Duration::from_secs(4), node.served()).await;
    assert_eq!(served.expect("before the grace ends").cut, 0);
    assert!(two.rest().await.is_empty());
    assert!(three.rest().await.is_empty());
}
