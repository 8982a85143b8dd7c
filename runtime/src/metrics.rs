//! Metric names, each with its unit and what to do when it rises.
//!
//! Labels are roles, states, lanes and causes; never ids.

/// Tasks accepted, by `lane` (count).
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
/// Live tasks that do not execute (gauge): what `regrow_queue_max_size` bounds.
pub const QUEUE_SIZE: &str = "regrow_queue_size";
/// How many of them there may be (gauge).
pub const QUEUE_MAX_SIZE: &str = "regrow_queue_max_size";
/// Payloads and other texts of all live tasks (gauge, bytes).
pub const QUEUE_BYTES: &str = "regrow_queue_bytes";
/// 1 while no lease is given because somebody paused the queue, else 0 (gauge).
pub const QUEUE_PAUSED: &str = "regrow_queue_paused";
/// 1 while submissions are refused because the queue drains, else 0 (gauge).
pub const QUEUE_DRAINING: &str = "regrow_queue_draining";
/// From a task becoming claimable to its lease, by `lane` (histogram, seconds). Rising: workers
/// are too few or stuck.
pub const QUEUE_WAIT_SECONDS: &str = "regrow_queue_wait_seconds";
/// From a task's acceptance to its end, by `state` (histogram, seconds).
pub const TASK_SECONDS: &str = "regrow_task_seconds";
/// How long a lease was held, by the state that the task entered `then` (histogram, seconds).
/// `retryable` and `discarded` rising: work fails. `available`: it was handed back, or lost.
pub const ATTEMPT_SECONDS: &str = "regrow_attempt_seconds";
/// How long recorded steps took (histogram, seconds).
pub const STEP_SECONDS: &str = "regrow_step_seconds";
/// What steps were charged for, by `unit`: tokens, micros (millionths of the currency), calls or
/// millis (count).
pub const BUDGET_SPENT: &str = "regrow_budget_spent_total";
/// Part of the fullest budget that is spent, by `scope` (node, tenant or task) and `unit` (gauge,
/// 0 to 1). Above 0.9: tasks will soon wait for a person.
pub const BUDGET_USED: &str = "regrow_budget_used_ratio";
/// Tasks handed over to other nodes of the database (count).
pub const TASKS_HANDED_OVER: &str = "regrow_tasks_handed_over_total";
/// Tasks taken in from other nodes of the database (count).
pub const TASKS_TAKEN_IN: &str = "regrow_tasks_taken_in_total";
/// Leases given, by `lane` (count).
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
/// What health found out about agents, by `role` and `verdict` (count). `convicted` rising:
/// agents hang. `stalled`: they answer, but their work stands still.
pub const VERDICTS: &str = "regrow_health_verdicts_total";
/// Messages that wait in mailboxes, by `role` (gauge).
pub const MAILBOX_DEPTH: &str = "regrow_mailbox_depth";
/// Those in the fullest mailbox of a `role` (gauge). Rising: an agent is too slow, or hangs.
pub const MAILBOX_DEPTH_MAX: &str = "regrow_mailbox_depth_max";
/// Placed agents that run on this node (gauge).
pub const PLACED: &str = "regrow_placed_agents";
/// Placed agents that this node took in: new ones, and those that ran elsewhere (count).
pub const PLACED_STARTED: &str = "regrow_placed_agents_started_total";
/// From the decision that an agent belongs here until it runs (histogram, seconds).
pub const PLACED_START_SECONDS: &str = "regrow_placed_agent_start_seconds";
/// Placed agents that this node gave an owner: itself or another node (count).
pub const PLACED_ASSIGNED: &str = "regrow_placed_agents_assigned_total";
/// Placed agents that run here although the registry names another owner (gauge). Above zero for
/// longer than a few seconds: two nodes run the same agent; the store refuses what the former
/// owner writes.
pub const PLACED_NOT_OWNED: &str = "regrow_placed_agents_not_owned";
/// Troubles that this node saw other nodes in, by `trouble` (count). Rising: look at that node.
pub const NODE_TROUBLES: &str = "regrow_node_troubles_total";
/// Nodes that are kept out (gauge). Any: `regrow cluster nodes` says why, and for how long.
pub const NODES_QUARANTINED: &str = "regrow_nodes_quarantined";
/// How late the event loop comes to what is due (histogram, seconds). Rising: something blocks
/// it, or the processors are overbooked.
pub const LOOP_LAG_SECONDS: &str = "regrow_event_loop_lag_seconds";
/// Spans for the receiver of traces, by `outcome` (count): `made`, then `sent` or `failed`. What was
/// made and is neither waits, or was dropped because too much waited.
pub const SPANS: &str = "regrow_telemetry_spans_total";
/// Log lines for the receiver of logs, in the same way (count).
pub const LOG_LINES: &str = "regrow_telemetry_log_lines_total";
/// Events that a slow subscriber missed (count).
pub const EVENTS_DROPPED: &str = "regrow_events_dropped_total";
