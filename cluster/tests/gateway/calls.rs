//! Calls and casts between two nodes.

use super::nodes::Node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let met = a.meet(&b).await;
    assert_eq!(a.ask(&met, "echo").await.expect("answered"), "echo");
    a.stop().await;
    b.stop().await;
}
