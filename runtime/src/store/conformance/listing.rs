//! The same history, asked about in every way, gets the same answers from every store.

use std::collections::HashMap;

use super::{LEASE, Subject, json, task};
use crate::ids::TaskId;
use crate::queue::task::{Lane, NewChild, NewTask, TaskState};
use crate::store::TaskFilter;

/// One of each fate, in a fixed order of acceptance.
async fn history(subject: &Subject) -> Vec<TaskId> {
    let queue = &subject.queue;
    let mut ids = Vec::new();
    for n in 0..12_u32 {
        let kind = if n.is_multiple_of(3) { "b" } else { "a" };
        ids.push(subject.submit(NewTask::new(kind, json("0"))).await);
        let lease = subject.claim("w", LEASE).await;
        let (id, epoch) = (lease.task.id, lease.epoch);
        match n % 4 {
            0 => queue.complete(id, epoch, json("1")).await.expect("held"),
            1 => drop(
                queue
                    .fail(id, epoch, "no".into(), false)
                    .await
                    .expect("held"),
            ),
            2 => {
                queue.cancel(id).await.expect("live");
                queue.release(id, epoch).await.expect("held");
            }
            _ => {}
        }
    }
    let parent = subject
        .submit(NewTask {
            priority: Lane::Critical,
            ..task()
        })
        .await;
    let lease = subject.claim("w", LEASE).await;
    let child = |after| NewChild {
        task: task(),
        after,
    };
    let children = vec![child(vec![]), child(vec![0])];
    queue
        .suspend(parent, lease.epoch, children)
        .await
        .expect("held");
    ids.push(parent);
    let family = TaskFilter {
        parent: Some(parent),
        limit: 10,
        ..TaskFilter::default()
    };
    let mut children: Vec<TaskId> = queue
        .tasks(&family)
        .await
        .expect("readable")
        .iter()
        .map(|view| view.body.id)
        .collect();
    children.reverse();
    ids.extend(children);
    ids
}

/// Every answer, with tasks named by their position in the history.
async fn answers(subject: Subject) -> Vec<String> {
    let ids = history(&subject).await;
    let position: HashMap<TaskId, usize> = ids.iter().copied().zip(0..).collect();
    let states = TaskState::ALL.into_iter().map(Some).chain([None]);
    let mut answers = Vec::new();
    for state in states {
        for kind in [None, Some("a"), Some("b"), Some("none")] {
            for parent in [None, Some(ids[12]), Some(ids[0])] {
                let befores = [None, Some(ids[3]), Some(ids[9]), Some(TaskId::fresh())];
                for before in befores {
                    for limit in [0, 2, 100] {
                        let filter = TaskFilter {
                            state,
                            kind: kind.map(str::to_owned),
                            parent,
                            before,
                            limit,
                        };
                        let found = subject.queue.tasks(&filter).await.expect("readable");
                        let found: Vec<(usize, TaskState)> = found
                            .iter()
                            .map(|view| (position[&view.body.id], view.state()))
                            .collect();
                        answers.push(format!("{state:?} {kind:?} {limit} {found:?}"));
                    }
                }
            }
        }
    }
    let store = subject.queue.writer().store();
    let mut counts: Vec<_> = store
        .ended_counts()
        .await
        .expect("readable")
        .into_iter()
        .collect();
    counts.sort();
    answers.push(format!("{counts:?}"));
    let mut counts: Vec<_> = store
        .children_counts(ids[12])
        .await
        .expect("readable")
        .into_iter()
        .collect();
    counts.sort();
    answers.push(format!("{counts:?}"));
    for id in &ids {
        for (after, limit) in [(0, 100), (1, 2), (9, 9)] {
            let log = subject
                .queue
                .events(*id, after, limit)
                .await
                .expect("readable");
            let log: Vec<_> = log.iter().map(|event| (event.n, event.kind)).collect();
            answers.push(format!("{log:?}"));
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_answers_alike() {
    let memory = answers(Subject::memory().await).await;
    let others = [
        answers(Subject::sqlite().await).await,
        answers(Subject::postgres().await).await,
    ];
    for other in &others {
        for (memory, other) in memory.iter().zip(other) {
            assert_eq!(memory, other);
        }
        assert_eq!(memory.len(), other.len());
    }
    let found = memory
        .iter()
        .filter(|answer| !answer.ends_with("[]"))
        .count();
    assert!(100 < found, "the history is not trivial: {found}");
}
