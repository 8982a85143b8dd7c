//! What nodes hear of each other.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_on_one_schema_hear_each_other_and_look_when_they_may_have_missed_something() {
    let (schema, elsewhere) = (Schema::create().await, Schema::create().await);
    let first = Node::steady(&schema, "first").await;
    let second = Node::steady(&schema, "second").await;
    let stranger = Node::steady(&elsewhere, "stranger").await;
    let mut hears = second.store.hearing(Signal::Ended);
    let mut other = second.store.hearing(Signal::Wanted);
    let mut itself = first.store.hearing(Signal::Ended);
    let mut abroad = stranger.store.hearing(Signal::Ended);
    for hearing in [&mut hears, &mut other, &mut itself, &mut abroad] {
        assert!(hearing.next().await, "looks once at first");
    }
    let heard = async |from: &Node, hears: &mut Hearing| {
        let signalled = async {
            loop {
                from.store.signal(Signal::Ended, &[]);
                if hears.next().await {
                    break;
                }
            }
        };
        soon("hearing", signalled).await;
    };
    heard(&first, &mut hears).await;
    heard(&second, &mut itself).await;
    for hearing in [&mut hears, &mut other, &mut itself, &mut abroad] {
        while hearing.next().await {}
    }
    first.store.signal(Signal::Ended, &[2]);
    assert!(hears.next().await, "within the time of a poll");
    first.store.signal(Signal::Ended, &[7]);
    first.store.signal(Signal::Wanted, &[]);
    assert!(other.next().await);
    assert!(!hears.next().await, "meant for another life");
    assert!(!itself.next().await, "its own");
    assert!(!abroad.next().await, "of another schema");
    schema
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name IN ('regrow second listener', 'regrow first signals')",
        )
        .await;
    soon("listening again", async { while !hears.next().await {} }).await;
    heard(&first, &mut hears).await;
    for node in [first, second, stranger] {
        node.stop().await;
    }
}
