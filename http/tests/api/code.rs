//! Versions of agents' code over HTTP.

use regrow_runtime::access::scope::Scope;
use serde_json::{Value, json};

use crate::node::{Node, assert_problem, token};

fn expression(version: &str, text: &str, promote: bool) -> Value {
    json!({
        "version": version, "promote": promote,
        "source": { "kind": "expression", "columns": ["left"], "text": text },
    })
}

fn states(ledger: &Value) -> Vec<(&str, &str)> {
    let versions = ledger["versions"].as_array().expect("versions");
    versions
        .iter()
        .map(|it| {
            let text = |member: &str| it[member].as_str().expect("text");
            (text("version"), text("state"))
        })
        .collect()
}

#[tokio::test]
async fn a_version_is_staged_promoted_shown_and_taken_back() {
    for node in Node::both().await {
        let nothing = node.look("/v1/code/packer").await;
        assert_problem(&nothing, 404, "code_not_found");
        let (status, staged) = node
            .send("/v1/code/packer", expression("1", "left", true))
            .await;
        assert_eq!(
            (status, &staged["state"]),
            (201, &json!("active")),
            "{staged}"
        );
        let (status, staged) = node
            .send("/v1/code/packer", expression("2", "-left", false))
            .await;
        assert_eq!(
            (status, &staged["state"]),
            (201, &json!("staged")),
            "{staged}"
        );
        let (status, shown) = node.look("/v1/code/packer/versions/2").await;
        assert_eq!(
            (status, &shown["source"]["text"]),
            (200, &json!("-left")),
            "{shown}"
        );
        assert_eq!(shown["version"]["staged_by"], "local");
        let (status, ledger) = node
            .send("/v1/code/packer/versions/2/promote", json!({}))
            .await;
        assert_eq!(status, 200, "{ledger}");
        assert_eq!(states(&ledger), [("2", "active"), ("1", "previous")]);
        let (_, ledger) = node.send("/v1/code/packer/rollback", json!({})).await;
        assert_eq!(states(&ledger), [("2", "archived"), ("1", "active")]);
        let nothing = node.send("/v1/code/packer/rollback", json!({})).await;
        assert_problem(&nothing, 409, "no_previous_version");
        let what: Vec<&Value> = ledger["history"]
            .as_array()
            .expect("notes")
            .iter()
            .map(|it| &it["what"])
            .collect();
        assert_eq!(
            what,
            ["rolled_back", "promoted", "staged", "promoted", "staged"]
        );
        let (_, all) = node.look("/v1/code").await;
        assert_eq!(all["agents"][0]["active"], "1");
        let (status, checked) = node.look("/v1/code/packer/check").await;
        assert_eq!((status, &checked["sound"]), (200, &json!(2)), "{checked}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_code_and_changes_nothing() {
    let node = Node::volatile().await;
    node.send("/v1/code/a", expression("1", "left", true)).await;
    let before = node.look("/v1/code/a").await;
    let bodies = [
        (expression("1", "left * 2", false), 409, "version_exists"),
        (expression("2", "wrong", true), 422, "code_refused"),
        (expression("2", "clock", true), 409, "not_granted"),
        (expression("2 3", "left", true), 422, "validation_failed"),
        (expression("2", "", true), 422, "validation_failed"),
        (json!({ "version": "2" }), 422, "validation_failed"),
        (
            json!({ "source": { "kind": "wasm", "base64": "AAAA" } }),
            422,
            "validation_failed",
        ),
        (
            json!({ "version": "2", "source": { "kind": "wasm", "base64": "?" } }),
            422,
            "validation_failed",
        ),
        (
            json!({ "version": "2", "source": { "kind": "cobol", "text": "x" } }),
            422,
            "validation_failed",
        ),
    ];
    for (body, status, code) in bodies {
        assert_problem(&node.send("/v1/code/a", body).await, status, code);
    }
    let odd = node
        .send("/v1/code/a%2Fb", expression("1", "left", true))
        .await;
    assert_problem(&odd, 422, "validation_failed");
    let unknown = node.send("/v1/code/a/versions/9/promote", json!({})).await;
    assert_problem(&unknown, 404, "code_not_found");
    let delete = node
        .client
        .delete(format!("{}/v1/code/a/versions/1", node.url));
    assert_problem(&Node::ask(delete).await, 409, "version_in_use");
    assert_eq!(node.look("/v1/code/a").await, before);
}

#[tokio::test]
async fn what_a_module_may_import_is_for_an_admin_to_say() {
    let node = Node::volatile().await;
    let operator = token(&node.access, "op", &[Scope::Operate, Scope::Read]).await;
    let admin = token(&node.access, "root", &[Scope::Admin]).await;
    let reader = token(&node.access, "ann", &[Scope::Read]).await;
    let stage = |secret: String| {
        let body = expression("1", "clock", false);
        Node::ask(node.post("/v1/code/a").bearer_auth(secret).json(&body))
    };
    assert_problem(&stage(reader.clone()).await, 403, "missing_scope");
    assert_eq!(stage(operator.clone()).await.0, 201);
    let promote = || {
        let path = "/v1/code/a/versions/1/promote";
        Node::ask(
            node.post(path)
                .bearer_auth(operator.clone())
                .json(&json!({})),
        )
    };
    let refused = promote().await;
    assert_problem(&refused, 409, "not_granted");
    assert_eq!(refused.1["missing"], json!(["clock"]));
    let grant = |secret: String, capabilities: Value| {
        let request = node.client.put(format!("{}/v1/code/a/grants", node.url));
        let body = json!({ "capabilities": capabilities });
        Node::ask(request.bearer_auth(secret).json(&body))
    };
    let refused = grant(operator.clone(), json!(["clock"])).await;
    assert_problem(&refused, 403, "missing_scope");
    let refused = grant(admin.clone(), json!(["root"])).await;
    assert_problem(&refused, 422, "validation_failed");
    assert_eq!(grant(admin.clone(), json!(["clock"])).await.0, 200);
    assert_eq!(promote().await.0, 200);
    assert_problem(
        &grant(admin.clone(), json!([])).await,
        409,
        "version_in_use",
    );
    // What operators did is on record, with who did it.
    let record = node.get("/v1/audit/here.there").bearer_auth(&admin);
    let record = Node::ask(record).await.1;
    let text = record.to_string();
    assert!(
        text.contains("POST /v1/code/{agent}/versions/{version}/promote"),
        "{text}"
    );
    assert!(text.contains("code of a: 1 is active"), "{text}");
}

#[tokio::test]
async fn versions_are_pinned_removed_and_listed_in_pages() {
    let node = Node::volatile().await;
    for agent in ["c", "a", "b"] {
        let path = format!("/v1/code/{agent}");
        assert_eq!(node.send(&path, expression("1", "left", true)).await.0, 201);
    }
    node.send("/v1/code/a", expression("2", "left + 1", false))
        .await;
    let pin = |pinned: bool| {
        let request = node
            .client
            .put(format!("{}/v1/code/a/versions/2/pin", node.url));
        Node::ask(request.json(&json!({ "pinned": pinned })))
    };
    let remove = || {
        let request = node
            .client
            .delete(format!("{}/v1/code/a/versions/2", node.url));
        Node::ask(request)
    };
    assert_eq!(pin(true).await.1["versions"][0]["pinned"], true);
    assert_problem(&remove().await, 409, "version_in_use");
    assert_eq!(pin(false).await.0, 200);
    assert_eq!(states(&remove().await.1), [("1", "active")]);
    let (_, page) = node.look("/v1/code?limit=2").await;
    let names = |page: &Value| -> Vec<String> {
        let agents = page["agents"].as_array().expect("agents").iter();
        agents
            .map(|it| it["agent"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&page), ["a", "b"]);
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    let (_, page) = node
        .look(&format!("/v1/code?limit=2&cursor={cursor}"))
        .await;
    assert_eq!(
        (names(&page), &page["next_cursor"]),
        (vec!["c".to_owned()], &Value::Null)
    );
}
