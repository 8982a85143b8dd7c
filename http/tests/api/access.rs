//! Who may do what: tokens, sessions, guesses, and the record of what operators did.

use regrow_runtime::access::scope::Scope;
use regrow_runtime::access::secret::Secret;
use regrow_runtime::store::Store;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, Setup, assert_problem, body, token};

async fn with(node: &Node, path: &str, secret: &str) -> (u16, Value) {
    Node::ask(node.get(path).bearer_auth(secret)).await
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().expect("text"))
}

#[tokio::test]
async fn from_the_first_token_on_every_route_but_health_needs_one() {
    for node in Node::both().await {
        assert_eq!(node.look("/v1/tasks").await.0, 200, "nobody made one yet");
        let narrow = json!({ "name": "ci", "scopes": ["read"] });
        let refused = node.send("/v1/tokens", narrow).await;
        assert_problem(&refused, 422, "validation_failed");
        let first = json!({ "name": "root", "scopes": ["admin"], "term_ms": 600_000 });
        let (status, made) = node.send("/v1/tokens", first).await;
        assert_eq!(status, 201, "{made}");
        let admin = made["token"].as_str().expect("a secret").to_owned();
        assert!(admin.starts_with("regrow_"), "{admin}");

        for path in ["/v1/tasks", "/v1/tokens", "/session", "/nowhere"] {
            let answer = node.get(path).send().await.expect("an answer");
            let challenge = header(&answer, "www-authenticate").to_owned();
            assert_eq!(challenge, r#"Bearer realm="regrow""#, "{path}");
            let answer = (answer.status().as_u16(), body(answer).await);
            assert_problem(&answer, 401, "token_required");
        }
        for path in ["/health", "/health/ready", "/health/deep", "/metrics"] {
            assert_eq!(node.look(path).await.0, 200, "{path}");
        }
        assert_eq!(with(&node, "/v1/tasks", &admin).await.0, 200);
        assert_eq!(with(&node, "/nowhere", &admin).await.0, 404);
        let (_, listed) = with(&node, "/v1/tokens", &admin).await;
        assert_eq!(listed[0]["name"], "root");
        assert!(!listed.to_string().contains(&admin[7..30]), "{listed}");

        let unknown = Secret::generate();
        for wrong in [unknown.reveal(), "regrow_x", ""] {
            let refused = with(&node, "/v1/tasks", wrong).await;
            assert_problem(&refused, 401, "token_refused");
        }
        // Whom another node speaks for is not for a client to say.
        let forged = node.get("/v1/tasks").header("x-regrow-caller", "root");
        assert_problem(&Node::ask(forged).await, 401, "token_required");
        let basic = node.get("/v1/tasks").basic_auth("root", Some(&admin));
        assert_problem(&Node::ask(basic).await, 401, "token_refused");
    }
}

#[tokio::test]
async fn a_token_opens_what_its_scopes_name_and_nothing_more() {
    let node = Node::volatile().await;
    let task = json!({ "kind": "k" });
    let claim = json!({ "kinds": ["none"], "wait_ms": 0 });
    let calls = [
        (Scope::Read, Method::GET, "/v1/queue", json!(null)),
        (Scope::Submit, Method::POST, "/v1/tasks", task),
        (Scope::Work, Method::POST, "/v1/leases", claim),
        (Scope::Operate, Method::POST, "/v1/queue/pause", json!({})),
        (Scope::Admin, Method::GET, "/v1/audit", json!(null)),
    ];
    for held in Scope::ALL {
        let secret = token(&node.access, held.as_str(), &[held]).await;
        for (asked, method, path, body) in &calls {
            let mut call = node
                .client
                .request(method.clone(), format!("{}{path}", node.url));
            if !body.is_null() {
                call = call.json(body);
            }
            let answer = call.bearer_auth(&secret).send().await.expect("an answer");
            let challenge = header(&answer, "www-authenticate").to_owned();
            let answer = (answer.status().as_u16(), crate::node::body(answer).await);
            if held.contains(*asked) {
                assert!(answer.0 < 300, "{held} for {path}: {answer:?}");
                continue;
            }
            assert_problem(&answer, 403, "missing_scope");
            assert_eq!(answer.1["scope"], asked.as_str());
            let scope = format!(r#"error="insufficient_scope", scope="{asked}""#);
            assert!(challenge.contains(&scope), "{challenge}");
        }
    }
}

#[tokio::test]
async fn a_revoked_token_and_an_expired_one_say_so() {
    let node = Node::volatile().await;
    let admin = token(&node.access, "admin", &[Scope::Admin]).await;
    let short = json!({ "name": "short", "scopes": ["read"], "term_ms": 1 });
    let (_, short) = Node::ask(node.post("/v1/tokens").bearer_auth(&admin).json(&short)).await;
    let short = short["token"].as_str().expect("a secret").to_owned();
    Node::until("it expires", async || {
        with(&node, "/v1/queue", &short).await.0 == 401
    })
    .await;
    let (_, refused) = with(&node, "/v1/queue", &short).await;
    assert!(
        refused["detail"].to_string().contains("expired"),
        "{refused}"
    );

    let ci = token(&node.access, "ci", &[Scope::Read]).await;
    assert_eq!(with(&node, "/v1/queue", &ci).await.0, 200);
    let url = format!("{}/v1/tokens/ci", node.url);
    let revoke = || node.client.delete(&url).bearer_auth(&admin);
    let (status, revoked) = Node::ask(revoke()).await;
    assert_eq!(
        (status, &revoked["revoked"][0]["state"]),
        (200, &json!("revoked"))
    );
    let refused = with(&node, "/v1/queue", &ci).await;
    assert_problem(&refused, 401, "token_refused");
    assert!(
        refused.1["detail"].to_string().contains("revoked"),
        "{refused:?}"
    );
    assert_problem(&Node::ask(revoke()).await, 404, "token_not_found");
    let same = json!({ "name": "admin", "scopes": ["read"] });
    let same = Node::ask(node.post("/v1/tokens").bearer_auth(&admin).json(&same)).await;
    assert_problem(&same, 409, "token_exists");
    assert_eq!(with(&node, "/v1/queue", &admin).await.0, 200);
}

#[tokio::test]
async fn whoever_waits_or_follows_events_is_let_go_when_his_token_ends() {
    let node = Node::volatile().await;
    let secret = token(&node.access, "ci", &[Scope::Read, Scope::Work]).await;
    let events = node.get("/v1/events").header("accept", "text/event-stream");
    let events = events.bearer_auth(&secret).send().await.expect("an answer");
    assert_eq!(header(&events, "content-type"), "text/event-stream");
    let claim = json!({ "kinds": ["k"], "wait_ms": 60_000 });
    let claim = node.post("/v1/leases").bearer_auth(&secret).json(&claim);
    let waiting = tokio::task::JoinSet::from_iter([Node::ask(claim)]);
    Node::until("the claim waits", async || {
        node.look("/health/deep").await.1["checks"]["requests"]["waiting"] == 1
    })
    .await;
    node.access.keyring.revoke("ci").await.expect("open");
    let refused = waiting.join_all().await;
    assert_problem(&refused[0], 401, "token_refused");
    let rest = tokio::time::timeout(PATIENCE, events.bytes()).await;
    assert!(rest.is_ok(), "the stream ends");
}

#[tokio::test]
async fn whoever_guesses_is_not_listened_to_and_shuts_out_no_right_token() {
    let node = Node::volatile().await;
    let secret = token(&node.access, "ops", &[Scope::Read]).await;
    // A program that goes on with the one token it has guesses nothing.
    let mistyped = Secret::generate();
    for _ in 0..50 {
        let refused = with(&node, "/v1/queue", mistyped.reveal()).await;
        assert_problem(&refused, 401, "token_refused");
    }
    assert_eq!(with(&node, "/v1/queue", &secret).await.0, 200);
    let mut answers = Vec::new();
    for _ in 0..30 {
        let guess = Secret::generate();
        answers.push(with(&node, "/v1/queue", guess.reveal()).await.0);
    }
    assert_eq!(
        answers.iter().filter(|it| **it == 401).count(),
        9,
        "{answers:?}"
    );
    assert_eq!(answers.last(), Some(&429));
    let guess = node
        .get("/v1/queue")
        .bearer_auth(Secret::generate().reveal());
    let guess = guess.send().await.expect("an answer");
    assert!(!header(&guess, "retry-after").is_empty());
    let guess = (guess.status().as_u16(), body(guess).await);
    assert_problem(&guess, 429, "too_many_attempts");
    // Whoever else is behind the same address is let in with the right one, and so is a browser.
    assert_eq!(with(&node, "/v1/queue", &secret).await.0, 200);
    let right = json!({ "token": secret });
    assert_eq!(node.send("/session", right).await.0, 201);
    let entering = json!({ "token": Secret::generate().reveal() });
    let entering = node.send("/session", entering).await;
    assert_problem(&entering, 429, "too_many_attempts");

    let elsewhere = Client::builder()
        .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
        .timeout(PATIENCE)
        .build()
        .expect("a client");
    let url = format!("{}/v1/queue", node.url);
    let other = elsewhere.get(&url).bearer_auth(&secret);
    assert_eq!(Node::ask(other).await.0, 200);
}

/// A browser with a session.
struct Browser<'a> {
    node: &'a Node,
    cookie: String,
    csrf: String,
}

impl<'a> Browser<'a> {
    async fn enter(node: &'a Node, secret: &str) -> (Self, String) {
        let request = node.post("/session").json(&json!({ "token": secret }));
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 201);
        assert_eq!(header(&answer, "cache-control"), "no-store");
        let set = header(&answer, "set-cookie").to_owned();
        let cookie = set.split(';').next().expect("a cookie").to_owned();
        let csrf = body(answer).await["csrf"]
            .as_str()
            .expect("text")
            .to_owned();
        (Self { node, cookie, csrf }, set)
    }

    fn asks(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.node.url);
        self.node
            .client
            .request(method, url)
            .header("cookie", &self.cookie)
    }
}

#[tokio::test]
async fn a_session_changes_something_only_with_its_csrf_token_and_from_its_own_pages() {
    let node = Node::volatile().await;
    let secret = token(&node.access, "ann", &[Scope::Operate]).await;
    let (ann, set) = Browser::enter(&node, &secret).await;
    assert!(set.contains("HttpOnly; SameSite=Strict"), "{set}");
    assert!(!set.contains("Secure"), "there is no TLS: {set}");
    let (other, _) = Browser::enter(&node, &secret).await;

    assert_eq!(Node::ask(ann.asks(Method::GET, "/v1/queue")).await.0, 200);
    let (_, told) = Node::ask(ann.asks(Method::GET, "/session")).await;
    assert_eq!(
        (&told["name"], &told["csrf"]),
        (&json!("ann"), &json!(ann.csrf))
    );
    let pause = || ann.asks(Method::POST, "/v1/queue/pause").json(&json!({}));
    assert_problem(&Node::ask(pause()).await, 403, "csrf_refused");
    let foreign = pause().header("x-csrf-token", &other.csrf);
    assert_problem(&Node::ask(foreign).await, 403, "csrf_refused");
    let vouched = || pause().header("x-csrf-token", &ann.csrf);
    for site in ["cross-site", "same-site", "none"] {
        let elsewhere = vouched().header("sec-fetch-site", site);
        assert_problem(&Node::ask(elsewhere).await, 403, "cross_origin");
    }
    let elsewhere = vouched().header("origin", "https://evil.example");
    assert_problem(&Node::ask(elsewhere).await, 403, "cross_origin");
    assert!(!node.queue.stats().paused, "nothing of that took effect");
    let own = vouched()
        .header("sec-fetch-site", "same-origin")
        .header("origin", &node.url);
    assert_eq!(Node::ask(own).await.0, 200);
    assert!(node.queue.stats().paused);
    let audit = ann.asks(Method::GET, "/v1/audit");
    assert_problem(&Node::ask(audit).await, 403, "missing_scope");

    let end = ann
        .asks(Method::DELETE, "/session")
        .header("x-csrf-token", &ann.csrf);
    let ended = end.send().await.expect("an answer");
    assert_eq!(ended.status().as_u16(), 204);
    assert!(header(&ended, "set-cookie").contains("Max-Age=0"));
    let gone = Node::ask(ann.asks(Method::GET, "/v1/queue")).await;
    assert_problem(&gone, 401, "token_required");

    assert_eq!(Node::ask(other.asks(Method::GET, "/v1/queue")).await.0, 200);
    node.access.keyring.revoke("ann").await.expect("open");
    let gone = Node::ask(other.asks(Method::GET, "/v1/queue")).await;
    assert_problem(&gone, 401, "token_refused");
}

#[tokio::test]
async fn behind_a_proxy_the_cookie_is_for_tls_metrics_need_a_token_and_its_name_is_known() {
    let mut setup = Setup::default();
    setup.config.public_url = Some("https://regrow.example".parse().expect("an address"));
    let node = Node::start(setup).await;
    for path in ["/metrics", "/health/deep", "/v1/queue"] {
        assert_problem(&node.look(path).await, 401, "token_required");
    }
    for path in ["/health", "/health/ready"] {
        assert_eq!(node.look(path).await.0, 200, "{path}");
    }
    let secret = token(&node.access, "ann", &[Scope::Read]).await;
    assert_eq!(with(&node, "/metrics", &secret).await.0, 200);
    let proxied = node.get("/v1/queue").header("host", "regrow.example");
    assert_eq!(Node::ask(proxied.bearer_auth(&secret)).await.0, 200);
    let rebound = node.get("/v1/queue").header("host", "evil.example");
    let rebound = Node::ask(rebound.bearer_auth(&secret)).await;
    assert_problem(&rebound, 421, "wrong_host");
    let (ann, set) = Browser::enter(&node, &secret).await;
    assert!(set.starts_with("__Host-regrow_session_443="), "{set}");
    assert!(set.ends_with("; Secure"), "{set}");
    assert_eq!(Node::ask(ann.asks(Method::GET, "/v1/queue")).await.0, 200);

    // Whom the proxy speaks for is what it added last.
    let speaking = |guesser: &str, secret: &str| {
        let chain = format!("203.0.113.99, {guesser}");
        let call = node.get("/v1/queue").header("x-forwarded-for", chain);
        Node::ask(call.bearer_auth(secret))
    };
    for _ in 0..12 {
        speaking("198.51.100.7", Secret::generate().reveal()).await;
    }
    let guess = || Secret::generate().reveal().to_owned();
    assert_eq!(speaking("198.51.100.7", &guess()).await.0, 429);
    assert_eq!(speaking("198.51.100.7:4711", &guess()).await.0, 429);
    assert_eq!(speaking("198.51.100.8", &guess()).await.0, 401);
    assert_eq!(speaking("198.51.100.7", &secret).await.0, 200);
    // What cannot be read is somebody, and neither this machine nor the one before it.
    for _ in 0..12 {
        speaking("unknown", &guess()).await;
    }
    assert_eq!(speaking("also unknown", &guess()).await.0, 429);
    assert_eq!(speaking("198.51.100.9", &guess()).await.0, 401);
    assert_eq!(
        with(&node, "/v1/queue", &guess()).await.0,
        401,
        "no proxy at all"
    );
}

async fn recorded(node: &Node) -> Vec<Value> {
    let admin = token(&node.access, "auditor", &[Scope::Admin]).await;
    let (_, chains) = with(node, "/v1/audit", &admin).await;
    assert_eq!(chains[0]["chain"], "here.there", "{chains}");
    let (_, first) = with(node, "/v1/audit/here.there?limit=1", &admin).await;
    assert_eq!(first["entries"][0]["entry"]["n"], 1, "{first}");
    let (_, page) = with(node, "/v1/audit/here.there", &admin).await;
    let unknown = with(node, "/v1/audit/there", &admin).await;
    assert_problem(&unknown, 404, "chain_not_found");
    let entries = page["entries"].as_array().expect("entries");
    entries.iter().map(|line| line["entry"].clone()).collect()
}

#[tokio::test]
async fn what_operators_do_is_recorded_before_it_is_done_and_with_its_outcome() {
    for node in Node::both().await {
        let ops = token(&node.access, "ops", &[Scope::Operate, Scope::Admin]).await;
        let pause = node
            .post("/v1/queue/pause")
            .bearer_auth(&ops)
            .json(&json!({}));
        let pause = pause.header("x-request-id", "the-request");
        assert_eq!(Node::ask(pause).await.0, 200);
        let cancel = "/v1/tasks/00000000-0000-7000-8000-000000000000/cancel";
        let cancel = node.post(cancel).bearer_auth(&ops).json(&json!({}));
        assert_eq!(Node::ask(cancel).await.0, 404);
        let make = json!({ "name": "ci", "scopes": ["read"] });
        let make = node.post("/v1/tokens").bearer_auth(&ops).json(&make);
        let (_, made) = Node::ask(make).await;
        // Neither reading nor submitting is an operator's.
        let task = node
            .post("/v1/tasks")
            .bearer_auth(&ops)
            .json(&json!({ "kind": "k" }));
        assert_eq!(Node::ask(task).await.0, 201);

        let entries = recorded(&node).await;
        assert_eq!(entries.len(), 6, "{entries:?}");
        let (asked, answered) = (&entries[0], &entries[1]);
        assert_eq!(asked["action"]["what"], "POST /v1/queue/pause");
        assert_eq!(asked["action"]["request"], "the-request");
        assert_eq!(
            (&asked["by"]["name"], &asked["node"]),
            (&json!("ops"), &json!("here"))
        );
        assert_eq!(asked["outcome"], json!(null));
        assert_eq!(
            (&answered["answers"], &answered["outcome"]["status"]),
            (&json!(1), &json!(200))
        );
        assert_eq!(entries[3]["outcome"]["detail"], "task_not_found");
        let target = entries[2]["action"]["target"].as_str().expect("a path");
        assert!(target.starts_with("/v1/tasks/00000000"), "{target}");
        let noted = entries[5]["outcome"]["detail"].as_str().expect("text");
        assert!(noted.starts_with("token ci ("), "{noted}");
        let secret = made["token"].as_str().expect("a secret");
        assert!(!format!("{entries:?}").contains(secret));
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let node = Node::volatile().await;
    let Store::Volatile(store) = &node.store else {
        unreachable!("it is in memory")
    };
    store.fail_next_commit();
    let refused = node.send("/v1/queue/pause", json!({})).await;
    assert_problem(&refused, 507, "disk_full");
    assert!(!node.queue.stats().paused);
    Node::until("the store recovers", async || {
        node.send("/v1/queue/pause", json!({})).await.0 == 200
    })
    .await;
    let entries = recorded(&node).await;
    let numbers: Vec<u64> = entries.iter().filter_map(|it| it["n"].as_u64()).collect();
    let expected: Vec<u64> = (1..=entries.len() as u64).collect();
    assert_eq!(numbers, expected, "no gap: {entries:?}");
    assert_eq!(entries[0]["by"]["name"], "local");
}
