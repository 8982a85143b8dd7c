//! What each metric means, and what to do when it rises.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use regrow_cluster::{discovery, exchange, gossip, transport};
use regrow_runtime::metrics as names;

use crate::{elsewhere, observe};

/// 1, with the program's `version` (gauge).
pub(super) const BUILD_INFO: &str = "regrow_build_info";

/// Counters without labels, and those of labels that are known: they are there from the start,
/// so that their first rise is seen as one.
const BEGUN: [&str; 9] = [
    names::TASKS_HANDED_OVER,
    names::TASKS_TAKEN_IN,
    names::STALE_REFUSED,
    names::STEPS_RECORDED,
    names::STEPS_REPLAYED,
    names::STORE_FAILURES,
    names::EVENTS_DROPPED,
    names::PLACED_STARTED,
    names::PLACED_ASSIGNED,
];

/// Lets what rarely happens be seen before it happens.
pub(super) fn begin() {
    for name in BEGUN {
        metrics::counter!(name).absolute(0);
    }
    metrics::counter!(observe::WRONG_TOKENS).absolute(0);
    for cause in ["expired", "holder_died", "node_ended", "superseded"] {
        metrics::counter!(names::LEASES_LOST, "cause" => cause).absolute(0);
    }
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

type Described = (&'static str, Unit, &'static str);

pub(super) fn describe() {
    for (name, unit, help) in COUNTERS {
        describe_counter!(name, unit, help);
    }
    for (name, unit, help) in GAUGES {
        describe_gauge!(name, unit, help);
    }
    for (name, unit, help) in HISTOGRAMS {
        describe_histogram!(name, unit, help);
    }
}

const COUNTERS: [Described; 32] = [
    (
        names::SPANS,
        Unit::Count,
        "Spans for the receiver of traces, by outcome: made, then sent or failed. failed rising: it is away.",
    ),
    (
        names::LOG_LINES,
        Unit::Count,
        "Log lines for the receiver of logs, by outcome: made, then sent or failed. failed rising: it is away.",
    ),
    (
        names::TASKS_ACCEPTED,
        Unit::Count,
        "Tasks accepted, by lane.",
    ),
    (
        names::TASKS_REFUSED,
        Unit::Count,
        "Submissions refused, by reason. Rising: raise queue.max_size or add workers.",
    ),
    (
        names::TASKS_ENDED,
        Unit::Count,
        "Tasks ended, by state. Discarded rising: read the dead letters.",
    ),
    (names::LEASES_GIVEN, Unit::Count, "Leases given, by lane."),
    (
        names::LEASES_LOST,
        Unit::Count,
        "Leases lost, by cause. Rising: agents crash or hang.",
    ),
    (
        names::STALE_REFUSED,
        Unit::Count,
        "Effects refused for a stale epoch. Rising: leases are too short for the work.",
    ),
    (names::STEPS_RECORDED, Unit::Count, "Steps recorded."),
    (
        names::STEPS_REPLAYED,
        Unit::Count,
        "Steps answered from the journal instead of being run again.",
    ),
    (
        names::STORE_FAILURES,
        Unit::Count,
        "Failed commits. Any: look at the disk.",
    ),
    (
        names::RESTARTS,
        Unit::Count,
        "Children restarted, by role and reason. Rising: read the exits in the tree.",
    ),
    (
        names::REMEDIES,
        Unit::Count,
        "Remedies applied, by role and remedy.",
    ),
    (
        names::EVENTS_DROPPED,
        Unit::Count,
        "Events that a slow subscriber missed.",
    ),
    (
        elsewhere::LEASES_BORROWED,
        Unit::Count,
        "Claims answered with leases of another node. Rising: tasks come in at other nodes than \
         those with workers.",
    ),
    (
        exchange::MESSAGES,
        Unit::Count,
        "Messages between nodes, by topic, kind (call or cast) and direction.",
    ),
    (
        exchange::BYTES,
        Unit::Count,
        "Bytes of messages between nodes, answers not included, by topic and direction.",
    ),
    (
        exchange::NOT_SENT,
        Unit::Count,
        "Messages to other nodes that were refused, by topic and reason. full rising: a peer is frozen or too slow.",
    ),
    (
        exchange::DROPPED,
        Unit::Count,
        "Messages of other nodes that led to nothing, by topic and reason. overflow rising: a part of this node is behind.",
    ),
    (
        transport::TURNED_AWAY,
        Unit::Count,
        "Connections of other nodes turned away, by reason. key or certificate rising: somebody has others.",
    ),
    (
        observe::REQUESTS,
        Unit::Count,
        "HTTP requests answered, by route, method and status.",
    ),
    (
        observe::WRONG_TOKENS,
        Unit::Count,
        "Requests with a token that nobody was given; the log says from where.",
    ),
    (
        names::TASKS_HANDED_OVER,
        Unit::Count,
        "Tasks handed over to other nodes of the database.",
    ),
    (
        names::TASKS_TAKEN_IN,
        Unit::Count,
        "Tasks taken in from other nodes of the database.",
    ),
    (
        names::BUDGET_SPENT,
        Unit::Count,
        "What steps were charged for, by unit: tokens, micros (millionths of the currency), calls or millis.",
    ),
    (
        names::VERDICTS,
        Unit::Count,
        "What health found out about agents, by role and verdict. convicted rising: agents hang.",
    ),
    (
        names::PLACED_STARTED,
        Unit::Count,
        "Placed agents that this node took in: new ones, and those that ran elsewhere.",
    ),
    (
        names::PLACED_ASSIGNED,
        Unit::Count,
        "Placed agents that this node gave an owner: itself or another node.",
    ),
    (
        names::NODE_TROUBLES,
        Unit::Count,
        "Troubles that this node saw other nodes in, by trouble. Rising: look at that node.",
    ),
    (
        discovery::NAMES_ASKED,
        Unit::Count,
        "Names asked for, by outcome. failed rising: the name servers do not answer.",
    ),
    (
        gossip::DATAGRAMS_DROPPED,
        Unit::Count,
        "Datagrams of gossip dropped, by reason. unauthentic rising: somebody has another secret.",
    ),
    (
        gossip::DATAGRAMS_UNDER_ACCEPTED,
        Unit::Count,
        "Datagrams of gossip made with the accepted secret. Rising: not all nodes have changed it yet.",
    ),
];

const GAUGES: [Described; 25] = [
    (names::TASKS_LIVE, Unit::Count, "Live tasks, by state."),
    (
        names::QUEUE_DEPTH,
        Unit::Count,
        "Claimable tasks, by lane. Rising: workers are too few or stuck.",
    ),
    (
        names::QUEUE_UTILIZATION,
        Unit::Count,
        "Share of queue.max_size in use, 0 to 1. Above 0.75: refusals are near.",
    ),
    (
        names::QUEUE_PARKED,
        Unit::Count,
        "Available tasks that wait at a limit, a rate or a resource. Rising: see the gates.",
    ),
    (
        names::QUEUE_SHARE,
        Unit::Count,
        "Part of the leases of late, 0 to 1, by side (class or tenant) and name.",
    ),
    (
        names::QUEUE_FAIR_SHARE,
        Unit::Count,
        "Part that the weights give, 0 to 1, by side (class or tenant) and name.",
    ),
    (names::AGENTS, Unit::Count, "Agents, by role and state."),
    (
        exchange::SESSIONS,
        Unit::Count,
        "Sessions with other nodes, by state. Fewer ready than nodes are up: see regrow cluster nodes.",
    ),
    (
        transport::OUTBOX_MESSAGES,
        Unit::Count,
        "Messages that wait for other nodes. Rising: a peer is frozen or too slow.",
    ),
    (
        transport::OUTBOX_BYTES,
        Unit::Bytes,
        "Weight of the messages that wait for other nodes.",
    ),
    (observe::CONNECTIONS, Unit::Count, "Open HTTP connections."),
    (
        names::QUEUE_SIZE,
        Unit::Count,
        "Live tasks that do not execute.",
    ),
    (
        names::QUEUE_MAX_SIZE,
        Unit::Count,
        "How many live tasks there may be that do not execute.",
    ),
    (
        names::QUEUE_BYTES,
        Unit::Bytes,
        "Payloads and other texts of all live tasks, in bytes.",
    ),
    (
        names::QUEUE_PAUSED,
        Unit::Count,
        "1 while no lease is given because the queue is paused.",
    ),
    (
        names::QUEUE_DRAINING,
        Unit::Count,
        "1 while submissions are refused because the queue drains.",
    ),
    (
        names::BUDGET_USED,
        Unit::Count,
        "Part of the fullest budget that is spent, 0 to 1, by scope (node, tenant or task) and unit.",
    ),
    (
        names::MAILBOX_DEPTH,
        Unit::Count,
        "Messages that wait in mailboxes, by role.",
    ),
    (
        names::MAILBOX_DEPTH_MAX,
        Unit::Count,
        "Messages in the fullest mailbox, by role. Rising: an agent is too slow, or hangs.",
    ),
    (
        names::PLACED,
        Unit::Count,
        "Placed agents that run on this node.",
    ),
    (
        names::PLACED_NOT_OWNED,
        Unit::Count,
        "Placed agents that run here although another node owns them. Any for longer than seconds: two run.",
    ),
    (
        names::NODES_QUARANTINED,
        Unit::Count,
        "Nodes that are kept out. Any: see regrow cluster nodes.",
    ),
    (
        names::CONCURRENCY_LIMIT,
        Unit::Count,
        "Tasks that may be worked on at once where that adapts, by role.",
    ),
    (
        gossip::PEERS,
        Unit::Count,
        "Other nodes as this one sees them, by status. down: a node died without leaving, or is cut off.",
    ),
    (
        BUILD_INFO,
        Unit::Count,
        "1, with the version of the program as a label.",
    ),
];

const HISTOGRAMS: [Described; 11] = [
    (
        names::STORE_BATCH,
        Unit::Count,
        "Callers per commit. Around 1 under load: the disk is faster than the callers.",
    ),
    (
        names::STORE_COMMIT_SECONDS,
        Unit::Seconds,
        "Duration of a commit including its fsync, in seconds.",
    ),
    (
        names::RESTART_SECONDS,
        Unit::Seconds,
        "From a child's exit to its successor's start, by role, in seconds.",
    ),
    (
        names::PROBE_SECONDS,
        Unit::Seconds,
        "Duration of a probe's answer, by role, in seconds.",
    ),
    (
        observe::REQUEST_SECONDS,
        Unit::Seconds,
        "From a request's headers to its answer's, by route, in seconds.",
    ),
    (
        names::QUEUE_WAIT_SECONDS,
        Unit::Seconds,
        "From a task becoming claimable to its lease, by lane, in seconds. Rising: workers are too few.",
    ),
    (
        names::TASK_SECONDS,
        Unit::Seconds,
        "From a task's acceptance to its end, by state, in seconds.",
    ),
    (
        names::ATTEMPT_SECONDS,
        Unit::Seconds,
        "How long a lease was held, by the state that the task entered then, in seconds.",
    ),
    (
        names::STEP_SECONDS,
        Unit::Seconds,
        "How long recorded steps took, in seconds.",
    ),
    (
        names::PLACED_START_SECONDS,
        Unit::Seconds,
        "From the decision that an agent belongs here until it runs, in seconds.",
    ),
    (
        names::LOOP_LAG_SECONDS,
        Unit::Seconds,
        "How late the event loop comes to what is due, in seconds. Rising: something blocks it.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Names of metrics in sources: `pub const NAME: &str = "regrow_…";`.
    fn named_in(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                named_in(&path, names);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                for line in text.lines().filter(|line| line.contains("const ")) {
                    let text = line.split_once(": &str = \"regrow_").map(|(_, rest)| rest);
                    let name = text.and_then(|rest| rest.split('"').next());
                    // Tokens begin in the same way, and go on otherwise.
                    if let Some(name) = name.filter(|name| !name.is_empty() && name.is_ascii()) {
                        names.insert(format!("regrow_{name}"));
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_of_every_crate_is_described_once() {
        let all = [&COUNTERS[..], &GAUGES, &HISTOGRAMS].concat();
        let described: BTreeSet<String> = all.iter().map(|one| one.0.to_owned()).collect();
        assert_eq!(described.len(), all.len(), "one is described twice");
        let mut named = BTreeSet::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for sources in [
            "runtime/src",
            "cluster/src",
            "http/src",
            "actors/src",
            "src",
        ] {
            named_in(&root.join(sources), &mut named);
        }
        assert!(40 < named.len(), "only {} were found", named.len());
        assert_eq!(named, described);
    }

    #[test]
    fn names_say_their_units() {
        for (name, _, help) in COUNTERS {
            assert!(name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
        for (name, unit, _) in HISTOGRAMS {
            let is_timed = unit == Unit::Seconds;
            assert_eq!(name.ends_with("_seconds"), is_timed, "{name}");
        }
        for (name, unit, _) in GAUGES {
            let weighs = unit == Unit::Bytes;
            assert_eq!(name.ends_with("_bytes"), weighs, "{name}");
        }
    }
}
