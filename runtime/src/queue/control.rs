//! The queue's switches and limits: what an operator can turn, and what is refused.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backlog::Slack;
use super::fairness::Fairness;
use super::retry::RetryBackoff;
use super::rules::Rules;

/// What an operator can turn while the node runs. Durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// No lease is given; submissions are accepted.
    pub paused: bool,
    /// Submissions are refused; what is there is finished.
    pub draining: bool,
    /// Tasks that may wait at once; `None` follows the configuration.
    pub max_size: Option<u64>,
    /// How tasks share workers, and what else limits them.
    #[serde(default)]
    pub rules: Rules,
    /// Counts the changes, where several nodes follow these switches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) version: u64,
}

fn is_zero(version: &u64) -> bool {
    *version == 0
}

/// Limits that the configuration sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Tasks that may live without executing; one more is refused. Higher hides a slow
    /// worker for longer, lower refuses bursts.
    pub max_size: u64,
    /// Tasks that may be leased at once; further claims find nothing until some end.
    /// Higher costs memory, lower may keep workers waiting.
    pub leased_max: u64,
    /// Bytes of payloads and other texts of tasks that may live, leased ones included;
    /// bounds the node's memory.
    pub max_bytes: u64,
    /// Largest payload that may be submitted.
    pub payload_bytes_max: usize,
    /// Largest result, step output, or payload of a child.
    pub result_bytes_max: usize,
    /// Failed attempts until a task is discarded, unless it says otherwise.
    pub max_attempts: u32,
    /// Lost leases until a task is discarded: it probably kills whoever runs it.
    pub losses_max: u32,
    /// Lines that a task's log may have, one of them for each step. A task that has them all
    /// records no further step, and is given up when it would go on after its lease.
    pub log_lines_max: u64,
    /// Longest lease that a worker may ask for.
    pub lease_max: Duration,
    /// Pause between attempts.
    pub backoff: RetryBackoff,
    /// How long each lane may be overtaken.
    pub slack: Slack,
    /// How long ended tasks are kept.
    pub retention: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            max_size: 100_000,
            leased_max: 100_000,
            max_bytes: 512 << 20,
            payload_bytes_max: 1 << 20,
            result_bytes_max: 32 << 20,
            max_attempts: 5,
            losses_max: 25,
            log_lines_max: 100_000,
            lease_max: Duration::from_secs(3600),
            backoff: RetryBackoff::default(),
            slack: Slack::default(),
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// How the queue stands.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueStats {
    /// Live tasks that do not execute: what `max_size` bounds.
    pub size: u64,
    /// How many of them there may be.
    pub max_size: u64,
    /// Bytes of payloads and other texts of all live tasks.
    pub bytes: u64,
    /// No lease is given.
    pub paused: bool,
    /// Submissions are refused.
    pub draining: bool,
    /// Live tasks by state.
    pub states: std::collections::BTreeMap<&'static str, u64>,
    /// Claimable tasks by lane.
    pub lanes: std::collections::BTreeMap<&'static str, u64>,
    /// Available tasks that wait at a gate: a concurrency limit, a rate or a resource.
    pub parked: u64,
    /// Claimable tasks by kind.
    pub kinds: std::collections::BTreeMap<String, u64>,
    /// Since the node started.
    pub counters: Counters,
    /// Served shares against weights, of late.
    pub fairness: Fairness,
}

impl QueueStats {
    /// Share of `max_size` in use; 1 when nothing may wait.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        if self.max_size == 0 {
            1.0
        } else {
            self.size as f64 / self.max_size as f64
        }
    }
}

/// Counts since the node started.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counters {
    /// Tasks accepted.
    pub accepted: u64,
    /// Submissions answered with the task of an earlier one.
    pub repeated: u64,
    /// Submissions refused.
    pub refused: u64,
    /// Leases given.
    pub leased: u64,
    /// Leases lost to a crash, a hang or expiry.
    pub leases_lost: u64,
    /// Tasks completed.
    pub completed: u64,
    /// Attempts failed.
    pub failed: u64,
    /// Tasks discarded.
    pub discarded: u64,
    /// Tasks cancelled.
    pub cancelled: u64,
    /// Steps recorded.
    pub steps: u64,
    /// Effects refused because their epoch was stale.
    pub stale_refused: u64,
    /// Tasks handed over to other nodes of the same database.
    pub handed_over: u64,
    /// Tasks taken in from them.
    pub taken_in: u64,
}
