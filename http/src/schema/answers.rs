//! What the node answers where no type of its own says it.

#![expect(
    dead_code,
    reason = "these say what the routes write from what the kernel has, and are never made"
)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::bodies::ScopeBody;
use crate::amounts::AmountsJson;
use crate::routes::approvals::ApprovalJson;
use crate::routes::budgets::BudgetJson;
use crate::routes::steps::StepJson;
use crate::routes::tasks::Branch;
use crate::view::{EventJson, TaskJson};

/// A task's state.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateAnswer {
    Scheduled,
    Available,
    Executing,
    Waiting,
    AwaitingApproval,
    Retryable,
    Completed,
    Discarded,
    Cancelled,
}

/// How a question stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum QuestionState {
    Open,
    Approved,
    Denied,
    Expired,
    Withdrawn,
}

/// What went wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:regrow:error:CODE`
    r#type: String,
    title: String,
    #[schema(minimum = 100, maximum = 599)]
    status: u16,
    /// Stable; branch on it.
    code: String,
    /// What was tried, what was found, and the way out.
    detail: String,
    /// Of the body or the query, each with what is wrong.
    problems: Option<Vec<FieldProblem>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct FieldProblem {
    field: String,
    problem: String,
}

/// A page of tasks.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskPage {
    tasks: Vec<TaskJson<'static>>,
    /// Where the next page begins; null on the last. An id, or with `cluster` a node and an id.
    next_cursor: Option<String>,
}

/// How each of a list of submissions went, in its order.
#[derive(Serialize, ToSchema)]
pub(crate) struct SubmittedOne {
    /// 201, 200 for a repetition, or the status of a problem.
    status: u16,
    id: Option<String>,
    repeated: Option<bool>,
}

/// A task that was accepted, or the answers to a list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum SubmitAnswer {
    One(AcceptedTask),
    Many(Vec<SubmittedOne>),
}

/// A task that was accepted, with all that is known of it, if that can be said.
#[derive(Serialize, ToSchema)]
pub(crate) struct AcceptedTask {
    #[schema(format = "uuid")]
    id: String,
    state: Option<StateAnswer>,
    /// Where it is, if another node has it.
    node: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TreeOfTask {
    tree: Branch,
    /// Some were left out.
    truncated: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ContextAnswer {
    context: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct EventsAnswer {
    events: Vec<EventJson<'static>>,
}

/// Why a task does not run yet.
#[derive(Serialize, ToSchema)]
pub(crate) struct Why {
    #[schema(format = "uuid")]
    id: String,
    state: StateAnswer,
    reasons: Vec<Reason>,
}

/// One reason. It has more members than are named here.
#[derive(Serialize, ToSchema)]
pub(crate) struct Reason {
    code: String,
    /// In words.
    text: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CancelAnswer {
    #[schema(format = "uuid")]
    id: String,
    state: StateAnswer,
    cancel_requested: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SettledAnswer {
    #[schema(format = "uuid")]
    id: String,
    state: StateAnswer,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct HeartbeatAnswer {
    #[schema(format = "uuid")]
    id: String,
    epoch: u64,
    #[schema(format = DateTime)]
    expires_at: String,
    /// Stop, and settle the lease.
    cancel_requested: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReleasedAnswer {
    #[schema(format = "uuid")]
    id: String,
    released: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct StepPage {
    steps: Vec<StepJson<'static>>,
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct RecordedAnswer {
    #[schema(format = "uuid")]
    id: String,
    key: String,
    /// False when it stood on record before.
    recorded: bool,
    output: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ChildrenAnswer {
    #[schema(format = "uuid")]
    id: String,
    state: StateAnswer,
    inserted: u64,
    lease_held: bool,
    output: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AskAnswer {
    #[schema(format = "uuid")]
    id: String,
    state: StateAnswer,
    /// The question that was asked.
    approval: Option<String>,
    /// Whoever is shown it may send it with the decision.
    token: Option<String>,
    /// The answer, if it was given before.
    #[schema(value_type = Option<Object>)]
    decision: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReservedAnswer {
    #[schema(format = "uuid")]
    id: String,
    key: String,
    reserved: AmountsJson,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct GivenBackAnswer {
    #[schema(format = "uuid")]
    id: String,
    key: String,
    given_back: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct WaitAnswer {
    #[schema(format = "uuid")]
    id: String,
    state: StateAnswer,
    approval: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ApprovalPage {
    approvals: Vec<ApprovalJson<'static>>,
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct BudgetPage {
    budgets: Vec<BudgetJson<'static>>,
    next_cursor: Option<String>,
}

/// How the queue stands. It has more members than are named here.
#[derive(Serialize, ToSchema)]
pub(crate) struct QueueAnswer {
    utilization: f64,
    size: u64,
    max_size: u64,
    paused: bool,
    draining: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ConcurrencyAnswer {
    role: String,
    queue_size: u64,
    queue_max_size: u64,
    rejection_ratio: f64,
    est_latency_ms: f64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ClearedAnswer {
    cleared: u64,
}

/// The rules in force, and how their gates stand.
#[derive(Serialize, ToSchema)]
pub(crate) struct RulesAnswer {
    #[schema(value_type = Object)]
    gates: Value,
}

/// An agent of this node.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentAnswer {
    id: String,
    role: String,
    state: String,
    healthy: bool,
    generation: u64,
    restarts: u64,
    last_exit: Option<String>,
    mailbox_depth: u64,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    detail: Option<String>,
    /// With `cluster=true`.
    node: Option<String>,
}

/// An agent that the cluster places. It has more members than are named here.
#[derive(Serialize, ToSchema)]
pub(crate) struct PlacedAnswer {
    id: String,
    state: String,
    node: Option<String>,
    epoch: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AgentPage {
    agents: Vec<AgentAnswer>,
    /// Null while the store is away.
    placed: Option<Vec<PlacedAnswer>>,
    /// Nodes that could not be asked, and why; with `cluster=true`.
    unknown: Option<BTreeMap<String, String>>,
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AgentShown {
    placed: Option<PlacedAnswer>,
    here: Option<AgentAnswer>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OrderedAnswer {
    id: String,
    done: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct RemovedAnswer {
    id: String,
    removed: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct InjectedAnswer {
    id: String,
    injected: bool,
}

/// A node. It has more members than are named here.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodeAnswer {
    name: String,
    /// The one that answers.
    here: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct NodesAnswer {
    nodes: Vec<NodeAnswer>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct StanceAnswer {
    name: String,
    note: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct MovesAnswer {
    #[schema(value_type = Vec<Object>)]
    moves: Vec<Value>,
    dry_run: bool,
}

/// A token, without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenAnswer {
    id: String,
    name: String,
    scopes: Vec<ScopeBody>,
    state: String,
    created_by: String,
}

/// A token with its secret, which is shown once.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewTokenAnswer {
    id: String,
    name: String,
    scopes: Vec<ScopeBody>,
    state: String,
    token: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct RevokedAnswer {
    revoked: Vec<TokenAnswer>,
}

/// A chain of the record.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChainAnswer {
    chain: String,
    n: u64,
    hash: String,
    first: u64,
    anchor: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SealedAnswer {
    #[schema(value_type = Object)]
    entry: Value,
    hash: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AuditPage {
    entries: Vec<SealedAnswer>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SessionAnswer {
    name: String,
    scopes: Vec<ScopeBody>,
    csrf: String,
    #[schema(format = DateTime)]
    ends_at: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AliveAnswer {
    status: String,
    version: String,
    uptime_seconds: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReadyAnswer {
    status: String,
    reasons: Option<Vec<String>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DeepAnswer {
    status: String,
    version: String,
    uptime_seconds: u64,
    #[schema(value_type = Object)]
    checks: Value,
}

/// Where the tasks are, and how far the latest move is.
#[derive(Serialize, ToSchema)]
pub(crate) struct PromotionAnswer {
    store: String,
    phase: String,
    database: Option<String>,
    rows_copied: u64,
    rows_total: u64,
    rounds: u32,
    left_ms: Option<u64>,
    took_ms: u64,
    waited_ms: Option<u64>,
    error: Option<String>,
}
