//! What clients send.

#![expect(
    dead_code,
    reason = "these say what the readers of bodies take, and are never made"
)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The lane that a task waits in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LaneBody {
    Critical,
    High,
    Normal,
    Low,
}

/// Limits of a budget: what is not named, or null, is not limited.
#[derive(Serialize, ToSchema)]
pub(crate) struct AmountsBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    tokens: Option<u64>,
    /// Kept to a millionth.
    #[schema(minimum = 0, maximum = 1000000000)]
    usd: Option<f64>,
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    calls: Option<u64>,
    /// Kept to a thousandth.
    #[schema(minimum = 0, maximum = 1000000000)]
    seconds: Option<f64>,
}

/// What a step cost.
#[derive(Serialize, ToSchema)]
pub(crate) struct CostBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    tokens_in: Option<u64>,
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    tokens_out: Option<u64>,
    #[schema(minimum = 0, maximum = 1000000000)]
    usd: Option<f64>,
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    calls: Option<u64>,
    #[schema(minimum = 0, maximum = 1000000000)]
    seconds: Option<f64>,
}

/// An instant as RFC 3339 text.
#[derive(Serialize, ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub(crate) struct TextInstantBody(String);

/// Milliseconds since 1970.
#[derive(Serialize, ToSchema)]
#[schema(value_type = u64, minimum = 0, maximum = 253402300799999i64)]
pub(crate) struct MillisBody(u64);

/// RFC 3339 text, or milliseconds since 1970.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum InstantBody {
    Text(TextInstantBody),
    Millis(MillisBody),
}

/// Whether a task fails when one of its children does.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailBody {
    Continue,
    Fail,
}

/// What happens when a child fails, after so many attempts of the family.
#[derive(Serialize, ToSchema)]
pub(crate) struct RetryFamilyBody {
    #[schema(minimum = 1, maximum = 100)]
    retry: Option<u32>,
    /// `fail` unless said otherwise.
    #[schema(inline)]
    then: Option<FailBody>,
}

/// What happens when a child fails.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ChildFailureBody {
    Then(FailBody),
    Retry(RetryFamilyBody),
}

/// A task to be done. It needs a `kind`, or a `goal` for the planner.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskBody {
    /// Which workers may do it.
    #[schema(pattern = "^[a-z0-9._-]{1,64}$")]
    kind: Option<String>,
    /// What the worker is given.
    payload: Option<Value>,
    /// What is to be achieved, for a planner.
    goal: Option<String>,
    priority: Option<LaneBody>,
    /// Tasks of a class share fairly.
    #[schema(min_length = 1, max_length = 64)]
    class: Option<String>,
    /// For whom: tenants share fairly, and have budgets.
    #[schema(min_length = 1, max_length = 64)]
    tenant: Option<String>,
    /// A second submission with the same key is the first one.
    #[schema(min_length = 1, max_length = 256)]
    idempotency_key: Option<String>,
    run_at: Option<InstantBody>,
    /// From the submission on, after which the task is given up.
    #[schema(minimum = 1, maximum = 315360000000i64)]
    deadline_ms: Option<u64>,
    #[schema(minimum = 1, maximum = 1000)]
    max_attempts: Option<u32>,
    /// Tasks that have to complete first.
    depends_on: Option<Vec<TaskIdBody>>,
    /// When it is given up unless it was begun. Not beside `expires_ms`.
    expires_at: Option<InstantBody>,
    #[schema(minimum = 1, maximum = 315360000000i64)]
    expires_ms: Option<u64>,
    /// Of tasks with one key only so many run at a time.
    #[schema(min_length = 1, max_length = 64)]
    concurrency_key: Option<String>,
    #[schema(min_length = 1, max_length = 64)]
    rate_key: Option<String>,
    /// Units of resources that it holds while it runs.
    needs: Option<BTreeMap<String, u64>>,
    budget: Option<AmountsBody>,
    /// A person has to approve it before it starts.
    requires_approval: Option<bool>,
    on_child_failure: Option<ChildFailureBody>,
}

/// The id of a task.
#[derive(Serialize, ToSchema)]
#[schema(value_type = String, format = "uuid")]
pub(crate) struct TaskIdBody(String);

/// Tasks of one commit. Each is read by itself: what is none has a problem for an answer, and the
/// others are accepted all the same.
#[derive(Serialize, ToSchema)]
#[schema(value_type = Vec<Value>, max_items = 1000)]
pub(crate) struct TasksBody(Vec<Value>);

/// One task, or up to 1,000 of them in one commit.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum SubmitBody {
    One(Box<TaskBody>),
    Many(TasksBody),
}

/// Which tasks to lease.
#[derive(Serialize, ToSchema)]
pub(crate) struct ClaimBody {
    #[schema(min_items = 1, max_items = 64, value_type = Vec<KindBody>)]
    kinds: Vec<String>,
    #[schema(minimum = 1, maximum = 1000)]
    max: Option<u64>,
    /// How long to wait for the first.
    #[schema(minimum = 0, maximum = 60000)]
    wait_ms: Option<u64>,
    #[schema(minimum = 1000, maximum = 3600000)]
    lease_ms: Option<u64>,
    /// Who asks, for people.
    #[schema(max_length = 128)]
    worker: Option<String>,
}

/// A kind of task.
#[derive(Serialize, ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9._-]{1,64}$")]
pub(crate) struct KindBody(String);

/// Which lease it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReleaseBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct HeartbeatBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    /// From now on; 30,000 unless said.
    #[schema(minimum = 1000, maximum = 3600000)]
    lease_ms: Option<u64>,
    /// What the worker has written since the last one, shown on the task's page as it comes.
    #[schema(max_length = 16384)]
    output: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CompleteBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    result: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct FailureBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    /// For people. Control characters are replaced.
    error: Option<String>,
    /// Another attempt may follow, which is so unless said.
    retryable: Option<bool>,
}

/// A finished step.
#[derive(Serialize, ToSchema)]
pub(crate) struct FinishedStepBody {
    #[schema(min_length = 1, max_length = 256)]
    key: String,
    input: Option<Value>,
    output: Option<Value>,
    cost: Option<CostBody>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct StepBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    /// Names the step within its task.
    #[schema(min_length = 1, max_length = 256)]
    key: String,
    input: Option<Value>,
    output: Option<Value>,
    cost: Option<CostBody>,
}

/// A task among several, which may wait for earlier ones of them.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChildBody {
    /// Positions of earlier children that have to complete first.
    after: Option<Vec<u64>>,
    #[schema(pattern = "^[a-z0-9._-]{1,64}$")]
    kind: Option<String>,
    payload: Option<Value>,
    goal: Option<String>,
    priority: Option<LaneBody>,
    class: Option<String>,
    tenant: Option<String>,
    run_at: Option<InstantBody>,
    #[schema(minimum = 1, maximum = 315360000000i64)]
    deadline_ms: Option<u64>,
    #[schema(minimum = 1, maximum = 1000)]
    max_attempts: Option<u32>,
    depends_on: Option<Vec<TaskIdBody>>,
    expires_at: Option<InstantBody>,
    #[schema(minimum = 1, maximum = 315360000000i64)]
    expires_ms: Option<u64>,
    concurrency_key: Option<String>,
    rate_key: Option<String>,
    needs: Option<BTreeMap<String, u64>>,
    budget: Option<AmountsBody>,
    requires_approval: Option<bool>,
    on_child_failure: Option<ChildFailureBody>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ChildrenBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    #[schema(max_items = 10000)]
    children: Vec<ChildBody>,
    /// Recorded in the same transaction.
    step: Option<FinishedStepBody>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct QuestionBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    #[schema(min_length = 1, max_length = 256)]
    key: String,
    #[schema(max_length = 4096)]
    question: String,
    scope: Option<String>,
    /// To choose from.
    options: Option<Vec<String>>,
    /// After which it counts as denied.
    #[schema(minimum = 1, maximum = 315360000000i64)]
    expires_ms: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReserveBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    #[schema(min_length = 1, max_length = 256)]
    key: String,
    /// What the step costs at most.
    estimate: AmountsBody,
    /// The step begins anew: what an earlier try may have cost is charged in full.
    afresh: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct WaitForBudgetBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    #[schema(min_length = 1, max_length = 256)]
    key: String,
    /// What the step costs at most.
    estimate: AmountsBody,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ContextBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    /// The leased task unless said; or its parent.
    task: Option<TaskIdBody>,
    /// Merged into those that are there; `null` removes one.
    attributes: Option<BTreeMap<String, Value>>,
    #[schema(pattern = "^(queued|planning|in_progress|waiting|completed|failed|cancelled)$")]
    status: Option<String>,
    finding: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct GiveBackBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    epoch: u64,
    #[schema(min_length = 1, max_length = 256)]
    key: String,
    /// What it cost all the same.
    cost: Option<CostBody>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VerdictBody {
    Approve,
    Deny,
}

/// What a person decides.
#[derive(Serialize, ToSchema)]
pub(crate) struct DecisionBody {
    decision: VerdictBody,
    /// One of the question's options.
    choice: Option<String>,
    note: Option<String>,
    /// In whose name; who decided is whose token it is.
    by: Option<String>,
    /// The question's own, if the decider was shown it.
    token: Option<String>,
    /// By how much a budget grows, instead of what is missing.
    grant: Option<AmountsBody>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeriodBody {
    Day,
    Month,
}

/// Limits; those that are not named are lifted.
#[derive(Serialize, ToSchema)]
pub(crate) struct BudgetBody {
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    tokens: Option<u64>,
    #[schema(minimum = 0, maximum = 1000000000)]
    usd: Option<f64>,
    #[schema(minimum = 0, maximum = 9007199254740991i64)]
    calls: Option<u64>,
    #[schema(minimum = 0, maximum = 1000000000)]
    seconds: Option<f64>,
    /// After which what was spent counts anew; not for a task's budget.
    period: Option<PeriodBody>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct MaxSizeBody {
    /// Null returns to the configured number.
    #[schema(required, minimum = 1, maximum = 10000000)]
    max_size: Option<u64>,
}

/// Weights by name, from 0.01 to 100; null returns to 1.
#[derive(Serialize, ToSchema)]
pub(crate) struct WeightsBody {
    class: Option<BTreeMap<String, Option<f64>>>,
    tenant: Option<BTreeMap<String, Option<f64>>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DefaultLimitBody {
    /// Null does not limit.
    #[schema(required, minimum = 1, maximum = 2147483647)]
    default: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct LimitBody {
    #[schema(minimum = 1, maximum = 2147483647)]
    limit: u64,
}

/// Units that come back with time.
#[derive(Serialize, ToSchema)]
pub(crate) struct RateBody {
    #[schema(minimum = 1, maximum = 2147483647)]
    units: u64,
    #[schema(minimum = 1, maximum = 31622400000i64)]
    period_ms: u64,
    /// As many as `units` unless said.
    #[schema(minimum = 1, maximum = 2147483647)]
    burst: Option<u64>,
}

/// Units that are held while a task runs.
#[derive(Serialize, ToSchema)]
pub(crate) struct SlotsBody {
    #[schema(minimum = 1, maximum = 2147483647)]
    slots: u64,
}

/// What a resource has.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ResourceBody {
    Slots(SlotsBody),
    Refill(RateBody),
}

#[derive(Serialize, ToSchema)]
pub(crate) struct PromoteBody {
    /// `postgres://user@host/database`
    to: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleBody {
    Planner,
    Worker,
    Critic,
    Memory,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RestartBody {
    Permanent,
    Transient,
    Temporary,
}

/// Restarts that are too many: one more within the period.
#[derive(Serialize, ToSchema)]
pub(crate) struct IntensityBody {
    #[schema(minimum = 0, maximum = 100)]
    restarts_max: u32,
    #[schema(minimum = 1000, maximum = 86400000)]
    within_ms: u64,
}

/// An agent that the cluster places.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentBody {
    /// Names it in the whole cluster.
    #[schema(pattern = "^[a-z0-9._-]{1,56}$")]
    id: String,
    role: RoleBody,
    restart: Option<RestartBody>,
    intensity: Option<IntensityBody>,
    /// Where it may run: node, labels, taints, spread, policy.
    #[schema(value_type = Option<Object>)]
    placement: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct HandoffBody {
    /// The node to go to.
    to: String,
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultBody {
    Panic,
    Hang,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct InjectBody {
    fault: FaultBody,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct StanceBody {
    /// For people.
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct RebalanceBody {
    /// Only say what would move.
    dry_run: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScopeBody {
    Read,
    Submit,
    Work,
    Operate,
    Admin,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TokenBody {
    /// Whose it is.
    #[schema(pattern = "^[A-Za-z0-9._@:-]{1,64}$")]
    name: String,
    #[schema(min_items = 1)]
    scopes: Vec<ScopeBody>,
    /// How long it is taken; for ever unless said.
    #[schema(minimum = 1, maximum = 316224000000i64)]
    term_ms: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SessionBody {
    /// `regrow_...`
    token: String,
}

/// What a version is made of.
#[derive(Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum SourceBody {
    /// An expression that scores choices, in words.
    Expression {
        /// The columns that it may speak of, in their order.
        columns: Vec<String>,
        text: String,
    },
    /// A WebAssembly component.
    Wasm {
        /// With padding.
        base64: String,
    },
}

/// A version to be kept.
#[derive(Serialize, ToSchema)]
pub(crate) struct CodeBody {
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    version: String,
    source: SourceBody,
    #[schema(max_length = 500)]
    notes: Option<String>,
    /// Make it the active one at once.
    promote: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct PinBody {
    pinned: bool,
}

/// Capabilities beside `log` and `metrics`, which every agent has.
#[derive(Serialize, ToSchema)]
pub(crate) struct GrantsBody {
    capabilities: Vec<CapabilityBody>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CapabilityBody {
    Log,
    Metrics,
    Clock,
    Rand,
}
