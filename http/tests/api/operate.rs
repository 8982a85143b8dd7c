//! Lists, trees and the queue's switches.

use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::{NewChild, NewTask};
use serde_json::{Value, json};

use crate::node::{Node, assert_problem};

fn ids(page: &Value) -> Vec<String> {
    let tasks = page["tasks"].as_array().expect("tasks");
    let ids = tasks.iter().filter_map(|task| task["id"].as_str());
    ids.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_list_is_read_in_pages_newest_first_without_gap_or_repeat() {
    for node in Node::both().await {
        let mut expected = Vec::new();
        for _ in 0..45 {
            expected.push(node.submit("k").await);
        }
        expected.reverse();
        for limit in [1_usize, 20, 22, 44, 45, 46, 500] {
            let mut found = Vec::new();
            let mut path = format!("/v1/tasks?limit={limit}");
            loop {
                let (status, page) = node.look(&path).await;
                assert_eq!(status, 200, "{page}");
                let on_page = ids(&page);
                assert!(on_page.len() <= limit);
                found.extend(on_page);
                let Some(cursor) = page["next_cursor"].as_str() else {
                    break;
                };
                path = format!("/v1/tasks?limit={limit}&cursor={cursor}");
            }
            assert_eq!(found, expected, "limit {limit}");
        }
        assert_eq!(ids(&node.look("/v1/tasks").await.1).len(), 45);
    }
}

#[tokio::test]
async fn a_page_of_large_tasks_ends_early_and_goes_on() {
    let node = Node::volatile().await;
    for _ in 0..50 {
        let task = json!({ "kind": "k", "payload": "x".repeat(500_000) });
        assert_eq!(node.send("/v1/tasks", task).await.0, 201);
    }
    let (_, page) = node.look("/v1/tasks?limit=500").await;
    assert_eq!(ids(&page).len(), 10);
    let cursor = page["next_cursor"].as_str().expect("more follows");
    let (_, page) = node
        .look(&format!("/v1/tasks?limit=500&cursor={cursor}"))
        .await;
    assert_eq!(ids(&page).len(), 10);
}

#[tokio::test]
async fn a_list_can_be_filtered() {
    for node in Node::both().await {
        let (a, b) = (node.submit("a").await, node.submit("b").await);
        node.lease("a").await;
        let of = async |query: &str| ids(&node.look(&format!("/v1/tasks?{query}")).await.1);
        // A lease is given before it is durable, lists show what is durable.
        Node::until("the lease is durable", async || {
            of("state=executing").await == [&*a]
        })
        .await;
        assert_eq!(of("kind=a").await, [&*a]);
        assert_eq!(of("state=available").await, [&*b]);
        assert_eq!(of("state=available&kind=a").await, Vec::<String>::new());
        assert_eq!(of(&format!("parent={a}")).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_family_is_shown_as_a_tree() {
    for node in Node::both().await {
        let id = node.submit("parent").await;
        let lease = node.lease("parent").await;
        let epoch = Epoch(lease["epoch"].as_u64().expect("an epoch"));
        let child = |after: &[usize]| NewChild {
            task: NewTask::new("child", Json::null()),
            after: after.to_vec(),
        };
        let parent: TaskId = id.parse().expect("an id");
        let family = vec![child(&[]), child(&[0])];
        node.queue
            .suspend(parent, epoch, family)
            .await
            .expect("suspended");
        let (status, answer) = node.look(&format!("/v1/tasks/{id}/tree")).await;
        assert_eq!((status, &answer["truncated"]), (200, &json!(false)));
        let tree = &answer["tree"];
        assert_eq!(
            (&tree["id"], &tree["state"]),
            (&json!(id), &json!("waiting"))
        );
        let children = tree["children"].as_array().expect("children");
        assert_eq!(children.len(), 2);
        assert_eq!(children[0]["state"], "available");
        assert_eq!(children[1]["depends_on"], json!([children[0]["id"]]));
        let (_, listed) = node.look(&format!("/v1/tasks?parent={id}")).await;
        assert_eq!(ids(&listed).len(), 2);
    }
}

#[tokio::test]
async fn a_large_family_is_cut_and_says_so() {
    let node = Node::volatile().await;
    let id = node.submit("parent").await;
    let lease = node.lease("parent").await;
    let epoch = Epoch(lease["epoch"].as_u64().expect("an epoch"));
    let family = (0..1_100).map(|_| NewChild {
        task: NewTask::new("child", Json::null()),
        after: Vec::new(),
    });
    let parent: TaskId = id.parse().expect("an id");
    let suspended = node.queue.suspend(parent, epoch, family.collect()).await;
    suspended.expect("suspended");
    let (_, answer) = node.look(&format!("/v1/tasks/{id}/tree")).await;
    assert_eq!(answer["truncated"], true);
    assert_eq!(
        answer["tree"]["children"].as_array().map(Vec::len),
        Some(999)
    );
}

#[tokio::test]
async fn the_switches_turn_and_show_how_the_queue_stands() {
    for node in Node::both().await {
        node.submit("k").await;
        for (verb, paused, draining) in [
            ("pause", true, false),
            ("drain", true, true),
            ("resume", false, false),
        ] {
            let (status, queue) = node.send(&format!("/v1/queue/{verb}"), json!({})).await;
            assert_eq!(status, 200);
            assert_eq!(queue["paused"], paused, "{verb}");
            assert_eq!(queue["draining"], draining, "{verb}");
        }
        let put = |body: Value| {
            let request = node.client.put(format!("{}/v1/queue/max_size", node.url));
            Node::ask(request.json(&body))
        };
        let (_, queue) = put(json!({ "max_size": 4 })).await;
        assert_eq!(
            (&queue["max_size"], &queue["utilization"]),
            (&json!(4), &json!(0.25))
        );
        let (_, queue) = put(json!({ "max_size": null })).await;
        assert_eq!(queue["max_size"], 100_000);
        let (_, queue) = node.look("/v1/queue").await;
        assert_eq!(queue["states"]["available"], 1);
        assert_eq!(queue["kinds"]["k"], 1);
        let bare = node.post("/v1/queue/clear");
        assert_eq!(Node::ask(bare).await, (200, json!({ "cleared": 1 })));
        assert_eq!(node.look("/v1/queue").await.1["size"], 0);
    }
}

#[tokio::test]
async fn a_task_is_cancelled_once() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let path = format!("/v1/tasks/{id}/cancel");
        let (status, answer) = node.send(&path, json!({})).await;
        assert_eq!((status, &answer["state"]), (200, &json!("cancelled")));
        let again = node.send(&path, json!({})).await;
        assert_problem(&again, 409, "wrong_state");
        assert_eq!(again.1["state"], "cancelled");
    }
}

#[tokio::test]
async fn agents_are_listed_by_role_and_the_tree_is_shown() {
    let node = Node::volatile().await;
    let (_, all) = node.look("/v1/agents").await;
    assert_eq!(all["agents"].as_array().map(Vec::len), Some(2));
    let (_, workers) = node.look("/v1/agents?role=worker").await;
    assert_eq!(workers["agents"][0]["id"], "worker-1");
    assert_eq!(workers["agents"].as_array().map(Vec::len), Some(1));
    assert_eq!(node.look("/v1/tree").await.1["id"], "root");
}

#[tokio::test]
async fn a_task_without_context_has_none_and_an_unknown_task_is_unknown() {
    let node = Node::volatile().await;
    let id = node.submit("k").await;
    let (status, answer) = node.look(&format!("/v1/tasks/{id}/context")).await;
    assert_eq!((status, &answer), (200, &json!({ "context": null })));
    let unknown = "0198c5f2-7c1e-7b3a-9d55-0f2b8c6a1e44";
    let answer = node.look(&format!("/v1/tasks/{unknown}/context")).await;
    assert_problem(&answer, 404, "task_not_found");
}

#[tokio::test]
async fn tasks_in_memory_are_not_moved_and_what_is_missing_is_said() {
    let node = Node::volatile().await;
    let (status, progress) = node.look("/v1/store/promote").await;
    assert_eq!((status, &progress["phase"]), (200, &json!("idle")));
    let refused = node.send("/v1/store/promote", json!({})).await;
    assert_problem(&refused, 422, "validation_failed");
    let wrong = json!({ "to": "mysql://localhost/tasks" });
    let refused = node.send("/v1/store/promote", wrong).await;
    assert_problem(&refused, 422, "validation_failed");
    let database = json!({ "to": "postgres://me:s3cret@localhost/tasks" });
    let refused = node.send("/v1/store/promote", database).await;
    assert_problem(&refused, 409, "promotion_refused");
    assert!(!refused.1.to_string().contains("s3cret"));
}
