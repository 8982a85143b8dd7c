//! Nodes whose couriers, agents and networks fail at random; counted is what was done.

mod world;

use std::collections::BTreeSet;

use regrow_runtime::agent_spec::addressed_kind;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::journal::Journal;
use regrow_runtime::queue::explain::Cause;
use regrow_runtime::queue::task::{TaskEventKind, TaskState};

use self::world::{Agent, World, message};

/// Lines that a task may have beside those of its hops: submitted, leased, lost, ended.
const LINES: u64 = 12;
/// Lines for each hop: to where, taken as what, and available again.
const LINES_PER_HOP: u64 = 3;

#[tokio::test]
async fn every_message_is_done_once_and_whoever_waits_hears_its_end_whatever_crashes() {
    let given = std::env::var("REGROW_TEST_SEED").ok();
    let seeds: Vec<u64> = match given.and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..60).map(|_| rand::random()).collect(),
    };
    let (mut hops, mut crashes, mut back) = (0, 0, 0);
    for seed in seeds {
        println!("REGROW_TEST_SEED={seed}");
        let mut world = World::new(seed, 3 + (seed % 2) as usize).await;
        for _ in 0..400 {
            world.anything().await;
        }
        world.heal().await;
        for (told, ended, lines, ways) in world.accounts().await {
            let why = format!("seed {seed}, {told}: {ended:?}");
            assert_eq!(ended.state, TaskState::Completed, "{why}");
            let result = ended.result.expect("it completed");
            assert_eq!(result, message(told).payload, "{why}");
            assert_eq!(world.done(told), 1, "{why}");
            let most = LINES + LINES_PER_HOP * ways + world.disturbed(told);
            assert!(lines <= most, "{why}: {lines} lines, at most {most}");
        }
        hops += world.hops;
        crashes += world.crashes;
        back += world.back();
    }
    println!("{hops} hops, {back} of them back, {crashes} crashes");
    assert!(0 < hops && 0 < crashes, "nothing happened");
}

#[tokio::test]
async fn a_message_that_follows_its_agent_over_three_nodes_and_back_is_done_once() {
    for key in [None, Some("a key")] {
        let mut world = World::new(1, 3).await;
        // B, C, B, A, C, B: the message goes along each time, and nobody does it meanwhile.
        world.owner = Some(1);
        let told = world.tell(key).await;
        for to in [2, 1, 0, 2, 1] {
            world.owner = Some(to);
            world.until_carried().await;
        }
        assert_eq!(world.copies(told).await, 3, "one task for each node");
        world.heal().await;
        let accounts = world.accounts().await;
        let (_, ended, ..) = &accounts[0];
        assert_eq!(ended.state, TaskState::Completed);
        assert_eq!(world.done(told), 1);
    }
}

#[tokio::test]
async fn what_was_sent_is_not_claimed_by_its_agent_that_is_back() {
    let mut world = World::new(1, 2).await;
    world.owner = Some(0);
    let told = world.tell(None).await;
    world.owner = Some(1);
    // The other node takes it; this one hears nothing of that.
    world.network.lose_answers = true;
    world.courier(0).await;
    assert_eq!(world.copies(told).await, 2);
    world.owner = Some(0);
    for crash in [false, true] {
        if crash {
            world.crash(0).await;
        }
        assert_eq!(world.work(0, Agent::Completes).await, 0, "it is not here");
    }
    world.network.lose_answers = false;
    world.heal().await;
    assert_eq!(world.done(told), 1);
}

#[tokio::test]
async fn what_cannot_be_carried_is_not_touched_and_its_log_does_not_grow() {
    let mut world = World::new(1, 2).await;
    world.owner = Some(0);
    let begun = world.tell(None).await;
    let queue = world.queue(0);
    let lease = world.claim(0).await.expect("it is there");
    let journal = Journal::new(queue.clone(), &lease);
    let step = async { Ok::<_, std::convert::Infallible>(1) };
    let _: u32 = journal.step("a step", &(), step).await.expect("recorded");
    queue
        .release(lease.task.id, lease.epoch)
        .await
        .expect("held");
    let waiting = world.tell(None).await;

    world.owner = Some(1);
    world.network.is_cut = true;
    let mut lines = Vec::new();
    for round in 0..200 {
        world.courier(0).await;
        if round % 100 == 0 {
            lines.push((world.lines(begun).await, world.lines(waiting).await));
        }
    }
    let now = (world.lines(begun).await, world.lines(waiting).await);
    assert_eq!(
        lines,
        [now, now],
        "nothing is written while nothing happens"
    );
    let why = queue.why(world.first(waiting)).await.expect("readable");
    let why = why.expect("known").here().expect("here").clone();
    let carried =
        matches!(&why.reasons[0].cause, Cause::Carried { node, task: None } if node == "b");
    assert!(carried, "{why:?}");

    world.network.is_cut = false;
    world.until_carried().await;
    assert_eq!(world.copies(begun).await, 1, "it was begun here");
    assert_eq!(world.copies(waiting).await, 2);
    world.owner = Some(0);
    world.heal().await;
    assert_eq!((world.done(begun), world.done(waiting)), (1, 1));
}

#[tokio::test]
async fn dependants_start_when_a_message_has_ended_and_not_when_it_leaves() {
    let mut world = World::new(1, 2).await;
    world.owner = Some(0);
    let told = world.tell(None).await;
    let mut after = message(99);
    after.kind = "other".to_owned();
    after.depends_on = vec![world.first(told)];
    let after = world.queue(0).submit(after).await.expect("taken").id;
    world.owner = Some(1);
    world.until_carried().await;
    let other = BTreeSet::from(["other".to_owned()]);
    assert_eq!(world.queue(0).idle(&other, 9), [], "it waits");
    assert_eq!(world.work(1, Agent::Completes).await, 1);
    world.courier(0).await;
    let idle = world.queue(0).idle(&other, 9);
    assert_eq!(idle, [(after, Epoch::NEVER)]);
}

#[tokio::test]
async fn a_message_is_called_off_where_it_is_and_can_be_retried_from_either_end() {
    let mut world = World::new(1, 2).await;
    world.owner = Some(0);
    for key in [None, Some("a key")] {
        let told = world.tell(key).await;
        let first = world.first(told);
        world.owner = Some(1);
        world.until_carried().await;
        let state = world.queue(0).cancel(first).await.expect("it lives");
        assert_eq!(state, TaskState::Waiting, "its node is asked");
        world.courier(0).await;
        world.courier(0).await;
        let ended = world.queue(0).task(first).await.expect("readable");
        assert_eq!(ended.expect("known").state(), TaskState::Cancelled);
        assert_eq!(world.work(1, Agent::Completes).await, 0, "there, too");

        // Retried where it was told, it goes there once more; where it was, it comes back.
        world.queue(0).retry(first).await.expect("it was cancelled");
        world.until_carried().await;
        let state = world.queue(0).task(first).await.expect("readable");
        assert_eq!(state.expect("known").state(), TaskState::Waiting);
        let (there, _) = world.queue(1).idle(&kinds(), 1)[0];
        world.queue(1).cancel(there).await.expect("it lives");
        world.queue(1).retry(there).await.expect("it was cancelled");
        world.owner = Some(0);
        world.until_carried().await;
        assert_eq!(
            world.work(0, Agent::Completes).await,
            1,
            "the one that was retried"
        );
        world.heal().await;
        assert_eq!(world.done(told), 1);
    }
}

#[tokio::test]
async fn a_message_of_which_its_node_lost_all_memory_is_not_done_again_by_itself() {
    let mut world = World::new(1, 2).await;
    world.owner = Some(0);
    let told = world.tell(None).await;
    world.owner = Some(1);
    world.until_carried().await;
    world.lose_disk(1).await;
    world.courier(0).await;
    let view = world
        .queue(0)
        .task(world.first(told))
        .await
        .expect("readable");
    let end = view.expect("known").end.expect("it ended");
    assert_eq!(end.state, TaskState::Discarded);
    let error = end.error.expect("why");
    assert!(
        error.contains("whether it was done cannot be told"),
        "{error}"
    );
    assert_eq!(world.work(1, Agent::Completes).await, 0);
}

#[tokio::test]
async fn a_message_that_leaves_says_so_in_its_log() {
    let mut world = World::new(1, 2).await;
    world.owner = Some(0);
    let told = world.tell(None).await;
    world.owner = Some(1);
    world.until_carried().await;
    let first = world.first(told);
    let log = world.queue(0).events(first, 0, 99).await.expect("readable");
    let carried = log
        .iter()
        .filter(|line| line.kind == TaskEventKind::Carried);
    let details: Vec<_> = carried.filter_map(|line| line.detail.as_deref()).collect();
    let (there, _) = world.queue(1).idle(&kinds(), 1)[0];
    let taken = format!("taken by b as {there}");
    assert_eq!(details, ["to b", &taken]);
}

fn kinds() -> BTreeSet<String> {
    BTreeSet::from([addressed_kind(&AgentId::new("scout"))])
}
