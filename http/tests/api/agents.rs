//! `/v1/agents`: faults for rehearsals.

use serde_json::json;

use crate::node::Node;

#[tokio::test]
async fn a_fault_is_injected_only_where_it_can_be() {
    let node = Node::volatile().await;
    let cases = [
        ("worker-1", json!({ "fault": "panic" }), 200, None),
        (
            "worker-1",
            json!({ "fault": "hang" }),
            409,
            Some("agent_not_running"),
        ),
        (
            "planner-1",
            json!({ "fault": "panic" }),
            403,
            Some("rehearsal_disabled"),
        ),
        (
            "nobody",
            json!({ "fault": "panic" }),
            404,
            Some("agent_not_found"),
        ),
        (
            "worker-1",
            json!({ "fault": "flood" }),
            422,
            Some("validation_failed"),
        ),
        ("worker-1", json!({}), 422, Some("validation_failed")),
        (
            "worker-1",
            json!({ "fault": "panic", "also": 1 }),
            422,
            Some("validation_failed"),
        ),
    ];
    for (agent, body, status, code) in cases {
        let path = format!("/v1/agents/{agent}/inject");
        let (found, answer) = node.send(&path, body.clone()).await;
        assert_eq!(
            (found, answer["code"].as_str()),
            (status, code),
            "{agent} {body}: {answer}"
        );
    }
}
