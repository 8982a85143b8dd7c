//! Agents whose owners live on several nodes.

use super::*;
use crate::ids::AgentId;
use crate::registry::{AgentChange, Change, Changed, Life};
use crate::store::conformance::json;

fn give(revision: Option<u64>, to: Life) -> AgentChange {
    AgentChange {
        id: AgentId::new("scout"),
        revision,
        change: Change::Give {
            to: Some(to),
            entry: Json::null(),
            decision: None,
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_lives_is_replaced_by_nobody_but_himself() {
    let schema = Schema::create().await;
    let owner = Node::steady(&schema, "owner").await;
    let other = Node::steady(&schema, "other").await;
    let (a, b) = (owner.queue.registry(), other.queue.registry());
    let (a_life, b_life) = (a.life().expect("alive"), b.life().expect("alive"));
    let made = a.change(&give(None, a_life)).await.expect("open");
    assert!(matches!(made, Changed::Done { revision: 1, .. }));

    let mut heard = b.hearing();
    heard.next().await;
    let stolen = b.change(&give(Some(1), b_life)).await.expect("open");
    assert_eq!(stolen, Changed::Outdated);
    let remove = AgentChange {
        change: Change::Remove,
        ..give(Some(1), b_life)
    };
    assert_eq!(b.change(&remove).await.expect("open"), Changed::Outdated);
    // What is known of it may be changed by anybody: that is how a move is asked for.
    let keep = AgentChange {
        change: Change::Keep { entry: json("1") },
        ..give(Some(1), b_life)
    };
    let asked = b.change(&keep).await.expect("open");
    assert!(matches!(asked, Changed::Done { revision: 2, .. }));

    let given = a.change(&give(Some(2), b_life)).await.expect("open");
    assert!(matches!(given, Changed::Done { revision: 3, .. }));
    let standing = a.read().await.expect("readable");
    let row = &standing.agents[&AgentId::new("scout")];
    assert_eq!(row.owner, Some(b_life));
    assert_eq!(&*standing.lives[&b_life].node, "other");
    assert_eq!(
        a.change(&give(Some(3), a_life)).await.expect("open"),
        Changed::Outdated
    );

    schema
        .run("UPDATE life SET ended = true, heir = 1 WHERE boot = 2")
        .await;
    let fenced = b.change(&give(Some(3), b_life)).await;
    assert!(matches!(fenced, Err(StoreError::Superseded { .. })));
    let taken = a.change(&give(Some(3), a_life)).await.expect("open");
    assert!(matches!(taken, Changed::Done { revision: 4, .. }));
    for node in [owner, other] {
        node.stop().await;
    }
}
