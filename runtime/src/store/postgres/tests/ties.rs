//! What nodes do for each other: tasks that wait for tasks elsewhere, orders, switches.

use super::*;
use crate::queue::approval::{Answer, ApprovalFilter, ApprovalState};
use crate::queue::error::ControlError;
use crate::queue::explain::Explained;
use crate::queue::task::{OnChildFailure, TaskTerms};

async fn two(schema: &Schema) -> (Node, Node) {
    (
        Node::steady(schema, "first").await,
        Node::steady(schema, "second").await,
    )
}

fn plain(on: Vec<TaskId>) -> NewTask {
    NewTask {
        depends_on: on,
        max_attempts: Some(1),
        ..NewTask::new("a", Json::null())
    }
}

impl Node {
    async fn state(&self, id: TaskId) -> TaskState {
        let view = self.queue.task(id).await.expect("open");
        view.expect("kept").state()
    }

    async fn reaches(&self, id: TaskId, state: TaskState) {
        let reached = async {
            while self.state(id).await != state {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(state.as_str(), reached).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_waits_for_one_that_lives_on_another_node() {
    let schema = Schema::create().await;
    let (first, second) = two(&schema).await;
    let good = first.submit().await;
    // Nobody asks for its kind, so it stays where it is.
    let bad = NewTask::new("b", Json::null());
    let bad = first.queue.submit(bad).await.expect("accepted").id;
    let after = second
        .queue
        .submit(plain(vec![good]))
        .await
        .expect("accepted")
        .id;
    let never = second
        .queue
        .submit(plain(vec![good, bad]))
        .await
        .expect("accepted")
        .id;
    assert_eq!(second.state(after).await, TaskState::Waiting);
    let lease = first.claim().await;
    assert_eq!(lease.task.id, good);
    let done = first.queue.complete(good, lease.epoch, Json::null());
    done.await.expect("held");
    let lease = second.claim().await;
    assert_eq!(lease.task.id, after);
    assert_eq!(
        second.queue.cancel(bad).await.expect("carried out"),
        TaskState::Cancelled
    );
    second.reaches(never, TaskState::Cancelled).await;
    let refused = second.queue.submit(plain(vec![bad])).await;
    assert!(refused.is_err(), "it will not complete");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_task_is_read_back_beside_a_dependency_that_lives_elsewhere() {
    let schema = Schema::create().await;
    let (first, second) = two(&schema).await;
    let on = first.submit().await;
    let id = second
        .queue
        .submit(plain(vec![on]))
        .await
        .expect("accepted")
        .id;
    second.die().await;
    let second = Node::steady(&schema, "second").await;
    assert_eq!(second.state(id).await, TaskState::Waiting);
    second.store.cut_writer().await;
    let _ = second.queue.writer().write(document("cut")).await;
    soon("the recovery", async {
        while second.queue.writer().refusal().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(second.state(id).await, TaskState::Waiting);
    let lease = first.claim().await;
    let done = first.queue.complete(on, lease.epoch, Json::null());
    done.await.expect("held");
    assert_eq!(second.claim().await.task.id, id);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_a_decision_and_a_question_why_reach_the_node_that_has_the_task() {
    let schema = Schema::create().await;
    let (first, second) = two(&schema).await;
    let id = first.submit().await;
    let why = second.queue.why(id).await.expect("open").expect("known");
    let Explained::There(text) = &why else {
        panic!("{why:?}");
    };
    assert!(text.as_str().contains("no_worker"), "{}", text.as_str());
    assert_eq!(
        second.queue.cancel(id).await.expect("carried out"),
        TaskState::Cancelled
    );
    let again = second.queue.cancel(id).await;
    assert!(
        matches!(again, Err(ControlError::WrongState { .. })),
        "{again:?}"
    );

    let gated = NewTask {
        terms: Some(Box::new(TaskTerms {
            requires_approval: true,
            ..TaskTerms::default()
        })),
        ..plain(vec![])
    };
    let gated = first.queue.submit(gated).await.expect("accepted").id;
    let filter = ApprovalFilter {
        task: Some(gated),
        limit: 1,
        ..ApprovalFilter::default()
    };
    let asked = second.queue.approvals(&filter).await.expect("open");
    let answer = Answer {
        approved: true,
        by: "joe".to_owned(),
        ..Answer::default()
    };
    let row = second
        .queue
        .answer(asked[0].id, answer.clone())
        .await
        .expect("decided");
    assert_eq!(row.state, ApprovalState::Approved);
    assert_eq!(first.claim().await.task.id, gated);
    let twice = second.queue.answer(asked[0].id, answer).await;
    assert!(twice.is_err(), "decided already");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_failed_part_below_a_parent_on_another_node_comes_back_there() {
    let schema = Schema::create().await;
    let (first, second) = two(&schema).await;
    let parent = first.submit().await;
    let lease = first.claim().await;
    let family = (0..2)
        .map(|_| NewChild {
            task: plain(vec![]),
            after: vec![],
        })
        .collect();
    first
        .queue
        .suspend(parent, lease.epoch, family)
        .await
        .expect("held");
    let (one, other) = (first.claim().await, first.claim().await);
    for (lease, retried) in [(one, false), (other, true)] {
        let child = lease.task.id;
        let failed = first
            .queue
            .fail(child, lease.epoch, "broke".to_owned(), false);
        assert_eq!(failed.await.expect("held"), TaskState::Discarded);
        first.queue.settle().await.expect("open");
        if !retried {
            assert_eq!(
                second.queue.retry_part(parent).await.expect("carried out"),
                1
            );
            let again = first.claim().await;
            assert_eq!(again.task.id, child, "it lives at its parent's node");
            let done = first.queue.complete(child, again.epoch, Json::null());
            done.await.expect("held");
            assert_eq!(first.state(parent).await, TaskState::Waiting);
        }
    }
    assert_eq!(first.claim().await.task.id, parent, "woken once");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_waits_for_the_heir_of_the_node_it_was_meant_for() {
    let schema = Schema::create().await;
    let first = Node::steady(&schema, "first").await;
    let id = first.submit().await;
    first.die().await;
    let second = Node::steady(&schema, "second").await;
    let cancel = second.queue.cancel(id).await;
    let Err(ControlError::Ordered { task, node }) = &cancel else {
        panic!("{cancel:?}");
    };
    assert_eq!((*task, node.as_str()), (id, "first"));
    let heir = Node::steady(&schema, "first").await;
    second.reaches(id, TaskState::Cancelled).await;
    heir.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_are_followed_by_every_node_and_none_is_lost() {
    let schema = Schema::create().await;
    let (first, second) = two(&schema).await;
    let started = Instant::now();
    first.queue.pause().await.expect("open");
    soon("the pause", async {
        while !second.queue.stats().paused {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    for round in 0..20_u64 {
        let (one, other) = tokio::join!(
            first.queue.set_max_size(Some(100 + round)),
            second.queue.change_rules(|rules| {
                let limit = round + 1;
                rules.limits.insert(format!("key-{round}"), limit);
            }),
        );
        one.expect("open");
        other.expect("open");
    }
    first.queue.resume().await.expect("open");
    soon("the rest", async {
        loop {
            let same = [&first, &second].iter().all(|node| {
                let stats = node.queue.stats();
                let (rules, _) = node.queue.rules(0);
                !stats.paused && stats.max_size == 119 && rules.limits.len() == 20
            });
            if same {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_wakes_at_its_node_when_its_children_were_worked_on_at_another() {
    let schema = Schema::create().await;
    let (first, second) = two(&schema).await;
    for policy in [false, true] {
        let terms = TaskTerms {
            on_child_failure: OnChildFailure {
                fail: policy,
                retries: 0,
            },
            ..TaskTerms::default()
        };
        let task = NewTask {
            terms: Some(Box::new(terms)),
            ..plain(vec![])
        };
        let parent = first.queue.submit(task).await.expect("accepted").id;
        let lease = first.claim().await;
        let family = (0..6)
            .map(|place| NewChild {
                task: plain(vec![]),
                after: (0..place).filter(|_| place == 5).collect(),
            })
            .collect();
        let suspended = first.queue.suspend(parent, lease.epoch, family);
        suspended.await.expect("held");
        let mut there = 0;
        for turn in 0..6 {
            if policy && turn == 3 {
                break;
            }
            let lease = second.claim().await;
            let (id, epoch) = (lease.task.id, lease.epoch);
            assert_eq!(lease.task.parent, Some(parent));
            there += 1;
            if policy && turn == 2 {
                let failed = second.queue.fail(id, epoch, "broke".to_owned(), false);
                failed.await.expect("held");
            } else {
                let done = second.queue.complete(id, epoch, Json::null());
                done.await.expect("held");
            }
        }
        if policy {
            first.reaches(parent, TaskState::Discarded).await;
            let filter = TaskFilter {
                parent: Some(parent),
                limit: 10,
                ..TaskFilter::default()
            };
            soon("the end of all children", async {
                while !all_ended(&first, &filter).await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        } else {
            assert_eq!(there, 6);
            assert_eq!(first.claim().await.task.id, parent);
        }
    }
    first.stop().await;
    second.stop().await;
}

async fn all_ended(node: &Node, filter: &TaskFilter) -> bool {
    let tasks = node.queue.tasks(filter).await.expect("open");
    tasks.iter().all(|view| view.end.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_not_understood_is_refused_and_holds_up_nobody() {
    let schema = Schema::create().await;
    let (first, second) = two(&schema).await;
    let task = first.submit().await;
    // As a version to come might write it, before everything else.
    let strange = format!(
        "INSERT INTO task_order (id, task, verb, detail, asked_by, at) VALUES \
         (gen_random_uuid(), '{task}', 'praise', '{{\"verb\":\"praise\"}}', 'third', 0)"
    );
    schema.run(strange).await;
    let cancelled = second.queue.cancel(task).await;
    assert_eq!(cancelled.expect("carried out"), TaskState::Cancelled);
    let answer = "SELECT answer FROM task_order WHERE verb = 'praise'";
    let answered = async {
        let open = format!("{answer} AND answer IS NULL");
        while 0 < schema
            .number(format!("SELECT count(*) FROM ({open}) AS open"))
            .await
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("an answer", answered).await;
    let answer = schema.text(answer).await;
    assert!(
        answer.contains("refused") && answer.contains("praise"),
        "{answer}"
    );
}
