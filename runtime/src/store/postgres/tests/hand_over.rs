//! Tasks that go to whichever node asks for them.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_to_the_node_that_waits_for_one_and_ends_there() {
    let schema = Schema::create().await;
    let giver = Node::steady(&schema, "giver").await;
    let taker = Node::steady(&schema, "taker").await;
    let claiming = async {
        let lease = taker.claim().await;
        let id = lease.task.id;
        let done = taker.queue.complete(id, lease.epoch, Json::null()).await;
        done.expect("held");
        (id, lease.losses)
    };
    let submitting = async {
        // Waited for or not when it comes: either way it gets there.
        tokio::time::sleep(Duration::from_millis(30)).await;
        giver.submit().await
    };
    let ((taken, losses), id) = soon("the hand-over", async {
        tokio::join!(claiming, submitting)
    })
    .await;
    assert_eq!((taken, losses), (id, 0));
    let stats = (giver.queue.stats(), taker.queue.stats());
    assert_eq!(stats.0.counters.handed_over, 1);
    assert_eq!(stats.1.counters.taken_in, 1);
    assert_eq!(stats.0.size, 0, "in one memory only");
    let view = giver.queue.task(id).await.expect("readable");
    assert_eq!(view.expect("kept").state(), TaskState::Completed);
    assert_eq!(schema.number("SELECT count(*) FROM handed").await, 0);
    for node in [giver, taker] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_to_a_life_that_ended_comes_back() {
    let schema = Schema::create().await;
    let giver = Node::steady(&schema, "giver").await;
    let taker = Node::steady(&schema, "taker").await;
    let id = giver.submit().await;
    taker.stop().await;
    schema
        .run("UPDATE life SET ended = true, heir = 1 WHERE boot = 2")
        .await;
    let want = crate::queue::machine::Want {
        life: 2,
        round: 1,
        kind: "a".into(),
        tasks: 1,
    };
    giver.queue.give_as_wanted(vec![want]);
    giver.queue.settle().await.expect("open");
    let lease = giver.claim().await;
    assert_eq!((lease.task.id, lease.losses), (id, 0));
    assert_eq!(giver.queue.stats().counters.taken_in, 1);
    giver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_over_is_there_once_after_a_failed_commit_or_a_death() {
    let schema = Schema::create().await;
    let giver = Node::start(&schema, "giver", Duration::from_millis(900)).await;
    let mut taker = Node::steady(&schema, "taker").await;
    // It wants tasks, and does not take them in.
    taker.running.shutdown().await;
    let mut ids = vec![giver.submit().await, giver.submit().await];
    let want = |round| crate::queue::machine::Want {
        life: 2,
        round,
        kind: "a".into(),
        tasks: 5,
    };
    giver.queue.give_as_wanted(vec![want(1)]);
    giver.queue.settle().await.expect("open");
    assert_eq!(schema.number("SELECT count(*) FROM handed").await, 2);
    assert_eq!(
        schema
            .number("SELECT count(*) FROM task_run WHERE owner = 2")
            .await,
        2
    );
    // The giver reads everything anew: they are not among it.
    giver.store.cut_writer().await;
    while giver.queue.writer().write(document("after")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(giver.queue.stats().size, 0);
    // A successor of the taker finds them, and the notes are gone.
    let heir = Node::steady(&schema, "taker").await;
    let mut found = [heir.claim().await, heir.claim().await];
    found.sort_by_key(|lease| lease.task.seq);
    ids.sort();
    let mut taken: Vec<TaskId> = found.iter().map(|lease| lease.task.id).collect();
    taken.sort();
    assert_eq!(taken, ids);
    heir.queue.settle().await.expect("open");
    assert_eq!(schema.number("SELECT count(*) FROM handed").await, 0);
    assert!(heir.queue.claim_now(&asking()).expect("open").is_empty());
    for node in [giver, heir] {
        node.stop().await;
    }
}
