//! Takes messages that wait at this node to whoever owns their agents.
//!
//! Each is leased here, so that nobody else touches it; where it goes is a journaled step; only
//! then it is sent, under a key of its own, and completed here when it was taken. Killed in
//! between, the next courier reads where it went and sends it there again, where its key is
//! known. If that node is no owner by then, it passes the message on itself.

use std::collections::BTreeMap;
use std::time::Duration;

use regrow_runtime::agent_spec::addressed_kind;
use regrow_runtime::ids::AgentId;
use regrow_runtime::journal::Journal;
use regrow_runtime::json::Json;
use regrow_runtime::queue::ClaimRequest;
use regrow_runtime::queue::task::Lease;
use regrow_runtime::registry::Standing;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::{Answer, Departure, Letter, Mail, Question, TELL_DEADLINE};
use crate::member::NodeName;

/// How often is looked what waits here for agents elsewhere.
const PERIOD: Duration = Duration::from_millis(500);
/// Messages under way at once.
const AT_ONCE: usize = 64;
/// Pause for an agent of which messages are left that cannot go, or were begun here.
const LEFT_PAUSE: Duration = Duration::from_secs(10);
/// Longer than sending may take.
const LEASE: Duration = Duration::from_secs(60);
/// The step that says where a message goes.
const DESTINATION: &str = "moves to";

/// Looks and takes until it is dropped.
pub async fn run(mail: &Mail) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left: BTreeMap<AgentId, Instant> = BTreeMap::new();
    loop {
        tick.tick().await;
        let Ok(standing) = mail.agreed.read().await else {
            continue;
        };
        left.retain(|_, until| Instant::now() < *until);
        for (agent, owner) in elsewhere(mail, &standing) {
            if left.contains_key(&agent) {
                continue;
            }
            if !take(mail, &agent, &owner).await {
                left.insert(agent, Instant::now() + LEFT_PAUSE);
            }
        }
    }
}

/// Agents that another node owns which is heard.
fn elsewhere(mail: &Mail, standing: &Standing) -> Vec<(AgentId, NodeName)> {
    let me = mail.agreed.life();
    let rows = standing.agents.values();
    rows.filter_map(|row| {
        let owner = row.owner.filter(|owner| *owner != me)?;
        let node = standing.lives.get(&owner)?;
        (!node.left.is_zero()).then(|| (row.id.clone(), NodeName::from(&*node.node)))
    })
    .collect()
}

/// Takes what waits for one agent; returns whether to look again soon.
async fn take(mail: &Mail, agent: &AgentId, owner: &NodeName) -> bool {
    let request = ClaimRequest {
        worker: "courier".into(),
        kinds: vec![addressed_kind(agent)],
        max: AT_ONCE,
        wait: Duration::ZERO,
        lease: LEASE,
    };
    let Ok(leases) = mail.queue.claim(&request).await else {
        return true;
    };
    let mut go_on = true;
    for lease in leases {
        go_on &= take_one(mail, &lease, owner).await;
    }
    go_on
}

/// Takes one message; returns whether another look soon makes sense.
async fn take_one(mail: &Mail, lease: &Lease, owner: &NodeName) -> bool {
    let (id, epoch) = (lease.task.id, lease.epoch);
    let release = || async {
        // If it cannot be handed back, its lease runs out.
        if let Err(reason) = mail.queue.release(id, epoch).await {
            debug!(task = %id, %reason, "not handed back");
        }
    };
    let steps = mail.queue.steps_of(id, None, 2).await;
    let steps = match steps {
        Ok(steps) => steps.unwrap_or_default(),
        Err(_) => {
            release().await;
            return true;
        }
    };
    if steps.iter().any(|step| step.key != DESTINATION) {
        release().await;
        return false;
    }
    let journal = Journal::new(mail.queue.clone(), lease);
    let chosen = async { Ok::<_, std::convert::Infallible>(owner.to_string()) };
    let destination: String = match journal.step(DESTINATION, &(), chosen).await {
        Ok(destination) => destination,
        Err(reason) => {
            warn!(task = %id, %reason, "cannot write down where a message goes");
            release().await;
            return true;
        }
    };
    let question = Question::Move {
        letter: super::json(&Letter::moved(&lease.task)),
        from: id,
    };
    let destination = NodeName::from(destination.as_str());
    match mail.ask(&destination, &question, TELL_DEADLINE).await {
        Ok(Answer::Taken(taken)) => {
            info!(task = %id, to = %taken.node, r#as = %taken.id, "a message follows its agent");
            let moved = Departure {
                moved_to: taken.node,
                r#as: taken.id,
            };
            let moved = Json::of(&moved).unwrap_or_else(|_| Json::null());
            if let Err(reason) = mail.queue.complete(id, epoch, moved).await {
                // The next courier finds that it was taken.
                warn!(task = %id, %reason, "a message that was taken elsewhere is still here");
            }
            true
        }
        Ok(Answer::Refused { why, .. }) => {
            warn!(task = %id, to = %destination, why, "a message was not taken; it waits here");
            release().await;
            false
        }
        Ok(Answer::NotMine | Answer::Knows(_)) | Err(_) => {
            release().await;
            false
        }
    }
}
