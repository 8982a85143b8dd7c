//! Why a task is not running yet, for people and for programs.

use std::fmt;

use serde::{Serialize, Serializer};

use super::approval::{ApprovalId, Holdup};
use super::gate::GateStanding;
use super::task::{Lane, TaskState};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;

/// Everything that keeps a task from running at this moment.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The task.
    pub id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// What keeps it; the first is the nearest. Empty when nothing but a worker's next
    /// request does.
    pub reasons: Vec<Reason>,
}

/// An explanation, by whom it could be given.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Explained {
    /// By this node.
    Here(Explanation),
    /// By the node that has the task: an [`Explanation`] as it wrote it down.
    There(Json),
}

impl Explained {
    /// This node's own explanation; `None` if another node gave it.
    #[must_use]
    pub fn here(&self) -> Option<&Explanation> {
        match self {
            Self::Here(explanation) => Some(explanation),
            Self::There(_) => None,
        }
    }
}

/// One reason, with its words.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    /// What it is, and its figures; its `code` is stable.
    #[serde(flatten)]
    pub cause: Cause,
    /// The same in a sentence.
    pub text: String,
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        let text = cause.to_string();
        Self { cause, text }
    }
}

/// What keeps a task from running.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Cause {
    /// It has ended.
    Ended {
        /// How.
        outcome: TaskState,
        /// Why, if it did not complete.
        error: Option<String>,
    },
    /// Another node that shares the database takes care of it.
    Elsewhere,
    /// Its submission is being written.
    Storing,
    /// A worker holds its lease: it runs.
    Leased {
        /// Who.
        worker: String,
        /// Until when, unless renewed.
        #[serde(serialize_with = "instant_option")]
        until: Option<Timestamp>,
        /// Under which epoch.
        epoch: Epoch,
        /// The worker was asked to stop.
        cancel_requested: bool,
    },
    /// The queue gives no leases.
    Paused,
    /// As many tasks are leased as may be at once.
    LeasesFull {
        /// How many.
        max: u64,
    },
    /// It runs later, as its submitter asked.
    Scheduled {
        /// When.
        #[serde(serialize_with = "instant")]
        run_at: Timestamp,
    },
    /// It failed, or lost its lease, and waits before the next attempt.
    Backoff {
        /// Until when.
        #[serde(serialize_with = "instant")]
        run_at: Timestamp,
        /// Failed attempts so far.
        attempt: u32,
        /// How many may fail.
        max_attempts: u32,
        /// Leases lost so far.
        losses: u32,
        /// The latest failure.
        last_error: Option<String>,
    },
    /// It waits for other tasks to complete.
    Dependency {
        /// Some of them.
        waits_for: Vec<Awaited>,
        /// How many there are.
        count: usize,
    },
    /// It waits for its children to end.
    Children {
        /// Some of them.
        waits_for: Vec<Awaited>,
        /// How many there are.
        count: usize,
    },
    /// It goes on on another node, to which it was carried.
    Carried {
        /// The node.
        node: String,
        /// As which task; `null` while it is on its way.
        task: Option<TaskId>,
    },
    /// It waits for a person's answer.
    Approval {
        /// The question's id, by which it is answered.
        approval: ApprovalId,
        /// What the answer decides: `start`, `ask` or `budget`.
        decides: &'static str,
        /// The question; for a budget with its scope and figures.
        question: String,
        /// Answers to choose from; plain yes or no when empty.
        options: Vec<String>,
        /// When it counts as denied.
        #[serde(serialize_with = "instant_option")]
        expires_at: Option<Timestamp>,
    },
    /// As many tasks of its concurrency key execute as may.
    ConcurrencyLimit {
        /// The key.
        key: String,
        /// How the gate stands.
        #[serde(flatten)]
        gate: GateStanding,
    },
    /// Tasks of its rate key start too fast.
    RateLimit {
        /// The key.
        key: String,
        /// How the gate stands.
        #[serde(flatten)]
        gate: GateStanding,
        /// When the next may start, were it this one's turn.
        #[serde(serialize_with = "instant_option")]
        opens_at: Option<Timestamp>,
    },
    /// A resource has too few free units.
    Resource {
        /// Its name.
        resource: String,
        /// Units it needs.
        needs: u64,
        /// How the gate stands.
        #[serde(flatten)]
        gate: GateStanding,
        /// When enough have come back, for those that come back with time.
        #[serde(serialize_with = "instant_option")]
        opens_at: Option<Timestamp>,
    },
    /// Its gate is open, but others of its kind and lane go first there.
    Turn {
        /// The gate, such as `resource/gpu`.
        gate: String,
        /// How many wait there.
        waiting: u64,
    },
    /// Others go before it.
    Position {
        /// Its lane.
        lane: Lane,
        /// Tasks of its class and tenant before it.
        ahead: usize,
        /// There are more before it than were counted.
        more: bool,
        /// Tasks of its kind in its lane, itself included.
        in_lane: usize,
        /// Classes that take turns in its lane.
        classes: usize,
        /// Tenants that take turns in its class.
        tenants: usize,
        /// Its class's part of the turns, by weight.
        class_share: f64,
        /// Its tenant's part of its class's turns, by weight.
        tenant_share: f64,
        /// Lanes of which a task is due earlier.
        lanes_before: Vec<Lane>,
    },
    /// Nobody has asked for tasks of its kind lately.
    NoWorker {
        /// The kind.
        kind: String,
        /// When somebody last did; `null` if not since the node started, or too long ago.
        #[serde(serialize_with = "instant_option")]
        asked_at: Option<Timestamp>,
    },
    /// It is discarded unless a worker starts it in time.
    Expires {
        /// When.
        #[serde(serialize_with = "instant")]
        at: Timestamp,
    },
}

/// A task that another one waits for.
#[derive(Clone, Debug, Serialize)]
pub struct Awaited {
    /// The task.
    pub id: TaskId,
    /// Where it stands.
    pub state: TaskState,
}

impl From<Holdup> for Cause {
    fn from(holdup: Holdup) -> Self {
        Self::Approval {
            approval: holdup.approval,
            decides: holdup.request.reason.as_str(),
            question: holdup.request.question.question,
            options: holdup.request.question.options,
            expires_at: holdup.expires_at,
        }
    }
}

fn instant<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn instant_option<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}

fn list(awaited: &[Awaited], count: usize) -> String {
    let mut words: Vec<String> = awaited
        .iter()
        .take(3)
        .map(|one| format!("{} ({})", one.id, one.state))
        .collect();
    if words.len() < count {
        words.push(format!("{} more", count - words.len()));
    }
    words.join(", ")
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { outcome, error } => match error {
                Some(error) => write!(f, "it was {outcome}: {error}"),
                None => write!(f, "it is {outcome}"),
            },
            Self::Elsewhere => f.write_str(
                "another node on this database takes care of it, and has not said why it waits",
            ),
            Self::Storing => f.write_str("its submission is being written to the store"),
            Self::Leased { worker, until, .. } => {
                write!(f, "it runs: {worker} holds its lease")?;
                until.map_or(Ok(()), |until| write!(f, " until {until}"))
            }
            Self::Paused => f.write_str("the queue is paused and gives no leases; resume it"),
            Self::LeasesFull { max } => write!(
                f,
                "{max} tasks are leased, which is `queue.leased_max`; one of them has to end"
            ),
            Self::Scheduled { run_at } => write!(f, "it is scheduled for {run_at}"),
            Self::Backoff {
                run_at,
                attempt,
                max_attempts,
                losses,
                last_error,
            } => {
                write!(f, "it is tried again at {run_at}, after {attempt} of ")?;
                write!(
                    f,
                    "{max_attempts} attempts failed and {losses} leases were lost"
                )?;
                let error = last_error.as_ref();
                error.map_or(Ok(()), |error| write!(f, "; the latest failure: {error}"))
            }
            Self::Dependency { waits_for, count } => {
                write!(f, "it depends on {}", list(waits_for, *count))
            }
            Self::Children { waits_for, count } => {
                write!(f, "it waits for its children {}", list(waits_for, *count))
            }
            Self::Carried { node, task } => match task {
                Some(task) => write!(f, "it goes on on {node} as task {task}"),
                None => write!(f, "it is on its way to {node}, which has not answered yet"),
            },
            Self::Approval {
                approval,
                decides: _,
                question,
                options,
                expires_at,
            } => {
                write!(f, "it waits for a person's answer: {question}")?;
                if !options.is_empty() {
                    write!(f, " [{}]", options.join(" | "))?;
                }
                let choice = if options.is_empty() {
                    ""
                } else {
                    " --choice ANSWER"
                };
                write!(
                    f,
                    " - answer with `regrow approvals approve {approval}{choice}` or `regrow \
                     approvals deny {approval}`"
                )?;
                expires_at.map_or(Ok(()), |at| write!(f, ", denied unless answered by {at}"))
            }
            Self::ConcurrencyLimit { key, gate } if gate.waits_for_others() => write!(
                f,
                "it waits for units of concurrency key {key} that other nodes hold: of {} this \
                 node has {}, of which {} are in use",
                gate.total.unwrap_or(0),
                gate.allotted.unwrap_or(0),
                gate.held
            ),
            Self::ConcurrencyLimit { key, gate, .. } => write!(
                f,
                "{} tasks of concurrency key {key} execute, which is as many as may ({})",
                gate.held,
                gate.total.unwrap_or(0)
            ),
            Self::RateLimit {
                key,
                opens_at,
                gate,
            } => {
                write!(f, "the rate of {key} is used up")?;
                if gate.allotted.is_some() {
                    f.write_str(" by all nodes together, or other nodes hold the next starts")?;
                }
                opens_at.map_or(Ok(()), |at| write!(f, "; the next may start at {at}"))
            }
            Self::Resource {
                resource,
                needs,
                gate,
                opens_at,
            } => {
                let (free, total) = (gate.free.unwrap_or(0), gate.total.unwrap_or(0));
                write!(
                    f,
                    "it needs {needs} of {resource}, of which {free} of {total} are free"
                )?;
                if total < *needs {
                    return f.write_str("; the total is too small, raise it or cancel the task");
                }
                if gate.waits_for_others() {
                    f.write_str("; it waits for units that other nodes hold")?;
                }
                opens_at.map_or(Ok(()), |at| write!(f, "; enough have come back at {at}"))
            }
            Self::Turn { gate, waiting } => {
                write!(
                    f,
                    "{waiting} tasks wait at {gate}, and it is not its turn yet"
                )
            }
            Self::Position {
                lane,
                ahead,
                more,
                in_lane,
                class_share,
                tenant_share,
                lanes_before,
                ..
            } => {
                let least = if *more { "at least " } else { "" };
                write!(
                    f,
                    "{least}{ahead} tasks of its class and tenant go before it; they get {:.0} % \
                     of the turns among {in_lane} tasks of its kind in lane {}",
                    100.0 * class_share * tenant_share,
                    lane.as_str()
                )?;
                if lanes_before.is_empty() {
                    return Ok(());
                }
                let lanes: Vec<&str> = lanes_before.iter().map(|lane| lane.as_str()).collect();
                write!(f, "; tasks of lane {} are due earlier", lanes.join(", "))
            }
            Self::NoWorker { kind, asked_at } => match asked_at {
                Some(at) => write!(f, "no worker has asked for tasks of kind {kind} since {at}"),
                None => write!(f, "no worker asks for tasks of kind {kind}; start one"),
            },
            Self::Expires { at } => write!(f, "it is discarded unless it starts by {at}"),
        }
    }
}
