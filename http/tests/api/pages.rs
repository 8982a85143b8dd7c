//! The live pages as a browser asks for them: documents, their streams, and the way in.

use regrow_runtime::access::scope::Scope;
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde_json::json;

use crate::node::{Node, PATIENCE, Setup, token};

const HTML: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A browser that says where it is sent instead of going there.
fn browser() -> Client {
    let client = Client::builder().timeout(PATIENCE);
    client
        .redirect(redirect::Policy::none())
        .build()
        .expect("a client")
}

async fn visit(request: RequestBuilder) -> (u16, Response) {
    let response = request.header("accept", HTML).send().await;
    let response = response.expect("an answer");
    (response.status().as_u16(), response)
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value
        .map_or("", |value| value.to_str().expect("text"))
        .to_owned()
}

async fn page(node: &Node, path: &str) -> String {
    let (status, response) = visit(browser().get(format!("{}{path}", node.url))).await;
    let text = response.text().await.expect("text");
    assert_eq!(status, 200, "{path}: {text}");
    text
}

/// What stands between `before` and `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text
        .split_once(before)
        .unwrap_or_else(|| unreachable!("no {before} in {text}"));
    rest.1.split_once(after).map_or(rest.1, |(found, _)| found)
}

/// A page's stream, message by message.
struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    async fn open(node: &Node, path: &str, seen: Option<&str>) -> Self {
        let mut request = node
            .get(path)
            .header("accept", "text/html, text/event-stream");
        if let Some(seen) = seen {
            request = request.header("last-event-id", seen);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), "text/event-stream");
        let text = String::new();
        Self { response, text }
    }

    /// The next message.
    async fn next(&mut self) -> String {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.text = rest;
                return message;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("in time").expect("a chunk").expect("more");
            self.text
                .push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next message that says `text`, however many do not.
    async fn until(&mut self, text: &str) -> String {
        loop {
            let message = self.next().await;
            if message.contains(text) {
                return message;
            }
        }
    }
}

#[tokio::test]
async fn every_page_is_served_with_its_policy_and_loads_nothing_from_elsewhere() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        for path in [
            "/",
            "/tasks",
            "/tasks/new",
            "/tree",
            "/queue",
            "/cluster",
            "/cluster?if_lost=here&plan=rebalance",
            "/agents",
            "/agents?q=work&role=worker",
            "/agents/worker-1",
            "/events",
            "/events?of=runtime&q=x",
            "/memory",
            "/memory?q=x",
            "/charts",
            "/charts?q=queue",
            "/tasks?state=available&kind=k&q=k",
            &format!("/tasks/{id}"),
        ] {
            let (status, response) = visit(node.get(path)).await;
            assert_eq!(status, 200, "{path}");
            let policy = header(&response, "content-security-policy");
            assert!(policy.contains("default-src 'none'"), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(header(&response, "cache-control"), "no-store");
            let text = response.text().await.expect("text");
            assert!(text.contains("node <b>here</b>"), "{path}: {text}");
            for sign in ["http://", "https://", " style=", "<script>", " onclick="] {
                assert!(!text.contains(sign), "{path} has {sign}");
            }
            for file in text.split("\"/assets/").skip(1) {
                let file = file.split('"').next().expect("a name");
                let (status, asset) = visit(node.get(&format!("/assets/{file}"))).await;
                assert_eq!(status, 200, "{file}");
                assert!(
                    header(&asset, "cache-control").contains("immutable"),
                    "{file}"
                );
            }
        }
        let (status, _) = visit(node.get("/assets/app-000000000000.js")).await;
        assert_eq!(status, 404);
    }
}

#[tokio::test]
async fn what_people_submitted_is_text_and_never_markup() {
    let node = Node::volatile().await;
    let evil = "<script>alert(1)</script>\r\n\"'&";
    let task = json!({ "kind": "k", "goal": evil, "payload": { "a": evil } });
    let (status, made) = node.send("/v1/tasks", task).await;
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().expect("an id");
    for path in ["/tasks", &format!("/tasks/{id}"), "/tasks?q=%3Cscript%3E"] {
        let text = page(&node, path).await;
        assert!(text.contains("&lt;script&gt;alert(1)"), "{path}: {text}");
        assert!(!text.contains("<script>alert"), "{path}");
    }
    // A carriage return must not break the stream's lines either.
    let mut stream = Stream::open(&node, &format!("/tasks/{id}"), None).await;
    let message = stream.until("data:").await;
    assert!(
        !message.contains('\r') && message.contains("&lt;script&gt;"),
        "{message}"
    );
}

#[tokio::test]
async fn a_stream_sends_what_changed_and_nothing_that_is_known() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let path = format!("/tasks/{id}");
        let text = page(&node, &path).await;
        let seen = between(&text, "Last-Event-ID&quot;:&quot;", "&quot;").to_owned();
        let mut stream = Stream::open(&node, &path, Some(&seen)).await;
        // Nothing is new: the first word is that it is connected.
        assert_eq!(stream.next().await, "event: beat\ndata: .");
        let lease = node.lease("k").await;
        assert_eq!(lease["task"]["id"], id);
        let message = stream.until("running").await;
        let now = between(&message, "id: ", "\n").to_owned();
        assert_ne!(now, seen);
        drop(stream);
        // Whoever comes back with an old id is told what he lacks, at once.
        let mut resumed = Stream::open(&node, &path, Some(&seen)).await;
        let message = resumed.next().await;
        assert!(
            message.contains("running") && message.contains("data: "),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_server() {
    let mut node = Node::volatile().await;
    let mut stream = Stream::open(&node, "/", None).await;
    stream.until("Overview").await;
    node.begin_stop();
    let reading = async { while let Ok(Some(_)) = stream.response.chunk().await {} };
    let ended = tokio::time::timeout(PATIENCE, reading).await;
    ended.expect("the stream ends");
    assert_eq!(node.served().await.cut, 0);
}

#[tokio::test]
async fn a_search_finds_by_words_and_by_id_and_says_how_far_it_looked() {
    for node in Node::both().await {
        for page in 1..=60 {
            let goal = format!("Translate page {page}.");
            let (status, _) = node
                .send("/v1/tasks", json!({ "kind": "k", "goal": goal }))
                .await;
            assert_eq!(status, 201);
        }
        let first = page(&node, "/tasks").await;
        assert_eq!(first.matches("<tr id=\"t-").count(), 50);
        let older = between(&first, "rel=\"next\" href=\"", "\"").to_owned();
        let second = page(&node, &older).await;
        assert_eq!(second.matches("<tr id=\"t-").count(), 10);
        assert!(!second.contains("rel=\"next\""));
        let found = page(&node, "/tasks?q=PAGE%207.&state=&kind=").await;
        assert_eq!(found.matches("<tr id=\"t-").count(), 1);
        assert!(found.contains("Looked through 60 tasks"), "{found}");
        let id = between(&found, "<tr id=\"t-", "\"").to_owned();
        let found = page(&node, &format!("/tasks?q={id}")).await;
        assert_eq!(found.matches("<tr id=\"t-").count(), 1);
        let none = page(&node, "/tasks?q=nothing-like-this").await;
        assert!(none.contains("No task is like that"), "{none}");
    }
}

#[tokio::test]
async fn a_browser_is_told_what_is_wrong_in_a_page_and_a_program_in_json() {
    let node = Node::volatile().await;
    let unknown = "/tasks/0198c5f2-7c1e-7b3a-9d55-0f2b8c6a1e44";
    for (path, status, word) in [
        (unknown, 404, "task_not_found"),
        ("/tasks/nonsense", 400, "invalid_parameter"),
        (
            "/tasks?state=lost",
            400,
            "state: `lost` is not one of scheduled",
        ),
        ("/nowhere", 404, "not_found"),
    ] {
        let (found, response) = visit(node.get(path)).await;
        assert_eq!(found, status, "{path}");
        assert!(header(&response, "content-type").starts_with("text/html"));
        let text = response.text().await.expect("text");
        assert!(
            text.contains(word) && text.contains("To the overview"),
            "{path}: {text}"
        );
        let (found, problem) = node.look(path).await;
        assert_eq!(found, status, "{path}");
        assert!(problem["code"].is_string(), "{problem}");
    }
    // What the API refuses stays JSON, whoever asks.
    let (_, response) = visit(node.get("/v1/tasks/nonsense")).await;
    assert!(header(&response, "content-type").starts_with("application/problem+json"));
}

#[tokio::test]
async fn whoever_has_no_session_is_sent_to_sign_in_and_comes_back() {
    let node = Node::volatile().await;
    let open = page(&node, "/").await;
    assert!(!open.contains("Sign out"), "nobody needs a token yet");
    let (status, response) = visit(browser().get(format!("{}/sign-in", node.url))).await;
    assert_eq!((status, header(&response, "location").as_str()), (303, "/"));

    let reader = token(&node.access, "reader", &[Scope::Read]).await;
    let operator = token(&node.access, "operator", &[Scope::Operate]).await;
    let (status, made) = Node::ask(
        node.post("/v1/tasks")
            .json(&json!({ "kind": "k" }))
            .bearer_auth(&operator),
    )
    .await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/tasks/{}", made["id"].as_str().expect("an id"));
    let (status, response) = visit(browser().get(format!("{}{path}?a=b", node.url))).await;
    assert_eq!(status, 303);
    assert_eq!(
        header(&response, "location"),
        format!("/sign-in?next={path}%3Fa%3Db")
    );
    let (status, _) = node.look(&path).await;
    assert_eq!(status, 401, "a program is told in JSON");

    let form = page(&node, &format!("/sign-in?next={path}")).await;
    assert!(form.contains(&format!("data-then=\"{path}\"")), "{form}");
    let elsewhere = page(&node, "/sign-in?next=//evil.example").await;
    assert!(elsewhere.contains("data-then=\"/\""), "{elsewhere}");
    for (secret, may) in [(&reader, false), (&operator, true)] {
        let opened = node
            .post("/session")
            .json(&json!({ "token": secret }))
            .send()
            .await;
        let opened = opened.expect("an answer");
        assert_eq!(opened.status(), 201);
        let cookie = header(&opened, "set-cookie");
        let cookie = cookie.split(';').next().expect("a cookie").to_owned();
        let csrf: serde_json::Value = opened.json().await.expect("JSON");
        let (status, response) = visit(node.get(&path).header("cookie", &cookie)).await;
        assert_eq!(status, 200);
        let text = response.text().await.expect("text");
        let told = between(&text, "name=\"csrf\" content=\"", "\"");
        assert_eq!(csrf["csrf"], told);
        assert!(text.contains("Sign out"), "{text}");
        let barred = text.contains("Your token lacks the scope `operate`");
        assert_eq!(barred, !may, "{text}");
    }
}

#[tokio::test]
async fn where_there_is_no_place_for_a_stream_the_page_is_there_all_the_same() {
    let mut setup = Setup::default();
    setup.config.streams_max = 1;
    let node = Node::start(setup).await;
    let _held = Stream::open(&node, "/", None).await;
    let refused = node
        .get("/")
        .header("accept", "text/event-stream")
        .send()
        .await;
    let refused = refused.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(page(&node, "/").await.contains("Overview"));
}

#[tokio::test]
async fn the_queue_shows_its_switches_and_what_was_given_up() {
    for node in Node::both().await {
        let (status, made) = node
            .send(
                "/v1/tasks",
                json!({ "kind": "k", "goal": "Fail", "max_attempts": 1 }),
            )
            .await;
        assert_eq!(status, 201, "{made}");
        let lease = node.lease("k").await;
        let id = made["id"].as_str().expect("an id");
        let failed = json!({ "epoch": lease["epoch"], "error": "out of luck" });
        node.send(&format!("/v1/leases/{id}/fail"), failed).await;
        node.send("/v1/queue/pause", json!({})).await;
        let text = page(&node, "/queue").await;
        for words in [
            "out of luck",
            "It is paused already",
            "hx-post=\"/v1/queue/resume\"",
        ] {
            assert!(text.contains(words), "no {words} in {text}");
        }
        let retry = format!("hx-post=\"/v1/tasks/{id}/retry\"");
        assert!(text.contains(&retry), "{text}");
        let form = page(&node, "/tasks/new").await;
        assert!(form.contains("The queue is paused"), "{form}");
    }
}

#[tokio::test]
async fn the_form_says_that_the_queue_is_full_before_anything_is_typed() {
    let mut setup = Setup::default();
    setup.limits.max_size = 1;
    let node = Node::start(setup).await;
    let roomy = page(&node, "/tasks/new").await;
    assert!(roomy.contains("There is room for 1 more task"), "{roomy}");
    let mut stream = Stream::open(&node, "/tasks/new", None).await;
    node.submit("k").await;
    let told = stream.until("The queue is full").await;
    assert!(told.contains("1 of 1 places are taken"), "{told}");
}

#[tokio::test]
async fn agents_are_searched_and_one_that_is_not_there_is_said_to_be_missing() {
    let node = Node::volatile().await;
    let all = page(&node, "/agents").await;
    assert!(
        all.contains("id=\"own-here-worker-1\"") && all.contains("does not answer"),
        "{all}"
    );
    let some = page(&node, "/agents?q=PLAN").await;
    assert!(
        some.contains("own-here-planner-1") && !some.contains("own-here-worker-1"),
        "{some}"
    );
    let (status, response) = visit(node.get("/agents/nobody")).await;
    assert_eq!(status, 404);
    let text = response.text().await.expect("text");
    assert!(text.contains("there is no agent `nobody`"), "{text}");
    let (status, _) = visit(node.get("/events?of=everything")).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn events_are_watched_while_somebody_looks() {
    let node = Node::volatile().await;
    let mut stream = Stream::open(&node, "/events", None).await;
    stream.until("Watched since").await;
    let id = node.submit("k").await;
    let told = stream.until(&format!("e-{id}-1")).await;
    assert!(told.contains("submitted"), "{told}");
    let filtered = page(&node, "/events?of=runtime").await;
    assert!(!filtered.contains(&id), "{filtered}");
}

#[tokio::test]
async fn what_a_worker_writes_is_shown_as_text_under_its_lease_and_within_bounds() {
    let node = Node::volatile().await;
    let id = node.submit("k").await;
    let lease = node.lease("k").await;
    let path = format!("/v1/leases/{id}/heartbeat");
    let beat = |output: String| json!({ "epoch": lease["epoch"], "output": output });
    for part in ["<b>half", " done"] {
        let (status, renewal) = node.send(&path, beat(part.to_owned())).await;
        assert_eq!(status, 200, "{renewal}");
    }
    let text = page(&node, &format!("/tasks/{id}")).await;
    assert!(text.contains("&lt;b&gt;half done"), "{text}");
    let (status, problem) = node.send(&path, beat("x".repeat(16_385))).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem.to_string().contains("16384"), "{problem}");
    let stale = json!({ "epoch": 0, "output": "too late" });
    assert_eq!(node.send(&path, stale).await.0, 409);
    let text = page(&node, &format!("/tasks/{id}")).await;
    assert!(!text.contains("too late"), "{text}");
}
