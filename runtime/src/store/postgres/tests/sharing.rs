//! Gates that several nodes share: what they give out together stays within what there is.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::queue::explain::Explained;
use crate::queue::rules::{Rate, Resource, Rules};
use crate::queue::task::TaskTerms;

/// Nodes with rules that all of them read at their start.
async fn nodes(schema: &Schema, count: usize, term: Duration, rules: Rules) -> Vec<Node> {
    let first = Node::start(schema, "first", term).await;
    let set = first.queue.change_rules(|present| *present = rules).await;
    set.expect("sound rules");
    first.stop().await;
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(Node::start(schema, &format!("node{number}"), term).await);
    }
    nodes
}

async fn submit(node: &Node, terms: TaskTerms) -> TaskId {
    let task = NewTask {
        terms: Some(Box::new(terms)),
        ..NewTask::new("a", Json::null())
    };
    node.queue.submit(task).await.expect("accepted").id
}

fn keyed() -> TaskTerms {
    TaskTerms {
        concurrency_key: Some("k".to_owned()),
        ..TaskTerms::default()
    }
}

/// What all nodes do at one moment, and what they did at most.
#[derive(Debug, Default)]
struct Seen {
    now: AtomicUsize,
    most: AtomicUsize,
    starts: Lock<Vec<Instant>>,
}

/// Works on `count` tasks of a node, `units` each for `long`.
async fn work(queue: Queue, seen: Arc<Seen>, count: usize, units: usize, long: Duration) {
    for _ in 0..count {
        let leases = soon("a lease", async {
            loop {
                let leases = queue.claim(&asking()).await.expect("open");
                if !leases.is_empty() {
                    return leases;
                }
            }
        });
        let lease = leases.await.pop().expect("one");
        let now = seen.now.fetch_add(units, Ordering::SeqCst) + units;
        seen.most.fetch_max(now, Ordering::SeqCst);
        seen.starts.lock().push(Instant::now());
        tokio::time::sleep(long).await;
        seen.now.fetch_sub(units, Ordering::SeqCst);
        let done = queue.complete(lease.task.id, lease.epoch, Json::null());
        done.await.expect("held");
    }
}

/// Lets every node do its tasks with that many workers.
async fn work_all(
    nodes: &[Node],
    workers: usize,
    each: usize,
    units: usize,
    long: Duration,
) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let mut working = JoinSet::new();
    for node in nodes {
        for _ in 0..workers {
            let (queue, seen) = (node.queue.clone(), seen.clone());
            working.spawn(work(queue, seen, each, units, long));
        }
    }
    while let Some(done) = working.join_next().await {
        done.expect("worked");
    }
    seen
}

fn limit(limit: u64) -> Rules {
    let mut rules = Rules::default();
    rules.limits.insert("k".to_owned(), limit);
    rules
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_concurrency_limit_holds_over_three_nodes_and_is_used_in_full() {
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 3, Duration::from_secs(600), limit(3)).await;
    for _ in 0..30 {
        for node in &nodes {
            submit(node, keyed()).await;
        }
    }
    let started = Instant::now();
    let seen = work_all(&nodes, 3, 10, 1, Duration::from_millis(20)).await;
    assert_eq!(seen.most.load(Ordering::SeqCst), 3);
    // 90 tasks of 20 ms, three at a time, take 600 ms where hand-overs take no time.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_slot_goes_from_node_to_node() {
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 3, Duration::from_secs(600), limit(1)).await;
    for _ in 0..10 {
        for node in &nodes {
            submit(node, keyed()).await;
        }
    }
    let started = Instant::now();
    let seen = work_all(&nodes, 2, 5, 1, Duration::from_millis(10)).await;
    assert_eq!(seen.most.load(Ordering::SeqCst), 1);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_need_more_than_their_share_of_a_resource_take_turns() {
    let schema = Schema::create().await;
    let mut rules = Rules::default();
    rules.resources.insert("gpu".to_owned(), Resource::Slots(4));
    let nodes = nodes(&schema, 2, Duration::from_secs(600), rules).await;
    let terms = TaskTerms {
        needs: [("gpu".to_owned(), 3)].into(),
        ..TaskTerms::default()
    };
    for _ in 0..8 {
        for node in &nodes {
            submit(node, terms.clone()).await;
        }
    }
    let seen = work_all(&nodes, 2, 4, 3, Duration::from_millis(5)).await;
    assert_eq!(seen.most.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_over_three_nodes_and_is_used_in_full() {
    let schema = Schema::create().await;
    let rate = Rate {
        units: 50,
        period_ms: 1_000,
        burst: 5,
    };
    let mut rules = Rules::default();
    rules.rates.insert("r".to_owned(), rate);
    let nodes = nodes(&schema, 3, Duration::from_secs(600), rules).await;
    let terms = TaskTerms {
        rate_key: Some("r".to_owned()),
        ..TaskTerms::default()
    };
    for _ in 0..32 {
        for node in &nodes {
            submit(node, terms.clone()).await;
        }
    }
    let seen = work_all(&nodes, 2, 16, 1, Duration::ZERO).await;
    let starts = seen.starts.lock().clone();
    for (first, from) in starts.iter().enumerate() {
        for (last, to) in starts.iter().enumerate().skip(first) {
            // Workers notice their leases late, some later than others.
            let span = to.saturating_duration_since(*from) + Duration::from_millis(40);
            let most = 5.0 + 50.0 * span.as_secs_f64();
            let started = (last - first + 1) as f64;
            assert!(started <= most, "{started} starts within {span:?}");
        }
    }
    let took = starts[95].duration_since(starts[0]);
    assert!(
        took < Duration::from_secs(4),
        "91 at 50 per second in {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_of_a_node_that_died_come_back_when_its_life_ends() {
    let schema = Schema::create().await;
    let mut nodes = nodes(&schema, 2, Duration::from_secs(1), limit(2)).await;
    let (other, dying) = (nodes.pop().expect("two"), nodes.pop().expect("two"));
    for _ in 0..2 {
        submit(&dying, keyed()).await;
        dying.claim().await;
    }
    let waiting = submit(&other, keyed()).await;
    let asked = other.queue.claim_now(&asking()).expect("open");
    assert!(asked.is_empty(), "the other node has all units");
    let why = other.queue.why(waiting).await.expect("readable");
    let why: Vec<String> = why
        .as_ref()
        .and_then(Explained::here)
        .expect("live here")
        .reasons
        .iter()
        .map(|reason| reason.text.clone())
        .collect();
    assert!(
        why.iter()
            .any(|why| why.contains("units of concurrency key k that other nodes hold")),
        "{why:?}"
    );
    dying.die().await;
    other.claim().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_fail_give_no_unit_out_twice() {
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), limit(2)).await;
    for _ in 0..40 {
        for node in &nodes {
            submit(node, keyed()).await;
        }
    }
    let mut working = JoinSet::new();
    let left = Arc::new(AtomicUsize::new(80));
    for node in &nodes {
        for _ in 0..2 {
            let (queue, left) = (node.queue.clone(), left.clone());
            working.spawn(async move {
                let short = ClaimRequest {
                    wait: Duration::from_millis(50),
                    ..asking()
                };
                while 0 < left.load(Ordering::SeqCst) {
                    // A store that recovers refuses for a moment.
                    let leases = queue.claim(&short).await.unwrap_or_default();
                    for lease in leases {
                        let (id, epoch) = (lease.task.id, lease.epoch);
                        // Long enough for its lease to be committed before its end.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        loop {
                            match queue.complete(id, epoch, Json::null()).await {
                                Ok(()) => {
                                    left.fetch_sub(1, Ordering::SeqCst);
                                    break;
                                }
                                Err(LeaseError::Store(_)) => tokio::task::yield_now().await,
                                Err(_) => break,
                            }
                        }
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
    }
    let (mut rounds, mut most) = (0, 0);
    while !working.is_empty() {
        // What is committed, of all nodes at one moment.
        const EXECUTING: &str = "SELECT count(*) FROM task_run WHERE state = 'executing'";
        const ALLOTTED: &str = "SELECT coalesce(sum(units), 0)::bigint FROM allotment";
        let executing = schema.number(EXECUTING).await;
        assert!(executing <= 2, "{executing} execute");
        most = most.max(executing);
        let allotted = schema.number(ALLOTTED).await;
        assert!(allotted <= 2, "{allotted} are allotted");
        rounds += 1;
        if rounds % 8 == 0 {
            nodes[rounds / 8 % 2].store.cut_writer().await;
        }
        while working.try_join_next().is_some() {}
    }
    assert_eq!(left.load(Ordering::SeqCst), 0);
    assert!(0 < most);
}
