//! Metric names, each with its unit and what to do when it rises.
//!
//! Labels are roles, states, lanes and causes; never ids.

/// Tasks accepted (count).
pub const TASKS_ACCEPTED: &str = "regrow_tasks_accepted_total";
/// Submissions refused, by `reason` (count). Rising: raise `queue.max_size` or add workers.
pub const TASKS_REFUSED: &str = "regrow_tasks_refused_total";
/// Tasks ended, by `state` (count). `discarded` rising: read the dead letters.
pub const TASKS_ENDED: &str = "regrow_tasks_ended_total";
/// Live tasks, by `state` (gauge).
pub const TASKS_LIVE: &str = "regrow_tasks_live";
/// Claimable tasks, by `lane` (gauge). Rising: workers are too few or stuck.
pub const QUEUE_DEPTH: &str = "regrow_queue_depth";
/// Available tasks that wait at a concurrency limit, a rate or a resource (gauge). Rising: see
/// `regrow queue rules` for the gate.
pub const QUEUE_PARKED: &str = "regrow_queue_parked";
/// Part of the leases of late, by `side` (class or tenant) and `name` (gauge, 0 to 1). The
/// first names seen have a label of their own, the rest are `other`.
pub const QUEUE_SHARE: &str = "regrow_queue_served_share";
/// Part that the weights give, beside `regrow_queue_served_share` (gauge, 0 to 1). Served far
/// below it while tasks wait: workers of its kinds are missing, or gates hold it back.
pub const QUEUE_FAIR_SHARE: &str = "regrow_queue_fair_share";
/// Share of `queue.max_size` in use (0 to 1). Above 0.75: submissions will soon be refused.
pub const QUEUE_UTILIZATION: &str = "regrow_queue_utilization";
/// Tasks handed over to other nodes of the database (count).
pub const TASKS_HANDED_OVER: &str = "regrow_tasks_handed_over_total";
/// Tasks taken in from other nodes of the database (count).
pub const TASKS_TAKEN_IN: &str = "regrow_tasks_taken_in_total";
/// Leases given (count).
pub const LEASES_GIVEN: &str = "regrow_leases_given_total";
/// Leases lost, by `cause` (count). Rising: agents crash or hang.
pub const LEASES_LOST: &str = "regrow_leases_lost_total";
/// Effects refused for a stale epoch (count). Rising: leases are too short for the work.
pub const STALE_REFUSED: &str = "regrow_stale_effects_refused_total";
/// Steps recorded (count).
pub const STEPS_RECORDED: &str = "regrow_steps_recorded_total";
/// Steps answered from the journal instead of being run again (count).
pub const STEPS_REPLAYED: &str = "regrow_steps_replayed_total";
/// Callers per commit (histogram). Around 1 under load: the disk is faster than the callers.
pub const STORE_BATCH: &str = "regrow_store_batch_callers";
/// Duration of a commit including its fsync (histogram, seconds).
pub const STORE_COMMIT_SECONDS: &str = "regrow_store_commit_seconds";
/// Failed commits (count). Any: look at the disk.
pub const STORE_FAILURES: &str = "regrow_store_failures_total";
/// Children restarted, by `role` and `reason` (count). Rising: read the exits in the tree.
pub const RESTARTS: &str = "regrow_restarts_total";
/// From a child's exit to its successor's start, by `role` (histogram, seconds).
pub const RESTART_SECONDS: &str = "regrow_restart_seconds";
/// Agents, by `role` and `state` (gauge).
pub const AGENTS: &str = "regrow_agents";
/// Tasks that may be worked on at once where that adapts, by `role` (gauge).
pub const CONCURRENCY_LIMIT: &str = "regrow_concurrency_limit";
/// Duration of a probe's answer, by `role` (histogram, seconds).
pub const PROBE_SECONDS: &str = "regrow_probe_seconds";
/// Remedies applied, by `role` and `remedy` (count).
pub const REMEDIES: &str = "regrow_remedies_total";
/// Troubles that this node saw other nodes in, by `trouble` (count). Rising: look at that node.
pub const NODE_TROUBLES: &str = "regrow_node_troubles_total";
/// Nodes that are kept out (gauge). Any: `regrow cluster nodes` says why, and for how long.
pub const NODES_QUARANTINED: &str = "regrow_nodes_quarantined";
/// How late the event loop comes to what is due (histogram, seconds). Rising: something blocks
/// it, or the processors are overbooked.
pub const LOOP_LAG_SECONDS: &str = "regrow_event_loop_lag_seconds";
/// Events that a slow subscriber missed (count).
pub const EVENTS_DROPPED: &str = "regrow_events_dropped_total";
