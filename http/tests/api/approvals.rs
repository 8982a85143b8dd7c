//! Questions to people and budgets over HTTP.

use serde_json::{Value, json};

use crate::node::{Node, assert_problem};

fn path(lease: &Value, effect: &str) -> String {
    let id = lease["task"]["id"].as_str().expect("an id");
    format!("/v1/leases/{id}/{effect}")
}

async fn state(node: &Node, id: &str) -> Value {
    node.look(&format!("/v1/tasks/{id}")).await.1["state"].clone()
}

#[tokio::test]
async fn a_worker_asks_and_goes_on_with_the_answer() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let lease = node.lease("k").await;
        let ask = json!({
            "epoch": lease["epoch"], "key": "deploy", "question": "deploy to production?",
            "scope": "deploy", "options": ["now", "tonight"], "expires_ms": 600_000,
        });
        let (status, asked) = node.send(&path(&lease, "ask"), ask.clone()).await;
        assert_eq!(
            (status, &asked["state"]),
            (200, &json!("awaiting_approval")),
            "{asked}"
        );
        assert_eq!(state(&node, &id).await, "awaiting_approval");
        assert_problem(
            &node.send(&path(&lease, "ask"), ask.clone()).await,
            409,
            "stale_epoch",
        );
        let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
        assert_eq!(shown["approval"]["id"], asked["approval"], "{shown}");
        assert_eq!(shown["approval"]["options"], json!(["now", "tonight"]));
        let (_, why) = node.look(&format!("/v1/tasks/{id}/explain")).await;
        let why = &why["reasons"][0];
        assert_eq!(
            (&why["code"], &why["decides"], &why["approval"]),
            (&json!("approval"), &json!("ask"), &asked["approval"])
        );
        let text = why["text"].as_str().expect("a sentence");
        assert!(
            text.contains("deploy to production? [now | tonight] - answer with"),
            "{text}"
        );
        let (_, open) = node.look("/v1/approvals?state=open").await;
        assert_eq!(open["approvals"][0]["question"], "deploy to production?");
        assert_eq!(open["approvals"][0]["task"], json!(id));
        let question = format!(
            "/v1/approvals/{}",
            asked["approval"].as_str().expect("an id")
        );
        let wrong = json!({ "decision": "approve", "choice": "now", "token": "guessed" });
        assert_problem(&node.send(&question, wrong).await, 403, "wrong_token");
        let vague = json!({ "decision": "approve" });
        assert_problem(&node.send(&question, vague).await, 422, "validation_failed");
        let yes = json!({
            "decision": "approve", "choice": "tonight", "note": "after ten", "by": "ada",
            "token": asked["token"],
        });
        let (status, decided) = node.send(&question, yes.clone()).await;
        assert_eq!(
            (status, &decided["state"]),
            (200, &json!("approved")),
            "{decided}"
        );
        assert_eq!(
            (&decided["by"], &decided["choice"]),
            (&json!("ada"), &json!("tonight"))
        );
        assert_problem(&node.send(&question, yes).await, 409, "approval_closed");
        let lease = node.lease("k").await;
        let (_, step) = node.look(&path(&lease, "steps/deploy")).await;
        assert_eq!(step["output"]["choice"], "tonight");
        let mut again = ask;
        again["epoch"] = lease["epoch"].clone();
        let (status, known) = node.send(&path(&lease, "ask"), again).await;
        assert_eq!(
            (status, &known["decision"]["approved"]),
            (200, &json!(true))
        );
        let (_, log) = node.look(&format!("/v1/tasks/{id}/events")).await;
        let told = log["events"].as_array().expect("lines").iter();
        let told: Vec<&str> = told.filter_map(|line| line["detail"].as_str()).collect();
        assert!(told.contains(&"by ada: tonight (after ten)"), "{told:?}");
    }
}

#[tokio::test]
async fn a_decision_for_a_cancelled_task_is_refused() {
    let node = Node::volatile().await;
    let task = json!({ "kind": "k", "requires_approval": true, "goal": "tidy up" });
    let (status, task) = node.send("/v1/tasks", task).await;
    assert_eq!((status, &task["state"]), (201, &json!("awaiting_approval")));
    let id = task["id"].as_str().expect("an id");
    let (_, open) = node.look(&format!("/v1/approvals?task={id}")).await;
    let question = format!(
        "/v1/approvals/{}",
        open["approvals"][0]["id"].as_str().expect("one")
    );
    assert_eq!(open["approvals"][0]["kind"], "start");
    let (_, cancelled) = node
        .send(&format!("/v1/tasks/{id}/cancel"), json!({}))
        .await;
    assert_eq!(cancelled["state"], "cancelled");
    let late = node.send(&question, json!({ "decision": "approve" })).await;
    assert_problem(&late, 409, "approval_closed");
    let nobody = "/v1/approvals/0198c5f2-7c1e-7b3a-9d55-0f2b8c6a1e44";
    let unknown = node.send(nobody, json!({ "decision": "deny" })).await;
    assert_problem(&unknown, 404, "approval_not_found");
}

#[tokio::test]
async fn a_budget_holds_before_the_call_and_a_person_lets_it_grow() {
    for node in Node::both().await {
        let task = json!({ "kind": "k", "budget": { "tokens": 100, "usd": 1.5 } });
        let (status, task) = node.send("/v1/tasks", task).await;
        assert_eq!(status, 201, "{task}");
        assert_eq!(task["budget"]["usd"], 1.5);
        let id = task["id"].as_str().expect("an id").to_owned();
        let lease = node.lease("k").await;
        let reserve = |key: &str, tokens: u64| json!({ "epoch": lease["epoch"], "key": key, "estimate": { "tokens": tokens } });
        let (status, set) = node.send(&path(&lease, "reserve"), reserve("a", 80)).await;
        assert_eq!((status, &set["reserved"]["tokens"]), (200, &json!(80)));
        let over = node.send(&path(&lease, "reserve"), reserve("b", 21)).await;
        assert_problem(&over, 402, "over_budget");
        assert_eq!(over.1["short"][0]["missing"], 1);
        let step = json!({ "epoch": lease["epoch"], "key": "a", "output": 1, "cost": { "tokens_out": 70, "usd": 0.25 } });
        assert_eq!(node.send(&path(&lease, "steps"), step.clone()).await.0, 200);
        assert_eq!(node.send(&path(&lease, "steps"), step).await.0, 200);
        let budget = format!("/v1/budgets/task:{id}");
        let (_, shown) = node.look(&budget).await;
        assert_eq!(shown["spent"]["tokens"], 70, "charged once");
        assert_eq!(shown["spent"]["usd"], 0.25);
        let wait = reserve("b", 50);
        let (status, waits) = node.send(&path(&lease, "wait_for_budget"), wait).await;
        assert_eq!(
            (status, &waits["state"]),
            (200, &json!("awaiting_approval"))
        );
        let question = format!(
            "/v1/approvals/{}",
            waits["approval"].as_str().expect("an id")
        );
        let (_, asked) = node.look(&question).await;
        assert_eq!(asked["short"][0]["missing"], 20, "{asked}");
        let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
        assert_eq!(shown["approval"], asked);
        let (_, why) = node.look(&format!("/v1/tasks/{id}/explain")).await;
        assert_eq!(why["reasons"][0]["decides"], "budget", "{why}");
        let text = why["reasons"][0]["text"].as_str().expect("a sentence");
        assert!(text.contains("Approve 20 tokens more for budget"), "{text}");
        let more = json!({ "decision": "approve", "grant": { "tokens": 1_000 } });
        assert_eq!(node.send(&question, more).await.0, 200);
        let again = node.lease("k").await;
        let reserve = json!({ "epoch": again["epoch"], "key": "b", "estimate": { "tokens": 50 } });
        assert_eq!(node.send(&path(&again, "reserve"), reserve).await.0, 200);
        let back = json!({ "epoch": again["epoch"], "key": "b" });
        let (_, back) = node.send(&path(&again, "give_back"), back).await;
        assert_eq!(back["given_back"], true);
        let (_, shown) = node.look(&budget).await;
        assert_eq!(shown["granted"]["tokens"], 1_000);
        assert_eq!(shown["reserved"]["tokens"], 0);
    }
}

#[tokio::test]
async fn an_operator_sets_what_tenants_and_the_node_may_spend() {
    let node = Node::volatile().await;
    let put = async |scope: &str, body: Value| {
        let request = node.client.put(format!("{}/v1/budgets/{scope}", node.url));
        Node::ask(request.json(&body)).await
    };
    let (status, set) = put("tenant:acme", json!({ "usd": 5, "period": "day" })).await;
    assert_eq!((status, &set["limits"]["usd"]), (200, &json!(5.0)), "{set}");
    assert_eq!(
        (&set["limits"]["tokens"], &set["period"]),
        (&json!(null), &json!("day"))
    );
    assert_eq!(put("node", json!({ "calls": 10 })).await.0, 200);
    let (_, all) = node.look("/v1/budgets").await;
    let scopes: Vec<&str> = all["budgets"]
        .as_array()
        .expect("some")
        .iter()
        .filter_map(|one| one["scope"].as_str())
        .collect();
    assert_eq!(scopes, ["node", "tenant:acme"]);
    assert_problem(&put("team:x", json!({})).await, 400, "invalid_parameter");
    assert_problem(
        &node.look("/v1/budgets/tenant:other").await,
        404,
        "budget_not_found",
    );
    let wrong = put("node", json!({ "usd": "much", "period": "year" })).await;
    assert_problem(&wrong, 422, "validation_failed");
}
