//! A tenant's budget that several nodes spend from: together never more than the limit.

use super::*;
use crate::queue::budget::{Amounts, Limits, Period, Scope};
use crate::queue::machine::FinishedStep;
use crate::store::content::Content;

fn tenant() -> Scope {
    Scope::Tenant("default".into())
}

fn calls(calls: u64) -> Amounts {
    Amounts {
        calls,
        ..Amounts::ZERO
    }
}

fn limit(calls: u64) -> Limits {
    Limits {
        calls: Some(calls),
        ..Limits::default()
    }
}

async fn set(node: &Node, most: u64) {
    let set = node.queue.set_budget(tenant(), limit(most), None);
    set.await.expect("the store takes it");
}

/// Nodes that know of a limit for all of them.
async fn nodes(schema: &Schema, count: usize, term: Duration, most: u64) -> Vec<Node> {
    let first = Node::start(schema, "first", term).await;
    set(&first, most).await;
    first.stop().await;
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(Node::start(schema, &format!("node{number}"), term).await);
    }
    nodes
}

async fn figures(node: &Node) -> (u64, u64) {
    let view = node.queue.budget(&tenant()).await.expect("it was set");
    (view.spent.calls, view.reserved.calls)
}

/// A lease of a task that was submitted to the node.
async fn lease(node: &Node) -> Lease {
    node.submit().await;
    node.claim().await
}

async fn reserve(node: &Node, lease: &Lease, key: &str, most: u64) -> Result<(), LeaseError> {
    let (id, epoch) = (lease.task.id, lease.epoch);
    let reserved = node.queue.reserve(id, epoch, key, calls(most), false);
    soon("an answer", reserved).await
}

async fn pay(queue: &Queue, lease: &Lease, key: &str, cost: u64) {
    let step = FinishedStep {
        key: key.to_owned(),
        input: Content::new(Json::null()),
        output: Content::new(Json::null()),
        cost: Some(calls(cost).into()),
        started_at: queue.clock().now(),
    };
    let (id, epoch) = (lease.task.id, lease.epoch);
    let paid = queue
        .decide(|machine, now| machine.record_step(id, epoch, step, now))
        .await;
    paid.expect("held");
}

/// What is committed at one moment: spent and set aside by all nodes.
const COMMITTED: &str = "SELECT ((SELECT coalesce(sum((charged::json->>'calls')::bigint), 0) FROM charge) \
    + (SELECT coalesce(sum((spent::json->>'calls')::bigint), 0) FROM fund) \
    + (SELECT coalesce(sum((estimate::json->>'calls')::bigint), 0) FROM reservation))::bigint";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_spend_one_budget_to_the_last_and_never_above() {
    const LIMIT: u64 = 200;
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), LIMIT).await;
    let mut working = JoinSet::new();
    for node in &nodes {
        for _ in 0..3 {
            let lease = lease(node).await;
            let queue = node.queue.clone();
            working.spawn(async move {
                let (id, epoch) = (lease.task.id, lease.epoch);
                let mut spent = 0;
                for step in 0.. {
                    let key = format!("s{step}");
                    match queue.reserve(id, epoch, &key, calls(3), false).await {
                        Ok(()) => {}
                        Err(LeaseError::OverBudget(shortfall)) => {
                            let short = &shortfall.short[0];
                            assert_eq!(short.limit, LIMIT, "{shortfall}");
                            break;
                        }
                        Err(other) => panic!("{other}"),
                    }
                    // Each settles for less than was set aside: 1 or 2 of 3.
                    let cost = 1 + step % 2;
                    pay(&queue, &lease, &key, cost).await;
                    spent += cost;
                }
                spent
            });
        }
    }
    let mut spent = 0;
    let mut most = 0;
    loop {
        let committed = schema.number(COMMITTED).await;
        assert!(committed <= LIMIT as i64, "{committed} of {LIMIT}");
        most = most.max(committed);
        match working.try_join_next() {
            Some(done) => spent += done.expect("worked"),
            None if working.is_empty() => break,
            None => {}
        }
    }
    // Nobody was told that it is used up while there was room for a step.
    assert!(LIMIT - 3 < spent && spent <= LIMIT, "{spent}");
    assert!(LIMIT as i64 / 2 < most);
    for node in &nodes {
        assert_eq!(figures(node).await, (spent, 0), "each cost counted once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_holds_and_does_not_use_comes_back_for_another_that_needs_it_all() {
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), 100).await;
    let first = lease(&nodes[0]).await;
    // It takes more than it needs, as long as nobody else does.
    reserve(&nodes[0], &first, "s", 1).await.expect("room");
    let second = lease(&nodes[1]).await;
    reserve(&nodes[1], &second, "s", 99)
        .await
        .expect("all the rest");
    assert_eq!(figures(&nodes[1]).await, (0, 100));
    let short = match reserve(&nodes[0], &first, "t", 1).await {
        Err(LeaseError::OverBudget(shortfall)) => shortfall.short[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((short.limit, short.reserved, short.missing), (100, 100, 1));
    // A task waits, and goes on by itself when a node gives back what it set aside.
    let (id, epoch) = (first.task.id, first.epoch);
    let waits = nodes[0].queue.wait_for_budget(id, epoch, "t", calls(40));
    waits.await.expect("held").expect("it waits for a person");
    pay(&nodes[1].queue, &second, "s", 10).await;
    let again = nodes[0].claim().await;
    assert_eq!(again.task.id, id);
    reserve(&nodes[0], &again, "t", 40).await.expect("it came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_grants_on_one_node_is_there() {
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), 10).await;
    let (first, second) = (lease(&nodes[0]).await, lease(&nodes[1]).await);
    reserve(&nodes[1], &second, "s", 10).await.expect("room");
    let (id, epoch) = (first.task.id, first.epoch);
    let waits = nodes[0].queue.wait_for_budget(id, epoch, "s", calls(5));
    let asked = waits.await.expect("held").expect("it waits");
    let yes = crate::queue::approval::Answer {
        approved: true,
        by: "me".to_owned(),
        ..Default::default()
    };
    nodes[0].queue.answer(asked, yes).await.expect("open");
    let again = nodes[0].claim().await;
    reserve(&nodes[0], &again, "s", 5).await.expect("granted");
    assert!(reserve(&nodes[0], &again, "t", 1).await.is_err(), "no more");
    let view = nodes[1].queue.budget(&tenant()).await.expect("set");
    assert_eq!((view.granted.calls, view.reserved.calls), (5, 15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_had_under_way_is_charged_once_and_the_rest_is_free() {
    let schema = Schema::create().await;
    let mut nodes = nodes(&schema, 2, Duration::from_secs(1), 100).await;
    let (other, dying) = (nodes.pop().expect("two"), nodes.pop().expect("two"));
    let lost = lease(&dying).await;
    reserve(&dying, &lost, "s", 30).await.expect("room");
    pay(&dying.queue, &lost, "s", 20).await;
    reserve(&dying, &lost, "t", 25).await.expect("room");
    dying.die().await;
    // Its heir has the task, and charges what may have happened.
    let again = other.claim().await;
    assert_eq!(again.task.id, lost.task.id);
    reserve(&other, &again, "u", 55)
        .await
        .expect("all that is left");
    assert_eq!(figures(&other).await, (45, 55));
    assert!(reserve(&other, &again, "v", 1).await.is_err());
    other.stop().await;
    // What lives that are gone have spent is one number after a while.
    let third = Node::start(&schema, "third", Duration::from_secs(1)).await;
    let once = async {
        while 0 < schema
            .number("SELECT count(*) FROM purse WHERE allowed LIKE '%\"calls\":1%'")
            .await
            || figures(&third).await != (100, 0)
            || 1 < schema.number("SELECT count(*) FROM charge").await
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("one number", once).await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_exchanges_that_fail_spend_nothing_twice() {
    const LIMIT: u64 = 60;
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), LIMIT).await;
    let mut working = JoinSet::new();
    for node in &nodes {
        for _ in 0..2 {
            node.submit().await;
            let queue = node.queue.clone();
            working.spawn(async move {
                let mut step = 0;
                'again: loop {
                    // A store that recovers refuses for a moment, and may take a lease back.
                    let short = ClaimRequest {
                        wait: Duration::from_millis(50),
                        ..asking()
                    };
                    let leases = queue.claim(&short).await.unwrap_or_default();
                    let Some(lease) = leases.into_iter().next() else {
                        continue;
                    };
                    let (id, epoch) = (lease.task.id, lease.epoch);
                    loop {
                        step += 1;
                        let key = format!("s{step}");
                        let reserved = queue.reserve(id, epoch, &key, calls(2), false).await;
                        match reserved {
                            Ok(()) => {}
                            Err(LeaseError::OverBudget(_)) => return,
                            Err(LeaseError::Store(_)) => {
                                tokio::task::yield_now().await;
                                continue;
                            }
                            Err(_) => continue 'again,
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        let given = queue.give_back(id, epoch, &key, calls(1)).await;
                        if given.is_err() {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            });
        }
    }
    let mut rounds = 0;
    while !working.is_empty() {
        let committed = schema.number(COMMITTED).await;
        assert!(committed <= LIMIT as i64, "{committed} of {LIMIT}");
        rounds += 1;
        if rounds % 8 == 0 {
            nodes[rounds / 8 % 2].store.cut_writer().await;
        }
        while let Some(done) = working.try_join_next() {
            done.expect("worked");
        }
    }
    let (spent, reserved) = figures(&nodes[0]).await;
    assert!(LIMIT - 2 < spent + reserved && spent + reserved <= LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_limit_is_heard_by_every_node() {
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), 100).await;
    let first = lease(&nodes[0]).await;
    reserve(&nodes[0], &first, "s", 1).await.expect("room");
    set(&nodes[1], 10).await;
    let heard = async {
        // What it was given before goes back.
        while 1 < schema
            .number("SELECT coalesce(max((allowed::json->>'calls')::bigint), 0) FROM purse")
            .await
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the node heard", heard).await;
    assert!(reserve(&nodes[0], &first, "t", 10).await.is_err());
    reserve(&nodes[0], &first, "t", 9).await.expect("room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_that_nodes_counted_by_themselves_become_one() {
    let schema = Schema::create().await;
    Node::steady(&schema, "first").await.stop().await;
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let now = Timestamp(schema.number(now).await.unsigned_abs());
    for node in ["a", "b"] {
        let today = Period::Day.start(now).0;
        let old = format!(
            "INSERT INTO budget VALUES ('on:{node}/tenant:default', '{{\"calls\":50}}', 'day', \
             {today}, '{{\"calls\":7}}', '{{}}')"
        );
        execute(&mut schema.connect().await, old).await;
    }
    let node = Node::steady(&schema, "a").await;
    let view = node.queue.budget(&tenant()).await.expect("known");
    assert_eq!((view.limits.calls, view.spent.calls), (Some(50), 14));
    let lease = lease(&node).await;
    reserve(&node, &lease, "s", 36).await.expect("the rest");
    assert!(reserve(&node, &lease, "t", 1).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_with_a_budget_and_a_gate_go_to_whoever_works() {
    const TASKS: u64 = 24;
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), TASKS).await;
    let mut rules = crate::queue::rules::Rules::default();
    rules.limits.insert("k".to_owned(), 3);
    let ruled = nodes[0]
        .queue
        .change_rules(|present| *present = rules)
        .await;
    ruled.expect("sound rules");
    // Nobody works where they are submitted: all of them wait at the gate there.
    for _ in 0..TASKS {
        let task = NewTask {
            terms: Some(Box::new(crate::queue::task::TaskTerms {
                concurrency_key: Some("k".to_owned()),
                ..Default::default()
            })),
            ..NewTask::new("a", Json::null())
        };
        nodes[0].queue.submit(task).await.expect("accepted");
    }
    let mut working = JoinSet::new();
    for worker in 0..4 {
        let queue = nodes[1].queue.clone();
        working.spawn(async move {
            for _ in 0..TASKS / 4 {
                let leases = soon("a lease", queue.claim(&asking())).await.expect("open");
                let lease = leases.into_iter().next().expect("one");
                let (id, epoch) = (lease.task.id, lease.epoch);
                let key = format!("s{worker}");
                let reserved = queue.reserve(id, epoch, &key, calls(1), false);
                reserved.await.expect("room for all of them");
                pay(&queue, &lease, &key, 1).await;
                let done = queue.complete(id, epoch, Json::null());
                done.await.expect("held");
            }
        });
    }
    while let Some(done) = working.join_next().await {
        done.expect("worked");
    }
    assert_eq!(figures(&nodes[0]).await, (TASKS, 0));
    let moved = nodes[1].queue.stats().counters.taken_in;
    assert_eq!(moved, TASKS, "each went once");
}

impl Node {
    /// A lease of a task of another kind.
    async fn claim_kind(&self, kind: &str) -> Lease {
        let request = ClaimRequest {
            kinds: vec![kind.to_owned()],
            ..asking()
        };
        let leases = self.queue.claim(&request).await.expect("open");
        leases.into_iter().next().expect("one became claimable")
    }

    /// Lets a task wait for a child of that kind, which has one attempt.
    async fn waits_for_child(&self, lease: &Lease, kind: &str) {
        let task = NewTask {
            max_attempts: Some(1),
            ..NewTask::new(kind, Json::null())
        };
        let child = NewChild {
            task,
            after: Vec::new(),
        };
        let waits = self.queue.suspend(lease.task.id, lease.epoch, vec![child]);
        waits.await.expect("held");
    }
}

fn short(refused: Result<(), LeaseError>) -> (Scope, u64) {
    match refused {
        Err(LeaseError::OverBudget(shortfall)) => {
            let short = &shortfall.short[0];
            (short.scope.clone(), short.spent)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_takes_its_own_budget_along_and_all_below_it_spends_where_that_is() {
    let schema = Schema::create().await;
    let nodes = nodes(&schema, 2, Duration::from_secs(600), 1_000).await;
    let budgeted = NewTask {
        terms: Some(Box::new(crate::queue::task::TaskTerms {
            budget: Some(limit(10)),
            ..Default::default()
        })),
        ..NewTask::new("a", Json::null())
    };
    let submitted = nodes[0].queue.submit(budgeted).await;
    let id = submitted.expect("accepted").id;
    let there = &nodes[1];
    let root = there.claim().await;
    assert_eq!(root.task.id, id, "nobody works where it was submitted");
    reserve(there, &root, "s", 6).await.expect("room");
    pay(&there.queue, &root, "s", 6).await;
    let over = reserve(there, &root, "t", 5).await;
    assert_eq!(short(over), (Scope::Task(id), 6));
    there.waits_for_child(&root, "b").await;
    let middle = there.claim_kind("b").await;
    there.waits_for_child(&middle, "c").await;
    let last = there.claim_kind("c").await;
    let failed = there
        .queue
        .fail(last.task.id, last.epoch, "no".to_owned(), false);
    failed.await.expect("held");
    let middle = there.claim_kind("b").await;
    let done = there
        .queue
        .complete(middle.task.id, middle.epoch, Json::null());
    done.await.expect("held");
    assert_eq!(there.claim().await.task.id, id, "the root lives");
    // Asked for anywhere, it comes back where its tree's budget is.
    let again = nodes[0].queue.retry(last.task.id).await;
    again.expect("carried out by the other node");
    let again = there.claim_kind("c").await;
    let over = reserve(there, &again, "u", 5).await;
    assert_eq!(short(over), (Scope::Task(id), 6));
    assert_eq!(there.queue.stats().counters.taken_in, 1);
}
