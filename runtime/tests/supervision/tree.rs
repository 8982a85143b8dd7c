//! The live tree, its probes and its changes.

use std::time::Duration;

use regrow_runtime::mailbox::ProbeError;
use regrow_runtime::supervision::{
    Backoff, Change, ChildKind, ChildSpec, ExitReason, NodeState, Restart, Strategy, SupervisorSpec,
};

use crate::probe_actor::{Journal, Order, SOON, Stage, Subject};

fn supervisor(name: &str) -> SupervisorSpec {
    SupervisorSpec::new(name, Strategy::OneForOne)
        .intensity(10, Duration::from_secs(5))
        .backoff(Backoff::OFF)
}

#[tokio::test]
async fn the_tree_shows_lives_restarts_and_last_exits() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let inner = supervisor("inner").child(one.spec().role("subject"));
    let mut stage = Stage::open(supervisor("root").child(inner.into_child())).await;
    let tree = stage.root.tree();
    one.tell(Order::Fail);
    stage.until_restarted("one").await;
    let pid = one.ping().await;
    let seen = tree.find("root/inner/one").expect("one is in the tree");
    assert_eq!(
        (seen.state, seen.generation, seen.restarts),
        (NodeState::Running, 2, 1)
    );
    assert_eq!((seen.role.as_ref(), seen.pid), ("subject", Some(pid)));
    let last_exit = seen.last_exit.expect("it has crashed once");
    assert_eq!(last_exit.reason, ExitReason::Error("bad input".into()));
    let json = serde_json::to_value(tree.snapshot()).expect("a tree is JSON");
    assert_eq!(json["id"], "root");
    assert_eq!(json["children"][0]["path"], "root/inner");
    assert_eq!(json["children"][0]["children"][0]["state"], "running");
    assert_eq!(
        json["children"][0]["children"][0]["last_exit"]["reason"]["kind"],
        "error"
    );
    assert_eq!(tree.find("root/inner/two"), None);
    assert_eq!(tree.find("elsewhere/inner"), None);
}

#[tokio::test(start_paused = true)]
async fn a_probe_follows_its_child_through_restarts_and_tells_a_hung_one() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let inner = supervisor("inner").child(one.spec());
    let handle = inner.handle();
    let mut stage = Stage::open(supervisor("root").child(inner.into_child())).await;
    let probes = stage.root.tree().probes();
    let paths: Vec<&str> = probes.iter().map(|probe| probe.path()).collect();
    assert_eq!(paths, ["root/inner", "root/inner/one"]);
    let (inner, probe) = (&probes[0], &probes[1]);
    assert_eq!(inner.kind(), ChildKind::Supervisor);
    probe.probe(SOON).await.expect("one answers");
    inner.probe(SOON).await.expect("so does its supervisor");
    one.hang().await;
    assert_eq!(probe.probe(SOON).await, Err(ProbeError::TimedOut(SOON)));
    assert_eq!(probe.generation(), 1);
    handle.kill_child("one").await.expect("one runs");
    stage.until_restarted("one").await;
    assert_eq!(probe.generation(), 2);
    probe.probe(SOON).await.expect("the new life answers");
    handle.terminate_child("one").await.expect("one runs");
    assert_eq!(probe.probe(SOON).await, Err(ProbeError::NotRunning));
}

#[tokio::test]
async fn a_supervised_task_ends_in_order_crashes_and_panics() {
    let (crash, crashes) = tokio::sync::watch::channel("");
    let task = ChildSpec::task("pump", move |stop| {
        let mut crashes = crashes.clone();
        crashes.mark_unchanged();
        async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                changed = crashes.changed() => {
                    changed?;
                    let order = *crashes.borrow();
                    match order {
                        "fail" => Err(std::io::Error::other("connection lost").into()),
                        "panic" => panic!("lost its head"),
                        _ => Ok(()),
                    }
                }
            }
        }
    });
    let spec = supervisor("root").child(task.restart(Restart::Transient));
    let mut stage = Stage::open(spec).await;
    crash.send("fail").expect("the task listens");
    let reason = ExitReason::Error("connection lost".into());
    assert_eq!(stage.until_exited("pump").await, reason);
    stage.until_restarted("pump").await;
    let probe = stage
        .root
        .tree()
        .probe("root/pump")
        .expect("it is in the tree");
    probe.probe(SOON).await.expect("a task that runs is alive");
    let exit = stage.shut_down().await;
    assert_eq!(
        exit.tree.children[0]
            .last_exit
            .as_ref()
            .map(|exit| exit.reason.kind()),
        Some("shutdown")
    );
}

#[tokio::test]
async fn changes_name_supervisor_child_role_and_recovery() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let mut stage = Stage::open(supervisor("root").child(one.spec().role("subject"))).await;
    one.tell(Order::Panic);
    let exited = stage
        .until(|seen| matches!(seen.change, Change::Exited { .. }))
        .await;
    assert_eq!(
        (&*exited.supervisor, exited.child.as_str()),
        ("root", "one")
    );
    assert_eq!(exited.role, "subject");
    let restarted = stage.until_restarted("one").await;
    let json = serde_json::to_value(&restarted).expect("a change is JSON");
    assert_eq!(json["change"], "restarted");
    assert_eq!(json["reason"]["detail"], "boom");
    assert!(json["recovery_us"].is_u64());
}
